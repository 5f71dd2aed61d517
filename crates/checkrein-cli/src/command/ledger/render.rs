//! Entries for people: on one line, and whole.

use std::io::{Result, Write};

use checkrein::core::ledger::entry::{
    ArgumentsView, Ending, EntryView, Kind, MeterView, ReasonView, Request,
};
use checkrein::core::ledger::moment;
use checkrein::core::ledger::tree::to_hex;
use checkrein::core::time::Timestamp;

use crate::command::inert;

/// The longest that arguments are on one line.
const SHORT: usize = 60;

/// A count and its noun.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    let digits = number.to_string();
    let grouped =
        digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",");
    format!("{grouped} {}", if number == 1 { one } else { many })
}

/// An instant, to the second.
pub(super) fn shown_time(time: Timestamp) -> String {
    let text = moment::to_text(time);
    format!("{} UTC", text.get(..19).unwrap_or(&text).replace('T', " "))
}

/// One line: sequence, time, kind, what, and what there is to say about it.
pub(super) fn line(to: &mut impl Write, entry: &EntryView<'_>) -> Result<()> {
    let time = moment::to_text(entry.time);
    let time = time.get(..23).unwrap_or(&time).replace('T', " ");
    let (colour, word) = mark(entry);
    let about = about(entry);
    writeln!(
        to,
        "\u{1b}[2m{:>7}  {time}\u{1b}[0m  \u{1b}[{colour}m{word:<12}\u{1b}[0m  {}{}{about}",
        entry.seq,
        what(entry),
        if about.is_empty() { "" } else { "  " }
    )
}

fn mark(entry: &EntryView<'_>) -> (&'static str, &'static str) {
    match (entry.kind, entry.outcome) {
        (Kind::Intent, _) => ("32", "intent"),
        (Kind::Refusal, _) => ("31", "refusal"),
        (Kind::Replay, _) => ("36", "replay"),
        (Kind::Event, _) => ("35", "event"),
        (Kind::Outcome, Some((Ending::Done, ..))) => ("2;32", "done"),
        (Kind::Outcome, Some((Ending::FailedClean, ..))) => ("33", "failed clean"),
        (Kind::Outcome, _) => ("1;33", "in doubt"),
    }
}

fn name<'a>(entry: &'a EntryView<'_>, wanted: &str) -> &'a str {
    entry.action.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value)
}

/// The action as `namespace:name@principal`, the event's name, or what the outcome is of.
fn what(entry: &EntryView<'_>) -> String {
    if let Some(event) = &entry.event {
        return inert(event);
    }
    if entry.kind == Kind::Outcome {
        return match (entry.intent, entry.permit) {
            (Some(intent), _) => format!("of entry {intent}"),
            // Decided in a store that hosts share: the intent may be in another ledger.
            (None, Some(permit)) => format!("of permit {permit}"),
            (None, None) => String::new(),
        };
    }
    let mut text = inert(name(entry, "name"));
    if !name(entry, "namespace").is_empty() {
        text = format!("{}:{text}", inert(name(entry, "namespace")));
    }
    if !name(entry, "principal").is_empty() {
        text = format!("{text}@{}", inert(name(entry, "principal")));
    }
    text
}

fn about(entry: &EntryView<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(
        entry.reasons.iter().map(|reason| format!("{} ({})", inert(&reason.code), inert(&reason.gate))),
    );
    parts.extend(entry.repeated.map(|repeated| format!("{} times", repeated.count)));
    if let ArgumentsView::Full(arguments) = entry.arguments {
        parts.push(shorten(&inert(arguments)));
    }
    if !entry.actual.is_empty() {
        parts.push(format!("cost {}", entry.actual.join(", ")));
    }
    if let Some((_, _, by)) = entry.outcome.filter(|(_, _, by)| by.word() != "caller") {
        parts.push(format!("by {}", by.word()));
    }
    parts.extend(entry.note.as_deref().map(inert));
    parts.extend(
        entry.fields.iter().map(|(name, value)| shorten(&format!("{}={}", inert(name), inert(value)))),
    );
    parts.join("  ")
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// One named value of a whole entry.
pub(super) fn field(to: &mut impl Write, name: &str, value: &str) -> Result<()> {
    writeln!(to, "  \u{1b}[2m{name:<10}\u{1b}[0m  {value}")
}

/// Everything an entry says.
pub(super) fn whole(to: &mut impl Write, entry: &EntryView<'_>) -> Result<()> {
    let (colour, word) = mark(entry);
    writeln!(to, "entry {}  \u{1b}[1;{colour}m{word}\u{1b}[0m  {}", entry.seq, what(entry))?;
    field(to, "time", &moment::to_text(entry.time))?;
    field(to, "process", &entry.epoch.to_string())?;
    for (name, value) in &entry.action {
        field(to, name, &inert(value))?;
    }
    match entry.arguments {
        ArgumentsView::None => {}
        ArgumentsView::Full(arguments) => field(to, "arguments", &inert(arguments))?,
        ArgumentsView::Digest(digest) => {
            field(to, "arguments", &format!("salted digest {}", to_hex(&digest)))?
        }
    }
    match entry.request {
        Request::None => {}
        Request::Digest(digest) => field(to, "request", &digest.to_string())?,
        Request::Keyed(digest) => field(to, "request", &format!("keyed digest {}", to_hex(&digest)))?,
    }
    for (name, value) in [("intent", entry.intent), ("permit", entry.permit)] {
        if let Some(value) = value {
            field(to, name, &value.to_string())?;
        }
    }
    if let Some((source, drained)) = entry.source {
        field(to, "store", &format!("{}, part {}", source.store, source.tag))?;
        field(to, "host", &source.host.to_string())?;
        if let Some(intent) = source.intent {
            field(to, "intent of", &format!("host {intent}"))?;
        }
        let (list, when) = (drained.list, shown_time(drained.time));
        field(to, "came in", &format!("{when}, number {} of list {list}", drained.number))?;
    }
    if let Some(policy) = entry.policy {
        field(to, "policy", &to_hex(&policy))?;
    }
    if let Some((_, health, by)) = entry.outcome {
        field(to, "health", health)?;
        field(to, "said by", by.word())?;
    }
    if !entry.actual.is_empty() {
        field(to, "cost", &entry.actual.join(", "))?;
    }
    if let Some(note) = &entry.note {
        field(to, "note", &inert(note))?;
    }
    if let Some(repeated) = entry.repeated {
        let (first, last) = (shown_time(repeated.first), shown_time(repeated.last));
        field(to, "repeated", &format!("{} times, from {first} to {last}", repeated.count))?;
    }
    entry.reasons.iter().try_for_each(|reason| field(to, "reason", &shown_reason(reason)))?;
    entry.observed.iter().try_for_each(|reason| field(to, "observed", &shown_reason(reason)))?;
    entry.meters.iter().try_for_each(|meter| field(to, "meter", &shown_meter(meter)))?;
    entry.fields.iter().try_for_each(|(name, value)| field(to, &inert(name), &inert(value)))
}

fn shown_reason(reason: &ReasonView<'_>) -> String {
    let retry = match reason.retry {
        "never" => "never again".to_owned(),
        "unknown" => "retry unknown".to_owned(),
        seconds => format!("retry after {seconds} s"),
    };
    let (code, message) = (inert(&reason.code), inert(&reason.message));
    format!("{code}: {message} ({} `{}`, {retry})", inert(&reason.kind), inert(&reason.gate))
}

fn shown_meter(meter: &MeterView<'_>) -> String {
    let (gate, unit) = (inert(&meter.gate), inert(&meter.unit));
    format!("{gate}: {} of {} {unit} spent, {} held", meter.spent, meter.limit, meter.held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(1_234_567, "entry", "entries"), "1,234,567 entries");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"ä".repeat(61)), format!("{}…", "ä".repeat(60)));
    }
}
