//! `Decision`: kept as numbers, turned into Python objects only where somebody looks.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::Given;
use super::super::common::clock::{as_seconds, seconds};
use super::super::common::record::frozen_record;
use super::Names;
use super::meter::Verdict;

/// What a check decided, and why.
#[pyclass(name = "Decision", module = "checkrein.actiongate.core", subclass, frozen)]
pub(crate) struct Decision {
    #[pyo3(get)]
    gate: Py<PyAny>,
    #[pyo3(get)]
    policy: Py<PyAny>,
    body: Body,
}

enum Body {
    /// Decided by the native store.
    Counted(Verdict),
    /// The store failed; the policy says whether the action passes.
    Failed { allowed: bool, message: String },
    /// Made by hand, or from the reply of a user's store.
    Given(Box<Fields>),
}

/// The fields of a decision as Python objects.
pub(super) struct Fields {
    pub(super) status: Py<PyAny>,
    pub(super) reason: Py<PyAny>,
    pub(super) message: Py<PyAny>,
    pub(super) calls_in_window: Py<PyAny>,
    pub(super) time_since_last: Py<PyAny>,
}

impl Decision {
    const FIELDS: &'static [&'static str] =
        &["status", "gate", "policy", "reason", "message", "calls_in_window", "time_since_last"];

    #[inline]
    pub(super) fn counted(gate: Py<PyAny>, policy: Py<PyAny>, verdict: Verdict) -> Self {
        Self { gate, policy, body: Body::Counted(verdict) }
    }

    pub(super) fn failed(gate: Py<PyAny>, policy: Py<PyAny>, allowed: bool, error: &str) -> Self {
        let manner = if allowed { "fail-open" } else { "fail-closed" };
        let message = format!("Store error ({manner}): {error}");
        Self { gate, policy, body: Body::Failed { allowed, message } }
    }

    pub(super) fn given(gate: Py<PyAny>, policy: Py<PyAny>, fields: Fields) -> Self {
        Self { gate, policy, body: Body::Given(Box::new(fields)) }
    }

    pub(super) fn is_allowed(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.body {
            Body::Counted(verdict) => Ok(verdict.allowed),
            Body::Failed { allowed, .. } => Ok(*allowed),
            Body::Given(fields) => fields.status.bind(py).eq(&Names::get(py)?.allow),
        }
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [
            self.status(py)?,
            self.gate.clone_ref(py),
            self.policy.clone_ref(py),
            self.reason(py)?,
            self.message(py)?,
            self.calls_in_window(py)?,
            self.time_since_last(py),
        ];
        PyTuple::new(py, fields)
    }

    /// The sentence of a refusal.
    fn sentence(&self, py: Python<'_>, verdict: &Verdict) -> PyResult<Option<String>> {
        if verdict.allowed {
            return Ok(None);
        }
        let policy = self.policy.bind(py);
        Ok(Some(match verdict.age {
            Some(age) if verdict.cooling => cooldown_message(as_seconds(age), &policy.getattr("cooldown")?)?,
            _ => format!("Rate limit: {} >= {}", verdict.count, policy.getattr("max_calls")?.str()?),
        }))
    }
}

/// `Cooldown: 1.5s < 2.0s`: the age rounded, the cooldown as the policy holds it.
pub(super) fn cooldown_message(age: f64, cooldown: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(format!("Cooldown: {age:.1}s < {}s", cooldown.str()?))
}

frozen_record!(Decision {
    #[new]
    #[pyo3(
        signature = (
            status, gate, policy, reason=None, message=None,
            calls_in_window=Given::Nothing, time_since_last=None
        ),
        text_signature = "(status, gate, policy, reason=None, message=None, calls_in_window=0, time_since_last=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the fields of the decision")]
    fn new(
        py: Python<'_>,
        status: Py<PyAny>,
        gate: Py<PyAny>,
        policy: Py<PyAny>,
        reason: Option<Py<PyAny>>,
        message: Option<Py<PyAny>>,
        calls_in_window: Given,
        time_since_last: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let none = |given: Option<Py<PyAny>>| given.unwrap_or_else(|| py.None());
        let fields = Fields {
            status,
            reason: none(reason),
            message: none(message),
            calls_in_window: calls_in_window.or_else(|| Ok(0_u8.into_pyobject(py)?.into_any().unbind()))?,
            time_since_last: none(time_since_last),
        };
        Ok(Self::given(gate, policy, fields))
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
            Body::Counted(verdict) if verdict.allowed => py.None(),
            Body::Counted(verdict) if verdict.cooling => names.cooldown.clone_ref(py),
            Body::Counted(_) => names.rate_limit.clone_ref(py),
            Body::Failed { .. } => names.store_error.clone_ref(py),
            Body::Given(fields) => fields.reason.clone_ref(py),
        })
    }

    #[getter]
    fn message(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Counted(verdict) => self.sentence(py, verdict)?.into_pyobject(py)?.unbind(),
            Body::Failed { message, .. } => message.into_pyobject(py)?.into_any().unbind(),
            Body::Given(fields) => fields.message.clone_ref(py),
        })
    }

    #[getter]
    fn calls_in_window(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Counted(verdict) => verdict.count.into_pyobject(py)?.into_any().unbind(),
            Body::Failed { .. } => 0_u8.into_pyobject(py)?.into_any().unbind(),
            Body::Given(fields) => fields.calls_in_window.clone_ref(py),
        })
    }

    #[getter]
    fn time_since_last(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.body {
            Body::Counted(verdict) => verdict.age.map_or_else(|| py.None(), |age| seconds(py, age, verdict.whole)),
            Body::Failed { .. } => py.None(),
            Body::Given(fields) => fields.time_since_last.clone_ref(py),
        }
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

    /// The decision as plain data, for logs.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("schema_version", "0.2.2")?;
        dict.set_item("status", self.status(py)?.getattr(py, "name")?)?;
        dict.set_item("gate", self.gate.bind(py).str()?)?;
        let reason = self.reason(py)?;
        let reason = if reason.is_none(py) { reason } else { reason.getattr(py, "name")? };
        dict.set_item("reason", reason)?;
        dict.set_item("message", self.message(py)?)?;
        dict.set_item("calls_in_window", self.calls_in_window(py)?)?;
        dict.set_item("time_since_last", self.time_since_last(py))?;
        Ok(dict)
    }
});
