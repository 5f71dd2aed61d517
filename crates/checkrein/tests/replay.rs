//! A ledger decided again by the policy that made it differs nowhere, whatever happened; and by hand-made changes it
//! differs where they say.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot set itself up has failed"
)]

use std::path::PathBuf;
use std::sync::Arc;

use checkrein::Engine;
use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{Call, ModelCall, ModelRequest, Policies, PolicyFile};
use checkrein::engine::{BudgetRecord, GateSpec, GateSpecKind, WindowSpec};
use checkrein::ledger::Database;
use checkrein::replay::{
    Assumed, Change as Differs, Effect, Left, Options, Replay, ReplayError, Replayed, Ruling, read_store,
};
use checkrein::store::PermitId;
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::testing::Random;
use checkrein_core::admission::{Action, Change, Lasting, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{Limits, Value, read_str};
use checkrein_core::ledger::entry::{EntryView, Kind};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Leases, Mode};
use checkrein_core::time::{Span, Timestamp};
use checkrein_core::usage::{Usage, UsageUnit};

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
        Recorded { _directory: directory, path }
    }
}

struct Recorded {
    /// Goes with the test.
    _directory: tempfile::TempDir,
    path: PathBuf,
}

/// Differences as their tools, in which way, and the codes that are new or gone.
fn told(replayed: &Replayed) -> Vec<String> {
    let one = |difference: &checkrein::replay::Difference| {
        let (_, causes) = if difference.new.0 == Ruling::Refuse { &difference.new } else { &difference.old };
        let codes: Vec<&str> = causes.iter().map(|cause| cause.code.as_str()).collect();
        format!("{} {} {}", difference.tool, difference.change.word(), codes.join("+"))
    };
    replayed.differences.iter().map(one).collect()
}

fn usd(text: &str) -> Amount {
    Amount::parse(text).unwrap()
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
once = { key = "args.id", keep_result = "3h", keep_key = "5h" }

[tools."stripe.read"]
attempts = { max = 40, key = "action.user" }

[models."*"]
budgets = ["team", "tokens"]
limits = [{ key = "action.user", max_calls = 9, window = "1m" }]
rules = [{ check = "args.input_bytes < 3000", mode = "observe" }]

[tools.search]
limits = [{ max_calls = 2, window = "5s" }, { key = "action.agent", max_calls = 9, window = "1m", mode = "observe" }]
"#;

/// A call of a model, and what its provider reports of it.
fn model_call(recording: &Recording, random: &mut Random) {
    recording.clock.advance(Span::from_nanos(1_000));
    let output = Some(50 + random.below(900));
    let request = ModelRequest { max_output: output, ..ModelRequest::of_text(100 + random.below(4_000)) };
    let user = ["ann", "bob"][random.below(2) as usize];
    let action = Action { user, run: "r1", ..Action::default() };
    let model = ["gpt-4o", "claude-sonnet-4-5", "nobody-knows"][random.below(3) as usize];
    let provider = None;
    let call = ModelCall { tenant: "acme", action, model, provider, request: &request };
    let Some(permit) = recording.policies.admit_model(&call).permit else { return };
    recording.clock.advance(Span::from_secs(1));
    let settled = match random.below(6) {
        0 => recording.policies.release_model(&permit, Health::Failure),
        1 => recording.policies.doubt_model(&permit, Health::Failure),
        2 => Ok(()),
        _ => {
            let mut usage = Usage::default();
            usage.set(UsageUnit::InputTokens, 20 + random.below(80)).unwrap();
            usage.set(UsageUnit::OutputTokens, random.below(50)).unwrap();
            recording.policies.settle_usage(&permit, &usage, &[]).map(drop)
        }
    };
    settled.unwrap();
}

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
        if random.once_in(2) && !open.is_empty() {
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
        if random.once_in(5) {
            model_call(&recording, &mut random);
            continue;
        }
        if random.once_in(20) {
            let amount = usd(["0.2", "0.7", "3"][random.below(3) as usize]);
            let change = match random.below(4) {
                0 => Change::Set(amount),
                1 => Change::Clear,
                _ => Change::TopUp(amount, Lasting::default()),
            };
            let record =
                BudgetRecord { name: "team", unit: None, window: None, tenant: "acme", key: b"acme" };
            recording.policies.engine().adjust(&record, change, "kim", "").unwrap();
            continue;
        }
        let tool =
            pick(&mut random, &["stripe.refund", "stripe.refund", "stripe.read", "search", "search", "mail"]);
        let user = pick(&mut random, &["ann", "bob", "eve", "ann", "bob", "eve", ""]);
        let agent = pick(&mut random, &["a1", "a2", "a1", "a2", "a1", ""]);
        let run = pick(&mut random, &["r1", "r1", "r2", "r3", "r4", "r5", ""]);
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
    let (mut decisions, mut ran, mut replays, mut models) = (0, 0, 0, 0);
    for seed in 0..12 {
        let recorded = history(seed);
        let replayed = recorded.replay(EVERYTHING);
        assert_eq!(replayed.differences, [], "seed {seed}");
        assert_eq!(replayed.totals.calls(), 0, "seed {seed}");
        assert!(replayed.coverage.left.is_empty(), "seed {seed}: {:?}", replayed.coverage);
        assert_eq!(replayed.coverage.replayed, replayed.coverage.decisions, "seed {seed}");
        decisions += replayed.coverage.decisions;
        for (_, body) in Database::open(&recorded.path).unwrap().entries(0, 10_000).unwrap() {
            let entry = EntryView::read(&body).unwrap();
            let kind = entry.kind;
            let is_model = entry.action.iter().any(|(name, value)| *name == "namespace" && value == "model");
            models += u64::from(is_model && kind == Kind::Intent);
            ran += u64::from(kind == Kind::Intent);
            replays += u64::from(kind == Kind::Replay);
        }
    }
    assert!(
        decisions > 3_000 && ran > 500 && replays > 10 && models > 50,
        "too little happens: {decisions} {ran} {replays} {models}"
    );
}

#[test]
fn the_same_ledger_gives_the_same_answer() {
    let recorded = history(3);
    let stricter = EVERYTHING.replace("max_calls = 6", "max_calls = 1").replace("1.50 usd", "0.40 usd");
    let (one, other) = (recorded.replay(&stricter), recorded.replay(&stricter));
    assert_eq!(one, other);
    assert!(one.totals.calls() > 3, "{:?}", one.coverage);
}

const REFUNDS: &str = "[budgets.team]\nlimit = '1 usd'\nwindow = '1h'\n\
    [budgets.company]\nlimit = '10 usd'\n\
    [tools.refund]\nrules = ['args.amount < 100']\n\
    limits = [{ max_calls = 3, window = '1m' }]\n\
    budgets = [{ name = 'team', cost = '0.30 usd' }, { name = 'company', cost = '0.10 usd' }]\n";

#[test]
fn a_stricter_policy_differs_by_what_was_worked_out_by_hand() {
    let recording = Recording::new(REFUNDS, KeepArguments::Full);
    assert!(recording.run("refund", "ann", r#"{"amount":1}"#));
    assert!(recording.run("refund", "ann", r#"{"amount":2}"#));
    let (_, permit) = recording.call("refund", "bob", r#"{"amount":3}"#);
    recording.end(permit, Outcome::FailedClean, Health::Failure);
    assert!(!recording.run("refund", "ann", r#"{"amount":4}"#), "the limit of three calls");
    recording.clock.advance(Span::from_secs(61));
    assert!(!recording.run("refund", "ann", r#"{"amount":5}"#), "the budget of a dollar");
    recording.clock.advance(Span::from_secs(3_600));
    let (_, permit) = recording.call("refund", "eve", r#"{"amount":6}"#);
    recording.end(permit, Outcome::InDoubt, Health::Failure);
    recording.call("refund", "eve", r#"{"amount":7}"#);
    let recorded = recording.close();

    // One call a minute: the second and third are stopped, so that the money lasts and the fourth of them would run.
    let options = Options { limit: 10, reasons: false };
    let replay = |policy: &str| recorded.replay_with(policy, None, options).unwrap();
    let replayed = replay(&REFUNDS.replace("max_calls = 3", "max_calls = 1"));
    assert_eq!(
        told(&replayed),
        [
            "refund stopped rate_limited",
            "refund stopped rate_limited",
            "refund started budget_exceeded",
            "refund stopped rate_limited",
        ]
    );
    let effects: Vec<Effect> = replayed.differences.iter().map(|difference| difference.effect).collect();
    assert_eq!(effects, [Effect::Done, Effect::None, Effect::Done, Effect::Unknown]);
    let stopped = &replayed.totals.changes[&Differs::Stopped];
    assert_eq!((stopped.calls, stopped.effects, stopped.unknown), (3, 1, 1));
    // Of two budgets in dollars the larger cost counts; what had no effect counts none.
    assert_eq!(stopped.money.get(&Unit::Usd), Some(&usd("0.6")));
    let started = &replayed.totals.changes[&Differs::Started];
    assert_eq!((started.calls, started.effects, started.money.get(&Unit::Usd)), (1, 1, Some(&usd("0.3"))));
    assert_eq!(replayed.coverage.assumed.get(&Assumed::Done), Some(&1));

    // A rule more: what it refuses takes nothing, so that the fourth call would run, and the fifth still would not.
    let replayed = replay(&REFUNDS.replace("args.amount < 100", "args.amount != 2"));
    assert_eq!(
        told(&replayed),
        ["refund stopped rule_violated", "refund started rate_limited+budget_exceeded"]
    );
    let with_reasons = recorded.replay(&REFUNDS.replace("max_calls = 3", "max_calls = 1"));
    assert_eq!(
        with_reasons.totals.changes[&Differs::Reasons].calls,
        1,
        "the budget is not exceeded any more"
    );
}

#[test]
fn equal_refusals_are_decided_one_by_one_once_they_differ() {
    let recording = Recording::new(REFUNDS, KeepArguments::Full);
    (0..13).for_each(|_| {
        recording.run("refund", "ann", r#"{"amount":1}"#);
    });
    let recorded = recording.close();
    let same = recorded.replay(REFUNDS);
    assert_eq!((same.coverage.decisions, same.coverage.replayed, same.totals.calls()), (13, 13, 0));
    // Nine equal refusals share an entry: those between the first and the last one are taken as the first.
    assert_eq!(same.coverage.assumed.get(&Assumed::Between), Some(&7));
    let looser =
        REFUNDS.replace("max_calls = 3", "max_calls = 8").replace("limit = '1 usd'", "limit = '100 usd'");
    let replayed = recorded.replay(&looser);
    assert_eq!(replayed.totals.changes[&Differs::Started].calls, 5);
    assert_eq!(replayed.totals.changes[&Differs::Started].money.get(&Unit::Usd), Some(&usd("1.5")));
    assert_eq!(replayed.coverage.assumed.get(&Assumed::Between), None);
}

#[test]
fn a_once_key_counts_as_the_new_policy_names_it() {
    let plain = "[tools.pay]\n";
    let once = "[tools.pay]\nonce = { key = 'args.id' }\n";
    let recording = Recording::new(plain, KeepArguments::Full);
    for id in ["a", "a", "b"] {
        assert!(recording.run("pay", "ann", &format!(r#"{{"id":"{id}"}}"#)));
    }
    let (_, permit) = recording.call("pay", "ann", r#"{"id":"c"}"#);
    recording.end(permit, Outcome::InDoubt, Health::Failure);
    recording.run("pay", "ann", r#"{"id":"c"}"#);
    let recorded = recording.close();
    let replayed = recorded.replay(once);
    assert_eq!(told(&replayed), ["pay stopped ", "pay stopped in_doubt"]);
    assert_eq!(replayed.differences[0].new.0, Ruling::Replay);

    let recording = Recording::new(once, KeepArguments::Full);
    for _ in 0..2 {
        recording.run("pay", "ann", r#"{"id":"a"}"#);
    }
    let recorded = recording.close();
    assert_eq!(told(&recorded.replay(once)), [""; 0]);
    let replayed = recorded.replay(plain);
    assert_eq!((told(&replayed).len(), replayed.differences[0].old.0), (1, Ruling::Replay));
    assert_eq!(replayed.differences[0].change, Differs::Started);
}

#[test]
fn facts_are_taken_as_they_were_recorded() {
    let policy = "[tools.read]\nproves = [{ kind = 'payment', pointer = '/id' }]\n\
        [tools.refund]\nfacts = [{ arg = '/id', kind = 'payment' }]\n";
    let recording = Recording::new(policy, KeepArguments::Full);
    assert!(!recording.run("refund", "ann", r#"{"id":"p1"}"#));
    recording.run("read", "ann", "{}");
    let arguments = json("{}");
    let action = Action { name: "read", user: "ann", run: "r1", ..Action::default() };
    let call = Call { tenant: "acme", action, arguments: &arguments, uncovered: None };
    assert_eq!(recording.policies.prove(&call, &json(r#"{"id":"p1"}"#)).unwrap(), 1);
    assert!(recording.run("refund", "ann", r#"{"id":"p1"}"#));
    assert!(!recording.run("refund", "ann", r#"{"id":"p2"}"#));
    let replayed = recording.close().replay(policy);
    assert_eq!(told(&replayed), [""; 0]);
    assert_eq!(replayed.coverage.assumed.get(&Assumed::Facts), Some(&3));
}

#[test]
fn what_gates_of_the_code_refused_stays_refused() {
    let recording = Recording::new("[tools.search]\n", KeepArguments::Full);
    let window = WindowSpec::Rolling(Span::from_secs(60));
    let gate = GateSpec {
        name: "in code".to_owned(),
        mode: Mode::Enforce,
        kind: GateSpecKind::Limit { key: 0, max_calls: 1, window, cooldown: Span::ZERO },
    };
    let code = checkrein::config::CodeGates {
        gates: vec![gate],
        leases: Leases::default(),
        keys: 1,
        ..Default::default()
    };
    let binding = recording.policies.bind("search", code).unwrap();
    for user in ["ann", "bob", "eve"] {
        recording.clock.advance(Span::from_secs(1));
        let arguments = json("{}");
        let action = Action { name: "search", user, run: "r1", ..Action::default() };
        let call = Call { tenant: "acme", action, arguments: &arguments, uncovered: None };
        let keys = [checkrein_core::admission::KeyValue::Bytes(b"")];
        let inputs = checkrein_core::admission::Inputs { keys: &keys, start: true, ..Default::default() };
        let bound = binding.current().unwrap();
        let engine = recording.policies.engine();
        bound.with_inputs(&call, &inputs, engine.now(), |inputs| engine.admit(bound.compiled(), inputs));
    }
    drop(binding);
    let recorded = recording.close();
    let replayed = recorded.replay("[tools.search]\n");
    assert_eq!(told(&replayed), [""; 0]);
    assert_eq!(replayed.coverage.left.get(&Left::ByCode), Some(&2));
    let old = recorded.replay_with(
        "[tools.search]\nrules = ['false']\n",
        Some("[tools.search]\n"),
        Options::default(),
    );
    assert_eq!(told(&old.unwrap()), ["search stopped rule_violated"]);
}

#[test]
fn what_a_gate_of_the_old_file_refused_may_run() {
    let recording = Recording::new("[tools.search]\nrules = ['args.q != 1']\n", KeepArguments::Full);
    recording.run("search", "ann", r#"{"q":1}"#);
    recording.run("search", "ann", r#"{"q":2}"#);
    recording.run("unknown", "ann", "{}");
    let recorded = recording.close();
    let replayed = recorded.replay("[tools.search]\n[tools.unknown]\n");
    assert_eq!(told(&replayed), ["search started rule_violated", "unknown started unknown_tool"]);
    assert!(replayed.coverage.left.is_empty());
}

#[test]
fn without_arguments_only_what_reads_none_is_decided_again() {
    let recording = Recording::new("[tools.a]\n[tools.b]\n", KeepArguments::Digest);
    recording.run("a", "ann", r#"{"x":1}"#);
    recording.run("b", "ann", r#"{"x":1}"#);
    let recorded = recording.close();
    let replayed =
        recorded.replay("[tools.a]\nrules = ['args.x > 1']\n[tools.b]\nrules = ['action.user != \"ann\"']\n");
    assert_eq!(told(&replayed), ["b stopped rule_violated"]);
    assert_eq!(replayed.coverage.left.get(&Left::ArgumentsDigest), Some(&1));
    assert_eq!((replayed.coverage.replayed, replayed.coverage.without_arguments), (1, 1));
}

#[test]
fn what_was_done_by_hand_is_done_again() {
    let policy = "[tools.pay]\nonce = { key = 'args.id' }\nattempts = 2\n";
    let recording = Recording::new(policy, KeepArguments::Full);
    let (_, permit) = recording.call("pay", "ann", r#"{"id":"a"}"#);
    recording.end(permit, Outcome::InDoubt, Health::Failure);
    // Its cost has been settled: only the operation is still in doubt.
    recording.clock.advance(Span::from_secs(4_000));
    assert!(!recording.run("pay", "ann", r#"{"id":"a"}"#));
    let engine = recording.policies.engine();
    let family =
        |name: &str| engine.families().into_iter().find(|family| family.name == name).unwrap().family;
    let key = checkrein_core::key::KeyRef { family: family("pay.once"), tenant: b"acme", key: b"a" };
    let state = checkrein_core::gate::once::OperationState::FailedClean;
    assert!(engine.resolve(key, None, state).unwrap());
    recording.clock.advance(Span::from_secs(1));
    assert!(recording.run("pay", "ann", r#"{"id":"a"}"#));
    assert!(!recording.run("pay", "ann", r#"{"id":"b"}"#), "both attempts are used up");
    let attempts = checkrein_core::key::KeyRef { family: family("pay.attempts"), tenant: b"acme", key: b"" };
    assert!(engine.reset(checkrein_core::policy::RecordKind::Meter, attempts).unwrap());
    recording.clock.advance(Span::from_secs(1));
    assert!(recording.run("pay", "ann", r#"{"id":"b"}"#));
    let recorded = recording.close();
    let replayed = recorded.replay(policy);
    assert_eq!((told(&replayed), replayed.coverage.assumed), (Vec::new(), [].into()));
    assert_eq!(recorded.replay("[tools.pay]\n").coverage.assumed.get(&Assumed::ByHand), Some(&2));
}

#[test]
fn calls_of_models_are_held_and_settled_again() {
    let policy = |limit: &str| {
        format!(
            "[budgets.team]\nlimit = '{limit} usd'\n[models.'*']\nbudgets = ['team']\nmax_output = 1000\n"
        )
    };
    let recording = Recording::new(&policy("10"), KeepArguments::Full);
    let request =
        ModelRequest { max_output: Some(1_000), context: Some(Vec::new()), ..ModelRequest::of_text(400) };
    let action = Action { user: "ann", run: "r1", ..Action::default() };
    let call = ModelCall { tenant: "acme", action, model: "gpt-4o", provider: None, request: &request };
    for (input, output) in [(100, 1_000), (100, 500), (100, 100)] {
        recording.clock.advance(Span::from_secs(1));
        let permit = recording.policies.admit_model(&call).permit.unwrap();
        let mut usage = Usage::default();
        usage.set(UsageUnit::InputTokens, input).unwrap();
        usage.set(UsageUnit::OutputTokens, output).unwrap();
        recording.clock.advance(Span::from_secs(1));
        assert!(recording.policies.settle_usage(&permit, &usage, &[]).unwrap().is_exact());
    }
    let recorded = recording.close();
    let same = recorded.replay(&policy("10"));
    assert_eq!((told(&same), same.coverage.replayed), (Vec::new(), 3));
    // A call holds 0.011 dollars, and the first one cost 0.01025: after it nothing fits any more. What the other two cost
    // stands in the ledger: 0.00525 and 0.00125.
    let replayed = recorded.replay(&policy("0.012"));
    assert_eq!(told(&replayed), ["model:gpt-4o stopped budget_exceeded"; 2]);
    let stopped = &replayed.totals.changes[&Differs::Stopped];
    assert_eq!((stopped.effects, stopped.money.get(&Unit::Usd)), (2, Some(&usd("0.0065"))));
    // Without a section for the model it is unknown.
    assert_eq!(told(&recorded.replay("[tools.a]\n")), ["model:gpt-4o stopped unknown_tool"; 3]);
}
