//! The writer's thread: shared by the engines of a file, and gone without leaving anybody waiting.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::store::{OwnedInputs, Step, StoreError};
use checkrein_core::amount::Amount;
use checkrein_core::gate::budget::Cost;
use checkrein_core::time::Span;

use crate::common::{
    Other, SOON, assert_sound, call, count, held, limit, open, open_with, pay, payment, say, told,
};

const MINUTE: Span = Span::from_secs(60);

#[test]
fn two_engines_on_one_file_share_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let link = directory.path().join("link.db");
    let first = open(&path).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let engines = [first, open(&path).unwrap(), open(&link).unwrap()];
    let epochs: Vec<u64> = engines.iter().map(|engine| engine.sqlite().unwrap().epoch()).collect();
    assert_eq!(epochs, [1, 1, 1]);
    let allowed =
        engines.iter().filter(|engine| call(engine, &limit(engine, 2, MINUTE), "u").is_ok()).count();
    assert_eq!(allowed, 2);
    drop(engines);
    // Once all are gone the file is opened anew.
    assert_eq!(open(&path).unwrap().sqlite().unwrap().epoch(), 2);
}

/// Opens a store, decides one call and leaves.
#[test]
fn visits() {
    let Some(words) = told() else { return };
    let [path] = words.as_slice() else { panic!("{words:?}") };
    let engine = open(path.as_ref()).unwrap();
    let policy = limit(&engine, 1_000, MINUTE);
    call(&engine, &policy, "u").unwrap();
    let seen = count(&engine);
    drop((policy, engine));
    say(&seen.to_string());
}

#[test]
fn a_second_opening_does_not_let_go_of_the_locks_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 1_000, MINUTE);
    call(&engine, &policy, "u").unwrap();
    drop(open(&path).unwrap());
    let visit = || {
        let mut other = Other::start("writer::visits", &[path.to_str().unwrap()]);
        let seen = other.hear();
        other.end();
        seen
    };
    // Were the lock lost, this one would take itself for the last and remove the log under our feet.
    assert_eq!(visit(), "2");
    call(&engine, &policy, "u").unwrap();
    assert_eq!(visit(), "4");
    assert_eq!(count(&engine), 4);
}

#[test]
fn a_writer_that_panics_leaves_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, MINUTE);
    call(&engine, &policy, "u").unwrap();
    let store = engine.sqlite().unwrap().clone();

    let (sender, heard) = channel();
    let start = Instant::now();
    let results: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            store.call::<()>(|_, _, _| {
                std::thread::sleep(Duration::from_millis(300));
                panic!("a bug");
            })
        });
        std::thread::sleep(Duration::from_millis(100));
        let step = || Step::Admit(std::sync::Arc::clone(&policy), inputs("u"));
        let first = step();
        let waits = scope.spawn(|| store.run(vec![first]).map(drop));
        let later = engine.sqlite().unwrap();
        later.run_then(vec![step()], Box::new(move |results| sender.send(results.map(drop)).unwrap()));
        vec![call.join().unwrap(), waits.join().unwrap(), heard.recv_timeout(SOON).unwrap()]
    });
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    for result in results {
        assert!(result.clone().unwrap_err().to_string().contains("writer has ended"), "{result:?}");
    }
    // Whoever comes later is told at once.
    let start = Instant::now();
    let text = call(&engine, &policy, "u").unwrap_err();
    assert!(text.contains("open the store again") && start.elapsed() < Duration::from_millis(500), "{text}");
    // And that is what helps.
    let again = open(&path).unwrap();
    let policy = limit(&again, 100, MINUTE);
    assert_eq!(call(&again, &policy, "u"), Ok(()));
    assert_eq!(count(&again), 2);
    assert_sound(&again);
}

fn inputs(key: &str) -> OwnedInputs {
    OwnedInputs {
        keys: vec![Ok(key.as_bytes().to_vec())],
        costs: vec![Cost::proven(Amount::from_units(10))],
        start: true,
        ..OwnedInputs::default()
    }
}

#[test]
fn an_admission_whose_caller_gave_up_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(300);
    let options = SqliteOptions { patience, ..SqliteOptions::default() };
    let engine = open_with(&directory.path().join("store.db"), options).unwrap();
    let policy = payment(&engine);
    let store: SqliteStore = engine.sqlite().unwrap().clone();
    let text = std::thread::scope(|scope| {
        // Everything that comes during the first sleep is one batch, and its first answer takes long to be given.
        scope.spawn(|| {
            store.call(|_, _, _| {
                std::thread::sleep(Duration::from_millis(150));
                Ok(())
            })
        });
        std::thread::sleep(Duration::from_millis(50));
        let mut slow = inputs("u");
        slow.once =
            Some((Ok(b"other".to_vec()), checkrein_core::fingerprint::RequestDigest::from_bytes([1; 32])));
        store.run_then(
            vec![Step::Peek(std::sync::Arc::clone(&policy), slow)],
            Box::new(|_| std::thread::sleep(Duration::from_millis(1_500))),
        );
        scope.spawn(|| pay(&engine, &policy, "u", Some("op"), true)).join().unwrap().unwrap_err()
    });
    assert!(text.contains("unknown whether it was committed"), "{text}");
    // The writer is still asleep; what it committed is given back when it wakes.
    let start = Instant::now();
    while start.elapsed() < SOON && engine.sqlite().unwrap().call(|_, _, _| Ok(())).is_err() {}
    assert_eq!(held(&engine), Amount::ZERO);
    // It was committed, and it did not start: the key may run.
    assert!(pay(&engine, &policy, "u", Some("op"), true).unwrap().is_some());
    assert_sound(&engine);
}

#[test]
fn a_call_that_nobody_waits_for_any_more_is_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { patience: Duration::from_millis(100), ..SqliteOptions::default() };
    let engine = open_with(&directory.path().join("store.db"), options).unwrap();
    let policy = limit(&engine, 100, MINUTE);
    let store = engine.sqlite().unwrap().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store.call(|_, _, _| {
                std::thread::sleep(Duration::from_millis(600));
                Ok(())
            })
        });
        std::thread::sleep(Duration::from_millis(50));
        let text = call(&engine, &policy, "u").unwrap_err();
        assert!(text.contains("not committed"), "{text}");
    });
    assert_eq!(count(&engine), 0);
}
