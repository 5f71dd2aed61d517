//! Reads the ledger as an auditor would: entry by entry, keeping books of its own.

use std::collections::{BTreeMap, BTreeSet};

use checkrein::core::amount::Amount;
use checkrein::core::ledger::entry::{Ending, EntryView, Kind};
use checkrein::core::policy::Charge;
use checkrein::engine::{GateSpecKind, WindowSpec};
use checkrein::store::durable::Table;
use checkrein::testing::disk::Disk;

use crate::oracle::{Check, ensure};
use crate::tools::{Call, Tool};

/// One record: gate, tenant and key.
pub(crate) type RecordName = (String, String, String);

/// One budget's sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) held: Amount,
    pub(crate) spent: Amount,
    overrun: Amount,
}

/// An intent and how far it has come.
#[derive(Clone, Debug)]
struct Intent {
    call: usize,
    time: i64,
    permit: Option<u64>,
    epoch: u64,
    doubtful: bool,
    ended: bool,
    holds: Vec<(RecordName, Amount)>,
}

/// What the ledger said so far.
#[derive(Debug, Default)]
pub(crate) struct Books {
    entries: Vec<Vec<u8>>,
    reads: u64,
    time: i64,
    intents: BTreeMap<u64, Intent>,
    outcomes: BTreeMap<u64, u64>,
    budgets: BTreeMap<RecordName, Book>,
    /// When calls were admitted, by limit.
    admitted: BTreeMap<RecordName, Vec<i64>>,
    /// Refusals by process and call.
    refusals: BTreeMap<(u64, usize), u64>,
    policies: BTreeSet<String>,
}

/// So many looks pass between two at all of the ledger.
const COMPARE_EVERY: u64 = 64;

fn wrong(seq: u64, what: impl std::fmt::Display) -> String {
    format!("ledger entry {seq}: {what}")
}

/// The client's call that an entry is about.
fn run_of(entry: &EntryView<'_>) -> Option<usize> {
    entry.action.iter().find(|(name, _)| *name == "run")?.1.parse().ok()
}

impl Books {
    /// Reads what is new, after making sure that nothing old has changed.
    pub(crate) fn read(&mut self, disk: &Disk, calls: &[Call], tools: &[Tool]) -> Check {
        // The old ones are compared now and then, and at the end: they are many.
        self.reads += 1;
        let from =
            if self.reads.is_multiple_of(COMPARE_EVERY) { 0 } else { self.entries.len().saturating_sub(1) };
        let rows = disk.rows_from(Table::Entry, &(from as u64).to_be_bytes());
        ensure(from + rows.len() >= self.entries.len(), || {
            format!("the ledger had {} entries and has {}", self.entries.len(), from + rows.len())
        })?;
        for (index, (key, body)) in (from..).zip(&rows) {
            ensure(key.as_slice() == (index as u64).to_be_bytes(), || {
                wrong(index as u64, "it is not there; the next one is")
            })?;
            match self.entries.get(index) {
                Some(known) => ensure(known == body, || wrong(index as u64, "it is not what it was"))?,
                None => self.add(body, calls, tools)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, body: &[u8], calls: &[Call], tools: &[Tool]) -> Check {
        let seq = self.entries.len() as u64;
        let entry = EntryView::read(body).map_err(|error| wrong(seq, error))?;
        ensure(entry.seq == seq, || wrong(seq, format!("it says it is {}", entry.seq)))?;
        ensure(entry.time.nanos() >= self.time, || wrong(seq, "it is earlier than the one before it"))?;
        self.time = entry.time.nanos();
        if let Some(policy) = &entry.policy {
            let digest: String = policy.iter().map(|byte| format!("{byte:02x}")).collect();
            ensure(self.policies.contains(&digest), || {
                wrong(seq, "it was decided by a policy whose text stands nowhere")
            })?;
        }
        match entry.kind {
            Kind::Intent => self.intend(&entry, calls, tools)?,
            Kind::Outcome => self.end(&entry, calls)?,
            Kind::Refusal => {
                let count = entry.repeated.map_or(1, |repeated| repeated.count);
                let call = run_of(&entry).unwrap_or(usize::MAX);
                *self.refusals.entry((entry.epoch, call)).or_default() += count;
            }
            Kind::Replay => {}
            Kind::Event => self.event(&entry),
        }
        self.entries.push(body.to_vec());
        Ok(())
    }

    fn intend(&mut self, entry: &EntryView<'_>, calls: &[Call], tools: &[Tool]) -> Check {
        let run = entry.action.iter().find(|(name, _)| *name == "run").map(|(_, value)| value.parse());
        let call =
            run.and_then(Result::ok).and_then(|index: usize| calls.get(index).map(|call| (index, call)));
        let Some((index, call)) = call else { return Err(wrong(entry.seq, "nobody asked for it")) };
        let gates = tools.get(call.tool).map(|tool| tool.gates.as_slice()).unwrap_or_default();
        let mut holds = Vec::new();
        for gate in gates {
            let name = |key: u16| {
                let key = if key == 0 { call.user } else { "all" };
                (gate.name.clone(), call.tenant.to_owned(), key.to_owned())
            };
            if let GateSpecKind::Limit { key, .. } | GateSpecKind::Attempts { key, .. } = &gate.kind {
                let times = self.admitted.entry(name(*key)).or_default();
                times.push(entry.time.nanos());
                within(&gate.name, &gate.kind, times).map_err(|what| wrong(entry.seq, what))?;
            }
            let GateSpecKind::Budget { key, limit, charge, .. } = &gate.kind else { continue };
            let name = name(*key);
            let book = self.budgets.entry(name.clone()).or_default();
            match charge {
                Charge::Fixed => book.spent = book.spent.saturating_add(call.cost),
                Charge::Hold => {
                    book.held = book.held.saturating_add(call.cost);
                    holds.push((name.clone(), call.cost));
                }
            }
            let (taken, bound) = (book.spent.saturating_add(book.held), limit.saturating_add(book.overrun));
            ensure(taken <= bound, || {
                wrong(entry.seq, format!("{name:?} took {taken} of {limit}, overrun {}", book.overrun))
            })?;
        }
        let (permit, epoch, time) = (entry.permit, entry.epoch, entry.time.nanos());
        self.intents.insert(
            entry.seq,
            Intent { call: index, time, permit, epoch, doubtful: false, ended: permit.is_none(), holds },
        );
        Ok(())
    }

    fn end(&mut self, entry: &EntryView<'_>, calls: &[Call]) -> Check {
        let seq = entry.seq;
        let Some(intent) = entry.intent.and_then(|intent| self.intents.get_mut(&intent)) else {
            return Err(wrong(seq, "an outcome without an intent"));
        };
        ensure(intent.permit == entry.permit, || {
            wrong(seq, "an outcome of another permit than its intent's")
        })?;
        ensure(!intent.ended, || {
            wrong(seq, format!("a second outcome of intent {:?}, {:?}", entry.intent, calls.get(intent.call)))
        })?;
        let Some((ending, _, _)) = entry.outcome else { return Err(wrong(seq, "an outcome of nothing")) };
        // What nobody can look up and what holds nothing ends with its doubt.
        let waits =
            !intent.holds.is_empty() || calls.get(intent.call).is_some_and(|call| call.once.is_some());
        if ending == Ending::InDoubt && !intent.doubtful && waits {
            intent.doubtful = true;
            return Ok(());
        }
        intent.ended = true;
        self.outcomes.insert(entry.intent.unwrap_or_default(), seq);
        for (position, (name, held)) in intent.holds.iter().enumerate() {
            let book = self.budgets.entry(name.clone()).or_default();
            book.held = book.held.saturating_sub(*held);
            if ending == Ending::FailedClean {
                continue;
            }
            let actual = entry.actual.get(position).and_then(|text| Amount::parse(text).ok());
            let actual = actual.filter(|_| ending == Ending::Done).unwrap_or(*held);
            book.spent = book.spent.saturating_add(actual);
            let over = actual.saturating_sub(*held);
            if !over.is_negative() {
                book.overrun = book.overrun.saturating_add(over);
            }
        }
        Ok(())
    }

    fn event(&mut self, entry: &EntryView<'_>) {
        let field = |wanted: &str| {
            let found = entry.fields.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.to_string()).unwrap_or_default()
        };
        match entry.event.as_deref() {
            Some("policy") => drop(self.policies.insert(field("digest"))),
            Some("reset") => {
                let gate = field("gate");
                let gate = gate.rsplit(':').next().unwrap_or_default().to_owned();
                if let Some(book) = self.budgets.get_mut(&(gate, field("tenant"), field("key"))) {
                    (book.spent, book.overrun) = (Amount::ZERO, Amount::ZERO);
                }
            }
            _ => {}
        }
    }

    /// The intents of processes of which `dead` says so that are neither ended nor in doubt.
    pub(crate) fn open_of(&self, dead: impl Fn(u64) -> bool) -> Option<u64> {
        let open = |intent: &Intent| !intent.ended && !intent.doubtful && dead(intent.epoch);
        self.intents.iter().find(|(_, intent)| open(intent)).map(|(seq, _)| *seq)
    }

    /// What the ledger says of a budget.
    pub(crate) fn book(&self, name: &RecordName) -> Book {
        self.budgets.get(name).copied().unwrap_or_default()
    }

    /// The entry of the intent of a permit.
    pub(crate) fn intent_of(&self, permit: u64) -> Option<u64> {
        // The latest first: it is the one that was just committed.
        self.intents.iter().rev().find(|(_, intent)| intent.permit == Some(permit)).map(|(seq, _)| *seq)
    }

    /// When a permit was given out, in the store's time.
    pub(crate) fn begun(&self, permit: u64) -> Option<i64> {
        let intent = self.intents.get(&self.intent_of(permit)?)?;
        Some(intent.time)
    }

    /// The entry of the outcome of a permit.
    pub(crate) fn outcome_of(&self, permit: u64) -> Option<u64> {
        self.outcomes.get(&self.intent_of(permit)?).copied()
    }

    /// Refusals of a call that a process has written.
    pub(crate) fn refusals(&self, epoch: u64, call: usize) -> u64 {
        self.refusals.get(&(epoch, call)).copied().unwrap_or(0)
    }

    /// Entries so far.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Intents without an end.
    pub(crate) fn without_end(&self) -> Option<String> {
        let open = self.intents.iter().find(|(_, intent)| !intent.ended);
        open.map(|(seq, intent)| format!("entry {seq}, {intent:?}"))
    }
}

/// Whether the last of `times` was allowed to be.
fn within(name: &str, gate: &GateSpecKind, times: &[i64]) -> Check {
    let Some((last, before)) = times.split_last() else { return Ok(()) };
    match gate {
        GateSpecKind::Limit { max_calls, window: WindowSpec::Rolling(length), cooldown, .. } => {
            let window = before.iter().rev().take_while(|time| last - **time < length.nanos()).count() + 1;
            ensure(window as u64 <= *max_calls, || {
                format!("limit {name} of {max_calls} let {window} calls through in {length:?}")
            })?;
            ensure(before.last().is_none_or(|time| last - time >= cooldown.nanos()), || {
                format!(
                    "limit {name} let a call through {} ns after another",
                    last - before.last().unwrap_or(last)
                )
            })
        }
        GateSpecKind::Attempts { max, .. } => ensure(times.len() as u64 <= *max, || {
            format!("gate {name} of {max} attempts let {} through", times.len())
        }),
        _ => Ok(()),
    }
}
