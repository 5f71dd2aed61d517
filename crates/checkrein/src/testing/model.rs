//! The reference model: every gate in the most obvious way, as lists that are filtered at each look.
//!
//! It shares the words of a policy with the engine and none of its code: no meters, tables, locks or inline slots. A
//! property test runs both over random histories and compares each step. It is slow, and meant to be read.

use std::collections::BTreeMap;

use checkrein_core::amount::Amount;
use checkrein_core::code::Code;
use checkrein_core::decision::Retry;
use checkrein_core::gate::breaker::Health;
use checkrein_core::policy::Charge;
use checkrein_core::time::{Span, Timestamp};

use super::adjusting::Changes;
use crate::engine::{GateSpec, GateSpecKind, WindowSpec};

/// What the gates of a policy are asked about.
#[derive(Clone, Debug)]
pub struct Call {
    /// The keys.
    pub keys: Vec<String>,
    /// The costs.
    pub costs: Vec<Amount>,
    /// Whether each rule passes.
    pub verdicts: Vec<bool>,
    /// The once key and the request it stands for.
    pub once: Option<(String, u8)>,
}

/// What the model decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may run; finish it under this number.
    Allow(usize),
    /// It may not, for these reasons.
    Block(Vec<(Code, Retry)>),
    /// It ran before, with this result.
    Replay(u64),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Done, with a result and the actual cost of each hold (the full hold if none is given).
    Done(u64, Option<Amount>),
    /// It did not take place.
    FailedClean,
    /// Nobody knows.
    InDoubt,
}

#[derive(Clone, Debug, Default)]
struct Events {
    list: Vec<(Timestamp, Amount)>,
    held: Amount,
    newest: Option<Timestamp>,
}

#[derive(Clone, Debug)]
enum Circuit {
    Closed(u32),
    Open(Timestamp),
    HalfOpen { running: Vec<(usize, Timestamp)>, succeeded: u32 },
}

#[derive(Clone, Debug)]
struct Operation {
    request: u8,
    /// The number of the call that runs it.
    run: usize,
    state: &'static str,
    result: u64,
    since: Timestamp,
    keep_result: Span,
    keep_key: Span,
}

#[derive(Clone, Debug)]
struct Open {
    holds: Vec<(String, Amount)>,
    /// Breakers: how many changes each had seen when this call was admitted, its failures to open, pause and probes.
    circuits: Vec<(String, usize, (u32, Span, u32))>,
    operation: Option<(String, usize)>,
    started: bool,
    lease_until: Timestamp,
}

/// All records, by the name of gate and key.
#[derive(Clone, Debug, Default)]
pub struct Model {
    events: BTreeMap<String, Events>,
    circuits: BTreeMap<String, (Circuit, usize)>,
    operations: BTreeMap<String, Operation>,
    facts: BTreeMap<String, Timestamp>,
    open: BTreeMap<usize, Open>,
    calls: usize,
    /// What somebody has changed of the limits of budgets.
    pub(super) changes: BTreeMap<String, Changes>,
}

/// How long permits last in the model: the engine's defaults.
const STARTED: Span = Span::from_secs(3_600);
const IN_DOUBT: Span = Span::from_secs(3_600);

pub(super) fn record(gate: &GateSpec, call: &Call, key: u16) -> String {
    let value = call.keys.get(usize::from(key)).map_or("", String::as_str);
    format!("{:?} {value}", gate.name)
}

fn in_window(events: &Events, window: &WindowSpec, now: Timestamp) -> Vec<(Timestamp, Amount)> {
    let counts = |stamp: Timestamp| match window {
        WindowSpec::Rolling(length) => now.nanos() - stamp.nanos() < length.nanos(),
        WindowSpec::Calendar(calendar) => calendar.period_end(stamp) >= calendar.period_end(now),
        WindowSpec::Lifetime => true,
    };
    events.list.iter().copied().filter(|(stamp, _)| counts(*stamp)).collect()
}

fn sum(events: &[(Timestamp, Amount)]) -> Amount {
    events.iter().fold(Amount::ZERO, |sum, (_, amount)| sum.saturating_add(*amount))
}

/// When at least `excess` has left the window.
fn frees(events: &[(Timestamp, Amount)], excess: Amount, window: &WindowSpec, now: Timestamp) -> Retry {
    let until = |end: Timestamp| Retry::After(Span::from_nanos(end.nanos() - now.nanos()));
    match window {
        WindowSpec::Lifetime => Retry::Never,
        WindowSpec::Calendar(calendar) => until(calendar.period_end(now)),
        WindowSpec::Rolling(length) => {
            let mut left = Amount::ZERO;
            let last = events.iter().find(|(_, amount)| {
                left = left.saturating_add(*amount);
                left >= excess
            });
            last.map_or(Retry::Unknown, |(stamp, _)| until(stamp.after(*length)))
        }
    }
}

impl Model {
    /// Decides a call and takes what it needs. Gates must stand in the order of reasons.
    pub fn admit(&mut self, gates: &[GateSpec], call: &Call, now: Timestamp) -> Answer {
        self.expire(now);
        let mut reasons = Vec::new();
        for gate in gates {
            match self.ask(gate, call, now, &mut reasons) {
                Some(result) if reasons.is_empty() => return Answer::Replay(result),
                Some(_) => return Answer::Block(reasons),
                None => {}
            }
        }
        if !reasons.is_empty() {
            return Answer::Block(reasons);
        }
        self.calls += 1;
        let lease_until = now.after(STARTED);
        let mut open =
            Open { holds: Vec::new(), circuits: Vec::new(), operation: None, started: true, lease_until };
        for gate in gates {
            self.take(gate, call, now, &mut open);
        }
        self.open.insert(self.calls, open);
        Answer::Allow(self.calls)
    }

    fn ask(
        &mut self,
        gate: &GateSpec,
        call: &Call,
        now: Timestamp,
        reasons: &mut Vec<(Code, Retry)>,
    ) -> Option<u64> {
        match &gate.kind {
            GateSpecKind::Rule { verdict } => {
                if !call.verdicts.get(usize::from(*verdict)).copied().unwrap_or(false) {
                    reasons.push((Code::RuleViolated, Retry::Never));
                }
            }
            GateSpecKind::Fact { key } => {
                if self.facts.get(&record(gate, call, *key)).is_none_or(|until| now >= *until) {
                    reasons.push((Code::MissingFact, Retry::Unknown));
                }
            }
            GateSpecKind::Once { .. } => {
                let (key, request) = call.once.clone().unwrap_or_default();
                let operation = self.operations.get(&key)?;
                let age = now.nanos() - operation.since.nanos();
                let finished = matches!(operation.state, "done" | "failed clean");
                if finished && age >= operation.keep_key.nanos() {
                    return None;
                }
                reasons.push(match operation.state {
                    _ if operation.request != request => (Code::KeyReused, Retry::Never),
                    "failed clean" => return None,
                    "started" => (Code::InProgress, Retry::Unknown),
                    "in doubt" => (Code::InDoubt, Retry::Unknown),
                    _ if age < operation.keep_result.nanos() => return Some(operation.result),
                    _ => (Code::ResultPruned, Retry::Never),
                });
            }
            GateSpecKind::Breaker { key, probes, .. } => {
                self.turn(gate, call, *key, now);
                match self.circuits.get(&record(gate, call, *key)).map(|(circuit, _)| circuit) {
                    None | Some(Circuit::Closed(_)) => {}
                    Some(Circuit::Open(until)) => {
                        let wait = Span::from_nanos(until.nanos() - now.nanos());
                        reasons.push((Code::CircuitOpen, Retry::After(wait)));
                    }
                    Some(Circuit::HalfOpen { running, succeeded }) => {
                        if running.len() + *succeeded as usize >= *probes as usize {
                            reasons.push((Code::CircuitOpen, Retry::Unknown));
                        }
                    }
                }
            }
            GateSpecKind::Attempts { key, max } => {
                let used = self.events.get(&record(gate, call, *key)).map_or(0, |events| events.list.len());
                if used as u64 >= *max {
                    reasons.push((Code::AttemptsExceeded, Retry::Never));
                }
            }
            GateSpecKind::Limit { key, max_calls, window, cooldown } => {
                let events = self.events.get(&record(gate, call, *key)).cloned().unwrap_or_default();
                if let Some(newest) = events.newest {
                    let free = newest.nanos() + cooldown.nanos();
                    if now.nanos() < free {
                        reasons.push((Code::Cooldown, Retry::After(Span::from_nanos(free - now.nanos()))));
                    }
                }
                let found = in_window(&events, window, now);
                if found.len() as u64 >= *max_calls {
                    let excess = Amount::from_units(found.len() as u64 - max_calls + 1);
                    let retry =
                        if *max_calls == 0 { Retry::Never } else { frees(&found, excess, window, now) };
                    reasons.push((Code::RateLimited, retry));
                }
            }
            GateSpecKind::Repetition { key, same_call, keep } => {
                let events = self.events.get(&record(gate, call, *key)).cloned().unwrap_or_default();
                let earlier = in_window(&events, &WindowSpec::Rolling(*keep), now).len();
                if earlier as u64 + 1 >= u64::from(*same_call) {
                    reasons.push((Code::LoopDetected, Retry::Never));
                }
            }
            GateSpecKind::Budget { key, limit, window, cost, .. } => {
                let events = self.events.get(&record(gate, call, *key)).cloned().unwrap_or_default();
                let found = in_window(&events, window, now);
                let (spent, cost) =
                    (sum(&found), call.costs.get(usize::from(*cost)).copied().unwrap_or_default());
                let total = spent.saturating_add(events.held).saturating_add(cost);
                let changes = self.changes.get(&record(gate, call, *key)).cloned().unwrap_or_default();
                let mut counts = changes.limit(*limit, now);
                if cost > Amount::ZERO && total > counts {
                    let retry = |limit: Amount| {
                        let excess = total.saturating_sub(limit);
                        let lifetime = matches!(window, WindowSpec::Lifetime);
                        if cost > limit || (lifetime && excess > events.held) {
                            Retry::Never
                        } else if lifetime || excess > spent {
                            Retry::Unknown
                        } else {
                            frees(&found, excess, window, now)
                        }
                    };
                    // By then a top-up may have ended.
                    while let Retry::After(wait) = retry(counts)
                        && changes.limit(*limit, now.after(wait)) < counts
                    {
                        counts = changes.limit(*limit, now.after(wait));
                    }
                    reasons.push((Code::BudgetExceeded, retry(counts)));
                }
            }
        }
        None
    }

    fn take(&mut self, gate: &GateSpec, call: &Call, now: Timestamp, open: &mut Open) {
        match &gate.kind {
            GateSpecKind::Rule { .. } | GateSpecKind::Fact { .. } => {}
            GateSpecKind::Once { keep_result, keep_key } => {
                let (key, request) = call.once.clone().unwrap_or_default();
                let (keep_result, keep_key) = (*keep_result, *keep_key);
                let (state, run) = ("started", self.calls);
                let operation =
                    Operation { request, run, state, result: 0, since: now, keep_result, keep_key };
                self.operations.insert(key.clone(), operation);
                open.operation = Some((key, run));
            }
            GateSpecKind::Breaker { key, probe_lease, max_fails, reset, probes } => {
                let name = record(gate, call, *key);
                let (circuit, changes) = self.circuits.entry(name.clone()).or_insert((Circuit::Closed(0), 0));
                if let Circuit::HalfOpen { running, .. } = circuit {
                    running.push((self.calls, now.after(*probe_lease)));
                }
                open.circuits.push((name, *changes, (*max_fails, *reset, *probes)));
            }
            GateSpecKind::Attempts { key, .. }
            | GateSpecKind::Limit { key, .. }
            | GateSpecKind::Repetition { key, .. } => {
                self.spend(record(gate, call, *key), now, Amount::ONE);
            }
            GateSpecKind::Budget { key, cost, charge, .. } => {
                let name = record(gate, call, *key);
                let cost = call.costs.get(usize::from(*cost)).copied().unwrap_or_default();
                match charge {
                    Charge::Fixed => self.spend(name, now, cost),
                    Charge::Hold => {
                        let events = self.events.entry(name.clone()).or_default();
                        events.held = events.held.saturating_add(cost);
                        open.holds.push((name, cost));
                    }
                }
            }
        }
    }

    fn spend(&mut self, name: String, now: Timestamp, amount: Amount) {
        let events = self.events.entry(name).or_default();
        events.list.push((now, amount));
        events.newest = Some(now);
    }

    /// Ends a call. `false` when it was ended before.
    pub fn finish(&mut self, number: usize, end: End, health: Health, now: Timestamp) -> bool {
        let Some(mut open) = self.open.remove(&number) else { return false };
        for (name, changes, limits) in std::mem::take(&mut open.circuits) {
            self.report(&name, changes, limits, number, health, now);
        }
        if end == End::InDoubt && open.started {
            self.enter(&open, "in doubt", 0, now);
            open.started = false;
            open.lease_until = now.after(IN_DOUBT);
            self.open.insert(number, open);
            return true;
        }
        for (name, hold) in open.holds.clone() {
            if let Some(events) = self.events.get_mut(&name) {
                events.held = events.held.saturating_sub(hold);
            }
            match end {
                End::FailedClean => {}
                End::InDoubt => self.spend(name, now, hold),
                End::Done(_, actual) => self.spend(name, now, actual.unwrap_or(hold)),
            }
        }
        match end {
            End::Done(result, _) => self.enter(&open, "done", result, now),
            End::FailedClean => self.enter(&open, "failed clean", 0, now),
            End::InDoubt => {}
        }
        true
    }

    fn enter(&mut self, open: &Open, state: &'static str, result: u64, now: Timestamp) {
        let Some((key, run)) = &open.operation else { return };
        if let Some(operation) = self.operations.get_mut(key).filter(|operation| operation.run == *run) {
            operation.state = state;
            operation.result = result;
            operation.since = now;
        }
    }

    /// Moves on calls whose lease is over: first in doubt, then settled in full.
    fn expire(&mut self, now: Timestamp) {
        let due = |open: &Open| open.lease_until <= now;
        let late: Vec<usize> =
            self.open.iter().filter(|(_, open)| due(open)).map(|(number, _)| *number).collect();
        for number in late {
            self.finish(number, End::InDoubt, Health::Failure, now);
        }
    }

    /// Lets a breaker's pause end, and counts lost probes as failures.
    fn turn(&mut self, gate: &GateSpec, call: &Call, key: u16, now: Timestamp) {
        let GateSpecKind::Breaker { reset, .. } = &gate.kind else { return };
        self.turn_named(&record(gate, call, key), *reset, now);
    }

    fn turn_named(&mut self, name: &str, reset: Span, now: Timestamp) {
        let Some((circuit, changes)) = self.circuits.get_mut(name) else { return };
        if let Circuit::HalfOpen { running, .. } = circuit
            && let Some(lost) = running.iter().map(|(_, lease)| *lease).filter(|lease| *lease <= now).min()
        {
            *circuit = Circuit::Open(lost.after(reset));
            *changes += 1;
        }
        if matches!(circuit, Circuit::Open(until) if now >= *until) {
            *circuit = Circuit::HalfOpen { running: Vec::new(), succeeded: 0 };
            *changes += 1;
        }
    }

    fn report(
        &mut self,
        name: &str,
        seen: usize,
        (max_fails, reset, probes): (u32, Span, u32),
        number: usize,
        health: Health,
        now: Timestamp,
    ) {
        self.turn_named(name, reset, now);
        let Some((circuit, changes)) = self.circuits.get_mut(name) else { return };
        if *changes != seen {
            return;
        }
        let next = match (circuit, health) {
            (Circuit::Closed(fails), Health::Success) => {
                *fails = 0;
                return;
            }
            (Circuit::Closed(fails), Health::Failure) => {
                *fails += 1;
                if *fails < max_fails {
                    return;
                }
                Circuit::Open(now.after(reset))
            }
            (Circuit::HalfOpen { .. }, Health::Failure) => Circuit::Open(now.after(reset)),
            (Circuit::HalfOpen { running, succeeded }, health) => {
                running.retain(|(call, _)| *call != number);
                *succeeded += u32::from(health == Health::Success);
                if *succeeded < probes {
                    return;
                }
                Circuit::Closed(0)
            }
            (Circuit::Closed(_) | Circuit::Open(_), _) => return,
        };
        if let Some((circuit, changes)) = self.circuits.get_mut(name) {
            *circuit = next;
            *changes += 1;
        }
    }

    /// Records a proved value of a fact gate.
    pub fn prove(&mut self, gate: &GateSpec, call: &Call, until: Timestamp) {
        if let GateSpecKind::Fact { key } = &gate.kind {
            let known = self.facts.entry(record(gate, call, *key)).or_insert(until);
            *known = until.max(*known);
        }
    }

    /// Spent in the window, held, and the limit that counts, of a limit or budget.
    pub fn standing(&self, gate: &GateSpec, call: &Call, now: Timestamp) -> Option<(Amount, Amount, Amount)> {
        let calls = Amount::from_units;
        let (key, window, limit) = match &gate.kind {
            GateSpecKind::Limit { key, window, max_calls, .. } => (*key, window.clone(), calls(*max_calls)),
            GateSpecKind::Budget { key, window, limit, .. } => (*key, window.clone(), *limit),
            GateSpecKind::Attempts { key, max } => (*key, WindowSpec::Lifetime, calls(*max)),
            GateSpecKind::Repetition { key, keep, same_call } => {
                (*key, WindowSpec::Rolling(*keep), calls(u64::from(*same_call) - 1))
            }
            _ => return None,
        };
        let name = record(gate, call, key);
        let limit = self.changes.get(&name).map_or(limit, |changes| changes.limit(limit, now));
        let events = self.events.get(&name).cloned().unwrap_or_default();
        Some((sum(&in_window(&events, &window, now)), events.held, limit))
    }

    /// Drops events that no window of `longest` can see any more, so that long histories stay fast.
    pub fn forget(&mut self, longest: Span, now: Timestamp) {
        for events in self.events.values_mut() {
            events.list.retain(|(stamp, _)| now.nanos() - stamp.nanos() < longest.nanos());
        }
    }
}
