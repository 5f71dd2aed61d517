//! What observe mode would have blocked, for programs.

use checkrein::core::ledger::moment;
use checkrein::replay::{Calls, Reviewed, Row};
use serde_json::{Value, json};

use crate::command::recording::{cause_record, period_record, source_record, tally_record, with};

pub(super) fn record(reviewed: &Reviewed) -> Value {
    json!({
        "coverage": coverage(reviewed),
        "calls": calls(reviewed.calls),
        "observed": with(json!({}), tally_record(&reviewed.observed)),
        "would_block": reviewed.would_refuse.iter().map(|found| row(reviewed, found)).collect::<Value>(),
        "refused": reviewed.refused.iter().map(|found| row(reviewed, found)).collect::<Value>(),
    })
}

/// The same in lines.
pub(super) fn lines(reviewed: &Reviewed) -> Value {
    let named = |name: &'static str| move |found: &Row| json!({ name: row(reviewed, found) });
    let head = [
        json!({ "coverage": coverage(reviewed) }),
        json!({ "calls": calls(reviewed.calls) }),
        json!({ "observed": with(json!({}), tally_record(&reviewed.observed)) }),
    ];
    let rows = reviewed.would_refuse.iter().map(named("would_block"));
    let lines = head.into_iter().chain(rows).chain(reviewed.refused.iter().map(named("refused")));
    lines.collect()
}

fn coverage(reviewed: &Reviewed) -> Value {
    json!({ "ledger": source_record(&reviewed.source), "period": period_record(reviewed.period) })
}

fn calls(calls: Calls) -> Value {
    let Calls { decisions, ran, observed, refused } = calls;
    json!({ "decisions": decisions, "ran": ran, "would_block": observed, "refused": refused })
}

fn row(reviewed: &Reviewed, row: &Row) -> Value {
    let tool = reviewed.tools.get(&row.tool).copied().unwrap_or_default();
    let (first, last) = row.period;
    let about = json!({
        "tool": row.tool,
        "reason": cause_record(&row.cause),
        "of_tool": calls(tool),
        "first": moment::to_text(first),
        "last": moment::to_text(last),
        "users": row.users,
        "agents": row.agents,
        "runs": row.runs,
    });
    with(about, tally_record(&row.tally))
}
