//! Stores: where records live and what makes a step atomic. The semantics are the core's, once for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use checkrein_core::admission::{AdjustError, Adjusted, Adjustment, Admission, PermitError};
use checkrein_core::amount::Amount;
use checkrein_core::decision::MeterStatus;
use checkrein_core::gate::breaker::{Health, Phase};
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::Key;
use checkrein_core::meter::{Account, Allowance, Meter};
use checkrein_core::permit::{Outcome, PermitPhase};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Timestamp, Window};

mod action;
pub mod durable;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sqlite;

pub use action::{OwnedAction, OwnedInputs};

use crate::engine::CompiledPolicy;

/// A boxed future, as stores with a network behind them return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Names an open permit within its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId {
    pub(crate) shard: u8,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// One thing for a store to do, owned so that it can be batched, sent or retried.
#[derive(Clone, Debug)]
pub enum Step {
    /// Decide an action and take what it needs.
    Admit(Arc<CompiledPolicy>, OwnedInputs),
    /// Decide an action and take nothing.
    Peek(Arc<CompiledPolicy>, OwnedInputs),
    /// Mark a reserved permit's action as started.
    Start(PermitId),
    /// Give back everything a reserved permit holds.
    Release(PermitId),
    /// Settle everything a permit holds.
    Finish(PermitId, OwnedSettlement),
    /// Move on a permit whose lease has ended.
    Expire(PermitId),
    /// Say what became of an operation in doubt: of this run of it, or of whichever is in doubt.
    Resolve(Key, Option<Run>, OperationState),
    /// Write an event into the ledger, where one is kept: its name in snake case, and more about it.
    Note(String, Vec<(String, String)>),
    /// Record a proved value.
    Prove(Key, Fact),
    /// Forget what a meter spent, or close a breaker.
    Reset(RecordKind, Key),
    /// Change the limit of a budget's meter, which is made if need be.
    Adjust(Key, Adjustment),
}

/// How an action ended, owned.
#[derive(Clone, Debug)]
pub struct OwnedSettlement {
    /// How it ended.
    pub outcome: Outcome,
    /// What it says about the dependency.
    pub health: Health,
    /// Actual costs in the order of the holds; missing ones are settled at the full hold.
    pub actual: Vec<Amount>,
}

/// Steps committed together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The engine's time. A store with a clock of its own uses that.
    pub now: Timestamp,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// What a step did.
#[derive(Clone, Debug)]
pub enum StepResult {
    /// The decision, and the permit if something is held.
    Admitted(Admission, Option<PermitId>),
    /// The decision that would be taken, and where the meters stand.
    Peeked(Admission, Vec<MeterStatus>),
    /// The limit was changed.
    Adjusted(Adjusted),
    /// The limit could not be changed; nothing was.
    NotAdjusted(AdjustError),
    /// It is done.
    Done,
    /// There is no such record, or it is not in a state for this step; nothing was changed.
    NotFound,
    /// The permit could not be moved on; nothing was changed.
    Refused(PermitError),
    /// A record that the step needs cannot be read; nothing was changed.
    Failed(StoreError),
}

/// What steps came to.
pub type Results = Result<Vec<StepResult>, StoreError>;

/// Why a batch did not commit. Never vague about whether it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was committed.
    #[error("not committed: {0}")]
    NotCommitted(String),
    /// It may or may not have been committed.
    #[error("unknown whether it was committed: {0}")]
    Unknown(String),
    /// Nothing was committed: a record on the disk is not what was written there.
    #[error("a record is damaged: {0}")]
    Damaged(String),
}

/// Where a scan goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) shard: usize,
    pub(crate) offset: usize,
    /// In a durable store: the last key of the page before.
    pub(crate) after: Option<Box<[u8]>>,
}

/// A record as lists show it.
#[derive(Clone, Debug)]
pub struct RecordInfo {
    /// Its key.
    pub key: Key,
    /// What it says.
    pub state: RecordState,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum RecordState {
    /// A meter.
    Meter {
        /// Spent in the window.
        spent: Amount,
        /// Events in the window.
        count: u64,
        /// Holds and what became of them.
        account: Account,
        /// The latest event.
        newest: Option<Timestamp>,
        /// What somebody has changed of the limit, as long as it counts.
        allowance: Option<Box<Allowance>>,
    },
    /// A breaker.
    Breaker {
        /// Where it stands.
        phase: Phase,
    },
    /// An operation.
    Operation {
        /// Where it stands.
        state: OperationState,
        /// Since when.
        since: Timestamp,
        /// Which run of it this is.
        run: Run,
    },
    /// A fact.
    Fact(Fact),
    /// An open permit.
    Permit {
        /// Where it stands.
        phase: PermitPhase,
        /// When its lease ends.
        lease_until: Timestamp,
    },
}

impl RecordState {
    /// What a meter says that counts over `window`, at `now`.
    pub(crate) fn of_meter(meter: &Meter, window: Window, now: Timestamp) -> Self {
        let (spent, count) = meter.seen(now, window);
        let allowance = meter.live_allowance(now).cloned().map(Box::new);
        Self::Meter { spent, count, account: meter.account(), newest: meter.newest(), allowance }
    }
}

/// A page of a scan, and where to go on; `None` at the end.
pub type Page = (Vec<RecordInfo>, Option<Cursor>);

/// A place that keeps records and commits steps on them.
///
/// Guarantees every store gives, and [`crate::testing::conformance`] checks: a step is committed whole or not at all;
/// a refused admission leaves every record as it was; two steps on one record happen one after the other; a permit is
/// finished at most once; a record with open holds is never forgotten; at its cap a store refuses new keys and keeps
/// the live ones.
pub trait Store: Send + Sync {
    /// Commits the steps in their order, or reports per step why not.
    fn submit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<StepResult>, StoreError>>;

    /// At most `limit` permits whose lease ends at or before `before`.
    fn due(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<PermitId>, StoreError>>;

    /// At most `limit` records of a kind after a cursor, and where to go on; `None` at the end.
    fn scan(
        &self,
        kind: RecordKind,
        after: Cursor,
        limit: usize,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Page, StoreError>>;
}
