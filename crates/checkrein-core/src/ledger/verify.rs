//! Verification of an export, line by line: the first entry that is not as it was signed, and why.
//!
//! The header's checkpoint signs the root; the root proves the hashes in the header; these prove the hashes before each
//! group of 256 entries; and those prove every entry by itself. So the first bad entry is named exactly, and memory
//! does not grow with the ledger beyond one hash for 256 entries.

use super::checkpoint::{Checkpoint, NoteError, VerifierKey};
use super::export::{Header, Line};
use super::tree::{Frontier, Hash};

/// The name of the event that says which entries were removed; its field `before` is the first that was kept.
pub const ENTRIES_REMOVED: &str = "entries_removed";

/// What is wrong with an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first line is no header.
    #[error("the first line is not the header of an export")]
    NoHeader,
    /// The header's checkpoint cannot be believed.
    #[error("the checkpoint in the header cannot be believed: {0}")]
    HeaderCheckpoint(NoteError),
    /// The header's hashes do not give the root that was signed.
    #[error("the hashes in the header do not give the root that was signed")]
    HeaderHashes,
    /// The header's numbers contradict each other.
    #[error("the header contradicts itself: {0}")]
    HeaderNumbers(&'static str),
    /// Entries were removed, and none that is left says so.
    #[error("entries 0 to {last} are missing, and no entry says that they were removed")]
    HeadMissing {
        /// The last that is missing.
        last: u64,
    },
    /// The entry is not the one that was signed.
    #[error("entry {0} was changed")]
    Changed(u64),
    /// The entry is not in its canonical form.
    #[error("entry {0} was changed: the line is not a canonical entry")]
    NotCanonical(u64),
    /// A later entry stands in its place.
    #[error("entry {missing} is missing: entry {found} stands in its place")]
    Missing {
        /// The entry that should stand here.
        missing: u64,
        /// The one that does.
        found: u64,
    },
    /// An earlier entry stands in its place.
    #[error("entry {found} stands in the place of entry {expected}")]
    OutOfPlace {
        /// The entry that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// It was signed with another position than its own.
    #[error("entry {0} was signed although it is not a canonical entry of its position")]
    SignedMalformed(u64),
    /// Another kind of line stands where an entry should.
    #[error("entry {0} is missing: another kind of line stands in its place")]
    NoEntry(u64),
    /// The export ends too early.
    #[error("the export ends before entry {0}")]
    Ends(u64),
    /// The last line is not complete.
    #[error("the last line has no line break")]
    Torn,
    /// The hashes before a group were changed, its entries were not.
    #[error("the hashes before entry {0} were changed; the entries after them are as they were signed")]
    Hashes(u64),
    /// The hashes before a group were changed, and so were entries of it.
    #[error("the hashes before entry {0} were changed, and entries after them as well")]
    Group(u64),
    /// A checkpoint cannot be believed.
    #[error("the checkpoint over {size} entries cannot be believed: {error}")]
    Checkpoint {
        /// The entries before it.
        size: u64,
        /// Why not.
        error: NoteError,
    },
    /// A checkpoint is of another tree.
    #[error("the checkpoint over {0} entries is of other entries than these")]
    CheckpointRoot(u64),
    /// A checkpoint is missing.
    #[error("the checkpoint over {0} entries is missing")]
    CheckpointMissing(u64),
    /// Something follows what the last checkpoint covers.
    #[error("entry {0} is not sealed: it stands after the last checkpoint")]
    Unsealed(u64),
    /// A line that has no place here follows the last checkpoint.
    #[error("a line follows the last checkpoint that has no place there")]
    Trailing,
    /// The ledger has fewer entries than an outside checkpoint saw.
    #[error("the ledger was rolled back: it has {size} entries, and the outside checkpoint saw {outside}")]
    RolledBack {
        /// What the export has.
        size: u64,
        /// What was seen.
        outside: u64,
    },
    /// The ledger is not a continuation of what an outside checkpoint saw.
    #[error(
        "the ledger was rewritten or forked: its first {0} entries are not those the outside checkpoint saw"
    )]
    Forked(u64),
    /// The outside checkpoint cannot be believed.
    #[error("the outside checkpoint cannot be believed: {0}")]
    Outside(NoteError),
    /// The outside checkpoint ends among entries that were removed.
    #[error(
        "growth since {0} entries cannot be checked: the entries around it were removed from this export"
    )]
    OutsideRemoved(u64),
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The entries in the export, good and bad.
    pub entries: u64,
    /// The first entry that is not proven; `None` if all are.
    pub first_bad: Option<u64>,
    /// What is wrong, if something is.
    pub fault: Option<Fault>,
    /// The first entry in the export, if the header could be read.
    pub first: u64,
    /// The checkpoint that the export ends with, if it can be believed.
    pub checkpoint: Option<Checkpoint>,
    /// The size of the outside checkpoint that the export was compared with.
    pub against: Option<u64>,
}

impl Report {
    /// Says whether every entry is as it was signed.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.fault.is_none()
    }

    /// What an export alone cannot show, in words; empty if an outside checkpoint covers all of it.
    #[must_use]
    pub fn unchecked(&self) -> Vec<String> {
        let Some(checkpoint) = self.checkpoint.as_ref().filter(|_| self.is_valid()) else {
            return Vec::new();
        };
        match self.against {
            None => vec![
                "whether entries after the last checkpoint were cut off, and whether the holder of the key \
                 rewrote the ledger: compare it with a checkpoint kept elsewhere (`--against`)"
                    .to_owned(),
            ],
            Some(outside) if outside < checkpoint.size => {
                vec![format!(
                    "whether entries after the last checkpoint were cut off: the outside checkpoint is {} entries \
                     older than the export",
                    checkpoint.size.saturating_sub(outside)
                )]
            }
            Some(_) => vec!["whether entries after the last checkpoint were cut off".to_owned()],
        }
    }
}

/// Takes an export line by line. A clone goes on from the same line.
#[derive(Clone, Debug)]
pub struct Verifier<'k> {
    key: &'k VerifierKey,
    outside: Option<Checkpoint>,
    state: State,
    tree: Frontier,
    report: Report,
    /// An entry says that exactly those before the first one were removed.
    removal_noted: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// The header comes next.
    Start,
    /// The header is proven.
    Proven(Box<Proven>),
    /// The header is not: what the checkpoints among the entries prove by themselves.
    Unproven { proven: u64, broken: bool },
    /// Something is wrong: only counting goes on.
    Over,
}

#[derive(Clone, Debug)]
struct Proven {
    header: Header,
    size: u64,
    /// Which checkpoint comes next.
    next: usize,
    group: Group,
}

/// What is known of the group of entries being read.
#[derive(Clone, Debug)]
enum Group {
    /// Its hashes come next.
    Expected,
    /// Its hashes, proven.
    Known(Vec<Hash>),
    /// Its hashes were changed or are missing; those of the entries that came instead.
    Unknown(Vec<Hash>),
}

impl<'k> Verifier<'k> {
    /// A verifier of exports that `key` signed. `against` is a checkpoint kept elsewhere.
    #[must_use]
    pub fn new(key: &'k VerifierKey, against: Option<&str>) -> Self {
        let report =
            Report { entries: 0, first_bad: None, fault: None, first: 0, checkpoint: None, against: None };
        let tree = Frontier::new();
        let mut verifier =
            Self { key, outside: None, state: State::Start, tree, report, removal_noted: false };
        match against.map(|note| key.open(note)) {
            Some(Ok(checkpoint)) => verifier.outside = Some(checkpoint),
            Some(Err(error)) => verifier.fail(Fault::Outside(error), None),
            None => {}
        }
        verifier
    }

    /// Takes a line without its line break.
    pub fn line(&mut self, bytes: &[u8]) {
        let line = Line::read(bytes);
        if matches!(line, Line::Entry(_)) {
            self.report.entries = self.report.entries.saturating_add(1);
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Start => self.start(line),
            State::Proven(proven) => self.proven(proven, line),
            State::Unproven { proven, broken } => self.unproven(proven, broken, &line),
            State::Over => {}
        }
    }

    /// Ends the export. `complete`: its last line ended with a line break.
    #[must_use]
    pub fn finish(mut self, complete: bool) -> Report {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Start => self.fail(Fault::NoHeader, None),
            State::Unproven { proven, .. } => {
                self.report.first_bad = (proven < self.report.entries).then_some(proven);
            }
            State::Proven(proven) => self.end(&proven),
            State::Over => {}
        }
        if !complete {
            self.fail(Fault::Torn, None);
        }
        self.report
    }

    fn fail(&mut self, fault: Fault, first_bad: Option<u64>) {
        if self.report.fault.is_none() {
            self.report.fault = Some(fault);
            self.report.first_bad = first_bad;
        }
        self.state = State::Over;
    }

    fn start(&mut self, line: Line<'_>) {
        let (fault, line) = match line {
            Line::Header(header) => match self.open(*header) {
                Ok(()) => return,
                Err(fault) => (fault, None),
            },
            Line::Malformed(_) => (Fault::NoHeader, None),
            line => (Fault::NoHeader, Some(line)),
        };
        // What is wrong is the header. Which entries are proven without it, their own checkpoints say.
        self.report.fault = Some(fault);
        self.tree = Frontier::new();
        self.state = State::Unproven { proven: 0, broken: false };
        if let Some(line) = line {
            self.state = State::Over;
            self.unproven(0, false, &line);
        }
    }
}

mod steps;
#[cfg(test)]
mod tests;
