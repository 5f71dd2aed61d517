//! Connections that are cut when the request has gone through and its answer has not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use checkrein::store::redis::RedisOptions;

use crate::common::{budget, call, compile, finish, limit, patient, stranger, sums};
use crate::servers::{self, Plan, Proxy, Server};

const LIMIT: u64 = 600;

/// The next of a row of numbers that look random, from a seed.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn answers_that_are_lost_at_random_admit_nobody_twice() {
    if servers::missing() {
        return;
    }
    let first = std::env::var("CHECKREIN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 4 {
        println!("CHECKREIN_SEED={seed}");
        lose_answers(seed);
    }
}

fn lose_answers(seed: u64) {
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port);
    let engines: Vec<_> = (0..2).map(|_| stranger(&proxy.url(), RedisOptions::default())).collect();
    let gates = || vec![limit(LIMIT), budget(LIMIT, true)];
    let policies: Vec<_> = engines.iter().map(|engine| compile(engine, gates())).collect();
    let (allowed, refused, finished, over) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let unfinished = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|number| {
                let (engine, policy) = (&engines[number % 2], &policies[number % 2]);
                let (allowed, refused, finished, unfinished) = (&allowed, &refused, &finished, &unfinished);
                scope.spawn(move || {
                    for _ in 0..150 {
                        let called = call(engine, policy, "hot");
                        if called.allowed {
                            allowed.fetch_add(1, Ordering::Relaxed);
                        } else if called.codes == "store_error" {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        if let Some(permit) = called.permit {
                            match finish(engine, permit) {
                                Ok(()) => _ = finished.fetch_add(1, Ordering::Relaxed),
                                Err(_) => unfinished.lock().unwrap().push((number % 2, permit)),
                            }
                        }
                    }
                })
            })
            .collect();
        let (over, proxy) = (&over, &proxy);
        scope.spawn(move || {
            let mut seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            while !over.load(Ordering::Relaxed) {
                proxy.set(Plan::CutAfter(u32::try_from(next(&mut seed) % 8).unwrap()));
                std::thread::sleep(Duration::from_millis(next(&mut seed) % 4));
            }
            proxy.set(Plan::Pass);
        });
        for caller in callers {
            caller.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let (allowed, finished) = (allowed.into_inner(), finished.into_inner());
    let (refused, cuts) = (refused.into_inner(), proxy.cuts());
    println!(
        "{allowed} allowed, {finished} finished, {refused} refused for the store, {cuts} connections cut"
    );
    assert!(cuts > 10, "{cuts}");
    assert!(allowed <= LIMIT, "{allowed}");
    // Whoever could not end an action tries again, and may hear that it has been ended.
    let mut again = 0;
    for (number, permit) in unfinished.into_inner().unwrap() {
        again += u64::from(finish(&engines[number], permit).is_ok());
    }
    // What was taken for those who were not told is given back; both gates then agree.
    let observer = stranger(&server.url(), patient());
    compile(&observer, gates());
    servers::until("what nobody knows of is given back", || {
        sums(&observer).iter().all(|sums| sums.held == 0)
    });
    let sums = sums(&observer);
    println!("{sums:?}, {again} ended later");
    assert!(sums[0].count >= allowed && sums[0].count <= LIMIT, "{allowed} allowed: {sums:?}");
    assert!(sums[1].spent >= finished && sums[1].spent <= sums[0].count, "{finished} finished: {sums:?}");
}
