//! Entries as a replay needs them: owned, and without what it does not look at.

use std::rc::Rc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::Health;
use checkrein_core::json::{self, Limits, Value};
use checkrein_core::ledger::entry::{
    ArgumentsView, By, Ending, EntryView, Kind, MeterView, ReasonView, Repeated, Request,
};
use checkrein_core::time::Timestamp;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ruling {
    /// It ran.
    Run,
    /// It was refused.
    Refuse,
    /// It was answered with the stored result of an earlier run.
    Replay,
}

impl Ruling {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Refuse => "refuse",
            Self::Replay => "replay",
        }
    }
}

/// A reason, as far as two of them are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// The code.
    pub code: String,
    /// The kind of gate.
    pub kind: String,
    /// The gate.
    pub gate: String,
}

impl Cause {
    pub(super) fn read(reason: &ReasonView<'_>) -> Self {
        Self {
            code: reason.code.clone().into_owned(),
            kind: reason.kind.clone().into_owned(),
            gate: reason.gate.clone().into_owned(),
        }
    }
}

/// What ties an outcome to its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    /// The entry of the decision.
    Entry(u64),
    /// The shared store, and the permit in it.
    Permit([u8; 8], u64),
}

/// What was kept of the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of them, as canonical JSON.
    Full(Rc<str>),
    /// A digest.
    Digest,
    /// Nothing.
    Nothing,
}

impl Kept {
    /// The arguments, if all of them were kept and can be read.
    pub(super) fn value(&self) -> Option<Value> {
        let limits = Limits { bytes: usize::MAX, nodes: usize::MAX, ..Limits::default() };
        match self {
            Self::Full(text) => json::read_str(text, &limits).ok(),
            Self::Digest | Self::Nothing => None,
        }
    }
}

/// A decision.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) seq: u64,
    pub(super) ruling: Ruling,
    pub(super) link: Link,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) principal: String,
    pub(super) tenant: String,
    pub(super) user: String,
    pub(super) agent: String,
    pub(super) run: String,
    pub(super) session: String,
    pub(super) arguments: Kept,
    /// Of a call of a model: its provider.
    pub(super) provider: Option<String>,
    pub(super) request: Option<RequestDigest>,
    pub(super) policy: Option<[u8; 32]>,
    pub(super) causes: Vec<Cause>,
    /// The budgets it counted on: their names and units.
    pub(super) budgets: Vec<(String, Unit)>,
}

/// An outcome.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) link: Option<Link>,
    pub(super) ending: Ending,
    pub(super) health: Health,
    pub(super) actual: Vec<Amount>,
}

/// Something that happened to the store, as far as it changes what is decided.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) event: String,
    pub(super) fields: Vec<(String, String)>,
}

impl Happened {
    pub(super) fn field(&self, wanted: &str) -> &str {
        self.fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value)
    }
}

/// An entry.
#[derive(Clone, Debug)]
pub(super) enum What {
    Decision(Rc<Recorded>),
    Repeats(Rc<Recorded>, Repeated),
    Outcome(Ended),
    Event(Happened),
}

impl What {
    pub(super) fn read(entry: &EntryView<'_>) -> Self {
        match entry.kind {
            Kind::Outcome => Self::Outcome(Ended::read(entry)),
            Kind::Event => Self::Event(Happened {
                event: entry.event.as_deref().unwrap_or_default().to_owned(),
                fields: entry
                    .fields
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect(),
            }),
            kind => {
                let recorded = Rc::new(Recorded::read(entry, kind));
                match entry.repeated {
                    Some(repeated) => Self::Repeats(recorded, repeated),
                    None => Self::Decision(recorded),
                }
            }
        }
    }
}

fn link_of_permit(entry: &EntryView<'_>) -> Option<Link> {
    let store = entry.source.map_or([0; 8], |(source, _)| source.store.to_bytes());
    entry.permit.map(|permit| Link::Permit(store, permit))
}

impl Ended {
    fn read(entry: &EntryView<'_>) -> Self {
        let (ending, health) = match entry.outcome {
            Some((ending, "success", _)) => (ending, Health::Success),
            // A call that never came back counts as a failure of what it was waiting for.
            Some((ending, "failure", _) | (ending @ Ending::InDoubt, _, By::Lease | By::Recovery)) => {
                (ending, Health::Failure)
            }
            Some((ending, ..)) => (ending, Health::Neutral),
            None => (Ending::InDoubt, Health::Neutral),
        };
        Self {
            link: entry.intent.map(Link::Entry).or_else(|| link_of_permit(entry)),
            ending,
            health,
            actual: entry.actual.iter().filter_map(|amount| Amount::parse(amount).ok()).collect(),
        }
    }
}

impl Recorded {
    fn read(entry: &EntryView<'_>, kind: Kind) -> Self {
        let name = |wanted: &str| {
            let found = entry.action.iter().find(|(name, _)| *name == wanted);
            found.map_or_else(String::new, |(_, value)| value.to_string())
        };
        let shared = entry.source.is_some().then(|| link_of_permit(entry)).flatten();
        Self {
            seq: entry.seq,
            ruling: match kind {
                Kind::Intent => Ruling::Run,
                Kind::Replay => Ruling::Replay,
                _ => Ruling::Refuse,
            },
            link: shared.unwrap_or(Link::Entry(entry.seq)),
            namespace: name("namespace"),
            name: name("name"),
            principal: name("principal"),
            tenant: name("tenant"),
            user: name("user"),
            agent: name("agent"),
            run: name("run"),
            session: name("session"),
            arguments: match entry.arguments {
                ArgumentsView::Full(text) => Kept::Full(Rc::from(text)),
                ArgumentsView::Digest(_) => Kept::Digest,
                ArgumentsView::None => Kept::Nothing,
            },
            provider: provider(entry),
            request: match entry.request {
                Request::Digest(digest) => Some(digest),
                Request::Keyed(_) | Request::None => None,
            },
            policy: entry.policy,
            causes: entry.reasons.iter().map(Cause::read).collect(),
            budgets: entry.meters.iter().filter_map(budget).collect(),
        }
    }
}

/// The provider of a model, as the arguments of a call of one name it.
fn provider(entry: &EntryView<'_>) -> Option<String> {
    let is_model = entry.action.iter().any(|(name, value)| *name == "namespace" && value == "model");
    let ArgumentsView::Full(text) = entry.arguments else { return None };
    let arguments = is_model.then(|| json::read_str(text, &Limits::default()).ok())??;
    arguments.get("provider")?.as_str().map(str::to_owned)
}

/// The name and unit of a meter that is a budget's.
pub(super) fn budget(meter: &MeterView<'_>) -> Option<(String, Unit)> {
    let is_budget = meter.kind == "budget";
    is_budget.then(|| Some((meter.gate.to_string(), Unit::parse(&meter.unit)?))).flatten()
}

/// An entry in the order of time.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    pub(super) seq: u64,
    pub(super) step: Step,
}

/// What is done at one instant.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Decide(Rc<Recorded>),
    /// One of several equal refusals: the number of this one, and when they were.
    Again(Rc<Recorded>, u64, Repeated),
    End(Ended),
    Note(Happened),
}
