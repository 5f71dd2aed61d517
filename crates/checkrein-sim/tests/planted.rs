//! The simulator bites: it finds every planted bug. Runs with `--features planted-bugs` only.
#![cfg(feature = "planted-bugs")]

use checkrein::testing::planted::{Bug, plant};
use checkrein_sim::{several_processes, simulate};

/// A bug has to be found within so many seeds.
const WITHIN: u64 = 100;

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        plant(Some(bug));
        let found = (1..=WITHIN).find_map(|seed| match bug {
            // Nobody changes a limit in the simulated world; the comparison with the model has it.
            Bug::ForgetChange => several_processes(seed, 300).err(),
            _ => simulate(seed, false).err().map(|violation| violation.to_string()),
        });
        plant(None);
        match found {
            Some(violation) => println!("{bug:?}: {violation}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {WITHIN} seeds: {missed:?}");
}
