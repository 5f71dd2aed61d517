//! The Merkle tree of RFC 6962 and RFC 9162: its hashes, its growth at the right edge, the tiles it is kept in.
//!
//! A tile holds up to 256 hashes that stand side by side. Those of level 0 are leaves; each hash of level L + 1 covers
//! one full tile of level L. A ledger of a million entries has 3,922 tiles, and any hash of the tree is one tile away.

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// A hash of the tree: SHA-256.
pub type Hash = [u8; 32];

/// Hashes in a full tile.
pub const TILE: u64 = 256;

/// Levels of tiles: 256^8 is more than any ledger has entries.
const LEVELS: u8 = 8;

/// The hash of an entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(entry);
    hash.finalize().into()
}

/// The hash over two neighbours.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    let (_, both) = bytes.split_at_mut(1);
    let (first, second) = both.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    Sha256::digest(bytes).into()
}

/// The root of the tree without entries.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The root over any number of neighbours that begin at a multiple of 256; `None` if there are none.
#[must_use]
pub fn root_of(hashes: &[Hash]) -> Option<Hash> {
    let mut frontier = Frontier::new();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    (!hashes.is_empty()).then(|| frontier.root())
}

/// The right edge of a tree: the roots of the perfect trees it consists of, largest first. Enough to append to it and
/// to know its root, whatever became of the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: SmallVec<[Hash; 24]>,
}

impl Frontier {
    /// The tree without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of entries.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends the hash of an entry.
    pub fn push(&mut self, leaf: Hash) {
        self.merge(leaf, self.size.trailing_ones());
        self.size = self.size.saturating_add(1);
    }

    /// Appends the root of 256 entries; the size must be a multiple of 256.
    #[must_use = "nothing is appended elsewhere"]
    pub fn push_tile(&mut self, root: Hash) -> bool {
        let fits = self.size.is_multiple_of(TILE);
        if fits {
            self.merge(root, (self.size / TILE).trailing_ones());
            self.size = self.size.saturating_add(TILE);
        }
        fits
    }

    fn merge(&mut self, mut hash: Hash, times: u32) {
        for _ in 0..times {
            if let Some(left) = self.nodes.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.nodes.push(hash);
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// A tile to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Its level: 0 for entries.
    pub level: u8,
    /// Its place among the tiles of its level.
    pub index: u64,
    /// At most 256 hashes.
    pub hashes: Vec<Hash>,
}

/// A tree that grows: the tiles at its right edge, and those that changed.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    size: u64,
    edge: SmallVec<[Vec<Hash>; 3]>,
    changed: Vec<Tile>,
}

impl Growth {
    /// Goes on with a tree of `size` entries whose tiles `read` finds by level and index.
    ///
    /// # Errors
    /// Those of `read`, and `None` in their place when a tile has too few hashes.
    pub fn resume<E>(
        size: u64,
        mut read: impl FnMut(u8, u64) -> Result<Vec<Hash>, E>,
    ) -> Result<Option<Self>, E> {
        let mut edge = SmallVec::new();
        for level in 0..LEVELS {
            let hashes = size >> (8 * u32::from(level));
            if hashes == 0 {
                break;
            }
            let count = (hashes % TILE) as usize;
            let mut tile = if count == 0 { Vec::new() } else { read(level, hashes / TILE)? };
            if tile.len() < count {
                return Ok(None);
            }
            tile.truncate(count);
            edge.push(tile);
        }
        Ok(Some(Self { size, edge, changed: Vec::new() }))
    }

    /// The number of entries.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends the hash of an entry.
    pub fn push(&mut self, leaf: Hash) {
        self.size = self.size.saturating_add(1);
        let mut hash = leaf;
        for level in 0..LEVELS {
            let place = usize::from(level);
            if self.edge.len() == place {
                self.edge.push(Vec::new());
            }
            let Some(tile) = self.edge.get_mut(place) else { return };
            tile.push(hash);
            if tile.len() < TILE as usize {
                return;
            }
            let hashes = std::mem::take(tile);
            let Some(root) = root_of(&hashes) else { return };
            let index = (self.size >> (8 * u32::from(level))) / TILE;
            self.changed.push(Tile { level, index: index.saturating_sub(1), hashes });
            hash = root;
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        // The perfect trees of the edge from small to large: each level's hashes stand left of all below it.
        let mut right: Option<Hash> = None;
        for tile in &self.edge {
            let mut frontier = Frontier::new();
            tile.iter().for_each(|hash| frontier.push(*hash));
            for left in frontier.nodes.iter().rev() {
                right = Some(right.map_or(*left, |right| node_hash(left, &right)));
            }
        }
        right.unwrap_or_else(empty_root)
    }

    /// Takes the tiles that are full since the last time and those at the edge that are not.
    #[must_use]
    pub fn take_tiles(&mut self) -> Vec<Tile> {
        let mut tiles = std::mem::take(&mut self.changed);
        for (level, hashes) in (0_u8..).zip(&self.edge) {
            if !hashes.is_empty() {
                let index = (self.size >> (8 * u32::from(level))) / TILE;
                tiles.push(Tile { level, index, hashes: hashes.clone() });
            }
        }
        tiles
    }
}

/// Writes bytes as a quoted text of lower-case hexadecimal digits.
pub(crate) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| HEX.get(usize::from(half)).copied().unwrap_or(b'0');
    out.push(b'"');
    for byte in bytes {
        out.extend([digit(byte >> 4), digit(byte & 0xF)]);
    }
    out.push(b'"');
}

/// Reads 64 lower-case hexadecimal digits.
#[must_use]
pub fn read_hex(text: &[u8]) -> Option<Hash> {
    let text: &[u8; 64] = text.try_into().ok()?;
    let value = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte & 0xF),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    let mut bytes = [0; 32];
    let (pairs, _) = text.as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

/// Writes bytes as lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hashes that stand one after the other; `None` if bytes are left over.
#[must_use]
pub fn hashes_of(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

#[cfg(test)]
mod tests;
