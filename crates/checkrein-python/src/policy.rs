//! The gates of a guard: its own, or one policy with what the policy file says of its tool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkrein::config::{Binding, Bound, Call, CodeGates, Policies, PolicyError, PolicyFile};
use checkrein::engine::{CompileError, CompiledPolicy, Engine};
use checkrein_core::admission::Inputs;
use checkrein_core::key::Family;
use checkrein_core::policy::Check;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyType};

use crate::error;

static POLICY_FILE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Where the gates of a guard come from.
#[derive(Debug)]
pub(crate) enum Gates {
    /// From its code alone.
    Code(Arc<CompiledPolicy>),
    /// From its code and a policy file, which may be replaced between two calls.
    Filed(Box<Binding>),
}

/// The gates that count for one call.
#[derive(Debug)]
pub(crate) enum Current<'g> {
    Code(&'g Arc<CompiledPolicy>),
    Filed(Arc<Bound>),
}

impl Gates {
    /// Compiles the gates of a guard.
    pub(crate) fn new(
        py: Python<'_>,
        engine: &Engine,
        policies: Option<&Policies>,
        tool: &str,
        code: CodeGates,
    ) -> PyResult<Self> {
        match policies {
            None => {
                let CodeGates { gates, leases, .. } = code;
                let compiled = py.detach(|| engine.compile(gates, leases));
                compiled.map(Self::Code).map_err(|problem| uncompiled(py, &problem))
            }
            Some(policies) => {
                let bound = py.detach(|| policies.bind(tool, code));
                bound.map(Box::new).map(Self::Filed).map_err(|problem| unusable(py, &problem))
            }
        }
    }

    /// The gates that count now; to be asked once for each call.
    #[inline]
    pub(crate) fn current(&self) -> Option<Current<'_>> {
        match self {
            Self::Code(policy) => Some(Current::Code(policy)),
            Self::Filed(binding) => binding.current().map(Current::Filed),
        }
    }

    /// The gates of the code, where there are no others.
    #[inline]
    pub(crate) fn of_code(&self) -> Option<&Arc<CompiledPolicy>> {
        match self {
            Self::Code(policy) => Some(policy),
            Self::Filed(_) => None,
        }
    }
}

impl Current<'_> {
    pub(crate) fn compiled(&self) -> &Arc<CompiledPolicy> {
        match self {
            Self::Code(policy) => policy,
            Self::Filed(bound) => bound.compiled(),
        }
    }

    /// The records of the once gate, and its name.
    pub(crate) fn once(&self) -> Option<(Family, Arc<str>)> {
        self.compiled().policy().gates().iter().find_map(|gate| match &gate.check {
            Check::Once(once) => Some((once.family, Arc::clone(&gate.name))),
            _ => None,
        })
    }

    /// Hands `decide` everything that the gates ask for.
    #[inline]
    pub(crate) fn with_inputs<R>(
        &self,
        engine: &Engine,
        call: Option<Call<'_>>,
        inputs: &Inputs<'_>,
        decide: impl FnOnce(&Inputs<'_>) -> R,
    ) -> R {
        match (self, call) {
            (Self::Filed(bound), Some(call)) => bound.with_inputs(&call, inputs, engine.now(), decide),
            _ => decide(inputs),
        }
    }
}

/// Reads the policy file of an engine and puts it to work.
pub(crate) fn load(py: Python<'_>, engine: &Engine, path: &Path) -> PyResult<Policies> {
    let loaded = py.detach(|| Policies::new(engine.clone(), PolicyFile::load(path)?));
    loaded.map_err(|problem| unusable(py, &problem))
}

/// The policy file of a project: at its root, never above it.
#[pyfunction]
pub(crate) fn find_policy(py: Python<'_>, root: PathBuf) -> PyResult<String> {
    let found = PolicyFile::find(&root).map_err(|problem| unusable(py, &problem.into()))?;
    Ok(found.display().to_string())
}

/// Gates that cannot work as written.
fn uncompiled(py: Python<'_>, problem: &CompileError) -> PyErr {
    match problem {
        CompileError::Store(problem) => error::store(py, problem),
        CompileError::Policy(problem) => {
            error::config(py, &problem.to_string(), "policy", "look at the named gate of this guard")
        }
    }
}

/// A policy file that cannot be put to work.
pub(crate) fn unusable(py: Python<'_>, problem: &PolicyError) -> PyErr {
    match problem {
        PolicyError::Store(problem) => error::store(py, problem),
        PolicyError::Tool { problem: CompileError::Store(problem), .. } => error::store(py, problem),
        PolicyError::Tool { .. } | PolicyError::Guard { .. } | PolicyError::Prices(_) => error::config(
            py,
            &problem.to_string(),
            problem.code(),
            "change the guard or its section in the file",
        ),
        PolicyError::File(file) => {
            let raised = (|| {
                let problems = PyList::empty(py);
                for problem in file.problems() {
                    let told = PyDict::new(py);
                    told.set_item("code", problem.code)?;
                    told.set_item("message", &problem.message)?;
                    told.set_item("hint", &problem.hint)?;
                    told.set_item("line", problem.line)?;
                    told.set_item("column", problem.column)?;
                    problems.append(told)?;
                }
                let class = POLICY_FILE.get_or_try_init(py, || {
                    let class = py.import("checkrein.errors")?.getattr("PolicyFileError")?;
                    PyResult::Ok(class.cast_into::<PyType>()?.unbind())
                })?;
                class.bind(py).call1((file.report(100).trim_end(), file.code(), problems))
            })();
            raised.map_or_else(|error| error, PyErr::from_value)
        }
    }
}
