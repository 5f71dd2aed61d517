//! What callers ask for, with the records that it needs: found out before anything is locked or sent.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use checkrein_core::admission::{Admission, Inputs, KeyValue, PermitError};
use checkrein_core::key::{KeyRef, MAX_KEY_BYTES};
use checkrein_core::policy::{Gate, RecordKind};
use checkrein_core::time::Timestamp;

use super::families::Families;
use super::name::{self, Tag};
use super::record::Name;
use super::stage::refusal_of;
use crate::engine::CompiledPolicy;
use crate::parking::{Condvar, Mutex};
use crate::store::{OwnedInputs, PermitId, Results, Step, StepResult, StoreError};

/// A step and the names of its records, in the order in which it uses them.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) step: Step,
    pub(super) names: Vec<Name>,
}

/// Steps that are committed together: their records lie in one slot.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) tag: Tag,
    pub(super) steps: Vec<Planned>,
    pub(super) deadline: Instant,
    pub(super) reply: Reply,
}

impl Job {
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.steps.iter().flat_map(|planned| planned.names.iter().copied())
    }
}

/// Who wants to know what became of a job. One that is dropped says so to whoever waits.
pub(super) struct Reply(To);

enum To {
    /// A thread that waits.
    Ticket(Arc<Ticket>),
    /// Whoever is called.
    Then(Box<dyn FnOnce(Results) + Send>),
    /// Nobody, or nobody any more.
    Nobody,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            To::Ticket(_) => "Ticket",
            To::Then(_) => "Then",
            To::Nobody => "Nobody",
        })
    }
}

impl Reply {
    pub(super) fn ticket(ticket: &Arc<Ticket>) -> Self {
        Self(To::Ticket(Arc::clone(ticket)))
    }

    pub(super) fn then(then: Box<dyn FnOnce(Results) + Send>) -> Self {
        Self(To::Then(then))
    }

    pub(super) fn nobody() -> Self {
        Self(To::Nobody)
    }

    /// Whether it is this ticket's.
    pub(super) fn is_of(&self, ticket: &Arc<Ticket>) -> bool {
        matches!(&self.0, To::Ticket(own) if Arc::ptr_eq(own, ticket))
    }

    /// Hands over what became of the job; gives it back when nobody wants it any more.
    pub(super) fn end(mut self, results: Results) -> Option<Results> {
        std::mem::replace(&mut self.0, To::Nobody).end(results)
    }
}

impl To {
    fn end(self, results: Results) -> Option<Results> {
        match self {
            Self::Ticket(ticket) => ticket.end(results),
            Self::Then(then) => {
                then(results);
                None
            }
            Self::Nobody => None,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let error = StoreError::Unknown("the store's worker has ended; open the store again".to_owned());
        // Whoever gave up has been told already.
        let _ = std::mem::replace(&mut self.0, To::Nobody).end(Err(error));
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    GivenUp,
    Done(Results),
}

/// Where one caller waits for somebody else to run its job.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    state: Mutex<State>,
    changed: Condvar,
}

impl Ticket {
    fn end(&self, results: Results) -> Option<Results> {
        let mut state = self.state.lock();
        if matches!(*state, State::GivenUp) {
            return Some(results);
        }
        *state = State::Done(results);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// What became of the job; `None` when it has not ended by `until`.
    pub(super) fn wait(&self, until: Instant) -> Option<Results> {
        let mut state = self.state.lock();
        loop {
            if let State::Done(results) = &mut *state {
                return Some(std::mem::replace(results, Ok(Vec::new())));
            }
            if Instant::now() >= until {
                return None;
            }
            state = self.changed.wait_until(state, until);
        }
    }

    /// Stops waiting; gives what came at the last moment.
    pub(super) fn give_up(&self) -> Option<Results> {
        match std::mem::replace(&mut *self.state.lock(), State::GivenUp) {
            State::Done(results) => Some(results),
            State::Waiting | State::GivenUp => None,
        }
    }
}

/// Permits that this process gave out and that have not ended.
#[derive(Debug, Default)]
pub(super) struct OpenPermits {
    known: HashMap<u64, (Vec<Name>, Timestamp)>,
    due: BTreeSet<(Timestamp, u64)>,
}

impl OpenPermits {
    /// The names of a permit's record and of those it holds something of.
    pub(super) fn names(&self, number: u64) -> Option<Vec<Name>> {
        self.known.get(&number).map(|(names, _)| names.clone())
    }

    pub(super) fn put(&mut self, number: u64, names: Vec<Name>, lease: Timestamp) {
        self.remove(number);
        self.known.insert(number, (names, lease));
        self.due.insert((lease, number));
    }

    pub(super) fn moved(&mut self, number: u64, lease: Option<Timestamp>) {
        if let Some((names, _)) = self.known.get(&number).cloned() {
            match lease {
                Some(lease) => self.put(number, names, lease),
                None => self.remove(number),
            }
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some((_, lease)) = self.known.remove(&number) {
            self.due.remove(&(lease, number));
        }
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(lease, _)| *lease)
    }

    pub(super) fn due(&self, before: Timestamp, limit: usize) -> Vec<u64> {
        let due = self.due.iter().take_while(|(lease, _)| *lease <= before);
        due.take(limit).map(|(_, number)| *number).collect()
    }
}

/// The record of a gate for an action.
pub(super) fn record_of<'a>(gate: &Gate, inputs: &Inputs<'a>) -> Option<(RecordKind, KeyRef<'a>)> {
    let (kind, family, slot) = gate.check.record()?;
    let value = match slot {
        Some(slot) => inputs.keys.get(usize::from(slot.0)).copied(),
        None => inputs.once.map(|(key, _)| key),
    };
    let key = match value {
        Some(KeyValue::Bytes(bytes)) => bytes,
        Some(KeyValue::Missing(_)) | None => &[],
    };
    Some((kind, KeyRef { family, tenant: inputs.tenant.as_bytes(), key }))
}

/// The name of a record, as every host knows it.
fn name_of(families: &Families, tag: Tag, kind: RecordKind, key: KeyRef<'_>) -> Option<Name> {
    let family = families.get(key.family)?.digest;
    Some(Name { tag, kind, family, record: name::record(key.tenant, key.key) })
}

/// A step with its records, or what it comes to without any.
pub(super) enum Plan {
    On(Tag, Planned),
    Answer(StepResult),
    /// A refusal that needs no record.
    Refuse(Arc<CompiledPolicy>, Box<OwnedInputs>, Box<Admission>),
    /// Only a ledger has a place for it.
    Note(String, Vec<(String, String)>),
}

/// Finds out which records a step needs.
pub(super) fn plan(step: Step, families: &Families, open: &Mutex<OpenPermits>) -> Plan {
    let unknown = || Plan::Answer(StepResult::Failed(StoreError::NotCommitted("no such gate".to_owned())));
    match &step {
        Step::Admit(policy, inputs) | Step::Peek(policy, inputs) => {
            let tag = Tag::of(inputs.tenant.as_bytes());
            let names = inputs.with(&[], |inputs| {
                if let Some(refusal) = refusal_of(policy, inputs) {
                    return Err(Some(refusal));
                }
                let records = policy.policy().gates().iter().filter_map(|gate| record_of(gate, inputs));
                let names: Option<Vec<Name>> =
                    records.map(|(kind, key)| name_of(families, tag, kind, key)).collect();
                names.ok_or(None)
            });
            match names {
                Ok(names) => Plan::On(tag, Planned { step, names }),
                Err(None) => unknown(),
                Err(Some(refusal)) => match step {
                    Step::Admit(policy, inputs) => Plan::Refuse(policy, Box::new(inputs), Box::new(refusal)),
                    _ => Plan::Answer(StepResult::Peeked(refusal, Vec::new())),
                },
            }
        }
        Step::Start(permit) | Step::Release(permit) | Step::Finish(permit, _) | Step::Expire(permit) => {
            on_permit(*permit, step, open)
        }
        Step::Note(name, fields) => Plan::Note(name.clone(), fields.clone()),
        Step::Resolve(key, ..) => on_key(RecordKind::Operation, key.borrow(), step.clone(), families),
        Step::Prove(key, _) => on_key(RecordKind::Fact, key.borrow(), step.clone(), families),
        Step::Reset(kind, key) => on_key(*kind, key.borrow(), step.clone(), families),
        Step::Adjust(key, _) => on_key(RecordKind::Meter, key.borrow(), step.clone(), families),
    }
}

fn on_permit(permit: PermitId, step: Step, open: &Mutex<OpenPermits>) -> Plan {
    let names = open.lock().names(permit.number());
    match names.as_deref() {
        Some([first, ..]) => Plan::On(first.tag, Planned { step, names: names.unwrap_or_default() }),
        _ => Plan::Answer(StepResult::Refused(PermitError::Finished)),
    }
}

fn on_key(kind: RecordKind, key: KeyRef<'_>, step: Step, families: &Families) -> Plan {
    // Keys of admissions are checked with the action; those that people name are checked here.
    let length = key.tenant.len() + key.key.len();
    if length > MAX_KEY_BYTES {
        let text = format!("key and tenant have {length} bytes, at most {MAX_KEY_BYTES} are allowed");
        return Plan::Answer(StepResult::Failed(StoreError::NotCommitted(text)));
    }
    match name_of(families, Tag::of(key.tenant), kind, key) {
        Some(name) => Plan::On(name.tag, Planned { step, names: vec![name] }),
        None => Plan::Answer(StepResult::NotFound),
    }
}
