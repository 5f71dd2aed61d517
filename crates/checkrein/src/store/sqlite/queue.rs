//! What callers hand to the writer, and how they learn what became of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tables::SqliteTables;
use crate::parking::{Condvar, Mutex};
use crate::store::durable::Durable;
use crate::store::{Results, Step, StoreError};
use checkrein_core::time::Timestamp;

/// Work with the store to itself, in the writer's thread.
pub(super) type Call = Box<dyn FnOnce(&mut Durable, &mut SqliteTables, Timestamp) + Send>;

pub(super) enum Job {
    Steps(Vec<Step>, Reply),
    Call(Call),
    /// Leave the store: what is still open is moved on. After it only the sealer writes.
    Leave(std::sync::mpsc::SyncSender<()>),
}

/// Who wants to know what became of steps. One that is dropped says so to whoever waits.
pub(super) struct Reply {
    to: To,
    taken: bool,
}

enum To {
    /// A thread that waits.
    Waiter(Arc<Waiter>),
    /// Whoever is called, from the writer's thread.
    Then(Box<dyn FnOnce(Results) + Send>),
    /// Nobody, or nobody any more.
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
    const fn new(to: To) -> Self {
        Self { to, taken: false }
    }

    pub(super) fn waiter(waiter: &Arc<Waiter>) -> Self {
        Self::new(To::Waiter(Arc::clone(waiter)))
    }

    pub(super) fn then(then: Box<dyn FnOnce(Results) + Send>) -> Self {
        Self::new(To::Then(then))
    }

    pub(super) fn nobody() -> Self {
        Self::new(To::Nobody)
    }

    /// The steps are about to be run; `false` when nobody waits for them any more.
    pub(super) fn take(&mut self) -> bool {
        self.taken = true;
        match &self.to {
            To::Waiter(waiter) => waiter.take(),
            To::Then(_) | To::Nobody => true,
        }
    }

    /// Hands over what became of the steps; gives it back when nobody wants it any more.
    pub(super) fn end(mut self, results: Results) -> Option<Results> {
        std::mem::replace(&mut self.to, To::Nobody).end(results)
    }
}

impl To {
    fn end(self, results: Results) -> Option<Results> {
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

/// A writer that ends before its time, by a panic, leaves nobody waiting.
impl Drop for Reply {
    fn drop(&mut self) {
        let error = if self.taken { StoreError::Unknown(ENDED.to_owned()) } else { ended() };
        // Whoever gave up has been told already.
        let _ = std::mem::replace(&mut self.to, To::Nobody).end(Err(error));
    }
}

const ENDED: &str = "the store's writer has ended; open the store again";

/// What is said to those who come to a store whose writer has ended.
pub(super) fn ended() -> StoreError {
    StoreError::NotCommitted(ENDED.to_owned())
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
    /// Jobs that somebody waits for.
    wanted: usize,
    /// When the first of the others came.
    riding: Option<Instant>,
    /// The writer waits for a job.
    asleep: bool,
    closed: bool,
}

/// What nobody waits for rides along with what somebody does, but no later than this.
const RIDE: Duration = Duration::from_millis(5);
/// So many jobs that nobody waits for are a batch of their own.
const MANY: usize = 128;

impl Pending {
    /// When the writer has something to do; `None` when there is nothing.
    fn due(&self, now: Instant) -> Option<Instant> {
        if self.closed || self.wanted > 0 || self.jobs.len() >= MANY {
            return Some(now);
        }
        self.riding.map(|since| since + RIDE)
    }
}

impl Job {
    fn is_wanted(&self) -> bool {
        !matches!(self, Self::Steps(_, Reply { to: To::Nobody, .. }))
    }
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
        let wanted = job.is_wanted();
        state.wanted += usize::from(wanted);
        // The first of those that ride along ends a long sleep, so that a shorter one begins.
        let first = !wanted && state.riding.is_none();
        if first {
            state.riding = Some(Instant::now());
        }
        state.jobs.push_back(job);
        let wake = state.asleep && (wanted || first || state.jobs.len() >= MANY);
        drop(state);
        if wake {
            self.came.notify_one();
        }
        Ok(())
    }

    /// No more jobs; those that are here are still done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.came.notify_one();
    }

    /// No more jobs, and those that are here are not done: whoever waits for them is told.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        (state.wanted, state.riding) = (0, None);
        drop(state);
        drop(jobs);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits until there is something to do, but not longer than `idle`.
    pub(super) fn wait(&self, idle: Duration) -> Waited {
        let mut now = Instant::now();
        let end = now + idle;
        let mut state = self.state.lock();
        loop {
            let due = state.due(now);
            let until = due.map_or(end, |due| due.min(end));
            if until <= now {
                break;
            }
            state.asleep = true;
            state = self.came.wait_until(state, until);
            state.asleep = false;
            now = Instant::now();
        }
        match (state.jobs.is_empty(), state.closed) {
            (false, _) => Waited::Jobs,
            (true, false) => Waited::Idle,
            (true, true) => Waited::End,
        }
    }

    /// Takes at most `most` steps, or one job.
    pub(super) fn take(&self, into: &mut Vec<Job>, most: usize) {
        let mut state = self.state.lock();
        let mut steps = 0;
        while let Some(job) = state.jobs.front() {
            steps += match job {
                Job::Steps(batch, _) => batch.len(),
                Job::Call(_) | Job::Leave(_) => 1,
            };
            if steps > most && !into.is_empty() {
                break;
            }
            let job = state.jobs.pop_front();
            state.wanted -= usize::from(job.as_ref().is_some_and(Job::is_wanted));
            into.extend(job);
        }
        state.riding = state.riding.filter(|_| state.jobs.len() > state.wanted);
    }
}

/// What a wait for jobs came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Jobs,
    Idle,
    /// The queue is closed and empty.
    End,
}
