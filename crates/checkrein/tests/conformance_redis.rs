//! The Redis store passes the suite that every store passes, on real servers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::Engine;
use checkrein::engine::{CompiledPolicy, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::testing::{Random, conformance};
use checkrein_core::admission::{Inputs, KeyValue};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::gate::budget::Cost;
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::{Span, Timestamp};

#[path = "redis/servers.rs"]
#[expect(dead_code, clippy::print_stderr, reason = "each test uses a part of it")]
mod servers;

use servers::{Cluster, Server};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn open(url: &str, prefix: String, clock: &FakeClock, max_keys: usize) -> Engine {
    // However busy the machine is: it is not speed that is tested.
    let (deadline, clock) = (Duration::from_secs(30), Some(Clock::fake(clock.clone())));
    let options = RedisOptions { prefix, deadline, max_keys, clock, ..RedisOptions::default() };
    Engine::builder().redis(RedisStore::open(url, options).unwrap()).build()
}

fn conforms(url: &str, histories: u64) {
    let stores = AtomicU64::new(0);
    let make = |clock: FakeClock, max_keys: usize| {
        let store = stores.fetch_add(1, Ordering::Relaxed);
        open(url, format!("conformance:{store}"), &clock, max_keys)
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

/// One limit that is the whole policy, so that hosts which get in each other's way have the server count; and the same
/// limit with a budget beside it, so that others write the same record.
fn policies(engine: &Engine, max_calls: u64) -> [Arc<CompiledPolicy>; 2] {
    let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
    let window = || WindowSpec::Rolling(Span::from_secs(20));
    let limit =
        || gate("limit", GateSpecKind::Limit { key: 0, max_calls, window: window(), cooldown: Span::ZERO });
    let (unit, charge, limit_of) = (Unit::Usd, Charge::Fixed, Amount::from_units(200));
    let budget = GateSpecKind::Budget {
        key: 0,
        limit: limit_of,
        unit,
        window: window(),
        cost: 0,
        charge,
        hard: false,
    };
    let compile = |gates| engine.compile(gates, Leases::default()).unwrap();
    [compile(vec![limit()]), compile(vec![limit(), gate("budget", budget)])]
}

/// Everything that a caller and a list can see.
fn call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &[u8], peek: bool) -> String {
    let (keys, costs) = ([KeyValue::Bytes(key)], [Cost::proven(Amount::ONE)]);
    let inputs = Inputs { keys: &keys, costs: &costs, start: true, ..Inputs::default() };
    if peek {
        format!("{:?}", engine.peek(policy, &inputs))
    } else {
        format!("{:?}", engine.admit(policy, &inputs).admission)
    }
}

#[test]
fn hosts_that_share_keys_decide_as_one_in_memory_does() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let mut counted_behind = 0;
    for seed in number("CHECKREIN_SEED", 1)..=number("CHECKREIN_HISTORIES", 30) {
        let (mut random, clock) =
            (Random::new(seed), FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000)));
        let memory = Engine::builder().clock(Clock::fake(clock.clone())).build();
        let hosts = [(); 3].map(|()| open(&server.url(), format!("hosts:{seed}"), &clock, 1_000));
        let max_calls = if random.once_in(3) { 1_500 } else { 5 + random.below(40) };
        let expected = policies(&memory, max_calls);
        let policies = hosts.each_ref().map(|host| policies(host, max_calls));
        for step in 0..400 {
            clock.advance(Span::from_nanos(random.below(1_500_000_000) as i64));
            let which = usize::from(random.once_in(6));
            let key = [b'a' + random.below(2) as u8];
            let (host, peek) = (random.below(3) as usize, random.once_in(9));
            let seen = call(&hosts[host], &policies[host][which], &key, peek);
            let expected = call(&memory, &expected[which], &key, peek);
            assert_eq!(seen, expected, "seed {seed}, step {step}, host {host}");
        }
        counted_behind += server.cli(&["--scan", "--pattern", &format!("hosts:{seed}:*:t")]).lines().count();
    }
    assert!(counted_behind > 10, "the server has counted for {counted_behind} records only");
}
