//! The corpus of admission cases, through the Rust door: the same files that the Python door runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use checkrein::calendar::{Calendar, Period};
use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::expression::{Expression, ExpressionError, JsonScope, Operand};
use checkrein::store::PermitId;
use checkrein_core::admission::{Inputs, KeyValue, RuleVerdict, Verdict};
use checkrein_core::amount::{Amount, Unit, parse_quantity};
use checkrein_core::canonical_json;
use checkrein_core::decision::{Reason, Retry};
use checkrein_core::fingerprint::{Request, RequestDigest};
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::once::OperationState;
use checkrein_core::json::{self, Limits, Value};
use checkrein_core::key::{KeyRef, encode_parts};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Check, Leases, Mode};
use checkrein_core::time::{Span, Timestamp};

/// 2026-11-21 00:00 UTC, so that calendar days begin with the cases.
const START: i64 = 1_795_219_200_000_000_000;

type Failure = Box<dyn std::error::Error>;

/// A policy of a case, compiled, and how its gates read the arguments.
struct Door {
    engine: Engine,
    policy: Arc<CompiledPolicy>,
    arguments: Vec<String>,
    /// What expressions may name: each argument, plain and as a member of `args`.
    variables: Vec<String>,
    key: Option<Value>,
    tenant: Option<String>,
    rules: Vec<Expression>,
    cost: Option<Value>,
    unit: Unit,
    once: Option<String>,
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// One value or a list of values.
fn several(value: Option<&Value>) -> Vec<&Value> {
    match value {
        None => Vec::new(),
        Some(Value::Array(items)) => items.iter().collect(),
        Some(value) => vec![value],
    }
}

/// `N/window`, `N usd/window`, `N per calendar day ZONE`, or without a window.
fn amount_and_window(text: &str) -> Result<(&str, WindowSpec), Failure> {
    if let Some((amount, calendar)) = text.split_once(" per calendar ") {
        let (period, zone) = calendar.split_once(' ').unwrap_or((calendar, "UTC"));
        let period = Period::parse(period).ok_or("no period")?;
        return Ok((amount, WindowSpec::Calendar(Calendar::new(period, zone)?)));
    }
    match text.split_once('/') {
        Some((amount, window)) => Ok((amount, WindowSpec::Rolling(Span::parse(window).ok_or("no window")?))),
        None => Ok((text, WindowSpec::Lifetime)),
    }
}

fn compile(source: &str, variables: &[String]) -> Result<Expression, ExpressionError> {
    let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
    Expression::compile(source, &variables)
}

impl Door {
    fn open(case: &Value, clock: &FakeClock) -> Result<Self, Failure> {
        let policy = case.get("policy").ok_or("no policy")?;
        let arguments: Vec<String> =
            several(case.get("arguments")).into_iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut gates = Vec::new();
        let mut add = |name: String, kind| gates.push(GateSpec { name, mode: Mode::Enforce, kind });
        let variables: Vec<String> =
            arguments.iter().flat_map(|a| [a.clone(), format!("args.{a}")]).collect();
        let mut rules = Vec::new();
        for (rule, verdict) in several(policy.get("rules")).into_iter().zip(0..) {
            rules.push(compile(rule.as_str().ok_or("no rule")?, &variables)?);
            add(format!("rule {verdict}"), GateSpecKind::Rule { verdict });
        }
        if policy.get("once").is_some() {
            let (keep_result, keep_key) = (Span::from_secs(86_400), Span::from_secs(400 * 86_400));
            add("once".into(), GateSpecKind::Once { keep_result, keep_key });
        }
        if let Some(breaker) = text(policy, "breaker") {
            let (name, limits) = breaker.split_once(": ").ok_or("no breaker")?;
            let (fails, reset) = limits.split_once('/').ok_or("no reset")?;
            let max_fails = fails.trim_end_matches(" failures").parse()?;
            let reset = Span::parse(reset).ok_or("no reset")?;
            let (probes, probe_lease) = (1, Span::from_secs(60));
            add(name.into(), GateSpecKind::Breaker { key: 1, max_fails, reset, probes, probe_lease });
        }
        if let Some(Value::Int(max)) = policy.get("attempts") {
            add("attempts".into(), GateSpecKind::Attempts { key: 0, max: u64::try_from(*max)? });
        }
        let mut cooldown = text(policy, "cooldown").and_then(Span::parse).unwrap_or(Span::ZERO);
        for (rate, number) in several(policy.get("rate")).into_iter().zip(0..) {
            let (max_calls, window) = amount_and_window(rate.as_str().ok_or("no rate")?)?;
            let max_calls = max_calls.parse()?;
            add(format!("rate {number}"), GateSpecKind::Limit { key: 0, max_calls, window, cooldown });
            cooldown = Span::ZERO;
        }
        if !cooldown.is_zero() {
            let (max_calls, window) = (u64::MAX, WindowSpec::Rolling(cooldown));
            add("cooldown".into(), GateSpecKind::Limit { key: 0, max_calls, window, cooldown });
        }
        let charge = if policy.get("holds").is_some() { Charge::Hold } else { Charge::Fixed };
        let mut unit = Unit::Usd;
        for (budget, number) in several(policy.get("budget")).into_iter().zip(0..) {
            let (limit, window, key) = match budget.as_str() {
                Some(text) => {
                    let (limit, window) = amount_and_window(text)?;
                    (parse_quantity(limit)?, window, 0)
                }
                None => {
                    let window = text(budget, "window").and_then(Span::parse).ok_or("no window")?;
                    let limit = parse_quantity(text(budget, "limit").ok_or("no limit")?)?;
                    // A shared budget has a key of its own, here: none.
                    (limit, WindowSpec::Rolling(window), 1)
                }
            };
            unit = limit.1;
            let kind =
                GateSpecKind::Budget { key, limit: limit.0, unit, window, cost: 0, charge, hard: false };
            add(format!("budget {number}"), kind);
        }
        let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
        let compiled = engine.compile(gates, Leases::default())?;
        Ok(Self {
            engine,
            policy: compiled,
            arguments,
            variables,
            key: policy.get("key").cloned(),
            tenant: text(policy, "tenant").map(str::to_owned),
            rules,
            cost: policy.get("cost").cloned(),
            unit,
            once: text(policy, "once").map(str::to_owned),
        })
    }

    fn scope<'a>(&self, call: &'a Value) -> Vec<Operand<'a, &'a Value>> {
        let operands = self.arguments.iter().flat_map(|name| {
            let operand = || call.get(name).map_or(Operand::Missing, Operand::from);
            [operand(), operand()]
        });
        operands.collect()
    }

    /// A key or tenant: an argument, a member of one, or an expression over them.
    fn key_of(&self, source: &str, call: &Value) -> Result<String, String> {
        let mut path = source.split('.');
        let first = path.next().and_then(|name| call.get(name));
        let expression = first.is_none() || source.contains([' ', '+', '(']);
        let value = if expression {
            let compiled = compile(source, &self.variables).map_err(|error| error.to_string())?;
            return compiled.key(&JsonScope { slots: &self.scope(call) }).map_err(|error| error.to_string());
        } else {
            path.try_fold(first.ok_or("no such argument")?, |value, name| value.get(name)).ok_or(source)?
        };
        match value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            Value::Int(number) => Ok(number.to_string()),
            other => Err(format!("`{source}` is {}", other.type_name())),
        }
    }

    fn key(&self, call: &Value) -> Result<Vec<u8>, String> {
        match &self.key {
            None => Ok(b"one".to_vec()),
            Some(Value::Array(parts)) => {
                let parts = parts.iter().filter_map(Value::as_str).map(|part| self.key_of(part, call));
                let parts = parts.collect::<Result<Vec<_>, _>>()?;
                let mut bytes = Vec::new();
                encode_parts(parts.iter().map(String::as_bytes), &mut bytes);
                Ok(bytes)
            }
            Some(source) => self.key_of(source.as_str().unwrap_or_default(), call).map(String::into_bytes),
        }
    }

    /// The cost, or `None` for what is no cost.
    fn cost(&self, call: &Value) -> Option<Amount> {
        let Some(source) = &self.cost else { return Some(Amount::ZERO) };
        let source = source.as_str()?;
        let quantity = |text: &str| parse_quantity(text).ok().filter(|(_, unit)| *unit == self.unit);
        match call.get(source) {
            Some(Value::String(text)) => return Some(quantity(text)?.0),
            Some(Value::Int(number)) => return u64::try_from(*number).ok().map(Amount::from_units),
            Some(_) => return None,
            None => {}
        }
        if let Some((amount, _)) = quantity(source) {
            return Some(amount);
        }
        let nano =
            compile(source, &self.variables).ok()?.cost_nano_usd(&JsonScope { slots: &self.scope(call) });
        Some(Amount::from_nano(i64::try_from(nano.ok()?).ok()?))
    }

    fn decide(&self, call: &Value, peek: bool) -> (Verdict, Vec<Reason>, Option<PermitId>) {
        let slots = self.scope(call);
        let results: Vec<_> = self.rules.iter().map(|rule| rule.test(&JsonScope { slots: &slots })).collect();
        let errors: Vec<String> =
            results.iter().map(|r| r.as_ref().err().map_or(String::new(), ToString::to_string)).collect();
        let verdicts: Vec<RuleVerdict<'_>> = results
            .iter()
            .zip(&errors)
            .map(|(result, error)| match result {
                Ok(true) => RuleVerdict::Pass,
                Ok(false) => RuleVerdict::Violated("the rule"),
                Err(_) => RuleVerdict::Error(error),
            })
            .collect();
        let key = self.key(call);
        let tenant = self.tenant.as_ref().map_or(Ok(String::new()), |source| self.key_of(source, call));
        let arguments = canonical_json::to_vec(call);
        let request =
            Request { namespace: "", name: "tool", principal: "", target: None, arguments: &arguments };
        let once = self.once.as_ref().map(|name| (self.key_of(name, call), RequestDigest::of(&request)));
        let costs = [Cost::proven(self.cost(call).unwrap_or(Amount::from_pico(-1)))];
        let missing = |key: &Result<String, String>| key.as_ref().err().cloned().unwrap_or_default();
        let once_missing = once.as_ref().map(|(key, _)| missing(key)).unwrap_or_default();
        let inputs = Inputs {
            tenant: tenant.as_deref().unwrap_or_default(),
            keys: &[
                match &key {
                    Ok(bytes) => KeyValue::Bytes(bytes),
                    Err(what) => KeyValue::Missing(what),
                },
                KeyValue::Bytes(b"one"),
            ],
            costs: &costs,
            verdicts: &verdicts,
            once: once.as_ref().map(|(key, digest)| match key {
                Ok(key) => (KeyValue::Bytes(key.as_bytes()), *digest),
                Err(_) => (KeyValue::Missing(&once_missing), *digest),
            }),
            start: true,
            ..Inputs::default()
        };
        if peek {
            let (admission, _) = self.engine.peek(&self.policy, &inputs);
            return (admission.verdict, admission.reasons, None);
        }
        let admitted = self.engine.admit(&self.policy, &inputs);
        (admitted.admission.verdict, admitted.admission.reasons, admitted.permit)
    }

    /// Ends an admitted call as the case says.
    fn end(&self, permit: Option<PermitId>, how: Option<&Value>) -> Result<(), Failure> {
        let Some(permit) = permit else { return Ok(()) };
        // Without a once key nobody has to find out what happened: an unknown outcome is charged at once.
        let unknown = || if self.once.is_some() { Outcome::InDoubt } else { Outcome::Done(None) };
        let null = Value::Null;
        let (outcome, health, actual) = match how.and_then(Value::as_str) {
            Some("not_executed") => (Outcome::FailedClean, Health::Neutral, None),
            Some("failure") => (unknown(), Health::Failure, None),
            Some(_) => (unknown(), Health::Neutral, None),
            None => {
                let result = how.and_then(|how| how.get("done")).unwrap_or(&null);
                let actual = result.as_str().and_then(|text| parse_quantity(text).ok());
                (Outcome::Done(Some(canonical_json::to_vec(result).into())), Health::Success, actual)
            }
        };
        let actual: Vec<Amount> = actual.into_iter().map(|(amount, _)| amount).collect();
        Ok(self.engine.finish(permit, &Settlement { outcome, health, actual: &actual })?)
    }

    fn resolve(&self, key: &str, state: &str) -> bool {
        let family = self.policy.policy().gates().iter().find_map(|gate| match &gate.check {
            Check::Once(once) => Some(once.family),
            _ => None,
        });
        let state = if state == "done" { OperationState::Done(None) } else { OperationState::FailedClean };
        family.is_some_and(|family| {
            let key = KeyRef { family, tenant: b"", key: key.as_bytes() };
            self.engine.resolve(key, None, state) == Ok(true)
        })
    }
}

/// A reason as the cases write it: its code, and when to ask again.
fn said(reason: &Reason) -> String {
    let retry = match reason.retry {
        Retry::Never => "never".to_owned(),
        Retry::Unknown => "unknown".to_owned(),
        Retry::After(span) => format!("{}", span.nanos()),
    };
    format!("{} {retry}", reason.code)
}

fn nanos(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(seconds)) => seconds * 1_000_000_000,
        Some(Value::Float(seconds)) => (seconds * 1e9).round() as i64,
        _ => 0,
    }
}

fn expected_reasons(expected: &Value) -> Vec<String> {
    let reason = |reason: &Value| {
        let parts = reason.as_array().unwrap_or_default();
        let code = parts.first().and_then(Value::as_str).unwrap_or_default();
        match parts.get(1) {
            Some(Value::String(word)) => format!("{code} {word}"),
            span => format!("{code} {}", nanos(span)),
        }
    };
    expected.as_array().unwrap_or_default().iter().map(reason).collect()
}

fn run(case: &Value) -> Result<(), Failure> {
    let clock = FakeClock::new(Timestamp::from_nanos(START));
    let door = Door::open(case, &clock)?;
    let mut opened = BTreeMap::new();
    for (step, number) in several(case.get("steps")).into_iter().zip(1..) {
        clock.set(Timestamp::from_nanos(START + nanos(step.get("at"))));
        if let Some(name) = text(step, "end") {
            door.end(opened.remove(name).ok_or("no such open call")?, step.get("ends"))?;
            continue;
        }
        if let Some(resolve) = step.get("resolve") {
            let words: Vec<&str> = several(Some(resolve)).into_iter().filter_map(Value::as_str).collect();
            if !matches!(words.as_slice(), [key, state] if door.resolve(key, state)) {
                return Err(format!("step {number}: nothing to resolve").into());
            }
            continue;
        }
        let call = step.get("call").ok_or("no call")?;
        let expected = step.get("expect").ok_or("no expectation")?;
        let fail =
            |seen: String| Err(Failure::from(format!("step {number}: expected {expected:?}, got {seen}")));
        if expected.as_array().is_some() {
            // A refusal takes nothing: asking again, and only looking, give the same reasons.
            for peek in [false, false, true] {
                let (verdict, reasons, _) = door.decide(call, peek);
                let seen: Vec<String> = reasons.iter().map(said).collect();
                if verdict != Verdict::Block || seen != expected_reasons(expected) {
                    return fail(format!("{verdict:?} {seen:?}"));
                }
            }
            continue;
        }
        let (verdict, reasons, permit) = door.decide(call, false);
        match (&verdict, expected.get("replay")) {
            (Verdict::Replay(stored), Some(result)) if **stored == *canonical_json::to_vec(result) => {}
            (Verdict::Allow, None) => match text(step, "open") {
                Some(name) => drop(opened.insert(name.to_owned(), permit)),
                None => door.end(permit, step.get("ends"))?,
            },
            _ => return fail(format!("{verdict:?} {:?}", reasons.iter().map(said).collect::<Vec<_>>())),
        }
    }
    Ok(())
}

#[test]
fn the_corpus() -> Result<(), Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/admission");
    let mut ran = 0;
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let cases = json::read(&std::fs::read(&path)?, &Limits::default())?;
        for case in several(Some(&cases)) {
            ran += 1;
            if let Err(failure) = run(case) {
                failures.push(format!("{}: {}", text(case, "name").unwrap_or_default(), failure));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ran >= 30, "only {ran} cases were found");
    Ok(())
}
