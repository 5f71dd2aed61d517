//! Native half of `checkrein.auditgate`: entries, hashes, the memory store and the engine.

use pyo3::prelude::*;
use pyo3::types::PyString;

mod canonical;
mod decision;
mod emitter;
mod engine;
mod entry;
mod event;
mod hash;
mod number;
mod policy;
mod query;
mod record;
mod snapshot;
mod store;
mod trail;
mod vocabulary;
mod wall;

pub(crate) use engine::AuditEngine;
pub(crate) use entry::DetailSource;
pub(crate) use event::{Event, EventDetail, KnownTrail, Opened, Opening, Side};
pub(crate) use number::push_integer;
pub(crate) use snapshot::snapshot;
pub(crate) use store::AppendError;
pub(crate) use vocabulary::{Member, vocabulary};

/// Returns a text's canonical JSON.
pub(crate) fn canonical_text(text: &Bound<'_, PyString>) -> PyResult<Box<[u8]>> {
    let mut out = Vec::new();
    canonical::CanonicalWriter::new(&mut out).string(text)?;
    Ok(out.into_boxed_slice())
}

/// Appends nanoseconds as the seconds Python would print: an int for clocks that count in ints.
pub(crate) fn push_seconds(out: &mut Vec<u8>, nanos: i64, whole: bool) {
    const SECOND: i64 = 1_000_000_000;
    if whole && nanos % SECOND == 0 {
        push_integer(out, nanos / SECOND);
    } else {
        number::push_float(out, nanos as f64 / SECOND as f64);
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("AuditDecision", py.get_type::<decision::Decision>())?;
    module.add("AuditEmitter", py.get_type::<emitter::AuditEmitter>())?;
    module.add("AuditEngine", py.get_type::<engine::AuditEngine>())?;
    module.add("AuditEntry", py.get_type::<entry::AuditEntry>())?;
    module.add("AuditMemoryStore", py.get_type::<store::MemoryStore>())?;
    module.add("AuditTrail", py.get_type::<trail::Trail>())?;
    module.add("audit_canonical", wrap_pyfunction!(hash::canonical, module)?)?;
    module.add("audit_hash", wrap_pyfunction!(hash::compute_hash, module)?)?;
    module.add("audit_verify_chain", wrap_pyfunction!(hash::verify_chain, module)?)
}
