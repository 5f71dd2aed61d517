//! The ways out of a permit, on its records.

use checkrein_core::admission::{self, PermitError};
use checkrein_core::permit::{Permit, Settlement};
use checkrein_core::time::{Timestamp, Window};
use smallvec::SmallVec;

use super::cache::Value;
use super::records::{Place, StepRecords};
use super::row::{number_key, read_key};
use super::{Durable, Table, Tables};
use crate::store::{OwnedSettlement, StepResult, StoreError};

impl Durable {
    pub(super) fn start(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        self.with_permit(tables, number, now, |permit, records, _| {
            admission::start(permit, now, records).map(|()| true)
        })
    }

    pub(super) fn release(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        self.with_permit(tables, number, now, |permit, records, _| {
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
        self.with_permit(tables, number, now, |permit, records, period_ends| {
            admission::finish(permit, &settlement, period_ends, now, records)
        })
    }

    pub(super) fn expire(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        self.with_permit(tables, number, now, |permit, records, period_ends| {
            admission::expire(permit, now, period_ends, records)
        })
    }

    /// Runs `step` on an open permit and its records; `step` says whether the permit stays open.
    pub(super) fn with_permit(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        now: Timestamp,
        step: impl FnOnce(&mut Permit, &mut StepRecords<'_>, &[Timestamp]) -> Result<bool, PermitError>,
    ) -> Result<StepResult, StoreError> {
        let slot = self.cache.load(tables, Table::Permit, &number_key(number))?;
        let Some(Value::Permit(open)) = self.cache.value(slot) else {
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
                self.cache.put(slot, stays.then_some(Value::Permit(open)));
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
