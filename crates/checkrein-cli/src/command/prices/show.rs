//! `checkrein prices show MODEL`: every price of a model, and when it holds.

use std::io::Write;

use checkrein::core::ledger::moment;
use checkrein::price::{Conditions, Found, Prices, When, book};
use serde_json::{Value, json};

use super::super::inert;
use super::{At, book_json, error_json, find, grouped, price_text, prices_json, unit_text};
use crate::{Exit, Output};

/// Show every price of a model
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein prices show claude-opus-5
  checkrein prices show gpt-5.4 --provider azure
  checkrein prices show openrouter/openai/gpt-5.4 --output json")]
pub(super) struct Show {
    /// The model, as calls name it; also `PROVIDER/MODEL`
    model: String,
    /// Who sells it, where several do
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    #[command(flatten)]
    at: At,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Show {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let mut stdout = anstream::stdout().lock();
        let found = match find(self.provider.as_deref(), &self.model) {
            Ok(found) => found,
            Err(error) => {
                if self.output != Output::Text {
                    let answer = error_json(error.code(), &error.to_string(), &error.hint());
                    self.output.print(&mut stdout, &answer)?;
                } else {
                    super::super::print_error(&error.to_string(), Some(&error.hint()));
                }
                return Ok(Exit::Found);
            }
        };
        match self.output {
            Output::Text => self.write_text(&mut stdout, &found)?,
            output => output.print(&mut stdout, &self.json(&found))?,
        }
        Ok(Exit::Ok)
    }

    fn json(&self, found: &Found<'_>) -> Value {
        let at = self.at.get();
        let own = if found.is_own { found.model.variants.as_slice() } else { &[] };
        json!({
            "provider": &*found.provider.id,
            "model": &*found.model.id,
            "context_window": found.model.context_window,
            "deprecated": found.model.is_deprecated,
            "at": moment::to_text(at),
            "prices": prices_json(&found.prices(at, &[])),
            "standard": found.model.standard.iter().map(conditions_json).collect::<Value>(),
            "variants": own.iter().map(conditions_json).collect::<Value>(),
            "book": book_json(),
        })
    }

    fn write_text(&self, to: &mut impl Write, found: &Found<'_>) -> std::io::Result<()> {
        let (provider, model) = (found.provider, found.model);
        writeln!(to, "\u{1b}[1m{}\u{1b}[0m of {}", inert(&model.id), inert(&provider.name))?;
        if let Some(window) = model.context_window {
            writeln!(to, "  reads at most {} tokens", grouped(window))?;
        }
        if model.is_deprecated {
            writeln!(to, "  \u{1b}[33mits provider will withdraw it\u{1b}[0m")?;
        }
        if let Some((unit, least)) = model.minimum {
            writeln!(to, "  a call is charged for {least} {} at least", unit_text(unit))?;
        }
        if !found.is_own {
            writeln!(to, "  at the list price of its owner")?;
        }
        let at = self.at.get();
        let holding = found.prices(at, &[]);
        for conditions in &model.standard {
            let held = if conditions.prices == *holding { ", now" } else { "" };
            let held = if self.at.at.is_some() { held.replace("now", "then") } else { held.to_owned() };
            write_prices(to, &format!("standard{}{held}", when_text(conditions.when)), &conditions.prices)?;
        }
        for conditions in model.variants.iter().filter(|variant| found.is_own && !variant.prices.is_empty()) {
            let named: Vec<String> =
                conditions.context.iter().map(|(key, said)| format!("{key}={said}")).collect();
            let title = format!("{}{}", named.join(" "), when_text(conditions.when));
            write_prices(to, &title, &conditions.prices)?;
        }
        let header = book().header();
        writeln!(to)?;
        writeln!(to, "list prices of {} {}, {}", header.source, header.version, header.date)
    }
}

fn write_prices(to: &mut impl Write, title: &str, prices: &Prices) -> std::io::Result<()> {
    writeln!(to)?;
    writeln!(to, "  \u{1b}[1m{}\u{1b}[0m", inert(title))?;
    let mut rows: Vec<_> = prices.iter().collect();
    rows.sort_by_key(|price| price.unit);
    let width = rows.iter().map(|price| price.unit.name().len()).max().unwrap_or_default();
    for price in rows {
        writeln!(to, "    {:width$}  {}", unit_text(price.unit), price_text(price.unit, price.rate.base()))?;
        for (above, pico) in price.rate.steps() {
            let text = price_text(price.unit, *pico);
            writeln!(to, "    {:width$}  {text} in calls of more than {} input tokens", "", grouped(*above))?;
        }
    }
    Ok(())
}

fn when_text(when: When) -> String {
    let hour = |second: u32| format!("{:02}:{:02}", second / 3_600, second / 60 % 60);
    match when {
        When::Always => String::new(),
        When::From(_) => format!(", from {}", day(when).unwrap_or_default()),
        When::Between(begin, end) => format!(", from {} until {} UTC", hour(begin), hour(end)),
    }
}

fn day(when: When) -> Option<String> {
    let When::From(seconds) = when else { return None };
    let begin = checkrein::core::time::Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000));
    moment::to_text(begin).get(..10).map(str::to_owned)
}

fn conditions_json(conditions: &Conditions) -> Value {
    let context: serde_json::Map<String, Value> = conditions
        .context
        .iter()
        .map(|(key, said)| (key.to_string(), Value::from(said.to_string())))
        .collect();
    json!({
        "from": day(conditions.when),
        "between_seconds_of_day": match conditions.when {
            When::Between(begin, end) => json!([begin, end]),
            _ => Value::Null,
        },
        "context": context,
        "prices": prices_json(&conditions.prices),
    })
}
