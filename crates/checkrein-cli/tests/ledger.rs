//! The ledger as a shell sees it: a store's file, exports, verification, proofs and keys, by real processes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use checkrein_core::amount::Amount;
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, Reason, Retry};
use checkrein_core::gate::breaker::Health;
use checkrein_core::ledger::entry::{
    Arguments, Body, By, Decision, Ending, Entry, Event, Identity, Outcome, Verdict,
};
use checkrein_core::time::{Span, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

/// A store's file with a ledger in it.
struct Ledger {
    directory: TempDir,
    connection: rusqlite::Connection,
    size: u64,
}

impl Ledger {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(directory.path().join("store.db")).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE entry (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
                 CREATE TABLE tile (key BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE checkpoint (key INTEGER PRIMARY KEY, body BLOB NOT NULL);",
            )
            .unwrap();
        Self { directory, connection, size: 0 }
    }

    fn append(&mut self, body: Body<'_>) {
        let mut bytes = Vec::new();
        let time = Timestamp::from_nanos(1_795_256_310_000_000_000 + self.size.cast_signed());
        Entry { seq: self.size, time, epoch: 1, body }.write(&mut bytes);
        let sql = "INSERT INTO entry VALUES (?1, ?2)";
        self.connection.execute(sql, rusqlite::params![self.size.cast_signed(), bytes]).unwrap();
        self.size += 1;
    }

    /// An opening, then intents with their outcomes, and a refusal now and then.
    fn fill(&mut self, count: u64) {
        let action =
            Identity { namespace: "stripe", name: "refund", principal: "support", ..Identity::default() };
        let retry = Retry::After(Span::from_secs(3));
        let gate = std::sync::Arc::from("per user");
        let reason =
            Reason { code: Code::RateLimited, kind: GateKind::Limit, gate, retry, detail: Detail::None };
        for _ in 0..count {
            match self.size % 3 {
                0 => self.append(Body::Event(Event { name: "opened", fields: &[("by", "ana\u{1b}[2J")] })),
                1 => self.append(Body::Decision(&Decision {
                    action,
                    arguments: Arguments::Full(br#"{"payment":"p-1"}"#),
                    permit: Some(self.size),
                    ..Decision::default()
                })),
                _ if self.size.is_multiple_of(2) => self.append(Body::Decision(&Decision {
                    verdict: Verdict::Refusal,
                    action,
                    reasons: std::slice::from_ref(&reason),
                    ..Decision::default()
                })),
                _ => self.append(Body::Outcome(&Outcome {
                    permit: Some(self.size - 1),
                    intent: Some(self.size - 1),
                    ending: Ending::InDoubt,
                    health: Health::Failure,
                    actual: &[Amount::ONE],
                    by: By::Recovery,
                    note: "",
                    meters: &[],
                })),
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.path("store.db").display())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.directory.path(), arguments)
    }

    fn export(&self) -> PathBuf {
        let output = self.run(&["ledger", "export", "--store", &self.store(), "-o", "export.jsonl"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        self.path("export.jsonl")
    }

    fn verify(&self, file: &str, more: &[&str]) -> (Value, Option<i32>) {
        let arguments = ["ledger", "verify", file, "--key", "store.db.pub", "--output", "json"];
        let output = self.run(&[&arguments, more].concat());
        (serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code())
    }
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("CHECKREIN_STORE")
        .env_remove("CHECKREIN_KEY_PASSPHRASE")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn an_export_is_verified_by_whoever_has_the_public_key() {
    let mut ledger = Ledger::new();
    ledger.fill(600);
    let export = ledger.export();
    let (answer, code) = ledger.verify("export.jsonl", &[]);
    assert_eq!(code, Some(0));
    assert_eq!((&answer["valid"], &answer["entries"]), (&Value::Bool(true), &Value::from(600)));
    assert_eq!((&answer["first_bad"], &answer["reason"]), (&Value::Null, &Value::Null));
    assert!(answer["unchecked"][0].as_str().unwrap().contains("--against"));

    let lines: Vec<String> = std::fs::read_to_string(&export).unwrap().lines().map(str::to_owned).collect();
    let seq_of = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["seq"].as_u64()
    };
    let check = |lines: &[String], bad: Option<u64>, what: &str| {
        std::fs::write(ledger.path("bad.jsonl"), lines.join("\n") + "\n").unwrap();
        let (answer, code) = ledger.verify("bad.jsonl", &[]);
        assert_eq!((code, answer["valid"].as_bool()), (Some(1), Some(false)), "{what}");
        assert_eq!(answer["first_bad"].as_u64(), bad, "{what}: {answer}");
        assert!(answer["reason"].is_string());
    };
    for place in [2, 77, 400] {
        let seq = seq_of(&lines[place]);
        assert!(seq.is_some());
        let mut edited = lines.clone();
        edited[place] = edited[place].replace("\"epoch\":1", "\"epoch\":2");
        check(&edited, seq, "edited");
        let mut cut = lines.clone();
        cut.remove(place);
        check(&cut, seq, "cut out");
        let mut swapped = lines.clone();
        swapped.swap(place, place + 1);
        check(&swapped, seq, "swapped");
    }
    check(&lines[..lines.len() - 9], Some(600 - 8), "cut off");
    let mut longer = lines.clone();
    longer.push(lines[2].clone());
    check(&longer, Some(600), "grown");
}

#[test]
fn growth_since_an_older_checkpoint() {
    let mut ledger = Ledger::new();
    ledger.fill(10);
    let store = ledger.store();
    let output = ledger.run(&["ledger", "checkpoint", "--store", &store]);
    std::fs::write(ledger.path("old.note"), &output.stdout).unwrap();
    let copy = ledger.path("old.db").display().to_string();
    ledger.connection.execute("VACUUM INTO ?1", [copy]).unwrap();
    ledger.fill(300);
    ledger.export();
    let (answer, code) = ledger.verify("export.jsonl", &["--against", "old.note"]);
    assert_eq!((code, &answer["against"]), (Some(0), &Value::from(10)));

    let output = ledger.run(&["ledger", "checkpoint", "--store", &store, "--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["size"], 310);
    std::fs::write(ledger.path("new.note"), answer["note"].as_str().unwrap()).unwrap();
    // An older export against a newer checkpoint: the ledger was rolled back.
    let output = ledger.run(&["ledger", "export", "--store", "sqlite:old.db", "-o", "old.jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let (answer, code) = ledger.verify("old.jsonl", &["--against", "new.note"]);
    assert_eq!((code, &answer["first_bad"]), (Some(1), &Value::from(10)), "{answer}");

    let prove = |arguments: &[&str]| {
        let output = ledger.run(&[&["ledger", "prove"], arguments].concat());
        (output.status.code(), text(&output.stdout))
    };
    let (code, proof) = prove(&["--store", &store, "--since", "old.note"]);
    assert_eq!(code, Some(0));
    std::fs::write(ledger.path("growth"), proof).unwrap();
    let (code, said) = prove(&["--check", "growth", "--key", "store.db.pub", "--old", "old.note"]);
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "proved  the ledger only grew, from 10 entries to 310 entries\n")
    );
    let (code, _) = prove(&["--check", "growth", "--key", "store.db.pub", "--old", "new.note"]);
    assert_eq!(code, Some(1));
}

#[test]
fn one_entry_is_proved_without_the_others() {
    let mut ledger = Ledger::new();
    ledger.fill(400);
    ledger.export();
    let store = ledger.store();
    let output = ledger.run(&["ledger", "prove", "300", "--store", &store]);
    std::fs::write(ledger.path("proof"), &output.stdout).unwrap();
    let output = ledger.run(&["ledger", "tail", "-n", "100", "--store", &store, "--output", "jsonl"]);
    let line = text(&output.stdout).lines().next().unwrap().to_owned();
    std::fs::write(ledger.path("entry"), format!("{line}\n")).unwrap();
    let check = |entry: &str| {
        let arguments = ["ledger", "prove", "--check", "proof", "--key", "store.db.pub", "--entry", entry];
        ledger.run(&arguments).status.code()
    };
    assert_eq!(check("entry"), Some(0));
    std::fs::write(ledger.path("other"), line.replace("\"epoch\":1", "\"epoch\":3")).unwrap();
    assert_eq!(check("other"), Some(1));
    let output = ledger.run(&["ledger", "prove", "400", "--store", &store]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
}

#[test]
fn entries_for_people_and_for_programs() {
    let mut ledger = Ledger::new();
    ledger.fill(6);
    let store = ledger.store();
    let output = ledger.run(&["ledger", "tail", "--store", &store, "-n", "5"]);
    // Snapshots lose the indentation that all lines have.
    let shown: String = text(&output.stdout).lines().map(|line| format!("{}\n", line.trim_start())).collect();
    expect_test::expect![[r#"
        1  2026-11-21 10:18:30.000  intent        stripe:refund@support  {"payment":"p-1"}
        2  2026-11-21 10:18:30.000  refusal       stripe:refund@support  rate_limited (per user)
        3  2026-11-21 10:18:30.000  event         opened  by=ana\u{1b}[2J
        4  2026-11-21 10:18:30.000  intent        stripe:refund@support  {"payment":"p-1"}
        5  2026-11-21 10:18:30.000  in doubt      of entry 4  cost 1  by recovery
    "#]]
    .assert_eq(&shown);
    let output = ledger.run(&["ledger", "tail", "--store", &store, "--output", "json"]);
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all.len(), 6);
    let output = ledger.run(&["ledger", "show", "2", "--store", &store]);
    let shown = text(&output.stdout);
    assert!(
        shown.contains(
            "rate_limited: the calls of this window are used up (limit `per user`, retry after 3 s)"
        ),
        "{shown}"
    );
    assert!(shown.contains("sealed      not yet"), "{shown}");
    let output = ledger.run(&["ledger", "show", "2", "--store", &store, "--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["entry"]["seq"], &answer["sealed_by"]), (&Value::from(2), &Value::Null));
    let output = ledger.run(&["ledger", "show", "6", "--store", &store]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is no entry 6: the ledger has 6"));
}

#[test]
fn an_entry_that_is_not_strict_is_shown_with_a_warning() {
    let mut ledger = Ledger::new();
    ledger.fill(5);
    let store = ledger.store();
    let change = "UPDATE entry SET body = replace(CAST(body AS TEXT), ':', ': ') WHERE key = 2";
    ledger.connection.execute(change, []).unwrap();
    for output in ["text", "json"] {
        let shown = ledger.run(&["ledger", "show", "2", "--store", &store, "--output", output]);
        assert_eq!(shown.status.code(), Some(1), "{shown:?}");
        assert!(text(&shown.stderr).contains("entry 2 is not"), "{shown:?}");
        assert!(text(&shown.stdout).contains("refund"), "{shown:?}");
        let tail = ledger.run(&["ledger", "tail", "--store", &store, "--output", output]);
        assert_eq!(tail.status.code(), Some(1), "{tail:?}");
        assert_eq!(text(&tail.stderr).matches("ledger_damaged").count(), 1, "{tail:?}");
        assert!(text(&tail.stdout).matches("refund").count() > 2, "all are shown: {tail:?}");
    }
    ledger
        .connection
        .execute("UPDATE entry SET body = (SELECT body FROM entry WHERE key = 1) WHERE key = 2", [])
        .unwrap();
    let shown = ledger.run(&["ledger", "show", "2", "--store", &store]);
    assert!(text(&shown.stderr).contains("entry 1 stands in the place of entry 2"), "{shown:?}");
}

#[test]
fn wrong_use_says_what_to_do() {
    let ledger = Ledger::new();
    let store = ledger.store();
    for (arguments, complaint) in [
        (vec!["ledger", "export", "--store", &store], "has no checkpoint yet"),
        (vec!["ledger", "tail", "--store", "sqlite:missing.db"], "there is no store"),
        (vec!["ledger", "tail", "--store", "sqlite::memory:"], "leave `store` out for memory"),
        (vec!["ledger", "verify", "missing", "--key", "missing.pub"], "missing.pub"),
        (vec!["keys", "show", "store.db"], "UTF-8"),
    ] {
        let output = ledger.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(complaint), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn keys_are_made_and_shown() {
    let ledger = Ledger::new();
    let output =
        ledger.run(&["keys", "new", "audit.key", "--name", "example.com/ledger", "--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = answer["key"].as_str().unwrap();
    assert!(key.starts_with("example.com/ledger+"));
    for file in ["audit.key", "audit.pub"] {
        assert_eq!(text(&ledger.run(&["keys", "show", file]).stdout), format!("{key}\n"));
    }
    let output = ledger.run(&["keys", "new", "audit.key"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a key is never overwritten"));
    let seed = std::fs::read_to_string(ledger.path("audit.key")).unwrap();
    // The key itself may have a plus sign in it.
    let secret = seed.trim_end().splitn(5, '+').last().unwrap();
    assert!(secret.len() > 40, "{secret}");
    assert!(!text(&output.stderr).contains(secret));
}

#[test]
fn an_encrypted_key_seals_with_its_passphrase() {
    let mut ledger = Ledger::new();
    ledger.fill(5);
    let binary = env!("CARGO_BIN_EXE_checkrein");
    let run = |passphrase: &str, arguments: &[&str]| {
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .current_dir(ledger.directory.path())
            .env("CHECKREIN_KEY_PASSPHRASE", passphrase);
        command.output().unwrap()
    };
    assert_eq!(run("s3cret words", &["keys", "new", "k", "--passphrase"]).status.code(), Some(0));
    let store = ledger.store();
    let seal = ["ledger", "checkpoint", "--store", &store, "--key", "k", "--witness", "seen"];
    assert!(text(&run("wrong", &seal).stderr).contains("passphrase is wrong"));
    assert_eq!(run("s3cret words", &seal).status.code(), Some(0));
    assert!(std::fs::read_to_string(ledger.path("seen")).unwrap().contains("\n5\n"));
}

#[test]
fn the_auditgate_format_is_an_array() {
    let mut ledger = Ledger::new();
    ledger.fill(30);
    let store = ledger.store();
    let output = ledger.run(&["ledger", "export", "--store", &store, "--format", "auditgate"]);
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((entries.len(), &entries[2]["verdict"]), (30, &Value::from("BLOCK")));
}

#[test]
fn old_entries_are_removed_and_the_rest_verifies() {
    use checkrein::store::Step;
    use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
    let directory = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(&directory.path().join("store.db"), SqliteOptions::default()).unwrap();
    open().run(vec![Step::Note("tick".to_owned(), Vec::new()); 600]).unwrap();
    let run = |arguments: &[&str]| run(directory.path(), arguments);
    let output = run(&["ledger", "prune", "--store", "sqlite:store.db", "--before", "300"]);
    assert_eq!(text(&output.stdout), "256 entries removed; the ledger begins with entry 256\n");
    let output =
        run(&["ledger", "prune", "--store", "sqlite:store.db", "--older-than", "1d", "--output", "json"]);
    assert_eq!(text(&output.stdout), "{\n  \"first\": 256,\n  \"removed\": 0\n}\n");
    let output = run(&["ledger", "prune", "--store", "sqlite:store.db", "--older-than", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(run(&["ledger", "export", "--store", "sqlite:store.db", "-o", "e"]).status.code(), Some(0));
    let output = run(&["ledger", "verify", "e", "--key", "store.db.pub"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("begins with  entry 256; those before it were removed"), "{said}");
}
