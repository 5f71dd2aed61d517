//! Clocks that are stepped.

use checkrein::clock::{Clock, FakeClock};
use checkrein::store::sqlite::SqliteOptions;
use checkrein_core::time::{Span, Timestamp};

use crate::common::{assert_sound, call, limit, open, open_with};
use sha2::{Digest as _, Sha256};

const HOUR: Span = Span::from_secs(3_600);
const MINUTE: Span = Span::from_secs(60);
const START: Timestamp = Timestamp::from_nanos(1_790_000_000_000_000_000);

fn with(clock: &FakeClock) -> SqliteOptions {
    SqliteOptions { clock: Some(Clock::fake(clock.clone())), ..SqliteOptions::default() }
}

#[test]
fn a_clock_that_is_set_back_gives_nothing_back_and_blocks_nobody_for_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let clock = FakeClock::new(START.after(HOUR));
    let engine = open_with(&path, with(&clock)).unwrap();
    let policy = limit(&engine, 1, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    clock.set(START);
    assert!(call(&engine, &policy, "u").unwrap_err().starts_with("rate_limited"));
    // The window is counted by the store's time, which stands still until the clock has caught up.
    drop((engine, policy));
    let engine = open_with(&path, with(&clock)).unwrap();
    let policy = limit(&engine, 1, MINUTE);
    assert!(call(&engine, &policy, "u").unwrap_err().starts_with("rate_limited"));
    clock.set(START.after(HOUR).after(MINUTE));
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    assert_sound(&engine);
}

#[test]
fn a_clock_that_is_set_forward_ends_windows_once() {
    let directory = tempfile::tempdir().unwrap();
    let clock = FakeClock::new(START);
    let engine = open_with(&directory.path().join("store.db"), with(&clock)).unwrap();
    let policy = limit(&engine, 1, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    clock.advance(HOUR);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    clock.set(START);
    assert!(call(&engine, &policy, "u").unwrap_err().starts_with("rate_limited"));
}

/// The store's own clock: an anchor in the file and the machine's time since it booted.
#[test]
fn the_stores_own_clock_does_not_follow_the_machines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 1, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    drop((engine, policy));
    // As if the machine's clock had been an hour ahead when the store was made, and set right since.
    let ahead = |text: String| {
        let (anchor, boot) = text.split_once(' ').unwrap();
        format!("{} {boot}", anchor.parse::<i64>().unwrap() + HOUR.nanos())
    };
    change_clock(&path, ahead);
    let engine = open(&path).unwrap();
    let off = engine.now().since(Clock::system().now());
    assert!((off.nanos() - HOUR.nanos()).abs() < MINUTE.nanos(), "{off:?}");
    let policy = limit(&engine, 1, MINUTE);
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    let seen = engine.now();
    drop((engine, policy));

    // The machine is booted: time is taken from its clock again, and yet never runs back.
    change_clock(&path, |text| format!("{}-of-another-boot", text));
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 1, MINUTE);
    assert!(engine.now() >= seen.before(MINUTE), "{:?} {seen:?}", engine.now());
    assert!(call(&engine, &policy, "u").unwrap_err().starts_with("rate_limited"));
    assert_sound(&engine);
}

fn change_clock(path: &std::path::Path, change: impl FnOnce(String) -> String) {
    let file = rusqlite::Connection::open(path).unwrap();
    let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
    let kept = file.query_row("SELECT body FROM meta WHERE key = CAST('clock' AS BLOB)", [], read).unwrap();
    // The row ends with eight bytes of the digest over its table, its key and itself.
    let mut body = change(String::from_utf8(kept.split_at(kept.len() - 8).0.to_vec()).unwrap()).into_bytes();
    let mut hasher = Sha256::new();
    hasher.update([0; 8]);
    hasher.update(5_u64.to_be_bytes());
    hasher.update(b"clock");
    hasher.update(&body);
    body.extend(hasher.finalize().iter().take(8));
    let changed =
        file.execute("UPDATE meta SET body = ?1 WHERE key = CAST('clock' AS BLOB)", [body]).unwrap();
    assert_eq!(changed, 1);
}
