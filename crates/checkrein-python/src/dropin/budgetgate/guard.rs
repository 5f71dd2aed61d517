//! What a compiled wrapper calls before a spend of fixed cost.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Names;
use super::decision::Decision;
use super::engine::{Backend, BudgetEngine, Config, Question};
use super::money::{MoneyError, Written};

/// The decision on one ledger and cost, the cost read at decoration.
#[pyclass(name = "BudgetGateGuard", module = "checkrein._native", frozen)]
pub(crate) struct BudgetGuard {
    engine: Py<BudgetEngine>,
    ledger: Py<PyAny>,
    cost: Py<PyAny>,
    amount: Result<Written, MoneyError>,
}

#[pymethods]
impl BudgetGuard {
    #[new]
    fn new(engine: Py<BudgetEngine>, ledger: Py<PyAny>, cost: Bound<'_, PyAny>) -> PyResult<Self> {
        let amount = engine.get().amount(&cost)?;
        Ok(Self { engine, ledger, cost: cost.unbind(), amount })
    }

    /// Returns when the spend is allowed, raises `BudgetExceededError` when it is not.
    fn admit(&self, py: Python<'_>) -> PyResult<()> {
        let config = self.engine.get().config()?;
        self.enter(config, &config.store, py)
    }

    /// The same against the async store, when that is our own.
    fn admit_async(&self, py: Python<'_>) -> PyResult<()> {
        let config = self.engine.get().config()?;
        self.enter(config, &config.async_store, py)
    }

    /// Decides, records, announces.
    fn check<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Decision>> {
        let config = self.engine.get().config()?;
        let (ledger, cost) = (self.ledger.bind(py), self.cost.bind(py));
        let amount = (&self.amount, cost);
        let judged = self.engine.get().judge(config, &config.store, ledger, amount, None, Question::Spend)?;
        BudgetEngine::announce(config, judged.into_decision(ledger, cost)?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.engine)
    }
}

impl BudgetGuard {
    #[inline]
    fn enter(&self, config: &Config, backend: &Backend, py: Python<'_>) -> PyResult<()> {
        let (ledger, cost) = (self.ledger.bind(py), self.cost.bind(py));
        let amount = (&self.amount, cost);
        let judged = self.engine.get().judge(config, backend, ledger, amount, None, Question::Spend)?;
        if judged.is_plainly_allowed() && config.announcer.is_silent() {
            return Ok(());
        }
        let decision = BudgetEngine::announce(config, judged.into_decision(ledger, cost)?)?;
        if decision.get().is_allowed(py)? {
            return Ok(());
        }
        Err(PyErr::from_value(Names::get(py)?.exceeded.bind(py).call1((decision,))?))
    }
}
