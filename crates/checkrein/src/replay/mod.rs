//! A recorded ledger decided again by another policy file, and what observe mode would have refused in it.
//!
//! Everything here is a function of entries and files: times, ids and outcomes are those of the ledger, so that the same
//! input gives the same answer. [`read_store`] and [`read_export`] hand the entries over, [`Replay`] and [`Review`] take
//! them one by one and keep what is bounded.

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
use checkrein_core::json::{Limits, Object, Value, read_str};
use checkrein_core::ledger::entry::{Ending, EntryView};
use checkrein_core::time::{Span, Timestamp};

pub use coverage::{Assumed, Coverage, Left};
pub use error::ReplayError;
pub use record::{Cause, Ruling};
pub use review::{Calls, Review, Reviewed, Row};
pub use source::{Each, Source, Watch, read_export, read_path, read_store};
pub use totals::{Change, Difference, Effect, Tally, Totals, Why};

use crate::config::PolicyFile;
use crate::store::PermitId;
use lane::{Costs, Decided, Lane, largest, paired};
use order::{Arguments, Order};
use record::{Ended, Happened, Kept, Link, Record, Recorded, Step, What};
use told::Told;
use totals::Changed;

/// The most calls that are remembered until their outcomes come.
const MOST_OPEN: usize = 1 << 20;
/// Refusals that no policy file decides: of the store, of people, of credentials, of a switch at run time.
const BY_OTHERS: [&str; 15] = [
    "approval_required",
    "approval_denied",
    "approval_mismatch",
    "approval_expired",
    "capacity",
    "forbidden",
    "frozen",
    "invariant_broken",
    "ledger_error",
    "secret_unavailable",
    "store_error",
    "timeout",
    "tool_changed",
    "too_large",
    "unauthenticated",
];

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
    new: Option<PermitId>,
    old: Option<PermitId>,
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

    /// Why a decision cannot be decided again; or whether it was refused by gates of which nobody knows whose they are.
    fn left(&self, recorded: &Recorded) -> Result<bool, Left> {
        if recorded.name.is_empty() {
            return Err(Left::NoName);
        }
        if recorded.namespace == "model" {
            return Err(Left::Model);
        }
        // What a file freezes is a rule of its own.
        let by_others = |cause: &Cause| BY_OTHERS.contains(&cause.code.as_str()) && cause.kind != "rule";
        if recorded.causes.iter().any(by_others) {
            return Err(Left::ByOthers);
        }
        let is_unknown = self.is_unknown(recorded)?;
        let reads = |lane: &Lane| lane.reads_arguments(&recorded.name);
        let is_read = reads(&self.new) || self.old.as_ref().is_some_and(reads);
        match recorded.arguments {
            Kept::Digest if is_read => Err(Left::ArgumentsDigest),
            Kept::Nothing if is_read => Err(Left::ArgumentsMissing),
            _ => Ok(is_unknown),
        }
    }

    /// Whether nobody knows whose the gates are that refused it. Those of the code no file takes away.
    fn is_unknown(&self, recorded: &Recorded) -> Result<bool, Left> {
        let mut is_unknown = false;
        for cause in recorded.causes.iter().filter(|cause| cause.kind != "action") {
            let lanes = [Some(&self.new), self.old.as_ref()];
            if lanes.into_iter().flatten().any(|lane| lane.has_gate(&recorded.name, cause)) {
                continue;
            }
            match self.told.is_in_code(recorded.policy, cause) {
                Some(true) => return Err(Left::ByCode),
                // With the old file at hand, a gate that neither file has stands in the code.
                _ if self.old.is_some() => return Err(Left::ByCode),
                Some(false) => {}
                None => is_unknown = true,
            }
        }
        Ok(is_unknown)
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
        let arguments = match &recorded.arguments {
            Kept::Full(text) => {
                let limits = Limits { bytes: usize::MAX, nodes: usize::MAX, ..Limits::default() };
                match read_str(text, &limits) {
                    Ok(arguments) => arguments,
                    Err(_) => {
                        self.answer.coverage.leave(Left::ArgumentsUnreadable, 1);
                        return Ok(None);
                    }
                }
            }
            Kept::Digest | Kept::Nothing => Value::Object(Object::default()),
        };
        self.answer.coverage.replay(1, matches!(recorded.arguments, Kept::Full(_)));
        self.answer.coverage.assume(Assumed::GatesUnknown, u64::from(is_unknown));
        let new = self.new.decide(recorded, &arguments, time)?;
        let old = self.old.as_ref().map(|old| old.decide(recorded, &arguments, time)).transpose()?;
        let facts = new.facts || old.as_ref().is_some_and(|old| old.facts);
        self.answer.coverage.assume(Assumed::Facts, u64::from(facts));
        let changed = self.compare(recorded, old.as_ref(), &new).map(|change| {
            let lane = match (change, &self.old) {
                (Change::Stopped, Some(old)) => old,
                _ => &self.new,
            };
            (change, lane.costs(recorded, &arguments))
        });
        let differs = changed.is_some();
        let changed = changed
            .map(|(change, costs)| (self.list(recorded, repeat, time, change, old.as_ref(), &new), costs));
        self.keep(recorded, old, new, changed);
        Ok(Some(differs))
    }

    /// In which way a decision differs.
    fn compare(&self, recorded: &Recorded, old: Option<&Decided>, new: &Decided) -> Option<Change> {
        let (ruling, causes) =
            old.map_or((recorded.ruling, &recorded.causes), |old| (old.ruling, &old.causes));
        // Whether a result could be stored is not recorded: either way nothing ran.
        let is_pruned = |causes: &[Cause]| matches!(causes, [only] if only.code == "result_pruned");
        if ruling == Ruling::Refuse && new.ruling == Ruling::Replay && is_pruned(causes) {
            return None;
        }
        let codes = |causes: &[Cause]| {
            let mut codes: Vec<String> = causes.iter().map(|cause| cause.code.clone()).collect();
            codes.sort_unstable();
            codes.dedup();
            codes
        };
        let other_reasons = || {
            let differ = self.options.reasons && codes(causes) != codes(&new.causes);
            differ.then_some(Change::Reasons)
        };
        Change::between(ruling, new.ruling).or_else(other_reasons)
    }

    /// Counts a difference, and lists it if it is among the first.
    fn list(
        &mut self,
        recorded: &Recorded,
        repeat: Option<u64>,
        time: Timestamp,
        change: Change,
        old: Option<&Decided>,
        new: &Decided,
    ) -> Changed {
        let tool = match recorded.namespace.as_str() {
            "" => recorded.name.clone(),
            namespace => format!("{namespace}:{}", recorded.name),
        };
        let was = old.map_or((recorded.ruling, &recorded.causes), |old| (old.ruling, &old.causes));
        // What refuses is the reason for it: now, or then.
        let causes = if new.ruling == Ruling::Refuse { &new.causes } else { was.1 };
        let listed = (self.answer.differences.len() < self.options.limit).then(|| {
            self.answer.differences.push(Difference {
                seq: recorded.seq,
                time,
                repeat,
                tool: tool.clone(),
                change,
                old: (was.0, was.1.clone()),
                new: (new.ruling, new.causes.clone()),
                effect: Effect::default(),
                money: Vec::new(),
            });
            self.answer.differences.len().saturating_sub(1)
        });
        let mut causes = causes.clone();
        causes.sort_unstable();
        causes.dedup();
        let changed = Changed { change, tool, causes, listed };
        self.answer.totals.call(&changed);
        changed
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
        if let Some(permit) = new.permit {
            self.new.assume_done(permit);
        }
        if let (Some(lane), Some(permit)) = (&self.old, old.and_then(|old| old.permit)) {
            lane.assume_done(permit);
        }
        if let Some((changed, costs)) = changed {
            self.came_of(&changed, Effect::Done, costs);
        }
    }

    fn end(&mut self, ended: &Ended, time: Timestamp) {
        let Some(link) = ended.link else { return };
        let Some(open) = self.open.get_mut(&link) else { return };
        if let Some(permit) = open.new {
            self.new.end(permit, &open.recorded, ended, time);
        }
        if let (Some(old), Some(permit)) = (&self.old, open.old) {
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
            event if event.starts_with("budget_") => self.answer.coverage.assume(Assumed::Budgets, 1),
            _ => {}
        }
    }
}
