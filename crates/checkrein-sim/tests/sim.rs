//! A bounded share of the simulator: `make sim SEEDS=n` runs more.

use checkrein_sim::simulate;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_seed_breaks_a_rule() {
    let (first, count) = (setting("CHECKREIN_SEED", 1), setting("CHECKREIN_SEEDS", 60));
    println!("seeds {first} to {}", first + count - 1);
    let mut dispatches = 0;
    for seed in first..first + count {
        match simulate(seed, false) {
            Ok(summary) => dispatches += summary.counts.get("dispatches").copied().unwrap_or(0),
            Err(violation) => panic!("{violation}\nplay it again with: make sim SEED={seed}"),
        }
    }
    assert!(dispatches > 10 * count, "the runs did next to nothing: {dispatches} dispatches");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 1..6 {
        let runs = [simulate(seed, false).unwrap(), simulate(seed, true).unwrap()];
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
    assert_ne!(simulate(1, false).unwrap().trace, simulate(2, false).unwrap().trace);
}
