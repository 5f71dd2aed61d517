//! A simulated machine: processes on one disk, clients, a service, and everything that goes wrong between them.

use std::collections::{BTreeMap, BTreeSet};

use checkrein::core::time::Timestamp;
use checkrein::store::StoreError;
use checkrein::store::durable::{Liveness, ProcessInfo};
use checkrein::testing::Random;
use checkrein::testing::disk::Disk;

use crate::audit::Audit;
use crate::oracle::{Check, Oracle, ensure};
use crate::queue::Queue;
use crate::tools::{self, Call, Tool};
use crate::trace::Trace;
use crate::upstream::Upstream;

mod door;
mod end;
mod process;
mod replies;
mod trouble;

pub(crate) use process::intern_gates;
pub(crate) use trouble::OPTIONS;

use process::Process;

pub(crate) const MILLISECOND: i64 = 1_000_000;
pub(crate) const SECOND: i64 = 1_000 * MILLISECOND;
/// A run has some thousand; one that has more goes in circles.
const MOST_EVENTS: u64 = 100_000;
const HOUR: i64 = 3_600 * SECOND;
/// When every run begins: shortly before midnight.
const BEGIN: i64 = 1_790_207_900 * SECOND;

/// How large a run is and how much goes wrong in it; drawn from its seed.
#[derive(Clone, Debug)]
struct Size {
    processes: usize,
    calls: u64,
    keys: u64,
    /// Something goes wrong with one batch in so many; zero for none.
    faults: u64,
}

/// What is still to happen.
#[derive(Clone, Debug)]
enum Event {
    /// A client makes up a call and sends it.
    Begin,
    /// A client sends a call, not for the first time if `tries` is above zero.
    Send {
        call: usize,
        tries: u32,
    },
    /// A call reaches a process.
    Arrive {
        process: usize,
        call: usize,
        tries: u32,
    },
    /// A process commits what has come together.
    Flush {
        process: usize,
        life: u64,
    },
    /// A process comes back to something it could not commit.
    Again {
        process: usize,
        life: u64,
        pending: Box<process::Pending>,
    },
    /// A request reaches the service.
    Effect {
        dispatch: usize,
    },
    /// The service's answer reaches the process.
    Answer {
        process: usize,
        life: u64,
        task: u64,
        dispatch: usize,
    },
    /// A process stops waiting for the service.
    GiveUp {
        process: usize,
        life: u64,
        task: u64,
    },
    /// A process looks after leases, dead neighbours and calls in doubt.
    Tend {
        process: usize,
    },
    Boot {
        process: usize,
    },
    Kill {
        process: usize,
    },
    PowerCut,
    /// The machine's clock is set.
    Jump {
        by: i64,
    },
    /// The disk fills up, or room is made.
    Full(bool),
    /// The disk is mounted read-only, or writable again.
    ReadOnly(bool),
}

/// Which processes are alive, as their locks show it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Living {
    epochs: BTreeSet<u64>,
    /// What the process that is opening the store has claimed.
    claimed: Option<u64>,
}

impl Living {
    pub(crate) fn has(&self, epoch: u64) -> bool {
        self.epochs.contains(&epoch)
    }
}

impl Liveness for Living {
    fn claim(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.epochs.insert(epoch);
        self.claimed = Some(epoch);
        Ok(())
    }

    fn is_alive(&mut self, epoch: u64) -> bool {
        self.epochs.contains(&epoch)
    }

    fn forget(&mut self, epoch: u64) {
        self.epochs.remove(&epoch);
    }
}

/// A run.
#[derive(Debug)]
pub(crate) struct World {
    size: Size,
    random: Random,
    pub(crate) disk: Disk,
    queue: Queue<Event>,
    /// Nanoseconds since the run began, and what the machine's clock shows beyond them.
    time: i64,
    clock: i64,
    /// After it, processes do not tidy up by themselves any more.
    horizon: i64,
    /// The latest time that any process told the store: what the store's clock shows.
    told: i64,
    tools: Vec<Tool>,
    calls: Vec<Call>,
    processes: Vec<Process>,
    living: Living,
    upstream: Upstream,
    pub(crate) oracle: Oracle,
    audit: Audit,
    /// Refusals that each process, by its number in the store, has told of each call.
    refused: BTreeMap<(u64, usize), u64>,
    pub(crate) trace: Trace,
    events: u64,
    /// Nothing goes wrong any more.
    calm: bool,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64, keep_trace: bool) -> Self {
        let mut random = Random::new(seed);
        let size = Size {
            processes: 1 + random.below(3) as usize,
            calls: 30 + random.below(120),
            keys: 1 + random.below(12),
            faults: if random.once_in(4) { 0 } else { 6 + random.below(40) },
        };
        let disk = Disk::new(random.next());
        let gates = tools::draw(&mut random);
        let tools = process::compile(gates);
        Self {
            disk,
            queue: Queue::default(),
            time: 0,
            clock: BEGIN,
            horizon: 0,
            told: i64::MIN,
            tools,
            calls: Vec::new(),
            processes: (0..size.processes).map(|_| Process::default()).collect(),
            living: Living::default(),
            upstream: Upstream::default(),
            oracle: Oracle::default(),
            audit: Audit::default(),
            refused: BTreeMap::new(),
            trace: Trace::new(keep_trace),
            events: 0,
            calm: false,
            counts: BTreeMap::new(),
            size,
            random,
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What the run did that it must not.
    pub(crate) fn run(&mut self) -> Check {
        self.plan_all();
        // Every event plans a bounded number of others, and clients make a bounded number of calls.
        while let Some((at, event)) = self.queue.next() {
            self.time = self.time.max(at);
            self.happen(event)?;
        }
        self.finish()
    }

    fn plan_all(&mut self) {
        for process in 0..self.size.processes {
            self.queue.plan(0, Event::Boot { process });
        }
        let mut at = 0;
        for _ in 0..self.size.calls {
            at += self.random.below(600) as i64 * MILLISECOND;
            // Now and then nothing happens for longer than leases and windows last.
            if self.random.once_in(30) {
                at += self.random.below(400) as i64 * SECOND;
            }
            self.queue.plan(at, Event::Begin);
        }
        self.horizon = at + 600 * SECOND;
        let troubles = if self.size.faults == 0 { 0 } else { self.random.below(8) };
        for _ in 0..troubles {
            let when = self.random.below(at as u64 + 1) as i64;
            let process = self.random.below(self.size.processes as u64) as usize;
            let later = when + self.random.below(20_000) as i64 * MILLISECOND;
            match self.random.below(8) {
                0..=2 => self.queue.plan(when, Event::Kill { process }),
                3 | 4 => self.queue.plan(when, Event::PowerCut),
                5 => {
                    let by = if self.random.once_in(2) { HOUR } else { -HOUR };
                    self.queue.plan(when, Event::Jump { by });
                }
                6 => {
                    self.queue.plan(when, Event::Full(true));
                    self.queue.plan(later, Event::Full(false));
                }
                _ => {
                    self.queue.plan(when, Event::ReadOnly(true));
                    self.queue.plan(later, Event::ReadOnly(false));
                }
            }
        }
    }

    fn happen(&mut self, event: Event) -> Check {
        self.events += 1;
        ensure(self.events <= MOST_EVENTS, || format!("the run does not end; the last was {event:?}"))?;
        let (time, clock) = (self.time, self.now().nanos());
        self.trace.note(|| format!("{time} [{clock}] {event:?}"));
        match event {
            Event::Begin => {
                let call = Call::draw(&self.tools, self.size.keys, &mut self.random);
                self.calls.push(call);
                self.send(self.calls.len() - 1, 0);
            }
            Event::Send { call, tries } => self.send(call, tries),
            Event::Arrive { process, call, tries } => self.arrive(process, call, tries),
            Event::Flush { process, life } => return self.flush(process, life),
            Event::Again { process, life, pending } => self.submit(process, life, *pending),
            Event::Effect { dispatch } => self.upstream.arrive(dispatch),
            Event::Answer { process, life, task, dispatch } => self.answer(process, life, task, dispatch),
            Event::GiveUp { process, life, task } => self.give_up(process, life, task),
            Event::Tend { process } => return self.tend(process),
            Event::Boot { process } => return self.boot(process),
            Event::Kill { process } => self.kill(process),
            Event::PowerCut => self.power_cut(),
            Event::Jump { by } => self.clock += by,
            Event::Full(full) => self.disk.set_full(full && !self.calm),
            Event::ReadOnly(read_only) => self.disk.set_read_only(read_only && !self.calm),
        }
        Ok(())
    }

    /// What the machine's clock shows.
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock + self.time)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Plans an event within so many milliseconds.
    fn soon(&mut self, within: u64, event: Event) {
        let after = self.random.below(within.max(1)) as i64 * MILLISECOND;
        self.queue.plan(self.time + after, event);
    }
}

/// What a simulated process says of itself.
pub(crate) fn info(process: usize) -> ProcessInfo {
    ProcessInfo { pid: process as u32, host: "simulated".to_owned() }
}
