//! The pure decision core of Checkrein: no clock, randomness, I/O, threads or async.
//!
//! [`admission`] is the only control flow: [`plan`](admission::plan) an action, [`admit`](admission::admit) it over
//! all gates of its [`policy`] at once, [`finish`](admission::finish) it once. Records come in through a trait, time
//! and verdicts as values.

pub mod admission;
pub mod amount;
pub mod canonical_json;
pub mod code;
pub mod codec;
pub mod decision;
pub mod fingerprint;
pub mod gate;
pub mod json;
pub mod key;
pub mod ledger;
pub mod meter;
pub mod permit;
pub mod policy;
pub mod time;
pub mod usage;
