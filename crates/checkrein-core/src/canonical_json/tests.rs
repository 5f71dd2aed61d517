//! The number and sorting samples of RFC 8785, and properties over random values.

use proptest::prelude::*;

use super::*;
use crate::json::{self, Limits};

fn check(document: &str, expected: &str) {
    let value = json::read_str(document, &Limits::default()).unwrap();
    assert_eq!(String::from_utf8(to_vec(&value)).unwrap(), expected, "of {document}");
}

fn check_ecmascript(bits: u64, expected: &str) {
    let mut bytes = Vec::new();
    write_double(f64::from_bits(bits), false, &mut bytes);
    assert_eq!(String::from_utf8(bytes).unwrap(), expected, "of {bits:#018x}");
}

#[test]
fn doubles_are_written_as_rfc_8785_lists_them() {
    check_ecmascript(0x0000_0000_0000_0000, "0");
    check_ecmascript(0x8000_0000_0000_0000, "0");
    check_ecmascript(0x0000_0000_0000_0001, "5e-324");
    check_ecmascript(0x8000_0000_0000_0001, "-5e-324");
    check_ecmascript(0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308");
    check_ecmascript(0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308");
    check_ecmascript(0x4340_0000_0000_0000, "9007199254740992");
    check_ecmascript(0xc340_0000_0000_0000, "-9007199254740992");
    check_ecmascript(0x4430_0000_0000_0000, "295147905179352830000");
    check_ecmascript(0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22");
    check_ecmascript(0x44b5_2d02_c7e1_4af6, "1e+23");
    check_ecmascript(0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23");
    check_ecmascript(0x444b_1ae4_d6e2_ef4e, "999999999999999700000");
    check_ecmascript(0x444b_1ae4_d6e2_ef4f, "999999999999999900000");
    check_ecmascript(0x444b_1ae4_d6e2_ef50, "1e+21");
    check_ecmascript(0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7");
    check_ecmascript(0x3eb0_c6f7_a0b5_ed8d, "0.000001");
    check_ecmascript(0x41b3_de43_5555_5553, "333333333.3333332");
    check_ecmascript(0x41b3_de43_5555_5554, "333333333.33333325");
    check_ecmascript(0x41b3_de43_5555_5555, "333333333.3333333");
    check_ecmascript(0x41b3_de43_5555_5556, "333333333.3333334");
    check_ecmascript(0x41b3_de43_5555_5557, "333333333.33333343");
    check_ecmascript(0xbecb_f647_612f_3696, "-0.0000033333333333333333");
    check_ecmascript(0x4314_3ff3_c1cb_0959, "1424953923781206.2");
}

#[test]
fn a_double_beyond_2_53_never_looks_like_an_integer() {
    check("9007199254740992.0", "9007199254740992");
    check("9007199254740994.0", "9.007199254740994e+15");
    check("-1e20", "-1e+20");
    check("18446744073709551616.0", "1.8446744073709552e+19");
    check("1e300", "1e+300");
}

#[test]
fn integers_keep_every_digit() {
    check("9007199254740993", "9007199254740993");
    check("9223372036854775807", "9223372036854775807");
    check("-9223372036854775808", "-9223372036854775808");
    check("18446744073709551615", "18446744073709551615");
    check("-0", "0");
    check("1e2", "100");
    check("100.0", "100");
}

#[test]
fn members_are_sorted_by_utf_16_code_units() {
    check(
        r#"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Emoji","\u0080":"Ctrl","\u00f6":"O"}"#,
        "{\"\\r\":\"CR\",\"1\":\"One\",\"\u{80}\":\"Ctrl\",\"\u{f6}\":\"O\",\"\u{20ac}\":\"Euro\",\"\u{1f600}\":\"Emoji\",\"\u{fb33}\":\"Dalet\"}",
    );
    check(
        r#"{"b":{"z":1,"a":[{"y":1,"x":2}]},"a":null,"":true}"#,
        r#"{"":true,"a":null,"b":{"a":[{"x":2,"y":1}],"z":1}}"#,
    );
}

#[test]
fn strings_are_escaped_only_where_they_must_be() {
    check(
        r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/\u007f\u2028<>&\b\f\t\u001f""#,
        "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\u{2028}<>&\\b\\f\\t\\u001f\"",
    );
}

#[test]
fn the_sample_of_the_rfc() {
    check(
        r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"literals":[null,true,false]}"#,
        r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}"#,
    );
}

#[test]
fn a_value_of_any_depth_is_written_without_recursion() {
    let mut value = Value::Null;
    for _ in 0..100_000 {
        value = Value::Array(vec![value]);
    }
    assert_eq!(to_vec(&value).len(), 200_004);
}

pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-5_i64..5).prop_map(Value::Int),
        any::<u64>().prop_map(Value::from_u64),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float),
        (-20_i32..25).prop_map(|exponent| Value::Float(10_f64.powi(exponent))),
        ((1_u64 << 52)..(1 << 55)).prop_map(|integer| Value::Float(integer as f64)),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            proptest::collection::btree_map(any::<String>(), inner, 0..12).prop_map(|members| Value::Object(
                Object::from_members(members.into_iter().collect()).unwrap()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn reading_the_canonical_form_gives_the_value_back(value in any_value()) {
        let bytes = to_vec(&value);
        let again = json::read(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(&again, &value);
        prop_assert_eq!(to_vec(&again), bytes);
    }

    #[test]
    fn equal_values_are_those_with_equal_forms(left in any_value(), right in any_value()) {
        prop_assert_eq!(left == right, to_vec(&left) == to_vec(&right));
        prop_assert_eq!(&left.clone(), &left);
    }

    #[test]
    fn small_numbers_of_different_types_are_equal_when_their_forms_are(a in -3_i64..3, b in -3_i64..3) {
        let (int, float) = (Value::Int(a), Value::Float(b as f64));
        prop_assert_eq!(int == float, to_vec(&int) == to_vec(&float));
    }

    #[test]
    fn keys_compare_like_their_utf_16_code_units(left in any::<String>(), right in any::<String>()) {
        let expected = left.encode_utf16().cmp(right.encode_utf16());
        prop_assert_eq!(compare_keys(&left, &right), expected);
    }

    #[test]
    fn a_digest_can_be_fed_directly(value in any_value()) {
        use sha2::Digest as _;
        let mut streamed = sha2::Sha256::new();
        write(&value, &mut streamed);
        prop_assert_eq!(streamed.finalize(), sha2::Sha256::digest(to_vec(&value)));
    }
}
