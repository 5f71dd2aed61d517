//! What a SQLite store does when something goes wrong: real files, real processes, real locks.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

mod clock;
mod common;
mod files;
mod full;
mod locked;
mod processes;
mod restore;
mod wal;
mod writer;
