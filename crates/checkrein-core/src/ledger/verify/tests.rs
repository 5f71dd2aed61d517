use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::checkpoint::Signer;
use crate::ledger::entry::{Body, Decision, Entry, Event, Identity};
use crate::ledger::export::{checkpoint_line, hashes_line};
use crate::ledger::proof::TileSource;
use crate::ledger::tree::{Growth, TILE, leaf_hash};
use crate::time::Timestamp;

/// A ledger in memory: what a store keeps.
struct Ledger {
    signer: Signer,
    entries: Vec<Vec<u8>>,
    growth: Growth,
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    notes: BTreeMap<u64, String>,
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
        let (entries, tiles, notes) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { signer, entries, growth: Growth::default(), tiles, notes }
    }

    fn of(size: u64, every: u64) -> Self {
        let mut ledger = Self::new(7);
        for seq in 0..size {
            ledger.decide(&format!("tool-{seq}"));
            if (seq + 1) % every == 0 || seq + 1 == size {
                ledger.seal();
            }
        }
        ledger
    }

    fn append(&mut self, body: Body<'_>) {
        let seq = self.entries.len() as u64;
        let mut bytes = Vec::new();
        Entry { seq, time: Timestamp::from_nanos(seq as i64), epoch: 1, body }.write(&mut bytes);
        self.growth.push(leaf_hash(&bytes));
        self.entries.push(bytes);
    }

    fn decide(&mut self, name: &str) {
        let action = Identity { name, ..Identity::default() };
        self.append(Body::Decision(&Decision { action, ..Decision::default() }));
    }

    fn seal(&mut self) {
        let note = self.signer.sign(self.growth.size(), self.growth.root(), &[]);
        self.notes.insert(self.growth.size(), note);
        for tile in self.growth.take_tiles() {
            self.tiles.insert((tile.level, tile.index), tile.hashes);
        }
    }

    fn export(&self, first: u64) -> Vec<Vec<u8>> {
        let (size, note) = self.notes.last_key_value().unwrap();
        let sizes: Vec<u64> = self.notes.keys().copied().filter(|size| *size > first).collect();
        let header = Header::collect(self, note.clone(), *size, first, sizes).unwrap();
        let mut lines = vec![header.to_line()];
        for (seq, entry) in (0..).zip(&self.entries).skip(first as usize) {
            if seq % TILE == 0 && seq / TILE < size / TILE {
                lines.push(hashes_line(&self.tiles[&(0, seq / TILE)]));
            }
            lines.push(entry.clone());
            if let Some(note) = self.notes.get(&(seq + 1)) {
                lines.push(checkpoint_line(note));
            }
        }
        lines
    }
}

fn verify(lines: &[Vec<u8>], key: &VerifierKey, against: Option<&str>) -> Report {
    let mut verifier = Verifier::new(key, against);
    lines.iter().for_each(|line| verifier.line(line));
    verifier.finish(true)
}

fn report(ledger: &Ledger, lines: &[Vec<u8>]) -> Report {
    verify(lines, &ledger.signer.verifier(), None)
}

/// The line of an entry in an export.
fn line_of(lines: &[Vec<u8>], seq: u64) -> usize {
    let marked = format!(",\"seq\":{seq},");
    lines.iter().position(|line| String::from_utf8_lossy(line).contains(&marked)).unwrap()
}

#[test]
fn whole_exports_are_valid() {
    for (size, every) in [(1, 1), (7, 3), (256, 100), (257, 256), (700, 1_000), (1_024, 10)] {
        let ledger = Ledger::of(size, every);
        let report = report(&ledger, &ledger.export(0));
        assert_eq!((&report.fault, report.first_bad, report.entries), (&None, None, size), "{size}");
        assert_eq!(report.unchecked().len(), 1);
    }
    let mut empty = Ledger::new(7);
    empty.seal();
    assert!(report(&empty, &empty.export(0)).is_valid());
}

#[test]
fn edits_name_their_entry() {
    let ledger = Ledger::of(700, 150);
    let good = ledger.export(0);
    for seq in [0, 1, 149, 150, 255, 256, 400, 511, 512, 699] {
        let at = line_of(&good, seq);
        let check = |what: &str, lines: &[Vec<u8>]| {
            let report = report(&ledger, lines);
            assert_eq!(report.first_bad, Some(seq), "{what} {seq}: {:?}", report.fault);
            assert!(!report.is_valid());
        };
        let with = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut lines = good.clone();
            edit(&mut lines);
            lines
        };
        check("nulled", &with(&|lines| lines[at] = b"null".to_vec()));
        check("emptied", &with(&|lines| lines[at].clear()));
        check(
            "edited",
            &with(&|lines| {
                let text = String::from_utf8(lines[at].clone()).unwrap();
                lines[at] = text.replace("tool-", "evil-").into_bytes();
            }),
        );
        check(
            "repeated",
            &with(&|lines| {
                let line = lines[at - 1].clone();
                lines.insert(at, line);
            }),
        );
        check("replaced by the first", &with(&|lines| lines[at] = lines[line_of(&good, 699 - seq)].clone()));
        if seq < 699 {
            check("removed", &with(&|lines| drop(lines.remove(at))));
            check("swapped", &with(&|lines| lines.swap(at, at + 1)));
            check("cut off", &with(&|lines| lines.truncate(at)));
        }
    }
}

#[test]
fn lines_that_are_no_entries() {
    let ledger = Ledger::of(700, 150);
    let good = ledger.export(0);
    for (at, line) in good.iter().enumerate() {
        if line.starts_with(b"{\"action\"") {
            continue;
        }
        let mut lines = good.clone();
        lines.remove(at);
        let report = report(&ledger, &lines);
        assert!(!report.is_valid(), "without line {at}");
        assert_eq!(
            report.first_bad, None,
            "without line {at} every entry is still proven: {:?}",
            report.fault
        );
    }
    for extra in [&good[1], &good[0], good.last().unwrap(), &b"{\"hashes\":1}".to_vec()] {
        let mut lines = good.clone();
        lines.push(extra.clone());
        assert_eq!(report(&ledger, &lines).fault, Some(Fault::Trailing));
    }
}

#[test]
fn what_is_not_sealed_is_named() {
    let mut ledger = Ledger::of(300, 100);
    ledger.decide("late");
    let report = report(&ledger, &ledger.export(0));
    assert_eq!((report.first_bad, report.fault), (Some(300), Some(Fault::Unsealed(300))));
}

#[test]
fn another_key_is_found() {
    let ledger = Ledger::of(300, 100);
    let forged = {
        let mut forged = Ledger::new(8);
        for seq in 0..300 {
            forged.decide(&format!("tool-{seq}"));
        }
        forged.seal();
        forged
    };
    let found = verify(&forged.export(0), &ledger.signer.verifier(), None);
    assert_eq!(found.fault, Some(Fault::HeaderCheckpoint(NoteError::NotSigned)));
    assert_eq!(found.first_bad, Some(0));
    // The checkpoints of the right key prove what is before them.
    let mut lines = forged.export(0);
    lines.truncate(1);
    lines.extend(ledger.export(0).into_iter().skip(1).take(210));
    let found = verify(&lines, &ledger.signer.verifier(), None);
    assert_eq!(found.first_bad, Some(200));
}

#[test]
fn checkpoints_from_outside() {
    let ledger = Ledger::of(700, 150);
    let key = ledger.signer.verifier();
    let lines = ledger.export(0);
    for (size, note) in &ledger.notes {
        let report = verify(&lines, &key, Some(note));
        assert_eq!((&report.fault, report.against), (&None, Some(*size)));
    }
    let newer = Ledger::of(900, 150);
    let report = verify(&lines, &key, Some(&newer.notes[&900]));
    assert_eq!(report.fault, Some(Fault::RolledBack { size: 700, outside: 900 }));
    assert_eq!(report.first_bad, Some(700));
    let mut fork = Ledger::new(7);
    (0..300).for_each(|_| fork.decide("another history"));
    fork.seal();
    let report = verify(&lines, &key, Some(&fork.notes[&300]));
    assert_eq!(report.fault, Some(Fault::Forked(300)));
    assert!(matches!(verify(&lines, &key, Some("x")).fault, Some(Fault::Outside(_))));
}

#[test]
fn a_removed_head_needs_an_entry_that_says_so() {
    let mut ledger = Ledger::of(700, 150);
    let report = report(&ledger, &ledger.export(512));
    assert_eq!((report.fault, report.first_bad), (Some(Fault::HeadMissing { last: 511 }), Some(0)));
    ledger.append(Body::Event(Event { name: ENTRIES_REMOVED, fields: &[("before", "512"), ("first", "0")] }));
    ledger.seal();
    let key = ledger.signer.verifier();
    let report = verify(&ledger.export(512), &key, None);
    assert_eq!((&report.fault, report.entries, report.first), (&None, 189, 512));
    assert_eq!(verify(&ledger.export(256), &key, None).fault, Some(Fault::HeadMissing { last: 255 }));
    assert_eq!(verify(&ledger.export(512), &key, Some(&ledger.notes[&600])).against, Some(600));
    let report = verify(&ledger.export(512), &key, Some(&ledger.notes[&150]));
    assert_eq!(report.fault, Some(Fault::OutsideRemoved(150)));
    // A checkpoint at a border of removed groups can be compared.
    let at_border = Ledger::of(256, 256);
    assert_eq!(verify(&ledger.export(512), &key, Some(&at_border.notes[&256])).against, Some(256));
}

#[test]
fn nothing_and_nonsense() {
    let key = Ledger::new(7).signer.verifier();
    assert_eq!(verify(&[], &key, None).fault, Some(Fault::NoHeader));
    assert_eq!(verify(&[b"{\"export\":{}}".to_vec()], &key, None).fault, Some(Fault::NoHeader));
    let ledger = Ledger::of(3, 3);
    let mut verifier = Verifier::new(&key, None);
    ledger.export(0).iter().for_each(|line| verifier.line(line));
    assert_eq!(verifier.finish(false).fault, Some(Fault::Torn));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_changed_byte_is_found(place in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        static LEDGER: std::sync::LazyLock<(Vec<u8>, VerifierKey)> = std::sync::LazyLock::new(|| {
            let ledger = Ledger::of(600, 250);
            let mut file = ledger.export(0).join(&b'\n');
            file.push(b'\n');
            (file, ledger.signer.verifier())
        });
        let (file, key) = &*LEDGER;
        let mut file = file.clone();
        let place = place.index(file.len());
        file[place] ^= flip;
        let complete = file.last() == Some(&b'\n');
        if complete { file.pop(); }
        let mut verifier = Verifier::new(key, None);
        file.split(|byte| *byte == b'\n').for_each(|line| verifier.line(line));
        prop_assert!(!verifier.finish(complete).is_valid(), "byte {place}");
    }
}
