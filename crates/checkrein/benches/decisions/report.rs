//! The results as a table for people and as JSON for machines.

use std::fmt::Write as _;

use checkrein_core::time::Span;
use serde_json::{Value, json};

use crate::Failure;
use crate::contestants::{Base, Contestant, GOVERNOR, MAX_CALLS, OWN_LIMIT};
use crate::measure::{Effort, Times, median, quantile, ratio};
use crate::occupancy::Occupancy;

/// What was measured, and where.
pub(crate) struct Report {
    date: Option<String>,
    machine: String,
    load_before: String,
    results: Vec<Value>,
}

/// The circumstances of one table.
pub(crate) struct Scenario {
    pub(crate) keys: usize,
    pub(crate) threads: usize,
    pub(crate) window: Span,
    /// Of the calls that go to the most wanted key.
    pub(crate) share: f64,
    pub(crate) effort: Effort,
}

fn first_line(path: &str, start: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(start))?;
    Some(line.rsplit(": ").next().unwrap_or(line).trim().to_owned())
}

fn load() -> String {
    first_line("/proc/loadavg", "").unwrap_or_else(|| "unknown".to_owned())
}

impl Report {
    pub(crate) fn new(date: Option<&str>) -> Self {
        let processor =
            first_line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into());
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = first_line("/proc/sys/kernel/osrelease", "").unwrap_or_default();
        let (system, kind) = (std::env::consts::OS, std::env::consts::ARCH);
        let machine = format!("{processors} x {processor}, {system} {kernel} {kind}");
        Self { date: date.map(str::to_owned), machine, load_before: load(), results: Vec::new() }
    }

    pub(crate) fn machine(&self) -> String {
        let date = self.date.as_deref().unwrap_or("no date given");
        format!("{}\n{date}, load average {}", self.machine, self.load_before)
    }

    /// The table of one scenario.
    pub(crate) fn add(&mut self, scenario: &Scenario, contestants: &[Contestant], times: &[Times]) -> String {
        let Scenario { keys, threads, window, share, effort } = scenario;
        let clock = if *threads == 1 { "thread CPU time" } else { "wall time per thread" };
        let load = load();
        let mut table = format!(
            "{keys} keys, {threads} thread(s), {clock}, median of {} rounds of {} calls, load {load}\n\
             at most {MAX_CALLS} events in a window of {} ns, Zipf 0.99\n",
            effort.rounds,
            effort.calls,
            window.nanos(),
        );
        let header = ["ns", "p20 ns", "CPU ns", "x governor", "x limit", "events", "refused", "goal"];
        let _ = write!(table, "{:<46}", "");
        table.extend(header.iter().map(|word| format!("{word:>11}")));
        table.push('\n');
        let counted = |times: &Times| if *threads == 1 { times.cpu.clone() } else { times.wall.clone() };
        let of = |place: usize| times.get(place).map(counted).unwrap_or_default();
        let (governor, own) = (of(GOVERNOR), of(OWN_LIMIT));
        for (contestant, times) in contestants.iter().zip(times) {
            let values = counted(times);
            let ns = median(&values);
            let (to_governor, to_own) = (ratio(&values, &governor), ratio(&values, &own));
            // What reaches the most wanted key while the window lasts; the calls of both threads together.
            let events = (window.nanos() as f64 * share * *threads as f64 / ns).min(f64::from(MAX_CALLS));
            let goal = contestant.goal.map(|goal| {
                let reached = if goal.times == Base::Governor { to_governor } else { to_own };
                (goal.at_most, if reached <= goal.at_most { "met" } else { "not met" }, goal.times)
            });
            let shown = goal.map_or(String::new(), |(at_most, met, _)| format!("{at_most}x {met}"));
            let _ = writeln!(
                table,
                "{:<46}{ns:>11.1}{:>11.1}{:>11.1}{to_governor:>11.2}{to_own:>11.2}{events:>11.1}{:>10.2}%  {shown}",
                contestant.name,
                quantile(&values, 0.2),
                median(&times.cpu),
                times.refused * 100.0,
            );
            self.results.push(json!({
                "contestant": contestant.name,
                "keys": keys,
                "threads": threads,
                "time": clock,
                "rounds": effort.rounds,
                "calls_per_round": effort.calls,
                "window_ns": window.nanos(),
                "events_of_hottest_key": events,
                "ns": ns,
                "ns_p20": quantile(&values, 0.2),
                "cpu_ns": median(&times.cpu),
                "ratio_to_governor": to_governor,
                "ratio_to_limit_and_cooldown": to_own,
                "refused": times.refused,
                "goal": goal.map(|(at_most, met, times)| json!({
                    "at_most": at_most,
                    "of": if times == Base::Governor { "governor" } else { "limit + cooldown" },
                    "met": met == "met",
                })),
                "load": load,
            }));
        }
        table
    }

    /// The table of what the number of events in the window costs.
    pub(crate) fn add_occupancy(&mut self, measured: &[Occupancy]) -> String {
        let mut table = format!(
            "limit + cooldown on one key, clock moved by hand, thread CPU time, load {}\n{:>12}{:>10}{:>12}\n",
            load(),
            "events",
            "ns",
            "x 10 events",
        );
        let base = measured.first().map(|first| first.cpu.clone()).unwrap_or_default();
        for Occupancy { events, cpu } in measured {
            let times = ratio(cpu, &base);
            let goal = (*events == 100_000).then_some(times <= 1.1);
            let shown = goal.map_or("", |met| if met { "  1.1x met" } else { "  1.1x not met" });
            let _ = writeln!(table, "{events:>12}{:>10.1}{times:>12.2}{shown}", median(cpu));
            self.results.push(json!({
                "contestant": "limit + cooldown, steady window",
                "keys": 1,
                "threads": 1,
                "time": "thread CPU time",
                "rounds": cpu.len(),
                "events": events,
                "ns": median(cpu),
                "ratio_to_10_events": times,
                "goal": goal.map(|met| json!({ "at_most": 1.1, "of": "10 events", "met": met })),
            }));
        }
        table
    }

    pub(crate) fn to_json(&self) -> Result<String, Failure> {
        let report = json!({
            "benchmark": "rust decisions",
            "date": self.date,
            "machine": self.machine,
            "load_before": self.load_before,
            "load_after": load(),
            "results": self.results,
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }
}
