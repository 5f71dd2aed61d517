//! What a wrapper calls with the arguments of a guarded function.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Names;
use super::decision::Decision;
use super::engine::{Question, RuleEngine};

/// The decision on one rule.
#[pyclass(name = "RuleGateGuard", module = "checkrein._native", frozen)]
pub(crate) struct RuleGuard {
    engine: Py<RuleEngine>,
    rule: Py<PyAny>,
    meta: Option<Py<PyAny>>,
    /// Records in the async store, which then has to be our own.
    asynchronous: bool,
}

#[pymethods]
impl RuleGuard {
    #[new]
    #[pyo3(signature = (engine, rule, meta=None, asynchronous=false))]
    fn new(engine: Py<RuleEngine>, rule: Py<PyAny>, meta: Option<Py<PyAny>>, asynchronous: bool) -> Self {
        Self { engine, rule, meta, asynchronous }
    }

    /// Returns when every predicate allows the call, raises `PolicyViolationError` when one does not.
    fn admit<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyAny>,
        kwargs: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let decision = self.check(py, args, kwargs)?;
        if decision.get().is_allowed(py)? {
            return Ok(());
        }
        Err(PyErr::from_value(Names::get(py)?.violation_error.bind(py).call1((decision,))?))
    }

    /// Decides, announces, records.
    fn check<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyAny>,
        kwargs: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Decision>> {
        let engine = self.engine.get();
        let config = engine.config()?;
        let rule = self.rule.bind(py);
        let meta = self.meta.as_ref().map(|meta| meta.bind(py));
        let (backend, method) =
            if self.asynchronous { (&config.async_store, "async_check") } else { (&config.store, "check") };
        let question = Question { rule, ruleset: None, args, kwargs: Some(kwargs), meta, all: false, method };
        let (now, decision) = engine.evaluate(config, &question)?;
        engine.conclude(config, backend, rule, &now, &decision)?;
        Ok(decision)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)?;
        visit.call(&self.meta)
    }
}
