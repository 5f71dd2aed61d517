//! `GateResult`, and the decisions behind it, turned into dicts only where somebody looks.

use pyo3::PyClass;
use pyo3::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::super::actiongate::Decision as ActionDecision;
use super::super::budgetgate::Decision as BudgetDecision;
use super::super::common::Given;
use super::super::common::record;
use super::tool::Tool;

/// The fields of a result, in order.
const FIELDS: &[&str] = &["allowed", "tool_name", "result", "blocked_by", "message", "decisions"];

/// A gate's decision.
pub(super) enum Reply<D> {
    Native(Py<D>),
    Foreign(Py<PyAny>),
}

impl<D: PyClass> Reply<D> {
    fn copy(&self, py: Python<'_>) -> Self {
        match self {
            Self::Native(decision) => Self::Native(decision.clone_ref(py)),
            Self::Foreign(decision) => Self::Foreign(decision.clone_ref(py)),
        }
    }

    fn object<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        match self {
            Self::Native(decision) => decision.bind(py).as_any(),
            Self::Foreign(decision) => decision.bind(py),
        }
    }
}

/// The decisions of the gates a call reached.
#[derive(Default)]
pub(super) struct Reached {
    pub(super) rate: Option<Reply<ActionDecision>>,
    pub(super) spend: Option<Reply<BudgetDecision>>,
    pub(super) rules: Option<Py<PyAny>>,
}

impl Reached {
    pub(super) fn copy(&self, py: Python<'_>) -> Self {
        Self {
            rate: self.rate.as_ref().map(|reply| reply.copy(py)),
            spend: self.spend.as_ref().map(|reply| reply.copy(py)),
            rules: self.rules.as_ref().map(|decision| decision.clone_ref(py)),
        }
    }

    /// The decisions as plain data, by gate.
    pub(super) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let replies = [
            ("actiongate", self.rate.as_ref().map(|reply| reply.object(py))),
            ("budgetgate", self.spend.as_ref().map(|reply| reply.object(py))),
            ("rulegate", self.rules.as_ref().map(|decision| decision.bind(py))),
        ];
        for (gate, reply) in replies {
            if let Some(reply) = reply {
                dict.set_item(gate, reply.call_method0("to_dict")?)?;
            }
        }
        Ok(dict)
    }
}

/// A call that may run.
#[pyclass(name = "RunnerAdmitted", module = "checkrein._native", frozen)]
pub(crate) struct Admitted {
    pub(super) tool: Py<Tool>,
    pub(super) arguments: Py<PyDict>,
    pub(super) reached: Reached,
}

#[pymethods]
impl Admitted {
    /// The tool's function.
    #[getter]
    fn function(&self, py: Python<'_>) -> Py<PyAny> {
        self.tool.get().function.clone_ref(py)
    }

    /// The arguments to call it with.
    #[getter]
    fn arguments(&self, py: Python<'_>) -> Py<PyDict> {
        self.arguments.clone_ref(py)
    }
}

/// What became of a tool call.
#[pyclass(subclass, frozen, module = "checkrein.actiongate_openai")]
pub(crate) struct GateResult {
    #[pyo3(get)]
    allowed: Py<PyAny>,
    #[pyo3(get)]
    tool_name: Py<PyAny>,
    #[pyo3(get)]
    result: Py<PyAny>,
    #[pyo3(get)]
    blocked_by: Py<PyAny>,
    #[pyo3(get)]
    message: Py<PyAny>,
    reached: Reached,
    decisions: PyOnceLock<Py<PyAny>>,
}

impl GateResult {
    pub(super) fn allowed(
        name: &Bound<'_, PyAny>,
        result: Py<PyAny>,
        reached: Reached,
    ) -> PyResult<Py<Self>> {
        let py = name.py();
        let made = Self {
            allowed: true.into_pyobject(py)?.to_owned().into_any().unbind(),
            tool_name: name.clone().unbind(),
            result,
            blocked_by: py.None(),
            message: py.None(),
            reached,
            decisions: PyOnceLock::new(),
        };
        Py::new(py, made)
    }

    pub(super) fn refused(
        name: &Bound<'_, PyAny>,
        blocked_by: Py<PyAny>,
        message: Py<PyAny>,
        reached: Reached,
    ) -> PyResult<Py<Self>> {
        let py = name.py();
        let made = Self {
            allowed: false.into_pyobject(py)?.to_owned().into_any().unbind(),
            tool_name: name.clone().unbind(),
            result: py.None(),
            blocked_by,
            message,
            reached,
            decisions: PyOnceLock::new(),
        };
        Py::new(py, made)
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let decisions = self.decisions(py)?;
        let fields =
            [&self.allowed, &self.tool_name, &self.result, &self.blocked_by, &self.message, &decisions];
        PyTuple::new(py, fields.map(|field| field.bind(py)))
    }
}

#[pymethods]
impl GateResult {
    #[new]
    #[pyo3(
        signature = (allowed, tool_name, result=None, blocked_by=None, message=None, decisions=Given::Nothing),
        text_signature = "(allowed, tool_name, result=None, blocked_by=None, message=None, decisions={})"
    )]
    fn new(
        py: Python<'_>,
        allowed: Py<PyAny>,
        tool_name: Py<PyAny>,
        result: Option<Py<PyAny>>,
        blocked_by: Option<Py<PyAny>>,
        message: Option<Py<PyAny>>,
        decisions: Given,
    ) -> PyResult<Self> {
        let or_none = |value: Option<Py<PyAny>>| value.unwrap_or_else(|| py.None());
        let made = PyOnceLock::new();
        let _ = made.set(py, decisions.or_else(|| Ok(PyDict::new(py).into_any().unbind()))?);
        Ok(Self {
            allowed,
            tool_name,
            result: or_none(result),
            blocked_by: or_none(blocked_by),
            message: or_none(message),
            reached: Reached::default(),
            decisions: made,
        })
    }

    /// The decisions of the gates that were reached, as plain data.
    #[getter]
    fn decisions(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let made = self
            .decisions
            .get_or_try_init(py, || Ok::<_, PyErr>(self.reached.to_dict(py)?.into_any().unbind()))?;
        Ok(made.clone_ref(py))
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        self.allowed.bind(py).is_truthy()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (allowed, tool) = (self.allowed.bind(py).repr()?, self.tool_name.bind(py).repr()?);
        let shown = format!("GateResult(allowed={}, tool={}", allowed.to_cow()?, tool.to_cow()?);
        if self.allowed.bind(py).is_truthy()? {
            return Ok(shown + ")");
        }
        Ok(format!("{shown}, blocked_by={})", self.blocked_by.bind(py).repr()?.to_cow()?))
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.values(py)?.hash()
    }

    fn __richcmp__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        match other.cast::<Self>() {
            Ok(other) if other.get_type().is(slf.get_type()) => {
                record::compare(&slf.get().values(py)?, &other.get().values(py)?, op)
            }
            _ => Ok(py.NotImplemented()),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        Ok((slf.get_type().into_any(), slf.get().values(slf.py())?))
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        record::assign(slf.as_any(), &slf.py().get_type::<Self>(), FIELDS, name, Some(value))
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        record::assign(slf.as_any(), &slf.py().get_type::<Self>(), FIELDS, name, None)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.result)
    }
}
