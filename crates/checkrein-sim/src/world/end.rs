//! The end of a run: trouble is over, everything is tidied up, and the books are compared with what happened.

use checkrein::core::admission::Verdict;
use checkrein::core::gate::once::OperationState;
use checkrein::store::StepResult;
use checkrein::store::durable::Table;
use checkrein::testing::disk::Survives;

use super::process::Stage;
use super::{Event, HOUR, SECOND, World};
use crate::audit;
use crate::oracle::{Check, ensure};
use crate::tools::{Call, LEASES};
use crate::upstream::{Fate, result_of};

impl World {
    /// Looks at the disk.
    pub(super) fn look(&mut self) -> Check {
        let now = checkrein::core::time::Timestamp::from_nanos(self.told);
        self.audit.look(&self.disk, now, &self.calls, &self.tools)
    }

    /// After a recovery nothing is under way for a dead process, and everything still is for a living one.
    pub(super) fn recovered(&self) -> Check {
        let dead = |epoch| !self.living.has(epoch);
        if let Some(seq) = self.audit.books.open_of(dead) {
            return Err(format!(
                "the intent of entry {seq} is open after a recovery, and its process is dead"
            ));
        }
        let tasks = || self.processes.iter().flat_map(|process| process.tasks.values());
        let key_of = |call: usize| self.calls.get(call).and_then(Call::once_key);
        for (key, state) in &self.audit.operations {
            let running = matches!(state, OperationState::Reserved | OperationState::Started);
            let open = |task: &crate::world::process::Task| key_of(task.call).as_ref() == Some(key);
            ensure(!running || tasks().any(|task| task.permit.is_some() && open(task)), || {
                format!("{key:?} is still {} after a recovery, and nobody works on it", state.name())
            })?;
        }
        for task in tasks().filter(|task| task.stage == Stage::Running && self.told < task.lease) {
            let Some(key) = key_of(task.call) else { continue };
            let state = self.audit.operations.get(&key);
            ensure(state == Some(&OperationState::Started), || {
                let state = state.map_or("gone", OperationState::name);
                format!("{key:?} is {state} although the living process that runs it has said nothing")
            })?;
        }
        Ok(())
    }

    /// Ends all trouble, brings every process up and every call to its end, and looks at what is left.
    pub(super) fn finish(&mut self) -> Check {
        self.calm = true;
        self.disk.set_full(false);
        self.disk.set_read_only(false);
        if self.random.once_in(2) {
            self.power_cut();
            self.disk.power_cut(Survives::Everything);
        }
        for process in 0..self.size.processes {
            self.queue.plan(self.time, Event::Boot { process });
        }
        // Reserved calls are released, started ones go in doubt, what they held is settled; a clock that was set
        // back has to catch up first. Calls in doubt are looked up and resolved in the next round.
        let pauses = [0, HOUR * 9, LEASES.started.nanos() + LEASES.in_doubt.nanos(), SECOND, SECOND];
        for pause in pauses {
            self.drain()?;
            self.time += pause;
            for process in 0..self.size.processes {
                self.queue.plan(self.time, Event::Tend { process });
            }
        }
        self.drain()?;
        self.compare()
    }

    fn drain(&mut self) -> Check {
        while let Some((at, event)) = self.queue.next() {
            self.time = self.time.max(at);
            self.happen(event)?;
        }
        Ok(())
    }

    /// Compares what the store says with what the service did and what clients were told.
    fn compare(&mut self) -> Check {
        let now = checkrein::core::time::Timestamp::from_nanos(self.told);
        ensure(self.disk.rows(Table::Permit).is_empty(), || {
            format!("{} permits are open for ever", self.disk.rows(Table::Permit).len())
        })?;
        if let Some(intent) = self.audit.books.without_end() {
            return Err(format!("the intent of {intent} has no outcome in the end"));
        }
        let (report, _) = audit::read(&self.disk, now).map_err(|error| error.to_string())?;
        ensure(report.is_sound(), || format!("the store is not sound at the end: {report:?}"))?;
        for (_, durable) in self.processes.iter().filter_map(|process| process.open.as_ref()) {
            let epoch = durable.epoch();
            for ((_, call), told) in self.refused.range((epoch, 0)..=(epoch, usize::MAX)) {
                let written = self.audit.books.refusals(epoch, *call);
                ensure(*told <= written, || {
                    format!(
                        "process {epoch} refused call {call} {told} times, and the ledger knows of {written}"
                    )
                })?;
            }
        }
        for (key, numbers) in self.upstream.effects() {
            ensure(numbers.len() == 1, || {
                format!("{key:?} had its effect {} times: {numbers:?}", numbers.len())
            })?;
            let state = self.audit.operations.get(key);
            let done = matches!(state, Some(OperationState::Done(_)));
            ensure(done, || format!("{key:?} had its effect and is {state:?}"))?;
        }
        for (key, state) in &self.audit.operations {
            let happened = self.upstream.of(key).any(|(_, dispatch)| dispatch.fate == Fate::Happened);
            let fits = match state {
                OperationState::Done(_) => happened,
                OperationState::FailedClean => !happened,
                _ => false,
            };
            ensure(fits, || format!("{key:?} is {} in the end; it happened: {happened}", state.name()))?;
        }
        self.ask_again()
    }

    /// Every client that was told a result asks again and must hear the same, or that the result is no longer kept.
    fn ask_again(&mut self) -> Check {
        let told: Vec<_> = self
            .oracle
            .told()
            .map(|(key, request, result)| (key.clone(), request, result.to_vec()))
            .collect();
        let now = self.now();
        for (key, request, result) in told {
            let same = |call: &&Call| {
                call.once_key().as_ref() == Some(&key)
                    && call.once.as_ref().is_some_and(|(_, own)| *own == request)
            };
            let call = self.calls.iter().position(|call| same(&call));
            let Some(step) = call.and_then(|call| self.admission(call)) else { continue };
            let Some((handle, durable)) = self.processes.first_mut().and_then(|p| p.open.as_mut()) else {
                return Err("no process is up in the end".to_owned());
            };
            let results = durable.run(handle, &[step], now).map_err(|error| error.to_string())?;
            let Some(StepResult::Admitted(admission, _)) = results.first() else {
                return Err(format!("an admission gave {results:?}"));
            };
            let pruned = admission.reasons.iter().any(|reason| reason.code.word() == "result_pruned");
            let same = matches!(&admission.verdict, Verdict::Replay(again) if **again == *result);
            ensure(same || pruned, || {
                format!("{key:?} was told {:?} and hears {admission:?}", result.escape_ascii().to_string())
            })?;
        }
        let effects: usize = self.upstream.effects().values().map(Vec::len).sum();
        self.counts.insert("effects of calls that run once", effects as u64);
        let last = self.upstream.effects().values().flatten().last().map(|number| result_of(*number));
        self.counts.insert("ledger entries", self.audit.books.len() as u64);
        self.trace.note(|| format!("end {} {last:?}", self.disk.trace()));
        Ok(())
    }
}
