//! The native half of the drop-in modules, one file each.

use pyo3::prelude::*;

mod actguard;
mod actiongate;
mod auditgate;
mod both;
mod budgetgate;
mod common;
mod rulegate;
mod runner;
mod table;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    common::register(module)?;
    actguard::register(module)?;
    actiongate::register(module)?;
    budgetgate::register(module)?;
    both::register(module)?;
    rulegate::register(module)?;
    auditgate::register(module)?;
    runner::register(module)
}
