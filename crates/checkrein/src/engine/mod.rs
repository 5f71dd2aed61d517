//! The engine: policies compiled against one store and one clock, and the way through `admit`, run, `finish`.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkrein_core::admission::{self, Admission, Inputs, PermitError, Verdict};
use checkrein_core::amount::Amount;
use checkrein_core::code::Code;
use checkrein_core::decision::MeterStatus;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::permit::Settlement;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};

mod adjust;
mod answer;
mod compile;
mod scopes;
mod spec;

pub use adjust::{BudgetError, BudgetInfo, BudgetRecord};
pub use compile::{CompileError, CompileOptions, CompiledPolicy, FamilyInfo};
pub(crate) use scopes::Taking;
pub use scopes::{SCOPE_NAMESPACE, SCOPE_UNITS, SCOPE_WINDOW, Scope, ScopeShape, Scopes, USAGE_NAMESPACE};
pub use spec::{GateSpec, GateSpecKind, WindowSpec};

use answer::Answer;

use crate::clock::Clock;
use crate::parking::Mutex;
use crate::store::durable::FamilyKey;
use crate::store::memory::MemoryStore;
#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Cursor, OwnedInputs, OwnedSettlement, Page, PermitId, Results, Step, StepResult, StoreError,
};

/// The live keys per tenant and gate, unless the builder says otherwise.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;

/// The result of an admission, and the permit if something has to be settled.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The decision.
    pub admission: Admission,
    /// What to finish when the action ends.
    pub permit: Option<PermitId>,
}

/// What [`Engine::decide`] found.
#[derive(Clone, Debug)]
pub enum Decided {
    /// It may run, and there is nothing more to say; the permit if something has to be settled.
    Allowed(Option<PermitId>),
    /// It may not run, it ran before, or gates in observe mode have something to say.
    Noted(Box<Admitted>),
}

/// Decides actions. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Backend,
    clock: Clock,
    families: Mutex<BTreeMap<FamilyKey, Family>>,
    only_looks: bool,
    /// The limits of budgets, as the policy that was compiled last says.
    limits: Mutex<BTreeMap<Family, Amount>>,
}

/// Where an engine keeps its records. An enum: the way through the memory store is nanoseconds long.
#[derive(Debug)]
enum Backend {
    Memory(MemoryStore),
    Sqlite(SqliteStore),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

/// Why a permit could not be moved on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// It is not in a state for this; nothing was changed.
    #[error(transparent)]
    Permit(#[from] PermitError),
    /// The store did not commit, or cannot say whether it did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SettleError {
    /// The stable code of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Permit(error) => error.code(),
            Self::Store(_) => "store_error",
        }
    }
}

/// Configures an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    clock: Option<Clock>,
    max_keys: Option<usize>,
    sqlite: Option<SqliteStore>,
    #[cfg(feature = "redis")]
    redis: Option<RedisStore>,
    only_looks: bool,
}

impl EngineBuilder {
    /// Makes an engine that only [`peek`](Engine::peek)s at a store on a disk or a server: it decides nothing and
    /// defines nothing there. What its policies count and nobody counted yet is empty.
    #[must_use]
    pub fn only_looks(mut self) -> Self {
        self.only_looks = true;
        self
    }

    /// Where the engine reads the time; the system's clock by default.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The most live keys per tenant and gate; [`DEFAULT_MAX_KEYS`] by default.
    #[must_use]
    pub fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = Some(max_keys);
        self
    }

    /// Keeps the records in this store instead of in memory. Its clock and its cap count then.
    #[must_use]
    pub fn sqlite(mut self, store: SqliteStore) -> Self {
        self.sqlite = Some(store);
        self
    }

    /// Keeps the records on this Redis server instead of in memory. Its clock and its cap count then.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis(mut self, store: RedisStore) -> Self {
        self.redis = Some(store);
        self
    }

    /// The engine.
    pub fn build(self) -> Engine {
        #[cfg(feature = "redis")]
        if let Some(store) = self.redis {
            let clock = store.clock().clone();
            let (families, limits, only_looks) = (Mutex::default(), Mutex::default(), self.only_looks);
            return Engine(Arc::new(Inner {
                store: Backend::Redis(store),
                clock,
                families,
                limits,
                only_looks,
            }));
        }
        let (store, clock) = match self.sqlite {
            Some(store) => {
                let clock = store.clock().clone();
                (Backend::Sqlite(store), clock)
            }
            None => {
                let store = MemoryStore::new(self.max_keys.unwrap_or(DEFAULT_MAX_KEYS));
                (Backend::Memory(store), self.clock.unwrap_or_default())
            }
        };
        let (families, limits, only_looks) = (Mutex::default(), Mutex::default(), self.only_looks);
        Engine(Arc::new(Inner { store, clock, families, limits, only_looks }))
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl Engine {
    /// An engine on the memory store and the system's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts configuring an engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The engine's time.
    #[inline]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The engine's store, if it is in memory.
    pub fn memory(&self) -> Option<&MemoryStore> {
        match &self.0.store {
            Backend::Memory(store) => Some(store),
            _ => None,
        }
    }

    /// The engine's store, if it is a SQLite file.
    pub fn sqlite(&self) -> Option<&SqliteStore> {
        match &self.0.store {
            Backend::Sqlite(store) => Some(store),
            _ => None,
        }
    }

    /// The engine's store, if it is a Redis server.
    #[cfg(feature = "redis")]
    pub fn redis(&self) -> Option<&RedisStore> {
        match &self.0.store {
            Backend::Redis(store) => Some(store),
            _ => None,
        }
    }

    /// What a decision survives: `D0` nothing, `D2` the process and, on a disk that keeps what it acknowledges, the
    /// machine.
    pub fn durability(&self) -> &'static str {
        match &self.0.store {
            Backend::Memory(_) => "D0",
            Backend::Sqlite(_) => "D2",
            // What a server keeps of its own is its owner's to say; it survives us.
            #[cfg(feature = "redis")]
            Backend::Redis(_) => "D1",
        }
    }

    /// Whether decisions go into a ledger: then the door should fill in [`Inputs::action`].
    pub fn keeps_ledger(&self) -> bool {
        match &self.0.store {
            Backend::Memory(_) => false,
            Backend::Sqlite(store) => store.keeps_ledger(),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.keeps_ledger(),
        }
    }

    /// Whether a decision may wait for a disk: then it must not be made on an event loop, nor with a lock held that
    /// others need meanwhile.
    pub fn waits(&self) -> bool {
        self.memory().is_none()
    }

    /// Decides an action over all its gates and takes what it needs. [`Inputs::period_ends`] is filled in here.
    #[inline]
    pub fn admit(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> Admitted {
        match self.decide(policy, inputs) {
            Decided::Allowed(permit) => Admitted { admission: Admission::allow(), permit },
            Decided::Noted(admitted) => *admitted,
        }
    }

    /// The same as [`admit`](Self::admit) in a form that costs an allowed action nothing: what there is to say about
    /// any other is behind a box. A store that cannot answer is a refusal of the code `store_error`.
    #[inline]
    pub fn decide(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> Decided {
        let Backend::Memory(store) = &self.0.store else { return self.decide_elsewhere(policy, inputs) };
        let now = self.now();
        store.expire_due(now);
        if let Some(limit) = &policy.only_limit
            && store.admit_call(limit, inputs, now)
        {
            return Decided::Allowed(None);
        }
        decide_in_memory(store, policy, inputs, now)
    }

    #[cold]
    fn decide_elsewhere(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> Decided {
        let step = Step::Admit(Arc::clone(policy), OwnedInputs::from(inputs));
        decided(self.run_one(step))
    }

    /// Decides an action without taking anything, and says where its meters stand.
    pub fn peek(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> (Admission, Vec<MeterStatus>) {
        let store = match &self.0.store {
            Backend::Memory(store) => store,
            _ => {
                let step = Step::Peek(Arc::clone(policy), OwnedInputs::from(inputs));
                return match self.run_one(step) {
                    Ok(StepResult::Peeked(admission, status)) => (admission, status),
                    other => (refusal_of(other), Vec::new()),
                };
            }
        };
        let now = self.now();
        store.expire_due(now);
        let period_ends = policy.period_ends(now);
        let inputs = Inputs { period_ends: &period_ends, ..*inputs };
        store.peek(admission::plan(&policy.policy, &inputs), now)
    }

    /// Commits owned steps in their order, as doors with a batch of their own do.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub async fn submit(&self, steps: Vec<Step>) -> Result<Vec<StepResult>, StoreError> {
        let answer = Arc::new(Answer::default());
        let sender = Arc::clone(&answer);
        self.submit_then(steps, Box::new(move |results| sender.put(results)));
        answer.future().await
    }

    /// Commits owned steps in their order without waiting: `then` is called when that is done or has failed, at once
    /// or from another thread. It must not wait for anything.
    pub fn submit_then(&self, steps: Vec<Step>, then: Box<dyn FnOnce(Results) + Send>) {
        if let Err(error) = self.may_run(&steps) {
            return then(Err(error));
        }
        match &self.0.store {
            Backend::Memory(store) => {
                let now = self.now();
                store.expire_due(now);
                then(Ok(steps.iter().map(|step| store.run(step, now)).collect()));
            }
            Backend::Sqlite(store) => store.run_then(steps, then),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.run_then(steps, then),
        }
    }

    /// Whether a step may run: an engine that only looks runs none that decides or changes anything.
    fn may_run(&self, steps: &[Step]) -> Result<(), StoreError> {
        if self.0.only_looks && !steps.iter().all(|step| matches!(step, Step::Peek(..))) {
            return Err(StoreError::NotCommitted("this engine only looks".to_owned()));
        }
        Ok(())
    }

    /// Runs one step and waits for it.
    fn run_one(&self, step: Step) -> Result<StepResult, StoreError> {
        let lost = || StoreError::Unknown("the store gave no result".to_owned());
        self.may_run(std::slice::from_ref(&step))?;
        match &self.0.store {
            Backend::Memory(store) => Ok(store.run(&step, self.now())),
            Backend::Sqlite(store) => store.run(vec![step])?.pop().ok_or_else(lost),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.run(vec![step])?.pop().ok_or_else(lost),
        }
    }

    /// Has a step run that nobody waits for.
    fn run_unwaited(&self, step: Step) -> Result<(), StoreError> {
        self.may_run(std::slice::from_ref(&step))?;
        match &self.0.store {
            Backend::Memory(store) => drop(store.run(&step, self.now())),
            Backend::Sqlite(store) => store.run_unwaited(vec![step])?,
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.run_unwaited(vec![step])?,
        }
        Ok(())
    }

    fn settled(result: Result<StepResult, StoreError>) -> Result<(), SettleError> {
        match result? {
            StepResult::Refused(error) => Err(error.into()),
            StepResult::Failed(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn done(result: Result<StepResult, StoreError>) -> Result<bool, StoreError> {
        match result? {
            StepResult::Failed(error) => Err(error),
            result => Ok(matches!(result, StepResult::Done)),
        }
    }

    /// Marks a reserved action as started.
    ///
    /// # Errors
    /// The permit is not reserved any more, or the store did not commit.
    pub fn start(&self, permit: PermitId) -> Result<(), SettleError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.start(permit, self.now())?),
            _ => Self::settled(self.run_one(Step::Start(permit))),
        }
    }

    /// Gives back everything: the action was admitted and did not start.
    ///
    /// # Errors
    /// The action has started, the permit is finished, or the store did not commit.
    pub fn release(&self, permit: PermitId) -> Result<(), SettleError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.release(permit, self.now())?),
            _ => Self::settled(self.run_one(Step::Release(permit))),
        }
    }

    /// Settles everything an action held.
    ///
    /// # Errors
    /// The permit is finished, or a cost is negative or does not fit: the permit stays open then. Or the store did not
    /// commit.
    pub fn finish(&self, permit: PermitId, settlement: &Settlement<'_>) -> Result<(), SettleError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.finish(permit, settlement, self.now())?),
            _ => {
                let settlement = OwnedSettlement {
                    outcome: settlement.outcome.clone(),
                    health: settlement.health,
                    actual: settlement.actual.to_vec(),
                };
                if permit.is_light() {
                    return Ok(self.run_unwaited(Step::Finish(permit, settlement))?);
                }
                Self::settled(self.run_one(Step::Finish(permit, settlement)))
            }
        }
    }

    /// Says what became of an operation in doubt: of one `run` of it, as a look-up found, or of whichever is. `false`
    /// when there is none in doubt under this key.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn resolve(
        &self,
        key: KeyRef<'_>,
        run: Option<Run>,
        state: OperationState,
    ) -> Result<bool, StoreError> {
        Self::done(self.run_one(Step::Resolve(Key::new(key), run, state)))
    }

    /// Records a proved value for `keep`; `false` at the cap on live keys.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn prove(&self, key: KeyRef<'_>, keep: Span) -> Result<bool, StoreError> {
        let now = self.now();
        let fact = Fact { proved: now, expires: now.after(keep), entry: None };
        Self::done(self.run_one(Step::Prove(Key::new(key), fact)))
    }

    /// Records proved values in one step; returns how many had no room.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn prove_all(&self, proofs: Vec<Step>) -> Result<usize, StoreError> {
        self.may_run(&proofs)?;
        let results = match &self.0.store {
            Backend::Memory(store) => {
                let now = self.now();
                proofs.iter().map(|step| store.run(step, now)).collect()
            }
            Backend::Sqlite(store) => store.run(proofs)?,
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.run(proofs)?,
        };
        let mut lost = 0;
        for result in results {
            lost += usize::from(!Self::done(Ok(result))?);
        }
        Ok(lost)
    }

    /// Forgets what a meter spent, or closes a breaker; what is held stays held. `false` when there is no record.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn reset(&self, kind: RecordKind, key: KeyRef<'_>) -> Result<bool, StoreError> {
        Self::done(self.run_one(Step::Reset(kind, Key::new(key))))
    }

    /// Resets every record of a family; returns how many.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn reset_all(&self, kind: RecordKind, family: Family) -> Result<usize, StoreError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.reset_all(kind, family)),
            Backend::Sqlite(store) => store.reset_all(kind, family),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.reset_all(kind, family),
        }
    }

    /// At most `limit` records of a kind after a cursor, and where to go on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self, kind: RecordKind, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.scan(kind, after, limit, self.now())),
            Backend::Sqlite(store) => store.scan(kind, after, limit),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.scan(kind, &after, limit),
        }
    }

    /// Removes every idle record and moves on every permit whose lease has ended; returns how many records went.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn collect(&self) -> Result<usize, StoreError> {
        match &self.0.store {
            Backend::Memory(store) => {
                let now = self.now();
                store.expire_due(now);
                Ok(store.collect(now))
            }
            Backend::Sqlite(store) => store.collect(),
            #[cfg(feature = "redis")]
            Backend::Redis(store) => store.collect(),
        }
    }
}

fn decide_in_memory(
    store: &MemoryStore,
    policy: &CompiledPolicy,
    inputs: &Inputs<'_>,
    now: Timestamp,
) -> Decided {
    let period_ends = policy.period_ends(now);
    let with_ends;
    let inputs = if period_ends.is_empty() {
        inputs
    } else {
        with_ends = Inputs { period_ends: &period_ends, ..*inputs };
        &with_ends
    };
    let (admission, permit) = store.admit(admission::plan(&policy.policy, inputs), now);
    noted(admission, permit)
}

fn noted(admission: Admission, permit: Option<PermitId>) -> Decided {
    if admission.verdict == Verdict::Allow && admission.observed.is_empty() && admission.crossed.is_empty() {
        return Decided::Allowed(permit);
    }
    Decided::Noted(Box::new(Admitted { admission, permit }))
}

/// What the result of a [`Step::Admit`] decides; a store that cannot answer refuses.
pub fn decided(result: Result<StepResult, StoreError>) -> Decided {
    match result {
        Ok(StepResult::Admitted(admission, permit)) => noted(admission, permit),
        other => noted(refusal_of(other), None),
    }
}

fn refusal_of(result: Result<StepResult, StoreError>) -> Admission {
    let text = match result {
        Err(error) | Ok(StepResult::Failed(error)) => error.to_string(),
        Ok(_) => "the store gave another result than was asked for".to_owned(),
    };
    Admission::store_error(Code::StoreError, &text)
}
