//! `cargo bench -p checkrein --bench decisions -- [--quick] [--only 1|10000|1000000] [--threads N] [--with TEXT]
//! [--json FILE] [--date TEXT]`: what a decision costs beside the `governor` crate, and how little the window's events matter.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod contestants;
mod measure;
mod occupancy;
mod report;
mod workload;

use std::process::ExitCode;

use checkrein_core::time::Span;

use crate::measure::Effort;
use crate::report::{Report, Scenario};
use crate::workload::Workload;

/// Anything that keeps the benchmark from running.
pub(crate) type Failure = Box<dyn std::error::Error>;

struct Options {
    quick: bool,
    only: Option<usize>,
    threads: Option<usize>,
    /// Only those whose name contains this, beside the ones that ratios are taken to.
    with: Option<String>,
    json: Option<String>,
    date: Option<String>,
}

impl Options {
    fn read() -> Result<Self, Failure> {
        let mut options =
            Self { quick: false, only: None, threads: None, with: None, json: None, date: None };
        let mut words = std::env::args().skip(1);
        let mut benchmark = false;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(value()?.parse()?),
                "--threads" => options.threads = Some(value()?.parse()?),
                "--with" => options.with = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--date" => options.date = Some(value()?),
                // What cargo itself passes; without it this is `cargo test`, which only wants to see it run.
                "--bench" => benchmark = true,
                other => return Err(format!("unknown option `{other}`").into()),
            }
        }
        if !benchmark {
            options.quick = true;
            options.only = options.only.or(Some(1));
        }
        Ok(options)
    }

    fn effort(&self, keys: usize, threads: usize) -> Effort {
        match (self.quick, keys) {
            (true, _) => Effort { rounds: 5, calls: 20_000 },
            (false, 1_000_000) => Effort { rounds: 15, calls: 200_000 },
            (false, _) if threads > 1 => Effort { rounds: 25, calls: 200_000 },
            (false, _) => Effort { rounds: 21, calls: 100_000 },
        }
    }
}

fn main() -> ExitCode {
    match Options::read().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// The keys of a scenario and the window in which its hottest key stays below sixteen calls.
const SCENARIOS: [(usize, i64); 3] = [(1, 256), (10_000, 4_096), (1_000_000, 16_384)];

fn run(options: &Options) -> Result<(), Failure> {
    let mut report = Report::new(options.date.as_deref());
    println!("{}\narguments: {} bytes canonical\n", report.machine(), contestants::argument_bytes()?);
    for (keys, window) in SCENARIOS {
        if options.only.is_some_and(|only| only != keys) {
            continue;
        }
        let draws = if options.quick { 100_000 } else { keys.clamp(1_000_000, 4_000_000) };
        let workload = Workload::new(keys, draws);
        let window = Span::from_nanos(window);
        let mut contestants = contestants::all(window)?;
        if let Some(part) = &options.with {
            contestants.retain(|one| one.is_base() || one.name.contains(part));
        }
        let everyone: Vec<u32> = (0..keys as u32).collect();
        for contestant in &contestants {
            (contestant.run)(&workload.keys, &everyone, 0);
        }
        for threads in [1, 2] {
            if options.threads.is_some_and(|only| only != threads) {
                continue;
            }
            let effort = options.effort(keys, threads);
            let times = measure::race(&contestants, &workload, threads, effort);
            let share = workload.hottest_share;
            let scenario = Scenario { keys, threads, window, share, effort };
            println!("{}", report.add(&scenario, &contestants, &times));
        }
    }
    if options.only.is_none() {
        println!("{}", report.add_occupancy(&occupancy::measure(options.quick)?));
    }
    if let Some(file) = &options.json {
        std::fs::write(file, report.to_json()?)?;
    }
    Ok(())
}
