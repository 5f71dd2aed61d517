//! The only control flow: plan an action, admit it over all its gates at once, finish it once.
//!
//! Nothing here looks anywhere but at its arguments. A store calls these functions with the records that a step
//! names, under whatever makes the step atomic there.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::amount::Amount;
use crate::code::Code;
use crate::decision::{Detail, GateKind, MeterStatus, Reason, Retry};
use crate::gate::breaker::{Breaker, Thresholds};
use crate::gate::budget::{self, Cost};
use crate::gate::fact::Fact;
use crate::gate::limit;
use crate::gate::once::{Keep, OnceVerdict, Operation};
use crate::meter::{Account, Meter, MeterError};
use crate::permit::{Hold, Permit, PermitPhase};
use crate::policy::{Charge, Check, Gate, Limit, Mode, Policy};
use crate::time::{Now, Timestamp, Window};

mod adjust;
mod plan;
mod settle;

pub use adjust::{AdjustError, Adjusted, Adjustment, Change, Lasting, MAX_BY, MAX_NOTE, adjust};
pub use plan::{Action, Inputs, KeyValue, Plan, RuleVerdict, plan};
pub use settle::{PermitError, expire, finish, release, start};

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
    fn make_meter(&mut self, index: usize) -> Option<&mut Meter>;
    /// The breaker at `index`, made if need be. Only called after [`has_room`](Self::has_room) said yes.
    fn make_breaker(&mut self, index: usize) -> Option<&mut Breaker>;
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
    /// The thresholds of budgets that this action passed.
    pub crossed: Vec<Crossed>,
}

/// A budget of which so much is spent and held now, and was not before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// The budget's gate.
    pub gate: Arc<str>,
    /// The percentage of the limit that was reached.
    pub percent: u8,
}

impl Admission {
    /// Allowed by every gate.
    pub const fn allow() -> Self {
        Self { verdict: Verdict::Allow, reasons: Vec::new(), observed: Vec::new(), crossed: Vec::new() }
    }

    /// Blocked for these reasons.
    pub fn block(reasons: Vec<Reason>, observed: Vec<Reason>) -> Self {
        Self { verdict: Verdict::Block, reasons, observed, crossed: Vec::new() }
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

/// The time by which a meter forgets. Where only bounds are known it must not follow the stamps: these are ahead of the
/// true time.
#[inline]
fn horizon(meter: &Meter, now: Now) -> Timestamp {
    if now.earliest == now.latest { stamp(Some(meter), now.latest) } else { now.earliest }
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
    now: impl Into<Now>,
    records: &mut R,
    peek: bool,
) -> (Admission, Option<Permit>) {
    let now = now.into();
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
            let replay = Admission { verdict: Verdict::Replay(result), ..Admission::allow() };
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
    let mut allow = Admission { observed, ..Admission::allow() };
    if peek {
        return (allow, None);
    }
    match take(policy, inputs, now, records, &mut allow.crossed) {
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
    now: Now,
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
            if !records.fact(index).is_some_and(|fact| fact.holds(now.latest)) {
                reasons.push(reason(Code::MissingFact, Retry::Unknown, Detail::None));
            }
        }
        Check::Once(_) => {
            let (_, digest) = inputs.once?;
            match records.operation(index).map_or(OnceVerdict::Run, |op| op.verdict(digest, now.earliest)) {
                OnceVerdict::Run => {}
                OnceVerdict::Replay(result) => return Some(result),
                OnceVerdict::Refuse(code, retry) => {
                    let run = records.operation(index).map(|operation| operation.run());
                    let detail = run.filter(|_| code == Code::InDoubt).map_or(Detail::None, Detail::Doubt);
                    reasons.push(reason(code, retry, detail));
                }
            }
        }
        Check::Breaker(spec) => {
            let thresholds = Thresholds::from(spec);
            if let Some(breaker) = records.breaker(index) {
                breaker.advance(now.earliest, thresholds);
                if let Some(retry) = breaker.refusal(now.earliest, thresholds) {
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
                let now = horizon(meter, now);
                meter.advance(now, limit.window, period_end);
                if let Some(broken) = closed(gate, Some(meter)) {
                    reasons.push(broken);
                } else if !limit::fits(meter, limit, now) {
                    limit::refuse(meter, limit, &gate.name, now, period_end, reasons);
                }
            }
            None if limit.max_calls == 0 => {
                limit::refuse(&Meter::new(), limit, &gate.name, now.latest, period_end, reasons);
            }
            None => {}
        },
        Check::Budget(budget) => {
            let cost = cost_of(inputs, budget.cost);
            let at = now.latest;
            let refuse = |meter: &Meter, limit, now| {
                budget::refuse(meter, budget, limit, cost, &gate.name, now, period_end)
            };
            match records.meter(index) {
                Some(meter) => {
                    let limit = meter.limit(budget.limit, stamp(Some(meter), at));
                    let now = horizon(meter, now);
                    meter.advance(now, budget.window, period_end);
                    if let Some(broken) = closed(gate, Some(meter)) {
                        reasons.push(broken);
                    } else if !budget::fits(meter, budget, limit, cost) {
                        reasons.push(refuse(meter, limit, now));
                    } else if let Err(error) = meter.stage(cost.amount) {
                        let text = Detail::Text(error.to_string().into());
                        reasons.push(reason(Code::InvalidAction, Retry::Never, text));
                    }
                }
                None if !budget::fits(&Meter::new(), budget, budget.limit, cost) => {
                    reasons.push(refuse(&Meter::new(), budget.limit, at))
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
    bounds: Now,
    records: &mut R,
    crossed: &mut Vec<Crossed>,
) -> Result<Option<Permit>, MeterError> {
    let now = bounds.latest;
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
                let earlier = records.operation(index);
                let operation =
                    Operation::admitted(digest, inputs.start, now, Keep::from(once), earlier.as_deref());
                if let Some(permit) = &mut permit {
                    permit.operation = Some((record, operation.run()));
                }
                records.put_operation(index, operation);
            }
            Check::Breaker(spec) => {
                let thresholds = Thresholds::from(spec);
                let ticket = records.make_breaker(index).ok_or(NO_RECORD)?.admit(now, thresholds);
                if let Some(permit) = &mut permit {
                    permit.breakers.push((record, ticket, thresholds));
                }
            }
            Check::Attempts(_) => {
                let meter = records.make_meter(index).ok_or(NO_RECORD)?;
                meter.record(stamp(Some(meter), now), Amount::ONE, Window::Lifetime)?;
            }
            Check::Limit(limit) => {
                let meter = records.make_meter(index).ok_or(NO_RECORD)?;
                let (stamp, horizon) = (stamp(Some(meter), now), horizon(meter, bounds));
                if meter.newest().is_none() {
                    meter.advance(stamp, limit.window, period_end(inputs, position));
                }
                if gate.mode == Mode::Observe && !limit::fits(meter, limit, horizon) {
                    meter.force(stamp, Amount::ONE, limit.window)?;
                } else {
                    meter.record(stamp, Amount::ONE, limit.window)?;
                    within(meter, Amount::from_units(limit.max_calls))?;
                }
            }
            Check::Budget(budget) => {
                let cost = cost_of(inputs, budget.cost);
                let meter = records.make_meter(index).ok_or(NO_RECORD)?;
                let stamp = stamp(Some(meter), now);
                if meter.newest().is_none() {
                    meter.advance(stamp, budget.window, period_end(inputs, position));
                }
                let limit = meter.limit(budget.limit, stamp);
                let forced = gate.mode == Mode::Observe && !budget::fits(meter, budget, limit, cost);
                let before = used(meter);
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
                    within(meter, limit)?;
                }
                if !budget.thresholds.is_empty() {
                    note_crossed(gate, &budget.thresholds, limit, (before, used(meter)), crossed);
                }
            }
        }
        index += 1;
    }
    Ok(permit)
}

/// What is spent and held.
fn used(meter: &Meter) -> Amount {
    meter.spent().saturating_add(meter.held())
}

/// Notes the thresholds that lie between what was used before and what is used now.
fn note_crossed(
    gate: &Gate,
    thresholds: &[u8],
    limit: Amount,
    (before, after): (Amount, Amount),
    crossed: &mut Vec<Crossed>,
) {
    let reached = |used: Amount, percent: u8| {
        // Two products that are too large are equal here: then the largest limit there is was reached.
        used.pico().saturating_mul(100) >= limit.pico().saturating_mul(i128::from(percent))
    };
    let passed = thresholds.iter().copied();
    let passed = passed.filter(|percent| reached(after, *percent) && !reached(before, *percent));
    crossed.extend(passed.map(|percent| Crossed { gate: Arc::clone(&gate.name), percent }));
}

const NO_RECORD: MeterError = MeterError::InvariantBroken("a record that has room could not be made");
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

/// Where the meters of a plan stand, in the order of the gates. Reads only.
pub fn status<R: Records>(plan: &Plan<'_>, now: impl Into<Now>, records: &mut R) -> Vec<MeterStatus> {
    let now = now.into();
    let mut index = 0;
    let mut all = Vec::new();
    for (position, gate) in plan.policy.gates().iter().enumerate() {
        if gate.check.record().is_none() {
            continue;
        }
        let (mut limit, unit, window) = match &gate.check {
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
        let mut account = Account::default();
        if let Some(meter) = records.meter(index) {
            // Only a budget's meter has a limit that somebody may have changed.
            limit = meter.limit(limit, stamp(Some(meter), now.latest));
            meter.advance(horizon(meter, now), window, period_end(plan.inputs, position));
            (spent, held) = (meter.spent(), meter.held());
            account = meter.account();
        }
        let (kind, gate) = (gate.check.kind(), Arc::clone(&gate.name));
        let Account { overrun, forced, .. } = account;
        all.push(MeterStatus { gate, kind, unit, spent, held, limit, overrun, forced });
        index += 1;
    }
    all
}
