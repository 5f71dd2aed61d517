//! Somebody else holds the file.

use std::time::Instant;

use checkrein_core::time::Span;

use crate::common::{
    Other, SOON, assert_sound, call, count, limit, open, refusal, say, told, wait_for_parent,
};

const MINUTE: Span = Span::from_secs(60);

#[test]
fn a_decision_that_another_program_keeps_from_the_file_is_refused_soon_and_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));

    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let start = Instant::now();
    let refused: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(|| call(&engine, &policy, "u").unwrap_err())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    for text in refused {
        assert!(text.starts_with("store_error") && text.contains("not committed"), "{text}");
        assert!(text.contains("another program holds the file"), "{text}");
    }

    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    assert_eq!(count(&engine), 2);
    assert_sound(&engine);
}

#[test]
fn a_file_that_another_program_holds_is_not_opened_and_later_is() {
    let directory = tempfile::tempdir().unwrap();
    let (new, old) = (directory.path().join("new.db"), directory.path().join("old.db"));
    drop(open(&old).unwrap());
    for path in [new, old] {
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let (text, took) = refusal(&path);
        assert!(text.contains("another program holds the file"), "{text}");
        assert!(took < SOON, "{took:?}");
        other.execute_batch("ROLLBACK").unwrap();
        drop(other);
        let engine = open(&path).unwrap();
        let policy = limit(&engine, 1, MINUTE);
        assert_eq!(call(&engine, &policy, "u"), Ok(()));
    }
}

/// A process that has the turn to write and does not go on, as one that was stopped.
#[test]
fn holds_the_turn() {
    let Some(words) = told() else { return };
    let [directory] = words.as_slice() else { panic!("{words:?}") };
    let file = std::fs::OpenOptions::new().write(true).open(format!("{directory}/writer")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    say("held");
    wait_for_parent();
}

#[test]
fn a_process_that_stands_still_in_its_turn_keeps_nobody_waiting_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));

    let locks = format!("{}-locks", path.canonicalize().unwrap().display());
    let mut other = Other::start("locked::holds_the_turn", &[&locks]);
    assert_eq!(other.hear(), "held");
    let start = Instant::now();
    let text = call(&engine, &policy, "u").unwrap_err();
    // Nothing can have been committed, and that is what is said.
    assert!(text.contains("not committed") && text.contains("another process holds the file"), "{text}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    other.end();

    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    assert_eq!(count(&engine), 2, "the refused call has taken nothing");

    // The same at opening: first this process's store has to be gone.
    drop((engine, policy));
    let mut other = Other::start("locked::holds_the_turn", &[&locks]);
    assert_eq!(other.hear(), "held");
    let (text, took) = refusal(&path);
    assert!(text.contains("another process holds its lock"), "{text}");
    assert!(took < SOON, "{took:?}");
    other.end();
    let start = Instant::now();
    while let Err(error) = open(&path) {
        assert!(start.elapsed() < SOON, "{error}");
    }
}
