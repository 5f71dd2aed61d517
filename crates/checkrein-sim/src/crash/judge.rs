//! After the last kill: recover, look up what is in doubt, and compare the store, the ledger, the service and the callers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use checkrein::core::amount::Amount;
use checkrein::core::gate::once::OperationState;
use checkrein::core::ledger::entry::{Ending, EntryView, Kind};
use checkrein::core::policy::RecordKind;
use checkrein::engine::Engine;
use checkrein::ledger::{Database, Scope, export, keys, verify_file};
use checkrein::store::{Cursor, RecordInfo, RecordState};

use super::worker::{open, policy};
use super::{Failure, Place};

/// What a trial came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Processes killed from outside.
    pub killed: u64,
    /// Processes that ended at a point of theirs.
    pub at_points: u64,
    /// Processes that could not open the store in time and said so.
    pub turned_away: u64,
    /// How long the killing took.
    pub time: Duration,
    /// Effects that the service counted.
    pub effects: u64,
    /// Results that callers were told.
    pub told: u64,
    /// Calls that were in doubt after the last kill.
    pub doubtful: u64,
    /// Told results that the store does not know, and effects that it has no record of.
    pub lost: u64,
    /// Keys with more than one effect.
    pub doubled: u64,
    /// Calls that are neither done nor failed clean in the end, or are so and it is not true.
    pub unexplained: u64,
    /// Entries of the ledger, all verified.
    pub entries: u64,
}

impl Verdict {
    /// Whether every rule was kept.
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.unexplained == 0
    }
}

fn counted(path: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

fn failed(what: impl ToString) -> Failure {
    Failure(what.to_string())
}

fn list(engine: &Engine, kind: RecordKind) -> Result<Vec<RecordInfo>, Failure> {
    let (mut records, mut after) = (Vec::new(), Cursor::default());
    loop {
        let (page, next) = engine.list(kind, after, 1_000).map_err(failed)?;
        records.extend(page);
        match next {
            Some(cursor) => after = cursor,
            None => return Ok(records),
        }
    }
}

/// Judges what a trial left in its directory.
pub(super) fn judge(directory: &Path) -> Result<Verdict, Failure> {
    let place = Place::of(directory);
    let (effects, told) = (counted(&place.effects)?, counted(&place.told)?);
    // What was sealed while processes died must still be a beginning of the ledger in the end.
    let before = Database::open(&place.store).map_err(failed)?.newest_checkpoint().map_err(failed)?;
    let engine = open(&place.store)?;
    policy(&engine)?;
    let doubtful = resolve(&engine, &effects)?;
    // What is held for calls in doubt is settled when their lease ends.
    std::thread::sleep(Duration::from_millis(1_500));
    engine.collect().map_err(failed)?;
    let mut verdict = compare(&engine, &effects, &told)?;
    verdict.doubtful = doubtful;
    let store = engine.sqlite().ok_or_else(|| failed("the engine has no file"))?;
    let report = store.check().map_err(failed)?;
    if !report.is_sound() {
        return Err(failed(format!("the store is not sound: {report:?}")));
    }
    balance(&engine, &place)?;
    drop(engine);
    verdict.entries = verify(&place, before.map(|(_, note)| note))?;
    Ok(verdict)
}

/// Looks up every call in doubt and says what became of it; returns how many there were.
fn resolve(engine: &Engine, effects: &BTreeMap<String, u64>) -> Result<u64, Failure> {
    let mut doubtful = 0;
    for record in list(engine, RecordKind::Operation)? {
        let RecordState::Operation { state: OperationState::InDoubt, run, .. } = record.state else {
            continue;
        };
        doubtful += 1;
        let key = String::from_utf8_lossy(record.key.borrow().key).into_owned();
        let state = match effects.get(&key) {
            Some(_) => OperationState::Done(Some(key.as_bytes().into())),
            None => OperationState::FailedClean,
        };
        if !engine.resolve(record.key.borrow(), Some(run), state).map_err(failed)? {
            return Err(failed(format!("key {key} is in doubt and cannot be resolved")));
        }
    }
    Ok(doubtful)
}

fn compare(
    engine: &Engine,
    effects: &BTreeMap<String, u64>,
    told: &BTreeMap<String, u64>,
) -> Result<Verdict, Failure> {
    let mut verdict =
        Verdict { effects: effects.values().sum(), told: told.values().sum(), ..Verdict::default() };
    verdict.doubled = effects.values().filter(|count| **count > 1).count() as u64;
    let mut done = BTreeSet::new();
    for record in list(engine, RecordKind::Operation)? {
        let RecordState::Operation { state, .. } = record.state else { continue };
        let key = String::from_utf8_lossy(record.key.borrow().key).into_owned();
        let explained = match state {
            OperationState::Done(_) => effects.contains_key(&key),
            OperationState::FailedClean => !effects.contains_key(&key),
            _ => false,
        };
        verdict.unexplained += u64::from(!explained);
        if matches!(state, OperationState::Done(_)) {
            done.insert(key);
        }
    }
    verdict.lost = effects.keys().chain(told.keys()).filter(|key| !done.contains(*key)).count() as u64;
    Ok(verdict)
}

/// What the budget says was spent is what the ledger says happened, and nothing is held.
fn balance(engine: &Engine, place: &Place) -> Result<(), Failure> {
    let database = Database::open(&place.store).map_err(failed)?;
    let (mut open, mut spent, mut from) = (BTreeSet::new(), BTreeSet::new(), 0);
    loop {
        let entries = database.entries(from, 4_096).map_err(failed)?;
        let Some((last, _)) = entries.last() else { break };
        let next = last + 1;
        for (seq, bytes) in &entries {
            let entry = EntryView::read(bytes).map_err(failed)?;
            match (entry.kind, entry.outcome) {
                (Kind::Intent, _) => drop(open.insert(*seq)),
                (Kind::Outcome, Some((ending, ..))) => {
                    let intent =
                        entry.intent.ok_or_else(|| failed(format!("outcome {seq} has no intent")))?;
                    if !open.remove(&intent) && !spent.contains(&intent) {
                        return Err(failed(format!("outcome {seq} is the second of intent {intent}")));
                    }
                    match ending {
                        Ending::Done | Ending::InDoubt => drop(spent.insert(intent)),
                        Ending::FailedClean => drop(spent.remove(&intent)),
                    }
                }
                _ => {}
            }
        }
        from = next;
    }
    if let Some(seq) = open.first() {
        return Err(failed(format!("intent {seq} has no outcome")));
    }
    let expected = Amount::from_units(spent.len() as u64);
    for record in list(engine, RecordKind::Meter)? {
        if let RecordState::Meter { spent, account, .. } = record.state
            && account.ever_held > Amount::ZERO
            && (account.held != Amount::ZERO || spent != expected)
        {
            return Err(failed(format!(
                "the budget spent {spent} and holds {}, not {expected}",
                account.held
            )));
        }
    }
    Ok(())
}

/// The ledger verifies from its first entry to its last, and goes on from what was sealed before; returns its length.
fn verify(place: &Place, before: Option<String>) -> Result<u64, Failure> {
    let path = place.store.with_extension("jsonl");
    let database = Database::open(&place.store).map_err(failed)?;
    let exported = export(&database, Scope::All, &mut std::fs::File::create(&path)?).map_err(failed)?;
    let public = keys::public_path(&keys::default_path(&place.store));
    let key = keys::load_public(&public).map_err(failed)?;
    let report = verify_file(&path, &key, before.as_deref()).map_err(failed)?;
    if let Some(fault) = report.fault {
        return Err(failed(format!("the ledger does not verify: {fault:?} at {:?}", report.first_bad)));
    }
    if exported.unsealed > 0 || report.entries != exported.end - exported.first {
        return Err(failed(format!("{} entries are not sealed after the end", exported.unsealed)));
    }
    Ok(report.entries)
}
