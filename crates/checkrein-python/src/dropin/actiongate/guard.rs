//! What a compiled wrapper calls before a guarded function.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Names;
use super::decision::Decision;
use super::engine::{ActionEngine, Backend, Config};

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
