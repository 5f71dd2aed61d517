//! `Reason` and `MeterStatus`: one gate's refusal and one meter's state, as Python sees them.

use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::{self as core, Detail, GateKind, Retry};
use checkrein_core::gate::once::Run;
use checkrein_core::time::{Span, Timestamp, Window};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// One gate's refusal.
#[pyclass(name = "Reason", module = "checkrein", frozen, eq, from_py_object)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reason(pub(crate) core::Reason);

#[pymethods]
impl Reason {
    /// The stable word for what kind of refusal this is, as in `rate_limited`.
    #[getter]
    fn code(&self) -> &'static str {
        self.0.code.word()
    }

    /// The gate's name.
    #[getter]
    fn gate(&self) -> &str {
        &self.0.gate
    }

    /// The kind of gate: `limit`, `budget`, `rule`, ...
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }

    /// One sentence for people: lower case, no full stop.
    #[getter]
    pub(crate) fn message(&self) -> String {
        self.0.message().into_owned()
    }

    /// What to do about it, for people.
    #[getter]
    fn hint(&self) -> &'static str {
        self.0.code.hint()
    }

    /// What to tell the model.
    #[getter]
    fn model_message(&self) -> &'static str {
        self.0.code.model_message()
    }

    /// Seconds until this gate alone would let the call through; `None` when that is unknown or never.
    #[getter]
    fn retry_after(&self) -> Option<f64> {
        self.0.retry.after().map(Span::as_secs_f64)
    }

    /// Whether this call can never pass under this policy.
    #[getter(r#final)]
    fn is_final(&self) -> bool {
        self.0.retry == Retry::Never
    }

    /// The figures behind it.
    #[getter]
    fn detail<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        detail(py, &self.0.detail)
    }

    /// Everything about it as plain JSON values.
    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("code", self.code())?;
        dict.set_item("gate", self.gate())?;
        dict.set_item("kind", self.kind())?;
        dict.set_item("message", self.message())?;
        dict.set_item("hint", self.hint())?;
        dict.set_item("retry_after", self.retry_after())?;
        dict.set_item("final", self.is_final())?;
        dict.set_item("detail", self.detail(py)?)?;
        Ok(dict)
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.0.code, self.0.kind, &self.0.gate).hash(&mut hasher);
        hasher.finish()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("<Reason {}: {}>", self.0.code, self.0)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let restore = py.get_type::<Self>().getattr("_restore")?;
        let retry = match self.0.retry {
            Retry::After(span) => ("after", span.nanos()),
            Retry::Unknown => ("unknown", 0),
            Retry::Never => ("never", 0),
        };
        let state = (self.code(), self.kind(), self.gate(), retry, pickled(&self.0.detail));
        Ok((restore, (state,).into_pyobject(py)?))
    }

    /// Rebuilds a pickled reason.
    #[staticmethod]
    fn _restore(state: (String, String, String, (String, i64), Pickled)) -> PyResult<Self> {
        let (code, kind, gate, (retry, nanos), detail) = state;
        let unknown = || PyValueError::new_err("this is no pickled Reason of this version");
        let kind = KINDS.iter().copied().find(|k| k.name() == kind).ok_or_else(unknown)?;
        let retry = match retry.as_str() {
            "after" => Retry::After(Span::from_nanos(nanos)),
            "unknown" => Retry::Unknown,
            _ => Retry::Never,
        };
        let code = Code::from_word(&code).ok_or_else(unknown)?;
        let detail = unpickled(detail).ok_or_else(unknown)?;
        Ok(Self(core::Reason { code, kind, gate: gate.into(), retry, detail }))
    }
}

const KINDS: [GateKind; 9] = [
    GateKind::Action,
    GateKind::Rule,
    GateKind::Fact,
    GateKind::Once,
    GateKind::Breaker,
    GateKind::Attempts,
    GateKind::Limit,
    GateKind::Budget,
    GateKind::Store,
];

/// A detail as Python pickles it: a word, integers and a text.
type Pickled = (String, Vec<i128>, String);

fn pickled(detail: &Detail) -> Pickled {
    let (word, numbers, text) = match detail {
        Detail::Calls { count, limit, window } => {
            let (name, length) = match window {
                Window::Rolling(length) => ("rolling", length.nanos()),
                Window::Period => ("period", 0),
                Window::Lifetime => ("lifetime", 0),
            };
            ("calls", vec![i128::from(*count), i128::from(*limit), i128::from(length)], name.to_owned())
        }
        Detail::Elapsed { elapsed, cooldown } => {
            ("elapsed", vec![i128::from(elapsed.nanos()), i128::from(cooldown.nanos())], String::new())
        }
        Detail::Budget { spent, held, requested, limit, unit } => (
            "budget",
            [spent, held, requested, limit].map(|amount| amount.pico()).to_vec(),
            unit.name().to_owned(),
        ),
        Detail::Doubt(run) => {
            ("doubt", vec![i128::from(run.admitted().nanos()), i128::from(run.number())], String::new())
        }
        Detail::Text(text) => ("text", Vec::new(), text.to_string()),
        Detail::None => ("none", Vec::new(), String::new()),
    };
    (word.to_owned(), numbers, text)
}

fn unpickled((word, numbers, text): Pickled) -> Option<Detail> {
    let span = |number: &i128| i64::try_from(*number).map(Span::from_nanos).ok();
    Some(match (word.as_str(), numbers.as_slice()) {
        ("calls", [count, limit, length]) => {
            let window = match text.as_str() {
                "rolling" => Window::Rolling(span(length)?),
                "period" => Window::Period,
                _ => Window::Lifetime,
            };
            Detail::Calls { count: u64::try_from(*count).ok()?, limit: u64::try_from(*limit).ok()?, window }
        }
        ("elapsed", [elapsed, cooldown]) => {
            Detail::Elapsed { elapsed: span(elapsed)?, cooldown: span(cooldown)? }
        }
        ("budget", [spent, held, requested, limit]) => Detail::Budget {
            spent: Amount::from_pico(*spent),
            held: Amount::from_pico(*held),
            requested: Amount::from_pico(*requested),
            limit: Amount::from_pico(*limit),
            unit: Unit::parse(&text)?,
        },
        ("doubt", [admitted, number]) => {
            let admitted = Timestamp::from_nanos(i64::try_from(*admitted).ok()?);
            Detail::Doubt(Run::new(admitted, u32::try_from(*number).ok()?))
        }
        ("text", []) => Detail::Text(text.into()),
        ("none", []) => Detail::None,
        _ => return None,
    })
}

fn detail<'py>(py: Python<'py>, detail: &Detail) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    match detail {
        Detail::Calls { count, limit, window } => {
            dict.set_item("count", count)?;
            dict.set_item("limit", limit)?;
            if let Window::Rolling(length) = window {
                dict.set_item("window", length.as_secs_f64())?;
            }
        }
        Detail::Elapsed { elapsed, cooldown } => {
            dict.set_item("elapsed", elapsed.as_secs_f64())?;
            dict.set_item("cooldown", cooldown.as_secs_f64())?;
        }
        Detail::Budget { spent, held, requested, limit, unit } => {
            for (name, amount) in
                [("spent", spent), ("held", held), ("requested", requested), ("limit", limit)]
            {
                dict.set_item(name, amount.to_string())?;
            }
            dict.set_item("unit", unit.name())?;
        }
        Detail::Doubt(run) => dict.set_item("admitted", run.admitted().nanos() as f64 / 1e9)?,
        Detail::Text(text) => dict.set_item("text", &**text)?,
        Detail::None => {}
    }
    Ok(dict)
}

/// Where a meter stands.
#[pyclass(name = "MeterStatus", module = "checkrein", frozen, skip_from_py_object)]
#[derive(Clone, Debug)]
pub(crate) struct MeterStatus(pub(crate) core::MeterStatus);

#[pymethods]
impl MeterStatus {
    /// The gate's name.
    #[getter]
    fn gate(&self) -> &str {
        &self.0.gate
    }

    /// The kind of gate.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }

    /// What is counted: `calls`, `tokens`, `usd` or `cu`.
    #[getter]
    fn unit(&self) -> &'static str {
        self.0.unit.name()
    }

    /// Spent in the window, as an exact decimal.
    #[getter]
    fn spent(&self) -> String {
        self.0.spent.to_string()
    }

    /// Held and not yet settled, as an exact decimal.
    #[getter]
    fn held(&self) -> String {
        self.0.held.to_string()
    }

    /// The most that may be spent and held, as an exact decimal.
    #[getter]
    fn limit(&self) -> String {
        self.0.limit.to_string()
    }

    /// What is left, as an exact decimal.
    #[getter]
    fn remaining(&self) -> String {
        self.0.remaining().to_string()
    }

    /// Everything about it as plain JSON values.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("gate", self.gate())?;
        dict.set_item("kind", self.kind())?;
        dict.set_item("unit", self.unit())?;
        dict.set_item("spent", self.spent())?;
        dict.set_item("held", self.held())?;
        dict.set_item("limit", self.limit())?;
        dict.set_item("remaining", self.remaining())?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let core::MeterStatus { gate, unit, spent, held, limit, .. } = &self.0;
        format!("<MeterStatus {gate}: {spent} {unit} spent, {held} held, of {limit}>")
    }
}

/// The tuple of reasons that Python sees.
pub(crate) fn tuple<'py>(py: Python<'py>, reasons: &[core::Reason]) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, reasons.iter().map(|reason| Reason(reason.clone())).collect::<Vec<_>>())
}

/// A refusal of the action itself, found before any record was looked at.
pub(crate) fn of_action(gate: &Arc<str>, code: Code, text: String) -> core::Reason {
    let kind = if code == Code::RuleError { GateKind::Rule } else { GateKind::Action };
    core::Reason {
        code,
        kind,
        gate: Arc::clone(gate),
        retry: Retry::Never,
        detail: Detail::Text(text.into()),
    }
}
