//! A key set: jobs that share records, decided one after the other and committed by one script.

use std::collections::BTreeMap;
use std::time::Instant;

use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Now, Timestamp};
use redis::Value as Reply;

use super::job::Job;
use super::link::{Arguments, Request};
use super::name;
use super::record::{ByName, Fate, Name, Raw, Rec, Value, Version, Written, claim};
use super::script::Script;
use super::stage::{Setting, Stage, must_last};
use crate::store::durable::Decided;
use crate::store::{Step, StepResult, StoreError};

/// Who has come too late so often claims the records.
const PATIENT: u32 = 2;

/// Jobs with the records that they need.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) jobs: Vec<Job>,
    /// For each job and step the places of its records.
    places: Vec<Vec<Vec<usize>>>,
    pub(super) records: Vec<Rec>,
    /// So many records were here before the first try; those after them were made by it.
    base: usize,
    /// Indexes that have no room for another record.
    full: Vec<Name>,
    pub(super) attempts: u32,
    /// All records are what the server sent in reply to an earlier try of this very group.
    is_fresh: bool,
    /// The server could not say that there surely is room: the core decides.
    pub(super) needs_core: bool,
    /// Of the last try.
    pub(super) tried: Tried,
}

/// What a try came to, if the server takes it.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub(super) results: Vec<Vec<StepResult>>,
    pub(super) opened: Vec<(u64, Timestamp)>,
    pub(super) moved: Vec<(u64, Option<Timestamp>)>,
    pub(super) id: u64,
    /// It only had calls counted behind the head of its one record.
    pub(super) is_fast: bool,
    /// The records that it writes, by place, with the versions that they had.
    pub(super) written: Vec<(usize, Version)>,
    /// What it would claim the records by, if it came too late once more.
    pub(super) claim: Option<[u8; 8]>,
    /// The server does not take it later than this, in microseconds since 1970.
    pub(super) fence: Option<i64>,
    pub(super) caps: Vec<Name>,
    /// The drafts that it pushes.
    pub(super) told: Vec<Vec<u8>>,
    /// Decisions that change nothing on the server.
    pub(super) decided: Vec<Decided>,
}

/// What the server said to a try.
#[derive(Debug)]
pub(super) enum Said {
    /// Everything is written.
    Committed,
    /// The time was outside of the bounds.
    Late,
    /// Somebody else has written one of the records.
    Conflict,
    /// An index is full.
    Full(Name),
}

/// How a try is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    pub(super) setting: Setting<'a>,
    /// The time is the engine's own: the server does not look at its clock and forgets nothing by it.
    pub(super) is_given: bool,
    pub(super) max_keys: usize,
    /// The id of this write.
    pub(super) id: u64,
}

impl Group {
    /// Jobs in their order, with what is remembered of their records.
    pub(super) fn new(jobs: Vec<Job>, mut recall: impl FnMut(Name) -> Rec) -> Self {
        let (mut records, mut known): (Vec<Rec>, ByName<usize>) = (Vec::new(), ByName::default());
        let mut place = |name: Name| {
            *known.entry(name).or_insert_with(|| {
                records.push(recall(name));
                records.len() - 1
            })
        };
        let of_job = |job: &Job, place: &mut dyn FnMut(Name) -> usize| {
            job.steps.iter().map(|step| step.names.iter().map(|name| place(*name)).collect()).collect()
        };
        let places = jobs.iter().map(|job| of_job(job, &mut place)).collect();
        let base = records.len();
        Self {
            jobs,
            places,
            records,
            base,
            full: Vec::new(),
            attempts: 0,
            is_fresh: false,
            needs_core: false,
            tried: Tried::default(),
        }
    }

    /// The earliest time by which one of its callers wants an answer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.jobs.iter().map(|job| job.deadline).min()
    }

    /// Decides everything, and writes down what the server has to do about it.
    pub(super) fn attempt(&mut self, how: &How<'_>, number: &mut dyn FnMut() -> u64) -> Request {
        self.attempts += 1;
        self.records.truncate(self.base);
        if let Some(request) = self.attempt_fast(how) {
            return request;
        }
        let mut stage = Stage {
            setting: how.setting,
            records: &mut self.records,
            full: &self.full,
            opened: Vec::new(),
            moved: Vec::new(),
            told: Vec::new(),
            decided: Vec::new(),
        };
        let mut results = Vec::with_capacity(self.jobs.len());
        for (job, places) in self.jobs.iter().zip(&self.places) {
            let steps = job.steps.iter().zip(places);
            results.push(steps.map(|(step, places)| stage.step(step, places, number)).collect());
        }
        let Stage { opened, moved, told, decided, .. } = stage;
        self.tried = Tried { results, opened, moved, told, decided, id: how.id, ..Tried::default() };
        self.request(how)
    }

    fn request(&mut self, how: &How<'_>) -> Request {
        let Now { earliest, latest } = how.setting.now;
        let (tag, prefix) = (how.setting.tag, how.setting.prefix);
        let mut request = Request::new(Script::Commit, tag);
        let versions: Vec<Vec<u8>> = self.records.iter().map(Rec::expected).collect();
        self.records.iter().for_each(|record| request.key(record.key.as_bytes()));
        let mut writes = Writes::after(self.records.len());
        let mut puts = Writes::after(0);
        let mut plain = Arguments::default();
        let mut made: BTreeMap<Name, i64> = BTreeMap::new();
        for (place, record) in self.records.iter_mut().enumerate().filter(|(_, record)| record.dirty) {
            let before = record.version;
            let keeping = how.setting.families.keeping(record.name.family);
            let is_new = std::mem::take(&mut record.is_new) && before.id == 0;
            let key = record.key.clone();
            let lease = lease_of(record);
            let written = record.write(how.id, keeping, (!how.is_given).then_some(how.setting.now));
            self.tried.written.push((place, before));
            let expires = written.expires.map(|expires| expires.to_string());
            writes.parts(&key, &written);
            if written.drop_tail {
                let tail = writes.key(format!("{key}:t"), "EXISTS");
                puts.command("DEL", tail, &[]);
            }
            if record.name.kind == RecordKind::Permit {
                let due = writes.key(name::due_key(prefix, tag), "ZCARD");
                let member = (record.name.record as u64).to_string();
                match lease {
                    Some(lease) => {
                        writes.command("ZADD", due, &[lease.to_string().as_bytes(), member.as_bytes()])
                    }
                    None => writes.command("ZREM", due, &[member.as_bytes()]),
                }
            } else if is_new && written.head.is_some() {
                let Name { kind, family, .. } = record.name;
                let index = writes.key(name::index_key(prefix, tag, kind, family), "ZCARD");
                writes.command("ZADD", index, &[b"0", record.name.member().as_bytes()]);
                *made.entry(Name { record: 0, ..record.name }).or_default() += 1;
            }
            match (&written.head, &expires) {
                (None, _) => puts.command("DEL", place + 1, &[]),
                (Some(head), None) => {
                    plain.number(place as i64 + 1);
                    plain.arg(head);
                }
                (Some(head), Some(expires)) => {
                    puts.command("SET", place + 1, &[head, b"PXAT", expires.as_bytes()]);
                }
            }
        }
        if let Some(drafts) = how.setting.drafts.filter(|_| !self.tried.told.is_empty()) {
            let outbox = writes.key(name::outbox_key(prefix, tag, drafts.host()), "LLEN");
            let told: Vec<&[u8]> = self.tried.told.iter().map(Vec::as_slice).collect();
            writes.command("RPUSH", outbox, &told);
        }
        let cap_keys: Vec<(usize, i64)> = made
            .iter()
            .map(|(index, count)| {
                let key = writes.key(name::index_key(prefix, tag, index.kind, index.family), "ZCARD");
                (key, how.max_keys as i64 - count)
            })
            .collect();
        self.tried.caps = made.into_keys().collect();
        // What must not be forgotten is decided only where the mark of the accepted server still is.
        let epoch = self.must_last().then(|| writes.key(name::epoch(prefix, tag), "EXISTS"));
        writes.keys.iter().for_each(|key| request.key(key.as_bytes()));
        if how.is_given {
            request.arg(b"");
            request.arg(b"");
        } else {
            let fence = latest.nanos().div_euclid(1_000);
            self.tried.fence = Some(fence);
            request.number(earliest.nanos().div_euclid(1_000) - 1);
            request.number(fence);
        }
        request.number(versions.len() as i64);
        request.number((cap_keys.len() + usize::from(epoch.is_some())) as i64);
        if self.attempts > PATIENT && !self.tried.written.is_empty() {
            self.tried.claim = Some(claim(how.id, earliest.nanos().div_euclid(1_000_000)));
        }
        request.arg(self.tried.claim.as_ref().map_or(&[], <[u8; 8]>::as_slice));
        versions.iter().for_each(|version| request.arg(version));
        for (key, most) in cap_keys {
            request.number(key as i64);
            request.number(most);
        }
        if let Some(epoch) = epoch {
            request.number(epoch as i64);
            request.arg(b"there");
        }
        if writes.has_parts {
            // Parts cannot be taken back: whatever may find a key of another kind is asked before.
            request.args(&writes.checks());
        }
        // What may find a key of another kind comes before what cannot fail: nothing is half written.
        request.args(&writes.args);
        request.args(&puts.args);
        request.arg(b"*");
        request.args(&plain);
        request
    }

    /// Whether something is decided that must not be forgotten.
    fn must_last(&self) -> bool {
        self.jobs.iter().flat_map(|job| &job.steps).any(|step| match &step.step {
            Step::Admit(policy, _) => must_last(policy.policy()),
            _ => false,
        })
    }

    /// Reads what the server said, and takes over the records that it sent.
    ///
    /// # Errors
    /// A record that cannot be read, or a reply that no script of ours gives.
    pub(super) fn hear(&mut self, reply: &Reply, prefix: &str) -> Result<(Said, i64), StoreError> {
        let strange = || StoreError::Unknown("the server gave an answer that is none".to_owned());
        match reply {
            Reply::Int(now) => Ok((Said::Committed, *now)),
            Reply::Array(parts) => {
                let [Reply::Int(why), Reply::Int(now), records @ ..] = parts.as_slice() else {
                    return Err(strange());
                };
                self.install(records, prefix)?;
                let said = match why {
                    1 => Said::Late,
                    2 => {
                        self.lost();
                        Said::Conflict
                    }
                    cap => {
                        let cap = usize::try_from(cap - 3).ok().and_then(|cap| self.tried.caps.get(cap));
                        Said::Full(cap.copied().ok_or_else(strange)?)
                    }
                };
                Ok((said, *now))
            }
            _ => Err(strange()),
        }
    }

    /// Each job on its own, with nothing remembered.
    pub(super) fn split(self, prefix: &str) -> impl Iterator<Item = Self> {
        self.jobs.into_iter().map(move |job| Self::new(vec![job], |name| Rec::absent(name, prefix)))
    }

    /// Nothing new is made in this index.
    pub(super) fn is_full(&mut self, index: Name) {
        self.full.push(index);
    }

    /// Replaces the records by those that the server has.
    pub(super) fn install(&mut self, replies: &[Reply], prefix: &str) -> Result<(), StoreError> {
        self.records.truncate(self.base);
        self.is_fresh = true;
        for (record, reply) in self.records.iter_mut().zip(replies.chunks(REPLIES)) {
            *record = read(record.name, prefix, reply)?;
            self.tried.claim.into_iter().for_each(|claim| record.claimed_by(claim));
        }
        Ok(())
    }

    /// Whether the try is an answer already: it writes nothing, and the server has shown its records since the callers
    /// asked. Nobody can tell it from one that was made at that moment.
    pub(super) fn is_answered(&self) -> bool {
        self.is_fresh && !self.writes() && self.tried.told.is_empty()
    }

    /// Whether somebody else is to write first.
    pub(super) fn is_claimed(&self) -> bool {
        self.records.iter().any(|record| record.version.is_claimed())
    }

    /// Forgets what is known of the records.
    pub(super) fn forget(&mut self, prefix: &str) {
        self.records.truncate(self.base);
        self.is_fresh = false;
        for record in &mut self.records {
            *record = Rec::absent(record.name, prefix);
        }
    }

    /// Asks for all records that the last try was about.
    pub(super) fn look(&self, setting: &Setting<'_>) -> Request {
        let mut request = Request::new(Script::Look, setting.tag);
        self.records.iter().for_each(|record| request.key(record.key.as_bytes()));
        request.arg(b"get");
        request
    }

    /// What became of a try that got no reply, by what the server has now.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub(super) fn fate(&mut self, replies: &[Reply], prefix: &str) -> Result<Fate, StoreError> {
        if self.tried.is_fast {
            return self.fate_of_fast(replies, prefix);
        }
        let (mut fates, mut gone) = (Vec::new(), false);
        for &(place, before) in &self.tried.written {
            let (Some(record), Some(reply)) = (self.records.get(place), replies.chunks(REPLIES).nth(place))
            else {
                continue;
            };
            let now = read(record.name, prefix, reply)?;
            let removed = record.version.id == 0;
            match now.version.id {
                // Somebody else may have removed it: it counts where nothing else says more.
                0 if removed && before.id != 0 => gone = true,
                0 if before.id == 0 => fates.push(Fate::Open),
                _ => fates.push(now.version.fate_of(self.tried.id, before)),
            }
        }
        // One script writes all or nothing: whatever one record shows is true of all.
        let fate = [Fate::Done, Fate::Lost, Fate::Forgotten].into_iter().find(|fate| fates.contains(fate));
        Ok(fate.unwrap_or(if gone && fates.is_empty() { Fate::Done } else { Fate::Open }))
    }

    /// So many drafts the last try pushed.
    pub(super) fn told(&self) -> usize {
        self.tried.told.len()
    }

    /// Whether the last try writes anything.
    pub(super) fn writes(&self) -> bool {
        self.tried.is_fast || !self.tried.written.is_empty()
    }
}

/// The end of an open permit's lease, as a score in milliseconds.
fn lease_of(record: &Rec) -> Option<i64> {
    match &record.value {
        Some(Value::Permit(open)) => Some(open.permit.lease_until.nanos().div_euclid(1_000_000) + 1),
        _ => None,
    }
}

/// So many replies make a record: its head, its parts, and the calls counted behind it.
pub(super) const REPLIES: usize = 3;

/// A record out of a reply.
pub(super) fn read(name: Name, prefix: &str, reply: &[Reply]) -> Result<Rec, StoreError> {
    let Some(Reply::BulkString(head)) = reply.first() else { return Ok(Rec::absent(name, prefix)) };
    let mut raw = Raw { head, ..Raw::default() };
    if let Some(Reply::Array(fields)) = reply.get(1) {
        for pair in fields.chunks(2) {
            let [Reply::BulkString(number), Reply::BulkString(bytes)] = pair else { continue };
            let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
            raw.parts.extend(number.map(|number: u64| (number, bytes.as_slice())));
        }
    }
    raw.tail = tail_of(reply);
    Rec::read(name, prefix, &raw)
}

/// The calls counted behind a head.
pub(super) fn tail_of(reply: &[Reply]) -> Vec<&[u8]> {
    match reply.get(2) {
        Some(Reply::Array(calls)) => calls
            .iter()
            .map(|call| if let Reply::BulkString(bytes) = call { bytes.as_slice() } else { &[] })
            .collect(),
        _ => Vec::new(),
    }
}

/// Commands of a commit, with the keys that they need.
struct Writes {
    keys: Vec<String>,
    /// For each a command that fails where the key is of another kind.
    checks: Vec<&'static str>,
    /// The number of the first of them.
    first: usize,
    args: Arguments,
    has_parts: bool,
}

impl Writes {
    /// None yet; so many keys come before theirs.
    fn after(count: usize) -> Self {
        let (keys, checks, args) = (Vec::new(), Vec::new(), Arguments::default());
        Self { keys, checks, first: count + 1, args, has_parts: false }
    }

    /// Asks every key whether it is of the kind that it should be.
    fn checks(&self) -> Arguments {
        let mut checks = Self::after(0);
        for (check, key) in self.checks.iter().zip(self.first..) {
            checks.command(check, key, &[]);
        }
        checks.args
    }

    /// The number of a key, added if need be.
    fn key(&mut self, key: String, check: &'static str) -> usize {
        let known = self.keys.iter().position(|known| *known == key);
        self.first
            + known.unwrap_or_else(|| {
                self.keys.push(key);
                self.checks.push(check);
                self.keys.len() - 1
            })
    }

    fn command(&mut self, command: &str, key: usize, args: &[&[u8]]) {
        self.args.number(args.len() as i64);
        self.args.arg(command.as_bytes());
        self.args.number(key as i64);
        args.iter().for_each(|arg| self.args.arg(arg));
    }

    fn parts(&mut self, key: &str, written: &Written) {
        if written.drop_parts.is_empty() && written.put_parts.is_empty() && written.parts_until.is_none() {
            return;
        }
        let key = self.key(format!("{key}:h"), "HLEN");
        self.has_parts = true;
        if !written.drop_parts.is_empty() {
            let numbers: Vec<String> = written.drop_parts.iter().map(u64::to_string).collect();
            let numbers: Vec<&[u8]> = numbers.iter().map(String::as_bytes).collect();
            self.command("HDEL", key, &numbers);
        }
        if !written.put_parts.is_empty() {
            let numbers: Vec<String> =
                written.put_parts.iter().map(|(number, _)| number.to_string()).collect();
            let fields = numbers.iter().zip(&written.put_parts);
            let fields: Vec<&[u8]> =
                fields.flat_map(|(number, (_, bytes))| [number.as_bytes(), bytes.as_slice()]).collect();
            self.command("HSET", key, &fields);
        }
        match written.parts_until {
            Some(Some(until)) => self.command("PEXPIREAT", key, &[until.to_string().as_bytes()]),
            Some(None) => self.command("PERSIST", key, &[]),
            None => {}
        }
    }
}
