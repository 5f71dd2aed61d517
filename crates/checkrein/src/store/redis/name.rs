//! Names of keys on the server: a prefix, one hash tag per tenant, and digests of tuples. Nothing that a user chose is
//! part of a key.

use std::fmt::Write as _;

use checkrein_core::ledger::entry::ShortId;
use checkrein_core::policy::RecordKind;
use sha2::{Digest as _, Sha256};

use crate::store::durable::FamilyKey;

/// The hash tag of a tenant: all its keys lie in one slot of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag(u64);

impl Tag {
    /// Where what belongs to no tenant lies: the tenants themselves, definitions, processes.
    pub(super) const STORE: Self = Self(0);

    pub(super) fn of(tenant: &[u8]) -> Self {
        Self(short(&[b"tenant", tenant]))
    }

    /// What it is called in ledgers: as in keys.
    pub(super) const fn id(self) -> ShortId {
        ShortId::from_bytes(self.0.to_be_bytes())
    }

    /// The tag of what a [`Display`](std::fmt::Display) wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The digest of parts, each after its length: no two tuples give the same bytes.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn short(parts: &[&[u8]]) -> u64 {
    digest(parts).first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// What a family is called on the server: the same on every host.
pub(super) fn family(definition: &FamilyKey) -> u64 {
    let (period, zone) = definition.calendar.as_ref().map_or(("", ""), |(period, zone)| (period, zone));
    let window = definition.window.map(|window| format!("{window:?}")).unwrap_or_default();
    let kind = [letter(definition.kind)];
    short(&[
        b"family",
        &kind,
        definition.name.as_bytes(),
        definition.unit.map_or("", checkrein_core::amount::Unit::name).as_bytes(),
        window.as_bytes(),
        period.as_bytes(),
        zone.as_bytes(),
    ])
}

/// The name of a record within its family.
pub(super) fn record(tenant: &[u8], key: &[u8]) -> u128 {
    digest(&[b"record", tenant, key]).first_chunk().copied().map_or(0, u128::from_be_bytes)
}

/// One letter for each kind of record.
pub(super) const fn letter(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Meter => b'm',
        RecordKind::Breaker => b'b',
        RecordKind::Operation => b'o',
        RecordKind::Fact => b'f',
        RecordKind::Permit => b'p',
    }
}

fn under(prefix: &str, tag: Tag, rest: std::fmt::Arguments<'_>) -> String {
    let mut key = String::with_capacity(prefix.len() + 72);
    // Writing to a string cannot fail.
    let _ = write!(key, "{prefix}:{{{tag}}}:{rest}");
    key
}

/// The key of a record.
pub(super) fn record_key(prefix: &str, tag: Tag, kind: RecordKind, family: u64, record: u128) -> String {
    under(prefix, tag, format_args!("{}:{family:016x}:{record:032x}", letter(kind) as char))
}

/// The key of an open permit.
pub(super) fn permit_key(prefix: &str, tag: Tag, number: u64) -> String {
    under(prefix, tag, format_args!("p:{number:x}"))
}

/// The sorted set of the live records of a family.
pub(super) fn index_key(prefix: &str, tag: Tag, kind: RecordKind, family: u64) -> String {
    under(prefix, tag, format_args!("i:{}:{family:016x}", letter(kind) as char))
}

/// The sorted set of open permits, by the ends of their leases.
pub(super) fn due_key(prefix: &str, tag: Tag) -> String {
    under(prefix, tag, format_args!("due"))
}

/// The incarnation of the server that the tag's records are known to be from.
pub(super) fn epoch(prefix: &str, tag: Tag) -> String {
    under(prefix, tag, format_args!("epoch"))
}

/// The set of all tags in use.
pub(super) fn tags_key(prefix: &str) -> String {
    under(prefix, Tag::STORE, format_args!("tags"))
}

/// The set of the definitions of all families in use.
pub(super) fn families_key(prefix: &str) -> String {
    under(prefix, Tag::STORE, format_args!("families"))
}

/// The number of the process that came last.
pub(super) fn processes_key(prefix: &str) -> String {
    under(prefix, Tag::STORE, format_args!("processes"))
}

/// What the store is called in ledgers: drawn by whoever came first.
pub(super) fn store_key(prefix: &str) -> String {
    under(prefix, Tag::STORE, format_args!("name"))
}

/// The drafts of a host that it has not taken out yet, for its ledger.
pub(super) fn outbox_key(prefix: &str, tag: Tag, host: ShortId) -> String {
    under(prefix, tag, format_args!("out:{host}"))
}

/// The name of that list, and how many were taken out since it got it.
pub(super) fn outbox_mark_key(prefix: &str, tag: Tag, host: ShortId) -> String {
    under(prefix, tag, format_args!("out:{host}:at"))
}
