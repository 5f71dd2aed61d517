//! What Python calls on an engine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::{PyException, PyNotImplementedError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::Clock;
use super::super::common::emitter::Announcer;
use super::decision::Decision;
use super::engine::{ActionEngine, Backend, Config, LANES, failed, read_reply};
use super::store::ActionStore;

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
    pub(super) fn check<'py>(
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

    pub(super) fn _check_async<'py>(
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
