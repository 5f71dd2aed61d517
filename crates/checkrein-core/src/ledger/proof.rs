//! Proofs of RFC 9162: that an entry is in a tree, and that a tree only grew; made from tiles, checked without them.

use std::collections::BTreeMap;

use super::checkpoint::{decode_hash, encode};
use super::tree::{Hash, TILE, leaf_hash, node_hash, root_of};

/// Where the tiles of a tree are.
pub trait TileSource {
    /// Why a tile cannot be had.
    type Error;

    /// The hashes of a tile; fewer than 256 at the edge, none if there is no such tile.
    ///
    /// # Errors
    /// The tile cannot be read.
    fn tile(&mut self, level: u8, index: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// Why there is no proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError<E> {
    /// The tiles cannot be read.
    #[error(transparent)]
    Source(#[from] E),
    /// A hash that the tree must have is missing.
    #[error("the tree lacks tile {index} of level {level}")]
    Missing {
        /// The level of its tile.
        level: u8,
        /// The index of its tile.
        index: u64,
    },
    /// The entry or the older tree lies beyond the tree.
    #[error("a tree of {size} entries has no {asked}")]
    OutOfRange {
        /// What was asked for.
        asked: u64,
        /// The entries of the tree.
        size: u64,
    },
}

/// The path of entry `index` to the root of the first `size` entries, from the leaf upwards.
///
/// # Errors
/// There is no such entry, or hashes are missing.
pub fn inclusion<S: TileSource>(tiles: S, index: u64, size: u64) -> Result<Vec<Hash>, ProofError<S::Error>> {
    if index >= size {
        return Err(ProofError::OutOfRange { asked: index, size });
    }
    let mut tree = Tree::new(tiles);
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = split(from, to);
        if index < middle {
            path.push(tree.root(middle, to)?);
            to = middle;
        } else {
            path.push(tree.root(from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show that the first `old` entries of a tree of `size` are those of the older tree.
///
/// # Errors
/// The older tree is larger, or hashes are missing.
pub fn consistency<S: TileSource>(tiles: S, old: u64, size: u64) -> Result<Vec<Hash>, ProofError<S::Error>> {
    if old > size {
        return Err(ProofError::OutOfRange { asked: old, size });
    }
    let mut path = Vec::new();
    if old == 0 || old == size {
        return Ok(path);
    }
    let mut tree = Tree::new(tiles);
    let (mut from, mut to, mut known) = (0, size, true);
    while old < to {
        let middle = split(from, to);
        if old <= middle {
            path.push(tree.root(middle, to)?);
            to = middle;
        } else {
            path.push(tree.root(from, middle)?);
            from = middle;
            known = false;
        }
    }
    if !known {
        path.push(tree.root(from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// The root of the first `size` entries.
///
/// # Errors
/// Hashes are missing.
pub fn root<S: TileSource>(tiles: S, size: u64) -> Result<Hash, ProofError<S::Error>> {
    if size == 0 { Ok(super::tree::empty_root()) } else { Tree::new(tiles).root(0, size) }
}

/// The largest power of two below the length, from `from` on.
const fn split(from: u64, to: u64) -> u64 {
    let length = to - from;
    from + (1 << (63 - (length - 1).leading_zeros()))
}

/// The tiles, each read once.
struct Tree<S> {
    tiles: S,
    read: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<S: TileSource> Tree<S> {
    const fn new(tiles: S) -> Self {
        Self { tiles, read: BTreeMap::new() }
    }

    /// The root over the entries `from..to`, where `from` is a multiple of the power of two that holds the length.
    fn root(&mut self, from: u64, to: u64) -> Result<Hash, ProofError<S::Error>> {
        // From left to right perfect trees of falling size; joined from the right.
        let mut perfect = Vec::new();
        let mut place = from;
        while place < to {
            let bits = 63 - (to - place).leading_zeros();
            perfect.push(self.perfect(place, bits)?);
            place += 1 << bits;
        }
        let mut hashes = perfect.into_iter().rev();
        let last = hashes.next().ok_or(ProofError::OutOfRange { asked: from, size: to })?;
        Ok(hashes.fold(last, |right, left| node_hash(&left, &right)))
    }

    /// The root over the 2^`bits` entries from `from` on.
    fn perfect(&mut self, from: u64, bits: u32) -> Result<Hash, ProofError<S::Error>> {
        let level = u8::try_from(bits / 8).unwrap_or(u8::MAX);
        let place = from >> (8 * u32::from(level));
        let (index, offset) = (place / TILE, (place % TILE) as usize);
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.read.entry((level, index)) {
            vacant.insert(self.tiles.tile(level, index)?);
        }
        let count = 1_usize << (bits % 8);
        self.read
            .get(&(level, index))
            .and_then(|tile| tile.get(offset..offset.saturating_add(count)))
            .and_then(root_of)
            .ok_or(ProofError::Missing { level, index })
    }
}

/// Says whether `path` leads from the hash of entry `index` to the root of a tree of `size` entries.
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // At the right edge a node without a sibling moves up as it is.
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Says whether `path` shows that a tree of `size` entries with `root` begins with the `old` entries of `old_root`.
#[must_use]
pub fn verify_consistency(old: u64, old_root: &Hash, size: u64, root: &Hash, path: &[Hash]) -> bool {
    if old == 0 || old >= size {
        let same = old == size && old_root == root || old == 0 && *old_root == super::tree::empty_root();
        return path.is_empty() && same;
    }
    // An older tree that is perfect is a node of the newer one: its root is where the path begins.
    let mut path = old.is_power_of_two().then_some(old_root).into_iter().chain(path);
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let Some(first) = path.next() else { return false };
    let (mut older, mut newer) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            older = node_hash(sibling, &older);
            newer = node_hash(sibling, &newer);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            newer = node_hash(&newer, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && older == *old_root && newer == *root
}

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// The longest path a tree of 2^63 entries has.
const LONGEST_PATH: usize = 63;

/// A proof that an entry is in a ledger, as a text of its own: `c2sp.org/tlog-proof@v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// The entry.
    pub index: u64,
    /// Its path.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

/// A proof that a ledger only grew since an older checkpoint, in the form that witnesses are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The entries of the older tree.
    pub old: u64,
    /// The hashes.
    pub path: Vec<Hash>,
    /// The signed newer checkpoint.
    pub checkpoint: String,
}

/// Text that is not a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the proof is not {expected}")]
pub struct MalformedProof {
    /// The line, counted from one.
    pub line: usize,
    /// What should stand there.
    pub expected: &'static str,
}

impl InclusionProof {
    /// The proof as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_text(&format!("{HEADER}\nindex {}\n", self.index), &self.path, &self.checkpoint)
    }

    /// Reads a proof.
    ///
    /// # Errors
    /// If the text is not the form that [`to_text`](Self::to_text) gives.
    pub fn parse(text: &str) -> Result<Self, MalformedProof> {
        let rest = text
            .strip_prefix(HEADER)
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or(MalformedProof { line: 1, expected: HEADER })?;
        let (index, path, checkpoint) = parse(rest, "index ", 2)?;
        Ok(Self { index, path, checkpoint })
    }

    /// Says whether `entry` is the entry of this proof, under the root of its checkpoint, whose signature the caller
    /// has checked.
    #[must_use]
    pub fn proves(&self, entry: &[u8], size: u64, root: &Hash) -> bool {
        verify_inclusion(&leaf_hash(entry), self.index, size, &self.path, root)
    }
}

impl ConsistencyProof {
    /// The proof as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_text(&format!("old {}\n", self.old), &self.path, &self.checkpoint)
    }

    /// Reads a proof.
    ///
    /// # Errors
    /// If the text is not the form that [`to_text`](Self::to_text) gives.
    pub fn parse(text: &str) -> Result<Self, MalformedProof> {
        let (old, path, checkpoint) = parse(text, "old ", 1)?;
        Ok(Self { old, path, checkpoint })
    }
}

fn to_text(head: &str, path: &[Hash], checkpoint: &str) -> String {
    let mut text = head.to_owned();
    for hash in path {
        text.push_str(&encode(hash));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint);
    text
}

fn parse(text: &str, name: &'static str, line: usize) -> Result<(u64, Vec<Hash>, String), MalformedProof> {
    let (head, checkpoint) =
        text.split_once("\n\n").ok_or(MalformedProof { line, expected: "followed by a checkpoint" })?;
    let mut lines = head.split('\n');
    let number = lines
        .next()
        .and_then(|first| super::checkpoint::decimal(first.strip_prefix(name)?))
        .ok_or(MalformedProof { line, expected: "a position" })?;
    let mut path = Vec::new();
    for (place, hash) in lines.enumerate() {
        let line = line.saturating_add(place).saturating_add(1);
        if path.len() >= LONGEST_PATH {
            return Err(MalformedProof { line, expected: "within a path of 63 hashes" });
        }
        path.push(decode_hash(hash).ok_or(MalformedProof { line, expected: "a hash in base64" })?);
    }
    Ok((number, path, checkpoint.to_owned()))
}

#[cfg(test)]
mod tests;
