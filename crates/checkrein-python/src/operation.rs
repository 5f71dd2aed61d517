//! `Operation`: what stands behind a once key, as tools, reconcile hooks and lists see it.

use std::sync::Arc;

use checkrein::store::Step;
use checkrein_core::fingerprint::IdempotencyKey;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::{Key, KeyRef, decode_parts};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::engine::EngineBase;
use crate::error;
use crate::waiting::{self, Bell, Resolving};

/// The namespace of operations and actions of this door.
pub(crate) const NAMESPACE: &str = "python";

/// One operation of a once gate.
#[pyclass(name = "Operation", module = "checkrein", frozen)]
pub(crate) struct Operation {
    owner: Py<EngineBase>,
    gate: Arc<str>,
    key: Key,
    state: &'static str,
    since: Option<f64>,
    run: Option<Run>,
    arguments: Option<Py<PyDict>>,
}

impl Operation {
    /// The operation of a key in a state.
    pub(crate) fn new(owner: Py<EngineBase>, gate: Arc<str>, key: Key, state: &'static str) -> Self {
        Self { owner, gate, key, state, since: None, run: None, arguments: None }
    }

    /// One that is in doubt since a time, and in which run.
    pub(crate) fn doubt(mut self, run: Run, since: Option<f64>, arguments: Option<Py<PyDict>>) -> Self {
        (self.run, self.since, self.arguments) = (Some(run), since, arguments);
        self
    }

    /// The same operation after its end was recorded.
    pub(crate) fn resolved(&self, py: Python<'_>, state: &'static str) -> Self {
        Self {
            owner: self.owner.clone_ref(py),
            gate: Arc::clone(&self.gate),
            key: self.key.clone(),
            state,
            since: Some(self.owner.get().engine.now().nanos() as f64 / 1e9),
            run: self.run,
            arguments: self.arguments.as_ref().map(|arguments| arguments.clone_ref(py)),
        }
    }
}

fn end(state: &str, stored: Option<&[u8]>) -> PyResult<OperationState> {
    match state {
        "done" => Ok(OperationState::Done(stored.map(Arc::from))),
        "failed_clean" => Ok(OperationState::FailedClean),
        _ => Err(PyValueError::new_err("state is done or failed_clean")),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A key as lists show it: text, or a tuple of its parts.
pub(crate) fn shown<'py>(py: Python<'py>, key: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // A key of several parts begins with the length of its first: a zero byte, which no text key has.
    match if key.first() == Some(&0) { decode_parts(key) } else { None } {
        Some(parts) => Ok(PyTuple::new(py, parts.into_iter().map(text))?.into_any()),
        None => Ok(PyString::new(py, &text(key)).into_any()),
    }
}

/// What targets tell the attempts of this operation by.
pub(crate) fn idempotency_key(gate: &str, key: KeyRef<'_>) -> String {
    IdempotencyKey::of(key.tenant, NAMESPACE, gate, key.key).to_string()
}

#[pymethods]
impl Operation {
    /// The name of its once gate.
    #[getter]
    fn gate(&self) -> &str {
        &self.gate
    }

    /// The tenant it belongs to; empty when there is only one.
    #[getter]
    fn tenant(&self) -> String {
        text(self.key.borrow().tenant)
    }

    /// Its key, as text; a key of several parts is a tuple of texts.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, self.key.borrow().key)
    }

    /// `started`, `in_doubt`, `done` or `failed_clean`.
    #[getter]
    fn state(&self) -> &'static str {
        self.state
    }

    /// Since when it is there, in seconds of the engine's time; `None` where that was not looked up.
    #[getter]
    fn since(&self) -> Option<f64> {
        self.since
    }

    /// The arguments that the once gate covers, copied; `None` where nobody called.
    #[getter]
    fn arguments<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyMappingProxy>> {
        self.arguments.as_ref().map(|arguments| PyMappingProxy::new(py, arguments.bind(py).as_mapping()))
    }

    /// What to send as `Idempotency-Key`: a UUID, the same for every attempt, in every process.
    #[getter]
    pub(crate) fn idempotency_key(&self) -> String {
        idempotency_key(&self.gate, self.key.borrow())
    }

    /// How long a coroutine waits for the store, in seconds.
    #[getter]
    fn _patience_s(&self) -> f64 {
        waiting::patience_s(&self.owner.get().engine)
    }

    /// Records what became of it; `None` when it is not in doubt any more, or not in this run.
    fn _resolve(&self, py: Python<'_>, state: &str, stored: Option<&[u8]>) -> PyResult<Option<Self>> {
        let to = end(state, stored)?;
        let base = self.owner.get();
        base.check_fork(py)?;
        let word = to.name();
        let resolved = py.detach(|| base.engine.resolve(self.key.borrow(), self.run, to));
        let resolved = resolved.map_err(|problem| error::store(py, &problem))?;
        Ok(resolved.then(|| self.resolved(py, word)))
    }

    /// Hands what became of it to the store, and rings the bell with `number` when it is committed.
    fn _resolve_later(
        slf: &Bound<'_, Self>,
        bell: &Bell,
        number: u64,
        state: &str,
        stored: Option<&[u8]>,
    ) -> PyResult<Resolving> {
        let to = end(state, stored)?;
        let (operation, word) = (slf.get(), to.name());
        let base = operation.owner.get();
        base.check_fork(slf.py())?;
        let step = Step::Resolve(operation.key.clone(), operation.run, to);
        Ok(Resolving::new(slf, &base.engine, step, word, bell, number))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let key = self.key(py)?.repr()?.to_string();
        Ok(format!("<Operation `{}` {key}: {}>", self.gate.escape_debug(), self.state))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)?;
        self.arguments.as_ref().map_or(Ok(()), |arguments| visit.call(arguments))
    }
}
