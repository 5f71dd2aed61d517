//! The native evaluation, the general one and the `cel` crate by itself give the same value or all an error.

use std::collections::HashMap;

use checkrein_core::json::{Limits, Value, read_str};
use proptest::prelude::*;

use super::*;

const VARIABLES: [&str; 6] = ["args", "x", "y", "z", "call.user", "call.cost"];

/// A value of a variable: a scalar as it is, or JSON text for a list or map.
#[derive(Debug, Clone)]
enum Given {
    Missing,
    Scalar(Operand<'static, &'static Value>),
    Json(&'static str),
}

fn scalar() -> impl Strategy<Value = Given> {
    let scalars = vec![
        Operand::Null,
        Operand::Bool(true),
        Operand::Bool(false),
        Operand::Int(0),
        Operand::Int(1),
        Operand::Int(-7),
        Operand::Int(100),
        Operand::Int(i64::MAX),
        Operand::Int(i64::MIN),
        Operand::Int((1 << 53) + 1),
        Operand::Uint(0),
        Operand::Uint(1),
        Operand::Uint(u64::MAX),
        Operand::Double(0.0),
        Operand::Double(-0.0),
        Operand::Double(1.0),
        Operand::Double(1.5),
        Operand::Double(-7.0),
        Operand::Double(9_007_199_254_740_992.0),
        Operand::Double(f64::NAN),
        Operand::Double(f64::INFINITY),
        Operand::Double(f64::NEG_INFINITY),
        Operand::Text(""),
        Operand::Text("a"),
        Operand::Text("ab"),
        Operand::Text("b"),
        Operand::Text("é😀"),
        Operand::Bytes(b""),
        Operand::Bytes(b"a"),
        Operand::Bytes(b"ab"),
    ];
    proptest::sample::select(scalars).prop_map(Given::Scalar)
}

fn given() -> impl Strategy<Value = Given> {
    prop_oneof![
        1 => Just(Given::Missing),
        8 => scalar(),
        2 => proptest::sample::select(vec![
            "[]", "[1]", "[1, 2.0, \"a\", null, true]", "[\"a\", \"b\"]", "[[1], {}]", "{}", "{\"a\":1}",
            "{\"b\":\"ab\",\"a\":{\"a\":[1,2]}}", "{\"a\":null,\"user\":\"a\"}",
        ])
        .prop_map(Given::Json),
    ]
}

fn literal() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "0",
        "1",
        "-1",
        "2",
        "100",
        "9223372036854775807",
        "-9223372036854775808",
        "0u",
        "1u",
        "7u",
        "18446744073709551615u",
        "0.0",
        "1.0",
        "-1.5",
        "1e308",
        "9007199254740992.0",
        "true",
        "false",
        "null",
        "''",
        "'a'",
        "'ab'",
        "\"b\"",
        "'é'",
        "b'a'",
        "b''",
        "[]",
        "[1, 'a']",
        "{}",
        "{'a': 1}",
    ])
    .prop_map(str::to_owned)
}

fn variable() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "x",
        "y",
        "z",
        "args",
        "args.a",
        "args.b",
        "args.a.a",
        "args.user",
        "call.user",
        "call.cost",
        "call",
        "args['a']",
        "args.a.a[0]",
        "x[0]",
        "y['a']",
        "has(args.a)",
        "has(args.a.a)",
        "has(call.user)",
        "has(x.a)",
        "x.a",
    ])
    .prop_map(str::to_owned)
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![2 => literal(), 3 => variable()];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let binary = proptest::sample::select(vec![
            "&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "in",
        ]);
        let test = proptest::sample::select(vec!["startsWith", "endsWith", "contains"]);
        let pattern = proptest::sample::select(vec!["^a", "b$", "", "[a-z]+", "é"]);
        let macros = proptest::sample::select(vec!["all", "exists", "map", "filter", "exists_one"]);
        prop_oneof![
            8 => (inner.clone(), binary, inner.clone()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            1 => inner.clone().prop_map(|of| format!("!({of})")),
            1 => inner.clone().prop_map(|of| format!("-({of})")),
            1 => inner.clone().prop_map(|of| format!("size({of})")),
            1 => inner.clone().prop_map(|of| format!("({of}).size()")),
            1 => inner.clone().prop_map(|of| format!("({of}).a")),
            1 => inner.clone().prop_map(|of| format!("has(({of}).a)")),
            1 => inner.clone().prop_map(|of| format!("string({of})")),
            1 => (inner.clone(), pattern).prop_map(|(of, p)| format!("({of}).matches('{p}')")),
            2 => (inner.clone(), test, inner.clone()).prop_map(|(l, test, r)| format!("({l}).{test}({r})")),
            2 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            2 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} in [{b}, {c}])")),
            1 => (inner.clone(), inner.clone()).prop_map(|(of, index)| format!("({of})[{index}]")),
            1 => (inner.clone(), macros, inner.clone()).prop_map(|(of, m, body)| format!("({of}).{m}(e, {body} == e)")),
        ]
    })
}

/// Expressions that mostly have a value: `x` is a number, `y` text, `z` a boolean, `args` a map.
fn sensible() -> impl Strategy<Value = String> {
    let pick = |words: &[&'static str]| proptest::sample::select(words.to_vec()).prop_map(str::to_owned);
    let number = pick(&[
        "x",
        "1",
        "2",
        "-7",
        "0",
        "size(y)",
        "y.size()",
        "args.n",
        "call.cost",
        "x % 7",
        "size(args)",
    ])
    .prop_recursive(2, 6, 2, move |inner| {
        let operator = proptest::sample::select(vec!["+", "-", "*", "/", "%"]);
        (inner.clone(), operator, inner).prop_map(|(l, op, r)| format!("({l} {op} {r})"))
    });
    let text = pick(&[
        "y",
        "'a'",
        "''",
        "'é😀'",
        "args.s",
        "call.user",
        "args['s']",
        "args.l[0]",
        "y + 'a'",
        "'a' + y + args.s",
    ]);
    let condition = prop_oneof![
        4 => (number.clone(), pick(&["<", "<=", ">", ">=", "==", "!="]), number.clone()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        3 => (text.clone(), pick(&["<", "<=", ">", ">=", "==", "!="]), text.clone()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
        2 => (text.clone(), pick(&["startsWith", "endsWith", "contains"]), text.clone()).prop_map(|(l, test, r)| format!("({l}).{test}({r})")),
        2 => (text.clone(), text.clone()).prop_map(|(of, other)| format!("{of} in ['a', {other}, 'b']")),
        1 => (number.clone(), number.clone()).prop_map(|(of, other)| format!("{of} in [1, {other}, 2.0, 'a']")),
        1 => text.clone().prop_map(|of| format!("{of} in args.l")),
        1 => text.clone().prop_map(|of| format!("{of} in args")),
        1 => text.clone().prop_map(|of| format!("({of}).matches('^a|é')")),
        1 => pick(&["z", "true", "!z", "has(args.n)", "has(args.none)", "has(call.user)", "args.none", "args.l == ['a', 'b']",
            "args.l.exists(e, e == y)", "args.l.all(e, size(e) > 0)", "args == args"]),
    ];
    let condition = condition.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), proptest::sample::select(vec!["&&", "||", "==", "!="]), inner.clone())
                .prop_map(|(l, op, r)| format!("({l}) {op} ({r})")),
            inner.clone().prop_map(|of| format!("!({of})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    });
    prop_oneof![6 => condition.clone(), 1 => number.clone(), 1 => text.clone(), 1 => (condition, number, text).prop_map(|(c, n, t)| format!("{c} ? string({n}) : {t}"))]
}

fn sensibly_given() -> impl Strategy<Value = Vec<Given>> {
    let pick = |scalars: &[Operand<'static, &'static Value>]| {
        proptest::sample::select(scalars.to_vec()).prop_map(Given::Scalar)
    };
    let number = pick(&[
        Operand::Int(1),
        Operand::Int(0),
        Operand::Int(100),
        Operand::Int(i64::MAX),
        Operand::Double(1.0),
        Operand::Uint(2),
    ]);
    let text = pick(&[Operand::Text("a"), Operand::Text(""), Operand::Text("é😀"), Operand::Text("ab")]);
    let truth = pick(&[Operand::Bool(true), Operand::Bool(false)]);
    let args = proptest::sample::select(vec![
        r#"{"n":1,"s":"a","l":["a","b"]}"#,
        r#"{"n":2.5,"s":"ab","l":["é😀"]}"#,
        r#"{"n":-7,"s":"","l":[]}"#,
        r#"{"s":"b","l":["a"]}"#,
    ])
    .prop_map(Given::Json);
    (args, number.clone(), text.clone(), truth, prop_oneof![3 => text, 1 => Just(Given::Missing)], number)
        .prop_map(|(args, x, y, z, user, cost)| vec![args, x, y, z, user, cost])
}

fn to_cel(operand: Operand<'_, &Value>) -> cel::Value {
    match operand {
        Operand::Null => cel::Value::Null,
        Operand::Bool(value) => value.into(),
        Operand::Int(number) => number.into(),
        Operand::Uint(number) => number.into(),
        Operand::Double(number) => number.into(),
        Operand::Text(text) => text.into(),
        Operand::Bytes(bytes) => bytes.to_vec().into(),
        Operand::List(value) => {
            value.as_array().unwrap().iter().map(|item| to_cel(item.into())).collect::<Vec<_>>().into()
        }
        Operand::Map(value) => {
            let members = value.as_object().unwrap().iter();
            members.map(|(key, value)| (key, to_cel(value.into()))).collect::<HashMap<_, _>>().into()
        }
        Operand::Missing | Operand::Unreadable => unreachable!("never converted"),
    }
}

/// What the crate by itself makes of the text, independent of everything in this module.
fn reference(text: &str, slots: &[Operand<'_, &Value>]) -> Result<cel::Value, String> {
    let program = cel::Program::compile(text).map_err(|error| error.to_string())?;
    let mut context = cel::Context::default();
    let mut call: HashMap<&str, cel::Value> = HashMap::new();
    for (name, operand) in VARIABLES.iter().zip(slots) {
        match (*operand, name.strip_prefix("call.")) {
            (Operand::Missing, _) => {}
            (operand, Some(member)) => drop(call.insert(member, to_cel(operand))),
            (operand, None) => context.add_variable_from_value(*name, to_cel(operand)),
        }
    }
    context.add_variable_from_value("call", call);
    program.execute(&context).map_err(|error| error.to_string())
}

fn same(ours: &Result<Outcome, EvaluationError>, theirs: &Result<cel::Value, String>) -> bool {
    match (ours, theirs) {
        (Err(_), Err(_)) => true,
        (Ok(ours), Ok(theirs)) => match (ours, theirs) {
            (Outcome::Null, cel::Value::Null) => true,
            (Outcome::Bool(left), cel::Value::Bool(right)) => left == right,
            (Outcome::Int(left), cel::Value::Int(right)) => left == right,
            (Outcome::Uint(left), cel::Value::UInt(right)) => left == right,
            (Outcome::Double(left), cel::Value::Float(right)) => {
                left.to_bits() == right.to_bits() || (left.is_nan() && right.is_nan())
            }
            (Outcome::Text(left), cel::Value::String(right)) => *left == **right,
            (Outcome::Other("bytes"), cel::Value::Bytes(_))
            | (Outcome::Other("list"), cel::Value::List(_))
            | (Outcome::Other("map"), cel::Value::Map(_)) => true,
            _ => false,
        },
        _ => false,
    }
}

fn check(text: &str, values: &[Given]) -> Result<(bool, bool), TestCaseError> {
    let parsed: Vec<Value> = values
        .iter()
        .map(|given| match given {
            Given::Json(json) => read_str(json, &Limits::default()).unwrap(),
            _ => Value::Null,
        })
        .collect();
    let slots: Vec<Operand<'_, &Value>> = values
        .iter()
        .zip(&parsed)
        .map(|(given, json)| match given {
            Given::Missing => Operand::Missing,
            Given::Scalar(scalar) => *scalar,
            Given::Json(_) => json.into(),
        })
        .collect();
    let compiled = match Expression::compile(text, &VARIABLES) {
        Ok(compiled) => compiled,
        // Only what a bound refuses may be refused, and members that the group `call` does not have.
        Err(error) => {
            let by_bound = error.code.starts_with("expression_too_") || error.code.contains("comprehensions");
            let by_name = error.message.contains("unknown variable `call.");
            prop_assert!(by_bound || by_name, "{text}: {error:?}");
            return Ok((false, false));
        }
    };
    let scope = JsonScope { slots: &slots };
    let (ours, generally) = (compiled.evaluate(&scope), compiled.evaluate_generally(&scope));
    let theirs = reference(text, &slots);
    prop_assert!(same(&ours, &theirs), "{text}\nours   {ours:?}\ntheirs {theirs:?}");
    prop_assert!(same(&generally, &theirs), "{text}\ngeneral {generally:?}\ntheirs  {theirs:?}");
    let truth = compiled.test(&scope);
    let expected = match &theirs {
        Ok(cel::Value::Bool(value)) => Some(*value),
        _ => None,
    };
    prop_assert_eq!(truth.ok(), expected, "{}", text);
    Ok((compiled.is_native(), ours.is_ok()))
}

proptest! {
    // `PROPTEST_CASES` raises the number.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn random_expressions_mean_what_cel_says(
        text in expression(),
        values in proptest::collection::vec(given(), VARIABLES.len()),
    ) {
        check(&text, &values)?;
    }

    #[test]
    fn sensible_expressions_mean_what_cel_says(text in sensible(), values in sensibly_given()) {
        check(&text, &values)?;
    }
}

#[test]
fn the_generator_reaches_both_evaluations_and_values() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut native, mut values, cases) = (0, 0, 500);
    for _ in 0..cases {
        let text = sensible().new_tree(&mut runner).unwrap().current();
        let given = sensibly_given().new_tree(&mut runner).unwrap().current();
        let (is_native, has_value) = check(&text, &given).unwrap();
        native += usize::from(is_native);
        values += usize::from(has_value);
    }
    assert!(native > cases / 2 && native < cases, "{native} of {cases} were native");
    assert!(values > cases / 2, "{values} of {cases} had a value");
}
