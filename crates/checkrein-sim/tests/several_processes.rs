//! Several processes on one disk say what the reference model says.

use checkrein_sim::several_processes;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn several_processes_agree_with_the_model() {
    let (first, count) = (setting("CHECKREIN_SEED", 1), setting("CHECKREIN_HISTORIES", 200));
    println!("seeds {first} to {}, 300 steps each", first + count - 1);
    for seed in first..first + count {
        if let Err(what) = several_processes(seed, 300) {
            panic!("seed {seed}: {what}");
        }
    }
}
