//! `Decision`: whether an event reached the log.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::super::common::record::frozen_record;
use super::vocabulary::vocabulary;

/// The outcome of recording one event.
#[pyclass(frozen, subclass, module = "checkrein.auditgate.core")]
pub(crate) struct Decision {
    #[pyo3(get)]
    pub(crate) status: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) trail: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) policy: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) entry: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) reason: Py<PyAny>,
}

impl Decision {
    const FIELDS: &'static [&'static str] = &["status", "trail", "policy", "entry", "reason"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [&self.status, &self.trail, &self.policy, &self.entry, &self.reason];
        PyTuple::new(py, fields.map(|field| field.bind(py)))
    }

    /// Returns the reason as Python text or `None`.
    pub(crate) fn reason_object(py: Python<'_>, reason: Option<&str>) -> Py<PyAny> {
        reason.map_or_else(|| py.None(), |reason| PyString::new(py, reason).into_any().unbind())
    }
}

frozen_record!(Decision {
    #[new]
    #[pyo3(signature = (status, trail, policy, entry=None, reason=None))]
    fn new(
        py: Python<'_>,
        status: Py<PyAny>,
        trail: Py<PyAny>,
        policy: Py<PyAny>,
        entry: Option<Py<PyAny>>,
        reason: Option<Py<PyAny>>,
    ) -> Self {
        let or_none = |value: Option<Py<PyAny>>| value.unwrap_or_else(|| py.None());
        Self { status, trail, policy, entry: or_none(entry), reason: or_none(reason) }
    }

    #[getter]
    fn recorded(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.status.is(&vocabulary(py)?.recorded))
    }

    #[getter]
    fn dropped(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.status.is(&vocabulary(py)?.dropped))
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        self.recorded(py)
    }
});
