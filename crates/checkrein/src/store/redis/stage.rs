//! Steps on the records of one key set, in memory: what they come to counts once the server has taken it.

use std::sync::Arc;

use checkrein_core::admission::{
    self, AdjustError, Adjusted, Adjustment, Admission, Inputs, PermitError, Plan, Records,
};
use checkrein_core::code::Code;
use checkrein_core::gate::breaker::{Breaker, Health};
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{Operation, OperationState, Run};
use checkrein_core::key::KeyRef;
use checkrein_core::ledger::entry::{By, Ending};
use checkrein_core::meter::Meter;
use checkrein_core::permit::{Outcome, Permit, Settlement};
use checkrein_core::policy::{Check, Policy, RecordKind};
use checkrein_core::time::{Now, Timestamp, Window};
use smallvec::SmallVec;

use super::families::Families;
use super::job::{Planned, record_of};
use super::link::Standing;
use super::name::Tag;
use super::record::{Name, Open, Rec, Value};
use crate::engine::CompiledPolicy;
use crate::ledger::Drafts;
use crate::store::durable::{Decided, Told, adjusted_fields, bare_permit, ending_of, told_of_expiry};
use crate::store::{OwnedInputs, OwnedSettlement, PermitId, Step, StepResult};

pub(super) const REPLICATED: &str = "the Redis server is replicated, and a failover loses what it acknowledged last: \
     once keys and hard budgets are refused unless accept_failover_loss is set";

/// What is said while nobody has accepted the server, with the command that accepts it.
fn changed(prefix: &str) -> String {
    format!(
        "safe mode: the Redis server is not the one that was accepted, or has started again, and may have lost what it \
         acknowledged; once keys and hard budgets are refused until somebody who has looked says that it is all there, with \
         `checkrein doctor --prefix {prefix} --accept-epoch`"
    )
}

/// What steps need besides records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) prefix: &'a str,
    pub(super) tag: Tag,
    pub(super) now: Now,
    pub(super) families: &'a Families,
    pub(super) standing: Standing,
    pub(super) accept_failover_loss: bool,
    /// What writes drafts, where a ledger is kept.
    pub(super) drafts: Option<&'a Drafts>,
}

/// The records of a key set, and what has been done to them.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) records: &'a mut Vec<Rec>,
    /// Indexes that are full, by kind and family: nothing new is made in them.
    pub(super) full: &'a [Name],
    /// Permits that were made: their numbers and the ends of their leases.
    pub(super) opened: Vec<(u64, Timestamp)>,
    /// Permits whose lease is another one, and those that ended.
    pub(super) moved: Vec<(u64, Option<Timestamp>)>,
    /// What the host's ledger is told by the commit itself.
    pub(super) told: Vec<Vec<u8>>,
    /// Decisions that change nothing on the server: the host writes them down by itself.
    pub(super) decided: Vec<Decided>,
}

/// The records of one step, as the core sees them.
pub(super) struct Places<'a> {
    records: &'a mut Vec<Rec>,
    places: &'a [usize],
    full: &'a [Name],
}

impl Places<'_> {
    fn value(&mut self, index: usize) -> Option<&mut Value> {
        self.records.get_mut(*self.places.get(index)?)?.value.as_mut()
    }

    fn make(&mut self, index: usize, value: Value) {
        let record = self.places.get(index).and_then(|place| self.records.get_mut(*place));
        if let Some(record) = record {
            record.is_new |= record.value.is_none();
            record.value = Some(value);
        }
    }

    /// Says of every record that a permit may have changed that it has been.
    fn mark(&mut self) {
        for place in self.places {
            if let Some(record) = self.records.get_mut(*place) {
                record.dirty |= record.value.as_ref().is_some_and(|value| !matches!(value, Value::Fact(_)));
            }
        }
    }
}

impl Records for Places<'_> {
    fn meter(&mut self, index: usize) -> Option<&mut Meter> {
        match self.value(index)? {
            Value::Meter(meter) => Some(meter),
            _ => None,
        }
    }

    fn breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        match self.value(index)? {
            Value::Breaker(breaker) => Some(breaker),
            _ => None,
        }
    }

    fn operation(&mut self, index: usize) -> Option<&mut Operation> {
        match self.value(index)? {
            Value::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    fn fact(&mut self, index: usize) -> Option<&mut Fact> {
        match self.value(index)? {
            Value::Fact(fact) => Some(fact),
            _ => None,
        }
    }

    fn has_room(&mut self) -> bool {
        self.places.iter().filter_map(|place| self.records.get(*place)).all(|record| {
            let same = |full: &Name| full.kind == record.name.kind && full.family == record.name.family;
            record.value.is_some()
                || matches!(record.name.kind, RecordKind::Fact)
                || !self.full.iter().any(same)
        })
    }

    fn make_meter(&mut self, index: usize) -> Option<&mut Meter> {
        if self.value(index).is_none() {
            self.make(index, Value::Meter(Meter::new()));
        }
        self.meter(index)
    }

    fn make_breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        if self.value(index).is_none() {
            self.make(index, Value::Breaker(Breaker::default()));
        }
        self.breaker(index)
    }

    fn put_operation(&mut self, index: usize, operation: Operation) {
        self.make(index, Value::Operation(operation));
    }
}

impl<'a> Stage<'a> {
    /// Does one step on its records. `number` gives the number of a new permit.
    pub(super) fn step(
        &mut self,
        planned: &Planned,
        places: &[usize],
        number: &mut dyn FnMut() -> u64,
    ) -> StepResult {
        let done = |done: bool| if done { StepResult::Done } else { StepResult::NotFound };
        let now = self.setting.now;
        match &planned.step {
            Step::Admit(policy, inputs) => self.admit(policy, inputs, places, number),
            Step::Peek(policy, inputs) => self.peek(policy, inputs, places),
            Step::Start(_) => self.with_permit(places, None, |permit, records, _| {
                admission::start(permit, now, records).map(|()| true)
            }),
            Step::Release(_) => {
                let told = Told::new(Ending::FailedClean, By::Caller).note("it was not started");
                self.with_permit(places, Some(told), |permit, records, _| {
                    admission::release(permit, now, records).map(|()| false)
                })
            }
            Step::Finish(_, settlement) => {
                let OwnedSettlement { outcome, health, actual } = settlement;
                let told = Told::new(ending_of(outcome), By::Caller).with(*health, actual);
                self.finish(places, settlement, told)
            }
            Step::Expire(_) => self.expire(places),
            Step::Resolve(key, run, state) => done(self.resolve(places, key.borrow(), *run, state)),
            // Only a ledger has a place for it.
            Step::Note(..) => StepResult::Done,
            Step::Prove(key, fact) => done(self.prove(places, key.borrow(), *fact)),
            Step::Reset(_, key) => done(self.reset(places, key.borrow())),
            Step::Adjust(key, adjustment) => self
                .adjust(places, key.borrow(), adjustment)
                .map_or_else(StepResult::NotAdjusted, StepResult::Adjusted),
        }
    }

    pub(super) fn places<'b>(&'b mut self, places: &'b [usize]) -> Places<'b> {
        Places { records: self.records, places, full: self.full }
    }

    fn admit(
        &mut self,
        policy: &Arc<CompiledPolicy>,
        owned: &OwnedInputs,
        places: &[usize],
        number: &mut dyn FnMut() -> u64,
    ) -> StepResult {
        if let Some(refusal) = self.distrust(policy) {
            self.note_decided(policy, owned, &refusal, Vec::new());
            return StepResult::Admitted(refusal, None);
        }
        let now = self.setting.now;
        owned.with(&policy.period_ends(now.earliest), |inputs| {
            let plan = admission::plan(policy.policy(), inputs);
            self.name_records(&plan, places);
            let mut records = self.places(places);
            let (admission, permit) = admission::admit(plan, now, &mut records, false);
            let broken = admission.reasons.iter().any(|reason| reason.code == Code::InvariantBroken);
            if admission.verdict == admission::Verdict::Allow || broken {
                records.mark();
            }
            let permit = permit.or_else(|| {
                let allowed = admission.verdict == admission::Verdict::Allow;
                let tracked = self.setting.drafts.is_some() && inputs.start && inputs.action.is_some();
                (allowed && tracked).then(|| bare_permit(policy, now.latest))
            });
            let permit = permit.map(|permit| self.open(permit, places, number()));
            self.note_admission(policy, owned, inputs, places, &admission, permit);
            StepResult::Admitted(admission, permit)
        })
    }

    fn peek(&mut self, policy: &CompiledPolicy, inputs: &OwnedInputs, places: &[usize]) -> StepResult {
        let refusal = self.distrust(policy);
        let now = self.setting.now;
        inputs.with(&policy.period_ends(now.earliest), |inputs| {
            let plan = admission::plan(policy.policy(), inputs);
            let mut records = self.places(places);
            let status = admission::status(&plan, now, &mut records);
            let admission = admission::admit(plan, now, &mut records, true).0;
            StepResult::Peeked(refusal.unwrap_or(admission), status)
        })
    }

    /// Why nothing that must not be lost is decided on this server now.
    fn distrust(&self, policy: &CompiledPolicy) -> Option<Admission> {
        let Setting { standing, accept_failover_loss, .. } = self.setting;
        if (standing.accepted && (!standing.replicated || accept_failover_loss))
            || !must_last(policy.policy())
        {
            return None;
        }
        let text = if standing.accepted { REPLICATED.to_owned() } else { changed(self.setting.prefix) };
        Some(Admission::store_error(Code::StoreError, &text))
    }

    /// Writes into records that do not exist yet what they are named by.
    fn name_records(&mut self, plan: &Plan<'_>, places: &[usize]) {
        let names = plan.policy().gates().iter().filter_map(|gate| record_of(gate, plan.inputs()));
        for (place, (_, key)) in places.iter().zip(names) {
            if let Some(record) = self.records.get_mut(*place) {
                record.name_by(key);
            }
        }
    }

    fn open(&mut self, permit: Permit, places: &[usize], number: u64) -> PermitId {
        let names = places.iter().filter_map(|place| self.records.get(*place)).map(|record| record.name);
        let host = self.setting.drafts.map(Drafts::host);
        // What settles nothing is there for the ledger only, and has no records to settle on.
        let light = permit.holds.is_empty() && permit.breakers.is_empty() && permit.operation.is_none();
        let names = names.filter(|_| !light || host.is_none());
        let open = Open { records: names.collect(), host, permit };
        if let Some((at, _)) = open.permit.operation
            && let Some(operation) =
                places.get(usize::from(at)).and_then(|place| self.records.get_mut(*place))
        {
            operation.permit = number;
        }
        self.opened.push((number, open.permit.lease_until));
        let mut record = Rec::absent(Name::permit(self.setting.tag, number), self.setting.prefix);
        (record.value, record.dirty) = (Some(Value::Permit(open)), true);
        self.records.push(record);
        PermitId::from_number(number).with_light(light && host.is_some())
    }

    fn finish(&mut self, places: &[usize], settlement: &OwnedSettlement, told: Told<'_>) -> StepResult {
        let OwnedSettlement { outcome, health, actual } = settlement;
        let settlement = Settlement { outcome: outcome.clone(), health: *health, actual };
        let now = self.setting.now;
        self.with_permit(places, Some(told), |permit, records, ends| {
            admission::finish(permit, &settlement, ends, now, records)
        })
    }

    fn expire(&mut self, places: &[usize]) -> StepResult {
        let now = self.setting.now;
        let record = places.first().and_then(|place| self.records.get(*place));
        let told = match record.and_then(|record| record.value.as_ref()) {
            Some(Value::Permit(open)) if now.earliest < open.permit.lease_until => return StepResult::Done,
            Some(Value::Permit(open)) => Some(told_of_expiry(open.permit.phase, By::Lease)),
            _ => None,
        };
        self.with_permit(places, told, |permit, records, ends| admission::expire(permit, now, ends, records))
    }

    /// Runs `step` on a permit and its records, the first of `places` and those after it; `step` says whether the permit
    /// stays open.
    fn with_permit(
        &mut self,
        places: &[usize],
        told: Option<Told<'_>>,
        step: impl FnOnce(&mut Permit, &mut Places<'_>, &[Timestamp]) -> Result<bool, PermitError>,
    ) -> StepResult {
        let Some((&at, places)) = places.split_first() else {
            return StepResult::Refused(PermitError::Finished);
        };
        let Some(Value::Permit(open)) = self.records.get(at).and_then(|record| record.value.as_ref()) else {
            return StepResult::Refused(PermitError::Finished);
        };
        let mut open = open.clone();
        let ends = self.period_ends(&open);
        let mut records = self.places(places);
        let result = step(&mut open.permit, &mut records, &ends);
        if matches!(result, Ok(_) | Err(PermitError::Meter(_))) {
            // A refused settlement changes nothing, but a meter whose books do not balance has been closed.
            records.mark();
        }
        let stays = match result {
            Err(error) => return StepResult::Refused(error),
            Ok(stays) => stays,
        };
        let Some(record) = self.records.get_mut(at) else { return StepResult::NotFound };
        let (number, host) = (record.name.record as u64, open.host);
        self.moved.push((number, stays.then_some(open.permit.lease_until)));
        record.value = stays.then_some(Value::Permit(open));
        record.dirty = true;
        if let Some(told) = told {
            self.note_outcome(number, host, told);
        }
        StepResult::Done
    }

    /// The ends of the current calendar periods of a permit's holds.
    fn period_ends(&self, open: &Open) -> SmallVec<[Timestamp; 2]> {
        if open.permit.holds.iter().all(|hold| hold.window != Window::Period) {
            return SmallVec::new();
        }
        let end = |record: u8| {
            let name = open.records.get(usize::from(record))?;
            let (_, known) = self.setting.families.by_digest(name.family)?;
            known.calendar.as_ref().map(|calendar| calendar.period_end(self.setting.now.earliest))
        };
        open.permit.holds.iter().map(|hold| end(hold.record).unwrap_or(Timestamp::MIN)).collect()
    }

    /// Ends an operation in doubt, the first of `places`, and settles what its permit, the second, holds.
    fn resolve(
        &mut self,
        places: &[usize],
        key: KeyRef<'_>,
        run: Option<Run>,
        state: &OperationState,
    ) -> bool {
        let Some((&at, places)) = places.split_first() else { return false };
        let now = self.setting.now;
        let record = self.records.get_mut(at);
        let Some(Value::Operation(operation)) = record.and_then(|record| record.value.as_mut()) else {
            return false;
        };
        let of = operation.run();
        if !operation.resolve(run, state.clone(), now.latest) {
            return false;
        }
        if let Some(record) = self.records.get_mut(at) {
            record.dirty = true;
        }
        let permit = places.first().and_then(|place| self.records.get(*place));
        let of_run = permit.is_some_and(|permit| match &permit.value {
            Some(Value::Permit(open)) => open.permit.operation.is_some_and(|(_, run)| run == of),
            _ => false,
        });
        if of_run {
            let outcome = match state {
                OperationState::FailedClean => Outcome::FailedClean,
                _ => Outcome::Done(None),
            };
            let settlement = OwnedSettlement { outcome, health: Health::Neutral, actual: Vec::new() };
            let by = if run.is_some() { By::Reconcile } else { By::Person };
            let told = Told::new(ending_of(&settlement.outcome), by).note("resolved");
            // What it holds ends with the lease if it cannot be settled here.
            self.finish(places, &settlement, told);
        }
        self.note_event(at, key, "resolved", &[("state", state.name())]);
        true
    }

    fn prove(&mut self, places: &[usize], key: KeyRef<'_>, fact: Fact) -> bool {
        let (full, now) = (self.full, self.setting.now);
        // How long it holds is the caller's to say; from when on, the server's clock.
        let keep = fact.expires.since(fact.proved);
        // The ledger is its host's, which numbers the entry later.
        let fact = Fact { proved: now.latest, expires: now.earliest.after(keep), entry: None };
        let Some(&at) = places.first() else { return false };
        let Some(record) = self.records.get_mut(at) else { return false };
        match &mut record.value {
            Some(Value::Fact(known)) => known.expires = known.expires.max(fact.expires),
            _ if full.iter().any(|full| full.family == record.name.family) => return false,
            _ => {
                record.name_by(key);
                (record.value, record.is_new) = (Some(Value::Fact(fact)), true);
            }
        }
        record.dirty = true;
        self.note_proved(at, key);
        true
    }

    fn adjust(
        &mut self,
        places: &[usize],
        key: KeyRef<'_>,
        adjustment: &Adjustment,
    ) -> Result<Adjusted, AdjustError> {
        let (families, now) = (self.setting.families, self.setting.now);
        let known = families.get(key.family);
        let (window, unit) = known.map_or((Window::Lifetime, None), |known| (known.window(), known.key.unit));
        let calendar = known.and_then(|known| known.calendar.as_ref());
        let period_end = calendar.map_or(Timestamp::MIN, |calendar| calendar.period_end(now.earliest));
        let mut records = self.places(places);
        let adjusted = admission::adjust(adjustment, window, period_end, now, &mut records)?;
        records.mark();
        if let Some(&at) = places.first() {
            if let Some(record) = self.records.get_mut(at) {
                record.name_by(key);
            }
            let told = adjusted_fields(adjustment, &adjusted, unit);
            let told: Vec<(&str, &str)> = told.iter().map(|(name, value)| (*name, value.as_str())).collect();
            self.note_event(at, key, "adjusted", &told);
        }
        Ok(adjusted)
    }

    fn reset(&mut self, places: &[usize], key: KeyRef<'_>) -> bool {
        let Some(&at) = places.first() else { return false };
        let Some(record) = self.records.get_mut(at) else { return false };
        match &mut record.value {
            Some(Value::Meter(meter)) => meter.reset(),
            Some(Value::Breaker(breaker)) => breaker.reset(),
            _ => return false,
        }
        record.dirty = true;
        self.note_event(at, key, "reset", &[]);
        true
    }
}

/// Whether a decision by this policy must not be forgotten by a server that takes another's place.
pub(super) fn must_last(policy: &Policy) -> bool {
    policy.gates().iter().any(|gate| match &gate.check {
        Check::Once(_) => true,
        Check::Budget(budget) => budget.hard,
        _ => false,
    })
}

/// The keys that a plan names must be readable before there is anything to look for.
pub(super) fn refusal_of(policy: &CompiledPolicy, inputs: &Inputs<'_>) -> Option<Admission> {
    let plan = admission::plan(policy.policy(), inputs);
    if plan.is_readable() { None } else { Some(plan.into_refusal()) }
}
