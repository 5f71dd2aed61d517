//! One policy deciding recorded calls, at their times, on records of its own.

use std::sync::Arc;

use checkrein_core::admission::{Action, Admission, Change, Lasting, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::Reason;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::once::OperationState;
use checkrein_core::json::Value;
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::entry::Ending;
use checkrein_core::ledger::moment;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, RecordKind};
use checkrein_core::time::Timestamp;

use super::ReplayError;
use super::record::{Cause, Ended, Happened, Recorded, Ruling};
use crate::clock::{Clock, FakeClock};
use crate::config::{Call, ModelCall, ModelRequest, Policies, PolicyFile};
use crate::engine::{BudgetRecord, Engine, GateSpecKind};
use crate::store::PermitId;

/// The namespace of calls of models.
const MODEL: &str = "model";

/// What a policy said to a call.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub(super) ruling: Ruling,
    pub(super) causes: Vec<Cause>,
    pub(super) permit: Option<Held>,
    /// What a call of a model holds.
    pub(super) costs: Costs,
    /// The facts it needed were taken to be as they were recorded.
    pub(super) facts: bool,
}

/// A permit, and the budgets that it holds of where the policy of its tool does not say.
#[derive(Clone, Debug)]
pub(super) struct Held {
    id: PermitId,
    budgets: Option<Vec<(String, Unit)>>,
}

/// A policy at work on records of its own.
#[derive(Debug)]
pub(super) struct Lane {
    policies: Policies,
    clock: FakeClock,
}

/// What a call takes, by unit.
pub(super) type Costs = Vec<(Unit, Amount)>;

impl Decided {
    fn of(admission: &Admission) -> Self {
        Self {
            ruling: match admission.verdict {
                Verdict::Allow => Ruling::Run,
                Verdict::Block => Ruling::Refuse,
                Verdict::Replay(_) => Ruling::Replay,
            },
            causes: admission.reasons.iter().map(cause).collect(),
            permit: None,
            costs: Costs::new(),
            facts: false,
        }
    }
}

impl Lane {
    pub(super) fn new(file: PolicyFile) -> Result<Self, ReplayError> {
        let clock = FakeClock::new(Timestamp::MIN);
        let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
        Ok(Self { policies: Policies::new(engine, file)?, clock })
    }

    /// Whether the gates of a tool read the arguments of its calls: those of a model are what is known of the request.
    pub(super) fn reads_arguments(&self, recorded: &Recorded) -> bool {
        if recorded.namespace == MODEL {
            return true;
        }
        match self.policies.for_action(&recorded.name) {
            Ok(Some(policy)) => policy.reads_arguments(),
            Ok(None) | Err(_) => false,
        }
    }

    /// Whether the tool or model has this gate.
    pub(super) fn has_gate(&self, recorded: &Recorded, cause: &Cause) -> bool {
        let compiled = if recorded.namespace == MODEL {
            self.policies.model_gates(recorded.provider.as_deref(), &recorded.name)
        } else {
            let policy = self.policies.for_action(&recorded.name).ok().flatten();
            policy.map(|policy| Arc::clone(policy.compiled()))
        };
        let Some(compiled) = compiled else { return false };
        let gates = compiled.policy().gates();
        gates.iter().any(|gate| *gate.name == *cause.gate && gate.check.kind().name() == cause.kind)
    }

    pub(super) fn decide(
        &self,
        recorded: &Recorded,
        arguments: &Value,
        now: Timestamp,
    ) -> Result<Decided, ReplayError> {
        self.clock.set(now);
        if recorded.namespace == MODEL
            && let Some((request, provider, model)) = ModelRequest::of_arguments(arguments)
        {
            return Ok(self.decide_model(recorded, &request, provider, model));
        }
        let call = call_of(recorded, arguments);
        let missing = recorded.causes.iter().filter(|cause| cause.code == "missing_fact");
        let missing: Vec<&str> = missing.map(|cause| cause.gate.as_str()).collect();
        let facts = self.policies.assume_facts(&call, &missing)?;
        let admitted = self.policies.admit(&call);
        let permit = admitted.permit.map(|id| Held { id, budgets: None });
        Ok(Decided { permit, facts, ..Decided::of(&admitted.admission) })
    }

    fn decide_model(
        &self,
        recorded: &Recorded,
        request: &ModelRequest,
        provider: Option<&str>,
        model: &str,
    ) -> Decided {
        let (tenant, action) = (recorded.tenant.as_str(), action_of(recorded));
        let admitted = self.policies.admit_model(&ModelCall { tenant, action, model, provider, request });
        let budgets = admitted.held.iter().map(|held| (held.budget.to_string(), held.unit)).collect();
        let permit = admitted.permit.and_then(|permit| permit.id());
        Decided {
            permit: permit.map(|id| Held { id, budgets: Some(budgets) }),
            costs: largest(admitted.held.iter().map(|held| (held.unit, held.amount))),
            ..Decided::of(&admitted.admission)
        }
    }

    /// What the call takes: of the budgets of one unit the one that it takes most from.
    pub(super) fn costs(&self, recorded: &Recorded, arguments: &Value) -> Costs {
        if recorded.namespace == MODEL {
            return Costs::new();
        }
        let costs = self.policies.costs(&call_of(recorded, arguments));
        largest(costs.into_iter().map(|(_, unit, amount)| (unit, amount)))
    }

    /// The same at a time of its own.
    pub(super) fn costs_at(&self, recorded: &Recorded, arguments: &Value, now: Timestamp) -> Costs {
        self.clock.set(now);
        self.costs(recorded, arguments)
    }

    /// Ends a call as it was recorded.
    pub(super) fn end(&self, permit: &Held, recorded: &Recorded, ended: &Ended, now: Timestamp) {
        self.clock.set(now);
        let actual = self.actual(permit, recorded, &ended.actual);
        let outcome = match ended.ending {
            // What it returned is not recorded: that it did is what a once key asks.
            Ending::Done => Outcome::Done(Some(Arc::from(&b""[..]))),
            Ending::FailedClean => Outcome::FailedClean,
            Ending::InDoubt => Outcome::InDoubt,
        };
        let settlement = Settlement { outcome, health: ended.health, actual: &actual };
        // Its lease may have ended first under this policy: then it has been settled.
        let _settled = self.policies.engine().finish(permit.id, &settlement);
    }

    /// Ends a call that nobody recorded: done, at its hold.
    pub(super) fn assume_done(&self, permit: &Held) {
        let settlement = Settlement::new(Outcome::Done(Some(Arc::from(&b""[..]))), Health::Success);
        let _settled = self.policies.engine().finish(permit.id, &settlement);
    }

    /// The recorded costs in the order of this policy's holds; what is not known is settled at the full hold.
    fn actual(&self, permit: &Held, recorded: &Recorded, actual: &[Amount]) -> Vec<Amount> {
        let known = paired(recorded, actual);
        let of = |(name, unit): &(String, Unit)| {
            let by_name = known.iter().find(|(budget, ..)| budget == name);
            let by_unit = || known.iter().find(|(_, of, _)| of == unit);
            by_name.or_else(by_unit).map(|(.., amount)| *amount)
        };
        match &permit.budgets {
            Some(budgets) => budgets.iter().map_while(of).collect(),
            None => self.held(&recorded.name).iter().map_while(of).collect(),
        }
    }

    /// The budgets that calls of a tool hold of.
    fn held(&self, tool: &str) -> Vec<(String, Unit)> {
        let Ok(Some(policy)) = self.policies.for_action(tool) else { return Vec::new() };
        let held = policy.gates().iter().filter_map(|gate| match &gate.kind {
            GateSpecKind::Budget { unit, charge: Charge::Hold, .. } => Some((gate.name.clone(), *unit)),
            _ => None,
        });
        held.collect()
    }

    /// Changes the limit of a budget as it was changed. `false` if this policy has no such budget.
    fn adjust(&self, happened: &Happened) -> bool {
        let Some(name) = happened.field("gate").strip_prefix("budget:") else { return false };
        let Ok(tenant) = String::from_utf8(unescaped(happened.field("tenant"))) else { return false };
        let amount = Amount::parse(happened.field("amount")).ok();
        let until = moment::read(happened.field("until").as_bytes());
        let lasting = until.map_or(Lasting::Ever, Lasting::Until);
        let change = match (happened.field("change"), amount) {
            ("set", Some(amount)) => Change::Set(amount),
            ("top_up", Some(amount)) => Change::TopUp(amount, lasting),
            _ => Change::Clear,
        };
        let key = unescaped(happened.field("key"));
        let unit = Unit::parse(happened.field("unit"));
        let record = BudgetRecord { name, unit, window: None, tenant: &tenant, key: &key };
        self.policies.engine().adjust(&record, change, happened.field("by"), "").is_ok()
    }

    /// Does again what was done to a record by hand. `false` if this policy has no such record.
    pub(super) fn note(&self, happened: &Happened, now: Timestamp) -> bool {
        self.clock.set(now);
        let engine = self.policies.engine();
        let (gate, tenant) = (happened.field("gate"), unescaped(happened.field("tenant")));
        let key = unescaped(happened.field("key"));
        match happened.event.as_str() {
            "adjusted" => self.adjust(happened),
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

fn action_of(recorded: &Recorded) -> Action<'_> {
    Action {
        namespace: &recorded.namespace,
        name: &recorded.name,
        principal: &recorded.principal,
        user: &recorded.user,
        agent: &recorded.agent,
        run: &recorded.run,
        session: &recorded.session,
        ..Action::default()
    }
}

fn call_of<'c>(recorded: &'c Recorded, arguments: &'c Value) -> Call<'c> {
    Call { tenant: &recorded.tenant, action: action_of(recorded), arguments, uncovered: None }
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
    // Totals and runs come first, and say again what the budgets of the file say, where there are any.
    let counted = recorded.budgets.iter().take_while(|(name, _)| name.starts_with('@')).count();
    let skipped = if counted < recorded.budgets.len() { counted } else { 0 };
    let budgets = recorded.budgets.get(skipped..).unwrap_or_default();
    let actual = actual.get(skipped..).unwrap_or_default();
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
