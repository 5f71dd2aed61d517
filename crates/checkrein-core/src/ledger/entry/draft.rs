//! Drafts: entries without their number, made by a process that cannot know it yet.
//!
//! A store that several hosts share keeps no ledger of its own. What is decided there is put into a list of drafts in the
//! same step, one list for each host; the host takes them out into its own ledger, where each gets its number. A draft is
//! canonical JSON as an entry is, and has exactly one form.

use std::fmt;
use std::ops::Range;

use super::cursor::EntryError;
use super::read;
use super::write::{write_source, write_uint};
use super::{Body, EntryView, SALT_LENGTH};
use crate::time::Timestamp;

/// Eight bytes that were drawn once, or are part of a digest: the name of a store, a ledger, a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(u64);

impl ShortId {
    /// The id of eight bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The id that a [`Display`](fmt::Display) wrote: sixteen lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where an entry comes from that was decided in a store that several hosts share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The shared store. Permits and processes are numbered within it.
    pub store: ShortId,
    /// The host whose ledger it is for.
    pub host: ShortId,
    /// The part of the shared store that it was decided in.
    pub tag: ShortId,
    /// Its running number in its process: with the store and the process it names the draft, and no other has this name.
    pub draft: u64,
    /// Of an outcome: the host whose ledger has the intent.
    pub intent: Option<ShortId>,
}

/// How a draft got into a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// When, by the ledger's clock.
    pub time: Timestamp,
    /// The list of drafts that it stood in, which never gets its name back once it was lost.
    pub list: ShortId,
    /// Its position in that list, counted from zero without gaps.
    pub number: u64,
}

/// An entry without its number.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// When it was committed in the shared store, by that store's clock.
    pub time: Timestamp,
    /// The number of the process that committed it, within the shared store.
    pub epoch: u64,
    /// Where it comes from.
    pub source: Source,
    /// The salt of its digests, which the ledger keeps apart from the entry.
    pub salt: Option<[u8; SALT_LENGTH]>,
    /// What happened.
    pub body: Body<'a>,
}

/// What a draft has and an entry does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// Where its source stands.
    pub(super) outbox: Range<usize>,
    /// Where its number goes.
    pub(super) seq: usize,
    pub(super) salt: Option<[u8; SALT_LENGTH]>,
}

/// A draft as it is read, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftView<'a> {
    /// What the entry will say. Its number is zero, and how it got into the ledger is not known.
    pub entry: EntryView<'a>,
    /// Where it comes from.
    pub source: Source,
    /// The salt of its digests.
    pub salt: Option<[u8; SALT_LENGTH]>,
    bytes: &'a [u8],
    spans: Spans,
}

impl<'a> DraftView<'a> {
    /// Reads one draft.
    ///
    /// # Errors
    /// If the bytes are not the canonical form of a draft of a version this code knows.
    pub fn read(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let (mut entry, spans) = read::draft(bytes)?;
        let source = entry.source.take().map(|(source, _)| source).unwrap_or_default();
        Ok(Self { entry, source, salt: spans.salt, bytes, spans })
    }

    /// Appends the bytes of the entry that this draft becomes.
    pub fn number(&self, seq: u64, drained: &Drained, out: &mut Vec<u8>) {
        let Spans { outbox, seq: place, .. } = &self.spans;
        let part = |range: Range<usize>| self.bytes.get(range).unwrap_or_default();
        out.extend_from_slice(part(0..outbox.start));
        write_source(&self.source, Some(drained), None, out);
        out.extend_from_slice(part(outbox.end..*place));
        out.extend_from_slice(b",\"seq\":");
        write_uint(seq, out);
        out.extend_from_slice(part(*place..self.bytes.len()));
    }
}

#[cfg(test)]
mod tests;
