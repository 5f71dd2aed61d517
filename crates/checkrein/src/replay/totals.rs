//! What differs, added up: calls, money and effects, by tool and by reason.

use std::collections::BTreeMap;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::time::Timestamp;

use super::record::{Cause, Ruling};

/// The most tools, and the most reasons, that have a row of their own.
const MOST_ROWS: usize = 10_000;
/// The row of those that have none.
const OTHERS: &str = "(others)";

/// In which way a decision differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It ran, and would not.
    Stopped,
    /// It did not run, and would.
    Started,
    /// It does not run either way, but is answered otherwise.
    Answered,
    /// It is refused either way, for other reasons.
    Reasons,
}

impl Change {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Started => "started",
            Self::Answered => "answered",
            Self::Reasons => "reasons",
        }
    }

    /// What it means that a call is ruled otherwise; nothing if it is not.
    pub(super) const fn between(old: Ruling, new: Ruling) -> Option<Self> {
        match (old, new) {
            (Ruling::Run, Ruling::Run)
            | (Ruling::Refuse, Ruling::Refuse)
            | (Ruling::Replay, Ruling::Replay) => None,
            (Ruling::Run, _) => Some(Self::Stopped),
            (_, Ruling::Run) => Some(Self::Started),
            _ => Some(Self::Answered),
        }
    }
}

/// What became of a call that ran, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// It had its effect.
    Done,
    /// It provably had none.
    None,
    /// Nobody knows.
    #[default]
    Unknown,
}

impl Effect {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// Calls, and what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls.
    pub calls: u64,
    /// Calls that had an effect.
    pub effects: u64,
    /// Calls of which nobody knows whether they had one.
    pub unknown: u64,
    /// What they cost, by unit: of several budgets of one unit the largest amount.
    pub money: BTreeMap<Unit, Amount>,
    /// Calls without a cost that is known.
    pub unpriced: u64,
}

impl Tally {
    pub(super) fn call(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    pub(super) fn came_of(&mut self, effect: Effect, costs: &[(Unit, Amount)]) {
        match effect {
            Effect::Done => self.effects = self.effects.saturating_add(1),
            Effect::Unknown => self.unknown = self.unknown.saturating_add(1),
            // What had no effect was given back.
            Effect::None => return,
        }
        if costs.is_empty() {
            self.unpriced = self.unpriced.saturating_add(1);
        }
        for (unit, amount) in costs {
            let sum = self.money.entry(*unit).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }
}

/// Why calls are ruled otherwise: a reason that is new, or one that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Why {
    /// In which way they differ.
    pub change: Change,
    /// The reason.
    pub cause: Cause,
}

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By the way in which it differs.
    pub changes: BTreeMap<Change, Tally>,
    /// By tool.
    pub tools: BTreeMap<(String, Change), Tally>,
    /// By reason; a call counts for each of its reasons.
    pub reasons: BTreeMap<Why, Tally>,
}

/// A decision that differs, until it is known what came of it.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) change: Change,
    pub(super) tool: String,
    pub(super) causes: Vec<Cause>,
    /// Its place in the list of differences, if it is in it.
    pub(super) listed: Option<usize>,
}

impl Totals {
    fn each(&mut self, changed: &Changed, mut put: impl FnMut(&mut Tally)) {
        let change = changed.change;
        put(self.changes.entry(change).or_default());
        let key = (changed.tool.clone(), change);
        let known = self.tools.len() < MOST_ROWS || self.tools.contains_key(&key);
        put(self.tools.entry(if known { key } else { (OTHERS.to_owned(), change) }).or_default());
        for cause in &changed.causes {
            let why = Why { change, cause: cause.clone() };
            let known = self.reasons.len() < MOST_ROWS || self.reasons.contains_key(&why);
            let others = || {
                let (kind, gate) = (cause.kind.clone(), OTHERS.to_owned());
                Why { change, cause: Cause { code: cause.code.clone(), kind, gate } }
            };
            put(self.reasons.entry(if known { why } else { others() }).or_default());
        }
    }

    pub(super) fn call(&mut self, changed: &Changed) {
        self.each(changed, Tally::call);
    }

    pub(super) fn came_of(&mut self, changed: &Changed, effect: Effect, costs: &[(Unit, Amount)]) {
        if matches!(changed.change, Change::Stopped | Change::Started) {
            self.each(changed, |tally| tally.came_of(effect, costs));
        }
    }

    /// How many decisions differ.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.changes.values().fold(0, |sum, tally| sum.saturating_add(tally.calls))
    }
}

/// One decision that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its entry.
    pub seq: u64,
    /// When it was decided.
    pub time: Timestamp,
    /// Of equal refusals that share an entry: which of them, counted from 0.
    pub repeat: Option<u64>,
    /// The tool, with its namespace.
    pub tool: String,
    /// In which way it differs.
    pub change: Change,
    /// What it was, and why.
    pub old: (Ruling, Vec<Cause>),
    /// What it would be, and why.
    pub new: (Ruling, Vec<Cause>),
    /// What came of it, or is assumed to come of it.
    pub effect: Effect,
    /// What it cost, or would cost.
    pub money: Vec<(Unit, Amount)>,
}
