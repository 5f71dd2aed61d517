//! The deciding half of `Engine`: asks the predicates, announces the decision, and has it recorded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::super::table::{Moment, Slot};
use super::context::Context;
use super::decision::Decision;
use super::records::{Decided, Kept, RuleStore};
use super::ruleset::predicates_of;
use super::{Rule, predicate, snapshot};

/// Lanes tell engines and their stores apart in the memo of a rule.
pub(super) static LANES: AtomicU64 = AtomicU64::new(1);

/// What an engine remembers on a rule object: where its decisions go. Weakly, because a rule may outlive its engines
/// and must not keep what they decided.
pub(crate) struct Memo {
    lane: u64,
    slot: Weak<Slot<Decided>>,
}

/// Where decisions are kept.
pub(super) enum Backend {
    /// Our own memory, reached without a Python call.
    Native { store: Py<RuleStore>, lane: u64 },
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
    pub(super) rulesets: Py<PyDict>,
    pub(super) epoch: AtomicU64,
    pub(super) store_errors: AtomicU64,
}

/// What a rule is asked about, and how.
pub(super) struct Question<'a, 'py> {
    pub(super) rule: &'a Bound<'py, PyAny>,
    pub(super) ruleset: Option<&'a Bound<'py, PyAny>>,
    pub(super) args: &'a Bound<'py, PyAny>,
    pub(super) kwargs: Option<&'a Bound<'py, PyAny>>,
    pub(super) meta: Option<&'a Bound<'py, PyAny>>,
    /// Asks every predicate instead of stopping at the first violation.
    pub(super) all: bool,
    /// The method named when there is no ruleset.
    pub(super) method: &'static str,
}

/// What the predicates answered.
pub(super) struct Answers<'py> {
    ruleset: Bound<'py, PyAny>,
    evaluated: usize,
    violated: Vec<String>,
}

impl<'py> Answers<'py> {
    fn into_decision(self, rule: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Decision>> {
        let ruleset = self.ruleset.unbind();
        let decision = Decision::decided(rule.clone().unbind(), ruleset, self.evaluated, self.violated);
        Bound::new(rule.py(), decision)
    }
}

/// Base of `Engine`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct RuleEngine {
    pub(super) config: OnceLock<Config>,
}

impl RuleEngine {
    #[inline]
    pub(super) fn config(&self) -> PyResult<&Config> {
        self.config.get().ok_or_else(|| PyRuntimeError::new_err("Engine.__init__() was not called"))
    }

    /// Asks the predicates about a tool's arguments; nothing is announced or recorded yet.
    pub(crate) fn ask_about<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        ruleset: &Bound<'py, PyAny>,
        kwargs: &Bound<'py, PyAny>,
        machine: &Now,
    ) -> PyResult<(Now, Bound<'py, Decision>)> {
        let config = self.config()?;
        let now = config.clock.read_or_take(rule.py(), machine)?;
        let args = PyTuple::empty(rule.py()).into_any();
        let question = Question {
            rule,
            ruleset: Some(ruleset),
            args: &args,
            kwargs: Some(kwargs),
            meta: None,
            all: false,
            method: "check",
        };
        Ok((now, Self::answers(&question, Self::ruleset(config, &question)?)?.into_decision(rule)?))
    }

    /// Announces and records what `ask_about` decided.
    pub(crate) fn conclude_asked(
        &self,
        rule: &Bound<'_, PyAny>,
        now: &Now,
        decision: &Bound<'_, Decision>,
    ) -> PyResult<()> {
        let config = self.config()?;
        self.conclude(config, &config.store, rule, now, decision)
    }

    /// Reads the clock once and asks the predicates; nothing is announced or recorded yet.
    pub(super) fn evaluate<'py>(
        &self,
        config: &Config,
        question: &Question<'_, 'py>,
    ) -> PyResult<(Now, Bound<'py, Decision>)> {
        let (now, answers) = self.ask(config, question)?;
        Ok((now, answers.into_decision(question.rule)?))
    }

    /// Reads the clock once and asks the predicates.
    pub(super) fn ask<'py>(
        &self,
        config: &Config,
        question: &Question<'_, 'py>,
    ) -> PyResult<(Now, Answers<'py>)> {
        let now = config.clock.read(question.rule.py())?;
        Ok((now, Self::answers(question, Self::ruleset(config, question)?)?))
    }

    fn ruleset<'py>(config: &Config, question: &Question<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        question.ruleset.map_or_else(|| Self::registered(config, question), |ruleset| Ok(ruleset.clone()))
    }

    /// Asks the predicates of `ruleset`.
    fn answers<'py>(question: &Question<'_, 'py>, ruleset: Bound<'py, PyAny>) -> PyResult<Answers<'py>> {
        let rule = question.rule;
        let py = rule.py();
        let predicates = predicates_of(&ruleset)?;
        let meta = match question.meta {
            Some(meta) if meta.is_truthy()? => Some(meta),
            _ => None,
        };
        let (mut evaluated, mut violated) = (0, Vec::new());
        for predicate in predicates.iter() {
            // Each predicate gets its own copy: none can change what another sees, or what runs.
            let context = Context {
                rule: rule.clone().unbind(),
                args: snapshot::arguments(question.args)?.unbind(),
                kwargs: snapshot::keywords(py, question.kwargs)?.unbind(),
                meta: meta.map_or_else(OnceLock::new, |meta| OnceLock::from(meta.clone().unbind())),
            };
            let violation = predicate::ask(&predicate, Bound::new(py, context)?.as_any())?;
            evaluated += 1;
            if let Some(name) = violation {
                violated.push(name);
                if !question.all {
                    break;
                }
            }
        }
        Ok(Answers { ruleset, evaluated, violated })
    }

    /// Announces and records what the predicates of a guarded call answered: the decision, unless it allows and
    /// nobody but the journal would see it.
    pub(super) fn settle<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        rule: &Bound<'py, PyAny>,
        now: Now,
        answers: Answers<'py>,
    ) -> PyResult<Option<Bound<'py, Decision>>> {
        let Backend::Native { store, lane } = backend else {
            let decision = answers.into_decision(rule)?;
            return self.conclude(config, backend, rule, &now, &decision).map(|()| Some(decision));
        };
        if !answers.violated.is_empty() || !config.announcer.is_silent() {
            let decision = answers.into_decision(rule)?;
            return self.conclude(config, backend, rule, &now, &decision).map(|()| Some(decision));
        }
        let keep = |now: Now| {
            let ruleset = answers.ruleset.clone().unbind();
            let kept = Kept::Allowed { rule: rule.clone().unbind(), ruleset, evaluated: answers.evaluated };
            (now, kept)
        };
        if self.record(config, store, *lane, rule, &now, keep).is_err() {
            config.store_errors.fetch_add(1, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// The ruleset registered for the rule.
    fn registered<'py>(config: &Config, question: &Question<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let rule = question.rule;
        config.rulesets.bind(rule.py()).get_item(rule)?.ok_or_else(|| {
            let shown = rule.str().map(|text| text.to_string()).unwrap_or_default();
            let method = question.method;
            PyValueError::new_err(format!(
                "No ruleset registered for {shown}. Call engine.register() or pass ruleset to {method}()."
            ))
        })
    }

    /// The registered ruleset of a rule, if there is one, and the number of registrations before it was looked up.
    pub(super) fn current<'py>(
        config: &Config,
        rule: &Bound<'py, PyAny>,
    ) -> PyResult<(u64, Option<Bound<'py, PyAny>>)> {
        let epoch = config.epoch.load(Ordering::Acquire);
        Ok((epoch, config.rulesets.bind(rule.py()).get_item(rule)?))
    }

    /// How many registrations there were.
    pub(super) fn epoch(config: &Config) -> u64 {
        config.epoch.load(Ordering::Acquire)
    }

    /// Announces a decision, then has it recorded. A failing store is counted and never changes the decision.
    pub(super) fn conclude<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        rule: &Bound<'py, PyAny>,
        now: &Now,
        decision: &Bound<'py, Decision>,
    ) -> PyResult<()> {
        let py = rule.py();
        if !config.announcer.is_silent() {
            config.announcer.tell(decision.as_any())?;
        }
        let outcome = match backend {
            Backend::Native { store, lane } => {
                let keep = |now| (now, Kept::Object(decision.clone().into_any().unbind()));
                self.record(config, store, *lane, rule, now, keep)
            }
            Backend::Given(store) => {
                store.bind(py).call_method1("record", (rule, now.object(py), decision)).map(drop)
            }
        };
        match outcome {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                config.store_errors.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    #[inline]
    fn record<'py>(
        &self,
        config: &Config,
        store: &Py<RuleStore>,
        lane: u64,
        rule: &Bound<'py, PyAny>,
        now: &Now,
        keep: impl Fn(Now) -> (Now, Kept),
    ) -> PyResult<()> {
        let py = rule.py();
        let store = store.get();
        let journal = store.journal();
        let known = rule.cast_exact::<Rule>().ok().map(|rule| rule.get());
        if let Some(known) = known {
            let slot = {
                let memo = known.memo.lock();
                memo.as_ref().filter(|memo| memo.lane == lane).and_then(|memo| memo.slot.upgrade())
            };
            if let Some(slot) = slot {
                let (now, decision) = keep(now.copy(py));
                if journal.record(&slot, config.domain, now, decision) {
                    return Ok(());
                }
            }
        }
        let nanos =
            now.stamp.ok_or_else(|| PyValueError::new_err("the clock did not return a usable time"))?;
        let key = store.key(rule)?;
        loop {
            let slot = journal.table.slot(&key, Moment { nanos, domain: config.domain });
            let (now, decision) = keep(now.copy(py));
            if journal.record(&slot, config.domain, now, decision) {
                if let Some(known) = known {
                    let old = known.memo.lock().replace(Memo { lane, slot: Arc::downgrade(&slot) });
                    drop(old);
                }
                return Ok(());
            }
        }
    }
}
