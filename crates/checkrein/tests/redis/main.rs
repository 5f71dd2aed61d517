//! What a Redis store does when something goes wrong: real servers, killed, stopped, filled, replaced and lied about.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test stops where something is wrong; child processes speak to their parent on standard output"
)]

mod clocks;
mod common;
mod lives;
mod lost;
mod opening;
mod records;
#[expect(dead_code, reason = "other tests use the rest of it")]
mod servers;
mod slow;
