//! A spend limit, its numbers read once.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyTuple};

use super::super::common::Given;
use super::super::common::clock::{is_below, span};
use super::super::common::record::frozen_record;
use super::Names;
use super::meter::Limits;
use super::money::{Money, MoneyError, read};

/// `Budget(max_spend, window=3600.0, mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)`.
#[pyclass(name = "Budget", module = "checkrein.budgetgate.core", subclass, frozen)]
pub(crate) struct Budget {
    max_spend: Py<PyAny>,
    window: Py<PyAny>,
    mode: Py<PyAny>,
    on_store_error: Py<PyAny>,
    limits: Limits,
}

impl Budget {
    const FIELDS: &'static [&'static str] = &["max_spend", "window", "mode", "on_store_error"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [&self.max_spend, &self.window, &self.mode, &self.on_store_error];
        PyTuple::new(py, fields.map(|field| field.bind(py)))
    }
}

/// The limit a ledger compares with; `None` where no sum can reach it.
fn read_limit(max_spend: &Bound<'_, PyAny>) -> PyResult<Option<Money>> {
    let py = max_spend.py();
    let decimal = Names::get(py)?.decimal.bind(py);
    // The comparison itself refuses what cannot be ordered, NaN included.
    if max_spend.lt(PyInt::new(py, 0))? {
        return Err(PyValueError::new_err("max_spend must be >= 0"));
    }
    if !max_spend.is_instance_of::<PyInt>() && !max_spend.is_instance(decimal)? {
        let given = max_spend.get_type().name()?;
        return Err(PyTypeError::new_err(format!("max_spend must be a Decimal or an int, got {given}")));
    }
    match read(max_spend)? {
        Ok(written) => Ok(Some(written.money)),
        Err(MoneyError::Unfit(_)) if max_spend.gt(PyInt::new(py, 1))? => Ok(None),
        Err(MoneyError::Invalid(_)) => Ok(None),
        // More places than any sum has: a limit is rounded down.
        Err(MoneyError::Unfit(_)) => {
            let grid = decimal.call1(("1e-38",))?;
            let places = max_spend.call_method("quantize", (grid, "ROUND_FLOOR"), None)?;
            Ok(read(&places)?.ok().map(|written| written.money))
        }
    }
}

fn read_limits(max_spend: &Bound<'_, PyAny>, window: &Bound<'_, PyAny>, fail_open: bool) -> PyResult<Limits> {
    let max_spend = read_limit(max_spend)?;
    if !window.is_none() && is_below(window, true)? {
        return Err(PyValueError::new_err("window must be > 0 or None"));
    }
    let window = if window.is_none() { None } else { span(window)? };
    Ok(Limits { max_spend, window, fail_open })
}

/// The limits of any object with a budget's attributes.
pub(crate) fn limits_of(budget: &Bound<'_, PyAny>) -> PyResult<Limits> {
    if let Ok(budget) = budget.cast::<Budget>() {
        return Ok(budget.get().limits);
    }
    let py = budget.py();
    let fail_open = Names::get(py)?.mode.fails_open(py, &budget.getattr("on_store_error")?);
    read_limits(&budget.getattr("max_spend")?, &budget.getattr("window")?, fail_open)
}

frozen_record!(Budget {
    #[new]
    #[pyo3(
        signature = (max_spend, window=Given::Nothing, mode=Given::Nothing, on_store_error=Given::Nothing),
        text_signature = "(max_spend, window=3600.0, mode=Mode.HARD, on_store_error=StoreErrorMode.FAIL_CLOSED)"
    )]
    fn new(
        py: Python<'_>,
        max_spend: Py<PyAny>,
        window: Given,
        mode: Given,
        on_store_error: Given,
    ) -> PyResult<Self> {
        let window = window.or_else(|| Ok(PyFloat::new(py, 3600.0).into_any().unbind()))?;
        let modes = &Names::get(py)?.mode;
        let mode = modes.mode(py, mode)?;
        let on_store_error = modes.on_store_error(py, on_store_error)?;
        let fail_open = modes.fails_open(py, on_store_error.bind(py));
        let limits = read_limits(max_spend.bind(py), window.bind(py), fail_open)?;
        Ok(Self { max_spend, window, mode, on_store_error, limits })
    }

    #[getter]
    fn max_spend(&self, py: Python<'_>) -> Py<PyAny> {
        self.max_spend.clone_ref(py)
    }

    #[getter]
    fn window(&self, py: Python<'_>) -> Py<PyAny> {
        self.window.clone_ref(py)
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
