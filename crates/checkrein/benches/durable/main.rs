//! `cargo bench -p checkrein --bench durable -- [--quick] [--callers N] [--records N] [--with TEXT] [--json FILE]
//! [--date TEXT]`: what a
//! durable decision costs beside SQLite alone, with the same group commit in the same run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod bare;
mod more;
mod ours;
mod race;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bare::Bare;
use crate::ours::{Ours, Work};
use crate::race::{Lap, lap, median};

/// Anything that keeps the benchmark from running.
pub(crate) type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Options {
    quick: bool,
    callers: Option<usize>,
    /// Only a start, with so many records.
    records: Option<u64>,
    /// Only contestants whose name contains this, beside the bare loop.
    with: Option<String>,
    json: Option<String>,
    date: Option<String>,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (mut options, mut benchmark) = (Self::default(), false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--callers" => options.callers = Some(value()?.parse()?),
                "--records" => options.records = Some(value()?.parse()?),
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
            options.callers = options.callers.or(Some(4));
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.as_slice() {
        [word, path, seconds] if word == more::CHILD => {
            let said = seconds.parse().map_err(Failure::from).and_then(|seconds| more::child(path, seconds));
            said.map(|said| println!("{said}"))
        }
        _ => Options::read(words.into_iter()).and_then(|options| run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

struct Contestant {
    name: &'static str,
    call: Box<dyn Fn(u64) -> bool + Sync>,
    laps: Vec<Lap>,
}

fn contestants(directory: &std::path::Path) -> Result<Vec<Contestant>, Failure> {
    let bare = Bare::open(&directory.join("bare.db"))?;
    let mut all = vec![Contestant {
        name: "bare SQLite",
        call: Box::new(move |key| {
            bare.call(key);
            true
        }),
        laps: Vec::new(),
    }];
    for (name, work, ledger) in [
        ("one limit", Work::Limit, true),
        ("one limit, no ledger", Work::Limit, false),
        ("limit + budget + once, finished", Work::Whole, true),
        ("limit + budget + once, finished, no ledger", Work::Whole, false),
    ] {
        let ours = Ours::open(&directory.join(format!("{}.db", all.len())), work, ledger, None)?;
        all.push(Contestant { name, call: Box::new(move |key| ours.call(key)), laps: Vec::new() });
    }
    Ok(all)
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn run(options: &Options) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(std::env::current_dir()?)?;
    if let Some(records) = options.records {
        println!("load {}", load());
        return more::start(directory.path(), records).map(drop);
    }
    let (rounds, seconds) = if options.quick { (2, 0.3) } else { (7, 1.5) };
    let date = options.date.as_deref().unwrap_or("no date given");
    let before = load();
    println!("{date}, load {before}, {rounds} rounds of {seconds} s\n");
    let mut results = Vec::new();
    for callers in [1, 16, 64] {
        if options.callers.is_some_and(|only| only != callers)
            && !(callers == 1 && options.callers == Some(4))
        {
            continue;
        }
        results.extend(race(directory.path(), options, callers, rounds, seconds)?);
    }
    let whole = options.with.is_none() && options.callers.is_none_or(|only| only == 4);
    let mut rest = Vec::new();
    if whole {
        rest.push(json!({ "processes": more::processes(directory.path(), rounds, seconds)? }));
        rest.push(json!({ "window": more::windows(directory.path(), rounds)? }));
        rest.push(
            json!({ "bytes": more::bytes(directory.path(), if options.quick { 640 } else { 64_000 })? }),
        );
        let records = if options.quick { 5_000 } else { 1_000_000 };
        rest.push(json!({ "start": more::start(directory.path(), records)? }));
    }
    if let Some(file) = &options.json {
        let report = json!({
            "benchmark": "durable",
            "date": date,
            "load_before": before,
            "load_after": load(),
            "rounds": rounds,
            "seconds": seconds,
            "results": results,
            "more": rest,
        });
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

fn race(
    directory: &std::path::Path,
    options: &Options,
    callers: usize,
    rounds: usize,
    seconds: f64,
) -> Result<Vec<Value>, Failure> {
    let directory = tempfile::tempdir_in(directory)?;
    let mut all = contestants(directory.path())?;
    if let Some(part) = &options.with {
        all.retain(|one| one.name.contains(part) || one.name == "bare SQLite");
    }
    let refused = AtomicU64::new(0);
    for round in 0..=rounds {
        for contestant in &mut all {
            let lap = lap(callers, Duration::from_secs_f64(seconds), &refused, &contestant.call);
            // The first round makes the files and warms everything.
            if round > 0 {
                contestant.laps.push(lap);
            }
        }
    }
    let refused = refused.into_inner();
    if refused > 0 {
        return Err(format!("{refused} calls were refused").into());
    }
    println!("{callers} callers on 16 keys, load {}", load());
    println!(
        "{:<46}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "calls/s", "x bare", "CPU us", "p50 us", "p99 us", "worst ms"
    );
    let base: Vec<f64> =
        all.first().map(|bare| bare.laps.iter().map(|lap| lap.rate).collect()).unwrap_or_default();
    let mut results = Vec::new();
    for Contestant { name, laps, .. } in &all {
        let of = |value: fn(&Lap) -> f64| median(laps.iter().map(value));
        let (rate, p50, p99) = (of(|lap| lap.rate), of(|lap| lap.p50), of(|lap| lap.p99));
        let cpu = of(|lap| lap.cpu);
        let ratio = median(laps.iter().zip(&base).map(|(lap, base)| lap.rate / base));
        let worst = laps.iter().map(|lap| lap.worst).fold(0.0, f64::max);
        println!("{name:<46}{rate:>10.0}{ratio:>10.2}{cpu:>10.1}{p50:>10.0}{p99:>10.0}{:>10.1}", worst / 1e3);
        results.push(json!({
            "contestant": name,
            "callers": callers,
            "per_second": rate,
            "ratio_to_bare": ratio,
            "cpu_us": cpu,
            "p50_us": p50,
            "p99_us": p99,
            "worst_us": worst,
        }));
    }
    println!();
    Ok(results)
}
