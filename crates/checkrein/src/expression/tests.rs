//! What is refused at load, how values and errors read, the bounds, and what an evaluation costs.

use checkrein_core::json::{Limits, Value, read_str};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const VARIABLES: [&str; 4] = ["args", "amount", "user", "action.tenant"];

fn check_refused(text: &str, expected: Expect) {
    let error = Expression::compile(text, &VARIABLES).expect_err(text);
    let meant = text.get(error.span.clone()).expect("the span lies in the text");
    let meant: String = meant.chars().take(40).collect();
    let hint = error.hint.as_deref().unwrap_or("-");
    expected.assert_eq(&format!("{} `{meant}`: {error} ({hint})", error.code));
}

#[test]
fn unknown_names_are_refused_with_advice() {
    check_refused(
        "amuont <= 5",
        expect!["expression_unknown_variable `amuont`: unknown variable `amuont` (did you mean `amount`?)"],
    );
    check_refused(
        "action.tenat == ''",
        expect![
            "expression_unknown_variable `action.tenat`: unknown variable `action.tenat` (did you mean `action.tenant`?)"
        ],
    );
    check_refused(
        "amount > 0 && zzz",
        expect![
            "expression_unknown_variable `zzz`: unknown variable `zzz` (known here: args, amount, user, action.tenant)"
        ],
    );
    check_refused(
        "has(action.x)",
        expect![
            "expression_unknown_variable `has(`: unknown variable `action.x` (known here: args, amount, user, action.tenant)"
        ],
    );
    check_refused(
        "args.l.all(x, y > 1)",
        expect![
            "expression_unknown_variable `y`: unknown variable `y` (known here: args, amount, user, action.tenant)"
        ],
    );
    check_refused(
        "user.startswith('a')",
        expect![
            "expression_unknown_function `startswith(`: unknown function `startswith` (did you mean `startsWith`?)"
        ],
    );
    check_refused(
        "now() > 1",
        expect![
            "expression_unknown_function `now(`: unknown function `now` (known: size, contains, startsWith, endsWith, matches, string, int, uint, double, bool, bytes, type, dyn)"
        ],
    );
    check_refused(
        "optional.of(1)",
        expect![
            "expression_unknown_function `of(`: unknown function `of` (known: size, contains, startsWith, endsWith, matches, string, int, uint, double, bool, bytes, type, dyn)"
        ],
    );
}

#[test]
fn text_that_does_not_parse_is_refused_at_its_place() {
    check_refused(
        "amount <",
        expect!["expression_syntax ``: the expression does not parse: unexpected end (-)"],
    );
    check_refused(
        "é = 1",
        expect!["expression_syntax `é`: the expression does not parse: token recognition error at: 'é' (-)"],
    );
    check_refused(
        "user ==\n  'a' 'b'",
        expect![
            "expression_syntax `'`: the expression does not parse: unexpected ''b'' expecting the end (-)"
        ],
    );
    check_refused("  ", expect!["expression_empty `  `: the expression is empty (-)"]);
    check_refused(
        "'open",
        expect![
            "expression_syntax `'`: the expression does not parse: token recognition error at: ''open' (-)"
        ],
    );
    check_refused(
        "Type{a: 1}",
        expect!["expression_unsupported `{`: message literals are not supported (-)"],
    );
}

#[test]
fn patterns_are_literal_and_small() {
    check_refused(
        "user.matches(args.pattern)",
        expect![
            "expression_regex_not_literal `matches(`: the pattern of `matches` is not a text literal (write the pattern into the expression, so that it is checked and compiled once)"
        ],
    );
    check_refused(
        "user.matches('(')",
        expect!["expression_regex_invalid `matches(`: the pattern `(` is not accepted: unclosed group (-)"],
    );
    check_refused(
        r"matches(user, '(\\w{200}){200}')",
        expect![[
            r#"expression_regex_invalid `matches(`: the pattern `(\w{200}){200}` is not accepted: its program exceeds 262144 bytes (-)"#
        ]],
    );
}

#[test]
fn what_costs_too_much_is_refused_at_load() {
    check_refused(
        &"(".repeat(5_000),
        expect![
            "expression_too_long `((((((((((((((((((((((((((((((((((((((((`: the expression has 5000 bytes, at most 4096 are accepted (-)"
        ],
    );
    check_refused(&"(".repeat(4_000), expect!["expression_too_deep `(`: more than 24 levels of nesting (-)"]);
    check_refused(
        &format!("amount{}", ".a".repeat(2_000)),
        expect![
            "expression_too_deep `amount.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a`: more than 40 levels of nesting (-)"
        ],
    );
    check_refused(
        &format!("amount{}", "+1".repeat(2_000)),
        expect![
            "expression_too_deep `amount+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1`: more than 40 levels of nesting (-)"
        ],
    );
    check_refused(
        &format!("{}true", "true?true:".repeat(400)),
        expect![
            "expression_too_deep `true?true:true?true:true?true:true?true:`: the expression nests too deeply (-)"
        ],
    );
    check_refused(
        &format!("amount in [{}0]", "0,".repeat(2_000)),
        expect![
            "expression_too_large `amount in [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0`: the expression has 2004 parts, at most 1000 are accepted (-)"
        ],
    );
    check_refused(
        "args.a.all(x, args.b.all(y, args.c.all(z, x == y)))",
        expect![
            "expression_nested_comprehensions `args.a.all(x, args.b.all(y, args.c.all(z`: more than 2 comprehensions inside one another (-)"
        ],
    );
    check_refused(
        "args.a.map(x, args.a.map(y, [args.a + args.a + args.a + args.a].map(z, z + z)))",
        expect![
            "expression_nested_comprehensions `args.a.map(x, args.a.map(y, [args.a + ar`: more than 2 comprehensions inside one another (-)"
        ],
    );
}

fn evaluated(text: &str, json: &str) -> String {
    let args = read_str(json, &Limits::default()).unwrap();
    let slots = [
        Operand::from(&args),
        args.get("amount").map_or(Operand::Missing, Operand::from),
        args.get("user").map_or(Operand::Missing, Operand::from),
        Operand::Text("acme"),
    ];
    let expression = Expression::compile(text, &VARIABLES).expect(text);
    let way = if expression.is_native() { "native" } else { "general" };
    match expression.evaluate(&JsonScope { slots: &slots }) {
        Ok(outcome) => format!("{way} {outcome:?}"),
        Err(error) => format!("{way} {} `{}`: {error}", error.code, &text[error.span.clone()]),
    }
}

#[test]
fn values_and_errors() {
    let json = r#"{"amount":100,"user":"zoë","list":[1,2,3],"big":9223372036854775807}"#;
    let check = |text: &str, expected: Expect| expected.assert_eq(&evaluated(text, json));
    check("amount <= 100 && user != ''", expect!["native Bool(true)"]);
    check("'refund:' + user + ':' + action.tenant", expect![[r#"native Text("refund:zoë:acme")"#]]);
    check("'refund:' + string(amount)", expect![[r#"general Text("refund:100")"#]]);
    check("'refund:' + amount", expect!["native expression_type_error `amount`: `amount` is int, not text"]);
    check("amount * 10000000", expect!["native Int(1000000000)"]);
    check("args.big + 1", expect!["native expression_overflow `+`: the result of `+` exceeds 64 bits"]);
    check("args.list.all(x, x > 0)", expect!["general Bool(true)"]);
    check(
        "args.nothing",
        expect!["native expression_no_such_member `args.nothing`: `args.nothing` is missing"],
    );
    check(
        "size(user) / (amount - 100)",
        expect!["native expression_division_by_zero `/`: a division by zero"],
    );
    check("user < amount", expect!["native expression_type_error `<`: `<` does not take string and int"]);
    check(
        "amount && true",
        expect!["native expression_not_boolean `amount`: `amount` is int, not a boolean"],
    );
    check("user.matches('^z.+$')", expect!["native Bool(true)"]);
    check("args.list.exists(x, user.matches('^z') && x == 3)", expect!["general Bool(true)"]);
    check("action.tenant in ['acme', 'other']", expect!["native Bool(true)"]);
    check("size(action) == 1", expect!["general Bool(true)"]);
    check("args.list == [1, 2, 3]", expect!["general Bool(true)"]);
    check("type(amount) == int", expect!["general Bool(true)"]);
    check("has(args.note) ? size(args.note) : 0", expect!["native Int(0)"]);
}

#[test]
fn a_missing_variable_is_an_error_but_can_be_absorbed() {
    let check = |text: &str, expected: Expect| expected.assert_eq(&evaluated(text, r#"{"user":"a"}"#));
    check("amount > 5", expect!["native expression_missing_variable `amount`: `amount` is missing"]);
    check("amount > 5 || user == 'a'", expect!["native Bool(true)"]);
    check(
        "amount > 5 || user == 'b'",
        expect!["native expression_missing_variable `amount`: `amount` is missing"],
    );
    check("has(args.amount) && amount > 5", expect!["native Bool(false)"]);
}

#[test]
fn each_use_wants_its_type() {
    let one = Value::Int(1);
    let slots = [Operand::from(&one), Operand::Int(-1), Operand::Text("u"), Operand::Missing];
    let scope = JsonScope { slots: &slots };
    let compiled = |text: &str| Expression::compile(text, &VARIABLES).unwrap();
    assert_eq!(compiled("user").key(&scope), Ok("u".to_owned()));
    assert_eq!(compiled("amount").key(&scope).unwrap_err().code, "expression_not_text");
    assert_eq!(compiled("args * 3").cost_nano_usd(&scope), Ok(3));
    assert_eq!(compiled("3u").cost_nano_usd(&scope), Ok(3));
    assert_eq!(compiled("amount").cost_nano_usd(&scope).unwrap_err().code, "expression_negative_cost");
    assert_eq!(compiled("0.5").cost_nano_usd(&scope).unwrap_err().code, "expression_not_integer");
    for text in ["amount", "user", "'a' + user", "[true]", "null", "1 == 1 ? 1 : 2"] {
        assert_eq!(compiled(text).test(&scope).unwrap_err().code, "expression_not_boolean", "{text}");
    }
}

#[test]
fn an_expression_says_what_it_reads() {
    let reads = |text: &str| {
        Expression::compile(text, &VARIABLES)
            .unwrap()
            .variables()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(reads("user == 'x' && amount > 1"), "amount user");
    assert_eq!(reads("args.list.all(user, user > 1)"), "args");
    assert_eq!(reads("size(action) > 0 || has(args.amount)"), "args action.tenant");
    assert_eq!(reads("1 < 2"), "");
}

#[test]
fn something_unreadable_is_an_error_only_where_it_is_read() {
    let slots = [Operand::Unreadable, Operand::Int(1), Operand::Missing, Operand::Missing];
    let scope = JsonScope { slots: &slots };
    let result =
        |text: &str| Expression::compile(text, &VARIABLES).unwrap().test(&scope).map_err(|error| error.code);
    assert_eq!(result("amount == 1"), Ok(true));
    assert_eq!(result("args != 'bad'"), Err("expression_unreadable"));
    assert_eq!(result("args.all(x, x)"), Err("expression_unreadable"));
    assert_eq!(result("has(args.a)"), Err("expression_unreadable"));
}

#[test]
fn the_input_of_a_comprehension_is_bounded() {
    let result = |text: &str, length: usize| {
        let args = Value::Array(vec![Value::Int(1); length]);
        let slots = [Operand::from(&args), Operand::Int(1), Operand::Missing, Operand::Missing];
        let expression = Expression::compile(text, &VARIABLES).unwrap();
        expression.test(&JsonScope { slots: &slots }).map_err(|error| error.code)
    };
    assert_eq!(result("args.all(x, x > 0)", 1_000), Ok(true));
    assert_eq!(result("args.all(x, args.all(y, x == y))", 100), Ok(true));
    assert_eq!(result("args.all(x, args.all(y, x == y))", 1_000), Err("expression_input_too_large"));
    assert_eq!(result("args.all(x, x > 0)", 9_000), Err("expression_input_too_large"));
    assert_eq!(result("args == args", 20_000), Err("expression_input_too_large"));
    assert_eq!(result("amount in args", 20_000), Ok(true));
}

proptest! {
    #[test]
    fn any_text_is_compiled_or_refused(text in any::<String>()) {
        let _ = Expression::compile(&text, &VARIABLES);
    }

    #[test]
    fn nearly_valid_text_is_compiled_or_refused_inside_itself(pieces in proptest::collection::vec(
        proptest::sample::select(vec![
            "amount", "args", "user", ".", "a", "'", "\"", "r'", "b'", "\\u00", "\\", "(", ")", "[", "]", "{", "}",
            ",", "?", ":", "+", "-", "!", "==", "<", " in ", "&&", "||", "1", "0x", "1u", "1.5e", "has(args.a)",
            ".all(x, ", ".map(", "matches(", "null", "true", "\n", "//", "é", "😀", "`", "@", "_", "..", "#",
        ]), 0..20)) {
        let text = pieces.concat();
        if let Err(error) = Expression::compile(&text, &VARIABLES) {
            prop_assert!(text.get(error.span.clone()).is_some(), "{text:?} {error:?}");
        }
    }
}

/// `cargo test --release -p checkrein five_simple_rules -- --ignored --nocapture`
#[test]
#[ignore = "prints a timing; run it in release mode"]
fn five_simple_rules_take_nanoseconds() {
    let names = ["amount", "currency", "note", "user", "args"];
    let args = read_str(r#"{"amount":42,"currency":"eur","user":"zoe"}"#, &Limits::default()).unwrap();
    let slots = [
        Operand::Int(42),
        Operand::Text("eur"),
        Operand::Text("a note of some forty characters, or so."),
        Operand::Text("zoe"),
        Operand::from(&args),
    ];
    let scope = JsonScope { slots: &slots };
    let texts = [
        "true",
        "amount <= 100",
        "currency in ['eur', 'usd']",
        "size(note) < 200",
        "amount > 0",
        "user != ''",
        "args.amount <= 100",
        "amount <= 100 && currency in ['eur','usd'] && size(note) < 200 && amount > 0 && user != ''",
        "args.all(k, size(k) > 0)",
    ];
    for text in texts {
        let expression = Expression::compile(text, &names).unwrap();
        let mut best = f64::MAX;
        for _ in 0..2_000 {
            let rounds = if expression.is_native() { 1_000 } else { 50 };
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                assert_eq!(std::hint::black_box(&expression).test(std::hint::black_box(&scope)), Ok(true));
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(rounds));
        }
        println!("{best:8.1} ns  native {}  {text}", expression.is_native());
    }
}

/// The dearest inputs that the bounds let through end in a time that a caller can wait for.
/// `cargo test --release -p checkrein dearest -- --ignored --nocapture` prints the times.
#[test]
#[ignore = "prints a timing; run it in release mode"]
fn the_dearest_accepted_evaluations_end() {
    let texts = [
        "args.all(x, x > 0)",
        "args.all(x, args.all(y, x == x && y == y))",
        "size(args.map(x, args)) > 0",
        "size(args.filter(x, args.exists(y, y == x + 1))) >= 0",
        "args.map(x, args + args)[0] == args",
        "size(args.map(x, user + user)) > 0",
        "args.all(x, user.matches('^(a|b)*$') || true)",
        "args.all(x, !(user + 'a').contains(user + 'b'))",
    ];
    for text in texts {
        let expression = Expression::compile(text, &VARIABLES).unwrap();
        let bound = expression.general.list_bound.min(9_000);
        let list = Value::Array((0..bound).map(|item| Value::Int(item as i64 + 1)).collect());
        let text_argument = "ab".repeat(bound as usize * bounds::TEXT_BYTES_PER_ITEM / 2);
        let slots = [Operand::from(&list), Operand::Int(1), Operand::Text(&text_argument), Operand::Missing];
        let start = std::time::Instant::now();
        let result = expression.test(&JsonScope { slots: &slots });
        let elapsed = start.elapsed();
        println!("{elapsed:>12.1?} over {bound:>5} items  {text}  {:?}", result.map_err(|error| error.code));
        assert!(elapsed.as_secs() < 10, "{text}");
    }
}
