//! One admitted call, until it ends; under an idempotency key also what is left of it afterwards.

use checkrein_core::gate::breaker::{Health, Ticket};
use checkrein_core::time::Timestamp;
use parking_lot::Mutex;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};

use super::gate::{Gate, Outcome};
use super::memory::Memory;

/// What a wrapper holds while the guarded function runs.
#[pyclass(name = "ActGuardCall", module = "checkrein._native", frozen)]
pub(crate) struct Call {
    arguments: Py<PyAny>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    expires: Timestamp,
    /// `None` once it has ended: what is kept of it refers to its result and its arguments alone.
    way: Option<Way>,
}

/// How a call that runs finds back.
struct Way {
    gate: Py<Gate>,
    /// The run and the key.
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
        let way = Some(Way { gate, place, circuit: None });
        Self { arguments, state: Mutex::new(State { phase: Phase::Running, expires, way }) }
    }

    pub(super) fn arguments(&self, py: Python<'_>) -> Py<PyAny> {
        self.arguments.clone_ref(py)
    }

    pub(super) fn hold(&self, memory: Py<Memory>, ticket: Ticket) {
        if let Some(way) = &mut self.state.lock().way {
            way.circuit = Some((memory, ticket));
        }
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
        let way = slf.get().end(Phase::Gone);
        way.map_or(Ok(()), |way| way.free(slf))
    }

    /// Takes the way back, once.
    fn end(&self, phase: Phase) -> Option<Way> {
        let mut state = self.state.lock();
        state.phase = phase;
        state.way.take()
    }
}

impl Way {
    fn free(&self, call: &Bound<'_, Call>) -> PyResult<()> {
        let py = call.py();
        match (&self.gate.get().once, &self.place) {
            (Some(once), Some((run, key))) => once.free(py, run.bind(py), key.bind(py), call),
            _ => Ok(()),
        }
    }

    /// Counts a result, and keeps it under its key.
    fn settle(&self, call: &Bound<'_, Call>, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, gate) = (call.py(), self.gate.get());
        if gate.breaker.is_some() {
            self.report(py, outcome(gate.read_result(result)?))?;
        }
        let Some(once) = &gate.once else { return Ok(()) };
        let plain = is_plain(result);
        let kept = if plain { result.clone() } else { gate.keep.bind(py).call1((result,))? };
        let expires = once.clock.read(py)?.after(once.ttl);
        let mut state = call.get().state.lock();
        state.phase = Phase::Done(kept.unbind());
        state.expires = expires;
        drop(state);
        if plain && are_plain(call.get().arguments.bind(py)) {
            leave_to_counting(call);
        }
        Ok(())
    }

    fn report(&self, py: Python<'_>, outcome: Outcome) -> PyResult<()> {
        match (&self.gate.get().breaker, &self.circuit) {
            (Some(breaker), Some((memory, ticket))) => breaker.report(py, memory.get(), *ticket, outcome),
            _ => Ok(()),
        }
    }
}

#[pymethods]
impl Call {
    /// The function returned.
    fn done(slf: &Bound<'_, Self>, result: &Bound<'_, PyAny>) -> PyResult<()> {
        // Still running for everybody else until its result is there.
        let Some(way) = slf.get().state.lock().way.take() else { return Ok(()) };
        let settled = way.settle(slf, result);
        if let Err(error) = &settled {
            // It ran, and nobody can say how: a clock or a hook of the user failed.
            slf.get().end(Phase::Unknown(error.get_type(slf.py()).into_any().unbind()));
        }
        settled
    }

    /// The function raised, or was cancelled.
    fn failed(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, call) = (slf.py(), slf.get());
        let Some(way) = call.state.lock().way.take() else { return Ok(()) };
        let word = way.gate.get().judge.bind(py).call1((error,)).and_then(|word| word.extract::<u8>());
        let unknown = Phase::Unknown(error.get_type().into_any().unbind());
        match word {
            Ok(word) if word & FREES != 0 => {
                call.end(Phase::Gone);
                way.free(slf)?;
                way.report(py, outcome(word))
            }
            Ok(word) => {
                call.end(unknown);
                way.report(py, outcome(word))
            }
            Err(error) => {
                call.end(unknown);
                Err(error)
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.arguments)?;
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        if let Some(way) = &state.way {
            visit.call(&way.gate)?;
            if let Some((run, key)) = &way.place {
                visit.call(run)?;
                visit.call(key)?;
            }
        }
        match &state.phase {
            Phase::Done(object) | Phase::Unknown(object) => visit.call(object),
            Phase::Running | Phase::Gone => Ok(()),
        }
    }
}

/// Takes a call off the collector's list: of ten thousand that are kept for their keys it would look at each again and
/// again, and what refers to nothing but texts and numbers is in no cycle.
fn leave_to_counting(call: &Bound<'_, Call>) {
    // SAFETY: the object is alive, its type is one that the collector knows, and untracking one twice, as its end will
    // do, is allowed.
    unsafe { ffi::PyObject_GC_UnTrack(call.as_ptr().cast()) }
}

/// Whether these are arguments that can neither change nor refer to anything.
pub(super) fn are_plain(arguments: &Bound<'_, PyAny>) -> bool {
    arguments.cast_exact::<PyTuple>().is_ok_and(|tuple| tuple.iter().all(|argument| is_plain(&argument)))
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
