//! What the SQLite store writes into its ledger, and that a stranger can verify it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use std::sync::Arc;

use checkrein::clock::{Clock, FakeClock};
use checkrein::core::admission::{Action, Inputs, KeyValue, Verdict};
use checkrein::core::amount::{Amount, Unit};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::gate::budget::Cost;
use checkrein::core::gate::once::OperationState;
use checkrein::core::key::KeyRef;
use checkrein::core::ledger::entry::EntryView;
use checkrein::core::permit::{Outcome, Settlement};
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::{Span, Timestamp};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::ledger::{Database, Scope, export, keys, verify_file};
use checkrein::store::PermitId;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};

fn open(path: &Path, clock: &FakeClock) -> Engine {
    let options = SqliteOptions { clock: Some(Clock::fake(clock.clone())), ..SqliteOptions::default() };
    Engine::builder().sqlite(SqliteStore::open(path, options).unwrap()).build()
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn policy(engine: &Engine) -> Arc<CompiledPolicy> {
    let window = WindowSpec::Rolling(Span::from_secs(60));
    let calls = GateSpecKind::Limit { key: 0, max_calls: 3, window, cooldown: Span::ZERO };
    let money = GateSpecKind::Budget {
        key: 0,
        limit: Amount::from_units(100),
        unit: Unit::Usd,
        window: WindowSpec::Lifetime,
        cost: 0,
        charge: Charge::Hold,
        hard: false,
    };
    engine.compile(vec![gate("calls", calls), gate("money", money)], Leases::default()).unwrap()
}

fn admit(engine: &Engine, policy: &Arc<CompiledPolicy>, amount: u64) -> (Verdict, Option<PermitId>) {
    let action = Action {
        namespace: "stripe",
        name: "refund",
        user: "ada",
        arguments: Some(br#"{"amount":5}"#),
        digest: Some(RequestDigest::from_bytes([7; 32])),
        ..Action::default()
    };
    let inputs = Inputs {
        tenant: "acme",
        keys: &[KeyValue::Bytes(b"ada")],
        costs: &[Cost::proven(Amount::from_units(amount))],
        start: true,
        action: Some(&action),
        ..Inputs::default()
    };
    let admitted = engine.admit(policy, &inputs);
    (admitted.admission.verdict, admitted.permit)
}

/// The ledger, an entry a line: kind, who, codes, outcome, how often.
fn told(path: &Path) -> String {
    let mut lines = String::new();
    for (seq, bytes) in Database::open(path).unwrap().entries(0, 1_000).unwrap() {
        let entry = EntryView::read(&bytes).unwrap();
        assert_eq!(entry.seq, seq);
        let text = String::from_utf8(bytes).unwrap();
        let field = |name: &str| {
            let start = text.find(&format!("\"{name}\":"))? + name.len() + 3;
            Some(text[start..].trim_start_matches('"').split(['"', ',', '}']).next()?.to_owned())
        };
        let shown = ["kind", "event", "user", "code", "permit", "outcome", "by", "note", "count"];
        let shown = shown.iter().filter_map(|name| field(name).map(|value| format!("{name}={value}")));
        lines += &format!("{}\n", shown.collect::<Vec<_>>().join(" "));
    }
    lines
}

fn verified(path: &Path) -> checkrein::core::ledger::verify::Report {
    let file = path.with_extension("jsonl");
    let mut out = std::fs::File::create(&file).unwrap();
    export(&Database::open(path).unwrap(), Scope::Sealed, &mut out).unwrap();
    let key = keys::load_public(&keys::public_path(&keys::default_path(path))).unwrap();
    verify_file(&file, &key, None).unwrap()
}

#[test]
fn every_decision_and_every_outcome_is_an_entry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let engine = open(&path, &clock);
    let gates = policy(&engine);
    let (_, first) = admit(&engine, &gates, 5);
    let settlement =
        Settlement { outcome: Outcome::Done(None), health: Health::Success, actual: &[Amount::ONE] };
    engine.finish(first.unwrap(), &settlement).unwrap();
    let (_, second) = admit(&engine, &gates, 5);
    engine.finish(second.unwrap(), &Settlement::new(Outcome::InDoubt, Health::Failure)).unwrap();
    assert_eq!(admit(&engine, &gates, 500).0, Verdict::Block);
    for _ in 0..40 {
        assert_eq!(admit(&engine, &gates, 500).0, Verdict::Block);
    }
    clock.advance(Span::from_secs(11));
    // Left open: the store is closed before it ends, as when a program forgets about it.
    admit(&engine, &gates, 5);
    drop(engine);
    assert_eq!(told(&path), EXPECTED);
    let report = verified(&path);
    assert!(report.is_valid(), "{report:?}");
    assert_eq!(report.entries, 11);
}

const EXPECTED: &str = "\
kind=event event=opened
kind=event event=policy
kind=intent user=ada permit=1
kind=outcome permit=1 outcome=done by=caller
kind=intent user=ada permit=2
kind=outcome permit=2 outcome=in_doubt by=caller
kind=refusal user=ada code=budget_exceeded
kind=refusal user=ada code=budget_exceeded count=40
kind=intent user=ada permit=3
kind=outcome permit=3 outcome=in_doubt by=recovery
kind=event event=closed
";

#[test]
fn records_that_are_not_those_a_checkpoint_signed_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let make = || {
        let engine = open(&path, &clock);
        let gates = policy(&engine);
        admit(&engine, &gates, 5);
    };
    let check = || {
        let options = SqliteOptions { seal: None, check_at_open: false, ..SqliteOptions::default() };
        SqliteStore::open(&path, options).unwrap().check().unwrap().signed
    };
    make();
    assert_eq!(check(), None);
    // Somebody puts the head of an earlier day back, and leaves the ledger as it is ...
    let change = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    change("CREATE TABLE kept AS SELECT *, (SELECT count(*) FROM entry) AS entries FROM meta");
    make();
    change(
        "UPDATE meta SET body = (SELECT body FROM kept WHERE kept.key = meta.key) \
         WHERE key <> CAST('sealed' AS BLOB)",
    );
    let options = SqliteOptions { seal: None, ..SqliteOptions::default() };
    let refused = SqliteStore::open(&path, options).map(drop).unwrap_err().to_string();
    assert!(refused.contains("records are missing"), "{refused}");
    let options = SqliteOptions { seal: None, check_at_open: false, ..SqliteOptions::default() };
    let refused = SqliteStore::open(&path, options).map(drop).unwrap_err().to_string();
    assert!(refused.contains("the ledger has"), "{refused}");
    // ... or cuts the ledger to where that head says it ends.
    change("DELETE FROM entry WHERE key >= (SELECT max(entries) FROM kept)");
    let found = check().unwrap_or_default();
    assert!(found.contains("commits are lost"), "{found}");
}

#[test]
fn a_ledger_whose_checkpoints_and_tiles_were_taken_away_is_not_signed_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let engine = open(&path, &clock);
    admit(&engine, &policy(&engine), 5);
    drop(engine);
    let file = || rusqlite::Connection::open(&path).unwrap();
    let count =
        || file().query_row("SELECT count(*) FROM checkpoint", [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(count() > 0);
    file().execute_batch("DELETE FROM checkpoint; DELETE FROM tile").unwrap();
    let refused = SqliteStore::open(&path, SqliteOptions::default()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("its newest checkpoint is over 0"), "{refused}");
    assert_eq!(count(), 0, "nothing was signed");
}

#[test]
fn no_key_is_made_for_a_ledger_that_another_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let engine = open(&path, &clock);
    admit(&engine, &policy(&engine), 5);
    drop(engine);
    let key = keys::default_path(&path);
    let public = std::fs::read(keys::public_path(&key)).unwrap();
    let names = || {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        // What SQLite puts beside a file that it reads.
        let own = |name: &String| !name.ends_with("-shm") && !name.ends_with("-wal");
        names.filter(own).collect::<std::collections::BTreeSet<_>>()
    };
    let refused =
        |options: SqliteOptions| SqliteStore::open(&path, options).map(drop).unwrap_err().to_string();
    let before = names();
    let mistyped = SqliteOptions { key: Some(directory.path().join("mistyped")), ..SqliteOptions::default() };
    let text = refused(mistyped);
    assert!(text.contains("mistyped") && text.contains("restore that file"), "{text}");
    assert_eq!(names(), before, "nothing was made");
    let aside = directory.path().join("aside");
    std::fs::rename(&key, &aside).unwrap();
    let text = refused(SqliteOptions::default());
    assert!(text.contains("checkrein.db.key") && text.contains("has been sealed by a key"), "{text}");
    // A copy has no public key beside it either.
    let copy = directory.path().join("copy.db");
    checkrein::store::sqlite::backup(&path, &copy).unwrap();
    let text = SqliteStore::open(&copy, SqliteOptions::default()).map(drop).unwrap_err().to_string();
    assert!(text.contains("copy.db.key") && text.contains("a copy of the key"), "{text}");
    assert!(!keys::default_path(&copy).exists());
    assert!(!key.exists());
    assert_eq!(std::fs::read(keys::public_path(&key)).unwrap(), public);
    let named = SqliteOptions { key: Some(aside), ..SqliteOptions::default() };
    drop(SqliteStore::open(&path, named).unwrap());
}

#[test]
fn a_witness_that_cannot_be_written_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    for (witness, why) in [("/nonexistent/w.txt", "No such file"), ("ftp://x", "a witness is a file")] {
        let options = SqliteOptions { witness: Some(witness.to_owned()), ..SqliteOptions::default() };
        let text = SqliteStore::open(&path, options).map(drop).unwrap_err().to_string();
        assert!(text.contains(witness) && text.contains(why), "{text}");
    }
}

#[test]
fn the_ledger_gives_no_digest_without_a_salt_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkrein.db");
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let engine = open(&path, &clock);
    let (keep_result, keep_key) = (Span::from_secs(60), Span::from_secs(600));
    let once = gate("once", GateSpecKind::Once { keep_result, keep_key });
    let gates = engine.compile(vec![once], Leases::default()).unwrap();
    let digest = RequestDigest::from_bytes([0xab; 32]);
    let action = Action { name: "pay", arguments: Some(b"{}"), digest: Some(digest), ..Action::default() };
    let inputs = Inputs {
        once: Some((KeyValue::Bytes(b"k"), digest)),
        start: true,
        action: Some(&action),
        ..Inputs::default()
    };
    let permit = engine.admit(&gates, &inputs).permit.unwrap();
    engine.finish(permit, &Settlement::new(Outcome::InDoubt, Health::Neutral)).unwrap();
    let family = engine.families().first().unwrap().family;
    let key = KeyRef { family, tenant: b"", key: b"k" };
    assert_eq!(engine.resolve(key, None, OperationState::FailedClean), Ok(true));
    drop(engine);
    let entries = Database::open(&path).unwrap().entries(0, 1_000).unwrap();
    let all: String = entries.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect();
    assert!(all.contains("\"event\":\"resolved\""), "{all}");
    assert!(!all.contains(&digest.to_string()), "{all}");
}
