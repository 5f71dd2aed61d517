//! The user's clock: a function of the `time` that a module's globals name, looked up at each call.

use checkrein_core::time::Timestamp;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::super::common::clock::stamp_of;

/// Where a clock is looked up, so that whoever patches `time.time` is heard.
pub(super) struct Clock {
    globals: Py<PyDict>,
    function: Py<PyString>,
}

impl Clock {
    /// The function of this name, of the `time` in these globals.
    pub(super) fn new(globals: Py<PyDict>, function: Bound<'_, PyString>) -> Self {
        Self { globals, function: function.unbind() }
    }

    /// Reads the clock. It is the user's code: no lock may be held.
    #[inline]
    pub(super) fn read(&self, py: Python<'_>) -> PyResult<Timestamp> {
        let module = self.globals.bind(py).get_item(pyo3::intern!(py, "time"))?;
        let module = module.ok_or_else(|| PyValueError::new_err("the module has no `time`"))?;
        let reading = module.getattr(self.function.bind(py))?.call0()?;
        let stamp = stamp_of(&reading).ok_or_else(|| {
            PyValueError::new_err(format!("the clock returned {reading}, which is no time"))
        })?;
        Ok(Timestamp::from_nanos(stamp))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.globals)
    }
}
