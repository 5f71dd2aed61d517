//! Several processes on one file, and processes that are killed.

use std::time::{Duration, Instant};

use checkrein::store::sqlite::SqliteOptions;
use checkrein_core::amount::Amount;
use checkrein_core::gate::once::OperationState;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::Span;

use crate::common::{
    Other, SOON, assert_sound, call, count, held, limit, open, open_with, operation, pay, payment, records,
    say, told, wait_for_parent,
};

const HOUR: Span = Span::from_secs(3_600);

/// Admits one payment, starts another, and goes on living.
#[test]
fn pays() {
    let Some(words) = told() else { return };
    let [path] = words.as_slice() else { panic!("{words:?}") };
    let engine = open(path.as_ref()).unwrap();
    let policy = payment(&engine);
    pay(&engine, &policy, "u", Some("reserved"), false).unwrap();
    pay(&engine, &policy, "u", Some("started"), true).unwrap();
    say("paid");
    wait_for_parent();
    panic!("this process is killed");
}

#[test]
fn what_a_killed_process_left_is_released_or_in_doubt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut other = Other::start("processes::pays", &[path.to_str().unwrap()]);
    assert_eq!(other.hear(), "paid");

    // While it lives its payments are its own.
    let engine = open(&path).unwrap();
    let policy = payment(&engine);
    assert_eq!(operation(&engine, "reserved"), Some(OperationState::Reserved));
    assert_eq!(operation(&engine, "started"), Some(OperationState::Started));
    assert_eq!(held(&engine), Amount::from_units(20));
    other.kill();

    // Without a restart: whoever is there notices.
    let start = Instant::now();
    while operation(&engine, "started") != Some(OperationState::InDoubt) {
        assert!(start.elapsed() < SOON * 2, "nobody noticed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(operation(&engine, "reserved"), Some(OperationState::FailedClean));
    assert_eq!(held(&engine), Amount::from_units(10), "what may have been spent stays held");
    assert!(pay(&engine, &policy, "u", Some("started"), true).unwrap_err().starts_with("in_doubt"));
    assert!(pay(&engine, &policy, "u", Some("reserved"), true).is_ok());
    assert_sound(&engine);
    drop((engine, policy));

    // With a restart: the killed process and then this one.
    let engine = open(&path).unwrap();
    assert_eq!(operation(&engine, "started"), Some(OperationState::InDoubt));
    assert_eq!(operation(&engine, "reserved"), Some(OperationState::InDoubt), "we left it started");
    assert_eq!(held(&engine), Amount::from_units(20));
    assert_sound(&engine);
}

#[test]
fn a_store_that_was_killed_with_its_only_process_recovers_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut other = Other::start("processes::pays", &[path.to_str().unwrap()]);
    assert_eq!(other.hear(), "paid");
    other.kill();
    let engine = open(&path).unwrap();
    assert_eq!(operation(&engine, "reserved"), Some(OperationState::FailedClean));
    assert_eq!(operation(&engine, "started"), Some(OperationState::InDoubt));
    assert_eq!(held(&engine), Amount::from_units(10));
    assert_eq!(records(&engine, RecordKind::Permit).len(), 1);
    assert_sound(&engine);
}

/// Decides as often as it can, for a while.
#[test]
fn hurries() {
    let Some(words) = told() else { return };
    let [path, calls] = words.as_slice() else { panic!("{words:?}") };
    // On a machine that is busy with other tests a turn may take long; here only the counts are at stake.
    let options = SqliteOptions { patience: Duration::from_secs(20), ..SqliteOptions::default() };
    let engine = open_with(path.as_ref(), options).unwrap();
    let policy = limit(&engine, 500, HOUR);
    say("ready");
    wait_for_parent();
    let (mut allowed, mut worst) = (0, Duration::ZERO);
    for _ in 0..calls.parse::<u32>().unwrap() {
        let start = Instant::now();
        match call(&engine, &policy, "u") {
            Ok(()) => allowed += 1,
            Err(text) => assert!(text.starts_with("rate_limited"), "{text}"),
        }
        worst = worst.max(start.elapsed());
    }
    say(&format!("{allowed} {}", worst.as_micros()));
}

#[test]
fn four_processes_admit_exactly_what_the_limit_allows_and_each_gets_its_turn() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let words = [path.to_str().unwrap(), "400"];
    let mut others: Vec<Other> = (0..4).map(|_| Other::start("processes::hurries", &words)).collect();
    for other in &mut others {
        assert_eq!(other.hear(), "ready");
    }
    for other in &mut others {
        drop(other.child.stdin.take());
    }
    let (mut allowed, mut worst) = (Vec::new(), 0);
    for mut other in others {
        let said = other.hear();
        let (count, longest) = said.split_once(' ').unwrap();
        allowed.push(count.parse::<u64>().unwrap());
        worst = worst.max(longest.parse::<u64>().unwrap());
        other.end();
    }
    println!("allowed {allowed:?}, the longest wait was {worst} us");
    assert_eq!(allowed.iter().sum::<u64>(), 500);
    let engine = open(&path).unwrap();
    assert_eq!(count(&engine), 500);
    assert_sound(&engine);
}
