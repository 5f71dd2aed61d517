//! A gate's part in an admission that a ledger takes part in too.

use std::sync::Arc;

use pyo3::prelude::*;

use super::super::common::clock::Now;
use super::super::table::Slot;
use super::decision::Decision;
use super::engine::{ActionEngine, Backend, Judged, Outcome};
use super::meter::{GateCalls, Verdict};
use super::policy::Limits;

/// Everything a native decision on one gate needs, found before any lock is taken.
pub(crate) struct Prepared {
    pub(crate) policy: Py<PyAny>,
    limits: Limits,
    slot: Arc<Slot<GateCalls>>,
    stamp: i64,
    whole: bool,
    domain: u64,
}

impl Prepared {
    /// The same gate and policy at another time.
    pub(crate) fn at(&self, py: Python<'_>, now: &Now) -> Option<Self> {
        Some(Self {
            policy: self.policy.clone_ref(py),
            limits: self.limits,
            slot: Arc::clone(&self.slot),
            stamp: now.stamp?,
            whole: now.whole,
            domain: self.domain,
        })
    }

    /// Runs `decide` on the gate's calls; `None` when they were cleared meanwhile: prepare again.
    pub(crate) fn with<T>(&self, decide: impl FnOnce(&mut Admission<'_>) -> T) -> Option<T> {
        let limits = &self.limits;
        self.slot.with(self.domain, |calls| {
            decide(&mut Admission { calls, limits, stamp: self.stamp, whole: self.whole })
        })
    }

    /// The decision that `verdict` is, as an object.
    pub(crate) fn decision<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        verdict: Verdict,
    ) -> PyResult<Bound<'py, Decision>> {
        let policy = self.policy.clone_ref(gate.py());
        Judged { policy, outcome: Outcome::Counted(verdict) }.into_decision(gate)
    }

    /// The decision that `verdict` is.
    pub(crate) fn judged(self, verdict: Verdict) -> Judged {
        Judged { policy: self.policy, outcome: Outcome::Counted(verdict) }
    }
}

/// One gate's calls under its lock, between judging and recording.
pub(crate) struct Admission<'a> {
    calls: &'a mut GateCalls,
    limits: &'a Limits,
    stamp: i64,
    whole: bool,
}

impl Admission<'_> {
    /// What the call would be told.
    pub(crate) fn judge(&mut self) -> Verdict {
        self.calls.judge(self.stamp, self.whole, self.limits)
    }

    /// Records the call.
    pub(crate) fn record(&mut self) -> bool {
        self.calls.record(self.stamp, self.whole)
    }
}

impl ActionEngine {
    /// Whether decisions on `gate` can be taken natively, together with those of another native engine.
    pub(crate) fn is_native(&self) -> PyResult<bool> {
        Ok(matches!(self.config()?.store, Backend::Native { .. }))
    }

    /// Finds what a native decision needs. `None` when the store or the time given is not ours to judge.
    pub(crate) fn prepare<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        policy: Option<&Bound<'py, PyAny>>,
        now: &Now,
    ) -> PyResult<Option<Prepared>> {
        let config = self.config()?;
        let (Backend::Native { store, lane }, Some(stamp)) = (&config.store, now.stamp) else {
            return Ok(None);
        };
        let (policy, limits, slot) = self.resolve(config, store, *lane, gate, policy, stamp)?;
        Ok(Some(Prepared { policy, limits, slot, stamp, whole: now.whole, domain: config.domain }))
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
}
