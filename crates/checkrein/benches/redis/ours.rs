//! The store, with the policies that are measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::store::{OwnedInputs, PermitId, Results, Step, StepResult};
use checkrein_core::admission::{Inputs, Verdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;

use crate::Failure;

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// One limit.
    Limit,
    /// A limit, a held budget, a breaker and a once key in one admission.
    Four,
    /// The same, and what was held is settled.
    Finished,
}

/// A store and a policy.
pub(crate) struct Ours {
    pub(crate) engine: Engine,
    pub(crate) policy: Arc<CompiledPolicy>,
    work: Work,
    calls: AtomicU64,
    /// Added to every key.
    first_key: u64,
}

impl Ours {
    /// Opens a store of its own; `name` is the prefix of its keys. With a window so long, and at most so many calls in it.
    pub(crate) fn open(
        url: &str,
        name: &str,
        work: Work,
        window: Span,
        max_calls: u64,
        clock: Option<FakeClock>,
    ) -> Result<Self, Failure> {
        // What is measured is time, not who gave up.
        Self::open_within(Duration::from_secs(10), url, name, work, window, max_calls, clock)
    }

    /// The same with a deadline of its own.
    pub(crate) fn open_within(
        deadline: Duration,
        url: &str,
        name: &str,
        work: Work,
        window: Span,
        max_calls: u64,
        clock: Option<FakeClock>,
    ) -> Result<Self, Failure> {
        let options = RedisOptions {
            prefix: name.to_owned(),
            max_keys: 2_000_000,
            deadline,
            clock: clock.map(Clock::fake),
            ..RedisOptions::default()
        };
        let store = RedisStore::open(url, options)?;
        let engine = Engine::builder().redis(store).build();
        let limit = GateSpecKind::Limit {
            key: 0,
            max_calls,
            window: WindowSpec::Rolling(window),
            cooldown: Span::ZERO,
        };
        let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
        let mut gates = vec![gate("per user", limit)];
        if work != Work::Limit {
            let budget = GateSpecKind::Budget {
                key: 0,
                limit: Amount::from_units(1 << 40),
                unit: Unit::Usd,
                window: WindowSpec::Rolling(Span::from_secs(3_600)),
                cost: 0,
                charge: Charge::Hold,
                hard: false,
            };
            let minute = Span::from_secs(60);
            let breaker =
                GateSpecKind::Breaker { key: 0, max_fails: 3, reset: minute, probes: 1, probe_lease: minute };
            let once = GateSpecKind::Once { keep_result: minute, keep_key: minute };
            gates.extend([gate("team", budget), gate("api", breaker), gate("refund", once)]);
        }
        let policy = engine.compile(gates, Leases::default())?;
        // Operations of an earlier run, or of another process, have other keys.
        let mut first = [0; 8];
        getrandom::fill(&mut first).map_err(|error| error.to_string())?;
        Ok(Self { engine, policy, work, calls: AtomicU64::new(u64::from_le_bytes(first)), first_key: 0 })
    }

    /// With other keys than other processes.
    pub(crate) fn starting_at(self, first_key: u64) -> Self {
        Self { first_key, ..self }
    }

    /// What is asked about a key.
    pub(crate) fn inputs(&self, key: u64) -> OwnedInputs {
        let user = format!("tenant/user-{:06}", self.first_key + key).into_bytes();
        let four = self.work != Work::Limit;
        let once = four.then(|| {
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            (Ok(format!("refund:{number:020}").into_bytes()), RequestDigest::from_bytes([9; 32]))
        });
        let costs = if four { vec![Cost::proven(COST)] } else { Vec::new() };
        OwnedInputs { keys: vec![Ok(user)], costs, once, start: true, ..OwnedInputs::default() }
    }

    fn admit(&self, inputs: &Inputs<'_>) -> Option<Option<PermitId>> {
        let admitted = self.engine.admit(&self.policy, inputs);
        (admitted.admission.verdict == Verdict::Allow).then_some(admitted.permit)
    }

    /// One call, on the server when it returns; `false` when it was refused.
    pub(crate) fn call(&self, key: u64) -> bool {
        let permit = self.inputs(key).with(&[], |inputs| self.admit(inputs));
        match permit {
            Some(Some(permit)) if self.work == Work::Finished => {
                let settlement =
                    Settlement { actual: &[COST], ..Settlement::new(Outcome::Done(None), Health::Success) };
                self.engine.finish(permit, &settlement).is_ok()
            }
            permit => permit.is_some(),
        }
    }

    /// The same without waiting, and only the admission: says at the end whether it was allowed.
    pub(crate) fn call_then(&self, key: u64, then: impl FnOnce(bool) + Send + 'static) {
        let step = Step::Admit(Arc::clone(&self.policy), self.inputs(key));
        let ended = Box::new(move |results: Results| {
            then(results.is_ok_and(|results| results.iter().all(is_allowed)))
        });
        self.engine.submit_then(vec![step], ended);
    }
}

const COST: Amount = Amount::from_pico(300_000_000_000);

/// Whether a step is an admission that was allowed.
pub(crate) fn is_allowed(result: &StepResult) -> bool {
    matches!(result, StepResult::Admitted(admission, _) if admission.verdict == Verdict::Allow)
}
