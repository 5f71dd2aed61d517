//! The store's time: an instant on the calendar, kept in the store, and the machine's time since it booted.
//!
//! No step of the machine's clock touches it while the machine runs. At a new boot it is taken from the machine's clock
//! again, and never shows less than the store has seen.

use checkrein_core::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::durable::{Table, Tables, open_row, seal_row};

pub(super) const KEY: &[u8] = b"clock";

/// Nanoseconds since the machine booted, suspended time included.
pub(crate) fn since_boot() -> i64 {
    #[cfg(target_os = "linux")]
    let time = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// What tells one boot of the machine from another; empty where the system does not say, and then every start of the
/// store counts as one. A container may have a time of its own since boot: its number is part of it.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    if boot.trim().is_empty() { String::new() } else { format!("{}/{}", boot.trim(), space.display()) }
}

/// The anchor that the body of a row says, if it was taken since the machine booted.
pub(super) fn anchor_of_this_boot(row: &[u8]) -> Option<i64> {
    let (anchor, name) = std::str::from_utf8(row).ok()?.split_once(' ')?;
    if name.is_empty() || name != boot() {
        return None;
    }
    anchor.parse().ok()
}

/// The clock of a store, anchored anew if the machine has been booted since, within a transaction.
pub(super) fn of(tables: &mut impl Tables, seen: Timestamp) -> Result<Clock, StoreError> {
    let kept = tables.get(Table::Meta, KEY)?;
    // A clock that shows a wrong time would open every window: what does not read is an error.
    let body = kept.as_deref().map(|row| open_row(Table::Meta, KEY, row)).transpose()?;
    if let Some(anchor) = body.and_then(|(body, _)| anchor_of_this_boot(body)) {
        return Ok(Clock::since_boot(anchor));
    }
    let boot = boot();
    let now = Clock::system().now().max(seen);
    let anchor = now.nanos().saturating_sub(since_boot());
    let mut row = format!("{anchor} {boot}").into_bytes();
    seal_row(Table::Meta, KEY, &mut row);
    tables.put(Table::Meta, KEY, &row)?;
    Ok(Clock::since_boot(anchor))
}
