//! The lines of an export: what stands between the entries so that a stranger can check them.

use super::checkpoint::{decode, encode};
use super::entry::{LARGEST_INTEGER, is_canonical};
use super::proof::{ProofError, TileSource};
use super::tree::{Hash, TILE, hashes_of};
use crate::canonical_json::{write_string, write_uint};
use crate::json::{self, Limits, Value};

/// The version of the form.
const VERSION: i64 = 1;

/// The first line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first entry that is in the export: a multiple of 256. Those before it were removed.
    pub first: u64,
    /// The signed checkpoint that the export ends with.
    pub checkpoint: String,
    /// The sizes of the checkpoints among the entries, ascending; the last is that of `checkpoint`.
    pub checkpoints: Vec<u64>,
    /// The roots of all full groups of 256 entries, removed ones included.
    pub full: Vec<Hash>,
    /// The hashes of the entries after the last full group.
    pub partial: Vec<Hash>,
}

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The first line.
    Header(Box<Header>),
    /// The hashes of a group of 256 entries that follow.
    Hashes(Vec<Hash>),
    /// A signed checkpoint over all entries before it.
    Checkpoint(String),
    /// An entry, or what stands where one should.
    Entry(&'a [u8]),
    /// It begins like one of the first three and is not one.
    Malformed(Malformed),
}

/// What a malformed line begins like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A header.
    Header,
    /// The hashes of a group.
    Hashes,
    /// A checkpoint.
    Checkpoint,
}

impl Header {
    /// The header of an export of the entries from `first` on, up to those of `checkpoint`, whose `size` is given.
    ///
    /// # Errors
    /// Hashes are missing.
    pub fn collect<S: TileSource>(
        mut tiles: S,
        checkpoint: String,
        size: u64,
        first: u64,
        checkpoints: Vec<u64>,
    ) -> Result<Self, ProofError<S::Error>> {
        let groups = size / TILE;
        let mut full = Vec::new();
        for index in 0..groups.div_ceil(TILE) {
            let count = (groups - index * TILE).min(TILE) as usize;
            full.extend(whole(tiles.tile(1, index)?, count).ok_or(ProofError::Missing { level: 1, index })?);
        }
        let rest = (size % TILE) as usize;
        let partial = match rest {
            0 => Vec::new(),
            _ => {
                whole(tiles.tile(0, groups)?, rest).ok_or(ProofError::Missing { level: 0, index: groups })?
            }
        };
        Ok(Self { first, checkpoint, checkpoints, full, partial })
    }

    /// The line, without its line break.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = br#"{"export":{"checkpoint":"#.to_vec();
        write_string(&self.checkpoint, &mut line);
        line.extend_from_slice(br#","checkpoints":["#);
        for (place, size) in self.checkpoints.iter().enumerate() {
            if place > 0 {
                line.push(b',');
            }
            write_uint(*size, &mut line);
        }
        line.extend_from_slice(br#"],"first":"#);
        write_uint(self.first, &mut line);
        line.extend_from_slice(br#","full":"#);
        write_string(&encode(self.full.as_flattened()), &mut line);
        line.extend_from_slice(br#","partial":"#);
        write_string(&encode(self.partial.as_flattened()), &mut line);
        line.extend_from_slice(br#","version":1}}"#);
        line
    }

    fn read(value: &Value) -> Option<Self> {
        let export = value.get("export").filter(|_| has_members(value, 1))?;
        let version = matches!(export.get("version"), Some(Value::Int(VERSION)));
        if !version || !has_members(export, 6) {
            return None;
        }
        let hashes = |name: &str| hashes_of(&decode(export.get(name)?.as_str()?)?);
        Some(Self {
            first: integer(export.get("first")?)?,
            checkpoint: export.get("checkpoint")?.as_str()?.to_owned(),
            checkpoints: export.get("checkpoints")?.as_array()?.iter().map(integer).collect::<Option<_>>()?,
            full: hashes("full")?,
            partial: hashes("partial")?,
        })
    }
}

/// The first `count` hashes of a tile, if it has as many.
fn whole(mut tile: Vec<Hash>, count: usize) -> Option<Vec<Hash>> {
    let enough = tile.len() >= count;
    tile.truncate(count);
    enough.then_some(tile)
}

/// The line with the hashes of a group, without its line break.
#[must_use]
pub fn hashes_line(hashes: &[Hash]) -> Vec<u8> {
    let mut line = br#"{"hashes":"#.to_vec();
    write_string(&encode(hashes.as_flattened()), &mut line);
    line.push(b'}');
    line
}

/// The line with a checkpoint, without its line break.
#[must_use]
pub fn checkpoint_line(note: &str) -> Vec<u8> {
    let mut line = br#"{"checkpoint":"#.to_vec();
    write_string(note, &mut line);
    line.push(b'}');
    line
}

impl<'a> Line<'a> {
    /// Reads a line without its line break. Whatever does not begin like a line of the export is taken for an entry.
    #[must_use]
    pub fn read(line: &'a [u8]) -> Self {
        let begins = |begin: &[u8]| line.starts_with(begin);
        if begins(br#"{"export":"#) {
            let header = value_of(line).and_then(|value| Header::read(&value));
            return header
                .map_or(Self::Malformed(Malformed::Header), |header| Self::Header(Box::new(header)));
        }
        if begins(br#"{"hashes":"#) {
            let hashes = value_of(line).and_then(|value| hashes_of(&decode(only_text(&value, "hashes")?)?));
            return hashes.map_or(Self::Malformed(Malformed::Hashes), Self::Hashes);
        }
        if begins(br#"{"checkpoint":"#) {
            let note = value_of(line).and_then(|value| only_text(&value, "checkpoint").map(str::to_owned));
            return note.map_or(Self::Malformed(Malformed::Checkpoint), Self::Checkpoint);
        }
        Self::Entry(line)
    }
}

/// The value of a line of the export's own, if it is in canonical form.
fn value_of(line: &[u8]) -> Option<Value> {
    let limits = Limits { bytes: usize::MAX, nodes: usize::MAX, ..Limits::default() };
    if is_canonical(line) { json::read(line, &limits).ok() } else { None }
}

/// The text of an object's only member.
fn only_text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).filter(|_| has_members(value, 1)).and_then(Value::as_str)
}

fn has_members(value: &Value, count: usize) -> bool {
    value.as_object().is_some_and(|object| object.len() == count)
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok().filter(|number| *number <= LARGEST_INTEGER),
        _ => None,
    }
}
