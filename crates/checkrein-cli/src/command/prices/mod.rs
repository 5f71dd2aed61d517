//! `checkrein prices`: what models cost, and what a call cost.

use std::time::{SystemTime, UNIX_EPOCH};

use checkrein::core::amount::Amount;
use checkrein::core::time::Timestamp;
use checkrein::core::usage::UsageUnit;
use checkrein::price::{Found, PriceError, Prices, book};
use serde_json::{Value, json};

use crate::Exit;
use crate::show::instant;

mod check;
mod list;
mod show;

/// What models cost, and what a call cost by what its provider reports
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein prices show claude-opus-5
  checkrein prices list --provider openai
  checkrein prices check reply.json
  curl ... | checkrein prices check - --provider openai --context processing=batch")]
pub(crate) struct PricesVerb {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Show(show::Show),
    List(list::List),
    Check(check::Check),
}

impl PricesVerb {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        match &self.action {
            Action::Show(show) => show.run(),
            Action::List(list) => list.run(),
            Action::Check(check) => check.run(),
        }
    }
}

/// Prices of which instant.
#[derive(clap::Args)]
struct At {
    /// The prices of this day or instant (UTC), as in `2026-11-21` or `2026-11-21T12:30:00Z`; without it, of now
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Timestamp>,
}

impl At {
    fn get(&self) -> Timestamp {
        self.at.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
        })
    }
}

/// The model that a reference means: of the provider that is named, of the one it can only belong to, or of the one
/// that stands before the first slash.
fn find(provider: Option<&str>, model: &str) -> Result<Found<'static>, PriceError> {
    let found = book().find(provider, model);
    match (provider, &found, model.split_once('/')) {
        (None, Err(_), Some((head, tail))) if book().provider(head).is_some() => {
            book().find(Some(head), tail)
        }
        _ => found,
    }
}

fn book_json() -> Value {
    let header = book().header();
    json!({
        "source": header.source,
        "version": header.version,
        "date": header.date,
        "digest": header.digest,
    })
}

fn error_json(code: &str, message: &str, hint: &str) -> Value {
    json!({ "error": { "code": code, "message": message, "hint": hint } })
}

/// Prices as JSON: decimal text, because a float is no money.
fn prices_json(prices: &Prices) -> Value {
    let usd = |pico: u64| Amount::from_pico(i128::from(pico)).to_string();
    let mut rows: Vec<_> = prices.iter().collect();
    rows.sort_by_key(|price| price.unit);
    let all = rows.into_iter().map(|price| {
        let steps = price.rate.steps().iter();
        let steps: Value =
            steps.map(|(above, pico)| json!({ "above_input_tokens": above, "usd": usd(*pico) })).collect();
        json!({
            "unit": price.unit.name(),
            "usd": usd(price.rate.base()),
            "per": price.unit.per(),
            "steps": steps,
        })
    });
    all.collect()
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A price of a unit for people: `5 per million input tokens`.
fn price_text(unit: UsageUnit, pico: u64) -> String {
    let usd = Amount::from_pico(i128::from(pico));
    let per = match unit.per() {
        1_000 => "1,000".to_owned(),
        3_600 => return format!("{usd} usd per hour"),
        1_000_000 => "million".to_owned(),
        other => grouped(other),
    };
    format!("{usd} usd per {per}")
}

/// The unit's word with blanks.
fn unit_text(unit: UsageUnit) -> String {
    unit.name().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_groups() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
