//! What every fuzz target checks, shared by `cargo fuzz` and by the bounded run in `crates/checkrein-core/tests/fuzz.rs`.

use checkrein_core::canonical_json;
use checkrein_core::codec::Record;
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::json::{self, Limits};
use checkrein_core::ledger::checkpoint::{Checkpoint, Note, Signer, VerifierKey, decode, encode};
use checkrein_core::ledger::entry::{DraftView, Drained, EntryView, LARGEST_INTEGER, is_canonical};
use checkrein_core::ledger::export::Line;
use checkrein_core::ledger::proof::{ConsistencyProof, InclusionProof, verify_consistency, verify_inclusion};
use checkrein_core::ledger::verify::Verifier;
use checkrein_core::meter::Meter;
use checkrein_core::permit::Permit;
use checkrein_core::usage::MOST;
use checkrein_core::usage::dialect::Dialect;

/// A target: its name, which is that of its corpus, and what it does with the bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 9] = [
    ("strict_json", strict_json),
    ("canonical_form", canonical_form),
    ("entry", entry),
    ("draft", draft),
    ("checkpoint", checkpoint),
    ("proof", proof),
    ("export", export),
    ("record", record),
    ("usage", usage),
];

fn limits() -> Limits {
    Limits { depth: json::MAX_DEPTH, ..Limits::default() }
}

/// What the strict reader accepts has a canonical form that means the same and is its own.
pub(crate) fn strict_json(data: &[u8]) {
    let Ok(value) = json::read(data, &limits()) else { return };
    let canonical = canonical_json::to_vec(&value);
    // The canonical form of a number can be a little longer than the number.
    let wide = Limits { bytes: usize::MAX, ..limits() };
    let again = json::read(&canonical, &wide).expect("the canonical form is strict JSON");
    assert_eq!(again, value);
    assert!(is_canonical(&canonical));
}

/// Two ways to ask whether bytes are canonical give one answer.
pub(crate) fn canonical_form(data: &[u8]) {
    let wide =
        Limits { nodes: usize::MAX, number_bytes: usize::MAX, bytes: usize::MAX, depth: json::MAX_DEPTH };
    let rewritten = json::read(data, &wide).is_ok_and(|value| canonical_json::to_vec(&value) == data);
    assert_eq!(is_canonical(data), rewritten);
}

/// What is read as an entry is canonical, and one changed byte makes another entry of it or none.
pub(crate) fn entry(data: &[u8]) {
    let Ok(view) = EntryView::read(data) else { return };
    assert!(is_canonical(data));
    let mut changed = data.to_vec();
    let place = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    if let Some(byte) = changed.get_mut(place % data.len().max(1)) {
        *byte ^= 1;
        assert_ne!(EntryView::read(&changed).as_ref(), Ok(&view));
    }
}

/// What is read as a draft is canonical and no entry, and becomes an entry that says the same.
pub(crate) fn draft(data: &[u8]) {
    let Ok(view) = DraftView::read(data) else { return };
    assert!(is_canonical(data));
    assert!(EntryView::read(data).is_err());
    let (seq, drained) = (LARGEST_INTEGER, Drained { number: view.source.draft, ..Drained::default() });
    let mut bytes = Vec::new();
    view.number(seq, &drained, &mut bytes);
    let expected = EntryView { seq, source: Some((view.source, drained)), ..view.entry };
    assert_eq!(EntryView::read(&bytes).as_ref(), Ok(&expected));
}

/// What parses has one form; nothing opens that this key did not sign.
pub(crate) fn checkpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.text(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Some(bytes) = decode(text) {
        assert_eq!(encode(&bytes), text);
    }
    if let Ok(note) = Note::parse(text) {
        assert!(text.starts_with(note.text) && note.text.ends_with('\n'));
    }
    // The seeds of the corpus are signed by another key than this one.
    let signer = Signer::new(Some("example.com/fuzz"), &[99; 32]).expect("a name");
    assert!(signer.verifier().open(text).is_err());
}

/// What parses has one form, and proves nothing under a root that nobody computed.
pub(crate) fn proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(proof) = InclusionProof::parse(text) {
        assert_eq!(proof.to_text(), text);
        for size in [0, 1, proof.index, proof.index.saturating_add(1), u64::MAX] {
            assert!(!verify_inclusion(&[1; 32], proof.index, size, &proof.path, &[2; 32]));
        }
    }
    if let Ok(proof) = ConsistencyProof::parse(text) {
        assert_eq!(proof.to_text(), text);
        for size in [1, proof.old, proof.old.saturating_add(1), u64::MAX] {
            if proof.old > 0 {
                assert!(!verify_consistency(proof.old, &[1; 32], size, &[2; 32], &proof.path));
            }
        }
    }
}

/// Lines of an export have one form, and no export verifies that this key did not sign.
pub(crate) fn export(data: &[u8]) {
    let signer = Signer::new(Some("example.com/fuzz"), &[99; 32]).expect("a name");
    let key = signer.verifier();
    let mut verifier = Verifier::new(&key, None);
    for line in data.split(|byte| *byte == b'\n') {
        if let Line::Header(header) = Line::read(line) {
            assert_eq!(header.to_line(), line);
        }
        verifier.line(line);
    }
    assert!(!verifier.finish(true).is_valid());
}

/// What is decoded as a record of a store has one form. The first byte says which record it is.
pub(crate) fn record(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 5 {
        0 => one_form::<Breaker>(bytes),
        1 => one_form::<Fact>(bytes),
        2 => one_form::<Permit>(bytes),
        3 => {
            if let Ok(operation) = Operation::decode(bytes, || None) {
                let mut out = Vec::new();
                operation.encode(&mut out);
                assert_eq!(out, bytes);
            }
        }
        _ => {
            let _ = Meter::needed_chunks(bytes);
            let _ = Meter::decode(bytes, [bytes]);
        }
    }
}

/// What is read as a reply's usage has bounded counts, and no part that is more than its whole.
pub(crate) fn usage(data: &[u8]) {
    let Ok(reply) = json::read(data, &limits()) else { return };
    for dialect in Dialect::ALL {
        let Ok(report) = dialect.read(&reply) else { continue };
        assert!(!report.usage.is_empty());
        for (unit, count) in report.usage.iter() {
            assert!(count <= MOST);
            for whole in unit.wholes().iter().filter(|_| dialect != Dialect::Units) {
                assert!(report.usage.reported(whole).is_none_or(|most| most >= count), "{unit:?} {whole:?}");
            }
        }
    }
    if let Some(dialect) = Dialect::of(&reply) {
        let _ = dialect.read(&reply);
    }
}

fn one_form<T: Record>(bytes: &[u8]) {
    if let Ok(read) = T::decode(bytes) {
        let mut out = Vec::new();
        read.encode(&mut out);
        assert_eq!(out, bytes);
    }
}
