//! What Python calls on an engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyNotImplementedError, PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::Clock;
use super::super::common::emitter::Announcer;
use super::budget::limits_of;
use super::decision::{Decision, remaining};
use super::engine::{
    Backend, BudgetEngine, Config, Judged, LANES, NO_TIME, OUT_OF_RANGE, Question, failed, read_reply,
    reserved,
};
use super::money::{MoneyError, Written};
use super::store::BudgetStore;

#[pymethods]
impl BudgetEngine {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { config: OnceLock::new() }
    }

    /// Sets the engine up; `natively` says which of the two stores are our own, unchanged.
    fn _configure(
        &self,
        store: Bound<'_, PyAny>,
        async_store: Bound<'_, PyAny>,
        natively: (bool, bool),
        clock: Option<Bound<'_, PyAny>>,
        emitter: Bound<'_, PyAny>,
        default_budget: Py<PyAny>,
    ) -> PyResult<()> {
        let py = store.py();
        let backend = |object: Bound<'_, PyAny>, natively: bool, lane: u64| match object.cast::<BudgetStore>()
        {
            Ok(store) if natively => Backend::Native { store: store.clone().unbind(), lane },
            _ => Backend::Given(object.unbind()),
        };
        let lane = LANES.fetch_add(2, Ordering::Relaxed);
        let store = backend(store, natively.0, lane);
        // Two handles on one space are one lane: the memo of a ledger then serves both.
        let async_lane = match (&store, async_store.cast::<BudgetStore>()) {
            (Backend::Native { store, .. }, Ok(other))
                if Arc::ptr_eq(store.get().space(), other.get().space()) =>
            {
                lane
            }
            _ => lane + 1,
        };
        let (clock, domain) = Clock::from_argument(py, clock)?;
        let config = Config {
            store,
            async_store: backend(async_store, natively.1, async_lane),
            clock,
            domain,
            announcer: Announcer::new(emitter)?,
            budgets: PyDict::new(py).unbind(),
            default_budget,
            epoch: AtomicU64::new(0),
            last: Mutex::new(None),
        };
        self.config.set(config).map_err(|_| PyRuntimeError::new_err("Engine.__init__() was called twice"))
    }

    /// Sets the budget of a ledger, for every function guarded by it.
    fn register(&self, ledger: &Bound<'_, PyAny>, budget: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = self.config()?;
        config.budgets.bind(ledger.py()).set_item(ledger, budget)?;
        config.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The registered budget of a ledger, or one without a limit.
    fn budget_for<'py>(&self, ledger: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.budget(ledger, None)
    }

    /// Decides on one spend, and records it when it is allowed.
    #[pyo3(signature = (ledger, amount, budget=None))]
    pub(super) fn check<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        let read = self.amount(amount)?;
        let judged = self.judge(config, &config.store, ledger, (&read, amount), budget, Question::Spend)?;
        Self::announce(config, judged.into_decision(ledger, amount)?)
    }

    /// What `check` would decide now; nothing is recorded and nobody is told.
    #[pyo3(signature = (ledger, amount, budget=None))]
    fn peek<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        if matches!(config.store, Backend::Given(_)) {
            return Err(PyNotImplementedError::new_err("the store protocol has no read-only check"));
        }
        let read = self.amount(amount)?;
        let judged = self.judge(config, &config.store, ledger, (&read, amount), budget, Question::Peek)?;
        judged.into_decision(ledger, amount)
    }

    pub(super) fn _check_async<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        let read = self.amount(amount)?;
        let judged =
            self.judge(config, &config.async_store, ledger, (&read, amount), budget, Question::Spend)?;
        Self::announce(config, judged.into_decision(ledger, amount)?)
    }

    /// Holds an estimate until it is committed or released: `(id | None, decision)`.
    #[pyo3(signature = (ledger, estimate, budget=None))]
    fn reserve<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        estimate: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Option<Py<PyAny>>, Bound<'py, Decision>)> {
        let config = self.config()?;
        let (id, judged) = self.hold(config, &config.store, ledger, estimate, budget)?;
        Ok((id, Self::announce(config, judged.into_decision(ledger, estimate)?)?))
    }

    fn _reserve_async<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        estimate: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Option<Py<PyAny>>, Bound<'py, Decision>)> {
        let config = self.config()?;
        let (id, judged) = self.hold(config, &config.async_store, ledger, estimate, budget)?;
        Ok((id, Self::announce(config, judged.into_decision(ledger, estimate)?)?))
    }

    /// Records what a reservation really cost, at the time it is committed.
    fn commit(&self, reservation_id: &Bound<'_, PyAny>, actual: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = self.config()?;
        self.commit_to(config, &config.store, reservation_id, actual)
    }

    fn _commit_async(&self, reservation_id: &Bound<'_, PyAny>, actual: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = self.config()?;
        self.commit_to(config, &config.async_store, reservation_id, actual)
    }

    /// Gives a reservation back unspent.
    fn release(&self, reservation_id: &Bound<'_, PyAny>) -> PyResult<()> {
        let store = self.config()?.store.object(reservation_id.py());
        store.call_method1("release", (reservation_id,)).map(drop)
    }

    /// What is left of a budget now.
    #[pyo3(signature = (ledger, budget=None))]
    fn get_remaining<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self._remaining(ledger, budget, false)
    }

    fn _remaining<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
        asynchronous: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = ledger.py();
        let config = self.config()?;
        let budget = self.budget(ledger, budget)?;
        let now = config.clock.read(py)?;
        let max_spend = budget.getattr("max_spend")?;
        let spent = match Self::backend(config, asynchronous) {
            Backend::Native { store, .. } => {
                let store = store.get();
                let stamp = now.stamp.ok_or_else(|| PyValueError::new_err(NO_TIME))?;
                let window = limits_of(&budget)?.window;
                let slot = store.space().table.find(&store.key(ledger)?);
                let spent = slot.and_then(|slot| slot.with(config.domain, |spend| spend.look(stamp, window)));
                let spent = spent.unwrap_or(Some(Written::default()));
                let spent = spent.ok_or_else(|| PyOverflowError::new_err(OUT_OF_RANGE))?;
                spent.money.to_decimal(py, spent.places)?
            }
            Backend::Given(store) => {
                let arguments = (ledger, now.object(py), budget.getattr("window")?);
                store.bind(py).call_method1("get_spend", arguments)?
            }
        };
        remaining(&max_spend, &spent)
    }

    /// The decision that an async store's reply or exception means, announced; for a reservation with its id.
    fn _replied<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: Bound<'py, PyAny>,
        reply: Bound<'py, PyAny>,
        error: Option<Bound<'py, PyAny>>,
        reserving: bool,
    ) -> PyResult<(Option<Py<PyAny>>, Bound<'py, Decision>)> {
        let reply = match error {
            Some(error) => Err(PyErr::from_value(error)),
            None => Ok(reply),
        };
        let (id, judged) = if reserving {
            reserved(budget, reply)?
        } else {
            let judged = match reply.and_then(|reply| read_reply(&reply)) {
                Ok(outcome) => Judged { budget: budget.unbind(), outcome },
                Err(error) if error.is_instance_of::<PyException>(ledger.py()) => failed(&budget, &error)?,
                Err(error) => return Err(error),
            };
            (None, judged)
        };
        Ok((id, Self::announce(self.config()?, judged.into_decision(ledger, amount)?)?))
    }

    /// The decision that refuses an amount which is none, announced; `None` for a good one.
    fn _refuse<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Decision>>> {
        match self.amount(amount)? {
            Err(MoneyError::Invalid(sentence)) => {
                let decision = Judged::refused(budget, &sentence).into_decision(ledger, amount)?;
                Self::announce(self.config()?, decision).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// ValueError for what is no amount.
    fn _require_amount(&self, amount: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.amount(amount)? {
            Err(error @ MoneyError::Invalid(_)) => Err(error.into_exception()),
            _ => Ok(()),
        }
    }

    fn _announce(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.config()?.announcer.tell(event)
    }

    #[getter]
    fn _async_is_native(&self) -> PyResult<bool> {
        Ok(matches!(self.config()?.async_store, Backend::Native { .. }))
    }

    #[getter]
    fn _store<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.config()?.store.object(py))
    }

    #[getter]
    fn _async_store<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.config()?.async_store.object(py))
    }

    #[getter]
    fn _clock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.config()?.clock.callable(py))
    }

    #[getter]
    fn _emitter(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.config()?.announcer.object().clone_ref(py))
    }

    /// A copy of what is registered; `register` is the way to change it.
    #[getter]
    fn _budgets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.config()?.budgets.bind(py).copy()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(config) = self.config.get() else { return Ok(()) };
        for backend in [&config.store, &config.async_store] {
            match backend {
                Backend::Native { store, .. } => visit.call(store)?,
                Backend::Given(store) => visit.call(store)?,
            }
        }
        if let Clock::Given(clock) = &config.clock {
            visit.call(clock)?;
        }
        config.announcer.traverse(&visit)?;
        visit.call(&config.budgets)
    }
}
