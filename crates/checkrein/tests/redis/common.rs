//! Engines, policies and calls of these tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::store::{PermitId, RecordState, StoreError};
use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode, RecordKind};
use checkrein_core::time::Span;

/// A decision comes within 500 ms and a little; this machine may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(3);

/// Options for tests in which the machine may take its time.
pub(crate) fn patient() -> RedisOptions {
    RedisOptions { deadline: Duration::from_secs(20), ..RedisOptions::default() }
}

pub(crate) fn open_with(url: &str, options: RedisOptions) -> Result<Engine, StoreError> {
    Ok(Engine::builder().redis(RedisStore::open(url, options)?).build())
}

/// An engine with connections and records of its own, as another process has.
pub(crate) fn stranger(url: &str, options: RedisOptions) -> Engine {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    // Stores with the same options would share them.
    let max_keys = options.max_keys + NEXT.fetch_add(1, Ordering::Relaxed);
    open_with(url, RedisOptions { max_keys, ..options }).unwrap()
}

pub(crate) fn engine(url: &str) -> Engine {
    open_with(url, RedisOptions::default()).unwrap()
}

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

/// A limit in an hour.
pub(crate) fn limit(max_calls: u64) -> GateSpec {
    let window = WindowSpec::Rolling(Span::from_secs(3_600));
    gate("rate", GateSpecKind::Limit { key: 0, max_calls, window, cooldown: Span::ZERO })
}

/// A budget for all time, of which each call holds one.
pub(crate) fn budget(units: u64, hard: bool) -> GateSpec {
    let (limit, window) = (Amount::from_units(units), WindowSpec::Lifetime);
    gate(
        "team",
        GateSpecKind::Budget { key: 0, limit, unit: Unit::Usd, window, cost: 0, charge: Charge::Hold, hard },
    )
}

pub(crate) fn once() -> GateSpec {
    let (keep_result, keep_key) = (Span::from_secs(3_600), Span::from_secs(86_400));
    gate("pay", GateSpecKind::Once { keep_result, keep_key })
}

pub(crate) fn compile(engine: &Engine, gates: Vec<GateSpec>) -> Arc<CompiledPolicy> {
    engine.compile(gates, Leases::default()).unwrap()
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) allowed: bool,
    pub(crate) permit: Option<PermitId>,
    /// The codes of all reasons, with plus signs.
    pub(crate) codes: String,
    /// Everything that was said.
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Called {
    /// It was refused because the store could not decide, in time, with these words.
    pub(crate) fn failed(&self, words: &str) {
        assert!(!self.allowed && self.permit.is_none(), "{self:?}");
        assert_eq!(self.codes, "store_error", "{self:?}");
        assert!(self.text.contains(words), "{self:?}");
        assert!(self.took < SOON, "{self:?}");
    }

    pub(crate) fn passed(self) -> Option<PermitId> {
        assert!(self.allowed, "{self:?}");
        self.permit
    }
}

/// A call on a key of a tenant.
pub(crate) fn call_of(engine: &Engine, policy: &Arc<CompiledPolicy>, tenant: &str, key: &[u8]) -> Called {
    let inputs = Inputs {
        tenant,
        keys: &[KeyValue::Bytes(key)],
        costs: &[Cost::proven(Amount::ONE)],
        once: Some((KeyValue::Bytes(key), RequestDigest::from_bytes([7; 32]))),
        start: true,
        ..Inputs::default()
    };
    let begin = Instant::now();
    let admitted = engine.admit(policy, &inputs);
    let took = begin.elapsed();
    let reasons = &admitted.admission.reasons;
    let codes: Vec<&str> = reasons.iter().map(|reason| reason.code.word()).collect();
    let allowed = admitted.admission.verdict == Verdict::Allow;
    Called { allowed, permit: admitted.permit, codes: codes.join("+"), text: format!("{reasons:?}"), took }
}

pub(crate) fn call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &str) -> Called {
    call_of(engine, policy, "", key.as_bytes())
}

/// A call that is over at once; whether it was allowed.
pub(crate) fn whole_call(engine: &Engine, policy: &Arc<CompiledPolicy>, key: &str) -> bool {
    let called = call(engine, policy, key);
    if let Some(permit) = called.permit {
        finish(engine, permit).unwrap();
    }
    called.allowed
}

pub(crate) fn finish(engine: &Engine, permit: PermitId) -> Result<(), String> {
    let settlement = Settlement::new(Outcome::Done(None), Health::Success);
    engine.finish(permit, &settlement).map_err(|error| error.to_string())
}

/// What the meters of a gate say together: what they hold, what was spent, and how many events they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) held: u64,
    pub(crate) spent: u64,
    pub(crate) count: u64,
}

/// The sums of all meters, in the order in which their gates were compiled.
pub(crate) fn sums(engine: &Engine) -> Vec<Sums> {
    let (records, _) = engine.list(RecordKind::Meter, Default::default(), 1_000).unwrap();
    let units = |amount: Amount| u64::try_from(amount.units()).unwrap();
    let mut all: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.state {
            RecordState::Meter { spent, count, account, .. } => Some((
                record.key.borrow().family,
                Sums { held: units(account.held), spent: units(*spent), count: *count },
            )),
            _ => None,
        })
        .collect();
    all.sort_by_key(|(family, _)| *family);
    all.into_iter().map(|(_, sums)| sums).collect()
}

/// Everything on a server that is not looked after by time, byte by byte.
pub(crate) fn everything(server: &super::servers::Server) -> String {
    let script = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do all[#all + 1] = key .. ' ' .. redis.sha1hex(redis.call('DUMP', key)) end table.sort(all) return all";
    server.cli(&["EVAL", script, "0"])
}
