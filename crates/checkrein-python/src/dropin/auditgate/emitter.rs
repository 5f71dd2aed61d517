//! `Emitter`: calls listeners in order and counts the ones that fail.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Hands every decision to its listeners.
#[pyclass(frozen, subclass, module = "checkrein.auditgate.emitter", name = "Emitter")]
pub(crate) struct AuditEmitter {
    listeners: Py<PyList>,
    errors: AtomicU64,
}

impl AuditEmitter {
    /// Whether nobody listens.
    pub(crate) fn is_silent(&self, py: Python<'_>) -> bool {
        self.listeners.bind(py).is_empty()
    }

    /// Calls the listeners; an exception is counted, anything beyond `Exception` gets out.
    pub(crate) fn deliver(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event.py();
        let listeners = self.listeners.bind(py);
        let mut index = 0;
        // By index and with a fresh length, so that a listener added during the round still runs in it.
        while index < listeners.len() {
            if let Err(error) = listeners.get_item(index)?.call1((event,)) {
                if !error.is_instance_of::<PyException>(py) {
                    return Err(error);
                }
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            index += 1;
        }
        Ok(())
    }
}

#[pymethods]
impl AuditEmitter {
    #[new]
    #[pyo3(signature = (*args, **kwargs), text_signature = "()")]
    fn new(
        py: Python<'_>,
        args: &Bound<'_, pyo3::types::PyTuple>,
        kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> Self {
        // Subclasses may take arguments of their own; `__init__` refuses them here.
        let _ = (args, kwargs);
        Self { listeners: PyList::empty(py).unbind(), errors: AtomicU64::new(0) }
    }

    fn __init__(&self) {}

    /// Adds a listener.
    fn add(&self, py: Python<'_>, listener: &Bound<'_, PyAny>) -> PyResult<()> {
        self.listeners.bind(py).append(listener)
    }

    /// Removes a listener added before; returns whether it was there.
    fn remove(&self, py: Python<'_>, listener: &Bound<'_, PyAny>) -> PyResult<bool> {
        let listeners = self.listeners.bind(py);
        if !listeners.contains(listener)? {
            return Ok(false);
        }
        listeners.call_method1("remove", (listener,))?;
        Ok(true)
    }

    /// Calls every listener with `event`.
    fn emit(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.deliver(event)
    }

    /// How often a listener failed.
    #[getter]
    fn error_count(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.listeners)
    }
}
