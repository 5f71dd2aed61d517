//! The description of a guard, as `checkrein.compile` writes it, read into gate specs and readers.

use checkrein::calendar::{Calendar, Period};
use checkrein::engine::{GateSpec, GateSpecKind, WindowSpec};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error;
use crate::facts::{Proves, Requires};
use crate::inputs::{CostSource, OnceSource, Reader, Told};
use crate::permit::Hooks;
use crate::source::{Rule, Source};

/// A guard, described.
pub(crate) struct Described {
    pub(crate) gates: Vec<GateSpec>,
    pub(crate) leases: Leases,
    pub(crate) slots: usize,
    pub(crate) copies: bool,
    pub(crate) raises: bool,
    pub(crate) hooks: Hooks,
    pub(crate) on_loop: bool,
    pub(crate) open: bool,
    pub(crate) is_generator: bool,
    pub(crate) filed: bool,
    pub(crate) replays: bool,
    reader: Option<Reader>,
}

impl Described {
    /// Takes the reader out; actions without a tenant of their own get `tenant`.
    pub(crate) fn take_reader(&mut self, tenant: String) -> PyResult<Reader> {
        let mut reader = self.reader.take().ok_or_else(|| PyValueError::new_err("a reader is taken once"))?;
        reader.default_tenant = tenant;
        Ok(reader)
    }
}

fn item<'py, T: FromPyObjectOwned<'py>>(from: &Bound<'py, PyAny>, name: &str) -> PyResult<T> {
    from.get_item(name)?.extract().map_err(Into::into)
}

fn all<'py, T>(
    from: &Bound<'py, PyAny>,
    name: &str,
    read: impl Fn(&Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    from.get_item(name)?.try_iter()?.map(|part| read(&part?)).collect()
}

/// Reads a description.
pub(crate) fn read(from: &Bound<'_, PyAny>) -> PyResult<Described> {
    let once: Option<Bound<'_, PyAny>> = item(from, "once")?;
    let tenant: Option<Bound<'_, PyAny>> = item(from, "tenant")?;
    let told: Option<Bound<'_, PyAny>> = item(from, "told")?;
    let tool: String = item(from, "tool")?;
    let reader = Reader {
        tool: tool.into(),
        tenant: tenant.map(|tenant| Source::read(&tenant)).transpose()?,
        default_tenant: String::new(),
        keys: all(from, "keys", Source::read)?,
        costs: all(from, "costs", CostSource::read)?,
        rules: all(from, "rules", Rule::read)?,
        once: once.map(|once| OnceSource::read(&once)).transpose()?,
        told: told.map(|told| Told::read(&told)).transpose()?,
        requires: Requires::read(&from.get_item("requires")?)?,
        proves: Proves::read(&from.get_item("proves")?)?,
    };
    let (started, in_doubt): (i64, i64) = item(from, "leases")?;
    let leases = Leases {
        started: Span::from_nanos(started),
        in_doubt: Span::from_nanos(in_doubt),
        ..Leases::default()
    };
    Ok(Described {
        gates: all(from, "gates", gate)?,
        leases,
        slots: item(from, "slots")?,
        copies: item(from, "copies")?,
        raises: item(from, "raises")?,
        on_loop: item(from, "on_loop")?,
        open: item(from, "open")?,
        is_generator: item(from, "is_generator")?,
        filed: item(from, "filed")?,
        replays: item(from, "replays")?,
        hooks: Hooks::read(&from.get_item("hooks")?)?,
        reader: Some(reader),
    })
}

fn gate(from: &Bound<'_, PyAny>) -> PyResult<GateSpec> {
    let span = |name: &str| -> PyResult<Span> { Ok(Span::from_nanos(item(from, name)?)) };
    let kind: String = item(from, "kind")?;
    let kind = match kind.as_str() {
        "rule" => GateSpecKind::Rule { verdict: item(from, "verdict")? },
        "once" => GateSpecKind::Once { keep_result: span("keep_result")?, keep_key: span("keep_key")? },
        "breaker" => GateSpecKind::Breaker {
            key: item(from, "key")?,
            max_fails: item(from, "max_fails")?,
            reset: span("reset")?,
            probes: item(from, "probes")?,
            probe_lease: span("probe_lease")?,
        },
        "attempts" => GateSpecKind::Attempts { key: item(from, "key")?, max: item(from, "max")? },
        "limit" => GateSpecKind::Limit {
            key: item(from, "key")?,
            max_calls: item(from, "max_calls")?,
            window: window(&from.get_item("window")?)?,
            cooldown: span("cooldown")?,
        },
        "budget" => {
            let text: String = item(from, "limit")?;
            let (limit, unit) = checkrein_core::amount::parse_quantity(&text).map_err(|problem| {
                error::config(from.py(), &problem.to_string(), "budget_limit", problem.hint())
            })?;
            let holds: bool = item(from, "holds")?;
            GateSpecKind::Budget {
                key: item(from, "key")?,
                limit,
                unit,
                window: window(&from.get_item("window")?)?,
                cost: item(from, "cost")?,
                charge: if holds { Charge::Hold } else { Charge::Fixed },
                hard: item(from, "hard")?,
            }
        }
        _ => return Err(PyValueError::new_err(format!("unknown gate `{kind}`"))),
    };
    let observe: bool = item(from, "observe")?;
    let mode = if observe { Mode::Observe } else { Mode::Enforce };
    Ok(GateSpec { name: item(from, "name")?, mode, kind })
}

fn window(from: &Bound<'_, PyAny>) -> PyResult<WindowSpec> {
    let (span, period, zone): (Option<i64>, Option<String>, String) = from.extract()?;
    let Some(period) = period else {
        return Ok(span.map_or(WindowSpec::Lifetime, |nanos| WindowSpec::Rolling(Span::from_nanos(nanos))));
    };
    let period = Period::parse(&period).ok_or_else(|| PyValueError::new_err("unknown calendar period"))?;
    Calendar::new(period, &zone).map(WindowSpec::Calendar).map_err(|problem| {
        error::config(
            from.py(),
            &problem.to_string(),
            "time_zone",
            "use an IANA name such as `Europe/Berlin`",
        )
    })
}
