//! `checkrein-sim sim` runs seeds and says what they did, `replay` plays one again, `crash` kills real processes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use checkrein_sim::crash::{self, Trial};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sim", count, first] => match (count.parse(), first.parse()) {
            (Ok(count), Ok(first)) => seeds(count, first),
            _ => usage(),
        },
        ["crash", kills, directory] => match kills.parse() {
            Ok(kills) => crash(kills, Path::new(directory)),
            Err(_) => usage(),
        },
        ["worker", directory, callers, seed, keys] => match (callers.parse(), seed.parse(), keys.parse()) {
            (Ok(callers), Ok(seed), Ok(keys)) => work(Path::new(directory), callers, seed, keys),
            _ => usage(),
        },
        ["replay", seed] => seed.parse().map_or_else(|_| usage(), replay),
        _ => usage(),
    }
}

fn usage() -> io::Result<ExitCode> {
    writeln!(io::stderr(), "usage: checkrein-sim sim COUNT FIRST | replay SEED | crash KILLS DIRECTORY")?;
    Ok(ExitCode::from(2))
}

/// Runs seeds from `first` on.
fn seeds(count: u64, first: u64) -> io::Result<ExitCode> {
    let begun = Instant::now();
    let mut out = io::stdout().lock();
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first.saturating_add(count) {
        match checkrein_sim::simulate(seed, false) {
            Ok(summary) => {
                summary
                    .counts
                    .into_iter()
                    .for_each(|(what, often)| *counts.entry(what).or_default() += often);
            }
            Err(violation) => {
                writeln!(out, "{violation}")?;
                writeln!(out, "play it again with: make sim SEED={seed}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    writeln!(
        out,
        "{count} seeds from {first} on, no rule broken, in {:.1} s",
        begun.elapsed().as_secs_f64()
    )?;
    for (what, often) in counts {
        writeln!(out, "{often:>12}  {what}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plays one seed again and prints everything that happens.
fn replay(seed: u64) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match checkrein_sim::simulate(seed, true) {
        Ok(summary) => {
            writeln!(out, "seed {seed}: no rule broken, trace {:016x}", summary.trace)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => {
            for line in &violation.lines {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "{violation}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A process of a trial. It ends when it is killed.
fn work(directory: &Path, callers: u64, seed: u64, keys: u64) -> io::Result<ExitCode> {
    match crash::work(directory, callers, seed, keys) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(io::stderr(), "{error}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Kills so many processes and says what came of it.
fn crash(kills: u64, directory: &Path) -> io::Result<ExitCode> {
    std::fs::create_dir_all(directory)?;
    let trial = Trial { kills, workers: 4, callers: 16, seed: 1 };
    let mut out = io::stdout().lock();
    match crash::crash(&std::env::current_exe()?, directory, trial) {
        Ok(verdict) => {
            writeln!(
                out,
                "{} processes killed, {} ended at a chosen point, {} could not open the store, in {:.0} s",
                verdict.killed,
                verdict.at_points,
                verdict.turned_away,
                verdict.time.as_secs_f64()
            )?;
            writeln!(
                out,
                "{} effects, {} results told, {} calls in doubt after the last kill",
                verdict.effects, verdict.told, verdict.doubtful
            )?;
            writeln!(
                out,
                "{} lost, {} doubled, {} unexplained; {} ledger entries verified",
                verdict.lost, verdict.doubled, verdict.unexplained, verdict.entries
            )?;
            Ok(if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            writeln!(out, "{error}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
