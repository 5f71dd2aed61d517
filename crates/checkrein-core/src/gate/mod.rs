//! One file per gate that decides on a record: what it refuses, and with which reason.

pub mod breaker;
pub mod budget;
pub mod fact;
pub mod limit;
pub mod once;
