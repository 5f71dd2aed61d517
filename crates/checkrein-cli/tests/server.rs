//! The verbs about stores on a server, as a shell sees them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use checkrein::Engine;
use checkrein::core::admission::{Inputs, KeyValue, Verdict};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::breaker::Health;
use checkrein::core::permit::{Outcome, Settlement};
use checkrein::core::policy::{Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{Admitted, GateSpec, GateSpecKind};
use checkrein::store::redis::{RedisOptions, RedisStore};
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

const SECRET: &str = "s3cr3t-w0rd";

fn url(server: &Server) -> String {
    format!("redis://:{SECRET}@127.0.0.1:{}", server.port)
}

/// Runs a verb with the store's URL in the environment; no output of it has the password.
fn run(arguments: &[&str], url: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .env("CHECKREIN_STORE", url)
        .env("CHECKREIN_PREFIX", "shop")
        .env("USER", "kim")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    for said in [&output.stdout, &output.stderr] {
        assert!(!text(said).contains(SECRET), "{arguments:?} says the password");
    }
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open(url: &str) -> Engine {
    let options = RedisOptions {
        prefix: "shop".to_owned(),
        deadline: Duration::from_secs(10),
        ..RedisOptions::default()
    };
    Engine::builder().redis(RedisStore::open(url, options).unwrap()).build()
}

/// Runs an operation on a key; what it is told about it.
fn pay(engine: &Engine, key: &str, outcome: Option<Outcome>) -> Admitted {
    let kind = GateSpecKind::Once { keep_result: Span::from_secs(3_600), keep_key: Span::from_secs(86_400) };
    let gate = GateSpec { name: "shop.pay".into(), mode: Mode::Enforce, kind };
    let policy = engine.compile(vec![gate], Leases::default()).unwrap();
    let digest = RequestDigest::from_bytes([7; 32]);
    let once = Some((KeyValue::Bytes(key.as_bytes()), digest));
    let admitted = engine.admit(&policy, &Inputs { tenant: "acme", once, start: true, ..Inputs::default() });
    if let (Some(permit), Some(outcome)) = (admitted.permit, outcome) {
        engine.finish(permit, &Settlement::new(outcome, Health::Neutral)).unwrap();
    }
    admitted
}

#[test]
fn operations_on_a_server_are_listed_and_resolved_once() {
    if servers::missing() {
        return;
    }
    let server = Server::with_password(SECRET, &[]);
    let url = url(&server);
    let engine = open(&url);
    pay(&engine, "done", Some(Outcome::Done(Some(br#"{"paid":1}"#.as_slice().into()))));
    pay(&engine, "failed", Some(Outcome::FailedClean));
    pay(&engine, "doubt-1", Some(Outcome::InDoubt));
    pay(&engine, "doubt-2", Some(Outcome::InDoubt));
    pay(&engine, "runs", None);

    let listed = run(&["once", "list"], &url);
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    let shown = text(&listed.stdout);
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect())
        .collect();
    assert_eq!(words.first().unwrap(), &["state", "for", "gate", "tenant", "key"], "{shown}");
    let found: Vec<(&str, &str, &str)> =
        words.iter().skip(1).map(|line| (line[0], line[2], *line.last().unwrap())).collect();
    assert_eq!(
        found,
        [
            ("in doubt", "shop.pay", "doubt-1"),
            ("in doubt", "shop.pay", "doubt-2"),
            ("started", "shop.pay", "runs")
        ],
        "{shown}"
    );
    let all = json(&run(&["once", "list", "--all", "--output", "json"], &url));
    assert_eq!(all.as_array().unwrap().len(), 5, "{all}");

    let result = r#"{"paid": 2}"#;
    let resolved = run(&["once", "resolve", "doubt-1", "--as", "done", "--result", result], &url);
    assert_eq!(text(&resolved.stdout), "`doubt-1` is done (said by kim)\n", "{resolved:?}");
    let again = run(&["once", "resolve", "doubt-1", "--as", "failed"], &url);
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(1), ""), "{again:?}");
    let other = run(&["once", "resolve", "doubt-2", "--as", "failed", "--output", "json"], &url);
    assert_eq!(json(&other)["state"], "failed_clean");
    let shown = json(&run(&["once", "show", "doubt-1", "--output", "json"], &url));
    assert_eq!((&shown["state"], &shown["result"]["paid"]), (&"done".into(), &2.into()), "{shown}");

    // The engine that was there all along goes by it.
    let replayed = pay(&engine, "doubt-1", None).admission.verdict;
    assert!(matches!(&replayed, Verdict::Replay(result) if &**result == br#"{"paid":2}"#), "{replayed:?}");
    assert_eq!(pay(&engine, "doubt-2", None).admission.verdict, Verdict::Allow);

    // Another prefix is another store.
    let other = run(&["once", "list", "--prefix", "other", "--output", "json"], &url);
    assert_eq!(json(&other), Value::Array(Vec::new()));
}

#[test]
fn the_doctor_says_what_a_server_is() {
    if servers::missing() {
        return;
    }
    let server = Server::with_password(SECRET, &[]);
    let url = url(&server);
    let engine = open(&url);
    pay(&engine, "runs", None);
    pay(&engine, "doubt", Some(Outcome::InDoubt));
    let sound = run(&["doctor"], &url);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    let version = json(&run(&["doctor", "--output", "json"], &url))["servers"][0]["version"].clone();
    let shown = text(&sound.stdout)
        .replace(&server.port.to_string(), "PORT")
        .replace(version.as_str().unwrap(), "VERSION")
        .lines()
        .map(|line| line.split(", the oldest").next().unwrap().trim_end().to_owned() + "\n")
        .collect::<String>();
    expect![[r#"
        store           redis://127.0.0.1:PORT, prefix shop
        server          127.0.0.1:PORT, VERSION, master, no replicas
                        eviction noeviction, append-only file off
                        D1: what it has is gone when it ends
        tenants         1 in use, no safe mode
        open            2 permits, 1 operations in doubt
        nothing is wrong
    "#]]
    .assert_eq(&shown);

    let record = json(&run(&["doctor", "--output", "json"], &url));
    assert_eq!(record["sound"], true, "{record}");
    assert_eq!(record["servers"][0]["durability"], "D1");
    assert_eq!(record["tags"].as_array().unwrap().len(), 2, "{record}");
    assert_eq!(record["in_doubt"], 1);
    let quick = json(&run(&["doctor", "--quick", "--output", "json"], &url));
    assert_eq!(quick["in_doubt"], Value::Null);
}

#[test]
fn a_server_that_started_again_is_in_safe_mode_until_somebody_accepts_it() {
    if servers::missing() {
        return;
    }
    let mut server = Server::with_password(SECRET, &["--appendonly", "yes", "--appendfsync", "always"]);
    let url = url(&server);
    let engine = open(&url);
    pay(&engine, "paid", Some(Outcome::Done(None)));
    server.kill();
    server.restart();
    let refused = pay(&engine, "new", None).admission;
    assert_eq!(refused.verdict, Verdict::Block, "{refused:?}");

    let sick = run(&["doctor", "--output", "json"], &url);
    assert_eq!(sick.status.code(), Some(1), "{sick:?}");
    let record = json(&sick);
    assert_eq!(record["servers"][0]["durability"], "D2", "{record}");
    assert!(record["tags"].as_array().unwrap().iter().any(|tag| tag["accepted"] == false), "{record}");
    assert!(text(&run(&["doctor"], &url).stdout).contains("safe mode"));

    // Nobody is at the terminal, and nobody said --yes.
    let nobody = run(&["doctor", "--accept-epoch"], &url);
    assert_eq!((nobody.status.code(), text(&nobody.stdout).as_str()), (Some(2), ""), "{nobody:?}");
    assert!(text(&nobody.stderr).contains("--yes"), "{nobody:?}");
    assert_eq!(pay(&engine, "new", None).admission.verdict, Verdict::Block);

    let accepted = run(&["doctor", "--accept-epoch", "--yes", "--output", "json"], &url);
    assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
    assert!(!json(&accepted)["accepted_now"].as_array().unwrap().is_empty());
    assert_eq!(run(&["doctor"], &url).status.code(), Some(0));
    let mut verdict = Verdict::Block;
    for _ in 0..200 {
        verdict = pay(&engine, "new", None).admission.verdict;
        if verdict != Verdict::Block {
            break;
        }
        // A process looks again after a while.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(verdict, Verdict::Allow);
    let again = json(&run(&["doctor", "--accept-epoch", "--yes", "--output", "json"], &url));
    assert_eq!(again["accepted_now"], Value::Array(Vec::new()));
}

#[test]
fn what_cannot_be_is_said_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}/store.db", directory.path().display());
    let server = format!("redis://:{SECRET}@127.0.0.1:1");
    for (arguments, url, said) in [
        (&["doctor"][..], server.as_str(), "nothing listens"),
        (&["once", "list"], &server, "nothing listens"),
        (&["ledger", "tail"], &server, "not a store in a file"),
        (&["backup", "--out", "copy.db"], &server, "not a store in a file"),
        (&["doctor"], "redis://:s3cr3t-w0rd@h:port", "a port in the URL"),
        (&["once", "list"], &file, "`--prefix` is for stores on a server"),
        (&["doctor", "--prefix", "a{b}"], &server, "the prefix"),
        (
            &["doctor", "--accept-epoch", "--prefix", "checkrein"],
            &file,
            "`--accept-epoch` is for stores on a server",
        ),
        (&["doctor", "--yes"], &server, "--accept-epoch"),
        (&["doctor", "--help"], &server, ""),
    ] {
        let output = run(arguments, url);
        let code = if said.is_empty() { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {output:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
