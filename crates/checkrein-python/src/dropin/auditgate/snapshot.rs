//! A deep copy of an entry's detail, so that an entry says for ever what it said when it was recorded.

use pyo3::exceptions::{PyException, PyRecursionError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::canonical::MAX_DEPTH;

/// Copies `value` and every container inside it; plain immutable values are shared.
pub(crate) fn snapshot<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match copy(value, 0) {
        // A container inside itself, or one nested too deep: the standard library knows how to copy it.
        Err(error) if error.is_instance_of::<PyRecursionError>(value.py()) => deepcopy(value),
        copied => copied,
    }
}

fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
}

fn copy<'py>(value: &Bound<'py, PyAny>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
    if is_plain(value) {
        return Ok(value.clone());
    }
    if depth > MAX_DEPTH {
        return Err(PyRecursionError::new_err("nested too deep"));
    }
    if let Ok(mapping) = value.cast_exact::<PyDict>() {
        let copied = mapping.copy()?;
        let mut nested = Vec::new();
        for (key, item) in copied.iter() {
            if !is_plain(&item) {
                nested.push((key, item));
            }
        }
        for (key, item) in nested {
            copied.set_item(key, copy(&item, depth + 1)?)?;
        }
        return Ok(copied.into_any());
    }
    if let Ok(items) = value.cast_exact::<PyList>() {
        let items: Vec<_> = items.iter().collect();
        let copied = items.iter().map(|item| copy(item, depth + 1)).collect::<PyResult<Vec<_>>>()?;
        return Ok(PyList::new(value.py(), copied)?.into_any());
    }
    if let Ok(items) = value.cast_exact::<PyTuple>() {
        if items.iter_borrowed().all(|item| is_plain(&item)) {
            return Ok(value.clone());
        }
        let copied =
            items.iter_borrowed().map(|item| copy(&item, depth + 1)).collect::<PyResult<Vec<_>>>()?;
        return Ok(PyTuple::new(value.py(), copied)?.into_any());
    }
    deepcopy(value)
}

/// Copies what is not a plain JSON container; an object that refuses to be copied is shared.
fn deepcopy<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static DEEPCOPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    match DEEPCOPY.import(value.py(), "copy", "deepcopy")?.call1((value,)) {
        Err(error) if error.is_instance_of::<PyException>(value.py()) => Ok(value.clone()),
        copied => copied,
    }
}
