//! The ledgers of several hosts as a shell compares them, by real processes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::Path;
use std::process::{Command, Output};

use checkrein::core::ledger::entry::{By, Ending, Outcome, ShortId};
use checkrein::ledger::{Drafts, HostLedger};
use checkrein::store::durable::Incoming;
use checkrein::store::sqlite::SqliteOptions;
use checkrein_core::gate::breaker::Health;
use checkrein_core::time::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

const STORE: ShortId = ShortId::from_bytes([5; 8]);
const TAG: ShortId = ShortId::from_bytes([7; 8]);

/// A host with its ledger in `NAME.db`, and the drafts that it has made.
struct Host {
    ledger: HostLedger,
    drafts: Drafts,
    list: ShortId,
    next: u64,
}

impl Host {
    fn new(directory: &TempDir, name: &str, process: u8) -> Self {
        let path = directory.path().join(format!("{name}.db"));
        let ledger = HostLedger::open(&path, SqliteOptions::default()).unwrap();
        let drafts = ledger.join(STORE, process.into()).unwrap();
        Self { ledger, drafts, list: ShortId::from_bytes([process; 8]), next: 0 }
    }

    fn take_in(&mut self, drafts: Vec<Vec<u8>>) {
        let (store, tag, list, first) = (STORE, TAG, self.list, self.next);
        self.next += drafts.len() as u64;
        self.ledger.take_in(Incoming { store, tag, list, first, drafts }).unwrap();
    }

    fn outcome(&self, permit: u64, intent: Option<ShortId>) -> Vec<u8> {
        let (ending, health, by) = (Ending::Done, Health::Success, By::Lease);
        let permit = Some(permit);
        let outcome =
            Outcome { permit, intent: None, ending, health, actual: &[], by, note: "", meters: &[] };
        self.drafts.outcome(Timestamp::from_nanos(1_795_256_310_000_000_000), TAG, intent, &outcome)
    }

    fn event(&self, name: &str) -> Vec<u8> {
        self.drafts.event(Timestamp::from_nanos(1_795_256_310_000_000_000), TAG, name, &[])
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

fn verify(directory: &Path, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(directory, &[&["ledger", "verify", "--output", "json"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|_| error.into()), output.status.code())
}

fn kinds(answer: &Value) -> Vec<&str> {
    let findings = answer.pointer("/together/findings").and_then(Value::as_array).unwrap();
    findings.iter().map(|finding| finding.get("kind").and_then(Value::as_str).unwrap()).collect()
}

const BOTH: [&str; 6] = ["a.db", "b.db", "--key", "a.db.pub", "--key", "b.db.pub"];

#[test]
fn ledgers_that_fit_and_what_is_not_among_them() {
    let directory = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (Host::new(&directory, "a", 1), Host::new(&directory, "b", 2));
    let (first, second) = (a.ledger.host(), b.ledger.host());
    a.take_in(vec![a.event("reset"), a.event("reset")]);
    // Its intent is a third host's.
    b.take_in(vec![b.event("reset"), b.outcome(9, Some(ShortId::from_bytes([9; 8])))]);
    drop((a, b));
    let at = directory.path();
    let (answer, code) = verify(at, &BOTH);
    assert_eq!((code, &answer["valid"]), (Some(0), &Value::Bool(true)), "{answer:#}");
    let together = &answer["together"];
    assert_eq!(together["hosts"], serde_json::json!([first.to_string(), second.to_string()]));
    assert_eq!((&together["entries"], kinds(&answer)), (&4.into(), vec![]));
    assert_eq!(together["hosts_not_given"][0]["host"], "0909090909090909");
    assert_eq!(answer["ledgers"][1]["file"], "b.db");
    // As exports, and for people.
    for name in ["a", "b"] {
        let (store, file) = (format!("sqlite:{name}.db"), format!("{name}.jsonl"));
        let done = run(at, &["ledger", "export", "--store", &store, "-o", &file]);
        assert_eq!(done.status.code(), Some(0));
    }
    let output = run(at, &["ledger", "verify", "a.jsonl", "b.db", "--key", "a.db.pub", "--key", "b.db.pub"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("they fit  4 entries from shared stores"), "{text}");
    assert!(
        text.contains(&first.to_string()) && text.contains("host 0909090909090909, which is not here"),
        "{text}"
    );
    // The keys in another order are other keys; and one entry, whole.
    let (answer, code) = verify(at, &["a.db", "b.db", "--key", "b.db.pub", "--key", "a.db.pub"]);
    assert_eq!((code, &answer["valid"]), (Some(1), &Value::Bool(false)));
    let shown = run(at, &["ledger", "show", "4", "--store", "sqlite:a.db"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("number 1 of list 0101010101010101"), "{text}");
    let doctor = run(at, &["doctor", "--store", "sqlite:a.db"]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(text.contains(&format!("host {first}, beside a store")), "{text}");
}

#[test]
fn what_does_not_fit_is_found_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let mut a = Host::new(&directory, "a", 1);
    a.take_in(vec![a.event("reset"), a.outcome(3, Some(a.ledger.host()))]);
    // Somebody else took the next two.
    a.next += 2;
    a.take_in(vec![a.event("reset"), b"rubbish".to_vec()]);
    drop(a);
    let (answer, code) = verify(at, &["a.db", "--key", "a.db.pub"]);
    assert_eq!((code, &answer["valid"]), (Some(1), &Value::Bool(false)));
    assert_eq!(
        (&answer["first_bad"], &answer["reason"]),
        (&Value::Null, &Value::Null),
        "each is as it was signed"
    );
    assert_eq!(kinds(&answer), ["gap", "outcome_without_intent", "kept_aside"], "{answer:#}");
    let gap = &answer["together"]["findings"][0];
    assert_eq!((&gap["from"], &gap["before"], &gap["told"]), (&2.into(), &4.into(), &true.into()));
    let output = run(at, &["ledger", "verify", "a.db", "--key", "a.db.pub"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in
        ["they do not fit  3 findings", "positions 2 to 3 of list", "says that they never came", "permit 3"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    // A copy of a ledger, with its key, that went on by itself.
    let restore = run(at, &["backup", "--store", "sqlite:a.db", "--out", "b.db"]);
    assert_eq!(restore.status.code(), Some(0), "{}", String::from_utf8_lossy(&restore.stderr));
    let (answer, code) = verify(at, &["a.db", "b.db", "--key", "a.db.pub"]);
    assert_eq!(code, Some(1));
    let found = kinds(&answer);
    assert!(found.starts_with(&["one_host", "overlap"]), "{found:?}");
}

#[test]
fn what_cannot_be_asked_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    drop((Host::new(&directory, "a", 1), Host::new(&directory, "b", 2)));
    let three = ["a.db", "b.db", "a.db", "--key", "a.db.pub", "--key", "b.db.pub"];
    let (said, code) = verify(at, &three);
    assert_eq!(code, Some(2));
    assert!(said.as_str().unwrap().contains("3 ledgers and 2 keys"), "{said}");
    std::fs::write(at.join("old"), "no checkpoint").unwrap();
    let (said, code) = verify(at, &[&BOTH[..], &["--against", "old"]].concat());
    assert_eq!(code, Some(2));
    assert!(said.as_str().unwrap().contains("by itself"), "{said}");
    // A ledger of no host is compared with nothing, and its answer is as it was.
    let (answer, code) = verify(at, &["a.db", "missing.db", "--key", "a.db.pub"]);
    assert_eq!(code, Some(2), "{answer}");
}
