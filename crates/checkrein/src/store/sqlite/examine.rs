//! A store's file as a doctor looks at it: without having a part in it, and without changing what it says.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use checkrein_core::ledger::entry::ShortId;
use checkrein_core::time::Timestamp;

use super::lock::ProcessLocks;
use super::{clock, lock, place, tables};
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::durable::{Liveness, Mark, ProcessInfo, Table, open_row, read_host, read_process};

/// A process that has a store open, or left it without closing it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number in the store.
    pub epoch: u64,
    /// What is known of it.
    pub info: ProcessInfo,
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// Whether it lives.
    pub alive: bool,
}

/// What a look at a file found.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Its permissions, as in 0o600.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
    /// The file system it lies on.
    pub file_system: String,
    /// The library that reads it.
    pub sqlite: &'static str,
    /// The version of its tables.
    pub schema: u32,
    /// What SQLite finds wrong with it.
    pub broken: Vec<String>,
    /// How far it has come; nothing if that cannot be read.
    pub mark: Option<Mark>,
    /// Processes that have it open, or left it without closing it.
    pub processes: Vec<Process>,
    /// How far the store's clock is ahead of the machine's, in nanoseconds; nothing where the machine has been booted
    /// since the store was last open.
    pub clock_ahead: Option<i64>,
    /// The host whose ledger it is beside a store that several hosts share.
    pub ledger_host: Option<ShortId>,
}

/// Looks at a store's file. `full` reads every page and index, otherwise every page.
///
/// # Errors
/// There is no such file, or it is no store.
pub fn examine(path: &Path, full: bool) -> Result<Examination, StoreError> {
    if !path.is_file() {
        return Err(StoreError::NotCommitted(format!("there is no file `{}`", path.display())));
    }
    let path = place::locate(path)?;
    let about = std::fs::metadata(&path)
        .map_err(|error| StoreError::NotCommitted(format!("`{}`: {error}", path.display())))?;
    let wal_bytes = tables::wal_size(&path);
    let connection = tables::look_at(&path)?;
    let row = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Vec<u8>>(0)).ok();
    let schema = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap_or_default();
    let mark = row("SELECT body FROM meta WHERE key = CAST('head' AS BLOB)");
    let host = row("SELECT body FROM meta WHERE key = CAST('host' AS BLOB)");
    let kept = row("SELECT body FROM meta WHERE key = CAST('clock' AS BLOB)");
    let body = kept.as_deref().and_then(|row| open_row(Table::Meta, clock::KEY, row).ok());
    let anchor = body.and_then(|(body, _)| clock::anchor_of_this_boot(body));
    let ahead = |anchor| Clock::since_boot(anchor).now().since(Clock::system().now()).nanos();
    drop(connection);
    Ok(Examination {
        bytes: about.len(),
        wal_bytes,
        mode: about.permissions().mode() & 0o7777,
        owner: about.uid(),
        file_system: place::file_system(&path),
        sqlite: rusqlite::version(),
        schema,
        broken: tables::integrity(&path, !full)?,
        mark: mark.and_then(|row| Mark::read(&row).ok()),
        processes: processes(&path)?,
        clock_ahead: anchor.map(ahead),
        ledger_host: host.and_then(|row| read_host(&row).ok()),
        path,
    })
}

/// The processes that have a store open, or left it without closing it.
pub(super) fn processes(path: &Path) -> Result<Vec<Process>, StoreError> {
    let connection = tables::look_at(path)?;
    let failed = |error: &rusqlite::Error| StoreError::NotCommitted(tables::explain(error));
    let mut statement =
        connection.prepare("SELECT key, body FROM epoch ORDER BY key").map_err(|e| failed(&e))?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?));
    let rows = statement.query_map([], read).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut liveness = ProcessLocks::new(lock::directory_of(path));
    let here = super::is_open_here(path);
    let process = |(key, body): (i64, Vec<u8>)| {
        let (epoch, info, since) = read_process(&key.to_be_bytes(), &body).ok()?;
        // Looking at the lock of a store that this process has open would let go of it.
        let own = here && info.pid == std::process::id();
        Some(Process { epoch, alive: own || liveness.is_alive(epoch), info, since })
    };
    Ok(rows.map_err(|error| failed(&error))?.into_iter().filter_map(process).collect())
}
