//! What a replay asks of a policy file beside its decisions: what they read, cost, and have been shown.

use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::key::KeyRef;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::Span;

use super::call::{Call, Evaluated};
use super::model::TakenCost;
use super::policies::{Policies, PolicyError, ToolPolicy};
use super::resolve::{KeySource, Question};
use crate::engine::{CompiledPolicy, GateSpec, GateSpecKind};
use crate::expression::Expression;

/// For so long a value counts as read that a recorded decision shows was read.
const SHOWN: Span = Span::from_millis(1);

impl ToolPolicy {
    /// Whether a gate of the tool reads the arguments of a call, or compares them.
    pub fn reads_arguments(&self) -> bool {
        let reads = |expression: &Expression| expression.variables().any(|variable| variable == "args");
        let resolved = &self.resolved;
        let by_key = resolved.keys.iter().any(|key| match key {
            KeySource::Everybody => false,
            KeySource::Expression(expression) => reads(expression),
            KeySource::Fact(_) | KeySource::SameCall => true,
        });
        let by_cost = resolved.costs.iter().any(|(cost, _)| match cost {
            TakenCost::Fixed(_) => false,
            TakenCost::Computed(expression) => reads(expression),
        });
        let by_rule = resolved.questions.iter().any(|question| match question {
            Question::Rule(rule) => reads(&rule.check) || rule.when.as_ref().is_some_and(|when| reads(when)),
            Question::Price => true,
            // Those of the costs are counted above.
            Question::Freeze(_) | Question::Cost(_) | Question::Uncovered => false,
        });
        // The same key with other arguments is another request.
        by_key || by_cost || by_rule || !resolved.once.is_empty()
    }
}

impl Policies {
    /// The gates of a model.
    pub(crate) fn model_gates(&self, provider: Option<&str>, model: &str) -> Option<Arc<CompiledPolicy>> {
        let loaded = self.loaded();
        let policy = loaded.models.policy_of(self.engine(), loaded.file.sections(), provider, model).ok()?;
        Some(Arc::clone(&policy.gates.compiled))
    }

    /// What a call takes from each budget of its tool, by the names of the gates.
    pub(crate) fn costs(&self, call: &Call<'_>) -> Vec<(String, Unit, Amount)> {
        let Ok(Some(policy)) = self.for_action(call.action.name) else { return Vec::new() };
        let evaluated = Evaluated::of(&policy.resolved, call, self.engine().now(), false);
        let cost = |gate: &GateSpec| match &gate.kind {
            GateSpecKind::Budget { cost, unit, .. } => {
                let amount = evaluated.cost(usize::from(*cost))?;
                Some((gate.name.clone(), *unit, amount))
            }
            _ => None,
        };
        policy.gates().iter().filter_map(cost).collect()
    }

    /// Lets the facts that a call needs count as read, but for those of the kinds in `missing`. Returns whether the call
    /// needs any.
    ///
    /// # Errors
    /// The store is not to be had.
    pub(crate) fn assume_facts(&self, call: &Call<'_>, missing: &[&str]) -> Result<bool, PolicyError> {
        let Some(policy) = self.for_action(call.action.name)? else { return Ok(false) };
        let mut any = false;
        for gate in policy.gates() {
            let GateSpecKind::Fact { key } = gate.kind else { continue };
            any = true;
            if missing.contains(&gate.name.as_str()) {
                continue;
            }
            let evaluated = Evaluated::of(&policy.resolved, call, self.engine().now(), false);
            let Some(bytes) = evaluated.key(usize::from(key)) else { continue };
            let family = self.engine().family(RecordKind::Fact, &gate.name, None, None, Span::ZERO)?;
            self.engine().prove(KeyRef { family, tenant: call.tenant.as_bytes(), key: bytes }, SHOWN)?;
        }
        Ok(any)
    }
}

impl Evaluated {
    fn key(&self, slot: usize) -> Option<&[u8]> {
        self.keys.get(slot)?.as_deref().ok()
    }

    /// A cost, if it has a value.
    fn cost(&self, slot: usize) -> Option<Amount> {
        let amount = self.costs.get(slot)?.amount;
        (!amount.is_negative()).then_some(amount)
    }
}
