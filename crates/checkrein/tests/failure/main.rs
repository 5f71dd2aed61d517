//! What a SQLite store does when something goes wrong: real files, real processes, real locks.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong; child processes speak to their parent on standard output"
)]

mod clock;
mod common;
mod files;
mod full;
mod locked;
mod processes;
mod removed;
mod restore;
mod wal;
mod writer;
