//! The Redis store passes the suite that every store passes, on real servers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::Engine;
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::testing::conformance;

#[path = "redis/servers.rs"]
#[expect(dead_code, clippy::indexing_slicing, clippy::print_stderr, reason = "each test uses a part of it")]
mod servers;

use servers::{Cluster, Server};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn conforms(url: &str, histories: u64) {
    let stores = AtomicU64::new(0);
    let make = |clock: FakeClock, max_keys: usize| {
        let options = RedisOptions {
            prefix: format!("conformance:{}", stores.fetch_add(1, Ordering::Relaxed)),
            // However busy the machine is: it is not speed that is tested.
            deadline: Duration::from_secs(30),
            max_keys,
            clock: Some(Clock::fake(clock)),
            ..RedisOptions::default()
        };
        Engine::builder().redis(RedisStore::open(url, options).unwrap()).build()
    };
    let seed = number("CHECKREIN_SEED", 1);
    if let Err(violation) = conformance(&make, seed, number("CHECKREIN_HISTORIES", histories), 300) {
        panic!("{violation}");
    }
}

#[test]
fn the_redis_store_conforms() {
    if !servers::missing() {
        conforms(&Server::start(&[]).url(), 100);
    }
}

#[test]
fn the_redis_store_conforms_on_a_cluster() {
    if !servers::missing() {
        conforms(&Cluster::start(0).url(), 20);
    }
}
