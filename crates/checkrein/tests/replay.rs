//! A ledger decided again by the policy that made it differs nowhere, whatever happened; and by hand-made changes it
//! differs where they say.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use checkrein::Engine;
use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{Call, Policies, PolicyFile};
use checkrein::ledger::{Database, OwnConnection, Scope, export, export_auditgate, seal};
use checkrein::replay::{
    Assumed, Change, Left, Options, Replay, ReplayError, Replayed, read_export, read_store,
};
use checkrein::store::PermitId;
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::testing::Random;
use checkrein_core::admission::{Action, Verdict};
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::ledger::checkpoint::Signer;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::time::{Span, Timestamp};

const START: i64 = 1_795_256_310_000_000_000;

fn file(text: &str) -> PolicyFile {
    let text = format!("version = 1\n{text}");
    PolicyFile::parse("checkrein.toml", &text, false).unwrap_or_else(|error| panic!("{}", error.report(100)))
}

fn json(text: &str) -> Value {
    read_str(text, &Limits::default()).unwrap()
}

/// A store that decides by a policy file, at times that the test chooses.
struct Recording {
    directory: tempfile::TempDir,
    clock: FakeClock,
    policies: Policies,
    store: SqliteStore,
}

impl Recording {
    fn new(policy: &str, arguments: KeepArguments) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = FakeClock::new(Timestamp::from_nanos(START));
        let options = SqliteOptions {
            ledger: Some(arguments),
            clock: Some(Clock::fake(clock.clone())),
            seal: None,
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open(&directory.path().join("store.db"), options).unwrap();
        let policies = Policies::new(Engine::builder().sqlite(store.clone()).build(), file(policy)).unwrap();
        Self { directory, clock, policies, store }
    }

    fn call(&self, tool: &str, user: &str, arguments: &str) -> (bool, Option<PermitId>) {
        self.call_as(Action { name: tool, user, run: "r1", ..Action::default() }, arguments)
    }

    fn call_as(&self, action: Action<'_>, arguments: &str) -> (bool, Option<PermitId>) {
        self.clock.advance(Span::from_nanos(1_000));
        let arguments = json(arguments);
        let admitted =
            self.policies.admit(&Call { tenant: "acme", action, arguments: &arguments, uncovered: None });
        (admitted.admission.verdict == Verdict::Allow, admitted.permit)
    }

    fn end(&self, permit: Option<PermitId>, outcome: Outcome, health: Health) {
        self.clock.advance(Span::from_nanos(1_000));
        if let Some(permit) = permit {
            // Its lease may have ended.
            let _ = self.policies.engine().finish(permit, &Settlement::new(outcome, health));
        }
    }

    /// A call that runs, if it may, and is done.
    fn run(&self, tool: &str, user: &str, arguments: &str) -> bool {
        let (allowed, permit) = self.call(tool, user, arguments);
        self.end(permit, Outcome::Done(Some(Arc::from(&b"1"[..]))), Health::Success);
        allowed
    }

    /// Waits until everything is on the disk.
    fn close(self) -> Recorded {
        let path = self.store.path().to_owned();
        let Self { directory, policies, store, .. } = self;
        drop((policies, store));
        Recorded { directory, path }
    }
}

struct Recorded {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Recorded {
    fn replay(&self, policy: &str) -> Replayed {
        self.replay_with(policy, None, Options { limit: 1_000, reasons: true }).unwrap()
    }

    fn replay_with(
        &self,
        policy: &str,
        old: Option<&str>,
        options: Options,
    ) -> Result<Replayed, ReplayError> {
        let mut replay = Replay::new(file(policy), old.map(file), options)?;
        let database = Database::open(&self.path)?;
        let source = read_store(&database, None, &mut |_, _| (), &mut |entry| replay.entry(entry))?;
        replay.finish(source)
    }
}

const EVERYTHING: &str = r#"
[budgets.company]
limit = "3 usd"
calendar = "day"
tz = "Europe/Berlin"

[budgets.team]
key = "action.tenant"
limit = "1.50 usd"
window = "2h"
parent = "company"

[budgets.tokens]
key = "action.run"
limit = "5000 tokens"

[breakers.stripe]
max_fails = 2
reset = "40s"

[tools."*"]
loop = { same_call = 6 }

[tools."stripe.*"]
limits = [{ max_calls = 6, window = "1m" }]
breaker = "stripe"

[tools."stripe.refund"]
rules = ["args.amount > 0", { check = "args.amount < 5", mode = "observe" }]
limits = [{ key = "action.user", max_calls = 4, window = "10m", cooldown = "2s" }]
budgets = [{ name = "team", cost = "0.13 usd" }, { name = "tokens", cost = { cel = "args.amount * 100" } }]
once = { key = "args.id", keep_result = "10m", keep_key = "1h" }

[tools."stripe.read"]
attempts = { max = 40, key = "action.user" }

[tools.search]
limits = [{ max_calls = 2, window = "5s" }, { key = "action.agent", max_calls = 9, window = "1m", mode = "observe" }]
"#;

/// Calls, outcomes, leases that end, things done by hand: whatever a store may see, from one seed.
fn history(seed: u64) -> Recorded {
    let recording = Recording::new(EVERYTHING, KeepArguments::Full);
    let mut random = Random::new(seed);
    let mut open: Vec<Option<PermitId>> = Vec::new();
    let pick = |random: &mut Random, of: &'static [&'static str]| of[random.below(of.len() as u64) as usize];
    for _ in 0..160 {
        let pause = match random.below(12) {
            0..6 => Span::from_millis(u32::try_from(random.below(900)).unwrap()),
            6..10 => Span::from_secs(u32::try_from(random.below(30)).unwrap()),
            10 => Span::from_secs(u32::try_from(random.below(600)).unwrap()),
            _ => Span::from_secs(u32::try_from(random.below(9_000)).unwrap()),
        };
        recording.clock.advance(pause);
        if random.once_in(3) && !open.is_empty() {
            let permit = open.swap_remove(random.below(open.len() as u64) as usize);
            let outcome = match random.below(6) {
                0 => Outcome::FailedClean,
                1 => Outcome::InDoubt,
                _ => Outcome::Done(Some(Arc::from(&b"result"[..]))),
            };
            let health = [Health::Success, Health::Failure, Health::Neutral][random.below(3) as usize];
            recording.end(permit, outcome.clone(), health);
            if outcome == Outcome::InDoubt {
                // A late answer, or none.
                open.push(permit);
            }
            continue;
        }
        let tool =
            pick(&mut random, &["stripe.refund", "stripe.refund", "stripe.read", "search", "search", "mail"]);
        let user = pick(&mut random, &["ann", "bob", "", "eve"]);
        let agent = pick(&mut random, &["", "a1", "a2"]);
        let run = pick(&mut random, &["r1", "r1", "r2", ""]);
        let amount = random.below(8);
        let id = random.below(30);
        let arguments = match random.below(3) {
            0 => format!(r#"{{"amount":{amount},"id":"p{id}"}}"#),
            1 => format!(r#"{{"amount":{},"id":"p{}"}}"#, amount % 2, id % 3),
            _ => r#"{"amount":1,"id":"same"}"#.to_owned(),
        };
        // An agent that goes round in circles asks the same thing many times.
        for _ in 0..if random.once_in(8) { 30 } else { 1 } {
            let (_, permit) =
                recording.call_as(Action { name: tool, user, agent, run, ..Action::default() }, &arguments);
            if permit.is_some() && !random.once_in(12) {
                open.push(permit);
            }
            recording.clock.advance(Span::from_millis(u32::try_from(random.below(400)).unwrap()));
        }
    }
    recording.close()
}

#[test]
fn the_policy_that_made_a_ledger_differs_from_it_nowhere() {
    let mut refused = 0;
    for seed in 0..12 {
        let recorded = history(seed);
        let replayed = recorded.replay(EVERYTHING);
        assert_eq!(replayed.differences, [], "seed {seed}");
        assert_eq!(replayed.totals.calls(), 0, "seed {seed}");
        assert!(replayed.coverage.left.is_empty(), "seed {seed}: {:?}", replayed.coverage);
        assert_eq!(replayed.coverage.replayed, replayed.coverage.decisions, "seed {seed}");
        refused += replayed.coverage.decisions;
    }
    assert!(refused > 1_000, "the histories are too short to show anything: {refused}");
}
