//! The engine: policies compiled against one store and one clock, and the way through `admit`, run, `finish`.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkrein_core::admission::{self, Admission, Inputs, PermitError, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::MeterStatus;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::permit::Settlement;
use checkrein_core::policy::{
    Attempts, BreakerSpec, Budget, Charge, Check, FactSpec, Gate, KeySlot, Leases, Limit, Mode, Once, Policy,
    PolicyError, RecordKind,
};
use checkrein_core::time::{Span, Timestamp, Window};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::calendar::Calendar;
use crate::clock::Clock;
use crate::store::memory::MemoryStore;
use crate::store::{Batch, Cursor, Page, PermitId, Step, StepResult, Store, StoreError};

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
}

impl CompiledPolicy {
    /// The core's policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The ends of the calendar periods that `now` lies in, by position of the gate.
    #[inline]
    pub fn period_ends(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        let end =
            |calendar: &Option<Calendar>| calendar.as_ref().map_or(Timestamp::MIN, |c| c.period_end(now));
        self.calendars.iter().map(end).collect()
    }
}

/// The records of one gate, across policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FamilyKey {
    kind: RecordKind,
    name: String,
    unit: Option<Unit>,
    window: Option<Window>,
    calendar: Option<(&'static str, String)>,
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
    store: MemoryStore,
    clock: Clock,
    families: Mutex<BTreeMap<FamilyKey, Family>>,
}

/// Configures an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    clock: Option<Clock>,
    max_keys: Option<usize>,
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

    /// The engine.
    pub fn build(self) -> Engine {
        let store = MemoryStore::new(self.max_keys.unwrap_or(DEFAULT_MAX_KEYS));
        Engine(Arc::new(Inner { store, clock: self.clock.unwrap_or_default(), families: Mutex::default() }))
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

    /// The engine's store.
    pub fn store(&self) -> &MemoryStore {
        &self.0.store
    }

    /// Compiles gates into a policy of this engine.
    ///
    /// # Errors
    /// A gate that cannot work as written; see [`PolicyError`].
    pub fn compile(&self, gates: Vec<GateSpec>, leases: Leases) -> Result<Arc<CompiledPolicy>, PolicyError> {
        let mut compiled = Vec::with_capacity(gates.len());
        let mut calendars = BTreeMap::new();
        for spec in gates {
            let (check, calendar) = self.check_of(&spec);
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
        Ok(Arc::new(CompiledPolicy { policy, only_limit, calendars }))
    }

    fn check_of(&self, spec: &GateSpec) -> (Check, Option<Calendar>) {
        let plain = |kind| self.family(kind, &spec.name, None, None, Span::ZERO);
        match &spec.kind {
            GateSpecKind::Rule { verdict } => (Check::Rule(*verdict), None),
            GateSpecKind::Fact { key } => {
                (Check::Fact(FactSpec { family: plain(RecordKind::Fact), key: KeySlot(*key) }), None)
            }
            GateSpecKind::Once { keep_result, keep_key } => {
                let family = plain(RecordKind::Operation);
                (Check::Once(Once { family, keep_result: *keep_result, keep_key: *keep_key }), None)
            }
            GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease } => {
                let breaker = BreakerSpec {
                    family: plain(RecordKind::Breaker),
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
                let family = self.family(RecordKind::Meter, &name, Some(Unit::Calls), window, Span::ZERO);
                (Check::Attempts(Attempts { family, key: KeySlot(*key), max: *max }), None)
            }
            GateSpecKind::Limit { key, max_calls, window, cooldown } => {
                let name = format!("limit:{}", spec.name);
                let family =
                    self.family(RecordKind::Meter, &name, Some(Unit::Calls), Some(window), *cooldown);
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
                let family = self.family(RecordKind::Meter, &name, Some(*unit), Some(window), Span::ZERO);
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
        }
    }

    /// The family of a definition; the same one for the same definition.
    fn family(
        &self,
        kind: RecordKind,
        name: &str,
        unit: Option<Unit>,
        window: Option<&WindowSpec>,
        cooldown: Span,
    ) -> Family {
        let calendar = window.and_then(WindowSpec::calendar);
        let key = FamilyKey {
            kind,
            name: name.to_owned(),
            unit,
            window: window.map(WindowSpec::window),
            calendar: calendar.map(|c| (c.period().name(), c.zone().to_owned())),
        };
        let mut families = self.0.families.lock();
        let next = Family(u32::try_from(families.len()).unwrap_or(u32::MAX - 1));
        let family = *families.entry(key).or_insert(next);
        let window = window.map_or(Window::Lifetime, WindowSpec::window);
        self.0.store.retain(family, window, cooldown, calendar);
        family
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
    pub fn admit(&self, policy: &CompiledPolicy, inputs: &Inputs<'_>) -> Admitted {
        match self.decide(policy, inputs) {
            Decided::Allowed(permit) => Admitted { admission: Admission::allow(), permit },
            Decided::Noted(admitted) => *admitted,
        }
    }

    /// The same as [`admit`](Self::admit) in a form that costs an allowed action nothing: what there is to say about
    /// any other is behind a box.
    #[inline]
    pub fn decide(&self, policy: &CompiledPolicy, inputs: &Inputs<'_>) -> Decided {
        let now = self.now();
        self.0.store.expire_due(now);
        if let Some(limit) = &policy.only_limit
            && self.0.store.admit_call(limit, inputs, now)
        {
            return Decided::Allowed(None);
        }
        self.decide_all(policy, inputs, now)
    }

    fn decide_all(&self, policy: &CompiledPolicy, inputs: &Inputs<'_>, now: Timestamp) -> Decided {
        let period_ends = policy.period_ends(now);
        let with_ends;
        let inputs = if period_ends.is_empty() {
            inputs
        } else {
            with_ends = Inputs { period_ends: &period_ends, ..*inputs };
            &with_ends
        };
        let (admission, permit) = self.0.store.admit(admission::plan(&policy.policy, inputs), now);
        if admission.verdict == Verdict::Allow && admission.observed.is_empty() {
            return Decided::Allowed(permit);
        }
        Decided::Noted(Box::new(Admitted { admission, permit }))
    }

    /// Decides an action without taking anything, and says where its meters stand.
    pub fn peek(&self, policy: &CompiledPolicy, inputs: &Inputs<'_>) -> (Admission, Vec<MeterStatus>) {
        let now = self.now();
        self.0.store.expire_due(now);
        let period_ends = policy.period_ends(now);
        let inputs = Inputs { period_ends: &period_ends, ..*inputs };
        self.0.store.peek(admission::plan(&policy.policy, &inputs), now)
    }

    /// Commits owned steps in their order, as doors with a batch of their own do.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub async fn submit(&self, steps: Vec<Step>) -> Result<Vec<StepResult>, StoreError> {
        let now = self.now();
        self.0.store.expire_due(now);
        Store::submit(&self.0.store, Batch { now, steps }).await
    }

    /// Marks a reserved action as started.
    ///
    /// # Errors
    /// The permit is not reserved any more.
    pub fn start(&self, permit: PermitId) -> Result<(), PermitError> {
        self.0.store.start(permit, self.now())
    }

    /// Gives back everything: the action was admitted and did not start.
    ///
    /// # Errors
    /// The action has started, or the permit is finished.
    pub fn release(&self, permit: PermitId) -> Result<(), PermitError> {
        self.0.store.release(permit, self.now())
    }

    /// Settles everything an action held.
    ///
    /// # Errors
    /// The permit is finished, or a cost is negative or does not fit: the permit stays open then.
    pub fn finish(&self, permit: PermitId, settlement: &Settlement<'_>) -> Result<(), PermitError> {
        self.0.store.finish(permit, settlement, self.now())
    }

    /// Says what became of an operation in doubt: of one `run` of it, as a look-up found, or of whichever is. `false`
    /// when there is none in doubt under this key.
    pub fn resolve(&self, key: KeyRef<'_>, run: Option<Run>, state: OperationState) -> bool {
        self.0.store.resolve(key, run, state, self.now())
    }

    /// Records a proved value for `keep`; `false` at the cap on live keys.
    pub fn prove(&self, key: KeyRef<'_>, keep: Span) -> bool {
        let now = self.now();
        self.0.store.prove(key, Fact { proved: now, expires: now.after(keep) })
    }

    /// Forgets what a meter spent, or closes a breaker; what is held stays held. `false` when there is no record.
    pub fn reset(&self, kind: RecordKind, key: KeyRef<'_>) -> bool {
        self.0.store.reset(kind, key)
    }

    /// Resets every record of a family; returns how many.
    pub fn reset_all(&self, kind: RecordKind, family: Family) -> usize {
        self.0.store.reset_all(kind, family)
    }

    /// At most `limit` records of a kind after a cursor, and where to go on.
    pub fn list(&self, kind: RecordKind, after: Cursor, limit: usize) -> Page {
        self.0.store.scan(kind, after, limit, self.now())
    }

    /// Removes every idle record and moves on every permit whose lease has ended; returns how many records went.
    pub fn collect(&self) -> usize {
        let now = self.now();
        self.0.store.expire_due(now);
        self.0.store.collect(now)
    }
}
