//! `cargo bench -p checkrein --bench ledger -- [--entries N] [--json FILE] [--date TEXT]`: the rates of writing, hashing,
//! sealing and verifying entries, and the time of a proof. One thread, a file in the temporary directory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use checkrein::core::ledger::checkpoint::Signer;
use checkrein::core::ledger::entry::{Arguments, Body, Decision, Entry, EntryView, Identity, Request};
use checkrein::core::ledger::proof;
use checkrein::core::ledger::tree::{Frontier, leaf_hash};
use checkrein::ledger::{Database, OwnConnection, Scope, export, seal, verify_file};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::{GateKind, MeterStatus};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::time::Timestamp;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

fn run() -> Result<(), Failure> {
    let count = option("--entries").map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("ledger.db");
    let (write, hash, read, bytes) = in_memory(count);
    fill(&path, count)?;
    let signer = Arc::new(Signer::new(None, &[1; 32])?);
    let (sealing, checkpoints) = sealing(&path, &signer)?;
    let file = directory.path().join("export.jsonl");
    let begun = Instant::now();
    let database = Database::open(&path)?;
    let size = {
        let mut to = std::io::BufWriter::new(std::fs::File::create(&file)?);
        export(&database, Scope::Sealed, &mut to)?.sealed
    };
    let exporting = rate(size, begun);
    let begun = Instant::now();
    let report = verify_file(&file, &signer.verifier(), None)?;
    if !report.is_valid() {
        return Err("the export does not verify".into());
    }
    let verifying = rate(size, begun);
    let (inclusion, consistency) = proofs(&database, size)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let rows = [
        ("write an entry", write, "/s"),
        ("hash it into the tree", hash, "/s"),
        ("read it strictly", read, "/s"),
        ("seal, from the file", sealing, "/s"),
        ("export", exporting, "/s"),
        ("verify the export, one thread", verifying, "/s"),
        ("inclusion proof, p50", inclusion.0, " us"),
        ("inclusion proof, p99", inclusion.1, " us"),
        ("consistency proof, p50", consistency.0, " us"),
        ("consistency proof, p99", consistency.1, " us"),
    ];
    println!("{size} entries of {bytes} bytes, {checkpoints} checkpoints, load {}", load.trim());
    for (name, value, unit) in rows {
        println!("  {name:34} {value:>14.0}{unit}");
    }
    if let Some(path) = option("--json") {
        let values: serde_json::Map<String, Value> = rows
            .iter()
            .map(|(name, value, unit)| (format!("{name} [{}]", unit.trim()), json!(value)))
            .collect();
        let date = option("--date");
        let answer = json!({ "date": date, "load": load.trim(), "entries": size, "entry_bytes": bytes, "ledger": values });
        std::fs::write(path, format!("{answer:#}\n"))?;
    }
    Ok(())
}

fn rate(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// An entry as a store with two gates writes it.
fn entry(seq: u64, out: &mut Vec<u8>) {
    let gate: Arc<str> = Arc::from("team");
    let meters = [MeterStatus {
        gate,
        kind: GateKind::Budget,
        unit: Unit::Usd,
        spent: Amount::from_nano(i64::try_from(seq).unwrap_or(0)),
        held: Amount::ZERO,
        limit: Amount::from_units(50),
        overrun: Amount::ZERO,
        forced: Amount::ZERO,
    }];
    let action = Identity {
        namespace: "stripe",
        name: "refund",
        principal: "support",
        user: "ana",
        run: "run-1",
        tenant: "acme",
        ..Identity::default()
    };
    let decision = Decision {
        action,
        arguments: Arguments::Full(br#"{"amount":"30.00","payment_id":"pay_123456"}"#),
        request: Request::Digest(RequestDigest::from_bytes([7; 32])),
        permit: Some(seq),
        policy: Some([1; 32]),
        meters: &meters,
        ..Decision::default()
    };
    let time = Timestamp::from_nanos(1_795_256_310_000_000_000 + seq.cast_signed());
    Entry { seq, time, epoch: 1, body: Body::Decision(&decision) }.write(out);
}

/// Rates of writing, hashing and reading, and the bytes of an entry.
fn in_memory(count: u64) -> (f64, f64, f64, usize) {
    let mut out = Vec::with_capacity(1_024);
    let begun = Instant::now();
    for seq in 0..count {
        out.clear();
        entry(seq, &mut out);
        std::hint::black_box(&out);
    }
    let write = rate(count, begun);
    let mut tree = Frontier::new();
    let begun = Instant::now();
    for _ in 0..count {
        tree.push(leaf_hash(std::hint::black_box(&out)));
    }
    let hash = rate(count, begun);
    std::hint::black_box(tree.root());
    let begun = Instant::now();
    for _ in 0..count {
        std::hint::black_box(EntryView::read(std::hint::black_box(&out)).is_ok());
    }
    (write, hash, rate(count, begun), out.len())
}

fn fill(path: &Path, count: u64) -> Result<(), Failure> {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         CREATE TABLE entry (key INTEGER PRIMARY KEY NOT NULL, body BLOB NOT NULL);
         CREATE TABLE tile (key BLOB PRIMARY KEY NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE checkpoint (key INTEGER PRIMARY KEY NOT NULL, body BLOB NOT NULL);
         BEGIN;",
    )?;
    let mut insert = connection.prepare("INSERT INTO entry VALUES (?1, ?2)")?;
    let mut body = Vec::new();
    for seq in 0..count {
        body.clear();
        entry(seq, &mut body);
        insert.execute(rusqlite::params![seq.cast_signed(), body])?;
    }
    Ok(connection.execute_batch("COMMIT")?)
}

fn sealing(path: &Path, signer: &Arc<Signer>) -> Result<(f64, u64), Failure> {
    let (database, ground) = (Database::open(path)?, OwnConnection::open(path, Timestamp::default())?);
    let (begun, mut entries, mut checkpoints) = (Instant::now(), 0, 0);
    while let Some(sealed) = seal(&database, &ground, signer)? {
        entries += sealed.entries;
        checkpoints += 1;
    }
    Ok((rate(entries, begun), checkpoints))
}

/// Microseconds of 400 proofs of each kind: the median and the 99th percentile.
type Times = (f64, f64);

fn proofs(database: &Database, size: u64) -> Result<(Times, Times), Failure> {
    let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
    for step in 0..400 {
        let place = (size - 1) * step / 399;
        let begun = Instant::now();
        std::hint::black_box(proof::inclusion(database, place, size)?);
        inclusion.push(begun.elapsed().as_secs_f64() * 1e6);
        let begun = Instant::now();
        std::hint::black_box(proof::consistency(database, place, size)?);
        consistency.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok((percentiles(inclusion), percentiles(consistency)))
}

fn percentiles(mut times: Vec<f64>) -> Times {
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
