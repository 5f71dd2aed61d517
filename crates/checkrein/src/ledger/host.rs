//! The ledger of one host beside a store that several hosts share: a store's file that nothing is decided on.
//!
//! What the shared store commits comes as drafts through a list in it, the host's outbox. What changes nothing there, the
//! host writes by itself: refusals, replays, the texts of policies, events.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkrein_core::admission::{Admission, Inputs};
use checkrein_core::decision::MeterStatus;
use checkrein_core::ledger::entry::{Body, Draft, Event, Outcome, SALT_LENGTH, ShortId, Source};
use checkrein_core::time::Timestamp;
use parking_lot::Mutex;

use crate::engine::CompiledPolicy;
use crate::store::durable::{Decided, Durable, Incoming, LedgerOptions, Taken, decision_of};
use crate::store::sqlite::{SqliteOptions, SqliteStore, draw_salt};
use crate::store::{OwnedInputs, Step, StoreError};

/// So many decisions wait for the disk; whoever brings one more waits with them.
const MOST_WAITING: usize = 4_096;

/// A host's own ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HostLedger(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: SqliteStore,
    host: ShortId,
    options: LedgerOptions,
    policies: Mutex<HashSet<[u8; 32]>>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Decisions on their way to the disk.
#[derive(Debug, Default)]
struct Waiting {
    decisions: Vec<Decided>,
    /// The writer will come for them.
    is_called: bool,
    /// Why they could not be written the last time.
    error: Option<StoreError>,
}

/// Where a host's own ledger is, and how it is kept.
#[derive(Clone, Debug)]
pub struct LedgerAt {
    /// The file.
    pub path: PathBuf,
    /// What is kept of arguments, the key, the witness and the rhythm of sealing.
    pub options: SqliteOptions,
}

impl HostLedger {
    /// Opens the ledger in a file, and makes it if it does not exist. Keys, witness and sealing are those of `options`.
    ///
    /// # Errors
    /// The file cannot be used, or the options keep no ledger.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let Some(arguments) = options.ledger else {
            return Err(StoreError::NotCommitted("a host's ledger has to be kept".to_owned()));
        };
        let mut fresh = [0; 8];
        getrandom::fill(&mut fresh).map_err(|error| {
            StoreError::NotCommitted(format!("the host's ledger cannot be given a name: {error}"))
        })?;
        let store = SqliteStore::open(path, options)?;
        let fresh = ShortId::from_bytes(fresh);
        let host = store.call(move |durable, tables, now| durable.host(tables, fresh, now))?;
        let options = LedgerOptions { arguments, salt: draw_salt };
        let (policies, waiting) = (Mutex::default(), Arc::default());
        Ok(Self(Arc::new(Shared { store, host, options, policies, waiting })))
    }

    /// The host's name: drawn when the file was made, and kept in it.
    pub fn host(&self) -> ShortId {
        self.0.host
    }

    /// The file's store.
    pub fn store(&self) -> &SqliteStore {
        &self.0.store
    }

    /// Says that a process of this host takes part in a shared store, and makes what writes its drafts.
    ///
    /// # Errors
    /// The ledger is not to be had.
    pub fn join(&self, store: ShortId, process: u64) -> Result<Drafts, StoreError> {
        let host = self.0.host;
        self.event(
            "joined",
            vec![
                ("host".to_owned(), host.to_string()),
                ("store".to_owned(), store.to_string()),
                ("process".to_owned(), process.to_string()),
            ],
        )?;
        Ok(Drafts { options: self.0.options, store, host, process, next: Arc::default() })
    }

    /// Writes a policy's text, and waits until it is on the disk, the first time that it is asked.
    ///
    /// # Errors
    /// The ledger is not to be had.
    pub fn policy(&self, policy: &Arc<CompiledPolicy>) -> Result<(), StoreError> {
        if self.0.policies.lock().contains(policy.digest()) {
            return Ok(());
        }
        let (digest, policy) = (*policy.digest(), Arc::clone(policy));
        self.0.store.call(move |durable, tables, now| durable.tell_policy(tables, &policy, now))?;
        self.0.policies.lock().insert(digest);
        Ok(())
    }

    /// Writes an event, and waits until it is on the disk.
    ///
    /// # Errors
    /// The ledger is not to be had.
    pub fn event(&self, name: &str, fields: Vec<(String, String)>) -> Result<(), StoreError> {
        self.0.store.run(vec![Step::Note(name.to_owned(), fields)]).map(drop)
    }

    /// Has a decision written that changed nothing in the shared store: a refusal or a replay. Nobody waits for it,
    /// unless thousands wait already.
    ///
    /// # Errors
    /// The ledger is not to be had. The decision is kept and written when it can be.
    pub fn decided(
        &self,
        policy: &Arc<CompiledPolicy>,
        inputs: OwnedInputs,
        admission: Admission,
        meters: Vec<MeterStatus>,
    ) -> Result<(), StoreError> {
        if self.0.waiting.lock().decisions.len() >= MOST_WAITING {
            self.flush()?;
        }
        let mut waiting = self.0.waiting.lock();
        waiting.decisions.push(Decided { policy: Arc::clone(policy), inputs, admission, meters });
        if std::mem::replace(&mut waiting.is_called, true) {
            return Ok(());
        }
        drop(waiting);
        let list = Arc::clone(&self.0.waiting);
        let called = self.0.store.call_unwaited(move |durable, tables, now| {
            // What went wrong is kept for whoever asks.
            let _ = write_waiting(&list, |decisions| durable.tell_decided(tables, decisions, now));
        });
        if called.is_err() {
            self.0.waiting.lock().is_called = false;
        }
        called
    }

    /// Writes the decisions that wait, and waits until they are on the disk.
    ///
    /// # Errors
    /// The ledger is not to be had; they are kept.
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.0.waiting.lock().decisions.is_empty() {
            return Ok(());
        }
        let list = Arc::clone(&self.0.waiting);
        self.0.store.call(move |durable, tables, now| {
            write_waiting(&list, |decisions| durable.tell_decided(tables, decisions, now))
        })
    }

    /// Why decisions could not be written the last time; nothing if they could.
    pub fn error(&self) -> Option<StoreError> {
        self.0.waiting.lock().error.clone()
    }

    /// Appends drafts that were read from the head of this host's outbox, and says which of them can be acknowledged.
    ///
    /// # Errors
    /// The ledger is not to be had, or too many of them were no drafts.
    pub fn take_in(&self, incoming: Incoming) -> Result<Taken, StoreError> {
        let host = self.0.host;
        self.0.store.call(move |durable, tables, now| durable.take_in(tables, host, &incoming, now))
    }

    /// A draft that was kept aside because it was none.
    ///
    /// # Errors
    /// The ledger is not to be had.
    pub fn kept_aside(&self, list: ShortId, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.store.call(move |_, tables, _| Durable::kept_aside(tables, list, number))
    }
}

/// Writes the decisions that wait; those that were not written wait again.
fn write_waiting(
    list: &Mutex<Waiting>,
    write: impl FnOnce(&[Decided]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut decisions = {
        let mut waiting = list.lock();
        waiting.is_called = false;
        std::mem::take(&mut waiting.decisions)
    };
    if decisions.is_empty() {
        return Ok(());
    }
    let written = write(&decisions);
    let mut waiting = list.lock();
    if let Err(StoreError::NotCommitted(_)) = &written {
        decisions.append(&mut waiting.decisions);
        waiting.decisions = decisions;
    }
    waiting.error = written.clone().err();
    written
}

/// What writes the drafts of one process in a shared store.
#[derive(Clone, Debug)]
pub struct Drafts {
    options: LedgerOptions,
    store: ShortId,
    host: ShortId,
    process: u64,
    next: Arc<AtomicU64>,
}

impl Drafts {
    /// The host whose outbox they are for.
    pub const fn host(&self) -> ShortId {
        self.host
    }

    /// The draft of an allowed action. `time` is the shared store's.
    #[expect(clippy::too_many_arguments, reason = "everything that a decision is made of")]
    pub fn intent(
        &self,
        time: Timestamp,
        tag: ShortId,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        admission: &Admission,
        meters: &[MeterStatus],
        permit: Option<u64>,
    ) -> Vec<u8> {
        let (decision, salt) = decision_of(self.options, policy, inputs, admission, meters, permit);
        self.write(time, tag, None, salt, Body::Decision(&decision))
    }

    /// The draft of an outcome. `intent`: the host that decided it, if that is known.
    pub fn outcome(
        &self,
        time: Timestamp,
        tag: ShortId,
        intent: Option<ShortId>,
        outcome: &Outcome<'_>,
    ) -> Vec<u8> {
        self.write(time, tag, intent, None, Body::Outcome(outcome))
    }

    /// The draft of an event.
    pub fn event(&self, time: Timestamp, tag: ShortId, name: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        self.write(time, tag, None, None, Body::Event(Event { name, fields }))
    }

    fn write(
        &self,
        time: Timestamp,
        tag: ShortId,
        intent: Option<ShortId>,
        salt: Option<[u8; SALT_LENGTH]>,
        body: Body<'_>,
    ) -> Vec<u8> {
        let draft = self.next.fetch_add(1, Ordering::Relaxed);
        let source = Source { store: self.store, host: self.host, tag, draft, intent };
        let mut bytes = Vec::with_capacity(512);
        Draft { time, epoch: self.process, source, salt, body }.write(&mut bytes);
        bytes
    }
}
