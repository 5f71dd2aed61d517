use std::sync::Arc;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::amount::Unit;
use crate::canonical_json;
use crate::code::Code;
use crate::decision::{Detail, GateKind, Retry};
use crate::json::{self, Limits};
use crate::time::Span;

fn write(entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.write(&mut bytes);
    bytes
}

fn check(body: Body<'_>, expected: Expect) {
    let entry = Entry { seq: 12, time: Timestamp::from_nanos(1_795_256_310_000_000_009), epoch: 3, body };
    let bytes = write(&entry);
    let text = String::from_utf8(bytes.clone()).unwrap();
    expected.assert_eq(&text.replace(",\"", ",\n\""));
    let view = EntryView::read(&bytes).unwrap();
    assert_eq!((view.seq, view.time, view.epoch), (entry.seq, entry.time, entry.epoch));
    assert_eq!(canonical_json::to_vec(&json::read(&bytes, &Limits::default()).unwrap()), bytes);
}

fn reason(code: Code, kind: GateKind, retry: Retry) -> Reason {
    Reason { code, kind, gate: Arc::from("per user"), retry, detail: Detail::None }
}

fn meter() -> MeterStatus {
    MeterStatus {
        gate: Arc::from("team"),
        kind: GateKind::Budget,
        unit: Unit::Usd,
        spent: Amount::parse("12.300000000001").unwrap(),
        held: Amount::ZERO,
        limit: Amount::from_units(50),
        overrun: Amount::ZERO,
        forced: Amount::ZERO,
    }
}

const ACTION: Identity<'_> = Identity {
    namespace: "stripe",
    name: "refund",
    principal: "support",
    user: "ana",
    agent: "",
    run: "r-1",
    session: "",
    tenant: "acme",
};

#[test]
fn an_intent() {
    let decision = Decision {
        action: ACTION,
        arguments: Arguments::Full(br#"{"amount":"30.00","id":9007199254740993}"#),
        request: Request::Digest(RequestDigest::from_bytes([0xab; 32])),
        permit: Some(8),
        policy: Some([1; 32]),
        observed: &[reason(Code::Cooldown, GateKind::Limit, Retry::After(Span::from_millis(1_500)))],
        meters: &[meter()],
        ..Decision::default()
    };
    check(
        Body::Decision(&decision),
        expect![[r#"
            {"action":{"name":"refund",
            "namespace":"stripe",
            "principal":"support",
            "run":"r-1",
            "tenant":"acme",
            "user":"ana"},
            "arguments":{"value":{"amount":"30.00",
            "id":9007199254740993}},
            "epoch":3,
            "kind":"intent",
            "meters":[{"gate":"team",
            "held":"0",
            "kind":"budget",
            "limit":"50",
            "spent":"12.300000000001",
            "unit":"usd"}],
            "observed":[{"code":"cooldown",
            "gate":"per user",
            "kind":"limit",
            "message":"too soon after the last call",
            "retry":"1.5"}],
            "permit":8,
            "policy":"0101010101010101010101010101010101010101010101010101010101010101",
            "request":{"digest":"abababababababababababababababababababababababababababababababab"},
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
}

#[test]
fn a_refusal_that_stands_for_several() {
    let moment = |seconds: i64| Timestamp::from_nanos(seconds * 1_000_000_000);
    let decision = Decision {
        verdict: Verdict::Refusal,
        action: Identity { name: "refund \"now\"\n", ..Identity::default() },
        arguments: Arguments::Digest([2; 32]),
        request: Request::Keyed([3; 32]),
        reasons: &[
            reason(Code::RuleViolated, GateKind::Rule, Retry::Never),
            reason(Code::CircuitOpen, GateKind::Breaker, Retry::Unknown),
        ],
        repeated: Some(Repeated { count: 40, first: moment(1), last: moment(2) }),
        ..Decision::default()
    };
    check(
        Body::Decision(&decision),
        expect![[r#"
            {"action":{"name":"refund \"now\"\n"},
            "arguments":{"digest":"0202020202020202020202020202020202020202020202020202020202020202"},
            "epoch":3,
            "kind":"refusal",
            "reasons":[{"code":"rule_violated",
            "gate":"per user",
            "kind":"rule",
            "message":"a rule refuses these arguments",
            "retry":"never"},{"code":"circuit_open",
            "gate":"per user",
            "kind":"breaker",
            "message":"the dependency has failed too often",
            "retry":"unknown"}],
            "repeated":{"count":40,
            "first":"1970-01-01T00:00:01.000000000Z",
            "last":"1970-01-01T00:00:02.000000000Z"},
            "request":{"keyed":"0303030303030303030303030303030303030303030303030303030303030303"},
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
}

#[test]
fn an_outcome() {
    let outcome = Outcome {
        permit: Some(8),
        intent: Some(11),
        ending: Ending::Done,
        health: Health::Success,
        actual: &[Amount::parse("0.30").unwrap(), Amount::ZERO],
        by: By::Caller,
        note: "the result could not be stored",
        meters: &[],
    };
    check(
        Body::Outcome(&outcome),
        expect![[r#"
            {"actual":["0.3",
            "0"],
            "by":"caller",
            "epoch":3,
            "health":"success",
            "intent":11,
            "kind":"outcome",
            "note":"the result could not be stored",
            "outcome":"done",
            "permit":8,
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
}

#[test]
fn an_event_sorts_its_fields() {
    let fields = [("permit", "8"), ("by", "ana"), ("by", "nobody")];
    check(
        Body::Event(Event { name: "resolved", fields: &fields }),
        expect![[r#"
            {"epoch":3,
            "event":"resolved",
            "fields":{"by":"ana",
            "permit":"8"},
            "kind":"event",
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
}

#[test]
fn bare_entries() {
    check(
        Body::Decision(&Decision::default()),
        expect![[r#"
            {"epoch":3,
            "kind":"intent",
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
    check(
        Body::Event(Event { name: "opened", fields: &[] }),
        expect![[r#"
            {"epoch":3,
            "event":"opened",
            "kind":"event",
            "seq":12,
            "time":"2026-11-21T10:18:30.000000009Z",
            "version":1}"#]],
    );
}

#[test]
fn digests_depend_on_their_salt() {
    let (one, two) = ([1; SALT_LENGTH], [2; SALT_LENGTH]);
    assert_ne!(salted_arguments(&one, b"{}"), salted_arguments(&two, b"{}"));
    let request = RequestDigest::from_bytes([0; 32]);
    assert_ne!(keyed_request(&one, &request), salted_arguments(&one, request.as_bytes()));
}

#[test]
fn other_forms_are_refused() {
    let good = br#"{"action":{"name":"x"},"epoch":0,"kind":"intent","seq":1,"time":"2026-11-21T10:18:30.000000009Z","version":1}"#;
    let good = std::str::from_utf8(good).unwrap();
    assert!(EntryView::read(good.as_bytes()).is_ok());
    for (from, to) in [
        ("\"seq\":1", "\"seq\":01"),
        ("\"seq\":1", "\"seq\":-1"),
        ("\"seq\":1", "\"seq\":1.0"),
        ("\"seq\":1", "\"seq\":null"),
        ("\"seq\":1", "\"seq\":9007199254740992"),
        ("\"seq\":1", "\"seq\":1,\"seq\":1"),
        ("\"seq\":1", "\"seq\": 1"),
        ("\"seq\":1,", ""),
        ("\"version\":1", "\"version\":2"),
        ("\"version\":1", "\"version\":1,\"x\":1"),
        ("{\"name\":\"x\"}", "null"),
        ("{\"name\":\"x\"}", "{}"),
        ("{\"name\":\"x\"}", "{\"name\":\"\"}"),
        ("{\"name\":\"x\"}", "{\"name\":\"\\u0078\"}"),
        ("{\"name\":\"x\"}", "{\"name\":\"\\/\"}"),
        ("{\"name\":\"x\"}", "{\"user\":\"x\",\"name\":\"x\"}"),
        ("\"epoch\":0", "\"arguments\":{\"value\":{\"b\":1,\"a\":1}},\"epoch\":0"),
        ("\"epoch\":0", "\"arguments\":{\"value\":1e2},\"epoch\":0"),
        ("\"epoch\":0", "\"arguments\":null,\"epoch\":0"),
        ("\"intent\"", "\"outcome\""),
        ("\"intent\"", "\"event\""),
        ("30.000000009Z", "30Z"),
        ("}", "} "),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from} is not there");
        assert!(EntryView::read(bad.as_bytes()).is_err(), "{bad}");
    }
    for end in 0..good.len() {
        assert!(EntryView::read(&good.as_bytes()[..end]).is_err());
    }
}

#[test]
fn every_changed_byte_reads_differently_or_not_at_all() {
    let decision = Decision {
        action: ACTION,
        arguments: Arguments::Full(br#"{"a":[1,-2.5,"\u0001\n",null,true],"b":{}}"#),
        reasons: &[reason(Code::RateLimited, GateKind::Limit, Retry::After(Span::from_secs(2)))],
        meters: &[meter()],
        permit: Some(1),
        ..Decision::default()
    };
    let time = Timestamp::from_nanos(1);
    let good = write(&Entry { seq: 1, time, epoch: 0, body: Body::Decision(&decision) });
    let view = EntryView::read(&good).unwrap();
    for place in 0..good.len() {
        for byte in 0..=255_u8 {
            let mut bad = good.clone();
            bad[place] = byte;
            if bad != good {
                assert_ne!(EntryView::read(&bad).as_ref(), Ok(&view), "byte {place}");
            }
        }
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        "\\PC{0,4}|[\\x00-\\x1f\"\\\\]{1,3}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("\\PC{0,3}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same question asked of the reader and the writer of canonical JSON.
fn canonical_by_rewriting(bytes: &[u8]) -> bool {
    json::read(bytes, &Limits { depth: json::MAX_DEPTH, ..Limits::default() })
        .is_ok_and(|value| canonical_json::to_vec(&value) == bytes)
}

proptest! {
    #[test]
    fn the_canonical_form_is_what_the_writer_writes(value in json_value(), place in any::<usize>(), byte in any::<u8>()) {
        let plain = serde_json::to_vec(&value).unwrap();
        prop_assert_eq!(is_canonical(&plain), canonical_by_rewriting(&plain));
        if let Ok(read) = json::read(&plain, &Limits::default()) {
            let mut bytes = canonical_json::to_vec(&read);
            prop_assert!(is_canonical(&bytes));
            let place = place % bytes.len();
            bytes[place] = byte;
            prop_assert_eq!(is_canonical(&bytes), canonical_by_rewriting(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn amounts_read_back(pico in any::<i128>()) {
        let amount = Amount::from_pico(pico);
        let outcome = Outcome {
            permit: None, intent: None, ending: Ending::InDoubt, health: Health::Neutral, actual: &[amount],
            by: By::Lease, note: "", meters: &[],
        };
        let bytes = write(&Entry { seq: 0, time: Timestamp::default(), epoch: 0, body: Body::Outcome(&outcome) });
        prop_assert_eq!(EntryView::read(&bytes).unwrap().actual, vec![amount.to_string()]);
    }
}
