//! A ledger's part in an admission that a gate takes part in too.

use std::sync::Arc;

use pyo3::prelude::*;

use super::super::common::clock::Now;
use super::super::table::{Moment, Slot};
use super::decision::Decision;
use super::engine::{Backend, BudgetEngine, Judged, NO_TIME};
use super::meter::{LedgerSpend, Limits, Verdict};
use super::money::Written;

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

impl BudgetEngine {
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
}
