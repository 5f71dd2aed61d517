//! The steps of a verification: one for the header, one for each kind of line after it, one for the end.

use super::{ENTRIES_REMOVED, Fault, Group, Proven, State, Verifier};
use crate::ledger::checkpoint::{Checkpoint, NoteError};
use crate::ledger::entry::{EntryView, Kind};
use crate::ledger::export::{Header, Line, Malformed};
use crate::ledger::tree::{Frontier, Hash, TILE, leaf_hash, root_of};

impl Verifier<'_> {
    /// Proves the header, and goes on with it.
    pub(super) fn open(&mut self, header: Header) -> Result<(), Fault> {
        let checkpoint = self.key.open(&header.checkpoint).map_err(Fault::HeaderCheckpoint)?;
        let size = checkpoint.size;
        check_numbers(&header, size)?;
        let mut tree = Frontier::new();
        for root in &header.full {
            let fits = tree.push_tile(*root);
            debug_assert!(fits, "only full groups were pushed");
        }
        header.partial.iter().for_each(|hash| tree.push(*hash));
        if tree.root() != checkpoint.root {
            return Err(Fault::HeaderHashes);
        }
        let first = header.first;
        self.report.first = first;
        self.report.checkpoint = Some(checkpoint);
        let removed: Vec<Hash> = header.full.iter().take((first / TILE) as usize).copied().collect();
        self.state = State::Proven(Box::new(Proven { header, size, next: 0, group: Group::Expected }));
        self.compare_outside();
        for root in removed {
            let fits = self.tree.push_tile(root);
            debug_assert!(fits, "only full groups were pushed");
            self.compare_outside();
        }
        self.check_outside(size);
        Ok(())
    }

    /// Compares the outside checkpoint with the tree, if it is of this size.
    fn compare_outside(&mut self) {
        let size = self.tree.size();
        if let Some(outside) = self.outside.take_if(|outside| outside.size == size) {
            if outside.root == self.tree.root() {
                self.report.against = Some(outside.size);
            } else {
                self.fail(Fault::Forked(outside.size), None);
            }
        }
    }

    /// What can be said of the outside checkpoint before any entry is read.
    fn check_outside(&mut self, size: u64) {
        let Some(outside) = self.outside.as_ref().map(|outside| outside.size) else { return };
        if outside > size {
            self.fail(Fault::RolledBack { size, outside }, Some(size));
        } else if outside < self.report.first {
            self.fail(Fault::OutsideRemoved(outside), None);
        }
    }

    /// Takes a line after a proven header.
    pub(super) fn proven(&mut self, mut proven: Box<Proven>, line: Line<'_>) {
        let here = self.tree.size();
        if proven.header.checkpoints.get(proven.next) == Some(&here) {
            return self.checkpoint(proven, line);
        }
        if here >= proven.size {
            return match line {
                Line::Entry(_) => self.fail(Fault::Unsealed(here), Some(here)),
                _ => self.fail(Fault::Trailing, None),
            };
        }
        if here.is_multiple_of(TILE) && matches!(proven.group, Group::Expected) {
            let root = proven.header.full.get((here / TILE) as usize);
            match (root, line) {
                (None, line) => {
                    // The entries after the last full group have their hashes in the header.
                    proven.group = Group::Known(std::mem::take(&mut proven.header.partial));
                    self.entry(proven, line);
                }
                (Some(root), Line::Hashes(hashes)) => {
                    let known = hashes.len() == TILE as usize && root_of(&hashes).as_ref() == Some(root);
                    proven.group = if known { Group::Known(hashes) } else { Group::Unknown(Vec::new()) };
                    self.state = State::Proven(proven);
                }
                (Some(_), line) => {
                    proven.group = Group::Unknown(Vec::new());
                    match line {
                        // Damaged hashes, or none at all: then this is the first entry of the group.
                        Line::Malformed(Malformed::Hashes) => self.state = State::Proven(proven),
                        line => self.entry(proven, line),
                    }
                }
            }
            return;
        }
        self.entry(proven, line);
    }

    fn checkpoint(&mut self, mut proven: Box<Proven>, line: Line<'_>) {
        let size = self.tree.size();
        let fault = match line {
            Line::Checkpoint(note) => match self.key.open(&note) {
                Err(error) => Some(Fault::Checkpoint { size, error }),
                Ok(found) => {
                    let same = found.size == size && found.root == self.tree.root();
                    let own = size != proven.size || note == proven.header.checkpoint;
                    (!same || !own).then_some(Fault::CheckpointRoot(size))
                }
            },
            Line::Malformed(Malformed::Checkpoint) => {
                let error = NoteError::Malformed("the line is not canonical JSON");
                Some(Fault::Checkpoint { size, error })
            }
            _ => Some(Fault::CheckpointMissing(size)),
        };
        match (fault, proven.unknown_group(size)) {
            (None, _) => {
                proven.next = proven.next.saturating_add(1);
                self.state = State::Proven(proven);
            }
            (Some(_), Some(first)) => self.fail(Fault::Group(first), Some(first)),
            (Some(fault), None) => self.fail(fault, None),
        }
    }

    fn entry(&mut self, mut proven: Box<Proven>, line: Line<'_>) {
        let here = self.tree.size();
        let offset = (here % TILE) as usize;
        let bytes = match line {
            Line::Entry(bytes) => bytes,
            _ => {
                return match proven.unknown_group(here) {
                    Some(first) => self.fail(Fault::Group(first), Some(first)),
                    None => self.fail(Fault::NoEntry(here), Some(here)),
                };
            }
        };
        let hash = leaf_hash(bytes);
        match &mut proven.group {
            Group::Known(hashes) if hashes.get(offset) == Some(&hash) => {
                let Some(entry) = EntryView::read(bytes).ok().filter(|entry| entry.seq == here) else {
                    return self.fail(Fault::SignedMalformed(here), Some(here));
                };
                self.removal_noted |= is_removal(&entry, self.report.first);
            }
            Group::Unknown(hashes) => {
                hashes.push(hash);
                if hashes.len() == TILE as usize {
                    let first = here - here % TILE;
                    let root = proven.header.full.get((here / TILE) as usize);
                    return if root_of(hashes).as_ref() == root {
                        self.fail(Fault::Hashes(first), None)
                    } else {
                        self.fail(Fault::Group(first), Some(first))
                    };
                }
            }
            Group::Known(_) | Group::Expected => return self.fail(why(bytes, here), Some(here)),
        }
        self.tree.push(hash);
        if self.tree.size().is_multiple_of(TILE) {
            proven.group = Group::Expected;
        }
        let unknown = proven.unknown_group(here);
        self.state = State::Proven(proven);
        self.compare_outside();
        if let (Some(Fault::Forked(_)), Some(first)) = (&self.report.fault, unknown) {
            // What the outside checkpoint saw is not this group, and neither is what was signed.
            self.report.fault = Some(Fault::Group(first));
            self.report.first_bad = Some(first);
        }
    }

    /// Takes a line when the header cannot be believed.
    pub(super) fn unproven(&mut self, mut proven: u64, mut broken: bool, line: &Line<'_>) {
        match line {
            Line::Entry(bytes) if !broken => {
                broken = EntryView::read(bytes).map(|entry| entry.seq) != Ok(self.tree.size());
                self.tree.push(leaf_hash(bytes));
            }
            Line::Checkpoint(note) if !broken => {
                let sealed =
                    |found: Checkpoint| found.size == self.tree.size() && found.root == self.tree.root();
                if self.key.open(note).is_ok_and(sealed) {
                    proven = self.tree.size();
                }
            }
            _ => {}
        }
        self.state = State::Unproven { proven, broken };
    }

    /// Checks that nothing is missing at the end.
    pub(super) fn end(&mut self, proven: &Proven) {
        let here = self.tree.size();
        if let Some(first) = proven.unknown_group(here) {
            self.fail(Fault::Group(first), Some(first));
        } else if let Some(size) = proven.header.checkpoints.get(proven.next).filter(|size| **size == here) {
            self.fail(Fault::CheckpointMissing(*size), None);
        } else if here < proven.size {
            self.fail(Fault::Ends(here), Some(here));
        } else if self.report.first > 0 && !self.removal_noted {
            self.fail(Fault::HeadMissing { last: self.report.first - 1 }, Some(0));
        }
    }
}

impl Proven {
    /// The first entry of the group being read, if its hashes are unknown.
    fn unknown_group(&self, here: u64) -> Option<u64> {
        matches!(self.group, Group::Unknown(_)).then_some(here - here % TILE)
    }
}

fn check_numbers(header: &Header, size: u64) -> Result<(), Fault> {
    let full = header.full.len() as u64;
    if full.checked_mul(TILE) != Some(size - size % TILE) || header.partial.len() as u64 != size % TILE {
        return Err(Fault::HeaderNumbers("it has other hashes than the checkpoint has entries"));
    }
    if !header.first.is_multiple_of(TILE) || header.first > size || (header.first == size && size > 0) {
        return Err(Fault::HeaderNumbers("the first entry is no multiple of 256 within the checkpoint"));
    }
    let ascending = header.checkpoints.iter().zip(header.checkpoints.iter().skip(1)).all(|(a, b)| a < b);
    let within = header.checkpoints.first().is_none_or(|least| *least > header.first);
    if !ascending || !within || header.checkpoints.last().copied().unwrap_or_default() != size {
        return Err(Fault::HeaderNumbers("the checkpoints do not ascend to the last one"));
    }
    Ok(())
}

/// Says what became of the entry in whose place these bytes stand.
fn why(bytes: &[u8], here: u64) -> Fault {
    match EntryView::read(bytes) {
        Err(_) => Fault::NotCanonical(here),
        Ok(entry) if entry.seq > here => Fault::Missing { missing: here, found: entry.seq },
        Ok(entry) if entry.seq < here => Fault::OutOfPlace { expected: here, found: entry.seq },
        Ok(_) => Fault::Changed(here),
    }
}

fn is_removal(entry: &EntryView<'_>, first: u64) -> bool {
    first > 0
        && entry.kind == Kind::Event
        && entry.event.as_deref() == Some(ENTRIES_REMOVED)
        && entry.fields.iter().any(|(name, value)| name == "before" && *value == first.to_string())
}
