//! `Decision`: what an admission said, frozen; texts and tuples are made when somebody looks.

use std::sync::Arc;

use checkrein_core::admission::Verdict;
use checkrein_core::code::Code;
use checkrein_core::decision::{self as core, Detail, Retry, retry_of};
use checkrein_core::gate::once::Run;
use checkrein_core::time::Span;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::error;
use crate::reason::{self, MeterStatus, Reason};

/// The durability of what is in the memory of one process.
const MEMORY: &str = "D0";
const DURABILITIES: [&str; 3] = [MEMORY, "D1", "D2"];

/// What an admission said: allowed, or every reason why not.
#[pyclass(name = "Decision", module = "checkrein", frozen, weakref)]
pub(crate) struct Decision {
    tool: Arc<str>,
    verdict: Answer,
    reasons: Vec<core::Reason>,
    observed: Vec<core::Reason>,
    meters: Vec<core::MeterStatus>,
    tuple: PyOnceLock<Py<PyTuple>>,
    /// How durable what it was decided on is.
    durability: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Allow,
    Block,
    Replay,
}

impl Answer {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Replay => "replay",
        }
    }
}

impl Decision {
    /// The decision of an admission.
    pub(crate) fn new(
        tool: &Arc<str>,
        verdict: &Verdict,
        reasons: Vec<core::Reason>,
        observed: Vec<core::Reason>,
        meters: Vec<core::MeterStatus>,
    ) -> Self {
        let verdict = match verdict {
            Verdict::Allow => Answer::Allow,
            Verdict::Block => Answer::Block,
            Verdict::Replay(_) => Answer::Replay,
        };
        Self {
            tool: Arc::clone(tool),
            verdict,
            reasons,
            observed,
            meters,
            tuple: PyOnceLock::new(),
            durability: MEMORY,
        }
    }

    /// The same, of a store of this durability.
    pub(crate) fn durable(mut self, durability: &'static str) -> Self {
        self.durability = durability;
        self
    }

    /// A refusal for these reasons.
    pub(crate) fn block(tool: &Arc<str>, reasons: Vec<core::Reason>) -> Self {
        Self::new(tool, &Verdict::Block, reasons, Vec::new(), Vec::new())
    }

    /// The code that names the exception.
    pub(crate) fn first_code(&self) -> Option<Code> {
        self.reasons.first().map(|reason| reason.code)
    }

    /// The run whose outcome is unknown, when that is the first reason.
    pub(crate) fn doubt(&self) -> Option<Run> {
        match self.reasons.first()?.detail {
            Detail::Doubt(run) => Some(run),
            _ => None,
        }
    }

    fn retry(&self) -> Retry {
        retry_of(&self.reasons)
    }
}

#[pymethods]
impl Decision {
    /// Whether the action may run (or already ran: a replay is allowed, and nothing runs again).
    #[getter]
    fn allowed(&self) -> bool {
        self.verdict != Answer::Block
    }

    /// `allow`, `block` or `replay`.
    #[getter]
    fn verdict(&self) -> &'static str {
        self.verdict.word()
    }

    /// The name of the guard.
    #[getter]
    fn tool(&self) -> &str {
        &self.tool
    }

    /// Every reason why not, in the documented order of gates; empty when allowed.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let tuple = self.tuple.get_or_try_init(py, || reason::tuple(py, &self.reasons).map(Bound::unbind))?;
        Ok(tuple.bind(py).clone())
    }

    /// What gates in observe mode would have said.
    #[getter]
    fn observed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        reason::tuple(py, &self.observed)
    }

    /// Where the meters stand; only filled by `peek`.
    #[getter]
    fn meters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.meters.iter().cloned().map(MeterStatus).collect::<Vec<_>>())
    }

    /// The code of the first reason, or `None` when allowed.
    #[getter]
    fn code(&self) -> Option<&'static str> {
        self.first_code().map(Code::word)
    }

    /// Seconds until the same call may pass, the largest over all reasons; `None` when allowed, unknown or never.
    #[getter]
    fn retry_after(&self) -> Option<f64> {
        if self.reasons.is_empty() { None } else { self.retry().after().map(Span::as_secs_f64) }
    }

    /// Whether the same call can never pass under this policy.
    #[getter(r#final)]
    fn is_final(&self) -> bool {
        self.retry() == Retry::Never
    }

    /// How durable the decision is: `D0`, the memory of this process; `D1`, that of a server; `D2`, synced to a disk.
    #[getter]
    fn durability(&self) -> &'static str {
        self.durability
    }

    /// What to tell the model: no secrets, and no argument values.
    fn to_prompt(&self) -> String {
        if self.verdict == Answer::Replay {
            return format!("The call to `{}` was made before; its stored result was returned.", self.tool);
        }
        if self.verdict == Answer::Allow {
            return format!("The call to `{}` is allowed.", self.tool);
        }
        let mut text = format!("The call to `{}` was refused.", self.tool);
        let mut said: Vec<&str> = Vec::new();
        for reason in &self.reasons {
            let sentence = reason.code.model_message();
            if !said.contains(&sentence) {
                said.push(sentence);
                text.push(' ');
                text.push_str(sentence);
            }
            // The words of a rule are its author's; details of other reasons may quote what was asked.
            if let (Code::RuleViolated, Detail::Text(rule)) = (reason.code, &reason.detail) {
                text.push_str(&format!(" Rule: {rule}."));
            }
            // So are these: the core has nothing to add to a missing fact.
            if let (Code::MissingFact, Detail::Text(hint)) = (reason.code, &reason.detail)
                && !said.contains(&&**hint)
            {
                said.push(hint);
                text.push_str(&format!(" {hint}."));
            }
        }
        match self.retry() {
            Retry::After(span) => {
                text.push_str(&format!(" It may be called again in {} s.", seconds_up(span)))
            }
            Retry::Never => text.push_str(" The same call will not pass later either."),
            Retry::Unknown => {}
        }
        text
    }

    /// Everything about it as plain JSON values.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let list = |reasons: &[core::Reason]| -> PyResult<Bound<'py, PyList>> {
            let list = PyList::empty(py);
            for reason in reasons {
                list.append(Reason(reason.clone()).to_dict(py)?)?;
            }
            Ok(list)
        };
        let dict = PyDict::new(py);
        dict.set_item("allowed", self.allowed())?;
        dict.set_item("verdict", self.verdict())?;
        dict.set_item("tool", self.tool())?;
        dict.set_item("code", self.code())?;
        dict.set_item("retry_after", self.retry_after())?;
        dict.set_item("final", self.is_final())?;
        dict.set_item("durability", self.durability())?;
        dict.set_item("reasons", list(&self.reasons)?)?;
        dict.set_item("observed", list(&self.observed)?)?;
        Ok(dict)
    }

    /// The exception of this refusal.
    fn _exception<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyAny> {
        let code = slf.get().first_code().unwrap_or(Code::PolicyError);
        error::denied(slf.py(), code, slf.clone().into_any())
            .into_value(slf.py())
            .into_bound(slf.py())
            .into_any()
    }

    fn __bool__(&self) -> bool {
        self.allowed()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.tool == other.tool
            && self.verdict == other.verdict
            && self.reasons == other.reasons
            && self.observed == other.observed
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (&self.tool, self.verdict.word(), self.reasons.len(), self.first_code()).hash(&mut hasher);
        hasher.finish()
    }

    fn __str__(&self) -> String {
        if self.reasons.is_empty() {
            return self.verdict.word().to_owned();
        }
        let all: Vec<String> =
            self.reasons.iter().map(|reason| format!("{}: {reason}", reason.code)).collect();
        all.join("; ")
    }

    fn __repr__(&self) -> String {
        match (self.first_code(), self.retry_after()) {
            (None, _) => format!("<Decision {} `{}`>", self.verdict.word(), self.tool),
            (Some(_), None) => format!("<Decision block `{}` {}>", self.tool, self.__str__()),
            (Some(_), Some(retry)) => {
                format!("<Decision block `{}` {} retry_after={retry}>", self.tool, self.__str__())
            }
        }
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let restore = py.get_type::<Self>().getattr("_restore")?;
        let (reasons, observed) = (self.reasons(py)?, self.observed(py)?);
        Ok((restore, (self.tool(), self.verdict(), reasons, observed, self.durability).into_pyobject(py)?))
    }

    /// Rebuilds a pickled decision.
    #[staticmethod]
    #[pyo3(signature = (tool, verdict, reasons, observed, durability = "D0"))]
    fn _restore(
        tool: &str,
        verdict: &str,
        reasons: Vec<Reason>,
        observed: Vec<Reason>,
        durability: &str,
    ) -> Self {
        let verdict = match verdict {
            "allow" => Answer::Allow,
            "replay" => Answer::Replay,
            _ => Answer::Block,
        };
        let inner = |reasons: Vec<Reason>| reasons.into_iter().map(|reason| reason.0).collect();
        let (reasons, observed) = (inner(reasons), inner(observed));
        Self {
            tool: tool.into(),
            verdict,
            reasons,
            observed,
            meters: Vec::new(),
            tuple: PyOnceLock::new(),
            durability: DURABILITIES.into_iter().find(|word| *word == durability).unwrap_or(MEMORY),
        }
    }
}

/// Seconds for a model to wait: rounded up, so that it never comes back too early.
fn seconds_up(span: Span) -> i64 {
    span.nanos().saturating_add(999_999_999) / 1_000_000_000
}

/// The refusal of a call in a run that was stopped or has ended.
#[pyfunction]
pub(crate) fn frozen_decision(tool: &str, text: String) -> Decision {
    let tool: Arc<str> = tool.into();
    let reason = reason::of_action(&tool, Code::Frozen, text);
    Decision::block(&tool, vec![reason])
}

/// The refusal behind `TimedOut`.
#[pyfunction]
pub(crate) fn timeout_decision(tool: &str, seconds: f64) -> Decision {
    let tool: Arc<str> = tool.into();
    let text = format!("{seconds} s have passed; the outcome is unknown");
    let mut reason = reason::of_action(&tool, Code::Timeout, text);
    reason.retry = Retry::Unknown;
    Decision::block(&tool, vec![reason])
}
