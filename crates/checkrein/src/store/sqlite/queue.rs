//! What callers hand to the writer, and how they learn what became of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tables::SqliteTables;
use crate::parking::{Condvar, Mutex};
use crate::store::durable::Durable;
use crate::store::{Step, StepResult, StoreError};
use checkrein_core::time::Timestamp;

/// What steps came to.
pub type Results = Result<Vec<StepResult>, StoreError>;

/// Work with the store to itself, in the writer's thread.
pub(super) type Call = Box<dyn FnOnce(&mut Durable, &mut SqliteTables, Timestamp) + Send>;

pub(super) enum Job {
    Steps(Vec<Step>, Reply),
    Call(Call),
    /// Leave the store: what is still open is moved on. After it only the sealer writes.
    Leave(std::sync::mpsc::SyncSender<()>),
}

/// Who wants to know what became of steps.
pub(super) enum Reply {
    /// A thread that waits.
    Waiter(Arc<Waiter>),
    /// Whoever is called, from the writer's thread.
    Then(Box<dyn FnOnce(Results) + Send>),
    /// Nobody.
    Nobody,
}

#[derive(Debug, Default)]
enum State {
    /// In the queue.
    #[default]
    Queued,
    /// In a batch.
    Taken,
    /// The caller has stopped waiting.
    GivenUp,
    Done(Results),
}

/// Where one caller waits.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    state: Mutex<State>,
    changed: Condvar,
}

impl Waiter {
    /// The steps are about to be run; `false` when nobody waits for them any more.
    fn take(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = matches!(*state, State::Queued);
        if wanted {
            *state = State::Taken;
        }
        wanted
    }

    /// Hands over what became of the steps; gives it back when nobody waits any more.
    fn end(&self, results: Results) -> Option<Results> {
        let mut state = self.state.lock();
        if matches!(*state, State::GivenUp) {
            return Some(results);
        }
        *state = State::Done(results);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// Waits, but not for ever: while the steps are in the queue they can be taken back; once they are in a batch they
    /// may be committed, and only the wait ends.
    pub(super) fn wait(&self, patience: Duration) -> Results {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            if let State::Done(results) = &mut *state {
                return std::mem::replace(results, Ok(Vec::new()));
            }
            let limit = if matches!(*state, State::Taken) { deadline + patience } else { deadline };
            state = self.changed.wait_until(state, limit);
            if Instant::now() < limit {
                continue;
            }
            let seconds = patience.as_secs_f32();
            return match std::mem::replace(&mut *state, State::GivenUp) {
                State::Done(results) => results,
                State::Taken => {
                    let text = format!("the disk has not answered within {} s", seconds * 2.0);
                    Err(StoreError::Unknown(text))
                }
                State::Queued | State::GivenUp => Err(StoreError::NotCommitted(format!(
                    "the store was not to be had within {seconds} s: another process holds the file"
                ))),
            };
        }
    }
}

impl Reply {
    pub(super) fn take(&self) -> bool {
        match self {
            Self::Waiter(waiter) => waiter.take(),
            Self::Then(_) | Self::Nobody => true,
        }
    }

    /// Hands over what became of the steps; gives it back when nobody wants it any more.
    pub(super) fn end(self, results: Results) -> Option<Results> {
        match self {
            Self::Waiter(waiter) => waiter.end(results),
            Self::Then(then) => {
                then(results);
                None
            }
            Self::Nobody => None,
        }
    }
}

/// Jobs in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<Pending>,
    came: Condvar,
}

#[derive(Default)]
struct Pending {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.state.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Adds a job; gives it back when the store is closed.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.came.notify_one();
        Ok(())
    }

    /// No more jobs; those that are here are still done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.came.notify_one();
    }

    /// Waits for jobs and takes at most `most` steps of them into `into`; `false` at the end. Comes back with nothing
    /// after `idle`.
    pub(super) fn take(&self, into: &mut Vec<Job>, most: usize, idle: Duration) -> bool {
        let mut state = self.state.lock();
        if state.jobs.is_empty() && !state.closed {
            state = self.came.wait_until(state, Instant::now() + idle);
        }
        let mut steps = 0;
        while let Some(job) = state.jobs.front() {
            steps += match job {
                Job::Steps(batch, _) => batch.len(),
                Job::Call(_) | Job::Leave(_) => 1,
            };
            if steps > most && !into.is_empty() {
                break;
            }
            into.extend(state.jobs.pop_front());
        }
        !(state.closed && into.is_empty())
    }
}
