//! The deciding half of `Engine`: resolves a gate to its calls and policy, and announces what it decided.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyException, PyNotImplementedError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::super::table::{Moment, Slot};
use super::decision::{Decision, Fields, cooldown_message};
use super::meter::{GateCalls, Verdict};
use super::policy::{Limits, limits_of};
use super::store::ActionStore;
use super::{Gate, Names};

/// Lanes tell engines and their stores apart in the memo of a gate.
static LANES: AtomicU64 = AtomicU64::new(1);

/// What an engine remembers on a gate object.
pub(crate) struct Memo {
    lane: u64,
    /// Registrations made before it was written; another number and the policy is looked up again.
    epoch: u64,
    policy: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<GateCalls>>,
}

/// Where decisions are kept.
enum Backend {
    /// Our own memory, reached without a Python call.
    Native { store: Py<ActionStore>, lane: u64 },
    /// Any object with the methods of the store protocol.
    Given(Py<PyAny>),
}

impl Backend {
    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Native { store, .. } => store.bind(py).as_any().clone(),
            Self::Given(store) => store.bind(py).clone(),
        }
    }
}

struct Config {
    store: Backend,
    async_store: Backend,
    clock: Clock,
    domain: u64,
    announcer: Announcer,
    policies: Py<PyDict>,
    default_policy: Py<PyAny>,
    epoch: AtomicU64,
}

/// Base of `Engine`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ActionEngine {
    config: OnceLock<Config>,
}

/// A decision before it is an object.
pub(crate) struct Judged {
    pub(crate) policy: Py<PyAny>,
    outcome: Outcome,
}

enum Outcome {
    Counted(Verdict),
    Replied(Decision),
    Failed { allowed: bool, error: String },
}

impl Judged {
    fn is_plainly_allowed(&self) -> bool {
        matches!(&self.outcome, Outcome::Counted(verdict) if verdict.allowed)
    }

    /// The decision as an object.
    pub(crate) fn into_decision<'py>(self, gate: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Decision>> {
        let object = gate.clone().unbind();
        let decision = match self.outcome {
            Outcome::Counted(verdict) => Decision::counted(object, self.policy, verdict),
            Outcome::Failed { allowed, error } => Decision::failed(object, self.policy, allowed, &error),
            Outcome::Replied(decision) => decision,
        };
        Bound::new(gate.py(), decision)
    }
}

/// Everything a native decision on one gate needs, found before any lock is taken.
pub(crate) struct Prepared {
    pub(crate) policy: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<GateCalls>>,
    stamp: i64,
    whole: bool,
    domain: u64,
}

impl Prepared {
    /// The same gate and policy at another time.
    pub(crate) fn at(&self, py: Python<'_>, now: &Now) -> Option<Self> {
        Some(Self {
            policy: self.policy.clone_ref(py),
            limits: self.limits,
            slot: Arc::clone(&self.slot),
            stamp: now.stamp?,
            whole: now.whole,
            domain: self.domain,
        })
    }

    /// Runs `decide` on the gate's calls; `None` when they were cleared meanwhile: prepare again.
    pub(crate) fn with<T>(&self, decide: impl FnOnce(&mut Admission<'_>) -> T) -> Option<T> {
        let limits = &self.limits;
        self.slot.with(self.domain, |calls| {
            decide(&mut Admission { calls, limits, stamp: self.stamp, whole: self.whole })
        })
    }

    /// The decision that `verdict` is, as an object.
    pub(crate) fn decision<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        verdict: Verdict,
    ) -> PyResult<Bound<'py, Decision>> {
        let policy = self.policy.clone_ref(gate.py());
        Judged { policy, outcome: Outcome::Counted(verdict) }.into_decision(gate)
    }

    /// The decision that `verdict` is.
    pub(crate) fn judged(self, verdict: Verdict) -> Judged {
        Judged { policy: self.policy, outcome: Outcome::Counted(verdict) }
    }
}

/// One gate's calls under its lock, between judging and recording.
pub(crate) struct Admission<'a> {
    calls: &'a mut GateCalls,
    limits: &'a Limits,
    stamp: i64,
    whole: bool,
}

impl Admission<'_> {
    /// What the call would be told.
    pub(crate) fn judge(&mut self) -> Verdict {
        self.calls.judge(self.stamp, self.whole, self.limits)
    }

    /// Records the call.
    pub(crate) fn record(&mut self) -> bool {
        self.calls.record(self.stamp, self.whole)
    }
}

impl ActionEngine {
    #[inline]
    fn config(&self) -> PyResult<&Config> {
        self.config.get().ok_or_else(|| PyRuntimeError::new_err("Engine.__init__() was not called"))
    }

    /// The policy in force for `gate`: the one given, else the registered one, else the default.
    fn policy<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let config = self.config()?;
        if let Some(policy) = given {
            return Ok(policy.clone());
        }
        let registered = config.policies.bind(gate.py()).get_item(gate)?;
        Ok(registered.unwrap_or_else(|| config.default_policy.bind(gate.py()).clone()))
    }

    /// Whether decisions on `gate` can be taken natively, together with those of another native engine.
    pub(crate) fn is_native(&self) -> PyResult<bool> {
        Ok(matches!(self.config()?.store, Backend::Native { .. }))
    }

    /// Finds what a native decision needs. `None` when the store or the time given is not ours to judge.
    pub(crate) fn prepare<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Option<Prepared>> {
        let config = self.config()?;
        let (Backend::Native { store, lane }, Some(stamp)) = (&config.store, now.stamp) else {
            return Ok(None);
        };
        let (policy, limits, slot) = self.resolve(config, store, *lane, gate, policy, stamp)?;
        Ok(Some(Prepared { policy, limits, slot, stamp, whole: now.whole, domain: config.domain }))
    }

    /// Tells the listeners of a decision that was taken together with other gates.
    pub(crate) fn announce_to_listeners(&self, decision: &Bound<'_, PyAny>) -> PyResult<()> {
        let announcer = &self.config()?.announcer;
        if announcer.is_silent() { Ok(()) } else { announcer.tell(decision) }
    }

    /// Reads the engine's clock once, unless it is the machine's, which was read for the same call.
    pub(crate) fn now_or(&self, py: Python<'_>, machine: &Now) -> PyResult<Now> {
        self.config()?.clock.read_or_take(py, machine)
    }

    /// Reads the engine's clock once.
    pub(crate) fn now(&self, py: Python<'_>) -> PyResult<Now> {
        self.config()?.clock.read(py)
    }

    /// Looks up policy and slot, and remembers them on the gate.
    fn resolve<'py>(
        &self,
        config: &Config,
        store: &Py<ActionStore>,
        lane: u64,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        stamp: i64,
    ) -> PyResult<(Py<PyAny>, Limits, Arc<Slot<GateCalls>>)> {
        let py = gate.py();
        let epoch = config.epoch.load(Ordering::Acquire);
        let policy = self.policy(gate, given)?;
        let limits = limits_of(&policy)?;
        let store = store.get();
        let key = store.key(gate)?;
        let slot = store.table().slot(&key, Moment { nanos: stamp, domain: config.domain });
        let policy = policy.unbind();
        if let (Ok(gate), None) = (gate.cast_exact::<Gate>(), given) {
            let memo = Memo { lane, epoch, policy: policy.clone_ref(py), limits, slot: Arc::clone(&slot) };
            let old = gate.get().memo.lock().replace(memo);
            drop(old);
        }
        Ok((policy, limits, slot))
    }

    /// Decides on one call; `consume` records it when it is allowed.
    #[inline]
    fn judge<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        consume: bool,
    ) -> PyResult<Judged> {
        let py = gate.py();
        let now = config.clock.read(py)?;
        let Backend::Native { store, lane } = backend else {
            return self.ask(backend, gate, given, &now);
        };
        let Some(stamp) = now.stamp else {
            let policy = self.policy(gate, given)?;
            let allowed = limits_of(&policy)?.fail_open;
            let error = "the clock did not return a usable time".to_owned();
            return Ok(Judged { policy: policy.unbind(), outcome: Outcome::Failed { allowed, error } });
        };
        let decide = |calls: &mut GateCalls, limits: &Limits| {
            if consume {
                calls.admit(stamp, now.whole, limits)
            } else {
                calls.judge(stamp, now.whole, limits)
            }
        };
        if let Ok(known) = gate.cast_exact::<Gate>() {
            let given_limits = given.map(limits_of).transpose()?;
            let memo = known.get().memo.lock();
            if let Some(memo) = memo.as_ref().filter(|memo| memo.lane == *lane) {
                let limits = match &given_limits {
                    Some(limits) => Some(limits),
                    None if memo.epoch == config.epoch.load(Ordering::Acquire) => Some(&memo.limits),
                    None => None,
                };
                let verdict = limits.and_then(|l| memo.slot.with(config.domain, |calls| decide(calls, l)));
                if let Some(verdict) = verdict {
                    let policy = given.map_or_else(|| memo.policy.clone_ref(py), |p| p.clone().unbind());
                    return Ok(Judged { policy, outcome: Outcome::Counted(verdict) });
                }
            }
        }
        loop {
            let (policy, limits, slot) = self.resolve(config, store, *lane, gate, given, stamp)?;
            if let Some(verdict) = slot.with(config.domain, |calls| decide(calls, &limits)) {
                return Ok(Judged { policy, outcome: Outcome::Counted(verdict) });
            }
        }
    }

    /// Asks a user's store.
    #[cold]
    fn ask<'py>(
        &self,
        backend: &Backend,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Judged> {
        let py = gate.py();
        let policy = self.policy(gate, given)?;
        let store = backend.object(py);
        let reply = store.call_method1("check_and_reserve", (gate, now.object(py), &policy));
        match reply.and_then(|reply| read_reply(gate, &policy, &reply)) {
            Ok(decision) => Ok(Judged { policy: policy.unbind(), outcome: Outcome::Replied(decision) }),
            Err(error) if error.is_instance_of::<PyException>(py) => failed(policy, &error),
            Err(error) => Err(error),
        }
    }

    /// Announces a decision and hands it back.
    fn announce<'py>(config: &Config, decision: Bound<'py, Decision>) -> PyResult<Bound<'py, Decision>> {
        if !config.announcer.is_silent() {
            config.announcer.tell(decision.as_any())?;
        }
        Ok(decision)
    }
}

/// What a store's failure means under a policy.
fn failed(policy: Bound<'_, PyAny>, error: &PyErr) -> PyResult<Judged> {
    let py = policy.py();
    let allowed = Names::get(py)?.mode.fails_open(py, &policy.getattr("on_store_error")?);
    let error =
        error.value(py).str().map(|text| text.to_string()).unwrap_or_else(|_| "unprintable".to_owned());
    Ok(Judged { policy: policy.unbind(), outcome: Outcome::Failed { allowed, error } })
}

/// The decision that a store's reply `(count, allowed, age | None)` means.
fn read_reply(
    gate: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
    reply: &Bound<'_, PyAny>,
) -> PyResult<Decision> {
    let py = gate.py();
    let names = Names::get(py)?;
    let (count, allowed, age): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>) = reply.extract()?;
    let mut fields = Fields {
        status: names.allow.clone_ref(py),
        reason: py.None(),
        message: py.None(),
        calls_in_window: count.clone().unbind(),
        time_since_last: age.clone().unbind(),
    };
    if !allowed.is_truthy()? {
        let cooldown = policy.getattr("cooldown")?;
        let message = if !age.is_none() && cooldown.gt(0)? && age.lt(&cooldown)? {
            fields.reason = names.cooldown.clone_ref(py);
            cooldown_message(age.extract()?, &cooldown)?
        } else {
            fields.reason = names.rate_limit.clone_ref(py);
            format!("Rate limit: {} >= {}", count.str()?, policy.getattr("max_calls")?.str()?)
        };
        fields.status = names.block.clone_ref(py);
        fields.message = message.into_pyobject(py)?.into_any().unbind();
    }
    Ok(Decision::given(gate.clone().unbind(), policy.clone().unbind(), fields))
}

#[pymethods]
impl ActionEngine {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { config: OnceLock::new() }
    }

    /// Sets the engine up; `natively` says which of the two stores are our own, unchanged.
    fn _configure(
        &self,
        store: Bound<'_, PyAny>,
        async_store: Bound<'_, PyAny>,
        natively: (bool, bool),
        clock: Option<Bound<'_, PyAny>>,
        emitter: Bound<'_, PyAny>,
        default_policy: Py<PyAny>,
    ) -> PyResult<()> {
        let py = store.py();
        let backend = |object: Bound<'_, PyAny>, natively: bool, lane: u64| -> PyResult<Backend> {
            match object.cast::<ActionStore>() {
                Ok(store) if natively => Ok(Backend::Native { store: store.clone().unbind(), lane }),
                _ => Ok(Backend::Given(object.unbind())),
            }
        };
        let lane = LANES.fetch_add(2, Ordering::Relaxed);
        let store = backend(store, natively.0, lane)?;
        let async_store = backend(async_store, natively.1, lane + 1)?;
        // Two handles on one table are one lane: the memo of a gate then serves both.
        let shared = match (&store, &async_store) {
            (Backend::Native { store: one, .. }, Backend::Native { store: other, .. }) => {
                one.get().table().number() == other.get().table().number()
            }
            _ => false,
        };
        let async_store = match async_store {
            Backend::Native { store, .. } if shared => Backend::Native { store, lane },
            other => other,
        };
        let (clock, domain) = Clock::from_argument(py, clock)?;
        let config = Config {
            store,
            async_store,
            clock,
            domain,
            announcer: Announcer::new(emitter)?,
            policies: PyDict::new(py).unbind(),
            default_policy,
            epoch: AtomicU64::new(0),
        };
        self.config.set(config).map_err(|_| PyRuntimeError::new_err("Engine.__init__() was called twice"))
    }

    /// Sets the policy of a gate, for every function guarded by it.
    fn register(&self, gate: &Bound<'_, PyAny>, policy: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = self.config()?;
        config.policies.bind(gate.py()).set_item(gate, policy)?;
        config.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The registered policy of a gate, or the default.
    fn policy_for<'py>(&self, gate: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.policy(gate, None)
    }

    /// Decides on one call, and counts it when it is allowed.
    #[pyo3(signature = (gate, policy=None))]
    fn check<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        let judged = self.judge(config, &config.store, gate, policy, true)?;
        Self::announce(config, judged.into_decision(gate)?)
    }

    /// What `check` would decide now; nothing is counted and nobody is told.
    #[pyo3(signature = (gate, policy=None))]
    fn peek<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        if matches!(config.store, Backend::Given(_)) {
            return Err(PyNotImplementedError::new_err("the store protocol has no read-only check"));
        }
        self.judge(config, &config.store, gate, policy, false)?.into_decision(gate)
    }

    fn _check_async<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        let judged = self.judge(config, &config.async_store, gate, policy, true)?;
        Self::announce(config, judged.into_decision(gate)?)
    }

    /// The decision that an async store's reply or exception means, announced.
    fn _replied<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Bound<'py, PyAny>,
        reply: &Bound<'py, PyAny>,
        error: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let py = gate.py();
        let outcome = match error {
            Some(error) => Err(PyErr::from_value(error)),
            None => read_reply(gate, &policy, reply),
        };
        let decision = match outcome {
            Ok(decision) => Bound::new(py, decision)?,
            Err(error) if error.is_instance_of::<PyException>(py) => {
                failed(policy, &error)?.into_decision(gate)?
            }
            Err(error) => return Err(error),
        };
        Self::announce(self.config()?, decision)
    }

    fn _announce(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.config()?.announcer.tell(event)
    }

    #[getter]
    fn _async_is_native(&self) -> PyResult<bool> {
        Ok(matches!(self.config()?.async_store, Backend::Native { .. }))
    }

    #[getter]
    fn _store<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.config()?.store.object(py))
    }

    #[getter]
    fn _async_store<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.config()?.async_store.object(py))
    }

    #[getter]
    fn _clock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.config()?.clock.callable(py))
    }

    #[getter]
    fn _emitter(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.config()?.announcer.object().clone_ref(py))
    }

    /// A copy of what is registered; `register` is the way to change it.
    #[getter]
    fn _policies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.config()?.policies.bind(py).copy()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(config) = self.config.get() else { return Ok(()) };
        for backend in [&config.store, &config.async_store] {
            match backend {
                Backend::Native { store, .. } => visit.call(store)?,
                Backend::Given(store) => visit.call(store)?,
            }
        }
        if let Clock::Given(clock) = &config.clock {
            visit.call(clock)?;
        }
        config.announcer.traverse(&visit)?;
        visit.call(&config.policies)
    }
}

/// What a compiled wrapper calls: the decision on one gate.
#[pyclass(name = "ActionGateGuard", module = "checkrein._native", frozen)]
pub(crate) struct ActionGuard {
    engine: Py<ActionEngine>,
    gate: Py<PyAny>,
}

#[pymethods]
impl ActionGuard {
    #[new]
    fn new(engine: Py<ActionEngine>, gate: Py<PyAny>) -> Self {
        Self { engine, gate }
    }

    /// Returns when the call is allowed, raises `Blocked` when it is not.
    fn admit(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get();
        let config = engine.config()?;
        self.enter(engine, config, &config.store, py)
    }

    /// The same against the async store, when that is our own.
    fn admit_async(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get();
        let config = engine.config()?;
        self.enter(engine, config, &config.async_store, py)
    }

    /// Decides, counts, announces.
    fn check<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Decision>> {
        self.engine.get().check(self.gate.bind(py), None)
    }

    /// The same against the async store, when that is our own.
    fn check_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Decision>> {
        self.engine.get()._check_async(self.gate.bind(py), None)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)
    }
}

impl ActionGuard {
    #[inline]
    fn enter(
        &self,
        engine: &ActionEngine,
        config: &Config,
        backend: &Backend,
        py: Python<'_>,
    ) -> PyResult<()> {
        let gate = self.gate.bind(py);
        let judged = engine.judge(config, backend, gate, None, true)?;
        if judged.is_plainly_allowed() && config.announcer.is_silent() {
            return Ok(());
        }
        let decision = ActionEngine::announce(config, judged.into_decision(gate)?)?;
        if decision.get().is_allowed(py)? {
            return Ok(());
        }
        Err(PyErr::from_value(Names::get(py)?.blocked.bind(py).call1((decision,))?))
    }
}
