//! What a replay found, for programs.

use checkrein::core::ledger::moment;
use checkrein::replay::{Cause, Change, Coverage, Difference, Replayed, Ruling, Tally, Totals};
use serde_json::{Value, json};

use crate::command::recording::{
    cause_record, money_record, period_record, source_record, tally_record, with,
};

pub(super) fn record(replayed: &Replayed) -> Value {
    json!({
        "coverage": coverage(&replayed.coverage),
        "totals": totals(&replayed.totals),
        "tools": tools(&replayed.totals).collect::<Value>(),
        "reasons": reasons(&replayed.totals).collect::<Value>(),
        "differences": replayed.differences.iter().map(difference).collect::<Value>(),
    })
}

/// The same in lines, the coverage first.
pub(super) fn lines(replayed: &Replayed) -> Value {
    let named = |name: &'static str| move |value: Value| json!({ name: value });
    let head =
        [json!({ "coverage": coverage(&replayed.coverage) }), json!({ "totals": totals(&replayed.totals) })];
    let lines = head
        .into_iter()
        .chain(tools(&replayed.totals).map(named("tool")))
        .chain(reasons(&replayed.totals).map(named("reason")))
        .chain(replayed.differences.iter().map(difference).map(named("difference")));
    lines.collect()
}

fn coverage(coverage: &Coverage) -> Value {
    let left = coverage.left.iter().map(|(why, count)| (why.word().to_owned(), Value::from(*count)));
    let assumed = coverage.assumed.iter().map(|(what, count)| (what.word().to_owned(), Value::from(*count)));
    json!({
        "ledger": source_record(&coverage.source),
        "period": period_record(coverage.period),
        "decisions": coverage.decisions,
        "replayed": coverage.replayed,
        "without_arguments": coverage.without_arguments,
        "left_out": left.collect::<Value>(),
        "assumed": assumed.collect::<Value>(),
    })
}

fn totals(totals: &Totals) -> Value {
    let changes = [Change::Stopped, Change::Started, Change::Answered, Change::Reasons].map(|change| {
        let tally = totals.changes.get(&change).cloned().unwrap_or_default();
        (change.word().to_owned(), object(&tally))
    });
    with(json!({ "differences": totals.calls() }), changes.into())
}

fn object(tally: &Tally) -> Value {
    with(json!({}), tally_record(tally))
}

fn tools(totals: &Totals) -> impl Iterator<Item = Value> {
    totals.tools.iter().map(|((tool, change), tally)| {
        with(json!({ "tool": tool, "change": change.word() }), tally_record(tally))
    })
}

fn reasons(totals: &Totals) -> impl Iterator<Item = Value> {
    totals.reasons.iter().map(|(why, tally)| {
        let Cause { code, kind, gate } = &why.cause;
        let change = why.change.word();
        with(json!({ "change": change, "code": code, "kind": kind, "gate": gate }), tally_record(tally))
    })
}

fn difference(difference: &Difference) -> Value {
    let said = |(ruling, causes): &(Ruling, Vec<Cause>)| json!({ "verdict": ruling.word(), "reasons": causes.iter().map(cause_record).collect::<Value>() });
    let counts = matches!(difference.change, Change::Stopped | Change::Started);
    json!({
        "seq": difference.seq,
        "time": moment::to_text(difference.time),
        "repeat": difference.repeat,
        "tool": difference.tool,
        "change": difference.change.word(),
        "old": said(&difference.old),
        "new": said(&difference.new),
        "effect": counts.then(|| difference.effect.word()),
        "money": money_record(difference.money.iter().map(|(unit, amount)| (unit, amount))),
    })
}
