//! Changes of budgets at run time: what `Engine.adjust_budget` hands over.

use checkrein::engine::{BudgetError, BudgetRecord};
use checkrein_core::admission::{Adjusted, Change, Lasting};
use checkrein_core::amount::{Unit, parse_quantity};
use checkrein_core::time::{Span, Timestamp};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::engine::{EngineBase, encode_key};
use crate::error;

/// What is to be done, as `checkrein.adjust` describes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Wanted {
    name: String,
    tenant: Option<String>,
    /// `set`, `add` or `clear`.
    change: String,
    /// With its unit; empty for `clear`.
    amount: String,
    /// `window`, `for`, `until` or `ever`, and nanoseconds.
    lasting: (String, i64),
    by: String,
    note: String,
}

impl Wanted {
    fn change(&self, py: Python<'_>) -> PyResult<(Change, Option<Unit>)> {
        if self.change == "clear" {
            return Ok((Change::Clear, None));
        }
        let quantity = parse_quantity(&self.amount);
        let (amount, unit) =
            quantity.map_err(|problem| error::config(py, &problem.to_string(), "amount", problem.hint()))?;
        let lasting = match self.lasting.0.as_str() {
            "for" => Lasting::For(Span::from_nanos(self.lasting.1)),
            "until" => Lasting::Until(Timestamp::from_nanos(self.lasting.1)),
            "ever" => Lasting::Ever,
            _ => Lasting::Window,
        };
        let change = if self.change == "set" { Change::Set(amount) } else { Change::TopUp(amount, lasting) };
        Ok((change, Some(unit)))
    }
}

/// Changes the limit of one record of a budget.
#[pyfunction]
#[pyo3(name = "_adjust_budget", signature = (engine, wanted, key))]
fn adjust_budget<'py>(
    engine: &Bound<'py, EngineBase>,
    wanted: &Bound<'py, PyDict>,
    key: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (py, base) = (engine.py(), engine.get());
    base.check_fork(py)?;
    let wanted: Wanted = wanted.extract()?;
    let (change, unit) = wanted.change(py)?;
    let key = key.map(|key| encode_key(py, key)).transpose()?.unwrap_or_default();
    let tenant = wanted.tenant.as_deref().unwrap_or(&base.tenant);
    let record = BudgetRecord { name: &wanted.name, unit, window: None, tenant, key: &key };
    let adjusted = py.detach(|| {
        let of_file = base.policies.as_ref();
        let of_file = of_file.and_then(|file| file.adjust(&record, change, &wanted.by, &wanted.note));
        of_file.unwrap_or_else(|| base.engine.adjust(&record, change, &wanted.by, &wanted.note))
    });
    let adjusted = adjusted.map_err(|problem| refused(py, &problem))?;
    let budgets = base.engine.budgets();
    let unit =
        unit.or_else(|| budgets.iter().find(|known| known.name == wanted.name).map(|known| known.unit));
    described(py, &wanted.name, unit, &adjusted)
}

fn refused(py: Python<'_>, problem: &BudgetError) -> PyErr {
    match problem {
        BudgetError::Store(problem) => error::store(py, problem),
        BudgetError::Several(..) => {
            error::config(py, &problem.to_string(), problem.code(), "give each of them a name of its own")
        }
        problem => {
            let hint = problem.hint().unwrap_or_default();
            error::config(py, &problem.to_string(), problem.code(), hint)
        }
    }
}

fn described<'py>(
    py: Python<'py>,
    name: &str,
    unit: Option<Unit>,
    adjusted: &Adjusted,
) -> PyResult<Bound<'py, PyDict>> {
    let said = PyDict::new(py);
    said.set_item("name", name)?;
    said.set_item("unit", unit.map_or("", Unit::name))?;
    said.set_item("before", adjusted.before.map(|amount| amount.to_string()))?;
    said.set_item("after", adjusted.after.map(|amount| amount.to_string()))?;
    said.set_item("spent", adjusted.spent.to_string())?;
    said.set_item("held", adjusted.held.to_string())?;
    said.set_item("until", adjusted.until.map(|until| until.nanos() as f64 / 1e9))?;
    Ok(said)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(adjust_budget, module)?)
}
