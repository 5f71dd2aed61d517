//! Retention of the ledger: old entries go in whole groups, their hashes stay, and an entry says what was removed.

use checkrein_core::ledger::tree::TILE;
use checkrein_core::ledger::verify::ENTRIES_REMOVED;
use checkrein_core::time::Timestamp;

use super::row::{number_key, read_number};
use super::{Durable, Table, Tables};
use crate::store::StoreError;

/// The most entries that one transaction removes.
const MOST_AT_ONCE: u64 = 64 * TILE;

impl Durable {
    /// Removes ledger entries before `before`, rounded down to a group of 256 and to what is sealed, at most 16,384 of
    /// them. Returns the first entry that is kept.
    ///
    /// The event that says so is committed with the removal; tiles and checkpoints stay, so that every proof holds.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn remove_entries(
        &mut self,
        tables: &mut impl Tables,
        before: u64,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            let oldest = tables.scan(Table::Entry, None, 1)?.pop().and_then(|(key, _)| read_number(&key));
            let Some(first) = oldest else { return Ok(0) };
            let newest = tables.last(Table::Checkpoint)?.and_then(|(key, _)| read_number(&key));
            let last = before.min(newest.unwrap_or(0)).min(first.saturating_add(MOST_AT_ONCE));
            let before = last - last % TILE;
            if before <= first {
                return Ok(first);
            }
            let (from, to) = (first.to_string(), before.to_string());
            durable.note_event(tables, now, ENTRIES_REMOVED, &[("first", &from), ("before", &to)])?;
            for seq in first..before {
                tables.delete(Table::Entry, &number_key(seq))?;
                tables.delete(Table::Salt, &number_key(seq))?;
            }
            durable.wrote = true;
            Ok(before)
        })
    }
}
