//! Retention: old entries go, their hashes stay, and an entry says so.

use super::sealer::Row;
use super::{Database, LedgerError};
use crate::store::durable::Table;
use checkrein_core::ledger::entry::{Body, Entry, Event};
use checkrein_core::ledger::tree::TILE;
use checkrein_core::ledger::verify::ENTRIES_REMOVED;
use checkrein_core::time::Timestamp;

/// The entry with which the entries before `before` are removed: whoever appends it deletes the rows of `entry` and
/// `salt` with smaller keys in the same transaction. What is removed is sealed, and a whole number of groups of 256.
///
/// # Errors
/// There is nothing to remove, or what would be removed is not sealed.
pub fn remove_before(
    database: &Database,
    before: u64,
    seq: u64,
    time: Timestamp,
    epoch: u64,
) -> Result<(u64, Row), LedgerError> {
    let before = before - before % TILE;
    let first = database.first()?;
    let sealed = database.newest_checkpoint()?.map_or(0, |(size, _)| size);
    if before <= first {
        return Err(LedgerError::NotFound(format!(
            "no whole group of 256 entries lies between {first} and {before}"
        )));
    }
    if before > sealed {
        return Err(LedgerError::NotFound(format!(
            "entries from {sealed} on are not sealed and cannot be removed"
        )));
    }
    let (from, to) = (first.to_string(), before.to_string());
    let fields = [("before", to.as_str()), ("first", from.as_str())];
    let mut body = Vec::new();
    Entry { seq, time, epoch, body: Body::Event(Event { name: ENTRIES_REMOVED, fields: &fields }) }
        .write(&mut body);
    Ok((before, Row { table: Table::Entry, key: seq.to_be_bytes().to_vec(), body }))
}
