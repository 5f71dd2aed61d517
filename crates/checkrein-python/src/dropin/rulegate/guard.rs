//! What a wrapper calls with the arguments of a guarded function.

use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::Names;
use super::engine::{Config, Question, RuleEngine};

/// The decision on one rule.
#[pyclass(name = "RuleGateGuard", module = "checkrein._native", frozen)]
pub(crate) struct RuleGuard {
    engine: Py<RuleEngine>,
    rule: Py<PyAny>,
    meta: Option<Py<PyAny>>,
    /// Records in the async store, which then has to be our own.
    asynchronous: bool,
    /// What `run` calls.
    function: Option<Py<PyAny>>,
    /// The registered ruleset, and how many registrations there were when it was looked up.
    known: Mutex<Option<(u64, Py<PyAny>)>>,
}

#[pymethods]
impl RuleGuard {
    #[new]
    #[pyo3(signature = (engine, rule, meta=None, asynchronous=false, function=None))]
    fn new(
        engine: Py<RuleEngine>,
        rule: Py<PyAny>,
        meta: Option<Py<PyAny>>,
        asynchronous: bool,
        function: Option<Py<PyAny>>,
    ) -> Self {
        Self { engine, rule, meta, asynchronous, function, known: Mutex::new(None) }
    }

    /// Runs the guarded function when every predicate allows the call, raises `PolicyViolationError` when not.
    fn run<'py>(
        &self,
        py: Python<'py>,
        args: Bound<'py, PyTuple>,
        kwargs: Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.admit(py, args.as_any(), kwargs.as_any())?;
        let function = self.function.as_ref().ok_or_else(|| PyTypeError::new_err("nothing to run"))?;
        let kwargs = (!kwargs.is_empty()).then_some(&kwargs);
        function.bind(py).call(args, kwargs)
    }

    /// Returns when every predicate allows the call, raises `PolicyViolationError` when one does not.
    fn admit<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyAny>,
        kwargs: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let engine = self.engine.get();
        let config = engine.config()?;
        let rule = self.rule.bind(py);
        let meta = self.meta.as_ref().map(|meta| meta.bind(py));
        let (backend, method) =
            if self.asynchronous { (&config.async_store, "async_check") } else { (&config.store, "check") };
        let ruleset = self.ruleset(config, rule)?;
        let ruleset = ruleset.as_ref();
        let question = Question { rule, ruleset, args, kwargs: Some(kwargs), meta, all: false, method };
        let (now, answers) = engine.ask(config, &question)?;
        let Some(decision) = engine.settle(config, backend, rule, now, answers)? else { return Ok(()) };
        if decision.get().is_allowed(py)? {
            return Ok(());
        }
        Err(PyErr::from_value(Names::get(py)?.violation_error.bind(py).call1((decision,))?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        visit.call(&self.meta)?;
        visit.call(&self.function)?;
        match self.known.try_lock().as_deref() {
            Some(Some((_, ruleset))) => visit.call(ruleset),
            _ => Ok(()),
        }
    }
}

impl RuleGuard {
    /// The registered ruleset, looked up again after every registration.
    fn ruleset<'py>(&self, config: &Config, rule: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = rule.py();
        if let Some((epoch, ruleset)) = self.known.lock().as_ref()
            && *epoch == RuleEngine::epoch(config)
        {
            return Ok(Some(ruleset.bind(py).clone()));
        }
        let (epoch, ruleset) = RuleEngine::current(config, rule)?;
        if let Some(ruleset) = &ruleset {
            let old = self.known.lock().replace((epoch, ruleset.clone().unbind()));
            drop(old);
        }
        Ok(ruleset)
    }
}
