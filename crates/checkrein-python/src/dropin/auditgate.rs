//! Native half of `checkrein.auditgate`: entries, hashes, the memory store and the engine.

use pyo3::prelude::*;

mod canonical;
mod decision;
mod emitter;
mod engine;
mod entry;
mod hash;
mod policy;
mod query;
mod record;
mod snapshot;
mod store;
mod trail;
mod vocabulary;
mod wall;

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
