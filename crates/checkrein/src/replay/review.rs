//! What gates in observe mode would have refused in a ledger, and what was refused for real.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use checkrein_core::amount::{Amount, Unit, parse_quantity};
use checkrein_core::json::{Object, Value};
use checkrein_core::ledger::entry::{Ending, EntryView, Kind, ReasonView};
use checkrein_core::time::Timestamp;

use super::ReplayError;
use super::lane::{Costs, Lane, largest, paired};
use super::record::{Cause, Ended, Link, Recorded, What};
use super::source::Source;
use super::totals::{Effect, Tally};
use crate::config::PolicyFile;

/// The most rows, and the most tools.
const MOST_ROWS: usize = 5_000;
/// The most users, agents or runs that are told apart in one row.
const MOST_NAMES: usize = 5_000;
/// The most calls that are remembered until their outcomes come.
const MOST_OPEN: usize = 1 << 20;

/// What one gate had to say of one tool, with one code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The tool, with its namespace.
    pub tool: String,
    /// The gate and the code.
    pub cause: Cause,
    /// The calls, and what came of those that ran.
    pub tally: Tally,
    /// The first and the last of them.
    pub period: (Timestamp, Timestamp),
    /// Distinct users, agents and runs among them.
    pub users: u64,
    /// Distinct agents.
    pub agents: u64,
    /// Distinct runs.
    pub runs: u64,
}

/// The calls of one tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All of them.
    pub decisions: u64,
    /// Those that ran.
    pub ran: u64,
    /// Those that ran and would have been refused.
    pub observed: u64,
    /// Those that were refused.
    pub refused: u64,
}

/// What a ledger says of observe mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// What was read.
    pub source: Source,
    /// When the first and the last decision were made.
    pub period: Option<(Timestamp, Timestamp)>,
    /// All calls.
    pub calls: Calls,
    /// Those that would have been refused, each counted once.
    pub observed: Tally,
    /// By tool.
    pub tools: BTreeMap<String, Calls>,
    /// What observe mode would have refused, the most frequent first.
    pub would_refuse: Vec<Row>,
    /// What was refused, the most frequent first.
    pub refused: Vec<Row>,
}

/// Reads a ledger for what observe mode would have refused.
#[derive(Debug)]
pub struct Review {
    since: Timestamp,
    until: Timestamp,
    /// What calls cost where the ledger does not say.
    prices: Option<Lane>,
    answer: Reviewed,
    rows: BTreeMap<Key, Gathered>,
    open: BTreeMap<Link, Open>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    is_refused: bool,
    tool: String,
    cause: Cause,
}

#[derive(Debug)]
struct Gathered {
    tally: Tally,
    period: (Timestamp, Timestamp),
    names: [BTreeSet<u64>; 3],
}

/// A call that ran although gates in observe mode had something to say.
#[derive(Debug)]
struct Open {
    recorded: Recorded,
    keys: Vec<Key>,
    /// What a budget was asked for.
    asked: Costs,
    in_doubt: bool,
}

impl Review {
    /// A review of the decisions from `since` on and before `until`. Where the ledger does not say what a call cost, it is
    /// what `prices` takes for it.
    ///
    /// # Errors
    /// The file cannot be put to work.
    pub fn new(since: Timestamp, until: Timestamp, prices: Option<PolicyFile>) -> Result<Self, ReplayError> {
        let prices = prices.map(Lane::new).transpose()?;
        let (answer, rows, open) = (Reviewed::default(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { since, until, prices, answer, rows, open })
    }

    /// Takes the next entry.
    pub fn entry(&mut self, entry: &EntryView<'_>) {
        match What::read(entry) {
            What::Decision(recorded) => self.decision(entry, &recorded, (entry.time, entry.time), 1),
            What::Repeats(recorded, repeated) => {
                self.decision(entry, &recorded, (repeated.first, repeated.last), repeated.count);
            }
            What::Outcome(ended) => self.end(&ended),
            What::Event(_) => {}
        }
    }

    fn decision(
        &mut self,
        entry: &EntryView<'_>,
        recorded: &Recorded,
        period: (Timestamp, Timestamp),
        count: u64,
    ) {
        if period.1 < self.since || period.0 >= self.until {
            return;
        }
        let tool = match (recorded.namespace.as_str(), recorded.name.as_str()) {
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}:{name}"),
        };
        let (is_refused, ran) = (entry.kind == Kind::Refusal, entry.kind == Kind::Intent);
        let observed = ran && !entry.observed.is_empty();
        let mut tools = std::mem::take(&mut self.answer.tools);
        let is_known = tools.len() < MOST_ROWS || tools.contains_key(&tool);
        let of_tool = tools.entry(if is_known { tool.clone() } else { "(others)".to_owned() }).or_default();
        for calls in [of_tool, &mut self.answer.calls] {
            let add = |sum: &mut u64, is: bool| *sum = sum.saturating_add(if is { count } else { 0 });
            add(&mut calls.decisions, true);
            add(&mut calls.ran, ran);
            add(&mut calls.observed, observed);
            add(&mut calls.refused, is_refused);
        }
        self.answer.tools = tools;
        let (from, to) = self.answer.period.unwrap_or(period);
        self.answer.period = Some((from.min(period.0), to.max(period.1)));
        let said = if is_refused { &entry.reasons } else { &entry.observed };
        let mut keys: Vec<Key> = said
            .iter()
            .map(|reason| Key { is_refused, tool: tool.clone(), cause: Cause::read(reason) })
            .filter(|_| is_refused || observed)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            self.gather(key, recorded, period, count);
        }
        if observed {
            self.answer.observed.calls = self.answer.observed.calls.saturating_add(1);
            let asked = largest(entry.observed.iter().filter_map(asked));
            let asked = if asked.is_empty() { self.price(recorded, entry.time) } else { asked };
            let open = Open { recorded: recorded.clone(), keys, asked, in_doubt: false };
            self.open.insert(recorded.link, open);
            if self.open.len() > MOST_OPEN
                && let Some((_, oldest)) = self.open.pop_first()
            {
                self.close(oldest, Effect::Unknown, &[]);
            }
        }
    }

    /// What the policy takes for a call, if there is one and the arguments it reads are there.
    fn price(&self, recorded: &Recorded, time: Timestamp) -> Costs {
        let Some(lane) = &self.prices else { return Costs::new() };
        let arguments = recorded.arguments.value();
        match arguments {
            Some(arguments) => lane.costs_at(recorded, &arguments, time),
            None if lane.reads_arguments(recorded) => Costs::new(),
            None => lane.costs_at(recorded, &Value::Object(Object::default()), time),
        }
    }

    fn gather(&mut self, key: &Key, recorded: &Recorded, period: (Timestamp, Timestamp), count: u64) {
        if self.rows.len() >= MOST_ROWS && !self.rows.contains_key(key) {
            return;
        }
        let fresh = || Gathered { tally: Tally::default(), period, names: Default::default() };
        let row = self.rows.entry(key.clone()).or_insert_with(fresh);
        row.tally.calls = row.tally.calls.saturating_add(count);
        row.period = (row.period.0.min(period.0), row.period.1.max(period.1));
        let names = [&recorded.user, &recorded.agent, &recorded.run];
        for (known, name) in row.names.iter_mut().zip(names) {
            if !name.is_empty() && known.len() < MOST_NAMES {
                // Its keys are fixed, so that the same ledger gives the same numbers.
                let mut hasher = DefaultHasher::new();
                (&recorded.tenant, name).hash(&mut hasher);
                known.insert(hasher.finish());
            }
        }
    }

    fn end(&mut self, ended: &Ended) {
        let Some(link) = ended.link else { return };
        if ended.ending == Ending::InDoubt {
            // It may still be found out.
            if let Some(open) = self.open.get_mut(&link) {
                open.in_doubt = true;
            }
            return;
        }
        if let Some(open) = self.open.remove(&link) {
            let effect = if ended.ending == Ending::Done { Effect::Done } else { Effect::None };
            self.close(open, effect, &ended.actual);
        }
    }

    fn close(&mut self, open: Open, effect: Effect, actual: &[Amount]) {
        let known = paired(&open.recorded, actual);
        let known = largest(known.into_iter().map(|(_, unit, amount)| (unit, amount)));
        let costs = if known.is_empty() { open.asked } else { known };
        self.answer.observed.came_of(effect, &costs);
        for key in &open.keys {
            if let Some(row) = self.rows.get_mut(key) {
                row.tally.came_of(effect, &costs);
            }
        }
    }

    /// What was found, after the last entry of a source.
    #[must_use]
    pub fn finish(mut self, source: Source) -> Reviewed {
        while let Some((_, open)) = self.open.pop_first() {
            self.close(open, Effect::Unknown, &[]);
        }
        let Self { mut answer, rows, .. } = self;
        answer.source = source;
        for (key, gathered) in rows {
            let [users, agents, runs] = gathered.names.map(|names| names.len() as u64);
            let Gathered { tally, period, .. } = gathered;
            let Key { is_refused, tool, cause } = key;
            let row = Row { tool, cause, tally, period, users, agents, runs };
            if is_refused { &mut answer.refused } else { &mut answer.would_refuse }.push(row);
        }
        for rows in [&mut answer.refused, &mut answer.would_refuse] {
            rows.sort_by_key(|row| std::cmp::Reverse(row.tally.calls));
        }
        answer
    }
}

/// What a budget says that it was asked for.
fn asked(reason: &ReasonView<'_>) -> Option<(Unit, Amount)> {
    let (asked, _) = reason.message.split_once(" asked for, ").filter(|_| reason.kind == "budget")?;
    let (amount, unit) = parse_quantity(asked).ok()?;
    Some((unit, amount))
}
