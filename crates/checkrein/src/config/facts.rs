//! Facts: values that a result shows, and that later calls of the same run may use.

use checkrein_core::canonical_json;
use checkrein_core::gate::fact::Fact;
use checkrein_core::json::Value;
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};

use super::call::{Call, at_pointer, fact_key};
use super::resolve::Resolved;
use crate::engine::Engine;
use crate::store::{Step, StoreError};

/// How long a fact holds: longer than a run lasts.
const KEPT: Span = Span::from_secs(86_400);

/// The records of what the results of a tool prove, in the order of its proofs.
#[derive(Clone, Debug, Default)]
pub(super) struct FactFamilies(Vec<Family>);

impl FactFamilies {
    pub(super) fn of(engine: &Engine, resolved: &Resolved) -> Result<Self, StoreError> {
        let family = |kind: &str| engine.family(RecordKind::Fact, kind, None, None, Span::ZERO);
        resolved.proves.iter().map(|proof| family(&proof.kind)).collect::<Result<_, _>>().map(Self)
    }

    /// The steps that record what a result proves for the run or session of its call.
    pub(super) fn steps(
        &self,
        resolved: &Resolved,
        call: &Call<'_>,
        result: &Value,
        now: Timestamp,
    ) -> Vec<Step> {
        let Some(scope) = call.scope() else { return Vec::new() };
        let fact = Fact { proved: now, expires: now.after(KEPT), entry: None };
        let proofs = resolved.proves.iter().zip(&self.0).filter_map(|(proof, family)| {
            let value = at_pointer(result, &proof.pointer)?;
            let text = words(value)?;
            // What the agent passed in and gets back was not read; nor is it known what a hidden argument says.
            let is_hidden = call.uncovered.is_some_and(|uncovered| !uncovered.hidden.is_empty());
            if !proof.echo && (is_hidden || says(call.arguments, &text)) {
                return None;
            }
            let key = fact_key(scope, value);
            let key = KeyRef { family: *family, tenant: call.tenant.as_bytes(), key: &key };
            Some(Step::Prove(Key::new(key), fact))
        });
        proofs.collect()
    }
}

/// Facts of one kind, as code that is no policy file proves and needs them.
#[derive(Clone, Copy, Debug)]
pub struct FactKind(Family);

impl FactKind {
    /// The facts of a kind; those of the policy file's are the same ones.
    ///
    /// # Errors
    /// The store does not know its families.
    pub fn new(engine: &Engine, kind: &str) -> Result<Self, StoreError> {
        engine.family(RecordKind::Fact, kind, None, None, Span::ZERO).map(Self)
    }

    /// The step that records a value for `keep`.
    pub fn step(&self, tenant: &str, scope: [&str; 2], value: &Value, keep: Span, now: Timestamp) -> Step {
        let key = fact_key(scope, value);
        let key = KeyRef { family: self.0, tenant: tenant.as_bytes(), key: &key };
        Step::Prove(Key::new(key), Fact { proved: now, expires: now.after(keep), entry: None })
    }
}

/// Whether a call says a value itself: as an argument of whatever type, as a part of one, or as the name of a member.
/// What it gets back then was not read.
pub fn is_said(arguments: &Value, value: &Value) -> bool {
    let text = match value {
        Value::Bool(yes) => Some(yes.to_string()),
        value => words(value),
    };
    text.is_some_and(|text| says(arguments, &text))
}

/// What can be a fact, as text without case: a text that is not empty, or a number. An absent value proves nothing.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.to_lowercase()),
        Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
            Some(String::from_utf8_lossy(&canonical_json::to_vec(value)).into_owned())
        }
        _ => None,
    }
}

/// Whether arguments say a text anywhere: as a value of whatever type, as a part of one, or as the name of a member.
fn says(value: &Value, text: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| says(item, text)),
        Value::Object(members) => {
            members.iter().any(|(name, member)| name.to_lowercase().contains(text) || says(member, text))
        }
        other => words(other).is_some_and(|words| words.contains(text)),
    }
}
