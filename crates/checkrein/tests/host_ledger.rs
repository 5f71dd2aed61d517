//! A host's own ledger beside a store that several hosts share: what comes in, comes in once, and what does not is said.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkrein::clock::{Clock, FakeClock};
use checkrein::core::admission::{Action, Admission, Inputs, Verdict};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::ledger::entry::{By, Ending, EntryView, Kind, Outcome, ShortId};
use checkrein::core::policy::{Leases, Mode};
use checkrein::core::time::{Span, Timestamp};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::ledger::{Database, Drafts, HostLedger, Scope, export, keys, verify_file};
use checkrein::store::durable::{Incoming, KeepArguments, Taken};
use checkrein::store::sqlite::{SqliteOptions, backup};
use checkrein::store::{OwnedInputs, StoreError};

const NOW: i64 = 1_790_000_000_000_000_000;
const STORE: ShortId = ShortId::from_bytes([5; 8]);
const TAG: ShortId = ShortId::from_bytes([7; 8]);
const LIST: ShortId = ShortId::from_bytes([9; 8]);

struct Ground {
    directory: tempfile::TempDir,
    clock: FakeClock,
}

impl Ground {
    fn new() -> Self {
        let clock = FakeClock::new(Timestamp::from_nanos(NOW));
        Self { directory: tempfile::tempdir().unwrap(), clock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self, name: &str) -> HostLedger {
        let clock = Some(Clock::fake(self.clock.clone()));
        let options = SqliteOptions { clock, ..SqliteOptions::default() };
        HostLedger::open(&self.path(name), options).unwrap()
    }
}

fn outcome(permit: u64) -> Outcome<'static> {
    let (ending, health, by) = (Ending::Done, Health::Success, By::Caller);
    Outcome { permit: Some(permit), intent: None, ending, health, actual: &[], by, note: "", meters: &[] }
}

fn drafts(of: &Drafts, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|permit| of.outcome(Timestamp::from_nanos(NOW), TAG, None, &outcome(permit))).collect()
}

fn incoming(first: u64, drafts: &[Vec<u8>]) -> Incoming {
    Incoming { store: STORE, tag: TAG, list: LIST, first, drafts: drafts.to_vec() }
}

/// What the ledger says of drafts, an entry a line.
fn told(path: &Path) -> String {
    let mut lines = String::new();
    for (_, bytes) in Database::open(path).unwrap().entries(0, 10_000).unwrap() {
        let entry = EntryView::read(&bytes).unwrap();
        if let Some((_, drained)) = entry.source {
            lines += &format!("{} permit {}\n", drained.number, entry.permit.unwrap());
        } else if let Some(event) =
            entry.event.filter(|event| event.starts_with("outbox") || event.starts_with("draft"))
        {
            lines += &event;
            for (name, value) in &entry.fields {
                if ["store", "tag", "digest"].contains(&&**name) {
                    continue;
                }
                lines += &format!(" {name}={value}");
            }
            lines += "\n";
        }
    }
    lines
}

fn assert_verifies(path: &Path) {
    let file = path.with_extension("jsonl");
    let mut out = std::fs::File::create(&file).unwrap();
    export(&Database::open(path).unwrap(), Scope::Sealed, &mut out).unwrap();
    let key = keys::load_public(&keys::public_path(&keys::default_path(path))).unwrap();
    let report = verify_file(&file, &key, None).unwrap();
    assert!(report.is_valid(), "{report:?}");
    assert_eq!(report.entries, Database::open(path).unwrap().size().unwrap());
}

#[test]
fn a_host_keeps_its_name_and_another_has_another() {
    let ground = Ground::new();
    let (one, two) = (ground.open("a.db"), ground.open("b.db"));
    let name = one.host();
    assert_ne!(name, two.host());
    drop(one);
    assert_eq!(ground.open("a.db").host(), name);
    assert_eq!(Database::open(&ground.path("a.db")).unwrap().host().unwrap(), Some(name));
    let none = SqliteOptions { ledger: None, ..SqliteOptions::default() };
    assert!(HostLedger::open(&ground.path("c.db"), none).is_err());
}

#[test]
fn what_comes_again_is_known_and_what_is_missing_is_said() {
    let ground = Ground::new();
    let path = ground.path("a.db");
    let ledger = ground.open("a.db");
    let all = drafts(&ledger.join(STORE, 3).unwrap(), 10);
    let whole = Taken { next: 4, appended: 4, ..Taken::default() };
    assert_eq!(ledger.take_in(incoming(0, &all[..4])).unwrap(), whole);
    // Nobody acknowledged: the same again, and two more.
    let again = Taken { next: 6, appended: 2, known: 4, ..Taken::default() };
    assert_eq!(ledger.take_in(incoming(0, &all[..6])).unwrap(), again);
    // Another process read before these two came.
    let late = Taken { next: 4, known: 4, ..Taken::default() };
    assert_eq!(ledger.take_in(incoming(0, &all[..4])).unwrap(), late);
    // The file is opened again, and the list goes on two later.
    drop(ledger);
    let ledger = ground.open("a.db");
    let gap = Taken { next: 10, appended: 2, missing: 2, ..Taken::default() };
    assert_eq!(ledger.take_in(incoming(8, &all[8..])).unwrap(), gap);
    // Said once, also when nothing comes.
    assert_eq!(ledger.take_in(incoming(12, &[])).unwrap().missing, 2);
    assert_eq!(ledger.take_in(incoming(12, &[])).unwrap().missing, 0);
    drop(ledger);
    assert_eq!(
        told(&path),
        "0 permit 0\n1 permit 1\n2 permit 2\n3 permit 3\n4 permit 4\n5 permit 5\n\
         outbox_gap before=8 from=6 list=0909090909090909\n8 permit 8\n9 permit 9\n\
         outbox_gap before=12 from=10 list=0909090909090909\n"
    );
    assert_verifies(&path);
}

#[test]
fn a_list_that_was_taken_back_gets_another_name_and_loses_nothing() {
    let ground = Ground::new();
    let path = ground.path("a.db");
    let ledger = ground.open("a.db");
    let all = drafts(&ledger.join(STORE, 3).unwrap(), 8);
    ledger.take_in(incoming(0, &all[..2])).unwrap();
    ledger.take_in(incoming(2, &all[2..5])).unwrap();
    // The server came back with what it had after the first three, and others were put behind them.
    let mut list = vec![all[2].clone()];
    list.extend_from_slice(&all[5..]);
    let back = ledger.take_in(incoming(2, &list)).unwrap();
    assert_eq!(back, Taken { next: 3, known: 1, taken_back: true, ..Taken::default() });
    // So does one that goes back further than is remembered.
    let far = ledger.take_in(incoming(1, &all[1..2])).unwrap();
    assert_eq!(far, Taken { next: 1, taken_back: true, ..Taken::default() });
    let list = ShortId::from_bytes([10; 8]);
    let renamed = Incoming { list, ..incoming(0, &all[5..]) };
    assert_eq!(ledger.take_in(renamed).unwrap(), Taken { next: 3, appended: 3, ..Taken::default() });
    drop(ledger);
    assert_eq!(
        told(&path),
        "0 permit 0\n1 permit 1\n2 permit 2\n3 permit 3\n4 permit 4\n\
         outbox_replaced before=0909090909090909 list=0a0a0a0a0a0a0a0a next=5\n\
         0 permit 5\n1 permit 6\n2 permit 7\n"
    );
    assert_verifies(&path);
}

#[test]
fn what_is_no_draft_for_this_ledger_is_kept_aside() {
    let ground = Ground::new();
    let path = ground.path("a.db");
    let (ledger, other) = (ground.open("a.db"), ground.open("b.db"));
    let own = ledger.join(STORE, 3).unwrap();
    let good = drafts(&own, 2);
    let foreign = drafts(&other.join(STORE, 4).unwrap(), 1).remove(0);
    let elsewhere = drafts(&ledger.join(ShortId::from_bytes([1; 8]), 3).unwrap(), 1).remove(0);
    let strange_tag = own.outcome(Timestamp::from_nanos(NOW), ShortId::default(), None, &outcome(1));
    let list =
        [good[0].clone(), b"not JSON\xff".to_vec(), foreign.clone(), elsewhere, strange_tag, good[1].clone()];
    let taken = ledger.take_in(incoming(0, &list)).unwrap();
    assert_eq!(taken, Taken { next: 6, appended: 2, kept_aside: 4, ..Taken::default() });
    assert_eq!(ledger.kept_aside(LIST, 1).unwrap().unwrap(), list[1]);
    assert_eq!(ledger.kept_aside(LIST, 2).unwrap().unwrap(), foreign);
    assert_eq!(ledger.kept_aside(LIST, 5).unwrap(), None);
    let host = other.host();
    drop(ledger);
    assert_eq!(
        told(&path),
        format!(
            "0 permit 0\n\
             draft_kept_aside bytes=9 list=0909090909090909 number=1 why=not a canonical entry: UTF-8 expected at byte 8\n\
             draft_kept_aside bytes={} list=0909090909090909 number=2 why=it is of another host: {host}\n\
             draft_kept_aside bytes={} list=0909090909090909 number=3 why=it is of another store: 0101010101010101\n\
             draft_kept_aside bytes={} list=0909090909090909 number=4 why=it is of another part of the store: \
             0000000000000000\n\
             5 permit 1\n",
            foreign.len(),
            list[3].len(),
            list[4].len()
        )
    );
    assert_verifies(&path);
}

#[test]
fn a_flood_of_what_is_no_draft_stays_in_the_list() {
    let ground = Ground::new();
    let ledger = ground.open("a.db");
    let rubbish = vec![b"rubbish".to_vec(); 1_001];
    let error = ledger.take_in(incoming(0, &rubbish)).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged(what) if what.contains("at 1000")), "{error}");
    // Nothing of it was taken, and what fits is.
    assert_eq!(ledger.kept_aside(LIST, 0).unwrap(), None);
    assert_eq!(ledger.take_in(incoming(0, &rubbish[..1_000])).unwrap().kept_aside, 1_000);
    assert!(ledger.take_in(incoming(1_000, &rubbish[1_000..])).is_err());
}

fn policy() -> (Arc<CompiledPolicy>, Engine) {
    let engine = Engine::builder().build();
    let window = WindowSpec::Rolling(Span::from_secs(60));
    let kind = GateSpecKind::Limit { key: 0, max_calls: 3, window, cooldown: Span::ZERO };
    let gate = GateSpec { name: "calls".into(), mode: Mode::Enforce, kind };
    (engine.compile(vec![gate], Leases::default()).unwrap(), engine)
}

#[test]
fn refusals_and_policies_are_the_hosts_own_and_intents_come_with_their_salt() {
    let ground = Ground::new();
    let path = ground.path("a.db");
    let ledger = ground.open("a.db");
    let drafts = ledger.join(STORE, 3).unwrap();
    let (policy, _engine) = policy();
    let action = Action {
        name: "refund",
        arguments: Some(br#"{"amount":5}"#),
        digest: Some(RequestDigest::from_bytes([7; 32])),
        ..Action::default()
    };
    let inputs = Inputs { tenant: "acme", start: true, action: Some(&action), ..Inputs::default() };
    ledger.policy(&policy).unwrap();
    ledger.policy(&policy).unwrap();
    let refusal = Admission::store_error(checkrein::core::code::Code::RateLimited, "too many");
    for _ in 0..30 {
        ledger.decided(&policy, OwnedInputs::from(&inputs), refusal.clone(), Vec::new()).unwrap();
    }
    ledger.flush().unwrap();
    let allowed = Admission { verdict: Verdict::Allow, reasons: Vec::new(), ..refusal };
    let time = Timestamp::from_nanos(NOW - 5);
    let intent = drafts.intent(time, TAG, &policy, &inputs, &allowed, &[], Some(1 << 33));
    let ended = drafts.outcome(time, TAG, Some(ledger.host()), &outcome(1 << 33));
    ledger.take_in(incoming(0, &[intent, ended])).unwrap();
    assert_eq!(ledger.error(), None);
    drop(ledger);

    let database = Database::open(&path).unwrap();
    let entries = database.entries(0, 100).unwrap();
    let entries: Vec<EntryView<'_>> =
        entries.iter().map(|(_, body)| EntryView::read(body).unwrap()).collect();
    let events: Vec<&str> = entries.iter().filter_map(|entry| entry.event.as_deref()).collect();
    assert_eq!(events, ["opened", "host_named", "joined", "policy", "closed"]);
    let refusals: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Refusal).collect();
    assert_eq!(refusals.iter().map(|refusal| refusal.repeated.map_or(1, |more| more.count)).sum::<u64>(), 30);
    assert!(refusals.len() <= 2 && refusals.iter().all(|refusal| refusal.source.is_none()));
    let intent = entries.iter().find(|entry| entry.kind == Kind::Intent).unwrap();
    assert_eq!((intent.time, intent.permit, intent.epoch), (time, Some(1 << 33), 3));
    assert_eq!(intent.policy, Some(*policy.digest()));
    let salt: Vec<u8> = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT body FROM salt WHERE key = ?1", [intent.seq.cast_signed()], |row| row.get(0))
        .unwrap();
    let expected =
        checkrein::core::ledger::entry::salted_arguments(&salt.try_into().unwrap(), br#"{"amount":5}"#);
    assert_eq!(intent.arguments, checkrein::core::ledger::entry::ArgumentsView::Digest(expected));
    assert_verifies(&path);
}

#[test]
fn a_ledger_from_a_backup_says_what_it_misses() {
    let ground = Ground::new();
    let (path, copy) = (ground.path("a.db"), ground.path("backup.db"));
    let ledger = ground.open("a.db");
    let all = drafts(&ledger.join(STORE, 3).unwrap(), 6);
    ledger.take_in(incoming(0, &all[..2])).unwrap();
    backup(&path, &copy).unwrap();
    ledger.take_in(incoming(2, &all[2..4])).unwrap();
    drop(ledger);
    let clock = Some(Clock::fake(ground.clock.clone()));
    let key = Some(keys::default_path(&path));
    let options = SqliteOptions { clock, key, ledger: Some(KeepArguments::None), ..SqliteOptions::default() };
    let ledger = HostLedger::open(&copy, options).unwrap();
    let taken = ledger.take_in(incoming(4, &all[4..])).unwrap();
    assert_eq!(taken, Taken { next: 6, appended: 2, missing: 2, ..Taken::default() });
}
