//! The one way from errors and refusals to Python exceptions: the classes of `checkrein.errors`.

use std::path::Path;

use checkrein::store::StoreError;
use checkrein_core::admission::Admission;
use checkrein_core::code::Code;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::decision::Decision;

static DENIED: PyOnceLock<Vec<Py<PyType>>> = PyOnceLock::new();
static CONFIG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FORKED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static NOT_RECORDED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static PERMIT: PyOnceLock<Py<PyType>> = PyOnceLock::new();

const MODULE: &str = "checkrein.errors";

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import(MODULE)?.getattr(name)?.cast_into::<PyType>()?)
}

/// The exception that a refusal with this code raises.
pub(crate) fn denied_class(py: Python<'_>, code: Code) -> PyResult<&Bound<'_, PyType>> {
    let classes = DENIED.get_or_try_init(py, || {
        Code::all().map(|code| class(py, code.exception()).map(Bound::unbind)).collect::<PyResult<Vec<_>>>()
    })?;
    let position = Code::all().position(|other| other == code).unwrap_or_default();
    match classes.get(position) {
        Some(class) => Ok(class.bind(py)),
        None => Err(pyo3::exceptions::PyRuntimeError::new_err("the table of exceptions is empty")),
    }
}

/// A refusal as an exception; its only argument is the decision.
pub(crate) fn denied(py: Python<'_>, code: Code, decision: Bound<'_, PyAny>) -> PyErr {
    match denied_class(py, code).and_then(|class| class.call1((decision,))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// Whether the logger `checkrein` shows refusals; a logger that cannot say does not. A Ctrl-C of the time that the
/// decision took arrives here, at the first line of Python: it is not the logger's, and is returned.
pub(crate) fn is_debugging(py: Python<'_>) -> PyResult<bool> {
    const DEBUG: u8 = 10;
    let logger = LOGGER.get_or_try_init(py, || {
        py.import("logging")?.call_method1("getLogger", ("checkrein",)).map(Bound::unbind)
    });
    let asked = logger.and_then(|logger| logger.bind(py).call_method1("isEnabledFor", (DEBUG,))?.is_truthy());
    asked.or_else(|error| {
        if error.is_instance_of::<pyo3::exceptions::PyException>(py) { Ok(false) } else { Err(error) }
    })
}

/// Reports an exception of a listener, where the call has to go on. Ctrl-C comes again where the call can end.
#[cold]
pub(crate) fn unraisable(py: Python<'_>, error: PyErr, owner: &Bound<'_, PyAny>) {
    if error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) {
        // SAFETY: the interpreter is attached; a flag is set that the main thread looks at between two instructions.
        unsafe { pyo3::ffi::PyErr_SetInterrupt() };
    } else {
        error.write_unraisable(py, Some(owner));
    }
}

/// A description that cannot work.
pub(crate) fn config(py: Python<'_>, message: &str, code: &str, hint: &str) -> PyErr {
    let class = CONFIG.get_or_try_init(py, || class(py, "ConfigError").map(Bound::unbind));
    match class.and_then(|class| class.bind(py).call1((message, code, hint))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// The use of an engine in a child that was forked from the process that made it.
#[cold]
pub(crate) fn forked(py: Python<'_>) -> PyErr {
    let text = "the engine was made before this process was forked; its limits would count once per process \
                (hint: make the engine in the child)";
    message(py, &FORKED, "ForkedError", text)
}

/// The tool ran and nobody can be told so later; the exception carries its result.
#[cold]
pub(crate) fn not_recorded(
    py: Python<'_>,
    tool: &str,
    code: &str,
    text: &str,
    result: Bound<'_, PyAny>,
) -> PyErr {
    let class = NOT_RECORDED.get_or_try_init(py, || class(py, "OutcomeNotRecorded").map(Bound::unbind));
    let text =
        format!("`{tool}` ran, but its outcome was not recorded: {text} (hint: its result is `.result`)");
    match class.and_then(|class| class.bind(py).call1((text, code, result))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// A permit that cannot be finished, or not any more.
pub(crate) fn permit(py: Python<'_>, text: &str) -> PyErr {
    message(py, &PERMIT, "PermitError", text)
}

fn message(py: Python<'_>, cell: &'static PyOnceLock<Py<PyType>>, name: &str, text: &str) -> PyErr {
    let class = cell.get_or_try_init(py, || class(py, name).map(Bound::unbind));
    match class.and_then(|class| class.bind(py).call1((text,))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// A store that did not do what it was asked outside a decision.
pub(crate) fn store(py: Python<'_>, problem: &StoreError) -> PyErr {
    store_text(py, &problem.to_string())
}

/// A file that cannot be opened as a store; the error names it.
#[cold]
pub(crate) fn unopened(py: Python<'_>, path: &Path, problem: StoreError) -> PyErr {
    let (StoreError::NotCommitted(text) | StoreError::Unknown(text) | StoreError::Damaged(text)) = problem;
    let path = path.display().to_string();
    if text.contains(&path) { store_text(py, &text) } else { store_text(py, &format!("`{path}`: {text}")) }
}

fn store_text(py: Python<'_>, text: &str) -> PyErr {
    let admission = Admission::store_error(Code::StoreError, text);
    let decision = Decision::block(&std::sync::Arc::from("store"), admission.reasons);
    match decision.into_pyobject(py) {
        Ok(decision) => denied(py, Code::StoreError, decision.into_any()),
        Err(error) => error,
    }
}
