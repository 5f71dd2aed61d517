//! The only control flow: plan an action, admit it over all its gates at once, finish it once.
//!
//! Nothing here looks anywhere but at its arguments. A store calls these functions with the records that a step
//! names, under whatever makes the step atomic there.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::amount::Amount;
use crate::code::Code;
use crate::decision::{Detail, GateKind, MeterStatus, Reason, Retry};
use crate::fingerprint::RequestDigest;
use crate::gate::breaker::{Breaker, Health, Thresholds};
use crate::gate::budget::{self, Cost};
use crate::gate::fact::Fact;
use crate::gate::limit;
use crate::gate::once::{Keep, OnceVerdict, Operation, OperationState};
use crate::key::MAX_KEY_BYTES;
use crate::meter::{Meter, MeterError};
use crate::permit::{Hold, Outcome, Permit, PermitPhase, Settlement};
use crate::policy::{Charge, Check, Gate, KeySlot, Limit, Mode, Policy};
use crate::time::{Timestamp, Window};

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
}

/// An action ready to be decided: what its policy reads and takes, and what is wrong with it already.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    policy: &'a Policy,
    inputs: &'a Inputs<'a>,
    reasons: Vec<Reason>,
    observed: Vec<Reason>,
}

/// The records of one step, by position: for an admission the policy's gates that have one, in their order; for a
/// permit the same records.
pub trait Records {
    /// The meter at `index`, if it exists.
    fn meter(&mut self, index: usize) -> Option<&mut Meter>;
    /// The breaker at `index`, if it exists.
    fn breaker(&mut self, index: usize) -> Option<&mut Breaker>;
    /// The operation at `index`, if it exists.
    fn operation(&mut self, index: usize) -> Option<&mut Operation>;
    /// The fact at `index`, if it exists.
    fn fact(&mut self, index: usize) -> Option<&mut Fact>;
    /// Whether every record of the step that does not exist yet can be made.
    fn has_room(&mut self) -> bool;
    /// The meter at `index`, made if need be. Only called after [`has_room`](Self::has_room) said yes.
    fn make_meter(&mut self, index: usize) -> &mut Meter;
    /// The breaker at `index`, made if need be. Only called after [`has_room`](Self::has_room) said yes.
    fn make_breaker(&mut self, index: usize) -> &mut Breaker;
    /// Puts an operation at `index`. Only called after [`has_room`](Self::has_room) said yes.
    fn put_operation(&mut self, index: usize, operation: Operation);
}

/// What an admission found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may run.
    Allow,
    /// It may not, for every one of the reasons.
    Block,
    /// It ran before: this is its stored result.
    Replay(Arc<[u8]>),
}

/// The result of an admission.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Whether it may run.
    pub verdict: Verdict,
    /// Why not; empty unless blocked.
    pub reasons: Vec<Reason>,
    /// What gates in observe mode would have said.
    pub observed: Vec<Reason>,
}

/// What depends on nothing but the policy, the action and the verdicts of its rules.
///
/// Whatever is wrong with the action itself is found here: a key it does not have, a cost below zero.
pub fn plan<'a>(policy: &'a Policy, inputs: &'a Inputs<'a>) -> Plan<'a> {
    let mut plan = Plan { policy, inputs, reasons: Vec::new(), observed: Vec::new() };
    for gate in policy.gates() {
        if let Some((code, kind, detail)) = problem_of(gate, inputs) {
            plan.refuse(gate, code, kind, detail);
        }
    }
    // What is wrong with the action itself comes first.
    plan.reasons.sort_by_key(|reason| reason.kind);
    plan
}

fn problem_of(gate: &Gate, inputs: &Inputs<'_>) -> Option<(Code, GateKind, Detail)> {
    let invalid = |text: &str| Some((Code::InvalidAction, GateKind::Action, Detail::Text(text.into())));
    let key_problem = |key: Option<KeyValue<'_>>| match key {
        Some(KeyValue::Bytes(bytes)) if bytes.len() + inputs.tenant.len() > MAX_KEY_BYTES => {
            let text = format!("a key of {} bytes, at most {MAX_KEY_BYTES} are allowed", bytes.len());
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

impl Admission {
    /// Allowed by every gate.
    pub const fn allow() -> Self {
        Self { verdict: Verdict::Allow, reasons: Vec::new(), observed: Vec::new() }
    }

    /// Blocked for these reasons.
    pub fn block(reasons: Vec<Reason>, observed: Vec<Reason>) -> Self {
        Self { verdict: Verdict::Block, reasons, observed }
    }

    /// Blocked because the store cannot answer.
    pub fn store_error(code: Code, text: &str) -> Self {
        let detail = Detail::Text(text.into());
        let reason =
            Reason { code, kind: GateKind::Store, gate: Arc::from("store"), retry: Retry::Unknown, detail };
        Self::block(vec![reason], Vec::new())
    }
}

/// Stamps of a meter in store time never run backwards, even when two threads read the clock in another order than
/// they reach the record.
#[inline]
fn stamp(meter: Option<&Meter>, now: Timestamp) -> Timestamp {
    meter.and_then(Meter::newest).map_or(now, |newest| newest.max(now))
}

#[inline]
fn period_end(inputs: &Inputs<'_>, gate: usize) -> Timestamp {
    inputs.period_ends.get(gate).copied().unwrap_or(Timestamp::MIN)
}

/// Decides over all gates of a plan and, unless `peek`, takes what the action needs. All gates or none: a refusal
/// leaves every record as it was and returns all reasons in the order of [`GateKind`]. The permit is what an allowed
/// action holds until it is finished; `None` when it holds nothing.
pub fn admit<R: Records>(
    plan: Plan<'_>,
    now: Timestamp,
    records: &mut R,
    peek: bool,
) -> (Admission, Option<Permit>) {
    let Plan { policy, inputs, mut reasons, mut observed } = plan;
    let mut index = 0;
    for (position, gate) in policy.gates().iter().enumerate() {
        if gate.check.record().is_none() {
            continue;
        }
        let before = reasons.len();
        let replay = check(gate, inputs, period_end(inputs, position), now, index, records, &mut reasons);
        if let Some(result) = replay {
            // Nothing runs, so nothing further is asked or taken.
            let replay =
                Admission { verdict: Verdict::Replay(result), reasons: Vec::new(), observed: Vec::new() };
            return (if reasons.is_empty() { replay } else { Admission::block(reasons, observed) }, None);
        }
        // A closed meter is refused in observe mode too: nothing can be counted on it.
        if gate.mode == Mode::Observe && reasons.get(before).is_some_and(|r| r.code != Code::InvariantBroken)
        {
            observed.extend(reasons.drain(before..));
        }
        index += 1;
    }
    if !reasons.is_empty() {
        return (Admission::block(reasons, observed), None);
    }
    if !records.has_room() {
        return (Admission::store_error(Code::Capacity, "the cap on live keys is reached"), None);
    }
    let allow = Admission { verdict: Verdict::Allow, reasons, observed };
    if peek {
        return (allow, None);
    }
    match take(policy, inputs, now, records) {
        Ok(permit) => (allow, permit),
        Err(error) => (Admission::store_error(Code::InvariantBroken, &error.to_string()), None),
    }
}

/// The whole admission of a policy that is one enforced rate limit, on the meter of a known key: most decisions of
/// most programs. `false` when it does not fit, and then nothing was taken.
#[inline]
pub fn admit_call(meter: &mut Meter, limit: &Limit, now: Timestamp, period_end: Timestamp) -> bool {
    let now = stamp(Some(meter), now);
    meter.advance(now, limit.window, period_end);
    !meter.is_closed()
        && limit::fits(meter, limit, now)
        && meter.record(now, Amount::ONE, limit.window).is_ok()
}

/// Asks one gate; adds its reasons. Returns a stored result when the action is a repetition.
#[inline]
fn check<R: Records>(
    gate: &Gate,
    inputs: &Inputs<'_>,
    period_end: Timestamp,
    now: Timestamp,
    index: usize,
    records: &mut R,
    reasons: &mut Vec<Reason>,
) -> Option<Arc<[u8]>> {
    let reason = |code, retry, detail| {
        let kind = gate.check.kind();
        Reason { code, kind, gate: Arc::clone(&gate.name), retry, detail }
    };
    match &gate.check {
        Check::Rule(_) => {}
        Check::Fact(_) => {
            if !records.fact(index).is_some_and(|fact| fact.holds(now)) {
                reasons.push(reason(Code::MissingFact, Retry::Unknown, Detail::None));
            }
        }
        Check::Once(_) => {
            let (_, digest) = inputs.once?;
            match records.operation(index).map_or(OnceVerdict::Run, |op| op.verdict(digest, now)) {
                OnceVerdict::Run => {}
                OnceVerdict::Replay(result) => return Some(result),
                OnceVerdict::Refuse(code, retry) => reasons.push(reason(code, retry, Detail::None)),
            }
        }
        Check::Breaker(spec) => {
            let thresholds = Thresholds::from(spec);
            if let Some(breaker) = records.breaker(index) {
                breaker.advance(now, thresholds);
                if let Some(retry) = breaker.refusal(now, thresholds) {
                    let text = Detail::Text(breaker.phase().name().into());
                    reasons.push(reason(Code::CircuitOpen, retry, text));
                }
            }
        }
        Check::Attempts(attempts) => {
            let meter = records.meter(index);
            if let Some(broken) = closed(gate, meter.as_deref()) {
                reasons.push(broken);
            } else {
                let empty = Meter::new();
                let meter = meter.map_or(&empty, |meter| &*meter);
                reasons.extend(limit::refuse_attempt(meter, attempts, &gate.name));
            }
        }
        Check::Limit(limit) => match records.meter(index) {
            Some(meter) => {
                let now = stamp(Some(meter), now);
                meter.advance(now, limit.window, period_end);
                if let Some(broken) = closed(gate, Some(meter)) {
                    reasons.push(broken);
                } else if !limit::fits(meter, limit, now) {
                    limit::refuse(meter, limit, &gate.name, now, period_end, reasons);
                }
            }
            None if limit.max_calls == 0 => {
                limit::refuse(&Meter::new(), limit, &gate.name, now, period_end, reasons);
            }
            None => {}
        },
        Check::Budget(budget) => {
            let cost = cost_of(inputs, budget.cost);
            let refuse =
                |meter: &Meter, now| budget::refuse(meter, budget, cost, &gate.name, now, period_end);
            match records.meter(index) {
                Some(meter) => {
                    let now = stamp(Some(meter), now);
                    meter.advance(now, budget.window, period_end);
                    if let Some(broken) = closed(gate, Some(meter)) {
                        reasons.push(broken);
                    } else if !budget::fits(meter, budget, cost) {
                        reasons.push(refuse(meter, now));
                    } else if let Err(error) = meter.stage(cost.amount) {
                        let text = Detail::Text(error.to_string().into());
                        reasons.push(reason(Code::InvalidAction, Retry::Never, text));
                    }
                }
                None if !budget::fits(&Meter::new(), budget, cost) => {
                    reasons.push(refuse(&Meter::new(), now))
                }
                None => {}
            }
        }
    }
    None
}

fn cost_of(inputs: &Inputs<'_>, slot: u16) -> Cost {
    inputs.costs.get(usize::from(slot)).copied().unwrap_or_default()
}

fn closed(gate: &Gate, meter: Option<&Meter>) -> Option<Reason> {
    meter.is_some_and(Meter::is_closed).then(|| Reason {
        code: Code::InvariantBroken,
        kind: gate.check.kind(),
        gate: Arc::clone(&gate.name),
        retry: Retry::Never,
        detail: Detail::None,
    })
}

/// Takes from every record what the checked action needs.
///
/// # Errors
/// An invariant that does not hold on the staged values; the meter it concerns is closed.
fn take<R: Records>(
    policy: &Policy,
    inputs: &Inputs<'_>,
    now: Timestamp,
    records: &mut R,
) -> Result<Option<Permit>, MeterError> {
    let mut permit = policy.settles().then(|| {
        let (phase, lease) = if inputs.start {
            (PermitPhase::Started, policy.leases().started)
        } else {
            (PermitPhase::Reserved, policy.leases().reserved)
        };
        let (holds, breakers) = (SmallVec::new(), SmallVec::new());
        let lease_until = now.after(lease);
        Permit { phase, lease_until, leases: policy.leases(), holds, breakers, operation: None }
    });
    let mut index = 0_usize;
    for (position, gate) in policy.gates().iter().enumerate() {
        // A policy has at most 64 gates.
        let record = index as u8;
        match &gate.check {
            Check::Rule(_) => continue,
            Check::Fact(_) => {}
            Check::Once(once) => {
                let digest = inputs.once.map(|(_, digest)| digest).ok_or(NO_ONCE)?;
                records
                    .put_operation(index, Operation::admitted(digest, inputs.start, now, Keep::from(once)));
                if let Some(permit) = &mut permit {
                    permit.operation = Some(record);
                }
            }
            Check::Breaker(spec) => {
                let thresholds = Thresholds::from(spec);
                let ticket = records.make_breaker(index).admit(now, thresholds);
                if let Some(permit) = &mut permit {
                    permit.breakers.push((record, ticket, thresholds));
                }
            }
            Check::Attempts(_) => {
                let meter = records.make_meter(index);
                meter.record(stamp(Some(meter), now), Amount::ONE, Window::Lifetime)?;
            }
            Check::Limit(limit) => {
                let meter = records.make_meter(index);
                let stamp = stamp(Some(meter), now);
                if meter.newest().is_none() {
                    meter.advance(stamp, limit.window, period_end(inputs, position));
                }
                if gate.mode == Mode::Observe && !limit::fits(meter, limit, stamp) {
                    meter.force(stamp, Amount::ONE, limit.window)?;
                } else {
                    meter.record(stamp, Amount::ONE, limit.window)?;
                    within(meter, Amount::from_units(limit.max_calls))?;
                }
            }
            Check::Budget(budget) => {
                let cost = cost_of(inputs, budget.cost);
                let meter = records.make_meter(index);
                let stamp = stamp(Some(meter), now);
                if meter.newest().is_none() {
                    meter.advance(stamp, budget.window, period_end(inputs, position));
                }
                let forced = gate.mode == Mode::Observe && !budget::fits(meter, budget, cost);
                match (&mut permit, budget.charge) {
                    (Some(permit), Charge::Hold) if !forced => {
                        meter.hold(stamp, cost.amount)?;
                        let hold = Hold { record, amount: cost.amount, window: budget.window };
                        permit.holds.push(hold);
                    }
                    _ if forced => meter.force(stamp, cost.amount, budget.window)?,
                    _ => meter.record(stamp, cost.amount, budget.window)?,
                }
                if !forced && cost.amount > Amount::ZERO {
                    within(meter, budget.limit)?;
                }
            }
        }
        index += 1;
    }
    Ok(permit)
}

const NO_ONCE: MeterError = MeterError::InvariantBroken("an operation was admitted without its key");

/// INVARIANT: an admission that took more than zero ends within the limit.
#[inline]
fn within(meter: &mut Meter, limit: Amount) -> Result<(), MeterError> {
    if meter.spent().checked_add(meter.held()).is_some_and(|total| total <= limit) {
        return Ok(());
    }
    meter.close();
    Err(MeterError::InvariantBroken("an admission passed its limit"))
}

/// Why a permit could not be moved on; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// It was finished before, or its last lease ended.
    #[error("the permit is finished")]
    Finished,
    /// It cannot be released any more: the action has started.
    #[error("the action has started and can no longer be released")]
    Started,
    /// An amount is negative or does not fit.
    #[error(transparent)]
    Meter(#[from] MeterError),
}

impl PermitError {
    /// The stable code of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Finished => "permit_finished",
            Self::Started => "permit_started",
            Self::Meter(error) => error.code(),
        }
    }
}

/// Marks a reserved action as started: from now on its outcome may be unknown.
///
/// # Errors
/// The permit is not reserved.
pub fn start<R: Records>(permit: &mut Permit, now: Timestamp, records: &mut R) -> Result<(), PermitError> {
    if permit.phase != PermitPhase::Reserved || now >= permit.lease_until {
        return Err(PermitError::Finished);
    }
    permit.phase = PermitPhase::Started;
    permit.lease_until = now.after(permit.leases.started);
    if let Some(operation) = permit.operation.and_then(|at| records.operation(usize::from(at))) {
        operation.enter(OperationState::Started, now);
    }
    Ok(())
}

/// Gives everything back: the action was admitted and did not start.
///
/// # Errors
/// The action has started.
pub fn release<R: Records>(permit: &Permit, now: Timestamp, records: &mut R) -> Result<(), PermitError> {
    if permit.phase != PermitPhase::Reserved {
        return Err(PermitError::Started);
    }
    settle(permit, &Settlement::new(Outcome::FailedClean, Health::Neutral), now, records)
}

/// Settles everything an action held. `Ok(Some(permit))` is a permit that stays open: its outcome is in doubt and its
/// cost is held for one more lease.
///
/// # Errors
/// A negative or too large actual cost; nothing is settled then and the permit stays as it was.
pub fn finish<R: Records>(
    mut permit: Permit,
    settlement: &Settlement<'_>,
    now: Timestamp,
    records: &mut R,
) -> Result<Option<Permit>, PermitError> {
    for (hold, position) in permit.holds.iter().zip(0..) {
        let actual = settlement.actual.get(position).copied().unwrap_or(hold.amount);
        let Some(meter) = records.meter(usize::from(hold.record)) else { continue };
        meter.stage_settlement(actual)?;
    }
    let in_doubt = settlement.outcome == Outcome::InDoubt;
    if in_doubt && permit.phase != PermitPhase::InDoubt {
        report(&permit, settlement.health, now, records);
        if let Some(operation) = permit.operation.and_then(|at| records.operation(usize::from(at))) {
            operation.enter(OperationState::InDoubt, now);
        }
        permit.phase = PermitPhase::InDoubt;
        permit.lease_until = now.after(permit.leases.in_doubt);
        permit.breakers.clear();
        return Ok(if permit.holds.is_empty() && permit.operation.is_none() { None } else { Some(permit) });
    }
    settle(&permit, settlement, now, records)?;
    Ok(None)
}

fn report<R: Records>(permit: &Permit, health: Health, now: Timestamp, records: &mut R) {
    for (record, ticket, thresholds) in &permit.breakers {
        if let Some(breaker) = records.breaker(usize::from(*record)) {
            breaker.report(*ticket, health, now, *thresholds);
        }
    }
}

fn settle<R: Records>(
    permit: &Permit,
    settlement: &Settlement<'_>,
    now: Timestamp,
    records: &mut R,
) -> Result<(), PermitError> {
    report(permit, settlement.health, now, records);
    for (hold, position) in permit.holds.iter().zip(0..) {
        let Some(meter) = records.meter(usize::from(hold.record)) else { continue };
        let stamp = stamp(Some(meter), now);
        let end = settlement.period_ends.get(position).copied().unwrap_or(Timestamp::MIN);
        meter.advance(stamp, hold.window, end);
        if settlement.outcome == Outcome::FailedClean {
            meter.release(hold.amount)?;
        } else {
            let actual = settlement.actual.get(position).copied().unwrap_or(hold.amount);
            meter.settle(stamp, hold.amount, actual, hold.window)?;
        }
    }
    let state = match &settlement.outcome {
        Outcome::Done(result) => OperationState::Done(result.clone()),
        Outcome::FailedClean => OperationState::FailedClean,
        // The cost has been settled; what became of the operation is still for a person to say.
        Outcome::InDoubt => return Ok(()),
    };
    if let Some(operation) = permit.operation.and_then(|at| records.operation(usize::from(at))) {
        operation.enter(state, now);
    }
    Ok(())
}

/// Moves on a permit whose lease has ended: a reserved one is released, a started one goes in doubt, one in doubt is
/// settled at its full hold. `Ok(Some(permit))` stays open.
///
/// # Errors
/// As [`finish`].
pub fn expire<R: Records>(
    permit: Permit,
    now: Timestamp,
    period_ends: &[Timestamp],
    records: &mut R,
) -> Result<Option<Permit>, PermitError> {
    if now < permit.lease_until {
        return Ok(Some(permit));
    }
    if permit.phase == PermitPhase::Reserved {
        release(&permit, now, records)?;
        return Ok(None);
    }
    let outcome = Settlement { outcome: Outcome::InDoubt, health: Health::Failure, actual: &[], period_ends };
    finish(permit, &outcome, now, records)
}

/// Where the meters of a plan stand, in the order of the gates. Reads only.
pub fn status<R: Records>(plan: &Plan<'_>, now: Timestamp, records: &mut R) -> Vec<MeterStatus> {
    let mut index = 0;
    let mut all = Vec::new();
    for (position, gate) in plan.policy.gates().iter().enumerate() {
        if gate.check.record().is_none() {
            continue;
        }
        let (limit, unit, window) = match &gate.check {
            Check::Limit(limit) => {
                (Amount::from_units(limit.max_calls), crate::amount::Unit::Calls, limit.window)
            }
            Check::Attempts(attempts) => {
                (Amount::from_units(attempts.max), crate::amount::Unit::Calls, Window::Lifetime)
            }
            Check::Budget(budget) => (budget.limit, budget.unit, budget.window),
            Check::Rule(_) | Check::Fact(_) | Check::Once(_) | Check::Breaker(_) => {
                index += 1;
                continue;
            }
        };
        let (mut spent, mut held) = (Amount::ZERO, Amount::ZERO);
        if let Some(meter) = records.meter(index) {
            meter.advance(stamp(Some(meter), now), window, period_end(plan.inputs, position));
            (spent, held) = (meter.spent(), meter.held());
        }
        let (kind, gate) = (gate.check.kind(), Arc::clone(&gate.name));
        all.push(MeterStatus { gate, kind, unit, spent, held, limit });
        index += 1;
    }
    all
}
