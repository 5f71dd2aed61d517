//! What a replay found, for people.

use std::io::{Result, Write};

use checkrein::replay::{Change, Coverage, Difference, Replayed, Ruling, Tally, Totals};

use crate::command::recording::{
    counted, field, grouped, shown_cause, shown_money, shown_period, shown_source, shown_tally, shown_time,
    wrapped,
};
use crate::command::{columns, inert};

/// The most rows of a table.
const MOST_ROWS: usize = 20;

pub(super) fn print(to: &mut impl Write, replayed: &Replayed, is_empty: bool) -> Result<()> {
    print_coverage(to, &replayed.coverage)?;
    if is_empty {
        return Ok(());
    }
    let Totals { changes, tools, reasons } = &replayed.totals;
    writeln!(to)?;
    if changes.is_empty() {
        let decided = counted(replayed.coverage.replayed, "decision", "decisions");
        let text = format!("the policy decides all {decided} as before");
        writeln!(to, "\u{1b}[1;32mno difference\u{1b}[0m")?;
        return wrapped(to, "  ", 2, columns().clamp(40, 120), &text);
    }
    for (change, tally) in changes {
        let colour = if *change == Change::Stopped { "1;31" } else { "1;33" };
        writeln!(to, "\u{1b}[{colour}m{}\u{1b}[0m", heading(*change))?;
        field(to, change.word(), &shown_tally(tally))?;
        if tally.unpriced > 0 && !tally.money.is_empty() {
            field(to, "without cost", &counted(tally.unpriced, "call", "calls"))?;
        }
    }
    let rows = tools.iter().map(|((tool, change), tally)| (inert(tool), *change, tally));
    table(to, "by tool", rows.collect())?;
    let rows = reasons.iter().map(|(why, tally)| (shown_cause(&why.cause), why.change, tally));
    table(to, "by reason", rows.collect())?;
    if replayed.differences.is_empty() {
        return Ok(());
    }
    let (shown, all) = (replayed.differences.len() as u64, replayed.totals.calls());
    let first = if shown < all {
        format!(", the first {} of {}", grouped(shown), grouped(all))
    } else {
        String::new()
    };
    writeln!(to, "\n\u{1b}[1mdecisions that differ\u{1b}[0m{first}")?;
    replayed.differences.iter().try_for_each(|difference| print_difference(to, difference))
}

fn print_coverage(to: &mut impl Write, coverage: &Coverage) -> Result<()> {
    writeln!(to, "\u{1b}[1mwhat this rests on\u{1b}[0m")?;
    shown_source(to, &coverage.source)?;
    shown_period(to, coverage.period)?;
    let without = match coverage.without_arguments {
        0 => String::new(),
        count => format!(" ({} without arguments, which no gate of theirs reads)", grouped(count)),
    };
    let all = counted(coverage.decisions, "decision", "decisions");
    field(to, "replayed", &format!("{} of {all}{without}", grouped(coverage.replayed)))?;
    for (why, count) in &coverage.left {
        field(to, "left out", &format!("{}: {}", grouped(*count), why.meaning()))?;
    }
    for (what, count) in &coverage.assumed {
        field(to, "assumed", &format!("{}: {}", grouped(*count), what.meaning()))?;
    }
    Ok(())
}

const fn heading(change: Change) -> &'static str {
    match change {
        Change::Stopped => "ran, and would have been stopped",
        Change::Started => "did not run, and would have run",
        Change::Answered => "would not run either way, but be answered otherwise",
        Change::Reasons => "would be refused for other reasons",
    }
}

fn table(to: &mut impl Write, title: &str, mut rows: Vec<(String, Change, &Tally)>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_by(|one, other| (other.2.calls, &one.0, one.1).cmp(&(one.2.calls, &other.0, other.1)));
    writeln!(to, "\n\u{1b}[1m{title}\u{1b}[0m")?;
    let width = columns().clamp(40, 120);
    for (name, change, tally) in rows.iter().take(MOST_ROWS) {
        wrapped(to, "  ", 4, width, &format!("{name}: {}, {}", change.word(), shown_tally(tally)))?;
    }
    match rows.len().saturating_sub(MOST_ROWS) {
        0 => Ok(()),
        more => writeln!(to, "  and {more} more; `--output json` has all"),
    }
}

fn print_difference(to: &mut impl Write, difference: &Difference) -> Result<()> {
    let width = columns().clamp(40, 120);
    let Difference { seq, time, repeat, tool, change, old, new, effect, money } = difference;
    let repeat =
        repeat.map(|number| format!(", repetition {}", number.saturating_add(1))).unwrap_or_default();
    let first = format!("entry {seq}{repeat}, {}, {}", shown_time(*time), inert(tool));
    wrapped(to, "  ", 4, width, &first)?;
    let said = |(ruling, causes): &(Ruling, Vec<_>)| match causes.is_empty() {
        true => ruling.word().to_owned(),
        false => {
            format!("{}: {}", ruling.word(), causes.iter().map(shown_cause).collect::<Vec<_>>().join(", "))
        }
    };
    wrapped(to, "      was ", 10, width, &said(old))?;
    wrapped(to, "      now ", 10, width, &said(new))?;
    if matches!(change, Change::Stopped | Change::Started) {
        let money = shown_money(money.iter().map(|(unit, amount)| (unit, amount)));
        let money = if money.is_empty() { money } else { format!(", {money}") };
        wrapped(to, "      effect ", 10, width, &format!("{}{money}", effect.word()))?;
    }
    Ok(())
}
