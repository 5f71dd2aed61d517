//! One policy deciding recorded calls, at their times, on records of its own.

use std::sync::Arc;

use checkrein_core::admission::{Action, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::Reason;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::once::OperationState;
use checkrein_core::json::Value;
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::entry::Ending;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, RecordKind};
use checkrein_core::time::Timestamp;

use super::ReplayError;
use super::record::{Cause, Ended, Happened, Recorded, Ruling};
use crate::clock::{Clock, FakeClock};
use crate::config::{Call, Policies, PolicyFile};
use crate::engine::{Engine, GateSpecKind};
use crate::store::PermitId;

/// What a policy said to a call.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) ruling: Ruling,
    pub(super) causes: Vec<Cause>,
    pub(super) permit: Option<PermitId>,
    /// The facts it needed were taken to be as they were recorded.
    pub(super) facts: bool,
}

/// A policy at work on records of its own.
#[derive(Debug)]
pub(super) struct Lane {
    policies: Policies,
    clock: FakeClock,
}

/// What a call takes, by unit.
pub(super) type Costs = Vec<(Unit, Amount)>;

impl Lane {
    pub(super) fn new(file: PolicyFile) -> Result<Self, ReplayError> {
        let clock = FakeClock::new(Timestamp::MIN);
        let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
        Ok(Self { policies: Policies::new(engine, file)?, clock })
    }

    /// Whether the gates of a tool read the arguments of its calls.
    pub(super) fn reads_arguments(&self, tool: &str) -> bool {
        match self.policies.for_action(tool) {
            Ok(Some(policy)) => policy.reads_arguments(),
            Ok(None) | Err(_) => false,
        }
    }

    /// Whether the tool has this gate.
    pub(super) fn has_gate(&self, tool: &str, cause: &Cause) -> bool {
        let Ok(Some(policy)) = self.policies.for_action(tool) else { return false };
        let gates = policy.compiled().policy().gates();
        gates.iter().any(|gate| *gate.name == *cause.gate && gate.check.kind().name() == cause.kind)
    }

    pub(super) fn decide(
        &self,
        recorded: &Recorded,
        arguments: &Value,
        now: Timestamp,
    ) -> Result<Decided, ReplayError> {
        self.clock.set(now);
        let call = call_of(recorded, arguments);
        let missing = recorded.causes.iter().filter(|cause| cause.code == "missing_fact");
        let missing: Vec<&str> = missing.map(|cause| cause.gate.as_str()).collect();
        let facts = self.policies.assume_facts(&call, &missing)?;
        let admitted = self.policies.admit(&call);
        Ok(Decided {
            ruling: match admitted.admission.verdict {
                Verdict::Allow => Ruling::Run,
                Verdict::Block => Ruling::Refuse,
                Verdict::Replay(_) => Ruling::Replay,
            },
            causes: admitted.admission.reasons.iter().map(cause).collect(),
            permit: admitted.permit,
            facts,
        })
    }

    /// What the call takes: of the budgets of one unit the one that it takes most from.
    pub(super) fn costs(&self, recorded: &Recorded, arguments: &Value) -> Costs {
        let costs = self.policies.costs(&call_of(recorded, arguments));
        largest(costs.into_iter().map(|(_, unit, amount)| (unit, amount)))
    }

    /// Ends a call as it was recorded.
    pub(super) fn end(&self, permit: PermitId, recorded: &Recorded, ended: &Ended, now: Timestamp) {
        self.clock.set(now);
        let actual = self.actual(recorded, &ended.actual);
        let outcome = match ended.ending {
            // What it returned is not recorded: that it did is what a once key asks.
            Ending::Done => Outcome::Done(Some(Arc::from(&b""[..]))),
            Ending::FailedClean => Outcome::FailedClean,
            Ending::InDoubt => Outcome::InDoubt,
        };
        let settlement = Settlement { outcome, health: ended.health, actual: &actual };
        // Its lease may have ended first under this policy: then it has been settled.
        let _settled = self.policies.engine().finish(permit, &settlement);
    }

    /// Ends a call that nobody recorded: done, at its hold.
    pub(super) fn assume_done(&self, permit: PermitId) {
        let settlement = Settlement::new(Outcome::Done(Some(Arc::from(&b""[..]))), Health::Success);
        let _settled = self.policies.engine().finish(permit, &settlement);
    }

    /// The recorded costs in the order of this policy's holds; what is not known is settled at the full hold.
    fn actual(&self, recorded: &Recorded, actual: &[Amount]) -> Vec<Amount> {
        let Ok(Some(policy)) = self.policies.for_action(&recorded.name) else { return Vec::new() };
        let known = paired(recorded, actual);
        let held = policy.gates().iter().filter_map(|gate| match &gate.kind {
            GateSpecKind::Budget { unit, charge: Charge::Hold, .. } => Some((gate.name.as_str(), *unit)),
            _ => None,
        });
        let found = held.map_while(|(name, unit)| {
            let by_name = known.iter().find(|(budget, ..)| *budget == name);
            let by_unit = || known.iter().find(|(_, of, _)| *of == unit);
            by_name.or_else(by_unit).map(|(.., amount)| *amount)
        });
        found.collect()
    }

    /// Does again what was done to a record by hand. `false` if this policy has no such record.
    pub(super) fn note(&self, happened: &Happened, now: Timestamp) -> bool {
        self.clock.set(now);
        let engine = self.policies.engine();
        let (gate, tenant) = (happened.field("gate"), unescaped(happened.field("tenant")));
        let key = unescaped(happened.field("key"));
        match happened.event.as_str() {
            "resolved" => {
                let state = match happened.field("state") {
                    "failed_clean" => OperationState::FailedClean,
                    _ => OperationState::Done(Some(Arc::from(&b""[..]))),
                };
                let families = engine.families_named(RecordKind::Operation, gate);
                for family in &families {
                    let key = KeyRef { family: *family, tenant: &tenant, key: &key };
                    // What is no longer in doubt was resolved by the outcome before it.
                    let _resolved = engine.resolve(key, None, state.clone());
                }
                !families.is_empty()
            }
            word @ ("reset" | "reset_all") => {
                let mut any = false;
                for kind in [RecordKind::Meter, RecordKind::Breaker] {
                    for family in engine.families_named(kind, gate) {
                        any = true;
                        let key = KeyRef { family, tenant: &tenant, key: &key };
                        let one = || engine.reset(kind, key).map(usize::from);
                        let _count = if word == "reset" { one() } else { engine.reset_all(kind, family) };
                    }
                }
                any
            }
            _ => false,
        }
    }
}

fn cause(reason: &Reason) -> Cause {
    Cause {
        code: reason.code.word().to_owned(),
        kind: reason.kind.name().to_owned(),
        gate: reason.gate.to_string(),
    }
}

fn call_of<'c>(recorded: &'c Recorded, arguments: &'c Value) -> Call<'c> {
    Call {
        tenant: &recorded.tenant,
        action: Action {
            namespace: &recorded.namespace,
            name: &recorded.name,
            principal: &recorded.principal,
            user: &recorded.user,
            agent: &recorded.agent,
            run: &recorded.run,
            session: &recorded.session,
            ..Action::default()
        },
        arguments,
        uncovered: None,
    }
}

/// The largest amount of each unit.
pub(super) fn largest(costs: impl Iterator<Item = (Unit, Amount)>) -> Costs {
    let mut found = Costs::new();
    for (unit, amount) in costs {
        match found.iter_mut().find(|(known, _)| *known == unit) {
            Some((_, largest)) => *largest = (*largest).max(amount),
            None => found.push((unit, amount)),
        }
    }
    found.sort_unstable();
    found
}

/// Recorded costs with their budgets, where the ledger tells which is whose.
pub(super) fn paired<'r>(recorded: &'r Recorded, actual: &[Amount]) -> Vec<(&'r str, Unit, Amount)> {
    let budgets = &recorded.budgets;
    if budgets.len() == actual.len() {
        let pair = |((name, unit), amount): (&'r (String, Unit), &Amount)| (name.as_str(), *unit, *amount);
        return budgets.iter().zip(actual).map(pair).collect();
    }
    // Only those that hold have a cost of their own: of one unit it does not matter which they are.
    match budgets.first() {
        Some((_, unit)) if budgets.iter().all(|(_, other)| other == unit) => {
            actual.iter().map(|amount| ("", *unit, *amount)).collect()
        }
        _ => Vec::new(),
    }
}

/// What `escape_ascii` wrote.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let hex =
            |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16)).unwrap_or_default();
        bytes.push(match rest.next() {
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b'x') => {
                let (high, low) = (hex(rest.next()), hex(rest.next()));
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            Some(other) => other,
            None => b'\\',
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_escaped_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescaped(&all.escape_ascii().to_string()), all);
    }

    #[test]
    fn of_one_unit_the_largest_counts() {
        let amount = |units| Amount::from_units(units);
        let costs = [(Unit::Usd, amount(1)), (Unit::Calls, amount(2)), (Unit::Usd, amount(3))];
        assert_eq!(largest(costs.into_iter()), vec![(Unit::Calls, amount(2)), (Unit::Usd, amount(3))]);
    }
}
