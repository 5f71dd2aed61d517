//! `Trail`: whose log an entry belongs to.

use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

use crate::dropin::frozen::{self, Given};

const FIELDS: &[&str] = &["namespace", "source", "principal"];

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
    hash: PyOnceLock<isize>,
}

impl Trail {
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, [self.namespace.bind(py), self.source.bind(py), self.principal.bind(py)])
    }
}

#[pymethods]
impl Trail {
    #[new]
    #[pyo3(signature = (namespace, source, principal=Given(None)), text_signature = "(namespace, source, principal='global')")]
    fn new(py: Python<'_>, namespace: Py<PyAny>, source: Py<PyAny>, principal: Given) -> Self {
        let principal = principal.or_else(|| PyString::intern(py, "global").into_any().unbind());
        Self { namespace, source, principal, text: PyOnceLock::new(), hash: PyOnceLock::new() }
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

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.hash.get_or_try_init(py, || self.values(py)?.hash()).copied()
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
