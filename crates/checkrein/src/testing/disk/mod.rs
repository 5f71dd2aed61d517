//! A disk that can be broken at will: `Tables` for several processes, crashes of each and of the machine, from one seed.
//!
//! A commit goes through a log into what every process reads, and a sync makes the log last. A killed process loses
//! its open transaction and nothing else. When the machine goes down, what was synced stays; of the rest a beginning
//! survives, as in a write-ahead log with checksums, or, on a disk that keeps no such promise, any rows in any state.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Random;
use crate::store::durable::{Row, Rows, Table};

mod handle;
#[cfg(test)]
mod tests;

pub use handle::{Access, Fault, Handle};

/// No key is longer: what sorts after every key of a table is this many bytes of ones.
const LONGEST_KEY: usize = 8_192;

type Place = (Table, Vec<u8>);
type Image = BTreeMap<Place, Vec<u8>>;
/// The rows a transaction writes; `None` removes one.
type Changes = BTreeMap<Place, Option<Vec<u8>>>;

/// What the machine's going down leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Survives {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Everything,
    /// The first few commits, each whole: what a log with checksums gives.
    Beginning,
    /// Each row by itself, kept, lost or torn: what nobody should build on.
    Anything,
}

#[derive(Debug)]
struct State {
    /// What a power cut leaves.
    platter: Image,
    /// What processes read.
    cache: Image,
    /// Commits that are in `cache` and not on `platter`.
    unsynced: Vec<Changes>,
    limbo: Option<Changes>,
    /// Commits so far.
    version: u64,
    /// Counts the times the machine went down: handles of earlier ones are dead.
    boot: u64,
    writer: Option<u64>,
    handles: u64,
    alive: u64,
    full: bool,
    read_only: bool,
    random: Random,
    trace: u64,
}

impl State {
    fn note(&mut self, what: &str, bytes: &[&[u8]]) {
        for part in std::iter::once(what.as_bytes()).chain(bytes.iter().copied()) {
            // FNV-1a, with the length between the parts.
            let length = (part.len() as u64).to_le_bytes();
            for byte in length.iter().chain(part) {
                self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }

    fn sync(&mut self) {
        for changes in std::mem::take(&mut self.unsynced) {
            apply(&mut self.platter, changes);
        }
    }

    fn commit(&mut self, changes: Changes) {
        self.limbo = None;
        apply(&mut self.cache, changes.clone());
        self.unsynced.push(changes);
        self.version += 1;
    }

    /// A recovery of the log finds a whole commit that nobody was told of, or does not.
    fn recover_limbo(&mut self) {
        if let Some(changes) = self.limbo.take()
            && self.random.once_in(2)
        {
            self.commit(changes);
        }
    }

    fn tear(&mut self) {
        let mut rows: Vec<(Place, Option<Vec<u8>>)> =
            std::mem::take(&mut self.unsynced).into_iter().flatten().collect();
        while !rows.is_empty() {
            let (place, row) = rows.swap_remove(self.random.below(rows.len() as u64) as usize);
            match (self.random.below(3), row) {
                (0, _) => {}
                (1, Some(mut row)) => {
                    row.truncate(self.random.below(row.len() as u64) as usize);
                    self.platter.insert(place, row);
                }
                (_, Some(row)) => drop(self.platter.insert(place, row)),
                (_, None) => drop(self.platter.remove(&place)),
            }
        }
    }
}

fn apply(image: &mut Image, changes: Changes) {
    for (place, row) in changes {
        match row {
            Some(row) => drop(image.insert(place, row)),
            None => drop(image.remove(&place)),
        }
    }
}

fn rows_of(image: &Image, table: Table) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
    let rows = image.range((table, Vec::new())..);
    rows.take_while(move |((of, _), _)| *of == table).map(|((_, key), row)| (key, row))
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

impl Disk {
    /// An empty disk whose accidents follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self::with(Image::new(), Random::new(seed))
    }

    fn with(image: Image, random: Random) -> Self {
        let state = State {
            platter: image.clone(),
            cache: image,
            unsynced: Vec::new(),
            limbo: None,
            version: 0,
            boot: 0,
            writer: None,
            handles: 0,
            alive: 0,
            full: false,
            read_only: false,
            random,
            trace: 0xcbf2_9ce4_8422_2325,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), released: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// A new process's view of the disk. The first of several recovers the log.
    pub fn handle(&self) -> Handle {
        let mut state = self.state();
        if state.alive == 0 {
            state.recover_limbo();
        }
        state.handles += 1;
        state.alive += 1;
        Handle::new(self.clone(), state.handles, state.boot)
    }

    /// The machine goes down and comes up: every process is dead, and what was not synced is gone in part.
    pub fn power_cut(&self, survives: Survives) {
        let mut state = self.state();
        state.note("power cut", &[&[survives as u8]]);
        // A recovery takes a commit whole or not at all: checksums of the log see to that, where there is one.
        if matches!(survives, Survives::Everything | Survives::Beginning) {
            state.recover_limbo();
        }
        state.limbo = None;
        match survives {
            Survives::Nothing => state.unsynced.clear(),
            Survives::Everything => {}
            Survives::Beginning => {
                let commits = state.unsynced.len() as u64;
                let kept = state.random.below(commits + 1) as usize;
                state.unsynced.truncate(kept);
            }
            Survives::Anything => state.tear(),
        }
        state.sync();
        state.cache = state.platter.clone();
        state.version += 1;
        state.boot += 1;
        state.writer = None;
        state.alive = 0;
        self.0.released.notify_all();
    }

    /// A disk of its own with what a power cut right now would certainly leave.
    pub fn durable_copy(&self) -> Self {
        let state = self.state();
        Self::with(state.platter.clone(), state.random.clone())
    }

    /// A disk of its own with what processes read right now.
    pub fn copy(&self) -> Self {
        self.copy_of(&Table::ALL)
    }

    /// The same with some of the tables, and the others empty.
    pub fn copy_of(&self, tables: &[Table]) -> Self {
        let state = self.state();
        let rows = tables.iter().flat_map(|table| {
            rows_of(&state.cache, *table).map(|(key, row)| ((*table, key.clone()), row.clone()))
        });
        Self::with(rows.collect(), state.random.clone())
    }

    /// Whether writes fail because there is no room.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Whether transactions cannot begin because nothing may be written.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// The committed rows of a table, in order.
    pub fn rows(&self, table: Table) -> Rows {
        let state = self.state();
        rows_of(&state.cache, table).map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    /// The committed rows of a table from a key on, in order.
    pub fn rows_from(&self, table: Table, key: &[u8]) -> Rows {
        let state = self.state();
        let rows = state.cache.range((table, key.to_vec())..).take_while(|((of, _), _)| *of == table);
        rows.map(|((_, key), row)| (key.clone(), row.clone())).collect()
    }

    /// The last committed row of a table.
    pub fn last_row(&self, table: Table) -> Option<Row> {
        let state = self.state();
        let last = state.cache.range(..=(table, vec![0xff; LONGEST_KEY])).next_back();
        last.filter(|((of, _), _)| *of == table).map(|((_, key), row)| (key.clone(), row.clone()))
    }

    /// A row as a power cut right now would leave it.
    pub fn durable_row(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        self.state().platter.get(&(table, key.to_vec())).cloned()
    }

    /// Commits so far.
    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// Commits that a power cut may take away.
    pub fn unsynced(&self) -> usize {
        self.state().unsynced.len()
    }

    /// Changes a committed row, on the platter too, as decay or an editor of the file would; `None` removes it.
    pub fn tamper(&self, table: Table, key: &[u8], change: impl FnOnce(Option<Vec<u8>>) -> Option<Vec<u8>>) {
        let mut state = self.state();
        state.sync();
        let place = (table, key.to_vec());
        let row = change(state.cache.get(&place).cloned());
        let changes = Changes::from([(place, row)]);
        apply(&mut state.cache, changes.clone());
        apply(&mut state.platter, changes);
        state.version += 1;
    }

    /// A number that stands for everything that was asked of the disk so far, in order.
    pub fn trace(&self) -> u64 {
        self.state().trace
    }
}
