//! The ways out of a permit: started, released, finished, expired; each at most once.

use crate::gate::breaker::Health;
use crate::gate::once::OperationState;
use crate::meter::MeterError;
use crate::permit::{Outcome, Permit, PermitPhase, Settlement};
use crate::time::{Now, Timestamp};

use super::{Records, horizon, stamp};

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
pub fn start<R: Records>(
    permit: &mut Permit,
    now: impl Into<Now>,
    records: &mut R,
) -> Result<(), PermitError> {
    let now = now.into().latest;
    if permit.phase != PermitPhase::Reserved || now >= permit.lease_until {
        return Err(PermitError::Finished);
    }
    permit.phase = PermitPhase::Started;
    permit.lease_until = now.after(permit.leases.started);
    enter(permit, OperationState::Started, now, records);
    Ok(())
}

/// Gives everything back: the action was admitted and did not start.
///
/// # Errors
/// The action has started.
pub fn release<R: Records>(permit: &Permit, now: impl Into<Now>, records: &mut R) -> Result<(), PermitError> {
    let now = now.into();
    if permit.phase != PermitPhase::Reserved {
        return Err(PermitError::Started);
    }
    settle(permit, &Settlement::new(Outcome::FailedClean, Health::Neutral), &[], now, records)
}

/// Settles everything an action held. `Ok(true)`: the permit stays open, because its outcome is in doubt and its cost
/// is held for one more lease. `period_ends` are the ends of the current calendar periods in the order of the holds;
/// empty when no window is a calendar period.
///
/// # Errors
/// A negative or too large actual cost; nothing is settled then and the permit stays as it was.
pub fn finish<R: Records>(
    permit: &mut Permit,
    settlement: &Settlement<'_>,
    period_ends: &[Timestamp],
    now: impl Into<Now>,
    records: &mut R,
) -> Result<bool, PermitError> {
    let bounds = now.into();
    let now = bounds.latest;
    if settlement.outcome != Outcome::FailedClean {
        for (hold, position) in permit.holds.iter().zip(0..) {
            let actual = settlement.actual.get(position).copied().unwrap_or(hold.amount);
            let Some(meter) = records.meter(usize::from(hold.record)) else { continue };
            meter.stage_settlement(hold.amount, actual)?;
        }
    }
    if settlement.outcome == Outcome::InDoubt && permit.phase != PermitPhase::InDoubt {
        report(permit, settlement.health, now, records);
        permit.breakers.clear();
        enter(permit, OperationState::InDoubt, now, records);
        permit.phase = PermitPhase::InDoubt;
        permit.lease_until = now.after(permit.leases.in_doubt);
        return Ok(!permit.holds.is_empty() || permit.operation.is_some());
    }
    settle(permit, settlement, period_ends, bounds, records)?;
    Ok(false)
}

fn report<R: Records>(permit: &Permit, health: Health, now: Timestamp, records: &mut R) {
    for (record, ticket, thresholds) in &permit.breakers {
        if let Some(breaker) = records.breaker(usize::from(*record)) {
            breaker.report(*ticket, health, now, *thresholds);
        }
    }
}

fn enter<R: Records>(permit: &Permit, state: OperationState, now: Timestamp, records: &mut R) {
    let Some((at, run)) = permit.operation else { return };
    // A person may have resolved this run, and the key may have been run again since.
    if let Some(operation) = records.operation(usize::from(at)).filter(|operation| operation.run() == run) {
        operation.enter(state, now);
    }
}

fn settle<R: Records>(
    permit: &Permit,
    settlement: &Settlement<'_>,
    period_ends: &[Timestamp],
    bounds: Now,
    records: &mut R,
) -> Result<(), PermitError> {
    let now = bounds.latest;
    report(permit, settlement.health, now, records);
    for (hold, position) in permit.holds.iter().zip(0..) {
        let Some(meter) = records.meter(usize::from(hold.record)) else { continue };
        let (stamp, horizon) = (stamp(Some(meter), now), horizon(meter, bounds));
        let end = period_ends.get(position).copied().unwrap_or(Timestamp::MIN);
        meter.advance(horizon, hold.window, end);
        if settlement.outcome == Outcome::FailedClean {
            meter.release(hold.amount)?;
        } else {
            let actual = settlement.actual.get(position).copied().unwrap_or(hold.amount);
            meter.settle(stamp, hold.amount, actual, hold.window)?;
        }
    }
    match &settlement.outcome {
        Outcome::Done(result) => enter(permit, OperationState::Done(result.clone()), now, records),
        Outcome::FailedClean => enter(permit, OperationState::FailedClean, now, records),
        // The cost has been settled; what became of the operation is still for a person to say.
        Outcome::InDoubt => {}
    }
    Ok(())
}

/// Moves on a permit whose lease has ended: a reserved one is released, a started one goes in doubt, one in doubt is
/// settled at its full hold. `Ok(true)`: it stays open.
///
/// # Errors
/// As [`finish`].
pub fn expire<R: Records>(
    permit: &mut Permit,
    now: impl Into<Now>,
    period_ends: &[Timestamp],
    records: &mut R,
) -> Result<bool, PermitError> {
    let now = now.into();
    if now.earliest < permit.lease_until {
        return Ok(true);
    }
    if permit.phase == PermitPhase::Reserved {
        release(permit, now, records)?;
        return Ok(false);
    }
    finish(permit, &Settlement::new(Outcome::InDoubt, Health::Failure), period_ends, now, records)
}
