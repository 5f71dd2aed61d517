//! What the reader accepts and refuses, its limits, and its agreement with another reader.

use proptest::prelude::*;

use super::*;

fn check_refused(document: &[u8], expected: &str) {
    let error = read(document, &Limits::default()).expect_err("refused");
    assert_eq!(format!("{} {}", error.code(), error.offset), expected, "of {}", document.escape_ascii());
}

#[test]
fn hostile_documents_are_refused_fast() {
    check_refused("[".repeat(10_000).as_bytes(), "json_too_deep 64");
    check_refused(r#"{"a":"#.repeat(10_000).as_bytes(), "json_too_deep 320");
    check_refused("7".repeat(5_000).as_bytes(), "json_number_too_long 0");
    check_refused(format!("[{}]", "1,".repeat(10_000)).as_bytes(), "json_too_many_nodes 19999");
    check_refused(&vec![b' '; (1 << 20) + 1], "json_too_large 1048576");
    check_refused(b"18446744073709551616", "json_integer_out_of_range 0");
    check_refused(b"-9223372036854775809", "json_integer_out_of_range 0");
    check_refused(b"[1e309]", "json_float_out_of_range 1");
    check_refused(b"1e-400", "json_float_out_of_range 0");
    check_refused(br#"{"a":1,"b":{"x":0,"\u0078":1}}"#, "json_duplicate_key 18");
    check_refused(b"\"\xff\"", "json_invalid_utf8 1");
}

#[test]
fn limits_are_those_given() {
    let tight = Limits { bytes: 20, depth: 2, nodes: 3, number_bytes: 4 };
    let code = |document: &str| read_str(document, &tight).map_err(|error| error.code());
    assert!(code("[[1]]").is_ok());
    assert_eq!(code("[[[]]]"), Err("json_too_deep"));
    assert_eq!(code("[1,2,3]"), Err("json_too_many_nodes"));
    assert_eq!(code("12345"), Err("json_number_too_long"));
    assert!(code("1234").is_ok());
    assert_eq!(code("\"aaaaaaaaaaaaaaaaaaaaaaaa\""), Err("json_too_large"));
    let boundless =
        Limits { bytes: usize::MAX, depth: usize::MAX, nodes: usize::MAX, number_bytes: usize::MAX };
    let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert!(read_str(&deep, &boundless).is_ok());
    let deeper = format!("[{deep}]");
    assert_eq!(read_str(&deeper, &boundless).unwrap_err().code(), "json_too_deep");
}

#[test]
fn a_deep_value_is_dropped_without_recursion() {
    let mut arrays = Value::Null;
    let mut objects = Value::Null;
    for _ in 0..200_000 {
        arrays = Value::Array(vec![Value::Int(1), arrays]);
        objects = Value::Object(Object::from_members(vec![("a".to_owned(), objects)]).unwrap());
    }
    drop((arrays, objects));
}

#[test]
fn objects_keep_their_order_and_find_their_members() {
    let value = read_str(r#"{"z":1,"a":2,"m":{"k":null}}"#, &Limits::default()).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["z", "a", "m"]);
    assert_eq!(value.get("m").and_then(|m| m.get("k")), Some(&Value::Null));
    assert_eq!(value.get("absent"), None);
    let many: Vec<(String, Value)> =
        (0..100).map(|number| (format!("key{}", (number * 37) % 100), Value::Int(number))).collect();
    let object = Object::from_members(many.clone()).unwrap();
    for (key, expected) in &many {
        assert_eq!(object.get(key), Some(expected));
    }
    assert_eq!(object.get("key"), None);
    let again = Object::from_members([many.clone(), many].concat()).unwrap_err();
    assert_eq!(again, DuplicateKey { index: 100, key: "key0".to_owned() });
}

#[test]
fn messages_state_the_fact_and_the_place() {
    let message = |document: &str| {
        let error = read_str(document, &Limits::default()).unwrap_err();
        format!("{error} | {}", error.hint().unwrap_or("-"))
    };
    expect_test::expect![[r"
        unexpected `'`, expected a value at byte 1 | strings are written in double quotes
        unexpected `x`, expected `:` at byte 4 | -
        key `a` repeats at byte 7 | two readers may choose different members; send each key once
        control character U+000A inside a string at byte 1 | escape it, for example `\n` or `\u0000`"]]
    .assert_eq(
        &[message("['a']"), message(r#"{"a"x}"#), message(r#"{"a":1,"a":2}"#), message("\"\n\"")].join("\n"),
    );
}

/// The other reader's value in our terms. Its doubles may be off by one unit in the last place.
fn agrees(ours: &Value, theirs: &serde_json::Value) -> bool {
    match (ours, theirs) {
        (Value::Null, serde_json::Value::Null) => true,
        (Value::Bool(left), serde_json::Value::Bool(right)) => left == right,
        (Value::Int(left), serde_json::Value::Number(right)) if right.is_i64() => {
            right.as_i64() == Some(*left)
        }
        (Value::Int(0), serde_json::Value::Number(right)) => right.as_f64() == Some(0.0),
        (Value::Uint(left), serde_json::Value::Number(right)) => right.as_u64() == Some(*left),
        (Value::Float(left), serde_json::Value::Number(right)) => {
            right.as_f64().is_some_and(|right| (left - right).abs() <= left.abs() * 1e-15)
        }
        (Value::String(left), serde_json::Value::String(right)) => left == right,
        (Value::Array(left), serde_json::Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| agrees(left, right))
        }
        (Value::Object(left), serde_json::Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|right| agrees(value, right)))
        }
        _ => false,
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::hash_map(any::<String>(), inner, 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Text made of the pieces JSON is made of, mostly invalid, often nearly valid.
fn json_like() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"b\"",
        "\\u0061",
        "\\ud800",
        "\\udc00",
        "\\",
        "null",
        "true",
        "false",
        "0",
        "-",
        "1",
        "12.5",
        "1e5",
        "e",
        ".",
        "+",
        " ",
        "\n",
        "NaN",
        "Infinity",
        "é",
        "\u{0}",
        "{\"a\":1}",
        "[1,2]",
    ]);
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn valid_documents_are_read_like_serde_json_reads_them(document in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        let ours = read_str(&text, &Limits::default()).unwrap();
        prop_assert!(agrees(&ours, &document), "{text}");
    }

    #[test]
    fn what_is_accepted_serde_json_accepts_too(text in json_like()) {
        if let Ok(ours) = read_str(&text, &Limits::default()) {
            let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert!(agrees(&ours, &theirs), "{text}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_at_a_place_inside(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = read(&bytes, &Limits::default()) {
            prop_assert!(error.offset <= bytes.len());
            prop_assert!(error.code().starts_with("json_") && !error.to_string().is_empty());
        }
    }
}
