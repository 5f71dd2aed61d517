//! Budgets that are looked at and changed while a program runs, as a shell sees it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use checkrein::Engine;
use checkrein::core::admission::{Inputs, KeyValue, Verdict};
use checkrein::core::amount::{Amount, Unit};
use checkrein::core::gate::budget::Cost;
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use expect_test::expect;
use serde_json::Value;

#[path = "../../checkrein/tests/redis/servers.rs"]
#[expect(
    dead_code,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic,
    reason = "each test uses a part of it"
)]
mod servers;

use servers::Server;

const POLICY: &str = "version = 1
[budgets.team]
limit = '50 usd'
window = '1d'
[budgets.agent]
key = 'action.user'
limit = '200 usd'
[budgets.unused]
limit = '7 calls'
calendar = 'month'
tz = 'Europe/Berlin'
[tools.pay]
budgets = [{ name = 'team', cost = '1 usd' }, { name = 'agent', cost = '1 usd' }]
";

/// A directory with a policy, in which verbs are run, and the URL of a store.
struct Place {
    directory: tempfile::TempDir,
    store: String,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("checkrein.toml"), POLICY).unwrap();
        let store = format!("sqlite:{}", directory.path().join("store.db").display());
        Self { directory, store }
    }

    fn engine(&self) -> Engine {
        let path = self.directory.path().join("store.db");
        Engine::builder().sqlite(SqliteStore::open(&path, SqliteOptions::default()).unwrap()).build()
    }

    fn verb(&self, verb: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_checkrein"))
            .arg(verb)
            .args(arguments)
            .current_dir(self.directory.path())
            .env("CHECKREIN_STORE", &self.store)
            .env("USER", "kim")
            .env("COLUMNS", "40")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.verb("budget", arguments)
    }

    /// What a verb that succeeds prints.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        let said = text(&output.stdout);
        assert!(said.lines().all(|line| line.chars().count() <= 40), "{said}");
        said
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The fields of the events `adjusted` of a ledger, the latest last.
    fn adjusted(&self, arguments: &[&str]) -> Vec<Value> {
        let tail = self.verb("ledger", &[&["tail", "-n", "1000", "--output", "jsonl"], arguments].concat());
        let entries = text(&tail.stdout);
        let entries = entries.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of = |entry: Value| entry.get("fields").cloned().unwrap_or_default();
        entries.filter(|entry| entry.get("event").is_some_and(|event| event == "adjusted")).map(of).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn budget(name: &str, units: u64, window: WindowSpec, charge: Charge) -> GateSpec {
    let limit = Amount::from_units(units);
    let kind = GateSpecKind::Budget { key: 0, limit, unit: Unit::Usd, window, cost: 0, charge, hard: false };
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn day() -> WindowSpec {
    WindowSpec::Rolling(Span::from_secs(86_400))
}

/// Takes from a budget of an engine that runs; whether it was allowed.
fn take(engine: &Engine, gate: GateSpec, key: &str, units: u64) -> bool {
    let policy = engine.compile(vec![gate], Leases::default()).unwrap();
    let (keys, costs) = ([KeyValue::Bytes(key.as_bytes())], [Cost::proven(Amount::from_units(units))]);
    let inputs = Inputs { keys: &keys, costs: &costs, start: true, ..Inputs::default() };
    engine.admit(&policy, &inputs).admission.verdict == Verdict::Allow
}

fn team(engine: &Engine, units: u64) -> bool {
    take(engine, budget("team", 50, day(), Charge::Fixed), "", units)
}

#[test]
fn bars_show_what_is_settled_and_held_and_fit_a_narrow_terminal() {
    let place = Place::new();
    let engine = place.engine();
    assert!(take(&engine, budget("team", 50, day(), Charge::Hold), "", 15) && team(&engine, 12));
    let hostile = "x\u{1b}[2J\u{202e}y";
    for (key, units) in [("ann", 199), (hostile, 1), (&"long".repeat(15), 3)] {
        assert!(take(&engine, budget("agent", 200, WindowSpec::Lifetime, Charge::Fixed), key, units));
    }
    place.said(&["set", "agent", "150 usd", "--key", "ann"]);
    expect![[r#"
        agent · ann
          █████████████████████████████████ 132%
          settled 199  limit 150 usd
          49 usd over, for ever
          set to 150 usd, policy 200 usd

        agent ·
        longlonglonglonglonglonglonglonglonglong
        longlonglonglonglong
          █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   1%
          settled 3  limit 200 usd
          197 usd left, for ever

        agent · x\u{1b}[2J\u{202e}y
          █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   0%
          settled 1  limit 200 usd
          199 usd left, for ever

        team
          ███████▒▒▒▒▒▒▒▒▒▒░░░░░░░░░░░░░░░░  54%
          settled 12  held 15  limit 50 usd
          23 usd left, per 1d

        unused
          ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░   0%
          settled 0  limit 7 calls
          7 calls left, per calendar month in
          Europe/Berlin
    "#]]
    .assert_eq(&place.said(&["show"]));
    let json = place.run(&["show", "--output", "jsonl"]);
    assert!(!text(&json.stdout).contains(['\u{1b}', '\u{202e}']), "{json:?}");
    assert_eq!(text(&json.stdout).lines().count(), 5);
    let found = place.json(&["show", "agent", "--key", "ann"]);
    assert_eq!(found.as_array().unwrap().len(), 1);
    let ann = &found[0];
    expect![[r#"
        {
          "budget": "agent",
          "forced": "49",
          "held": "0",
          "key": "ann",
          "left": "-49",
          "limit": "150",
          "overrun": "0",
          "policy_limit": "200",
          "set": "150",
          "settled": "199",
          "tenant": "",
          "top_ups": [],
          "unit": "usd",
          "window": "lifetime"
        }"#]]
    .assert_eq(&format!("{ann:#}"));
    // Without a policy nobody knows the limits that nobody has set.
    std::fs::remove_file(place.directory.path().join("checkrein.toml")).unwrap();
    expect![[r#"
        team
          settled 12  held 15  usd
          per 1d
    "#]]
    .assert_eq(&place.said(&["show", "team"]));
    assert!(place.json(&["show", "team"])[0]["limit"].is_null());
    let elsewhere = place.directory.path().join("other.toml");
    std::fs::write(&elsewhere, POLICY.replace("50 usd", "60 usd")).unwrap();
    let shown = place.json(&["show", "team", "--policy", elsewhere.to_str().unwrap()]);
    assert_eq!(shown[0]["limit"], "60");
}

#[test]
fn a_program_that_runs_sees_a_change_at_its_next_decision() {
    let place = Place::new();
    let engine = place.engine();
    assert!(team(&engine, 50) && !team(&engine, 1));
    let said = place.said(&["top-up", "team", "5 usd", "--for", "2d", "--note", "quarter end"]);
    let until = said.lines().find(|line| line.contains("until")).unwrap();
    assert!(said.starts_with("limit of `team`\n  before 50 usd\n  now 55 usd\n  until 2"), "{said}");
    assert!(said.contains("  settled 50, held 0\n  by kim@") && until.ends_with(" UTC"), "{said}");
    assert!(team(&engine, 5) && !team(&engine, 1));
    place.said(&["set", "team", "60", "usd", "--by", "ann"]);
    assert!(team(&engine, 5) && !team(&engine, 1));
    // It stays when the program starts again, and when another policy is loaded.
    drop(engine);
    let engine = place.engine();
    assert!(!take(&engine, budget("team", 1_000, day(), Charge::Fixed), "", 1));
    let cleared = place.json(&["set", "team", "--clear"]);
    assert_eq!((&cleared["before"], &cleared["after"]), (&"60".into(), &"50".into()), "{cleared}");
    assert!(take(&engine, budget("team", 1_000, day(), Charge::Fixed), "", 1));

    let told = place.adjusted(&[]);
    assert_eq!(told.len(), 3);
    let first = &told[0];
    let words = ["gate", "change", "amount", "before", "after", "unit", "note", "key", "tenant"];
    let said: Vec<&str> = words.iter().map(|word| first[word].as_str().unwrap()).collect();
    assert_eq!(said, ["budget:team", "top_up", "5", "50", "55", "usd", "quarter end", "", ""]);
    assert!(first["by"].as_str().unwrap().starts_with("kim@") && first["until"].is_string(), "{first}");
    assert_eq!(
        (&told[1]["by"], &told[1]["change"], &told[1]["until"]),
        (&"ann".into(), &"set".into(), &Value::Null)
    );
    assert_eq!(told[2]["change"], "clear");
}

#[test]
fn a_budget_that_nobody_has_used_can_be_changed_before() {
    let place = Place::new();
    drop(place.engine());
    place.said(&["set", "agent", "3 usd", "--key", "ann"]);
    let engine = place.engine();
    let agent =
        |units| take(&engine, budget("agent", 200, WindowSpec::Lifetime, Charge::Fixed), "ann", units);
    assert!(!agent(4) && agent(3));
    let shown = place.json(&["show", "agent"]);
    assert_eq!((&shown[0]["set"], &shown[0]["left"]), (&"3".into(), &"0".into()), "{shown}");
}

#[test]
fn wrong_use_says_what_to_do_and_changes_nothing() {
    let place = Place::new();
    let engine = place.engine();
    assert!(team(&engine, 1));
    assert!(take(&engine, budget("code", 5, day(), Charge::Fixed), "ann", 1));
    for (arguments, expected) in [
        (&["set", "team", "5 tokens"][..], "counts usd, not tokens"),
        (&["set", "team", "-5 usd"], "unexpected argument '-5'"),
        (&["set", "team", "much"], "has no known unit"),
        (&["set", "team"], "required"),
        (&["set", "team", "5 usd", "--clear"], "cannot be used with"),
        (&["set", "team", "5 usd", "--key", "ann"], "counts for everybody"),
        (&["set", "agent", "5 usd"], "say whose limit it is"),
        (&["set", "code", "5 usd"], "say whose limit it is"),
        (&["set", "teem", "5 usd"], "there is no budget `teem`"),
        (&["top-up", "team", "0 usd"], "more than zero"),
        (&["top-up", "team", "5 usd", "--for", "soon"], "no length of time"),
        (&["top-up", "team", "5 usd", "--for", "0s"], "would have ended"),
        (&["top-up", "team", "5 usd", "--by", " "], "nobody is named"),
        (&["top-up", "team", "5 usd", "--ledger", "x.db"], "leave `--ledger` out"),
        (&["top-up", "team", "5 usd", "--policy", "absent.toml"], "absent.toml"),
        (&["show", "teem\u{1b}"], "there is no budget `teem\\u{1b}`"),
    ] {
        let output = place.run(arguments);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {output:?}");
    }
    std::fs::write(place.directory.path().join("checkrein.toml"), "version = 1\n[budgets.team]\nlimt = 1\n")
        .unwrap();
    let broken = place.run(&["show"]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(text(&broken.stderr).contains("limt"), "{broken:?}");
    assert_eq!(place.adjusted(&[]), Vec::<Value>::new());
}

#[test]
fn hosts_that_share_a_server_see_a_change_at_their_next_decision() {
    let server = Server::start(&[]);
    let place = Place { store: format!("redis://127.0.0.1:{}", server.port), ..Place::new() };
    let open = || {
        let options = RedisOptions { deadline: Duration::from_secs(10), ..RedisOptions::default() };
        Engine::builder().redis(RedisStore::open(&place.store, options).unwrap()).build()
    };
    let engine = open();
    assert!(team(&engine, 50) && !team(&engine, 1));
    let ledger = place.directory.path().join("host.db");
    let ledger = ledger.to_str().unwrap();
    let said = place.said(&["top-up", "team", "5 usd", "--by", "ann", "--ledger", ledger]);
    assert!(said.contains("now 55 usd"), "{said}");
    assert!(team(&engine, 5) && !team(&engine, 1));
    let untold = place.run(&["set", "team", "56 usd"]);
    assert!(untold.status.success() && text(&untold.stderr).contains("--ledger FILE"), "{untold:?}");
    assert!(team(&engine, 1) && !team(&engine, 1));
    let shown = place.json(&["show", "team"]);
    let figures = ["settled", "held", "limit", "set"].map(|word| shown[0][word].as_str().unwrap());
    assert_eq!(figures, ["56", "0", "56", "56"], "{shown}");
    let store = format!("sqlite:{ledger}");
    let told = place.adjusted(&["--store", &store]);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["by"], &told[0]["after"]), (&"ann".into(), &"55".into()), "{told:?}");
    assert!(Path::new(ledger).exists());
}
