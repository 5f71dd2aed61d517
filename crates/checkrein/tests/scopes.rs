//! Scopes: what a call takes from its run, from what lies around it, and from whom it is for, in one admission.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::sync::Arc;

use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{ModelCall, ModelRequest, Policies, PolicyFile};
use checkrein::engine::{Engine, SCOPE_WINDOW, Scope, ScopeShape, Scopes};
use checkrein::store::Cursor;
use checkrein_core::admission::{Action, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::json::{Limits, read_str};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp};

fn usd(text: &str) -> Amount {
    Amount::parse(text).unwrap()
}

/// Scopes of a gate, a key and a limit each.
fn scopes(of: &[(&str, &str, Option<&str>)], reserve_output: u64) -> Scopes {
    let scope = |(gate, _, limit): &(&str, &str, Option<&str>)| {
        let limits = vec![(Unit::Usd, limit.map(usd)), (Unit::Tokens, None), (Unit::Calls, None)];
        Scope { gate: (*gate).to_owned(), limits }
    };
    let shape = ScopeShape::new(of.iter().map(scope).collect(), reserve_output);
    let keys = of.iter().map(|(_, key, _)| key.as_bytes().to_vec()).collect();
    Scopes::new(Arc::new(shape), String::new(), keys)
}

fn cost(text: &str) -> [Cost; 4] {
    let none = Cost::default();
    [Cost::proven(usd(text)), none, Cost::proven(Amount::ONE), none]
}

fn spent(scopes: &Scopes, engine: &Engine) -> Vec<String> {
    let status = scopes.status(engine).unwrap();
    let usd = status.iter().filter(|meter| meter.unit == Unit::Usd);
    usd.map(|meter| format!("{} {}+{}", meter.gate, meter.spent, meter.held)).collect()
}

#[test]
fn all_scopes_or_none() {
    let engine = Engine::new();
    let inner = scopes(&[("@run.1", "r/1", Some("0.2")), ("@run", "r", Some("1"))], 0);
    let outer = scopes(&[("@run", "r", Some("1"))], 0);
    let held = inner.hold(&engine, &cost("0.15"), &Action::default()).unwrap();
    assert_eq!(held.admission.verdict, Verdict::Allow);
    assert_eq!(spent(&inner, &engine), ["@run.1 0+0.15", "@run 0+0.15"]);
    let refused = inner.hold(&engine, &cost("0.1"), &Action::default()).unwrap().admission;
    assert_eq!(refused.reasons.len(), 1, "{refused:?}");
    assert_eq!((refused.reasons[0].code, &*refused.reasons[0].gate), (Code::BudgetExceeded, "@run.1"));
    assert_eq!(spent(&outer, &engine), ["@run 0+0.15"], "a refusal takes nothing");
    let actual = vec![usd("0.05"), Amount::ZERO, Amount::ONE, usd("0.05"), Amount::ZERO, Amount::ONE];
    let settlement = Settlement { outcome: Outcome::Done(None), health: Health::Success, actual: &actual };
    engine.finish(held.permit.unwrap(), &settlement).unwrap();
    assert_eq!(spent(&inner, &engine), ["@run.1 0.05+0", "@run 0.05+0"]);
    // What is recorded is not asked about, and stands beside the limit.
    inner.record(&engine, &cost("0.3"), &Action::default()).unwrap();
    assert_eq!(spent(&inner, &engine), ["@run.1 0.35+0", "@run 0.35+0"]);
    let status = inner.status(&engine).unwrap();
    assert_eq!(status.iter().map(|meter| meter.forced).max(), Some(usd("0.3")), "{status:?}");
}

#[test]
fn idle_records_go() {
    let clock = FakeClock::new(Timestamp::from_nanos(0));
    let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
    for user in 0..5_000 {
        let scopes = scopes(&[("@user", &format!("user {user}"), None)], 0);
        scopes.record(&engine, &cost("0.01"), &Action::default()).unwrap();
    }
    let count = || engine.list(RecordKind::Meter, Cursor::default(), 20_000).unwrap().0.len();
    assert_eq!(count(), 15_000);
    clock.advance(SCOPE_WINDOW);
    clock.advance(Span::from_secs(1));
    engine.collect().unwrap();
    assert_eq!(count(), 0);
}

fn policies(engine: &Engine, text: &str) -> Policies {
    Policies::new(engine.clone(), PolicyFile::parse("test.toml", text, false).unwrap()).unwrap()
}

const FILE: &str = r#"
version = 1
[budgets.team]
key = "'all'"
limit = "0.5 usd"
[models."gpt-*"]
budgets = ["team"]
"#;

#[test]
fn a_model_takes_from_scopes_and_file_at_once() {
    let engine = Engine::new();
    let policies = policies(&engine, FILE);
    let run = scopes(&[("@run", "r", Some("0.03"))], 100);
    let request =
        read_str(r#"{"model": "gpt-5", "messages": [], "max_completion_tokens": 1000}"#, &Limits::default());
    let request = ModelRequest::of_json(&request.unwrap()).unwrap();
    let action = Action { run: "r", ..Action::default() };
    let call = ModelCall { tenant: "", action, model: "gpt-5", provider: None, request: &request };
    let first = policies.admit_model_in(&call, Some(&run));
    assert_eq!(first.admission.verdict, Verdict::Allow, "{first:?}");
    let names: Vec<_> = first.held.iter().map(|held| format!("{} {}", held.budget, held.unit)).collect();
    assert_eq!(names, ["@run usd", "@run tokens", "@run calls", "team usd"]);
    let refused = policies.admit_model_in(&call, Some(&run)).admission;
    assert_eq!(refused.reasons.iter().map(|reason| &*reason.gate).collect::<Vec<_>>(), ["@run"]);
    let reply = read_str(
        r#"{"model": "gpt-5", "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}}"#,
        &Limits::default(),
    );
    let settled = policies.settle_model(&first.permit.unwrap(), &reply.unwrap()).unwrap();
    assert!(settled.is_exact(), "{settled:?}");
    assert_eq!(settled.charged[1], Amount::from_units(110));
    assert_eq!(spent(&run, &engine), [format!("@run {}+0", settled.usd.unwrap())]);
    // Counts of zero are no report: they would empty a limit in tokens.
    let second = policies.admit_model_in(&call, Some(&run));
    let reply =
        r#"{"model": "gpt-5", "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}"#;
    let reply = read_str(reply, &Limits::default()).unwrap();
    let settled = policies.settle_model(&second.permit.unwrap(), &reply).unwrap();
    assert_eq!(settled.charged, second.held.iter().map(|held| held.amount).collect::<Vec<_>>());
    // Outside every scope the file's budgets alone count.
    assert_eq!(policies.admit_model(&call).held.len(), 1);
}

#[test]
fn what_nothing_limits_is_counted_as_far_as_it_is_known() {
    let engine = Engine::new();
    let policies = policies(&engine, "version = 1\n[models.\"*\"]\n");
    let run = scopes(&[("@run", "r", None)], 100);
    let request = read_str(r#"{"model": "no such model", "messages": []}"#, &Limits::default()).unwrap();
    let request = ModelRequest::of_json(&request).unwrap();
    let call = ModelCall {
        tenant: "",
        action: Action::default(),
        model: "no such model",
        provider: None,
        request: &request,
    };
    let admitted = policies.admit_model_in(&call, Some(&run));
    assert_eq!(admitted.admission.verdict, Verdict::Allow);
    assert_eq!(admitted.max_output, None, "nobody needs a maximum");
    let reply =
        r#"{"model": "x", "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}}"#;
    let reply = read_str(reply, &Limits::default()).unwrap();
    policies.settle_model(&admitted.permit.unwrap(), &reply).unwrap();
    let status = run.status(&engine).unwrap();
    assert_eq!(status.iter().map(|meter| meter.spent.to_string()).collect::<Vec<_>>(), ["0", "10", "1"]);
    // Under a limit in dollars an unknown price is a refusal.
    let run = scopes(&[("@run", "q", Some("1"))], 100);
    let refused = policies.admit_model_in(&call, Some(&run)).admission;
    assert_eq!(refused.reasons.first().map(|reason| reason.code), Some(Code::UnknownPrice));
}

#[test]
fn usage_is_recorded_in_scopes_and_file() {
    let engine = Engine::new();
    let policies = policies(&engine, FILE);
    let run = scopes(&[("@run", "r", Some("0.000001"))], 100);
    let request = ModelRequest::of_text(0);
    let call = ModelCall {
        tenant: "",
        action: Action::default(),
        model: "gpt-5",
        provider: None,
        request: &request,
    };
    let reply = r#"{"model": "gpt-5", "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}"#;
    let report = Policies::report_of(&read_str(reply, &Limits::default()).unwrap()).unwrap();
    let settled = policies.record_model(&call, Some(&run), &report).unwrap();
    let worth = settled.usd.unwrap();
    assert!(worth > Amount::ZERO);
    assert_eq!(spent(&run, &engine), [format!("@run {worth}+0")]);
    let request =
        read_str(r#"{"model": "gpt-5", "messages": [], "max_completion_tokens": 10}"#, &Limits::default());
    let request = ModelRequest::of_json(&request.unwrap()).unwrap();
    let (_, meters) = policies.peek_model(&ModelCall { request: &request, ..call });
    assert_eq!(meters[0].spent, worth, "the file's budget too");
    assert_eq!(policies.admit_model_in(&call, Some(&run)).admission.verdict, Verdict::Block);
}
