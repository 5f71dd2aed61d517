//! A bounded share of the crash proof: `make crash N=n` kills more.

use std::path::Path;

use checkrein_sim::crash::{Trial, crash};

#[test]
fn killed_processes_lose_nothing_and_double_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_checkrein-sim"));
    let trial = Trial { kills: 15, workers: 3, callers: 8, seed: 1 };
    let verdict = crash(program, directory.path(), trial).unwrap();
    println!("{verdict:?}");
    assert!(verdict.is_clean(), "{verdict:?}");
    assert!(verdict.effects > 20 && verdict.told > 20, "next to nothing happened: {verdict:?}");
}
