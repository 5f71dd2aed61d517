//! The way of a call through a process: in, to the store, to the service, and back.

use std::sync::Arc;

use checkrein::core::gate::breaker::Health;
use checkrein::core::permit::Outcome;
use checkrein::store::{OwnedSettlement, PermitId, Step, StoreError};
use checkrein::testing::disk::{Access, Fault};

use super::process::{Pending, Stage, Task, What};
use super::{Event, MILLISECOND, SECOND, World};
use crate::oracle::{Check, ensure};
use crate::upstream::{Fate, result_of};

/// The most steps of one batch.
const BATCH: usize = 6;
/// How long a process waits for the service.
const PATIENCE: i64 = 20 * SECOND;
/// A client sends a call so many times.
const TRIES: u32 = 6;

impl World {
    /// A client sends a call to some process; the network may deliver it twice, or late, or never.
    pub(super) fn send(&mut self, call: usize, tries: u32) {
        if tries >= TRIES || self.calm {
            return;
        }
        let copies = if self.random.once_in(12) { 2 } else { 1 };
        for _ in 0..copies {
            let process = self.random.below(self.size.processes as u64) as usize;
            let late = if self.random.once_in(15) { 30_000 } else { 20 };
            if !self.random.once_in(30) {
                self.soon(late, Event::Arrive { process, call, tries });
            }
        }
        // A client that heard nothing sends it again. If the first got through, this one must not run.
        if self.random.once_in(4) {
            self.soon(60_000, Event::Send { call, tries: tries + 1 });
        }
    }

    /// The step that asks for a call.
    pub(super) fn admission(&self, number: usize) -> Option<Step> {
        let call = self.calls.get(number)?;
        let tool = self.tools.get(call.tool)?;
        Some(Step::Admit(Arc::clone(&tool.policy), call.inputs(number, tool)))
    }

    pub(super) fn arrive(&mut self, number: usize, call: usize, tries: u32) {
        let Some(step) = self.admission(call) else { return };
        let Some(process) = self.processes.get_mut(number).filter(|process| process.open.is_some()) else {
            // Nobody answers there: the client tries again.
            return self.soon(5_000, Event::Send { call, tries: tries + 1 });
        };
        process.tasks_begun += 1;
        let task = Task {
            call,
            tries,
            stage: Stage::Deciding,
            permit: None,
            dispatch: None,
            lease: i64::MAX,
            probe: false,
        };
        process.tasks.insert(process.tasks_begun, task);
        let pending = Pending { what: What::Admit(process.tasks_begun), step };
        let life = process.life;
        self.submit(number, life, pending);
    }

    /// Puts a step into the process's next batch.
    pub(super) fn submit(&mut self, number: usize, life: u64, pending: Pending) {
        let Some(process) = self.processes.get_mut(number).filter(|process| process.life == life) else {
            return;
        };
        process.inbox.push(pending);
        if !std::mem::replace(&mut process.flush_planned, true) {
            self.soon(8, Event::Flush { process: number, life });
        }
    }

    /// Submits an outcome and remembers that it is on its way.
    pub(super) fn end(&mut self, number: usize, task: u64, what: What, settlement: OwnedSettlement) {
        let Some(process) = self.processes.get_mut(number) else { return };
        let life = process.life;
        let Some(open) = process.tasks.get_mut(&task) else { return };
        let Some(permit) = open.permit else {
            // Nothing is held, so there is nothing to say.
            process.tasks.remove(&task);
            return;
        };
        open.stage = Stage::Ending;
        self.submit(number, life, Pending { what, step: Step::Finish(permit, settlement) });
    }

    /// Commits a batch, and lets something go wrong with it.
    pub(super) fn flush(&mut self, number: usize, life: u64) -> Check {
        let Some(process) = self.processes.get_mut(number).filter(|process| process.life == life) else {
            return Ok(());
        };
        process.flush_planned = false;
        let taken = process.inbox.len().min(BATCH);
        let mut batch: Vec<Pending> = process.inbox.drain(..taken).collect();
        if !process.inbox.is_empty() {
            process.flush_planned = true;
            self.queue.plan(self.time + MILLISECOND, Event::Flush { process: number, life });
        }
        // Steps that came at one time come in any order.
        if batch.len() > 1 && self.random.once_in(3) {
            batch.reverse();
        }
        self.arm(number);
        let steps: Vec<Step> = batch.iter().map(|pending| pending.step.clone()).collect();
        let now = self.now();
        let Some((handle, durable)) = self.processes.get_mut(number).and_then(|p| p.open.as_mut()) else {
            return Ok(());
        };
        let before = self.disk.version();
        let results = durable.run(handle, &steps, now);
        handle.heal();
        let dead = handle.is_dead();
        if results.is_ok() {
            self.told = self.told.max(now.nanos());
        }
        self.trace.note(|| format!("  {number}: {results:?}"));
        self.look()?;
        if dead {
            self.count("deaths in a batch");
            self.kill(number);
            return Ok(());
        }
        match results {
            Ok(results) => {
                for (pending, result) in batch.into_iter().zip(results) {
                    self.result(number, pending, result)?;
                }
            }
            Err(StoreError::NotCommitted(why)) => {
                self.count("batches refused");
                ensure(self.disk.version() == before, || {
                    format!("said not to be committed ({why}), and was")
                })?;
                batch.into_iter().for_each(|pending| self.not_committed(number, pending));
            }
            Err(StoreError::Unknown(_)) => {
                // Nothing may be written after a failed sync: the process ends, and another life begins.
                self.count("batches of unknown fate");
                self.kill(number);
            }
            Err(error) => return Err(format!("an undamaged store says {error}")),
        }
        Ok(())
    }

    /// Chooses what goes wrong with the next batch of a process.
    fn arm(&mut self, number: usize) {
        if self.calm || self.size.faults == 0 || !self.random.once_in(self.size.faults) {
            return;
        }
        let deep = self.random.below(16);
        let (access, skip, fault) = match self.random.below(12) {
            0 => (Access::Begin, 0, Fault::Refused),
            1 => (Access::Begin, 0, Fault::DiesBefore),
            2 => (Access::Read, deep, Fault::Refused),
            3 => (Access::Write, deep, Fault::Refused),
            4 => (Access::Write, deep, Fault::DiesBefore),
            5 => (Access::Commit, 0, Fault::Refused),
            6 => (Access::Commit, 0, Fault::Lost),
            7 => (Access::Commit, 0, Fault::Kept),
            8 => (Access::Commit, 0, Fault::Limbo),
            9 => (Access::Commit, 0, Fault::DiesBefore),
            _ => (Access::Commit, 0, Fault::DiesAfter),
        };
        if let Some((handle, _)) = self.processes.get_mut(number).and_then(|p| p.open.as_mut()) {
            handle.fail(access, skip, fault);
        }
    }

    /// Sends an admitted call to the service.
    pub(super) fn dispatch(&mut self, number: usize, task: u64) -> Check {
        let Some(open) = self.processes.get(number).and_then(|process| process.tasks.get(&task)) else {
            return Ok(());
        };
        let (asked, permit) = (open.call, open.permit);
        let Some(call) = self.calls.get(asked).cloned() else { return Ok(()) };
        self.oracle.dispatch(&call, &self.upstream)?;
        self.audit.intent_is_durable(&self.disk, permit.map(PermitId::number), &call)?;
        self.count("dispatches");
        let (dispatch, arrives) =
            self.upstream.dispatch((asked, call.once_key()), call.cost, self.calm, &mut self.random);
        self.queue.plan(self.time + arrives, Event::Effect { dispatch });
        let answer = self.upstream.get(dispatch).and_then(|dispatch| dispatch.answer);
        let Some(process) = self.processes.get_mut(number) else { return Ok(()) };
        let life = process.life;
        if let Some(open) = process.tasks.get_mut(&task) {
            (open.stage, open.dispatch) = (Stage::Running, Some(dispatch));
        }
        if let Some(after) = answer {
            let event = Event::Answer { process: number, life, task, dispatch };
            self.queue.plan(self.time + after, event);
        }
        self.queue.plan(self.time + PATIENCE, Event::GiveUp { process: number, life, task });
        self.maybe_die(number, "deaths after a dispatch");
        Ok(())
    }

    /// The service has answered.
    pub(super) fn answer(&mut self, number: usize, life: u64, task: u64, dispatch: usize) {
        let alive = self.processes.get(number).is_some_and(|process| process.life == life);
        if !alive || self.maybe_die(number, "deaths before an outcome") {
            return;
        }
        let Some(answer) = self.upstream.get(dispatch).cloned() else { return };
        let actual = vec![answer.actual; 2];
        let settlement = |outcome, health| OwnedSettlement { outcome, health, actual: actual.clone() };
        if answer.fate == Fate::Refused {
            let settlement = settlement(Outcome::FailedClean, Health::Failure);
            self.end(number, task, What::Clean(task), settlement);
        } else {
            let outcome = Outcome::Done(Some(result_of(dispatch).into()));
            self.end(number, task, What::Done(task), settlement(outcome, Health::Success));
        }
    }

    /// The process does not wait any longer: what became of the call is unknown.
    pub(super) fn give_up(&mut self, number: usize, life: u64, task: u64) {
        let process = self.processes.get(number).filter(|process| process.life == life);
        let running = |task: &&Task| task.stage == Stage::Running;
        if process.and_then(|process| process.tasks.get(&task)).filter(running).is_none() {
            return;
        }
        let settlement =
            OwnedSettlement { outcome: Outcome::InDoubt, health: Health::Failure, actual: Vec::new() };
        self.end(number, task, What::Doubt(task), settlement);
    }
}
