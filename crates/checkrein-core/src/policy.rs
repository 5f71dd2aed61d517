//! A compiled policy: the gates of an action in their fixed order, checked once.

use std::sync::Arc;

use crate::amount::{Amount, Unit};
use crate::decision::GateKind;
use crate::key::Family;
use crate::time::{Span, Window};

/// The most gates one policy may have.
pub const MAX_GATES: usize = 64;

/// What a gate does with a refusal of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The refusal holds.
    #[default]
    Enforce,
    /// The refusal is recorded and the action passes; what it spends beyond the limit is kept as forced.
    Observe,
}

/// Which of the keys that come in with an action names a gate's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlot(pub u16);

/// At most so many calls in a window, and so much time between two.
#[derive(Clone, Debug)]
pub struct Limit {
    /// The records of this limit.
    pub family: Family,
    /// Which key.
    pub key: KeySlot,
    /// The most calls in the window.
    pub max_calls: u64,
    /// The window.
    pub window: Window,
    /// What must pass between two calls; zero for no cooldown.
    pub cooldown: Span,
    /// The calls are repetitions of one another: one too many is a loop, and time does not mend it.
    pub repeats: bool,
}

/// At most so many admissions, ever, until the counter is reset.
#[derive(Clone, Debug)]
pub struct Attempts {
    /// The records of this gate.
    pub family: Family,
    /// Which key.
    pub key: KeySlot,
    /// The most attempts.
    pub max: u64,
}

/// How a budget takes an action's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Spent at admission and never given back.
    Fixed,
    /// Held at admission as an upper bound, settled at the actual cost when the action ends.
    Hold,
}

/// At most so much of a unit in a window.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The records of this budget.
    pub family: Family,
    /// Which key.
    pub key: KeySlot,
    /// The most that may be spent and held.
    pub limit: Amount,
    /// What is counted.
    pub unit: Unit,
    /// The window.
    pub window: Window,
    /// Which of the amounts that come in with an action.
    pub cost: u16,
    /// How it is taken.
    pub charge: Charge,
    /// Refuses bounds that are only estimated.
    pub hard: bool,
    /// Percentages of the limit whose passing is announced, in growing order.
    pub thresholds: Arc<[u8]>,
}

/// Opens on failures of a dependency, never on refusals.
#[derive(Clone, Debug)]
pub struct BreakerSpec {
    /// The records of this breaker.
    pub family: Family,
    /// Which key.
    pub key: KeySlot,
    /// Consecutive failures that open it.
    pub max_fails: u32,
    /// How long it stays open.
    pub reset: Span,
    /// How many probes are let through half-open; all of them must succeed to close it.
    pub probes: u32,
    /// A probe that has not reported by then counts as failed.
    pub probe_lease: Span,
}

/// At most one run per key.
#[derive(Clone, Debug)]
pub struct Once {
    /// The operations of this scope.
    pub family: Family,
    /// How long a result is kept for replay.
    pub keep_result: Span,
    /// How long the key is remembered after that; never shorter than the result.
    pub keep_key: Span,
}

/// A value that a read must have shown before.
#[derive(Clone, Debug)]
pub struct FactSpec {
    /// The records of this kind of fact.
    pub family: Family,
    /// Which key: scope (run or session) and value.
    pub key: KeySlot,
}

/// What one gate checks.
#[derive(Clone, Debug)]
pub enum Check {
    /// A condition, evaluated outside the core: its verdict comes in at this position.
    Rule(u16),
    /// A required fact.
    Fact(FactSpec),
    /// At most one run per key.
    Once(Once),
    /// A circuit breaker.
    Breaker(BreakerSpec),
    /// A bounded number of attempts.
    Attempts(Attempts),
    /// A rate limit.
    Limit(Limit),
    /// A budget.
    Budget(Budget),
}

impl Check {
    /// The kind of gate.
    pub const fn kind(&self) -> GateKind {
        match self {
            Self::Rule(_) => GateKind::Rule,
            Self::Fact(_) => GateKind::Fact,
            Self::Once(_) => GateKind::Once,
            Self::Breaker(_) => GateKind::Breaker,
            Self::Attempts(_) => GateKind::Attempts,
            Self::Limit(_) => GateKind::Limit,
            Self::Budget(_) => GateKind::Budget,
        }
    }

    /// The kind of record it reads, its family, and which key names it (a once key comes in on its own).
    pub const fn record(&self) -> Option<(RecordKind, Family, Option<KeySlot>)> {
        match self {
            Self::Rule(_) => None,
            Self::Fact(fact) => Some((RecordKind::Fact, fact.family, Some(fact.key))),
            Self::Once(once) => Some((RecordKind::Operation, once.family, None)),
            Self::Breaker(breaker) => Some((RecordKind::Breaker, breaker.family, Some(breaker.key))),
            Self::Attempts(attempts) => Some((RecordKind::Meter, attempts.family, Some(attempts.key))),
            Self::Limit(limit) => Some((RecordKind::Meter, limit.family, Some(limit.key))),
            Self::Budget(budget) => Some((RecordKind::Meter, budget.family, Some(budget.key))),
        }
    }
}

/// The kinds of record a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A meter.
    Meter,
    /// A breaker.
    Breaker,
    /// An operation.
    Operation,
    /// A fact.
    Fact,
    /// A permit.
    Permit,
}

/// One gate of a policy.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Its name in the policy and in reasons.
    pub name: Arc<str>,
    /// Whether its refusals hold.
    pub mode: Mode,
    /// What it checks.
    pub check: Check,
}

/// How long unfinished permits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leases {
    /// A reserved permit that was not started by then is released.
    pub reserved: Span,
    /// A started permit that was not finished by then is in doubt.
    pub started: Span,
    /// The cost of an action in doubt is held this long, then settled at the full hold.
    pub in_doubt: Span,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            reserved: Span::from_secs(60),
            started: Span::from_secs(3_600),
            in_doubt: Span::from_secs(3_600),
        }
    }
}

/// The gates that apply to an action, compiled.
#[derive(Clone, Debug)]
pub struct Policy {
    gates: Vec<Gate>,
    leases: Leases,
    records: usize,
    settles: bool,
}

/// A policy that cannot work as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than [`MAX_GATES`] gates.
    #[error("{0} gates are more than the 64 a policy may have")]
    TooManyGates(usize),
    /// Two gates that would take from the same records.
    #[error("two gates named `{0}` count on the same records")]
    Repeated(String),
    /// More than one once gate.
    #[error("a policy may have one once gate, not {0}")]
    SeveralOnce(usize),
    /// A value that makes no sense.
    #[error("{gate} `{name}`: {problem}")]
    Value {
        /// The kind of gate.
        gate: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Policy {
    /// Compiles gates: checks their values and puts them in the order in which reasons are given.
    ///
    /// # Errors
    /// Too many gates, several once gates, or a value that makes no sense.
    pub fn new(mut gates: Vec<Gate>, leases: Leases) -> Result<Self, PolicyError> {
        if gates.len() > MAX_GATES {
            return Err(PolicyError::TooManyGates(gates.len()));
        }
        gates.sort_by_key(|gate| gate.check.kind());
        for gate in &gates {
            if let Some(problem) = problem_of(&gate.check, gate.mode) {
                let (kind, name) = (gate.check.kind().name(), gate.name.to_string());
                return Err(PolicyError::Value { gate: kind, name, problem });
            }
        }
        let once = gates.iter().filter(|gate| matches!(gate.check, Check::Once(_))).count();
        if once > 1 {
            return Err(PolicyError::SeveralOnce(once));
        }
        for (position, gate) in gates.iter().enumerate() {
            // Facts are only looked at: several of one kind may be asked for.
            let slot = |check: &Check| match check {
                Check::Fact(fact) => Some(fact.key),
                _ => None,
            };
            let records = gate.check.record().map(|(kind, family, _)| (kind, family, slot(&gate.check)));
            let same = |other: &&Gate| {
                let named = other.check.record().map(|(kind, family, _)| (kind, family, slot(&other.check)));
                records == named
            };
            if records.is_some() && gates.iter().take(position).any(|other| same(&other)) {
                return Err(PolicyError::Repeated(gate.name.to_string()));
            }
        }
        let records = gates.iter().filter(|gate| gate.check.record().is_some()).count();
        let settles = gates.iter().any(|gate| match &gate.check {
            Check::Once(_) | Check::Breaker(_) => true,
            Check::Budget(budget) => budget.charge == Charge::Hold,
            Check::Rule(_) | Check::Fact(_) | Check::Attempts(_) | Check::Limit(_) => false,
        });
        Ok(Self { gates, leases, records, settles })
    }

    /// The gates, in the order of their reasons.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// How long unfinished permits are kept.
    pub fn leases(&self) -> Leases {
        self.leases
    }

    /// How many records an admission reads.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Whether an admitted action has something to settle when it ends.
    pub fn settles(&self) -> bool {
        self.settles
    }
}

fn problem_of(check: &Check, mode: Mode) -> Option<&'static str> {
    let empty = |window: Window| window == Window::Rolling(Span::ZERO);
    match check {
        Check::Limit(limit) if empty(limit.window) => Some("the window must be longer than zero"),
        Check::Budget(budget) if empty(budget.window) => Some("the window must be longer than zero"),
        Check::Budget(budget) if budget.limit.is_negative() => Some("the limit must be zero or more"),
        Check::Breaker(breaker) if breaker.max_fails == 0 => Some("max_fails must be 1 or more"),
        Check::Breaker(breaker) if breaker.probes == 0 => Some("probes must be 1 or more"),
        Check::Once(once) if once.keep_key < once.keep_result => {
            Some("the key must be kept at least as long as the result")
        }
        Check::Once(_) if mode == Mode::Observe => Some("once is always enforced"),
        _ => None,
    }
}
