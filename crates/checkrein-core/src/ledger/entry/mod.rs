//! Ledger entries: what happened, in one canonical form without a field that is not hashed.
//!
//! The form is published in `docs/reference/ledger-format.md`. Two values that differ have different bytes, and bytes
//! that [`EntryView::read`] accepts are the only ones for what they say.

mod cursor;
mod digest;
mod draft;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use cursor::{EntryError, is_canonical};
pub use digest::{SALT_LENGTH, keyed_request, salted_arguments};
pub use draft::{Draft, DraftView, Drained, ShortId, Source};
pub use read::{ArgumentsView, EntryView, Kind, MeterView, ReasonView};

use crate::amount::Amount;
use crate::decision::{MeterStatus, Reason};
use crate::fingerprint::RequestDigest;
use crate::gate::breaker::Health;
use crate::time::Timestamp;

/// The version of an entry that was decided in the store that the ledger belongs to.
pub const VERSION: u64 = 1;

/// The version of an entry that was decided in a store that several hosts share, and says where it came from.
pub const SHARED_VERSION: u64 = 2;

/// The largest integer of an entry: 2^53 - 1, which every reader of JSON keeps exactly.
pub const LARGEST_INTEGER: u64 = (1 << 53) - 1;

/// The most bytes an entry may have.
pub const LARGEST_ENTRY: usize = 16 << 20;

/// One entry of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its position, counted from zero without gaps: also its leaf in the tree.
    pub seq: u64,
    /// When it was committed, in nanoseconds since 1970 in UTC by the store's clock.
    pub time: Timestamp,
    /// The number of the process that committed it, within its store.
    pub epoch: u64,
    /// What happened.
    pub body: Body<'a>,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// An action was decided.
    Decision(&'a Decision<'a>),
    /// An action ended.
    Outcome(&'a Outcome<'a>),
    /// Something else happened to the store or was done to it.
    Event(Event<'a>),
}

/// What was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It may run; the entry is committed before it does.
    #[default]
    Intent,
    /// It may not.
    Refusal,
    /// It ran before, and the caller got the stored result.
    Replay,
}

/// A decided action.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decision<'a> {
    /// What was decided.
    pub verdict: Verdict,
    /// Who wanted to do what.
    pub action: Identity<'a>,
    /// With which arguments.
    pub arguments: Arguments<'a>,
    /// The identity of the request.
    pub request: Request,
    /// The permit that was given out.
    pub permit: Option<u64>,
    /// Of a replay: the entry of the run whose result was given.
    pub intent: Option<u64>,
    /// The digest of the policy that decided.
    pub policy: Option<[u8; 32]>,
    /// Why not.
    pub reasons: &'a [Reason],
    /// What gates in observe mode would have said.
    pub observed: &'a [Reason],
    /// Where the meters stand after it.
    pub meters: &'a [MeterStatus],
    /// Of equal refusals that share one entry: how many, and when.
    pub repeated: Option<Repeated>,
}

/// Who wants to do what. Empty texts are absent from the entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The namespace of the tool.
    pub namespace: &'a str,
    /// The name of the tool.
    pub name: &'a str,
    /// On whose behalf.
    pub principal: &'a str,
    /// The user.
    pub user: &'a str,
    /// The agent.
    pub agent: &'a str,
    /// The run of the agent.
    pub run: &'a str,
    /// The session.
    pub session: &'a str,
    /// The tenant.
    pub tenant: &'a str,
}

/// The arguments, in one of three forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// Not kept.
    #[default]
    None,
    /// In full, as canonical JSON.
    Full(&'a [u8]),
    /// As [`salted_arguments`].
    Digest([u8; 32]),
}

/// The identity of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Request {
    /// Not kept.
    #[default]
    None,
    /// As it is.
    Digest(RequestDigest),
    /// As [`keyed_request`], so that few possible arguments cannot be tried out.
    Keyed([u8; 32]),
}

/// Equal refusals that share one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It happened.
    Done,
    /// It provably did not start or had no effect.
    FailedClean,
    /// Nobody knows.
    InDoubt,
}

/// Who says how an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The one that ran it.
    Caller,
    /// The store, when the lease ended.
    Lease,
    /// The store, when it was opened after the process of the action had died.
    Recovery,
    /// A look-up at the dependency.
    Reconcile,
    /// A person.
    Person,
}

/// An action that ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// Its permit.
    pub permit: Option<u64>,
    /// The entry of its decision, if it has one.
    pub intent: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// What that says about the dependency.
    pub health: Health,
    /// What it cost, in the order of the policy's budgets.
    pub actual: &'a [Amount],
    /// Who says so.
    pub by: By,
    /// More about it, as in `the result could not be stored`; empty if there is nothing to add.
    pub note: &'a str,
    /// Where the meters stand after it.
    pub meters: &'a [MeterStatus],
}

/// Something that happened to the store or was done to it.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What happened: a word in snake case.
    pub name: &'a str,
    /// More about it. Written in the order of their names; of equal names the first counts.
    pub fields: &'a [(&'a str, &'a str)],
}

impl Verdict {
    /// The word in the entry.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Refusal => "refusal",
            Self::Replay => "replay",
        }
    }
}

impl Ending {
    /// The word in the entry.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::FailedClean => "failed_clean",
            Self::InDoubt => "in_doubt",
        }
    }
}

impl By {
    /// The word in the entry.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Lease => "lease",
            Self::Recovery => "recovery",
            Self::Reconcile => "reconcile",
            Self::Person => "person",
        }
    }
}

/// The word for what an outcome says about the dependency.
pub(super) const fn health_word(health: Health) -> &'static str {
    match health {
        Health::Success => "success",
        Health::Failure => "failure",
        Health::Neutral => "neutral",
    }
}
