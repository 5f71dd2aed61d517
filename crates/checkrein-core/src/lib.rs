//! The pure decision core of Checkrein: no clock, randomness, I/O, threads or async.

pub mod amount;
pub mod canonical_json;
pub mod fingerprint;
pub mod json;
pub mod key;
pub mod meter;
pub mod time;
