//! `Decision`: which predicates refused.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;
use super::Names;

/// What a check decided, and why.
#[pyclass(name = "Decision", module = "checkrein.rulegate.core", subclass, frozen)]
pub(crate) struct Decision {
    #[pyo3(get)]
    rule: Py<PyAny>,
    #[pyo3(get)]
    ruleset: Py<PyAny>,
    body: Body,
}

enum Body {
    Allowed {
        evaluated: usize,
    },
    Violated {
        evaluated: usize,
        names: Box<[String]>,
    },
    /// Made by hand.
    Given(Box<Fields>),
}

struct Fields {
    status: Py<PyAny>,
    reason: Py<PyAny>,
    message: Py<PyAny>,
    violated_rules: Py<PyAny>,
    evaluated_count: Py<PyAny>,
}

impl Decision {
    const FIELDS: &'static [&'static str] =
        &["status", "rule", "ruleset", "reason", "message", "violated_rules", "evaluated_count"];

    #[inline]
    pub(super) fn decided(
        rule: Py<PyAny>,
        ruleset: Py<PyAny>,
        evaluated: usize,
        violated: Vec<String>,
    ) -> Self {
        let body = if violated.is_empty() {
            Body::Allowed { evaluated }
        } else {
            Body::Violated { evaluated, names: violated.into_boxed_slice() }
        };
        Self { rule, ruleset, body }
    }

    /// How many predicates were asked, where the engine decided to allow.
    pub(crate) fn asked_and_allowed(&self) -> Option<usize> {
        match &self.body {
            Body::Allowed { evaluated } => Some(*evaluated),
            Body::Violated { .. } | Body::Given(_) => None,
        }
    }

    pub(super) fn is_allowed(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.body {
            Body::Allowed { .. } => Ok(true),
            Body::Violated { .. } => Ok(false),
            Body::Given(fields) => fields.status.bind(py).eq(&Names::get(py)?.allow),
        }
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [
            self.status(py)?,
            self.rule.clone_ref(py),
            self.ruleset.clone_ref(py),
            self.reason(py)?,
            self.message(py)?,
            self.violated_rules(py)?,
            self.evaluated_count(py)?,
        ];
        PyTuple::new(py, fields)
    }
}

frozen_record!(Decision {
    #[new]
    #[pyo3(
        signature = (
            status, rule, ruleset, reason=None, message=None,
            violated_rules=Given::Nothing, evaluated_count=Given::Nothing
        ),
        text_signature = "(status, rule, ruleset, reason=None, message=None, violated_rules=(), evaluated_count=0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the fields of the decision")]
    fn new(
        py: Python<'_>,
        status: Py<PyAny>,
        rule: Py<PyAny>,
        ruleset: Py<PyAny>,
        reason: Option<Py<PyAny>>,
        message: Option<Py<PyAny>>,
        violated_rules: Given,
        evaluated_count: Given,
    ) -> PyResult<Self> {
        let fields = Fields {
            status,
            reason: reason.unwrap_or_else(|| py.None()),
            message: message.unwrap_or_else(|| py.None()),
            violated_rules: violated_rules.or_else(|| Ok(PyTuple::empty(py).into_any().unbind()))?,
            evaluated_count: evaluated_count.or_else(|| Ok(0_u8.into_pyobject(py)?.into_any().unbind()))?,
        };
        Ok(Self { rule, ruleset, body: Body::Given(Box::new(fields)) })
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
        Ok(match &self.body {
            Body::Allowed { .. } => py.None(),
            Body::Violated { .. } => Names::get(py)?.policy_violation.clone_ref(py),
            Body::Given(fields) => fields.reason.clone_ref(py),
        })
    }

    #[getter]
    fn message(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Allowed { .. } => py.None(),
            Body::Violated { names, .. } => {
                let text = format!("Policy violation: {}", names.join(", "));
                text.into_pyobject(py)?.into_any().unbind()
            }
            Body::Given(fields) => fields.message.clone_ref(py),
        })
    }

    #[getter]
    fn violated_rules(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Allowed { .. } => PyTuple::empty(py).into_any().unbind(),
            Body::Violated { names, .. } => PyTuple::new(py, names.iter())?.into_any().unbind(),
            Body::Given(fields) => fields.violated_rules.clone_ref(py),
        })
    }

    #[getter]
    fn evaluated_count(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.body {
            Body::Allowed { evaluated } | Body::Violated { evaluated, .. } => {
                evaluated.into_pyobject(py)?.into_any().unbind()
            }
            Body::Given(fields) => fields.evaluated_count.clone_ref(py),
        })
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
        dict.set_item("rule", self.rule.bind(py).str()?)?;
        let reason = self.reason(py)?;
        let reason = if reason.is_none(py) { reason } else { reason.getattr(py, "name")? };
        dict.set_item("reason", reason)?;
        dict.set_item("message", self.message(py)?)?;
        let violated = self.violated_rules(py)?.bind(py).try_iter()?.collect::<PyResult<Vec<_>>>()?;
        dict.set_item("violated_rules", violated)?;
        dict.set_item("evaluated_count", self.evaluated_count(py)?)?;
        Ok(dict)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.ruleset)
    }
});
