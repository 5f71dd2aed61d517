//! Processes of a store: each has a number and a lock that says it lives; what a dead one left is moved on by the next.

use checkrein_core::admission;
use checkrein_core::codec::{Reader, Write};
use checkrein_core::gate::breaker::Health;
use checkrein_core::ledger::entry::By;
use checkrein_core::permit::{Outcome, PermitPhase, Settlement};
use checkrein_core::time::{Span, Timestamp};

use super::cache::Value;
use super::finish::told_of_expiry;
use super::permits::OpenPermit;
use super::row::{self, number_key, read_number};
use super::{Durable, Table, Tables};
use crate::store::{StepResult, StoreError};
use crate::testing::planted::{Bug, is_planted};

/// What a store remembers of a process that has it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The process's number in its machine.
    pub pid: u32,
    /// The machine's name.
    pub host: String,
}

/// Says which processes of a store are alive.
pub trait Liveness {
    /// Shows from now on, until this process ends, that the process of this number is alive.
    ///
    /// # Errors
    /// It cannot be shown.
    fn claim(&mut self, epoch: u64) -> Result<(), StoreError>;

    /// Whether the process of this number is alive. When it cannot be said, it is.
    fn is_alive(&mut self, epoch: u64) -> bool;

    /// The process of this number is dead and has been dealt with.
    fn forget(&mut self, epoch: u64);
}

const VERSION: u8 = 1;
/// Between two looks at the leases of other processes.
const LOOK_AT_OTHERS: Span = Span::from_secs(30);
/// By then a process that runs has moved its own permit on.
const OVERDUE: Span = Span::from_secs(10);
/// Permits read at a time.
const PAGE: usize = 256;

/// What a row says of a process: number, what is known of it, since when.
pub(crate) fn read_process(key: &[u8], bytes: &[u8]) -> Result<(u64, ProcessInfo, Timestamp), StoreError> {
    let (body, _) = row::open(Table::Epoch, key, bytes)?;
    let read = || {
        let mut body = Reader::new(body, VERSION)?;
        let pid = body.small()?;
        let host = String::from_utf8_lossy(body.blob()?).into_owned();
        let since = body.stamp()?;
        body.end()?;
        Ok((ProcessInfo { pid, host }, since))
    };
    let (info, since) = read().map_err(|why| row::damaged(Table::Epoch, key, why))?;
    Ok((read_number(key).unwrap_or_default(), info, since))
}

impl Durable {
    /// Takes the next process number.
    pub(super) fn register(
        &mut self,
        tables: &mut impl Tables,
        process: &ProcessInfo,
        now: Timestamp,
        liveness: &mut dyn Liveness,
    ) -> Result<(), StoreError> {
        self.epoch = self.head.next_epoch;
        self.head.next_epoch += 1;
        liveness.claim(self.epoch)?;
        let mut out = vec![VERSION];
        out.number(process.pid.into());
        out.blob(process.host.as_bytes());
        out.stamp(now);
        let key = number_key(self.epoch);
        row::seal(Table::Epoch, &key, &mut out);
        tables.put(Table::Epoch, &key, &out)?;
        self.wrote = true;
        let (pid, version) = (process.pid.to_string(), env!("CARGO_PKG_VERSION"));
        let fields = [("host", &*process.host), ("pid", &*pid), ("version", version)];
        self.note_event(tables, now, "opened", &fields).map(drop)
    }

    /// The processes that have the store open or left it without closing it: number, what is known of it, since when.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn processes(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
    ) -> Result<Vec<(u64, ProcessInfo, Timestamp)>, StoreError> {
        self.transact(tables, now, |_, tables, _| {
            let mut found = Vec::new();
            for (key, bytes) in tables.scan(Table::Epoch, None, usize::MAX)? {
                found.push(read_process(&key, &bytes)?);
            }
            Ok(found)
        })
    }

    /// Moves on what dead processes left open; returns how many permits that were.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn recover(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        liveness: &mut dyn Liveness,
    ) -> Result<usize, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            let moved = durable.recover_dead(tables, now, liveness)?;
            Ok(moved + durable.expire_for_others(tables, now)?)
        })
    }

    /// Moves on permits of other processes whose leases ended a while ago: a process that is alive and does not run, as
    /// one that was stopped, must not hold a budget for ever.
    fn expire_for_others(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<usize, StoreError> {
        if self.looked_at_others.is_some_and(|last| now < last.after(LOOK_AT_OTHERS)) {
            return Ok(0);
        }
        self.looked_at_others = Some(now);
        let own = self.epoch;
        let late = |open: &OpenPermit| open.epoch != own && open.permit.lease_until.after(OVERDUE) <= now;
        let mut moved = 0;
        for (number, _) in self.permits_where(tables, late)? {
            moved += usize::from(matches!(self.expire(tables, number, now)?, StepResult::Done));
        }
        Ok(moved)
    }

    pub(super) fn recover_dead(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        liveness: &mut dyn Liveness,
    ) -> Result<usize, StoreError> {
        let epochs = tables.scan(Table::Epoch, None, usize::MAX)?;
        let numbers = epochs.iter().filter_map(|(key, _)| read_number(key));
        let dead: Vec<u64> = numbers
            .filter(|&epoch| {
                epoch != self.epoch && (!liveness.is_alive(epoch) || is_planted(Bug::RecoverTheLiving))
            })
            .collect();
        if dead.is_empty() {
            return Ok(0);
        }
        let mut moved = 0;
        for (number, open) in self.permits_where(tables, |open| dead.contains(&open.epoch))? {
            moved += usize::from(self.take_over(tables, number, &open, now)?);
        }
        for epoch in dead {
            let (name, count) = (epoch.to_string(), moved.to_string());
            self.note_event(tables, now, "recovered", &[("epoch", &name), ("permits", &count)])?;
            tables.delete(Table::Epoch, &number_key(epoch))?;
            liveness.forget(epoch);
            self.wrote = true;
        }
        Ok(moved)
    }

    /// A reserved permit is released: its action was never dispatched. A started one is in doubt: its effect may have
    /// happened. One in doubt goes on waiting for the end of its lease, looked after by this process.
    fn take_over(
        &mut self,
        tables: &mut impl Tables,
        number: u64,
        open: &OpenPermit,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let result = match open.permit.phase {
            PermitPhase::Reserved => self.release_by(tables, number, now, By::Recovery)?,
            PermitPhase::Started if is_planted(Bug::ForgetHold) => {
                let slot = self.cache.load(tables, Table::Permit, &number_key(number))?;
                self.cache.put(slot, None);
                StepResult::Done
            }
            PermitPhase::Started => {
                let told = told_of_expiry(PermitPhase::Started, By::Recovery);
                let told = Some(told).filter(|_| !is_planted(Bug::SilentRecovery));
                self.with_permit(tables, number, now, told, |permit, records, ends| {
                    if is_planted(Bug::ReleaseStarted) {
                        let clean = Settlement::new(Outcome::FailedClean, Health::Neutral);
                        return admission::finish(permit, &clean, ends, now, records);
                    }
                    // Its lease ends here: the process that could have told the outcome is gone.
                    permit.lease_until = permit.lease_until.min(now);
                    admission::expire(permit, now, ends, records)
                })?
            }
            PermitPhase::InDoubt => {
                let slot = self.cache.load(tables, Table::Permit, &number_key(number))?;
                let adopted = OpenPermit { epoch: self.epoch, ..open.clone() };
                self.cache.put(slot, Some(Value::Permit(adopted)));
                self.due.insert((open.permit.lease_until, number));
                StepResult::Done
            }
        };
        Ok(matches!(result, StepResult::Done))
    }

    /// All open permits of which `wanted` holds. Read whole: there are as many as actions are running.
    pub(super) fn permits_where(
        &mut self,
        tables: &mut impl Tables,
        wanted: impl Fn(&OpenPermit) -> bool,
    ) -> Result<Vec<(u64, OpenPermit)>, StoreError> {
        let (mut found, mut after): (Vec<(u64, OpenPermit)>, Option<Vec<u8>>) = (Vec::new(), None);
        loop {
            let rows = tables.scan(Table::Permit, after.as_deref(), PAGE)?;
            for (key, bytes) in &rows {
                // A permit that does not read keeps what it holds, and a check names it; the store goes on.
                let open = row::open(Table::Permit, key, bytes).ok();
                let open = open.and_then(|(body, _)| OpenPermit::decode(body).ok()).filter(&wanted);
                found.extend(read_number(key).zip(open));
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(found),
            }
        }
    }

    /// Finds this process's permits again, after what it remembered of them stopped to count.
    pub(super) fn find_own_permits(&mut self, tables: &mut impl Tables) -> Result<(), StoreError> {
        let epoch = self.epoch;
        let own = self.permits_where(tables, |open| open.epoch == epoch)?;
        self.due = own.into_iter().map(|(number, open)| (open.permit.lease_until, number)).collect();
        Ok(())
    }

    /// Leaves the store: what is still open is moved on as if the process had died.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did: then the next process moves it on.
    pub fn close(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        liveness: &mut dyn Liveness,
    ) -> Result<(), StoreError> {
        let epoch = self.epoch;
        self.transact(tables, now, |durable, tables, now| {
            durable.flush_refusals(tables, now, true)?;
            let open = durable.permits_where(tables, |open| open.epoch == epoch)?;
            let waiting = open.iter().any(|(_, open)| open.permit.phase != PermitPhase::Reserved);
            for (number, open) in open {
                if open.permit.phase != PermitPhase::InDoubt {
                    durable.take_over(tables, number, &open, now)?;
                }
            }
            // Permits in doubt still wait for the end of their lease: the next process takes them over.
            if !waiting {
                tables.delete(Table::Epoch, &number_key(epoch))?;
                durable.wrote = true;
            }
            durable.note_event(tables, now, "closed", &[])?;
            Ok(waiting)
        })
        .map(|waiting| {
            if !waiting {
                liveness.forget(epoch);
            }
        })
    }
}
