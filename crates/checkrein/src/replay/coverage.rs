//! What a replay rests on: how much of a ledger was decided again, and what had to be assumed.

use std::collections::BTreeMap;

use checkrein_core::time::Timestamp;

use super::source::Source;

/// Why a decision was not decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// A gate reads the arguments, and only a digest of them was kept.
    ArgumentsDigest,
    /// A gate reads the arguments, and nothing of them was kept.
    ArgumentsMissing,
    /// The arguments cannot be read.
    ArgumentsUnreadable,
    /// The action has no name, so that no section is its own.
    NoName,
    /// It was refused by gates of the code, which go on refusing.
    ByCode,
    /// It is what was spent from a run, or recorded without asking: no file decides it.
    Spending,
    /// It was refused by the store, a person or a caller's credentials, and not by a rule that a file has.
    ByOthers,
}

impl Left {
    /// The stable word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ArgumentsDigest => "arguments_digest",
            Self::ArgumentsMissing => "arguments_missing",
            Self::ArgumentsUnreadable => "arguments_unreadable",
            Self::NoName => "no_name",
            Self::ByCode => "refused_by_code",
            Self::Spending => "spending",
            Self::ByOthers => "refused_by_others",
        }
    }

    /// What it means.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ArgumentsDigest => "a gate reads their arguments, of which the ledger has a digest",
            Self::ArgumentsMissing => "a gate reads their arguments, which the ledger does not have",
            Self::ArgumentsUnreadable => "their arguments are too large to be read again",
            Self::NoName => "the action has no name",
            Self::ByCode => "refused by gates of the code, which stay",
            Self::Spending => "spent from a run, or recorded without asking: no file decides it",
            Self::ByOthers => "refused by the store, by a person or for a credential",
        }
    }
}

/// What was assumed because the ledger does not tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assumed {
    /// Nothing had been counted before the first entry.
    EmptyStart,
    /// Calls that had not run were done at once, at the cost that the policy names.
    Done,
    /// Facts were read or missing as they were recorded: results are not in a ledger.
    Facts,
    /// Equal refusals between the first and the last one were refused like these.
    Between,
    /// Refusals name gates that no policy given here has: of the code, or of the old file.
    GatesUnknown,
    /// Entries came later than anything is held back for.
    Late,
    /// Entries of a store that several hosts share: their times have bounds, and other hosts have others.
    Shared,
    /// Records were reset or resolved by hand, and the policy has no such record.
    ByHand,
    /// Budgets were changed at run time that the policy does not have.
    Budgets,
    /// The store was restored from a backup in between.
    Restored,
}

impl Assumed {
    /// The stable word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::EmptyStart => "empty_start",
            Self::Done => "assumed_done",
            Self::Facts => "facts_as_recorded",
            Self::Between => "repeats_as_first",
            Self::GatesUnknown => "gates_unknown",
            Self::Late => "out_of_order",
            Self::Shared => "shared_store",
            Self::ByHand => "changes_not_repeated",
            Self::Budgets => "budget_changes_not_repeated",
            Self::Restored => "restored",
        }
    }

    /// What it means.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::EmptyStart => "entries before the first one are not here, nor what they had counted",
            Self::Done => {
                "what did not run and would now is taken as done, at the cost that the policy names"
            }
            Self::Facts => "facts that a call needs are taken as they were recorded",
            Self::Between => "equal refusals are taken as the first of them",
            Self::GatesUnknown => {
                "refused by gates that this policy does not have, of the old file or of the code"
            }
            Self::Late => "out of order",
            Self::Shared => "entries of a shared store, whose times are bounds",
            Self::ByHand => "resets by hand of records that the policy does not have",
            Self::Budgets => "changes at run time of budgets that the policy does not have",
            Self::Restored => "restorations from a backup in between",
        }
    }
}

/// How much of a ledger was decided again, and what that rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// What was read.
    pub source: Source,
    /// When the first and the last decision were made.
    pub period: Option<(Timestamp, Timestamp)>,
    /// Decisions, equal refusals counted one by one.
    pub decisions: u64,
    /// Those of them that were decided again.
    pub replayed: u64,
    /// Those of them that were decided again without arguments, which no gate of their tools reads.
    pub without_arguments: u64,
    /// Those that were not, by why not.
    pub left: BTreeMap<Left, u64>,
    /// What was assumed, and how often.
    pub assumed: BTreeMap<Assumed, u64>,
}

impl Coverage {
    pub(super) fn decided_at(&mut self, first: Timestamp, last: Timestamp, count: u64) {
        self.decisions = self.decisions.saturating_add(count);
        let (from, to) = self.period.unwrap_or((first, last));
        self.period = Some((from.min(first), to.max(last)));
    }

    pub(super) fn replay(&mut self, count: u64, with_arguments: bool) {
        self.replayed = self.replayed.saturating_add(count);
        if !with_arguments {
            self.without_arguments = self.without_arguments.saturating_add(count);
        }
    }

    pub(super) fn leave(&mut self, why: Left, count: u64) {
        let left = self.left.entry(why).or_default();
        *left = left.saturating_add(count);
    }

    pub(super) fn assume(&mut self, what: Assumed, count: u64) {
        if count > 0 {
            let assumed = self.assumed.entry(what).or_default();
            *assumed = assumed.saturating_add(count);
        }
    }

    /// Whether keeping the arguments in full would have helped.
    #[must_use]
    pub fn lacks_arguments(&self) -> bool {
        self.left.contains_key(&Left::ArgumentsDigest) || self.left.contains_key(&Left::ArgumentsMissing)
    }
}
