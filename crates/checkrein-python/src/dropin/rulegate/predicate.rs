//! Calling one predicate, and what it is called when it refuses.

use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple};

use super::super::common::record::frozen_record;

/// `NamedPredicate(name, fn)`: a predicate with a name for people.
#[pyclass(name = "NamedPredicate", module = "checkrein.rulegate.core", subclass, frozen)]
pub(crate) struct NamedPredicate {
    name: Py<PyAny>,
    function: Py<PyAny>,
}

impl NamedPredicate {
    const FIELDS: &'static [&'static str] = &["name", "fn"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, [self.name.bind(py), self.function.bind(py)])
    }
}

frozen_record!(NamedPredicate {
    #[new]
    #[pyo3(signature = (name, r#fn))]
    fn new(name: Py<PyAny>, r#fn: Py<PyAny>) -> Self {
        Self { name, function: r#fn }
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyAny> {
        self.name.clone_ref(py)
    }

    #[getter]
    fn r#fn(&self, py: Python<'_>) -> Py<PyAny> {
        self.function.clone_ref(py)
    }

    fn __call__<'py>(&self, py: Python<'py>, ctx: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.function.bind(py).call1((ctx,))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.name)?;
        visit.call(&self.function)
    }
});

/// Asks one predicate: `None` when it allows, else what the violation is called. Only what is no `Exception` escapes.
pub(super) fn ask(predicate: &Bound<'_, PyAny>, context: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let answer = match predicate.cast_exact::<NamedPredicate>() {
        Ok(named) => call(named.get().function.bind(context.py()), context),
        Err(_) => call(predicate, context),
    };
    let verdict = answer.and_then(|answer| match answer.cast::<PyBool>() {
        Ok(answer) => Ok(if answer.is_true() { None } else { Some(String::new()) }),
        Err(_) => judge(&answer),
    });
    match verdict {
        Ok(None) => Ok(None),
        Ok(Some(remark)) => Ok(Some(name(predicate)? + &remark)),
        Err(error) if error.is_instance_of::<PyException>(context.py()) => {
            Ok(Some(name(predicate)? + &raised(context.py(), &error)))
        }
        Err(error) => Err(error),
    }
}

/// Calls with one argument and no tuple around it.
#[inline]
fn call<'py>(function: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let end = std::ptr::null_mut::<pyo3::ffi::PyObject>();
    // SAFETY: the interpreter is attached, both are live objects, and the list of arguments ends with a null pointer.
    // The result is a new reference, or null with an exception set.
    unsafe {
        let answer = pyo3::ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), argument.as_ptr(), end);
        Bound::from_owned_ptr_or_err(function.py(), answer)
    }
}

/// An answer that is no bool: truthy allows, except a promise of an answer, which is none.
fn judge(answer: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let py = answer.py();
    let kind = answer.get_type().name()?;
    if kind == "generator" || kind == "async_generator" {
        // A predicate with a `yield` in it has not even begun to answer.
        return Ok(Some(format!(" (returned {kind}: predicates must not yield)")));
    }
    if answer.hasattr(pyo3::intern!(py, "__await__"))? {
        // A coroutine nobody awaits would warn when it is collected.
        if let Ok(close) = answer.getattr(pyo3::intern!(py, "close")) {
            close.call0()?;
        }
        return Ok(Some(format!(" (returned {kind}: predicates must not be async)")));
    }
    Ok(if answer.is_truthy()? { None } else { Some(String::new()) })
}

fn raised(py: Python<'_>, error: &PyErr) -> String {
    let value = error.value(py);
    let kind =
        value.get_type().name().map(|name| name.to_string()).unwrap_or_else(|_| "Exception".to_owned());
    let text = value.str().map(|text| text.to_string()).unwrap_or_else(|_| "<unprintable>".to_owned());
    format!(" (raised: {kind}: {text})")
}

/// The name of a predicate: its own, its qualified name, or its repr without the address.
fn name(predicate: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(named) = predicate.cast::<NamedPredicate>() {
        return Ok(named.get().name.bind(predicate.py()).str()?.to_string());
    }
    for attribute in ["__qualname__", "__name__"] {
        if let Ok(name) = predicate.getattr(attribute)
            && name.is_instance_of::<PyString>()
        {
            return Ok(name.to_string());
        }
    }
    match predicate.repr() {
        Ok(repr) => Ok(without_addresses(&repr.to_string_lossy())),
        Err(error) if error.is_instance_of::<PyException>(predicate.py()) => {
            Ok(predicate.get_type().qualname()?.to_string())
        }
        Err(error) => Err(error),
    }
}

/// Cuts ` at 0x7f...` out of a repr: names are for logs and comparisons, and addresses change with every run.
fn without_addresses(repr: &str) -> String {
    let mut parts = repr.split(" at 0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    text
}
