use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein_core::ledger::checkpoint::Signer;
use checkrein_core::ledger::entry::{Body, Decision, Entry, Event, Identity};
use checkrein_core::ledger::proof;
use checkrein_core::ledger::tree::leaf_hash;
use checkrein_core::ledger::verify::Fault;
use checkrein_core::time::Timestamp;
use rusqlite::{Connection, params};

use super::*;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("checkrein-ledger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A store's file as far as the ledger is concerned.
struct Store {
    path: PathBuf,
    connection: Connection,
    size: u64,
}

impl Store {
    fn new(path: PathBuf) -> Self {
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE entry (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
                 CREATE TABLE salt (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
                 CREATE TABLE tile (key BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE checkpoint (key INTEGER PRIMARY KEY, body BLOB NOT NULL);",
            )
            .unwrap();
        Self { path, connection, size: 0 }
    }

    fn put(&mut self, body: &[u8]) {
        let sql = "INSERT OR REPLACE INTO entry VALUES (?1, ?2)";
        self.connection.execute(sql, params![self.size.cast_signed(), body]).unwrap();
        self.size += 1;
    }

    fn append(&mut self, count: u64) {
        self.connection.execute_batch("BEGIN").unwrap();
        for _ in 0..count {
            let name = format!("tool-{}", self.size);
            let action =
                Identity { name: &name, namespace: "stripe", principal: "global", ..Identity::default() };
            let mut body = Vec::new();
            let decision = Decision { action, ..Decision::default() };
            let time = Timestamp::from_nanos(self.size.cast_signed() * 1_000_003);
            Entry { seq: self.size, time, epoch: 1, body: Body::Decision(&decision) }.write(&mut body);
            self.put(&body);
        }
        self.connection.execute_batch("COMMIT").unwrap();
    }

    fn database(&self) -> Database {
        Database::open(&self.path).unwrap()
    }

    fn ground(&self) -> Arc<OwnConnection> {
        Arc::new(OwnConnection::open(&self.path, Timestamp::from_nanos(5)).unwrap())
    }

    fn seal(&self, signer: &Arc<Signer>) -> u64 {
        let mut sealed = 0;
        while let Some(done) = seal(&self.database(), &*self.ground(), signer).unwrap() {
            sealed += done.entries;
        }
        sealed
    }

    fn export(&self, directory: &Directory) -> PathBuf {
        let path = directory.file("export.jsonl");
        let mut file = std::fs::File::create(&path).unwrap();
        export(&self.database(), Scope::Sealed, &mut file).unwrap();
        path
    }
}

fn signer(seed: u8) -> Arc<Signer> {
    Arc::new(Signer::new(None, &[seed; 32]).unwrap())
}

#[test]
fn what_is_sealed_can_be_exported_and_verified() {
    let directory = Directory::new("export");
    let mut store = Store::new(directory.file("a.db"));
    let signer = signer(1);
    assert!(matches!(
        export(&store.database(), Scope::Sealed, &mut Vec::new()),
        Err(LedgerError::NothingSealed)
    ));
    let mut outside: Vec<String> = Vec::new();
    for count in [1, 255, 700, 9_000] {
        store.append(count);
        assert_eq!(store.seal(&signer), count);
        let path = store.export(&directory);
        let report = verify_file(&path, &signer.verifier(), None).unwrap();
        assert_eq!((report.fault, report.entries), (None, store.size));
        for note in &outside {
            let report = verify_file(&path, &signer.verifier(), Some(note)).unwrap();
            assert_eq!(report.fault, None);
            assert!(report.against.is_some());
        }
        outside.push(store.database().newest_checkpoint().unwrap().unwrap().1);
    }
    assert_eq!(store.seal(&signer), 0, "nothing is left");
    store.append(3);
    let mut all = Vec::new();
    let exported = export(&store.database(), Scope::All, &mut all).unwrap();
    assert_eq!((exported.end, exported.sealed, exported.unsealed), (9_959, 9_956, 3));
    std::fs::write(directory.file("all.jsonl"), all).unwrap();
    let report = verify_file(&directory.file("all.jsonl"), &signer.verifier(), None).unwrap();
    assert_eq!(report.fault, Some(Fault::Unsealed(9_956)));
}

#[test]
fn proofs_come_from_the_tiles_on_the_disk() {
    let directory = Directory::new("proofs");
    let mut store = Store::new(directory.file("a.db"));
    let signer = signer(1);
    store.append(1_500);
    store.seal(&signer);
    let database = store.database();
    let (_, note) = database.newest_checkpoint().unwrap().unwrap();
    let checkpoint = signer.verifier().open(&note).unwrap();
    for seq in [0, 255, 256, 1_023, 1_499] {
        let path = proof::inclusion(&database, seq, 1_500).unwrap();
        let leaf = leaf_hash(&database.entry(seq).unwrap());
        assert!(proof::verify_inclusion(&leaf, seq, 1_500, &path, &checkpoint.root));
    }
    assert!(matches!(database.entry(1_500), Err(LedgerError::NotFound(_))));
}

#[test]
fn what_was_damaged_before_it_was_sealed_is_not_sealed() {
    let directory = Directory::new("damaged");
    let signer = signer(1);
    for (change, complaint) in [
        (
            "UPDATE entry SET body = replace(CAST(body AS TEXT), 'tool-7', 'tool 7\u{1}') WHERE key = 7",
            "entry 7",
        ),
        ("DELETE FROM entry WHERE key = 3", "entry 3 is missing"),
        ("UPDATE entry SET body = (SELECT body FROM entry WHERE key = 8) WHERE key = 9", "entry 8 stands in"),
    ] {
        let path = directory.file("a.db");
        let _ = std::fs::remove_file(&path);
        let mut store = Store::new(path);
        store.append(20);
        store.connection.execute(change, []).unwrap();
        let error = seal(&store.database(), &*store.ground(), &signer).unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
        assert_eq!(error.code(), "ledger_damaged");
    }
}

#[test]
fn a_changed_tile_or_checkpoint_stops_the_sealer() {
    let directory = Directory::new("tiles");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    store.append(300);
    store.seal(&signer);
    store.append(1);
    let other = Arc::new(Signer::new(None, &[2; 32]).unwrap());
    let error = seal(&store.database(), &*store.ground(), &other).unwrap_err();
    assert_eq!(error.code(), "ledger_key");
    store.connection.execute("UPDATE tile SET body = zeroblob(length(body))", []).unwrap();
    let error = seal(&store.database(), &*store.ground(), &signer).unwrap_err();
    assert_eq!(error.code(), "ledger_damaged");
}

#[test]
fn the_past_is_not_signed_again_after_a_checkpoint_was_taken_away() {
    let directory = Directory::new("resign");
    let signer = signer(1);
    let take = "DELETE FROM checkpoint WHERE key = (SELECT max(key) FROM checkpoint)";
    let change =
        "UPDATE entry SET body = replace(CAST(body AS TEXT), 'tool-15\"', 'evil-15\"') WHERE key = 15";
    for (sizes, more) in
        [(vec![10, 20], 5), (vec![20], 5), (vec![10, 256], 0), (vec![256, 512], 1), (vec![70], 0)]
    {
        let path = directory.file("a.db");
        let _ = std::fs::remove_file(&path);
        let mut store = Store::new(path);
        for size in sizes {
            store.append(size - store.size);
            store.seal(&signer);
        }
        assert!(store.database().newest_sealed().unwrap().is_some());
        store.append(more);
        store.connection.execute(take, []).unwrap();
        assert_eq!(store.connection.execute(change, []).unwrap(), 1);
        let before = store.database().newest_checkpoint().unwrap();
        let error = seal(&store.database(), &*store.ground(), &signer).unwrap_err();
        assert_eq!(error.code(), "ledger_damaged");
        assert!(error.to_string().contains("removed"), "{error}");
        let options = SealOptions::default();
        let started = Sealer::start(&store.path, store.ground(), Arc::clone(&signer), options);
        assert_eq!(started.map(drop).unwrap_err().code(), "ledger_damaged");
        assert_eq!(store.database().newest_checkpoint().unwrap(), before, "nothing was signed");
    }
}

/// A ground on which somebody else seals first.
struct Faster(Arc<OwnConnection>, Arc<Signer>, PathBuf, parking_lot::Mutex<bool>);

impl Ground for Faster {
    fn write(&self, make: sealer::Make) -> Result<(), crate::store::StoreError> {
        if !std::mem::replace(&mut *self.3.lock(), true) {
            seal(&Database::open(&self.2).unwrap(), &*self.0, &self.1).unwrap().unwrap();
        }
        self.0.write(make)
    }
}

#[test]
fn of_two_sealers_one_wins() {
    let directory = Directory::new("two");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    store.append(10);
    let ground = Faster(store.ground(), Arc::clone(&signer), store.path.clone(), false.into());
    assert_eq!(seal(&store.database(), &ground, &signer).unwrap(), None);
    assert_eq!(store.database().newest_checkpoint().unwrap().unwrap().0, 10);
    store.append(5);
    assert_eq!(seal(&store.database(), &ground, &signer).unwrap().unwrap().size, 15);
    let report = verify_file(&store.export(&directory), &signer.verifier(), None).unwrap();
    assert_eq!((report.fault, report.entries), (None, 15));
}

fn start(
    store: &Store,
    signer: &Arc<Signer>,
    every: u64,
    within: Duration,
    witness: &std::path::Path,
) -> Sealer {
    let witness = Some(Arc::new(Witness::parse(witness.to_str().unwrap()).unwrap()));
    let options = SealOptions { every, within, witness };
    Sealer::start(&store.path, store.ground(), Arc::clone(signer), options).unwrap()
}

fn wait_for(store: &Store, size: u64) {
    let begun = Instant::now();
    while store.database().newest_checkpoint().unwrap().is_none_or(|(sealed, _)| sealed < size) {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing sealed up to {size}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_thread_seals_by_count_by_time_and_at_its_end() {
    let directory = Directory::new("thread");
    let (signer, witness, never) = (signer(1), directory.file("witness"), Duration::from_secs(3_600));
    let mut store = Store::new(directory.file("a.db"));
    drop(start(&store, &signer, 100, never, &witness));
    assert_eq!(store.database().newest_checkpoint().unwrap(), None, "an empty ledger has no checkpoint");
    let mut sealer = start(&store, &signer, 100, never, &witness);
    store.append(100);
    wait_for(&store, 100);
    store.append(7);
    sealer.stop();
    assert_eq!((sealer.error(), sealer.last().unwrap().size), (None, 107));
    let sealer = start(&store, &signer, 100, Duration::from_millis(1), &witness);
    store.append(1);
    wait_for(&store, 108);
    drop(sealer);
    let seen = Witness::parse(witness.to_str().unwrap()).unwrap();
    let seen = seen.newest(&signer.verifier()).unwrap().unwrap();
    assert_eq!(signer.verifier().open(&seen).unwrap().size, 108);
}

#[test]
fn a_sealer_that_fails_says_so_and_tries_again() {
    let directory = Directory::new("again");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    // A directory where the witness should write: nothing can be sent until it is gone.
    let witness = directory.file("witness");
    let options = |witness: &std::path::Path| SealOptions {
        every: 1,
        within: Duration::from_millis(1),
        witness: Some(Arc::new(Witness::parse(witness.to_str().unwrap()).unwrap())),
    };
    let mut sealer =
        Sealer::start(&store.path, store.ground(), Arc::clone(&signer), options(&witness)).unwrap();
    std::fs::remove_file(&witness).unwrap();
    std::fs::create_dir(&witness).unwrap();
    store.append(3);
    let until = |done: &dyn Fn(&Sealer) -> bool, sealer: &Sealer| {
        let begun = Instant::now();
        while !done(sealer) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until(&|sealer| sealer.error().is_some_and(|error| error.contains("witness")), &sealer);
    assert_eq!(store.database().newest_checkpoint().unwrap().unwrap().0, 3, "sealed all the same");
    std::fs::remove_dir(&witness).unwrap();
    until(&|sealer| sealer.error().is_none(), &sealer);
    assert!(std::fs::read_to_string(&witness).unwrap().contains("\n3\n"));

    store.put(b"not an entry");
    until(
        &|sealer| sealer.error().is_some_and(|error| error.contains("entry 3 is not a canonical entry")),
        &sealer,
    );
    sealer.stop();
    assert_eq!(store.database().newest_checkpoint().unwrap().unwrap().0, 3, "it is not sealed");
}

#[test]
fn a_ledger_older_than_its_witness_is_refused() {
    let directory = Directory::new("rollback");
    let (signer, path) = (signer(1), directory.file("witness"));
    let witness = Witness::parse(path.to_str().unwrap()).unwrap();
    let check = |store: &Store| witness.check(&store.database(), &signer.verifier());
    let mut store = Store::new(directory.file("a.db"));
    store.append(40);
    store.seal(&signer);
    check(&store).unwrap();
    witness.send(&store.database().newest_checkpoint().unwrap().unwrap().1).unwrap();
    check(&store).unwrap();
    // A note that a crash cut off does not hide the others.
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"checkrein-ledger/0011\n4").unwrap();
    check(&store).unwrap();
    store.append(2);
    store.seal(&signer);
    witness.send(&store.database().newest_checkpoint().unwrap().unwrap().1).unwrap();
    check(&store).unwrap();

    let mut older = Store::new(directory.file("older.db"));
    older.append(40);
    older.seal(&signer);
    assert_eq!(check(&older).unwrap_err().code(), "ledger_rollback");
    let mut other = Store::new(directory.file("other.db"));
    other.size = 1;
    other.append(1);
    other.size = 0;
    other.append(60);
    other.put(b"x");
    other.connection.execute("DELETE FROM entry WHERE key = 60", []).unwrap();
    other
        .connection
        .execute("UPDATE entry SET body = replace(body, 'tool-5\"', 'evil-5\"') WHERE key = 5", [])
        .unwrap();
    other.seal(&signer);
    assert_eq!(check(&other).unwrap_err().code(), "ledger_rollback");
    std::fs::write(&path, "something else").unwrap();
    assert_eq!(check(&store).unwrap_err().code(), "ledger_witness");
}

/// A witness behind HTTP that takes `count` requests and remembers the last body.
fn http_witness(count: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ledger", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut bodies: Vec<String> = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, answer) = if first.starts_with("POST") {
                bodies.push(String::from_utf8(body).unwrap());
                ("200 OK", "")
            } else {
                bodies.last().map_or(("404 Not Found", ""), |note| ("200 OK", note.as_str()))
            };
            let length = answer.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
        bodies
    });
    (url, server)
}

#[test]
fn a_witness_behind_a_url() {
    let directory = Directory::new("http");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    store.append(5);
    store.seal(&signer);
    let (url, server) = http_witness(4);
    let witness = Witness::parse(&url).unwrap();
    witness.check(&store.database(), &signer.verifier()).unwrap();
    let note = store.database().newest_checkpoint().unwrap().unwrap().1;
    witness.send(&note).unwrap();
    witness.check(&store.database(), &signer.verifier()).unwrap();
    let older = Store::new(directory.file("b.db"));
    let error = witness.check(&older.database(), &signer.verifier()).unwrap_err();
    assert_eq!(error.code(), "ledger_rollback");
    assert_eq!(server.join().unwrap(), std::slice::from_ref(&note));
    assert_eq!(witness.send(&note).unwrap_err().code(), "ledger_witness");
}

#[test]
fn key_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new("keys");
    let path = keys::default_path(&directory.file("store.db"));
    assert_eq!(path, directory.file("store.db.key"));
    let made = keys::load_or_create(&path, || None).unwrap();
    let again = keys::load_or_create(&path, || None).unwrap();
    assert_eq!(made.verifier(), again.verifier());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let public = keys::load_public(&keys::public_path(&path)).unwrap();
    assert_eq!(keys::public_path(&path), directory.file("store.db.pub"));
    assert_eq!(public, made.verifier());
    assert_eq!(keys::create(&path, None, None).unwrap_err().code(), "ledger_key");
    assert!(keys::load_public(&path).unwrap_err().to_string().contains("private key"));

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(keys::load(&path, || None).unwrap_err().to_string().contains("others can read it"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for bad in
        ["", "x", &text.replace("PRIVATE", "PUBLIC"), &text.replace("checkrein-", "checkreim-"), &text[..40]]
    {
        std::fs::write(&path, bad).unwrap();
        assert!(keys::load(&path, || None).is_err(), "{bad}");
    }
    let names: Vec<_> =
        std::fs::read_dir(&directory.0).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing temporary stays: {names:?}");
}

#[test]
fn a_witness_that_cannot_be_is_refused_at_the_start() {
    let directory = Directory::new("witness");
    for text in ["ftp://x", "HTTP://x", "s3://bucket/x", ""] {
        let error = Witness::parse(text).unwrap_err();
        assert_eq!(error.code(), "ledger_witness", "{text}");
        assert!(error.to_string().contains("`http://`"), "{error}");
    }
    let store = Store::new(directory.file("a.db"));
    for path in [directory.file("none/w.txt"), directory.0.clone()] {
        let witness = Witness::parse(path.to_str().unwrap()).unwrap();
        assert_eq!(witness.ready().unwrap_err().code(), "ledger_witness");
        let options = SealOptions { witness: Some(Arc::new(witness)), ..SealOptions::default() };
        let error = Sealer::start(&store.path, store.ground(), signer(1), options).map(drop).unwrap_err();
        assert_eq!(error.code(), "ledger_witness", "{}", path.display());
    }
    let path = directory.file("w.txt");
    Witness::parse(&format!("file://{}", path.display())).unwrap().ready().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[test]
fn a_public_key_is_not_replaced() {
    let directory = Directory::new("public");
    let path = directory.file("store.db.key");
    keys::of_ledger(&path, false, || None).unwrap();
    let public = std::fs::read(keys::public_path(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    for is_sealed in [true, false] {
        let error = keys::of_ledger(&path, is_sealed, || None).map(drop).unwrap_err();
        assert_eq!(error.code(), "ledger_key");
        assert!(error.to_string().contains("store.db.key"), "{error}");
    }
    assert!(!path.exists());
    assert_eq!(std::fs::read(keys::public_path(&path)).unwrap(), public);
}

#[test]
fn encrypted_key_files() {
    let directory = Directory::new("encrypted");
    let path = directory.file("signer");
    let made = keys::create(&path, Some("example.com/audit"), Some("correct horse")).unwrap();
    let with = |text: &str| {
        let text = zeroize::Zeroizing::new(text.to_owned());
        keys::load(&path, move || Some(text))
    };
    assert_eq!(with("correct horse").unwrap().verifier(), made.verifier());
    assert!(with("wrong").unwrap_err().to_string().contains("passphrase is wrong"));
    assert!(matches!(keys::load(&path, || None), Err(LedgerError::Passphrase(_))));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&checkrein_core::ledger::checkpoint::encode(&[1; 3])));
    std::fs::write(&path, text.replace("example.com", "example.org")).unwrap();
    assert!(with("correct horse").is_err(), "the name is authenticated");
}

#[test]
fn auditgate_format() {
    let directory = Directory::new("auditgate");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    store.append(600);
    store.seal(&signer);
    let mut bytes = Vec::new();
    let exported = export_auditgate(&store.database(), &mut bytes).unwrap();
    assert_eq!((exported.first, exported.end), (0, 600));
    let entries: Vec<BTreeMap<String, serde_json::Value>> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(entries.len(), 600);
    for (before, entry) in entries.iter().zip(&entries[1..]) {
        assert_eq!(before["entry_hash"], entry["prev_hash"]);
    }
    let body = store.database().entry(599).unwrap();
    assert_eq!(entries[599]["detail"]["entry"].as_str().unwrap().as_bytes(), body);
    assert_eq!(entries[599]["gate_identity"], "stripe:tool-599@global");
    assert_eq!(entries[7]["ts"], 0.007);
}

#[test]
fn events_and_empty_names_are_entries_too() {
    let directory = Directory::new("events");
    let signer = signer(1);
    let mut store = Store::new(directory.file("a.db"));
    let mut body = Vec::new();
    let event = Body::Event(Event { name: "opened", fields: &[("path", "a.db")] });
    Entry { seq: 0, time: Timestamp::default(), epoch: 1, body: event }.write(&mut body);
    store.put(&body);
    assert_eq!(store.seal(&signer), 1);
    let report = verify_file(&store.export(&directory), &signer.verifier(), None).unwrap();
    assert!(report.is_valid());
}
