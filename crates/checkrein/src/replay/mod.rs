//! A recorded ledger decided again by another policy file, and what observe mode would have refused in it.
//!
//! Everything here is a function of entries and files: times, ids and outcomes are those of the ledger, so that the same
//! input gives the same answer. [`read_store`] and [`read_export`] hand the entries over, [`Replay`] and [`Review`] take
//! them one by one and keep what is bounded.

mod compare;
mod coverage;
mod error;
mod lane;
mod order;
mod record;
mod review;
mod source;
#[cfg(test)]
mod tests;
mod told;
mod totals;

use std::collections::BTreeMap;
use std::rc::Rc;

use checkrein_core::amount::Amount;
use checkrein_core::json::{Object, Value};
use checkrein_core::ledger::entry::{Ending, EntryView};
use checkrein_core::time::{Span, Timestamp};

pub use coverage::{Assumed, Coverage, Left};
pub use error::ReplayError;
pub use record::{Cause, Ruling};
pub use review::{Calls, Review, Reviewed, Row};
pub use source::{Each, Source, Watch, read_export, read_path, read_store};
pub use totals::{Change, Difference, Effect, Tally, Totals, Why};

use crate::config::PolicyFile;
use lane::{Costs, Decided, Held, Lane, largest, paired};
use order::{Arguments, Order};
use record::{Ended, Happened, Kept, Link, Record, Recorded, Step, What};
use told::Told;
use totals::Changed;

/// The most calls that are remembered until their outcomes come.
const MOST_OPEN: usize = 1 << 20;
/// How a replay compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// So many differences are kept one by one.
    pub limit: usize,
    /// Refusals for other reasons are differences too.
    pub reasons: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { limit: 20, reasons: false }
    }
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// What it rests on.
    pub coverage: Coverage,
    /// What differs, added up.
    pub totals: Totals,
    /// The first decisions that differ.
    pub differences: Vec<Difference>,
}

/// A call that was decided and has not ended.
#[derive(Debug)]
struct Open {
    recorded: Rc<Recorded>,
    new: Option<Held>,
    old: Option<Held>,
    changed: Option<(Changed, Costs)>,
    /// The last that was heard of it, and what it cost.
    last: Option<(Ending, Vec<Amount>)>,
}

/// Decides recorded calls again.
#[derive(Debug)]
pub struct Replay {
    options: Options,
    new: Lane,
    old: Option<Lane>,
    order: Order,
    arguments: Arguments,
    told: Told,
    open: BTreeMap<Link, Open>,
    answer: Replayed,
    shared: u64,
}

impl Replay {
    /// A replay by a policy file, compared with what was recorded, or with what another file makes of it.
    ///
    /// # Errors
    /// A file cannot be put to work.
    pub fn new(file: PolicyFile, old: Option<PolicyFile>, options: Options) -> Result<Self, ReplayError> {
        Ok(Self {
            options,
            new: Lane::new(file)?,
            old: old.map(Lane::new).transpose()?,
            order: Order::default(),
            arguments: Arguments::default(),
            told: Told::default(),
            open: BTreeMap::new(),
            answer: Replayed::default(),
            shared: 0,
        })
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// A policy cannot decide: the engine is not to be had.
    pub fn entry(&mut self, entry: &EntryView<'_>) -> Result<(), ReplayError> {
        self.shared = self.shared.saturating_add(u64::from(entry.source.is_some()));
        let mut what = What::read(entry);
        match &mut what {
            What::Decision(recorded) => {
                if let (Kept::Full(arguments), Some(request)) = (&recorded.arguments, recorded.request)
                    && recorded.ruling == Ruling::Refuse
                {
                    self.arguments.remember(request, arguments);
                }
            }
            // Equal refusals name their request only: what it was stands in the first of them.
            What::Repeats(recorded, _) => {
                if let Some(arguments) = recorded.request.and_then(|request| self.arguments.of(&request)) {
                    Rc::make_mut(recorded).arguments = Kept::Full(arguments);
                }
            }
            What::Outcome(_) | What::Event(_) => {}
        }
        self.order.put(entry.time, entry.seq, what);
        while let Some(record) = self.order.next(false) {
            self.step(record)?;
        }
        Ok(())
    }

    /// What was found, after the last entry of a source.
    ///
    /// # Errors
    /// As [`entry`](Self::entry).
    pub fn finish(mut self, source: Source) -> Result<Replayed, ReplayError> {
        while let Some(record) = self.order.next(true) {
            self.step(record)?;
        }
        while let Some((_, open)) = self.open.pop_first() {
            self.close(open);
        }
        let Self { mut answer, order, shared, .. } = self;
        answer.coverage.assume(Assumed::EmptyStart, source.first);
        answer.coverage.assume(Assumed::Late, order.late);
        answer.coverage.assume(Assumed::Shared, shared);
        answer.coverage.source = source;
        Ok(answer)
    }

    fn step(&mut self, record: Record) -> Result<(), ReplayError> {
        let Record { time, seq, step } = record;
        match step {
            Step::Decide(recorded) => {
                self.answer.coverage.decided_at(time, time, 1);
                self.decide(&recorded, None, time).map(drop)
            }
            Step::Again(recorded, number, repeated) => self.again(&recorded, number, repeated, time, seq),
            Step::End(ended) => {
                self.end(&ended, time);
                Ok(())
            }
            Step::Note(happened) => {
                self.note(&happened, time);
                Ok(())
            }
        }
    }

    /// Decides one of several equal refusals. Those between the first and the last one have no times of their own: they
    /// are decided, evenly spread, only if the first is not refused any more.
    fn again(
        &mut self,
        recorded: &Rc<Recorded>,
        number: u64,
        repeated: checkrein_core::ledger::entry::Repeated,
        time: Timestamp,
        seq: u64,
    ) -> Result<(), ReplayError> {
        let last = repeated.count.saturating_sub(1);
        if number == 0 {
            self.answer.coverage.decided_at(repeated.first, repeated.last, repeated.count);
        }
        let differs = self.decide(recorded, Some(number), time)?;
        let between = last.saturating_sub(1);
        if number == 0 && between > 0 && differs != Some(true) {
            match differs {
                Some(_) => {
                    self.answer.coverage.replay(between, matches!(recorded.arguments, Kept::Full(_)));
                    self.answer.coverage.assume(Assumed::Between, between);
                }
                None => {
                    if let Err(why) = self.left(recorded) {
                        self.answer.coverage.leave(why, between);
                    }
                }
            }
        } else if number.saturating_add(1) < last {
            let next = number.saturating_add(1);
            let length = i128::from(repeated.last.since(repeated.first).nanos());
            let share = length.saturating_mul(i128::from(next)) / i128::from(last.max(1));
            let time = repeated.first.after(Span::from_nanos(i64::try_from(share).unwrap_or(i64::MAX)));
            self.order.add(time, seq, next, Step::Again(Rc::clone(recorded), next, repeated));
        }
        Ok(())
    }

    /// Decides a call again. Says whether it differs; nothing if it was not decided.
    fn decide(
        &mut self,
        recorded: &Rc<Recorded>,
        repeat: Option<u64>,
        time: Timestamp,
    ) -> Result<Option<bool>, ReplayError> {
        let is_unknown = match self.left(recorded) {
            Ok(is_unknown) => is_unknown,
            Err(why) => {
                self.answer.coverage.leave(why, 1);
                return Ok(None);
            }
        };
        let arguments = match (recorded.arguments.value(), &recorded.arguments) {
            (Some(arguments), _) => arguments,
            (None, Kept::Full(_)) => {
                self.answer.coverage.leave(Left::ArgumentsUnreadable, 1);
                return Ok(None);
            }
            (None, _) => Value::Object(Object::default()),
        };
        self.answer.coverage.replay(1, matches!(recorded.arguments, Kept::Full(_)));
        self.answer.coverage.assume(Assumed::GatesUnknown, u64::from(is_unknown));
        let new = self.new.decide(recorded, &arguments, time)?;
        let old = self.old.as_ref().map(|old| old.decide(recorded, &arguments, time)).transpose()?;
        let facts = new.facts || old.as_ref().is_some_and(|old| old.facts);
        self.answer.coverage.assume(Assumed::Facts, u64::from(facts));
        let changed = self.compare(recorded, old.as_ref(), &new).map(|change| {
            let (lane, decided) = match (change, &self.old) {
                (Change::Stopped, Some(lane)) => (lane, old.as_ref()),
                _ => (&self.new, Some(&new)),
            };
            // What a model would hold is known where it is held.
            let held = decided.map(|decided| decided.costs.clone()).filter(|costs| !costs.is_empty());
            (change, held.unwrap_or_else(|| lane.costs(recorded, &arguments)))
        });
        let differs = changed.is_some();
        let changed = changed
            .map(|(change, costs)| (self.list(recorded, repeat, time, change, old.as_ref(), &new), costs));
        self.keep(recorded, old, new, changed);
        Ok(Some(differs))
    }

    /// Remembers a call until its outcome comes; what nobody recorded an outcome of is done at once.
    fn keep(
        &mut self,
        recorded: &Rc<Recorded>,
        old: Option<Decided>,
        new: Decided,
        changed: Option<(Changed, Costs)>,
    ) {
        if recorded.ruling == Ruling::Run {
            let old = old.and_then(|old| old.permit);
            if new.permit.is_none() && old.is_none() && changed.is_none() {
                return;
            }
            let open = Open { recorded: Rc::clone(recorded), new: new.permit, old, changed, last: None };
            if let Some(before) = self.open.insert(recorded.link, open) {
                self.close(before);
            }
            if self.open.len() > MOST_OPEN
                && let Some((_, oldest)) = self.open.pop_first()
            {
                self.close(oldest);
            }
            return;
        }
        let ran = new.ruling == Ruling::Run || old.as_ref().is_some_and(|old| old.ruling == Ruling::Run);
        self.answer.coverage.assume(Assumed::Done, u64::from(ran));
        if let Some(permit) = &new.permit {
            self.new.assume_done(permit);
        }
        if let (Some(lane), Some(permit)) = (&self.old, old.as_ref().and_then(|old| old.permit.as_ref())) {
            lane.assume_done(permit);
        }
        if let Some((changed, costs)) = changed {
            self.came_of(&changed, Effect::Done, costs);
        }
    }

    fn end(&mut self, ended: &Ended, time: Timestamp) {
        let Some(link) = ended.link else { return };
        let Some(open) = self.open.get_mut(&link) else { return };
        if let Some(permit) = &open.new {
            self.new.end(permit, &open.recorded, ended, time);
        }
        if let (Some(old), Some(permit)) = (&self.old, &open.old) {
            old.end(permit, &open.recorded, ended, time);
        }
        open.last = Some((ended.ending, ended.actual.clone()));
        // What is in doubt may still be found out.
        if ended.ending != Ending::InDoubt
            && let Some(open) = self.open.remove(&link)
        {
            self.close(open);
        }
    }

    /// Adds what came of a call to what differs.
    fn close(&mut self, open: Open) {
        let Some((changed, costs)) = open.changed else { return };
        let (effect, actual) = match open.last {
            Some((Ending::Done, actual)) => (Effect::Done, actual),
            Some((Ending::FailedClean, _)) => (Effect::None, Vec::new()),
            Some((Ending::InDoubt, actual)) => (Effect::Unknown, actual),
            None => (Effect::Unknown, Vec::new()),
        };
        let known = paired(&open.recorded, &actual);
        let known = largest(known.into_iter().map(|(_, unit, amount)| (unit, amount)));
        let costs = if known.is_empty() { costs } else { known };
        self.came_of(&changed, effect, costs);
    }

    fn came_of(&mut self, changed: &Changed, effect: Effect, costs: Costs) {
        self.answer.totals.came_of(changed, effect, &costs);
        if let Some(listed) = changed.listed.and_then(|listed| self.answer.differences.get_mut(listed)) {
            (listed.effect, listed.money) = (effect, if effect == Effect::None { Vec::new() } else { costs });
        }
    }

    fn note(&mut self, happened: &Happened, time: Timestamp) {
        match happened.event.as_str() {
            "policy" => self.told.learn(happened),
            "restored" => self.answer.coverage.assume(Assumed::Restored, 1),
            "resolved" | "reset" | "reset_all" => {
                let known = self.new.note(happened, time);
                if let Some(old) = &self.old {
                    old.note(happened, time);
                }
                self.answer.coverage.assume(Assumed::ByHand, u64::from(!known));
            }
            "adjusted" => {
                let known = self.new.note(happened, time);
                if let Some(old) = &self.old {
                    old.note(happened, time);
                }
                self.answer.coverage.assume(Assumed::Budgets, u64::from(!known));
            }
            _ => {}
        }
    }
}
