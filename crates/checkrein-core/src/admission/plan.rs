//! What is known of an action before any record is read: its keys, costs and verdicts, and what is wrong with them.

use std::sync::Arc;

use crate::code::Code;
use crate::decision::{Detail, GateKind, Reason, Retry};
use crate::fingerprint::RequestDigest;
use crate::gate::budget::Cost;
use crate::key::MAX_KEY_BYTES;
use crate::policy::{Check, Gate, KeySlot, Mode, Policy};
use crate::time::Timestamp;

use super::Admission;

/// A key as the door found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyValue<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// The action does not have it; what was looked for.
    Missing(&'a str),
}

/// What a rule said, evaluated outside the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleVerdict<'a> {
    /// Yes.
    Pass,
    /// No; the rule in words.
    Violated(&'a str),
    /// It could not say; why not.
    Error(&'a str),
    /// No, for a reason with a code of its own: nothing covers the action, or somebody stopped it.
    Refused(Code, &'a str),
}

/// Who does what, for the record: no gate reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action<'a> {
    /// The identity's namespace.
    pub namespace: &'a str,
    /// The identity's name: the tool.
    pub name: &'a str,
    /// The identity's principal.
    pub principal: &'a str,
    /// The user; empty when there is none, as for the following.
    pub user: &'a str,
    /// The agent.
    pub agent: &'a str,
    /// The run.
    pub run: &'a str,
    /// The session.
    pub session: &'a str,
    /// The arguments as canonical JSON.
    pub arguments: Option<&'a [u8]>,
    /// The digest of the request.
    pub digest: Option<RequestDigest>,
}

/// Everything about an action that the gates of a policy ask for, resolved by the door.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    /// The tenant; empty when there is only one.
    pub tenant: &'a str,
    /// The keys, by [`KeySlot`].
    pub keys: &'a [KeyValue<'a>],
    /// The costs, by a budget's `cost`.
    pub costs: &'a [Cost],
    /// The verdicts of rules, by position.
    pub verdicts: &'a [RuleVerdict<'a>],
    /// The once key and the digest of the request it stands for.
    pub once: Option<(KeyValue<'a>, RequestDigest)>,
    /// Ends of the current calendar periods, by position of the gate; empty when no window is one.
    pub period_ends: &'a [Timestamp],
    /// The door starts the action in the same step.
    pub start: bool,
    /// Who does what, where a ledger is kept.
    pub action: Option<&'a Action<'a>>,
}

/// An action ready to be decided: what its policy reads and takes, and what is wrong with it already.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    pub(super) policy: &'a Policy,
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) reasons: Vec<Reason>,
    pub(super) observed: Vec<Reason>,
}

/// What depends on nothing but the policy, the action and the verdicts of its rules.
///
/// Whatever is wrong with the action itself is found here: a key it does not have, a cost below zero.
#[inline]
pub fn plan<'a>(policy: &'a Policy, inputs: &'a Inputs<'a>) -> Plan<'a> {
    let mut plan = Plan { policy, inputs, reasons: Vec::new(), observed: Vec::new() };
    for gate in policy.gates() {
        if let Some((code, kind, detail)) = problem_of(gate, inputs) {
            plan.refuse(gate, code, kind, detail);
        }
    }
    if plan.reasons.len() > 1 {
        // What is wrong with the action itself comes first.
        plan.reasons.sort_by_key(|reason| reason.kind);
    }
    plan
}

fn problem_of(gate: &Gate, inputs: &Inputs<'_>) -> Option<(Code, GateKind, Detail)> {
    let invalid = |text: &str| Some((Code::InvalidAction, GateKind::Action, Detail::Text(text.into())));
    let key_problem = |key: Option<KeyValue<'_>>| match key {
        Some(KeyValue::Bytes(bytes)) if bytes.len() + inputs.tenant.len() > MAX_KEY_BYTES => {
            let length = bytes.len() + inputs.tenant.len();
            let text = format!("key and tenant have {length} bytes, at most {MAX_KEY_BYTES} are allowed");
            Some((Code::TooLarge, GateKind::Action, Detail::Text(text.into())))
        }
        Some(KeyValue::Bytes(_)) => None,
        Some(KeyValue::Missing(what)) => invalid(&format!("the key {what} has no value")),
        None => invalid("a key was not given"),
    };
    let slot = |slot: KeySlot| inputs.keys.get(usize::from(slot.0)).copied();
    match &gate.check {
        Check::Rule(position) => match inputs.verdicts.get(usize::from(*position)) {
            Some(RuleVerdict::Pass) => None,
            Some(RuleVerdict::Violated(what)) => {
                Some((Code::RuleViolated, GateKind::Rule, Detail::Text((*what).into())))
            }
            Some(RuleVerdict::Error(what)) => {
                Some((Code::RuleError, GateKind::Rule, Detail::Text((*what).into())))
            }
            Some(RuleVerdict::Refused(code, what)) => {
                Some((*code, GateKind::Rule, Detail::Text((*what).into())))
            }
            None => {
                Some((Code::RuleError, GateKind::Rule, Detail::Text("the rule was not evaluated".into())))
            }
        },
        Check::Once(_) => key_problem(inputs.once.map(|(key, _)| key)),
        Check::Fact(fact) => key_problem(slot(fact.key)),
        Check::Breaker(breaker) => key_problem(slot(breaker.key)),
        Check::Attempts(attempts) => key_problem(slot(attempts.key)),
        Check::Limit(limit) => key_problem(slot(limit.key)),
        Check::Budget(budget) => match inputs.costs.get(usize::from(budget.cost)) {
            Some(cost) if cost.amount.is_negative() => invalid("the cost is negative"),
            Some(_) => key_problem(slot(budget.key)),
            None => invalid("the cost was not given"),
        },
    }
}

impl<'a> Plan<'a> {
    /// The policy.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// The action.
    pub fn inputs(&self) -> &'a Inputs<'a> {
        self.inputs
    }

    /// Whether the action can be decided at all; if not, no record need be read.
    pub fn is_readable(&self) -> bool {
        self.reasons.iter().all(|reason| reason.kind != GateKind::Action)
    }

    fn refuse(&mut self, gate: &Gate, code: Code, kind: GateKind, detail: Detail) {
        let reason = Reason { code, kind, gate: Arc::clone(&gate.name), retry: Retry::Never, detail };
        // A malformed action is never observed through: there would be nothing to count it on.
        let observed = gate.mode == Mode::Observe && kind != GateKind::Action;
        if observed { self.observed.push(reason) } else { self.reasons.push(reason) }
    }

    /// The refusal of an action that cannot be decided.
    pub fn into_refusal(self) -> Admission {
        Admission::block(self.reasons, self.observed)
    }
}
