//! The predicates of a rule.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::super::common::Given;
use super::super::common::record::frozen_record;
use super::Names;

/// `Ruleset(predicates=(), mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)`.
#[pyclass(name = "Ruleset", module = "checkrein.rulegate.core", subclass, frozen)]
pub(crate) struct Ruleset {
    /// A tuple of our own: emptying the list it was made from changes nothing.
    pub(super) predicates: Py<PyTuple>,
    mode: Py<PyAny>,
    on_store_error: Py<PyAny>,
}

impl Ruleset {
    const FIELDS: &'static [&'static str] = &["predicates", "mode", "on_store_error"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(
            py,
            [self.predicates.bind(py).as_any(), self.mode.bind(py), self.on_store_error.bind(py)],
        )
    }
}

/// The predicates of any object that has some.
pub(super) fn predicates_of<'py>(ruleset: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if let Ok(ruleset) = ruleset.cast::<Ruleset>() {
        return Ok(ruleset.get().predicates.bind(ruleset.py()).clone());
    }
    tuple_of(&ruleset.getattr("predicates")?)
}

fn tuple_of<'py>(predicates: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    if let Ok(tuple) = predicates.cast_exact::<PyTuple>() {
        return Ok(tuple.clone());
    }
    let items = predicates.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(predicates.py(), items)
}

frozen_record!(Ruleset {
    #[new]
    #[pyo3(
        signature = (predicates=Given::Nothing, mode=Given::Nothing, on_store_error=Given::Nothing),
        text_signature = "(predicates=(), mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)"
    )]
    fn new(py: Python<'_>, predicates: Given, mode: Given, on_store_error: Given) -> PyResult<Self> {
        let given = predicates.or_else(|| Ok(PyTuple::empty(py).into_any().unbind()))?;
        let given = given.bind(py);
        let empty = || PyValueError::new_err("predicates must not be empty");
        if !given.is_truthy()? {
            return Err(empty());
        }
        let predicates = tuple_of(given)?;
        // An iterator that yields nothing is truthy and empty all the same.
        if predicates.is_empty() {
            return Err(empty());
        }
        for predicate in predicates.iter() {
            if !predicate.is_callable() {
                let kind = predicate.get_type().name()?;
                return Err(PyTypeError::new_err(format!("predicate must be callable, got {kind}")));
            }
        }
        let modes = &Names::get(py)?.mode;
        Ok(Self {
            predicates: predicates.unbind(),
            mode: modes.mode(py, mode)?,
            on_store_error: modes.on_store_error(py, on_store_error)?,
        })
    }

    #[getter]
    fn predicates(&self, py: Python<'_>) -> Py<PyTuple> {
        self.predicates.clone_ref(py)
    }

    #[getter]
    fn mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.mode.clone_ref(py)
    }

    #[getter]
    fn on_store_error(&self, py: Python<'_>) -> Py<PyAny> {
        self.on_store_error.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.predicates)
    }
});
