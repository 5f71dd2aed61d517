//! What Python calls on an engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::decision::Decision;
use super::engine::{Backend, Config, LANES, Question, RuleEngine};
use super::records::RuleStore;

#[pymethods]
impl RuleEngine {
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
    ) -> PyResult<()> {
        let py = store.py();
        let backend = |object: Bound<'_, PyAny>, natively: bool, lane: u64| match object.cast::<RuleStore>() {
            Ok(store) if natively => Backend::Native { store: store.clone().unbind(), lane },
            _ => Backend::Given(object.unbind()),
        };
        let lane = LANES.fetch_add(2, Ordering::Relaxed);
        let store = backend(store, natively.0, lane);
        let async_lane = match (&store, async_store.cast::<RuleStore>()) {
            (Backend::Native { store, .. }, Ok(other))
                if Arc::ptr_eq(store.get().journal(), other.get().journal()) =>
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
            rulesets: PyDict::new(py).unbind(),
            epoch: AtomicU64::new(0),
            store_errors: AtomicU64::new(0),
        };
        self.config.set(config).map_err(|_| PyRuntimeError::new_err("Engine.__init__() was called twice"))
    }

    /// Sets the ruleset of a rule, for every function guarded by it.
    fn register(&self, rule: &Bound<'_, PyAny>, ruleset: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = self.config()?;
        config.rulesets.bind(rule.py()).set_item(rule, ruleset)?;
        config.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The registered ruleset of a rule, or None.
    fn ruleset_for<'py>(&self, rule: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.config()?.rulesets.bind(rule.py()).get_item(rule)
    }

    /// Asks the predicates until one refuses.
    #[pyo3(
        signature = (rule, ruleset=None, *, args=None, kwargs=None, meta=None),
        text_signature = "($self, rule, ruleset=None, *, args=(), kwargs=None, meta=None)"
    )]
    fn check<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        ruleset: Option<&Bound<'py, PyAny>>,
        args: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyAny>>,
        meta: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        self.put(rule, ruleset, args, kwargs, meta, (false, "check"))
    }

    /// Asks every predicate, also after one refused.
    #[pyo3(
        signature = (rule, ruleset=None, *, args=None, kwargs=None, meta=None),
        text_signature = "($self, rule, ruleset=None, *, args=(), kwargs=None, meta=None)"
    )]
    fn check_all<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        ruleset: Option<&Bound<'py, PyAny>>,
        args: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyAny>>,
        meta: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Decision>> {
        self.put(rule, ruleset, args, kwargs, meta, (true, "check_all"))
    }

    /// What `check` (or with `every` `check_all`) decides, neither announced nor recorded: `(now, decision)`.
    #[pyo3(signature = (rule, ruleset, args, kwargs, meta, every=false, asynchronous=true))]
    #[expect(clippy::too_many_arguments, reason = "the arguments of a check, and how to put it")]
    fn _evaluate<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        ruleset: Option<&Bound<'py, PyAny>>,
        args: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyAny>>,
        meta: Option<&Bound<'py, PyAny>>,
        every: bool,
        asynchronous: bool,
    ) -> PyResult<(Py<PyAny>, Bound<'py, Decision>)> {
        let method = match (asynchronous, every) {
            (true, true) => "async_check_all",
            (true, false) => "async_check",
            (false, true) => "check_all",
            (false, false) => "check",
        };
        let question = Question { rule, ruleset, args, kwargs, meta, all: every, method };
        let (now, decision) = self.evaluate(self.config()?, &question)?;
        Ok((now.object(rule.py()), decision))
    }

    /// Announces what `_evaluate` decided and, where `store` is our own, records it.
    fn _conclude_async(
        &self,
        rule: &Bound<'_, PyAny>,
        now: &Bound<'_, PyAny>,
        decision: &Bound<'_, Decision>,
    ) -> PyResult<()> {
        let config = self.config()?;
        match &config.async_store {
            backend @ Backend::Native { .. } => {
                self.conclude(config, backend, rule, &Now::from_object(now), decision)
            }
            Backend::Given(_) => config.announcer.tell(decision.as_any()),
        }
    }

    fn _count_store_error(&self) -> PyResult<()> {
        self.config()?.store_errors.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn _announce(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.config()?.announcer.tell(event)
    }

    /// How many decisions a store failed to record.
    #[getter]
    fn _store_errors(&self) -> PyResult<u64> {
        Ok(self.config()?.store_errors.load(Ordering::Relaxed))
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
    fn _rulesets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.config()?.rulesets.bind(py).copy()
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
        visit.call(&config.rulesets)
    }
}

impl RuleEngine {
    fn put<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        ruleset: Option<&Bound<'py, PyAny>>,
        args: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyAny>>,
        meta: Option<&Bound<'py, PyAny>>,
        (all, method): (bool, &'static str),
    ) -> PyResult<Bound<'py, Decision>> {
        let config = self.config()?;
        let none = PyTuple::empty(rule.py()).into_any();
        let args = args.unwrap_or(&none);
        let question = Question { rule, ruleset, args, kwargs, meta, all, method };
        let (now, decision) = self.evaluate(config, &question)?;
        self.conclude(config, &config.store, rule, &now, &decision)?;
        Ok(decision)
    }
}
