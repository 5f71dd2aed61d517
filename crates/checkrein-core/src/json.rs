//! Strict JSON, in: one reading of the bytes, or an error that says where and why not.
//!
//! A gate must never understand a document differently from the tool that receives it. Wherever two parsers
//! may disagree (a repeated key, an integer beyond 64 bits, a lone surrogate, `NaN`, text after the value)
//! the reader refuses. It does not recurse, so neither depth nor length can exhaust the stack, and every
//! quantity it allocates is bounded by [`Limits`].

mod error;
mod number;
mod reader;
#[cfg(test)]
mod tests;
mod value;

pub use error::{JsonError, JsonErrorKind};
pub use reader::{Limits, MAX_DEPTH, read, read_str};
pub use value::{DuplicateKey, Object, Value};
