//! The native half of `checkrein.Engine`, and the fake clock.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use checkrein::clock::{Clock, FakeClock as CoreFakeClock};
use checkrein::config::{Policies, PolicyError, PolicyFile};
use checkrein::engine::{Engine as CoreEngine, FamilyInfo};
use checkrein::store::durable::FamilyKey;
use checkrein::store::{Cursor, RecordState};
use checkrein_core::gate::breaker::Phase;
use checkrein_core::gate::once::OperationState;
use checkrein_core::key::{Family, KeyRef, encode_parts};
use checkrein_core::meter::Allowance;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::convert::{self, Unusable};
use crate::error;
use crate::opening::{self, Options};
use crate::operation::{self, Operation};
use crate::place;
use crate::policy;

/// The policy of models where there is no file: scopes alone say what they may spend.
const UNFILED: &str = "version = 1\n[models.\"*\"]\n";

/// Counts the forks this process is a child of: an engine of another count was made by a parent.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The count of this process: what was admitted under another one is a parent's to end.
#[inline]
pub(crate) fn generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Called by Python in every forked child.
#[pyfunction]
#[pyo3(name = "_after_fork")]
fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The engine of a Python object. Whoever lets go of it last waits until a store is closed, and other threads run
/// Python meanwhile.
#[derive(Debug)]
pub(crate) struct Held(ManuallyDrop<CoreEngine>);

impl Held {
    pub(crate) fn new(engine: CoreEngine) -> Self {
        Self(ManuallyDrop::new(engine))
    }
}

impl Deref for Held {
    type Target = CoreEngine;

    #[inline]
    fn deref(&self) -> &CoreEngine {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: taken once, here; nobody sees the place again.
        let engine = unsafe { ManuallyDrop::take(&mut self.0) };
        if engine.waits() {
            // An interpreter that is ending cannot be attached to; then there are no others to wait for.
            let _ = Python::try_attach(|py| py.detach(|| drop(engine)));
        }
    }
}

/// What guards read of their engine on every call, without touching a Python object.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Somebody wants to hear of decisions.
    pub(crate) listening: AtomicBool,
    /// Outcomes that nobody waited for and that were not committed.
    pub(crate) unrecorded: AtomicU64,
    /// Runs of this process that were stopped, or have a tenant of their own: guards have to ask what is around them.
    pub(crate) surroundings: AtomicUsize,
    born: u32,
    /// Its records are on a server: parent and child go on with them together.
    is_shared: bool,
}

impl Shared {
    /// Whether this process was forked from the one that made the engine, and must not go on with it.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.born != generation() && !self.is_shared
    }
}

/// A clock that stands still until it is moved; for tests.
#[pyclass(name = "FakeClock", module = "checkrein.testing", frozen)]
pub(crate) struct FakeClock(CoreFakeClock);

#[pymethods]
impl FakeClock {
    /// A clock that shows `start` seconds after 1970.
    #[new]
    #[pyo3(signature = (start = 1_000_000_000.0))]
    fn new(py: Python<'_>, start: f64) -> PyResult<Self> {
        Ok(Self(CoreFakeClock::new(Timestamp::from_nanos(nanos(py, start)?))))
    }

    /// What it shows, in seconds.
    fn now(&self) -> f64 {
        self.0.now().nanos() as f64 / 1e9
    }

    /// Moves it forward by a number of seconds.
    fn advance(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        if seconds < 0.0 {
            return Err(error::config(
                py,
                "a clock advances forwards",
                "duration",
                "use set() to step it back",
            ));
        }
        self.0.advance(Span::from_nanos(nanos(py, seconds)?));
        Ok(())
    }

    /// Sets it, also backwards.
    fn set(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.0.set(Timestamp::from_nanos(nanos(py, seconds)?));
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("FakeClock({})", self.now())
    }
}

fn nanos(py: Python<'_>, seconds: f64) -> PyResult<i64> {
    if seconds.abs() < 9e9 {
        return Ok((seconds * 1e9).round() as i64);
    }
    Err(error::config(py, "the time is out of range", "duration", "use a number of seconds below 9e9"))
}

/// Whether a forked child may go on: its records are on a server, and there is no file whose locks a fork would lose.
fn is_shared(engine: &CoreEngine) -> bool {
    engine.redis().is_some() && !engine.keeps_ledger()
}

/// Decides actions; `checkrein.Engine` is its Python half.
#[pyclass(name = "EngineBase", module = "checkrein._native", frozen, subclass, weakref)]
pub(crate) struct EngineBase {
    /// What its policy file says, if it has one. Before the engine, which is the last to be let go of.
    pub(crate) policies: Option<Policies>,
    /// What decides calls of models where there is no file: made when the first is asked for.
    unfiled: OnceLock<Result<Policies, PolicyError>>,
    pub(crate) engine: Held,
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: Arc<str>,
    pub(crate) tenant: String,
}

#[pymethods]
impl EngineBase {
    #[new]
    #[pyo3(signature = (
        store = None, clock = None, *, max_keys = None, name = "default", tenant = "", ledger_arguments = None,
        ledger_key = None, witness = None, prefix = None, deadline = None, accept_failover_loss = None, ledger = None,
        policy = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "one Python signature")]
    fn new(
        py: Python<'_>,
        store: Option<&Bound<'_, PyAny>>,
        clock: Option<&Bound<'_, PyAny>>,
        max_keys: Option<&Bound<'_, PyAny>>,
        name: &str,
        tenant: &str,
        ledger_arguments: Option<&str>,
        ledger_key: Option<PathBuf>,
        witness: Option<String>,
        prefix: Option<String>,
        deadline: Option<&Bound<'_, PyAny>>,
        accept_failover_loss: Option<bool>,
        ledger: Option<PathBuf>,
        policy: Option<PathBuf>,
    ) -> PyResult<Self> {
        let deadline = deadline.map(|deadline| opening::read_deadline(py, deadline)).transpose()?;
        let arguments = ledger_arguments.map(|word| place::arguments_of(py, word)).transpose()?;
        let clock = clock.map(|clock| read_clock(py, clock)).transpose()?;
        let max_keys = max_keys.map(|count| read_max_keys(py, count)).transpose()?;
        let options = Options {
            clock,
            max_keys,
            arguments,
            key: ledger_key,
            witness,
            prefix,
            deadline,
            accept_failover_loss,
            ledger,
        };
        let engine = opening::open(py, place::of(py, store)?, options)?;
        let policies = policy.map(|path| policy::load(py, &engine, &path)).transpose()?;
        let (listening, unrecorded) = (AtomicBool::new(false), AtomicU64::new(0));
        let shared = Shared {
            listening,
            unrecorded,
            surroundings: AtomicUsize::new(0),
            born: generation(),
            is_shared: is_shared(&engine),
        };
        Ok(Self {
            policies,
            unfiled: OnceLock::new(),
            engine: Held::new(engine),
            shared: Arc::new(shared),
            name: name.into(),
            tenant: tenant.to_owned(),
        })
    }

    /// Where its records are: `memory`, `sqlite:` and the file, or a server's URL without its secrets.
    #[getter]
    fn store(&self) -> String {
        if let Some(store) = self.engine.redis() {
            return store.shown().to_owned();
        }
        self.engine
            .sqlite()
            .map_or_else(|| "memory".to_owned(), |store| format!("sqlite:{}", store.path().display()))
    }

    /// Whether it keeps a ledger.
    #[getter]
    fn _keeps_ledger(&self) -> bool {
        self.engine.keeps_ledger()
    }

    /// Whether forked children go on with it.
    #[getter]
    fn _shared(&self) -> bool {
        is_shared(&self.engine)
    }

    /// Whether its decisions wait for a disk or a server.
    #[getter]
    fn _waits(&self) -> bool {
        self.engine.waits()
    }

    /// What its policy file is called; `None` without one.
    #[getter]
    fn _policy_name(&self) -> Option<String> {
        self.policies.as_ref().map(Policies::name)
    }

    /// The SHA-256 of the policy file that counts now, in hexadecimal digits; `None` without one.
    #[getter]
    fn policy_digest(&self) -> Option<String> {
        let digest = self.policies.as_ref()?.digest();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether the policy file has a budget of a name.
    fn _has_budget(&self, name: &str) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.has_budget(name))
    }

    /// Whether a section of the policy file covers a tool.
    fn _covers(&self, tool: &str) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.covers(tool))
    }

    /// Puts the policy file of a path in the place of the one that counts.
    fn _reload(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.check_fork(py)?;
        let Some(policies) = &self.policies else {
            let hint = "make it with Engine.from_policy(PATH)";
            return Err(error::config(py, "the engine has no policy file", "policy", hint));
        };
        py.detach(|| policies.reload(&path)).map_err(|problem| policy::unusable(py, &problem))
    }

    /// Outcomes of failed or cancelled coroutines that could not be committed: nobody waited for them. Their
    /// operations end in doubt, their costs are charged in full.
    #[getter]
    fn unrecorded_outcomes(&self) -> u64 {
        self.shared.unrecorded.load(Ordering::Relaxed)
    }

    /// The name the engine was given.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The tenant of actions that name none.
    #[getter]
    fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The engine's time in seconds since 1970.
    fn now(&self) -> f64 {
        self.engine.now().nanos() as f64 / 1e9
    }

    /// Whether decisions are announced.
    #[setter(_listening)]
    fn set_listening(&self, listening: bool) {
        self.shared.listening.store(listening, Ordering::Release);
    }

    /// Counts one more (or one fewer) run that guards have to ask about.
    fn _surround(&self, more: bool) {
        let count = &self.shared.surroundings;
        if more {
            count.fetch_add(1, Ordering::AcqRel);
        } else {
            // Whoever takes one back has counted it before.
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    #[getter(_listening)]
    fn listening(&self) -> bool {
        self.shared.listening.load(Ordering::Acquire)
    }

    /// Forgets idle records and moves on permits whose lease has ended; returns how many records went.
    fn collect(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_fork(py)?;
        py.detach(|| self.engine.collect()).map_err(|problem| error::store(py, &problem))
    }

    /// Raises when this process is a forked child of the engine's.
    fn _check_fork(&self, py: Python<'_>) -> PyResult<()> {
        self.check_fork(py)
    }

    /// Forgets what the gates of a name spent and closes its breakers: for one key, or for all. `exact`: the name is
    /// that of one gate.
    #[pyo3(signature = (name, key = None, tenant = None, exact = false))]
    fn _reset(
        &self,
        py: Python<'_>,
        name: &str,
        key: Option<&Bound<'_, PyAny>>,
        tenant: Option<&str>,
        exact: bool,
    ) -> PyResult<usize> {
        self.check_fork(py)?;
        let mut done = 0_usize;
        let families = self.families(py)?;
        for family in families.iter().filter(|family| belongs(&family.name, name, exact)) {
            if !matches!(family.kind, RecordKind::Meter | RecordKind::Breaker) {
                continue;
            }
            let Some(key) = key else {
                done = done.saturating_add(
                    py.detach(|| self.engine.reset_all(family.kind, family.family))
                        .map_err(|problem| error::store(py, &problem))?,
                );
                continue;
            };
            let bytes = encode_key(py, key)?;
            let tenant = tenant.unwrap_or(&self.tenant).as_bytes();
            let key = KeyRef { family: family.family, tenant, key: &bytes };
            let reset = py.detach(|| self.engine.reset(family.kind, key));
            done = done.saturating_add(usize::from(reset.map_err(|problem| error::store(py, &problem))?));
        }
        Ok(done)
    }

    /// Says what became of an operation in doubt.
    #[pyo3(signature = (name, key, state, result = None, tenant = None, exact = false))]
    #[expect(clippy::too_many_arguments, reason = "one Python signature")]
    fn _resolve(
        &self,
        py: Python<'_>,
        name: &str,
        key: &Bound<'_, PyAny>,
        state: &str,
        result: Option<Vec<u8>>,
        tenant: Option<&str>,
        exact: bool,
    ) -> PyResult<bool> {
        self.check_fork(py)?;
        let bytes = encode_key(py, key)?;
        let tenant = tenant.unwrap_or(&self.tenant).as_bytes();
        let families = self.families(py)?;
        let operations =
            families.iter().filter(|f| f.kind == RecordKind::Operation && belongs(&f.name, name, exact));
        for family in operations {
            let state = match state {
                "done" => OperationState::Done(result.as_deref().map(Arc::from)),
                _ => OperationState::FailedClean,
            };
            let key = KeyRef { family: family.family, tenant, key: &bytes };
            let resolved = py.detach(|| self.engine.resolve(key, None, state));
            if resolved.map_err(|problem| error::store(py, &problem))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// At most `limit` operations in doubt, those of one once gate or of all.
    #[pyo3(signature = (gate, limit))]
    fn _doubts(slf: &Bound<'_, Self>, gate: Option<&str>, limit: usize) -> PyResult<Vec<Operation>> {
        let base = slf.get();
        base.check_fork(slf.py())?;
        let families = base.families(slf.py())?;
        let (mut found, mut cursor) = (Vec::new(), Some(Cursor::default()));
        while let Some(after) = cursor.filter(|_| found.len() < limit) {
            let listed = slf.py().detach(|| base.engine.list(RecordKind::Operation, after, 256));
            let (records, next) = listed.map_err(|problem| error::store(slf.py(), &problem))?;
            for record in records {
                let family = record.key.borrow().family;
                let RecordState::Operation { state: OperationState::InDoubt, since, run } = record.state
                else {
                    continue;
                };
                let Some(family) = families.iter().find(|known| known.family == family) else { continue };
                if found.len() < limit && gate.is_none_or(|gate| gate == family.name) {
                    let owner = slf.clone().unbind();
                    let name = family.name.as_str().into();
                    let since = Some(since.nanos() as f64 / 1e9);
                    found.push(Operation::new(owner, name, record.key, "in_doubt").doubt(run, since, None));
                }
            }
            cursor = next;
        }
        Ok(found)
    }

    /// At most `limit` records of a kind (`meter`, `breaker`, `operation`, `fact`) as dicts.
    fn _list<'py>(&self, py: Python<'py>, kind: &str, limit: usize) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.check_fork(py)?;
        let kind = match kind {
            "meter" => RecordKind::Meter,
            "breaker" => RecordKind::Breaker,
            "operation" => RecordKind::Operation,
            "fact" => RecordKind::Fact,
            _ => return Err(PyValueError::new_err("kind is meter, breaker, operation or fact")),
        };
        let families = self.families(py)?;
        let (mut rows, mut cursor) = (Vec::new(), Some(Cursor::default()));
        while let Some(after) = cursor.filter(|_| rows.len() < limit) {
            let most = (limit - rows.len()).min(256);
            let listed = py.detach(|| self.engine.list(kind, after, most));
            let (records, next) = listed.map_err(|problem| error::store(py, &problem))?;
            for record in records {
                let borrowed = record.key.borrow();
                let Some(family) = families.iter().find(|family| family.family == borrowed.family) else {
                    continue;
                };
                rows.push(row(py, family, borrowed, &record.state)?);
            }
            cursor = next;
        }
        Ok(rows)
    }
}

impl EngineBase {
    /// What decides calls of models: the policy file, or one that lets every model be called.
    pub(crate) fn model_policies(&self) -> Result<&Policies, &PolicyError> {
        if let Some(policies) = &self.policies {
            return Ok(policies);
        }
        let made = self.unfiled.get_or_init(|| {
            let file = PolicyFile::parse("no policy file", UNFILED, false)?;
            Policies::new(self.engine.clone(), file)
        });
        made.as_ref()
    }

    /// Everything that is counted: by this engine, or in its file or on its server by whoever.
    fn families(&self, py: Python<'_>) -> PyResult<Vec<FamilyInfo>> {
        let known = match (self.engine.sqlite(), self.engine.redis()) {
            (Some(store), _) => py.detach(|| store.families()),
            (None, Some(store)) => py.detach(|| store.families()),
            (None, None) => return Ok(self.engine.families()),
        };
        let known = known.map_err(|problem| error::store(py, &problem))?;
        let info = |(family, key): (Family, FamilyKey)| {
            // Meters are kept under the kind of their gate and its name.
            let after = key.name.split_once(':').filter(|_| key.kind == RecordKind::Meter);
            let name = after.map_or(key.name.as_str(), |(_, name)| name).to_owned();
            FamilyInfo { family, kind: key.kind, name, unit: key.unit, window: key.window }
        };
        Ok(known.into_iter().map(info).collect())
    }

    pub(crate) fn check_fork(&self, py: Python<'_>) -> PyResult<()> {
        if self.shared.is_foreign() { Err(error::forked(py)) } else { Ok(()) }
    }
}

fn read_clock(py: Python<'_>, clock: &Bound<'_, PyAny>) -> PyResult<Clock> {
    let Ok(clock) = clock.cast::<FakeClock>() else {
        let text = format!("the clock is {}", convert::a_type(clock));
        return Err(error::config(py, &text, "clock", "leave it out, or use checkrein.testing.FakeClock()"));
    };
    Ok(Clock::fake(clock.get().0.clone()))
}

fn read_max_keys(py: Python<'_>, max_keys: &Bound<'_, PyAny>) -> PyResult<usize> {
    let count = max_keys.extract::<usize>().ok().filter(|count| *count > 0 && !convert::is_bool(max_keys));
    count.ok_or_else(|| {
        error::config(py, "max_keys is no whole number above zero", "max_keys", "use e.g. 100000")
    })
}

/// Gates of a guard are named after it: `search` owns `search`, `search.rate[user]` and its own second `search#2`, but
/// nothing of another guard `search#2`.
fn belongs(family: &str, name: &str, exact: bool) -> bool {
    let Some(rest) = family.strip_prefix(name) else { return false };
    let is_numbered = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_empty()
        || !exact && (rest.starts_with(['.', '[']) || rest.strip_prefix('#').is_some_and(is_numbered))
}

/// The bytes of a key as guards write them: one part as it is, several each after its length.
pub(crate) fn encode_key(py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let bytes = |part: &Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        let mut bytes = Vec::new();
        match convert::key_bytes(part, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(Unusable::Raised(error)) => Err(error),
            Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => {
                let text = format!("the key is no key: {text}");
                Err(error::config(
                    py,
                    &text,
                    "key",
                    "give the value the guard counts for, or a tuple of them",
                ))
            }
        }
    };
    let Ok(parts) = key.cast::<PyTuple>() else { return bytes(key) };
    let parts = parts.iter().map(|part| bytes(&part)).collect::<PyResult<Vec<_>>>()?;
    let mut encoded = Vec::new();
    encode_parts(parts.iter().map(Vec::as_slice), &mut encoded);
    Ok(encoded)
}

fn row<'py>(
    py: Python<'py>,
    family: &FamilyInfo,
    key: KeyRef<'_>,
    state: &RecordState,
) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("gate", &family.name)?;
    row.set_item("tenant", String::from_utf8_lossy(key.tenant))?;
    row.set_item("key", operation::shown(py, key.key)?)?;
    match state {
        RecordState::Meter { spent, count, account, newest, allowance } => {
            row.set_item("unit", family.unit.map(|unit| unit.name()))?;
            row.set_item("spent", spent.to_string())?;
            row.set_item("held", account.held.to_string())?;
            row.set_item("events", count)?;
            row.set_item("overrun", account.overrun.to_string())?;
            row.set_item("forced", account.forced.to_string())?;
            row.set_item("newest", newest.map(|stamp| stamp.nanos() as f64 / 1e9))?;
            let allowance = allowance.as_deref();
            let set = allowance.and_then(Allowance::set).map(|limit| limit.to_string());
            row.set_item("limit_set", set)?;
            let top_ups = allowance.into_iter().flat_map(|allowance| allowance.top_ups(Timestamp::MIN));
            let ends = |until: Timestamp| (until != Timestamp::MAX).then(|| until.nanos() as f64 / 1e9);
            let top_ups: Vec<(String, Option<f64>)> =
                top_ups.map(|top_up| (top_up.amount.to_string(), ends(top_up.until))).collect();
            row.set_item("top_ups", top_ups)?;
        }
        RecordState::Breaker { phase } => {
            row.set_item("phase", phase.name())?;
            if let Phase::Closed { fails } = phase {
                row.set_item("fails", fails)?;
            }
        }
        RecordState::Operation { state, since, .. } => {
            row.set_item("state", state.name())?;
            row.set_item("since", since.nanos() as f64 / 1e9)?;
            row.set_item("idempotency_key", operation::idempotency_key(&family.name, key))?;
            row.set_item("result_kept", matches!(state, OperationState::Done(Some(_))))?;
        }
        RecordState::Fact(fact) => {
            row.set_item("proved", fact.proved.nanos() as f64 / 1e9)?;
            row.set_item("expires", fact.expires.nanos() as f64 / 1e9)?;
            row.set_item("entry", fact.entry)?;
        }
        RecordState::Permit { phase, .. } => row.set_item("phase", format!("{phase:?}"))?,
    }
    Ok(row)
}

/// Reads a length of time; `None` when it is none.
#[pyfunction]
fn parse_span(text: &Bound<'_, PyString>) -> Option<i64> {
    Span::parse(text.to_str().ok()?).map(Span::nanos)
}

/// A length of time as people write it.
#[pyfunction]
fn format_span(nanos: i64) -> String {
    Span::from_nanos(nanos).to_string()
}

/// Reads an amount with its unit, as (10^-12 units, unit).
#[pyfunction]
fn parse_quantity(py: Python<'_>, text: &str) -> PyResult<(i128, &'static str)> {
    match checkrein_core::amount::parse_quantity(text) {
        Ok((amount, unit)) => Ok((amount.pico(), unit.name())),
        Err(error) => Err(error::config(py, &error.to_string(), "amount", error.hint())),
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EngineBase>()?;
    module.add_class::<FakeClock>()?;
    module.add_function(wrap_pyfunction!(after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(parse_span, module)?)?;
    module.add_function(wrap_pyfunction!(format_span, module)?)?;
    module.add_function(wrap_pyfunction!(parse_quantity, module)?)
}
