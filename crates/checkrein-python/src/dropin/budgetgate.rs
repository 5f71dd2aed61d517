//! Native half of `checkrein.budgetgate`: exact spend limits with reservations.

mod api;
mod budget;
mod decision;
mod engine;
mod guard;
mod meter;
mod money;
mod store;
mod together;

pub(crate) use decision::Decision;
pub(crate) use engine::{BudgetEngine, Judged};
pub(crate) use meter::Verdict;
pub(crate) use money::{Written, read as read_amount};
pub(crate) use together::{Admission, Prepared};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::common::identity::identity_class;
use super::common::names::Modes;

identity_class!(
    Ledger,
    "Ledger",
    "checkrein.budgetgate.core",
    resource,
    "(namespace, resource, principal='global')",
    "bg",
    engine::Memo
);

/// The enum members and classes that the Python half and the standard library define.
pub(crate) struct Names {
    allow: Py<PyAny>,
    block: Py<PyAny>,
    budget_exceeded: Py<PyAny>,
    store_error: Py<PyAny>,
    mode: Modes,
    exceeded: Py<PyAny>,
    /// `decimal.Decimal` and its zero.
    decimal: Py<PyAny>,
    zero: Py<PyAny>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

impl Names {
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        NAMES.get_or_try_init(py, || {
            let core = py.import("checkrein.budgetgate.core")?;
            let member = |class: &str, name: &str| -> PyResult<Py<PyAny>> {
                Ok(core.getattr(class)?.getattr(name)?.unbind())
            };
            let decimal = py.import("decimal")?.getattr("Decimal")?;
            Ok(Self {
                allow: member("Status", "ALLOW")?,
                block: member("Status", "BLOCK")?,
                budget_exceeded: member("BlockReason", "BUDGET_EXCEEDED")?,
                store_error: member("BlockReason", "STORE_ERROR")?,
                mode: Modes::load(&core)?,
                exceeded: core.getattr("BudgetExceededError")?.unbind(),
                zero: decimal.call1(("0",))?.unbind(),
                decimal: decimal.unbind(),
            })
        })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("BudgetGateLedger", module.py().get_type::<Ledger>())?;
    module.add("BudgetGateBudget", module.py().get_type::<budget::Budget>())?;
    module.add("BudgetGateDecision", module.py().get_type::<Decision>())?;
    module.add("BudgetGateStore", module.py().get_type::<store::BudgetStore>())?;
    module.add("BudgetGateEngine", module.py().get_type::<BudgetEngine>())?;
    module.add("BudgetGateGuard", module.py().get_type::<guard::BudgetGuard>())
}
