//! Rounds in which every contestant has the same number of callers for the same time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use parking_lot::Mutex;

use crate::Failure;
use crate::ours::Ours;
use crate::server::Server;

/// So many keys has each caller, where they do not all go to one.
pub(crate) const KEYS: u64 = 16;

/// How a contestant is called.
pub(crate) enum Calls {
    /// By threads, each of which waits: the caller, and the key.
    Threads(Box<dyn Fn(usize, u64) -> bool + Sync>),
    /// By as many chains of calls in which each begins when the one before has ended, and no thread waits.
    Chains(Arc<Ours>),
}

pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) calls: Calls,
    /// So many decisions are one call.
    pub(crate) batch: usize,
    pub(crate) laps: Vec<Lap>,
}

/// What one round of one contestant came to, per decision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lap {
    /// Decisions a second.
    pub(crate) rate: f64,
    /// Waits of callers in microseconds: half of all, and 99 of 100.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Processor time in microseconds: of this process, of the server, and in scripts as the server counts it.
    pub(crate) client: f64,
    pub(crate) server: f64,
    pub(crate) script: f64,
    /// Scripts that ran.
    pub(crate) scripts: f64,
    /// Bytes on the wire.
    pub(crate) sent: f64,
    pub(crate) received: f64,
}

/// Who calls, for how long, and where.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) callers: usize,
    pub(crate) hot: bool,
    pub(crate) length: Duration,
}

impl Load {
    fn key(&self, caller: usize, call: u64) -> u64 {
        if self.hot { 0 } else { caller as u64 * KEYS + call % KEYS }
    }
}

/// Lets the callers call.
pub(crate) fn lap(server: &Server, contestant: &Contestant, load: Load) -> Result<Lap, Failure> {
    let (before, cpu) = (server.counters()?, ProcessTime::now());
    let start = Instant::now();
    let (mut waits, refused) = match &contestant.calls {
        Calls::Threads(call) => threads(call, load),
        Calls::Chains(ours) => chains(ours, load)?,
    };
    // The slowest caller ends last; what it does alone is little.
    let took = start.elapsed().as_secs_f64();
    let (cpu, after) = (cpu.elapsed().as_secs_f64() * 1e6, server.counters()?);
    if refused > 0 {
        return Err(format!("{}: {refused} calls were refused", contestant.name).into());
    }
    let calls = (waits.len() * contestant.batch) as f64;
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (share * waits.len().saturating_sub(1) as f64) as usize;
        waits.get(place).copied().unwrap_or(f64::NAN)
    };
    Ok(Lap {
        rate: calls / took,
        p50: at(0.5),
        p99: at(0.99),
        client: cpu / calls,
        server: (after.cpu_us - before.cpu_us) / calls,
        script: (after.script_us - before.script_us) / calls,
        scripts: (after.scripts - before.scripts) / calls,
        sent: (after.to_server - before.to_server) / calls,
        received: (after.from_server - before.from_server) / calls,
    })
}

fn threads(call: &(dyn Fn(usize, u64) -> bool + Sync), load: Load) -> (Vec<f64>, u64) {
    let (barrier, refused) = (Barrier::new(load.callers), AtomicU64::new(0));
    let run = |caller: usize| {
        let mut waits = Vec::with_capacity(1 << 14);
        barrier.wait();
        let end = Instant::now() + load.length;
        let mut before = Instant::now();
        while before < end {
            if !call(caller, load.key(caller, waits.len() as u64)) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            let after = Instant::now();
            waits.push((after - before).as_secs_f64() * 1e6);
            before = after;
        }
        waits
    };
    let waits = std::thread::scope(|scope| {
        let run = &run;
        let callers: Vec<_> = (0..load.callers).map(|caller| scope.spawn(move || run(caller))).collect();
        callers.into_iter().filter_map(|caller| caller.join().ok()).flatten().collect()
    });
    (waits, refused.into_inner())
}

/// What all chains share.
struct Course {
    ours: Arc<Ours>,
    load: Load,
    end: Instant,
    waits: Mutex<Vec<f64>>,
    refused: AtomicU64,
    ended: mpsc::Sender<()>,
}

fn chains(ours: &Arc<Ours>, load: Load) -> Result<(Vec<f64>, u64), Failure> {
    let (ended, all_ended) = mpsc::channel();
    let course = Arc::new(Course {
        ours: Arc::clone(ours),
        load,
        end: Instant::now() + load.length,
        waits: Mutex::default(),
        refused: AtomicU64::new(0),
        ended,
    });
    for caller in 0..load.callers {
        step(Arc::clone(&course), caller, 0);
    }
    for _ in 0..load.callers {
        all_ended.recv_timeout(Duration::from_secs(30))?;
    }
    let waits = std::mem::take(&mut *course.waits.lock());
    Ok((waits, course.refused.load(Ordering::Relaxed)))
}

fn step(course: Arc<Course>, caller: usize, call: u64) {
    let before = Instant::now();
    let ours = Arc::clone(&course.ours);
    ours.call_then(course.load.key(caller, call), move |allowed| {
        if !allowed {
            course.refused.fetch_add(1, Ordering::Relaxed);
        }
        course.waits.lock().push(before.elapsed().as_secs_f64() * 1e6);
        if Instant::now() < course.end {
            step(course, caller, call + 1);
        } else {
            // Nobody listens any more when one of them took too long.
            let _ = course.ended.send(());
        }
    });
}

/// The middle value.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
