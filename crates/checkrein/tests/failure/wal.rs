//! The write-ahead log, with a reader that does not end.

use checkrein::store::sqlite::SqliteOptions;
use checkrein_core::time::Span;

use crate::common::{assert_sound, call, limit, open_with};

const LIMIT: u64 = 4 << 20;

#[test]
fn the_log_does_not_grow_without_end_behind_a_reader_that_does_not_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let options = SqliteOptions { wal_limit: LIMIT, ..SqliteOptions::default() };
    let engine = open_with(&path, options).unwrap();
    let policy = limit(&engine, 1_000_000, Span::from_secs(3_600));
    let wal = || std::fs::metadata(directory.path().join("store.db-wal")).unwrap().len();
    call(&engine, &policy, "u").unwrap();

    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM meter").unwrap();
    reader.query_row("SELECT count(*) FROM meter", [], |row| row.get::<_, i64>(0)).unwrap();
    let mut refused = None;
    for round in 0..20_000 {
        if let Err(text) = call(&engine, &policy, &format!("user-{}", round % 2_000)) {
            refused = Some(text);
            break;
        }
    }
    let text = refused.expect("the log grew and nobody said so");
    assert!(text.contains("a reader of the file does not end"), "{text}");
    let (largest, slack) = (wal(), 2 << 20);
    assert!(largest <= LIMIT + slack, "{largest}");

    reader.execute_batch("ROLLBACK").unwrap();
    call(&engine, &policy, "u").unwrap();
    assert!(wal() < largest, "{} {largest}", wal());
    assert_sound(&engine);
}
