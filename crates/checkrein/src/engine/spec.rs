//! Gates as a policy writes them.

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::{Span, Window};

use crate::calendar::Calendar;

/// Over which stretch of time a gate counts, as policies write it.
#[derive(Clone, Debug)]
pub enum WindowSpec {
    /// The last stretch of this length.
    Rolling(Span),
    /// The current calendar period.
    Calendar(Calendar),
    /// All time.
    Lifetime,
}

impl WindowSpec {
    pub(super) fn window(&self) -> Window {
        match self {
            Self::Rolling(length) => Window::Rolling(*length),
            Self::Calendar(_) => Window::Period,
            Self::Lifetime => Window::Lifetime,
        }
    }

    /// Whether both count over the same stretch, so that gates of one name share their records.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let calendar = |window: &Self| window.calendar().map(|c| (c.period(), c.zone().to_owned()));
        self.window() == other.window() && calendar(self) == calendar(other)
    }

    pub(super) fn calendar(&self) -> Option<&Calendar> {
        match self {
            Self::Calendar(calendar) => Some(calendar),
            Self::Rolling(_) | Self::Lifetime => None,
        }
    }
}

/// A gate as a policy writes it. `key` and `cost` are positions in [`Inputs::keys`] and [`Inputs::costs`].
#[derive(Clone, Debug)]
pub struct GateSpec {
    /// Its name, in reasons and for sharing: two gates of one kind, name, unit and window count on the same records.
    pub name: String,
    /// Whether its refusals hold.
    pub mode: Mode,
    /// What it checks.
    pub kind: GateSpecKind,
}

/// What a gate checks, as a policy writes it.
#[derive(Clone, Debug)]
pub enum GateSpecKind {
    /// A condition whose verdict comes in at this position of [`Inputs::verdicts`].
    Rule {
        /// The position.
        verdict: u16,
    },
    /// A value that must have been proved.
    Fact {
        /// Which key.
        key: u16,
    },
    /// At most one run per key.
    Once {
        /// How long a result is kept for replay.
        keep_result: Span,
        /// How long the key is remembered.
        keep_key: Span,
    },
    /// A circuit breaker.
    Breaker {
        /// Which key.
        key: u16,
        /// Consecutive failures that open it.
        max_fails: u32,
        /// How long it stays open.
        reset: Span,
        /// Probes let through half-open.
        probes: u32,
        /// How long a probe may take.
        probe_lease: Span,
    },
    /// A bounded number of attempts.
    Attempts {
        /// Which key.
        key: u16,
        /// The most attempts.
        max: u64,
    },
    /// A rate limit.
    Limit {
        /// Which key.
        key: u16,
        /// The most calls in the window.
        max_calls: u64,
        /// The window.
        window: WindowSpec,
        /// What must pass between two calls.
        cooldown: Span,
    },
    /// A loop guard: the call of this number for one key is refused, and those after it.
    Repetition {
        /// Which key: a run and everything that makes two calls the same.
        key: u16,
        /// The number of the first call that is refused.
        same_call: u32,
        /// How long a call is remembered.
        keep: Span,
    },
    /// A budget.
    Budget {
        /// Which key.
        key: u16,
        /// The most that may be spent and held.
        limit: Amount,
        /// What is counted.
        unit: Unit,
        /// The window.
        window: WindowSpec,
        /// Which cost.
        cost: u16,
        /// How it is taken.
        charge: Charge,
        /// Refuses bounds that are only estimated.
        hard: bool,
    },
}

/// A policy in words: the same words for the same gates.
pub(super) fn describe(gates: &[GateSpec], leases: Leases) -> String {
    use std::fmt::Write as _;
    let window = |window: &WindowSpec| match window {
        WindowSpec::Rolling(length) => format!("per {length}"),
        WindowSpec::Calendar(calendar) => {
            format!("per calendar {} in {}", calendar.period().name(), calendar.zone())
        }
        WindowSpec::Lifetime => "ever".to_owned(),
    };
    let mut text = String::new();
    for GateSpec { name, mode, kind } in gates {
        let what = match kind {
            GateSpecKind::Rule { verdict } => format!("rule {verdict}"),
            GateSpecKind::Fact { key } => format!("fact of key {key}"),
            GateSpecKind::Once { keep_result, keep_key } => {
                format!("once, result kept {keep_result}, key kept {keep_key}")
            }
            GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease } => format!(
                "breaker of key {key}: {max_fails} failures, {reset} pause, {probes} probes of {probe_lease}"
            ),
            GateSpecKind::Attempts { key, max } => format!("attempts of key {key}: {max}"),
            GateSpecKind::Limit { key, max_calls, window: over, cooldown } => {
                format!("limit of key {key}: {max_calls} calls {}, cooldown {cooldown}", window(over))
            }
            GateSpecKind::Repetition { key, same_call, keep } => {
                format!("loop guard of key {key}: call {same_call} refused, calls kept {keep}")
            }
            GateSpecKind::Budget { key, limit, unit, window: over, cost, charge, hard } => format!(
                "budget of key {key}: {} {}, cost {cost} {}{}",
                if *limit == Amount::MAX { format!("no limit of {unit}") } else { format!("{limit} {unit}") },
                window(over),
                if *charge == Charge::Hold { "held" } else { "fixed" },
                if *hard { ", hard" } else { "" },
            ),
        };
        let mode = if *mode == Mode::Observe { " (observed)" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} `{}`{mode}: {what}", kind.name(), name.escape_debug());
    }
    let Leases { reserved, started, in_doubt } = leases;
    let _ = writeln!(text, "leases: reserved {reserved}, started {started}, in doubt {in_doubt}");
    text
}

impl GateSpecKind {
    const fn name(&self) -> &'static str {
        match self {
            Self::Rule { .. } => "rule",
            Self::Fact { .. } => "fact",
            Self::Once { .. } => "once",
            Self::Breaker { .. } => "breaker",
            Self::Attempts { .. } => "attempts",
            Self::Limit { .. } => "limit",
            Self::Repetition { .. } => "loop guard",
            Self::Budget { .. } => "budget",
        }
    }
}
