//! One entry in the making: everything but its place in the log is written before the lock is taken.

use std::cell::Cell;
use std::sync::OnceLock;

use pyo3::prelude::*;
use sha2::{Digest as _, Sha256};

use super::canonical::CanonicalWriter;
use super::entry::{AuditEntry, Detail, HashField, Seal, Sequence, WallStamp};
use super::event::{Event, EventDetail};
use super::hash;
use super::number::push_integer;
use super::policy::Integrity;
use super::snapshot::snapshot;
use super::vocabulary::{Member, json_name, vocabulary};
use super::wall;

thread_local! {
    /// The buffer of the last draft on this thread, kept for the next one.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Buffers up to this size are kept between drafts.
const KEEP_BYTES: usize = 16 << 10;

/// A built entry and its canonical form, split where sequence and previous hash go in.
pub(crate) struct Draft {
    pub(crate) entry: Py<AuditEntry>,
    integrity: Integrity,
    bytes: Vec<u8>,
    before_previous: usize,
    before_sequence: usize,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.bytes.capacity() <= KEEP_BYTES {
            BUFFER.set(std::mem::take(&mut self.bytes));
        }
    }
}

impl Draft {
    pub(crate) fn build<'py>(
        event: &Event<'_, 'py>,
        trail_json: &[u8],
        integrity: Integrity,
        now: &Bound<'py, PyAny>,
        wall: Option<Bound<'py, PyAny>>,
        recorded_by: &Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        let py = now.py();
        let detail = match &event.detail {
            EventDetail::Object(Some(detail)) => Some(snapshot(detail)?),
            _ => None,
        };
        let mut written = Written::default();
        if integrity != Integrity::None {
            written = write(event, detail.as_ref(), trail_json, now)?;
        }
        let entry = AuditEntry {
            trail: event.trail.clone().unbind(),
            ts: now.clone().unbind(),
            wall: match wall {
                Some(text) => WallStamp::Text(text.unbind()),
                None => WallStamp::Micros(wall::now_micros()),
            },
            verdict: event.verdict.clone().unbind(),
            severity: event.severity.clone().unbind(),
            gate_type: event.gate_type.clone().unbind(),
            gate_identity: event.gate_identity.clone().unbind(),
            recorded_by: recorded_by.clone().unbind(),
            reason: event.reason.map_or_else(|| py.None(), |reason| reason.clone().unbind()),
            detail: match (detail, &event.detail) {
                (Some(detail), _) => Detail::ready(py, detail.unbind()),
                (None, EventDetail::Prepared(_, source)) => Detail::lazy(source.clone()),
                (None, EventDetail::Object(_)) => Detail::empty(),
            },
            seal: OnceLock::new(),
        };
        Ok(Self {
            entry: Py::new(py, entry)?,
            integrity,
            bytes: written.bytes,
            before_previous: written.before_previous,
            before_sequence: written.before_sequence,
        })
    }

    /// Computes the seal for a place in the log; `None` if the hash before is unusable.
    pub(crate) fn seal(&self, py: Python<'_>, sequence: i64, previous: &HashField) -> Option<Seal> {
        let number = Sequence::Number(sequence);
        if self.integrity == Integrity::None {
            return Some(Seal {
                sequence: number,
                entry_hash: HashField::Absent,
                prev_hash: HashField::Absent,
            });
        }
        let (head, rest) = self.bytes.split_at_checked(self.before_previous)?;
        let (middle, tail) = rest.split_at_checked(self.before_sequence - self.before_previous)?;
        let mut hasher = Sha256::new();
        hasher.update(head);
        let chained = self.integrity == Integrity::Chain;
        match previous {
            HashField::Digest(digest) if chained => {
                hasher.update(b"\"prev_hash\":\"");
                hasher.update(hash::hex(digest));
                hasher.update(b"\",");
            }
            HashField::Object(_, json) if chained => {
                hasher.update(b"\"prev_hash\":");
                hasher.update(json.as_deref()?);
                hasher.update(b",");
            }
            _ => {}
        }
        hasher.update(middle);
        let mut digits = Vec::with_capacity(20);
        push_integer(&mut digits, sequence);
        hasher.update(&digits);
        hasher.update(tail);
        Some(Seal {
            sequence: number,
            entry_hash: HashField::Digest(hasher.finalize().into()),
            prev_hash: if chained { previous.copy(py) } else { HashField::Absent },
        })
    }
}

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    before_previous: usize,
    before_sequence: usize,
}

/// Writes the canonical form of everything that is hashed, except the previous hash and the sequence.
fn write<'py>(
    event: &Event<'_, 'py>,
    detail: Option<&Bound<'py, PyAny>>,
    trail_json: &[u8],
    now: &Bound<'py, PyAny>,
) -> PyResult<Written> {
    let vocabulary = vocabulary(now.py())?;
    let mut bytes = BUFFER.take();
    bytes.clear();
    bytes.extend_from_slice(b"{\"detail\":");
    match (detail, &event.detail) {
        (Some(detail), _) => CanonicalWriter::new(&mut bytes).value(detail)?,
        (None, EventDetail::Prepared(write, _)) => write(&mut bytes),
        (None, EventDetail::Object(_)) => bytes.extend_from_slice(b"{}"),
    }
    bytes.extend_from_slice(b",\"gate_identity\":");
    CanonicalWriter::new(&mut bytes).value(event.gate_identity)?;
    bytes.extend_from_slice(b",\"gate_type\":");
    CanonicalWriter::new(&mut bytes).value(event.gate_type)?;
    bytes.push(b',');
    let before_previous = bytes.len();
    bytes.extend_from_slice(b"\"reason\":");
    match event.reason {
        Some(reason) => CanonicalWriter::new(&mut bytes).value(reason)?,
        None => bytes.extend_from_slice(b"null"),
    }
    bytes.extend_from_slice(b",\"sequence\":");
    let before_sequence = bytes.len();
    bytes.extend_from_slice(b",\"severity\":");
    name(&mut bytes, &vocabulary.severities, event.severity)?;
    bytes.extend_from_slice(b",\"trail\":");
    bytes.extend_from_slice(trail_json);
    bytes.extend_from_slice(b",\"ts\":");
    CanonicalWriter::new(&mut bytes).value(now)?;
    bytes.extend_from_slice(b",\"verdict\":");
    name(&mut bytes, &vocabulary.verdicts, event.verdict)?;
    bytes.push(b'}');
    Ok(Written { bytes, before_previous, before_sequence })
}

fn name(bytes: &mut Vec<u8>, members: &[Member], member: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(json) = json_name(members, member) {
        bytes.extend_from_slice(json);
        return Ok(());
    }
    CanonicalWriter::new(bytes).value(&member.getattr(pyo3::intern!(member.py(), "name"))?)
}
