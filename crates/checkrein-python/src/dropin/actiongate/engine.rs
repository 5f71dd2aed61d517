//! The deciding half of `Engine`: resolves a gate to its calls and policy, and announces what it decided.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::common::clock::{Clock, Now};
use super::super::common::emitter::Announcer;
use super::super::table::{Moment, Slot};
use super::decision::{Decision, Fields, cooldown_message};
use super::meter::{GateCalls, Verdict};
use super::policy::{Limits, limits_of};
use super::store::ActionStore;
use super::{Gate, Names};

/// Lanes tell engines and their stores apart in the memo of a gate.
pub(super) static LANES: AtomicU64 = AtomicU64::new(1);

/// What an engine remembers on a gate object.
pub(crate) struct Memo {
    lane: u64,
    /// Registrations made before it was written; another number and the policy is looked up again.
    epoch: u64,
    policy: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<GateCalls>>,
}

/// Where decisions are kept.
pub(super) enum Backend {
    /// Our own memory, reached without a Python call.
    Native { store: Py<ActionStore>, lane: u64 },
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
    pub(super) policies: Py<PyDict>,
    pub(super) default_policy: Py<PyAny>,
    pub(super) epoch: AtomicU64,
}

/// Base of `Engine`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ActionEngine {
    pub(super) config: OnceLock<Config>,
}

/// A decision before it is an object.
pub(crate) struct Judged {
    pub(crate) policy: Py<PyAny>,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Counted(Verdict),
    Replied(Decision),
    Failed { allowed: bool, error: String },
}

impl Judged {
    pub(super) fn is_plainly_allowed(&self) -> bool {
        matches!(&self.outcome, Outcome::Counted(verdict) if verdict.allowed)
    }

    /// The decision as an object.
    pub(crate) fn into_decision<'py>(self, gate: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Decision>> {
        let object = gate.clone().unbind();
        let decision = match self.outcome {
            Outcome::Counted(verdict) => Decision::counted(object, self.policy, verdict),
            Outcome::Failed { allowed, error } => Decision::failed(object, self.policy, allowed, &error),
            Outcome::Replied(decision) => decision,
        };
        Bound::new(gate.py(), decision)
    }
}

impl ActionEngine {
    #[inline]
    pub(super) fn config(&self) -> PyResult<&Config> {
        self.config.get().ok_or_else(|| PyRuntimeError::new_err("Engine.__init__() was not called"))
    }

    /// The policy in force for `gate`: the one given, else the registered one, else the default.
    pub(super) fn policy<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let config = self.config()?;
        if let Some(policy) = given {
            return Ok(policy.clone());
        }
        let registered = config.policies.bind(gate.py()).get_item(gate)?;
        Ok(registered.unwrap_or_else(|| config.default_policy.bind(gate.py()).clone()))
    }

    /// Looks up policy and slot, and remembers them on the gate.
    pub(super) fn resolve<'py>(
        &self,
        config: &Config,
        store: &Py<ActionStore>,
        lane: u64,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        stamp: i64,
    ) -> PyResult<(Py<PyAny>, Limits, Arc<Slot<GateCalls>>)> {
        let py = gate.py();
        let epoch = config.epoch.load(Ordering::Acquire);
        let policy = self.policy(gate, given)?;
        let limits = limits_of(&policy)?;
        let store = store.get();
        let key = store.key(gate)?;
        let slot = store.table().slot(&key, Moment { nanos: stamp, domain: config.domain });
        let policy = policy.unbind();
        if let (Ok(gate), None) = (gate.cast_exact::<Gate>(), given) {
            let memo = Memo { lane, epoch, policy: policy.clone_ref(py), limits, slot: Arc::clone(&slot) };
            let old = gate.get().memo.lock().replace(memo);
            drop(old);
        }
        Ok((policy, limits, slot))
    }

    /// Decides on one call; `consume` records it when it is allowed.
    #[inline]
    pub(super) fn judge<'py>(
        &self,
        config: &Config,
        backend: &Backend,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        consume: bool,
    ) -> PyResult<Judged> {
        let py = gate.py();
        let now = config.clock.read(py)?;
        let Backend::Native { store, lane } = backend else {
            return self.ask(backend, gate, given, &now);
        };
        let Some(stamp) = now.stamp else {
            let policy = self.policy(gate, given)?;
            let allowed = limits_of(&policy)?.fail_open;
            let error = "the clock did not return a usable time".to_owned();
            return Ok(Judged { policy: policy.unbind(), outcome: Outcome::Failed { allowed, error } });
        };
        let decide = |calls: &mut GateCalls, limits: &Limits| {
            if consume {
                calls.admit(stamp, now.whole, limits)
            } else {
                calls.judge(stamp, now.whole, limits)
            }
        };
        if let Ok(known) = gate.cast_exact::<Gate>() {
            let given_limits = given.map(limits_of).transpose()?;
            let memo = known.get().memo.lock();
            if let Some(memo) = memo.as_ref().filter(|memo| memo.lane == *lane) {
                let limits = match &given_limits {
                    Some(limits) => Some(limits),
                    None if memo.epoch == config.epoch.load(Ordering::Acquire) => Some(&memo.limits),
                    None => None,
                };
                let verdict = limits.and_then(|l| memo.slot.with(config.domain, |calls| decide(calls, l)));
                if let Some(verdict) = verdict {
                    let policy = given.map_or_else(|| memo.policy.clone_ref(py), |p| p.clone().unbind());
                    return Ok(Judged { policy, outcome: Outcome::Counted(verdict) });
                }
            }
        }
        loop {
            let (policy, limits, slot) = self.resolve(config, store, *lane, gate, given, stamp)?;
            if let Some(verdict) = slot.with(config.domain, |calls| decide(calls, &limits)) {
                return Ok(Judged { policy, outcome: Outcome::Counted(verdict) });
            }
        }
    }

    /// Asks a user's store.
    #[cold]
    pub(super) fn ask<'py>(
        &self,
        backend: &Backend,
        gate: &Bound<'py, PyAny>,
        given: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Judged> {
        let py = gate.py();
        let policy = self.policy(gate, given)?;
        let store = backend.object(py);
        let reply = store.call_method1("check_and_reserve", (gate, now.object(py), &policy));
        match reply.and_then(|reply| read_reply(gate, &policy, &reply)) {
            Ok(decision) => Ok(Judged { policy: policy.unbind(), outcome: Outcome::Replied(decision) }),
            Err(error) if error.is_instance_of::<PyException>(py) => failed(policy, &error),
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
}

/// What a store's failure means under a policy.
pub(super) fn failed(policy: Bound<'_, PyAny>, error: &PyErr) -> PyResult<Judged> {
    let py = policy.py();
    let allowed = Names::get(py)?.mode.fails_open(py, &policy.getattr("on_store_error")?);
    let error =
        error.value(py).str().map(|text| text.to_string()).unwrap_or_else(|_| "unprintable".to_owned());
    Ok(Judged { policy: policy.unbind(), outcome: Outcome::Failed { allowed, error } })
}

/// The decision that a store's reply `(count, allowed, age | None)` means.
pub(super) fn read_reply(
    gate: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
    reply: &Bound<'_, PyAny>,
) -> PyResult<Decision> {
    let py = gate.py();
    let names = Names::get(py)?;
    let (count, allowed, age): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>) = reply.extract()?;
    let mut fields = Fields {
        status: names.allow.clone_ref(py),
        reason: py.None(),
        message: py.None(),
        calls_in_window: count.clone().unbind(),
        time_since_last: age.clone().unbind(),
    };
    if !allowed.is_truthy()? {
        let cooldown = policy.getattr("cooldown")?;
        let message = if !age.is_none() && cooldown.gt(0)? && age.lt(&cooldown)? {
            fields.reason = names.cooldown.clone_ref(py);
            cooldown_message(age.extract()?, &cooldown)?
        } else {
            fields.reason = names.rate_limit.clone_ref(py);
            format!("Rate limit: {} >= {}", count.str()?, policy.getattr("max_calls")?.str()?)
        };
        fields.status = names.block.clone_ref(py);
        fields.message = message.into_pyobject(py)?.into_any().unbind();
    }
    Ok(Decision::given(gate.clone().unbind(), policy.clone().unbind(), fields))
}
