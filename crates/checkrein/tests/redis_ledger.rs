//! The ledgers of hosts that share a Redis server: what is decided there is an entry here, once, through crashes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::ledger::{Database, HostLedger, LedgerAt, keys, verify_with};
use checkrein::store::durable::{Incoming, KeepArguments};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein_core::admission::{Action, Inputs, KeyValue, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::once::OperationState;
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::ledger::entry::{EntryView, Kind, ShortId};
use checkrein_core::ledger::together::{Compared, Finding, Together};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode, RecordKind};
use checkrein_core::time::{Span, Timestamp};

#[path = "redis/servers.rs"]
#[expect(dead_code, clippy::indexing_slicing, clippy::print_stderr, reason = "each test uses a part of it")]
mod servers;

use servers::Server;

const URL: &str = "CHECKREIN_TEST_URL";
const LEDGER: &str = "CHECKREIN_TEST_LEDGER";
const CALLS: usize = 20;

fn ledger_options(clock: Option<&FakeClock>) -> SqliteOptions {
    let clock = clock.map(|clock| Clock::fake(clock.clone()));
    SqliteOptions { clock, ledger: Some(KeepArguments::Full), ..SqliteOptions::default() }
}

/// A store whose outbox is only taken out when it is asked for, or closed.
fn open(url: &str, path: &Path, clock: Option<&FakeClock>) -> RedisStore {
    open_with(url, path, clock, Duration::from_secs(3_600))
}

fn open_with(url: &str, path: &Path, clock: Option<&FakeClock>, housekeeping: Duration) -> RedisStore {
    let at = LedgerAt { path: path.to_owned(), options: ledger_options(clock) };
    let options = RedisOptions {
        deadline: Duration::from_secs(30),
        housekeeping,
        clock: clock.map(|clock| Clock::fake(clock.clone())),
        ledger: Some(at),
        ..RedisOptions::default()
    };
    RedisStore::open(url, options).unwrap()
}

fn engine(store: &RedisStore) -> Engine {
    Engine::builder().redis(store.clone()).build()
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn limit(max_calls: u64) -> GateSpec {
    let (window, cooldown) = (WindowSpec::Rolling(Span::from_secs(60)), Span::ZERO);
    gate("calls", GateSpecKind::Limit { key: 0, max_calls, window, cooldown })
}

fn budget(units: u64) -> GateSpec {
    let (limit, window) = (Amount::from_units(units), WindowSpec::Lifetime);
    let (unit, charge) = (Unit::Usd, Charge::Hold);
    gate("money", GateSpecKind::Budget { key: 0, limit, unit, window, cost: 0, charge, hard: false })
}

fn compile(engine: &Engine, gates: Vec<GateSpec>) -> Arc<CompiledPolicy> {
    let policy = engine.compile(gates, Leases::default()).unwrap();
    assert!(engine.keeps_ledger());
    policy
}

/// Everything that an action may say.
fn with_inputs<T>(key: &[u8], once: Option<&[u8]>, then: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let digest = RequestDigest::from_bytes([7; 32]);
    let action = Action {
        namespace: "stripe",
        name: "refund",
        user: std::str::from_utf8(key).unwrap(),
        arguments: Some(br#"{"amount":5}"#),
        digest: Some(digest),
        ..Action::default()
    };
    then(&Inputs {
        tenant: "acme",
        keys: &[KeyValue::Bytes(key)],
        costs: &[Cost::proven(Amount::from_units(2))],
        once: once.map(|key| (KeyValue::Bytes(key), digest)),
        start: true,
        action: Some(&action),
        ..Inputs::default()
    })
}

/// One call, allowed and done.
fn call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &str) {
    let admitted = with_inputs(key.as_bytes(), None, |inputs| engine.admit(policy, inputs));
    assert_eq!(admitted.admission.verdict, Verdict::Allow, "{:?}", admitted.admission.reasons);
    engine.finish(admitted.permit.unwrap(), &Settlement::new(Outcome::Done(None), Health::Success)).unwrap();
}

/// The ledgers, each verified by itself and all of them together.
fn compared(paths: &[&Path]) -> Compared {
    let mut together = Together::new();
    for path in paths {
        let key = keys::load_public(&keys::public_path(&keys::default_path(path))).unwrap();
        let report = verify_with(path, &key, None, &mut together, &mut |_, _| ()).unwrap();
        assert!(report.is_valid(), "{report:?}");
        assert_eq!(report.entries, Database::open(path).unwrap().size().unwrap(), "everything is sealed");
    }
    together.finish()
}

/// How many entries there are of a kind.
fn count(path: &Path, kind: Kind) -> usize {
    let entries = Database::open(path).unwrap().entries(0, 100_000).unwrap();
    entries.iter().filter(|(_, body)| EntryView::read(body).unwrap().kind == kind).count()
}

fn events(path: &Path) -> Vec<String> {
    let entries = Database::open(path).unwrap().entries(0, 100_000).unwrap();
    let event = |(_, body): &(u64, Vec<u8>)| EntryView::read(body).unwrap().event.map(|e| e.into_owned());
    entries.iter().filter_map(event).collect()
}

/// The one key that matches.
fn key(server: &Server, pattern: &str) -> String {
    let keys = server.cli(&["KEYS", pattern]);
    assert_eq!(keys.lines().count(), 1, "{pattern}: {keys}");
    keys
}

fn outbox(server: &Server, host: ShortId) -> (String, String) {
    (key(server, &format!("*:out:{host}")), format!("{}:at", key(server, &format!("*:out:{host}"))))
}

fn paths(directory: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    (directory.path().join("a.db"), directory.path().join("b.db"))
}

#[test]
fn two_hosts_have_what_they_did_and_together_everything() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (one, two) = paths(&directory);
    let clock = FakeClock::new(Timestamp::from_nanos(1_790_000_000_000_000_000));
    let often = Duration::from_millis(20);
    let a = open(&server.url(), &one, Some(&clock));
    let b = open_with(&server.url(), &two, Some(&clock), often);
    let (first, second) = (engine(&a), engine(&b));
    let gates = || vec![limit(8), budget(1_000)];
    let (at_first, at_second) = (compile(&first, gates()), compile(&second, gates()));
    (0..3).for_each(|_| call(&first, &at_first, "ada"));
    (0..4).for_each(|_| call(&second, &at_second, "ada"));
    // One that its host does not end: the other sees to its lease, twice.
    let left = with_inputs(b"ada", None, |inputs| first.admit(&at_first, inputs));
    assert!(left.permit.is_some());
    for _ in 0..5 {
        let refused = with_inputs(b"ada", None, |inputs| second.admit(&at_second, inputs));
        assert_eq!(refused.admission.verdict, Verdict::Block);
    }
    drop((first, a));
    let host = Database::open(&one).unwrap().host().unwrap().unwrap();
    for outcomes in 5..=6 {
        clock.advance(Span::from_secs(2 * 3_600));
        servers::until("the lease has been seen to", || {
            b.drain().unwrap();
            count(&two, Kind::Outcome) == outcomes
        });
    }
    assert_eq!(b.ledger_error(), None);
    drop((second, b));
    assert_eq!(
        (count(&one, Kind::Intent), count(&one, Kind::Outcome), count(&one, Kind::Refusal)),
        (4, 3, 0)
    );
    assert_eq!((count(&two, Kind::Intent), count(&two, Kind::Refusal)), (4, 2));
    let both = compared(&[&one, &two]);
    assert!(both.is_sound(), "{both:?}");
    assert_eq!((both.open, both.absent.len()), (0, 0));
    let alone = compared(&[&two]);
    assert!(alone.is_sound(), "{alone:?}");
    assert_eq!(alone.absent, [(host, 2)]);
}

#[test]
fn what_was_appended_and_not_acknowledged_is_known_again() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (path, _) = paths(&directory);
    let store = open(&server.url(), &path, None);
    let running = engine(&store);
    let gates = compile(&running, vec![limit(1_000)]);
    (0..CALLS).for_each(|_| call(&running, &gates, "ada"));
    store.run(Vec::new()).unwrap();
    let ledger = store.ledger().unwrap().unwrap();
    let (list, mark) = outbox(&server, ledger.host());
    // What a process does that dies between its ledger's commit and the acknowledgement.
    let name = ShortId::from_bytes([3; 8]);
    server.cli(&["SET", &mark, &format!("{name} 0")]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let drafts: Vec<Vec<u8>> = redis::cmd("LRANGE").arg(&list).arg(0).arg(9).query(&mut connection).unwrap();
    let shared = ShortId::parse(&server.cli(&["GET", &key(&server, "*:name")])).unwrap();
    let tag = ShortId::parse(list.split(['{', '}']).nth(1).unwrap()).unwrap();
    let incoming = Incoming { store: shared, tag, list: name, first: 0, drafts };
    assert_eq!(ledger.take_in(incoming).unwrap().appended, 10);
    drop(ledger);
    store.drain().unwrap();
    store.drain().unwrap();
    assert_eq!(server.cli(&["LLEN", &list]), "0");
    assert_eq!(server.cli(&["GET", &mark]), format!("{name} {}", 2 * CALLS));
    drop((running, store));
    assert_eq!((count(&path, Kind::Intent), count(&path, Kind::Outcome)), (CALLS, CALLS));
    let all = compared(&[&path]);
    assert!(all.is_sound(), "{all:?}");
    assert_eq!(all.shared, 2 * CALLS as u64);
}

/// Not a test of its own: a host that is killed with everything in its outbox.
#[test]
fn helper() {
    let (Ok(url), Ok(path)) = (std::env::var(URL), std::env::var(LEDGER)) else { return };
    let store = open(&url, Path::new(&path), None);
    let running = engine(&store);
    let gates = compile(&running, vec![limit(1_000), budget(1_000)]);
    (0..CALLS).for_each(|_| call(&running, &gates, "ada"));
    // One more is running when the end comes.
    with_inputs(b"ada", None, |inputs| running.admit(&gates, inputs)).permit.unwrap();
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, b"\nall done\n").unwrap();
    std::io::Write::flush(&mut out).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

fn start(url: &str, path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper", "--nocapture"]).env(URL, url).env(LEDGER, path);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "all done"), "the host has ended");
    child
}

#[test]
fn a_host_that_was_killed_finds_its_outbox_again() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (path, _) = paths(&directory);
    let mut child = start(&server.url(), &path);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count(&path, Kind::Intent), 0, "nothing had come in");
    let store = open(&server.url(), &path, None);
    let host = store.ledger().unwrap().unwrap().host();
    let (list, _) = outbox(&server, host);
    assert_eq!(server.cli(&["LLEN", &list]), (2 * CALLS + 1).to_string());
    drop(store);
    assert_eq!(server.cli(&["LLEN", &list]), "0");
    assert_eq!((count(&path, Kind::Intent), count(&path, Kind::Outcome)), (CALLS + 1, CALLS));
    let all = compared(&[&path]);
    assert!(all.is_sound(), "{all:?}");
    assert_eq!(all.open, 1);
    let events = events(&path);
    assert_eq!(events.iter().filter(|event| *event == "joined").count(), 2, "{events:?}");
}

#[test]
fn a_server_that_lost_everything_is_noted() {
    if servers::missing() {
        return;
    }
    let (mut server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (path, _) = paths(&directory);
    let store = open(&server.url(), &path, None);
    let running = engine(&store);
    let gates = compile(&running, vec![limit(1_000)]);
    (0..3).for_each(|_| call(&running, &gates, "ada"));
    store.drain().unwrap();
    (0..2).for_each(|_| call(&running, &gates, "ada"));
    // Light outcomes go out with the next batch; a peek comes after them.
    with_inputs(b"ada", None, |inputs| running.peek(&gates, inputs));
    server.restart();
    call(&running, &gates, "ada");
    store.drain().unwrap();
    drop((running, store));
    assert_eq!((count(&path, Kind::Intent), count(&path, Kind::Outcome)), (4, 4));
    assert!(events(&path).contains(&"outbox_replaced".to_owned()), "{:?}", events(&path));
    let all = compared(&[&path]);
    assert_eq!(all.replaced.len(), 1, "{all:?}");
}

#[test]
fn a_list_that_was_taken_back_loses_nothing() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (path, _) = paths(&directory);
    let store = open(&server.url(), &path, None);
    let running = engine(&store);
    let gates = compile(&running, vec![limit(1_000)]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let done = |count: usize| {
        (0..count).for_each(|_| call(&running, &gates, "ada"));
        let host = store.ledger().unwrap().unwrap().host();
        let (list, _) = outbox(&server, host);
        // Light outcomes are committed by somebody else.
        servers::until("all outcomes are there", || {
            server.cli(&["LLEN", &list]).parse::<usize>().unwrap() >= 2 * count
        });
        list
    };
    let list = done(2);
    let mark = format!("{list}:at");
    server.cli(&["SET", &mark, &format!("{} 0", ShortId::from_bytes([3; 8]))]);
    let mut dump = |key: &str| -> Vec<u8> { redis::cmd("DUMP").arg(key).query(&mut connection).unwrap() };
    let (saved_list, saved_mark) = (dump(&list), dump(&mark));
    store.drain().unwrap();
    done(3);
    store.drain().unwrap();
    let mut restore = |key: &str, bytes: &[u8]| {
        let mut command = redis::cmd("RESTORE");
        let () = command.arg(key).arg(0).arg(bytes).arg("REPLACE").query(&mut connection).unwrap();
    };
    restore(&list, &saved_list);
    restore(&mark, &saved_mark);
    call(&running, &gates, "ada");
    store.drain().unwrap();
    drop((running, store));
    // The two that had come in long before came again; nobody knows that they had, and nothing is lost.
    assert_eq!((count(&path, Kind::Intent), count(&path, Kind::Outcome)), (8, 8));
    let all = compared(&[&path]);
    let twice = all.findings.iter().filter(|finding| matches!(finding, Finding::Twice { .. })).count();
    assert_eq!((twice, all.findings.len()), (4, 4), "{all:?}");
    assert_eq!(all.replaced.len(), 1);
}

#[test]
fn two_processes_of_a_host_may_take_from_one_list() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let (path, _) = paths(&directory);
    // Two hubs of this process stand for two processes: another deadline makes another store of it.
    let one = open(&server.url(), &path, None);
    let at = LedgerAt { path: path.clone(), options: ledger_options(None) };
    let options =
        RedisOptions { deadline: Duration::from_secs(29), ledger: Some(at), ..RedisOptions::default() };
    let two = RedisStore::open(&server.url(), options).unwrap();
    let (first, second) = (engine(&one), engine(&two));
    let (at_first, at_second) = (compile(&first, vec![limit(1_000)]), compile(&second, vec![limit(1_000)]));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| call(&first, &at_first, "ada")));
        scope.spawn(|| (0..100).for_each(|_| call(&second, &at_second, "bob")));
        for store in [&one, &two] {
            scope.spawn(|| (0..50).for_each(|_| store.drain().unwrap()));
        }
    });
    drop((first, second, one, two));
    assert_eq!((count(&path, Kind::Intent), count(&path, Kind::Outcome)), (200, 200));
    let all = compared(&[&path]);
    assert!(all.is_sound(), "{all:?}");
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One history, by whatever engine: `settle` is called after each step.
fn history(engine: &Engine, clock: &FakeClock, seed: u64, settle: &dyn Fn()) {
    let once = GateSpecKind::Once { keep_result: Span::from_secs(600), keep_key: Span::from_secs(3_600) };
    let gates = compile(engine, vec![limit(6), budget(30), gate("once", once)]);
    // Something is held: outcomes are waited for, and have the time at which they were told.
    let plain = compile(engine, vec![limit(6), budget(30)]);
    let (mut random, mut open) = (Random(seed), Vec::new());
    for _ in 0..120 {
        let user: &[u8] = if random.below(2) == 0 { b"ada" } else { b"bob" };
        match random.below(10) {
            0..=2 => {
                let key = format!("k{}", random.below(8));
                let admitted = with_inputs(user, Some(key.as_bytes()), |inputs| engine.admit(&gates, inputs));
                open.extend(admitted.permit);
            }
            3..=4 => {
                let admitted = with_inputs(user, None, |inputs| engine.admit(&plain, inputs));
                open.extend(admitted.permit);
            }
            5..=7 if !open.is_empty() => {
                let permit = open.remove(random.below(open.len() as u64) as usize);
                let outcome = match random.below(4) {
                    0 => Outcome::FailedClean,
                    1 => Outcome::InDoubt,
                    _ => Outcome::Done(None),
                };
                let settlement = Settlement { outcome, health: Health::Success, actual: &[Amount::ONE] };
                // Its lease may have ended.
                let _ = engine.finish(permit, &settlement);
            }
            8 => clock.advance(Span::from_secs(random.below(900) as u32)),
            _ => {
                let name = if random.below(2) == 0 { "calls" } else { "once" };
                let family = engine.families().into_iter().find(|known| known.name == name);
                let family: Family = family.unwrap().family;
                let meters = with_inputs(user, None, |inputs| engine.peek(&plain, inputs)).1;
                let idle = meters.iter().any(|meter| &*meter.gate == "calls" && meter.spent == Amount::ZERO);
                if name == "calls" && idle {
                    // Whether an idle record is still there is for each store to say.
                } else if name == "calls" {
                    let key = KeyRef { family, tenant: b"acme", key: user };
                    engine.reset(RecordKind::Meter, key).unwrap();
                } else {
                    let key = KeyRef { family, tenant: b"acme", key: b"k1" };
                    engine.resolve(key, None, OperationState::FailedClean).unwrap();
                }
            }
        }
        settle();
    }
    clock.advance(Span::from_secs(4 * 3_600));
    with_inputs(b"ada", None, |inputs| engine.peek(&plain, inputs));
    settle();
}

/// What a ledger says, without numbers and links, and in the order of the words: which of two entries of one instant came
/// first is not the same. Of equal refusals it is how many there were: how many share an entry depends on when the ledger
/// is written.
fn told(path: &Path) -> Vec<String> {
    let entries = Database::open(path).unwrap().entries(0, 100_000).unwrap();
    let (mut lines, mut refusals) = (Vec::new(), std::collections::BTreeMap::new());
    for (_, body) in &entries {
        let entry = EntryView::read(body).unwrap();
        let about = ["opened", "closed", "host_named", "joined"];
        if entry.event.as_deref().is_some_and(|event| about.contains(&event)) {
            continue;
        }
        if entry.kind == Kind::Refusal {
            let why = entry.reasons.iter().map(|reason| (&reason.code, &reason.gate, &reason.message));
            let name = format!("{:?} {:?} {:?}", entry.action, entry.policy, why.collect::<Vec<_>>());
            *refusals.entry(name).or_insert(0) += entry.repeated.map_or(1, |repeated| repeated.count);
            continue;
        }
        let plain = EntryView { seq: 0, epoch: 0, permit: None, intent: None, source: None, ..entry };
        lines.push(format!("{plain:?}"));
    }
    lines.extend(refusals.into_iter().map(|(name, count)| format!("{count} times {name}")));
    lines.sort();
    lines
}

#[test]
fn a_shared_store_tells_what_a_file_would() {
    if servers::missing() {
        return;
    }
    let server = Server::start(&[]);
    for seed in 1..=6 {
        let directory = tempfile::tempdir().unwrap();
        let (file, host) = paths(&directory);
        let begin = Timestamp::from_nanos(1_790_000_000_000_000_000);
        let clock = FakeClock::new(begin);
        let own = SqliteStore::open(&file, ledger_options(Some(&clock))).unwrap();
        let on_file = Engine::builder().sqlite(own).build();
        history(&on_file, &clock, seed, &|| ());
        drop(on_file);

        server.cli(&["FLUSHALL"]);
        let clock = FakeClock::new(begin);
        let store = open(&server.url(), &host, Some(&clock));
        let shared = engine(&store);
        history(&shared, &clock, seed, &|| store.drain().unwrap());
        drop((shared, store));
        let (expected, found) = (told(&file), told(&host));
        let without = |these: &[String], others: &[String]| -> Vec<String> {
            let mut others = others.to_vec();
            let mut left = these.to_vec();
            left.retain(|line| match others.iter().position(|other| other == line) {
                Some(at) => {
                    others.remove(at);
                    false
                }
                None => true,
            });
            left
        };
        let (missing, more) = (without(&expected, &found), without(&found, &expected));
        assert!(missing.is_empty() && more.is_empty(), "seed {seed}: missing {missing:#?}, more {more:#?}");
        let all = compared(&[&host]);
        assert!(all.is_sound(), "{all:?}");
        assert!(all.shared > 50, "{}", all.shared);
    }
}

#[test]
fn without_a_server_nothing_is_made_and_with_a_bad_file_nothing_is_opened() {
    if servers::missing() {
        return;
    }
    let (server, directory) = (Server::start(&[]), tempfile::tempdir().unwrap());
    let bad = directory.path().join("missing").join("a.db");
    let at = LedgerAt { path: bad, options: SqliteOptions::default() };
    let options = RedisOptions { ledger: Some(at), ..RedisOptions::default() };
    let error = RedisStore::open(&server.url(), options).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let none = SqliteOptions { ledger: None, ..SqliteOptions::default() };
    assert!(HostLedger::open(&directory.path().join("b.db"), none).is_err());
}
