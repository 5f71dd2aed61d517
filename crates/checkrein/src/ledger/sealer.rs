//! The sealer: reads entries back from the disk, hashes them, and has tiles and a signed checkpoint written.
//!
//! It hashes and reads over a connection of its own, outside every transaction of the store; only the finished rows go
//! through the store's writer. Several processes may seal one ledger: who comes second finds that the newest checkpoint
//! is not the one it began with, and drops its work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein_core::ledger::checkpoint::{Checkpoint, Signer};
use checkrein_core::ledger::entry::EntryView;
use checkrein_core::ledger::moment;
use checkrein_core::ledger::tree::{Growth, leaf_hash};
use checkrein_core::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::database::{signed, tile_key};
use super::{Database, LedgerError, Witness};
use crate::parking::{Condvar, Mutex};
use crate::store::StoreError;
use crate::store::durable::{SEALED, Table, sealed_row};

/// The most entries under one new checkpoint: bounds the memory and the transaction of one sealing.
pub(super) const MOST_AT_ONCE: u64 = 4_096;

/// Entries read at once.
const PAGE: u64 = 512;

/// A row that the sealer has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its table.
    pub table: Table,
    /// Its key; a number is eight bytes, big-endian.
    pub key: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The store at the moment of a checkpoint, within the transaction that writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The store's time.
    pub now: Timestamp,
    /// The size of the newest checkpoint, if there is one.
    pub newest: Option<u64>,
    /// The authenticated head over all records: the number of its commit and its digest in hexadecimal.
    pub head: Option<(u64, String)>,
}

/// Makes the rows of a checkpoint; none if somebody else has sealed meanwhile.
pub type Make = Box<dyn FnOnce(&Moment) -> Vec<Row> + Send>;

/// Where a sealer's rows are written: one write transaction of the store, with whatever lock it takes.
pub trait Ground: Send + Sync {
    /// Calls `make` within a transaction and commits the rows it returns.
    ///
    /// # Errors
    /// The transaction did not commit.
    fn write(&self, make: Make) -> Result<(), StoreError>;
}

/// What a sealing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Entries that were not sealed before.
    pub entries: u64,
    /// The size of the tree.
    pub size: u64,
    /// The signed checkpoint.
    pub note: String,
}

/// Seals what is not sealed yet, up to 4,096 entries; nothing if there is nothing, or if somebody else did it meanwhile.
///
/// # Errors
/// What is on the disk is not what was sealed or appended, the key is another one, or the store cannot be written.
pub fn seal(
    database: &Database,
    ground: &dyn Ground,
    signer: &Arc<Signer>,
) -> Result<Option<Sealed>, LedgerError> {
    let begin = newest(database, signer)?;
    let sealed = begin.as_ref().map_or(0, |checkpoint| checkpoint.size);
    let mut growth = resume(database, begin.as_ref())?;
    while growth.size() - sealed < MOST_AT_ONCE {
        let page = database.entries(growth.size(), PAGE)?;
        if page.is_empty() {
            break;
        }
        for (seq, body) in page {
            check(seq, &body, growth.size())?;
            growth.push(leaf_hash(&body));
        }
    }
    let (size, root) = (growth.size(), growth.root());
    if size == sealed && begin.is_some() || size == 0 {
        return Ok(None);
    }
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let key = Arc::clone(signer);
    let expected = begin.map(|checkpoint| checkpoint.size);
    let make: Make = Box::new(move |store| {
        if store.newest != expected {
            return Vec::new();
        }
        let mut lines = vec![format!("time {}", moment::to_text(store.now))];
        lines.extend(store.head.as_ref().map(|(commit, head)| format!("store {commit} {head}")));
        let note = key.sign(size, root, &lines);
        let mut rows: Vec<Row> = growth.take_tiles().into_iter().map(row_of).collect();
        let key = size.to_be_bytes().to_vec();
        rows.push(Row { table: Table::Checkpoint, key, body: note.clone().into_bytes() });
        // The receiver waits for as long as the transaction takes.
        let _ = send.send(note);
        rows
    });
    ground.write(make)?;
    Ok(receive.try_recv().ok().map(|note| Sealed { entries: size - sealed, size, note }))
}

fn row_of(tile: checkrein_core::ledger::tree::Tile) -> Row {
    let key = tile_key(tile.level, tile.index).to_vec();
    Row { table: Table::Tile, key, body: tile.hashes.into_flattened() }
}

/// The newest checkpoint, if it is of this key and covers everything that was ever sealed. Otherwise nothing is signed:
/// that would make whatever became of the entries look as if it had always been so.
fn newest(database: &Database, signer: &Signer) -> Result<Option<Checkpoint>, LedgerError> {
    let Some((size, note)) = database.newest_sealed()? else { return Ok(None) };
    let checkpoint = signer.verifier().open(&note).map_err(LedgerError::OtherKey)?;
    if checkpoint.size != size {
        return Err(LedgerError::Damaged(format!("the checkpoint under {size} is over {}", checkpoint.size)));
    }
    Ok(Some(checkpoint))
}

/// The right edge of the tree, if the tiles on the disk still give the root that was signed.
fn resume(mut database: &Database, from: Option<&Checkpoint>) -> Result<Growth, LedgerError> {
    use checkrein_core::ledger::proof::TileSource as _;
    let size = from.map_or(0, |checkpoint| checkpoint.size);
    let growth = Growth::resume(size, |level, index| database.tile(level, index))?;
    growth.filter(|growth| from.is_none_or(|checkpoint| growth.root() == checkpoint.root)).ok_or_else(|| {
        LedgerError::Damaged(format!("the tiles do not give the root of the checkpoint over {size} entries"))
    })
}

/// An entry that is not its canonical self at its own place was damaged since it was appended.
fn check(seq: u64, body: &[u8], expected: u64) -> Result<(), LedgerError> {
    if seq != expected {
        return Err(LedgerError::Damaged(format!("entry {expected} is missing: entry {seq} follows")));
    }
    match EntryView::read(body) {
        Ok(entry) if entry.seq == seq => Ok(()),
        Ok(entry) => {
            Err(LedgerError::Damaged(format!("entry {} stands in the place of entry {seq}", entry.seq)))
        }
        Err(error) => Err(LedgerError::Damaged(format!("entry {seq} is {error}"))),
    }
}

/// When and for whom a sealer seals.
#[derive(Clone, Debug)]
pub struct SealOptions {
    /// Entries after which a checkpoint is due. Default 1,000.
    pub every: u64,
    /// Time after which one is due for entries that wait. Default 10 s.
    pub within: Duration,
    /// Who is sent each checkpoint.
    pub witness: Option<Arc<Witness>>,
}

impl Default for SealOptions {
    fn default() -> Self {
        Self { every: 1_000, within: Duration::from_secs(10), witness: None }
    }
}

/// How often a sealer looks for new entries.
const LOOK: Duration = Duration::from_millis(200);

/// How long a sealer pauses after a failure: of a damaged entry, of a witness that does not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// A thread that seals a ledger.
#[derive(Debug)]
pub struct Sealer {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    last: Option<Sealed>,
    error: Option<String>,
}

impl Sealer {
    /// Starts to seal the ledger in a store's file. Its rows are written through `ground`, which must be there until
    /// [`stop`](Self::stop) has returned.
    ///
    /// # Errors
    /// The file cannot be read, its checkpoints are of another key, the witness saw a newer or another ledger, or
    /// there is no thread to be had.
    pub fn start(
        path: &Path,
        ground: Arc<dyn Ground>,
        signer: Arc<Signer>,
        options: SealOptions,
    ) -> Result<Self, LedgerError> {
        let database = Database::open(path)?;
        newest(&database, &signer)?;
        if let Some(witness) = &options.witness {
            witness.check(&database, &signer.verifier())?;
            witness.ready()?;
        }
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            database,
            ground,
            signer,
            options,
            shared: Arc::clone(&shared),
            unsent: None,
            waiting_since: None,
            not_before: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("checkrein-sealer".to_owned())
            .spawn(move || worker.run())
            .map_err(LedgerError::file(path))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The newest checkpoint that this sealer made.
    #[must_use]
    pub fn last(&self) -> Option<Sealed> {
        self.shared.state.lock().last.clone()
    }

    /// Why the last attempt to seal or to tell the witness failed; nothing if it did not.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.shared.state.lock().error.clone()
    }

    /// Seals what is left and ends the thread.
    pub fn stop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.woken.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, what it sealed is on the disk and the rest is sealed by the next one.
            let _ = thread.join();
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    database: Database,
    ground: Arc<dyn Ground>,
    signer: Arc<Signer>,
    options: SealOptions,
    shared: Arc<Shared>,
    /// The newest note that the witness has not taken.
    unsent: Option<String>,
    /// Since when entries wait.
    waiting_since: Option<Instant>,
    /// After a failure the next look is not taken at once.
    not_before: Instant,
}

impl Worker {
    fn run(mut self) {
        loop {
            let stop = self.wait();
            if stop || Instant::now() >= self.not_before {
                let error = self.look(stop).err();
                if error.is_some() {
                    self.not_before = Instant::now() + PAUSE;
                }
                self.shared.state.lock().error = error.map(|error| error.to_string());
            }
            if stop {
                return;
            }
        }
    }

    /// Seals what is due, or all of it at the `last` look; what cannot be sealed or sent stays due.
    fn look(&mut self, last: bool) -> Result<(), LedgerError> {
        let waiting = self.waiting()?;
        let since = self.waiting_since.filter(|_| waiting > 0);
        let since = since.or_else(|| (waiting > 0).then(Instant::now));
        self.waiting_since = since;
        // The next look would be too late.
        let long = since.is_some_and(|since| since.elapsed() + LOOK >= self.options.within);
        if waiting >= self.options.every || long || (last && waiting > 0) {
            self.seal_all()?;
            self.waiting_since = None;
        }
        // Who leaves does not wait for a witness that has just failed: it is sent the next checkpoint of the next process.
        if last && Instant::now() < self.not_before { Ok(()) } else { self.send() }
    }

    /// Waits for the next look; `true` when it is to be the last.
    fn wait(&self) -> bool {
        let mut state = self.shared.state.lock();
        if !state.stop {
            state = self.shared.woken.wait_until(state, Instant::now() + LOOK);
        }
        state.stop
    }

    /// Entries that wait to be sealed.
    fn waiting(&self) -> Result<u64, LedgerError> {
        let sealed = self.database.newest_checkpoint()?.map_or(0, |(size, _)| size);
        Ok(self.database.size()?.saturating_sub(sealed))
    }

    fn seal_all(&mut self) -> Result<(), LedgerError> {
        let begun = Instant::now();
        while let Some(sealed) = seal(&self.database, &*self.ground, &self.signer)? {
            let whole = sealed.entries >= MOST_AT_ONCE;
            self.unsent = Some(sealed.note.clone());
            self.shared.state.lock().last = Some(sealed);
            // Entries that keep coming are the next look's; the witness hears of these now.
            if !whole || begun.elapsed() > self.options.within {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), LedgerError> {
        let Some(witness) = &self.options.witness else {
            self.unsent = None;
            return Ok(());
        };
        if let Some(note) = &self.unsent {
            witness.send(note)?;
            self.unsent = None;
        }
        Ok(())
    }
}

/// A ground of its own: for a ledger whose store this process has not opened, as in the command.
#[derive(Debug)]
pub struct OwnConnection {
    connection: Mutex<Connection>,
    path: PathBuf,
    now: Timestamp,
}

impl OwnConnection {
    /// Opens a store's file for sealing at the time `now`.
    ///
    /// # Errors
    /// The file does not exist or cannot be written.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        Ok(Self { connection: Mutex::new(connection), path: path.to_owned(), now })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn commit(&self, make: Make) -> rusqlite::Result<()> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let newest: Option<i64> = transaction
            .query_row("SELECT key FROM checkpoint ORDER BY key DESC LIMIT 1", [], |row| row.get(0))
            .optional()?;
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'";
        let notes = transaction.query_row(tables, [], |row| row.get::<_, i64>(0))? == 1;
        let store = Moment { now: self.now, newest: newest.map(i64::unsigned_abs), head: None };
        for row in make(&store) {
            if let (Table::Checkpoint, true, Some(size)) = (row.table, notes, row.key.first_chunk()) {
                let body = sealed_row(u64::from_be_bytes(*size));
                let sql =
                    "INSERT INTO meta (key, body) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET body = ?2";
                transaction.execute(sql, params![SEALED, body])?;
            }
            let sql = format!(
                "INSERT INTO {} (key, body) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET body = ?2",
                row.table.name()
            );
            let mut statement = transaction.prepare_cached(&sql)?;
            match <[u8; 8]>::try_from(row.key.as_slice()) {
                Ok(number) if row.table.is_numbered() => {
                    statement.execute(params![signed(u64::from_be_bytes(number)), row.body])?
                }
                _ => statement.execute(params![row.key, row.body])?,
            };
        }
        transaction.commit()
    }
}

impl Ground for OwnConnection {
    fn write(&self, make: Make) -> Result<(), StoreError> {
        self.commit(make).map_err(|error| StoreError::NotCommitted(error.to_string()))
    }
}
