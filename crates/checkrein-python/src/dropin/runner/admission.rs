//! The admission of one tool call: every gate is asked first, then all of them consume in one step, or none does.
//!
//! Gates are looked at in the documented order, so that a refusal names the first one that blocks. Predicates run
//! between the look and the step, on a copy of the arguments and under no lock. The step takes the locks of gate,
//! ledger and audit log in that order, checks that nothing has changed since the look, and then records on all three.

use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::actiongate::Prepared as PreparedRate;
use super::super::auditgate::{AppendError, DetailSource, EventDetail, Opened, Opening, snapshot};
use super::super::budgetgate::{Judged as SpendRefusal, Prepared as PreparedSpend};
use super::super::common::clock::Now;
use super::super::rulegate::Decision as RuleDecision;
use super::audit::Trailed;
use super::detail::Allowed;
use super::result::{Admitted, GateResult, Reached, Reply};
use super::step::{Look, Step, look, take};
use super::tool::Tool;
use super::{Entry, ToolRunner};

/// After so many changes under our eyes the newest allowing verdict is taken as it is.
const EXACT_ATTEMPTS: usize = 64;

/// A call on its way through the gates.
struct Call<'a, 'py> {
    runner: &'a Bound<'py, ToolRunner>,
    name: &'a Bound<'py, PyAny>,
    tool: Bound<'py, Tool>,
    arguments: Bound<'py, PyDict>,
    /// The decision of the rules, once they were asked.
    ruled: Option<Ruled>,
    /// Whether the audit log has had its say: recorded in the user's own store, or left out as its policy allows.
    audited: bool,
    /// The machine's clock as the call came in.
    machine: Now,
}

/// What the rules decided.
struct Ruled {
    decision: Py<PyAny>,
    /// What our own engine still has to announce and record.
    unannounced: Option<(Now, Py<RuleDecision>)>,
}

/// Admits or refuses a call.
pub(super) fn admit<'py>(
    runner: &Bound<'py, ToolRunner>,
    name: &Bound<'py, PyAny>,
    tool: Bound<'py, Tool>,
    arguments: Bound<'py, PyDict>,
) -> PyResult<Entry> {
    let together = tool.get().together;
    let mut call =
        Call { runner, name, tool, arguments, ruled: None, audited: false, machine: Now::of_machine() };
    if !together {
        return call.admit_apart();
    }
    let py = runner.py();
    let tool = call.tool.clone();
    let tool = tool.get();
    // The machine's clock is read once for all; the user's own each once, before anything is looked up or locked.
    let machine = &call.machine;
    let rate_now = tool.rate.as_ref().map(|rate| rate.engine.get().now_or(py, machine)).transpose()?;
    let spend_now = tool.spend.as_ref().map(|spend| spend.engine.get().now_or(py, machine)).transpose()?;
    let mut attempt = 0;
    loop {
        let rate = match (&tool.rate, &rate_now) {
            (Some(rate), Some(now)) => match rate.prepare(py, now, attempt > 0)? {
                Some(prepared) => Some(prepared),
                // A time that is no time: the engine has words for it.
                None => return call.admit_apart(),
            },
            _ => None,
        };
        let spend = match (&tool.spend, &spend_now) {
            (Some(spend), Some(now)) => match spend.prepare(py, now, attempt > 0)? {
                Some(prepared) => Some(prepared),
                None => return call.admit_apart(),
            },
            _ => None,
        };
        attempt += 1;
        if let Some(entry) = call.attempt(rate, spend, attempt <= EXACT_ATTEMPTS)? {
            return Ok(entry);
        }
    }
}

impl<'py> Call<'_, 'py> {
    fn py(&self) -> Python<'py> {
        self.runner.py()
    }

    /// One look and one step; `None` when something changed in between.
    fn attempt(
        &mut self,
        rate: Option<PreparedRate>,
        spend: Option<Result<PreparedSpend, SpendRefusal>>,
        exact: bool,
    ) -> PyResult<Option<Entry>> {
        let py = self.py();
        let (spend, bad_amount) = match spend {
            Some(Ok(prepared)) => (Some(prepared), None),
            Some(Err(refusal)) => (None, Some(refusal)),
            None => (None, None),
        };
        let Some(seen) = look(rate.as_ref(), spend.as_ref()) else { return Ok(None) };
        let mut reached = Reached::default();
        let tool = self.tool.get();
        if let (Some(step), Some(prepared), Some(verdict)) = (&tool.rate, &rate, seen.rate) {
            let decision = prepared.decision(step.gate.bind(py), verdict)?;
            reached.rate = Some(Reply::Native(decision.clone().unbind()));
            if !verdict.allowed {
                return self.refuse("actiongate", decision.getattr("message")?, reached).map(Some);
            }
        }
        if let Some(step) = &tool.spend {
            let (ledger, cost) = (step.ledger.bind(py), step.cost.bind(py));
            let (decision, allowed) = match (bad_amount, &spend, seen.spend) {
                (None, Some(prepared), Some(verdict)) => (
                    prepared.decision(ledger, cost, verdict)?,
                    verdict.is_some_and(|verdict| verdict.allowed),
                ),
                (Some(refusal), ..) => (refusal.into_decision(ledger, cost)?, false),
                _ => return Ok(None),
            };
            reached.spend = Some(Reply::Native(decision.clone().unbind()));
            if !allowed {
                return self.refuse("budgetgate", decision.getattr("message")?, reached).map(Some);
            }
        }
        if let Some(message) = self.ask_rules(&mut reached)? {
            return self.refuse("rulegate", message, reached).map(Some);
        }
        let opened = match self.open_audit(&seen, &reached) {
            Ok(opened) => opened,
            Err(error) => return self.unrecorded(error, reached).map(Some),
        };
        let Some(step) = take(py, rate.as_ref(), spend.as_ref(), &seen, opened.as_ref(), exact) else {
            return Ok(None);
        };
        match step {
            Step::Changed => return Ok(None),
            Step::Done => {
                self.announce(&reached)?;
                self.close_audit(opened.as_ref(), None)?;
            }
            Step::Unrecorded(refused) => {
                if let Err(error) = self.close_audit(opened.as_ref(), Some(refused)) {
                    return self.unrecorded(error, reached).map(Some);
                }
                // The policy lets the call pass unrecorded.
                self.audited = true;
                return Ok(None);
            }
        }
        self.admitted(reached).map(Some)
    }

    /// Asks the rules once, on a copy of the arguments; a refusal's message if they block.
    fn ask_rules(&mut self, reached: &mut Reached) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py();
        let Some(rules) = &self.tool.get().rules else { return Ok(None) };
        if self.ruled.is_none() {
            let (rule, ruleset) = (rules.rule.bind(py), rules.ruleset.bind(py));
            self.ruled = Some(match &rules.native {
                // Our own engine copies the arguments for each predicate.
                Some(engine) => {
                    let (now, decision) =
                        engine.get().ask_about(rule, ruleset, self.arguments.as_any(), &self.machine)?;
                    let unannounced = Some((now, decision.clone().unbind()));
                    Ruled { decision: decision.into_any().unbind(), unannounced }
                }
                None => {
                    let named = PyDict::new(py);
                    named.set_item(pyo3::intern!(py, "kwargs"), snapshot(self.arguments.as_any())?)?;
                    let check = pyo3::intern!(py, "check");
                    let decision = rules.engine.bind(py).call_method(check, (rule, ruleset), Some(&named))?;
                    Ruled { decision: decision.unbind(), unannounced: None }
                }
            });
        }
        let Some(ruled) = &self.ruled else { return Ok(None) };
        let decision = ruled.decision.bind(py);
        reached.rules = Some(ruled.decision.clone_ref(py));
        if decision.is_truthy()? { Ok(None) } else { decision.getattr("message").map(Some) }
    }

    /// Builds the entry that says the call may run, or records it in the user's own store.
    fn open_audit(&mut self, seen: &Look, reached: &Reached) -> PyResult<Option<Opened>> {
        let py = self.py();
        let tool = self.tool.clone();
        let Some(trailed) = tool.get().audit.as_ref().filter(|_| !self.audited) else { return Ok(None) };
        let opening = match Allowed::of(tool.get(), seen, reached, py) {
            Some(allowed) => {
                let kept = reached.copy(py);
                let source: DetailSource =
                    Arc::new(move |py: Python<'_>| Ok(kept.to_dict(py)?.into_any().unbind()));
                let write = |out: &mut Vec<u8>| allowed.write(out);
                trailed.open_admission(py, EventDetail::Prepared(&write, source), &self.machine)?
            }
            None => {
                let detail = reached.to_dict(py)?.into_any();
                trailed.open_admission(py, EventDetail::Object(Some(&detail)), &self.machine)?
            }
        };
        match opening {
            Opening::Ready(opened) => Ok(Some(*opened)),
            Opening::Dropped(_) => {
                self.audited = true;
                Ok(None)
            }
            Opening::Foreign => {
                self.audited = true;
                trailed.admitted(py, reached.to_dict(py)?.as_any())?;
                Ok(None)
            }
        }
    }

    fn close_audit(&self, opened: Option<&Opened>, refused: Option<AppendError>) -> PyResult<()> {
        let audit = self.tool.get().audit.as_ref().and_then(|trailed| trailed.opened_by(self.py()));
        let (Some((engine, trail)), Some(opened)) = (audit, opened) else { return Ok(()) };
        let engine = engine.borrow();
        match refused {
            Some(refused) => engine.give_up(trail, opened, &refused).map(drop),
            None => engine.close_unheard(trail, opened),
        }
    }

    /// Tells the listeners what was decided, in the order of the gates.
    fn announce(&self, reached: &Reached) -> PyResult<()> {
        let py = self.py();
        let tool = self.tool.get();
        if let (Some(rate), Some(Reply::Native(decision))) = (&tool.rate, &reached.rate) {
            rate.engine.get().announce_to_listeners(decision.bind(py).as_any())?;
        }
        if let (Some(spend), Some(Reply::Native(decision))) = (&tool.spend, &reached.spend) {
            spend.engine.get().announce_to_listeners(decision.bind(py).as_any())?;
        }
        let ruled = self.ruled.as_ref().filter(|_| reached.rules.is_some());
        if let (Some(rules), Some((now, decision))) =
            (&tool.rules, ruled.and_then(|ruled| ruled.unannounced.as_ref()))
            && let Some(engine) = &rules.native
        {
            engine.get().conclude_asked(rules.rule.bind(py), now, decision.bind(py))?;
        }
        Ok(())
    }

    fn admitted(&self, reached: Reached) -> PyResult<Entry> {
        Ok(Entry::Admitted(Admitted {
            tool: self.tool.clone().unbind(),
            arguments: self.arguments.clone().unbind(),
            reached,
        }))
    }

    /// Refuses the call: nothing was consumed; listeners and audit log hear of it.
    fn refuse(&self, by: &str, message: Bound<'py, PyAny>, reached: Reached) -> PyResult<Entry> {
        self.announce(&reached)?;
        self.record_refusal(by, &reached)?;
        let by = by.into_pyobject(self.py())?.into_any().unbind();
        GateResult::refused(self.name, by, message.unbind(), reached).map(Entry::Refused)
    }

    fn record_refusal(&self, by: &str, reached: &Reached) -> PyResult<()> {
        let Some(trailed) = &self.tool.get().audit else { return Ok(()) };
        let py = self.py();
        let recorded = reached.to_dict(py).and_then(|detail| trailed.refused(py, by, detail.as_any()));
        ToolRunner::overlook(self.runner, recorded)
    }

    /// Refuses a call that could not be recorded although its policy demands it.
    fn unrecorded(&self, error: PyErr, reached: Reached) -> PyResult<Entry> {
        let py = self.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        let message = error.value(py).str()?.into_any();
        ToolRunner::overlook(self.runner, Err::<(), _>(error))?;
        self.announce(&reached)?;
        let by = "auditgate".into_pyobject(py)?.into_any().unbind();
        GateResult::refused(self.name, by, message.unbind(), reached).map(Entry::Refused)
    }

    /// Decides where a store is the user's own: rules, then a reservation, then the rate, then the reservation settles.
    fn admit_apart(&mut self) -> PyResult<Entry> {
        type Apart<'py> = (
            Option<String>,
            Bound<'py, PyAny>,
            Option<Py<PyAny>>,
            Option<Py<PyAny>>,
            Option<Py<PyAny>>,
            Bound<'py, PyAny>,
        );
        let py = self.py();
        let tool = self.tool.get();
        let copy = snapshot(self.arguments.as_any())?;
        let decided = self.runner.call_method1("_admit_apart", (&tool.registration, copy))?;
        let (by, message, rate, spend, rules, reservation): Apart<'py> = decided.extract()?;
        let reached = Reached { rate: rate.map(Reply::Foreign), spend: spend.map(Reply::Foreign), rules };
        if let Some(by) = by {
            self.record_refusal(&by, &reached)?;
            let by = by.into_pyobject(py)?.into_any().unbind();
            return GateResult::refused(self.name, by, message.unbind(), reached).map(Entry::Refused);
        }
        let recorded = match &tool.audit {
            Some(trailed) => self.record_apart(trailed, &reached),
            None => Ok(()),
        };
        let settle = |kept: bool| {
            self.runner.call_method1("_settle_apart", (&tool.registration, &reservation, kept)).map(drop)
        };
        match recorded {
            Ok(()) => {
                settle(true)?;
                self.admitted(reached)
            }
            Err(error) => {
                settle(false)?;
                self.unrecorded(error, reached)
            }
        }
    }

    fn record_apart(&self, trailed: &Trailed, reached: &Reached) -> PyResult<()> {
        trailed.admitted(self.py(), reached.to_dict(self.py())?.as_any())
    }
}
