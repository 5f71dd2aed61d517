//! The ledger that a verb reads from its first entry to its last, and how what is said of it is printed.

use std::io::Write;
use std::path::PathBuf;

use checkrein::core::amount::{Amount, Unit};
use checkrein::core::time::Timestamp;
use checkrein::ledger::{LedgerError, keys};
use checkrein::replay::{Cause, Each, ReplayError, Source, Tally, read_path};
use checkrein::store::StoreError;
use checkrein::store::redis::RedisStore;
use serde_json::{Value, json};

use super::{columns, inert, print_error};
use crate::progress::Progress;
use crate::{Exit, Output};

/// Which ledger.
#[derive(clap::Args)]
pub(super) struct LedgerOf {
    /// The ledger: a store as in `sqlite:checkrein.db`, its file, a host's ledger, or an export; `-` for an export on
    /// standard input
    #[arg(long, value_name = "LEDGER", env = "CHECKREIN_STORE", hide_env_values = true)]
    ledger: String,
    /// The public key file: the ledger is verified before anything is said of it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl LedgerOf {
    fn path(&self) -> Result<PathBuf, StoreError> {
        if RedisStore::is_url(&self.ledger) {
            let text = "a store on a server keeps no ledger; name the file of the host's own";
            return Err(StoreError::NotCommitted(text.to_owned()));
        }
        match self.ledger.starts_with("sqlite:") {
            true => checkrein::store::sqlite::path_of(&self.ledger),
            false => Ok(PathBuf::from(&self.ledger)),
        }
    }

    /// Hands every entry over.
    pub(super) fn read(&self, label: &'static str, each: &mut Each<'_>) -> Result<Source, ReplayError> {
        let key = self.key.as_ref().map(|key| keys::load_public(key)).transpose()?;
        let path = self.path().map_err(LedgerError::from)?;
        let mut progress = Progress::new(label);
        read_path(&path, key.as_ref(), &mut |done, of| progress.at(done, of), each)
    }
}

/// Says why a ledger cannot be read: where JSON is wanted, on standard output.
pub(super) fn refuse(to: &mut impl Write, error: &ReplayError, output: Output) -> std::io::Result<Exit> {
    refuse_with(to, error.code(), &error.to_string(), error.hint(), output)
}

/// The same for what has no error of its own.
pub(super) fn refuse_with(
    to: &mut impl Write,
    code: &str,
    message: &str,
    hint: Option<&str>,
    output: Output,
) -> std::io::Result<Exit> {
    match output {
        Output::Text => print_error(&format!("{message} ({code})"), hint),
        output => {
            let error = json!({ "code": code, "message": message, "hint": hint });
            output.print(to, &json!({ "error": error }))?;
        }
    }
    Ok(Exit::Usage)
}

/// One line of a form: a label and what there is to say, wrapped at the terminal's width.
pub(super) fn field(to: &mut impl Write, label: &str, text: &str) -> std::io::Result<()> {
    let width = columns().clamp(40, 120);
    let first = if width < 60 { format!("  {label}: ") } else { format!("  {label:<12} ") };
    let indent = if width < 60 { 4 } else { first.chars().count() };
    wrapped(to, &first, indent, width, text)
}

/// Text wrapped behind `first`, its other lines indented. A word that is longer than a line is cut.
pub(super) fn wrapped(
    to: &mut impl Write,
    first: &str,
    indent: usize,
    width: usize,
    text: &str,
) -> std::io::Result<()> {
    let mut line = first.to_owned();
    let mut is_empty = true;
    let next = " ".repeat(indent);
    for word in text.split(' ') {
        let mut word = word;
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            writeln!(to, "{}", line.trim_end())?;
            line.clone_from(&next);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        loop {
            let room = width.saturating_sub(line.chars().count()).max(8);
            let Some((cut, _)) = word.char_indices().nth(room) else { break };
            let (here, rest) = word.split_at(cut);
            writeln!(to, "{line}{here}")?;
            line.clone_from(&next);
            word = rest;
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(to, "{}", line.trim_end())
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",")
}

/// A number and what is counted.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// An instant, to the second.
pub(super) fn shown_time(time: Timestamp) -> String {
    let text = checkrein::core::ledger::moment::to_text(time);
    format!("{} UTC", text.get(..19).unwrap_or(&text).replace('T', " "))
}

/// Amounts of several units.
pub(super) fn shown_money<'m>(money: impl Iterator<Item = (&'m Unit, &'m Amount)>) -> String {
    money.map(|(unit, amount)| format!("{amount} {unit}")).collect::<Vec<_>>().join(", ")
}

pub(super) fn money_record<'m>(money: impl Iterator<Item = (&'m Unit, &'m Amount)>) -> Value {
    money.map(|(unit, amount)| (unit.name().to_owned(), Value::from(amount.to_string()))).collect()
}

pub(super) fn shown_cause(cause: &Cause) -> String {
    format!("{} ({} `{}`)", inert(&cause.code), inert(&cause.kind), inert(&cause.gate))
}

pub(super) fn cause_record(cause: &Cause) -> Value {
    json!({ "code": cause.code, "kind": cause.kind, "gate": cause.gate })
}

/// Calls, and what came of them.
pub(super) fn shown_tally(tally: &Tally) -> String {
    let mut parts = vec![counted(tally.calls, "call", "calls")];
    if tally.effects > 0 {
        parts.push(counted(tally.effects, "effect", "effects"));
    }
    if tally.unknown > 0 {
        parts.push(format!("{} unknown", grouped(tally.unknown)));
    }
    if !tally.money.is_empty() {
        parts.push(shown_money(tally.money.iter()));
    }
    parts.join(", ")
}

pub(super) fn tally_record(tally: &Tally) -> Vec<(String, Value)> {
    [
        ("calls", Value::from(tally.calls)),
        ("effects", tally.effects.into()),
        ("effects_unknown", tally.unknown.into()),
        ("money", money_record(tally.money.iter())),
        ("calls_without_cost", tally.unpriced.into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// An object with more members.
pub(super) fn with(object: Value, members: Vec<(String, Value)>) -> Value {
    let mut object = object;
    if let Some(object) = object.as_object_mut() {
        object.extend(members);
    }
    object
}

/// What was read, for programs.
pub(super) fn source_record(source: &Source) -> Value {
    json!({ "first": source.first, "entries": source.entries, "verified": source.verified })
}

/// What was read, for people.
pub(super) fn shown_source(to: &mut impl Write, source: &Source) -> std::io::Result<()> {
    let first = if source.first > 0 { format!(", from entry {}", source.first) } else { String::new() };
    field(to, "ledger", &format!("{}{first}", counted(source.entries, "entry", "entries")))?;
    let end = source.first.saturating_add(source.entries);
    let verified = match source.verified {
        None => "no: name the public key with `--key`".to_owned(),
        Some(sealed) if sealed >= end => "yes, every entry is as it was signed".to_owned(),
        Some(sealed) => format!("up to entry {}, the rest is not sealed", sealed.saturating_sub(1)),
    };
    field(to, "verified", &verified)
}

/// The time of decisions.
pub(super) fn shown_period(
    to: &mut impl Write,
    period: Option<(Timestamp, Timestamp)>,
) -> std::io::Result<()> {
    match period {
        Some((from, until)) => field(to, "period", &format!("{} to {}", shown_time(from), shown_time(until))),
        None => Ok(()),
    }
}

pub(super) fn period_record(period: Option<(Timestamp, Timestamp)>) -> Value {
    let text = checkrein::core::ledger::moment::to_text;
    period.map_or(Value::Null, |(first, last)| json!({ "first": text(first), "last": text(last) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_the_terminal() {
        let mut shown = Vec::new();
        let text = "a few words, and one_that_is_much_longer_than_a_line_of_forty_columns_can_be at the end";
        wrapped(&mut shown, "  label: ", 4, 40, text).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert_eq!(shown.split_whitespace().skip(1).collect::<String>(), text.replace(' ', ""));
    }
}
