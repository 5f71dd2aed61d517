//! The modes every drop-in module defines, and how lenient their reading is.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::Given;

/// One module's `Mode` and `StoreErrorMode`.
pub(crate) struct Modes {
    mode: Py<PyAny>,
    hard: Py<PyAny>,
    store_error_mode: Py<PyAny>,
    fail_closed: Py<PyAny>,
    fail_open: Py<PyAny>,
}

impl Modes {
    pub(crate) fn load(core: &Bound<'_, PyModule>) -> PyResult<Self> {
        let mode = core.getattr("Mode")?;
        let store_error_mode = core.getattr("StoreErrorMode")?;
        Ok(Self {
            hard: mode.getattr("HARD")?.unbind(),
            mode: mode.unbind(),
            fail_closed: store_error_mode.getattr("FAIL_CLOSED")?.unbind(),
            fail_open: store_error_mode.getattr("FAIL_OPEN")?.unbind(),
            store_error_mode: store_error_mode.unbind(),
        })
    }

    /// The mode of a policy, `HARD` when left out.
    pub(crate) fn mode(&self, py: Python<'_>, given: Given) -> PyResult<Py<PyAny>> {
        let value = given.or_else(|| Ok(self.hard.clone_ref(py)))?;
        member(value.bind(py), self.mode.bind(py), "mode")
    }

    /// What a policy does when its store fails, `FAIL_CLOSED` when left out.
    pub(crate) fn on_store_error(&self, py: Python<'_>, given: Given) -> PyResult<Py<PyAny>> {
        let value = given.or_else(|| Ok(self.fail_closed.clone_ref(py)))?;
        member(value.bind(py), self.store_error_mode.bind(py), "on_store_error")
    }

    /// Whether a policy lets the action pass when its store fails. Only the exact member does.
    pub(crate) fn fails_open(&self, py: Python<'_>, on_store_error: &Bound<'_, PyAny>) -> bool {
        on_store_error.is(self.fail_open.bind(py))
    }
}

/// A member of `class`, given as itself or by name: a string must not silently mean "never raise".
fn member(value: &Bound<'_, PyAny>, class: &Bound<'_, PyAny>, field: &str) -> PyResult<Py<PyAny>> {
    if value.is_instance(class)? {
        return Ok(value.clone().unbind());
    }
    let by_name = value.cast::<pyo3::types::PyString>().ok().and_then(|name| class.get_item(name).ok());
    by_name.map(Bound::unbind).ok_or_else(|| {
        let name = class.getattr("__name__").map(|name| name.to_string()).unwrap_or_default();
        let shown = value.repr().map(|text| text.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("{field} must be a {name}, got {shown}"))
    })
}
