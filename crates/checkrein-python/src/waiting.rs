//! Waiting for a store without a thread of its own: what a coroutine hands to the writer, and the bell that wakes its
//! event loop. The writer's thread never touches Python: it writes one byte to a pipe that the loop watches.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkrein::engine::{self, Decided as CoreDecided, Engine as CoreEngine, SettleError};
use checkrein::store::{OwnedSettlement, PermitId, Step, StepResult, StoreError};
use checkrein_core::gate::breaker::Health;
use checkrein_core::permit::Outcome;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::engine::generation;
use crate::error;
use crate::guard::Guard;
use crate::operation::Operation;
use crate::permit::{Permit, Taken};

type Results = Result<Vec<StepResult>, StoreError>;

/// A disk that has not answered for so long is gone.
const DISK_PATIENCE_S: f64 = 0.95;
/// What a server's answer may take beyond the deadline until it is here.
const GRACE_S: f64 = 0.3;

/// How long a coroutine waits for a store, in seconds.
pub(crate) fn patience_s(engine: &CoreEngine) -> f64 {
    engine.redis().map_or(DISK_PATIENCE_S, |store| store.deadline().as_secs_f64() + GRACE_S)
}

/// Nobody panics while holding one of these locks. They are the standard library's, because threads that wait for
/// `parking_lot`'s leave a forked child a table of freed stacks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers of finished waits, and what wakes the loop that asks for them.
#[derive(Debug)]
struct Ring {
    finished: Mutex<Vec<u64>>,
    reader: PipeReader,
    writer: PipeWriter,
}

/// Wakes one event loop.
#[pyclass(name = "Bell", module = "checkrein._native", frozen, weakref)]
pub(crate) struct Bell(Arc<Ring>);

#[pymethods]
impl Bell {
    /// A bell; both ends of its pipe still have to be made non-blocking.
    #[new]
    fn new() -> PyResult<Self> {
        let (reader, writer) = std::io::pipe().map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(Ring { finished: Mutex::default(), reader, writer })))
    }

    /// The ends of the pipe: the one to watch, the one that is written to.
    fn filenos(&self) -> (i32, i32) {
        (self.0.reader.as_raw_fd(), self.0.writer.as_raw_fd())
    }

    /// The numbers of the waits that have ended since the last call.
    fn take(&self) -> Vec<u64> {
        let mut bytes = [0; 512];
        // The pipe does not block, and what is left in it wakes the loop again.
        while (&self.0.reader).read(&mut bytes).is_ok_and(|read| read == bytes.len()) {}
        std::mem::take(&mut *lock(&self.0.finished))
    }
}

impl Ring {
    fn strike(&self, number: u64) {
        lock(&self.finished).push(number);
        // A full pipe wakes the loop as well as one byte more would.
        let _ = (&self.writer).write(&[1]);
    }
}

/// What became of a step, as far as it is known.
#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Done(Results),
    GivenUp,
}

/// One step on its way.
#[derive(Debug, Default)]
struct Wait(Mutex<State>);

impl Wait {
    /// Hands steps to the store; the bell rings with `number` when they are done. The last one is what is asked for.
    fn submit(engine: &CoreEngine, steps: Vec<Step>, bell: &Bell, number: u64) -> Arc<Self> {
        let wait = Arc::new(Self::default());
        let (own, ring, store) = (Arc::clone(&wait), Arc::clone(&bell.0), engine.clone());
        let then = move |results: Results| {
            let mut state = lock(&own.0);
            if matches!(*state, State::GivenUp) {
                drop(state);
                not_started(&store, &results);
                return;
            }
            *state = State::Done(results);
            drop(state);
            ring.strike(number);
        };
        engine.submit_then(steps, Box::new(then));
        wait
    }

    /// What became of the step; an error when nobody will be told any more.
    fn take(&self) -> Result<StepResult, StoreError> {
        let late = || StoreError::Unknown("the store has not answered in time".to_owned());
        match std::mem::replace(&mut *lock(&self.0), State::GivenUp) {
            State::Done(results) => results?.pop().ok_or_else(late),
            State::Waiting | State::GivenUp => Err(late()),
        }
    }

    /// Nobody waits any more; an admission that was or will be committed is given back.
    fn give_up(&self, engine: &CoreEngine) {
        if let State::Done(results) = std::mem::replace(&mut *lock(&self.0), State::GivenUp) {
            not_started(engine, &results);
        }
    }
}

/// Ends what was admitted for a caller that has gone: its action does not start.
fn not_started(engine: &CoreEngine, results: &Results) {
    let permits = results.iter().flatten().filter_map(|result| match result {
        StepResult::Admitted(_, permit) => *permit,
        _ => None,
    });
    let steps: Vec<Step> =
        permits.map(|permit| finish(permit, Outcome::FailedClean, Health::Neutral)).collect();
    if !steps.is_empty() {
        // If this is lost, the lease of the permit ends by itself.
        engine.submit_then(steps, Box::new(|_| ()));
    }
}

/// The step that ends a permit without costs of its own.
pub(crate) fn finish(permit: PermitId, outcome: Outcome, health: Health) -> Step {
    Step::Finish(permit, OwnedSettlement { outcome, health, actual: Vec::new() })
}

/// An admission on its way.
#[pyclass(name = "Ticket", module = "checkrein._native", frozen)]
pub(crate) struct Ticket {
    guard: Py<Guard>,
    wait: Arc<Wait>,
    held: Mutex<Option<(Taken, Option<Py<PyTuple>>)>>,
    /// The count of the process that waits for it.
    born: u32,
}

impl Ticket {
    pub(crate) fn new(
        guard: &Bound<'_, Guard>,
        step: Step,
        bell: &Bell,
        number: u64,
        taken: Taken,
        copied: Option<Bound<'_, PyTuple>>,
    ) -> Self {
        let wait = Wait::submit(&guard.get().engine, vec![step], bell, number);
        let held = Mutex::new(Some((taken, copied.map(Bound::unbind))));
        Self { guard: guard.clone().unbind(), wait, held, born: generation() }
    }
}

#[pymethods]
impl Ticket {
    /// What the wrapper gets, as from an admission that was waited for; a store that has not answered is a refusal.
    fn answer(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let guard = self.guard.bind(py);
        let (taken, copied) = lock(&self.held).take().unwrap_or_default();
        let admitted = match engine::decided(self.wait.take()) {
            CoreDecided::Allowed(permit) => {
                let admission = checkrein_core::admission::Admission::allow();
                engine::Admitted { admission, permit }
            }
            CoreDecided::Noted(admitted) => *admitted,
        };
        let copied = || Ok(copied.map(|copied| copied.into_bound(py)));
        let decided = guard.get().decided(py, admitted, taken, copied);
        guard.get().answer(py, guard, decided)
    }

    /// The caller has gone: what is or will be admitted is given back.
    fn abandon(&self) {
        let guard = self.guard.get();
        // The parent of a forked process gives back its own.
        if self.born == generation() {
            self.wait.give_up(&guard.engine);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.guard)?;
        // Another thread that holds it right now keeps it alive anyway.
        let held = self.held.try_lock();
        held.ok()
            .and_then(|held| {
                held.as_ref().and_then(|(_, copied)| copied.as_ref().map(|copied| visit.call(copied)))
            })
            .unwrap_or(Ok(()))
    }
}

impl Drop for Ticket {
    /// A coroutine that is thrown away while it waits has gone too.
    fn drop(&mut self) {
        if self.held.get_mut().is_ok_and(|held| held.is_some()) {
            self.abandon();
        }
    }
}

/// The record of what became of an operation, on its way.
#[pyclass(name = "Resolving", module = "checkrein._native", frozen)]
pub(crate) struct Resolving {
    operation: Py<Operation>,
    to: &'static str,
    wait: Arc<Wait>,
}

impl Resolving {
    pub(crate) fn new(
        operation: &Bound<'_, Operation>,
        engine: &CoreEngine,
        step: Step,
        to: &'static str,
        bell: &Bell,
        number: u64,
    ) -> Self {
        let wait = Wait::submit(engine, vec![step], bell, number);
        Self { operation: operation.clone().unbind(), to, wait }
    }
}

#[pymethods]
impl Resolving {
    /// The operation as it is now; `None` when it was not in doubt any more, or not in this run.
    fn answer(&self, py: Python<'_>) -> PyResult<Option<Operation>> {
        match self.wait.take() {
            Ok(StepResult::Done) => Ok(Some(self.operation.get().resolved(py, self.to))),
            Ok(StepResult::Failed(problem)) | Err(problem) => Err(error::store(py, &problem)),
            Ok(_) => Ok(None),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.operation)
    }
}

/// The end of a call that returned, on its way.
#[pyclass(name = "Ending", module = "checkrein._native", frozen)]
pub(crate) struct Ending {
    permit: Py<Permit>,
    result: Py<PyAny>,
    outcome: Outcome,
    /// `None` when there is nothing to wait for.
    wait: Option<Arc<Wait>>,
    /// What of the result could not be proved.
    problem: Mutex<Option<PyErr>>,
}

impl Ending {
    pub(crate) fn new(
        permit: &Bound<'_, Permit>,
        result: &Bound<'_, PyAny>,
        (mut steps, problem): (Vec<Step>, Option<PyErr>),
        settlement: OwnedSettlement,
        bell: &Bell,
        number: u64,
    ) -> Self {
        let outcome = settlement.outcome.clone();
        let guard = permit.get().guard();
        let wait = match permit.get().open_id() {
            None if steps.is_empty() => None,
            None => Some(Wait::submit(&guard.engine, steps, bell, number)),
            // Only the ledger wants to know, and nobody waits for that.
            Some(id) if id.is_light() && steps.is_empty() => {
                permit.get().finish_unwaited(id, settlement.outcome, settlement.health);
                permit.get().ended(permit.py(), &outcome);
                None
            }
            Some(id) => {
                steps.push(Step::Finish(id, settlement));
                Some(Wait::submit(&guard.engine, steps, bell, number))
            }
        };
        let (permit, result) = (permit.clone().unbind(), result.clone().unbind());
        Self { permit, result, outcome, wait, problem: Mutex::new(problem) }
    }
}

#[pymethods]
impl Ending {
    /// Whether there is something to wait for.
    #[getter]
    fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// The result of the call, or the error that carries it.
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let permit = self.permit.get();
        let ended: Result<(), SettleError> = match &self.wait {
            None => Ok(()),
            Some(wait) => match wait.take() {
                Ok(StepResult::Refused(error)) => Err(error.into()),
                Ok(StepResult::Failed(error)) | Err(error) => Err(error.into()),
                Ok(_) => Ok(()),
            },
        };
        if ended.is_ok() && self.wait.is_some() && permit.open_id().is_some() {
            permit.ended(py, &self.outcome);
        }
        let returned = permit.returned(py, ended, self.outcome.clone(), self.result.bind(py).clone())?;
        lock(&self.problem).take().map_or(Ok(returned), Err)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.permit)?;
        visit.call(&self.result)
    }
}
