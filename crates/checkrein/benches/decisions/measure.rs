//! Rounds: every contestant runs in every round, on the same calls; what counts is the median.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;

use crate::contestants::Contestant;
use crate::workload::Workload;

/// What a contestant took, per call in nanoseconds, one value per round.
#[derive(Default)]
pub(crate) struct Times {
    /// CPU time of the thread that called.
    pub(crate) cpu: Vec<f64>,
    /// Wall time of the calling threads, their mean.
    pub(crate) wall: Vec<f64>,
    /// The share of calls that were refused.
    pub(crate) refused: f64,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Calls per thread and round.
    pub(crate) calls: usize,
}

/// Runs all contestants in turn, `effort.rounds` times, after one round that does not count.
pub(crate) fn race(
    contestants: &[Contestant],
    workload: &Workload,
    threads: usize,
    effort: Effort,
) -> Vec<Times> {
    let mut times: Vec<Times> = contestants.iter().map(|_| Times::default()).collect();
    for round in 0..=effort.rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            // Touching the contestant's own data first keeps the others' cache misses out of its time.
            let warm = workload.calls(round, threads, threads + 1, effort.calls / 4);
            (contestant.run)(&workload.keys, warm, 0);
            let laps = lap(contestant, workload, round, threads, effort.calls);
            if round == 0 {
                continue;
            }
            let per_call = |total: Duration| total.as_secs_f64() * 1e9 / (laps.len() * effort.calls) as f64;
            times.cpu.push(per_call(laps.iter().map(|lap| lap.cpu).sum()));
            times.wall.push(per_call(laps.iter().map(|lap| lap.wall).sum()));
            let refused: u64 = laps.iter().map(|lap| lap.refused).sum();
            times.refused += refused as f64 / (laps.len() * effort.calls * effort.rounds) as f64;
        }
    }
    times
}

struct Lap {
    cpu: Duration,
    wall: Duration,
    refused: u64,
}

fn lap(contestant: &Contestant, workload: &Workload, round: usize, threads: usize, calls: usize) -> Vec<Lap> {
    let run = |thread: usize| {
        let order = workload.calls(round, thread, threads, calls);
        let (wall, cpu) = (Instant::now(), ThreadTime::now());
        let refused = (contestant.run)(&workload.keys, order, thread);
        Lap { cpu: cpu.elapsed(), wall: wall.elapsed(), refused }
    };
    if threads == 1 {
        return vec![run(0)];
    }
    let barrier = Barrier::new(threads);
    let start = |thread: usize| {
        barrier.wait();
        run(thread)
    };
    std::thread::scope(|scope| {
        let start = &start;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || start(thread))).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `share` of all values lie.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = share * last as f64;
    let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(f64::NAN);
    let (low, part) = (place as usize, place.fract());
    at(low) * (1.0 - part) + at(low + 1) * part
}

/// The median over the rounds of how many times longer `times` took than `base` in the same round.
pub(crate) fn ratio(times: &[f64], base: &[f64]) -> f64 {
    let ratios: Vec<f64> = times.iter().zip(base).map(|(time, base)| time / base).collect();
    median(&ratios)
}
