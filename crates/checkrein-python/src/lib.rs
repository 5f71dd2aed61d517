//! The extension module `checkrein._native`: a thin layer between Python objects and the Rust engine.

use pyo3::prelude::*;

mod adjust;
mod convert;
mod decision;
mod dropin;
mod ending;
mod engine;
mod entry;
mod error;
mod facts;
mod guard;
mod inputs;
mod model_call;
mod opening;
mod operation;
mod permit;
mod place;
mod policy;
mod reason;
mod result;
mod scope;
mod scopes;
mod simple;
mod source;
mod spec;
mod waiting;

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<reason::Reason>()?;
    module.add_class::<reason::MeterStatus>()?;
    module.add_class::<decision::Decision>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<model_call::ModelPermit>()?;
    module.add_class::<scopes::ScopeShape>()?;
    module.add_class::<scopes::Scopes>()?;
    module.add_class::<scopes::ScopePermit>()?;
    module.add_class::<model_call::ModelSettlement>()?;
    module.add_class::<operation::Operation>()?;
    module.add_class::<permit::Permit>()?;
    module.add_class::<scope::Expression>()?;
    module.add_class::<waiting::Bell>()?;
    module.add_class::<waiting::Ticket>()?;
    module.add_class::<waiting::Ending>()?;
    module.add_class::<waiting::Resolving>()?;
    module.add_function(wrap_pyfunction!(decision::timeout_decision, module)?)?;
    module.add_function(wrap_pyfunction!(decision::frozen_decision, module)?)?;
    adjust::register(module)?;
    module.add_function(wrap_pyfunction!(policy::find_policy, module)?)?;
    engine::register(module)?;
    dropin::register(module)
}
