//! Old entries of the ledger go, and everything that was signed still verifies.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::Path;

use checkrein::core::ledger::checkpoint::VerifierKey;
use checkrein::core::ledger::proof;
use checkrein::core::ledger::verify::Report;
use checkrein::ledger::{Database, Scope, export, keys, verify_file};
use checkrein::store::Step;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

fn append(store: &SqliteStore, count: usize) {
    let step = Step::Note("tick".to_owned(), vec![("by".to_owned(), "test".to_owned())]);
    for left in (0..count).step_by(200) {
        store.run(vec![step.clone(); 200.min(count - left)]).unwrap();
    }
}

fn key(path: &Path) -> VerifierKey {
    keys::load_public(&keys::public_path(&keys::default_path(path))).unwrap()
}

fn verified(path: &Path, against: Option<&str>) -> Report {
    let file = path.with_extension("jsonl");
    let mut out = std::fs::File::create(&file).unwrap();
    export(&Database::open(path).unwrap(), Scope::Sealed, &mut out).unwrap();
    verify_file(&file, &key(path), against).unwrap()
}

#[test]
fn removed_entries_leave_what_proves_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    append(&store, 1_500);
    assert_eq!(store.remove_entries(1_200).unwrap(), 0, "nothing is sealed yet");
    drop(store);
    let (sealed, early) = Database::open(&path).unwrap().newest_checkpoint().unwrap().unwrap();

    let store = open(&path);
    assert_eq!(store.remove_entries(255).unwrap(), 0, "no whole group");
    assert_eq!(store.remove_entries(1_200).unwrap(), 1_024);
    assert_eq!(store.remove_entries(1_200).unwrap(), 1_024, "and nothing more");
    append(&store, 10);
    drop(store);
    let database = Database::open(&path).unwrap();
    assert_eq!(database.first().unwrap(), 1_024);
    assert!(database.entry(5).unwrap_err().to_string().contains("was removed"));
    let (size, _) = database.newest_checkpoint().unwrap().unwrap();
    assert!(proof::inclusion(&database, 5, size).is_ok(), "the tree still has its hashes");

    let report = verified(&path, Some(&early));
    assert_eq!((report.fault, report.first, report.against), (None, 1_024, Some(sealed)));
    // A second time, from where the first ended; and the store opens again.
    let store = open(&path);
    assert_eq!(store.remove_entries(u64::MAX).unwrap(), 1_280);
    drop(store);
    let report = verified(&path, Some(&early));
    assert_eq!((report.fault, report.first), (None, 1_280));

    // The same rows gone without a word are a ledger whose head was cut off; with all of them gone there is no export.
    append(&open(&path), 400);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("DELETE FROM entry WHERE key < 1536", []).unwrap();
    let report = verified(&path, None);
    assert_eq!((report.first, report.first_bad), (1_536, Some(0)), "{report:?}");
    connection.execute("DELETE FROM entry", []).unwrap();
    let error = export(&Database::open(&path).unwrap(), Scope::Sealed, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), "ledger_damaged");
}
