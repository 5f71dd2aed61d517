//! The native half of the drop-in modules, one file each.

use pyo3::prelude::*;

mod actiongate;
mod auditgate;
mod budgetgate;
mod frozen;
mod rulegate;
mod runner;

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    actiongate::register(module)?;
    budgetgate::register(module)?;
    rulegate::register(module)?;
    auditgate::register(module)?;
    runner::register(module)
}
