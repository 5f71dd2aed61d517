//! `checkrein prices list`: the models that have a price, and what their tokens cost now.

use std::io::Write;

use checkrein::core::amount::Amount;
use checkrein::core::usage::UsageUnit;
use checkrein::price::{Found, book};
use serde_json::json;

use super::super::inert;
use super::{At, error_json, prices_json};
use crate::{Exit, Output};

/// List the models that have a price
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein prices list opus
  checkrein prices list --provider openai --output jsonl
  checkrein prices list --units")]
pub(super) struct List {
    /// Only models whose name has this text
    text: Option<String>,
    /// Only of this provider
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// The units that usage reports and prices are counted in, and no models
    #[arg(long, conflicts_with_all = ["text", "provider"])]
    units: bool,
    #[command(flatten)]
    at: At,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl List {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let mut stdout = anstream::stdout().lock();
        if self.units {
            return self.write_units(&mut stdout);
        }
        let only = match &self.provider {
            None => None,
            Some(name) => match book().provider(name) {
                Some(provider) => Some(&*provider.id),
                None => {
                    let (fact, hint) = (
                        format!("no provider is known as `{}`", inert(name)),
                        "`checkrein prices list` names all",
                    );
                    if self.output == Output::Text {
                        super::super::print_error(&fact, Some(hint));
                    } else {
                        self.output.print(&mut stdout, &error_json("unknown_price", &fact, hint))?;
                    }
                    return Ok(Exit::Found);
                }
            },
        };
        let text = self.text.as_deref().unwrap_or_default().to_ascii_lowercase();
        let providers = book().providers().iter();
        let models =
            providers.filter(|provider| only.is_none_or(|id| id == &*provider.id)).flat_map(|provider| {
                provider.models.iter().map(move |model| Found { provider, model, is_own: true })
            });
        let models = models.filter(|found| found.model.id.to_ascii_lowercase().contains(&text));
        let at = self.at.get();
        let record = |found: Found<'_>| {
            json!({
                "provider": &*found.provider.id,
                "model": &*found.model.id,
                "deprecated": found.model.is_deprecated,
                "prices": prices_json(&found.prices(at, &[])),
            })
        };
        match self.output {
            Output::Text => self.write_table(&mut stdout, models)?,
            output => output.print(&mut stdout, &models.map(record).collect())?,
        }
        Ok(Exit::Ok)
    }

    fn write_units(&self, to: &mut impl Write) -> anyhow::Result<Exit> {
        let record =
            |unit: &UsageUnit| json!({ "unit": unit.name(), "price": unit.price_name(), "per": unit.per() });
        match self.output {
            Output::Text => {
                let width = UsageUnit::ALL.iter().map(|unit| unit.name().len()).max().unwrap_or_default();
                writeln!(to, "\u{1b}[1m{:width$}  priced per\u{1b}[0m", "unit")?;
                for unit in UsageUnit::ALL {
                    writeln!(to, "{:width$}  {:>13}", unit.name(), super::grouped(unit.per()))?;
                }
            }
            output => output.print(to, &UsageUnit::ALL.iter().map(record).collect())?,
        }
        Ok(Exit::Ok)
    }

    fn write_table<'a>(
        &self,
        to: &mut impl Write,
        models: impl Iterator<Item = Found<'a>>,
    ) -> std::io::Result<()> {
        let at = self.at.get();
        let rows: Vec<[String; 4]> = models
            .map(|found| {
                let prices = found.prices(at, &[]);
                let price = |unit| {
                    let rate = prices.get(unit)?;
                    let steps = if rate.steps().is_empty() { "" } else { "+" };
                    Some(format!("{}{steps}", Amount::from_pico(i128::from(rate.base()))))
                };
                let shown = |unit| price(unit).unwrap_or_else(|| "-".to_owned());
                [
                    shown(UsageUnit::InputTokens),
                    shown(UsageUnit::OutputTokens),
                    inert(&found.provider.id),
                    inert(&found.model.id),
                ]
            })
            .collect();
        if rows.is_empty() {
            return writeln!(to, "no model has such a name");
        }
        let header = ["input", "output", "provider", "model"].map(str::to_owned);
        let width = |column: usize| {
            let cells = std::iter::once(&header).chain(&rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths = [width(0), width(1), width(2)];
        for (place, [input, output, provider, model]) in std::iter::once(&header).chain(&rows).enumerate() {
            let [w0, w1, w2] = widths;
            let (bold, plain) = if place == 0 { ("\u{1b}[1m", "\u{1b}[0m") } else { ("", "") };
            writeln!(to, "{bold}{input:>w0$}  {output:>w1$}  {provider:w2$}  {model}{plain}")?;
        }
        let header = book().header();
        writeln!(to)?;
        writeln!(
            to,
            "{} models, usd per million tokens; + is dearer in long calls: `prices show`",
            rows.len()
        )?;
        writeln!(to, "list prices of {} {}, {}", header.source, header.version, header.date)
    }
}
