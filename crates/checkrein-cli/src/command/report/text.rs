//! What observe mode would have blocked, for people.

use std::io::{Result, Write};

use checkrein::replay::{Reviewed, Row};

use crate::command::recording::{
    counted, field, grouped, shown_cause, shown_money, shown_period, shown_source, shown_time, wrapped,
};
use crate::command::{columns, inert};

pub(super) fn print(to: &mut impl Write, reviewed: &Reviewed, limit: usize) -> Result<()> {
    let calls = reviewed.calls;
    writeln!(to, "\u{1b}[1mwhat was read\u{1b}[0m")?;
    shown_source(to, &reviewed.source)?;
    shown_period(to, reviewed.period)?;
    let answered = calls.decisions.saturating_sub(calls.ran).saturating_sub(calls.refused);
    let mut ran = format!(
        "{}: {} ran, {} refused",
        counted(calls.decisions, "call", "calls"),
        grouped(calls.ran),
        grouped(calls.refused)
    );
    if answered > 0 {
        ran.push_str(&format!(", {} answered by an earlier run", grouped(answered)));
    }
    field(to, "calls", &ran)?;
    if calls.observed == 0 {
        let text = match calls.decisions {
            0 => "no decisions in this time".to_owned(),
            _ => "observe mode would have blocked nothing: set mode = \"enforce\" in [defaults]".to_owned(),
        };
        writeln!(to, "\n\u{1b}[1;32mnothing would be blocked\u{1b}[0m")?;
        wrapped(to, "  ", 2, columns().clamp(40, 120), &text)?;
    } else {
        writeln!(to, "\n\u{1b}[1;33mwould have been blocked\u{1b}[0m")?;
        let share = share(calls.observed, calls.ran);
        field(
            to,
            "calls",
            &format!("{}, {share} of those that ran", counted(calls.observed, "call", "calls")),
        )?;
        let (effects, unknown) = (reviewed.observed.effects, reviewed.observed.unknown);
        field(to, "effects", &format!("{}, {} unknown", grouped(effects), grouped(unknown)))?;
        field(to, "not spent", &not_spent(&reviewed.observed))?;
        rows(to, reviewed, &reviewed.would_refuse, limit)?;
    }
    if !reviewed.refused.is_empty() {
        writeln!(to, "\n\u{1b}[1mrefused for real\u{1b}[0m")?;
        rows(to, reviewed, &reviewed.refused, limit)?;
    }
    Ok(())
}

/// Money that would not have been spent, as far as it is known.
fn not_spent(tally: &checkrein::replay::Tally) -> String {
    let known = shown_money(tally.money.iter());
    match (known.is_empty(), tally.unpriced) {
        (true, _) => "not known".to_owned(),
        (false, 0) => known,
        (false, unpriced) => format!("{known}, and not known of {}", counted(unpriced, "call", "calls")),
    }
}

fn rows(to: &mut impl Write, reviewed: &Reviewed, rows: &[Row], limit: usize) -> Result<()> {
    let width = columns().clamp(40, 120);
    for row in rows.iter().take(limit) {
        let all = reviewed.tools.get(&row.tool).map_or(row.tally.calls, |calls| calls.decisions);
        let share = share(row.tally.calls, all);
        let calls = counted(row.tally.calls, "call", "calls");
        wrapped(to, "  ", 4, width, &format!("{}: {}", inert(&row.tool), shown_cause(&row.cause)))?;
        wrapped(to, "      ", 6, width, &format!("{calls}, {share} of the tool's{}", concerned(row)))?;
        let (first, last) = (shown_time(row.period.0), shown_time(row.period.1));
        let when = if first == last { first } else { format!("{first} to {last}") };
        wrapped(to, "      ", 6, width, &when)?;
        if !row.tally.money.is_empty() {
            wrapped(to, "      ", 6, width, &not_spent(&row.tally))?;
        }
    }
    match rows.len().saturating_sub(limit) {
        0 => Ok(()),
        more => writeln!(to, "  and {more} more; `--output json` has all"),
    }
}

/// Whom it concerned, as far as the ledger names them.
fn concerned(row: &Row) -> String {
    let named = [(row.users, "user", "users"), (row.agents, "agent", "agents"), (row.runs, "run", "runs")];
    let named = named.into_iter().filter(|(count, ..)| *count > 0);
    named.map(|(count, one, many)| format!(", {}", counted(count, one, many))).collect()
}

/// A share in percent with one decimal, rounded down.
fn share(part: u64, of: u64) -> String {
    let tenths = u128::from(part) * 1_000 / u128::from(of.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}
