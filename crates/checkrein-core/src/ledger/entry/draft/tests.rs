use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::amount::Amount;
use crate::gate::breaker::Health;
use crate::ledger::entry::{
    Arguments, By, Decision, Ending, Entry, Event, Identity, Kind, Outcome, Request, Verdict,
};

const SOURCE: Source = Source {
    store: ShortId(0x5107e),
    host: ShortId(0xabcd_ef01_2345_6789),
    tag: ShortId(7),
    draft: 42,
    intent: None,
};
const DRAINED: Drained =
    Drained { time: Timestamp::from_nanos(1_795_256_311_000_000_000), list: ShortId(9), number: 17 };

fn draft(source: Source, salt: Option<[u8; SALT_LENGTH]>, body: Body<'_>) -> Vec<u8> {
    let (time, epoch) = (Timestamp::from_nanos(1_795_256_310_000_000_009), 3);
    let mut bytes = Vec::new();
    Draft { time, epoch, source, salt, body }.write(&mut bytes);
    bytes
}

fn numbered(draft: &[u8], seq: u64) -> Vec<u8> {
    let mut entry = Vec::new();
    DraftView::read(draft).unwrap().number(seq, &DRAINED, &mut entry);
    entry
}

fn outcome() -> Outcome<'static> {
    Outcome {
        permit: Some(8),
        intent: None,
        ending: Ending::Done,
        health: Health::Success,
        actual: &[Amount::ZERO],
        by: By::Caller,
        note: "late",
        meters: &[],
    }
}

fn check(draft: &[u8], expected: Expect) {
    let entry = numbered(draft, 12);
    let text = format!("{}\n{}", String::from_utf8_lossy(draft), String::from_utf8_lossy(&entry));
    expected.assert_eq(&text.replace(",\"", ",\n\""));
}

#[test]
fn an_intent_and_its_entry() {
    let decision = Decision {
        action: Identity { name: "refund", tenant: "acme", ..Identity::default() },
        arguments: Arguments::Digest([2; 32]),
        request: Request::Keyed([3; 32]),
        permit: Some(8),
        ..Decision::default()
    };
    check(
        &draft(SOURCE, Some([0xee; SALT_LENGTH]), Body::Decision(&decision)),
        expect![[r#"
            {"action":{"name":"refund",
            "tenant":"acme"},
            "arguments":{"digest":"0202020202020202020202020202020202020202020202020202020202020202"},
            "epoch":3,
            "kind":"intent",
            "outbox":{"draft":42,
            "host":"abcdef0123456789",
            "salt":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
            "store":"000000000005107e",
            "tag":"0000000000000007"},
            "permit":8,
            "request":{"keyed":"0303030303030303030303030303030303030303030303030303030303030303"},
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":2}
            {"action":{"name":"refund",
            "tenant":"acme"},
            "arguments":{"digest":"0202020202020202020202020202020202020202020202020202020202020202"},
            "epoch":3,
            "kind":"intent",
            "outbox":{"draft":42,
            "drained":"2026-11-21T10:18:31.000000000Z",
            "host":"abcdef0123456789",
            "list":"0000000000000009",
            "number":17,
            "store":"000000000005107e",
            "tag":"0000000000000007"},
            "permit":8,
            "request":{"keyed":"0303030303030303030303030303030303030303030303030303030303030303"},
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":2}"#]],
    );
}

#[test]
fn an_outcome_and_an_event() {
    let source = Source { intent: Some(ShortId(1)), ..SOURCE };
    check(
        &draft(source, None, Body::Outcome(&outcome())),
        expect![[r#"
            {"actual":["0"],
            "by":"caller",
            "epoch":3,
            "health":"success",
            "kind":"outcome",
            "note":"late",
            "outbox":{"draft":42,
            "host":"abcdef0123456789",
            "intent":"0000000000000001",
            "store":"000000000005107e",
            "tag":"0000000000000007"},
            "outcome":"done",
            "permit":8,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":2}
            {"actual":["0"],
            "by":"caller",
            "epoch":3,
            "health":"success",
            "kind":"outcome",
            "note":"late",
            "outbox":{"draft":42,
            "drained":"2026-11-21T10:18:31.000000000Z",
            "host":"abcdef0123456789",
            "intent":"0000000000000001",
            "list":"0000000000000009",
            "number":17,
            "store":"000000000005107e",
            "tag":"0000000000000007"},
            "outcome":"done",
            "permit":8,
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":2}"#]],
    );
    let event = Event { name: "reset", fields: &[("key", "u1")] };
    let bytes = draft(SOURCE, None, Body::Event(event));
    let entry = numbered(&bytes, 0);
    let view = EntryView::read(&entry).unwrap();
    assert_eq!((view.kind, view.source), (Kind::Event, Some((SOURCE, DRAINED))));
    assert_eq!(view.committed(), DRAINED.time);
}

#[test]
fn what_a_draft_may_not_say() {
    let good = String::from_utf8(draft(SOURCE, None, Body::Outcome(&outcome()))).unwrap();
    assert!(DraftView::read(good.as_bytes()).is_ok());
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let bad = [
        with("\"version\":2", "\"version\":1"),
        with("\"version\":2", "\"version\":3"),
        with("\"time\"", "\"seq\":4,\"time\""),
        with("\"kind\"", "\"intent\":4,\"kind\""),
        with("\"host\"", "\"drained\":\"2026-11-21T10:18:31.000000000Z\",\"host\""),
        with("\"store\":\"000000000005107e\"", "\"store\":\"5107e\""),
        with("\"store\":\"000000000005107e\"", "\"store\":\"000000000005107E\""),
        with("\"tag\":\"0000000000000007\"}", "\"tag\":\"0000000000000007\",\"to\":1}"),
        with("\"draft\":42,", ""),
        with("\"draft\":42,", "\"draft\":042,"),
        format!("{good} "),
        format!("{good}{good}"),
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
    ];
    for text in bad {
        assert!(DraftView::read(text.as_bytes()).is_err(), "{text}");
    }
    // A draft is no entry, an entry is no draft, and an entry of one ledger's own store does not become one.
    let entry = numbered(good.as_bytes(), 5);
    assert!(EntryView::read(&entry).is_ok());
    assert!(EntryView::read(good.as_bytes()).is_err());
    assert!(DraftView::read(&entry).is_err());
    let mut own = Vec::new();
    let time = Timestamp::default();
    Entry { seq: 5, time, epoch: 1, body: Body::Outcome(&outcome()) }.write(&mut own);
    assert!(EntryView::read(&own).is_ok());
    assert!(DraftView::read(&own).is_err());
    let forged = String::from_utf8(own).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(EntryView::read(forged.as_bytes()).is_err());
    let forged = String::from_utf8(entry).unwrap().replace("\"version\":2", "\"version\":1");
    assert!(EntryView::read(forged.as_bytes()).is_err());
}

#[test]
fn a_changed_byte_is_found_or_says_something_else() {
    let source = Source { intent: Some(ShortId(77)), ..SOURCE };
    let decision = Decision {
        verdict: Verdict::Intent,
        action: Identity { name: "a\"b", user: "ü", ..Identity::default() },
        arguments: Arguments::Full(br#"{"n":[1,2.5,null]}"#),
        permit: Some(1 << 40),
        policy: Some([9; 32]),
        ..Decision::default()
    };
    let bodies = [
        draft(source, Some([1; SALT_LENGTH]), Body::Decision(&decision)),
        draft(source, None, Body::Outcome(&outcome())),
        draft(source, None, Body::Event(Event { name: "reset", fields: &[("key", "u1")] })),
    ];
    for bytes in bodies {
        let whole = DraftView::read(&bytes).unwrap();
        let entry = numbered(&bytes, 3);
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << bit;
                let Ok(view) = DraftView::read(&changed) else { continue };
                let mut other = Vec::new();
                view.number(3, &DRAINED, &mut other);
                let read = EntryView::read(&other).expect("whatever is a draft becomes an entry");
                assert_eq!(read.source, Some((view.source, DRAINED)), "{place}");
                // The salt is no part of the entry: another one fits no digest.
                assert!(other != entry || view.salt != whole.salt, "{place}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_draft_comes_back_and_becomes_one_entry(
        store: u64, host: u64, tag: u64, list: u64, intent: Option<u64>, salt: Option<[u8; SALT_LENGTH]>,
        draft_number in 0..1_u64 << 53, number in 0..1_u64 << 53, seq in 0..1_u64 << 53, epoch in 0..1_u64 << 53,
        name in "\\PC{1,20}", note in "\\PC{0,20}", nanos in 0..i64::MAX, permit in 0..1_u64 << 53,
    ) {
        let id = ShortId;
        let source =
            Source { store: id(store), host: id(host), tag: id(tag), draft: draft_number, intent: intent.map(id) };
        let time = Timestamp::from_nanos(nanos);
        let action = Identity { name: &name, tenant: &note, ..Identity::default() };
        let decision = Decision { action, permit: Some(permit), ..Decision::default() };
        let outcome = Outcome { note: &note, permit: Some(permit), ..outcome() };
        let fields = [(&*name, &*note)];
        for body in [
            Body::Decision(&decision),
            Body::Outcome(&outcome),
            Body::Event(Event { name: &name, fields: &fields }),
        ] {
            let mut bytes = Vec::new();
            Draft { time, epoch, source, salt, body }.write(&mut bytes);
            let view = DraftView::read(&bytes).unwrap();
            prop_assert_eq!((view.source, view.salt, view.entry.time, view.entry.epoch), (source, salt, time, epoch));
            let drained = Drained { time, list: id(list), number };
            let mut entry = Vec::new();
            view.number(seq, &drained, &mut entry);
            let read = EntryView::read(&entry).unwrap();
            // The entry says what the draft said, and where it stands.
            let expected = EntryView { seq, source: Some((source, drained)), ..view.entry };
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn ids_are_read_as_they_are_written(id: u64) {
        let id = ShortId(id);
        prop_assert_eq!(ShortId::parse(&id.to_string()), Some(id));
        prop_assert_eq!(ShortId::from_bytes(id.to_bytes()), id);
        prop_assert_eq!(ShortId::parse(&id.to_string().to_uppercase()).is_some(), id.to_string().bytes().all(|b| b.is_ascii_digit()));
    }
}
