//! `Decision`: kept as numbers, turned into `Decimal`s only where somebody looks.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;
use super::Names;
use super::meter::Verdict;

/// What a check decided, and why.
#[pyclass(name = "Decision", module = "checkrein.budgetgate.core", subclass, frozen)]
pub(crate) struct Decision {
    #[pyo3(get)]
    ledger: Py<PyAny>,
    #[pyo3(get)]
    budget: Py<PyAny>,
    #[pyo3(get)]
    requested: Py<PyAny>,
    body: Body,
}

enum Body {
    /// Decided by the native store.
    Counted(Verdict),
    /// A user's store replied with what is spent and whether it allowed.
    Replied { allowed: bool, spent: Py<PyAny> },
    /// The store failed, or the amount is none.
    Failed { allowed: bool, message: String },
    /// Made by hand.
    Given(Box<Fields>),
}

struct Fields {
    status: Py<PyAny>,
    reason: Py<PyAny>,
    message: Py<PyAny>,
    spent_in_window: Py<PyAny>,
    remaining: Py<PyAny>,
}

/// What a decision is about.
pub(super) struct Subject {
    pub(super) ledger: Py<PyAny>,
    pub(super) budget: Py<PyAny>,
    pub(super) requested: Py<PyAny>,
}

/// What is left of a budget: never below zero, and plainly `0` when nothing is.
pub(super) fn remaining<'py>(
    max_spend: &Bound<'py, PyAny>,
    spent: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = spent.py();
    let zero = Names::get(py)?.zero.bind(py);
    let left = max_spend.sub(spent)?;
    Ok(if left.gt(zero)? { left } else { zero.clone() })
}

impl Decision {
    const FIELDS: &'static [&'static str] =
        &["status", "ledger", "budget", "reason", "message", "spent_in_window", "requested", "remaining"];

    fn about(subject: Subject, body: Body) -> Self {
        Self { ledger: subject.ledger, budget: subject.budget, requested: subject.requested, body }
    }

    pub(super) fn counted(subject: Subject, verdict: Verdict) -> Self {
        Self::about(subject, Body::Counted(verdict))
    }

    pub(super) fn replied(subject: Subject, allowed: bool, spent: Py<PyAny>) -> Self {
        Self::about(subject, Body::Replied { allowed, spent })
    }

    pub(super) fn failed(subject: Subject, allowed: bool, error: &str) -> Self {
        let manner = if allowed { "fail-open" } else { "fail-closed" };
        let message = format!("Store error ({manner}): {error}");
        Self::about(subject, Body::Failed { allowed, message })
    }

    pub(super) fn is_allowed(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.body {
            Body::Counted(verdict) => Ok(verdict.allowed),
            Body::Replied { allowed, .. } | Body::Failed { allowed, .. } => Ok(*allowed),
            Body::Given(fields) => fields.status.bind(py).eq(&Names::get(py)?.allow),
        }
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [
            self.status(py)?,
            self.ledger.clone_ref(py),
            self.budget.clone_ref(py),
            self.reason(py)?,
            self.message(py)?,
            self.spent_in_window(py)?,
            self.requested.clone_ref(py),
            self.remaining(py)?,
        ];
        PyTuple::new(py, fields)
    }
}

frozen_record!(Decision {
    #[new]
    #[pyo3(
        signature = (
            status, ledger, budget, reason=None, message=None,
            spent_in_window=Given::Nothing, requested=Given::Nothing, remaining=Given::Nothing
        ),
        text_signature = "(status, ledger, budget, reason=None, message=None, spent_in_window=Decimal('0'), requested=Decimal('0'), remaining=Decimal('0'))"
    )]
    #[expect(clippy::too_many_arguments, reason = "the fields of the decision")]
    fn new(
        py: Python<'_>,
        status: Py<PyAny>,
        ledger: Py<PyAny>,
        budget: Py<PyAny>,
        reason: Option<Py<PyAny>>,
        message: Option<Py<PyAny>>,
        spent_in_window: Given,
        requested: Given,
        remaining: Given,
    ) -> PyResult<Self> {
        let zero = || Ok(Names::get(py)?.zero.clone_ref(py));
        let fields = Fields {
            status,
            reason: reason.unwrap_or_else(|| py.None()),
            message: message.unwrap_or_else(|| py.None()),
            spent_in_window: spent_in_window.or_else(zero)?,
            remaining: remaining.or_else(zero)?,
        };
        let requested = requested.or_else(zero)?;
        Ok(Self { ledger, budget, requested, body: Body::Given(Box::new(fields)) })
    }

    #[getter]
    fn status(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Body::Given(fields) = &self.body {
            return Ok(fields.status.clone_ref(py));
        }
        let names = Names::get(py)?;
        let status = if self.is_allowed(py)? { &names.allow } else { &names.block };
        Ok(status.clone_ref(py))
    }

    #[getter]
    fn reason(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let names = Names::get(py)?;
        Ok(match &self.body {
            Body::Given(fields) => fields.reason.clone_ref(py),
            Body::Failed { .. } => names.store_error.clone_ref(py),
            _ if self.is_allowed(py)? => py.None(),
            _ => names.budget_exceeded.clone_ref(py),
        })
    }

    #[getter]
    fn message(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.body {
            Body::Given(fields) => return Ok(fields.message.clone_ref(py)),
            Body::Failed { message, .. } => return Ok(message.into_pyobject(py)?.into_any().unbind()),
            _ if self.is_allowed(py)? => return Ok(py.None()),
            _ => {}
        }
        let max_spend = self.budget.bind(py).getattr("max_spend")?.str()?;
        let (spent, requested) = (self.spent_in_window(py)?, self.requested.bind(py).str()?);
        let text = format!("Budget exceeded: {} + {requested} > {max_spend}", spent.bind(py).str()?);
        Ok(text.into_pyobject(py)?.into_any().unbind())
    }

    #[getter]
    fn spent_in_window(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Counted(verdict) => verdict.spent.money.to_decimal(py, verdict.spent.places)?.unbind(),
            Body::Replied { spent, .. } => spent.clone_ref(py),
            Body::Failed { .. } => Names::get(py)?.zero.clone_ref(py),
            Body::Given(fields) => fields.spent_in_window.clone_ref(py),
        })
    }

    #[getter]
    fn remaining(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.body {
            Body::Given(fields) => return Ok(fields.remaining.clone_ref(py)),
            Body::Failed { .. } => return Ok(Names::get(py)?.zero.clone_ref(py)),
            Body::Counted(_) | Body::Replied { .. } => {}
        }
        let max_spend = self.budget.bind(py).getattr("max_spend")?;
        Ok(remaining(&max_spend, self.spent_in_window(py)?.bind(py))?.unbind())
    }

    /// Whether the action may run.
    #[getter]
    fn allowed(&self, py: Python<'_>) -> PyResult<bool> {
        self.is_allowed(py)
    }

    /// Whether the action may not run.
    #[getter]
    fn blocked(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.body {
            Body::Given(fields) => fields.status.bind(py).eq(&Names::get(py)?.block),
            _ => Ok(!self.is_allowed(py)?),
        }
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        self.is_allowed(py)
    }

    /// The decision as plain data, for logs; money as text.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("schema_version", "0.2.2")?;
        dict.set_item("status", self.status(py)?.getattr(py, "name")?)?;
        dict.set_item("ledger", self.ledger.bind(py).str()?)?;
        let reason = self.reason(py)?;
        let reason = if reason.is_none(py) { reason } else { reason.getattr(py, "name")? };
        dict.set_item("reason", reason)?;
        dict.set_item("message", self.message(py)?)?;
        dict.set_item("spent_in_window", self.spent_in_window(py)?.bind(py).str()?)?;
        dict.set_item("requested", self.requested.bind(py).str()?)?;
        dict.set_item("remaining", self.remaining(py)?.bind(py).str()?)?;
        Ok(dict)
    }
});
