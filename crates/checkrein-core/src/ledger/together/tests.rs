use super::*;
use crate::gate::breaker::Health;
use crate::ledger::entry::{
    Body, By, Decision, Draft, DraftView, Drained, Ending, Entry, Event, Outcome, Source,
};
use crate::time::Timestamp;

const STORE: ShortId = ShortId::from_bytes([1; 8]);
const TAG: ShortId = ShortId::from_bytes([2; 8]);

const fn id(byte: u8) -> ShortId {
    ShortId::from_bytes([byte; 8])
}

/// A ledger as it is written by a host: entries in their bytes.
struct Host {
    host: ShortId,
    list: ShortId,
    entries: Vec<Vec<u8>>,
}

impl Host {
    fn new(byte: u8) -> Self {
        let mut host = Self { host: id(byte), list: id(byte + 100), entries: Vec::new() };
        let name = host.host.to_string();
        host.event(HOST_NAMED, &[("host", &name)]);
        host
    }

    fn seq(&self) -> u64 {
        self.entries.len() as u64
    }

    fn event(&mut self, name: &str, fields: &[(&str, &str)]) {
        let mut bytes = Vec::new();
        let (seq, time) = (self.seq(), Timestamp::default());
        Entry { seq, time, epoch: 1, body: Body::Event(Event { name, fields }) }.write(&mut bytes);
        self.entries.push(bytes);
    }

    fn of_list(&mut self, name: &str, more: &[(&str, &str)]) {
        let (store, tag, list) = (STORE.to_string(), TAG.to_string(), self.list.to_string());
        let mut fields = vec![("store", &*store), ("tag", &*tag), ("list", &*list)];
        fields.extend_from_slice(more);
        self.event(name, &fields);
    }

    fn push(&mut self, number: u64, draft: u64, intent: Option<ShortId>, body: Body<'_>) {
        let source = Source { store: STORE, host: self.host, tag: TAG, draft, intent };
        let (mut bytes, mut entry, time) = (Vec::new(), Vec::new(), Timestamp::default());
        Draft { time, epoch: u64::from(self.host.to_bytes()[0]), source, salt: None, body }.write(&mut bytes);
        let drained = Drained { time, list: self.list, number };
        DraftView::read(&bytes).unwrap().number(self.seq(), &drained, &mut entry);
        self.entries.push(entry);
    }

    fn intent(&mut self, number: u64, permit: u64) {
        self.push(
            number,
            number,
            None,
            Body::Decision(&Decision { permit: Some(permit), ..Decision::default() }),
        );
    }

    fn outcome(&mut self, number: u64, permit: u64, intent: Option<ShortId>) {
        let (ending, health, by) = (Ending::Done, Health::Success, By::Caller);
        let permit = Some(permit);
        let outcome =
            Outcome { permit, intent: None, ending, health, actual: &[], by, note: "", meters: &[] };
        self.push(number, number, intent, Body::Outcome(&outcome));
    }
}

fn compare(hosts: &[&Host]) -> Compared {
    compare_from(hosts, 0)
}

fn compare_from(hosts: &[&Host], skip: usize) -> Compared {
    let mut together = Together::new();
    for host in hosts {
        together.next_ledger();
        host.entries.iter().skip(skip).for_each(|entry| together.entry(&EntryView::read(entry).unwrap()));
    }
    together.finish()
}

fn words(compared: &Compared) -> Vec<&'static str> {
    compared.findings.iter().map(Finding::word).collect()
}

#[test]
fn two_hosts_that_fit() {
    let (mut one, mut two) = (Host::new(10), Host::new(20));
    one.intent(0, 1);
    one.intent(1, 2);
    one.outcome(2, 1, Some(one.host));
    // The lease ended while the other host looked.
    two.outcome(0, 2, Some(one.host));
    two.intent(1, 3);
    let compared = compare(&[&one, &two]);
    assert_eq!(compared.findings, []);
    assert_eq!((compared.shared, compared.open), (5, 1));
    assert_eq!(compared.first_open, Some(Place { ledger: 1, seq: 2 }));
    assert_eq!(compared.hosts, [Some(id(10)), Some(id(20))]);
    assert_eq!(compared.absent, []);
    // Without the first, its intents are elsewhere: that is no finding.
    let alone = compare(&[&two]);
    assert!(alone.is_sound());
    assert_eq!(alone.absent, [(id(10), 1)]);
}

#[test]
fn what_is_in_two_ledgers_or_twice_in_one() {
    let (mut one, mut two) = (Host::new(10), Host::new(20));
    one.intent(0, 1);
    one.intent(1, 2);
    two.host = one.host;
    two.list = one.list;
    two.intent(1, 2);
    let compared = compare(&[&one, &two]);
    assert_eq!(words(&compared), ["other_host", "overlap"]);
    let at = vec![Place { ledger: 0, seq: 2 }, Place { ledger: 1, seq: 1 }];
    assert_eq!(compared.findings[1], Finding::Twice { store: STORE, process: 10, draft: 1, at });
    one.intent(1, 2);
    assert_eq!(words(&compare(&[&one])), ["overlap"]);
    // Another draft at the same position.
    let mut three = Host::new(10);
    three.intent(0, 1);
    three.push(0, 7, None, Body::Event(Event { name: "reset", fields: &[] }));
    assert_eq!(words(&compare(&[&three])), ["position_overlap"]);
}

#[test]
fn copies_of_a_ledger_are_of_one_host() {
    let mut one = Host::new(10);
    one.event("opened", &[]);
    let compared = compare(&[&one, &one]);
    assert_eq!(compared.findings, [Finding::OneHost { host: id(10), ledgers: vec![0, 1] }]);
}

#[test]
fn what_is_missing_from_a_list() {
    let mut one = Host::new(10);
    let list = ListName { store: STORE, tag: TAG, list: one.list };
    one.intent(1, 1);
    one.of_list(OUTBOX_GAP, &[("from", "2"), ("before", "4")]);
    one.of_list(DRAFT_KEPT_ASIDE, &[("number", "4")]);
    one.intent(5, 2);
    one.intent(8, 3);
    let compared = compare(&[&one]);
    assert_eq!(
        compared.findings,
        [
            Finding::Missing { list, from: 2, before: 4, told: true },
            Finding::Missing { list, from: 0, before: 1, told: false },
            Finding::Missing { list, from: 6, before: 8, told: false },
            Finding::KeptAside { list, number: 4, at: Place { ledger: 0, seq: 3 } },
        ]
    );
    // Where entries were removed, the head of a list may be among them.
    let compared = compare_from(&[&one], 4);
    assert_eq!(compared.findings, [Finding::Missing { list, from: 6, before: 8, told: false }]);
}

#[test]
fn a_list_that_is_gone_was_taken_out_up_to_somewhere() {
    let mut one = Host::new(10);
    let (before, list) = (one.list.to_string(), ListName { store: STORE, tag: TAG, list: one.list });
    one.intent(0, 1);
    one.list = id(99);
    one.of_list(OUTBOX_REPLACED, &[("before", &before), ("next", "3")]);
    one.push(0, 44, None, Body::Event(Event { name: "reset", fields: &[] }));
    let compared = compare(&[&one]);
    assert_eq!(compared.findings, [Finding::Missing { list, from: 1, before: 3, told: false }]);
    assert_eq!(compared.replaced, [(list, 3)]);
}

#[test]
fn an_outcome_without_its_intent() {
    let mut one = Host::new(10);
    one.outcome(0, 5, Some(one.host));
    one.outcome(1, 6, None);
    let compared = compare(&[&one]);
    assert_eq!(words(&compared), ["outcome_without_intent", "outcome_without_intent"]);
    assert_eq!(
        compared.findings[0],
        Finding::NoIntent { store: STORE, permit: 5, at: Place { ledger: 0, seq: 1 } }
    );
    // It may be among the entries that were removed.
    let compared = compare_from(&[&one], 1);
    assert!(compared.is_sound());
    assert_eq!(compared.removed, 2);
}

#[test]
fn what_is_told_is_bounded() {
    let mut one = Host::new(10);
    for number in 0..1_500 {
        one.outcome(number, number, None);
    }
    let compared = compare(&[&one]);
    assert_eq!((compared.findings.len(), compared.untold), (1_000, 500));
    assert!(!compared.is_sound());
}
