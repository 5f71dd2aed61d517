//! What a predicate sees of a call.

use std::sync::OnceLock;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;

/// `Context(rule, args=(), kwargs={}, meta={})`.
#[pyclass(name = "Context", module = "checkrein.rulegate.core", subclass, frozen)]
pub(crate) struct Context {
    // Read by offset, without a call: predicates look at these again and again.
    #[pyo3(get)]
    pub(super) rule: Py<PyAny>,
    #[pyo3(get)]
    pub(super) args: Py<PyAny>,
    #[pyo3(get)]
    pub(super) kwargs: Py<PyAny>,
    /// Made when somebody looks, where the guard has none.
    pub(super) meta: OnceLock<Py<PyAny>>,
}

impl Context {
    const FIELDS: &'static [&'static str] = &["rule", "args", "kwargs", "meta"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(
            py,
            [&self.rule, &self.args, &self.kwargs, self.meta_or_empty(py)].map(|field| field.bind(py)),
        )
    }

    fn meta_or_empty(&self, py: Python<'_>) -> &Py<PyAny> {
        self.meta.get_or_init(|| PyDict::new(py).into_any().unbind())
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
            meta: OnceLock::from(meta.or_else(dict)?),
        })
    }

    #[getter]
    fn meta(&self, py: Python<'_>) -> Py<PyAny> {
        self.meta_or_empty(py).clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for field in [&self.rule, &self.args, &self.kwargs] {
            visit.call(field)?;
        }
        visit.call(self.meta.get())
    }
});
