//! `Trail`: whose log an entry belongs to.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;

/// The identity of an audit log.
#[pyclass(frozen, subclass, module = "checkrein.auditgate.core")]
pub(crate) struct Trail {
    #[pyo3(get)]
    namespace: Py<PyAny>,
    #[pyo3(get)]
    source: Py<PyAny>,
    #[pyo3(get)]
    principal: Py<PyAny>,
    text: PyOnceLock<Py<PyString>>,
}

impl Trail {
    const FIELDS: &'static [&'static str] = &["namespace", "source", "principal"];

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, [self.namespace.bind(py), self.source.bind(py), self.principal.bind(py)])
    }
}

frozen_record!(Trail {
    #[new]
    #[pyo3(signature = (namespace, source, principal=Given::Nothing), text_signature = "(namespace, source, principal='global')")]
    fn new(py: Python<'_>, namespace: Py<PyAny>, source: Py<PyAny>, principal: Given) -> PyResult<Self> {
        let principal = principal.or_else(|| Ok(PyString::intern(py, "global").into_any().unbind()))?;
        Ok(Self { namespace, source, principal, text: PyOnceLock::new() })
    }

    #[getter]
    fn key(&self, py: Python<'_>) -> PyResult<String> {
        let [namespace, source, principal] =
            [&self.namespace, &self.source, &self.principal].map(|field| field.bind(py).str());
        Ok(format!("aud:{}:{}:{}", namespace?, source?, principal?))
    }

    fn __str__(&self, py: Python<'_>) -> PyResult<Py<PyString>> {
        let made = self.text.get_or_try_init(py, || -> PyResult<_> {
            let [namespace, source, principal] =
                [&self.namespace, &self.source, &self.principal].map(|field| field.bind(py).str());
            // Joined by Python, so that text with lone surrogates survives.
            let parts = (namespace?, ":", source?, "@", principal?);
            let joined = PyString::new(py, "").call_method1("join", (parts,))?;
            Ok(joined.cast_into::<PyString>()?.unbind())
        })?;
        Ok(made.clone_ref(py))
    }
});
