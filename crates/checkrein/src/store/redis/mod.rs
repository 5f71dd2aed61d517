//! The Redis store: the gates of many hosts, decided in one round trip.
//!
//! Records are remembered in each process with the id of their last write. A decision is made on them here, by the same
//! core as everywhere, and one script on the server compares the ids, and the server's time with the bounds that the
//! decision was made for, and writes everything or nothing. When somebody else has written meanwhile, the script returns
//! what is there and the decision is made again.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use checkrein_core::key::Family;
use checkrein_core::policy::{Policy, RecordKind};
use checkrein_core::time::Span;
use parking_lot::Mutex;

use super::durable::{Decided, FamilyKey};
use super::{Cursor, Page, Results, Step, StepResult, StoreError};
use crate::clock::Clock;
use crate::ledger::{HostLedger, LedgerAt};

mod address;
mod families;
mod fast;
mod group;
mod hub;
mod job;
mod keep;
mod link;
mod name;
mod outbox;
mod record;
mod rounds;
mod script;
mod stage;
mod tell;
mod time;

use address::Address;
use hub::Hub;
use job::{Plan, Planned, Reply};
pub use link::ServerInfo;
use name::Tag;
use outbox::Outbox;

/// How long a decision may take before it is a refusal.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(500);
/// A longer prefix is refused: every key begins with it.
const MOST_PREFIX: usize = 100;
/// What every key begins with.
pub const DEFAULT_PREFIX: &str = "checkrein";

/// How a Redis store is opened.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// What every key begins with: two stores on one server with different prefixes know nothing of each other.
    pub prefix: String,
    /// How long a decision may take before it is a refusal of the code `store_error`.
    pub deadline: Duration,
    /// The most live keys per tenant and gate.
    pub max_keys: usize,
    /// Decide on once keys and hard budgets although the server is replicated, and a failover would lose what it
    /// acknowledged last.
    pub accept_failover_loss: bool,
    /// The time, for tests: by default it is the server's, and what is idle expires there.
    pub clock: Option<Clock>,
    /// How often leases are looked after.
    pub housekeeping: Duration,
    /// The host's own ledger; without one none is kept.
    pub ledger: Option<LedgerAt>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            deadline: DEFAULT_DEADLINE,
            max_keys: crate::engine::DEFAULT_MAX_KEYS,
            accept_failover_loss: false,
            clock: None,
            housekeeping: Duration::from_millis(500),
            ledger: None,
        }
    }
}

impl RedisOptions {
    /// Whether a store can be opened with these.
    ///
    /// # Errors
    /// A prefix that cannot be one; the error says what can.
    pub fn check(&self) -> Result<(), StoreError> {
        // Braces would say which part of a key a cluster looks at; stars and brackets are patterns where rights are given.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
        if (1..=MOST_PREFIX).contains(&self.prefix.len()) && self.prefix.bytes().all(plain) {
            return Ok(());
        }
        let text = format!(
            "the prefix of a Redis store is not usable: take 1 to {MOST_PREFIX} letters, digits and `.`, `_`, `-`, `:`, `/`"
        );
        Err(StoreError::NotCommitted(text))
    }
}

/// A store on a Redis or Valkey server. Cheap to clone; all clones, and all stores opened in a process on one URL with
/// the same options, share their connections.
#[derive(Clone, Debug)]
pub struct RedisStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    shown: String,
    clock: Clock,
    generation: Generation,
}

/// The hub of one process, and that of a child which it forked.
#[derive(Debug)]
struct Generation {
    hub: Arc<Hub>,
    next: OnceLock<Box<Generation>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut generation = Some(&self.generation);
        while let Some(this) = generation {
            this.hub.close();
            generation = this.next.get().map(|next| &**next);
        }
    }
}

/// The stores that this process has open.
static OPEN: Mutex<BTreeMap<(Address, String), Weak<Shared>>> = Mutex::new(BTreeMap::new());

impl RedisStore {
    /// Opens a store on a server.
    ///
    /// # Errors
    /// A URL that is none, a server that cannot be had within the deadline, refuses us, or must not be used; the error
    /// says why and what to do.
    pub fn open(url: &str, options: RedisOptions) -> Result<Self, StoreError> {
        let address = Address::parse(url)?;
        options.check()?;
        // Options are part of the name: they change what a decision comes to.
        let name = (address.clone(), format!("{options:?}"));
        let sharing = options.clock.is_none();
        if sharing
            && let Some(open) = OPEN.try_lock_for(options.deadline)
            && let Some(shared) = open.get(&name).and_then(Weak::upgrade)
        {
            return Ok(Self(shared));
        }
        let clock = options.clock.clone().unwrap_or_default();
        let shown = address.to_string();
        let outbox = Outbox::open(&options)?;
        let hub = Arc::new(Hub::new(address, options.clone(), seed()?, outbox));
        hub.join()?;
        hub.start();
        let generation = Generation { hub, next: OnceLock::new() };
        let shared = Arc::new(Shared { shown, clock, generation });
        if sharing && let Some(mut open) = OPEN.try_lock_for(options.deadline) {
            open.retain(|_, shared| shared.strong_count() > 0);
            open.insert(name, Arc::downgrade(&shared));
        }
        Ok(Self(shared))
    }

    /// Whether a text is meant to be the URL of such a store, right or wrong.
    pub fn is_url(text: &str) -> bool {
        let scheme = text.split_once(':').map_or(text, |(scheme, _)| scheme).to_ascii_lowercase();
        let base = scheme.split_once('+').map_or(scheme.as_str(), |(base, _)| base);
        matches!(base, "redis" | "rediss" | "valkey" | "valkeys") || text.starts_with("unix://")
    }

    /// Whether a text is a URL that a store can be opened by.
    ///
    /// # Errors
    /// It is none; the error says what to write, and nothing of the text.
    pub fn check_url(url: &str) -> Result<(), StoreError> {
        Ok(Address::parse(url).map(drop)?)
    }

    /// Where it is, without secrets.
    pub fn shown(&self) -> &str {
        &self.0.shown
    }

    /// How long a decision may take.
    pub fn deadline(&self) -> Duration {
        self.0.generation.hub.options.deadline
    }

    /// About the time of day, for what is not decided by it.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The hub of this process, if there is one yet.
    fn ready(&self) -> Option<&Arc<Hub>> {
        let (mut this, pid) = (&self.0.generation, std::process::id());
        while this.hub.pid != pid {
            this = this.next.get()?;
        }
        Some(&this.hub)
    }

    /// The hub of this process: a child has connections, records and permits of its own.
    fn hub(&self) -> Result<&Arc<Hub>, StoreError> {
        let (mut this, pid) = (&self.0.generation, std::process::id());
        while this.hub.pid != pid {
            if let Some(next) = this.next.get() {
                this = next;
                continue;
            }
            let options = this.hub.options.clone();
            let outbox = Outbox::open(&options)?;
            let hub = Arc::new(Hub::new(this.hub.address.clone(), options, seed()?, outbox));
            *hub.families.lock() = this.hub.families_of_parent();
            hub.join()?;
            this = this.next.get_or_init(|| Box::new(Generation { hub, next: OnceLock::new() }));
            // Only that of whoever came first, when several threads come at once.
            this.hub.start();
        }
        Ok(&this.hub)
    }

    /// Commits steps in their order, and waits for it. Those of one tenant are committed together.
    ///
    /// # Errors
    /// Nothing was committed, or nobody knows whether it was.
    pub fn run(&self, steps: Vec<Step>) -> Results {
        let hub = self.hub()?;
        if hub.options.clock.is_some() {
            // By a given time leases end when it says so; by the server's, when somebody looks.
            hub.expire_own();
        }
        if let Some(outbox) = hub.outbox.as_ref().filter(|_| admits(&steps)) {
            outbox.wait_for_room(std::time::Instant::now() + hub.options.deadline)?;
        }
        let mut results = Vec::with_capacity(steps.len());
        for part in self.parts(hub, steps)? {
            match part {
                Part::Answer(result) => results.push(result),
                Part::Job(tag, steps) => results.extend(hub.run(tag, steps)?),
            }
        }
        Ok(results)
    }

    /// Commits steps without waiting: `then` is called from a worker's thread. It must not wait for anything.
    pub fn run_then(&self, steps: Vec<Step>, then: Box<dyn FnOnce(Results) + Send>) {
        let looks_first = steps.iter().any(|step| matches!(step, Step::Resolve(..)));
        if self.ready().is_some() && !looks_first {
            return self.run_from_here(steps, Reply::then(then));
        }
        // What has to be asked first is waited for elsewhere.
        let (store, reply) = (self.clone(), Reply::then(then));
        let thread = std::thread::Builder::new().name("checkrein-redis-first".to_owned());
        // Where there is no thread to be had the reply is dropped, and tells.
        drop(thread.spawn(move || store.run_from_here(steps, reply)));
    }

    fn run_from_here(&self, steps: Vec<Step>, reply: Reply) {
        let parts = self.hub().and_then(|hub| {
            if let Some(outbox) = hub.outbox.as_ref().filter(|_| admits(&steps)) {
                outbox.wait_for_room(std::time::Instant::now())?;
            }
            Ok((hub, self.parts(hub, steps)?))
        });
        match parts {
            Err(error) => drop(reply.end(Err(error))),
            Ok((hub, parts)) => run_parts(Arc::clone(hub), parts.into(), Vec::new(), reply),
        }
    }

    /// Commits steps with nobody waiting.
    ///
    /// # Errors
    /// The store is closed.
    pub fn run_unwaited(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let hub = self.hub()?;
        for part in self.parts(hub, steps)? {
            if let Part::Job(tag, steps) = part {
                hub.run_unwaited(tag, steps);
            }
        }
        Ok(())
    }

    /// Steps of one tenant in a row are one job.
    fn parts(&self, hub: &Arc<Hub>, steps: Vec<Step>) -> Result<Vec<Part>, StoreError> {
        let families = Arc::clone(&hub.families.lock());
        let mut parts: Vec<Part> = Vec::with_capacity(1);
        for step in steps {
            if let (Some(outbox), Step::Admit(policy, _)) = (&hub.outbox, &step) {
                outbox.policy(policy)?;
            }
            let (tag, planned) = match job::plan(step, &families, &hub.open) {
                Plan::Answer(result) => {
                    parts.push(Part::Answer(result));
                    continue;
                }
                Plan::Refuse(policy, inputs, admission) => {
                    if let Some(outbox) = &hub.outbox {
                        let (inputs, admission, meters) = (*inputs, (*admission).clone(), Vec::new());
                        outbox.decided(vec![Decided { policy, inputs, admission, meters }]);
                    }
                    parts.push(Part::Answer(StepResult::Admitted(*admission, None)));
                    continue;
                }
                Plan::Note(name, fields) => {
                    let fields: Vec<(&str, &str)> =
                        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                    hub.outbox.as_ref().map_or(Ok(()), |outbox| outbox.event(&name, &fields))?;
                    parts.push(Part::Answer(StepResult::Done));
                    continue;
                }
                Plan::On(tag, planned) => (tag, planned),
            };
            let planned = match (&planned.step, planned.names.as_slice()) {
                (Step::Resolve(..), [operation]) => {
                    let names = hub.names_to_resolve(*operation)?;
                    Planned { names, ..planned }
                }
                _ => planned,
            };
            match parts.last_mut() {
                Some(Part::Job(last, steps)) if *last == tag => steps.push(planned),
                _ => parts.push(Part::Job(tag, vec![planned])),
            }
        }
        Ok(parts)
    }

    /// The number of a family's definition in this process.
    pub(crate) fn family(&self, key: &FamilyKey, cooldown: Span) -> Result<Family, StoreError> {
        let hub = self.hub()?;
        let mut families = hub.families.lock();
        let (family, _) = Arc::make_mut(&mut families).intern(key, cooldown);
        let copy = Arc::clone(&families);
        drop(families);
        hub.publish(copy);
        Ok(family)
    }

    /// What is counted on this store, by whichever process.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn families(&self) -> Result<Vec<(Family, FamilyKey)>, StoreError> {
        self.hub()?.all_families()
    }

    /// Why a policy must not be decided by on this store: it promises what a failover would break.
    pub(crate) fn object_to(&self, policy: &Policy) -> Result<(), StoreError> {
        let hub = self.hub()?;
        if !stage::must_last(policy) || hub.options.accept_failover_loss {
            return Ok(());
        }
        let deadline = std::time::Instant::now() + hub.options.deadline;
        let standing = hub.side_lane().standing(Tag::STORE, deadline).map_err(rounds::not_committed)?;
        if standing.replicated { Err(StoreError::NotCommitted(stage::REPLICATED.to_owned())) } else { Ok(()) }
    }

    /// Whether a ledger of this host is kept.
    pub fn keeps_ledger(&self) -> bool {
        self.0.generation.hub.options.ledger.is_some()
    }

    /// The host's own ledger, if one is kept.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn ledger(&self) -> Result<Option<HostLedger>, StoreError> {
        self.hub()?.outbox.as_ref().map(Outbox::ledger).transpose()
    }

    /// Takes everything out of the host's outbox into its ledger now, and waits for it.
    ///
    /// # Errors
    /// The store or the ledger is not to be had; what has not come in comes later.
    pub fn drain(&self) -> Result<(), StoreError> {
        let hub = self.hub()?;
        match &hub.outbox {
            Some(outbox) => outbox.drain_all(hub),
            None => Ok(()),
        }
    }

    /// Why the host's ledger is behind what was decided; nothing if it is not.
    pub fn ledger_error(&self) -> Option<StoreError> {
        self.hub().ok()?.outbox.as_ref().and_then(Outbox::error)
    }

    /// Says for every tenant that the server is to be trusted as it is now, and ends the safe mode.
    ///
    /// # Errors
    /// The store is not to be had; what was accepted until then stays so.
    pub fn accept_epoch(&self) -> Result<(), StoreError> {
        self.hub()?.accept_epoch()
    }

    /// What is known of the servers.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn servers(&self) -> Result<Vec<ServerInfo>, StoreError> {
        let hub = self.hub()?;
        let deadline = std::time::Instant::now() + hub.options.deadline;
        hub.side_lane().servers(deadline).map_err(rounds::not_committed)
    }

    /// The tags of all tenants, the store's own first, and whether the server of each is the one that was accepted.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn epochs(&self) -> Result<Vec<(String, bool)>, StoreError> {
        self.hub()?.epochs()
    }

    /// The tenants' tags whose server is not the one that was accepted.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn unaccepted(&self) -> Result<Vec<String>, StoreError> {
        let unaccepted = self.epochs()?.into_iter().filter(|(_, accepted)| !accepted);
        Ok(unaccepted.map(|(tag, _)| tag).collect())
    }

    /// At most `limit` records of a kind after a cursor, and where to go on; `None` at the end.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn scan(&self, kind: RecordKind, after: &Cursor, limit: usize) -> Result<Page, StoreError> {
        self.hub()?.scan(kind, after, limit)
    }

    /// Resets every record of a family; returns how many.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn reset_all(&self, kind: RecordKind, family: Family) -> Result<usize, StoreError> {
        self.hub()?.reset_all(kind, family)
    }

    /// Removes every idle record; returns how many.
    ///
    /// # Errors
    /// The store is not to be had.
    pub fn collect(&self) -> Result<usize, StoreError> {
        self.hub()?.collect()
    }
}

/// Whether any of the steps may let an action pass.
fn admits(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Admit(..)))
}

/// Part of what a caller asks for: steps that are committed together, or what one comes to without the server.
enum Part {
    Job(Tag, Vec<Planned>),
    Answer(StepResult),
}

/// Runs parts one after the other, each when the one before is done.
fn run_parts(
    hub: Arc<Hub>,
    mut parts: std::collections::VecDeque<Part>,
    mut results: Vec<StepResult>,
    told: Reply,
) {
    loop {
        match parts.pop_front() {
            None => return drop(told.end(Ok(results))),
            Some(Part::Answer(result)) => results.push(result),
            Some(Part::Job(tag, steps)) => {
                let next = Arc::clone(&hub);
                let reply = Reply::then(Box::new(move |done| match done {
                    Err(error) => drop(told.end(Err(error))),
                    Ok(done) => {
                        results.extend(done);
                        run_parts(next, parts, results, told);
                    }
                }));
                return hub.run_then(tag, steps, reply);
            }
        }
    }
}

/// Where the ids of a process's writes begin.
fn seed() -> Result<u64, StoreError> {
    let mut seed = [0; 8];
    match getrandom::fill(&mut seed) {
        Ok(()) => Ok(u64::from_ne_bytes(seed)),
        Err(_) => Err(StoreError::NotCommitted("the machine gives no random numbers".to_owned())),
    }
}
