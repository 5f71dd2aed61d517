//! The tools that simulated clients call, and the gates in front of them.

use std::sync::Arc;

use checkrein::core::amount::{Amount, Unit};
use checkrein::core::fingerprint::RequestDigest;
use checkrein::core::gate::budget::Cost;
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::Span;
use checkrein::engine::{CompiledPolicy, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::{OwnedAction, OwnedInputs};
use checkrein::testing::Random;

use crate::upstream::OnceKey;

/// How long simulated permits last.
pub(crate) const LEASES: Leases =
    Leases { reserved: Span::from_secs(5), started: Span::from_secs(60), in_doubt: Span::from_secs(120) };

/// Results are kept for a short time, keys for longer than any run.
const KEEP_RESULT: Span = Span::from_secs(300);
const KEEP_KEY: Span = Span::from_secs(400 * 86_400);

/// Something that agents call.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) gates: Vec<GateSpec>,
    pub(crate) policy: Arc<CompiledPolicy>,
    pub(crate) once: bool,
}

/// The gates of every tool; their numbers are drawn anew for each run.
pub(crate) fn draw(random: &mut Random) -> Vec<(&'static str, Vec<GateSpec>)> {
    let gate = |name: &str, kind| GateSpec { name: name.into(), mode: Mode::Enforce, kind };
    let once = gate("once", GateSpecKind::Once { keep_result: KEEP_RESULT, keep_key: KEEP_KEY });
    let mut limit = |name: &str, key, cooldown| {
        let (max_calls, window) = (2 + random.below(6), Span::from_secs(20 + random.below(60) as u32));
        let window = WindowSpec::Rolling(window);
        gate(name, GateSpecKind::Limit { key, max_calls, window, cooldown })
    };
    let calls = limit("calls", 0, Span::ZERO);
    let notes = limit("notes", 1, Span::from_millis(700));
    let mut budget = |name: &str, key, charge| {
        let limit = Amount::from_units(20 + random.below(80));
        let (unit, window, hard) = (Unit::Usd, WindowSpec::Lifetime, false);
        gate(name, GateSpecKind::Budget { key, limit, unit, window, cost: 0, charge, hard })
    };
    let team = budget("team", 1, Charge::Hold);
    let user = budget("user", 0, Charge::Hold);
    let mut fixed = team.clone();
    if let GateSpecKind::Budget { charge, .. } = &mut fixed.kind {
        *charge = Charge::Fixed;
    }
    let reset = Span::from_secs(4);
    let (key, max_fails, probes, probe_lease) = (1, 1, PROBES, PROBE_LEASE);
    let mail = gate("mail", GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease });
    let attempts = gate("tries", GateSpecKind::Attempts { key: 0, max: 4 + random.below(30) });
    vec![
        ("refund", vec![once.clone(), team, user]),
        ("pay", vec![once, calls.clone()]),
        ("post", vec![mail, calls]),
        ("note", vec![notes]),
        ("ask", vec![fixed, attempts]),
    ]
}

/// Probes that the breaker lets through half-open.
pub(crate) const PROBES: u32 = 1;
/// A probe that says nothing for so long has failed.
pub(crate) const PROBE_LEASE: Span = Span::from_secs(30);

/// One call of a client, the same however often it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) tool: usize,
    pub(crate) tenant: &'static str,
    pub(crate) user: &'static str,
    /// The once key, and which request is made under it.
    pub(crate) once: Option<(String, u8)>,
    pub(crate) cost: Amount,
    /// The door starts it in a step of its own.
    pub(crate) reserve: bool,
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from.get(random.below(from.len() as u64) as usize).copied().unwrap_or_default()
}

impl Call {
    /// A call that a client might make.
    pub(crate) fn draw(tools: &[Tool], keys: u64, random: &mut Random) -> Self {
        // Every second call is one that must not run twice.
        let tool =
            if random.once_in(2) { random.below(2) } else { random.below(tools.len() as u64) } as usize;
        let once = tools.get(tool).is_some_and(|tool| tool.once);
        // Once in a while a key comes with another request.
        let once = once.then(|| (format!("op{}", random.below(keys)), u8::from(random.once_in(25))));
        // What settles nothing has no permit that could be started.
        let reserve = once.is_some() && random.once_in(3);
        Self {
            tool,
            tenant: pick(random, &["acme", "beta"]),
            user: pick(random, &["ann", "bob", "cy"]),
            once,
            cost: Amount::from_units(1 + random.below(8)),
            reserve,
        }
    }

    /// The key that names the call in its tenant.
    pub(crate) fn once_key(&self) -> Option<OnceKey> {
        self.once.as_ref().map(|(key, _)| (self.tenant.to_owned(), key.clone()))
    }

    /// What the store gets to see of it.
    pub(crate) fn inputs(&self, number: usize, tool: &Tool) -> OwnedInputs {
        let digest = |byte: &u8| RequestDigest::from_bytes([*byte; 32]);
        let action = OwnedAction {
            name: tool.name.to_owned(),
            user: self.user.to_owned(),
            run: number.to_string(),
            ..OwnedAction::default()
        };
        OwnedInputs {
            tenant: self.tenant.to_owned(),
            keys: vec![Ok(self.user.as_bytes().to_vec()), Ok(b"all".to_vec())],
            costs: vec![Cost::proven(self.cost)],
            once: self.once.as_ref().map(|(key, byte)| (Ok(key.as_bytes().to_vec()), digest(byte))),
            start: !self.reserve,
            action: Some(Box::new(action)),
            ..OwnedInputs::default()
        }
    }
}
