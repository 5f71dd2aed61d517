//! `checkrein policy explain` on what a store has counted: it shows it, and leaves it as it is.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use checkrein::Engine;
use checkrein::config::{Call, Policies, PolicyFile};
use checkrein::core::admission::{Action, Verdict};
use checkrein::core::json::{Limits, read_str};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};

const POLICY: &str = r#"version = 1
[budgets.company]
limit = "2 usd"
[budgets.team]
key = "action.tenant"
limit = "0.90 usd"
window = "1d"
parent = "company"
[breakers.stripe]
max_fails = 3
[tools."*"]
loop = { same_call = 9, mode = "observe" }
[tools."stripe.*"]
limits = [{ name = "all", max_calls = 2, window = "1h" }]
breaker = "stripe"
[tools."stripe.refund"]
rules = ["args.amount > 0"]
budgets = [{ name = "team", cost = "0.30 usd" }]
attempts = { max = 5 }
"#;
const ACTION: &str = r#"{"name": "stripe.refund", "args": {"amount": 5}, "tenant": "acme", "run": "r1"}"#;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkrein"));
    let mut child = command
        .args(["policy", "explain"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("COLUMNS", "40")
        .env("TMPDIR", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A verb that reads no input may have ended already.
    let _closed = child.stdin.take().unwrap().write_all(ACTION.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A project whose store has seen two refunds.
fn project() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("checkrein.toml"), POLICY).unwrap();
    fs::write(directory.path().join("action.json"), ACTION).unwrap();
    let store = SqliteStore::open(&directory.path().join("store.db"), SqliteOptions::default()).unwrap();
    let file = PolicyFile::parse("checkrein.toml", POLICY, false).unwrap();
    let policies = Policies::new(Engine::builder().sqlite(store).build(), file).unwrap();
    let arguments = read_str(r#"{"amount": 5}"#, &Limits::default()).unwrap();
    for _ in 0..2 {
        let action = Action { name: "stripe.refund", run: "r1", ..Action::default() };
        let call = Call { tenant: "acme", action, arguments: &arguments, uncovered: None };
        assert_eq!(policies.admit(&call).admission.verdict, Verdict::Allow);
    }
    directory
}

/// All that the store says of itself, without the time.
fn kept(directory: &Path) -> String {
    let store =
        SqliteStore::open(&directory.join("store.db"), SqliteOptions { seal: None, ..Default::default() });
    let store = store.unwrap();
    let kinds = [checkrein::core::policy::RecordKind::Meter, checkrein::core::policy::RecordKind::Breaker];
    let records = kinds.map(|kind| {
        let page = store.scan(kind, checkrein::store::Cursor::default(), 100).unwrap();
        format!("{page:?}")
    });
    format!("{:?} {records:?}", store.families().unwrap())
}

#[test]
fn what_a_store_has_counted_is_shown_and_left() {
    let directory = project();
    let before = kept(directory.path());
    let output = run(directory.path(), &["-", "--store", "sqlite:store.db"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "block: stripe.refund",
        "refuse: limit `all`",
        "from [tools.\"stripe.*\"]",
        "2 of 2 calls in 1h are used; again in",
        "pass: budget `team`",
        "from [budgets.team],",
        "spent 0.6, limit 0.9 usd",
        "██████████████████░░░░░░░░░░",
        "pass: budget `company`",
        "spent 0.6, limit 2 usd",
        "pass: limit `*.loop` (observe)",
        "pass: breaker `stripe`",
        "as counted at ",
    ] {
        assert!(flat.contains(part), "{part}\n{shown}");
    }
    // A policy that counts otherwise finds nothing counted, and defines nothing in the store.
    let other = POLICY.replace("name = \"all\"", "name = \"other\"").replace("1d", "2d");
    fs::write(directory.path().join("other.toml"), other).unwrap();
    let arguments =
        ["action.json", "--store", "sqlite:store.db", "--policy", "other.toml", "--output", "json"];
    let output = run(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let meter = |name: &str| {
        let gates = answer["gates"].as_array().unwrap();
        gates.iter().find(|gate| gate["name"] == name).unwrap()["meter"]["spent"].clone()
    };
    assert_eq!((meter("team"), meter("company")), ("0".into(), "0.6".into()));
    assert_eq!(kept(directory.path()), before);
}

#[test]
fn another_time_is_asked_of_a_copy() {
    let directory = project();
    let before = kept(directory.path());
    let arguments = ["action.json", "--store", "sqlite:store.db", "--at", "2100-01-01", "--output", "jsonl"];
    let output = run(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["verdict"], &answer["at"]),
        (&"allow".into(), &"2100-01-01T00:00:00.000000000Z".into())
    );
    let names = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("explain")).collect();
    assert!(left.is_empty(), "the copy is gone: {left:?}");
    assert_eq!(kept(directory.path()), before);
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let directory = project();
    for (arguments, said) in [
        (&["action.json", "--store", "sqlite:none.db"][..], "there is no store `none.db`"),
        (&["action.json", "--store", "sqlite:none.db", "--at", "2100-01-01"], "there is no store `none.db`"),
        (
            &["action.json", "--store", "redis://127.0.0.1:1", "--at", "2100-01-01"],
            "a server has its own time",
        ),
        (
            &["action.json", "--store", "sqlite:store.db", "--prefix", "x"],
            "`--prefix` is for stores on a server",
        ),
    ] {
        let output = run(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(said), "{output:?}");
        assert!(!directory.path().join("none.db").exists());
    }
}
