//! The extension module `checkrein._native`: a thin layer between Python objects and the Rust engine.

use pyo3::prelude::*;

mod dropin;

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    dropin::register(module)
}
