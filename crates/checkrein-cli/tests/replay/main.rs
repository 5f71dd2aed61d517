//! `checkrein replay` and `checkrein report` as a shell sees them.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set itself up has failed"
)]

use std::process::{Command, Stdio};

use checkrein::store::durable::KeepArguments;
use expect_test::expect;
use serde_json::Value;

mod place;
mod report;

use place::{OLD, Place, run, text};

const REPLAY: [&str; 5] = ["replay", "--policy", "new.toml", "--ledger", "sqlite:store.db"];

#[test]
fn a_replay_shows_what_differs_and_what_that_rests_on() {
    let place = Place::new(KeepArguments::Full);
    place.check(
        "100",
        &REPLAY,
        &expect![[r#"
            exit 1
            -- stdout
            what this rests on
              ledger       24 entries
              verified     no: name the public key with `--key`
              period       2026-11-21 10:18:31 UTC to 2026-11-21 10:18:44 UTC
              replayed     13 of 13 decisions
              assumed      4: what did not run and would now is taken as done, at the cost that the policy names

            ran, and would have been stopped
              stopped      4 calls, 3 effects, 0.6 usd
              without cost 1 call
            did not run, and would have run
              started      4 calls, 4 effects

            by tool
              stripe.read: started, 4 calls, 4 effects
              stripe.refund: stopped, 3 calls, 2 effects, 0.6 usd
              crm.note: stopped, 1 call, 1 effect

            by reason
              rate_limited (limit `stripe.*.rate`): started, 4 calls, 4 effects
              budget_exceeded (budget `team`): stopped, 2 calls, 2 effects, 0.6 usd
              rule_violated (rule `args.amount <= 40`): stopped, 2 calls, 1 effect, 0.3 usd
              rule_violated (rule `size(args.text) < 20`): stopped, 1 call, 1 effect

            decisions that differ
              entry 4, 2026-11-21 10:18:32 UTC, stripe.refund
                  was run
                  now refuse: rule_violated (rule `args.amount <= 40`)
                  effect none
              entry 10, 2026-11-21 10:18:35 UTC, crm.note
                  was run
                  now refuse: rule_violated (rule `size(args.text) < 20`)
                  effect done
              entry 14, 2026-11-21 10:18:37 UTC, stripe.refund
                  was run
                  now refuse: rule_violated (rule `args.amount <= 40`), budget_exceeded (budget `team`)
                  effect done, 0.3 usd
              entry 16, 2026-11-21 10:18:38 UTC, stripe.refund
                  was run
                  now refuse: budget_exceeded (budget `team`)
                  effect done, 0.3 usd
              entry 19, 2026-11-21 10:18:39 UTC, stripe.read
                  was refuse: rate_limited (limit `stripe.*.rate`)
                  now run
                  effect done
              entry 22, repetition 1, 2026-11-21 10:18:40 UTC, stripe.read
                  was refuse: rate_limited (limit `stripe.*.rate`)
                  now run
                  effect done
              entry 22, repetition 2, 2026-11-21 10:18:42 UTC, stripe.read
                  was refuse: rate_limited (limit `stripe.*.rate`)
                  now run
                  effect done
              entry 22, repetition 3, 2026-11-21 10:18:43 UTC, stripe.read
                  was refuse: rate_limited (limit `stripe.*.rate`)
                  now run
                  effect done
            -- stderr
        "#]],
    );
    place.check(
        "40",
        &[&REPLAY[..], &["--limit", "1"]].concat(),
        &expect![[r#"
            exit 1
            -- stdout
            what this rests on
              ledger: 24 entries
              verified: no: name the public key with
                `--key`
              period: 2026-11-21 10:18:31 UTC to
                2026-11-21 10:18:44 UTC
              replayed: 13 of 13 decisions
              assumed: 4: what did not run and would
                now is taken as done, at the cost
                that the policy names

            ran, and would have been stopped
              stopped: 4 calls, 3 effects, 0.6 usd
              without cost: 1 call
            did not run, and would have run
              started: 4 calls, 4 effects

            by tool
              stripe.read: started, 4 calls, 4
                effects
              stripe.refund: stopped, 3 calls, 2
                effects, 0.6 usd
              crm.note: stopped, 1 call, 1 effect

            by reason
              rate_limited (limit `stripe.*.rate`):
                started, 4 calls, 4 effects
              budget_exceeded (budget `team`):
                stopped, 2 calls, 2 effects, 0.6 usd
              rule_violated (rule `args.amount <=
                40`): stopped, 2 calls, 1 effect,
                0.3 usd
              rule_violated (rule `size(args.text) <
                20`): stopped, 1 call, 1 effect

            decisions that differ, the first 1 of 8
              entry 4, 2026-11-21 10:18:32 UTC,
                stripe.refund
                  was run
                  now refuse: rule_violated (rule
                      `args.amount <= 40`)
                  effect none
            -- stderr
        "#]],
    );
    let mut same = REPLAY;
    same[2] = "old.toml";
    place.check(
        "80",
        &same,
        &expect![[r#"
            exit 0
            -- stdout
            what this rests on
              ledger       24 entries
              verified     no: name the public key with `--key`
              period       2026-11-21 10:18:31 UTC to 2026-11-21 10:18:44 UTC
              replayed     13 of 13 decisions
              assumed      1: equal refusals are taken as the first of them

            no difference
              the policy decides all 13 decisions as before
            -- stderr
        "#]],
    );
}

#[test]
fn a_replay_for_programs() {
    let place = Place::new(KeepArguments::Full);
    let found = place.json(1, &[&REPLAY[..], &["--output", "json", "--limit", "1"]].concat());
    expect![[r#"
        {
          "coverage": {
            "assumed": {
              "assumed_done": 4
            },
            "decisions": 13,
            "ledger": {
              "entries": 24,
              "first": 0,
              "verified": null
            },
            "left_out": {},
            "period": {
              "first": "2026-11-21T10:18:31.000000000Z",
              "last": "2026-11-21T10:18:44.200000000Z"
            },
            "replayed": 13,
            "without_arguments": 0
          },
          "differences": [
            {
              "change": "stopped",
              "effect": "none",
              "money": {},
              "new": {
                "reasons": [
                  {
                    "code": "rule_violated",
                    "gate": "args.amount <= 40",
                    "kind": "rule"
                  }
                ],
                "verdict": "refuse"
              },
              "old": {
                "reasons": [],
                "verdict": "run"
              },
              "repeat": null,
              "seq": 4,
              "time": "2026-11-21T10:18:32.100000000Z",
              "tool": "stripe.refund"
            }
          ],
          "reasons": [
            {
              "calls": 2,
              "calls_without_cost": 0,
              "change": "stopped",
              "code": "budget_exceeded",
              "effects": 2,
              "effects_unknown": 0,
              "gate": "team",
              "kind": "budget",
              "money": {
                "usd": "0.6"
              }
            },
            {
              "calls": 2,
              "calls_without_cost": 0,
              "change": "stopped",
              "code": "rule_violated",
              "effects": 1,
              "effects_unknown": 0,
              "gate": "args.amount <= 40",
              "kind": "rule",
              "money": {
                "usd": "0.3"
              }
            },
            {
              "calls": 1,
              "calls_without_cost": 1,
              "change": "stopped",
              "code": "rule_violated",
              "effects": 1,
              "effects_unknown": 0,
              "gate": "size(args.text) < 20",
              "kind": "rule",
              "money": {}
            },
            {
              "calls": 4,
              "calls_without_cost": 4,
              "change": "started",
              "code": "rate_limited",
              "effects": 4,
              "effects_unknown": 0,
              "gate": "stripe.*.rate",
              "kind": "limit",
              "money": {}
            }
          ],
          "tools": [
            {
              "calls": 1,
              "calls_without_cost": 1,
              "change": "stopped",
              "effects": 1,
              "effects_unknown": 0,
              "money": {},
              "tool": "crm.note"
            },
            {
              "calls": 4,
              "calls_without_cost": 4,
              "change": "started",
              "effects": 4,
              "effects_unknown": 0,
              "money": {},
              "tool": "stripe.read"
            },
            {
              "calls": 3,
              "calls_without_cost": 0,
              "change": "stopped",
              "effects": 2,
              "effects_unknown": 0,
              "money": {
                "usd": "0.6"
              },
              "tool": "stripe.refund"
            }
          ],
          "totals": {
            "answered": {
              "calls": 0,
              "calls_without_cost": 0,
              "effects": 0,
              "effects_unknown": 0,
              "money": {}
            },
            "differences": 8,
            "reasons": {
              "calls": 0,
              "calls_without_cost": 0,
              "effects": 0,
              "effects_unknown": 0,
              "money": {}
            },
            "started": {
              "calls": 4,
              "calls_without_cost": 4,
              "effects": 4,
              "effects_unknown": 0,
              "money": {}
            },
            "stopped": {
              "calls": 4,
              "calls_without_cost": 1,
              "effects": 3,
              "effects_unknown": 0,
              "money": {
                "usd": "0.6"
              }
            }
          }
        }"#]]
    .assert_eq(&format!("{found:#}"));
    let lines = place.run("100", &[&REPLAY[..], &["--output", "jsonl", "--limit", "1"]].concat());
    let lines: Vec<Value> =
        text(&lines.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["coverage"], found["coverage"]);
    assert_eq!(lines[1]["totals"], found["totals"]);
    let of = |name: &str| lines.iter().filter_map(|line| line.get(name).cloned()).collect::<Value>();
    assert_eq!(
        (of("tool"), of("reason"), of("difference")),
        (found["tools"].clone(), found["reasons"].clone(), found["differences"].clone())
    );
}

#[test]
fn every_form_of_a_ledger_gives_the_same_answer_byte_by_byte() {
    let place = Place::new(KeepArguments::Full);
    place.export("ledger.jsonl", &[]);
    place.export("ledger.json", &["--format", "auditgate"]);
    let ask = |ledger: &str, input: Stdio| {
        let arguments = ["replay", "--policy", "new.toml", "--ledger", ledger, "--output", "json"];
        let output = run(place.0.path(), "100", &arguments, input);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""));
        text(&output.stdout)
    };
    let answer = ask("sqlite:store.db", Stdio::null());
    assert_eq!(ask("store.db", Stdio::null()), answer);
    assert_eq!(ask("ledger.jsonl", Stdio::null()), answer);
    assert_eq!(ask("ledger.json", Stdio::null()), answer);
    let input = std::fs::File::open(place.path("ledger.jsonl")).unwrap();
    assert_eq!(ask("-", Stdio::from(input)), answer);
    let lines = std::fs::read_to_string(place.path("ledger.jsonl")).unwrap();
    let entries: Vec<&str> = lines.lines().filter(|line| line.contains("\"seq\":")).collect();
    place.write("entries.jsonl", entries.join("\n") + "\n");
    assert_eq!(ask("entries.jsonl", Stdio::null()), answer);
    let from_environment = Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(["replay", "--policy", "new.toml", "--output", "json"])
        .current_dir(place.0.path())
        .env("CHECKREIN_STORE", "sqlite:store.db")
        .output()
        .unwrap();
    assert_eq!(text(&from_environment.stdout), answer);
}

#[test]
fn with_a_key_the_ledger_is_verified_first() {
    let place = Place::new(KeepArguments::Full);
    place.export("ledger.jsonl", &[]);
    for ledger in ["store.db", "ledger.jsonl"] {
        let arguments = [
            "replay",
            "--policy",
            "new.toml",
            "--ledger",
            ledger,
            "--key",
            "store.db.pub",
            "--output",
            "json",
        ];
        let found = place.json(1, &arguments);
        assert_eq!(
            found["coverage"]["ledger"]["verified"], found["coverage"]["ledger"]["entries"],
            "{ledger}"
        );
    }
    let changed =
        std::fs::read_to_string(place.path("ledger.jsonl")).unwrap().replace("\"amount\":9", "\"amount\":8");
    place.write("changed.jsonl", changed);
    let (exit, code, message) = place.refused("replay", "changed.jsonl", &["--key", "store.db.pub"]);
    assert_eq!((exit, code.as_str()), (2, "ledger_damaged"), "{message}");
    assert!(message.contains("was changed"), "{message}");
    assert_eq!(place.refused("report", "changed.jsonl", &["--key", "store.db.pub"]).1, "ledger_damaged");
    assert_eq!(place.refused("replay", "ledger.jsonl", &["--key", "nowhere.pub"]).1, "file_error");
}

#[test]
fn what_is_no_whole_ledger_is_refused() {
    let place = Place::new(KeepArguments::Full);
    place.export("ledger.jsonl", &[]);
    place.export("ledger.json", &["--format", "auditgate"]);
    let whole = std::fs::read_to_string(place.path("ledger.jsonl")).unwrap();
    let array = std::fs::read_to_string(place.path("ledger.json")).unwrap();
    let half = |text: &str| text[..text.len() * 2 / 3].to_owned();
    let line_end = whole.find("\"seq\":5,").unwrap();
    let line_end = line_end + whole[line_end..].find('\n').unwrap() + 1;
    let without = |seq: u32| {
        let gone = format!("\"seq\":{seq},");
        whole.lines().filter(|line| !line.contains(&gone)).map(|line| format!("{line}\n")).collect::<String>()
    };
    let later = whole.replacen("\"version\":1}\n", "\"version\":9}\n", 1);
    let cases: [(&str, String, &str, &str); 8] = [
        ("cut.jsonl", half(&whole), "ledger_damaged", "it was cut off in entry"),
        ("short.jsonl", whole[..line_end].to_owned(), "ledger_damaged", "it ends before entry 6"),
        ("cut.json", half(&array), "ledger_damaged", "it was cut off in entry"),
        ("gap.jsonl", without(4), "ledger_damaged", "entry 4 is missing"),
        ("later.jsonl", later, "ledger_version", "is of version 9"),
        ("words.txt", "not a ledger\n".to_owned(), "ledger_form", "line 1 is neither"),
        (
            "torn.jsonl",
            whole.replacen("\"kind\":\"intent\"", "\"kind\":\"indent\"", 1),
            "ledger_damaged",
            "entry",
        ),
        ("policy.toml", OLD.to_owned(), "ledger_form", "line 1"),
    ];
    for (name, text, code, part) in cases {
        place.write(name, text);
        for verb in ["replay", "report"] {
            let (exit, found, message) = place.refused(verb, name, &[]);
            assert_eq!((exit, found.as_str()), (2, code), "{verb} {name}: {message}");
            assert!(message.contains(part), "{verb} {name}: {message}");
        }
    }
    let server = place.refused("replay", "redis://localhost/0", &[]);
    assert!(server.2.contains("keeps no ledger"), "{server:?}");
    assert_eq!(place.refused("replay", "absent.jsonl", &[]).1, "file_error");
    assert_eq!(place.refused("replay", "sqlite:absent.db", &[]).0, 2);
    let connection = rusqlite::Connection::open(place.path("store.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let (exit, code, message) = place.refused("replay", "store.db", &[]);
    assert_eq!((exit, code.as_str()), (2, "store_version"), "{message}");
}

#[test]
fn nothing_to_replay_is_an_error_that_says_why() {
    let place = Place::new(KeepArguments::Digest);
    place.write("empty.jsonl", "");
    place.write("reads.toml", "version = 1\n[tools.'*']\nrules = ['args.amount > 0']\n");
    let arguments = ["replay", "--policy", "reads.toml", "--ledger", "store.db"];
    place.check("80", &arguments, &expect![[r#"
        exit 2
        -- stdout
        what this rests on
          ledger       24 entries
          verified     no: name the public key with `--key`
          period       2026-11-21 10:18:31 UTC to 2026-11-21 10:18:44 UTC
          replayed     0 of 13 decisions
          left out     10: a gate reads their arguments, of which the ledger has a
                       digest
          left out     3: a gate reads their arguments, which the ledger does not have
        -- stderr
        error: no decision can be replayed: the policy reads arguments that the ledger does not have (replay_nothing)
        hint: keep them from now on: `ledger_arguments="full"` of the engine, or the option of the store
    "#]]);
    assert_eq!(place.refused("replay", "empty.jsonl", &[]).1, "replay_nothing");
    // What reads no arguments can be decided without them.
    place.write("plain.toml", "version = 1\n[tools.'*']\nlimits = [{ max_calls = 3, window = '1h' }]\n");
    let found =
        place.json(1, &["replay", "--policy", "plain.toml", "--ledger", "store.db", "--output", "json"]);
    assert_eq!(found["coverage"]["without_arguments"], found["coverage"]["replayed"]);
    assert_eq!(found["totals"]["stopped"]["calls"], 5);
    assert_eq!(found["totals"]["started"]["calls"], 1);
}

#[test]
fn a_policy_with_an_error_is_shown_and_used_for_nothing() {
    let place = Place::new(KeepArguments::Full);
    place.write("wrong.toml", "version = 1\n[tools.'*']\nlimts = []\n");
    let arguments = ["replay", "--policy", "wrong.toml", "--ledger", "store.db"];
    let output = place.run("100", &arguments);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    assert!(text(&output.stderr).contains("did you mean `limits`"), "{}", text(&output.stderr));
    let found = place.json(2, &[&arguments[..], &["--output", "json"]].concat());
    assert_eq!(found["problems"][0]["code"], "policy_unknown_field");
    let old = [&REPLAY[..], &["--old", "wrong.toml", "--output", "json"]].concat();
    assert_eq!(place.json(2, &old)["file"], "wrong.toml");
}

#[test]
fn two_files_are_compared_on_one_ledger() {
    let place = Place::new(KeepArguments::Full);
    let by_recording = place.json(1, &[&REPLAY[..], &["--output", "json"]].concat());
    let by_file = place.json(1, &[&REPLAY[..], &["--old", "old.toml", "--output", "json"]].concat());
    assert_eq!(by_recording["totals"], by_file["totals"]);
    let same =
        ["replay", "--policy", "new.toml", "--old", "new.toml", "--ledger", "store.db", "--output", "json"];
    assert_eq!(place.json(0, &same)["totals"]["differences"], 0);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new(KeepArguments::Full);
    for verb in [&REPLAY[..], &["report", "--ledger", "store.db"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkrein"));
        let mut child = command
            .args(verb)
            .current_dir(place.0.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{verb:?}");
    }
}
