//! A rate limit with an optional cooldown, its numbers read once.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyTuple};

use super::super::common::Given;
use super::super::common::clock::{is_below, span};
use super::super::common::record::frozen_record;
use super::Names;

/// The numbers of a policy as the meter needs them.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Blocked once this many calls count.
    pub(super) max_calls: u64,
    /// Nanoseconds; `None` counts for ever.
    pub(super) window: Option<i64>,
    /// Nanoseconds.
    pub(super) cooldown: i64,
    pub(super) fail_open: bool,
}

/// `Policy(max_calls=3, window=60.0, cooldown=0.0, mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)`.
#[pyclass(name = "Policy", module = "checkrein.actiongate.core", subclass, frozen)]
pub(crate) struct Policy {
    max_calls: Py<PyAny>,
    window: Py<PyAny>,
    cooldown: Py<PyAny>,
    mode: Py<PyAny>,
    on_store_error: Py<PyAny>,
    limits: Limits,
}

impl Policy {
    const FIELDS: &'static [&'static str] = &["max_calls", "window", "cooldown", "mode", "on_store_error"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [&self.max_calls, &self.window, &self.cooldown, &self.mode, &self.on_store_error];
        PyTuple::new(py, fields.map(|field| field.bind(py)))
    }
}

/// How many calls block: the least whole number not below `max_calls`.
fn threshold(max_calls: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Ok(whole) = max_calls.extract::<u64>() {
        return Ok(whole);
    }
    if max_calls.is_instance_of::<PyInt>() {
        return Ok(u64::MAX);
    }
    // Saturates: infinity is "never blocks".
    Ok(max_calls.extract::<f64>()?.ceil() as u64)
}

/// Checks a policy's numbers and reads them.
fn read_limits(
    max_calls: &Bound<'_, PyAny>,
    window: &Bound<'_, PyAny>,
    cooldown: &Bound<'_, PyAny>,
    fail_open: bool,
) -> PyResult<Limits> {
    if is_below(max_calls, false)? {
        return Err(PyValueError::new_err("max_calls must be >= 0"));
    }
    if !window.is_none() && is_below(window, true)? {
        return Err(PyValueError::new_err("window must be > 0 or None"));
    }
    if is_below(cooldown, false)? {
        return Err(PyValueError::new_err("cooldown must be >= 0"));
    }
    Ok(Limits {
        max_calls: threshold(max_calls)?,
        window: if window.is_none() { None } else { span(window)? },
        cooldown: span(cooldown)?.unwrap_or(i64::MAX),
        fail_open,
    })
}

/// The limits of any object with a policy's attributes.
pub(crate) fn limits_of(policy: &Bound<'_, PyAny>) -> PyResult<Limits> {
    if let Ok(policy) = policy.cast::<Policy>() {
        return Ok(policy.get().limits);
    }
    let fail_open = Names::get(policy.py())?.mode.fails_open(policy.py(), &policy.getattr("on_store_error")?);
    read_limits(
        &policy.getattr("max_calls")?,
        &policy.getattr("window")?,
        &policy.getattr("cooldown")?,
        fail_open,
    )
}

frozen_record!(Policy {
    #[new]
    #[pyo3(
        signature = (
            max_calls=Given::Nothing, window=Given::Nothing, cooldown=Given::Nothing,
            mode=Given::Nothing, on_store_error=Given::Nothing
        ),
        text_signature = "(max_calls=3, window=60.0, cooldown=0.0, mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)"
    )]
    fn new(
        py: Python<'_>,
        max_calls: Given,
        window: Given,
        cooldown: Given,
        mode: Given,
        on_store_error: Given,
    ) -> PyResult<Self> {
        let float = |value: f64| PyFloat::new(py, value).into_any().unbind();
        let max_calls = max_calls.or_else(|| Ok(PyInt::new(py, 3).into_any().unbind()))?;
        let window = window.or_else(|| Ok(float(60.0)))?;
        let cooldown = cooldown.or_else(|| Ok(float(0.0)))?;
        let modes = &Names::get(py)?.mode;
        let mode = modes.mode(py, mode)?;
        let on_store_error = modes.on_store_error(py, on_store_error)?;
        let fail_open = modes.fails_open(py, on_store_error.bind(py));
        let limits = read_limits(max_calls.bind(py), window.bind(py), cooldown.bind(py), fail_open)?;
        Ok(Self { max_calls, window, cooldown, mode, on_store_error, limits })
    }

    #[getter]
    fn max_calls(&self, py: Python<'_>) -> Py<PyAny> {
        self.max_calls.clone_ref(py)
    }

    #[getter]
    fn window(&self, py: Python<'_>) -> Py<PyAny> {
        self.window.clone_ref(py)
    }

    #[getter]
    fn cooldown(&self, py: Python<'_>) -> Py<PyAny> {
        self.cooldown.clone_ref(py)
    }

    #[getter]
    fn mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.mode.clone_ref(py)
    }

    #[getter]
    fn on_store_error(&self, py: Python<'_>) -> Py<PyAny> {
        self.on_store_error.clone_ref(py)
    }
});
