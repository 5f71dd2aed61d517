//! Several processes, full windows, bytes and starts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use checkrein::clock::FakeClock;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::store::{Step, StepResult};
use checkrein_core::admission::Verdict;
use checkrein_core::time::{Span, Timestamp};
use serde_json::{Value, json};

use crate::Failure;
use crate::ours::{Ours, Work};
use crate::race::{lap, median};

/// The word by which a process of this program is told to be one of several.
pub(crate) const CHILD: &str = "--child";

/// One of several processes: calls with one thread, and says what came of it.
pub(crate) fn child(path: &str, seconds: f64) -> Result<String, Failure> {
    let ours = Ours::open(Path::new(path), Work::Limit, true, None)?;
    ours.call(0);
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    let refused = AtomicU64::new(0);
    let lap = lap(1, Duration::from_secs_f64(seconds), &refused, &|key| ours.call(key));
    Ok(format!("{} {} {}", lap.rate, lap.worst, refused.into_inner()))
}

/// So many processes, each with one caller: calls a second of all, and the longest wait in microseconds.
fn together(path: &Path, processes: usize, seconds: f64) -> Result<(f64, f64), Failure> {
    let start = || {
        Command::new(std::env::current_exe()?)
            .args([CHILD, &path.display().to_string(), &seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut children = (0..processes).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    let mut heard = Vec::new();
    for child in &mut children {
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        lines.next().ok_or("a process said nothing")??;
        heard.push(lines);
    }
    for child in &mut children {
        drop(child.stdin.take());
    }
    let (mut rate, mut worst) = (0.0, 0.0_f64);
    for mut lines in heard {
        let said = lines.next().ok_or("a process did not end well")??;
        let numbers: Vec<f64> = said.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [own, longest, refused] = numbers.as_slice() else { return Err(said.into()) };
        if *refused > 0.0 {
            return Err(format!("{refused} calls were refused").into());
        }
        rate += own;
        worst = worst.max(*longest);
    }
    for mut child in children {
        child.wait()?;
    }
    Ok((rate, worst))
}

/// One process, then four on one file.
pub(crate) fn processes(directory: &Path, rounds: usize, seconds: f64) -> Result<Value, Failure> {
    let (mut one, mut four, mut worst) = (Vec::new(), Vec::new(), 0.0_f64);
    for round in 0..rounds {
        one.push(together(&directory.join(format!("one-{round}.db")), 1, seconds)?.0);
        let (rate, longest) = together(&directory.join(format!("four-{round}.db")), 4, seconds)?;
        four.push(rate);
        worst = worst.max(longest);
    }
    let ratio = median(four.iter().zip(&one).map(|(four, one)| four / one));
    let (one, four) = (median(one), median(four));
    println!(
        "single commits: one process {one:.0}/s, four on one file {four:.0}/s together ({ratio:.2}x, goal 0.5x), \
         longest wait {:.0} ms (goal 500)\n",
        worst / 1e3
    );
    Ok(json!({ "one": one, "four": four, "ratio": ratio, "worst_wait_us": worst }))
}

/// What a call costs with so many events in the window, in microseconds: batches of 64 calls on a clock moved by hand.
pub(crate) fn windows(directory: &Path, rounds: usize) -> Result<Value, Failure> {
    const BATCH: usize = 64;
    let start = Timestamp::from_nanos(1_800_000_000_000_000_000);
    let make = |events: i64| -> Result<_, Failure> {
        let clock = FakeClock::new(start);
        let path = directory.join(format!("events-{events}.db"));
        let ours = Ours::open(&path, Work::Limit, false, Some(clock.clone()))?;
        let store = ours.engine.sqlite().ok_or("no store")?.clone();
        // As many calls in a window of a minute as there are to be events in it.
        let tick = Span::from_nanos(60_000_000_000 / events);
        let run = move |batches: usize| -> Result<f64, Failure> {
            let mut took = Duration::ZERO;
            for _ in 0..batches {
                let steps =
                    (0..BATCH).map(|_| Step::Admit(Arc::clone(&ours.policy), ours.owned(1))).collect();
                // One instant per batch: the window keeps the same number of events.
                clock.advance(Span::from_nanos(tick.nanos() * BATCH as i64));
                let before = Instant::now();
                store.run(steps)?;
                took += before.elapsed();
            }
            Ok(took.as_secs_f64() * 1e6 / (batches * BATCH) as f64)
        };
        Ok(run)
    };
    let (few, many) = (make(10)?, make(1_000)?);
    few(40)?;
    many(40)?;
    let mut laps = Vec::new();
    for _ in 0..rounds * 4 {
        laps.push((few(20)?, many(20)?));
    }
    let ratio = median(laps.iter().map(|(few, many)| many / few));
    let (few, many) = (median(laps.iter().map(|lap| lap.0)), median(laps.iter().map(|lap| lap.1)));
    println!(
        "a call with 10 events in the window {few:.2} us, with 1,000 {many:.2} us: {ratio:.2}x (goal 1.15x)\n"
    );
    Ok(json!({ "few_us": few, "many_us": many, "ratio": ratio }))
}

/// Bytes on the disk per action, with and without the ledger.
pub(crate) fn bytes(directory: &Path, actions: u64) -> Result<Value, Failure> {
    let mut sizes = Vec::new();
    for ledger in [false, true] {
        let path = directory.join(format!("bytes-{ledger}.db"));
        let ours = Ours::open(&path, Work::Whole, ledger, None)?;
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| (0..actions / 64).all(|key| ours.call(key % 16)));
            }
        });
        drop(ours);
        sizes.push(std::fs::metadata(&path)?.len() as f64 / actions as f64);
    }
    let [plain, whole] = sizes.as_slice() else { return Err("two sizes".into()) };
    println!(
        "an action with a limit, a held budget and a once key leaves {whole:.0} bytes: records {plain:.0}, ledger {:.0}\n",
        whole - plain
    );
    Ok(json!({ "records": plain, "ledger": whole - plain, "actions": actions }))
}

/// How long a start takes with so many live records and ledger entries.
pub(crate) fn start(directory: &Path, records: u64) -> Result<Value, Failure> {
    let path = directory.join("start.db");
    let ours = Ours::open(&path, Work::Limit, true, None)?;
    let store = ours.engine.sqlite().ok_or("no store")?.clone();
    for first in (0..records).step_by(256) {
        let admit = |key| Step::Admit(Arc::clone(&ours.policy), ours.owned(key));
        let results = store.run((first..records.min(first + 256)).map(admit).collect())?;
        let allowed = |result: &StepResult| matches!(result, StepResult::Admitted(admission, _) if admission.verdict == Verdict::Allow);
        if !results.iter().all(allowed) {
            return Err("a call was refused".into());
        }
    }
    drop((store, ours));
    let mut took = Vec::new();
    for _ in 0..5 {
        let before = Instant::now();
        let store =
            SqliteStore::open(&path, SqliteOptions { max_keys: 2_000_000, ..SqliteOptions::default() })?;
        took.push(before.elapsed().as_secs_f64() * 1e3);
        drop(store);
    }
    let took = median(took);
    println!(
        "a start with {records} live records and as many ledger entries takes {took:.1} ms (goal 1,000)\n"
    );
    Ok(json!({ "records": records, "ms": took }))
}
