//! Records as they lie on the server: a head with a version and the tuple it is named by, and parts of what outgrew it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use checkrein_core::amount::Amount;
use checkrein_core::codec::{Damaged, Reader, Record as _, Write as _};
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::entry::ShortId;
use checkrein_core::meter::{Account, Meter};
use checkrein_core::permit::Permit;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Now, Span, Timestamp, Window};
use sha2::{Digest as _, Sha256};

use super::name::{self, Tag};
use crate::store::StoreError;

/// Which record: the same on every host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) tag: Tag,
    pub(super) kind: RecordKind,
    /// The digest of the family's definition; zero for a permit.
    pub(super) family: u64,
    /// The digest of tenant and key; the number of a permit.
    pub(super) record: u128,
}

/// Names are digests and numbers that nobody chose, so that what is looked up by them needs no slow hash.
pub(super) type ByName<T> = HashMap<Name, T, foldhash::fast::RandomState>;
pub(super) type Names = HashSet<Name, foldhash::fast::RandomState>;

impl Name {
    pub(super) const fn permit(tag: Tag, number: u64) -> Self {
        Self { tag, kind: RecordKind::Permit, family: 0, record: number as u128 }
    }

    pub(super) fn key(&self, prefix: &str) -> String {
        match self.kind {
            RecordKind::Permit => name::permit_key(prefix, self.tag, self.record as u64),
            _ => name::record_key(prefix, self.tag, self.kind, self.family, self.record),
        }
    }

    /// The member of its index.
    pub(super) fn member(&self) -> String {
        format!("{:032x}", self.record)
    }
}

/// An admitted action that has not ended: what it holds, on which records.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// Its records, in the order of the policy's gates.
    pub(super) records: Vec<Name>,
    /// The host whose ledger has the intent.
    pub(super) host: Option<ShortId>,
    pub(super) permit: Permit,
}

/// What a record says.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Meter(Meter),
    Breaker(Breaker),
    Operation(Operation),
    Fact(Fact),
    Permit(Open),
}

/// Which write a record is from, and those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// What a commit compares: the write's id, or the claim of whoever is to write next.
    token: [u8; 8],
    /// The token is a claim of this process.
    is_ours: bool,
    /// The write's id; zero where there is no record.
    pub(super) id: u64,
    /// How many writes there have been.
    pub(super) writes: u64,
    /// Ids of the writes before, the latest first, cut to 32 bits.
    pub(super) recent: [u32; RECENT],
}

/// The first byte of a claim; no id of a write begins with it.
const CLAIM: u8 = 0xff;

/// The token by which one whose tries have failed too often claims the next write of a record: nobody else's try passes
/// any more, and nobody claims over it for a while. Its time is the server's, in milliseconds.
pub(super) fn claim(id: u64, millis: i64) -> [u8; 8] {
    let [_, time @ ..] = (millis as u32 as u64).to_be_bytes();
    let [_, _, _, t0, t1, t2, t3] = time;
    let [_, _, _, _, _, r0, r1, r2] = id.to_be_bytes();
    [CLAIM, t0, t1, t2, t3, r0, r1, r2]
}

/// So many earlier writes are remembered in a record.
const RECENT: usize = 4;
const FORMAT: u8 = 1;
/// Format and token: what the commit script compares.
const COMPARED: usize = 9;
const SUM: usize = 8;
/// Flag of a head with parts.
const PARTS: u8 = 1;
/// Flag of a head behind which the server may count calls.
const COUNTS: u8 = 2;

/// What is known of a write that got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was done.
    Done,
    /// The record is as it was before: it has not been done yet.
    Open,
    /// Other writes came in its place: it was not done and cannot be any more.
    Lost,
    /// Too many others have come since to say.
    Forgotten,
}

impl Version {
    const fn cut(id: u64) -> u32 {
        (id >> 32) as u32
    }

    fn next(self, id: u64) -> Self {
        let [first, second, third, _] = self.recent;
        let recent = [Self::cut(self.id), first, second, third];
        Self { token: id.to_be_bytes(), is_ours: false, id, writes: self.writes + 1, recent }
    }

    /// Whether somebody else has claimed the next write.
    pub(super) fn is_claimed(self) -> bool {
        self.token.first() == Some(&CLAIM) && !self.is_ours
    }

    /// What the commit script compares with; empty where there must be no record.
    pub(super) fn expected(self) -> Vec<u8> {
        if self.id == 0 {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(COMPARED);
        // Whose turn it is not does not write: no record has this format.
        bytes.push(if self.is_claimed() { 0 } else { FORMAT });
        bytes.extend_from_slice(&self.token);
        bytes
    }

    /// What became of the write `id` over `before`, when the record is at this version now.
    pub(super) fn fate_of(self, id: u64, before: Self) -> Fate {
        if self.id == id {
            Fate::Done
        } else if self.id == before.id {
            Fate::Open
        } else if self.id == 0 {
            // Removed, or expired: by whom and over what cannot be seen.
            Fate::Forgotten
        } else if self.recent.contains(&Self::cut(id)) {
            Fate::Done
        } else if self.writes > before.writes && self.writes - before.writes <= RECENT as u64 + 1 {
            Fate::Lost
        } else {
            Fate::Forgotten
        }
    }
}

/// A record, or the knowledge that there is none, as one process has it.
#[derive(Debug)]
pub(super) struct Rec {
    pub(super) name: Name,
    /// Its key on the server.
    pub(super) key: Box<str>,
    pub(super) value: Option<Value>,
    /// On the server; what is not written yet has none of its own.
    pub(super) version: Version,
    /// Tenant and key.
    pub(super) tuple: (Box<[u8]>, Box<[u8]>),
    /// The window of its family, and the longest cooldown that any policy gave it: it is kept that long, also by a process
    /// that knows no such gate.
    pub(super) keep: (Window, Span),
    /// Of an operation: the permit of its run.
    pub(super) permit: u64,
    /// When the server forgets it, in milliseconds since 1970.
    pub(super) expires: Option<i64>,
    /// Parts on the server.
    parts: Vec<u64>,
    /// When the server forgets the parts, as far as that is known; within it `None` for never.
    parts_until: Option<Option<i64>>,
    /// Calls that the server has counted behind the head since it was written.
    tail: usize,
    /// Until then others write it all the time, and calls are counted on the server where that is possible.
    pub(super) hot_until: Option<Instant>,
    pub(super) dirty: bool,
    /// It did not exist and is counted in its index when it is written.
    pub(super) is_new: bool,
}

/// What lies on the server under a record's name.
#[derive(Debug, Default)]
pub(super) struct Raw<'a> {
    pub(super) head: &'a [u8],
    pub(super) parts: BTreeMap<u64, &'a [u8]>,
    /// Calls that were counted since the head was written: a time in nanoseconds and an id each.
    pub(super) tail: Vec<&'a [u8]>,
}

/// The writes of one record, as arguments of the commit script.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// `None` removes it.
    pub(super) head: Option<Vec<u8>>,
    pub(super) expires: Option<i64>,
    pub(super) put_parts: Vec<(u64, Vec<u8>)>,
    pub(super) drop_parts: Vec<u64>,
    /// The calls counted behind the head are in it now.
    pub(super) drop_tail: bool,
    pub(super) has_parts: bool,
    /// When the server is to forget the parts, if it does not know; within it `None` for never.
    pub(super) parts_until: Option<Option<i64>>,
}

fn damaged(key: &str, why: Damaged) -> StoreError {
    StoreError::Damaged(format!("`{key}`: {why}"))
}

fn sum(key: &str, part: Option<u64>, bytes: &[u8]) -> [u8; SUM] {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(part.map_or(u64::MAX, |part| part).to_be_bytes());
    // A claim changes the token and nothing else: it is not summed.
    let from = if part.is_none() { COMPARED } else { 0 };
    hasher.update(bytes.get(from..).unwrap_or_default());
    let digest: [u8; 32] = hasher.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

fn open<'a>(key: &str, part: Option<u64>, bytes: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (body, found) = bytes.split_last_chunk::<SUM>().ok_or(Damaged::Short)?;
    match body.first() {
        None => Err(Damaged::Short),
        // Told apart from damage, so that it is clear who has to be updated.
        Some(&format) if part.is_none() && format != FORMAT => Err(Damaged::Version(format)),
        _ if sum(key, part, body) == *found => Ok(body),
        _ => Err(Damaged::Value("its check sum does not fit")),
    }
}

impl Rec {
    /// The knowledge that there is no such record.
    pub(super) fn absent(name: Name, prefix: &str) -> Self {
        Self::none(name, name.key(prefix).into())
    }

    fn none(name: Name, key: Box<str>) -> Self {
        Self {
            name,
            key,
            value: None,
            version: Version::default(),
            tuple: Default::default(),
            keep: (Window::Lifetime, Span::ZERO),
            permit: 0,
            expires: None,
            parts: Vec::new(),
            parts_until: None,
            tail: 0,
            hot_until: None,
            dirty: false,
            is_new: false,
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Bytes that no version of this library wrote under this key, or a later one did.
    pub(super) fn read(name: Name, prefix: &str, raw: &Raw<'_>) -> Result<Self, StoreError> {
        let key = name.key(prefix);
        Self::read_from(name, &key, raw).map_err(|why| damaged(&key, why))
    }

    fn read_from(name: Name, key: &str, raw: &Raw<'_>) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(open(key, None, raw.head)?, FORMAT)?;
        let token = bytes.take(8)?.first_chunk().copied().unwrap_or_default();
        let flags = bytes.take(1)?.first().copied().unwrap_or_default();
        let has_parts = flags & PARTS != 0;
        bytes.take(8)?;
        let id = bytes.take(8)?.first_chunk().copied().map_or(0, u64::from_be_bytes);
        let writes = bytes.small()?;
        let mut recent = [0; RECENT];
        for slot in &mut recent {
            *slot = bytes.take(4)?.first_chunk().copied().map_or(0, u32::from_le_bytes);
        }
        let (keep, permit) = ((bytes.window()?, bytes.span()?), bytes.small()?);
        let tuple = (bytes.blob()?.into(), bytes.blob()?.into());
        let body = bytes.blob()?;
        bytes.end()?;
        let part = |number: u64| match raw.parts.get(&number) {
            Some(bytes) if has_parts => open(key, Some(number), bytes),
            _ => Err(Damaged::Value("a part of it is missing")),
        };
        let value = match name.kind {
            RecordKind::Meter => {
                let chunks: Result<Vec<&[u8]>, Damaged> = Meter::needed_chunks(body)?.map(part).collect();
                Value::Meter(Meter::decode(body, chunks?)?)
            }
            RecordKind::Operation => {
                let mut missing = None;
                let result = || part(0).map(Arc::from).map_err(|why| missing = Some(why)).ok();
                let operation = Operation::decode(body, result);
                Value::Operation(missing.map_or(operation, Err)?)
            }
            RecordKind::Breaker => Value::Breaker(Breaker::decode(body)?),
            RecordKind::Fact => Value::Fact(Fact::decode(body)?),
            RecordKind::Permit => Value::Permit(Open::decode(name.tag, body)?),
        };
        let version = Version { token, is_ours: false, id, writes, recent };
        let parts = if has_parts { raw.parts.keys().copied().collect() } else { Vec::new() };
        let mut record =
            Self { value: Some(value), version, tuple, keep, permit, parts, ..Self::none(name, key.into()) };
        record.count_tail(&raw.tail)?;
        Ok(record)
    }

    /// Takes over the calls that the server has counted since the head was written.
    fn count_tail(&mut self, tail: &[&[u8]]) -> Result<(), Damaged> {
        self.tail = tail.len();
        let (window, _) = self.keep;
        let Some(Value::Meter(meter)) = &mut self.value else {
            return if tail.is_empty() { Ok(()) } else { Err(Damaged::Value("it counts no calls")) };
        };
        for call in tail {
            let stamp = call.first_chunk().copied().map(i64::from_be_bytes).ok_or(Damaged::Short)?;
            let stamp = meter
                .newest()
                .map_or(Timestamp::from_nanos(stamp), |newest| newest.max(Timestamp::from_nanos(stamp)));
            let counted = meter.record(stamp, Amount::ONE, window);
            counted.map_err(|_| Damaged::Value("its calls do not add up"))?;
        }
        Ok(())
    }

    /// What the commit script compares with.
    pub(super) fn expected(&self) -> Vec<u8> {
        let mut bytes = self.version.expected();
        if self.tail > 0 {
            bytes.extend_from_slice(self.tail.to_string().as_bytes());
        }
        bytes
    }

    /// When it may be forgotten.
    pub(super) fn expires_at(&self) -> Timestamp {
        let (window, cooldown) = self.keep;
        match &self.value {
            Some(Value::Meter(meter)) => meter.expires(window, cooldown),
            Some(Value::Breaker(breaker)) => breaker.expires(),
            Some(Value::Operation(operation)) => operation.expires(),
            Some(Value::Fact(fact)) => fact.expires,
            Some(Value::Permit(_)) => Timestamp::MAX,
            None => Timestamp::MIN,
        }
    }

    /// The bytes of what has changed, under the id of the write that takes them to the server.
    pub(super) fn write(&mut self, id: u64, keeping: Option<(Window, Span)>, now: Option<Now>) -> Written {
        self.dirty = false;
        let drop_tail = std::mem::take(&mut self.tail) > 0;
        if let Some((window, cooldown)) = keeping {
            self.keep = (window, self.keep.1.max(cooldown));
        }
        let expires_at = self.expires_at();
        let forgotten = matches!(&self.value, Some(Value::Meter(_))) && expires_at == Timestamp::MIN;
        if self.value.is_none() || forgotten {
            let drop_parts = std::mem::take(&mut self.parts);
            let written = Written { drop_parts, drop_tail, ..Written::default() };
            *self = Self::none(self.name, std::mem::take(&mut self.key));
            return written;
        }
        let key = std::mem::take(&mut self.key);
        let mut written = Written { drop_tail, ..Written::default() };
        self.write_parts(&key, &mut written);
        written.has_parts = !self.parts.is_empty();
        self.version = self.version.next(id);
        written.head = Some(self.head(&key, written.has_parts));
        written.expires = now.filter(|_| expires_at != Timestamp::MAX).map(|now| {
            // A breaker that says nothing is not worth making again with each call.
            let least = if self.name.kind == RecordKind::Breaker { 60 } else { 1 };
            let until = expires_at.max(now.latest.after(Span::from_secs(least)));
            until.nanos().div_euclid(1_000_000) + 2
        });
        self.expires = written.expires;
        if written.has_parts {
            written.parts_until = self.keep_parts(written.expires, now);
        } else {
            self.parts_until = None;
        }
        self.key = key;
        written
    }

    /// Parts outlive the head; what has to be said about it. Twice as long, so that it has not to be said each time.
    fn keep_parts(&mut self, expires: Option<i64>, now: Option<Now>) -> Option<Option<i64>> {
        let enough = match (self.parts_until, expires) {
            (None, _) | (Some(Some(_)), None) => false,
            (Some(None), expires) => expires.is_none(),
            (Some(Some(until)), Some(expires)) => until >= expires,
        };
        if enough {
            return None;
        }
        let now = now.map_or(0, |now| now.latest.nanos().div_euclid(1_000_000));
        self.parts_until = Some(expires.map(|expires| expires.saturating_add(expires.saturating_sub(now))));
        self.parts_until
    }

    fn head(&self, key: &str, has_parts: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.push(FORMAT);
        out.extend_from_slice(&self.version.token);
        let counted = self.counted();
        out.push(if has_parts { PARTS } else { 0 } | if counted.is_some() { COUNTS } else { 0 });
        // Twice, once with every bit the other way: the server cannot check the sum.
        let counted = counted.unwrap_or(u32::MAX);
        out.extend_from_slice(&counted.to_be_bytes());
        out.extend_from_slice(&(!counted).to_be_bytes());
        out.extend_from_slice(&self.version.id.to_be_bytes());
        out.number(self.version.writes.into());
        self.version.recent.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        out.window(self.keep.0);
        out.span(self.keep.1);
        out.number(self.permit.into());
        out.blob(&self.tuple.0);
        out.blob(&self.tuple.1);
        let mut body = Vec::with_capacity(96);
        match &self.value {
            Some(Value::Meter(meter)) => meter.encode_head(&mut body),
            Some(Value::Breaker(breaker)) => breaker.encode(&mut body),
            Some(Value::Operation(operation)) => operation.encode(&mut body),
            Some(Value::Fact(fact)) => fact.encode(&mut body),
            Some(Value::Permit(open)) => open.encode(&mut body),
            None => {}
        }
        out.blob(&body);
        let sum = sum(key, None, &out);
        out.extend_from_slice(&sum);
        out
    }

    /// Chunks of a meter that changed, a stored result that came, and those that went.
    fn write_parts(&mut self, key: &str, written: &mut Written) {
        let (live, changed) = match &self.value {
            Some(Value::Meter(meter)) => (meter.chunks(), meter.changed_chunks()),
            Some(Value::Operation(operation)) => {
                let there = u64::from(operation.result().is_some());
                let known = u64::from(self.parts.contains(&0));
                (0..there, known.min(there)..there)
            }
            _ => (0..0, 0..0),
        };
        written.drop_parts.extend(self.parts.extract_if(.., |number| !live.contains(number)));
        for number in changed {
            let mut bytes = Vec::new();
            match &self.value {
                Some(Value::Meter(meter)) => meter.encode_chunk(number, &mut bytes),
                Some(Value::Operation(operation)) => {
                    operation.result().into_iter().for_each(|result| bytes.extend_from_slice(result));
                }
                _ => {}
            }
            let sum = sum(key, Some(number), &bytes);
            bytes.extend_from_slice(&sum);
            written.put_parts.push((number, bytes));
            if !self.parts.contains(&number) {
                self.parts.push(number);
            }
        }
        if let Some(Value::Meter(meter)) = &mut self.value {
            meter.mark_kept();
        }
    }

    /// The calls that the head counts, where the server may count more of them behind it: in a rolling window, with
    /// nothing held, forced or closed.
    fn counted(&self) -> Option<u32> {
        match (&self.value, self.keep.0) {
            (Some(Value::Meter(meter)), Window::Rolling(_))
                if !meter.is_closed() && meter.account() == Account::default() =>
            {
                u32::try_from(meter.count()).ok()
            }
            _ => None,
        }
    }

    /// Takes note that a claim on it is this process's own.
    pub(super) fn claimed_by(&mut self, claim: [u8; 8]) {
        self.version.is_ours = self.version.token == claim;
    }

    /// Says by which tuple the record is named, where it is made.
    pub(super) fn name_by(&mut self, key: KeyRef<'_>) {
        if self.value.is_none() {
            self.tuple = (key.tenant.into(), key.key.into());
        }
    }
}

const KINDS: [RecordKind; 4] =
    [RecordKind::Meter, RecordKind::Breaker, RecordKind::Operation, RecordKind::Fact];

impl Open {
    fn encode(&self, out: &mut Vec<u8>) {
        // A policy has at most 64 gates.
        out.push(self.records.len() as u8);
        for record in &self.records {
            out.push(name::letter(record.kind));
            out.extend_from_slice(&record.family.to_be_bytes());
            out.extend_from_slice(&record.record.to_be_bytes());
        }
        out.extend_from_slice(&self.host.unwrap_or_default().to_bytes());
        self.permit.encode(out);
    }

    fn decode(tag: Tag, bytes: &[u8]) -> Result<Self, Damaged> {
        let (&count, mut rest) = bytes.split_first().ok_or(Damaged::Short)?;
        let mut records = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (&letter, after) = rest.split_first().ok_or(Damaged::Short)?;
            let kind = KINDS.into_iter().find(|kind| name::letter(*kind) == letter);
            let kind = kind.ok_or(Damaged::Value("no such kind of record"))?;
            let (family, after) = after.split_first_chunk().ok_or(Damaged::Short)?;
            let (record, after) = after.split_first_chunk().ok_or(Damaged::Short)?;
            let (family, record) = (u64::from_be_bytes(*family), u128::from_be_bytes(*record));
            records.push(Name { tag, kind, family, record });
            rest = after;
        }
        let (host, rest) = rest.split_first_chunk().ok_or(Damaged::Short)?;
        let host = Some(ShortId::from_bytes(*host)).filter(|host| *host != ShortId::default());
        Ok(Self { records, host, permit: Permit::decode(rest)? })
    }
}
