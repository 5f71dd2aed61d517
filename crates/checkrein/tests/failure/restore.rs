//! Backups, and stores that come back from them.

use std::path::Path;

use checkrein::ledger::Database;
use checkrein::store::durable::Mark;
use checkrein::store::sqlite::{backup, examine, restore};
use checkrein_core::amount::Amount;
use checkrein_core::gate::once::OperationState;
use checkrein_core::time::Span;

use crate::common::{
    Other, assert_sound, call, count, held, limit, open, operation, pay, payment, say, told, wait_for_parent,
};

fn mark(path: &Path) -> Mark {
    examine(path, true).unwrap().mark.unwrap()
}

fn entries(path: &Path) -> Vec<String> {
    let database = Database::open(path).unwrap();
    let entries = database.entries(0, 10_000).unwrap();
    entries.into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect()
}

#[test]
fn a_restore_voids_what_was_open_and_marks_the_gap_and_gives_no_number_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("store.db"), directory.path().join("backup.db"));
    let engine = open(&path).unwrap();
    let policy = payment(&engine);
    pay(&engine, &policy, "u", Some("reserved"), false).unwrap();
    pay(&engine, &policy, "u", Some("started"), true).unwrap();
    engine.sqlite().unwrap().backup(&copy).unwrap();
    for n in 0..20 {
        pay(&engine, &policy, "u", Some(&format!("later-{n}")), true).unwrap();
    }
    assert_eq!(held(&engine), Amount::from_units(220));
    drop((engine, policy));
    let before = (mark(&path), entries(&path));

    let done = restore(&copy, &path, false).unwrap();
    assert_eq!(done.restored.voided, 2);
    assert_eq!(done.replaced.map(|mark| mark.entries), Some(before.0.entries));
    let after = mark(&path);
    assert!(after.next_permit >= before.0.next_permit, "{after:?} {before:?}");
    assert!(after.next_epoch > before.0.next_epoch, "{after:?} {before:?}");
    assert!(after.last >= before.0.last, "the store's time does not run back");
    // The ledger is the backup's, and then the gap.
    let ledger = entries(&path);
    let kept = usize::try_from(done.restored.backup.entries).unwrap();
    assert_eq!(ledger[..kept], before.1[..kept]);
    let gap = ledger[kept..].iter().find(|entry| entry.contains("\"restored\"")).unwrap();
    assert!(gap.contains(&format!("\"replaced_entries\":\"{}\"", before.0.entries)), "{gap}");

    let engine = open(&path).unwrap();
    let policy = payment(&engine);
    assert_eq!(operation(&engine, "reserved"), Some(OperationState::FailedClean));
    assert_eq!(operation(&engine, "started"), Some(OperationState::InDoubt));
    assert_eq!(operation(&engine, "later-0"), None);
    assert_eq!(held(&engine), Amount::from_units(10), "what may have been spent stays held");
    assert!(pay(&engine, &policy, "u", Some("started"), true).unwrap_err().starts_with("in_doubt"));
    assert_sound(&engine);
    // What was there is a store still.
    let aside = done.aside.unwrap();
    assert_eq!(entries(&aside), before.1);
    assert!(examine(&aside, true).unwrap().broken.is_empty());
}

/// Has a store open until the parent lets go.
#[test]
fn has_it_open() {
    let Some(words) = told() else { return };
    let [path] = words.as_slice() else { panic!("{words:?}") };
    let engine = open(path.as_ref()).unwrap();
    say("open");
    wait_for_parent();
    drop(engine);
}

#[test]
fn a_store_that_somebody_has_open_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("store.db"), directory.path().join("backup.db"));
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, Span::from_secs(60));
    call(&engine, &policy, "u").unwrap();
    backup(&path, &copy).unwrap();
    call(&engine, &policy, "u").unwrap();
    let text = restore(&copy, &path, false).unwrap_err().to_string();
    assert!(text.contains("this process has") && text.contains("open"), "{text}");
    assert_eq!(count(&engine), 2);
    drop((engine, policy));

    let mut other = Other::start("restore::has_it_open", &[path.to_str().unwrap()]);
    assert_eq!(other.hear(), "open");
    let text = restore(&copy, &path, false).unwrap_err().to_string();
    assert!(text.contains(&format!("in use by process {}", other.child.id())), "{text}");
    other.kill();

    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM meter", [], |row| row.get::<_, i64>(0)).unwrap();
    let text = restore(&copy, &path, false).unwrap_err().to_string();
    assert!(text.contains("another program holds the file"), "{text}");
    drop(reader);
    restore(&copy, &path, false).unwrap();
    let engine = open(&path).unwrap();
    limit(&engine, 100, Span::from_secs(60));
    assert_eq!(count(&engine), 1);
    assert_sound(&engine);
}

#[test]
fn a_file_that_is_no_store_or_is_damaged_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let engine = open(&at("store.db")).unwrap();
    let policy = limit(&engine, 100, Span::from_secs(60));
    call(&engine, &policy, "u").unwrap();
    drop((engine, policy));
    let before = entries(&at("store.db"));

    std::fs::write(at("noise.db"), vec![7; 4_096]).unwrap();
    std::fs::write(at("empty.db"), "").unwrap();
    rusqlite::Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    backup(&at("store.db"), &at("torn.db")).unwrap();
    let torn = rusqlite::Connection::open(at("torn.db")).unwrap();
    torn.execute("DELETE FROM meter", []).unwrap();
    drop(torn);
    for (name, expected) in [
        ("missing.db", "there is no file"),
        ("noise.db", "not a checkrein store"),
        ("empty.db", "is empty"),
        ("other.db", "a database of another program"),
        ("torn.db", "the backup is damaged"),
        ("store.db", "is the store itself"),
    ] {
        let text = restore(&at(name), &at("store.db"), false).unwrap_err().to_string();
        assert!(text.contains(expected), "{name}: {text}");
        assert_eq!(entries(&at("store.db")), before, "{name}");
    }
    let left: Vec<String> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("restor"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "nothing half-made is left");
    // A damaged one is better than none, if somebody says so.
    let done = restore(&at("torn.db"), &at("store.db"), true).unwrap();
    assert!(!done.report.is_sound());
}

#[test]
fn a_store_that_cannot_be_read_any_more_is_replaced_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("store.db"), directory.path().join("backup.db"));
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, Span::from_secs(60));
    call(&engine, &policy, "u").unwrap();
    backup(&path, &copy).unwrap();
    drop((engine, policy));
    std::fs::write(&path, vec![0x55; 20_000]).unwrap();
    assert!(open(&path).is_err());
    let known = mark(&copy);
    let done = restore(&copy, &path, false).unwrap();
    assert_eq!(done.replaced, None);
    assert_eq!(std::fs::read(done.aside.unwrap()).unwrap(), vec![0x55; 20_000]);
    assert!(mark(&path).next_permit > known.next_permit + 1_000_000, "numbers are left out");
    let engine = open(&path).unwrap();
    assert_eq!(count(&engine), 1);
    assert_sound(&engine);
}

#[test]
fn a_backup_is_never_written_over_something() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let text = engine.sqlite().unwrap().backup(&path).unwrap_err().to_string();
    assert!(text.contains("File exists"), "{text}");
    let target = directory.path().join("there.db");
    std::fs::write(&target, "mine").unwrap();
    assert!(engine.sqlite().unwrap().backup(&target).is_err());
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
    assert!(engine.sqlite().unwrap().backup(&directory.path().join("no/where.db")).is_err());
}

#[test]
fn tables_of_an_older_version_are_brought_forward() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 100, Span::from_secs(60));
    call(&engine, &policy, "u").unwrap();
    drop((engine, policy));
    // As a version would have left it that did not know one of the tables.
    let older = rusqlite::Connection::open(&path).unwrap();
    older.execute_batch("DROP TABLE breaker; PRAGMA user_version = 0").unwrap();
    drop(older);
    let engine = open(&path).unwrap();
    assert_eq!(count(&engine), 1);
    assert_sound(&engine);
    assert_eq!(examine(&path, false).unwrap().schema, 1);
}
