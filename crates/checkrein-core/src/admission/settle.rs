//! The ways out of a permit: started, released, finished, expired; each at most once.

use crate::gate::breaker::Health;
use crate::gate::once::OperationState;
use crate::meter::MeterError;
use crate::permit::{Outcome, Permit, PermitPhase, Settlement};
use crate::time::Timestamp;

use super::{Records, stamp};

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
