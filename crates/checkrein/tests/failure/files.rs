//! Files that are no store, and places where there can be none.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use checkrein_core::time::Span;

use crate::common::{Other, call, limit, open, refusal, say, told};

fn check(path: &Path, expected: &str) {
    let before = std::fs::read(path).ok();
    let (text, _) = refusal(path);
    assert!(text.contains(expected), "{text}");
    assert_eq!(std::fs::read(path).ok(), before, "`{}` was changed", path.display());
}

#[test]
fn a_file_that_is_no_store_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let noise: Vec<u8> = (0..8_192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(at("noise.db"), noise).unwrap();
    check(&at("noise.db"), "not a checkrein store");

    let other = rusqlite::Connection::open(at("other.db")).unwrap();
    other.execute_batch("CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('a')").unwrap();
    drop(other);
    check(&at("other.db"), "a database of another program");

    let other = rusqlite::Connection::open(at("marked.db")).unwrap();
    other.execute_batch("PRAGMA application_id = 7; VACUUM").unwrap();
    drop(other);
    check(&at("marked.db"), "a database of another program");

    std::fs::create_dir(at("directory.db")).unwrap();
    check(&at("directory.db"), "it is not a file");
    check(&at("missing/store.db"), "its directory");
    check(Path::new("/proc/store.db"), "cannot be made");
    check(&at("noise.db").join("store.db"), "cannot be made");
    assert!(!at("missing").exists());
}

#[test]
fn a_later_version_of_the_tables_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    drop(open(&path).unwrap());
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(other);
    check(&path, "a later version of checkrein (schema 99)");
}

#[test]
fn a_new_store_is_readable_by_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 1, Span::from_secs(60));
    assert_eq!(call(&engine, &policy, "u"), Ok(()));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for suffix in ["", "-wal", "-shm"] {
        let file = directory.path().join(format!("store.db{suffix}"));
        assert_eq!(mode(&file), 0o600, "{suffix}");
    }
    let locks = directory.path().join("store.db-locks");
    assert_eq!(mode(&locks), 0o700);
    for file in std::fs::read_dir(locks).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

/// Says what opening a file comes to.
#[test]
fn opens() {
    let Some(words) = told() else { return };
    let [path] = words.as_slice() else { panic!("{words:?}") };
    say(&open(Path::new(path)).map_or_else(|error| error.to_string(), |_| "opened".to_owned()));
}

/// What opening a file comes to for a user who is not root.
fn as_nobody(path: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let mut other = Other::start_by(command, "files::opens", &[&path.display().to_string()]);
    let said = other.hear();
    other.end();
    said
}

#[test]
fn what_may_not_be_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    drop(open(&path).unwrap());
    let change =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    change(directory.path(), 0o755);
    change(&path, 0o444);
    let text = as_nobody(&path);
    assert!(text.contains("it cannot be written"), "{text}");
    // The file may be written and its directory not: there is no place for its log.
    change(&path, 0o666);
    change(directory.path(), 0o555);
    std::fs::remove_dir_all(directory.path().join("store.db-locks")).unwrap_or_default();
    let text = as_nobody(&path);
    assert!(text.contains("its directory cannot be written"), "{text}");
    change(directory.path(), 0o755);
}
