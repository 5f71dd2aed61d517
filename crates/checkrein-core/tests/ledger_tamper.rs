//! Every byte of an export flipped, and ten thousand edits of its structure: all are found, and the right entry is named.
//!
//! The export and a share of the edits lie in `tests/cases/ledger`, where the second verifier reads them; with
//! `UPDATE_CASES=1` they are written again.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set itself up has failed"
)]
#![expect(clippy::disallowed_methods, reason = "tests read their cases; the core itself does no I/O")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use checkrein_core::gate::breaker::Health;
use checkrein_core::ledger::checkpoint::Signer;
use checkrein_core::ledger::entry::{
    Arguments, Body, By, Decision, Draft, DraftView, Drained, Ending, Entry, Event, Identity, Outcome,
    ShortId, Source, Verdict,
};
use checkrein_core::ledger::export::{Header, checkpoint_line, hashes_line};
use checkrein_core::ledger::proof::TileSource;
use checkrein_core::ledger::tree::{Growth, Hash, TILE, leaf_hash};
use checkrein_core::ledger::verify::{Report, Verifier};
use checkrein_core::time::Timestamp;

type Lines = Vec<Vec<u8>>;

/// A ledger in memory, and its tiles.
struct Ledger {
    entries: Lines,
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    growth: Growth,
    notes: BTreeMap<u64, String>,
    signer: Signer,
}

impl TileSource for &Ledger {
    type Error = std::convert::Infallible;

    fn tile(&mut self, level: u8, index: u64) -> Result<Vec<Hash>, Self::Error> {
        Ok(self.tiles.get(&(level, index)).cloned().unwrap_or_default())
    }
}

impl Ledger {
    fn new(seed: u8) -> Self {
        let signer = Signer::new(Some("example.com/ledger"), &[seed; 32]).unwrap();
        let (tiles, notes) = (BTreeMap::new(), BTreeMap::new());
        Self { entries: Vec::new(), tiles, growth: Growth::default(), notes, signer }
    }

    fn push(&mut self, bytes: Vec<u8>) {
        self.growth.push(leaf_hash(&bytes));
        self.entries.push(bytes);
    }

    fn seal(&mut self) {
        let size = self.growth.size();
        self.notes.insert(size, self.signer.sign(size, self.growth.root(), &[format!("time {size}")]));
        let tiles = self.growth.take_tiles().into_iter();
        self.tiles.extend(tiles.map(|tile| ((tile.level, tile.index), tile.hashes)));
    }

    /// Entries of every kind, some of them decided in a store that hosts share; every 150th is followed by a checkpoint.
    fn filled(seed: u8, count: u64, word: &str) -> Self {
        let mut ledger = Self::new(seed);
        for seq in 0..count {
            let mut bytes = Vec::new();
            let action = Identity { namespace: "stripe", name: word, user: "ana", ..Identity::default() };
            let decision = Decision {
                verdict: if seq % 4 == 2 { Verdict::Refusal } else { Verdict::Intent },
                action,
                arguments: Arguments::Full(br#"{"n":1.5}"#),
                ..Decision::default()
            };
            let outcome = Outcome {
                permit: Some(seq),
                intent: (seq % 16 < 12).then_some(seq),
                ending: Ending::InDoubt,
                health: Health::Neutral,
                actual: &[],
                by: By::Lease,
                note: word,
                meters: &[],
            };
            let body = match seq % 4 {
                0 => Body::Event(Event { name: word, fields: &[("by", "ana")] }),
                3 => Body::Outcome(&outcome),
                _ => Body::Decision(&decision),
            };
            let time = Timestamp::from_nanos(seq.cast_signed());
            if seq % 16 < 12 {
                Entry { seq, time, epoch: 1, body }.write(&mut bytes);
            } else {
                bytes = drained(seq, time, body);
            }
            ledger.push(bytes);
            if (seq + 1) % 150 == 0 || seq + 1 == count {
                ledger.seal();
            }
        }
        ledger
    }

    fn export(&self) -> Lines {
        let (size, note) = self.notes.last_key_value().unwrap();
        let sizes = self.notes.keys().copied().collect();
        let mut lines = vec![Header::collect(self, note.clone(), *size, 0, sizes).unwrap().to_line()];
        for (seq, entry) in (0..).zip(&self.entries) {
            if seq % TILE == 0 && seq / TILE < size / TILE {
                lines.push(hashes_line(&self.tiles[&(0, seq / TILE)]));
            }
            lines.push(entry.clone());
            lines.extend(self.notes.get(&(seq + 1)).map(|note| checkpoint_line(note)));
        }
        lines
    }
}

/// The entry of a draft.
fn drained(seq: u64, time: Timestamp, body: Body<'_>) -> Vec<u8> {
    let id = |byte| ShortId::from_bytes([byte; 8]);
    let intent = (seq % 4 == 3).then(|| id(4));
    let source = Source { store: id(1), host: id(2), tag: id(3), draft: seq, intent };
    let (mut draft, mut bytes) = (Vec::new(), Vec::new());
    Draft { time, epoch: 1, source, salt: Some([6; 16]), body }.write(&mut draft);
    DraftView::read(&draft).unwrap().number(seq, &Drained { time, list: id(5), number: seq }, &mut bytes);
    bytes
}

fn file_of(lines: &Lines) -> Vec<u8> {
    lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
}

/// Feeds what follows a position of the file, and ends it.
fn finish(mut verifier: Verifier<'_>, rest: &[u8]) -> Report {
    let complete = rest.is_empty() || rest.ends_with(b"\n");
    for line in rest.strip_suffix(b"\n").unwrap_or(rest).split(|byte| *byte == b'\n') {
        verifier.line(line);
    }
    verifier.finish(complete)
}

fn is_entry(line: &[u8]) -> bool {
    !line.starts_with(b"{\"export\":")
        && !line.starts_with(b"{\"hashes\":")
        && !line.starts_with(b"{\"checkpoint\":")
}

/// The sequence of the entry in each line.
fn sequences(lines: &Lines) -> Vec<Option<u64>> {
    let mut next = 0;
    let number = |line: &Vec<u8>| {
        is_entry(line).then(|| {
            next += 1;
            next - 1
        })
    };
    lines.iter().map(number).collect()
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[test]
fn every_byte_of_64_kib() {
    let ledger = Ledger::filled(7, 330, "refund");
    let (lines, key) = (ledger.export(), ledger.signer.verifier());
    let (file, sequences) = (file_of(&lines), sequences(&lines));
    assert!(file.len() > 64 << 10, "{}", file.len());
    assert!(finish(Verifier::new(&key, None), &file).is_valid());
    let (mut before, mut at, mut random) = (Verifier::new(&key, None), 0, Random(42));
    for (line, seq) in lines.iter().zip(sequences) {
        // Everything before this line is as it was: a clone goes on from here.
        for place in at..=at + line.len() {
            let mut rest = file[at..].to_vec();
            rest[place - at] ^= u8::try_from(1 + random.below(255)).unwrap();
            let report = finish(before.clone(), &rest);
            assert!(!report.is_valid(), "byte {place}");
            if seq.is_some() {
                assert_eq!(report.first_bad, seq, "byte {place}: {:?}", report.fault);
            }
        }
        before.line(line);
        at += line.len() + 1;
    }
}

/// An edit of the lines, as `tests/cases/ledger/edits.jsonl` writes it.
#[derive(Clone, Debug)]
enum Edit {
    Cut(usize, usize),
    Swap(usize, usize),
    Copy(usize, usize),
    Move(usize, usize),
    Replace(usize, Vec<u8>),
    Flip(usize, u8),
    Tail(usize),
}

impl Edit {
    fn apply(&self, lines: &Lines) -> Vec<u8> {
        let mut lines = lines.clone();
        match self {
            Self::Cut(from, to) => drop(lines.drain(from..to)),
            Self::Swap(one, other) => lines.swap(*one, *other),
            Self::Copy(from, to) => {
                let line = lines[*from].clone();
                lines.insert(*to, line);
            }
            Self::Move(from, to) => {
                let line = lines.remove(*from);
                lines.insert(*to, line);
            }
            Self::Replace(at, line) => lines[*at].clone_from(line),
            Self::Flip(at, with) => {
                let mut file = file_of(&lines);
                file[*at] ^= with;
                return file;
            }
            Self::Tail(bytes) => {
                let mut file = file_of(&lines);
                file.truncate(*bytes);
                return file;
            }
        }
        file_of(&lines)
    }

    fn random(random: &mut Random, lines: &Lines, foreign: &Lines) -> Self {
        let count = lines.len();
        match random.below(10) {
            0 => {
                let from = random.below(count);
                Self::Cut(from, (from + 1 + random.below(5)).min(count))
            }
            1 => Self::Swap(random.below(count), random.below(count)),
            2 => Self::Copy(random.below(count), random.below(count + 1)),
            3 => Self::Move(random.below(count), random.below(count - 1)),
            4 => Self::Replace(random.below(count), foreign[random.below(foreign.len())].clone()),
            5 => {
                let nothing: [&[u8]; 5] = [b"null", b"", b"{}", b"[]", b"{\"seq\":null}"];
                Self::Replace(random.below(count), nothing[random.below(5)].to_vec())
            }
            6 => {
                let at = random.below(count);
                Self::Replace(at, nulled(&lines[at], random))
            }
            7 => Self::Tail(random.below(file_of(lines).len())),
            8 => Self::Cut(random.below(count), count),
            _ => Self::Flip(random.below(file_of(lines).len()), u8::try_from(1 + random.below(255)).unwrap()),
        }
    }

    fn to_json(&self) -> String {
        match self {
            Self::Cut(from, to) => format!("\"cut\":[{from},{to}]"),
            Self::Swap(one, other) => format!("\"swap\":[{one},{other}]"),
            Self::Copy(from, to) => format!("\"copy\":[{from},{to}]"),
            Self::Move(from, to) => format!("\"move\":[{from},{to}]"),
            Self::Replace(at, line) => {
                let mut text = Vec::new();
                checkrein_core::canonical_json::write_string(std::str::from_utf8(line).unwrap(), &mut text);
                format!("\"replace\":[{at},{}]", String::from_utf8(text).unwrap())
            }
            Self::Flip(at, with) => format!("\"flip\":[{at},{with}]"),
            Self::Tail(bytes) => format!("\"tail\":[{bytes}]"),
        }
    }
}

/// A line in which one member's value is `null`.
fn nulled(line: &[u8], random: &mut Random) -> Vec<u8> {
    let text = std::str::from_utf8(line).unwrap();
    let colons: Vec<usize> = text.match_indices("\":").map(|(at, _)| at + 2).collect();
    let from = colons[random.below(colons.len())];
    let rest = &text[from..];
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    format!("{}null{}", &text[..from], &rest[end..]).into_bytes()
}

/// The first line that is not what it was, and the entry that stood there.
fn first_difference(lines: &Lines, sequences: &[Option<u64>], file: &[u8]) -> Option<Option<u64>> {
    let mut rest = file;
    for (line, seq) in lines.iter().zip(sequences) {
        match rest.strip_prefix(line.as_slice()).and_then(|rest| rest.strip_prefix(b"\n")) {
            Some(after) => rest = after,
            // The line is whole, and the file ends where its line break was: what is missing comes next.
            None if rest == line.as_slice() => rest = &[],
            None => return Some(*seq),
        }
    }
    (!rest.is_empty() || !file.ends_with(b"\n")).then_some(None)
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/ledger")
}

#[test]
fn ten_thousand_edits() {
    let ledger = Ledger::filled(7, 300, "refund");
    // The same key and another history, and the same history under another key.
    let (other, resigned) = (Ledger::filled(7, 300, "refunds"), Ledger::filled(8, 300, "refund"));
    let (lines, key) = (ledger.export(), ledger.signer.verifier());
    let foreign: Lines = other.export().into_iter().chain(resigned.export()).collect();
    let sequences = sequences(&lines);
    let mut random = Random(7);
    let (mut done, mut written) = (0, String::new());
    while done < 10_000 {
        let edit = Edit::random(&mut random, &lines, &foreign);
        let file = edit.apply(&lines);
        let Some(seq) = first_difference(&lines, &sequences, &file) else { continue };
        let report = finish(Verifier::new(&key, None), &file);
        assert!(!report.is_valid(), "{edit:?}");
        if seq.is_some() {
            assert_eq!(report.first_bad, seq, "{edit:?}: {:?}", report.fault);
        }
        if done % 8 == 0 {
            let (bad, count) = (report.first_bad, report.entries);
            let bad = bad.map_or_else(|| "null".to_owned(), |seq| seq.to_string());
            writeln!(written, "{{{},\"first_bad\":{bad},\"entries\":{count}}}", edit.to_json()).unwrap();
        }
        done += 1;
    }
    for (name, text) in [
        ("export.jsonl", String::from_utf8(file_of(&lines)).unwrap()),
        ("edits.jsonl", written),
        ("key.pub", format!("{key}\n")),
    ] {
        let path = cases().join(name);
        if std::env::var_os("UPDATE_CASES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept == text, "{name} is out of date: run this test with UPDATE_CASES=1");
    }
}

#[test]
fn whole_histories_under_another_key() {
    let (ledger, forged) = (Ledger::filled(7, 300, "refund"), Ledger::filled(8, 300, "refunds"));
    let key = ledger.signer.verifier();
    let report = finish(Verifier::new(&key, None), &file_of(&forged.export()));
    assert_eq!((report.is_valid(), report.first_bad), (false, Some(0)));
    // From every entry on somebody else's history, with the checkpoints of the right key before it.
    for from in 0..300 {
        let mut lines = ledger.export();
        let at = sequences(&lines).iter().position(|seq| *seq == Some(from)).unwrap();
        let others = forged.export();
        let other_at = sequences(&others).iter().position(|seq| *seq == Some(from)).unwrap();
        lines.truncate(at);
        lines.extend_from_slice(&others[other_at..]);
        let report = finish(Verifier::new(&key, None), &file_of(&lines));
        assert_eq!((report.is_valid(), report.first_bad), (false, Some(from)));
    }
}
