//! What a predicate sees of a call.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;

/// `Context(rule, args=(), kwargs={}, meta={})`.
#[pyclass(name = "Context", module = "checkrein.rulegate.core", subclass, frozen)]
pub(crate) struct Context {
    pub(super) rule: Py<PyAny>,
    pub(super) args: Py<PyAny>,
    pub(super) kwargs: Py<PyAny>,
    pub(super) meta: Py<PyAny>,
}

impl Context {
    const FIELDS: &'static [&'static str] = &["rule", "args", "kwargs", "meta"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, [&self.rule, &self.args, &self.kwargs, &self.meta].map(|field| field.bind(py)))
    }
}

frozen_record!(Context {
    #[new]
    #[pyo3(
        signature = (rule, args=Given::Nothing, kwargs=Given::Nothing, meta=Given::Nothing),
        text_signature = "(rule, args=(), kwargs=<factory>, meta=<factory>)"
    )]
    fn new(py: Python<'_>, rule: Py<PyAny>, args: Given, kwargs: Given, meta: Given) -> PyResult<Self> {
        let dict = || Ok(PyDict::new(py).into_any().unbind());
        Ok(Self {
            rule,
            args: args.or_else(|| Ok(PyTuple::empty(py).into_any().unbind()))?,
            kwargs: kwargs.or_else(dict)?,
            meta: meta.or_else(dict)?,
        })
    }

    #[getter]
    fn rule(&self, py: Python<'_>) -> Py<PyAny> {
        self.rule.clone_ref(py)
    }

    #[getter]
    fn args(&self, py: Python<'_>) -> Py<PyAny> {
        self.args.clone_ref(py)
    }

    #[getter]
    fn kwargs(&self, py: Python<'_>) -> Py<PyAny> {
        self.kwargs.clone_ref(py)
    }

    #[getter]
    fn meta(&self, py: Python<'_>) -> Py<PyAny> {
        self.meta.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for field in [&self.rule, &self.args, &self.kwargs, &self.meta] {
            visit.call(field)?;
        }
        Ok(())
    }
});
