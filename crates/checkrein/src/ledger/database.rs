//! A ledger as its file holds it, read over a connection of its own while others write.

use std::path::{Path, PathBuf};
use std::time::Duration;

use checkrein_core::ledger::entry::ShortId;
use checkrein_core::ledger::proof::{ProofError, TileSource};
use checkrein_core::ledger::tree::{Hash, TILE, hashes_of};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::LedgerError;
use crate::store::durable::{HOST_KEY, SCHEMA, SEALED, Table, read_host, read_sealed};

/// How long to wait for somebody who has the file to himself.
const BUSY: Duration = Duration::from_millis(800);

/// A ledger that is only read.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens the ledger in a store's file.
    ///
    /// # Errors
    /// There is no such file, it cannot be read, or it is not a store.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        if !path.is_file() {
            return Err(LedgerError::NotFound(format!("there is no store `{}`", path.display())));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        let tables: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('entry', 'tile', 'checkpoint')",
            [],
            |row| row.get(0),
        )?;
        if tables < 3 {
            return Err(LedgerError::NotFound(format!("`{}` is not a store with a ledger", path.display())));
        }
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of entries there ever were: one more than the last one's sequence.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn size(&self) -> Result<u64, LedgerError> {
        let last = self.number("SELECT max(key) FROM entry")?;
        Ok(last.map_or(0, |last| last.saturating_add(1)))
    }

    /// The first entry that is still there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn first(&self) -> Result<u64, LedgerError> {
        Ok(self.number("SELECT min(key) FROM entry")?.unwrap_or(0))
    }

    /// At most `limit` entries from `from` on, in their order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn entries(&self, from: u64, limit: u64) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
        let sql = "SELECT key, body FROM entry WHERE key >= ?1 ORDER BY key LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?.unsigned_abs(), bytes(row, 1)?));
        let rows = statement.query_map(params![signed(from), signed(limit)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One entry.
    ///
    /// # Errors
    /// There is none, or the file cannot be read.
    pub fn entry(&self, seq: u64) -> Result<Vec<u8>, LedgerError> {
        let sql = "SELECT body FROM entry WHERE key = ?1";
        let body =
            self.connection.prepare_cached(sql)?.query_row([signed(seq)], |row| bytes(row, 0)).optional()?;
        match body {
            Some(body) => Ok(body),
            None if seq < self.first()? => {
                Err(LedgerError::NotFound(format!("entry {seq} was removed; its hash is kept")))
            }
            None => Err(LedgerError::NotFound(format!(
                "there is no entry {seq}: the ledger has {}",
                self.size()?
            ))),
        }
    }

    /// The newest checkpoint: its size and its note.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn newest_checkpoint(&self) -> Result<Option<(u64, String)>, LedgerError> {
        let sql = "SELECT key, body FROM checkpoint ORDER BY key DESC LIMIT 1";
        Ok(self.connection.prepare_cached(sql)?.query_row([], note).optional()?)
    }

    /// The newest checkpoint, if it covers everything that was ever sealed here. Tiles and checkpoints are written
    /// together and only grow, and the store notes how far it was sealed: where these say that more was sealed than the
    /// newest checkpoint covers, a checkpoint was removed, and what stood under it may have been changed.
    ///
    /// # Errors
    /// More or less was sealed than the newest checkpoint says, or the file cannot be read.
    pub fn newest_sealed(&self) -> Result<Option<(u64, String)>, LedgerError> {
        // One view of the file: another process may be sealing.
        let _view = if self.connection.is_autocommit() { Some(self.view()?) } else { None };
        let newest = self.newest_checkpoint()?;
        let size = newest.as_ref().map_or(0, |(size, _)| *size);
        let by = match size {
            0 => "there is no checkpoint: it was removed, or tiles were put there".to_owned(),
            _ => format!("the newest checkpoint is over {size}: another was removed, or tiles were"),
        };
        for level in 0..8 {
            let expected = size >> (8 * u32::from(level));
            let found = self.hashes_at(level)?;
            if found != expected {
                return Err(LedgerError::Damaged(match level {
                    0 => format!("its tiles are over {found} entries, and {by}"),
                    _ => format!("its tiles of level {level} have {found} hashes, and {by}"),
                }));
            }
        }
        match self.noted()? {
            Some(noted) if noted != size => {
                Err(LedgerError::Damaged(format!("the store notes {noted} sealed entries, and {by}")))
            }
            _ => Ok(newest),
        }
    }

    /// The name of the host whose ledger it is beside a store that several hosts share; nothing if it is none.
    ///
    /// # Errors
    /// The file cannot be read, or the row is not what was written.
    pub fn host(&self) -> Result<Option<ShortId>, LedgerError> {
        Ok(self.meta(HOST_KEY)?.as_deref().map(read_host).transpose()?)
    }

    /// Everything that is read until it is dropped is of one instant.
    pub(super) fn view(&self) -> Result<rusqlite::Transaction<'_>, LedgerError> {
        Ok(self.connection.unchecked_transaction()?)
    }

    /// The version of the file's tables, if it is later than those that this program writes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn later_schema(&self) -> Result<Option<u32>, LedgerError> {
        let version: u32 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((version > SCHEMA).then_some(version))
    }

    /// The tables of the file that are none of a store's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn unknown_tables(&self) -> Result<Vec<String>, LedgerError> {
        let sql = "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
        let mut statement = self.connection.prepare(sql)?;
        let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let known = |name: &String| Table::ALL.iter().any(|table| table.name() == name);
        Ok(names.into_iter().filter(|name| !known(name)).collect())
    }

    /// The number of hashes of a level, by its last tile.
    fn hashes_at(&self, level: u8) -> Result<u64, LedgerError> {
        let sql = "SELECT key, length(body) FROM tile WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1";
        let (from, to) = (tile_key(level, 0), tile_key(level, u64::MAX));
        let read = |row: &rusqlite::Row<'_>| Ok((bytes(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs()));
        let last = self
            .connection
            .prepare_cached(sql)?
            .query_row([from.as_slice(), to.as_slice()], read)
            .optional()?;
        let index = |key: &[u8]| key.last_chunk::<8>().map_or(0, |index| u64::from_be_bytes(*index));
        Ok(last.map_or(0, |(key, length)| index(&key).saturating_mul(TILE).saturating_add(length / 32)))
    }

    /// How far the store notes that it was sealed.
    fn noted(&self) -> Result<Option<u64>, LedgerError> {
        if !self.has_meta()? {
            return Ok(None);
        }
        Ok(Some(self.meta(SEALED)?.as_deref().map_or(Ok(0), read_sealed)?))
    }

    fn has_meta(&self) -> Result<bool, LedgerError> {
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'";
        Ok(self.number(tables)? == Some(1))
    }

    /// A row of the store's single values.
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        if !self.has_meta()? {
            return Ok(None);
        }
        let sql = "SELECT body FROM meta WHERE key = ?1";
        Ok(self.connection.prepare_cached(sql)?.query_row([key], |row| bytes(row, 0)).optional()?)
    }

    /// The checkpoint over exactly `size` entries.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn checkpoint(&self, size: u64) -> Result<Option<String>, LedgerError> {
        let sql = "SELECT key, body FROM checkpoint WHERE key = ?1";
        let found = self.connection.prepare_cached(sql)?.query_row([signed(size)], note).optional()?;
        Ok(found.map(|(_, note)| note))
    }

    /// The first checkpoint over at least `size` entries.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn checkpoint_from(&self, size: u64) -> Result<Option<(u64, String)>, LedgerError> {
        let sql = "SELECT key, body FROM checkpoint WHERE key >= ?1 ORDER BY key LIMIT 1";
        Ok(self.connection.prepare_cached(sql)?.query_row([signed(size)], note).optional()?)
    }

    fn number(&self, sql: &str) -> Result<Option<u64>, LedgerError> {
        let number: Option<i64> = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(number.map(i64::unsigned_abs))
    }
}

impl TileSource for &Database {
    type Error = LedgerError;

    fn tile(&mut self, level: u8, index: u64) -> Result<Vec<Hash>, LedgerError> {
        let sql = "SELECT body FROM tile WHERE key = ?1";
        let body: Option<Vec<u8>> = self
            .connection
            .prepare_cached(sql)?
            .query_row([tile_key(level, index).as_slice()], |row| bytes(row, 0))
            .optional()?;
        hashes_of(&body.unwrap_or_default()).ok_or_else(|| {
            LedgerError::Damaged(format!("tile {index} of level {level} is not a list of hashes"))
        })
    }
}

impl From<ProofError<LedgerError>> for LedgerError {
    fn from(error: ProofError<LedgerError>) -> Self {
        match error {
            ProofError::Source(error) => error,
            ProofError::OutOfRange { .. } => Self::NotFound(error.to_string()),
            ProofError::Missing { .. } => Self::Damaged(error.to_string()),
        }
    }
}

/// The key of a tile's row.
pub(super) fn tile_key(level: u8, index: u64) -> [u8; 9] {
    let mut key = [level; 9];
    let (_, place) = key.split_at_mut(1);
    place.copy_from_slice(&index.to_be_bytes());
    key
}

/// The bytes of a column; what is neither bytes nor text was not written by us and is no entry, tile or note.
fn bytes(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes().map(<[u8]>::to_vec).unwrap_or_default())
}

fn note(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u64, String)> {
    let body = bytes(row, 1)?;
    // What is not text is no note: whoever opens it says so.
    Ok((row.get::<_, i64>(0)?.unsigned_abs(), String::from_utf8_lossy(&body).into_owned()))
}

/// Sequences stay below 2^53.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
