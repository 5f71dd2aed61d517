//! Ledgers of several hosts beside one shared store, compared: what is in two of them, what is in none, what fits nothing.
//!
//! Each ledger by itself shows that nothing in it was changed. What was decided in the shared store came into the ledgers
//! through lists with numbered positions, and outcomes name the permit of their intent: together they show what is missing.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{EntryView, Kind, ShortId};

mod compare;

/// So many findings are told one by one.
const MOST_TOLD: usize = 1_000;

/// The event that names the host of a ledger.
pub const HOST_NAMED: &str = "host_named";
/// The event of a process that takes part in a shared store.
pub const JOINED: &str = "joined";
/// The event of drafts that never came.
pub const OUTBOX_GAP: &str = "outbox_gap";
/// The event of a list that is gone.
pub const OUTBOX_REPLACED: &str = "outbox_replaced";
/// The event of what stood in a list and is no draft.
pub const DRAFT_KEPT_ASIDE: &str = "draft_kept_aside";

/// An entry in one of the ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which ledger, by the order in which they were given.
    pub ledger: usize,
    /// Its number there.
    pub seq: u64,
}

/// A list of drafts in a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListName {
    /// The shared store.
    pub store: ShortId,
    /// The part of it.
    pub tag: ShortId,
    /// The list.
    pub list: ShortId,
}

/// Something that the ledgers together show to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// One draft is several entries.
    Twice {
        /// The shared store.
        store: ShortId,
        /// The process in it that wrote the draft.
        process: u64,
        /// Its number there.
        draft: u64,
        /// The entries.
        at: Vec<Place>,
    },
    /// Several drafts came from one position of a list.
    Position {
        /// The list.
        list: ListName,
        /// The position.
        number: u64,
        /// The entries.
        at: Vec<Place>,
    },
    /// Positions of a list are in no ledger.
    Missing {
        /// The list.
        list: ListName,
        /// The first of them.
        from: u64,
        /// The first after them.
        before: u64,
        /// A ledger says so itself.
        told: bool,
    },
    /// What stood at a position of a list was no draft for that ledger.
    KeptAside {
        /// The list.
        list: ListName,
        /// The position.
        number: u64,
        /// The entry that says so.
        at: Place,
    },
    /// An outcome whose intent is in no ledger, although every ledger that it could be in was given.
    NoIntent {
        /// The shared store.
        store: ShortId,
        /// The permit.
        permit: u64,
        /// The outcome.
        at: Place,
    },
    /// Ledgers of one host: one is a copy of the other, or was.
    OneHost {
        /// The host.
        host: ShortId,
        /// The ledgers.
        ledgers: Vec<usize>,
    },
    /// A ledger has entries for another host than its own.
    OtherHost {
        /// Whose it is.
        own: ShortId,
        /// Whose they are.
        other: ShortId,
        /// The first of them.
        at: Place,
    },
}

impl Finding {
    /// The kind of finding, as a stable word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Twice { .. } => "overlap",
            Self::Position { .. } => "position_overlap",
            Self::Missing { .. } => "gap",
            Self::KeptAside { .. } => "kept_aside",
            Self::NoIntent { .. } => "outcome_without_intent",
            Self::OneHost { .. } => "one_host",
            Self::OtherHost { .. } => "other_host",
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is wrong, the first thousand of it.
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub untold: u64,
    /// The host of each ledger.
    pub hosts: Vec<Option<ShortId>>,
    /// Entries that were decided in a shared store.
    pub shared: u64,
    /// Intents that have no outcome in any of the ledgers: the actions may still run.
    pub open: u64,
    /// The first of them.
    pub first_open: Option<Place>,
    /// Hosts that outcomes say have their intents, and whose ledgers were not given; with the number of such outcomes.
    pub absent: Vec<(ShortId, u64)>,
    /// Outcomes whose intents may be among entries that were removed from a ledger.
    pub removed: u64,
    /// Lists that are gone, and how far they had been taken out: what was in them after that is lost, or came again.
    pub replaced: Vec<(ListName, u64)>,
}

impl Compared {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// An entry that came from a shared store.
#[derive(Clone, Copy, Debug)]
struct Item {
    list: ListName,
    number: u64,
    process: u64,
    draft: u64,
    permit: Option<u64>,
    kind: Kind,
    /// Of an outcome: the host with the intent.
    intent: Option<ShortId>,
    place: Place,
}

/// What ledgers say of a list.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Positions that never came.
    gaps: Vec<(u64, u64)>,
    aside: Vec<(u64, Place)>,
    /// It is gone, and was taken out up to here.
    gone: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct OfLedger {
    host: Option<ShortId>,
    others: BTreeSet<ShortId>,
    /// The first entry that is there, if those before it were removed.
    begins_late: bool,
    entries: u64,
}

/// Takes the entries of several ledgers, one ledger after the other.
#[derive(Clone, Debug, Default)]
pub struct Together {
    ledgers: Vec<OfLedger>,
    items: Vec<Item>,
    told: BTreeMap<ListName, Told>,
    foreign: Vec<Finding>,
}

impl Together {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries that follow are another ledger's.
    pub fn next_ledger(&mut self) {
        self.ledgers.push(OfLedger::default());
    }

    /// Takes an entry of the ledger that was begun last.
    pub fn entry(&mut self, entry: &EntryView<'_>) {
        let Some(index) = self.ledgers.len().checked_sub(1) else { return };
        let place = Place { ledger: index, seq: entry.seq };
        let Some(ledger) = self.ledgers.last_mut() else { return };
        ledger.begins_late |= ledger.entries == 0 && entry.seq > 0;
        ledger.entries = ledger.entries.saturating_add(1);
        let Some((source, drained)) = entry.source else { return self.event(entry, place) };
        let own = *ledger.host.get_or_insert(source.host);
        if own != source.host && ledger.others.insert(source.host) {
            self.foreign.push(Finding::OtherHost { own, other: source.host, at: place });
        }
        self.items.push(Item {
            list: ListName { store: source.store, tag: source.tag, list: drained.list },
            number: drained.number,
            process: entry.epoch,
            draft: source.draft,
            permit: entry.permit,
            kind: entry.kind,
            intent: source.intent,
            place,
        });
    }

    fn event(&mut self, entry: &EntryView<'_>, place: Place) {
        let Some(name) = entry.event.as_deref() else { return };
        let field =
            |wanted: &str| entry.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
        let id = |wanted: &str| field(wanted).and_then(ShortId::parse);
        let number = |wanted: &str| field(wanted)?.parse::<u64>().ok();
        if matches!(name, HOST_NAMED | JOINED) {
            if let (Some(host), Some(ledger)) = (id("host"), self.ledgers.last_mut()) {
                ledger.host.get_or_insert(host);
            }
            return;
        }
        let list = || Some(ListName { store: id("store")?, tag: id("tag")?, list: id("list")? });
        match name {
            OUTBOX_GAP => {
                if let (Some(list), Some(from), Some(before)) = (list(), number("from"), number("before")) {
                    self.told.entry(list).or_default().gaps.push((from, before));
                }
            }
            DRAFT_KEPT_ASIDE => {
                if let (Some(list), Some(number)) = (list(), number("number")) {
                    self.told.entry(list).or_default().aside.push((number, place));
                }
            }
            OUTBOX_REPLACED => {
                if let (Some(list), Some(before), Some(next)) = (list(), id("before"), number("next")) {
                    self.told.entry(ListName { list: before, ..list }).or_default().gone = Some(next);
                }
            }
            _ => {}
        }
    }

    /// Compares what was taken.
    #[must_use]
    pub fn finish(self) -> Compared {
        compare::run(self)
    }
}

#[cfg(test)]
mod tests;
