//! The verbs about stores, as a shell sees them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use checkrein::Engine;
use checkrein::core::admission::{Inputs, KeyValue, Verdict};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::permit::{Outcome, Settlement};
use checkrein::core::policy::{Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{GateSpec, GateSpecKind};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use serde_json::Value;

fn run(arguments: &[&str], store: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .args(["--store", &format!("sqlite:{}", store.display())])
        .env("USER", "kim")
        .env_remove("CHECKREIN_STORE")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open(path: &Path) -> Engine {
    Engine::builder().sqlite(SqliteStore::open(path, SqliteOptions::default()).unwrap()).build()
}

/// Runs an operation on a key; what it is told about it.
fn pay(engine: &Engine, key: &str, outcome: Option<Outcome>) -> Verdict {
    let kind = GateSpecKind::Once { keep_result: Span::from_secs(3_600), keep_key: Span::from_secs(86_400) };
    let gate = GateSpec { name: "shop.pay".into(), mode: Mode::Enforce, kind };
    let policy = engine.compile(vec![gate], Leases::default()).unwrap();
    let digest = RequestDigest::from_bytes([7; 32]);
    let once = Some((KeyValue::Bytes(key.as_bytes()), digest));
    let admitted = engine.admit(&policy, &Inputs { tenant: "acme", once, start: true, ..Inputs::default() });
    if let (Some(permit), Some(outcome)) = (admitted.permit, outcome) {
        engine.finish(permit, &Settlement::new(outcome, Health::Neutral)).unwrap();
    }
    admitted.admission.verdict
}

/// A store with operations of every kind; two of them are in doubt, because their process left.
fn store(directory: &Path) -> PathBuf {
    let path = directory.join("store.db");
    let engine = open(&path);
    pay(&engine, "done", Some(Outcome::Done(Some(br#"{"paid":1}"#.as_slice().into()))));
    pay(&engine, "failed", Some(Outcome::FailedClean));
    pay(&engine, "doubt-1", None);
    pay(&engine, "doubt-2", None);
    drop(engine);
    path
}

#[test]
fn operations_in_doubt_are_listed_and_resolved_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path());
    let listed = run(&["once", "list"], &path);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let shown = text(&listed.stdout);
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect())
        .collect();
    assert_eq!(words[0], ["state", "for", "gate", "tenant", "key"], "{shown}");
    assert_eq!(words.len(), 3, "{shown}");
    for (line, key) in words[1..].iter().zip(["doubt-1", "doubt-2"]) {
        assert_eq!((line[0], line[2], line[3], line[4]), ("in doubt", "shop.pay", "acme", key));
    }
    let all = json(&run(&["once", "list", "--all", "--output", "json"], &path));
    let states: Vec<&str> =
        all.as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states[..2], ["in_doubt", "in_doubt"]);
    assert_eq!(states.len(), 4);
    let lines = run(&["once", "list", "--all", "-n", "3", "--output", "jsonl"], &path);
    assert_eq!(text(&lines.stdout).lines().count(), 3);

    let result = r#"{"paid": 2}"#;
    let resolved = run(&["once", "resolve", "doubt-1", "--as", "done", "--result", result], &path);
    assert_eq!(text(&resolved.stdout), "`doubt-1` is done (said by kim)\n", "{resolved:?}");
    let again = run(&["once", "resolve", "doubt-1", "--as", "failed"], &path);
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(1), ""), "{again:?}");
    assert!(text(&again.stderr).contains("is done, not in doubt"), "{again:?}");
    let other =
        run(&["once", "resolve", "doubt-2", "--as", "failed", "--by", "ann", "--output", "json"], &path);
    assert_eq!(json(&other)["state"], "failed_clean");
    let shown = json(&run(&["once", "show", "doubt-1", "--output", "json"], &path));
    assert_eq!((&shown["state"], &shown["result"]["paid"]), (&"done".into(), &2.into()), "{shown}");
    let shown = text(&run(&["once", "show", "doubt-1"], &path).stdout);
    assert!(shown.contains("shop.pay") && shown.contains("{\"paid\":2}"), "{shown}");

    // The engine goes by it, and the ledger says who said so.
    let engine = open(&path);
    assert!(matches!(pay(&engine, "doubt-1", None), Verdict::Replay(result) if &*result == br#"{"paid":2}"#));
    assert_eq!(pay(&engine, "doubt-2", None), Verdict::Allow);
    drop(engine);
    let ledger = text(&run(&["ledger", "tail", "-n", "100", "--output", "jsonl"], &path).stdout);
    for wanted in ["\"by\":\"kim\"", "\"by\":\"ann\"", "\"door\":\"cli\""] {
        assert!(ledger.contains(wanted), "{wanted}: {ledger}");
    }
    assert_eq!(ledger.lines().filter(|line| line.contains("\"event\":\"resolved\"")).count(), 2, "{ledger}");
}

#[test]
fn wrong_use_of_once_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path());
    for (arguments, expected) in [
        (&["once", "show", "nothing"][..], "there is no operation `nothing`"),
        (&["once", "resolve", "doubt-1", "--as", "done", "--result", "{'a': 1}"], "is no JSON"),
        (&["once", "resolve", "doubt-1", "--as", "failed", "--result", "1"], "leave `--result` out"),
        (&["once", "resolve", "doubt-1", "--as", "done", "--gate", "other"], "there is no operation"),
    ] {
        let output = run(arguments, &path);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {output:?}");
    }
    let missing = directory.path().join("missing.db");
    for arguments in [&["once", "list"][..], &["doctor"], &["backup", "-o", "/dev/null"]] {
        let output = run(arguments, &missing);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!missing.exists(), "a verb made a store");
    }
    let memory = Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(["once", "list", "--store", "sqlite::memory:"])
        .output()
        .unwrap();
    assert_eq!(memory.status.code(), Some(2));
    assert!(text(&memory.stderr).contains("name a file"), "{memory:?}");
}

#[test]
fn a_store_goes_into_a_backup_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path());
    let copy = directory.path().join("backup.db");
    let engine = open(&path);
    let made = run(&["backup", "-o", copy.to_str().unwrap(), "--output", "json"], &path);
    assert_eq!(json(&made)["bytes"], std::fs::metadata(&copy).unwrap().len(), "{made:?}");
    assert_eq!(
        run(&["backup", "-o", copy.to_str().unwrap()], &path).status.code(),
        Some(2),
        "never over a file"
    );
    pay(&engine, "later", Some(Outcome::Done(None)));

    let refused = run(&["restore", copy.to_str().unwrap()], &path);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains(&format!("process {}", std::process::id())), "{refused:?}");
    drop(engine);
    let done = run(&["restore", copy.to_str().unwrap(), "--output", "json"], &path);
    let done = json(&done);
    assert!(done["replaced_entries"].as_u64() > done["backup_entries"].as_u64(), "{done}");
    assert!(Path::new(done["aside"].as_str().unwrap()).is_file());
    let all = json(&run(&["once", "list", "--all", "--output", "json"], &path));
    assert_eq!(all.as_array().unwrap().len(), 4, "{all}");
    assert_eq!(run(&["doctor"], &path).status.code(), Some(0));
    let text_of = text(&run(&["restore", copy.to_str().unwrap()], &path).stdout);
    assert!(text_of.contains("lost") && text_of.contains("kept"), "{text_of}");
    let moved = directory.path().join("moved.db");
    let told = text(&run(&["backup", "-o", moved.to_str().unwrap()], &path).stdout);
    assert!(told.contains("moved.db.key"), "{told}");
    let elsewhere = directory.path().join("elsewhere.db");
    let told = text(&run(&["restore", moved.to_str().unwrap()], &elsewhere).stdout);
    assert!(
        told.contains("copy the key that sealed this ledger") && told.contains("elsewhere.db.key"),
        "{told}"
    );
}

#[test]
fn the_doctor_finds_what_is_wrong_and_nothing_else() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path());
    let engine = open(&path);
    let well = run(&["doctor", "--output", "json"], &path);
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    let report = json(&well);
    assert_eq!((&report["sound"], &report["in_doubt"]), (&true.into(), &2.into()), "{report}");
    let pid = std::process::id();
    let own = report["processes"].as_array().unwrap().iter().find(|process| process["pid"] == pid);
    assert_eq!(own.unwrap()["alive"], true, "{report}");
    drop(engine);
    let shown = text(&run(&["doctor"], &path).stdout);
    assert!(shown.ends_with("nothing is wrong\n"), "{shown}");

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let raw = rusqlite_delete(&path, "usage");
    assert!(raw > 0);
    let ill = run(&["doctor"], &path);
    assert_eq!(ill.status.code(), Some(1), "{ill:?}");
    let shown = text(&ill.stdout);
    for wanted in ["its mode is 644", "a record is missing", "counts 0"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let quick = json(&run(&["doctor", "--quick", "--output", "json"], &path));
    assert_eq!(quick["findings"].as_array().unwrap().len(), 1, "only the mode: {quick}");

    std::fs::write(&path, vec![9; 10_000]).unwrap();
    let lost = run(&["doctor"], &path);
    assert_eq!((lost.status.code(), text(&lost.stdout).as_str()), (Some(2), ""), "{lost:?}");
}

/// Removes the rows of a table as somebody with an editor would.
fn rusqlite_delete(path: &Path, table: &str) -> usize {
    let file = rusqlite::Connection::open(path).unwrap();
    file.execute(&format!("DELETE FROM {table}"), []).unwrap()
}

#[test]
fn the_doctor_verifies_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path());
    let sound = json(&run(&["doctor", "--output", "json"], &path));
    assert_eq!(sound["sound"], true, "{sound}");
    assert_eq!(sound["ledger"]["signatures_checked"], true, "{sound}");
    assert!(sound["ledger"]["entries"].as_u64().unwrap() > 5, "{sound}");
    assert!(sound["ledger"]["checkpoints"].as_u64().unwrap() > 0, "{sound}");
    let copy = directory.path().join("copy.db");
    for (change, wanted) in [
        (
            "UPDATE entry SET body = replace(CAST(body AS TEXT), 'shop', 'shoq') WHERE CAST(body AS TEXT) LIKE '%shop%'",
            "is not the one that was sealed",
        ),
        ("DELETE FROM entry WHERE key = 2", "entry 2 is missing"),
        ("DELETE FROM entry WHERE key < 2", "no group of 256 begins with it"),
        ("UPDATE entry SET body = CAST(body AS TEXT) || ' ' WHERE key = 3", "entry 3 is"),
        ("UPDATE tile SET body = zeroblob(length(body))", "does not give the root"),
        ("DELETE FROM tile", "its tiles are over 0 entries"),
        ("DELETE FROM checkpoint", "there is no checkpoint"),
        (
            "UPDATE checkpoint SET body = replace(CAST(body AS TEXT), 'time 20', 'time 21')",
            "its signature does not hold",
        ),
        ("CREATE TABLE notes (x)", "`notes` that is not the store's"),
    ] {
        let _ = std::fs::remove_file(&copy);
        assert_eq!(run(&["backup", "-o", copy.to_str().unwrap()], &path).status.code(), Some(0));
        std::fs::copy(path.with_extension("db.pub"), copy.with_extension("db.pub")).unwrap();
        rusqlite::Connection::open(&copy).unwrap().execute_batch(change).unwrap();
        let ill = run(&["doctor"], &copy);
        assert_eq!(ill.status.code(), Some(1), "{change}: {ill:?}");
        assert!(text(&ill.stdout).contains(wanted), "{change}: {}", text(&ill.stdout));
    }
}
