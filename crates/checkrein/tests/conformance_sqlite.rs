//! The SQLite store passes the suite that every store passes.

use checkrein::engine::Engine;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::testing::conformance;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn the_sqlite_store_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let files = std::sync::atomic::AtomicU64::new(0);
    let make = |clock: checkrein::clock::FakeClock, max_keys: usize| {
        let file = files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let clock = Some(checkrein::clock::Clock::fake(clock));
        let options = SqliteOptions { max_keys, clock, ..SqliteOptions::default() };
        let store = SqliteStore::open(&directory.path().join(format!("{file}.db")), options).unwrap();
        Engine::builder().sqlite(store).build()
    };
    let (seed, histories) = (number("CHECKREIN_SEED", 1), number("CHECKREIN_HISTORIES", 20));
    if let Err(violation) = conformance(&make, seed, histories, 300) {
        panic!("{violation}");
    }
}
