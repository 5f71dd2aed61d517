//! Proof of the durable store: a deterministic simulator, and real processes that are killed.
//!
//! One seed gives one run: how many processes, which calls, which faults at which step. A run that breaks a rule says
//! which, and its seed plays it again.

use std::collections::BTreeMap;
use std::fmt;

mod audit;
mod books;
pub mod crash;
mod differential;
mod oracle;
mod queue;
mod tools;
mod trace;
mod upstream;
mod world;

pub use differential::several_processes;
use world::World;

/// A rule that a run broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The run.
    pub seed: u64,
    /// What it did.
    pub what: String,
    /// Everything that happened until then, if it was asked for.
    pub lines: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Violation {}

/// What a run that kept all rules did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// A number that stands for everything that happened, in order.
    pub trace: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Runs a seed; `keep_trace` keeps a line for everything that happens, for the violation.
///
/// # Errors
/// The rule that the run broke.
pub fn simulate(seed: u64, keep_trace: bool) -> Result<Summary, Box<Violation>> {
    let mut world = World::new(seed, keep_trace);
    match world.run() {
        Ok(()) => Ok(Summary { trace: world.trace.hash() ^ world.disk.trace(), counts: world.counts }),
        Err(what) => Err(Box::new(Violation { seed, what, lines: world.trace.into_lines() })),
    }
}
