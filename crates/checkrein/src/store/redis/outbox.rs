//! This host's outbox: the drafts that commits push, taken out into the host's own ledger.
//!
//! One thread takes them: often, at once when many wait, and all that are left when the store is closed. Several processes
//! of a host may do so at the same time: the ledger knows again what has come in, and a list is only cut at the position at
//! which it was read.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use checkrein_core::ledger::entry::ShortId;
use redis::Value as Reply;

use super::RedisOptions;
use super::hub::Hub;
use super::keep::{fresh_id, text};
use super::link::{Link, Request};
use super::name::{self, Tag};
use super::rounds::{not_committed, number, strange};
use super::script::Script;
use crate::engine::CompiledPolicy;
use crate::ledger::{Drafts, HostLedger};
use crate::parking::{Condvar, Mutex};
use crate::store::StoreError;
use crate::store::durable::{Decided, Incoming};

/// The most drafts that are taken at once from one list ...
const MOST_DRAFTS: i64 = 1_024;
/// ... and once they have so many bytes, no more.
const MOST_BYTES: i64 = 1 << 20;
/// So many lists are read in one go.
const LISTS: usize = 16;
/// When so many wait, they are taken at once.
const EAGER: u64 = 512;
/// When so many wait, nothing more is allowed until they have been taken: the ledger would fall behind for ever.
const MOST_BEHIND: u64 = 65_536;
/// Between two looks at every list: another process of this host may have died and left something.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long a round to the server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A list that somebody else takes from at the same time is tried so often in a row.
const MOST_TRIES: usize = 1_000;

/// One process's part in its host's outbox.
#[derive(Debug)]
pub(super) struct Outbox {
    ledger: Mutex<Option<HostLedger>>,
    host: ShortId,
    store: OnceLock<ShortId>,
    drafts: OnceLock<Drafts>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Drafts that were pushed and have not been taken, as far as this process knows.
    behind: BTreeMap<Tag, u64>,
    total: u64,
    closed: bool,
    error: Option<StoreError>,
}

impl Outbox {
    /// Opens the host's ledger, if the options say that there is one.
    pub(super) fn open(options: &RedisOptions) -> Result<Option<Self>, StoreError> {
        let Some(at) = &options.ledger else { return Ok(None) };
        let ledger = HostLedger::open(&at.path, at.options.clone())?;
        Ok(Some(Self {
            host: ledger.host(),
            ledger: Mutex::new(Some(ledger)),
            store: OnceLock::new(),
            drafts: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::default(),
            thread: Mutex::default(),
        }))
    }

    /// This process takes part in a shared store.
    pub(super) fn join(&self, store: ShortId, process: u64) -> Result<(), StoreError> {
        let drafts = self.ledger()?.join(store, process)?;
        self.store.get_or_init(|| store);
        self.drafts.get_or_init(|| drafts);
        Ok(())
    }

    pub(super) fn drafts(&self) -> Option<&Drafts> {
        self.drafts.get()
    }

    pub(super) fn ledger(&self) -> Result<HostLedger, StoreError> {
        let closed = || StoreError::NotCommitted("the host's ledger is closed".to_owned());
        self.ledger.lock().clone().ok_or_else(closed)
    }

    /// Writes a policy's text before anything is decided by it.
    pub(super) fn policy(&self, policy: &Arc<CompiledPolicy>) -> Result<(), StoreError> {
        self.ledger()?.policy(policy)
    }

    pub(super) fn event(&self, name: &str, fields: &[(&str, &str)]) -> Result<(), StoreError> {
        let owned = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.ledger()?.event(name, owned.collect())
    }

    /// Has decisions written that changed nothing on the server.
    pub(super) fn decided(&self, decisions: Vec<Decided>) {
        if decisions.is_empty() {
            return;
        }
        let told = self.ledger().and_then(|ledger| {
            decisions.into_iter().try_for_each(|Decided { policy, inputs, admission, meters }| {
                ledger.decided(&policy, inputs, admission, meters)
            })
        });
        if let Err(error) = told {
            self.state.lock().error = Some(error);
        }
    }

    /// A commit pushed drafts.
    pub(super) fn pushed(&self, tag: Tag, count: u64) {
        if count == 0 {
            return;
        }
        let mut state = self.state.lock();
        *state.behind.entry(tag).or_default() += count;
        let before = state.total;
        state.total += count;
        if before < EAGER && state.total >= EAGER {
            self.changed.notify_all();
        }
    }

    /// Waits until the ledger is not too far behind.
    ///
    /// # Errors
    /// It still is when the time is over.
    pub(super) fn wait_for_room(&self, until: Instant) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.total > MOST_BEHIND {
            if Instant::now() >= until {
                let why = state.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let behind = state.total;
                return Err(StoreError::NotCommitted(format!(
                    "the host's ledger is {behind} entries behind{why}"
                )));
            }
            state = self.changed.wait_until(state, until);
        }
        Ok(())
    }

    pub(super) fn error(&self) -> Option<StoreError> {
        let ledger = self.ledger.lock().clone();
        self.state.lock().error.clone().or_else(|| ledger.and_then(|ledger| ledger.error()))
    }

    /// Starts the thread that takes drafts.
    pub(super) fn start(hub: &Arc<Hub>) {
        let Some(outbox) = &hub.outbox else { return };
        let mut thread = outbox.thread.lock();
        if thread.is_none() {
            let own = Arc::clone(hub);
            let spawned = std::thread::Builder::new()
                .name("checkrein-outbox".to_owned())
                .spawn(move || own.outbox.iter().for_each(|outbox| outbox.work(&own)));
            // Without a thread the ledger falls behind, and says so.
            *thread = spawned.ok();
        }
    }

    /// Takes what is left, for as long as that may take, and closes the ledger. What is left then comes in when it is
    /// opened again.
    pub(super) fn close(&self, patience: Duration) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        let own = |thread: &std::thread::JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !own(thread)) {
            let until = Instant::now() + patience + PATIENCE;
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // What went wrong in it was told by the ledger, which the next one reads.
                let _ = thread.join();
            }
        }
        let ledger = self.ledger.lock().take();
        if let Some(ledger) = ledger {
            // Refusals that could not be written have changed nothing.
            let _ = ledger.flush();
        }
    }

    fn work(&self, hub: &Arc<Hub>) {
        let (mut lane, mut looked) = (hub.side_lane(), None::<Instant>);
        loop {
            let (mut state, until) = (self.state.lock(), Instant::now() + hub.options.housekeeping);
            while state.total < EAGER && !state.closed && Instant::now() < until {
                state = self.changed.wait_until(state, until);
            }
            let closed = state.closed;
            drop(state);
            let all = looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN);
            let done = self.round(hub, &mut lane, all);
            if done.is_ok() && all {
                looked = Some(Instant::now());
            }
            let failed = done.is_err();
            self.state.lock().error = done.err();
            if closed {
                return;
            }
            if failed {
                // Whatever it is, it is not tried again at once.
                std::thread::sleep(hub.options.housekeeping.min(Duration::from_millis(500)));
            }
        }
    }

    /// Takes everything now.
    pub(super) fn drain_all(&self, hub: &Arc<Hub>) -> Result<(), StoreError> {
        self.round(hub, &mut hub.side_lane(), true)?;
        self.ledger()?.flush()
    }

    /// Takes from the lists that have something, or from all.
    fn round(&self, hub: &Hub, lane: &mut Link, all: bool) -> Result<(), StoreError> {
        let mut wanted = std::mem::take(&mut self.state.lock().behind);
        if all {
            let known: Vec<Tag> = wanted.keys().copied().collect();
            match hub.all_tags(lane, Instant::now() + PATIENCE) {
                Ok(tags) => {
                    wanted.extend(tags.into_iter().filter(|tag| !known.contains(tag)).map(|tag| (tag, 0)))
                }
                Err(error) => {
                    self.put_back(&wanted);
                    return Err(error);
                }
            }
        }
        let tags: Vec<Tag> = wanted.keys().copied().collect();
        let mut failed = Ok(());
        for tags in tags.chunks(LISTS) {
            let taken = self.take(hub, lane, tags);
            let mut state = self.state.lock();
            for tag in tags {
                let count = wanted.remove(tag).unwrap_or_default();
                match &taken {
                    Ok(()) => state.total = state.total.saturating_sub(count),
                    Err(_) if count > 0 => *state.behind.entry(*tag).or_default() += count,
                    Err(_) => {}
                }
            }
            drop(state);
            self.changed.notify_all();
            failed = failed.and(taken);
        }
        failed
    }

    fn put_back(&self, wanted: &BTreeMap<Tag, u64>) {
        let mut state = self.state.lock();
        for (tag, count) in wanted.iter().filter(|(_, count)| **count > 0) {
            *state.behind.entry(*tag).or_default() += count;
        }
    }

    /// Takes from lists until they are empty.
    fn take(&self, hub: &Hub, lane: &mut Link, tags: &[Tag]) -> Result<(), StoreError> {
        let (ledger, deadline) = (self.ledger()?, Instant::now() + PATIENCE);
        for tag in tags {
            hub.meet(lane, *tag, deadline)?;
        }
        let mut left = tags.to_vec();
        for _ in 0..MOST_TRIES {
            if left.is_empty() {
                break;
            }
            let deadline = Instant::now() + PATIENCE;
            let requests = left.iter().map(|tag| self.request(hub, *tag)).collect::<Result<Vec<_>, _>>()?;
            let (replies, mut more) = (lane.run(&requests, deadline), Vec::new());
            for (tag, reply) in left.into_iter().zip(replies) {
                let Reply::Array(reply) = reply.map_err(not_committed)? else { return Err(strange()) };
                if self.take_in(hub, lane, &ledger, tag, &reply)? {
                    more.push(tag);
                }
            }
            left = more;
        }
        Ok(())
    }

    fn request(&self, hub: &Hub, tag: Tag) -> Result<Request, StoreError> {
        let mut request = self.on(hub, tag);
        request.arg(b"take");
        request.number(MOST_DRAFTS);
        request.number(MOST_BYTES);
        request.arg(fresh_id()?.to_string().as_bytes());
        Ok(request)
    }

    fn on(&self, hub: &Hub, tag: Tag) -> Request {
        let mut request = Request::new(Script::Outbox, tag);
        request.key(name::outbox_key(&hub.options.prefix, tag, self.host).as_bytes());
        request.key(name::outbox_mark_key(&hub.options.prefix, tag, self.host).as_bytes());
        request
    }

    /// Has drafts appended to the ledger, and acknowledges those that are in it; `true` when there may be more.
    fn take_in(
        &self,
        hub: &Hub,
        lane: &mut Link,
        ledger: &HostLedger,
        tag: Tag,
        reply: &[Reply],
    ) -> Result<bool, StoreError> {
        let Some(mark) = reply.get(1).and_then(text) else { return Ok(false) };
        let drafts: Vec<Vec<u8>> = reply.iter().skip(2).filter_map(bytes).collect();
        if drafts.is_empty() {
            return Ok(false);
        }
        let (list, first) = read_mark(mark).ok_or_else(|| {
            StoreError::Damaged(format!("`{}` in the outbox is no position of a list", mark.escape_debug()))
        })?;
        let store = self.store.get().copied().unwrap_or_default();
        let taken = ledger.take_in(Incoming { store, tag: tag.id(), list, first, drafts })?;
        let (list, next) = if taken.taken_back { (fresh_id()?, 0) } else { (list, taken.next) };
        let mut request = self.on(hub, tag);
        request.arg(b"ack");
        request.arg(mark.as_bytes());
        request.number(taken.next.saturating_sub(first).cast_signed());
        request.arg(format!("{list} {next}").as_bytes());
        match lane.run(&[request], Instant::now() + PATIENCE).pop() {
            // Whether it was the one that cut the list or another process was: it may go on.
            Some(Ok(Reply::Array(reply))) if reply.get(1).map(number).is_some() => Ok(true),
            Some(Err(error)) => Err(not_committed(error)),
            _ => Err(strange()),
        }
    }
}

fn bytes(reply: &Reply) -> Option<Vec<u8>> {
    match reply {
        Reply::BulkString(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

fn read_mark(mark: &str) -> Option<(ShortId, u64)> {
    let (list, count) = mark.split_once(' ')?;
    Some((ShortId::parse(list)?, count.parse().ok()?))
}
