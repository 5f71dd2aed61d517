//! Tables of bytes in one SQLite file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::appends::Appends;
use super::lock::WriterLock;
use super::place;
use crate::store::StoreError;
use crate::store::durable::{Mark, Rows, SCHEMA, Table, Tables};
use crate::testing::planted;

/// The first version without the bug that two connections could corrupt a file by writing and resetting its log at once
/// (<https://sqlite.org/wal.html>, "the WAL-reset bug").
const OLDEST_SQLITE: i32 = 3_051_003;
/// "CKRN", so that `file` and other programs know whose file it is.
const APPLICATION: i32 = 0x434B_524E;
/// How long somebody else may hold the file before a transaction gives up.
const BUSY: Duration = Duration::from_millis(800);
/// A log larger than this is brought back into the file by force, if it may become that large.
const WAL_SOFT: u64 = 64 << 20;
/// How long that may wait for readers.
const WAL_PATIENCE: Duration = Duration::from_millis(20);
/// The size of the log is looked at after so many commits.
const LOOK_AT_WAL: u32 = 32;

/// What brings the tables of the version before to this version, in order. Tables that are new are made in any case.
const MIGRATIONS: &[(u32, &str)] = &[];

/// The tables of a store in one SQLite file.
#[derive(Debug)]
pub struct SqliteTables {
    connection: Connection,
    path: PathBuf,
    lock: WriterLock,
    statements: Vec<Statements>,
    seen: Option<i64>,
    /// A transaction was begun by [`take_turn`](Self::take_turn) that nobody has used yet.
    turn: Option<bool>,
    appends: Appends,
    commits: u32,
    /// A log larger than this, because a reader does not end, refuses further writes.
    wal_limit: u64,
    /// The file and its log as they were when they were opened, as far as they have been seen.
    files: [Option<(u64, u64)>; 2],
    /// Nothing more is written, and why: a sync failed and nobody knows what the disk holds, or the file is not there any
    /// more.
    failed: Option<String>,
}

/// A store's file as somebody reads it who has no part in it: no tables are made, no process is registered.
pub(super) fn look_at(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path)?;
    match recognise(&connection, path)? {
        Some(_) => Ok(connection),
        None => Err(StoreError::NotCommitted(format!("`{}` is empty", path.display()))),
    }
}

/// Refuses the file of another program. One with nothing in it may be a store that another process is making.
pub(super) fn refuse_others(path: &Path) -> Result<(), StoreError> {
    recognise(&connect(path)?, path).map(drop)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let failed = |error| not_committed(&error);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(failed)?;
    Ok(connection)
}

/// The version of a store's tables, or nothing if the file is empty.
fn recognise(connection: &Connection, path: &Path) -> Result<Option<u32>, StoreError> {
    let read = |sql: &str| {
        let value = connection.query_row(sql, [], |row| row.get::<_, i32>(0));
        value.map_err(|error| not_committed(&error))
    };
    let (application, version) = (read("PRAGMA application_id")?, read("PRAGMA user_version")?);
    let objects = read("SELECT count(*) FROM sqlite_schema")?;
    let refuse = |what: &str| Err(StoreError::NotCommitted(format!("`{}` {what}", path.display())));
    match (application, version) {
        (APPLICATION, version) if version > SCHEMA.cast_signed() => {
            refuse(&format!("was written by a later version of checkrein (schema {version}); use that one"))
        }
        (APPLICATION, version) => Ok(Some(version.cast_unsigned())),
        (0, 0) if objects == 0 => Ok(None),
        _ => refuse("is a database of another program; name another file"),
    }
}

/// Copies a store into a new file, as of its last commit, while it is in use.
pub(super) fn copy(from: &Path, target: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| {
        StoreError::NotCommitted(format!("`{}` cannot be written: {error}", target.display()))
    };
    let connection = look_at(from)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let file = file.map_err(failed)?;
    let name = target
        .to_str()
        .ok_or_else(|| StoreError::NotCommitted(format!("`{}`: a path that is not UTF-8", target.display())));
    // SQLite takes an empty file for a new one.
    let copied = name
        .and_then(|name| connection.execute("VACUUM INTO ?1", [name]).map_err(|error| not_committed(&error)));
    let synced = copied.and_then(|_| file.sync_all().map_err(failed));
    let synced = synced.and_then(|()| sync_directory(target).map_err(failed));
    if synced.is_err() {
        // Half a backup is none; the error that matters is the one above.
        let _ = std::fs::remove_file(target);
    }
    synced
}

/// Brings everything that is in a store's log into its file, and says how far it had come. A file that cannot be read,
/// or is not there, has not come anywhere.
pub(super) fn settle(path: &Path) -> Result<Option<Mark>, StoreError> {
    if std::fs::metadata(path).map_or(0, |about| about.len()) == 0 {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| not_committed(&error))?;
    connection.busy_timeout(BUSY).map_err(|error| not_committed(&error))?;
    let unreadable = |error: &rusqlite::Error| {
        matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
    };
    let read = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    match read {
        Err(error) if unreadable(&error) => return Ok(None),
        other => drop(other.map_err(|error| not_committed(&error))?),
    }
    if recognise(&connection, path)?.is_none() {
        return Ok(None);
    }
    // Only whoever has the file to himself can do without the log.
    match connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)) {
        Err(error) if unreadable(&error) => return Ok(None),
        other => drop(other.map_err(|error| not_committed(&error))?),
    }
    let head = connection.query_row("SELECT body FROM meta WHERE key = CAST('head' AS BLOB)", [], |row| {
        row.get::<_, Vec<u8>>(0)
    });
    Ok(head.ok().and_then(|row| Mark::read(&row).ok()))
}

/// What SQLite itself finds wrong with a file; nothing if that is nothing.
pub(super) fn integrity(path: &Path, quick: bool) -> Result<Vec<String>, StoreError> {
    let connection = look_at(path)?;
    let sql = if quick { "PRAGMA quick_check(20)" } else { "PRAGMA integrity_check(20)" };
    let found = connection.prepare(sql).and_then(|mut statement| {
        statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()
    });
    match found {
        Ok(mut found) => {
            found.retain(|line| line != "ok");
            Ok(found)
        }
        Err(error) => Ok(vec![error.to_string()]),
    }
}

/// Makes the bytes of a file last. The file must not be open in SQLite in this process.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced
        .map_err(|error| StoreError::NotCommitted(format!("`{}` cannot be written: {error}", path.display())))
}

/// Makes the name of a file last.
pub(super) fn sync_directory(of: &Path) -> std::io::Result<()> {
    let directory = of.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new("."))).and_then(|file| file.sync_all())
}

#[derive(Debug)]
struct Statements {
    get: String,
    put: String,
    delete: String,
    first: String,
    after: String,
    last: String,
}

impl Statements {
    fn of(table: Table) -> Self {
        let name = table.name();
        Self {
            get: format!("SELECT body FROM {name} WHERE key = ?1"),
            put: format!(
                "INSERT INTO {name} (key, body) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET body = ?2"
            ),
            delete: format!("DELETE FROM {name} WHERE key = ?1"),
            first: format!("SELECT key, body FROM {name} ORDER BY key LIMIT ?1"),
            after: format!("SELECT key, body FROM {name} WHERE key > ?2 ORDER BY key LIMIT ?1"),
            last: format!("SELECT key, body FROM {name} ORDER BY key DESC LIMIT 1"),
        }
    }
}

/// A key as the table has it.
enum Key<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

impl rusqlite::ToSql for Key<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

fn key_of(table: Table, key: &[u8]) -> Key<'_> {
    match key.try_into() {
        Ok(bytes) if table.is_numbered() => Key::Number(i64::from_be_bytes(bytes)),
        _ => Key::Bytes(key),
    }
}

fn not_committed(error: &rusqlite::Error) -> StoreError {
    StoreError::NotCommitted(explain(error))
}

/// What to tell a person about an error of SQLite.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds the file; close it, or wait until it is done"
        }
        Some(ErrorCode::DiskFull) => "the disk is full; make room",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the file or its directory cannot be written; look at their permissions"
        }
        Some(ErrorCode::NotADatabase) => "the file is not a checkrein store; name another one",
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged; restore a backup, then `checkrein doctor`",
        Some(ErrorCode::CannotOpen) => "the file cannot be opened; look at its directory",
        Some(ErrorCode::SystemIoFailure) => "the disk failed; look at the system's log",
        _ => return error.to_string(),
    };
    format!("{error} ({hint})")
}

impl SqliteTables {
    /// Opens the file, and makes its tables if it is new.
    ///
    /// # Errors
    /// It cannot be opened, is not ours, or is of a later version.
    pub(super) fn open(path: &Path, lock: WriterLock, wal_limit: u64) -> Result<Self, StoreError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            let version = rusqlite::version();
            return Err(StoreError::NotCommitted(format!("SQLite {version} is too old; 3.51.3 is needed")));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| not_committed(&error))?;
        let statements = Table::ALL.into_iter().map(Statements::of).collect();
        let path = path.to_owned();
        let mut tables = Self {
            connection,
            path,
            lock,
            statements,
            seen: None,
            turn: None,
            appends: Appends::default(),
            commits: 0,
            wal_limit,
            files: [None; 2],
            failed: None,
        };
        tables.set_up().map_err(|error| not_committed(&error))?;
        tables.make_tables()?;
        Ok(tables)
    }

    fn set_up(&mut self) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(128);
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
        Ok(())
    }

    fn make_tables(&mut self) -> Result<(), StoreError> {
        let version = recognise(&self.connection, &self.path)?;
        self.use_wal()?;
        if version == Some(SCHEMA) {
            return Ok(());
        }
        self.lock.acquire()?;
        let made = self.bring_forward(version);
        if made.is_err() && !self.connection.is_autocommit() {
            // The error that matters is the one above.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.lock.release();
        made.map_err(|error| not_committed(&error))
    }

    /// Makes the tables of a new file, or brings those of an older version to the current one, in one transaction.
    fn bring_forward(&self, from: Option<u32>) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        // Another process may have been here while this one waited.
        let now: i32 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let from = from.map_or(0, |from| from.max(now.cast_unsigned()));
        for (version, sql) in MIGRATIONS {
            if from > 0 && from < *version {
                self.connection.execute_batch(sql)?;
            }
        }
        self.connection.execute_batch(&schema())?;
        self.connection.execute_batch("COMMIT")
    }

    fn use_wal(&self) -> Result<(), StoreError> {
        let mode: Result<String, _> =
            self.connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match mode.map_err(|error| not_committed(&error))?.as_str() {
            "wal" => Ok(()),
            mode => Err(StoreError::NotCommitted(format!(
                "`{}` cannot use a write-ahead log (SQLite chose `{mode}`); put it on a local disk",
                self.path.display()
            ))),
        }
    }

    /// Brings everything into the one file, and does without a log from now on.
    pub(super) fn leave_wal(&mut self) -> Result<(), StoreError> {
        let left =
            self.connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
        left.map(drop).map_err(|error| not_committed(&error))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[expect(clippy::indexing_slicing, reason = "there are as many statements as tables")]
    fn statements(&self, table: Table) -> &Statements {
        &self.statements[table as usize]
    }

    fn query(
        &self,
        sql: &str,
        table: Table,
        limit: i64,
        after: Option<&[u8]>,
    ) -> Result<Rows, rusqlite::Error> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| {
            let key = match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_be_bytes().to_vec(),
                other => other.as_bytes().map(<[u8]>::to_vec).unwrap_or_default(),
            };
            Ok((key, row.get_ref(1)?.as_bytes().map(<[u8]>::to_vec).unwrap_or_default()))
        };
        let rows = match after {
            Some(after) => statement.query_map(params![limit, key_of(table, after)], read)?,
            None => statement.query_map(params![limit], read)?,
        };
        rows.collect()
    }

    /// Keeps the log from growing without end behind a reader that does not end.
    fn tame_wal(&mut self) -> Result<(), StoreError> {
        self.commits += 1;
        if !self.commits.is_multiple_of(LOOK_AT_WAL) {
            return Ok(());
        }
        let size = wal_size(&self.path);
        if size <= WAL_SOFT.min(self.wal_limit / 4) {
            return Ok(());
        }
        // The turn is this process's, and a reader that does not end must not make everybody wait.
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        let patient = self.connection.busy_timeout(WAL_PATIENCE);
        // It fails while somebody reads; then the next look tries again.
        let _ = patient.and_then(|()| self.connection.query_row(truncate, [], |_| Ok(())));
        self.connection.busy_timeout(BUSY).map_err(|error| not_committed(&error))?;
        let left = wal_size(&self.path);
        if left <= self.wal_limit {
            return Ok(());
        }
        // The next transaction looks again.
        self.commits -= 1;
        Err(StoreError::NotCommitted(format!(
            "the write-ahead log has {left} bytes because a reader of the file does not end; find it and end it"
        )))
    }
}

/// The bytes of a file's write-ahead log.
pub(super) fn wal_size(database: &Path) -> u64 {
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).map_or(0, |about| about.len())
}

/// The tables of the current version.
fn schema() -> String {
    let mut sql = String::new();
    for table in Table::ALL {
        let (name, key, rest) = (table.name(), "BLOB", " WITHOUT ROWID");
        let (key, rest) = if table.is_numbered() { ("INTEGER", "") } else { (key, rest) };
        sql += &format!(
            "CREATE TABLE IF NOT EXISTS {name} (key {key} PRIMARY KEY NOT NULL, body BLOB NOT NULL){rest};\n"
        );
    }
    sql + &format!("PRAGMA application_id = {APPLICATION};\nPRAGMA user_version = {SCHEMA};")
}

impl SqliteTables {
    /// Begins the next transaction before it is known what it will do.
    pub(super) fn take_turn(&mut self) -> Result<(), StoreError> {
        if self.turn.is_none() {
            self.turn = Some(self.begin_now()?);
        }
        Ok(())
    }

    /// Gives back a turn that was not used.
    pub(super) fn end_turn(&mut self) {
        if let Some(foreign) = self.turn.take() {
            self.rollback();
            if foreign {
                // Nobody has heard of it yet.
                self.seen = None;
            }
        }
    }

    /// The names still lead to the files that are open. A file that was removed or put in another's place goes on taking
    /// what this process writes, and nobody will ever see it.
    fn same_files(&mut self) -> Result<(), StoreError> {
        let now = [place::identity(&self.path), place::identity(&self.wal_path())];
        for (known, now) in self.files.iter_mut().zip(now) {
            if known.is_some() && *known != now {
                let failed = format!(
                    "`{}` or its log was removed or replaced while it was open; see who did",
                    self.path.display()
                );
                let error =
                    StoreError::NotCommitted(format!("the store has stopped: {failed}, then start again"));
                self.failed = Some(failed);
                return Err(error);
            }
            *known = now;
        }
        Ok(())
    }

    fn wal_path(&self) -> PathBuf {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        wal.into()
    }

    fn begin_now(&mut self) -> Result<bool, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(StoreError::NotCommitted(format!(
                "the store has stopped: {failed}, then start again"
            )));
        }
        self.lock.acquire()?;
        let begin = self.same_files().and_then(|()| self.tame_wal()).and_then(|()| {
            let mut begin =
                self.connection.prepare_cached("BEGIN IMMEDIATE").map_err(|e| not_committed(&e))?;
            begin.execute([]).map_err(|error| not_committed(&error))
        });
        if let Err(error) = begin {
            self.lock.release();
            return Err(error);
        }
        let version = self.connection.prepare_cached("PRAGMA data_version");
        let version = version.and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)));
        match version {
            Ok(version) => Ok(self.seen.replace(version) != Some(version)),
            Err(error) => {
                self.rollback();
                Err(not_committed(&error))
            }
        }
    }
}

impl Tables for SqliteTables {
    fn begin(&mut self) -> Result<bool, StoreError> {
        self.turn.take().map_or_else(|| self.begin_now(), Ok)
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.appends.write(&self.connection, table).map_err(|error| not_committed(&error))?;
        let row = self.connection.prepare_cached(&self.statements(table).get).and_then(|mut statement| {
            statement
                .query_row([key_of(table, key)], |row| Ok(row.get_ref(0)?.as_bytes().map(<[u8]>::to_vec)))
                .optional()
        });
        match row.map_err(|error| not_committed(&error))? {
            None => Ok(None),
            Some(Ok(body)) => Ok(Some(body)),
            Some(Err(_)) => Err(StoreError::Damaged(format!("a row of {} is not bytes", table.name()))),
        }
    }

    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        if let Key::Number(number) = key_of(table, key)
            && self
                .appends
                .put(&self.connection, table, number, row)
                .map_err(|error| not_committed(&error))?
        {
            return Ok(());
        }
        let put = self.connection.prepare_cached(&self.statements(table).put);
        let put = put.and_then(|mut put| put.execute(params![key_of(table, key), row]));
        put.map(drop).map_err(|error| not_committed(&error))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if let Key::Number(number) = key_of(table, key) {
            let written = self.appends.before_delete(&self.connection, table, number);
            written.map_err(|error| not_committed(&error))?;
        }
        let delete = self.connection.prepare_cached(&self.statements(table).delete);
        let delete = delete.and_then(|mut delete| delete.execute([key_of(table, key)]));
        delete.map(drop).map_err(|error| not_committed(&error))
    }

    fn scan(&mut self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Rows, StoreError> {
        self.appends.write(&self.connection, table).map_err(|error| not_committed(&error))?;
        let statements = self.statements(table);
        let sql = if after.is_some() { &statements.after } else { &statements.first };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.query(sql, table, limit, after).map_err(|error| not_committed(&error))
    }

    fn last(&mut self, table: Table) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.appends.write(&self.connection, table).map_err(|error| not_committed(&error))?;
        let mut statement = self
            .connection
            .prepare_cached(&self.statements(table).last)
            .map_err(|error| not_committed(&error))?;
        let row = statement.query_row([], |row| {
            let key = match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_be_bytes().to_vec(),
                other => other.as_bytes().map(<[u8]>::to_vec).unwrap_or_default(),
            };
            Ok((key, row.get_ref(1)?.as_bytes().map(<[u8]>::to_vec).unwrap_or_default()))
        });
        row.optional().map_err(|error| not_committed(&error))
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.appends.write_all(&self.connection) {
            self.rollback();
            return Err(not_committed(&error));
        }
        planted::pass("before commit");
        let commit = self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        planted::pass("after commit");
        let result = match commit {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = explain(&error);
                if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
                    // What a failed sync left on the disk cannot be known, and asking again may say "done" to what is lost.
                    self.failed = Some(format!("the disk failed: {text}; look at the disk"));
                    Err(StoreError::Unknown(text))
                } else {
                    Err(StoreError::NotCommitted(text))
                }
            }
        };
        if !self.connection.is_autocommit() {
            // The transaction did not commit; that it cannot even be rolled back changes nothing about that.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.lock.release();
        result
    }

    fn rollback(&mut self) {
        self.appends.clear();
        if !self.connection.is_autocommit() {
            // A transaction that cannot be rolled back is rolled back by the next one that opens the file.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.lock.release();
    }
}
