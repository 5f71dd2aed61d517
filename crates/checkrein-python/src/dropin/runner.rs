//! Native half of `checkrein.actiongate_openai`: one admission over all gates of a tool, then the tool.

use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

mod admission;
mod arguments;
mod audit;
mod detail;
mod result;
mod step;
mod tool;

use audit::Trailed;
use result::{Admitted, GateResult, Reached};
use tool::Tool;

/// What became of a call before its tool runs.
enum Entry {
    Refused(Py<GateResult>),
    Admitted(Admitted),
}

/// Why a call is refused: the gate and its message.
struct Refusal<'a> {
    by: &'a str,
    message: String,
}

/// Base of `ToolGate`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ToolRunner {
    tools: Py<PyDict>,
    /// Where refusals go that belong to no tool's trail.
    refusals: OnceLock<Trailed>,
}

impl ToolRunner {
    fn admit<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
        awaited: bool,
    ) -> PyResult<Entry> {
        let py = slf.py();
        let read = arguments::read(arguments)?;
        let tool = match slf.get().tools.bind(py).get_item(name)? {
            Some(tool) => Some(tool.cast_into::<Tool>()?),
            None => None,
        };
        let (tool, arguments) = match (tool, read) {
            (Some(tool), Ok(arguments)) => (tool, arguments),
            (tool, Err(message)) => {
                let refusal = Refusal { by: "parse", message };
                return Self::turn_away(slf, name, tool.as_ref().map(Bound::get), refusal);
            }
            (None, Ok(_)) => {
                let message = format!("Tool not registered: {}", name.str()?.to_string_lossy());
                return Self::turn_away(slf, name, None, Refusal { by: "registry", message });
            }
        };
        if tool.get().is_async && !awaited {
            let name = name.str()?;
            return Err(PyTypeError::new_err(format!("tool `{name}` is asynchronous: use acall")));
        }
        admission::admit(slf, name, tool, arguments)
    }

    /// Refuses a call that reached no gate.
    fn turn_away(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        tool: Option<&Tool>,
        refusal: Refusal<'_>,
    ) -> PyResult<Entry> {
        let py = slf.py();
        let own = tool.and_then(|tool| tool.audit.as_ref());
        if let Some(trailed) = own.or_else(|| slf.get().refusals.get()) {
            let detail = PyDict::new(py);
            detail.set_item("tool", name)?;
            let recorded = trailed.refused(py, refusal.by, detail.as_any());
            Self::overlook(slf, recorded)?;
        }
        Self::refused(name, &refusal, Reached::default()).map(Entry::Refused)
    }

    fn refused(name: &Bound<'_, PyAny>, refusal: &Refusal<'_>, reached: Reached) -> PyResult<Py<GateResult>> {
        let py = name.py();
        let blocked_by = refusal.by.into_pyobject(py)?.into_any().unbind();
        let message = refusal.message.as_str().into_pyobject(py)?.into_any().unbind();
        GateResult::refused(name, blocked_by, message, reached)
    }

    /// Reports an audit that failed where that must not change the outcome.
    fn overlook<T>(slf: &Bound<'_, Self>, recorded: PyResult<T>) -> PyResult<()> {
        match recorded {
            Err(error) if error.is_instance_of::<PyException>(slf.py()) => {
                slf.call_method1("_audit_failed", (error.into_value(slf.py()),)).map(drop)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Records how an admitted call failed.
    fn failed(slf: &Bound<'_, Self>, admitted: &Admitted, error: &PyErr) -> PyResult<()> {
        let py = slf.py();
        let Some(trailed) = &admitted.tool.get().audit else { return Ok(()) };
        if !error.is_instance_of::<PyException>(py) {
            return Ok(());
        }
        let recorded = admitted.reached.to_dict(py).and_then(|detail| {
            let reason =
                error.value(py).str().unwrap_or_else(|_| pyo3::types::PyString::new(py, "unprintable"));
            trailed.execution_failed(py, reason.as_any(), detail.as_any())
        });
        Self::overlook(slf, recorded)
    }

    /// Records, where that was asked for, that an admitted call ended well.
    fn finished(slf: &Bound<'_, Self>, admitted: &Admitted) -> PyResult<()> {
        let py = slf.py();
        match &admitted.tool.get().audit {
            Some(trailed) if trailed.outcomes => {
                let recorded =
                    admitted.reached.to_dict(py).and_then(|detail| trailed.executed(py, detail.as_any()));
                Self::overlook(slf, recorded)
            }
            _ => Ok(()),
        }
    }
}

#[pymethods]
impl ToolRunner {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(py: Python<'_>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The Python half takes the arguments in its `__init__`.
        let _ = (args, kwargs);
        Self { tools: PyDict::new(py).unbind(), refusals: OnceLock::new() }
    }

    /// Says where refusals are recorded that belong to no tool: `(engine, trail, policy, outcomes)`.
    fn _set_refusals(&self, trailed: Trailed) {
        let _ = self.refusals.set(trailed);
    }

    /// Registers a tool under a name.
    fn _add(&self, name: &Bound<'_, PyAny>, tool: &Bound<'_, Tool>) -> PyResult<()> {
        self.tools.bind(name.py()).set_item(name, tool)
    }

    /// The tools by name.
    #[getter]
    fn _tools<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tools = PyDict::new(py);
        for (name, tool) in self.tools.bind(py).iter() {
            tools.set_item(name, &tool.cast_into::<Tool>()?.get().registration)?;
        }
        Ok(tools)
    }

    /// Runs a tool if all its gates allow; a refused call consumes nothing.
    fn call<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
    ) -> PyResult<Py<GateResult>> {
        let py = slf.py();
        let admitted = match Self::admit(slf, name, arguments, false)? {
            Entry::Refused(result) => return Ok(result),
            Entry::Admitted(admitted) => admitted,
        };
        let function = admitted.tool.get().function.bind(py);
        match function.call((), Some(admitted.arguments.bind(py))) {
            Ok(value) => {
                Self::finished(slf, &admitted)?;
                GateResult::allowed(name, value.unbind(), admitted.reached)
            }
            Err(error) => {
                Self::failed(slf, &admitted, &error)?;
                Err(error)
            }
        }
    }

    /// Admits a call whose tool the caller runs: a refusal, or what to run.
    fn _admit<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        match Self::admit(slf, name, arguments, true)? {
            Entry::Refused(result) => Ok(result.into_any()),
            Entry::Admitted(admitted) => Ok(Py::new(slf.py(), admitted)?.into_any()),
        }
    }

    /// The result of an admitted call that returned `value`.
    fn _finished(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        admitted: &Bound<'_, Admitted>,
        value: Py<PyAny>,
    ) -> PyResult<Py<GateResult>> {
        Self::finished(slf, admitted.get())?;
        GateResult::allowed(name, value, admitted.get().reached.copy(slf.py()))
    }

    /// Records that an admitted call raised.
    fn _failed(
        slf: &Bound<'_, Self>,
        admitted: &Bound<'_, Admitted>,
        error: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Self::failed(slf, admitted.get(), &PyErr::from_value(error.clone()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.tools)?;
        self.refusals.get().map_or(Ok(()), |trailed| trailed.traverse(&visit))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("RunnerResult", module.py().get_type::<GateResult>())?;
    module.add("RunnerTool", module.py().get_type::<Tool>())?;
    module.add("RunnerAdmitted", module.py().get_type::<Admitted>())?;
    module.add_class::<ToolRunner>()
}
