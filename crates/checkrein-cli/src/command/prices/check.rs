//! `checkrein prices check USAGE.json`: what a call cost, by the reply of its provider.

use std::io::{Read, Write};

use anyhow::Context as _;
use checkrein::core::json::{JsonErrorKind, Limits, Value as Reply, read_str};
use checkrein::core::ledger::moment;
use checkrein::core::time::Timestamp;
use checkrein::core::usage::UsageError;
use checkrein::core::usage::dialect::{Dialect, Report};
use checkrein::price::{Cost, Found, Line, PriceError};
use serde_json::{Value, json};

use super::super::inert;
use super::{At, book_json, error_json, find, grouped, instant, price_text, unit_text};
use crate::{Exit, Output};

/// What calls cost, by the replies of their providers
///
/// The file holds one reply of OpenAI (chat completions, responses), Anthropic (messages) or Gemini, or one per line.
/// Other usage is written in units: {"provider": "groq", "model": "whisper-large-v3", "usage": {"audio_seconds": 12}}.
/// Ends with 1 if a reply has no price, or used something that has none.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein prices check reply.json
  checkrein prices check replies.jsonl --output jsonl
  checkrein prices check - --provider azure --context processing=batch <reply.json")]
pub(super) struct Check {
    /// A file with replies; `-` is standard input
    file: String,
    /// Who was called; without it, whose words the reply uses
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<String>,
    /// Which model answered, where the reply does not say it
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Whose words the reply uses: `openai-chat`, `openai-responses`, `anthropic`, `gemini` or `units`; without it, what
    /// it looks like
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    dialect: Option<Dialect>,
    /// What the reply does not say of the call, as in `processing=batch`; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    #[command(flatten)]
    at: At,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn dialect(word: &str) -> Result<Dialect, String> {
    Dialect::ALL
        .into_iter()
        .find(|dialect| dialect.name() == word)
        .ok_or_else(|| format!("it is one of {}", Dialect::ALL.map(Dialect::name).join(", ")))
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, said)) if !key.is_empty() && !said.is_empty() => Ok((key.to_owned(), said.to_owned())),
        _ => Err("write a key and a value, as in `processing=batch`"),
    }
}

/// The largest file of replies.
const MOST_BYTES: u64 = 64 << 20;

/// What one call cost.
struct Checked {
    found: Found<'static>,
    report: Report,
    at: Timestamp,
    cost: Cost,
    lines: Vec<Line>,
    /// What the call was and the book has no price for.
    without_price: Vec<String>,
}

/// Why a call has no cost.
#[derive(Debug)]
struct Refused {
    code: String,
    fact: String,
    hint: String,
}

impl From<PriceError> for Refused {
    fn from(error: PriceError) -> Self {
        Self { code: error.code().to_owned(), fact: error.to_string(), hint: error.hint() }
    }
}

impl From<UsageError> for Refused {
    fn from(error: UsageError) -> Self {
        PriceError::Usage(error).into()
    }
}

impl Check {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let text = self.read()?;
        let replies = split(&text);
        let mut exit = Exit::Ok;
        let mut stdout = anstream::stdout().lock();
        let mut all = Vec::new();
        for reply in replies {
            let checked = reply.and_then(|reply| self.check(&reply));
            if !checked.as_ref().is_ok_and(Checked::is_complete) {
                exit = Exit::Found;
            }
            match (self.output, checked) {
                (Output::Text, Ok(checked)) => checked.write(&mut stdout)?,
                (Output::Text, Err(refused)) => {
                    super::super::print_error(&refused.fact, Some(&refused.hint));
                }
                (Output::Json, checked) => all.push(json(checked)),
                (Output::Jsonl, checked) => self.output.print(&mut stdout, &json(checked))?,
            }
        }
        if self.output == Output::Json {
            self.output.print(&mut stdout, &Value::from(all))?;
        }
        Ok(exit)
    }

    fn read(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let name = if self.file == "-" { "standard input" } else { &self.file };
        let read = if self.file == "-" {
            std::io::stdin().lock().take(MOST_BYTES + 1).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(&self.file).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        };
        read.with_context(|| format!("cannot read `{}`", inert(name)))?;
        if bytes.len() as u64 > MOST_BYTES {
            anyhow::bail!("`{}` has more than {MOST_BYTES} bytes", inert(name));
        }
        String::from_utf8(bytes).with_context(|| format!("`{}` is no UTF-8", inert(name)))
    }

    fn check(&self, reply: &Reply) -> Result<Checked, Refused> {
        let dialect = self.dialect.or_else(|| Dialect::of(reply)).ok_or(UsageError::UnknownForm)?;
        let mut report = dialect.read(reply)?;
        let in_units = dialect == Dialect::Units;
        let said = |name: &str| reply.get(name).and_then(Reply::as_str).filter(|_| in_units);
        report.context.extend(self.context.iter().cloned());
        if in_units && let Some(context) = reply.get("context").and_then(Reply::as_object) {
            let said =
                context.iter().filter_map(|(key, said)| Some((key.to_owned(), said.as_str()?.to_owned())));
            report.context.extend(said);
        }
        let at = match said("at").map(instant) {
            None => self.at.get(),
            Some(Ok(at)) => at,
            Some(Err(hint)) => {
                let fact = "`at` is no instant".to_owned();
                return Err(Refused { code: "usage_type".to_owned(), fact, hint: hint.to_owned() });
            }
        };
        let model = self.model.as_deref().or(report.model.as_deref());
        let model = model.ok_or_else(|| UsageError::Missing("model".to_owned()))?;
        let provider = self.provider.as_deref().or(said("provider")).or(dialect.provider());
        let found = find(provider, model)?;
        let context: Vec<(&str, &str)> =
            report.context.iter().map(|(key, said)| (key.as_str(), said.as_str())).collect();
        let (cost, lines) = found.explain(&report.usage, at, &context)?;
        let without_price =
            found.without_price(at, &context).iter().map(|(key, said)| format!("{key}={said}")).collect();
        Ok(Checked { found, at, cost, lines, without_price, report })
    }
}

/// The replies of a text: the one it is, or one per line.
fn split(text: &str) -> Vec<Result<Reply, Refused>> {
    let limits = Limits { bytes: 16 << 20, nodes: 1_000_000, ..Limits::default() };
    let refuse = |error: checkrein::core::json::JsonError| Refused {
        code: error.code().to_owned(),
        fact: error.to_string(),
        hint: error.hint().unwrap_or("one reply, or one per line").to_owned(),
    };
    match read_str(text, &limits) {
        Err(error) if matches!(error.kind, JsonErrorKind::TrailingData | JsonErrorKind::TooLarge { .. }) => {
            text.lines()
                .filter(|line| !line.trim().is_empty())
                .map(|line| read_str(line, &limits).map_err(refuse))
                .collect()
        }
        whole => vec![whole.map_err(refuse)],
    }
}

fn json(checked: Result<Checked, Refused>) -> Value {
    match checked {
        Err(refused) => error_json(&refused.code, &refused.fact, &refused.hint),
        Ok(checked) => checked.json(),
    }
}

impl Checked {
    /// Whether everything that was used has a price.
    fn is_complete(&self) -> bool {
        self.cost.unpriced.is_empty() && self.report.unread.is_empty() && self.without_price.is_empty()
    }

    fn json(&self) -> Value {
        let line = |line: &Line| {
            let rate = checkrein::core::amount::Amount::from_pico(i128::from(line.rate));
            json!({
                "unit": line.unit.name(),
                "count": line.count,
                "price": { "usd": rate.to_string(), "per": line.unit.per() },
                "usd": line.usd().to_string(),
            })
        };
        let usage: serde_json::Map<String, Value> =
            self.report.usage.iter().map(|(unit, count)| (unit.name().to_owned(), count.into())).collect();
        json!({
            "provider": &*self.found.provider.id,
            "model": &*self.found.model.id,
            "at": moment::to_text(self.at),
            "usd": self.cost.usd.to_string(),
            "lines": self.lines.iter().map(line).collect::<Value>(),
            "usage": usage,
            "unpriced": self.cost.unpriced.iter().map(|unit| unit.name()).collect::<Value>(),
            "unread": self.report.unread,
            "without_price": self.without_price,
            "book": book_json(),
        })
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let (provider, model) = (inert(&self.found.provider.id), inert(&self.found.model.id));
        writeln!(to, "\u{1b}[1m{} usd\u{1b}[0m  {provider}/{model}", self.cost.usd)?;
        let counts = self.lines.iter().map(|line| grouped(line.count).len()).max().unwrap_or_default();
        let units = self.lines.iter().map(|line| line.unit.name().len()).max().unwrap_or_default();
        for line in &self.lines {
            let (count, unit) = (grouped(line.count), unit_text(line.unit));
            let price = price_text(line.unit, line.rate);
            writeln!(to, "  {count:>counts$} {unit:units$}  {price} = {} usd", line.usd())?;
        }
        for unit in self.cost.unpriced.iter() {
            writeln!(to, "  \u{1b}[33mno price for {}\u{1b}[0m", unit_text(unit))?;
        }
        for path in &self.report.unread {
            writeln!(to, "  \u{1b}[33mnot read: {}\u{1b}[0m", inert(path))?;
        }
        for context in &self.without_price {
            writeln!(to, "  \u{1b}[33mno price for {}: standard prices\u{1b}[0m", inert(context))?;
        }
        Ok(())
    }
}
