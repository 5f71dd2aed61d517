//! A directory with a recorded store and policy files.

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
use expect_test::Expect;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const OLD: &str = r#"version = 1

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
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new(arguments: KeepArguments) -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn run(&self, columns: &str, arguments: &[&str]) -> Output {
        run(self.0.path(), columns, arguments, Stdio::null())
    }

    pub(crate) fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.run("100", arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), err.as_str()), (Some(code), ""), "{out}");
        serde_json::from_str(&out).unwrap()
    }

    pub(crate) fn check(&self, columns: &str, arguments: &[&str], expected: &Expect) {
        let output = self.run(columns, arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let width = columns.parse::<usize>().unwrap();
        assert!(out.lines().all(|line| line.chars().count() <= width), "{out}");
        assert!(!out.contains(['\u{1b}', '\u{202e}']), "{out}");
        expected
            .assert_eq(&format!("exit {}\n-- stdout\n{out}-- stderr\n{err}", output.status.code().unwrap()));
    }

    /// An export of the store's ledger, sealed by a key that is made for it.
    pub(crate) fn export(&self, name: &str, more: &[&str]) {
        let arguments = [&["ledger", "export", "--store", "sqlite:store.db", "-o", name], more].concat();
        let output = self.run("100", &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// What is said of a ledger in a file, in code, exit code and message.
    pub(crate) fn refused(&self, verb: &str, ledger: &str, more: &[&str]) -> (i32, String, String) {
        let policy: &[&str] = if verb == "replay" { &["--policy", "new.toml"] } else { &[] };
        let arguments = [&[verb, "--ledger", ledger, "--output", "json"], policy, more].concat();
        let output = self.run("100", &arguments);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        let member = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
        (output.status.code().unwrap(), member("code"), member("message"))
    }
}

pub(crate) fn run(directory: &Path, columns: &str, arguments: &[&str], input: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkrein"))
        .args(arguments)
        .current_dir(directory)
        .env("COLUMNS", columns)
        .env_remove("CHECKREIN_STORE")
        .stdin(input)
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
