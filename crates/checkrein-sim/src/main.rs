//! `checkrein-sim sim`: runs seeds, prints what they did, and plays one again.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sim", count, first] => match (count.parse(), first.parse()) {
            (Ok(count), Ok(first)) => seeds(count, first),
            _ => usage(),
        },
        ["replay", seed] => seed.parse().map_or_else(|_| usage(), replay),
        _ => usage(),
    }
}

fn usage() -> io::Result<ExitCode> {
    writeln!(io::stderr(), "usage: checkrein-sim sim COUNT FIRST | replay SEED")?;
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
