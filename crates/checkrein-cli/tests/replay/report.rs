//! `checkrein report` as a shell sees it.

use checkrein::store::durable::KeepArguments;
use expect_test::expect;
use serde_json::Value;

use super::place::{Place, text};

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
          calls        13 calls: 7 ran, 6 refused

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
          calls: 13 calls: 7 ran, 6 refused

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
          calls        4 calls: 0 ran, 4 refused

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
          calls        0 calls: 0 ran, 0 refused

        nothing would be blocked
          no decisions in this time
        -- stderr
    "#]],
    );
    assert_eq!(place.refused("report", "store.db", &["--since", "soon"]).1, "report_time");
}
