//! The comparison itself: drafts by their names, lists by their positions, outcomes by their permits.

use std::collections::{BTreeMap, BTreeSet};

use super::{Compared, Finding, Item, ListName, MOST_TOLD, Place, ShortId, Together};
use crate::ledger::entry::Kind;

pub(super) fn run(together: Together) -> Compared {
    let Together { ledgers, mut items, told, foreign } = together;
    let mut compared = Compared {
        hosts: ledgers.iter().map(|ledger| ledger.host).collect(),
        shared: items.len() as u64,
        ..Compared::default()
    };
    let late: BTreeSet<usize> =
        ledgers.iter().enumerate().filter(|(_, ledger)| ledger.begins_late).map(|(index, _)| index).collect();
    hosts(&mut compared);
    foreign.into_iter().for_each(|finding| compared.add(finding));
    drafts(&mut items, &mut compared);
    lists(&mut items, &told, &late, &mut compared);
    permits(&mut items, !late.is_empty(), &mut compared);
    for (list, told) in told {
        compared.replaced.extend(told.gone.map(|next| (list, next)));
        told.aside.into_iter().for_each(|(number, at)| compared.add(Finding::KeptAside { list, number, at }));
    }
    compared
}

impl Compared {
    fn add(&mut self, finding: Finding) {
        if self.findings.len() < MOST_TOLD {
            self.findings.push(finding);
        } else {
            self.untold = self.untold.saturating_add(1);
        }
    }
}

/// No two ledgers are of one host.
fn hosts(compared: &mut Compared) {
    let mut of_host: BTreeMap<ShortId, Vec<usize>> = BTreeMap::new();
    for (ledger, host) in compared.hosts.iter().enumerate() {
        if let Some(host) = host {
            of_host.entry(*host).or_default().push(ledger);
        }
    }
    for (host, ledgers) in of_host.into_iter().filter(|(_, ledgers)| ledgers.len() > 1) {
        compared.add(Finding::OneHost { host, ledgers });
    }
}

/// Every draft is one entry.
fn drafts(items: &mut [Item], compared: &mut Compared) {
    items.sort_by_key(|item| (item.list.store, item.process, item.draft, item.place));
    let same = |one: &Item, other: &Item| {
        (one.list.store, one.process, one.draft) == (other.list.store, other.process, other.draft)
    };
    for group in items.chunk_by(same) {
        if let [first, _, ..] = group {
            let (store, process, draft) = (first.list.store, first.process, first.draft);
            compared.add(Finding::Twice { store, process, draft, at: places(group) });
        }
    }
}

/// Every position of a list is one entry, or something is said of it.
fn lists(
    items: &mut [Item],
    told: &BTreeMap<ListName, super::Told>,
    late: &BTreeSet<usize>,
    compared: &mut Compared,
) {
    items.sort_by_key(|item| (item.list, item.number, item.place));
    let mut seen = BTreeSet::new();
    for of_list in items.chunk_by(|one, other| one.list == other.list) {
        let Some(first) = of_list.first() else { continue };
        seen.insert(first.list);
        for group in of_list.chunk_by(|one, other| one.number == other.number) {
            let Some(one) = group.first() else { continue };
            // The same draft twice has been told of.
            if group.iter().any(|item| (item.process, item.draft) != (one.process, one.draft)) {
                compared.add(Finding::Position { list: one.list, number: one.number, at: places(group) });
            }
        }
        // What is before the first may be among entries that were removed.
        let begins =
            if of_list.iter().any(|item| late.contains(&item.place.ledger)) { first.number } else { 0 };
        holes(first.list, begins, of_list, told.get(&first.list), compared);
    }
    for (list, told) in told.iter().filter(|(list, _)| !seen.contains(list)) {
        holes(*list, u64::MAX, &[], Some(told), compared);
    }
}

/// Tells of the positions of a list that are in no ledger.
fn holes(list: ListName, begins: u64, of_list: &[Item], told: Option<&super::Told>, compared: &mut Compared) {
    let mut covered: Vec<(u64, u64)> =
        of_list.iter().map(|item| (item.number, item.number.saturating_add(1))).collect();
    if let Some(told) = told {
        covered.extend(&told.gaps);
        covered.extend(told.aside.iter().map(|(number, _)| (*number, number.saturating_add(1))));
        for &(from, before) in &told.gaps {
            compared.add(Finding::Missing { list, from, before, told: true });
        }
        // A list that is gone was taken out up to here.
        covered.extend(told.gone.map(|next| (next, next)));
    }
    covered.sort_unstable();
    let mut next = begins;
    for (from, before) in covered {
        if from > next {
            compared.add(Finding::Missing { list, from: next, before: from, told: false });
        }
        next = next.max(before);
    }
}

/// Every outcome has its intent.
fn permits(items: &mut [Item], some_begin_late: bool, compared: &mut Compared) {
    items.sort_by_key(|item| (item.list.store, item.permit, item.place));
    let mut absent: BTreeMap<ShortId, u64> = BTreeMap::new();
    let same = |one: &Item, other: &Item| (one.list.store, one.permit) == (other.list.store, other.permit);
    for group in items.chunk_by(same) {
        let Some(permit) = group.first().and_then(|item| item.permit) else { continue };
        let intent = group.iter().find(|item| item.kind == Kind::Intent);
        let mut outcomes = group.iter().filter(|item| item.kind == Kind::Outcome).peekable();
        if let Some(intent) = intent {
            if outcomes.peek().is_none() {
                compared.open = compared.open.saturating_add(1);
                let first = compared.first_open.get_or_insert(intent.place);
                *first = intent.place.min(*first);
            }
            continue;
        }
        for outcome in outcomes {
            let elsewhere = outcome.intent.filter(|host| !compared.hosts.contains(&Some(*host)));
            if let Some(host) = elsewhere {
                let count = absent.entry(host).or_default();
                *count = count.saturating_add(1);
            } else if some_begin_late {
                compared.removed = compared.removed.saturating_add(1);
            } else {
                let (store, at) = (outcome.list.store, outcome.place);
                compared.add(Finding::NoIntent { store, permit, at });
            }
        }
    }
    compared.absent = absent.into_iter().collect();
}

fn places(items: &[Item]) -> Vec<Place> {
    items.iter().map(|item| item.place).collect()
}
