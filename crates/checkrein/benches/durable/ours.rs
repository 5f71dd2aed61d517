//! The store, with the policies that are measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::durable::KeepArguments;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use checkrein::store::{OwnedInputs, PermitId};
use checkrein_core::admission::{Action, Inputs, KeyValue, Verdict};
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
    /// A limit, a held budget and a once key: admitted and finished.
    Whole,
}

/// A store and a policy.
pub(crate) struct Ours {
    pub(crate) engine: Engine,
    pub(crate) policy: Arc<CompiledPolicy>,
    work: Work,
    calls: AtomicU64,
}

const ARGUMENTS: &[u8] = br#"{"amount":4200,"currency":"eur","customer":{"email":"zoe@example.org","id":"cus_9f2c81d07a3e","tier":"gold"},"payment_id":"pay_71b2c4d9e0f3","reason":"damaged"}"#;

impl Ours {
    pub(crate) fn open(
        path: &Path,
        work: Work,
        ledger: bool,
        clock: Option<FakeClock>,
    ) -> Result<Self, Failure> {
        let options = SqliteOptions {
            ledger: ledger.then(KeepArguments::default),
            clock: clock.map(Clock::fake),
            max_keys: 2_000_000,
            ..SqliteOptions::default()
        };
        Self::open_with(path, work, options)
    }

    pub(crate) fn open_with(path: &Path, work: Work, options: SqliteOptions) -> Result<Self, Failure> {
        let engine = Engine::builder().sqlite(SqliteStore::open(path, options)?).build();
        let window = WindowSpec::Rolling(Span::from_secs(60));
        let limit = GateSpecKind::Limit { key: 0, max_calls: 1 << 40, window, cooldown: Span::ZERO };
        let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
        let mut gates = vec![gate("per user", limit)];
        if work == Work::Whole {
            let budget = GateSpecKind::Budget {
                key: 0,
                limit: Amount::from_units(1 << 40),
                unit: Unit::Usd,
                window: WindowSpec::Rolling(Span::from_secs(3_600)),
                cost: 0,
                charge: Charge::Hold,
                hard: false,
            };
            let once = GateSpecKind::Once {
                keep_result: Span::from_secs(86_400),
                keep_key: Span::from_secs(86_400),
            };
            gates.extend([gate("team", budget), gate("refund", once)]);
        }
        let policy = engine.compile(gates, Leases::default())?;
        // Operations of an earlier run have other keys.
        let calls = AtomicU64::new(engine.now().nanos().unsigned_abs());
        Ok(Self { engine, policy, work, calls })
    }

    /// One call, on the disk when it returns; `false` when it was refused.
    pub(crate) fn call(&self, key: u64) -> bool {
        let user = format!("tenant/user-{key:06}");
        let once = format!("refund:{:020}", self.calls.fetch_add(1, Ordering::Relaxed));
        let digest = RequestDigest::from_bytes([9; 32]);
        let action = Action {
            namespace: "stripe",
            name: "refund",
            user: &user,
            agent: "support",
            run: "run-000001",
            arguments: Some(ARGUMENTS),
            digest: Some(digest),
            ..Action::default()
        };
        let inputs = Inputs {
            keys: &[KeyValue::Bytes(user.as_bytes())],
            costs: &[Cost::proven(Amount::from_pico(300_000_000_000))],
            once: (self.work == Work::Whole).then_some((KeyValue::Bytes(once.as_bytes()), digest)),
            start: true,
            action: Some(&action),
            ..Inputs::default()
        };
        let admitted = self.engine.admit(&self.policy, &inputs);
        if self.work == Work::Whole {
            return admitted.permit.is_some_and(|permit| self.finish(permit));
        }
        // What settles nothing is finished without waiting, as a door does.
        admitted.permit.is_none_or(|permit| self.finish(permit))
            && admitted.admission.verdict == Verdict::Allow
    }

    fn finish(&self, permit: PermitId) -> bool {
        let outcome = Outcome::Done(Some(br#"{"status":"succeeded","id":"re_3f"}"#.as_slice().into()));
        let actual = [Amount::from_pico(300_000_000_000)];
        let actual = if self.work == Work::Whole { &actual[..] } else { &[] };
        let settlement = Settlement { outcome, health: Health::Success, actual };
        self.engine.finish(permit, &settlement).is_ok()
    }

    /// The inputs of a call on a key, owned, for batches.
    pub(crate) fn owned(&self, key: u64) -> OwnedInputs {
        let keys = vec![Ok(format!("tenant/user-{key:08}").into_bytes())];
        OwnedInputs { keys, start: true, ..OwnedInputs::default() }
    }
}
