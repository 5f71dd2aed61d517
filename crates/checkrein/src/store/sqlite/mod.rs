//! The SQLite store: every gate of all processes of one machine, through crashes. Durability D2.
//!
//! One thread per process writes, and commits what has come in meanwhile in one transaction with one sync. Processes
//! take turns by a lock beside the file; what one remembers counts until another has committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use checkrein_core::gate::breaker::Health;
use checkrein_core::key::Family;
use checkrein_core::ledger::entry::SALT_LENGTH;
use checkrein_core::permit::Outcome;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};
use parking_lot::Mutex;

use super::durable::{Durable, FamilyKey, KeepArguments, LedgerOptions, Options, ProcessInfo, Report};
use super::{Cursor, OwnedSettlement, Page, Step, StepResult, StoreError};
use crate::clock::Clock;
use crate::ledger::{LedgerError, Sealer};

mod clock;
mod lock;
mod place;
mod queue;
mod seal;
mod tables;
mod writer;

pub(crate) use clock::since_boot;
pub use place::path_of;
pub use queue::Results;
pub use tables::SqliteTables;

use lock::{ProcessLocks, WriterLock};
use queue::{Call, Job, Queue, Reply, Waiter};
use seal::SealPlan;
use writer::Writer;

/// How long a caller waits for its turn before the store counts as gone; once its steps are being committed, as long
/// again.
pub const DEFAULT_PATIENCE: Duration = Duration::from_millis(900);

/// How a SQLite store is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The most live keys per tenant and gate.
    pub max_keys: usize,
    /// The time; the store's own by default.
    pub clock: Option<Clock>,
    /// How long a caller waits for its turn.
    pub patience: Duration,
    /// What the ledger keeps of arguments; `None` keeps no ledger.
    pub ledger: Option<KeepArguments>,
    /// The file of the key that signs the ledger's checkpoints; beside the store's file by default, made at first use.
    pub key: Option<PathBuf>,
    /// A file or URL that is sent each checkpoint, and asked at the start whether the ledger is the one it saw.
    pub witness: Option<String>,
    /// How often the ledger is sealed.
    pub seal: SealEvery,
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
            ledger: Some(KeepArguments::default()),
            key: None,
            witness: None,
            seal: SealEvery::default(),
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
    sealer: Mutex<Option<Sealer>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The stores that this process has open, by file.
static OPEN: Mutex<BTreeMap<(u64, u64), Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// The files to which a process has a connection, and which process that is. SQLite keeps the locks of a file once per
/// process, in memory that a forked child inherits without having the locks: such a file cannot be opened there.
static CONNECTED: Mutex<BTreeMap<(u64, u64), (u32, usize)>> = Mutex::new(BTreeMap::new());

/// A connection of this process to a file, for as long as it lives.
struct Connected(Option<(u64, u64)>);

impl Connected {
    fn new(file: Option<(u64, u64)>) -> Self {
        if let Some(file) = file {
            CONNECTED.lock().entry(file).or_insert((std::process::id(), 0)).1 += 1;
        }
        Self(file)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(file) = self.0 else { return };
        let mut connected = CONNECTED.lock();
        if let Some((_, connections)) = connected.get_mut(&file) {
            *connections -= 1;
            if *connections == 0 {
                connected.remove(&file);
            }
        }
    }
}

impl SqliteStore {
    /// Opens a store's file, and makes it if it does not exist.
    ///
    /// # Errors
    /// The file cannot be used as a store; the error says why and what to do. It comes within about a second.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = place::prepare(path)?;
        let mut open = OPEN.lock();
        open.retain(|_, shared| shared.strong_count() > 0);
        let identity = place::identity(&path);
        refuse_inherited(&path, identity)?;
        let known = identity.and_then(|identity| open.get(&identity)).and_then(Weak::upgrade);
        if let Some(shared) = known.filter(|shared| shared.process == std::process::id()) {
            return Ok(Self(shared));
        }
        let shared = Arc::new(Shared::start(path, options)?);
        if let Some(identity) = identity {
            open.insert(identity, Arc::downgrade(&shared));
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
        self.0.sealer.lock().is_some()
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
        self.0.push(Job::Steps(steps, Reply::Waiter(Arc::clone(&waiter))))?;
        waiter.wait(self.0.patience)
    }

    /// Commits steps without waiting: `then` is called from the writer's thread when they are on the disk, or when it
    /// is known that they are not. It must not wait for anything.
    pub fn run_then(&self, steps: Vec<Step>, then: Box<dyn FnOnce(Results) + Send>) {
        match self.0.queue_of() {
            Err(error) => then(Err(error)),
            Ok(queue) => {
                if let Err(Job::Steps(_, Reply::Then(then))) =
                    queue.push(Job::Steps(steps, Reply::Then(then)))
                {
                    then(Err(closed()));
                }
            }
        }
    }

    /// Commits steps with the next batch; nobody waits for it.
    ///
    /// # Errors
    /// The store is closed, or this is a forked child.
    pub fn run_unwaited(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.0.push(Job::Steps(steps, Reply::Nobody))
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
        receive.recv_timeout(self.0.patience.max(Duration::from_secs(30))).unwrap_or_else(|_| {
            Err(StoreError::Unknown("the store has not answered: another process holds the file".to_owned()))
        })
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
        let target = target.to_owned();
        self.call(move |_, tables, _| tables.copy_to(&target))
    }

    /// Reads every record, and says what does not agree.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn check(&self) -> Result<Report, StoreError> {
        self.call(Durable::check)
    }
}

fn refuse_inherited(path: &Path, identity: Option<(u64, u64)>) -> Result<(), StoreError> {
    let connected = identity.and_then(|identity| CONNECTED.lock().get(&identity).copied());
    if connected.is_none_or(|(process, _)| process == std::process::id()) {
        return Ok(());
    }
    Err(StoreError::NotCommitted(format!(
        "this process was forked from one that had `{}` open, and SQLite does not survive that: start workers with \
         `spawn` or `forkserver`, or open the store only after the fork",
        path.display()
    )))
}

fn refused(error: &LedgerError) -> StoreError {
    StoreError::NotCommitted(error.to_string())
}

fn closed() -> StoreError {
    StoreError::NotCommitted("the store is closed".to_owned())
}

impl Shared {
    fn start(path: PathBuf, options: SqliteOptions) -> Result<Self, StoreError> {
        let locks = lock::directory_of(&path);
        let (queue, patience) = (Arc::new(Queue::default()), options.patience);
        let seal = SealPlan::of(&path, &options)?;
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let (file, jobs) = (path.clone(), Arc::clone(&queue));
        // Opened in the thread that will write: whoever waits for it can stop waiting.
        let work = move || match open(&file, &locks, &options) {
            Err(error) => {
                let _ = send.send(Err(error));
            }
            Ok((writer, clock)) => {
                let epoch = writer.epoch();
                // Declared first, dropped last: after the connection.
                let _connected = Connected::new(place::identity(&file));
                // Nobody waits any more: then nothing is opened.
                if send.send(Ok((clock, epoch))).is_ok() {
                    writer.run(&jobs);
                } else {
                    drop(writer);
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkrein-store".to_owned()).spawn(work);
        let thread = thread.map_err(|error| {
            StoreError::NotCommitted(format!("the store's thread cannot be started: {error}"))
        })?;
        // Recovery of a large store may take longer than a decision; a lock held by somebody else does not.
        let opened = receive.recv_timeout(patience + Duration::from_secs(5)).unwrap_or_else(|_| {
            Err(StoreError::NotCommitted(format!(
                "`{}` cannot be opened: another process holds its lock and does not let go",
                path.display()
            )))
        });
        let (clock, epoch) = opened?;
        let (process, thread, sealer) = (std::process::id(), Mutex::new(Some(thread)), Mutex::new(None));
        let shared = Self { path, process, queue, clock, patience, epoch, sealer, thread };
        if let Some(seal) = seal {
            let sealer = seal.start(&shared.path, Arc::clone(&shared.queue));
            *shared.sealer.lock() = Some(sealer.map_err(|error| refused(&error))?);
        }
        Ok(shared)
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
        self.queue_of()?.push(job).map_err(|_| closed())
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

/// Opens everything: locks, file, clock, records of dead processes.
fn open(path: &Path, locks: &Path, options: &SqliteOptions) -> Result<(Writer, Clock), StoreError> {
    use super::durable::Tables;
    let lock = WriterLock::open(locks)?;
    let mut tables = SqliteTables::open(path, lock)?;
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
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let process = ProcessInfo { pid: std::process::id(), host };
    let durable = Durable::open(
        &mut tables,
        Options {
            max_keys: options.max_keys,
            ledger: options.ledger.map(|arguments| LedgerOptions { arguments, salt }),
        },
        clock.now(),
        &process,
        &mut liveness,
    )?;
    Ok((Writer::new(durable, tables, clock.clone(), liveness), clock))
}

/// A salt for one entry.
fn salt() -> Option<[u8; SALT_LENGTH]> {
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
