//! A call as a policy file sees it: its keys, costs and verdicts, evaluated before anything is decided.

use checkrein_core::admission::{Action, Inputs, KeyValue, RuleVerdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::canonical_json;
use checkrein_core::fingerprint::{Request, RequestDigest};
use checkrein_core::gate::budget::Cost;
use checkrein_core::json::Value;
use checkrein_core::key::encode_parts;
use checkrein_core::time::Timestamp;

use super::model::{RuleGate, TakenCost};
use super::resolve::{KeySource, Resolved};
use crate::expression::{EvaluationError, Expression, JsonScope, Operand};

/// One thing an agent is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    /// The tenant; empty when there is only one.
    pub tenant: &'c str,
    /// Who does what. Its arguments and digest are computed here.
    pub action: Action<'c>,
    /// The arguments.
    pub arguments: &'c Value,
}

/// A verdict of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Violated,
    Error(String),
}

/// What the gates of a tool ask for, evaluated for one call.
#[derive(Debug)]
pub(super) struct Evaluated {
    pub(super) keys: Vec<Result<Vec<u8>, String>>,
    pub(super) costs: Vec<Cost>,
    /// Why costs have no value, by their position.
    pub(super) cost_errors: Vec<Option<String>>,
    verdicts: Vec<Verdict>,
    once: Option<Result<Vec<u8>, String>>,
    canonical: Vec<u8>,
    digest: RequestDigest,
}

/// The values of [`super::VARIABLES`].
type Slots<'c> = [Operand<'c, &'c Value>; 11];

impl<'c> Call<'c> {
    fn slots(&self, now: Timestamp) -> Slots<'c> {
        let text = |text: &'c str| if text.is_empty() { Operand::Missing } else { Operand::Text(text) };
        let action = self.action;
        [
            Operand::from(self.arguments),
            text(action.namespace),
            text(action.name),
            text(action.principal),
            text(self.tenant),
            text(action.user),
            text(action.agent),
            text(action.run),
            text(action.session),
            text(action.run),
            Operand::Int(now.nanos().div_euclid(1_000_000_000)),
        ]
    }

    /// What facts and loop guards belong to: the run, or the session where there is no run.
    pub(super) fn scope(&self) -> Option<&'c str> {
        [self.action.run, self.action.session].into_iter().find(|scope| !scope.is_empty())
    }

    /// The canonical arguments and the digest of the request.
    fn digest(&self) -> (Vec<u8>, RequestDigest) {
        let canonical = canonical_json::to_vec(self.arguments);
        let Action { namespace, name, principal, .. } = self.action;
        let digest =
            RequestDigest::of(&Request { namespace, name, principal, target: None, arguments: &canonical });
        (canonical, digest)
    }
}

/// The key of a fact: whose it is, and its value.
pub(super) fn fact_key(scope: &str, value: &Value) -> Vec<u8> {
    let mut key = Vec::new();
    encode_parts([scope.as_bytes(), &canonical_json::to_vec(value)], &mut key);
    key
}

/// The value at a JSON pointer.
pub(super) fn at_pointer<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    pointer.split('/').skip(1).try_fold(value, |value, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Array(items) => {
                let is_plain = part == "0" || !part.starts_with(['0', '+']);
                items.get(part.parse::<usize>().ok().filter(|_| is_plain)?)
            }
            value => value.get(&part),
        }
    })
}

impl Evaluated {
    pub(super) fn of(resolved: &Resolved, call: &Call<'_>, now: Timestamp) -> Self {
        let slots = call.slots(now);
        let scope = JsonScope { slots: &slots };
        let (canonical, digest) = call.digest();
        let keys = resolved.keys.iter().map(|source| match source {
            KeySource::Everybody => Ok(Vec::new()),
            KeySource::Expression(key) => text_key(key, &scope),
            KeySource::Fact(pointer) => {
                let value = at_pointer(call.arguments, pointer).ok_or_else(|| format!("args{pointer}"))?;
                Ok(fact_key(call.scope().ok_or_else(no_run)?, value))
            }
            KeySource::SameCall => {
                let mut key = Vec::new();
                encode_parts([call.scope().ok_or_else(no_run)?.as_bytes(), digest.as_bytes()], &mut key);
                Ok(key)
            }
        });
        let keys = keys.collect();
        let costs: Vec<_> = resolved.costs.iter().map(|(cost, unit)| cost_of(cost, *unit, &scope)).collect();
        let refused = Amount::from_pico(-1);
        Self {
            keys,
            cost_errors: costs.iter().map(|cost| cost.as_ref().err().cloned()).collect(),
            // Where there is no value, one that is always refused stands in for it.
            costs: costs.into_iter().map(|cost| Cost::proven(cost.unwrap_or(refused))).collect(),
            verdicts: resolved.rules.iter().map(|rule| verdict_of(rule, &scope)).collect(),
            once: resolved.once.first().map(|key| text_key(key, &scope)),
            canonical,
            digest,
        }
    }

    /// Hands what was evaluated to `decide`.
    pub(super) fn with_inputs<R>(
        &self,
        resolved: &Resolved,
        call: &Call<'_>,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        let keys: Vec<KeyValue<'_>> = self.keys.iter().map(as_key).collect();
        let verdicts: Vec<RuleVerdict<'_>> = self
            .verdicts
            .iter()
            .zip(&resolved.rules)
            .map(|(verdict, rule)| match verdict {
                Verdict::Pass => RuleVerdict::Pass,
                Verdict::Violated => RuleVerdict::Violated(&rule.message),
                Verdict::Error(error) => RuleVerdict::Error(error),
            })
            .collect();
        let action = Action { arguments: Some(&self.canonical), digest: Some(self.digest), ..call.action };
        decide(&Inputs {
            tenant: call.tenant,
            keys: &keys,
            costs: &self.costs,
            verdicts: &verdicts,
            once: self.once.as_ref().map(|once| (as_key(once), self.digest)),
            period_ends: &[],
            start: true,
            action: Some(&action),
        })
    }
}

fn as_key(key: &Result<Vec<u8>, String>) -> KeyValue<'_> {
    match key {
        Ok(bytes) => KeyValue::Bytes(bytes),
        Err(missing) => KeyValue::Missing(missing),
    }
}

fn no_run() -> String {
    "action.run".to_owned()
}

/// An error with the expression it comes from.
fn told(expression: &Expression, error: &EvaluationError) -> String {
    format!("`{}`: {}", expression.text(), error.message)
}

fn text_key(key: &Expression, scope: &JsonScope<'_, '_>) -> Result<Vec<u8>, String> {
    key.key(scope).map(String::into_bytes).map_err(|error| {
        let text = key.text();
        // "The key ... has no value" says already that something is missing.
        let is_plain = error.message == format!("`{text}` is missing");
        if is_plain { format!("`{text}`") } else { format!("`{text}` ({})", error.message) }
    })
}

fn verdict_of(rule: &RuleGate, scope: &JsonScope<'_, '_>) -> Verdict {
    if let Some(when) = &rule.when {
        match when.test(scope) {
            Ok(true) => {}
            Ok(false) => return Verdict::Pass,
            Err(error) => return Verdict::Error(told(when, &error)),
        }
    }
    match rule.check.test(scope) {
        Ok(true) => Verdict::Pass,
        Ok(false) => Verdict::Violated,
        Err(error) => Verdict::Error(told(&rule.check, &error)),
    }
}

/// A cost in the unit of its budget: computed ones count nano-dollars, or whole units.
fn cost_of(cost: &TakenCost, unit: Unit, scope: &JsonScope<'_, '_>) -> Result<Amount, String> {
    let computed = match cost {
        TakenCost::Fixed(amount) => return Ok(*amount),
        TakenCost::Computed(expression) => {
            expression.cost_nano_usd(scope).map_err(|error| told(expression, &error))?
        }
    };
    if unit != Unit::Usd {
        return Ok(Amount::from_units(computed));
    }
    // A u64 of nano-dollars times 1,000 stays below 2^74.
    Ok(Amount::from_pico(i128::from(computed).saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkrein_core::json::{Limits, read_str};

    #[test]
    fn pointers_find_values() {
        let value = read_str(r#"{"a": [{"b/c": 1}, 2], "~": 3, "": 4}"#, &Limits::default()).unwrap();
        for (pointer, found) in [
            ("/a/0/b~1c", Some(1)),
            ("/a/1", Some(2)),
            ("/~0", Some(3)),
            ("/", Some(4)),
            ("/a/2", None),
            ("/a/01", None),
            ("/a/+1", None),
            ("/x", None),
            ("/a/1/x", None),
        ] {
            let expected = found.map(Value::Int);
            assert_eq!(at_pointer(&value, pointer), expected.as_ref(), "{pointer}");
        }
    }
}
