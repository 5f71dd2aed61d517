//! Putting a backup in the place of a store: whole or not at all, and only when nobody has the store open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use checkrein_core::time::Timestamp;

use super::lock::{ProcessLocks, WriterLock};
use super::tables::{self, SqliteTables};
use super::{SqliteOptions, clock, draw_salt, lock, place};
use crate::store::StoreError;
use crate::store::durable::{
    Durable, KeepArguments, LedgerOptions, Liveness, Mark, Options, Report, Restored, Tables,
};

/// How long a restore waits for the store's lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// What [`restore`] did.
#[derive(Clone, Debug)]
pub struct Restoration {
    /// The store.
    pub path: PathBuf,
    /// Where the file that was there before lies now.
    pub aside: Option<PathBuf>,
    /// How far the replaced store had come, where that could be read.
    pub replaced: Option<Mark>,
    /// What became of the backup.
    pub restored: Restored,
    /// What was found in the backup; sound unless damage was accepted.
    pub report: Report,
}

fn refuse<T>(text: String) -> Result<T, StoreError> {
    Err(StoreError::NotCommitted(text))
}

/// Puts a copy of `backup` in the place of the store `target`. The file that was there is kept beside it. What was open
/// in the backup is voided, and the gap is marked in the ledger.
///
/// # Errors
/// Somebody has the target open, the backup is no store or is damaged (and `accept_damage` is not set), or the disk
/// fails. The target is as it was then.
pub fn restore(backup: &Path, target: &Path, accept_damage: bool) -> Result<Restoration, StoreError> {
    if !backup.is_file() {
        return refuse(format!("there is no file `{}`", backup.display()));
    }
    let target = place::locate(target)?;
    if place::identity(backup).is_some_and(|identity| place::identity(&target) == Some(identity)) {
        return refuse(format!("`{}` is the store itself", backup.display()));
    }
    if super::is_open_here(&target) {
        return refuse(format!("this process has `{}` open; close it first", target.display()));
    }
    let locks = lock::directory_of(&target);
    let mut turn = WriterLock::open(&locks)?;
    // Held until the end: nobody opens the store meanwhile.
    turn.acquire_within(PATIENCE)?;
    refuse_living(&target, &locks)?;
    let first_free = lock::processes(&locks).into_iter().max().map_or(0, |last| last.saturating_add(1));
    let replaced =
        tables::settle(&target)?.map(|mark| Mark { next_epoch: mark.next_epoch.max(first_free), ..mark });
    let copy = beside(&target, "restoring");
    remove(&copy);
    let made = tables::copy(backup, &copy).and_then(|()| make_ready(&copy, replaced, accept_damage));
    let swapped = made.and_then(|(restored, report)| {
        swap(&copy, &target).map(|aside| Restoration {
            path: target.clone(),
            aside,
            replaced,
            restored,
            report,
        })
    });
    remove(&copy);
    swapped
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-");
    name.push(suffix);
    name.into()
}

/// Removes a half-made copy and what SQLite and its locks leave beside it.
fn remove(copy: &Path) {
    for path in [copy.to_owned(), beside(copy, "wal"), beside(copy, "shm"), beside(copy, "journal")] {
        // What is not there need not be removed; what cannot be removed is found by the next restore.
        let _ = std::fs::remove_file(path);
    }
    let _ = std::fs::remove_dir_all(lock::directory_of(copy));
}

fn refuse_living(target: &Path, locks: &Path) -> Result<(), StoreError> {
    let mut liveness = ProcessLocks::new(locks.to_owned());
    let living: Vec<u64> =
        lock::processes(locks).into_iter().filter(|&process| liveness.is_alive(process)).collect();
    if living.is_empty() {
        return Ok(());
    }
    let known = super::examine::processes(target).unwrap_or_default();
    let name = |epoch: &u64| match known.iter().find(|process| process.epoch == *epoch) {
        Some(process) => format!("process {} on {}", process.info.pid, process.info.host),
        None => format!("number {epoch}"),
    };
    let living: Vec<String> = living.iter().map(name).collect();
    refuse(format!("`{}` is in use by {}; stop that first", target.display(), living.join(", ")))
}

/// Makes a copy of the backup what the store will be.
fn make_ready(
    copy: &Path,
    replaced: Option<Mark>,
    accept_damage: bool,
) -> Result<(Restored, Report), StoreError> {
    let broken = tables::integrity(copy, false)?;
    if let Some(first) = broken.first()
        && !accept_damage
    {
        return refuse(format!("the backup is damaged: {first}"));
    }
    let locks = lock::directory_of(copy);
    let mut tables = SqliteTables::open(copy, WriterLock::open(&locks)?, super::DEFAULT_WAL_LIMIT)?;
    tables.begin()?;
    let last = replaced.map_or(Timestamp::MIN, |mark| mark.last);
    let seen = Durable::last_seen_on(&mut tables);
    let clock = match seen.and_then(|seen| clock::of(&mut tables, seen.max(last))) {
        Ok(clock) => clock,
        Err(error) => {
            tables.rollback();
            return Err(error);
        }
    };
    tables.commit()?;
    let report = Durable::check_copy(&mut tables)?;
    if !report.is_sound() && !accept_damage {
        return refuse(format!("the backup is damaged: {}", report.first().unwrap_or_default()));
    }
    let options = Options {
        max_keys: SqliteOptions::default().max_keys,
        ledger: Some(LedgerOptions { arguments: KeepArguments::None, salt: draw_salt }),
    };
    let process = super::this_process();
    let restored = Durable::restored(&mut tables, options, clock.now(), &process, replaced)?;
    tables.leave_wal()?;
    drop(tables);
    tables::sync(copy)?;
    Ok((restored, report))
}

/// Puts the copy in the place of the target in one step, and keeps what was there.
fn swap(copy: &Path, target: &Path) -> Result<Option<PathBuf>, StoreError> {
    let failed = |what: &Path, error: std::io::Error| {
        StoreError::NotCommitted(format!("`{}` cannot be written: {error}", what.display()))
    };
    let mut aside = None;
    if target.exists() {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = beside(target, &format!("before-restore-{}", stamp.as_millis()));
        // A second name, so that at no time there is no file.
        std::fs::hard_link(target, &name).map_err(|error| failed(&name, error))?;
        // A log that could not be brought into its file belongs to that one. It must not be there when the new one is.
        for suffix in ["wal", "shm"] {
            let log = beside(target, suffix);
            if log.exists() {
                std::fs::rename(&log, beside(&name, suffix)).map_err(|error| failed(&log, error))?;
            }
        }
        tables::sync_directory(target).map_err(|error| failed(target, error))?;
        aside = Some(name);
    }
    std::fs::rename(copy, target).map_err(|error| failed(target, error))?;
    tables::sync_directory(target).map_err(|error| failed(target, error))?;
    Ok(aside)
}
