//! Entries brought back into the order of time: equal refusals are written together, up to ten seconds after the first.

use std::collections::{BTreeMap, VecDeque};

use checkrein_core::time::{Span, Timestamp};

use super::record::{Record, Step, What};

/// Longer than anything is counted before it is written, or waits to be taken out of a shared store.
const HORIZON: Span = Span::from_secs(15);
/// The most that are kept until then. Beyond, entries go on in the order in which they stand.
const MOST: usize = 100_000;

/// Entries that wait until nothing earlier can come.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: BTreeMap<(Timestamp, u64, u64), Step>,
    newest: Option<Timestamp>,
    /// The time before that: what is counted is written by the next commit after its time is over, however long that is.
    before: Option<Timestamp>,
    /// What has gone on.
    gone: Option<Timestamp>,
    /// So many came after something later had gone on.
    pub(super) late: u64,
}

impl Order {
    /// Takes an entry, of which there may be several parts.
    pub(super) fn put(&mut self, time: Timestamp, seq: u64, what: What) {
        if self.newest < Some(time) {
            self.before = self.newest.replace(time);
        }
        match what {
            What::Decision(recorded) => self.add(time, seq, 0, Step::Decide(recorded)),
            What::Outcome(ended) => self.add(time, seq, 0, Step::End(ended)),
            What::Event(happened) => self.add(time, seq, 0, Step::Note(happened)),
            What::Repeats(recorded, repeated) => {
                let last = repeated.count.saturating_sub(1);
                self.add(repeated.first, seq, 0, Step::Again(recorded.clone(), 0, repeated));
                if last > 0 {
                    self.add(repeated.last, seq, last, Step::Again(recorded, last, repeated));
                }
            }
        }
    }

    /// Puts a step at its time, behind those of the same time that were written before it.
    pub(super) fn add(&mut self, time: Timestamp, seq: u64, part: u64, step: Step) {
        if self.gone.is_some_and(|gone| time < gone) {
            self.late = self.late.saturating_add(1);
        }
        self.waiting.insert((time, seq, part), step);
    }

    /// The next one, if nothing earlier can come any more; whichever is the next when `all`.
    pub(super) fn next(&mut self, all: bool) -> Option<Record> {
        let (&(time, seq, _), _) = self.waiting.first_key_value()?;
        let is_due = self.before.is_some_and(|before| time.after(HORIZON) < before);
        if !(all || is_due || self.waiting.len() > MOST) {
            return None;
        }
        let (_, step) = self.waiting.pop_first()?;
        self.gone = self.gone.max(Some(time));
        Some(Record { time, seq, step })
    }
}

/// The arguments of refusals, by their request: equal refusals name only that.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    known: BTreeMap<checkrein_core::fingerprint::RequestDigest, std::rc::Rc<str>>,
    order: VecDeque<checkrein_core::fingerprint::RequestDigest>,
    bytes: usize,
}

/// The most arguments that are remembered, and their bytes.
const MOST_KNOWN: usize = 16_384;
const MOST_BYTES: usize = 32 << 20;

impl Arguments {
    pub(super) fn remember(
        &mut self,
        request: checkrein_core::fingerprint::RequestDigest,
        arguments: &std::rc::Rc<str>,
    ) {
        if self.known.insert(request, std::rc::Rc::clone(arguments)).is_some() {
            return;
        }
        self.order.push_back(request);
        self.bytes = self.bytes.saturating_add(arguments.len());
        while self.order.len() > MOST_KNOWN || self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.known.remove(&oldest).map_or(0, |arguments| arguments.len());
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    pub(super) fn of(
        &self,
        request: &checkrein_core::fingerprint::RequestDigest,
    ) -> Option<std::rc::Rc<str>> {
        self.known.get(request).cloned()
    }
}
