//! `checkrein policy` and `checkrein schema` as a shell sees them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::Path;
use std::process::{Command, Output};

use expect_test::{Expect, expect};

const VALID: &str = r#"version = 1

[budgets.team]
key = "action.tenant"
limit = "50.00 usd"
window = "1d"

[tools."stripe.*"]
limits = [{ max_calls = 100, window = "1m" }]

[tools."stripe.refund"]
rules = ["args.amount > 0"]
budgets = [{ name = "team", cost = "0.30 usd" }]
breaker = { name = "stripe" }
"#;

const WRONG: &str = r#"version = 1

[budgets.team]
limit = 50.00

[tools."stripe.refund"]
limts = [{ max_calls = 10, window = "1h" }]
budgets = [{ name = "taem", cost = "0.30 usd" }]
rules = ["args.amount >"]
"#;

fn run(directory: &Path, columns: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .current_dir(directory)
        .env("COLUMNS", columns)
        .output()
        .unwrap()
}

/// All that a shell sees. Spaces at the ends of lines, which help texts have, do not survive in a snapshot.
fn seen(code: i32, out: &str, err: &str) -> String {
    let lines = |text: &str| text.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    format!("exit {code}\n-- stdout\n{}-- stderr\n{}", lines(out), lines(err))
}

/// Runs a verb in a directory with one file, and compares all that a shell sees.
fn check(file: &str, text: &str, columns: &str, arguments: &[&str], expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        std::fs::write(directory.path().join(file), text).unwrap();
    }
    let output = run(directory.path(), columns, arguments);
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    let width: usize = columns.parse().unwrap();
    if !arguments.contains(&"json") && !arguments.contains(&"--help") {
        for line in out.lines().chain(err.lines()) {
            assert!(line.chars().count() <= width, "{line}");
        }
    }
    expected.assert_eq(&seen(code, &out, &err));
}

#[test]
fn a_valid_file() {
    check(
        "checkrein.toml",
        VALID,
        "40",
        &["policy", "check"],
        &expect![[r#"
        exit 0
        -- stdout
        valid: checkrein.toml
          tools     1, patterns 1
          budgets   1
          breakers  1
          digest    62c692d2f2671b9f
        -- stderr
    "#]],
    );
    check(
        "checkrein.toml",
        VALID,
        "80",
        &["policy", "check", "checkrein.toml", "--output", "json"],
        &expect![[r#"
            exit 0
            -- stdout
            {
              "breakers": 1,
              "budgets": 1,
              "digest": "62c692d2f2671b9f17f60ee4cc8627ae1f070913a0a442a8a10400056308adc0",
              "file": "checkrein.toml",
              "patterns": 1,
              "problems": [],
              "tools": 1,
              "valid": true
            }
            -- stderr
        "#]],
    );
}

#[test]
fn a_file_with_several_problems() {
    check(
        "checkrein.toml",
        WRONG,
        "80",
        &["policy", "check"],
        &expect![[r#"
            exit 1
            -- stdout
            -- stderr
            policy_float_money: money as a float: `50.00`
              --> checkrein.toml:4:9
            4 | limit = 50.00
              |         ^^^^^
              hint: floats are not exact: write `"50.00 usd"`

            policy_unknown_field: unknown field `limts`
              --> checkrein.toml:7:1
            7 | limts = [{ max_calls = 10, window = "1h" }]
              | ^^^^^
              hint: did you mean `limits`?

            policy_unknown_name: no budget is named `taem`
              --> checkrein.toml:8:21
            8 | budgets = [{ name = "taem", cost = "0.30 usd" }]
              |                     ^^^^^^
              hint: known: `team`

            expression_syntax: the expression does not parse: unexpected end
              --> checkrein.toml:9:24
            9 | rules = ["args.amount >"]
              |                        ^

            4 problems
        "#]],
    );
    check(
        "checkrein.toml",
        WRONG,
        "40",
        &["policy", "check"],
        &expect![[r#"
            exit 1
            -- stdout
            -- stderr
            policy_float_money: money as a float:
            `50.00`
              --> checkrein.toml:4:9
            4 | limit = 50.00
              |         ^^^^^
              hint: floats are not exact: write
              `"50.00 usd"`

            policy_unknown_field: unknown field
            `limts`
              --> checkrein.toml:7:1
            7 | limts = [{ max_calls = 10, window =
              | ^^^^^
              hint: did you mean `limits`?

            policy_unknown_name: no budget is named
            `taem`
              --> checkrein.toml:8:21
            8 | { name = "taem", cost = "0.30 usd" }
              |          ^^^^^^
              hint: known: `team`

            expression_syntax: the expression does
            not parse: unexpected end
              --> checkrein.toml:9:24
            9 | rules = ["args.amount >"]
              |                        ^

            4 problems
        "#]],
    );
    check(
        "checkrein.toml",
        WRONG,
        "80",
        &["policy", "check", "--output", "json"],
        &expect![[r#"
        exit 1
        -- stdout
        {
          "file": "checkrein.toml",
          "more": 0,
          "problems": [
            {
              "bytes": [
                36,
                41
              ],
              "code": "policy_float_money",
              "column": 9,
              "hint": "floats are not exact: write `\"50.00 usd\"`",
              "line": 4,
              "message": "money as a float: `50.00`"
            },
            {
              "bytes": [
                67,
                72
              ],
              "code": "policy_unknown_field",
              "column": 1,
              "hint": "did you mean `limits`?",
              "line": 7,
              "message": "unknown field `limts`"
            },
            {
              "bytes": [
                131,
                137
              ],
              "code": "policy_unknown_name",
              "column": 21,
              "hint": "known: `team`",
              "line": 8,
              "message": "no budget is named `taem`"
            },
            {
              "bytes": [
                183,
                183
              ],
              "code": "expression_syntax",
              "column": 24,
              "hint": null,
              "line": 9,
              "message": "the expression does not parse: unexpected end"
            }
          ],
          "valid": false
        }
        -- stderr
    "#]],
    );
}

#[test]
fn what_is_shown_is_inert() {
    let text = "version = 1\n\"\\u001b[2J\u{202e}\" = 1\n";
    for output in ["text", "json"] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("checkrein.toml"), text).unwrap();
        let output = run(directory.path(), "60", &["policy", "check", "--output", output]);
        assert_eq!(output.status.code(), Some(1));
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert!(shown.contains("202e"), "{shown}");
    }
}

#[test]
fn the_policy_of_a_project_and_its_absence() {
    let project = format!("[project]\nname = \"x\"\n[tool.checkrein]\n{}", "version = 1\n");
    check(
        "pyproject.toml",
        &project,
        "80",
        &["policy", "check"],
        &expect![[r#"
        exit 0
        -- stdout
        valid: pyproject.toml
          tools     0, patterns 0
          budgets   0
          breakers  0
          digest    df3c7a3fb61297c5
        -- stderr
    "#]],
    );
    check(
        "",
        "",
        "60",
        &["policy", "check"],
        &expect![[r#"
        exit 2
        -- stdout
        -- stderr
        policy_not_found: no `checkrein.toml` and no
        `[tool.checkrein]` in `pyproject.toml`
          --> .
          hint: name the file of the policy

        1 problem
    "#]],
    );
    check(
        "",
        "",
        "60",
        &["policy", "check", "none.toml"],
        &expect![[r#"
        exit 2
        -- stdout
        -- stderr
        policy_unreadable: the file cannot be read: No such file or
        directory (os error 2)
          --> none.toml
          hint: check its name and permissions

        1 problem
    "#]],
    );
    check(
        "checkrein.toml",
        "",
        "60",
        &["policy", "check"],
        &expect![[r#"
        exit 1
        -- stdout
        -- stderr
        policy_missing_field: a policy has no `version`
          --> checkrein.toml
          hint: add it: the version of this format

        1 problem
    "#]],
    );
}

const ACTION: &str = r#"{"name": "stripe.refund", "args": {"amount": 5}, "tenant": "acme"}"#;

/// Explains an action by the valid policy, and compares all that a shell sees.
fn check_explained(action: &str, arguments: &[&str], expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("checkrein.toml"), VALID).unwrap();
    std::fs::write(directory.path().join("action.json"), action).unwrap();
    let arguments = [&["policy", "explain", "action.json"], arguments].concat();
    let output = run(directory.path(), "60", &arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!format!("{out}{err}").contains(['\u{1b}', '\u{202e}']), "{out:?} {err:?}");
    let code = output.status.code().unwrap();
    expected.assert_eq(&seen(code, &out, &err));
}

#[test]
fn an_action_is_explained() {
    check_explained(
        ACTION,
        &[],
        &expect![[r#"
            exit 0
            -- stdout
            allow: stripe.refund
              pass: rule `args.amount > 0`
                from [tools."stripe.refund"]
              pass: breaker `stripe`
                from [breakers.stripe], [tools."stripe.refund"]
              pass: limit `stripe.*.rate`
                from [tools."stripe.*"]
                ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
                spent 0, limit 100 calls
              pass: budget `team`
                from [budgets.team], [tools."stripe.refund"]
                ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
                spent 0, limit 50 usd
            nothing is counted: name a store with --store
            -- stderr
        "#]],
    );
    check_explained(
        ACTION,
        &["--output", "json"],
        &expect![[r#"
            exit 0
            -- stdout
            {
              "at": null,
              "counted": false,
              "gates": [
                {
                  "kind": "rule",
                  "meter": null,
                  "mode": "enforce",
                  "name": "args.amount > 0",
                  "pass": true,
                  "reasons": [],
                  "sections": [
                    "tools.\"stripe.refund\""
                  ]
                },
                {
                  "kind": "breaker",
                  "meter": null,
                  "mode": "enforce",
                  "name": "stripe",
                  "pass": true,
                  "reasons": [],
                  "sections": [
                    "breakers.stripe",
                    "tools.\"stripe.refund\""
                  ]
                },
                {
                  "kind": "limit",
                  "meter": {
                    "held": "0",
                    "limit": "100",
                    "spent": "0",
                    "unit": "calls"
                  },
                  "mode": "enforce",
                  "name": "stripe.*.rate",
                  "pass": true,
                  "reasons": [],
                  "sections": [
                    "tools.\"stripe.*\""
                  ]
                },
                {
                  "kind": "budget",
                  "meter": {
                    "held": "0",
                    "limit": "50",
                    "spent": "0",
                    "unit": "usd"
                  },
                  "mode": "enforce",
                  "name": "team",
                  "pass": true,
                  "reasons": [],
                  "sections": [
                    "budgets.team",
                    "tools.\"stripe.refund\""
                  ]
                }
              ],
              "observed": [],
              "reasons": [],
              "tool": "stripe.refund",
              "verdict": "allow"
            }
            -- stderr
        "#]],
    );
    check_explained(
        r#"{"name": "stripe.refund", "args": {"amount": -5}}"#,
        &[],
        &expect![[r#"
            exit 1
            -- stdout
            block: stripe.refund
              refuse: rule `args.amount > 0`
                from [tools."stripe.refund"]
                rule_violated: a rule refuses these arguments:
                args.amount > 0; never with these arguments
              not asked: breaker `stripe`
                from [breakers.stripe], [tools."stripe.refund"]
              not asked: limit `stripe.*.rate`
                from [tools."stripe.*"]
              refuse: budget `team`
                from [budgets.team], [tools."stripe.refund"]
                invalid_action: the action is malformed: the key
                `action.tenant` has no value; never with these arguments
            nothing is counted: name a store with --store
            -- stderr
        "#]],
    );
    check_explained(
        r#"{"name": "other\u001b[2J\u202e"}"#,
        &[],
        &expect![[r#"
            exit 1
            -- stdout
            block: other\u{1b}[2J\u{202e}
              unknown_tool: no policy covers this tool: no section
              covers it
            nothing is counted: name a store with --store
            -- stderr
        "#]],
    );
    check_explained(
        r#"{"name": "other\u001b[2J\u202e"}"#,
        &["--output", "json"],
        &expect![[r#"
            exit 1
            -- stdout
            {
              "at": null,
              "counted": false,
              "gates": [],
              "observed": [],
              "reasons": [
                {
                  "code": "unknown_tool",
                  "message": "no policy covers this tool: no section covers it",
                  "retry_after_ms": null
                }
              ],
              "tool": "other\u001b[2J\u202e",
              "verdict": "block"
            }
            -- stderr
        "#]],
    );
}

#[test]
fn a_call_of_a_model_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let policy = "version = 1\n[budgets.b]\nlimit = '1000 usd'\n[budgets.t]\nlimit = '500 tokens'\n\
        [models.'claude-*']\nbudgets = ['b', 't']\nmax_output = 400\n";
    std::fs::write(directory.path().join("checkrein.toml"), policy).unwrap();
    let action = r#"{"namespace": "model", "name": "claude-opus-5", "args": {"model": "claude-opus-5",
        "provider": "anthropic", "input_bytes": 300, "answers": 1, "max_output": 500}}"#;
    std::fs::write(directory.path().join("action.json"), action).unwrap();
    let output = run(directory.path(), "80", &["policy", "explain", "action.json"]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    expect![[r#"
        exit 1
        -- stdout
        block: claude-opus-5
          refuse: rule `max_output`
            from [models."claude-*"]
            rule_violated: a rule refuses these arguments: a call may ask for at most
            400 output tokens; never with these arguments
          pass: rule `price`
          pass: budget `b`
            from [budgets.b], [models."claude-*"]
            ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            spent 0, limit 1000 usd
          refuse: budget `t`
            from [budgets.t], [models."claude-*"]
            budget_exceeded: 800 tokens asked for, 0 of 500 tokens spent; never with
            these arguments
            ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░
            spent 0, limit 500 tokens
        nothing is counted: name a store with --store
        -- stderr
    "#]]
    .assert_eq(&seen(output.status.code().unwrap(), &out, &err));
}

#[test]
fn what_is_no_action_is_wrong_use() {
    check_explained(
        r#"{"name": "a", "name": "b"}"#,
        &[],
        &expect![[r#"
        exit 2
        -- stdout
        -- stderr
        error: `action.json`: key `name` repeats at byte 14
        hint: see `checkrein policy explain --help` for an example
    "#]],
    );
    check_explained(
        r#"{"tool\u001b[2J": "a"}"#,
        &[],
        &expect![[r#"
            exit 2
            -- stdout
            -- stderr
            error: `action.json`: unknown member `tool\u{1b}[2J`; an action has name, args, namespace, principal, tenant, user, agent, run, session
            hint: see `checkrein policy explain --help` for an example
        "#]],
    );
    check_explained(
        r#"{"name": 5}"#,
        &[],
        &expect![[r#"
            exit 2
            -- stdout
            -- stderr
            error: `action.json`: `name` is no text
            hint: see `checkrein policy explain --help` for an example
        "#]],
    );
    check_explained(
        r#"{}"#,
        &[],
        &expect![[r#"
            exit 2
            -- stdout
            -- stderr
            error: `action.json`: the action has no `name`
            hint: see `checkrein policy explain --help` for an example
        "#]],
    );
    check_explained(
        ACTION,
        &["--policy", "none.toml"],
        &expect![[r#"
            exit 2
            -- stdout
            -- stderr
            policy_unreadable: the file cannot be read: No such file or
            directory (os error 2)
              --> none.toml
              hint: check its name and permissions

        "#]],
    );
}

#[test]
fn sections_that_cannot_work_together_are_found() {
    let text = "version = 1\n[tools.'*']\nonce = { key = 'args.a' }\n\
        [tools.x]\nonce = { key = 'args.b' }\n";
    check(
        "checkrein.toml",
        text,
        "60",
        &["policy", "check"],
        &expect![[r#"
            exit 1
            -- stdout
            -- stderr
            policy_contradiction: `x` has a once key of its own and one
            of `*`
              --> checkrein.toml:4:8
            4 | [tools.x]
              |        ^
              hint: keep one of them: a call has one such gate

            1 problem
        "#]],
    );
    check(
        "checkrein.toml",
        text,
        "60",
        &["policy", "check", "--output", "json"],
        &expect![[r#"
            exit 1
            -- stdout
            {
              "file": "checkrein.toml",
              "more": 0,
              "problems": [
                {
                  "bytes": [
                    57,
                    58
                  ],
                  "code": "policy_contradiction",
                  "column": 8,
                  "hint": "keep one of them: a call has one such gate",
                  "line": 4,
                  "message": "`x` has a once key of its own and one of `*`"
                }
              ],
              "valid": false
            }
            -- stderr
        "#]],
    );
}
