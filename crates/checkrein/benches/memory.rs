//! `cargo bench -p checkrein --bench memory -- [--json FILE] [--date TEXT]`: bytes per principal as the allocator
//! counts them, what is left after the window, and allocations on the allow path.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::alloc::System;
use std::process::ExitCode;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use std::sync::Arc;

use checkrein::store::memory::MemoryStore;
use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::policy::{Leases, Mode};
use checkrein_core::time::{Span, Timestamp};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Failure = Box<dyn std::error::Error>;

const WINDOW: Span = Span::from_secs(60);
const PRINCIPALS: [usize; 3] = [1_000, 100_000, 1_000_000];
const EVENTS: [u64; 3] = [1, 10, 16];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

fn run() -> Result<(), Failure> {
    // Without cargo bench's own flag this is `cargo test`: the smallest case is enough to see it run.
    let full = std::env::args().any(|word| word == "--bench");
    let mut results = Vec::new();
    println!("bytes per principal, keys of 31 bytes included (limit + cooldown)");
    println!("principals  events  bytes  store says  left after the window  allocations per call  goal");
    for &principals in PRINCIPALS.iter().take(if full { 3 } else { 1 }) {
        for events in EVENTS {
            results.push(measure(principals, events)?);
        }
    }
    if let Some(file) = option("--json") {
        let report = json!({ "benchmark": "rust memory", "date": option("--date"), "results": results });
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

fn admit(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &[u8]) -> Result<(), Failure> {
    let inputs = Inputs { keys: &[KeyValue::Bytes(key)], start: true, ..Inputs::default() };
    match engine.admit(policy, &inputs).admission.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Block | Verdict::Replay(_) => Err("a call was refused".into()),
    }
}

fn measure(principals: usize, events: u64) -> Result<Value, Failure> {
    let clock = FakeClock::new(Timestamp::from_nanos(1_800_000_000_000_000_000));
    let engine = Engine::builder().clock(Clock::fake(clock.clone())).max_keys(1 << 21).build();
    let kind = GateSpecKind::Limit {
        key: 0,
        max_calls: 16,
        window: WindowSpec::Rolling(WINDOW),
        cooldown: Span::from_millis(1),
    };
    let gate = GateSpec { name: "rate".into(), mode: Mode::Enforce, kind };
    let policy = engine.compile(vec![gate], Leases::default())?;
    let mut key = *b"tenant-000001/user-000000000000";
    let mut every_principal = || -> Result<(), Failure> {
        clock.advance(Span::from_millis(1));
        for principal in 0..principals {
            let mut left = principal;
            for place in key.iter_mut().rev().take(12) {
                *place = b'0' + (left % 10) as u8;
                left /= 10;
            }
            admit(&engine, &policy, &key)?;
        }
        Ok(())
    };
    let region = Region::new(ALLOCATOR);
    every_principal()?;
    let known = region.change();
    for _ in 1..events {
        every_principal()?;
    }
    let all = region.change();
    let taken = all.bytes_allocated as i64 - all.bytes_deallocated as i64;
    let (live, said) = usage(&engine);
    if live != principals {
        return Err(format!("{live} live records instead of {principals}").into());
    }
    let calls = (events - 1) as usize * principals;
    let allocations = (all.allocations - known.allocations) as f64 / calls.max(1) as f64;
    clock.advance(WINDOW);
    let removed = engine.collect()?;
    let after = region.change();
    let left = after.bytes_allocated as i64 - after.bytes_deallocated as i64;
    let bytes = taken as f64 / principals as f64;
    let met = bytes < 200.0 && removed == principals;
    println!(
        "{principals:>10}{events:>8}{bytes:>7.1}{:>12.1}{left:>23}{allocations:>22.4}  200 B {}",
        said as f64 / principals as f64,
        if met { "met" } else { "not met" },
    );
    Ok(json!({
        "principals": principals,
        "events": events,
        "bytes_per_principal": bytes,
        "bytes_per_principal_by_the_store": said as f64 / principals as f64,
        "bytes_left_after_the_window": left,
        "records_left_after_the_window": usage(&engine).0,
        "allocations_per_allowed_call": allocations,
        "goal": { "below": 200, "met": met },
    }))
}

/// Live records and the bytes they take, by the store's own account.
fn usage(engine: &Engine) -> (usize, usize) {
    engine.memory().map(MemoryStore::usage).unwrap_or_default()
}
