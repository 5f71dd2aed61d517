//! `Permit`: what an admitted call holds until it ends, and the three ways it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkrein::config::{Bound as FileBound, Call, Uncovered};
use checkrein::engine::SettleError;
use checkrein::store::{OwnedSettlement, PermitId, Step, StepResult, StoreError};
use checkrein_core::admission::{Action, PermitError};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::Reason;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::once::OperationState;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::key::Key;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::Span;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};
use smallvec::SmallVec;

use crate::convert::{self, MAX_NODES, Unusable};
use crate::engine::generation;
use crate::error;
use crate::facts::Proving as CodeProving;
use crate::guard::Guard;
use crate::operation::Operation;
use crate::result::Codec;
use crate::waiting::{self, Bell, Ending};

/// What happens when a call ends, beyond the gates themselves.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// Budgets that hold: their unit, which of the costs they hold, and what reads the actual cost off a result.
    pub(crate) holds: Vec<(Unit, usize, Option<Py<PyAny>>)>,
    /// Says what an exception means.
    classify: Py<PyAny>,
    /// Turns a result into bytes and back.
    pub(crate) codec: Codec,
}

impl Hooks {
    /// Reads `(((unit, cost, actual or None), ...), classify, (dumps, loads) or None)`.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        type Parts = (Vec<(String, usize, Option<Py<PyAny>>)>, Py<PyAny>, Option<(Py<PyAny>, Py<PyAny>)>);
        let (holds, classify, codec): Parts = spec.extract()?;
        let unit = |word: &str| Unit::parse(word).unwrap_or(Unit::Calls);
        let holds = holds.into_iter().map(|(word, cost, actual)| (unit(&word), cost, actual)).collect();
        Ok(Self { holds, classify, codec: Codec::read(codec) })
    }

    /// The amounts a call will hold, in the order of the holds.
    pub(crate) fn held(&self, costs: &[Cost]) -> SmallVec<[Amount; 2]> {
        self.holds.iter().map(|(_, cost, _)| costs.get(*cost).copied().unwrap_or_default().amount).collect()
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for (_, _, actual) in &self.holds {
            actual.as_ref().map_or(Ok(()), |actual| visit.call(actual))?;
        }
        self.codec.traverse(visit)?;
        visit.call(&self.classify)
    }
}

/// What an admission took for a call, as its permit has to know it.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The amounts it holds, in the order of the holds.
    pub(crate) held: SmallVec<[Amount; 2]>,
    /// Its once key.
    pub(crate) once: Option<Box<OnceKey>>,
    /// What the policy file says of the call beyond its gates.
    pub(crate) filed: Option<Box<Filed>>,
    /// What its result may prove.
    pub(crate) proving: Option<Box<CodeProving>>,
    /// What would have refused it, but did not: gates in observe mode, a store that may fail open.
    pub(crate) observed: Vec<Reason>,
}

/// The record of a once key, and the name of its gate.
#[derive(Debug)]
pub(crate) struct OnceKey {
    pub(crate) key: Key,
    pub(crate) gate: Arc<str>,
}

/// What a policy file says of an admitted call beyond its gates.
#[derive(Debug)]
pub(crate) struct Filed {
    pub(crate) timeout: Option<Span>,
    pub(crate) proving: Option<Proving>,
}

/// A call whose result proves something.
#[derive(Debug)]
pub(crate) struct Proving {
    pub(crate) bound: Arc<FileBound>,
    pub(crate) tenant: String,
    pub(crate) run: String,
    pub(crate) session: String,
    pub(crate) arguments: Value,
    pub(crate) uncovered: Option<Uncovered>,
}

impl Proving {
    /// The steps that record what the result shows; text that is JSON is read.
    fn steps(&self, guard: &Guard, result: &Bound<'_, PyAny>) -> Vec<Step> {
        let mut budget = MAX_NODES;
        let read = match convert::json_value(result, &mut budget, 0) {
            Ok(value) => match value.as_str() {
                Some(text) => read_str(text, &Limits::default()).ok(),
                None => Some(value),
            },
            // Nothing is proved by what has no form: the call that needs the fact is refused and says so.
            Err(_) => None,
        };
        let Some(read) = read else { return Vec::new() };
        let action = Action { run: &self.run, session: &self.session, ..Action::default() };
        let (arguments, uncovered) = (&self.arguments, self.uncovered.as_ref());
        let call = Call { tenant: &self.tenant, action, arguments, uncovered };
        self.bound.proved(&call, &read, guard.engine.now())
    }
}

/// What an admitted call holds; finished once.
#[pyclass(name = "Permit", module = "checkrein._native", frozen, weakref)]
pub(crate) struct Permit {
    guard: Py<Guard>,
    id: Option<PermitId>,
    /// The count of the process that it was given to.
    born: u32,
    args: Option<Py<PyTuple>>,
    replay: Option<Arc<[u8]>>,
    once: Option<Box<OnceKey>>,
    filed: Option<Box<Filed>>,
    proving: Option<Box<CodeProving>>,
    held: SmallVec<[Amount; 2]>,
    /// It was put in doubt; what comes now is late.
    late: AtomicBool,
    /// Nobody has said yet how the call ended.
    open: AtomicBool,
}

impl Drop for Permit {
    /// A call that was interrupted between its admission and its end (Ctrl-C may come between any two steps of the
    /// wrapper) ends here, as one of unknown outcome.
    fn drop(&mut self) {
        let guard = self.guard.get();
        if let Some(id) = self.id.filter(|_| *self.open.get_mut() && self.born == generation()) {
            // It may have ended at the end of its lease: then there is nothing left to say.
            if guard.waits {
                self.finish_unwaited(id, self.unknown(), Health::Neutral);
            } else {
                let _ = guard.engine.finish(id, &Settlement::new(self.unknown(), Health::Neutral));
            }
        }
    }
}

impl Permit {
    pub(crate) fn new(
        guard: Py<Guard>,
        id: Option<PermitId>,
        args: Option<Py<PyTuple>>,
        taken: Taken,
    ) -> Self {
        let (late, open) = (AtomicBool::new(false), AtomicBool::new(true));
        let born = generation();
        let Taken { held, once, filed, proving, .. } = taken;
        Self { guard, id, born, args, replay: None, once, filed, proving, held, late, open }
    }

    pub(crate) fn replay(guard: Py<Guard>, result: Arc<[u8]>) -> Self {
        let mut permit = Self::new(guard, None, None, Taken::default());
        permit.replay = Some(result);
        permit
    }

    /// Nobody knows what the call left behind: the cost is charged in full, a once key stays in doubt.
    fn unknown(&self) -> Outcome {
        if self.once.is_some() { Outcome::InDoubt } else { Outcome::Done(None) }
    }

    pub(crate) fn guard(&self) -> &Guard {
        self.guard.get()
    }

    /// The permit's name in the store, unless there is none or it is a parent process's.
    pub(crate) fn open_id(&self) -> Option<PermitId> {
        self.id.filter(|_| self.born == generation())
    }

    fn finish(
        &self,
        py: Python<'_>,
        outcome: Outcome,
        health: Health,
        actual: &[Amount],
    ) -> Result<(), SettleError> {
        let guard = self.guard();
        let Some(id) = self.open_id() else { return Ok(()) };
        if guard.on_loop && !matches!(outcome, Outcome::Done(Some(_))) && actual.is_empty() {
            // An event loop does not wait to tell that something failed; who is told of success has waited.
            self.finish_unwaited(id, outcome.clone(), health);
        } else {
            let settlement = Settlement { outcome: outcome.clone(), health, actual };
            guard.waiting(py, || guard.engine.finish(id, &settlement))?;
        }
        self.ended(py, &outcome);
        Ok(())
    }

    pub(crate) fn finish_unwaited(&self, id: PermitId, outcome: Outcome, health: Health) {
        let shared = Arc::clone(&self.guard().shared);
        let then = move |results: Result<Vec<StepResult>, StoreError>| {
            let lost = |result: &StepResult| matches!(result, StepResult::Failed(_));
            if !results.is_ok_and(|results| !results.iter().any(lost)) {
                shared.unrecorded.fetch_add(1, Ordering::Relaxed);
            }
        };
        self.guard().engine.submit_then(vec![waiting::finish(id, outcome, health)], Box::new(then));
    }

    /// The outcome is committed, or on its way: tells the engine's listeners.
    pub(crate) fn ended(&self, py: Python<'_>, outcome: &Outcome) {
        self.open.store(false, Ordering::Release);
        let guard = self.guard();
        if !guard.shared.listening.load(Ordering::Acquire) {
            return;
        }
        let (word, stored) = match outcome {
            Outcome::Done(stored) => ("done", self.once.is_some().then_some(stored.is_some())),
            Outcome::FailedClean => ("failed_clean", None),
            Outcome::InDoubt => ("in_doubt", None),
        };
        let owner = guard.owner.bind(py);
        if let Err(error) = owner.call_method1("_ended", (&*guard.reader.tool, word, stored)) {
            error::unraisable(py, error, owner.as_any());
        }
    }

    /// Ends the call; a problem is logged, and never hides what the tool raised.
    fn end(
        &self,
        py: Python<'_>,
        outcome: Outcome,
        health: Health,
        actual: &[Amount],
    ) -> Result<(), SettleError> {
        let ended = self.finish(py, outcome.clone(), health, actual);
        self.settled(py, ended, outcome, health)
    }

    /// What a settlement came to, after a second try without the actual costs where those were the problem.
    fn settled(
        &self,
        py: Python<'_>,
        ended: Result<(), SettleError>,
        outcome: Outcome,
        health: Health,
    ) -> Result<(), SettleError> {
        let ended = match ended {
            // A permit in doubt may have been settled at the end of its lease: nothing is lost.
            Err(SettleError::Permit(PermitError::Finished)) if self.late.load(Ordering::Acquire) => Ok(()),
            Err(SettleError::Permit(PermitError::Meter(problem))) => {
                let text = format!("the actual cost was not taken, the full hold was: {problem}");
                self.guard().warn(py, &text);
                self.finish(py, outcome, health, &[])
            }
            ended => ended,
        };
        if let Err(problem) = &ended {
            if matches!(problem, SettleError::Store(_)) {
                // The store goes on trying: another outcome must not overtake this one.
                self.open.store(false, Ordering::Release);
            }
            self.guard().warn(py, &format!("the outcome was not recorded: {problem}"));
        }
        ended
    }

    /// The call returned, and this is what became of its outcome: its result, or the error that carries it.
    pub(crate) fn returned<'py>(
        &self,
        py: Python<'py>,
        ended: Result<(), SettleError>,
        outcome: Outcome,
        result: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.settled(py, ended, outcome, Health::Success) {
            // What is not known to be done must not look as if it were.
            Err(problem) if self.once.is_some() || self.is_waited_for() => {
                let tool = &self.guard().reader.tool;
                Err(error::not_recorded(py, tool, problem.code(), &problem.to_string(), result))
            }
            _ => Ok(result),
        }
    }

    /// Whether a disk or a server keeps something that the end of the call settles.
    fn is_waited_for(&self) -> bool {
        self.guard().waits && self.id.is_some_and(|id| !id.is_light())
    }

    /// The steps that record what a result proves, and what of it could not be proved.
    fn facts(&self, result: &Bound<'_, PyAny>) -> (Vec<Step>, Option<PyErr>) {
        let guard = self.guard();
        let filed = self.filed.as_ref().and_then(|filed| filed.proving.as_ref());
        let mut steps = filed.map_or_else(Vec::new, |proving| proving.steps(guard, result));
        let Some((proves, proving)) = guard.reader.proves.as_ref().zip(self.proving.as_ref()) else {
            return (steps, None);
        };
        match proves.steps(result.py(), guard, proving, result) {
            Ok(found) => {
                steps.extend(found);
                (steps, None)
            }
            Err(problem) => (steps, Some(problem)),
        }
    }

    /// Records what a result proves, before its call ends: the next call may need it.
    fn prove(&self, py: Python<'_>, facts: Vec<Step>) {
        if facts.is_empty() {
            return;
        }
        let guard = self.guard();
        match guard.waiting(py, || guard.engine.prove_all(facts)) {
            Ok(0) => {}
            Ok(lost) => {
                guard.warn(py, &format!("{lost} facts were not recorded: the cap on live keys is reached"));
            }
            Err(problem) => guard.warn(py, &format!("facts were not recorded: {problem}")),
        }
    }

    /// What a result is stored as, and what it cost.
    fn settlement(
        &self,
        py: Python<'_>,
        result: &Bound<'_, PyAny>,
    ) -> PyResult<(Outcome, SmallVec<[Amount; 2]>)> {
        let guard = self.guard();
        let read = (|| {
            let stored = if self.once.is_some() { guard.encode(py, result)? } else { None };
            Ok((Outcome::Done(stored), self.actual(py, result)?))
        })();
        if read.is_err() {
            // Ctrl-C in a hook: the tool is done all the same.
            let _ = self.end(py, Outcome::Done(None), Health::Success, &[]);
        }
        read
    }

    /// The call raised this; ends it, and says so on the exception if that failed.
    fn end_raised(&self, py: Python<'_>, raised: &Bound<'_, PyAny>, outcome: Outcome, health: Health) {
        if let Err(problem) = self.end(py, outcome, health, &[]) {
            let note = format!("checkrein: the outcome of this call was not recorded: {problem}");
            // What the tool raised matters more than a note that cannot be put on it.
            let _ = raised.call_method1("add_note", (note,));
        }
    }

    /// The actual costs that a result states; where it states none, the full hold.
    fn actual(&self, py: Python<'_>, result: &Bound<'_, PyAny>) -> PyResult<SmallVec<[Amount; 2]>> {
        let mut amounts = SmallVec::new();
        for ((unit, _, actual), held) in self.guard.get().hooks.holds.iter().zip(&self.held) {
            let Some(actual) = actual else {
                amounts.push(*held);
                continue;
            };
            let read = actual.bind(py).call1((result,)).map_err(Unusable::from);
            let read = read.and_then(|value| convert::in_unit(value, *unit));
            match read.and_then(|value| convert::amount(&value, *unit)) {
                Ok(amount) => amounts.push(amount),
                Err(Unusable::Raised(error)) if !error.is_instance_of::<PyException>(py) => {
                    return Err(error);
                }
                Err(unusable) => {
                    let text = match unusable {
                        Unusable::Raised(error) => {
                            format!("`actual` raised {}", convert::type_name(error.value(py)))
                        }
                        Unusable::Wrong(text) | Unusable::TooLarge(text) => {
                            format!("`actual` returned {text}")
                        }
                    };
                    self.guard.get().warn(py, &format!("{text}; the full hold was charged"));
                    amounts.push(*held);
                }
            }
        }
        Ok(amounts)
    }
}

#[pymethods]
impl Permit {
    /// How long a coroutine waits for the store, in seconds.
    #[getter]
    fn _patience_s(&self) -> f64 {
        self.guard()._patience_s()
    }

    /// The arguments the tool is to run on, when containers among them were copied.
    #[getter]
    fn args<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyTuple>> {
        self.args.as_ref().map(|args| args.bind(py).clone())
    }

    /// Whether the call ran before; its stored result is `result()`.
    #[getter]
    fn replayed(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether it has a once key, and with it an operation.
    #[getter]
    fn once(&self) -> bool {
        self.once.is_some()
    }

    /// How long the policy file lets a caller wait, in seconds.
    #[getter]
    fn timeout_s(&self) -> Option<f64> {
        self.filed.as_ref()?.timeout.map(Span::as_secs_f64)
    }

    /// The stored result of a replay.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(stored) = &self.replay else { return Err(error::permit(py, "the call is no replay")) };
        self.guard.get().hooks.codec.decode(py, stored)
    }

    /// The call returned; settles it and hands the result back.
    fn done<'py>(&self, py: Python<'py>, result: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (outcome, actual) = self.settlement(py, &result)?;
        let (facts, problem) = self.facts(&result);
        self.prove(py, facts);
        let ended = self.finish(py, outcome.clone(), Health::Success, &actual);
        let returned = self.returned(py, ended, outcome, result)?;
        problem.map_or(Ok(returned), Err)
    }

    /// The call returned; hands its settlement to the store, and rings the bell with `number` when it is committed.
    fn _done_later<'py>(
        slf: &Bound<'py, Self>,
        bell: &Bell,
        number: u64,
        result: &Bound<'py, PyAny>,
    ) -> PyResult<Ending> {
        let (outcome, actual) = slf.get().settlement(slf.py(), result)?;
        let settlement = OwnedSettlement { outcome, health: Health::Success, actual: actual.into_vec() };
        let facts = slf.get().facts(result);
        Ok(Ending::new(slf, result, facts, settlement, bell, number))
    }

    /// The operation of its once key.
    #[getter]
    fn operation(&self, py: Python<'_>) -> PyResult<Operation> {
        let guard = self.guard.get();
        let Some(once) = &self.once else { return Err(error::permit(py, "the call has no once key")) };
        let owner = guard.owner.clone_ref(py);
        let state = OperationState::Started.name();
        Ok(Operation::new(owner, Arc::clone(&once.gate), once.key.clone(), state))
    }

    /// What to send as `Idempotency-Key` for its operation.
    #[getter]
    fn idempotency_key(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.operation(py)?.idempotency_key())
    }

    /// The call ended without a result to store, as generators do.
    fn closed(&self, py: Python<'_>) {
        let _ = self.end(py, Outcome::Done(None), Health::Neutral, &[]);
    }

    /// The call raised; the caller raises on. Nothing happens to a call that was put in doubt: its outcome is late.
    fn failed(&self, py: Python<'_>, raised: Bound<'_, PyAny>) -> PyResult<()> {
        if self.late.load(Ordering::Acquire) { Ok(()) } else { self.late_failed(py, raised) }
    }

    /// The call raised, after its caller had stopped waiting or before.
    fn late_failed(&self, py: Python<'_>, raised: Bound<'_, PyAny>) -> PyResult<()> {
        let hooks = &self.guard.get().hooks;
        let unknown = self.unknown();
        let word = hooks.classify.bind(py).call1((&raised,)).and_then(|word| word.extract::<String>());
        let word = match word {
            Ok(word) => word,
            Err(error) => {
                // What the tool raised matters more than what cannot be said about it, except for Ctrl-C.
                self.end_raised(py, &raised, unknown, Health::Neutral);
                if !error.is_instance_of::<PyException>(py) {
                    return Err(error);
                }
                let kind = convert::type_name(error.value(py));
                self.guard.get().warn(py, &format!("the classification of an exception raised {kind}"));
                return Ok(());
            }
        };
        let (outcome, health) = match word.as_str() {
            "not_executed" => (Outcome::FailedClean, Health::Neutral),
            "unreachable" => (Outcome::FailedClean, Health::Failure),
            "failure" | "timed_out" => (unknown, Health::Failure),
            "success" => (unknown, Health::Success),
            _ => (unknown, Health::Neutral),
        };
        self.end_raised(py, &raised, outcome, health);
        Ok(())
    }

    /// The caller stopped waiting; a late outcome may still be recorded. `fails` says whether the breaker hears of it.
    #[pyo3(signature = (fails = true))]
    fn in_doubt(&self, py: Python<'_>, fails: bool) {
        let health = if fails { Health::Failure } else { Health::Neutral };
        let _ = self.end(py, Outcome::InDoubt, health, &[]);
        self.late.store(true, Ordering::Release);
    }

    /// The function was never called: nobody had begun it when its caller stopped waiting.
    fn not_started(&self, py: Python<'_>) {
        let _ = self.end(py, Outcome::FailedClean, Health::Neutral, &[]);
        self.late.store(true, Ordering::Release);
    }

    /// Settles the only hold at an actual amount, or at the full hold.
    #[pyo3(signature = (actual = None))]
    fn settle(&self, py: Python<'_>, actual: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Some((unit, _, _)) = self.guard.get().hooks.holds.first() else { return Ok(()) };
        let mut amounts: SmallVec<[Amount; 1]> = SmallVec::new();
        if let Some(actual) = actual {
            match convert::amount(actual, *unit) {
                Ok(amount) => amounts.push(amount),
                Err(Unusable::Raised(error)) => return Err(error),
                Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => {
                    let hint = "the hold stays open; settle it with an exact amount";
                    return Err(error::config(py, &format!("the actual cost: {text}"), "amount", hint));
                }
            }
        }
        self.finish(py, Outcome::Done(None), Health::Neutral, &amounts)
            .map_err(|problem| error::permit(py, &problem.to_string()))
    }

    /// Gives everything back: the action provably had no effect.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.finish(py, Outcome::FailedClean, Health::Neutral, &[])
            .map_err(|problem| error::permit(py, &problem.to_string()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.guard)?;
        self.args.as_ref().map_or(Ok(()), |args| visit.call(args))
    }
}
