//! Full windows, and bytes in the server.

use std::sync::Arc;
use std::time::Instant;

use checkrein::clock::FakeClock;
use checkrein::store::Step;
use checkrein_core::time::{Span, Timestamp};
use serde_json::{Value, json};

use crate::Failure;
use crate::bare::Reply;
use crate::ours::{Ours, Work};
use crate::race::median;
use crate::server::Server;

/// What one decision costs with so many events in the window: on a clock moved by hand, so that their number stays.
pub(crate) fn events(server: &Server, rounds: usize) -> Result<Value, Failure> {
    let calls = if rounds > 2 { 400 } else { 100 };
    let make = |events: i64| -> Result<_, Failure> {
        let clock = FakeClock::new(Timestamp::from_nanos(1_800_000_000_000_000_000));
        let url = server.url();
        let ours = Ours::open(
            &url,
            &crate::prefix(),
            Work::Limit,
            crate::MINUTE,
            crate::NO_LIMIT,
            Some(clock.clone()),
        )?;
        let tick = Span::from_nanos(60_000_000_000 / events);
        Ok(move |calls: i64| -> Result<[f64; 2], Failure> {
            let (before, mut waits) = (server.counters()?, Vec::new());
            for _ in 0..calls {
                clock.advance(tick);
                let start = Instant::now();
                if !ours.call(0) {
                    return Err("a call was refused".into());
                }
                waits.push(start.elapsed().as_secs_f64() * 1e6);
            }
            let after = server.counters()?;
            Ok([median(waits), (after.script_us - before.script_us) / calls as f64])
        })
    };
    let (few, many) = (make(10)?, make(1_000)?);
    few(20)?;
    many(1_100)?;
    let mut laps = Vec::new();
    for _ in 0..rounds {
        let ([few, few_script], [many, many_script]) = (few(calls)?, many(calls)?);
        laps.push([few, many, many / few, few_script, many_script, many_script / few_script]);
    }
    let [few, many, ratio, few_script, many_script, scripts] =
        std::array::from_fn(|at| median(laps.iter().filter_map(|lap: &[f64; 6]| lap.get(at).copied())));
    println!(
        "a call with 10 events in the window {few:.0} us, with 1,000 {many:.0} us: {ratio:.2}x (goal 1.15x); \
         in the script {few_script:.1} and {many_script:.1} us: {scripts:.2}x\n"
    );
    Ok(json!({
        "few_us": few, "many_us": many, "ratio": ratio,
        "few_script_us": few_script, "many_script_us": many_script, "script_ratio": scripts,
    }))
}

/// What so many principals leave in the server: with one event each, and with a hundred.
pub(crate) fn bytes(server: &Server, principals: u64) -> Result<Value, Failure> {
    println!("{:<46}{:>12}{:>18}{:>22}", "", "principals", "used_memory each", "MEMORY USAGE of one");
    let mut results = Vec::new();
    for (name, work, events) in [
        ("one limit, one event", Work::Limit, 1),
        ("one limit, 100 events", Work::Limit, 100),
        ("four gates, one call finished", Work::Finished, 1),
        ("four gates, one call under way", Work::Four, 1),
    ] {
        server.ask(&[b"FLUSHALL"])?;
        let principals = if events == 1 { principals } else { principals / 100 };
        let ours =
            Ours::open(&server.url(), &crate::prefix(), work, Span::from_secs(3_600), crate::NO_LIMIT, None)?;
        let before = server.counters()?.memory;
        // Batches of steps where nothing has to be finished; else one call after the other.
        for _ in 0..events {
            for first in (0..principals).step_by(256) {
                let keys = first..principals.min(first + 256);
                if work == Work::Finished {
                    if !keys.into_iter().all(|key| ours.call(key)) {
                        return Err("a call was refused".into());
                    }
                } else {
                    let step = |key| Step::Admit(Arc::clone(&ours.policy), ours.inputs(key));
                    let store = ours.engine.redis().ok_or("no store")?;
                    if !store.run(keys.map(step).collect())?.iter().all(crate::ours::is_allowed) {
                        return Err("a call was refused".into());
                    }
                }
            }
        }
        let each = (server.counters()?.memory - before) / principals as f64;
        let one = usage(server, principals)?;
        println!("{name:<46}{principals:>12}{each:>18.0}{one:>22.0}");
        results.push(
            json!({ "what": name, "principals": principals, "used_memory": each, "memory_usage": one }),
        );
    }
    server.ask(&[b"FLUSHALL"])?;
    println!();
    Ok(json!(results))
}

/// The bytes of all keys by the server's own account, divided by the principals; of a part of the keys where there are
/// many.
fn usage(server: &Server, principals: u64) -> Result<f64, Failure> {
    let Reply::Array(page) = server.ask(&[b"SCAN", b"0", b"MATCH", b"bench*", b"COUNT", b"2000"])? else {
        return Err("no SCAN".into());
    };
    let Some(Reply::Array(keys)) = page.get(1) else { return Err("no SCAN".into()) };
    let Reply::Int(all) = server.ask(&[b"DBSIZE"])? else { return Err("no DBSIZE".into()) };
    let (mut bytes, mut counted) = (0, 0);
    for key in keys {
        let Reply::Text(key) = key else { continue };
        // Indexes are shared by all principals: `used_memory` has them.
        let is_shared = key.windows(3).any(|part| part == b":i:") || key.ends_with(b":due");
        if let Reply::Int(size) = server.ask(&[b"MEMORY", b"USAGE", key, b"SAMPLES", b"0"])?
            && !is_shared
        {
            bytes += size;
            counted += 1;
        }
    }
    Ok(bytes as f64 / f64::from(counted.max(1)) * all as f64 / principals as f64)
}
