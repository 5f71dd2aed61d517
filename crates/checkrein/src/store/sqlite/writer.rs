//! The one thread of a process that writes: it takes what has come in, and commits it in one transaction.

use std::time::{Duration, Instant};

use checkrein_core::time::Timestamp;

use super::lock::ProcessLocks;
use super::queue::{Job, Queue, Reply, Waited};
use super::tables::SqliteTables;
use super::{not_started, permits_of};
use crate::clock::Clock;
use crate::store::durable::Durable;
use crate::store::{Step, StepResult, StoreError};

/// The most steps in one transaction.
const BATCH: usize = 256;
/// The longest sleep: leases end and other processes die without anybody saying so.
const IDLE: Duration = Duration::from_millis(500);
/// The most outcomes that are kept for a store that cannot be written.
const MOST_OWED: usize = 4_096;
/// Between two looks for processes that have died.
const LOOK_FOR_DEAD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Writer {
    durable: Durable,
    tables: SqliteTables,
    clock: Clock,
    liveness: ProcessLocks,
    left: bool,
    /// Outcomes that could not be committed when they came: the actions have ended, and that stays true.
    owed: Vec<Step>,
}

impl Writer {
    pub(super) fn new(durable: Durable, tables: SqliteTables, clock: Clock, liveness: ProcessLocks) -> Self {
        Self { durable, tables, clock, liveness, left: false, owed: Vec::new() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.durable.epoch()
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Queue) {
        let mut looked = Instant::now();
        loop {
            match queue.wait(self.sleep()) {
                Waited::End => break,
                Waited::Jobs => self.turn(queue),
                Waited::Idle => self.commit(Vec::new(), Vec::new()),
            }
            if looked.elapsed() >= LOOK_FOR_DEAD && !self.left {
                // A file that cannot be had now is looked at again later; whoever decides meanwhile is told.
                let _ = self.durable.recover(&mut self.tables, self.clock.now(), &mut self.liveness);
                looked = Instant::now();
            }
        }
        self.leave();
    }

    /// Leaves the store; what is asked of it later may still be written.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.pay_owed();
            // What is left open is moved on by the next process, if this one cannot.
            let _ = self.durable.close(&mut self.tables, self.clock.now(), &mut self.liveness);
        }
    }

    /// One turn with the file: has it first and takes the jobs then. Whoever stops waiting until then has taken nothing,
    /// and whoever comes until then is in the batch.
    fn turn(&mut self, queue: &Queue) {
        let turn = self.tables.take_turn();
        let mut jobs = Vec::new();
        queue.take(&mut jobs, BATCH);
        if let Err(error) = turn {
            let replies = jobs.drain(..).filter_map(|job| match job {
                Job::Steps(batch, reply) => {
                    self.owe(&batch);
                    Some((reply, batch.len()))
                }
                // It tries for itself, and says why it cannot.
                Job::Call(call) => {
                    call(&mut self.durable, &mut self.tables, self.clock.now());
                    None
                }
                Job::Leave(done) => {
                    self.leave();
                    let _ = done.send(());
                    None
                }
            });
            let replies: Vec<(Reply, usize)> = replies.collect();
            self.tell_all(replies, &error);
            return;
        }
        let (mut steps, mut replies) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Steps(batch, mut reply) => {
                    if reply.take() {
                        replies.push((reply, batch.len()));
                        steps.extend(batch);
                    } else {
                        self.owe(&batch);
                    }
                }
                Job::Call(call) => {
                    self.commit(std::mem::take(&mut steps), std::mem::take(&mut replies));
                    self.tables.end_turn();
                    call(&mut self.durable, &mut self.tables, self.clock.now());
                }
                Job::Leave(done) => {
                    self.commit(std::mem::take(&mut steps), std::mem::take(&mut replies));
                    self.tables.end_turn();
                    self.leave();
                    // Whoever closes the store may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
        self.commit(steps, replies);
        self.tables.end_turn();
    }

    /// Until the next lease ends, but not for long.
    fn sleep(&self) -> Duration {
        let due = self.durable.next_due().map(|due| due.since(self.clock.now()).nanos());
        due.and_then(|nanos| u64::try_from(nanos).ok()).map_or(IDLE, Duration::from_nanos).min(IDLE)
    }

    fn commit(&mut self, steps: Vec<Step>, replies: Vec<(Reply, usize)>) {
        self.pay_owed();
        let lease_over = self.durable.next_due().is_some_and(|due| due <= self.clock.now());
        if steps.is_empty() && !lease_over {
            return;
        }
        match self.durable.run(&mut self.tables, &steps, self.clock.now()) {
            Err(error) => {
                if matches!(error, StoreError::NotCommitted(_)) {
                    self.owe(&steps);
                }
                self.tell_all(replies, &error);
            }
            Ok(results) => {
                let mut results = results.into_iter();
                let mut unwanted: Vec<StepResult> = Vec::new();
                for (reply, count) in replies {
                    let own = results.by_ref().take(count).collect();
                    unwanted.extend(reply.end(Ok(own)).and_then(Result::ok).into_iter().flatten());
                }
                self.give_back(&unwanted);
            }
        }
    }

    /// Remembers the outcomes among steps that were not committed. Their callers have been told, with the results.
    fn owe(&mut self, steps: &[Step]) {
        let outcomes = steps.iter().filter(|step| matches!(step, Step::Finish(..)));
        // What does not fit is in doubt when its lease ends, as after a crash.
        self.owed.extend(outcomes.take(MOST_OWED.saturating_sub(self.owed.len())).cloned());
    }

    /// Commits what is owed, if the file can be had now.
    fn pay_owed(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let paid = self.durable.run(&mut self.tables, &self.owed, self.clock.now());
        // Whether it was committed or not: after an unknown commit nothing more is written through this process.
        if !matches!(paid, Err(StoreError::NotCommitted(_))) {
            self.owed.clear();
        }
    }

    fn tell_all(&self, replies: Vec<(Reply, usize)>, error: &StoreError) {
        for (reply, _) in replies {
            // Whoever gave up has been told already.
            let _ = reply.end(Err(error.clone()));
        }
    }

    /// Ends admissions whose callers have stopped waiting.
    fn give_back(&mut self, unwanted: &[StepResult]) {
        let steps: Vec<Step> = permits_of(unwanted).map(not_started).collect();
        if !steps.is_empty() {
            // If it cannot be committed, the leases of the permits end by themselves.
            let now: Timestamp = self.clock.now();
            let _ = self.durable.run(&mut self.tables, &steps, now);
        }
    }
}
