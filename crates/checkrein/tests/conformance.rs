//! The memory store passes the suite that every store has to pass; 10^6 random steps against the reference model.

use checkrein::clock::Clock;
use checkrein::engine::Engine;
use checkrein::testing::conformance;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_memory_store_conforms() {
    let seed = setting("CHECKREIN_SEED", 1);
    let histories = setting("CHECKREIN_HISTORIES", 2_000);
    println!("seeds {seed} to {}, 500 steps each", seed + histories - 1);
    let make = |clock, max_keys| Engine::builder().clock(Clock::fake(clock)).max_keys(max_keys).build();
    if let Err(violation) = conformance(&make, seed, histories, 500) {
        panic!("{violation}");
    }
}
