//! The engine: policies compiled against one store and one clock, and the way through `admit`, run, `finish`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};

use checkrein_core::admission::{self, Admission, Inputs, PermitError, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::MeterStatus;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::permit::Settlement;
use checkrein_core::policy::{
    Attempts, BreakerSpec, Budget, Charge, Check, FactSpec, Gate, KeySlot, Leases, Limit, Mode, Once, Policy,
    PolicyError, RecordKind,
};
use checkrein_core::time::{Span, Timestamp, Window};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::calendar::Calendar;
use crate::clock::Clock;
use crate::store::durable::FamilyKey;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::{Results, SqliteStore};
use crate::store::{Cursor, OwnedInputs, OwnedSettlement, Page, PermitId, Step, StepResult, StoreError};

/// The live keys per tenant and gate, unless the builder says otherwise.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;

/// Over which stretch of time a gate counts, as policies write it.
#[derive(Clone, Debug)]
pub enum WindowSpec {
    /// The last stretch of this length.
    Rolling(Span),
    /// The current calendar period.
    Calendar(Calendar),
    /// All time.
    Lifetime,
}

impl WindowSpec {
    fn window(&self) -> Window {
        match self {
            Self::Rolling(length) => Window::Rolling(*length),
            Self::Calendar(_) => Window::Period,
            Self::Lifetime => Window::Lifetime,
        }
    }

    fn calendar(&self) -> Option<&Calendar> {
        match self {
            Self::Calendar(calendar) => Some(calendar),
            Self::Rolling(_) | Self::Lifetime => None,
        }
    }
}

/// A gate as a policy writes it. `key` and `cost` are positions in [`Inputs::keys`] and [`Inputs::costs`].
#[derive(Clone, Debug)]
pub struct GateSpec {
    /// Its name, in reasons and for sharing: two gates of one kind, name, unit and window count on the same records.
    pub name: String,
    /// Whether its refusals hold.
    pub mode: Mode,
    /// What it checks.
    pub kind: GateSpecKind,
}

/// What a gate checks, as a policy writes it.
#[derive(Clone, Debug)]
pub enum GateSpecKind {
    /// A condition whose verdict comes in at this position of [`Inputs::verdicts`].
    Rule {
        /// The position.
        verdict: u16,
    },
    /// A value that must have been proved.
    Fact {
        /// Which key.
        key: u16,
    },
    /// At most one run per key.
    Once {
        /// How long a result is kept for replay.
        keep_result: Span,
        /// How long the key is remembered.
        keep_key: Span,
    },
    /// A circuit breaker.
    Breaker {
        /// Which key.
        key: u16,
        /// Consecutive failures that open it.
        max_fails: u32,
        /// How long it stays open.
        reset: Span,
        /// Probes let through half-open.
        probes: u32,
        /// How long a probe may take.
        probe_lease: Span,
    },
    /// A bounded number of attempts.
    Attempts {
        /// Which key.
        key: u16,
        /// The most attempts.
        max: u64,
    },
    /// A rate limit.
    Limit {
        /// Which key.
        key: u16,
        /// The most calls in the window.
        max_calls: u64,
        /// The window.
        window: WindowSpec,
        /// What must pass between two calls.
        cooldown: Span,
    },
    /// A budget.
    Budget {
        /// Which key.
        key: u16,
        /// The most that may be spent and held.
        limit: Amount,
        /// What is counted.
        unit: Unit,
        /// The window.
        window: WindowSpec,
        /// Which cost.
        cost: u16,
        /// How it is taken.
        charge: Charge,
        /// Refuses bounds that are only estimated.
        hard: bool,
    },
}

/// A policy compiled against an engine.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: Policy,
    /// The policy is this one enforced rate limit and nothing else.
    only_limit: Option<Limit>,
    /// By position of the gate; empty when no window is a calendar period.
    calendars: Vec<Option<Calendar>>,
    /// The gates in words, for the ledger, and the digest of these.
    text: String,
    digest: [u8; 32],
}

impl CompiledPolicy {
    /// The core's policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The gates in words, one a line, as the ledger keeps them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of [`text`](Self::text).
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The ends of the calendar periods that `now` lies in, by position of the gate.
    #[inline]
    pub fn period_ends(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        let end =
            |calendar: &Option<Calendar>| calendar.as_ref().map_or(Timestamp::MIN, |c| c.period_end(now));
        self.calendars.iter().map(end).collect()
    }
}

/// What an engine knows about a family of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyInfo {
    /// Its number.
    pub family: Family,
    /// The kind of record.
    pub kind: RecordKind,
    /// The gate's name.
    pub name: String,
    /// What a meter counts.
    pub unit: Option<Unit>,
    /// A meter's window.
    pub window: Option<Window>,
}

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
}

/// Where an engine keeps its records. An enum: the way through the memory store is nanoseconds long.
#[derive(Debug)]
enum Backend {
    Memory(MemoryStore),
    Sqlite(SqliteStore),
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A gate cannot work as written.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store does not know its families.
    #[error(transparent)]
    Store(#[from] StoreError),
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
}

impl EngineBuilder {
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

    /// The engine.
    pub fn build(self) -> Engine {
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
        Engine(Arc::new(Inner { store, clock, families: Mutex::default() }))
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
            Backend::Sqlite(_) => None,
        }
    }

    /// The engine's store, if it is a SQLite file.
    pub fn sqlite(&self) -> Option<&SqliteStore> {
        match &self.0.store {
            Backend::Memory(_) => None,
            Backend::Sqlite(store) => Some(store),
        }
    }

    /// What a decision survives: `D0` nothing, `D2` the process and, on a disk that keeps what it acknowledges, the
    /// machine.
    pub fn durability(&self) -> &'static str {
        match &self.0.store {
            Backend::Memory(_) => "D0",
            Backend::Sqlite(_) => "D2",
        }
    }

    /// Whether decisions go into a ledger: then the door should fill in [`Inputs::action`].
    pub fn keeps_ledger(&self) -> bool {
        self.sqlite().is_some_and(SqliteStore::keeps_ledger)
    }

    /// Whether a decision may wait for a disk: then it must not be made on an event loop, nor with a lock held that
    /// others need meanwhile.
    pub fn waits(&self) -> bool {
        self.sqlite().is_some()
    }

    /// Compiles gates into a policy of this engine.
    ///
    /// # Errors
    /// A gate that cannot work as written, or a store that is not to be had.
    pub fn compile(&self, gates: Vec<GateSpec>, leases: Leases) -> Result<Arc<CompiledPolicy>, CompileError> {
        let text = describe(&gates, leases);
        let digest = Sha256::digest(&text).into();
        let mut compiled = Vec::with_capacity(gates.len());
        let mut calendars = BTreeMap::new();
        for spec in gates {
            let (check, calendar) = self.check_of(&spec)?;
            if let (Some((_, family, _)), Some(calendar)) = (check.record(), calendar) {
                calendars.insert(family, calendar);
            }
            compiled.push(Gate { name: spec.name.into(), mode: spec.mode, check });
        }
        let policy = Policy::new(compiled, leases)?;
        let calendar_of =
            |gate: &Gate| gate.check.record().and_then(|(_, family, _)| calendars.get(&family).cloned());
        let calendars =
            if calendars.is_empty() { Vec::new() } else { policy.gates().iter().map(calendar_of).collect() };
        let only_limit = match policy.gates() {
            [Gate { mode: Mode::Enforce, check: Check::Limit(limit), .. }] if calendars.is_empty() => {
                Some(limit.clone())
            }
            _ => None,
        };
        Ok(Arc::new(CompiledPolicy { policy, only_limit, calendars, text, digest }))
    }

    fn check_of(&self, spec: &GateSpec) -> Result<(Check, Option<Calendar>), StoreError> {
        let plain = |kind| self.family(kind, &spec.name, None, None, Span::ZERO);
        Ok(match &spec.kind {
            GateSpecKind::Rule { verdict } => (Check::Rule(*verdict), None),
            GateSpecKind::Fact { key } => {
                (Check::Fact(FactSpec { family: plain(RecordKind::Fact)?, key: KeySlot(*key) }), None)
            }
            GateSpecKind::Once { keep_result, keep_key } => {
                let family = plain(RecordKind::Operation)?;
                (Check::Once(Once { family, keep_result: *keep_result, keep_key: *keep_key }), None)
            }
            GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease } => {
                let breaker = BreakerSpec {
                    family: plain(RecordKind::Breaker)?,
                    key: KeySlot(*key),
                    max_fails: *max_fails,
                    reset: *reset,
                    probes: *probes,
                    probe_lease: *probe_lease,
                };
                (Check::Breaker(breaker), None)
            }
            GateSpecKind::Attempts { key, max } => {
                let window = Some(&WindowSpec::Lifetime);
                let name = format!("attempts:{}", spec.name);
                let family = self.family(RecordKind::Meter, &name, Some(Unit::Calls), window, Span::ZERO)?;
                (Check::Attempts(Attempts { family, key: KeySlot(*key), max: *max }), None)
            }
            GateSpecKind::Limit { key, max_calls, window, cooldown } => {
                let name = format!("limit:{}", spec.name);
                let family =
                    self.family(RecordKind::Meter, &name, Some(Unit::Calls), Some(window), *cooldown)?;
                let limit = Limit {
                    family,
                    key: KeySlot(*key),
                    max_calls: *max_calls,
                    window: window.window(),
                    cooldown: *cooldown,
                };
                (Check::Limit(limit), window.calendar().cloned())
            }
            GateSpecKind::Budget { key, limit, unit, window, cost, charge, hard } => {
                let name = format!("budget:{}", spec.name);
                let family = self.family(RecordKind::Meter, &name, Some(*unit), Some(window), Span::ZERO)?;
                let budget = Budget {
                    family,
                    key: KeySlot(*key),
                    limit: *limit,
                    unit: *unit,
                    window: window.window(),
                    cost: *cost,
                    charge: *charge,
                    hard: *hard,
                };
                (Check::Budget(budget), window.calendar().cloned())
            }
        })
    }

    /// The family of a definition; the same one for the same definition.
    fn family(
        &self,
        kind: RecordKind,
        name: &str,
        unit: Option<Unit>,
        window: Option<&WindowSpec>,
        cooldown: Span,
    ) -> Result<Family, StoreError> {
        let calendar = window.and_then(WindowSpec::calendar);
        let key = FamilyKey {
            kind,
            name: name.to_owned(),
            unit,
            window: window.map(WindowSpec::window),
            calendar: calendar.map(|c| (c.period().name(), c.zone().to_owned())),
        };
        let mut families = self.0.families.lock();
        match &self.0.store {
            Backend::Memory(store) => {
                let next = Family(u32::try_from(families.len()).unwrap_or(u32::MAX - 1));
                let family = *families.entry(key).or_insert(next);
                let window = window.map_or(Window::Lifetime, WindowSpec::window);
                store.retain(family, window, cooldown, calendar);
                Ok(family)
            }
            Backend::Sqlite(store) => {
                let family = store.family(key.clone(), cooldown)?;
                families.insert(key, family);
                Ok(family)
            }
        }
    }

    /// What this engine counts, by family.
    pub fn families(&self) -> Vec<FamilyInfo> {
        let families = self.0.families.lock();
        let info = |(key, family): (&FamilyKey, &Family)| FamilyInfo {
            family: *family,
            kind: key.kind,
            name: match key.kind {
                // Meters are kept under the kind of their gate and its name.
                RecordKind::Meter => key.name.split_once(':').map_or(key.name.as_str(), |(_, name)| name),
                _ => key.name.as_str(),
            }
            .to_owned(),
            unit: key.unit,
            window: key.window,
        };
        families.iter().map(info).collect()
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
        let Backend::Memory(store) = &self.0.store else { return self.decide_on_disk(policy, inputs) };
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
    fn decide_on_disk(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> Decided {
        let step = Step::Admit(Arc::clone(policy), OwnedInputs::from(inputs));
        decided(self.run_one(step))
    }

    /// Decides an action without taking anything, and says where its meters stand.
    pub fn peek(&self, policy: &Arc<CompiledPolicy>, inputs: &Inputs<'_>) -> (Admission, Vec<MeterStatus>) {
        let store = match &self.0.store {
            Backend::Memory(store) => store,
            Backend::Sqlite(_) => {
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
        match &self.0.store {
            Backend::Memory(store) => {
                let now = self.now();
                store.expire_due(now);
                then(Ok(steps.iter().map(|step| store.run(step, now)).collect()));
            }
            Backend::Sqlite(store) => store.run_then(steps, then),
        }
    }

    /// Runs one step and waits for it.
    fn run_one(&self, step: Step) -> Result<StepResult, StoreError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.run(&step, self.now())),
            Backend::Sqlite(store) => {
                let lost = || StoreError::Unknown("the store gave no result".to_owned());
                store.run(vec![step])?.pop().ok_or_else(lost)
            }
        }
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
            Backend::Sqlite(_) => Self::settled(self.run_one(Step::Start(permit))),
        }
    }

    /// Gives back everything: the action was admitted and did not start.
    ///
    /// # Errors
    /// The action has started, the permit is finished, or the store did not commit.
    pub fn release(&self, permit: PermitId) -> Result<(), SettleError> {
        match &self.0.store {
            Backend::Memory(store) => Ok(store.release(permit, self.now())?),
            Backend::Sqlite(_) => Self::settled(self.run_one(Step::Release(permit))),
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
            Backend::Sqlite(store) => {
                let settlement = OwnedSettlement {
                    outcome: settlement.outcome.clone(),
                    health: settlement.health,
                    actual: settlement.actual.to_vec(),
                };
                if permit.is_light() {
                    return Ok(store.run_unwaited(vec![Step::Finish(permit, settlement)])?);
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
        let fact = Fact { proved: now, expires: now.after(keep) };
        Self::done(self.run_one(Step::Prove(Key::new(key), fact)))
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
    if admission.verdict == Verdict::Allow && admission.observed.is_empty() {
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

/// A result that comes later, for those who await it.
#[derive(Debug, Default)]
struct Answer(Mutex<(Option<Results>, Option<Waker>)>);

impl Answer {
    fn put(&self, results: Results) {
        let mut state = self.0.lock();
        state.0 = Some(results);
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    async fn future(&self) -> Results {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            match state.0.take() {
                Some(results) => Poll::Ready(results),
                None => {
                    state.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A policy in words: the same words for the same gates.
fn describe(gates: &[GateSpec], leases: Leases) -> String {
    use std::fmt::Write as _;
    let window = |window: &WindowSpec| match window {
        WindowSpec::Rolling(length) => format!("per {length}"),
        WindowSpec::Calendar(calendar) => {
            format!("per calendar {} in {}", calendar.period().name(), calendar.zone())
        }
        WindowSpec::Lifetime => "ever".to_owned(),
    };
    let mut text = String::new();
    for GateSpec { name, mode, kind } in gates {
        let what = match kind {
            GateSpecKind::Rule { verdict } => format!("rule {verdict}"),
            GateSpecKind::Fact { key } => format!("fact of key {key}"),
            GateSpecKind::Once { keep_result, keep_key } => {
                format!("once, result kept {keep_result}, key kept {keep_key}")
            }
            GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease } => format!(
                "breaker of key {key}: {max_fails} failures, {reset} pause, {probes} probes of {probe_lease}"
            ),
            GateSpecKind::Attempts { key, max } => format!("attempts of key {key}: {max}"),
            GateSpecKind::Limit { key, max_calls, window: over, cooldown } => {
                format!("limit of key {key}: {max_calls} calls {}, cooldown {cooldown}", window(over))
            }
            GateSpecKind::Budget { key, limit, unit, window: over, cost, charge, hard } => format!(
                "budget of key {key}: {limit} {unit} {}, cost {cost} {}{}",
                window(over),
                if *charge == Charge::Hold { "held" } else { "fixed" },
                if *hard { ", hard" } else { "" },
            ),
        };
        let mode = if *mode == Mode::Observe { " (observed)" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} `{}`{mode}: {what}", kind.name(), name.escape_debug());
    }
    let Leases { reserved, started, in_doubt } = leases;
    let _ = writeln!(text, "leases: reserved {reserved}, started {started}, in doubt {in_doubt}");
    text
}

impl GateSpecKind {
    const fn name(&self) -> &'static str {
        match self {
            Self::Rule { .. } => "rule",
            Self::Fact { .. } => "fact",
            Self::Once { .. } => "once",
            Self::Breaker { .. } => "breaker",
            Self::Attempts { .. } => "attempts",
            Self::Limit { .. } => "limit",
            Self::Budget { .. } => "budget",
        }
    }
}
