//! The deciding half of `Engine`: resolves a ledger to its spend and budget, and announces what it decided.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyNotImplementedError, PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::super::table::{Moment, Slot};
use super::budget::limits_of;
use super::decision::{Decision, Subject, remaining};
use super::meter::{LedgerSpend, Limits, Verdict};
use super::money::{MoneyError, Written, read};
use super::store::{BudgetStore, show_id};
use super::{Ledger, Names};

/// Lanes tell engines and their stores apart in the memo of a ledger.
static LANES: AtomicU64 = AtomicU64::new(1);

const OUT_OF_RANGE: &str = "the sum of the ledger is out of range";
const NO_TIME: &str = "the clock did not return a usable time";

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
    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Native { store, .. } => store.bind(py).as_any().clone(),
            Self::Given(store) => store.bind(py).clone(),
        }
    }
}

pub(super) struct Config {
    pub(super) store: Backend,
    pub(super) async_store: Backend,
    clock: Clock,
    domain: u64,
    pub(super) announcer: Announcer,
    budgets: Py<PyDict>,
    default_budget: Py<PyAny>,
    epoch: AtomicU64,
    /// The amount read last: guards and loops pass the same object again and again, and it cannot change.
    last: Mutex<Option<(Py<PyAny>, Written)>>,
}

/// Base of `Engine`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct BudgetEngine {
    config: OnceLock<Config>,
}

/// A decision before it is an object.
pub(crate) struct Judged {
    budget: Py<PyAny>,
    outcome: Outcome,
}

enum Outcome {
    Counted(Verdict),
    Replied { allowed: bool, spent: Py<PyAny> },
    Failed { allowed: bool, error: String },
}

impl Judged {
    fn refused(budget: &Bound<'_, PyAny>, error: &str) -> Self {
        let outcome = Outcome::Failed { allowed: false, error: error.to_owned() };
        Self { budget: budget.clone().unbind(), outcome }
    }

    fn counted(budget: Py<PyAny>, verdict: Option<Verdict>) -> Self {
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

/// Everything a native decision on one ledger needs, found before any lock is taken.
pub(crate) struct Prepared {
    pub(crate) budget: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<LedgerSpend>>,
    amount: Written,
    moment: Moment,
}

impl Prepared {
    /// The same ledger, budget and amount at another time.
    pub(crate) fn at(&self, py: Python<'_>, now: &Now) -> Option<Self> {
        Some(Self {
            budget: self.budget.clone_ref(py),
            limits: self.limits,
            slot: Arc::clone(&self.slot),
            amount: self.amount,
            moment: Moment { nanos: now.stamp?, domain: self.moment.domain },
        })
    }

    /// Runs `decide` on the ledger's spend; `None` when it was cleared meanwhile: prepare again.
    pub(crate) fn with<T>(&self, decide: impl FnOnce(&mut Admission<'_>) -> T) -> Option<T> {
        self.slot.with(self.moment.domain, |spend| {
            decide(&mut Admission {
                spend,
                limits: &self.limits,
                amount: self.amount,
                nanos: self.moment.nanos,
            })
        })
    }

    /// The decision that `verdict` is, as an object; `None` is a sum that does not fit.
    pub(crate) fn decision<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        verdict: Option<Verdict>,
    ) -> PyResult<Bound<'py, Decision>> {
        Judged::counted(self.budget.clone_ref(ledger.py()), verdict).into_decision(ledger, amount)
    }

    /// The decision that `verdict` is; `None` is a sum that does not fit.
    pub(crate) fn judged(self, verdict: Option<Verdict>) -> Judged {
        Judged::counted(self.budget, verdict)
    }
}

/// One ledger's spend under its lock, between judging and recording.
pub(crate) struct Admission<'a> {
    spend: &'a mut LedgerSpend,
    limits: &'a Limits,
    amount: Written,
    nanos: i64,
}

impl Admission<'_> {
    /// What the spend would be told; `None` when the sum does not fit.
    pub(crate) fn judge(&mut self) -> Option<Verdict> {
        self.spend.judge(self.nanos, self.amount, self.limits)
    }

    /// Records the spend; `None` (and nothing recorded) when the sum does not fit.
    pub(crate) fn record(&mut self) -> Option<()> {
        self.spend.record(self.nanos, self.amount)
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
    fn budget<'py>(
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

    /// Whether decisions can be taken natively, together with those of another native engine.
    pub(crate) fn is_native(&self) -> PyResult<bool> {
        Ok(matches!(self.config()?.store, Backend::Native { .. }))
    }

    /// Tells the listeners of a decision that was taken together with other gates.
    pub(crate) fn announce_to_listeners(&self, decision: &Bound<'_, PyAny>) -> PyResult<()> {
        let announcer = &self.config()?.announcer;
        if announcer.is_silent() { Ok(()) } else { announcer.tell(decision) }
    }

    /// Reads the engine's clock once, unless it is the machine's, which was read for the same call.
    pub(crate) fn now_or(&self, py: Python<'_>, machine: &Now) -> PyResult<Now> {
        self.config()?.clock.read_or_take(py, machine)
    }

    /// Reads the engine's clock once.
    pub(crate) fn now(&self, py: Python<'_>) -> PyResult<Now> {
        self.config()?.clock.read(py)
    }

    /// Finds what a native decision needs. Otherwise the refusal that a bad amount or time is, or `None` where the
    /// store is not ours to judge.
    pub(crate) fn prepare<'py>(
        &self,
        ledger: &Bound<'py, PyAny>,
        amount: &Bound<'py, PyAny>,
        budget: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Option<Result<Prepared, Judged>>> {
        let config = self.config()?;
        let Backend::Native { store, lane } = &config.store else { return Ok(None) };
        let amount = match self.amount(amount)? {
            Ok(amount) => amount,
            Err(error) => {
                return Ok(Some(Err(Judged::refused(&self.budget(ledger, budget)?, error.sentence()))));
            }
        };
        let Some(nanos) = now.stamp else {
            return Ok(Some(Err(Judged::refused(&self.budget(ledger, budget)?, NO_TIME))));
        };
        let (budget, limits, slot) = self.resolve(config, store, *lane, ledger, budget, nanos)?;
        let moment = Moment { nanos, domain: config.domain };
        Ok(Some(Ok(Prepared { budget, limits, slot, amount, moment })))
    }

    /// Looks up budget and slot, and remembers them on the ledger.
    fn resolve<'py>(
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
    fn ask<'py>(
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
    fn hold<'py>(
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

    fn commit_to(
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

    fn backend(config: &Config, asynchronous: bool) -> &Backend {
        if asynchronous { &config.async_store } else { &config.store }
    }
}

/// What a store's failure means under a budget.
fn failed(budget: &Bound<'_, PyAny>, error: &PyErr) -> PyResult<Judged> {
    let py = budget.py();
    let allowed = Names::get(py)?.mode.fails_open(py, &budget.getattr("on_store_error")?);
    let error =
        error.value(py).str().map(|text| text.to_string()).unwrap_or_else(|_| "unprintable".to_owned());
    Ok(Judged { budget: budget.clone().unbind(), outcome: Outcome::Failed { allowed, error } })
}

/// What a store's reply `(spent, allowed)` means.
fn read_reply(reply: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    let (spent, allowed): (Bound<'_, PyAny>, Bound<'_, PyAny>) = reply.extract()?;
    Ok(Outcome::Replied { allowed: allowed.is_truthy()?, spent: spent.unbind() })
}

/// What a store's reply `(id | None, spent)` to a reservation means.
fn reserved(
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
