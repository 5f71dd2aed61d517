//! What an admission says: allowed, or every reason why not.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::amount::{Amount, Unit};
use crate::code::Code;
use crate::gate::once::Run;
use crate::time::{Span, Window};

/// The kinds of gate, in the order in which reasons are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GateKind {
    /// The action itself: its identity, keys, amounts.
    Action,
    /// A condition over arguments and attributes.
    Rule,
    /// A value that must have been read before.
    Fact,
    /// At most one run per key.
    Once,
    /// A circuit breaker.
    Breaker,
    /// A bounded number of attempts.
    Attempts,
    /// A rate limit, with or without a cooldown.
    Limit,
    /// A budget.
    Budget,
    /// The store.
    Store,
}

impl GateKind {
    /// The word used in policies and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Rule => "rule",
            Self::Fact => "fact",
            Self::Once => "once",
            Self::Breaker => "breaker",
            Self::Attempts => "attempts",
            Self::Limit => "limit",
            Self::Budget => "budget",
            Self::Store => "store",
        }
    }
}

/// When the same action may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not before this much time has passed; then this gate alone would let it through.
    After(Span),
    /// It depends on something other than time: a running call, a hold, a person.
    Unknown,
    /// Never with these arguments under this policy.
    Never,
}

impl Retry {
    /// What holds when both must pass: never wins, then unknown, then the larger span.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::After(a), Self::After(b)) => Self::After(a.max(b)),
        }
    }

    /// The span, when there is one.
    pub const fn after(self) -> Option<Span> {
        match self {
            Self::After(span) => Some(span),
            Self::Unknown | Self::Never => None,
        }
    }
}

/// The figures behind a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Calls in the window against the limit.
    Calls {
        /// Events found.
        count: u64,
        /// The most that may be in the window.
        limit: u64,
        /// The window.
        window: Window,
    },
    /// Time since the last call against the cooldown.
    Elapsed {
        /// Since the last call.
        elapsed: Span,
        /// What must pass between two calls.
        cooldown: Span,
    },
    /// A budget's books.
    Budget {
        /// Settled in the window.
        spent: Amount,
        /// Held and not yet settled.
        held: Amount,
        /// What this action asked for.
        requested: Amount,
        /// The most that may be spent and held.
        limit: Amount,
        /// What is counted.
        unit: Unit,
    },
    /// The run of an operation whose outcome is unknown: whoever finds out resolves this one and no later one.
    Doubt(Run),
    /// Words: the rule's name, what was raised, what was missing.
    Text(Box<str>),
    /// The code says it all.
    None,
}

/// One gate's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What kind of refusal.
    pub code: Code,
    /// The kind of gate.
    pub kind: GateKind,
    /// The gate's name in the policy.
    pub gate: Arc<str>,
    /// When to ask again.
    pub retry: Retry,
    /// The figures.
    pub detail: Detail,
}

impl Reason {
    /// The reason as one sentence for people: lower case, no full stop.
    pub fn message(&self) -> Cow<'static, str> {
        let text = match &self.detail {
            Detail::None | Detail::Doubt(_) => return Cow::Borrowed(self.code.message()),
            Detail::Text(text) => format!("{}: {text}", self.code.message()),
            Detail::Calls { count, limit, window } => match window {
                Window::Rolling(length) => format!("{count} of {limit} calls in {length} are used"),
                Window::Period => format!("{count} of {limit} calls in this period are used"),
                Window::Lifetime => format!("{count} of {limit} calls are used"),
            },
            Detail::Elapsed { elapsed, cooldown } => {
                // Whole milliseconds are enough for people; rounded down, so that it never reads as if enough had passed.
                let elapsed = Span::from_nanos(elapsed.nanos() / 1_000_000 * 1_000_000);
                format!("{elapsed} since the last call, {cooldown} must pass")
            }
            Detail::Budget { spent, held, requested, limit, unit } if *held == Amount::ZERO => {
                format!("{requested} {unit} asked for, {spent} of {limit} {unit} spent")
            }
            Detail::Budget { spent, held, requested, limit, unit } => {
                format!("{requested} {unit} asked for, {spent} of {limit} {unit} spent and {held} held")
            }
        };
        Cow::Owned(text)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} `", self.message(), self.kind.name())?;
        for c in self.gate.chars() {
            // Quotes are harmless; whatever could move the cursor or hide text is escaped.
            if matches!(c, '\'' | '"') { write!(f, "{c}")? } else { write!(f, "{}", c.escape_debug())? }
        }
        f.write_str("`)")
    }
}

/// When an action refused for all of `reasons` may be asked again.
pub fn retry_of(reasons: &[Reason]) -> Retry {
    reasons.iter().fold(Retry::After(Span::ZERO), |all, reason| all.and(reason.retry))
}

/// Where a meter stands, for `peek` and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterStatus {
    /// The gate's name.
    pub gate: Arc<str>,
    /// The kind of gate.
    pub kind: GateKind,
    /// What is counted.
    pub unit: Unit,
    /// Spent in the window.
    pub spent: Amount,
    /// Held and not yet settled.
    pub held: Amount,
    /// The most that may be spent and held.
    pub limit: Amount,
    /// Ever spent beyond what was held for it.
    pub overrun: Amount,
    /// Ever recorded without asking.
    pub forced: Amount,
}

impl MeterStatus {
    /// What is left.
    pub fn remaining(&self) -> Amount {
        self.limit.saturating_sub(self.spent).saturating_sub(self.held).max(Amount::ZERO)
    }
}
