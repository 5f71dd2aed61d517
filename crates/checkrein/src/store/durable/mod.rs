//! The logic of every store on a disk, whatever the disk: steps on rows of bytes, one batch in one transaction.
//!
//! Nothing here has a clock, a thread or a file: time comes in with each batch, and rows through [`Tables`]. That is
//! what lets the simulator run the same code on a disk that tears and forgets.

use std::collections::BTreeSet;

use checkrein_core::key::{Family, KeyRef, MAX_KEY_BYTES};
use checkrein_core::time::{Span, Timestamp};

use super::{PermitId, Step, StepResult, StoreError};

mod adjust;
mod admit;
mod append;
mod cache;
mod check;
mod epochs;
mod families;
mod finish;
mod head;
mod journal;
mod keep;
mod outbox;
mod permits;
mod records;
mod restore;
mod retention;
mod row;
mod sealed;
mod sweep;
mod tables;

#[cfg(feature = "redis")]
pub(in crate::store) use adjust::adjusted_fields;
#[cfg(feature = "redis")]
pub(in crate::store) use admit::bare_permit;
pub use check::Report;
pub(crate) use epochs::read_process;
pub use epochs::{Liveness, ProcessInfo};
pub use families::FamilyKey;
#[cfg(feature = "redis")]
pub(in crate::store) use finish::{ending_of, told_of_expiry};
pub use head::SCHEMA;
#[cfg(feature = "redis")]
pub(in crate::store) use journal::Told;
pub(crate) use journal::decision as decision_of;
pub use journal::{KeepArguments, LedgerOptions};
pub use outbox::{Decided, Incoming, Taken};
pub(crate) use outbox::{HOST_KEY, read_host};
pub use restore::{Mark, Restored};
pub(crate) use sealed::{SEALED, read_sealed, sealed_row};
pub use tables::{Row, Rows, Table, Tables};

use crate::testing::planted::{Bug, is_planted};
pub(in crate::store) use row::{open as open_row, seal as seal_row};

use cache::Cache;
use families::Families;
use head::Head;

/// How a durable store is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The most live keys per tenant and gate.
    pub max_keys: usize,
    /// The ledger, if one is kept.
    pub ledger: Option<LedgerOptions>,
}

/// A store on a disk, as one process has it open.
#[derive(Debug)]
pub struct Durable {
    options: Options,
    epoch: u64,
    head: Head,
    families: Families,
    cache: Cache,
    /// Ends of the leases of this process's permits.
    due: BTreeSet<(Timestamp, u64)>,
    /// What is remembered does not count any more: a commit failed.
    stale: bool,
    /// Something besides records has been written since the head was.
    wrote: bool,
    /// This transaction has something to commit.
    changed: bool,
    sweep: sweep::Progress,
    journal: journal::Journal,
    /// Where entries are written before they are put.
    entry_bytes: Vec<u8>,
    looked_at_others: Option<Timestamp>,
}

/// So many leases are moved on in one batch.
const DUE_PER_BATCH: usize = 256;
/// A permit that could not be moved on is tried again after this long.
const TRY_AGAIN: Span = Span::from_secs(1);

impl Durable {
    /// Opens a store: makes it if there is none, takes the next process number and moves on what dead processes left.
    ///
    /// # Errors
    /// The disk cannot be used, or holds something this version cannot read; nothing was changed then.
    pub fn open(
        tables: &mut impl Tables,
        options: Options,
        now: Timestamp,
        process: &ProcessInfo,
        liveness: &mut dyn Liveness,
    ) -> Result<Self, StoreError> {
        tables.begin()?;
        let opened = Self::open_in(tables, options, now, process, liveness);
        let opened = opened.and_then(|durable| tables.commit().map(|()| durable));
        if opened.is_err() {
            tables.rollback();
        }
        opened
    }

    fn open_in(
        tables: &mut impl Tables,
        options: Options,
        now: Timestamp,
        process: &ProcessInfo,
        liveness: &mut dyn Liveness,
    ) -> Result<Self, StoreError> {
        let mut durable = Self::empty(options, Head::load(tables)?);
        durable.check_end(tables)?;
        durable.families.load(tables)?;
        let now = durable.tick(now);
        durable.register(tables, process, now, liveness)?;
        durable.recover_dead(tables, now, liveness)?;
        durable.write(tables)?;
        Ok(durable)
    }

    /// A process that remembers nothing yet.
    fn empty(options: Options, head: Head) -> Self {
        Self {
            options,
            epoch: 0,
            head,
            families: Families::default(),
            cache: Cache::default(),
            due: BTreeSet::new(),
            stale: false,
            wrote: false,
            changed: false,
            sweep: sweep::Progress::default(),
            journal: journal::Journal::default(),
            entry_bytes: Vec::new(),
            looked_at_others: None,
        }
    }

    /// The number of this process in the store.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The latest time that the store on this disk has seen, within a transaction.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn last_seen_on(tables: &mut impl Tables) -> Result<Timestamp, StoreError> {
        Head::load(tables).map(|head| head.last)
    }

    /// Transactions that have changed the store, as far as this process knows.
    pub fn commits(&self) -> u64 {
        self.head.commit
    }

    /// When something has to be done without being asked: a lease of this process ends, or what was counted for the
    /// ledger has to be written.
    pub fn next_due(&self) -> Option<Timestamp> {
        let lease = self.due.first().map(|(lease, _)| *lease);
        lease.into_iter().chain(self.journal.next_due()).min()
    }

    /// Commits steps in their order, in one transaction. A step that cannot be done says so in its own result.
    ///
    /// # Errors
    /// The transaction did not commit, or nobody knows whether it did.
    pub fn run(
        &mut self,
        tables: &mut impl Tables,
        steps: &[Step],
        now: Timestamp,
    ) -> Result<Vec<StepResult>, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            steps.iter().map(|step| durable.step(tables, step, now)).collect()
        })
    }

    /// Runs `work` in a transaction and commits what it changed.
    fn transact<T: Tables, R>(
        &mut self,
        tables: &mut T,
        now: Timestamp,
        work: impl FnOnce(&mut Self, &mut T, Timestamp) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let foreign = tables.begin()?;
        let done = self.prepare(tables, foreign, now).and_then(|now| {
            let result = work(self, tables, now)?;
            self.sweep_some(tables, now)?;
            self.write(tables)?;
            Ok((result, self.changed))
        });
        match done {
            Ok((result, true)) => match tables.commit() {
                Ok(()) => Ok(result),
                Err(_) if is_planted(Bug::AnswerBeforeCommit) => Ok(result),
                Err(error) => {
                    self.stale = !is_planted(Bug::KeepAfterFailedCommit);
                    Err(error)
                }
            },
            Ok((result, false)) => {
                tables.rollback();
                Ok(result)
            }
            Err(error) => {
                tables.rollback();
                self.stale = true;
                Err(error)
            }
        }
    }

    /// Forgets what may no longer be true, and lets time pass.
    fn prepare(
        &mut self,
        tables: &mut impl Tables,
        foreign: bool,
        now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        (self.wrote, self.changed) = (false, false);
        self.journal.settle(!self.stale);
        if (foreign && !is_planted(Bug::IgnoreOthers)) || self.stale {
            self.cache.clear();
            let next = self.head.next_entry;
            self.head = Head::load(tables)?;
            if is_planted(Bug::SequenceNotTakenBack) {
                self.head.next_entry = next.max(self.head.next_entry);
            }
            self.families.load(tables)?;
            if self.stale {
                self.find_own_permits(tables)?;
            }
            self.stale = false;
        }
        self.cache.next_batch();
        let now = self.tick(now);
        self.expire_due(tables, now)?;
        self.flush_refusals(tables, now, false)?;
        Ok(now)
    }

    /// The store's clock never runs backwards, whatever the machine's does.
    fn tick(&mut self, now: Timestamp) -> Timestamp {
        self.head.last = if is_planted(Bug::ClockRunsBack) { now } else { self.head.last.max(now) };
        self.head.last
    }

    /// Writes what has changed, and the head over it.
    fn write(&mut self, tables: &mut impl Tables) -> Result<(), StoreError> {
        if !self.wrote && !self.cache.is_dirty() {
            return Ok(());
        }
        self.cache.write(tables, &mut self.head.sum)?;
        self.head.commit += 1;
        self.head.store(tables)?;
        (self.wrote, self.changed) = (false, true);
        Ok(())
    }

    fn expire_due(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<(), StoreError> {
        for _ in 0..DUE_PER_BATCH {
            let Some(&(lease, number)) = self.due.first().filter(|(lease, _)| *lease <= now) else { break };
            self.due.remove(&(lease, number));
            match self.expire(tables, number, now)? {
                // Whatever it is, it is not tried again by every batch that comes by.
                StepResult::Refused(_) | StepResult::Failed(_) => {
                    self.due.insert((now.after(TRY_AGAIN), number));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One step. Errors of the disk end the batch; a record that cannot be read ends only the step.
    fn step(
        &mut self,
        tables: &mut impl Tables,
        step: &Step,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        let done = |done: bool| if done { StepResult::Done } else { StepResult::NotFound };
        if let Step::Resolve(key, ..) | Step::Prove(key, _) | Step::Reset(_, key) | Step::Adjust(key, _) =
            step
            && let Some(error) = too_long(key.borrow())
        {
            return Ok(StepResult::Failed(error));
        }
        let result = match step {
            Step::Admit(policy, inputs) => self.admit(tables, policy, inputs, now),
            Step::Peek(policy, inputs) => self.peek(tables, policy, inputs, now),
            Step::Note(name, fields) => {
                let fields: Vec<(&str, &str)> =
                    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                self.note_event(tables, now, name, &fields).map(|_| StepResult::Done)
            }
            Step::Start(permit) => self.start(tables, permit.number(), now),
            Step::Release(permit) => self.release(tables, permit.number(), now),
            Step::Finish(permit, settlement) => self.finish(tables, permit.number(), settlement, now),
            Step::Expire(permit) => self.expire(tables, permit.number(), now),
            Step::Resolve(key, run, state) => {
                self.resolve(tables, key.borrow(), *run, state.clone(), now).map(done)
            }
            Step::Prove(key, fact) => self.prove(tables, key.borrow(), *fact, now).map(done),
            Step::Reset(kind, key) => self.reset(tables, *kind, key.borrow(), now).map(done),
            Step::Adjust(key, adjustment) => self.adjust(tables, key.borrow(), adjustment, now),
        };
        match result {
            Err(error @ StoreError::Damaged(_)) => Ok(StepResult::Failed(error)),
            other => other,
        }
    }

    /// The number of a family's definition, made if need be.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn family(
        &mut self,
        tables: &mut impl Tables,
        key: &FamilyKey,
        cooldown: Span,
        now: Timestamp,
    ) -> Result<Family, StoreError> {
        self.transact(tables, now, |durable, tables, _| {
            let (family, wrote) = durable.families.intern(tables, key, cooldown, &mut durable.head.sum)?;
            durable.wrote |= wrote;
            Ok(family)
        })
    }

    /// All definitions, by number.
    pub fn families(&self) -> Vec<(Family, FamilyKey)> {
        self.families.iter().map(|(family, known)| (family, known.key.clone())).collect()
    }
}

/// Keys of admissions are checked with the action; those that people name are checked here.
fn too_long(key: KeyRef<'_>) -> Option<StoreError> {
    let length = key.tenant.len() + key.key.len();
    let text = || format!("key and tenant have {length} bytes, at most {MAX_KEY_BYTES} are allowed");
    (length > MAX_KEY_BYTES).then(|| StoreError::NotCommitted(text()))
}

impl PermitId {
    /// The permit of this number in a durable store.
    pub const fn from_number(number: u64) -> Self {
        Self { shard: 0, index: number as u32, generation: (number >> 32) as u32 }
    }

    /// Remembers whether the permit settles anything.
    pub(super) const fn with_light(self, light: bool) -> Self {
        Self { shard: light as u8, ..self }
    }

    /// Whether the permit settles nothing: its outcome only goes into the ledger, and nobody has to wait for it.
    pub const fn is_light(self) -> bool {
        self.shard == 1
    }

    /// Its number in a durable store.
    pub const fn number(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }
}
