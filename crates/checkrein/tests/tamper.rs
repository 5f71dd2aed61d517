//! Somebody changes a store's file: which change is found, and when. The table in `docs/reference/testing.md` is what
//! this test found; `UPDATE_DOCUMENTS=1` writes it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use checkrein::core::admission::{Action, Inputs, KeyValue, Verdict};
use checkrein::core::amount::{Amount, Unit};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::gate::budget::Cost;
use checkrein::core::permit::{Outcome, Settlement};
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::ledger::{Database, Scope, audit, export, keys, verify_file};
use checkrein::store::durable::Table;
use checkrein::store::sqlite::{SealEvery, SqliteOptions, SqliteStore};
use checkrein::testing::Random;

const KEYS: [&str; 6] = ["ada", "bob", "cy", "dee", "eli", "flo"];

/// When a change is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Open,
    Read,
    Check,
    Ledger,
    /// Every row still says what it said.
    Harmless,
    Never,
}

impl Found {
    const fn words(self) -> &'static str {
        match self {
            Self::Open => "when the store is opened",
            Self::Read => "when the record is read",
            Self::Check => "by the full check",
            Self::Ledger => "by the ledger against a checkpoint kept outside",
            Self::Harmless => "nothing to find: every row reads as before",
            Self::Never => "never",
        }
    }
}

fn open(path: &Path, seal: bool) -> Option<Engine> {
    let often = SealEvery { entries: 1, time: Duration::from_millis(1) };
    let options = SqliteOptions { seal: seal.then_some(often), ..SqliteOptions::default() };
    Some(Engine::builder().sqlite(SqliteStore::open(path, options).ok()?).build())
}

fn policy(engine: &Engine) -> Option<Arc<CompiledPolicy>> {
    let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
    let keep = Span::from_secs(86_400);
    let window = WindowSpec::Rolling(Span::from_secs(86_400));
    let budget = GateSpecKind::Budget {
        key: 0,
        limit: Amount::from_units(1_000),
        unit: Unit::Usd,
        window: window.clone(),
        cost: 0,
        charge: Charge::Hold,
        hard: true,
    };
    let (reset, probe_lease) = (Span::from_secs(60), Span::from_secs(60));
    let gates = vec![
        gate("once", GateSpecKind::Once { keep_result: keep, keep_key: keep }),
        gate("mail", GateSpecKind::Breaker { key: 0, max_fails: 3, reset, probes: 1, probe_lease }),
        gate("calls", GateSpecKind::Limit { key: 0, max_calls: 1_000, window, cooldown: Span::ZERO }),
        gate("money", budget),
    ];
    engine.compile(gates, Leases::default()).ok()
}

fn with_inputs<T>(key: &str, number: u64, run: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let digest = RequestDigest::from_bytes([7; 32]);
    let action = Action { name: "pay", user: key, digest: Some(digest), ..Action::default() };
    let action = Action { arguments: Some(b"{}"), ..action };
    let once = format!("{key}{number}");
    run(&Inputs {
        keys: &[KeyValue::Bytes(key.as_bytes())],
        costs: &[Cost::proven(Amount::ONE)],
        once: Some((KeyValue::Bytes(once.as_bytes()), digest)),
        start: true,
        action: Some(&action),
        ..Inputs::default()
    })
}

/// Runs `calls` calls of each key and leaves the last of each open.
fn fill(engine: &Engine, from: u64, calls: u64) {
    let policy = policy(engine).unwrap();
    for number in from..from + calls {
        for key in KEYS {
            let admitted = with_inputs(key, number, |inputs| engine.admit(&policy, inputs));
            assert_eq!(admitted.admission.verdict, Verdict::Allow, "{admitted:?}");
            if number + 1 < from + calls {
                let outcome = Outcome::Done(Some(b"\"ok\""[..].into()));
                engine.finish(admitted.permit.unwrap(), &Settlement::new(outcome, Health::Failure)).ok();
                let health = Settlement::new(Outcome::Done(None), Health::Success);
                engine.finish(admitted.permit.unwrap(), &health).unwrap_err();
            }
            if number % 2 == 0 {
                let breaker = policy.policy().gates().iter().find(|gate| &*gate.name == "mail");
                let (kind, family, _) = breaker.unwrap().check.record().unwrap();
                let name = checkrein::core::key::KeyRef { family, tenant: b"", key: key.as_bytes() };
                engine.reset(kind, name).unwrap();
            }
        }
    }
}

/// A store and what is kept of it elsewhere.
struct Fixture {
    _directory: tempfile::TempDir,
    /// The file after a proper end.
    closed: PathBuf,
    /// The same a while earlier.
    earlier: PathBuf,
    /// The file and its log as a killed process leaves them.
    killed: PathBuf,
    /// The newest checkpoints of both, kept outside.
    checkpoint: String,
    killed_checkpoint: String,
}

fn log_of(store: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", store.display()))
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).join("store.db");
    for name in ["closed", "earlier", "killed"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    let (closed, earlier, killed) = (file("closed"), file("earlier"), file("killed"));
    fill(&open(&closed, true).unwrap(), 0, 30);
    std::fs::copy(&closed, &earlier).unwrap();
    let engine = open(&closed, true).unwrap();
    fill(&engine, 100, 4);
    let newest = || Database::open(&closed).unwrap().newest_checkpoint().unwrap().unwrap();
    let size = || Database::open(&closed).unwrap().size().unwrap();
    // Until everything is sealed.
    for _ in 0..1_000 {
        if newest().0 == size() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(newest().0, size());
    let killed_checkpoint = newest().1;
    std::fs::copy(&closed, &killed).unwrap();
    std::fs::copy(log_of(&closed), log_of(&killed)).unwrap();
    drop(engine);
    let checkpoint = Database::open(&closed).unwrap().newest_checkpoint().unwrap().unwrap().1;
    let public = keys::public_path(&keys::default_path(&closed));
    for store in [&earlier, &killed] {
        std::fs::copy(&public, keys::public_path(&keys::default_path(store))).unwrap();
    }
    Fixture { _directory: directory, closed, earlier, killed, checkpoint, killed_checkpoint }
}

type Dump = Vec<(Table, rusqlite::types::Value, Vec<u8>)>;

fn dump(store: &Path) -> rusqlite::Result<Dump> {
    let connection = rusqlite::Connection::open(store)?;
    let mut rows = Dump::new();
    for table in Table::ALL {
        let mut select =
            connection.prepare(&format!("SELECT key, body FROM {} ORDER BY key", table.name()))?;
        let found = select.query_map([], |row| Ok((table, row.get(0)?, row.get(1)?)))?;
        rows.extend(found.collect::<rusqlite::Result<Dump>>()?);
    }
    Ok(rows)
}

/// Whether every row, and what holds for all of them, is what it was.
fn is_harmless(store: &Path, original: &Dump) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("store.db");
    std::fs::copy(store, &path).unwrap();
    if log_of(store).exists() {
        std::fs::copy(log_of(store), log_of(&path)).unwrap();
    }
    dump(&path).is_ok_and(|rows| rows == *original)
}

/// Looks at a changed store in the order in which it would be looked at.
fn found(store: &Path, original: &Dump, public: &Path, checkpoint: &str) -> Found {
    let otherwise = if is_harmless(store, original) { Found::Harmless } else { Found::Never };
    let Some(engine) = open(store, false) else { return Found::Open };
    let Some(policy) = policy(&engine) else { return Found::Read };
    for key in KEYS {
        for number in (0..30).chain(100..104) {
            let (seen, _) = with_inputs(key, number, |inputs| engine.peek(&policy, inputs));
            if seen.reasons.iter().any(|reason| reason.code.word() == "store_error") {
                return Found::Read;
            }
        }
    }
    let report = engine.sqlite().unwrap().check();
    if report.is_err() || report.is_ok_and(|report| !report.is_sound()) {
        return Found::Check;
    }
    drop(engine);
    let path = store.with_extension("jsonl");
    let key = keys::load_public(public).unwrap();
    let exported = Database::open(store)
        .and_then(|database| export(&database, Scope::Sealed, &mut std::fs::File::create(&path).unwrap()));
    let verified = exported.and_then(|_| verify_file(&path, &key, Some(checkpoint)));
    match verified {
        Ok(report) if report.fault.is_none() => {
            let audited = Database::open(store).and_then(|ledger| audit(&ledger, Some(&key)));
            if audited.is_ok_and(|audit| audit.findings.is_empty()) { otherwise } else { Found::Check }
        }
        _ => Found::Ledger,
    }
}

struct Bench<'a> {
    fixture: &'a Fixture,
    random: Random,
    results: BTreeMap<(u8, String), BTreeMap<Found, u64>>,
}

impl Bench<'_> {
    /// Changes a copy of a store and notes when that is found.
    fn try_change(&mut self, order: u8, what: &str, store: &Path, change: impl FnOnce(&Path, &mut Random)) {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("store.db");
        std::fs::copy(store, &copy).unwrap();
        if log_of(store).exists() {
            std::fs::copy(log_of(store), log_of(&copy)).unwrap();
        }
        let intact = directory.path().join("intact.db");
        std::fs::copy(store, &intact).unwrap();
        if log_of(store).exists() {
            std::fs::copy(log_of(store), log_of(&intact)).unwrap();
        }
        let original = dump(&intact).unwrap();
        change(&copy, &mut self.random);
        let public = keys::public_path(&keys::default_path(&self.fixture.closed));
        let killed = *store == *self.fixture.killed;
        let checkpoint = if killed { &self.fixture.killed_checkpoint } else { &self.fixture.checkpoint };
        let found = found(&copy, &original, &public, checkpoint);
        *self.results.entry((order, what.to_owned())).or_default().entry(found).or_default() += 1;
    }
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    let bit = random.below(bytes.len() as u64 * 8) as usize;
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

fn execute(store: &Path, sql: &str, parameters: impl rusqlite::Params) {
    let connection = rusqlite::Connection::open(store).unwrap();
    assert_eq!(connection.execute(sql, parameters).unwrap(), 1, "{sql}");
}

fn group(table: Table) -> Option<(u8, &'static str)> {
    Some(match table {
        Table::Meta => (0, "the store's head or clock"),
        Table::Family => (1, "a definition of what is counted"),
        Table::Epoch => return None,
        Table::Entry => (3, "a ledger entry"),
        Table::Tile | Table::Checkpoint | Table::Salt => return None,
        _ => (2, "a record"),
    })
}

fn rows(bench: &mut Bench<'_>) {
    let closed = bench.fixture.closed.clone();
    let all = dump(&closed).unwrap();
    let earlier: BTreeMap<_, _> = dump(&bench.fixture.earlier)
        .unwrap()
        .into_iter()
        .map(|(t, key, body)| ((t, format!("{key:?}")), body))
        .collect();
    let mut taken: BTreeMap<Table, u32> = BTreeMap::new();
    for (table, key, body) in all.into_iter().rev() {
        let Some((order, what)) = group(table) else { continue };
        // A store without a clock takes the machine's, as after a boot.
        let clock = key == rusqlite::types::Value::Blob(b"clock".to_vec());
        let number = taken.entry(table).or_default();
        *number += 1;
        // The last rows of each table are enough: they are all made the same way.
        if *number > 4 {
            continue;
        }
        let name = table.name();
        let update = format!("UPDATE {name} SET body = ?2 WHERE key = ?1");
        bench.try_change(order, &format!("one bit of {what}"), &closed, |store, random| {
            let mut body = body.clone();
            flip(&mut body, random);
            execute(store, &update, (&key, body));
        });
        if clock {
            continue;
        }
        bench.try_change(10 + order, &format!("{what} removed"), &closed, |store, _| {
            execute(store, &format!("DELETE FROM {name} WHERE key = ?1"), [&key]);
        });
        if let Some(old) = earlier.get(&(table, format!("{key:?}"))).filter(|old| **old != body) {
            bench.try_change(
                20 + order,
                &format!("{what} put back to an earlier state"),
                &closed,
                |store, _| {
                    execute(store, &update, (&key, old));
                },
            );
        }
        if let rusqlite::types::Value::Blob(bytes) = &key {
            bench.try_change(
                30 + order,
                &format!("one bit of the key of {what}"),
                &closed,
                |store, random| {
                    let mut changed = bytes.clone();
                    flip(&mut changed, random);
                    execute(
                        store,
                        &format!("UPDATE OR REPLACE {name} SET key = ?2 WHERE key = ?1"),
                        (&key, changed),
                    );
                },
            );
        }
    }
}

fn files(bench: &mut Bench<'_>) {
    let (closed, killed, earlier) =
        (bench.fixture.closed.clone(), bench.fixture.killed.clone(), bench.fixture.earlier.clone());
    let pages = std::fs::metadata(&closed).unwrap().len() / 4_096;
    for page in 0..pages.min(48) {
        bench.try_change(40, "one bit of a page of the file", &closed, |store, random| {
            let mut bytes = std::fs::read(store).unwrap();
            flip(bytes.chunks_mut(4_096).nth(page as usize).unwrap(), random);
            std::fs::write(store, bytes).unwrap();
        });
    }
    let log = std::fs::metadata(log_of(&killed)).unwrap().len();
    for part in 0..16 {
        bench.try_change(
            50,
            "one bit of the write-ahead log of a killed process",
            &killed,
            |store, random| {
                let mut bytes = std::fs::read(log_of(store)).unwrap();
                let (from, to) = (log * part / 16, log * (part + 1) / 16);
                flip(bytes.get_mut(from as usize..to as usize).unwrap(), random);
                std::fs::write(log_of(store), bytes).unwrap();
            },
        );
        bench.try_change(51, "the end of that log cut off", &killed, |store, _| {
            let file = std::fs::OpenOptions::new().write(true).open(log_of(store)).unwrap();
            file.set_len(log * part / 16).unwrap();
        });
    }
    bench.try_change(52, "the whole file put back to an earlier state", &closed, |store, _| {
        std::fs::copy(earlier, store).unwrap();
    });
}

fn document(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/testing.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- begin tamper -->\n", "<!-- end tamper -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (written, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(written, table, "write it again with UPDATE_DOCUMENTS=1");
    }
}

#[test]
fn every_change_of_the_file_is_found_or_harmless() {
    let fixture = fixture();
    let mut bench = Bench { fixture: &fixture, random: Random::new(5), results: BTreeMap::new() };
    for store in [&fixture.closed, &fixture.killed] {
        bench.try_change(0, "nothing", store, |_, _| {});
    }
    rows(&mut bench);
    files(&mut bench);
    let mut table = String::from("| what is changed | found |\n|---|---|\n");
    for ((order, what), counts) in bench.results.iter().filter(|((_, what), _)| what != "nothing") {
        println!("{what}: {counts:?}");
        let when: Vec<&str> = counts.keys().map(|found| found.words()).collect();
        let when = when.join("; or ");
        // What lies on a page is not the same in every run: names and processes have lengths.
        let pages = "when the store is opened, when what lies there is read, by the full check or by the ledger; \
                     where nothing lies, nothing is to be found";
        table += &format!("| {what} | {} |\n", if *order == 40 { pages } else { &when });
    }
    assert_eq!(bench.results.get(&(0, "nothing".to_owned())), Some(&BTreeMap::from([(Found::Harmless, 2)])));
    let missed: Vec<_> =
        bench.results.iter().filter(|(_, counts)| counts.contains_key(&Found::Never)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    document(&table);
}
