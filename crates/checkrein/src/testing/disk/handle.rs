//! One process's view of a simulated disk: transactions, and what can go wrong with them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::{Duration, Instant};

use super::{Changes, Disk, LONGEST_KEY, Place, State};
use crate::store::StoreError;
use crate::store::durable::{Row, Rows, Table, Tables};
use crate::testing::planted::{Bug, is_planted};

/// How long a handle waits for another one's transaction. Only programs with several threads ever wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process asks of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Begins a transaction.
    Begin,
    /// Reads one row or several.
    Read,
    /// Writes or removes a row.
    Write,
    /// Commits a transaction.
    Commit,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The call fails, and nothing is kept.
    Refused,
    /// The commit fails and cannot say how: it is lost.
    Lost,
    /// The commit fails and cannot say how: it is kept.
    Kept,
    /// The commit fails and cannot say how: it lies in the log, unseen, until the next commit overwrites it or a
    /// recovery of the log finds it.
    Limbo,
    /// The process dies before the call does anything.
    DiesBefore,
    /// The process dies after the call did everything, before it hears of it.
    DiesAfter,
}

/// A disk as one process sees it.
#[derive(Debug)]
pub struct Handle {
    disk: Disk,
    number: u64,
    boot: u64,
    /// The version after this handle's last transaction.
    seen: Option<u64>,
    open: Option<Changes>,
    /// Why nothing works any more.
    end: Option<&'static str>,
    syncs: bool,
    /// What fails, and after how many more calls of its kind.
    faults: Vec<(Access, u64, Fault)>,
}

impl Handle {
    pub(super) fn new(disk: Disk, number: u64, boot: u64) -> Self {
        Self { disk, number, boot, seen: None, open: None, end: None, syncs: true, faults: Vec::new() }
    }

    /// Lets the call of this kind that comes after `skip` others fail.
    pub fn fail(&mut self, access: Access, skip: u64, fault: Fault) {
        self.faults.push((access, skip, fault));
    }

    /// Takes back every fault that has not happened.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Whether commits are synced, as they have to be; a store that forgets to is what `false` stands for.
    pub fn set_syncs(&mut self, syncs: bool) {
        self.syncs = syncs;
    }

    /// Whether the process died on the way.
    pub fn is_dead(&self) -> bool {
        self.end == Some(DEAD) || self.boot != self.disk.state().boot
    }

    /// Kills the process: its open transaction is gone, all it committed stays.
    pub fn kill(&mut self) {
        let disk = self.disk.clone();
        let mut state = disk.state();
        self.die(&mut state);
    }

    fn die(&mut self, state: &mut State) {
        if self.end == Some(DEAD) {
            return;
        }
        state.note("dies", &[&self.number.to_le_bytes()]);
        self.end = Some(DEAD);
        if self.boot == state.boot {
            state.alive -= 1;
        }
        self.close(state);
    }

    fn close(&mut self, state: &mut State) {
        self.open = None;
        if self.boot == state.boot && state.writer == Some(self.number) {
            state.writer = None;
            self.disk.0.released.notify_one();
        }
    }

    /// The fault of this call, if it is its turn.
    fn turn(&mut self, access: Access) -> Option<Fault> {
        let mut hit = None;
        self.faults.retain_mut(|(of, skip, fault)| {
            if *of != access || hit.is_some() {
                return true;
            }
            let due = *skip == 0;
            *skip = skip.saturating_sub(1);
            hit = due.then_some(*fault);
            !due
        });
        hit
    }

    /// The state, for a call inside the open transaction that does not fail.
    fn enter<T>(
        &mut self,
        access: Access,
        call: impl FnOnce(&mut State, &mut Changes) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        let mut state = disk.state();
        if let Some(reason) = self.stopped(&state) {
            return Err(refused(reason));
        }
        let fault = self.turn(access);
        match fault {
            Some(Fault::DiesBefore | Fault::DiesAfter) => {
                self.die(&mut state);
                return Err(refused(DEAD));
            }
            Some(_) => return Err(refused("input/output error")),
            None => {}
        }
        let Some(changes) = &mut self.open else { return Err(refused("no transaction is open")) };
        call(&mut state, changes)
    }

    fn stopped(&self, state: &State) -> Option<&'static str> {
        self.end.or_else(|| (self.boot != state.boot).then_some(DEAD))
    }
}

const DEAD: &str = "the process is dead";
const STOPPED: &str = "a sync failed before";

fn refused(reason: &str) -> StoreError {
    StoreError::NotCommitted(reason.to_owned())
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Tables for Handle {
    fn begin(&mut self) -> Result<bool, StoreError> {
        let disk = self.disk.clone();
        let mut state = disk.state();
        if let Some(reason) = self.stopped(&state) {
            return Err(refused(reason));
        }
        match self.turn(Access::Begin) {
            Some(Fault::DiesBefore | Fault::DiesAfter) => {
                self.die(&mut state);
                return Err(refused(DEAD));
            }
            Some(_) => return Err(refused("the disk is busy")),
            None if state.read_only => return Err(refused("the disk is read-only")),
            None => {}
        }
        if state.writer == Some(self.number) {
            return Err(refused("a transaction is open already"));
        }
        let deadline = Instant::now() + PATIENCE;
        while state.writer.is_some() {
            let timeout = disk.0.released.wait_until(&mut state, deadline);
            if timeout.timed_out() && state.writer.is_some() {
                return Err(refused("the disk is busy"));
            }
        }
        if let Some(reason) = self.stopped(&state) {
            return Err(refused(reason));
        }
        state.writer = Some(self.number);
        state.note("begin", &[&self.number.to_le_bytes()]);
        let changed = self.seen != Some(state.version);
        self.seen = Some(state.version);
        self.open = Some(Changes::new());
        Ok(changed)
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.enter(Access::Read, |state, changes| {
            let place = (table, key.to_vec());
            let changed = changes.get(&place).cloned();
            Ok(changed.unwrap_or_else(|| state.cache.get(&place).cloned()))
        })
    }

    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        self.enter(Access::Write, |state, changes| {
            if state.full {
                return Err(refused("the disk is full"));
            }
            state.note("put", &[&[table as u8], key, row]);
            if table == Table::Meter && is_planted(Bug::MeterOutsideStep) {
                state.commit(Changes::from([((table, key.to_vec()), Some(row.to_vec()))]));
                return Ok(());
            }
            changes.insert((table, key.to_vec()), Some(row.to_vec()));
            Ok(())
        })
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.enter(Access::Write, |state, changes| {
            if state.full {
                return Err(refused("the disk is full"));
            }
            state.note("delete", &[&[table as u8], key]);
            changes.insert((table, key.to_vec()), None);
            Ok(())
        })
    }

    fn scan(&mut self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Rows, StoreError> {
        self.enter(Access::Read, |state, changes| {
            let from = match after {
                Some(key) => Excluded((table, key.to_vec())),
                None => Included((table, Vec::new())),
            };
            // As many committed rows as could be removed by the transaction may have to be passed over.
            let committed = state.cache.range((from.clone(), Unbounded));
            let committed =
                committed.take_while(|((of, _), _)| *of == table).take(limit.saturating_add(changes.len()));
            let mut found: BTreeMap<&Vec<u8>, &Vec<u8>> =
                committed.map(|((_, key), row)| (key, row)).collect();
            let changed = changes.range((from, Unbounded)).take_while(|((of, _), _)| *of == table);
            for ((_, key), row) in changed {
                match row {
                    Some(row) => drop(found.insert(key, row)),
                    None => drop(found.remove(key)),
                }
            }
            Ok(found.into_iter().take(limit).map(|(key, row)| (key.clone(), row.clone())).collect())
        })
    }

    fn last(&mut self, table: Table) -> Result<Option<Row>, StoreError> {
        self.enter(Access::Read, |state, changes| {
            let removed = |key: &[u8]| changes.get(&(table, key.to_vec())).is_some_and(Option::is_none);
            let in_table = |(of, _): &Place| *of == table;
            let end = || (table, vec![0xff; LONGEST_KEY]);
            let committed = state.cache.range(..=end()).rev().take_while(|(place, _)| in_table(place));
            let committed = committed.map(|((_, key), row)| (key, row)).find(|(key, _)| !removed(key));
            let changed = changes.range(..=end()).rev().take_while(|(place, _)| in_table(place));
            let changed = changed.filter_map(|((_, key), row)| Some((key, row.as_ref()?))).next();
            let last = match (committed, changed) {
                (Some(committed), Some(changed)) if committed.0 > changed.0 => Some(committed),
                (committed, changed) => changed.or(committed),
            };
            Ok(last.map(|(key, row)| (key.clone(), row.clone())))
        })
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        let mut state = disk.state();
        if let Some(reason) = self.stopped(&state) {
            return Err(refused(reason));
        }
        let Some(changes) = self.open.take() else { return Err(refused("no transaction is open")) };
        let fault = self.turn(Access::Commit);
        let mark = [fault.map_or(0xff, |fault| fault as u8)];
        state.note("commit", &[&self.number.to_le_bytes(), &mark]);
        match fault {
            None | Some(Fault::Kept | Fault::DiesAfter) if changes.is_empty() => {}
            None | Some(Fault::Kept | Fault::DiesAfter) => {
                state.commit(changes);
                self.seen = Some(state.version);
                if self.syncs && !is_planted(Bug::SkipSync) {
                    state.sync();
                }
            }
            Some(Fault::Limbo) => state.limbo = Some(changes),
            Some(Fault::Refused | Fault::Lost | Fault::DiesBefore) => {}
        }
        self.close(&mut state);
        match fault {
            None => Ok(()),
            Some(Fault::Refused) => Err(refused("input/output error")),
            Some(Fault::Lost | Fault::Kept | Fault::Limbo) => {
                if is_planted(Bug::UnknownIsNotCommitted) {
                    return Err(refused("the sync failed"));
                }
                self.end = Some(STOPPED);
                Err(StoreError::Unknown("the sync failed".to_owned()))
            }
            Some(Fault::DiesBefore | Fault::DiesAfter) => {
                self.die(&mut state);
                Err(StoreError::Unknown(DEAD.to_owned()))
            }
        }
    }

    fn rollback(&mut self) {
        let disk = self.disk.clone();
        let mut state = disk.state();
        state.note("rollback", &[&self.number.to_le_bytes()]);
        self.close(&mut state);
    }
}
