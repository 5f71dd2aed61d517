//! Who is measured: governor's keyed check, and our gates from one limit to everything.
//!
//! All read the same kind of clock (`quanta`), hash with the same hasher (`foldhash`) and admit every call: at most
//! sixteen events may be in a window that is so short that even the most wanted key stays below. A second policy on
//! the same meters, with a cooldown of an hour, keeps every key's record alive, as governor keeps its keys.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::expression::{Expression, JsonScope, Operand};
use checkrein_core::admission::{Inputs, KeyValue, RuleVerdict, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::canonical_json;
use checkrein_core::fingerprint::{Request, RequestDigest};
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::json::{self, Value};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;
use foldhash::fast::RandomState;
use governor::{Quota, RateLimiter};
use sha2::{Digest, Sha256};

use crate::Failure;

/// The most events a window may hold.
pub(crate) const MAX_CALLS: u32 = 16;

/// Decides all calls of an order (positions of keys) on a thread; returns how many were refused.
type Run = Box<dyn Fn(&[String], &[u32], usize) -> u64 + Sync>;

/// Someone who decides.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) goal: Option<Goal>,
    pub(crate) run: Run,
}

impl Contestant {
    /// Whether ratios are taken to this contestant, or its place keeps theirs.
    pub(crate) fn is_base(&self) -> bool {
        self.goal.is_none_or(|goal| goal.times == Base::Governor)
    }
}

/// A bound on a ratio.
#[derive(Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) at_most: f64,
    pub(crate) times: Base,
}

/// What a ratio is taken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Governor,
    OwnLimit,
}

pub(crate) const GOVERNOR: usize = 0;
pub(crate) const OWN_LIMIT: usize = 2;

/// The arguments of each call, 300 bytes of canonical JSON.
pub(crate) const ARGUMENTS: &str = r#"{"amount":4200,"currency":"eur","customer":{"email":"zoe@example.org","id":"cus_9f2c81d07a3e","tier":"gold"},"items":[{"qty":2,"sku":"A-1001"},{"qty":1,"sku":"B-2002"}],"note":"the parcel arrived damaged and the customer asked for the money back","payment_id":"pay_71b2c4d9e0f3","reason":"damaged"}"#;

const RULES: [&str; 5] = [
    "args.amount <= 5000",
    "args.amount > 0",
    "args.currency in ['eur', 'usd']",
    "size(args.note) < 200",
    "args.reason != ''",
];

/// All contestants of a scenario whose hottest key stays below sixteen calls in `window`.
pub(crate) fn all(window: Span) -> Result<Vec<Contestant>, Failure> {
    let own = |at_most| Some(Goal { at_most, times: Base::OwnLimit });
    let governor = Some(Goal { at_most: 1.15, times: Base::Governor });
    Ok(vec![
        Contestant { name: "governor, keyed check", goal: None, run: governor_check(window)? },
        Contestant { name: "limit", goal: None, run: limits(window, Span::ZERO)? },
        Contestant { name: "limit + cooldown", goal: governor, run: limits(window, Span::from_nanos(1))? },
        Contestant {
            name: "limit + budget, held and settled",
            goal: own(2.5),
            run: gates(window, Gates::Budget)?,
        },
        Contestant {
            name: "five gates (+ breaker, attempts, 5 rules)",
            goal: own(5.0),
            run: gates(window, Gates::Five)?,
        },
        Contestant {
            name: "+ once key, digest of 300 B, chained record",
            goal: own(23.0),
            run: gates(window, Gates::All)?,
        },
    ])
}

fn governor_check(window: Span) -> Result<Run, Failure> {
    let period = Duration::from_nanos(window.nanos().unsigned_abs() / u64::from(MAX_CALLS));
    let burst = NonZeroU32::new(MAX_CALLS).ok_or("no burst")?;
    let quota = Quota::with_period(period).ok_or("no period")?.allow_burst(burst);
    let limiter = RateLimiter::dashmap_with_hasher(quota, RandomState::default());
    Ok(Box::new(move |keys: &[String], order: &[u32], _| {
        let mut refused = 0;
        for key in order.iter().filter_map(|&place| keys.get(place as usize)) {
            refused += u64::from(limiter.check_key(black_box(key)).is_err());
        }
        refused
    }))
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn limit(window: Span, cooldown: Span) -> GateSpec {
    let window = WindowSpec::Rolling(window);
    gate("rate", GateSpecKind::Limit { key: 0, max_calls: u64::from(MAX_CALLS), window, cooldown })
}

fn engine(window: Span) -> Result<Engine, Failure> {
    let engine = Engine::builder().max_keys(1 << 22).build();
    // Never asked; it only makes the store keep the records for an hour.
    engine.compile(vec![limit(window, Span::from_secs(3_600))], Leases::default())?;
    Ok(engine)
}

fn limits(window: Span, cooldown: Span) -> Result<Run, Failure> {
    let engine = engine(window)?;
    let policy = engine.compile(vec![limit(window, cooldown)], Leases::default())?;
    Ok(Box::new(move |keys: &[String], order: &[u32], _| {
        let mut refused = 0;
        for key in order.iter().filter_map(|&place| keys.get(place as usize)) {
            let inputs = Inputs {
                keys: &[KeyValue::Bytes(black_box(key).as_bytes())],
                start: true,
                ..Inputs::default()
            };
            refused += u64::from(engine.admit(&policy, &inputs).admission.verdict != Verdict::Allow);
        }
        refused
    }))
}

/// Which gates beside the limit with its cooldown.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Gates {
    Budget,
    Five,
    All,
}

/// What a policy with several gates decides with.
struct Bench {
    engine: Engine,
    policy: Arc<CompiledPolicy>,
    rules: Vec<Expression>,
    arguments: Value,
    records: AtomicU64,
    gates: Gates,
}

fn gates(window: Span, gates: Gates) -> Result<Run, Failure> {
    let hour = Span::from_secs(3_600);
    let engine = engine(window)?;
    let mut specs = vec![
        limit(window, Span::from_nanos(1)),
        gate(
            "spend",
            GateSpecKind::Budget {
                key: 0,
                limit: Amount::from_units(1_000_000_000),
                unit: Unit::Usd,
                window: WindowSpec::Rolling(hour),
                cost: 0,
                charge: Charge::Hold,
                hard: false,
            },
        ),
    ];
    if gates >= Gates::Five {
        specs.push(gate(
            "api",
            GateSpecKind::Breaker { key: 0, max_fails: 3, reset: hour, probes: 1, probe_lease: hour },
        ));
        specs.push(gate("tries", GateSpecKind::Attempts { key: 0, max: u64::MAX }));
        let rule = |(text, verdict): (&&str, u16)| gate(text, GateSpecKind::Rule { verdict });
        specs.extend(RULES.iter().zip(0..).map(rule));
    }
    if gates >= Gates::All {
        let (keep_result, keep_key) = (Span::from_millis(1), Span::from_millis(1));
        specs.push(gate("once", GateSpecKind::Once { keep_result, keep_key }));
    }
    let policy = engine.compile(specs, Leases::default())?;
    let rules =
        RULES.iter().map(|text| Expression::compile(text, &["args"])).collect::<Result<Vec<_>, _>>()?;
    let arguments = json::read_str(ARGUMENTS, &json::Limits::default())?;
    let bench = Bench { engine, policy, rules, arguments, records: AtomicU64::new(0), gates };
    Ok(Box::new(move |keys: &[String], order: &[u32], thread| {
        let mut chain = Chain::default();
        let keys = order.iter().filter_map(|&place| keys.get(place as usize));
        keys.map(|key| u64::from(!bench.decide(black_box(key), thread, &mut chain))).sum()
    }))
}

impl Bench {
    /// Admits one call, finishes it and, where that is asked, records it.
    fn decide(&self, key: &str, thread: usize, chain: &mut Chain) -> bool {
        let slots = [Operand::from(black_box(&self.arguments))];
        let scope = JsonScope { slots: &slots };
        let mut verdicts = [RuleVerdict::Pass; RULES.len()];
        if self.gates >= Gates::Five {
            for (rule, verdict) in self.rules.iter().zip(&mut verdicts) {
                *verdict = match rule.test(&scope) {
                    Ok(true) => RuleVerdict::Pass,
                    Ok(false) => RuleVerdict::Violated(rule.text()),
                    Err(_) => RuleVerdict::Error(rule.text()),
                };
            }
        }
        let mut name = [0; 31];
        let once = (self.gates >= Gates::All).then(|| {
            let number = self.records.fetch_add(1, Ordering::Relaxed);
            name = once_key(number);
            chain.arguments.clear();
            canonical_json::write(&self.arguments, &mut chain.arguments);
            let request = Request {
                namespace: "stripe",
                name: "refund",
                principal: key,
                target: None,
                arguments: &chain.arguments,
            };
            RequestDigest::of(&request)
        });
        let inputs = Inputs {
            keys: &[KeyValue::Bytes(key.as_bytes())],
            costs: &[Cost::proven(Amount::from_pico(30_000_000_000))],
            verdicts: &verdicts,
            once: once.map(|digest| (KeyValue::Bytes(&name), digest)),
            start: true,
            ..Inputs::default()
        };
        let admitted = self.engine.admit(&self.policy, &inputs);
        let actual = [Amount::from_pico(20_000_000_000)];
        let settlement =
            Settlement { actual: &actual, ..Settlement::new(Outcome::Done(None), Health::Success) };
        let finished = admitted.permit.is_some_and(|permit| self.engine.finish(permit, &settlement).is_ok());
        if let Some(digest) = once {
            chain.append(key, thread, digest, finished);
        }
        finished
    }
}

/// A key of 31 bytes that was not there before.
fn once_key(number: u64) -> [u8; 31] {
    let mut key = *b"refund:pay_71b2c4d9e0f300000000";
    let digits = number.to_be_bytes().map(|byte| byte ^ b'0');
    key.iter_mut().rev().zip(digits.iter().rev()).for_each(|(place, digit)| *place = *digit);
    key
}

/// A thread's hash-chained records: each holds the hash of the one before it.
#[derive(Default)]
struct Chain {
    arguments: Vec<u8>,
    record: Vec<u8>,
    number: i64,
    last: [u8; 32],
}

impl Chain {
    /// Writes a decision as canonical JSON, with the arguments themselves, and hashes it with the hash before it.
    fn append(&mut self, key: &str, thread: usize, digest: RequestDigest, allowed: bool) {
        self.number += 1;
        let record = &mut self.record;
        record.clear();
        record.extend_from_slice(br#"{"allowed":"#);
        record.extend_from_slice(if allowed { b"true" } else { b"false" });
        record.extend_from_slice(br#","arguments":"#);
        record.extend_from_slice(&self.arguments);
        record.extend_from_slice(br#","chain":"#);
        canonical_json::write_uint(thread as u64, record);
        record.extend_from_slice(br#","number":"#);
        canonical_json::write_int(self.number, record);
        record.extend_from_slice(br#","principal":"#);
        canonical_json::write_string(key, record);
        record.extend_from_slice(br#","request":"#);
        record.push(b'"');
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        record.extend(digest.as_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        record.extend_from_slice(b"\"}");
        let mut hash = Sha256::new();
        hash.update(self.last);
        hash.update(&self.record);
        self.last = hash.finalize().into();
        black_box(&self.last);
    }
}

/// The bytes that the arguments have in canonical form.
pub(crate) fn argument_bytes() -> Result<usize, Failure> {
    let arguments = json::read_str(ARGUMENTS, &json::Limits::default())?;
    Ok(canonical_json::to_vec(&arguments).len())
}
