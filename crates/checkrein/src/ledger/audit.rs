//! The whole ledger of a store checked in its file: entries, tiles and checkpoints against each other.

use std::collections::BTreeSet;

use checkrein_core::ledger::checkpoint::{Checkpoint, Note, VerifierKey};
use checkrein_core::ledger::entry::{EntryView, Kind};
use checkrein_core::ledger::proof::TileSource as _;
use checkrein_core::ledger::tree::{Frontier, Growth, Hash, TILE, Tile, leaf_hash};
use checkrein_core::ledger::verify::ENTRIES_REMOVED;

use super::sealer::MOST_AT_ONCE;
use super::{Database, LedgerError};

/// So many findings are told one by one.
const MOST_TOLD: usize = 20;

/// What a look at a whole ledger found. Nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// The first entry that is kept.
    pub first: u64,
    /// Entries read.
    pub entries: u64,
    /// Entries that the newest checkpoint covers, those that were removed included.
    pub sealed: u64,
    /// Checkpoints read.
    pub checkpoints: u64,
    /// Whether their signatures were checked: that needs the public key.
    pub signatures: bool,
    /// What is wrong, each with its place; the last one counts what is not told.
    pub findings: Vec<String>,
}

/// Checks every entry, tile and checkpoint in a store's file, and the signatures where there is a key.
///
/// # Errors
/// The file cannot be read.
pub fn audit(database: &Database, key: Option<&VerifierKey>) -> Result<Audit, LedgerError> {
    // One view of the file: others may be writing.
    let _view = database.view()?;
    let mut auditor = Auditor { database, key, report: Audit::default(), untold: 0, next_checkpoint: None };
    auditor.report.signatures = key.is_some();
    auditor.run()?;
    let Auditor { mut report, untold, .. } = auditor;
    if untold > 0 {
        report.findings.push(format!("and {untold} more"));
    }
    Ok(report)
}

struct Auditor<'a> {
    database: &'a Database,
    key: Option<&'a VerifierKey>,
    report: Audit,
    untold: u64,
    /// The checkpoint that is due next.
    next_checkpoint: Option<(u64, String)>,
}

impl Auditor<'_> {
    fn found(&mut self, what: String) {
        if self.report.findings.len() < MOST_TOLD {
            self.report.findings.push(what);
        } else {
            self.untold += 1;
        }
    }

    fn run(&mut self) -> Result<(), LedgerError> {
        match self.database.newest_sealed() {
            Ok(_) => {}
            Err(LedgerError::Damaged(what)) => self.found(what),
            Err(error) => return Err(error),
        }
        let sealed = self.database.newest_checkpoint()?.map_or(0, |(size, _)| size);
        let size = self.database.size()?;
        self.report.sealed = sealed;
        self.report.first = self.database.first()?;
        if size < sealed {
            self.found(format!("the ledger ends with {size} entries and {sealed} were sealed"));
        }
        if !self.report.first.is_multiple_of(TILE) {
            self.found(format!(
                "the first entry is {}, and no group of 256 begins with it",
                self.report.first
            ));
        }
        self.next_checkpoint = self.database.checkpoint_from(0)?;
        let mut tree = Tree { frontier: Frontier::new(), growth: Growth::default(), whole: true };
        let mut told = BTreeSet::new();
        let end = size.max(sealed);
        let mut from = 0;
        while from < end {
            let to = end.min(from + TILE);
            self.group(from, to, sealed, &mut tree, &mut told)?;
            from = to;
        }
        while let Some((size, _)) = self.next_checkpoint.take() {
            // The loop above ends beyond the newest one; this one is over nothing.
            self.found(format!("there is a checkpoint over {size} entries"));
        }
        let first = self.report.first;
        if first > 0 && !told.contains(&first) {
            self.found(format!(
                "the entries before {first} are missing, and no entry says that they were removed"
            ));
        }
        Ok(())
    }

    /// Checks the entries of one tile.
    fn group(
        &mut self,
        from: u64,
        to: u64,
        sealed: u64,
        tree: &mut Tree,
        told: &mut BTreeSet<u64>,
    ) -> Result<(), LedgerError> {
        let mut database = self.database;
        let hashes = database.tile(0, from / TILE).unwrap_or_default();
        let mut entries = database.entries(from, to - from)?.into_iter().peekable();
        for (place, seq) in (from..to).enumerate() {
            let kept = hashes.get(place).copied();
            let body = entries.next_if(|(found, _)| *found == seq).map(|(_, body)| body);
            let own = body.as_deref().map(leaf_hash);
            match body {
                Some(body) => self.entry(seq, &body, told),
                None if seq >= self.report.first => self.found(format!("entry {seq} is missing")),
                None => {}
            }
            if seq >= sealed {
                continue;
            }
            match (own, kept) {
                (Some(own), Some(kept)) if own != kept => {
                    self.found(format!("entry {seq} is not the one that was sealed"));
                }
                (_, None) => self.found(format!("the hash of entry {seq} is missing")),
                _ => {}
            }
            // The tree goes on with what was sealed: one changed entry is one finding.
            match kept.or(own) {
                Some(hash) => tree.push(hash),
                None => tree.whole = false,
            }
            self.checkpoint(seq + 1, tree)?;
        }
        self.tiles(tree, to >= sealed)
    }

    fn entry(&mut self, seq: u64, body: &[u8], told: &mut BTreeSet<u64>) {
        self.report.entries += 1;
        match EntryView::read(body) {
            Ok(entry) if entry.seq != seq => {
                self.found(format!("entry {} stands in the place of entry {seq}", entry.seq));
            }
            Ok(entry) => {
                if entry.kind == Kind::Event && entry.event.as_deref() == Some(ENTRIES_REMOVED) {
                    let before = entry.fields.iter().find(|(name, _)| name == "before");
                    told.extend(before.and_then(|(_, value)| value.parse::<u64>().ok()));
                }
            }
            Err(error) => self.found(format!("entry {seq} is {error}")),
        }
    }

    /// Checks the checkpoint over `size` entries, if there is one.
    fn checkpoint(&mut self, size: u64, tree: &Tree) -> Result<(), LedgerError> {
        let Some((_, note)) = self.next_checkpoint.take_if(|(at, _)| *at <= size) else { return Ok(()) };
        self.report.checkpoints += 1;
        self.next_checkpoint = self.database.checkpoint_from(size.saturating_add(1))?;
        if let Some((next, _)) = &self.next_checkpoint
            && next.saturating_sub(size) > MOST_AT_ONCE
        {
            let what = format!("a checkpoint between those over {size} and {next} entries is missing");
            self.found(what);
        }
        let read = match self.key {
            Some(key) => key.open(&note),
            None => Note::parse(&note).and_then(|note| Checkpoint::parse(note.text)),
        };
        match read {
            Err(error) => self.found(format!("the checkpoint over {size} entries: {error}")),
            Ok(read) if read.size != size => {
                self.found(format!("the checkpoint under {size} is over {}", read.size));
            }
            Ok(read) if tree.whole && read.root != tree.frontier.root() => {
                self.found(format!("the tree does not give the root of the checkpoint over {size} entries"));
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Checks the tiles that are full since the last time, and at the end those that are not.
    fn tiles(&mut self, tree: &mut Tree, last: bool) -> Result<(), LedgerError> {
        let mut database = self.database;
        for Tile { level, index, hashes } in tree.growth.take_tiles() {
            // Those of level 0 are what the tree is made of.
            if level == 0 || !tree.whole || (hashes.len() < TILE as usize && !last) {
                continue;
            }
            if database.tile(level, index).unwrap_or_default() != hashes {
                self.found(format!("tile {index} of level {level} is not that of the hashes below it"));
            }
        }
        Ok(())
    }
}

/// The tree as far as it has been read.
struct Tree {
    /// For roots.
    frontier: Frontier,
    /// For tiles.
    growth: Growth,
    /// Whether every hash was there.
    whole: bool,
}

impl Tree {
    fn push(&mut self, hash: Hash) {
        self.frontier.push(hash);
        self.growth.push(hash);
    }
}
