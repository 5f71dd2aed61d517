//! How jobs get to the server: whoever finds nothing in the way takes its job there itself; what comes meanwhile waits,
//! and goes out in batches.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checkrein_core::time::Now;

use super::RedisOptions;
use super::address::Address;
use super::families::Families;
use super::group::Group;
use super::job::{Job, OpenPermits, Planned, Reply, Ticket};
use super::link::Link;
use super::name::Tag;
use super::outbox::Outbox;
use super::record::{ByName, Name, Names, Rec, Value};
use super::time::Estimate;
use crate::parking::{Condvar, Mutex};
use crate::store::{OwnedSettlement, PermitId, Results, Step, StepResult, StoreError};

/// So many jobs are taken to the server at the same time, each over a connection of its own.
const LANES: usize = 2;
/// The most jobs of a batch.
const BATCH: usize = 128;
/// More callers than this do not wait at a time.
const MOST_WAITING: usize = 65_536;
/// The most that is kept for a server that cannot be had.
const MOST_OWED: usize = 4_096;
/// More records than this are not remembered.
const MAX_CACHED: usize = 65_536;
/// What is left of a caller's time for whoever has its job in hand to tell it: at most this, and a tenth of it.
const GRACE: Duration = Duration::from_millis(50);

/// One process's way to a store.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) pid: u32,
    pub(super) address: Address,
    pub(super) options: RedisOptions,
    pub(super) families: Mutex<Arc<Families>>,
    /// The same once more: at the moment of a fork another thread may hold one of the locks, but not both.
    families_again: Mutex<Arc<Families>>,
    pub(super) open: Mutex<OpenPermits>,
    pub(super) estimates: Mutex<HashMap<Tag, Estimate>>,
    /// Tags that the store knows of.
    pub(super) tags: Mutex<HashSet<Tag>>,
    /// So many families, in the order of their numbers, are written down on the server.
    pub(super) defined: AtomicUsize,
    /// What has to be done as soon as the server can be had: outcomes that could not be committed when they came, and
    /// the end of permits that nobody has, because it was not known whether their admission was committed.
    pub(super) owed: Mutex<VecDeque<Planned>>,
    /// For the look after what is due.
    pub(super) house: Mutex<Link>,
    /// The server may have gone back to what it was: this process's number may be another's.
    pub(super) must_join: AtomicBool,
    /// Where the look after leases goes on.
    pub(super) next_tag: AtomicUsize,
    /// Where the sweep of an index goes on.
    pub(super) swept: Mutex<HashMap<Name, String>>,
    keeping_house: AtomicBool,
    state: Mutex<State>,
    came: Condvar,
    pub(super) closed: AtomicBool,
    /// The host's ledger, if it keeps one.
    pub(super) outbox: Option<Outbox>,
    pub(super) process: AtomicU64,
    permits: AtomicU64,
    ids: AtomicU64,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Job>,
    /// Records that are in somebody's hands.
    busy: Names,
    lanes: Vec<Link>,
    cache: ByName<Rec>,
    /// Those that were not needed since the cache was last half full.
    older: ByName<Rec>,
    workers: usize,
    asleep: usize,
}

impl Hub {
    pub(super) fn new(address: Address, options: RedisOptions, seed: u64, outbox: Option<Outbox>) -> Self {
        let lanes: Vec<Link> = (0..LANES).map(|_| Link::new(address.clone(), &options.prefix)).collect();
        let (queue, busy) = (VecDeque::new(), Names::default());
        let (cache, older) = (ByName::default(), ByName::default());
        let house = Mutex::new(Link::new(address.clone(), &options.prefix));
        Self {
            pid: std::process::id(),
            address,
            options,
            families: Mutex::default(),
            families_again: Mutex::default(),
            open: Mutex::default(),
            estimates: Mutex::default(),
            tags: Mutex::default(),
            defined: AtomicUsize::new(0),
            owed: Mutex::default(),
            house,
            must_join: AtomicBool::new(false),
            next_tag: AtomicUsize::new(0),
            swept: Mutex::default(),
            keeping_house: AtomicBool::new(false),
            state: Mutex::new(State { queue, busy, lanes, cache, older, workers: 0, asleep: 0 }),
            came: Condvar::default(),
            closed: AtomicBool::new(false),
            outbox,
            process: AtomicU64::new(0),
            permits: AtomicU64::new(0),
            ids: AtomicU64::new(seed),
        }
    }

    /// Runs a job and waits for it, but no longer than its deadline and a little.
    pub(super) fn run(self: &Arc<Self>, tag: Tag, steps: Vec<Planned>) -> Results {
        let grace = GRACE.min(self.options.deadline / 10);
        let deadline = Instant::now() + self.options.deadline - grace;
        let mut job = Job { tag, steps, deadline, reply: Reply::nobody() };
        let mut state = self.state.lock();
        let in_the_way = !state.queue.is_empty() || job.names().any(|name| state.busy.contains(&name));
        if !in_the_way && let Some(mut lane) = state.lanes.pop() {
            let ticket = Arc::new(Ticket::default());
            job.reply = Reply::ticket(&ticket);
            let group = state.check_out(vec![job], &self.options.prefix);
            drop(state);
            self.take(&mut lane, vec![group]);
            self.give_back(lane);
            let lost = || Err(StoreError::Unknown("the store gave no result".to_owned()));
            return ticket.give_up().unwrap_or_else(lost);
        }
        let ticket = Arc::new(Ticket::default());
        job.reply = Reply::ticket(&ticket);
        self.enqueue(state, job);
        if let Some(results) = ticket.wait(deadline + grace) {
            return results;
        }
        let mut state = self.state.lock();
        let queued =
            state.queue.iter().position(|job| job.reply.is_of(&ticket)).and_then(|at| state.queue.remove(at));
        drop(state);
        let seconds = self.options.deadline.as_secs_f32();
        let text = format!("the Redis server has not answered within {seconds} s");
        let unknown = if let Some(job) = &queued {
            let error = StoreError::NotCommitted(text);
            self.owe_outcomes(job, &error);
            error
        } else {
            StoreError::Unknown(text)
        };
        ticket.give_up().filter(|_| queued.is_none()).unwrap_or(Err(unknown))
    }

    /// Has a job run by a worker.
    pub(super) fn run_then(self: &Arc<Self>, tag: Tag, steps: Vec<Planned>, reply: Reply) {
        let deadline = Instant::now() + self.options.deadline;
        self.enqueue(self.state.lock(), Job { tag, steps, deadline, reply });
    }

    fn enqueue(self: &Arc<Self>, mut state: std::sync::MutexGuard<'_, State>, job: Job) {
        if state.queue.len() >= MOST_WAITING {
            drop(state);
            let text = format!("{MOST_WAITING} callers wait for the Redis server already");
            // Nothing was admitted that somebody would have to have.
            drop(job.reply.end(Err(StoreError::NotCommitted(text))));
            return;
        }
        state.queue.push_back(job);
        if state.asleep > 0 {
            drop(state);
            self.came.notify_one();
        } else if state.workers < LANES {
            state.workers += 1;
            drop(state);
            self.start_worker();
        }
    }

    /// Starts the thread that works for those who do not wait, and looks after what is due.
    pub(super) fn start(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.workers == 0 {
            state.workers = 1;
            drop(state);
            self.start_worker();
        } else {
            drop(state);
        }
        Outbox::start(self);
    }

    fn start_worker(self: &Arc<Self>) {
        let hub = Arc::clone(self);
        let worker = std::thread::Builder::new().name("checkrein-redis".to_owned());
        if worker.spawn(move || hub.work()).is_err() {
            // Without a thread the jobs are answered at their deadlines.
            self.state.lock().workers -= 1;
        }
    }

    /// No more jobs are waited for.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.came.notify_all();
        if let Some(outbox) = self.outbox.as_ref().filter(|_| self.pid == std::process::id()) {
            self.settle_down(Instant::now() + self.options.deadline);
            outbox.close(self.options.deadline);
        }
    }

    /// Waits until what was asked for has been done: what it tells the ledger is in the outbox then.
    fn settle_down(&self, until: Instant) {
        while Instant::now() < until {
            let state = self.state.lock();
            if state.queue.is_empty() && state.busy.is_empty() {
                return;
            }
            drop(state);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn work(self: Arc<Self>) {
        let mut kept_house = Instant::now();
        loop {
            let mut state = self.state.lock();
            let jobs = if state.lanes.is_empty() { Vec::new() } else { state.take_jobs() };
            if let Some(mut lane) = if jobs.is_empty() { None } else { state.lanes.pop() } {
                let groups = state.groups(jobs, &self.options.prefix);
                drop(state);
                self.take(&mut lane, groups);
                self.give_back(lane);
                continue;
            }
            let pause = self.options.housekeeping;
            if self.closed.load(Ordering::Acquire) && state.queue.is_empty() {
                state.workers -= 1;
                return;
            }
            state.asleep += 1;
            let mut state = self.came.wait_until(state, Instant::now() + pause);
            state.asleep -= 1;
            drop(state);
            let closed = self.closed.load(Ordering::Acquire);
            if kept_house.elapsed() >= pause && !closed && !self.keeping_house.swap(true, Ordering::AcqRel) {
                self.keep_house();
                self.keeping_house.store(false, Ordering::Release);
                kept_house = Instant::now();
            }
        }
    }

    /// Runs groups until each of them has been told what became of it.
    fn take(self: &Arc<Self>, lane: &mut Link, groups: Vec<Group>) {
        let ended = self.run_groups(lane, groups);
        let (mut replies, mut forgotten) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for (group, outcome) in ended {
            let Group { jobs, records, tried, .. } = group;
            for name in jobs.iter().flat_map(Job::names) {
                state.busy.remove(&name);
            }
            if outcome.is_ok() {
                forgotten.extend(Some(state.remember(records)).filter(|records| !records.is_empty()));
            }
            match outcome {
                Ok(()) => replies.extend(jobs.into_iter().zip(tried.results.into_iter().map(Ok))),
                Err(error) => {
                    for job in &jobs {
                        self.owe_outcomes(job, &error);
                    }
                    replies
                        .extend(jobs.into_iter().map(|job| (job, Err::<Vec<StepResult>, _>(error.clone()))));
                }
            }
        }
        drop(state);
        drop(forgotten);
        let mut unwanted = Vec::new();
        for (job, results) in replies {
            unwanted.extend(job.reply.end(results).and_then(Result::ok).into_iter().flatten());
        }
        self.disown(&unwanted);
    }

    /// Ends admissions whose callers have stopped waiting: nothing was started.
    fn disown(&self, results: &[StepResult]) {
        for result in results {
            if let StepResult::Admitted(_, Some(permit)) = result
                && let Some(names) = self.open.lock().names(permit.number())
            {
                self.owe([Planned { step: Self::not_started(permit.number()), names }]);
            }
        }
    }

    /// Actions that have ended are told of as soon as the server can be had. What cannot be read never can.
    fn owe_outcomes(&self, job: &Job, error: &StoreError) {
        if !matches!(error, StoreError::Damaged(_)) {
            let outcomes = job.steps.iter().filter(|planned| matches!(planned.step, Step::Finish(..)));
            self.owe(outcomes.cloned());
        }
    }

    /// Remembers what has to be done later. What does not fit is in doubt when its lease ends, as after a crash.
    pub(super) fn owe(&self, steps: impl IntoIterator<Item = Planned>) {
        let mut owed = self.owed.lock();
        let room = MOST_OWED.saturating_sub(owed.len());
        owed.extend(steps.into_iter().take(room));
    }

    fn give_back(self: &Arc<Self>, lane: Link) {
        let mut state = self.state.lock();
        state.lanes.push(lane);
        let more = !state.queue.is_empty();
        if more && state.asleep > 0 {
            drop(state);
            self.came.notify_one();
        } else if more && state.workers == 0 {
            state.workers += 1;
            drop(state);
            self.start_worker();
        }
    }

    /// A number for a new permit: below 2^53, and no other process's.
    pub(super) fn next_permit(&self) -> u64 {
        let number = self.permits.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
        (self.process.load(Ordering::Relaxed) & 0x1f_ffff) << 32 | number
    }

    /// A new id for a write: never zero, and in all its bits but the first unlike those before (splitmix64). The first
    /// tells it from a claim.
    pub(super) fn next_id(&self) -> u64 {
        let mut id = self.ids.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((id ^ (id >> 31)) >> 1).max(1)
    }

    /// The bounds of the time for what is sent to a tag now.
    pub(super) fn now(&self, tag: Tag) -> Option<Now> {
        if let Some(clock) = &self.options.clock {
            return Some(clock.now().into());
        }
        self.estimates.lock().get(&tag).map(Estimate::now)
    }

    /// Copies the families, with no other lock held.
    pub(super) fn publish(&self, families: Arc<Families>) {
        let mut again = self.families_again.lock();
        if families.iter().count() >= again.iter().count() {
            *again = families;
        }
    }

    /// The families of the process that this one was forked from.
    pub(super) fn families_of_parent(&self) -> Arc<Families> {
        let first = self.families.try_lock().map(|families| Arc::clone(&families));
        let again = || self.families_again.try_lock().map(|families| Arc::clone(&families));
        first.or_else(again).unwrap_or_default()
    }

    /// Any tag's server: for what needs no more than about the time of day.
    pub(super) fn any_now(&self) -> Option<Now> {
        if let Some(clock) = &self.options.clock {
            return Some(clock.now().into());
        }
        self.estimates.lock().values().next().map(Estimate::now)
    }

    /// Forgets what is remembered of a tag.
    pub(super) fn forget(&self, tag: Tag) {
        let mut state = self.state.lock();
        state.cache.retain(|name, _| name.tag != tag);
        state.older.retain(|name, _| name.tag != tag);
        drop(state);
        self.estimates.lock().remove(&tag);
        self.must_join.store(true, Ordering::Release);
        // A server that has lost everything is told again.
        self.tags.lock().remove(&tag);
        self.defined.store(0, Ordering::Release);
    }

    /// A permit that was opened elsewhere, so that its lease can be seen to.
    pub(super) fn adopt(&self, record: &Rec) {
        if let Some(Value::Permit(open)) = &record.value {
            let names = std::iter::once(record.name).chain(open.records.iter().copied()).collect();
            self.open.lock().put(record.name.record as u64, names, open.permit.lease_until);
        }
    }

    /// The step that ends a permit whose action was not started.
    pub(super) fn not_started(number: u64) -> Step {
        use checkrein_core::{gate::breaker::Health, permit::Outcome};
        let (outcome, health, actual) = (Outcome::FailedClean, Health::Neutral, Vec::new());
        Step::Finish(PermitId::from_number(number), OwnedSettlement { outcome, health, actual })
    }
}

impl State {
    /// One key set, and its records out of everybody else's reach.
    fn check_out(&mut self, jobs: Vec<Job>, prefix: &str) -> Group {
        let (cache, older, busy) = (&mut self.cache, &mut self.older, &mut self.busy);
        Group::new(jobs, |name| {
            busy.insert(name);
            let known = cache.remove(&name).or_else(|| older.remove(&name));
            known.unwrap_or_else(|| Rec::absent(name, prefix))
        })
    }

    /// Keeps records for the next time; gives those that are forgotten instead, because to let go of them takes time.
    fn remember(&mut self, records: Vec<Rec>) -> ByName<Rec> {
        let mut forgotten = ByName::default();
        if self.cache.len() > MAX_CACHED / 2 {
            // What is in use stays, because it moves over when it is needed; the rest is read again.
            forgotten = std::mem::replace(&mut self.older, std::mem::take(&mut self.cache));
        }
        let there = records.into_iter().filter(|record| record.version.id != 0);
        self.cache.extend(there.map(|record| (record.name, record)));
        forgotten
    }

    /// Jobs whose records nobody has, in their order; nothing overtakes a job that it shares a record with.
    fn take_jobs(&mut self) -> Vec<Job> {
        let mut blocked = Names::default();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for job in self.queue.drain(..) {
            let free = taken.len() < BATCH
                && job.names().all(|name| !self.busy.contains(&name) && !blocked.contains(&name));
            if free {
                taken.push(job);
            } else {
                blocked.extend(job.names());
                left.push_back(job);
            }
        }
        self.queue = left;
        taken
    }

    /// Jobs that share records in one group each.
    fn groups(&mut self, jobs: Vec<Job>, prefix: &str) -> Vec<Group> {
        let (mut root, mut seen): (Vec<usize>, ByName<usize>) = (Vec::new(), ByName::default());
        fn find(root: &[usize], mut at: usize) -> usize {
            while let Some(&up) = root.get(at).filter(|&&up| up != at) {
                at = up;
            }
            at
        }
        for (number, job) in jobs.iter().enumerate() {
            root.push(number);
            for name in job.names() {
                let other = *seen.entry(name).or_insert(number);
                let (own, other) = (find(&root, number), find(&root, other));
                let (early, late) = (own.min(other), own.max(other));
                if let Some(slot) = root.get_mut(late) {
                    *slot = early;
                }
            }
        }
        let mut sets: BTreeMap<usize, Vec<Job>> = BTreeMap::new();
        for (number, job) in jobs.into_iter().enumerate() {
            sets.entry(find(&root, number)).or_default().push(job);
        }
        sets.into_values().map(|jobs| self.check_out(jobs, prefix)).collect()
    }
}
