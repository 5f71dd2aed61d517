//! Copies of plain containers, so that what a predicate does to its arguments never reaches what runs.

use std::collections::HashMap;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyList, PySet, PyTuple};

/// Copies already made, by address: shared and cyclic containers keep their shape.
type Copies<'py> = HashMap<usize, (Bound<'py, PyAny>, Bound<'py, PyAny>)>;

/// Deeper than any JSON arguments the runner reads. What a program nests deeper itself is shared with its predicates.
const DEPTH: usize = 1_000;

fn is_container(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PySet>()
        || value.is_exact_instance_of::<PyByteArray>()
}

/// The positional arguments: the same tuple where nothing in it can change.
pub(super) fn arguments<'py>(args: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(tuple) = args.cast_exact::<PyTuple>()
        && !tuple.iter().any(|value| is_container(&value))
    {
        return Ok(args.clone());
    }
    copy(args, &mut Copies::new(), 0)
}

/// The keyword arguments: always a dict of their own.
pub(super) fn keywords<'py>(
    py: Python<'py>,
    kwargs: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(kwargs) = kwargs else { return Ok(PyDict::new(py).into_any()) };
    let Ok(dict) = kwargs.cast_exact::<PyDict>() else { return Ok(kwargs.clone()) };
    if dict.is_empty() {
        return Ok(PyDict::new(py).into_any());
    }
    if holds_container(dict) {
        return copy(kwargs, &mut Copies::new(), 0);
    }
    Ok(dict.copy()?.into_any())
}

/// Whether a value of the dict is a container.
fn holds_container(dict: &Bound<'_, PyDict>) -> bool {
    let (mut position, mut value) = (0, std::ptr::null_mut());
    // SAFETY: the interpreter is attached; the walk only compares types, so nothing can change the dict or free a value
    // between two steps. Keys are not asked for, and values are borrowed from the dict.
    while unsafe { ffi::PyDict_Next(dict.as_ptr(), &mut position, std::ptr::null_mut(), &mut value) } != 0 {
        let value = unsafe { Borrowed::from_ptr(dict.py(), value) };
        if is_container(&value) {
            return true;
        }
    }
    false
}

fn copy<'py>(
    value: &Bound<'py, PyAny>,
    copies: &mut Copies<'py>,
    depth: usize,
) -> PyResult<Bound<'py, PyAny>> {
    if !is_container(value) || depth > DEPTH {
        return Ok(value.clone());
    }
    let address = value.as_ptr() as usize;
    if let Some((_, made)) = copies.get(&address) {
        return Ok(made.clone());
    }
    let py = value.py();
    // The original is kept beside its copy: its address must not be used again meanwhile.
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let made = PyDict::new(py);
        copies.insert(address, (value.clone(), made.clone().into_any()));
        for (key, item) in dict.iter() {
            made.set_item(key, copy(&item, copies, depth + 1)?)?;
        }
        return Ok(made.into_any());
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        let made = PyList::empty(py);
        copies.insert(address, (value.clone(), made.clone().into_any()));
        for item in list.iter() {
            made.append(copy(&item, copies, depth + 1)?)?;
        }
        return Ok(made.into_any());
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        let items = tuple.iter().map(|item| copy(&item, copies, depth + 1)).collect::<PyResult<Vec<_>>>()?;
        return Ok(PyTuple::new(py, items)?.into_any());
    }
    // Sets hold hashable members, and bytearrays bytes: one level is all there is.
    value.get_type().call1((value,))
}
