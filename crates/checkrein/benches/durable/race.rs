//! Rounds in which every contestant has the same number of callers for the same time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

/// What one round of one contestant came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lap {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Waits in microseconds: half of all, 99 of 100, and the longest.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) worst: f64,
    /// Processor time of the whole process per call, in microseconds: other load counts only through the caches.
    pub(crate) cpu: f64,
}

/// The keys that calls go to.
pub(crate) const KEYS: u64 = 16;

/// Lets `callers` threads call for `length`.
pub(crate) fn lap(
    callers: usize,
    length: Duration,
    refused: &AtomicU64,
    call: &(dyn Fn(u64) -> bool + Sync),
) -> Lap {
    let barrier = Barrier::new(callers);
    let run = |caller: usize| {
        let mut waits = Vec::with_capacity(1 << 16);
        barrier.wait();
        let start = Instant::now();
        let mut key = caller as u64;
        while start.elapsed() < length {
            let before = Instant::now();
            if !call(key % KEYS) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            waits.push(before.elapsed().as_secs_f64() * 1e6);
            key += 7;
        }
        (waits, start.elapsed())
    };
    let cpu = ProcessTime::now();
    let done: Vec<(Vec<f64>, Duration)> = std::thread::scope(|scope| {
        let run = &run;
        let callers: Vec<_> = (0..callers).map(|caller| scope.spawn(move || run(caller))).collect();
        callers.into_iter().filter_map(|caller| caller.join().ok()).collect()
    });
    let rate = done.iter().map(|(waits, took)| waits.len() as f64 / took.as_secs_f64()).sum();
    let mut waits: Vec<f64> = done.into_iter().flat_map(|(waits, _)| waits).collect();
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (share * waits.len().saturating_sub(1) as f64) as usize;
        waits.get(place).copied().unwrap_or(f64::NAN)
    };
    let cpu = cpu.elapsed().as_secs_f64() * 1e6 / waits.len() as f64;
    Lap { cpu, rate, p50: at(0.5), p99: at(0.99), worst: at(1.0) }
}

/// The middle value.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
