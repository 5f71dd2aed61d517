//! The decisions of an admission as canonical JSON, without making a Python object.

use pyo3::prelude::*;

use super::super::actiongate::Verdict as RateVerdict;
use super::super::auditgate::{push_integer, push_seconds};
use super::super::rulegate::Decision as RuleDecision;
use super::result::Reached;
use super::step::Look;
use super::tool::Tool;

/// The decisions of an admission, where each has a short way to its canonical JSON.
pub(super) struct Allowed<'a> {
    rate: Option<(&'a [u8], &'a RateVerdict)>,
    spend: Option<(&'a [u8], &'a [u8], String, String)>,
    rules: Option<(&'a [u8], usize)>,
}

impl<'a> Allowed<'a> {
    /// Reads what was seen; `None` where a decision has no such way.
    pub(super) fn of(tool: &'a Tool, seen: &'a Look, reached: &Reached, py: Python<'_>) -> Option<Self> {
        let rate = tool.rate.as_ref().zip(seen.rate.as_ref()).map(|(rate, verdict)| (&*rate.json, verdict));
        let spend = match (&tool.spend, seen.spend.as_ref().and_then(Option::as_ref)) {
            (Some(spend), Some(verdict)) => {
                let plain = spend.plain.as_ref()?;
                let (spent, remaining) = plain.texts(verdict);
                Some((&*spend.json, &*plain.requested, spent?, remaining?))
            }
            _ => None,
        };
        let rules = match (&tool.rules, &reached.rules) {
            (Some(rules), Some(decision)) => {
                let decision = decision.bind(py).cast_exact::<RuleDecision>().ok()?;
                Some((&*rules.json, decision.get().asked_and_allowed()?))
            }
            _ => None,
        };
        Some(Self { rate, spend, rules })
    }

    /// Writes them.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        const ALLOWED: &[u8] = b",\"schema_version\":\"0.2.2\",\"status\":\"ALLOW\"";
        let before = out.len();
        if let Some((gate, verdict)) = self.rate {
            out.extend_from_slice(b",\"actiongate\":{\"calls_in_window\":");
            push_integer(out, i64::try_from(verdict.count).unwrap_or(i64::MAX));
            out.extend_from_slice(b",\"gate\":");
            out.extend_from_slice(gate);
            out.extend_from_slice(b",\"message\":null,\"reason\":null");
            out.extend_from_slice(ALLOWED);
            out.extend_from_slice(b",\"time_since_last\":");
            match verdict.age {
                Some(age) => push_seconds(out, age, verdict.whole),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b'}');
        }
        if let Some((ledger, requested, spent, remaining)) = &self.spend {
            out.extend_from_slice(b",\"budgetgate\":{\"ledger\":");
            out.extend_from_slice(ledger);
            out.extend_from_slice(b",\"message\":null,\"reason\":null,\"remaining\":\"");
            out.extend_from_slice(remaining.as_bytes());
            out.extend_from_slice(b"\",\"requested\":");
            out.extend_from_slice(requested);
            out.extend_from_slice(b",\"schema_version\":\"0.2.2\",\"spent_in_window\":\"");
            out.extend_from_slice(spent.as_bytes());
            out.extend_from_slice(b"\",\"status\":\"ALLOW\"}");
        }
        if let Some((rule, asked)) = self.rules {
            out.extend_from_slice(b",\"rulegate\":{\"evaluated_count\":");
            push_integer(out, i64::try_from(asked).unwrap_or(i64::MAX));
            out.extend_from_slice(b",\"message\":null,\"reason\":null,\"rule\":");
            out.extend_from_slice(rule);
            out.extend_from_slice(ALLOWED);
            out.extend_from_slice(b",\"violated_rules\":[]}");
        }
        // The first comma is the opening brace; without any decision both are missing.
        match out.get_mut(before) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
    }
}
