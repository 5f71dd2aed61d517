//! The ways out of a permit, on its records.

use checkrein_core::admission::{self, PermitError};
use checkrein_core::ledger::entry::{By, Ending};
use checkrein_core::permit::{Outcome, Permit, PermitPhase, Settlement};
use checkrein_core::time::{Timestamp, Window};
use smallvec::SmallVec;

use super::cache::Value;
use super::journal::Told;
use super::records::{Place, StepRecords};
use super::row::{number_key, read_key};
use super::{Durable, Table, Tables};
use crate::store::{OwnedSettlement, StepResult, StoreError};
use crate::testing::planted::{Bug, is_planted};

impl Durable {
    pub(super) fn start(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        self.with_permit(tables, number, now, None, |permit, records, _| {
            admission::start(permit, now, records).map(|()| true)
        })
    }

    pub(super) fn release(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        self.release_by(tables, number, now, By::Caller)
    }

    /// Gives back what a reserved permit holds.
    pub(super) fn release_by(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
        by: By,
    ) -> Result<StepResult, StoreError> {
        let told = Told::new(Ending::FailedClean, by).note("it was not started");
        self.with_permit(tables, number, now, Some(told), |permit, records, _| {
            admission::release(permit, now, records).map(|()| false)
        })
    }

    pub(super) fn finish(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        settlement: &OwnedSettlement,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        let OwnedSettlement { outcome, health, actual } = settlement;
        let settlement = Settlement { outcome: outcome.clone(), health: *health, actual };
        let told = Told::new(ending_of(outcome), By::Caller).with(*health, actual);
        self.with_permit(tables, number, now, Some(told), |permit, records, period_ends| {
            admission::finish(permit, &settlement, period_ends, now, records)
        })
    }

    pub(super) fn expire(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        let slot = self.cache.load(tables, Table::Permit, &number_key(number))?;
        let Some(Value::Permit(open)) = self.cache.value(slot) else {
            return Ok(StepResult::Refused(PermitError::Finished));
        };
        if now < open.permit.lease_until {
            return Ok(StepResult::Done);
        }
        let told = told_of_expiry(open.permit.phase, By::Lease);
        self.with_permit(tables, number, now, Some(told), |permit, records, period_ends| {
            admission::expire(permit, now, period_ends, records)
        })
    }

    /// Runs `step` on an open permit and its records; `step` says whether the permit stays open, and `told` what the
    /// ledger says of it.
    pub(super) fn with_permit(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
        told: Option<Told<'_>>,
        step: impl FnOnce(&mut Permit, &mut StepRecords<'_>, &[Timestamp]) -> Result<bool, PermitError>,
    ) -> Result<StepResult, StoreError> {
        let slot = self.cache.load(tables, Table::Permit, &number_key(number))?;
        let Some(Value::Permit(open)) = self.cache.value(slot) else {
            if let Some(told) = told.filter(|_| is_planted(Bug::OutcomeWithoutIntent)) {
                self.note_outcome(tables, now, number, None, told)?;
                return Ok(StepResult::Done);
            }
            return Ok(StepResult::Refused(PermitError::Finished));
        };
        let (mut open, before) = (open.clone(), open.permit.lease_until);
        let mut places: SmallVec<[Place; 6]> = SmallVec::new();
        for (table, key) in &open.records {
            places.push(Place { record: self.cache.load(tables, *table, key)?, usage: None });
        }
        let period_ends = self.period_ends(&open.permit, &open.records, now);
        let max_keys = self.options.max_keys as u64;
        let mut records = StepRecords { cache: &mut self.cache, places: &places, max_keys };
        let result = step(&mut open.permit, &mut records, &period_ends);
        if matches!(result, Ok(_) | Err(PermitError::Meter(_))) {
            // A refused settlement changes nothing, but a meter whose books do not balance has been closed.
            records.mark();
        }
        match result {
            Err(error) => return Ok(StepResult::Refused(error)),
            Ok(stays) => {
                self.due.remove(&(before, number));
                if stays {
                    // Whoever moved it on is the one that looks after it.
                    open.epoch = self.epoch;
                    self.due.insert((open.permit.lease_until, number));
                }
                let intent = open.intent;
                let stays = stays || is_planted(Bug::SettleTwice);
                self.cache.put(slot, stays.then_some(Value::Permit(open)));
                if let Some(told) = told {
                    self.note_outcome(tables, now, number, intent, told)?;
                }
            }
        }
        Ok(StepResult::Done)
    }

    /// The ends of the current calendar periods of a permit's holds.
    fn period_ends(
        &self,
        permit: &Permit,
        records: &[(Table, Box<[u8]>)],
        now: Timestamp,
    ) -> SmallVec<[Timestamp; 2]> {
        if permit.holds.iter().all(|hold| hold.window != Window::Period) {
            return SmallVec::new();
        }
        let end = |record: u8| {
            let (_, key) = records.get(usize::from(record))?;
            let known = self.families.get(read_key(key)?.family)?;
            known.calendar.as_ref().map(|calendar| calendar.period_end(now))
        };
        permit.holds.iter().map(|hold| end(hold.record).unwrap_or(Timestamp::MIN)).collect()
    }
}

/// What the ledger calls an outcome.
pub(in crate::store) const fn ending_of(outcome: &Outcome) -> Ending {
    match outcome {
        Outcome::Done(_) => Ending::Done,
        Outcome::FailedClean => Ending::FailedClean,
        Outcome::InDoubt => Ending::InDoubt,
    }
}

/// What the ledger says of a permit whose lease has ended.
pub(in crate::store) const fn told_of_expiry(phase: PermitPhase, by: By) -> Told<'static> {
    match phase {
        PermitPhase::Reserved => Told::new(Ending::FailedClean, by).note("it was not started"),
        PermitPhase::Started => Told::new(Ending::InDoubt, by),
        PermitPhase::InDoubt => Told::new(Ending::InDoubt, by).note("its cost was settled at the full hold"),
    }
}
