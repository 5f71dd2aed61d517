//! The deciding half of `Engine`: resolves a ledger to its spend and budget, and announces what it decided.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::super::table::{Moment, Slot};
use super::budget::limits_of;
use super::decision::{Decision, Subject};
use super::meter::{LedgerSpend, Limits, Verdict};
use super::money::{MoneyError, Written, read};
use super::store::{BudgetStore, show_id};
use super::{Ledger, Names};

/// Lanes tell engines and their stores apart in the memo of a ledger.
pub(super) static LANES: AtomicU64 = AtomicU64::new(1);

pub(super) const OUT_OF_RANGE: &str = "the sum of the ledger is out of range";
pub(super) const NO_TIME: &str = "the clock did not return a usable time";

/// What an engine remembers on a ledger object.
pub(crate) struct Memo {
    lane: u64,
    /// Registrations made before it was written; another number and the budget is looked up again.
    epoch: u64,
    budget: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<LedgerSpend>>,
}

/// Where decisions are kept.
pub(super) enum Backend {
    /// Our own memory, reached without a Python call.
    Native { store: Py<BudgetStore>, lane: u64 },
    /// Any object with the methods of the store protocol.
    Given(Py<PyAny>),
}

impl Backend {
    pub(super) fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Native { store, .. } => store.bind(py).as_any().clone(),
            Self::Given(store) => store.bind(py).clone(),
        }
    }
}

pub(super) struct Config {
    pub(super) store: Backend,
    pub(super) async_store: Backend,
    pub(super) clock: Clock,
    pub(super) domain: u64,
    pub(super) announcer: Announcer,
    pub(super) budgets: Py<PyDict>,
    pub(super) default_budget: Py<PyAny>,
    pub(super) epoch: AtomicU64,
    /// The amount read last: guards and loops pass the same object again and again, and it cannot change.
    pub(super) last: Mutex<Option<(Py<PyAny>, Written)>>,
}

/// Base of `Engine`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct BudgetEngine {
    pub(super) config: OnceLock<Config>,
}

/// A decision before it is an object.
pub(crate) struct Judged {
    pub(super) budget: Py<PyAny>,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Counted(Verdict),
    Replied { allowed: bool, spent: Py<PyAny> },
    Failed { allowed: bool, error: String },
}

impl Judged {
    pub(super) fn refused(budget: &Bound<'_, PyAny>, error: &str) -> Self {
        let outcome = Outcome::Failed { allowed: false, error: error.to_owned() };
        Self { budget: budget.clone().unbind(), outcome }
    }

    pub(super) fn counted(budget: Py<PyAny>, verdict: Option<Verdict>) -> Self {
        let outcome = match verdict {
            Some(verdict) => Outcome::Counted(verdict),
            None => Outcome::Failed { allowed: false, error: OUT_OF_RANGE.to_owned() },
        };
        Self { budget, outcome }
    }

    pub(super) fn is_plainly_allowed(&self) -> bool {
        matches!(&self.outcome, Outcome::Counted(verdict) if verdict.allowed)
    }

    /// The decision as an object.
    pub(crate) fn into_decision<'py>(
        self,
        ledger: &Bound<'py, PyAny>,
        requested: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Decision>> {
        let subject = Subject {
            ledger: ledger.clone().unbind(),
            budget: self.budget,
            requested: requested.clone().unbind(),
        };
        let decision = match self.outcome {
            Outcome::Counted(verdict) => Decision::counted(subject, verdict),
            Outcome::Replied { allowed, spent } => Decision::replied(subject, allowed, spent),
            Outcome::Failed { allowed, error } => Decision::failed(subject, allowed, &error),
        };
        Bound::new(ledger.py(), decision)
    }
}

/// What is asked of a ledger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Spend,
    Peek,
}

impl BudgetEngine {
    #[inline]
    pub(super) fn config(&self) -> PyResult<&Config> {
        self.config.get().ok_or_else(|| PyRuntimeError::new_err("Engine.__init__() was not called"))
    }

    /// The budget in force for `ledger`: the one given, else the registered one, else no limit.
    pub(super) fn budget<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let config = self.config()?;
        if let Some(budget) = given {
            return Ok(budget.clone());
        }
        let registered = config.budgets.bind(ledger.py()).get_item(ledger)?;
        Ok(registered.unwrap_or_else(|| config.default_budget.bind(ledger.py()).clone()))
    }

    /// Reads an amount, or says why it is none.
    pub(super) fn amount(&self, amount: &Bound<'_, PyAny>) -> PyResult<Result<Written, MoneyError>> {
        let config = self.config()?;
        if let Some((_, written)) = config.last.lock().as_ref().filter(|(last, _)| last.is(amount)) {
            return Ok(Ok(*written));
        }
        let read = read(amount)?;
        // An instance of a subclass might change; a plain one cannot.
        if let Ok(written) = &read
            && amount.get_type().is(Names::get(amount.py())?.decimal.bind(amount.py()))
        {
            let old = config.last.lock().replace((amount.clone().unbind(), *written));
            drop(old);
        }
        Ok(read)
    }

    /// Looks up budget and slot, and remembers them on the ledger.
    pub(super) fn resolve<'py>(
        &self,
        config: &Config,
        store: &Py<BudgetStore>,
        lane: u64,
        ledger: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        stamp: i64,
    ) -> PyResult<(Py<PyAny>, Limits, Arc<Slot<LedgerSpend>>)> {
        let py = ledger.py();
        let epoch = config.epoch.load(Ordering::Acquire);
        let budget = self.budget(ledger, given)?;
        let limits = limits_of(&budget)?;
        let store = store.get();
        let key = store.key(ledger)?;
        let slot = store.space().table.slot(&key, Moment { nanos: stamp, domain: config.domain });
        let budget = budget.unbind();
        if let (Ok(ledger), None) = (ledger.cast_exact::<Ledger>(), given) {
            let memo = Memo { lane, epoch, budget: budget.clone_ref(py), limits, slot: Arc::clone(&slot) };
            let old = ledger.get().memo.lock().replace(memo);
            drop(old);
        }
        Ok((budget, limits, slot))
    }

    /// Decides on one spend of `amount`, which was read from `object`.
    #[inline]
    pub(super) fn judge<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        ledger: &Bound<'py, PyAny>,
        (amount, object): (&Result<Written, MoneyError>, &Bound<'py, PyAny>),
        given: Option<&Bound<'py, PyAny>>,
        question: Question,
    ) -> PyResult<Judged> {
        let py = ledger.py();
        let now = config.clock.read(py)?;
        let (store, lane, amount) = match (backend, amount) {
            (Backend::Native { store, lane }, Ok(amount)) => (store, *lane, *amount),
            (Backend::Given(_), Ok(_) | Err(MoneyError::Unfit(_))) => {
                return self.ask(backend, ledger, object, given, &now);
            }
            (_, Err(error)) => return Ok(Judged::refused(&self.budget(ledger, given)?, error.sentence())),
        };
        let Some(stamp) = now.stamp else {
            let budget = self.budget(ledger, given)?;
            let allowed = limits_of(&budget)?.fail_open;
            let outcome = Outcome::Failed { allowed, error: NO_TIME.to_owned() };
            return Ok(Judged { budget: budget.unbind(), outcome });
        };
        let decide = |spend: &mut LedgerSpend, limits: &Limits| match question {
            Question::Spend => spend.admit(stamp, amount, limits),
            Question::Peek => spend.judge(stamp, amount, limits),
        };
        if let Ok(known) = ledger.cast_exact::<Ledger>() {
            let given_limits = given.map(limits_of).transpose()?;
            let memo = known.get().memo.lock();
            if let Some(memo) = memo.as_ref().filter(|memo| memo.lane == lane) {
                let limits = match &given_limits {
                    Some(limits) => Some(limits),
                    None if memo.epoch == config.epoch.load(Ordering::Acquire) => Some(&memo.limits),
                    None => None,
                };
                let verdict = limits.and_then(|l| memo.slot.with(config.domain, |spend| decide(spend, l)));
                if let Some(verdict) = verdict {
                    let budget = given.map_or_else(|| memo.budget.clone_ref(py), |b| b.clone().unbind());
                    return Ok(Judged::counted(budget, verdict));
                }
            }
        }
        loop {
            let (budget, limits, slot) = self.resolve(config, store, lane, ledger, given, stamp)?;
            if let Some(verdict) = slot.with(config.domain, |spend| decide(spend, &limits)) {
                return Ok(Judged::counted(budget, verdict));
            }
        }
    }

    /// Asks a user's store.
    #[cold]
    pub(super) fn ask<'py>(
        &self,
        backend: &Backend,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Judged> {
        let py = ledger.py();
        let budget = self.budget(ledger, given)?;
        let arguments = (ledger, now.object(py), amount, &budget);
        let reply = backend.object(py).call_method1("check_and_reserve", arguments);
        match reply.and_then(|reply| read_reply(&reply)) {
            Ok(outcome) => Ok(Judged { budget: budget.unbind(), outcome }),
            Err(error) if error.is_instance_of::<PyException>(py) => failed(&budget, &error),
            Err(error) => Err(error),
        }
    }

    /// Announces a decision and hands it back.
    pub(super) fn announce<'py>(
        config: &Config,
        decision: Bound<'py, Decision>,
    ) -> PyResult<Bound<'py, Decision>> {
        if !config.announcer.is_silent() {
            config.announcer.tell(decision.as_any())?;
        }
        Ok(decision)
    }

    /// Holds an estimate: the name of the reservation when it fits, and the decision, not yet announced.
    pub(super) fn hold<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        ledger: &Bound<'py, PyAny>,
        estimate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Option<Py<PyAny>>, Judged)> {
        let py = ledger.py();
        let now = config.clock.read(py)?;
        let amount = self.amount(estimate)?;
        let (store, lane, amount) = match (backend, amount) {
            (Backend::Native { store, lane }, Ok(amount)) => (store, *lane, amount),
            (Backend::Given(_), Ok(_) | Err(MoneyError::Unfit(_))) => {
                let budget = self.budget(ledger, given)?;
                let arguments = (ledger, now.object(py), estimate, &budget);
                let reply = backend.object(py).call_method1("reserve", arguments);
                return reserved(budget, reply);
            }
            (_, Err(error)) => {
                return Ok((None, Judged::refused(&self.budget(ledger, given)?, error.sentence())));
            }
        };
        let Some(nanos) = now.stamp else {
            return Ok((None, Judged::refused(&self.budget(ledger, given)?, NO_TIME)));
        };
        let moment = Moment { nanos, domain: config.domain };
        loop {
            let (budget, limits, slot) = self.resolve(config, store, lane, ledger, given, nanos)?;
            if let Some((id, verdict)) = store.get().space().reserve(&slot, moment, amount, &limits)? {
                let id = match id {
                    Some(id) => Some(show_id(&id).into_pyobject(py)?.into_any().unbind()),
                    None => None,
                };
                return Ok((id, Judged::counted(budget, verdict)));
            }
        }
    }

    pub(super) fn commit_to(
        &self,
        config: &Config,
        backend: &Backend,
        id: &Bound<'_, PyAny>,
        actual: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = id.py();
        match backend {
            Backend::Native { store, .. } => {
                // What was spent is recorded even when the user's clock fails now.
                let now = config.clock.read(py).ok().and_then(|now| now.stamp);
                store.get().space().commit(id, actual, now)
            }
            Backend::Given(store) => {
                if let Err(error @ MoneyError::Invalid(_)) = read(actual)? {
                    return Err(error.into_exception());
                }
                store.bind(py).call_method1("commit", (id, actual)).map(drop)
            }
        }
    }

    pub(super) fn backend(config: &Config, asynchronous: bool) -> &Backend {
        if asynchronous { &config.async_store } else { &config.store }
    }
}

/// What a store's failure means under a budget.
pub(super) fn failed(budget: &Bound<'_, PyAny>, error: &PyErr) -> PyResult<Judged> {
    let py = budget.py();
    let allowed = Names::get(py)?.mode.fails_open(py, &budget.getattr("on_store_error")?);
    let error =
        error.value(py).str().map(|text| text.to_string()).unwrap_or_else(|_| "unprintable".to_owned());
    Ok(Judged { budget: budget.clone().unbind(), outcome: Outcome::Failed { allowed, error } })
}

/// What a store's reply `(spent, allowed)` means.
pub(super) fn read_reply(reply: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let (spent, allowed): (Bound<'_, PyAny>, Bound<'_, PyAny>) = reply.extract()?;
    Ok(Outcome::Replied { allowed: allowed.is_truthy()?, spent: spent.unbind() })
}

/// What a store's reply `(id | None, spent)` to a reservation means.
pub(super) fn reserved(
    budget: Bound<'_, PyAny>,
    reply: PyResult<Bound<'_, PyAny>>,
) -> PyResult<(Option<Py<PyAny>>, Judged)> {
    let py = budget.py();
    let read = reply.and_then(|reply| reply.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>());
    match read {
        Ok((id, spent)) => {
            let allowed = !id.is_none();
            let outcome = Outcome::Replied { allowed, spent: spent.unbind() };
            Ok((allowed.then(|| id.unbind()), Judged { budget: budget.unbind(), outcome }))
        }
        Err(error) if error.is_instance_of::<PyException>(py) => Ok((None, failed(&budget, &error)?)),
        Err(error) => Err(error),
    }
}
