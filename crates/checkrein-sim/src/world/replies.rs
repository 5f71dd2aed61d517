//! What a process does with the result of a step, and what its client hears.

use checkrein::core::admission::{Admission, PermitError, Verdict};
use checkrein::core::gate::breaker::Health;
use checkrein::core::permit::Outcome;
use checkrein::store::{OwnedSettlement, PermitId, Step, StepResult};

use super::process::{Pending, Stage, What};
use super::{Event, SECOND, World};
use crate::oracle::{Check, ensure};
use crate::tools::{LEASES, PROBE_LEASE, PROBES};
use crate::upstream::result_of;

impl World {
    /// A step was committed.
    pub(super) fn result(&mut self, number: usize, pending: Pending, result: StepResult) -> Check {
        match (pending.what, result) {
            (What::Admit(task), StepResult::Admitted(admission, permit)) => {
                self.decided(number, task, &admission, permit)
            }
            (What::Start(task), StepResult::Done) => self.dispatch(number, task),
            (What::Start(task) | What::Release(task), _) => {
                // Too late, or given back: the client may try again.
                self.forget(number, task, true);
                Ok(())
            }
            (What::Done(task), StepResult::Done) => {
                self.count("outcomes");
                self.repeat(&pending.step);
                self.tell_done(number, task)
            }
            (What::Clean(task), StepResult::Done) => {
                self.repeat(&pending.step);
                self.forget(number, task, true);
                Ok(())
            }
            (What::Doubt(task), StepResult::Done) => {
                self.count("calls in doubt");
                let open = self.processes.get_mut(number).and_then(|process| process.tasks.get_mut(&task));
                if let Some(open) = open {
                    open.stage = Stage::Doubtful;
                }
                Ok(())
            }
            (What::Done(task) | What::Clean(task) | What::Doubt(task), StepResult::Refused(error)) => {
                // The lease ended before: the store has settled what was held.
                ensure(error == PermitError::Finished, || format!("an outcome was refused: {error}"))?;
                self.forget(number, task, false);
                Ok(())
            }
            (What::Repeat, result) => {
                let refused = matches!(result, StepResult::Refused(PermitError::Finished));
                ensure(refused, || format!("a permit was finished twice: {result:?}"))
            }
            (What::Resolve(key, dispatch), StepResult::Done) => {
                self.count("resolutions");
                let Some(dispatch) = dispatch else { return Ok(()) };
                let request = self.request_of(dispatch);
                self.oracle.tell(&key, request, &result_of(dispatch), &self.upstream)
            }
            (What::Resolve(..) | What::Reset, StepResult::Done | StepResult::NotFound) => Ok(()),
            (what, result) => Err(format!("{what:?} gave {result:?}")),
        }
    }

    fn decided(
        &mut self,
        number: usize,
        task: u64,
        admission: &Admission,
        permit: Option<PermitId>,
    ) -> Check {
        let told = self.told;
        let Some(process) = self.processes.get_mut(number) else { return Ok(()) };
        let Some(open) = process.tasks.get_mut(&task) else { return Ok(()) };
        let Some(call) = self.calls.get(open.call) else { return Ok(()) };
        let Some(tool) = self.tools.get(call.tool) else { return Ok(()) };
        match &admission.verdict {
            Verdict::Allow => {
                open.permit = permit;
                open.stage = Stage::Reserved;
                let begun = permit.and_then(|permit| self.audit.books.begun(permit.number())).unwrap_or(told);
                open.lease = begun + if call.reserve { LEASES.reserved } else { LEASES.started }.nanos();
                self.oracle.admitted(call, permit.map(PermitId::number))?;
                let (reserve, post) = (call.reserve, tool.name == "post");
                open.probe = post && self.audit.is_probe(call.tenant);
                let probe = open.probe.then_some(call.tenant);
                self.count("admissions");
                if let Some(tenant) = probe {
                    self.count("probes");
                    self.one_probe(tenant)?;
                }
                self.go_on(number, task, reserve, post)
            }
            Verdict::Replay(result) => {
                let key_and_request = call.once_key().zip(call.once.as_ref().map(|(_, request)| *request));
                self.count("replays");
                if let Some((key, request)) = key_and_request {
                    self.oracle.tell(&key, request, result, &self.upstream)?;
                }
                self.forget(number, task, false);
                Ok(())
            }
            Verdict::Block => {
                if let Some((_, durable)) = &process.open {
                    *self.refused.entry((durable.epoch(), open.call)).or_default() += 1;
                }
                for reason in &admission.reasons {
                    let code = reason.code.word();
                    ensure(code != "invariant_broken", || format!("an invariant is broken: {reason:?}"))?;
                    if reason.gate.as_ref() == "once" {
                        self.oracle.refused(call, code)?;
                    }
                }
                self.count("refusals");
                self.forget(number, task, true);
                Ok(())
            }
        }
    }

    /// A half-open breaker has let a call through: no other may be under way.
    fn one_probe(&self, tenant: &str) -> Check {
        let lease = PROBE_LEASE.nanos() - LEASES.started.nanos();
        let of_tenant = |call: usize| self.calls.get(call).is_some_and(|call| call.tenant == tenant);
        let tasks = self.processes.iter().flat_map(|process| process.tasks.values());
        let probes = tasks.filter(|task| {
            let waits = matches!(task.stage, Stage::Reserved | Stage::Running);
            task.probe && waits && of_tenant(task.call) && self.told < task.lease + lease
        });
        let probes = probes.count();
        ensure(probes <= PROBES as usize, || {
            format!("the half-open breaker of {tenant} let {probes} calls through at once")
        })
    }

    /// An admitted call is started, sent, or given up before it was.
    fn go_on(&mut self, number: usize, task: u64, reserve: bool, post: bool) -> Check {
        let Some(process) = self.processes.get(number) else { return Ok(()) };
        let life = process.life;
        let permit = process.tasks.get(&task).and_then(|open| open.permit);
        let gives_up = !post && self.random.once_in(20);
        match permit {
            Some(permit) if reserve => {
                let (what, step) = if gives_up {
                    (What::Release(task), Step::Release(permit))
                } else {
                    (What::Start(task), Step::Start(permit))
                };
                self.submit(number, life, Pending { what, step });
                Ok(())
            }
            Some(_) if gives_up => {
                let (outcome, health) = (Outcome::FailedClean, Health::Neutral);
                let settlement = OwnedSettlement { outcome, health, actual: Vec::new() };
                self.end(number, task, What::Clean(task), settlement);
                Ok(())
            }
            _ => self.dispatch(number, task),
        }
    }

    /// The outcome is committed: the client hears of it.
    fn tell_done(&mut self, number: usize, task: u64) -> Check {
        let open = self.processes.get(number).and_then(|process| process.tasks.get(&task));
        let Some((call, permit, dispatch)) =
            open.and_then(|open| Some((open.call, open.permit, open.dispatch?)))
        else {
            return Ok(());
        };
        self.audit.outcome_is_durable(&self.disk, permit.map(PermitId::number))?;
        if let Some((key, (_, request))) =
            self.calls.get(call).and_then(|call| call.once_key().zip(call.once.clone()))
        {
            self.oracle.tell(&key, request, &result_of(dispatch), &self.upstream)?;
        }
        self.forget(number, task, false);
        Ok(())
    }

    fn request_of(&self, dispatch: usize) -> u8 {
        let call = self.upstream.get(dispatch).and_then(|dispatch| self.calls.get(dispatch.call));
        call.and_then(|call| call.once.as_ref()).map_or(0, |(_, request)| *request)
    }

    /// The process is through with a call; the client may send it again.
    fn forget(&mut self, number: usize, task: u64, again: bool) {
        let task = self.processes.get_mut(number).and_then(|process| process.tasks.remove(&task));
        if let Some(task) = task.filter(|_| again && self.random.once_in(2)) {
            self.soon(40_000, Event::Send { call: task.call, tries: task.tries + 1 });
        }
    }

    /// Outcomes are delivered twice now and then, to any process.
    fn repeat(&mut self, step: &Step) {
        if !self.random.once_in(6) {
            return;
        }
        let number = self.random.below(self.size.processes as u64) as usize;
        let Some(process) = self.processes.get(number).filter(|process| process.open.is_some()) else {
            return;
        };
        let (life, at) = (process.life, self.time + self.random.below(90) as i64 * SECOND);
        let pending = Box::new(Pending { what: What::Repeat, step: step.clone() });
        self.queue.plan(at, Event::Again { process: number, life, pending });
    }

    /// Nothing of the batch was committed.
    pub(super) fn not_committed(&mut self, number: usize, pending: Pending) {
        match pending.what {
            // The client hears `store_error`; nothing ran and nothing was taken.
            What::Admit(task) => self.forget(number, task, true),
            What::Repeat | What::Resolve(..) | What::Reset => {}
            // What has happened has to be recorded, however often it takes.
            _ => {
                let Some(process) = self.processes.get(number) else { return };
                let life = process.life;
                let pending = Box::new(pending);
                self.soon(3_000, Event::Again { process: number, life, pending });
            }
        }
    }
}
