//! The audit engine: decides whether an event is recorded, and records it in one step.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::Clock;
use super::decision::Decision;
use super::emitter::AuditEmitter;
use super::entry::AuditEntry;
use super::event::{Event, EventDetail, Opened, Opening, Side, SlotState, TrailSlot};
use super::policy::{Integrity, PolicyView};
use super::record::Draft;
use super::store::{AppendError, MemoryStore, TrailLog};
use super::vocabulary::vocabulary;

/// What an engine is made of.
struct Parts {
    store: Py<PyAny>,
    async_store: Py<PyAny>,
    clock: Py<PyAny>,
    /// Whether that is the machine's monotonic clock.
    machine_clock: bool,
    /// `None` stands for the real wall clock, read natively.
    wall_clock: Option<Py<PyAny>>,
    recorded_by: Py<PyAny>,
    emitter: Py<PyAny>,
    slots: Py<PyDict>,
    /// The native logs behind `store` and `async_store`, unless those are the user's own.
    native: Option<Py<MemoryStore>>,
    async_native: Option<Py<MemoryStore>>,
    default_policy: Py<PyAny>,
}

/// A decision that ends it, or the policy and the time to go on with.
type Begun = (Option<Py<Decision>>, Py<PyAny>, Py<PyAny>);

/// Records audit events.
#[pyclass(subclass, module = "checkrein._native", name = "AuditEngine")]
pub(crate) struct AuditEngine {
    parts: Option<Parts>,
}

impl AuditEngine {
    fn parts(&self) -> PyResult<&Parts> {
        self.parts.as_ref().ok_or_else(|| PyRuntimeError::new_err("Engine.__init__ was not called"))
    }

    fn slot<'py>(&self, trail: &Bound<'py, PyAny>) -> PyResult<Bound<'py, TrailSlot>> {
        let py = trail.py();
        let slots = self.parts()?.slots.bind(py);
        if let Some(slot) = slots.get_item(trail)? {
            return Ok(slot.cast_into::<TrailSlot>()?);
        }
        let mut json = Vec::new();
        super::canonical::CanonicalWriter::new(&mut json).string(&trail.str()?)?;
        let fresh = TrailSlot { state: Mutex::new(SlotState::default()), json: json.into_boxed_slice() };
        let slot = slots.call_method1("setdefault", (trail, Py::new(py, fresh)?))?;
        Ok(slot.cast_into::<TrailSlot>()?)
    }

    /// Returns the trail's policy, registering the one given or the default one.
    fn policy(
        &self,
        py: Python<'_>,
        slot: &TrailSlot,
        given: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Arc<PolicyView>> {
        let known = slot.state.lock().policy.clone();
        match (known, given) {
            (Some(known), None) => Ok(known),
            (Some(known), Some(given)) if given.is(&known.object) => Ok(known),
            (_, given) => {
                let object = given.unwrap_or(self.parts()?.default_policy.bind(py));
                let view = Arc::new(PolicyView::read(object)?);
                let replaced = slot.state.lock().policy.replace(Arc::clone(&view));
                drop(replaced);
                Ok(view)
            }
        }
    }

    fn log(
        &self,
        slot: &TrailSlot,
        trail: &Bound<'_, PyAny>,
        store: &Py<MemoryStore>,
        side: Side,
        fresh: bool,
    ) -> PyResult<Arc<TrailLog>> {
        let known = {
            let state = slot.state.lock();
            if side == Side::Sync { state.log.clone() } else { state.async_log.clone() }
        };
        if let Some(known) = known.filter(|log| !fresh && !log.is_detached()) {
            return Ok(known);
        }
        let log = store.get().log(trail)?;
        let mut state = slot.state.lock();
        let cached = if side == Side::Sync { &mut state.log } else { &mut state.async_log };
        *cached = Some(Arc::clone(&log));
        Ok(log)
    }

    /// Records `event` in a native log; `None` when the store is the user's own.
    pub(crate) fn record_event(&self, event: &Event<'_, '_>, side: Side) -> PyResult<Option<Py<Decision>>> {
        let py = event.trail.py();
        let mut opened = match self.open(event, side)? {
            Opening::Foreign => return Ok(None),
            Opening::Dropped(decision) => return Ok(Some(decision)),
            Opening::Ready(opened) => opened,
        };
        loop {
            match opened.append(py) {
                Ok(()) => return self.close(event.trail, &opened).map(Some),
                Err(AppendError::Detached) => self.reopen(event.trail, &mut opened)?,
                Err(refused) => return self.give_up(event.trail, &opened, &refused).map(Some),
            }
        }
    }

    /// Builds the entry of `event`, up to its place in the log.
    pub(crate) fn open(&self, event: &Event<'_, '_>, side: Side) -> PyResult<Opening> {
        let parts = self.parts()?;
        let Some(store) = (if side == Side::Sync { &parts.native } else { &parts.async_native }) else {
            return Ok(Opening::Foreign);
        };
        let (trail, py) = (event.trail, event.trail.py());
        let slot = match event.known.and_then(|known| known.0.get()) {
            Some(slot) => slot.bind(py).clone(),
            None => self.slot(trail)?,
        };
        if let Some(known) = event.known {
            let _ = known.0.set(slot.clone().unbind());
        }
        let policy = self.policy(py, slot.get(), event.policy)?;
        if vocabulary(py)?.rank(event.severity)? < policy.floor {
            return self.finish(trail, &policy, None, Some(&policy.below()), None).map(Opening::Dropped);
        }
        let now = match event.machine.filter(|_| parts.machine_clock) {
            Some(machine) => machine.object(py).into_bound(py),
            None => parts.clock.bind(py).call0()?,
        };
        match self.draft(parts, slot.get(), event, policy.integrity, &now) {
            Ok(draft) => Ok(Opening::Ready(Box::new(Opened {
                log: self.log(slot.get(), trail, store, side, false)?,
                ts: super::store::exact_stamp(&now),
                now: now.unbind(),
                slot: slot.unbind(),
                draft,
                policy,
                side,
            }))),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                self.refuse(trail, &policy, error).map(Opening::Dropped)
            }
            Err(error) => Err(error),
        }
    }

    fn draft(
        &self,
        parts: &Parts,
        slot: &TrailSlot,
        event: &Event<'_, '_>,
        integrity: Integrity,
        now: &Bound<'_, PyAny>,
    ) -> PyResult<Draft> {
        let py = now.py();
        let wall = parts.wall_clock.as_ref().map(|clock| clock.bind(py).call0()).transpose()?;
        Draft::build(event, &slot.json, integrity, now, wall, parts.recorded_by.bind(py))
    }

    /// Looks the log up again after the one at hand was cleared away.
    pub(crate) fn reopen(&self, trail: &Bound<'_, PyAny>, opened: &mut Opened) -> PyResult<()> {
        let parts = self.parts()?;
        let store = if opened.side == Side::Sync { &parts.native } else { &parts.async_native };
        if let Some(store) = store {
            opened.log = self.log(opened.slot.get(), trail, store, opened.side, true)?;
        }
        Ok(())
    }

    /// Decides that an appended entry is recorded, and prunes what its policy no longer keeps.
    pub(crate) fn close(&self, trail: &Bound<'_, PyAny>, opened: &Opened) -> PyResult<Py<Decision>> {
        let py = trail.py();
        if let Some(retention) = &opened.policy.retention {
            prune(&opened.log, opened.now.bind(py), retention.bind(py));
        }
        self.finish(trail, &opened.policy, Some(opened.draft.entry.clone_ref(py)), None, None)
    }

    /// Does what `close` does for a caller that needs no decision: none is made unless somebody listens.
    pub(crate) fn close_unheard(&self, trail: &Bound<'_, PyAny>, opened: &Opened) -> PyResult<()> {
        let py = trail.py();
        let emitter = self.parts()?.emitter.bind(py);
        if opened.policy.retention.is_none()
            && emitter.cast_exact::<AuditEmitter>().is_ok_and(|emitter| emitter.get().is_silent(py))
        {
            return Ok(());
        }
        self.close(trail, opened).map(drop)
    }

    /// Decides that an entry the log has no place for is dropped.
    pub(crate) fn give_up(
        &self,
        trail: &Bound<'_, PyAny>,
        opened: &Opened,
        refused: &AppendError,
    ) -> PyResult<Py<Decision>> {
        let error = match refused {
            AppendError::UnusableHash => {
                PyTypeError::new_err("the entry before carries a hash that is not text")
            }
            AppendError::Detached | AppendError::Exhausted => {
                PyRuntimeError::new_err("no sequence number is left for the trail")
            }
        };
        self.refuse(trail, &opened.policy, error)
    }

    fn refuse(&self, trail: &Bound<'_, PyAny>, policy: &PolicyView, error: PyErr) -> PyResult<Py<Decision>> {
        let reason = format!("Entry build failed: {}", text_of(trail.py(), &error));
        self.finish(trail, policy, None, Some(&reason), Some(error))
    }

    /// Builds the decision, hands it to the listeners and raises where the policy says so.
    fn finish(
        &self,
        trail: &Bound<'_, PyAny>,
        policy: &PolicyView,
        entry: Option<Py<AuditEntry>>,
        reason: Option<&str>,
        cause: Option<PyErr>,
    ) -> PyResult<Py<Decision>> {
        let py = trail.py();
        let vocabulary = vocabulary(py)?;
        let status = if entry.is_some() { &vocabulary.recorded } else { &vocabulary.dropped };
        let decision = Py::new(
            py,
            Decision {
                status: status.clone_ref(py),
                trail: trail.clone().unbind(),
                policy: policy.object.clone_ref(py),
                entry: entry.map_or_else(|| py.None(), Py::into_any),
                reason: Decision::reason_object(py, reason),
            },
        )?;
        let emitter = self.parts()?.emitter.bind(py);
        match emitter.cast_exact::<AuditEmitter>() {
            Ok(native) => native.get().deliver(decision.bind(py))?,
            Err(_) => drop(emitter.call_method1("emit", (&decision,))?),
        }
        if let Some(cause) = cause
            && policy.hard
            && policy.fail_closed
        {
            let error = PyErr::from_value(vocabulary.error_class.bind(py).call1((&decision,))?);
            error.set_cause(py, Some(cause));
            return Err(error);
        }
        Ok(decision)
    }
}

/// Prunes what is older than the retention; a failure here never undoes the record.
fn prune(log: &TrailLog, now: &Bound<'_, PyAny>, retention: &Bound<'_, PyAny>) {
    if let Ok(cutoff) = now.sub(retention) {
        let _ = MemoryStore::prune_log(log, &cutoff);
    }
}

/// Returns `str(error)`, or its type when that fails too.
fn text_of(py: Python<'_>, error: &PyErr) -> String {
    match error.value(py).str() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => error.get_type(py).name().map(|name| name.to_string()).unwrap_or_default(),
    }
}

#[pymethods]
impl AuditEngine {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The Python half takes the arguments in its `__init__`.
        let _ = (args, kwargs);
        Self { parts: None }
    }

    /// Takes what the Python half has resolved: both stores, the native logs behind them, clocks and emitter.
    #[expect(clippy::too_many_arguments, reason = "the constructor of the contract, resolved")]
    fn _set_up(
        &mut self,
        py: Python<'_>,
        store: Py<PyAny>,
        async_store: Py<PyAny>,
        clock: Py<PyAny>,
        wall_clock: Py<PyAny>,
        recorded_by: Py<PyAny>,
        emitter: Py<PyAny>,
        async_native: Option<Py<MemoryStore>>,
    ) -> PyResult<()> {
        let vocabulary = vocabulary(py)?;
        let native = store.bind(py).cast_exact::<MemoryStore>().ok().map(|store| store.clone().unbind());
        self.parts = Some(Parts {
            store,
            async_store,
            machine_clock: Clock::is_machine(py, clock.bind(py)),
            clock,
            wall_clock: Some(wall_clock).filter(|clock| !clock.is(&vocabulary.wall_clock)),
            recorded_by,
            emitter,
            slots: PyDict::new(py).unbind(),
            native,
            async_native,
            default_policy: vocabulary.policy_class.bind(py).call0()?.unbind(),
        });
        Ok(())
    }

    /// Records an event in the trail's log and returns the decision.
    #[pyo3(signature = (trail, *, verdict, severity, gate_type, gate_identity, reason=None, detail=None, policy=None))]
    #[expect(clippy::too_many_arguments, reason = "the signature of the contract")]
    fn record<'py>(
        slf: &Bound<'py, Self>,
        trail: &Bound<'py, PyAny>,
        verdict: &Bound<'py, PyAny>,
        severity: &Bound<'py, PyAny>,
        gate_type: &Bound<'py, PyAny>,
        gate_identity: &Bound<'py, PyAny>,
        reason: Option<&Bound<'py, PyAny>>,
        detail: Option<&Bound<'py, PyAny>>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let event = Event {
            trail,
            verdict,
            severity,
            gate_type,
            gate_identity,
            reason,
            detail: EventDetail::Object(detail),
            policy,
            machine: None,
            known: None,
        };
        if let Some(decision) = slf.borrow().record_event(&event, Side::Sync)? {
            return Ok(decision.into_any());
        }
        let arguments = (trail, verdict, severity, gate_type, gate_identity, reason, detail, policy);
        slf.call_method1("_record_foreign", arguments).map(Bound::unbind)
    }

    /// Records in the native log behind the async store.
    #[expect(clippy::too_many_arguments, reason = "the signature of the contract")]
    fn _record_async<'py>(
        slf: &Bound<'py, Self>,
        trail: &Bound<'py, PyAny>,
        verdict: &Bound<'py, PyAny>,
        severity: &Bound<'py, PyAny>,
        gate_type: &Bound<'py, PyAny>,
        gate_identity: &Bound<'py, PyAny>,
        reason: Option<&Bound<'py, PyAny>>,
        detail: Option<&Bound<'py, PyAny>>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Py<Decision>>> {
        let event = Event {
            trail,
            verdict,
            severity,
            gate_type,
            gate_identity,
            reason,
            detail: EventDetail::Object(detail),
            policy,
            machine: None,
            known: None,
        };
        slf.borrow().record_event(&event, Side::Async)
    }

    /// Decides whether an event is recorded at all: `(decision, None, None)` or `(None, policy, now)`.
    fn _begin<'py>(
        &self,
        trail: &Bound<'py, PyAny>,
        severity: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Begun> {
        let py = trail.py();
        let policy = self.policy(py, self.slot(trail)?.get(), policy)?;
        if vocabulary(py)?.rank(severity)? < policy.floor {
            let dropped = self.finish(trail, &policy, None, Some(&policy.below()), None)?;
            return Ok((Some(dropped), py.None(), py.None()));
        }
        let now = self.parts()?.clock.bind(py).call0()?;
        Ok((None, policy.object.clone_ref(py), now.unbind()))
    }

    /// Builds an entry for a store that is not native.
    #[expect(clippy::too_many_arguments, reason = "everything one entry is built from")]
    fn _build<'py>(
        &self,
        trail: &Bound<'py, PyAny>,
        verdict: &Bound<'py, PyAny>,
        severity: &Bound<'py, PyAny>,
        gate_type: &Bound<'py, PyAny>,
        gate_identity: &Bound<'py, PyAny>,
        reason: Option<&Bound<'py, PyAny>>,
        detail: Option<&Bound<'py, PyAny>>,
        policy: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        sequence: i64,
        previous: Option<&Bound<'py, AuditEntry>>,
    ) -> PyResult<Py<AuditEntry>> {
        let py = trail.py();
        let parts = self.parts()?;
        let slot = self.slot(trail)?;
        let event = Event {
            trail,
            verdict,
            severity,
            gate_type,
            gate_identity,
            reason,
            detail: EventDetail::Object(detail),
            policy: None,
            machine: None,
            known: None,
        };
        let wall = parts.wall_clock.as_ref().map(|clock| clock.bind(py).call0()).transpose()?;
        let integrity = Integrity::read(policy)?;
        let recorded_by = parts.recorded_by.bind(py);
        let draft = Draft::build(&event, &slot.get().json, integrity, now, wall, recorded_by)?;
        let absent = super::entry::HashField::Absent;
        let before = previous.map(|entry| entry.get().sealed()).transpose()?;
        let seal = draft
            .seal(py, sequence, before.map_or(&absent, |seal| &seal.entry_hash))
            .ok_or_else(|| PyTypeError::new_err("the entry before carries a hash that is not text"))?;
        let _ = draft.entry.get().seal.set(seal);
        Ok(draft.entry.clone_ref(py))
    }

    /// Turns an entry or a failure into a decision, tells the listeners, raises where the policy says so.
    fn _finish(
        &self,
        trail: &Bound<'_, PyAny>,
        policy: &Bound<'_, PyAny>,
        entry: Option<Py<AuditEntry>>,
        reason: Option<&str>,
        cause: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<Decision>> {
        let view = PolicyView::read(policy)?;
        self.finish(trail, &view, entry, reason, cause.map(|cause| PyErr::from_value(cause.clone())))
    }

    /// Registers a trail's policy.
    fn register(&self, py: Python<'_>, trail: &Bound<'_, PyAny>, policy: &Bound<'_, PyAny>) -> PyResult<()> {
        self.policy(py, self.slot(trail)?.get(), Some(policy)).map(drop)
    }

    /// Returns a trail's policy, or `None` while it has none.
    fn policy_for(&self, py: Python<'_>, trail: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let Some(slot) = self.parts()?.slots.bind(py).get_item(trail)? else {
            return Ok(None);
        };
        let known = slot.cast_into::<TrailSlot>()?.get().state.lock().policy.clone();
        Ok(known.map(|policy| policy.object.clone_ref(py)))
    }

    #[getter]
    fn _store(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.store.clone_ref(py))
    }

    #[getter]
    fn _async_store(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.async_store.clone_ref(py))
    }

    #[getter]
    fn _clock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.clock.clone_ref(py))
    }

    #[getter]
    fn _emitter(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.emitter.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(parts) = &self.parts {
            visit.call(&parts.store)?;
            visit.call(&parts.async_store)?;
            visit.call(&parts.clock)?;
            visit.call(&parts.wall_clock)?;
            visit.call(&parts.recorded_by)?;
            visit.call(&parts.emitter)?;
            visit.call(&parts.slots)?;
            visit.call(&parts.native)?;
            visit.call(&parts.async_native)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        self.parts = None;
    }
}
