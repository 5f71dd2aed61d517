//! Files that somebody removes, replaces or changes under a store.

use std::path::Path;

use checkrein::engine::Engine;
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein_core::amount::Amount;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::once::OperationState;
use checkrein_core::key::KeyRef;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::Span;

use crate::common::{
    Other, assert_sound, call, held, limit, open, operation, pay, payment, refusal, say, told,
    wait_for_parent,
};

fn beside(path: &Path, end: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A store that runs, something that happens to its files, and what the next decision says.
fn check(happens: impl FnOnce(&Path), expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let gate = limit(&engine, 100, Span::from_secs(60));
    call(&engine, &gate, "a").unwrap();
    call(&engine, &gate, "a").unwrap();
    happens(&path);
    for _ in 0..2 {
        let refused = call(&engine, &gate, "a").unwrap_err();
        assert!(refused.starts_with("store_error") && refused.contains(expected), "{refused}");
    }
}

#[test]
fn a_store_whose_file_is_gone_stops() {
    check(|path| std::fs::remove_file(path).unwrap(), "removed or replaced");
    check(|path| std::fs::remove_file(beside(path, "-wal")).unwrap(), "removed or replaced");
    check(|path| std::fs::rename(path, beside(path, ".old")).unwrap(), "removed or replaced");
    let replace = |path: &Path| {
        std::fs::copy(path, beside(path, ".copy")).unwrap();
        std::fs::rename(beside(path, ".copy"), path).unwrap();
    };
    check(replace, "removed or replaced");
}

#[test]
fn no_new_store_takes_the_place_of_one_that_is_open() {
    if let Some(words) = told() {
        let engine = open(Path::new(&words[0])).unwrap();
        say("open");
        wait_for_parent();
        drop(engine);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut other =
        Other::start("removed::no_new_store_takes_the_place_of_one_that_is_open", &[path.to_str().unwrap()]);
    assert_eq!(other.hear(), "open");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(beside(&path, "-wal")).unwrap();
    let (refused, _) = refusal(&path);
    assert!(refused.contains("removed while another process has it open"), "{refused}");
    other.kill();
    assert!(open(&path).is_ok());
}

#[test]
fn a_file_with_two_names_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    drop(open(&path).unwrap());
    std::fs::hard_link(&path, directory.path().join("other.db")).unwrap();
    for name in ["store.db", "other.db"] {
        let (refused, _) = refusal(&directory.path().join(name));
        assert!(refused.contains("a hard link"), "{refused}");
    }
}

#[test]
fn a_copy_of_the_directory_takes_no_lock_away() {
    if let Some(words) = told() {
        let engine = open(Path::new(&words[0])).unwrap();
        let gate = payment(&engine);
        pay(&engine, &gate, "ada", Some("k"), true).unwrap();
        // As a backup tool within the program would: every file is opened, read and closed.
        let locks = std::fs::read_dir(beside(Path::new(&words[0]), "-locks")).unwrap();
        locks.for_each(|file| drop(std::fs::read(file.unwrap().path()).unwrap()));
        say("running");
        wait_for_parent();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut other =
        Other::start("removed::a_copy_of_the_directory_takes_no_lock_away", &[path.to_str().unwrap()]);
    assert_eq!(other.hear(), "running");
    let engine = open(&path).unwrap();
    assert_eq!(operation(&engine, "k"), Some(OperationState::Started));
    drop(engine);
    // Nor does a directory of locks that is gone make a process dead.
    std::fs::remove_dir_all(beside(&path, "-locks")).unwrap();
    let engine = open(&path).unwrap();
    assert_eq!(operation(&engine, "k"), Some(OperationState::Started));
    other.kill();
}

fn change(path: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[test]
fn a_record_that_is_gone_is_no_new_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let gate = payment(&engine);
    let permit = pay(&engine, &gate, "ada", Some("k"), true).unwrap();
    engine.finish(permit.unwrap(), &Settlement::new(Outcome::Done(None), Health::Success)).unwrap();
    drop(engine);
    change(&path, "DELETE FROM operation");
    let (refused, _) = refusal(&path);
    assert!(refused.contains("records are missing"), "{refused}");
}

#[test]
fn a_permit_that_does_not_read_stops_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let gate = payment(&engine);
    let first = pay(&engine, &gate, "ada", Some("k"), true).unwrap().unwrap();
    // In doubt: it stays for the next process.
    engine.finish(first, &Settlement::new(Outcome::InDoubt, Health::Neutral)).unwrap();
    drop(engine);
    change(&path, "UPDATE permit SET body = substr(body, 1, 5) || x'ff' || substr(body, 7)");
    let engine = open(&path).unwrap();
    let gate = payment(&engine);
    assert!(pay(&engine, &gate, "ada", Some("other"), true).is_ok());
    let report = engine.sqlite().unwrap().check().unwrap();
    assert!(report.damaged.iter().any(|what| what.contains("permit of number 1")), "{report:?}");
}

#[test]
fn engines_on_one_file_ask_for_one_thing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let with =
        |options: SqliteOptions| SqliteStore::open(&path, options).map(drop).map_err(|e| e.to_string());
    let options = || SqliteOptions { max_keys: 10, ..SqliteOptions::default() };
    let _first = SqliteStore::open(&path, options()).unwrap();
    assert_eq!(with(options()), Ok(()));
    assert_eq!(with(SqliteOptions::default()), Ok(()));
    let other = with(SqliteOptions { ledger: Some(KeepArguments::Full), ..options() }).unwrap_err();
    assert!(other.contains("another form of arguments in its ledger"), "{other}");
}

#[test]
fn what_became_of_an_operation_says_what_it_cost() {
    let directory = tempfile::tempdir().unwrap();
    let on_disk = open(&directory.path().join("store.db")).unwrap();
    for engine in [Engine::new(), on_disk] {
        let gate = payment(&engine);
        let doubt = |key: &str| {
            let permit = pay(&engine, &gate, "ada", Some(key), true).unwrap().unwrap();
            engine.finish(permit, &Settlement::new(Outcome::InDoubt, Health::Neutral)).unwrap();
        };
        let family = engine.families().into_iter().find(|family| family.name == "pay").unwrap().family;
        let name = |key: &'static [u8]| KeyRef { family, tenant: b"", key };
        doubt("a");
        doubt("b");
        assert_eq!(held(&engine), Amount::from_units(20));
        assert_eq!(engine.resolve(name(b"a"), None, OperationState::FailedClean), Ok(true));
        assert_eq!(held(&engine), Amount::from_units(10));
        assert_eq!(engine.resolve(name(b"b"), None, OperationState::Done(None)), Ok(true));
        assert_eq!(held(&engine), Amount::ZERO);
        // The first one's money is there again, the second one's is spent.
        let peeked = pay(&engine, &gate, "ada", Some("a"), true);
        assert!(peeked.is_ok(), "{peeked:?}");
        if engine.sqlite().is_some() {
            assert_sound(&engine);
        }
    }
}

#[test]
fn an_outcome_that_could_not_be_committed_is_committed_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let gate = payment(&engine);
    let permit = pay(&engine, &gate, "ada", Some("k"), true).unwrap().unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let done = Settlement::new(Outcome::Done(Some(b"1"[..].into())), Health::Success);
    assert!(engine.finish(permit, &done).is_err());
    other.execute_batch("ROLLBACK").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while operation(&engine, "k") == Some(OperationState::Started) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(operation(&engine, "k"), Some(OperationState::Done(Some(b"1"[..].into()))));
    assert_eq!(held(&engine), Amount::ZERO);
}
