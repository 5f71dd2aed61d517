//! Exports: a ledger as lines of text that can be verified with nothing but a public key.

use std::io::Write;

use checkrein_core::ledger::checkpoint::Checkpoint;
use checkrein_core::ledger::export::{Header, checkpoint_line, hashes_line};
use checkrein_core::ledger::proof::TileSource as _;
use checkrein_core::ledger::tree::TILE;

use super::{Database, LedgerError};

/// At most one checkpoint is written for so many entries, besides the last.
const BETWEEN_CHECKPOINTS: u64 = 1_000;

/// Which entries are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those under the newest checkpoint: everything a stranger can verify.
    #[default]
    Sealed,
    /// Those after it as well: a verification names the first of them as not sealed.
    All,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The first entry.
    pub first: u64,
    /// One more than the last entry.
    pub end: u64,
    /// Entries under the newest checkpoint.
    pub sealed: u64,
    /// Entries after it, exported or not.
    pub unsealed: u64,
}

/// Writes an export.
///
/// # Errors
/// Nothing is sealed yet, the ledger is damaged or cannot be read, or `to` cannot be written.
pub fn export(database: &Database, scope: Scope, to: &mut impl Write) -> Result<Exported, LedgerError> {
    let (size, note) = database.newest_checkpoint()?.ok_or(LedgerError::NothingSealed)?;
    let (first, end) = (database.first()?.min(size), database.size()?.max(size));
    if !first.is_multiple_of(TILE) {
        return Err(LedgerError::Damaged(format!(
            "the first entry is {first}, and no group of 256 begins with it"
        )));
    }
    let checkpoints = checkpoints(database, first, size)?;
    let sizes: Vec<u64> = checkpoints.iter().map(|(size, _)| *size).collect();
    let header = Header::collect(database, note, size, first, sizes)?;
    let mut put = |line: &[u8]| {
        let done = to.write_all(line).and_then(|()| to.write_all(b"\n"));
        done.map_err(LedgerError::file(std::path::Path::new("the export")))
    };
    put(&header.to_line())?;
    let mut checkpoints = checkpoints.into_iter().peekable();
    let last = if scope == Scope::All { end } else { size };
    let mut next = first;
    while next < last {
        if next.is_multiple_of(TILE) && next / TILE < size / TILE {
            put(&hashes_line(&tile(database, next / TILE)?))?;
        }
        let end = last.min(next - next % TILE + TILE);
        for (seq, body) in database.entries(next, end - next)? {
            if seq != next {
                break;
            }
            put(&body)?;
            next += 1;
            if let Some((_, note)) = checkpoints.next_if(|(size, _)| *size == next) {
                put(&checkpoint_line(&note))?;
            }
        }
        if next < end {
            return Err(LedgerError::Damaged(format!("entry {next} is missing")));
        }
    }
    Ok(Exported { first, end: next, sealed: size, unsealed: end - size })
}

fn tile(mut database: &Database, index: u64) -> Result<Vec<checkrein_core::ledger::tree::Hash>, LedgerError> {
    database.tile(0, index)
}

/// The checkpoints among the entries: the first after every thousand, and the last.
fn checkpoints(database: &Database, first: u64, size: u64) -> Result<Vec<(u64, String)>, LedgerError> {
    let mut found: Vec<(u64, String)> = Vec::new();
    let mut from = first.saturating_add(1);
    while let Some((at, note)) = database.checkpoint_from(from)?.filter(|(at, _)| *at <= size) {
        from = at.saturating_add(BETWEEN_CHECKPOINTS).min(size.max(at.saturating_add(1)));
        found.push((at, note));
    }
    Ok(found)
}

/// What the newest checkpoint of a ledger says, unverified: for people.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn newest(database: &Database) -> Result<Checkpoint, LedgerError> {
    let (_, note) = database.newest_checkpoint()?.ok_or(LedgerError::NothingSealed)?;
    let text = note.rsplit_once("\n\n").map(|(body, _)| format!("{body}\n")).unwrap_or_default();
    Checkpoint::parse(&text).map_err(|error| LedgerError::Damaged(format!("the newest checkpoint: {error}")))
}
