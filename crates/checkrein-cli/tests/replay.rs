//! `checkrein replay` and `checkrein report` as a shell sees them.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set itself up has failed"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use checkrein::Engine;
use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{Call, Policies, PolicyFile};
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein_core::admission::Action;
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{Limits, read_str};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::{Span, Timestamp};
use expect_test::{Expect, expect};
use serde_json::Value;
use tempfile::TempDir;

const OLD: &str = r#"version = 1

[budgets.team]
key = "action.tenant"
limit = "50.00 usd"
window = "1d"

[tools."stripe.*"]
limits = [{ max_calls = 5, window = "1m" }]

[tools."stripe.refund"]
rules = ["args.amount > 0", { check = "args.amount <= 40", mode = "observe", name = "large" }]
budgets = [{ name = "team", cost = "0.30 usd" }]

[tools."crm.note"]
"#;

/// A smaller limit, a larger one, a rule more.
const NEW: &str = r#"version = 1

[budgets.team]
key = "action.tenant"
limit = "0.60 usd"
window = "1d"

[tools."stripe.*"]
limits = [{ max_calls = 50, window = "1m" }]

[tools."stripe.refund"]
rules = ["args.amount > 0", "args.amount <= 40"]
budgets = [{ name = "team", cost = "0.30 usd" }]

[tools."crm.note"]
rules = ["size(args.text) < 20"]
"#;

/// A directory with a recorded store and policy files.
struct Place(TempDir);

impl Place {
    fn new(arguments: KeepArguments) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("old.toml", OLD);
        place.write("new.toml", NEW);
        let clock = FakeClock::new(Timestamp::from_nanos(1_795_256_310_000_000_000));
        let options = SqliteOptions {
            ledger: Some(arguments),
            clock: Some(Clock::fake(clock.clone())),
            seal: None,
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open(&place.path("store.db"), options).unwrap();
        let file = PolicyFile::load(&place.path("old.toml")).unwrap();
        let policies = Policies::new(Engine::builder().sqlite(store).build(), file).unwrap();
        let call = |name: &str, user: &str, arguments: &str| {
            clock.advance(Span::from_secs(1));
            let arguments = read_str(arguments, &Limits::default()).unwrap();
            let action = Action { name, user, run: "r1", ..Action::default() };
            let call = Call { tenant: "acme", action, arguments: &arguments, uncovered: None };
            let permit = policies.admit(&call).permit;
            clock.advance(Span::from_millis(100));
            if let Some(permit) = permit {
                let (outcome, health) = match user {
                    "bob" => (Outcome::FailedClean, Health::Failure),
                    _ => (Outcome::Done(None), Health::Success),
                };
                policies.engine().finish(permit, &Settlement::new(outcome, health)).unwrap();
            }
        };
        call("stripe.refund", "ann", r#"{"amount":5}"#);
        call("stripe.refund", "bob", r#"{"amount":50}"#);
        call("stripe.refund", "ann", r#"{"amount":0}"#);
        call("stripe.refund", "eve", r#"{"amount":7}"#);
        call("crm.note", "eve", r#"{"text":"a note that is much too long"}"#);
        call("crm.note", "ann", r#"{"text":"short"}"#);
        call("stripe.refund", "ann", r#"{"amount":41}"#);
        call("stripe.refund", "ann", r#"{"amount":9}"#);
        // The limit of the old policy refuses these, the new one's does not.
        (0..4).for_each(|_| call("stripe.read", "ann", r#"{"id":"\u001b[2J\u202e"}"#));
        call("nobody.knows", "ann", "{}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, columns: &str, arguments: &[&str]) -> Output {
        run(self.0.path(), columns, arguments, Stdio::null())
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.run("100", arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), err.as_str()), (Some(code), ""), "{out}");
        serde_json::from_str(&out).unwrap()
    }

    fn check(&self, columns: &str, arguments: &[&str], expected: &Expect) {
        let output = self.run(columns, arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let width = columns.parse::<usize>().unwrap();
        assert!(out.lines().all(|line| line.chars().count() <= width), "{out}");
        assert!(!out.contains(['\u{1b}', '\u{202e}']), "{out}");
        expected
            .assert_eq(&format!("exit {}\n-- stdout\n{out}-- stderr\n{err}", output.status.code().unwrap()));
    }

    /// An export of the store's ledger, sealed by a key that is made for it.
    fn export(&self, name: &str, more: &[&str]) {
        let arguments = [&["ledger", "export", "--store", "sqlite:store.db", "-o", name], more].concat();
        let output = self.run("100", &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// What is said of a ledger in a file, in code, exit code and message.
    fn refused(&self, verb: &str, ledger: &str, more: &[&str]) -> (i32, String, String) {
        let policy: &[&str] = if verb == "replay" { &["--policy", "new.toml"] } else { &[] };
        let arguments = [&[verb, "--ledger", ledger, "--output", "json"], policy, more].concat();
        let output = self.run("100", &arguments);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let member = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
        (output.status.code().unwrap(), member("code"), member("message"))
    }
}

fn run(directory: &Path, columns: &str, arguments: &[&str], input: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .current_dir(directory)
        .env("COLUMNS", columns)
        .env_remove("CHECKREIN_STORE")
        .stdin(input)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

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

#[test]
fn a_report_shows_what_observe_mode_would_have_blocked() {
    let place = Place::new(KeepArguments::Full);
    place.check(
        "100",
        &["report", "--ledger", "store.db"],
        &expect![[r#"
        exit 1
        -- stdout
        what was read
          ledger       24 entries
          verified     no: name the public key with `--key`
          period       2026-11-21 10:18:31 UTC to 2026-11-21 10:18:44 UTC
          calls        13 calls: 7 ran, 6 were refused

        would have been blocked
          calls        2 calls, 28.5 % of those that ran
          effects      1, 0 unknown
          not spent    not known
          stripe.refund: rule_violated (rule `large`)
              2 calls, 33.3 % of the tool's, 2 users, 1 run
              2026-11-21 10:18:32 UTC to 2026-11-21 10:18:37 UTC

        refused for real
          stripe.read: rate_limited (limit `stripe.*.rate`)
              4 calls, 100.0 % of the tool's, 1 user, 1 run
              2026-11-21 10:18:39 UTC to 2026-11-21 10:18:43 UTC
          nobody.knows: unknown_tool (rule `policy`)
              1 call, 100.0 % of the tool's, 1 user, 1 run
              2026-11-21 10:18:44 UTC
          stripe.refund: rule_violated (rule `args.amount > 0`)
              1 call, 16.6 % of the tool's, 1 user, 1 run
              2026-11-21 10:18:33 UTC
        -- stderr
    "#]],
    );
    place.check(
        "40",
        &["report", "--ledger", "store.db", "--limit", "1"],
        &expect![[r#"
        exit 1
        -- stdout
        what was read
          ledger: 24 entries
          verified: no: name the public key with
            `--key`
          period: 2026-11-21 10:18:31 UTC to
            2026-11-21 10:18:44 UTC
          calls: 13 calls: 7 ran, 6 were refused

        would have been blocked
          calls: 2 calls, 28.5 % of those that
            ran
          effects: 1, 0 unknown
          not spent: not known
          stripe.refund: rule_violated (rule
            `large`)
              2 calls, 33.3 % of the tool's, 2
              users, 1 run
              2026-11-21 10:18:32 UTC to
              2026-11-21 10:18:37 UTC

        refused for real
          stripe.read: rate_limited (limit
            `stripe.*.rate`)
              4 calls, 100.0 % of the tool's, 1
              user, 1 run
              2026-11-21 10:18:39 UTC to
              2026-11-21 10:18:43 UTC
          and 2 more; `--output json` has all
        -- stderr
    "#]],
    );
    let found = place.json(1, &["report", "--ledger", "store.db", "--output", "json"]);
    expect![[r#"
        [
          {
            "agents": 0,
            "calls": 2,
            "calls_without_cost": 1,
            "effects": 1,
            "effects_unknown": 0,
            "first": "2026-11-21T10:18:32.100000000Z",
            "last": "2026-11-21T10:18:37.600000000Z",
            "money": {},
            "of_tool": {
              "decisions": 6,
              "ran": 5,
              "refused": 1,
              "would_block": 2
            },
            "reason": {
              "code": "rule_violated",
              "gate": "large",
              "kind": "rule"
            },
            "runs": 1,
            "tool": "stripe.refund",
            "users": 2
          }
        ]"#]]
    .assert_eq(&format!("{:#}", found["would_block"]));
    let with_prices = ["report", "--ledger", "store.db", "--policy", "old.toml", "--output", "json"];
    assert_eq!(place.json(1, &with_prices)["observed"]["money"]["usd"], "0.3");
    let lines = place.run("100", &["report", "--ledger", "store.db", "--output", "jsonl"]);
    let lines: Vec<Value> =
        text(&lines.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["coverage"], found["coverage"]);
    let refused: Value = lines.iter().filter_map(|line| line.get("refused").cloned()).collect();
    assert_eq!(refused, found["refused"]);
}

#[test]
fn a_report_of_a_time_in_which_nothing_was_observed_says_what_to_do() {
    let place = Place::new(KeepArguments::Digest);
    let since = ["report", "--ledger", "store.db", "--since", "2026-11-21T10:18:40Z"];
    place.check(
        "80",
        &since,
        &expect![[r#"
        exit 0
        -- stdout
        what was read
          ledger       24 entries
          verified     no: name the public key with `--key`
          period       2026-11-21 10:18:40 UTC to 2026-11-21 10:18:44 UTC
          calls        4 calls: 0 ran, 4 were refused

        nothing would be blocked
          observe mode would have blocked nothing: set mode = "enforce" in [defaults]

        refused for real
          stripe.read: rate_limited (limit `stripe.*.rate`)
              3 calls, 100.0 % of the tool's, 1 user, 1 run
              2026-11-21 10:18:40 UTC to 2026-11-21 10:18:43 UTC
          nobody.knows: unknown_tool (rule `policy`)
              1 call, 100.0 % of the tool's, 1 user, 1 run
              2026-11-21 10:18:44 UTC
        -- stderr
    "#]],
    );
    place.check(
        "80",
        &["report", "--ledger", "store.db", "--until", "2026-11-20"],
        &expect![[r#"
        exit 0
        -- stdout
        what was read
          ledger       24 entries
          verified     no: name the public key with `--key`
          calls        0 calls: 0 ran, 0 were refused

        nothing would be blocked
          no decisions in this time
        -- stderr
    "#]],
    );
    assert_eq!(place.refused("report", "store.db", &["--since", "soon"]).1, "report_time");
}
