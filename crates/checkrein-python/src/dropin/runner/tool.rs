//! A registered tool: its function and the gates it must pass.

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::super::actiongate::{ActionEngine, Prepared as PreparedRate};
use super::super::auditgate::canonical_text;
use super::super::budgetgate::{
    BudgetEngine, Judged as SpendRefusal, Prepared as PreparedSpend, Verdict as SpendVerdict, Written,
    read_amount,
};
use super::super::common::clock::Now;
use super::super::rulegate::RuleEngine;
use super::audit::Trailed;

/// A rate limit to pass.
pub(super) struct Rate {
    pub(super) engine: Py<ActionEngine>,
    pub(super) gate: Py<PyAny>,
    pub(super) policy: Py<PyAny>,
    /// The gate's text as JSON.
    pub(super) json: Box<[u8]>,
    /// What the last call prepared; good for as long as its record is not cleared away.
    last: Mutex<Option<PreparedRate>>,
}

impl Rate {
    /// Finds what a decision needs, `again` if what was found before is out of date.
    pub(super) fn prepare(&self, py: Python<'_>, now: &Now, again: bool) -> PyResult<Option<PreparedRate>> {
        let known = self.last.lock().as_ref().filter(|_| !again).and_then(|last| last.at(py, now));
        if known.is_some() {
            return Ok(known);
        }
        let found = self.engine.get().prepare(self.gate.bind(py), Some(self.policy.bind(py)), now)?;
        let kept = found.as_ref().and_then(|found| found.at(py, now));
        let old = std::mem::replace(&mut *self.last.lock(), kept);
        drop(old);
        Ok(found)
    }
}

/// A budget to charge.
pub(super) struct Spend {
    pub(super) engine: Py<BudgetEngine>,
    pub(super) ledger: Py<PyAny>,
    pub(super) budget: Py<PyAny>,
    pub(super) cost: Py<PyAny>,
    /// The ledger's text as JSON.
    pub(super) json: Box<[u8]>,
    /// The amounts as numbers, where they have a plain form.
    pub(super) plain: Option<Plain>,
    /// What the last call prepared; good for as long as its record is not cleared away.
    last: Mutex<Option<PreparedSpend>>,
}

impl Spend {
    /// Finds what a decision needs, `again` if what was found before is out of date.
    pub(super) fn prepare(
        &self,
        py: Python<'_>,
        now: &Now,
        again: bool,
    ) -> PyResult<Option<Result<PreparedSpend, SpendRefusal>>> {
        let known = self.last.lock().as_ref().filter(|_| !again).and_then(|last| last.at(py, now));
        if let Some(known) = known {
            return Ok(Some(Ok(known)));
        }
        let (cost, budget) = (self.cost.bind(py), self.budget.bind(py));
        let found = self.engine.get().prepare(self.ledger.bind(py), cost, Some(budget), now)?;
        let kept = found.as_ref().and_then(|found| found.as_ref().ok()?.at(py, now));
        let old = std::mem::replace(&mut *self.last.lock(), kept);
        drop(old);
        Ok(found)
    }
}

/// What a decision on a budget prints, known before it is decided.
pub(super) struct Plain {
    /// The cost's text as JSON.
    pub(super) requested: Box<[u8]>,
    max_spend: Written,
}

impl Plain {
    fn read(py: Python<'_>, budget: &Py<PyAny>, cost: &Py<PyAny>) -> PyResult<Option<Self>> {
        let Ok(max_spend) = read_amount(&budget.bind(py).getattr("max_spend")?)? else { return Ok(None) };
        Ok(Some(Self { requested: text_as_json(cost, py)?, max_spend }))
    }

    /// What is spent and what remains, as a decision prints them.
    pub(super) fn texts(&self, verdict: &SpendVerdict) -> (Option<String>, Option<String>) {
        (verdict.spent.plain_text(), self.max_spend.remaining_after(verdict.spent))
    }
}

/// Rules to satisfy.
pub(super) struct Rules {
    pub(super) engine: Py<PyAny>,
    /// The same engine, when it is ours and its `check` is our own.
    pub(super) native: Option<Py<RuleEngine>>,
    pub(super) rule: Py<PyAny>,
    pub(super) ruleset: Py<PyAny>,
    /// The rule's text as JSON.
    pub(super) json: Box<[u8]>,
}

/// A tool as the runner needs it.
#[pyclass(name = "RunnerTool", module = "checkrein._native", frozen)]
pub(crate) struct Tool {
    pub(super) registration: Py<PyAny>,
    pub(super) function: Py<PyAny>,
    pub(super) is_async: bool,
    /// Whether rate and budget can be decided in one native step.
    pub(super) together: bool,
    pub(super) rate: Option<Rate>,
    pub(super) spend: Option<Spend>,
    pub(super) rules: Option<Rules>,
    pub(super) audit: Option<Trailed>,
}

fn text_as_json(object: &Py<PyAny>, py: Python<'_>) -> PyResult<Box<[u8]>> {
    canonical_text(&object.bind(py).str()?)
}

type RateStep = (Py<ActionEngine>, Py<PyAny>, Py<PyAny>);
type SpendStep = (Py<BudgetEngine>, Py<PyAny>, Py<PyAny>, Py<PyAny>);
type RulesStep = (Py<PyAny>, Py<PyAny>, Py<PyAny>, bool);

#[pymethods]
impl Tool {
    /// `together` is false where a store is the user's own; rate and spend are then left to the Python half.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "a tool and its four gates")]
    fn new(
        py: Python<'_>,
        registration: Py<PyAny>,
        function: Py<PyAny>,
        is_async: bool,
        together: bool,
        rate: Option<RateStep>,
        spend: Option<SpendStep>,
        rules: Option<RulesStep>,
        audit: Option<Trailed>,
    ) -> PyResult<Self> {
        let rate = rate.map(|(engine, gate, policy)| -> PyResult<_> {
            let json = text_as_json(&gate, py)?;
            Ok(Rate { engine, gate, policy, json, last: Mutex::default() })
        });
        let spend = spend.map(|(engine, ledger, budget, cost)| -> PyResult<_> {
            let json = text_as_json(&ledger, py)?;
            let plain = Plain::read(py, &budget, &cost)?;
            Ok(Spend { engine, ledger, budget, cost, json, plain, last: Mutex::default() })
        });
        let rules = rules.map(|(engine, rule, ruleset, ours)| -> PyResult<_> {
            let native = engine.bind(py).cast::<RuleEngine>().ok().filter(|_| ours);
            let native = native.map(|engine| engine.clone().unbind());
            let json = text_as_json(&rule, py)?;
            Ok(Rules { engine, native, rule, ruleset, json })
        });
        Ok(Self {
            registration,
            function,
            is_async,
            together,
            rate: rate.transpose()?,
            spend: spend.transpose()?,
            rules: rules.transpose()?,
            audit,
        })
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<Py<PyString>> {
        Ok(self.registration.bind(py).repr()?.unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.registration)?;
        visit.call(&self.function)?;
        if let Some(rate) = &self.rate {
            visit.call(&rate.engine)?;
        }
        if let Some(spend) = &self.spend {
            visit.call(&spend.engine)?;
        }
        if let Some(rules) = &self.rules {
            visit.call(&rules.engine)?;
            visit.call(&rules.ruleset)?;
        }
        self.audit.as_ref().map_or(Ok(()), |audit| audit.traverse(&visit))
    }
}
