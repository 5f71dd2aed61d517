//! The suite that every store has to pass: a store exists when it passes this.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkrein_core::admission::{Inputs, KeyValue, RuleVerdict, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, Reason};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::once::OperationState;
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Check, Leases, Mode, RecordKind};
use checkrein_core::time::{Span, Timestamp};

use super::adjusting::{adjust_both, changes_last, random_budget, random_change};
use super::model::{Answer, Call, End, Model};
use super::{Random, wait};
use crate::calendar::{Calendar, Period};
use crate::clock::FakeClock;
use crate::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use crate::store::{Cursor, OwnedInputs, PermitId, Step, StepResult, StoreError};

/// What a store did that it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The case, with the seed where there is one.
    pub case: String,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.seen)
    }
}

impl std::error::Error for Violation {}

fn ensure(case: &str, holds: bool, seen: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { case: case.to_owned(), seen: seen() }) }
}

/// Makes an engine on a fresh store, with this clock and cap on live keys.
pub type MakeEngine<'a> = &'a dyn Fn(FakeClock, usize) -> Engine;

/// Runs every case. `histories` random histories of `steps` steps each are compared with the reference model, from
/// `seed` on; the seed of a failing one is in the violation.
///
/// # Errors
/// The first violation.
pub fn conformance(make: MakeEngine<'_>, seed: u64, histories: u64, steps: u64) -> Result<(), Violation> {
    for history in seed..seed + histories {
        agrees_with_the_model(make, history, steps)?;
    }
    refusals_change_nothing(make)?;
    threads_do_not_over_admit(make)?;
    permits_are_finished_once(make)?;
    holds_are_never_forgotten(make)?;
    the_cap_refuses_only_new_keys(make)?;
    batches_are_steps_in_order(make)?;
    a_changed_limit_lasts(make)?;
    a_finding_is_about_one_run(make)
}

fn start_clock() -> FakeClock {
    // Shortly before midnight UTC, so that calendar periods end within a history.
    FakeClock::new(Timestamp::from_nanos(1_790_207_900_000_000_000))
}

const KEYS: [&str; 3] = ["", "u1", "a:b\0c{d}"];
const STRETCH: Span = Span::from_secs(60);

/// A random policy; gates stand in the order of reasons.
pub fn random_gates(random: &mut Random) -> Vec<GateSpec> {
    let mut gates = Vec::new();
    let mut add = |name: &str, kind| gates.push(GateSpec { name: name.into(), mode: Mode::Enforce, kind });
    let window = |random: &mut Random| match random.below(6) {
        0 => WindowSpec::Lifetime,
        1 => match Calendar::new(Period::Day, "UTC") {
            Ok(day) => WindowSpec::Calendar(day),
            Err(_) => WindowSpec::Lifetime,
        },
        _ => WindowSpec::Rolling(Span::from_secs(5 + random.below(60) as u32)),
    };
    if random.once_in(3) {
        add("rule", GateSpecKind::Rule { verdict: 0 });
    }
    if random.once_in(4) {
        add("fact", GateSpecKind::Fact { key: 0 });
    }
    if random.once_in(3) {
        let (keep_result, keep_key) = (Span::from_secs(20), Span::from_secs(60));
        add("once", GateSpecKind::Once { keep_result, keep_key });
    }
    if random.once_in(3) {
        let (max_fails, probes) = (1 + random.below(3) as u32, 1 + random.below(2) as u32);
        let (reset, probe_lease) = (Span::from_secs(10), Span::from_secs(15));
        add("breaker", GateSpecKind::Breaker { key: 0, max_fails, reset, probes, probe_lease });
    }
    if random.once_in(5) {
        add("attempts", GateSpecKind::Attempts { key: 1, max: 5 + random.below(200) });
    }
    for name in ["minute", "user"] {
        if random.once_in(2) {
            let (max_calls, window) = (random.below(25), window(random));
            let cooldown = Span::from_millis(random.below(2_000) as u32 * random.below(2) as u32);
            add(name, GateSpecKind::Limit { key: random.below(2) as u16, max_calls, window, cooldown });
        }
    }
    if random.once_in(4) {
        let (same_call, keep) = (2 + random.below(20) as u32, Span::from_secs(30));
        add("loop", GateSpecKind::Repetition { key: 1, same_call, keep });
    }
    for name in ["run", "team"] {
        if random.once_in(2) {
            let (limit, window) = (Amount::from_units(random.below(60)), window(random));
            let charge = if random.once_in(2) { Charge::Fixed } else { Charge::Hold };
            let (key, unit) = (random.below(2) as u16, Unit::Usd);
            add(name, GateSpecKind::Budget { key, limit, unit, window, cost: 0, charge, hard: false });
        }
    }
    gates
}

/// A random call for such a policy.
pub fn random_call(random: &mut Random) -> Call {
    let key = |random: &mut Random| KEYS.get(random.below(3) as usize).copied().unwrap_or("").to_owned();
    Call {
        keys: vec![key(random), key(random)],
        costs: vec![Amount::from_pico(i128::from(random.below(12)) * 500_000_000_000)],
        verdicts: vec![!random.once_in(5)],
        once: Some((format!("op{}", random.below(4)), random.below(5).saturating_sub(3) as u8)),
    }
}

/// What a store gets to see of a call.
pub fn owned(call: &Call) -> OwnedInputs {
    let once = call.once.as_ref();
    OwnedInputs {
        tenant: String::new(),
        keys: call.keys.iter().map(|key| Ok(key.clone().into_bytes())).collect(),
        costs: call.costs.iter().map(|&amount| Cost::proven(amount)).collect(),
        verdicts: call
            .verdicts
            .iter()
            .map(|pass| (!pass).then(|| (Code::RuleViolated, "no".to_owned())))
            .collect(),
        once: once.map(|(key, byte)| (Ok(key.clone().into_bytes()), RequestDigest::from_bytes([*byte; 32]))),
        start: true,
        action: None,
    }
}

fn admit(
    engine: &Engine,
    policy: &Arc<CompiledPolicy>,
    call: &Call,
) -> (Verdict, Vec<(String, String)>, Option<PermitId>) {
    let admitted = owned(call).with(&[], |inputs| engine.admit(policy, inputs));
    let reasons = admitted.admission.reasons.iter();
    let shown =
        reasons.map(|reason| (reason.code.word().to_owned(), format!("{:?}", reason.retry))).collect();
    (admitted.admission.verdict, shown, admitted.permit)
}

/// One random history on the engine and on the reference model, step by step.
fn agrees_with_the_model(make: MakeEngine<'_>, seed: u64, steps: u64) -> Result<(), Violation> {
    let case = format!("random history of seed {seed}");
    let mut random = Random::new(seed);
    let clock = start_clock();
    let engine = make(clock.clone(), 1_000);
    let gates = random_gates(&mut random);
    let compiled = engine.compile(gates.clone(), Leases::default());
    let policy = compiled.map_err(|error| Violation { case: case.clone(), seen: error.to_string() })?;
    let mut model = Model::default();
    let mut open: Vec<(usize, Option<PermitId>)> = Vec::new();
    for step in 0..steps {
        let slow = random.once_in(60);
        clock.advance(Span::from_nanos(random.below(if slow { 40 } else { 2 } * 1_000_000_000) as i64));
        let now = engine.now();
        let at = |what: &str| format!("step {step}, {what}");
        if !open.is_empty() && random.once_in(2) {
            let (number, permit) = open.swap_remove(random.below(open.len() as u64) as usize);
            let end = match random.below(8) {
                0 => End::FailedClean,
                1 => End::InDoubt,
                2 => End::Done(step, None),
                _ => End::Done(step, Some(Amount::from_pico(i128::from(random.below(8)) * 500_000_000_000))),
            };
            let health = match random.below(3) {
                0 => Health::Success,
                1 => Health::Failure,
                _ => Health::Neutral,
            };
            model.finish(number, end, health, now);
            let Some(permit) = permit else { continue };
            let (outcome, actual) = match end {
                End::FailedClean => (Outcome::FailedClean, None),
                End::InDoubt => (Outcome::InDoubt, None),
                End::Done(result, actual) => {
                    (Outcome::Done(Some(result.to_string().as_bytes().into())), actual)
                }
            };
            let actual: Vec<Amount> = actual.into_iter().flat_map(|amount| [amount; 4]).collect();
            let settlement = Settlement { outcome, health, actual: &actual };
            let finished = engine.finish(permit, &settlement);
            ensure(&case, finished.is_ok(), || at(&format!("finish: {finished:?}")))?;
        } else if random.once_in(8)
            && let Some(gate) = random_budget(&mut random, &gates)
        {
            let (call, change) = (random_call(&mut random), random_change(&mut random, now));
            adjust_both(&engine, &mut model, gate, &call, change)
                .map_err(|seen| Violation { case: case.clone(), seen: at(&seen) })?;
        } else if random.once_in(6) {
            let call = random_call(&mut random);
            let proved = prove(&engine, &policy, &gates, &call, &mut model);
            ensure(&case, proved.is_ok(), || at(&format!("prove: {proved:?}")))?;
        } else {
            let call = random_call(&mut random);
            compare_standings(&engine, &policy, &gates, &call, &model)
                .map_err(|seen| Violation { case: case.clone(), seen: at(&seen) })?;
            let expected = model.admit(&gates, &call, now);
            let (verdict, reasons, permit) = admit(&engine, &policy, &call);
            let same = match (&expected, &verdict) {
                (Answer::Allow(number), Verdict::Allow) => {
                    open.push((*number, permit));
                    true
                }
                (Answer::Replay(result), Verdict::Replay(stored)) => {
                    **stored == *result.to_string().as_bytes()
                }
                (Answer::Block(expected), Verdict::Block) => {
                    let expected =
                        expected.iter().map(|(code, retry)| (code.word().to_owned(), format!("{retry:?}")));
                    expected.eq(reasons.iter().cloned())
                }
                _ => false,
            };
            ensure(&case, same, || {
                at(&format!("{call:?}: expected {expected:?}, got {verdict:?} {reasons:?}"))
            })?;
        }
        if random.once_in(100) {
            let collected = engine.collect();
            ensure(&case, collected.is_ok(), || at(&format!("collect: {collected:?}")))?;
        }
    }
    Ok(())
}

fn prove(
    engine: &Engine,
    policy: &Arc<CompiledPolicy>,
    gates: &[GateSpec],
    call: &Call,
    model: &mut Model,
) -> Result<bool, StoreError> {
    let fact = policy.policy().gates().iter().find_map(|gate| match &gate.check {
        Check::Fact(fact) => Some(fact.family),
        _ => None,
    });
    let (Some(family), Some(gate)) = (fact, gates.iter().find(|gate| gate.name == "fact")) else {
        return Ok(true);
    };
    let key = call.keys.first().map_or("", String::as_str);
    let keep = Span::from_secs(30);
    let name = KeyRef { family, tenant: b"", key: key.as_bytes() };
    let proved = engine.prove(name, keep)?;
    model.prove(gate, call, engine.now().after(keep));
    Ok(proved)
}

fn compare_standings(
    engine: &Engine,
    policy: &Arc<CompiledPolicy>,
    gates: &[GateSpec],
    call: &Call,
    model: &Model,
) -> Result<(), String> {
    let now = engine.now();
    let (_, status) = owned(call).with(&[], |inputs| engine.peek(policy, inputs));
    let expected: Vec<_> = gates.iter().filter_map(|gate| model.standing(gate, call, now)).collect();
    let seen: Vec<_> = status.iter().map(|meter| (meter.spent, meter.held, meter.limit)).collect();
    let late = gates.iter().any(|gate| gate.name == "team" || gate.name == "run");
    if expected == seen || (late && model_is_behind(&expected, &seen)) {
        return Ok(());
    }
    Err(format!("standing of {call:?}: expected {expected:?}, got {seen:?}"))
}

/// The model moves on permits whose lease is over only at its next admission.
fn model_is_behind(expected: &[(Amount, Amount, Amount)], seen: &[(Amount, Amount, Amount)]) -> bool {
    expected.len() == seen.len()
        && expected.iter().zip(seen).all(|(model, engine)| engine.1 <= model.1 && engine.2 == model.2)
}

fn limit(max_calls: u64) -> Vec<GateSpec> {
    let kind =
        GateSpecKind::Limit { key: 0, max_calls, window: WindowSpec::Rolling(STRETCH), cooldown: Span::ZERO };
    vec![GateSpec { name: "limit".into(), mode: Mode::Enforce, kind }]
}

fn budget(units: u64, charge: Charge) -> Vec<GateSpec> {
    let kind = GateSpecKind::Budget {
        key: 1,
        limit: Amount::from_units(units),
        unit: Unit::Usd,
        window: WindowSpec::Rolling(STRETCH),
        cost: 0,
        charge,
        hard: false,
    };
    vec![GateSpec { name: "budget".into(), mode: Mode::Enforce, kind }]
}

fn compile(engine: &Engine, case: &str, gates: Vec<GateSpec>) -> Result<Arc<CompiledPolicy>, Violation> {
    let compiled = engine.compile(gates, Leases::default());
    compiled.map_err(|error| Violation { case: case.to_owned(), seen: error.to_string() })
}

fn inputs<'a>(keys: &'a [KeyValue<'a>; 2], costs: &'a [Cost; 1]) -> Inputs<'a> {
    Inputs { keys, costs, verdicts: &[RuleVerdict::Pass], start: true, ..Inputs::default() }
}

const ONE: [Cost; 1] = [Cost::proven(Amount::ONE)];

fn refusals_change_nothing(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "a refused admission leaves every record as it was";
    let engine = make(start_clock(), 1_000);
    let gates = [limit(5), budget(1, Charge::Hold)].concat();
    let policy = compile(&engine, case, gates)?;
    let keys = [KeyValue::Bytes(b"a"), KeyValue::Bytes(b"b")];
    let first = engine.admit(&policy, &inputs(&keys, &ONE));
    ensure(case, first.admission.verdict == Verdict::Allow, || format!("{first:?}"))?;
    let records = || format!("{:?}", engine.list(RecordKind::Meter, Cursor::default(), 100));
    let before = records();
    for _ in 0..100 {
        let refused = engine.admit(&policy, &inputs(&keys, &ONE));
        ensure(case, refused.admission.verdict == Verdict::Block, || format!("{refused:?}"))?;
    }
    let other = [KeyValue::Bytes(b"never seen"), KeyValue::Bytes(b"b")];
    engine.admit(&policy, &inputs(&other, &ONE));
    ensure(case, before == records(), || format!("{before} became {}", records()))
}

fn threads_do_not_over_admit(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "8 threads admit exactly what one thread would";
    for charge in [Charge::Fixed, Charge::Hold] {
        let engine = make(start_clock(), 1_000);
        // A meter of its own per thread and one that all share: both limits must hold, in one step.
        let policy = compile(&engine, case, [limit(150), budget(1_000, charge)].concat())?;
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (engine, policy, admitted) = (&engine, &policy, &admitted);
                scope.spawn(move || {
                    let own = [thread];
                    let keys = [KeyValue::Bytes(&own), KeyValue::Bytes(b"shared")];
                    for _ in 0..500 {
                        let allowed = engine.admit(policy, &inputs(&keys, &ONE));
                        if allowed.admission.verdict == Verdict::Allow {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let total = admitted.load(Ordering::Relaxed);
        ensure(case, total == 1_000, || format!("{total} of 1000 with {charge:?}"))?;
    }
    Ok(())
}

fn permits_are_finished_once(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "a permit is finished at most once";
    let engine = make(start_clock(), 1_000);
    let policy = compile(&engine, case, budget(10, Charge::Hold))?;
    let keys = [KeyValue::Bytes(b"a"), KeyValue::Bytes(b"b")];
    for _ in 0..100 {
        let Some(permit) = engine.admit(&policy, &inputs(&keys, &ONE)).permit else {
            return ensure(case, false, || "an admission with a hold gave no permit".to_owned());
        };
        let finished = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let settlement = Settlement::new(Outcome::FailedClean, Health::Neutral);
                    finished
                        .fetch_add(u64::from(engine.finish(permit, &settlement).is_ok()), Ordering::Relaxed);
                });
            }
        });
        ensure(case, finished.load(Ordering::Relaxed) == 1, || format!("{finished:?} times"))?;
    }
    let (_, status) = engine.peek(&policy, &inputs(&keys, &ONE));
    ensure(case, status.iter().all(|meter| meter.held == Amount::ZERO), || format!("{status:?}"))
}

fn holds_are_never_forgotten(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "a record with open holds is never forgotten";
    let clock = start_clock();
    let engine = make(clock.clone(), 1_000);
    let policy = compile(&engine, case, budget(1, Charge::Hold))?;
    let keys = [KeyValue::Bytes(b"a"), KeyValue::Bytes(b"b")];
    engine.admit(&policy, &inputs(&keys, &ONE));
    clock.advance(Span::from_secs(1_800));
    let collected = engine.collect();
    ensure(case, collected.is_ok(), || format!("{collected:?}"))?;
    let second = engine.admit(&policy, &inputs(&keys, &ONE));
    ensure(case, second.admission.verdict == Verdict::Block, || format!("{second:?}"))
}

fn the_cap_refuses_only_new_keys(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "at the cap new keys are refused and live ones kept";
    let engine = make(start_clock(), 3);
    let policy = compile(&engine, case, limit(2))?;
    let mut seen = String::new();
    for key in ["a", "b", "c", "d", "a", "a", "d"] {
        let keys = [KeyValue::Bytes(key.as_bytes()), KeyValue::Bytes(b"")];
        let admitted = engine.admit(&policy, &inputs(&keys, &ONE)).admission;
        seen.push_str(admitted.reasons.first().map_or("allow ", |reason| reason.code.word()));
        seen.push(' ');
    }
    let expected = "allow  allow  allow  capacity allow  rate_limited capacity ";
    ensure(case, seen == expected, || seen.clone())
}

fn a_changed_limit_lasts(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "a changed limit of a budget lasts, and a lowered one takes nothing back";
    let engine = make(start_clock(), 2);
    let policy = compile(&engine, case, budget(10, Charge::Fixed))?;
    changes_last(&engine, &policy).map_err(|seen| Violation { case: case.to_owned(), seen })
}

fn a_finding_is_about_one_run(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "what was found out about one run of an operation resolves no later one";
    let engine = make(start_clock(), 1_000);
    let (keep_result, keep_key) = (Span::from_secs(20), Span::from_secs(60));
    let kind = GateSpecKind::Once { keep_result, keep_key };
    let gates = vec![GateSpec { name: "once".into(), mode: Mode::Enforce, kind }];
    let policy = compile(&engine, case, gates)?;
    let once = Some((KeyValue::Bytes(b"op"), RequestDigest::from_bytes([1; 32])));
    let inputs = Inputs { once, start: true, ..Inputs::default() };
    let family = engine.families().first().map_or(Family(0), |family| family.family);
    let key = KeyRef { family, tenant: b"", key: b"op" };
    let mut runs = Vec::new();
    for _ in 0..2 {
        let Some(permit) = engine.admit(&policy, &inputs).permit else {
            return ensure(case, false, || "an operation was not admitted".to_owned());
        };
        let settled = engine.finish(permit, &Settlement::new(Outcome::InDoubt, Health::Neutral));
        ensure(case, settled.is_ok(), || format!("{settled:?}"))?;
        let refused = engine.admit(&policy, &inputs).admission.reasons;
        let [Reason { code: Code::InDoubt, detail: Detail::Doubt(run), .. }] = refused.as_slice() else {
            return ensure(case, false, || format!("{refused:?}"));
        };
        let late = runs.first().is_some_and(|earlier| {
            engine.resolve(key, Some(*earlier), OperationState::FailedClean) == Ok(true)
        });
        ensure(case, !late, || "a finding about the first run resolved the second".to_owned())?;
        ensure(case, !runs.contains(run), || "two runs have one name".to_owned())?;
        runs.push(*run);
        let now = engine.resolve(key, Some(*run), OperationState::FailedClean);
        ensure(case, now == Ok(true), || "a finding about the run in doubt was not taken".to_owned())?;
    }
    Ok(())
}

fn batches_are_steps_in_order(make: MakeEngine<'_>) -> Result<(), Violation> {
    let case = "a batch does what its steps do one after the other";
    let engine = make(start_clock(), 1_000);
    let policy = compile(&engine, case, [limit(2), budget(10, Charge::Hold)].concat())?;
    let call =
        Call { keys: vec!["a".into(), "b".into()], costs: vec![Amount::ONE], verdicts: vec![], once: None };
    let mut inputs = owned(&call);
    inputs.start = false;
    let admit = || Step::Admit(Arc::clone(&policy), inputs.clone());
    let results = wait(engine.submit(vec![admit(), admit(), admit()]));
    let results = results.map_err(|error| Violation { case: case.to_owned(), seen: error.to_string() })?;
    let mut permits = Vec::new();
    let mut seen = Vec::new();
    for result in &results {
        if let StepResult::Admitted(admission, permit) = result {
            seen.push(admission.verdict == Verdict::Allow);
            permits.extend(*permit);
        }
    }
    ensure(case, seen == [true, true, false] && permits.len() == 2, || format!("{results:?}"))?;
    let [first, second] = permits.as_slice() else { return Ok(()) };
    let steps =
        vec![Step::Start(*first), Step::Release(*first), Step::Release(*second), Step::Release(*second)];
    let results = wait(engine.submit(steps));
    let results = results.map_err(|error| Violation { case: case.to_owned(), seen: error.to_string() })?;
    let done: Vec<bool> = results.iter().map(|result| matches!(result, StepResult::Done)).collect();
    ensure(case, done == [true, false, true, false], || format!("{results:?}"))
}
