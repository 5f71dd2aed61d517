//! `Decision`: whether an event reached the log.

use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::vocabulary::vocabulary;
use crate::dropin::frozen;

const FIELDS: &[&str] = &["status", "trail", "policy", "entry", "reason"];

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
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let fields = [&self.status, &self.trail, &self.policy, &self.entry, &self.reason];
        PyTuple::new(py, fields.map(|field| field.bind(py)))
    }

    /// Returns the reason as Python text or `None`.
    pub(crate) fn reason_object(py: Python<'_>, reason: Option<&str>) -> Py<PyAny> {
        reason.map_or_else(|| py.None(), |reason| PyString::new(py, reason).into_any().unbind())
    }
}

#[pymethods]
impl Decision {
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

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.values(py)?.hash()
    }

    fn __richcmp__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let comparable = matches!(op, CompareOp::Eq | CompareOp::Ne) && other.get_type().is(slf.get_type());
        match other.cast::<Self>() {
            Ok(other) if comparable => {
                let (left, right) = (slf.get().values(py)?, other.get().values(py)?);
                Ok(left.rich_compare(right, op)?.unbind())
            }
            _ => Ok(py.NotImplemented()),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        frozen::repr(slf, FIELDS, &slf.get().values(slf.py())?)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        Ok((slf.get_type().into_any(), slf.get().values(slf.py())?))
    }

    fn __setattr__(slf: &Bound<'_, Self>, name: &str, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(frozen::refuse(slf, FIELDS, name, false))
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &str) -> PyResult<()> {
        Err(frozen::refuse(slf, FIELDS, name, true))
    }
}
