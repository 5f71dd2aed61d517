//! The engine, end to end, on a clock that stands still.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::sync::Arc;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::{PermitId, RecordState};
use checkrein_core::admission::{Inputs, KeyValue, PermitError, RuleVerdict, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::{Retry, retry_of};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::{Bound, Cost};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode, RecordKind};
use checkrein_core::time::{Span, Timestamp};

fn engine() -> (Engine, FakeClock) {
    let clock = FakeClock::new(Timestamp::from_nanos(1_000_000_000_000_000_000));
    (Engine::builder().clock(Clock::fake(clock.clone())).max_keys(100).build(), clock)
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn limit(max_calls: u64, cooldown: Span) -> GateSpec {
    let window = WindowSpec::Rolling(Span::from_secs(60));
    gate("rate", GateSpecKind::Limit { key: 0, max_calls, window, cooldown })
}

fn budget(name: &str, limit: u64, charge: Charge) -> GateSpec {
    let window = WindowSpec::Rolling(Span::from_secs(3_600));
    let limit = Amount::from_units(limit);
    gate(name, GateSpecKind::Budget { key: 0, limit, unit: Unit::Usd, window, cost: 0, charge, hard: false })
}

fn once() -> GateSpec {
    let kind = GateSpecKind::Once { keep_result: Span::from_secs(60), keep_key: Span::from_secs(3_600) };
    gate("once", kind)
}

fn compile(engine: &Engine, gates: Vec<GateSpec>) -> Arc<CompiledPolicy> {
    engine.compile(gates, Leases::default()).unwrap()
}

struct Call<'a> {
    key: &'a str,
    cost: u64,
    once: Option<(&'a str, u8)>,
    verdict: RuleVerdict<'a>,
}

const CALL: Call<'static> = Call { key: "u1", cost: 0, once: None, verdict: RuleVerdict::Pass };

/// Decides and returns `allow`, `replay <result>` or the codes of all reasons, and the permit.
fn admit(engine: &Engine, policy: &Arc<CompiledPolicy>, call: &Call<'_>) -> (String, Option<PermitId>) {
    let digest = |byte| RequestDigest::from_bytes([byte; 32]);
    let inputs = Inputs {
        keys: &[KeyValue::Bytes(call.key.as_bytes())],
        costs: &[Cost::proven(Amount::from_units(call.cost))],
        verdicts: &[call.verdict],
        once: call.once.map(|(key, byte)| (KeyValue::Bytes(key.as_bytes()), digest(byte))),
        start: true,
        ..Inputs::default()
    };
    let admitted = engine.admit(policy, &inputs);
    let shown = match &admitted.admission.verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Replay(result) => format!("replay {}", String::from_utf8_lossy(result)),
        Verdict::Block => {
            let codes: Vec<&str> =
                admitted.admission.reasons.iter().map(|reason| reason.code.word()).collect();
            let retry = match retry_of(&admitted.admission.reasons) {
                Retry::After(span) => span.to_string(),
                other => format!("{other:?}").to_lowercase(),
            };
            format!("{} {retry}", codes.join("+"))
        }
    };
    (shown, admitted.permit)
}

fn done(result: &str) -> Settlement<'static> {
    Settlement::new(Outcome::Done(Some(result.as_bytes().into())), Health::Success)
}

#[test]
fn a_refusal_consumes_nothing_and_gives_every_reason() {
    let (engine, clock) = engine();
    let policy = compile(
        &engine,
        vec![
            budget("team", 5, Charge::Fixed),
            limit(2, Span::from_secs(1)),
            gate("no_pii", GateSpecKind::Rule { verdict: 0 }),
        ],
    );
    let decide = |call: &Call<'_>| admit(&engine, &policy, call).0;
    let bad = Call { verdict: RuleVerdict::Violated("pii"), cost: 1, ..CALL };
    for _ in 0..10 {
        assert_eq!(decide(&bad), "rule_violated never");
        assert_eq!(decide(&Call { cost: 6, ..CALL }), "budget_exceeded never");
    }
    assert_eq!(decide(&Call { cost: 3, ..CALL }), "allow");
    assert_eq!(decide(&Call { cost: 2, ..CALL }), "cooldown 1s");
    clock.advance(Span::from_secs(1));
    assert_eq!(decide(&Call { cost: 3, ..CALL }), "budget_exceeded 3599s");
    assert_eq!(decide(&Call { cost: 2, ..CALL }), "allow");
    assert_eq!(
        decide(&Call { cost: 1, verdict: RuleVerdict::Error("boom"), ..CALL }),
        "rule_error+cooldown+rate_limited+budget_exceeded never"
    );
    assert_eq!(decide(&Call { key: "u2", cost: 5, ..CALL }), "allow");
}

#[test]
fn holds_settle_release_and_go_in_doubt() {
    let (engine, clock) = engine();
    let policy = compile(&engine, vec![budget("b", 10, Charge::Hold)]);
    let spend = |cost| admit(&engine, &policy, &Call { cost, ..CALL });
    let (_, first) = spend(6);
    assert_eq!(spend(5).0, "budget_exceeded unknown");
    let actual = [Amount::from_units(1)];
    let settlement = Settlement { actual: &actual, ..done("") };
    engine.finish(first.unwrap(), &settlement).unwrap();
    assert_eq!(engine.finish(first.unwrap(), &settlement), Err(PermitError::Finished.into()));
    let (_, second) = spend(9);
    engine.finish(second.unwrap(), &Settlement::new(Outcome::FailedClean, Health::Neutral)).unwrap();
    let (_, third) = spend(9);
    engine.finish(third.unwrap(), &Settlement::new(Outcome::InDoubt, Health::Failure)).unwrap();
    assert_eq!(spend(2).0, "budget_exceeded unknown");
    // An hour later the first dollar has left the window and the doubtful nine are settled in full.
    clock.advance(Span::from_secs(3_600));
    assert_eq!(spend(1).0, "allow");
    assert_eq!(spend(1).0, "budget_exceeded 1h");
    let (records, _) = engine.list(RecordKind::Permit, Default::default(), 10).unwrap();
    assert_eq!(records.len(), 1);
    // Another hour: those nine have left, the open dollar of the last call has gone in doubt.
    clock.advance(Span::from_secs(3_600));
    assert_eq!(spend(9).0, "allow");
}

#[test]
fn once_runs_once_and_replays() {
    let (engine, clock) = engine();
    let policy = compile(&engine, vec![once(), limit(3, Span::ZERO)]);
    let run = |key, digest| admit(&engine, &policy, &Call { once: Some((key, digest)), ..CALL });
    let (first, permit) = run("a", 1);
    assert_eq!(first, "allow");
    assert_eq!(run("a", 1).0, "in_progress unknown");
    assert_eq!(run("a", 2).0, "key_reused never");
    engine.finish(permit.unwrap(), &done("42")).unwrap();
    for _ in 0..5 {
        assert_eq!(run("a", 1).0, "replay 42");
    }
    clock.advance(Span::from_secs(60));
    assert_eq!(run("a", 1).0, "result_pruned never");
    let (_, permit) = run("b", 1);
    engine.finish(permit.unwrap(), &Settlement::new(Outcome::FailedClean, Health::Neutral)).unwrap();
    let (again, permit) = run("b", 1);
    assert_eq!(again, "allow");
    engine.finish(permit.unwrap(), &Settlement::new(Outcome::InDoubt, Health::Neutral)).unwrap();
    assert_eq!(run("b", 1).0, "in_doubt unknown");
    clock.advance(Span::from_secs(86_400));
    assert_eq!(run("b", 1).0, "in_doubt unknown");
    assert_eq!(run("a", 9).0, "allow");
}

#[test]
fn idle_keys_go_and_the_cap_refuses_only_new_ones() {
    let (engine, clock) = engine();
    let policy = compile(&engine, vec![limit(2, Span::ZERO)]);
    let call = |name: &str| admit(&engine, &policy, &Call { key: name, ..CALL }).0;
    for number in 0..100 {
        assert_eq!(call(&format!("u{number}")), "allow");
    }
    assert_eq!(call("one more"), "capacity unknown");
    assert_eq!(call("u7"), "allow");
    clock.advance(Span::from_secs(60));
    assert_eq!(engine.collect(), Ok(100));
    assert_eq!(engine.memory().unwrap().usage().0, 0);
    assert!(engine.memory().unwrap().usage().1 < 1_000, "{:?}", engine.memory().unwrap().usage());
    assert_eq!(call("one more"), "allow");
}

#[test]
fn what_the_action_does_not_have_is_a_refusal() {
    let (engine, _) = engine();
    let policy = compile(&engine, vec![limit(2, Span::ZERO)]);
    let inputs = Inputs { keys: &[KeyValue::Missing("`user`")], ..Inputs::default() };
    let admitted = engine.admit(&policy, &inputs);
    assert_eq!(
        admitted.admission.reasons[0].to_string(),
        "the action is malformed: the key `user` has no value (action `rate`)"
    );
    let huge = vec![b'x'; 1 << 20];
    let inputs = Inputs { keys: &[KeyValue::Bytes(&huge)], ..Inputs::default() };
    assert_eq!(engine.admit(&policy, &inputs).admission.reasons[0].code.word(), "too_large");
}

#[test]
fn keys_that_come_once_do_not_pile_up() {
    let clock = FakeClock::new(Timestamp::from_nanos(1_000_000_000_000_000_000));
    let engine = Engine::builder().clock(Clock::fake(clock.clone())).max_keys(2_000).build();
    let kind = GateSpecKind::Once { keep_result: Span::from_millis(10), keep_key: Span::from_millis(10) };
    let policy = compile(&engine, vec![gate("once", kind), limit(1, Span::ZERO)]);
    let mut most = 0;
    for number in 0..200_000 {
        let key = format!("principal {number}");
        let (shown, permit) = admit(&engine, &policy, &Call { key: &key, once: Some((&key, 1)), ..CALL });
        assert_eq!(shown, "allow", "call {number}");
        engine.finish(permit.unwrap(), &done("")).unwrap();
        clock.advance(Span::from_millis(40));
        most = most.max(engine.memory().unwrap().usage_of(RecordKind::Operation));
    }
    // Each of 64 shards looks at eight slots of a chunk of 64 for every new key: about eight wait in each.
    assert!(most < 1_000, "{most} of 200,000 operations were kept for one that lived");
}

#[test]
fn observed_gates_say_what_they_would_refuse_and_keep_it_visible() {
    let (engine, _) = engine();
    let observed = |mut spec: GateSpec| {
        spec.mode = Mode::Observe;
        spec
    };
    let policy = compile(
        &engine,
        vec![
            observed(limit(1, Span::ZERO)),
            observed(budget("b", 1, Charge::Fixed)),
            observed(gate("rule", GateSpecKind::Rule { verdict: 0 })),
        ],
    );
    let decide = |verdict| {
        let inputs = Inputs {
            keys: &[KeyValue::Bytes(b"u1")],
            costs: &[Cost::proven(Amount::ONE)],
            verdicts: &[verdict],
            ..Inputs::default()
        };
        let admission = engine.admit(&policy, &inputs).admission;
        assert_eq!(admission.verdict, Verdict::Allow);
        admission.observed.iter().map(|reason| reason.code.word()).collect::<Vec<_>>().join("+")
    };
    assert_eq!(decide(RuleVerdict::Pass), "");
    assert_eq!(decide(RuleVerdict::Violated("no")), "rule_violated+rate_limited+budget_exceeded");
    let (records, _) = engine.list(RecordKind::Meter, Default::default(), 10).unwrap();
    let forced: Vec<String> = records
        .iter()
        .filter_map(|record| match &record.state {
            RecordState::Meter { account, .. } => Some(account.forced.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(forced, ["1", "1"]);
}

#[test]
fn a_hard_budget_refuses_what_is_only_estimated() {
    let (engine, _) = engine();
    let mut spec = budget("b", 10, Charge::Hold);
    if let GateSpecKind::Budget { hard, .. } = &mut spec.kind {
        *hard = true;
    }
    let policy = compile(&engine, vec![spec]);
    let decide = |bound| {
        let inputs = Inputs {
            keys: &[KeyValue::Bytes(b"u1")],
            costs: &[Cost { amount: Amount::ONE, bound }],
            ..Inputs::default()
        };
        engine.admit(&policy, &inputs).admission.verdict == Verdict::Allow
    };
    assert_eq!((decide(Bound::Proven), decide(Bound::Estimated)), (true, false));
}

#[test]
fn policies_that_cannot_work_are_refused_when_they_are_compiled() {
    let (engine, _) = engine();
    let check = |gates: Vec<GateSpec>, expected: &str| {
        let error = engine.compile(gates, Leases::default()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        vec![limit(1, Span::ZERO), limit(2, Span::ZERO)],
        "two gates named `rate` count on the same records",
    );
    check(vec![once(), gate("other", once().kind)], "a policy may have one once gate, not 2");
    let rules = (0..65).map(|position| gate("rule", GateSpecKind::Rule { verdict: position }));
    check(rules.collect(), "65 gates are more than the 64 a policy may have");
    let window = WindowSpec::Rolling(Span::ZERO);
    let empty = GateSpecKind::Limit { key: 0, max_calls: 1, window, cooldown: Span::ZERO };
    check(vec![gate("rate", empty)], "limit `rate`: the window must be longer than zero");
}
