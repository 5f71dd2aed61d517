//! Many processes on one Redis server: what they admit together is what one would.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "how a child tells its parent")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;

#[path = "redis/servers.rs"]
#[expect(dead_code, clippy::indexing_slicing, clippy::print_stderr, reason = "each test uses a part of it")]
mod servers;

use servers::Server;

const URL: &str = "CHECKREIN_TEST_URL";
const JOB: &str = "CHECKREIN_TEST_JOB";

fn engine(url: &str) -> Engine {
    // However busy the machine is: it is not speed that is tested.
    let options = RedisOptions { deadline: Duration::from_secs(30), ..RedisOptions::default() };
    Engine::builder().redis(RedisStore::open(url, options).unwrap()).build()
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn limit(max_calls: u64, window: Span) -> GateSpec {
    let (window, cooldown) = (WindowSpec::Rolling(window), Span::ZERO);
    gate("limit", GateSpecKind::Limit { key: 0, max_calls, window, cooldown })
}

fn budget(units: u64) -> GateSpec {
    let (limit, window) = (Amount::from_units(units), WindowSpec::Lifetime);
    let (unit, charge) = (Unit::Usd, Charge::Hold);
    gate("budget", GateSpecKind::Budget { key: 0, limit, unit, window, cost: 0, charge, hard: false })
}

fn compile(engine: &Engine, gates: Vec<GateSpec>) -> Arc<CompiledPolicy> {
    engine.compile(gates, Leases::default()).unwrap()
}

/// One call; a store that cannot answer fails the test.
fn call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &str) -> bool {
    let (keys, costs) = ([KeyValue::Bytes(key.as_bytes())], [Cost::proven(Amount::ONE)]);
    let inputs = Inputs { keys: &keys, costs: &costs, start: true, ..Inputs::default() };
    let admitted = engine.admit(policy, &inputs);
    for reason in &admitted.admission.reasons {
        assert_ne!(reason.code.word(), "store_error", "{reason:?}");
    }
    if let Some(permit) = admitted.permit {
        engine.finish(permit, &Settlement::new(Outcome::Done(None), Health::Success)).unwrap();
    }
    admitted.admission.verdict == Verdict::Allow
}

/// What four threads are allowed in 125 calls each.
fn everybody(engine: &Engine, policy: &Arc<CompiledPolicy>) -> u64 {
    let allowed = || (0..125).filter(|_| call(engine, policy, "hot")).count() as u64;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(allowed)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// What a child does; it prints how many of its calls were allowed.
fn child(job: &str, url: &str) -> u64 {
    let engine = engine(url);
    match job {
        // Many threads of many processes on one key: group commit in each, conflicts between them.
        "hot" => {
            let policy = compile(&engine, vec![limit(3_000, Span::from_secs(600)), budget(2_500)]);
            everybody(&engine, &policy)
        }
        // The same with one limit alone: the server counts behind the record.
        "limit" => everybody(&engine, &compile(&engine, vec![limit(2_500, Span::from_secs(600))])),
        // A short window for a while: the parent counts what was allowed in any window.
        "window" => {
            let policy = compile(&engine, vec![limit(20, WINDOW)]);
            let (end, mut allowed) = (Instant::now() + Duration::from_secs(3), 0);
            while Instant::now() < end {
                let (before, yes) = (now(), call(&engine, &policy, "hot"));
                if yes {
                    println!("allowed {before} {}", now());
                    allowed += 1;
                } else {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            allowed
        }
        // One caller each, as fast as it goes: whoever comes too late again and again must get its turn.
        "turns" => {
            let policy = compile(&engine, vec![limit(u64::MAX, Span::from_secs(5)), budget(u64::MAX >> 1)]);
            let end = Instant::now() + Duration::from_secs(5);
            let mut allowed = 0;
            while Instant::now() < end {
                assert!(call(&engine, &policy, "hot"));
                allowed += 1;
            }
            allowed
        }
        other => panic!("no such job: {other}"),
    }
}

const WINDOW: Span = Span::from_millis(200);

/// The machine's time since it booted, the same in every process.
fn now() -> u128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u128::from(time.tv_sec.unsigned_abs()) * 1_000_000_000 + u128::from(time.tv_nsec.unsigned_abs())
}

/// Not a test of its own: what the tests below start.
#[test]
fn helper() {
    if let (Ok(job), Ok(url)) = (std::env::var(JOB), std::env::var(URL)) {
        println!("allowed in all: {}", child(&job, &url));
    }
}

fn start(job: &str, url: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper", "--nocapture"]).env(JOB, job).env(URL, url);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn total(text: &str) -> u64 {
    let (_, number) = text.rsplit_once("allowed in all: ").unwrap();
    number.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn eight_processes_on_one_key_admit_exactly_what_one_would() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    for job in ["hot", "limit"] {
        server.cli(&["FLUSHALL"]);
        let children: Vec<Child> = (0..8).map(|_| start(job, &server.url())).collect();
        let allowed: u64 = children.into_iter().map(|child| total(&output(child))).sum();
        // Of 4,000 calls, and none is refused for any other reason.
        assert_eq!(allowed, 2_500, "{job}");
    }
}

#[test]
fn nobody_is_kept_from_a_key_that_all_want() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let children: Vec<Child> = (0..8).map(|_| start("turns", &server.url())).collect();
    let allowed: Vec<u64> = children.into_iter().map(|child| total(&output(child))).collect();
    // Without turns one of them had thousands and another a single one.
    let (least, most) = (allowed.iter().min().unwrap(), allowed.iter().max().unwrap());
    assert!(least * 20 > *most, "{allowed:?}");
}

#[test]
fn no_window_of_true_time_sees_more_than_the_limit() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let children: Vec<Child> = (0..4).map(|_| start("window", &server.url())).collect();
    let outputs: Vec<String> = children.into_iter().map(output).collect();
    let mut calls: Vec<(u128, u128)> = Vec::new();
    for line in outputs.iter().flat_map(|text| text.lines()) {
        // The harness may have written the test's name in front.
        let Some((_, times)) = line.split_once("allowed ") else { continue };
        let mut times = times.split_whitespace().filter_map(|time| time.parse().ok());
        if let (Some(before), Some(after)) = (times.next(), times.next()) {
            calls.push((before, after));
        }
    }
    assert!(calls.len() > 100, "{} calls", calls.len());
    // Each was admitted somewhere between its two times: what surely lies within one window counts.
    let window = u128::from(WINDOW.nanos().unsigned_abs());
    for &(begin, _) in &calls {
        let within = calls.iter().filter(|(before, after)| *before >= begin && *after < begin + window);
        assert!(within.clone().count() <= 20, "{} calls within one window", within.count());
    }
}

/// What outgrew its head lies in a key of its own: it must neither go before the head does nor stay after it.
#[test]
fn the_parts_of_a_record_are_kept_as_long_as_it_is() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    let (one, other) = (engine(&server.url()), another_host(&server.url()));
    let window = WindowSpec::Rolling(Span::from_millis(700));
    let (limit, unit, charge) = (Amount::from_units(1_000), Unit::Usd, Charge::Hold);
    let kind = GateSpecKind::Budget { key: 0, limit, unit, window, cost: 0, charge, hard: false };
    let gates = || vec![gate("budget", kind.clone())];
    let (policy, again) = (compile(&one, gates()), compile(&other, gates()));
    let parts = || server.cli(&["--scan", "--pattern", "*:h"]).lines().count();
    for _ in 0..200 {
        assert!(call(&one, &policy, "key"));
    }
    assert_eq!(parts(), 1);
    let (keys, costs) = ([KeyValue::Bytes(b"key")], [Cost::proven(Amount::ONE)]);
    let inputs = Inputs { keys: &keys, costs: &costs, start: true, ..Inputs::default() };
    let permit = one.admit(&policy, &inputs).permit.unwrap();
    // Longer than any expiry that was set before the hold: what is held keeps all of the record.
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(call(&other, &again, "key"));
    one.finish(permit, &Settlement::new(Outcome::Done(None), Health::Success)).unwrap();
    // The record, its parts and its place in the index.
    servers::until("everything expires", || server.cli(&["--scan", "--pattern", "*:m:*"]).is_empty());
}

/// A store that shares nothing with those of other options in this process.
fn another_host(url: &str) -> Engine {
    let deadline = Duration::from_secs(29);
    let options = RedisOptions { deadline, ..RedisOptions::default() };
    Engine::builder().redis(RedisStore::open(url, options).unwrap()).build()
}
