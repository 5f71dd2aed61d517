//! The SQLite store: every gate of all processes of one machine, through crashes. Durability D2.
//!
//! One thread per process writes, and commits what has come in meanwhile in one transaction with one sync. Processes
//! take turns by a lock beside the file; what one remembers counts until another has committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use checkrein_core::gate::breaker::Health;
use checkrein_core::key::Family;
use checkrein_core::ledger::entry::SALT_LENGTH;
use checkrein_core::permit::Outcome;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};
use parking_lot::Mutex;

use super::durable::{Durable, FamilyKey, KeepArguments, LedgerOptions, Options, ProcessInfo, Report};
use super::{Cursor, OwnedSettlement, Page, Results, Step, StepResult, StoreError};
use crate::clock::Clock;
use crate::ledger::{LedgerError, Sealer};

mod appends;
mod clock;
mod examine;
mod lock;
mod place;
mod queue;
mod restore;
mod seal;
mod tables;
mod writer;

pub(crate) use clock::since_boot;
pub use examine::{Examination, Process, examine};
pub use place::{path_of, quotable};
pub use restore::{Restoration, restore};
pub use tables::SqliteTables;

use lock::{ProcessLocks, WriterLock};
use queue::{Call, Job, Queue, Reply, Waiter, ended};
use seal::SealPlan;
use writer::Writer;

/// How long a caller waits for its turn before the store counts as gone; once its steps are being committed, as long
/// again.
pub const DEFAULT_PATIENCE: Duration = Duration::from_millis(900);

/// The largest write-ahead log before a store refuses to write.
pub const DEFAULT_WAL_LIMIT: u64 = 1 << 30;
/// How long a store may take to be read once it is had: that of a million records takes a second.
const SLOW_OPEN: Duration = Duration::from_secs(60);

/// How a SQLite store is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The most live keys per tenant and gate.
    pub max_keys: usize,
    /// The time; the store's own by default.
    pub clock: Option<Clock>,
    /// How long a caller waits for its turn.
    pub patience: Duration,
    /// A write-ahead log of more bytes, which only a reader that does not end can cause, refuses further writes.
    pub wal_limit: u64,
    /// What the ledger keeps of arguments; `None` keeps no ledger.
    pub ledger: Option<KeepArguments>,
    /// The file of the key that signs the ledger's checkpoints; beside the store's file by default, made at first use.
    pub key: Option<PathBuf>,
    /// A file or URL that is sent each checkpoint, and asked at the start whether the ledger is the one it saw.
    pub witness: Option<String>,
    /// Whether a small file is read whole when it is opened, and refused when records are missing.
    pub check_at_open: bool,
    /// How often the ledger is sealed; `None` leaves that to other processes, and needs no key.
    pub seal: Option<SealEvery>,
}

impl SqliteOptions {
    /// What these options ask for that a store opened with `others` does not give. What is left at its default asks for
    /// nothing.
    fn differs_from(&self, others: &Self) -> Option<&'static str> {
        fn asks<T: PartialEq>(own: &T, default: &T, other: &T) -> bool {
            own != default && own != other
        }
        let default = Self::default();
        let differences = [
            (asks(&self.max_keys, &default.max_keys, &others.max_keys), "cap on live keys"),
            (asks(&self.ledger, &default.ledger, &others.ledger), "form of arguments in its ledger"),
            (asks(&self.key, &default.key, &others.key), "ledger key"),
            (asks(&self.witness, &default.witness, &others.witness), "witness"),
            (asks(&self.seal, &default.seal, &others.seal), "rhythm of sealing"),
        ];
        differences.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
    }
}

/// When entries of the ledger are sealed by a signed checkpoint: until then a change of them cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealEvery {
    /// After so many entries ...
    pub entries: u64,
    /// ... and no later than this after the first of them.
    pub time: Duration,
}

impl Default for SealEvery {
    fn default() -> Self {
        Self { entries: 1_000, time: Duration::from_secs(10) }
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_keys: crate::engine::DEFAULT_MAX_KEYS,
            clock: None,
            patience: DEFAULT_PATIENCE,
            wal_limit: DEFAULT_WAL_LIMIT,
            ledger: Some(KeepArguments::default()),
            key: None,
            witness: None,
            check_at_open: true,
            seal: Some(SealEvery::default()),
        }
    }
}

/// A store in a SQLite file. Cheap to clone; all clones, and all stores opened on one file in a process, share one
/// writer.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    process: u32,
    queue: Arc<Queue>,
    clock: Clock,
    patience: Duration,
    epoch: u64,
    keeps_ledger: bool,
    sealer: Mutex<Option<Sealer>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// A file that this process has open, or that the process it was forked from had.
#[derive(Debug)]
struct Opened {
    process: u32,
    shared: Weak<Shared>,
    /// Lives as long as SQLite has the file open.
    alive: Weak<()>,
    options: SqliteOptions,
}

/// Held while a store is opened.
static OPENING: Mutex<()> = Mutex::new(());
/// The stores that this process has open, by file.
static OPEN: Mutex<BTreeMap<(u64, u64), Opened>> = Mutex::new(BTreeMap::new());

/// What a process that has the file open already does about opening it: SQLite must not have it twice across a fork,
/// and a handle beside SQLite's, once closed, takes SQLite's locks on the file with it.
fn opened_here(path: &Path, options: &SqliteOptions) -> Result<Option<SqliteStore>, StoreError> {
    let patience = options.patience;
    let refuse = |what: &str| Err(StoreError::NotCommitted(format!("`{}` {what}", path.display())));
    let deadline = Instant::now() + patience;
    loop {
        let Some(mut open) = OPEN.try_lock_for(patience) else {
            return refuse("cannot be opened: another thread of this process is opening a store");
        };
        open.retain(|_, opened| opened.alive.strong_count() > 0);
        let Some(opened) = place::identity(path).and_then(|identity| open.get(&identity)) else {
            return Ok(None);
        };
        if opened.process != std::process::id() {
            return Err(StoreError::NotCommitted(format!(
                "this process was forked from one that had `{}` open, and SQLite does not survive that: start workers \
                 with `spawn` or `forkserver`, or open the store only after the fork",
                path.display()
            )));
        }
        if let Some(shared) = opened.shared.upgrade()
            && !shared.queue.is_closed()
        {
            return match options.differs_from(&opened.options) {
                None => Ok(Some(SqliteStore(shared))),
                Some(what) => refuse(&format!(
                    "is open in this process already with another {what}; engines on one file share one store"
                )),
            };
        }
        drop(open);
        if Instant::now() >= deadline {
            return refuse("is still being closed by this process");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl SqliteStore {
    /// Opens a store's file, and makes it if it does not exist.
    ///
    /// # Errors
    /// The file cannot be used as a store; the error says why and what to do. It comes within about a second.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        // One thread at a time: the second of two that open the same file finds the first one's store.
        let Some(_turn) = OPENING.try_lock_for(options.patience * 2) else {
            return Err(StoreError::NotCommitted(
                "another thread of this process is opening a store".to_owned(),
            ));
        };
        if let Some(store) = opened_here(path, &options)? {
            return Ok(store);
        }
        let path = place::prepare(path)?;
        let asked = options.clone();
        let (shared, alive) = Shared::start(path, options)?;
        let shared = Arc::new(shared);
        if let Some(identity) = place::identity(&shared.path) {
            let opened =
                Opened { process: shared.process, shared: Arc::downgrade(&shared), alive, options: asked };
            OPEN.lock().insert(identity, opened);
        }
        Ok(Self(shared))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The store's time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Whether it keeps a ledger.
    pub fn keeps_ledger(&self) -> bool {
        self.0.keeps_ledger
    }

    /// The number of this process in the store.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Commits steps in their order, and waits until they are on the disk.
    ///
    /// # Errors
    /// Nothing was committed, or nobody knows whether it was.
    pub fn run(&self, steps: Vec<Step>) -> Results {
        let waiter = Arc::new(Waiter::default());
        self.0.push(Job::Steps(steps, Reply::waiter(&waiter)))?;
        waiter.wait(self.0.patience)
    }

    /// Commits steps without waiting: `then` is called from the writer's thread when they are on the disk, or when it
    /// is known that they are not. It must not wait for anything.
    pub fn run_then(&self, steps: Vec<Step>, then: Box<dyn FnOnce(Results) + Send>) {
        match self.0.queue_of() {
            Err(error) => then(Err(error)),
            // A queue that is closed drops the reply, and the reply tells.
            Ok(queue) => drop(queue.push(Job::Steps(steps, Reply::then(then)))),
        }
    }

    /// Commits steps with the next batch; nobody waits for it.
    ///
    /// # Errors
    /// The store is closed, or this is a forked child.
    pub fn run_unwaited(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.0.push(Job::Steps(steps, Reply::nobody()))
    }

    /// Runs `work` in the writer's thread, with the store to itself.
    ///
    /// # Errors
    /// The store is closed or not to be had in time, or whatever `work` returns.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Durable, &mut SqliteTables, Timestamp) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let call: Call = Box::new(move |durable, tables, now| {
            // Whoever asked may have stopped waiting.
            let _ = send.send(work(durable, tables, now));
        });
        self.0.push(Job::Call(call))?;
        // Work on all records may take longer than a decision.
        let unknown = |text: &str| Err(StoreError::Unknown(text.to_owned()));
        match receive.recv_timeout(self.0.patience.max(Duration::from_secs(30))) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                unknown("the store has not answered: another process holds the file")
            }
            Err(RecvTimeoutError::Disconnected) => {
                unknown("the store's writer has ended; open the store again")
            }
        }
    }

    /// Runs `work` in the writer's thread, with the store to itself; nobody waits for it.
    pub(crate) fn call_unwaited(
        &self,
        work: impl FnOnce(&mut Durable, &mut SqliteTables, Timestamp) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.0.push(Job::Call(Box::new(work)))
    }

    /// The number of a family's definition, made if need be.
    pub(crate) fn family(&self, key: FamilyKey, cooldown: Span) -> Result<Family, StoreError> {
        self.call(move |durable, tables, now| durable.family(tables, &key, cooldown, now))
    }

    /// All definitions, by number.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn families(&self) -> Result<Vec<(Family, FamilyKey)>, StoreError> {
        self.call(|durable, _, _| Ok(durable.families()))
    }

    /// At most `limit` records of a kind after a cursor, and where to go on; `None` at the end.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn scan(&self, kind: RecordKind, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        self.call(move |durable, tables, now| durable.scan(tables, kind, &after, limit, now))
    }

    /// Resets every record of a family; returns how many.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn reset_all(&self, kind: RecordKind, family: Family) -> Result<usize, StoreError> {
        self.call(move |durable, tables, now| durable.reset_all(tables, kind, family, now))
    }

    /// Removes every idle record; returns how many.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn collect(&self) -> Result<usize, StoreError> {
        self.call(Durable::collect)
    }

    /// Removes ledger entries before `before` in whole groups of 256, as far as they are sealed; returns the first that
    /// is kept. Their hashes stay, so that every proof and checkpoint holds, and an entry says what was removed.
    ///
    /// # Errors
    /// The store is not to be had, or keeps no ledger.
    pub fn remove_entries(&self, before: u64) -> Result<u64, StoreError> {
        if !self.keeps_ledger() {
            return Err(StoreError::NotCommitted("the store was opened without a ledger".to_owned()));
        }
        let mut kept = self.call(move |durable, tables, now| durable.remove_entries(tables, before, now))?;
        loop {
            let next = self.call(move |durable, tables, now| durable.remove_entries(tables, before, now))?;
            if next <= kept {
                return Ok(kept);
            }
            kept = next;
        }
    }

    /// Why the last attempt to seal the ledger, or to tell the witness, failed; nothing if it did not.
    #[must_use]
    pub fn sealing_error(&self) -> Option<String> {
        self.0.sealer.lock().as_ref().and_then(Sealer::error)
    }

    /// Copies the whole store into a new file, as of one instant, while it is in use.
    ///
    /// # Errors
    /// The file exists or cannot be written, or the store is not to be had.
    pub fn backup(&self, target: &Path) -> Result<(), StoreError> {
        self.0.queue_of()?;
        backup(&self.0.path, target)
    }

    /// Reads every record, and says what does not agree.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn check(&self) -> Result<Report, StoreError> {
        self.call(Durable::check)
    }
}

/// Copies the store in a file into a new file, as of one instant, whoever has it open.
///
/// # Errors
/// The file is no store, or the new one exists or cannot be written.
pub fn backup(store: &Path, target: &Path) -> Result<(), StoreError> {
    tables::copy(store, target)
}

fn refused(error: &LedgerError) -> StoreError {
    StoreError::NotCommitted(error.to_string())
}

impl Shared {
    /// Opens the file in a thread of its own; the second value lives as long as that thread.
    fn start(path: PathBuf, options: SqliteOptions) -> Result<(Self, Weak<()>), StoreError> {
        let locks = lock::directory_of(&path);
        let (queue, patience) = (Arc::new(Queue::default()), options.patience);
        let seal = SealPlan::of(&path, &options)?;
        let keeps_ledger = options.ledger.is_some();
        let (send, receive) = std::sync::mpsc::sync_channel(2);
        let (file, jobs, alive) = (path.clone(), Arc::clone(&queue), Arc::new(()));
        let open_until = Arc::downgrade(&alive);
        // Opened in the thread that will write: whoever waits for it can stop waiting.
        let work = move || {
            let _alive = alive;
            let _end = Abandon(&jobs);
            // Nobody waits any more: then nothing is opened.
            let turn = || send.send(Ok(None)).is_ok();
            match open(&file, &locks, &options, turn) {
                Err(error) => drop(send.send(Err(error))),
                Ok((mut writer, clock)) => {
                    let epoch = writer.epoch();
                    if send.send(Ok(Some((clock, epoch)))).is_ok() {
                        writer.run(&jobs);
                    } else {
                        writer.leave();
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkrein-store".to_owned()).spawn(work);
        let thread = thread.map_err(|error| {
            StoreError::NotCommitted(format!("the store's thread cannot be started: {error}"))
        })?;
        let late =
            |why: &str| StoreError::NotCommitted(format!("`{}` cannot be opened: {why}", path.display()));
        let lock_held = |_| late("another process holds its lock and does not let go");
        let mut opened = receive.recv_timeout(patience).map_err(lock_held)??;
        while opened.is_none() {
            let slow = |_| late("reading it has taken too long");
            opened = receive.recv_timeout(SLOW_OPEN).map_err(slow)??;
        }
        let (clock, epoch) = opened.ok_or_else(ended)?;
        let (process, thread, sealer) = (std::process::id(), Mutex::new(Some(thread)), Mutex::new(None));
        let shared = Self { path, process, queue, clock, patience, epoch, keeps_ledger, sealer, thread };
        if let Some(seal) = seal {
            let sealer = seal.start(&shared.path, Arc::clone(&shared.queue));
            *shared.sealer.lock() = Some(sealer.map_err(|error| refused(&error))?);
        }
        Ok((shared, open_until))
    }

    /// The queue, unless this is a forked child: its parent's thread is not here, and its file must not be touched.
    fn queue_of(&self) -> Result<&Queue, StoreError> {
        if self.process == std::process::id() {
            return Ok(&self.queue);
        }
        Err(StoreError::NotCommitted(
            "this process was forked from the one that opened the store; open the store again in it"
                .to_owned(),
        ))
    }

    fn push(&self, job: Job) -> Result<(), StoreError> {
        self.queue_of()?.push(job).map_err(|_| ended())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Their threads are the parent's.
            std::mem::forget(self.sealer.get_mut().take());
            return;
        }
        let (done, left) = std::sync::mpsc::sync_channel(1);
        if self.queue.push(Job::Leave(done)).is_ok() {
            // A writer that waits for a lock that never comes leaves the rest to the next process.
            let _ = left.recv_timeout(self.patience);
        }
        // The sealer seals what is left, through the queue.
        drop(self.sealer.get_mut().take());
        self.queue.close();
        let thread = self.thread.get_mut().take();
        // The last handle may go in a callback of the writer itself, which cannot wait for its own end.
        let own = |thread: &std::thread::JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !own(thread)) {
            // What is in the queue is still committed. A writer that waits for a lock that never comes is left alone.
            let patience = std::time::Instant::now() + self.patience * 2;
            while !thread.is_finished() && std::time::Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // The thread reports what went wrong to its callers; there is nobody left to tell.
                let _ = thread.join();
            }
        }
    }
}

/// Tells whoever waits, however the writer's thread ends.
struct Abandon<'a>(&'a Queue);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Opens everything: locks, file, clock, records of dead processes. `turn` is called when the file can be had.
fn open(
    path: &Path,
    locks: &Path,
    options: &SqliteOptions,
    turn: impl FnOnce() -> bool,
) -> Result<(Writer, Clock), StoreError> {
    use super::durable::Tables;
    let mut lock = WriterLock::open(locks)?;
    lock.acquire()?;
    if std::fs::metadata(path).is_ok_and(|about| about.len() == 0) && lock::is_used(locks) {
        lock.release();
        return Err(StoreError::NotCommitted(format!(
            "`{}` was removed while another process has it open: end that process, or put the file back",
            path.display()
        )));
    }
    let mut tables = SqliteTables::open(path, lock, options.wal_limit)?;
    tables.take_turn()?;
    if !turn() {
        tables.end_turn();
        return Err(StoreError::NotCommitted("nobody waits for it".to_owned()));
    }
    tables.end_turn();
    if options.check_at_open {
        check_small(path, &mut tables)?;
    }
    let clock = match &options.clock {
        Some(clock) => clock.clone(),
        None => {
            tables.begin()?;
            let seen = Durable::last_seen_on(&mut tables);
            match seen.and_then(|seen| clock::of(&mut tables, seen)) {
                Ok(clock) => {
                    tables.commit()?;
                    clock
                }
                Err(error) => {
                    tables.rollback();
                    return Err(error);
                }
            }
        }
    };
    let mut liveness = ProcessLocks::new(locks.to_owned());
    let process = this_process();
    let durable = Durable::open(
        &mut tables,
        Options {
            max_keys: options.max_keys,
            ledger: options.ledger.map(|arguments| LedgerOptions { arguments, salt: draw_salt }),
        },
        clock.now(),
        &process,
        &mut liveness,
    )?;
    Ok((Writer::new(durable, tables, clock.clone(), liveness), clock))
}

/// A file up to this size is read whole when it is opened; a larger one when a doctor is asked.
const CHECK_AT_OPEN: u64 = 8 << 20;

/// Refuses a file whose records are not those that its last commit left: an operation that is not there any more would
/// run again. A row that does not read is another matter, and refused when it is needed.
fn check_small(path: &Path, tables: &mut SqliteTables) -> Result<(), StoreError> {
    if std::fs::metadata(path).is_ok_and(|about| about.len() > CHECK_AT_OPEN) {
        return Ok(());
    }
    let report = Durable::check_copy(tables)?;
    let lost = (report.damaged.is_empty() && !report.sum_matches)
        .then(|| "records are missing, or older than the last commit left them".to_owned());
    match lost.or(report.signed) {
        None => Ok(()),
        Some(what) => Err(StoreError::Damaged(format!(
            "`{}`: {what}; `checkrein doctor --store` says more, a backup can be restored",
            path.display()
        ))),
    }
}

fn this_process() -> ProcessInfo {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    ProcessInfo { pid: std::process::id(), host }
}

/// Whether this process has the file open.
fn is_open_here(path: &Path) -> bool {
    let mut open = OPEN.lock();
    open.retain(|_, opened| opened.alive.strong_count() > 0);
    place::identity(path).is_some_and(|identity| open.contains_key(&identity))
}

/// A salt for one entry.
pub(crate) fn draw_salt() -> Option<[u8; SALT_LENGTH]> {
    let mut salt = [0; SALT_LENGTH];
    getrandom::fill(&mut salt).ok().map(|()| salt)
}

/// The step that ends an admission whose caller has stopped waiting: the action will not be started.
fn not_started(permit: super::PermitId) -> Step {
    let (outcome, health, actual) = (Outcome::FailedClean, Health::Neutral, Vec::new());
    Step::Finish(permit, OwnedSettlement { outcome, health, actual })
}

/// The permits that steps gave out.
fn permits_of(results: &[StepResult]) -> impl Iterator<Item = super::PermitId> {
    results.iter().filter_map(|result| match result {
        StepResult::Admitted(_, permit) => *permit,
        _ => None,
    })
}
