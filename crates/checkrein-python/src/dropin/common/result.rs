//! `Result` and the sentinel for "no value", the bases of each module's own classes.

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::Given;
use super::record::frozen_record;

/// Base of each module's `_Missing`: any instance, copied or unpickled, stands for "no value".
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct Missing;

#[pymethods]
impl Missing {
    #[new]
    fn new() -> Self {
        Self
    }

    fn __repr__(&self) -> &'static str {
        "<MISSING>"
    }
}

/// Base of each module's `Result`: a decision and, when the action ran, what it returned.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ResultBase {
    decision: Py<PyAny>,
    value: Py<PyAny>,
    missing: bool,
}

impl ResultBase {
    const FIELDS: &'static [&'static str] = &["decision", "_value"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, [self.decision.bind(py), self.value.bind(py)])
    }
}

frozen_record!(ResultBase {
    #[new]
    #[pyo3(signature = (decision, _value=Given::Nothing), text_signature = "(decision, _value=...)")]
    #[classmethod]
    fn new(
        class: &Bound<'_, pyo3::types::PyType>,
        decision: Py<PyAny>,
        _value: Given,
    ) -> PyResult<Self> {
        let value = _value.or_else(|| Ok(class.getattr("_missing")?.unbind()))?;
        let missing = value.bind(class.py()).is_instance_of::<Missing>();
        Ok(Self { decision, value, missing })
    }

    #[getter]
    fn decision(&self, py: Python<'_>) -> Py<PyAny> {
        self.decision.clone_ref(py)
    }

    #[getter]
    fn _value(&self, py: Python<'_>) -> Py<PyAny> {
        self.value.clone_ref(py)
    }

    /// Whether the action was allowed.
    #[getter]
    fn ok<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.decision.bind(py).getattr("allowed")
    }

    /// Whether there is a value; None counts as one.
    #[getter]
    fn has_value(&self) -> bool {
        !self.missing
    }

    /// The value, or None.
    #[getter]
    fn value(&self, py: Python<'_>) -> Py<PyAny> {
        if self.missing { py.None() } else { self.value.clone_ref(py) }
    }

    /// The value; ValueError when there is none.
    fn unwrap(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if !self.missing {
            return Ok(self.value.clone_ref(py));
        }
        let message = self.decision.bind(py).getattr("message")?;
        let text = if message.is_truthy()? { message.str()?.to_string() } else { "blocked".to_owned() };
        Err(PyValueError::new_err(format!("No value: {text}")))
    }

    /// The value, or the default.
    fn unwrap_or(&self, py: Python<'_>, default: Py<PyAny>) -> Py<PyAny> {
        if self.missing { default } else { self.value.clone_ref(py) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.decision)?;
        visit.call(&self.value)
    }
});
