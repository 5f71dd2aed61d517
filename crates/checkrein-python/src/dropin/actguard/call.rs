//! One admitted call, until it ends; under an idempotency key also what is left of it afterwards.

use checkrein_core::gate::breaker::{Health, Ticket};
use checkrein_core::time::Timestamp;
use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use super::gate::{Gate, Outcome};
use super::memory::Memory;

/// What a wrapper holds while the guarded function runs.
#[pyclass(name = "ActGuardCall", module = "checkrein._native", frozen)]
pub(crate) struct Call {
    gate: Py<Gate>,
    arguments: Py<PyAny>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    expires: Timestamp,
    /// The run and the key, while it runs: a run must not keep itself alive through its calls.
    place: Option<(Py<PyAny>, Py<PyAny>)>,
    circuit: Option<(Py<Memory>, Ticket)>,
}

enum Phase {
    Running,
    Done(Py<PyAny>),
    /// It failed, and what it did is unknown: the class of its exception.
    Unknown(Py<PyAny>),
    /// Expired or freed: the key is being given to another call.
    Gone,
}

/// What a second call with the same key finds.
pub(super) enum Found {
    Running,
    Done,
    Unknown(Py<PyAny>),
    /// Expired, and now the finder's to replace.
    Expired,
    Gone,
}

/// The answer of an earlier call with the same key.
#[pyclass(name = "ActGuardStored", module = "checkrein._native", frozen)]
pub(crate) struct Stored {
    /// What it returned.
    #[pyo3(get)]
    pub(super) result: Py<PyAny>,
}

/// In what a hook says of an exception: the key is free again.
const FREES: u8 = 4;

/// What the two low bits of a hook's answer say of the dependency.
pub(super) fn outcome(word: u8) -> Outcome {
    match word & 3 {
        0 => Outcome::Known(Health::Success),
        1 => Outcome::Known(Health::Failure),
        2 => Outcome::Known(Health::Neutral),
        _ => Outcome::Unknown,
    }
}

impl Call {
    pub(super) fn new(
        gate: Py<Gate>,
        place: Option<(Py<PyAny>, Py<PyAny>)>,
        arguments: Py<PyAny>,
        expires: Timestamp,
    ) -> Self {
        let state = State { phase: Phase::Running, expires, place, circuit: None };
        Self { gate, arguments, state: Mutex::new(state) }
    }

    pub(super) fn arguments(&self, py: Python<'_>) -> Py<PyAny> {
        self.arguments.clone_ref(py)
    }

    pub(super) fn hold(&self, memory: Py<Memory>, ticket: Ticket) {
        self.state.lock().circuit = Some((memory, ticket));
    }

    /// What it has come to at `now`. A call that runs does not expire.
    pub(super) fn look(&self, py: Python<'_>, now: Timestamp) -> Found {
        if self.expire(now) {
            return Found::Expired;
        }
        match &self.state.lock().phase {
            Phase::Running => Found::Running,
            Phase::Done(_) => Found::Done,
            Phase::Unknown(kind) => Found::Unknown(kind.clone_ref(py)),
            Phase::Gone => Found::Gone,
        }
    }

    /// Whether it has just expired; whoever is told so puts another call in its place, or none.
    pub(super) fn expire(&self, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        if now <= state.expires || matches!(state.phase, Phase::Running | Phase::Gone) {
            return false;
        }
        let was = std::mem::replace(&mut state.phase, Phase::Gone);
        drop(state);
        // The result may be the last reference to a user's object.
        drop(was);
        true
    }

    /// What it returned; `None` when it has expired meanwhile.
    pub(super) fn result(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &self.state.lock().phase {
            Phase::Done(result) => Some(result.clone_ref(py)),
            _ => None,
        }
    }

    /// Ends a call that did not start: its key is free, its circuit has heard nothing.
    pub(super) fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let call = slf.get();
        call.state.lock().phase = Phase::Gone;
        call.free(slf)
    }

    fn free(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let place = self.state.lock().place.take();
        match (&self.gate.get().once, place) {
            (Some(once), Some((run, key))) => once.free(py, run.bind(py), key.bind(py), slf),
            _ => Ok(()),
        }
    }

    fn report(&self, py: Python<'_>, outcome: Outcome) -> PyResult<()> {
        let held = self.state.lock().circuit.take();
        match (&self.gate.get().breaker, held) {
            (Some(breaker), Some((memory, ticket))) => breaker.report(py, memory.get(), ticket, outcome),
            _ => Ok(()),
        }
    }
}

#[pymethods]
impl Call {
    /// The function returned.
    fn done(&self, py: Python<'_>, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let gate = self.gate.get();
        if gate.breaker.is_some() {
            self.report(py, outcome(gate.read_result(result)?))?;
        }
        let Some(once) = &gate.once else { return Ok(()) };
        let kept = if is_plain(result) { result.clone() } else { gate.keep.bind(py).call1((result,))? };
        let expires = once.clock.read(py)?.after(once.ttl);
        let mut state = self.state.lock();
        state.phase = Phase::Done(kept.unbind());
        state.expires = expires;
        let place = state.place.take();
        drop(state);
        drop(place);
        Ok(())
    }

    /// The function raised, or was cancelled.
    fn failed(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, call) = (slf.py(), slf.get());
        let word: u8 = call.gate.get().judge.bind(py).call1((error,))?.extract()?;
        if call.gate.get().once.is_some() {
            let frees = word & FREES != 0;
            let phase =
                if frees { Phase::Gone } else { Phase::Unknown(error.get_type().into_any().unbind()) };
            call.state.lock().phase = phase;
            if frees {
                call.free(slf)?;
            } else {
                let place = call.state.lock().place.take();
                drop(place);
            }
        }
        call.report(py, outcome(word))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.gate)?;
        visit.call(&self.arguments)?;
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        if let Some((run, key)) = &state.place {
            visit.call(run)?;
            visit.call(key)?;
        }
        match &state.phase {
            Phase::Done(object) | Phase::Unknown(object) => visit.call(object),
            Phase::Running | Phase::Gone => Ok(()),
        }
    }
}

/// Whether an object can neither change nor carry a status.
pub(super) fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    object.is_none()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyBytes>()
}
