//! Admissions: find the records, let the core decide, keep the permit.

use checkrein_core::admission::{self, Admission, Inputs, KeyValue, Plan, Verdict};
use checkrein_core::code::Code;
use checkrein_core::decision::MeterStatus;
use checkrein_core::key::KeyRef;
use checkrein_core::permit::{Permit, PermitPhase};
use checkrein_core::policy::{Gate, RecordKind};
use checkrein_core::time::Timestamp;
use smallvec::SmallVec;

use super::cache::{Value, table_of};
use super::permits::OpenPermit;
use super::records::{Place, StepRecords};
use super::row::{number_key, write_key};
use super::{Durable, Table, Tables};
use crate::engine::CompiledPolicy;
use crate::store::{OwnedInputs, PermitId, StepResult, StoreError};
use crate::testing::planted::{Bug, is_planted};

pub(super) type Places = SmallVec<[Place; 6]>;

impl Durable {
    pub(super) fn admit(
        &mut self,
        tables: &mut impl Tables,
        policy: &CompiledPolicy,
        inputs: &OwnedInputs,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        inputs.with(&policy.period_ends(now), |inputs| {
            let (admission, permit) = self.admit_plan(tables, policy, inputs, now)?;
            Ok(StepResult::Admitted(admission, permit))
        })
    }

    fn admit_plan(
        &mut self,
        tables: &mut impl Tables,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        now: Timestamp,
    ) -> Result<(Admission, Option<PermitId>), StoreError> {
        let plan = admission::plan(policy.policy(), inputs);
        if !plan.is_readable() {
            let admission = plan.into_refusal();
            self.note_decision(tables, now, policy, inputs, &admission, &[], None)?;
            return Ok((admission, None));
        }
        let mut places = self.places(tables, &plan)?;
        let (mut admission, mut permit) = self.decide(plan, &places, now);
        let full = |admission: &Admission| admission.reasons.iter().any(|r| r.code == Code::Capacity);
        if full(&admission) && self.sweep_all(tables, now)? > 0 {
            let plan = admission::plan(policy.policy(), inputs);
            places = self.places(tables, &plan)?;
            (admission, permit) = self.decide(plan, &places, now);
        }
        let Some(_) = self.options.ledger else {
            let permit = permit.map(|permit| self.keep_permit(permit, &places, None));
            return Ok((admission, permit));
        };
        let permit = permit.or_else(|| {
            let tracked = admission.verdict == Verdict::Allow && inputs.start && inputs.action.is_some();
            tracked.then(|| bare_permit(policy, now))
        });
        let meters = self.standing(policy, inputs, &places, now);
        let number = permit.as_ref().map(|_| self.head.next_permit);
        let intent = self.note_decision(tables, now, policy, inputs, &admission, &meters, number)?;
        let permit = permit.map(|permit| self.keep_permit(permit, &places, intent));
        Ok((admission, permit))
    }

    /// Where the meters of a decision stand after it.
    fn standing(
        &mut self,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        places: &[Place],
        now: Timestamp,
    ) -> Vec<MeterStatus> {
        let max_keys = self.options.max_keys as u64;
        let mut records = StepRecords { cache: &mut self.cache, places, max_keys };
        admission::status(&admission::plan(policy.policy(), inputs), now, &mut records)
    }

    /// Lets the core decide, and remembers what it changed.
    fn decide(&mut self, plan: Plan<'_>, places: &[Place], now: Timestamp) -> (Admission, Option<Permit>) {
        let max_keys = self.options.max_keys as u64;
        let mut records = StepRecords { cache: &mut self.cache, places, max_keys };
        if is_planted(Bug::RunInDoubt) {
            records.clear_doubts(now);
        }
        let (admission, permit) = admission::admit(plan, now, &mut records, false);
        let broken = admission.reasons.iter().any(|reason| reason.code == Code::InvariantBroken);
        if admission.verdict == Verdict::Allow && is_planted(Bug::ForgetProbe) {
            records.mark_meters();
        } else if admission.verdict == Verdict::Allow || broken {
            records.mark();
        }
        (admission, permit)
    }

    pub(super) fn peek(
        &mut self,
        tables: &mut impl Tables,
        policy: &CompiledPolicy,
        inputs: &OwnedInputs,
        now: Timestamp,
    ) -> Result<StepResult, StoreError> {
        inputs.with(&policy.period_ends(now), |inputs| {
            let plan = admission::plan(policy.policy(), inputs);
            if !plan.is_readable() {
                return Ok(StepResult::Peeked(plan.into_refusal(), Vec::new()));
            }
            let places = self.places(tables, &plan)?;
            let max_keys = self.options.max_keys as u64;
            let mut records = StepRecords { cache: &mut self.cache, places: &places, max_keys };
            let status = admission::status(&plan, now, &mut records);
            Ok(StepResult::Peeked(admission::admit(plan, now, &mut records, true).0, status))
        })
    }

    /// Finds the records of a plan, in the order of its gates.
    fn places(&mut self, tables: &mut impl Tables, plan: &Plan<'_>) -> Result<Places, StoreError> {
        let mut places = Places::new();
        let mut key = Vec::with_capacity(64);
        for gate in plan.policy().gates() {
            let Some((kind, name)) = name_of(gate, plan.inputs()) else { continue };
            key.clear();
            write_key(name, &mut key);
            let record = self.cache.load(tables, table_of(kind), &key)?;
            let missing = self.cache.value(record).is_none();
            let usage = if missing && kind != RecordKind::Fact {
                key.truncate(6 + name.tenant.len());
                Some(self.cache.load(tables, Table::Usage, &key)?)
            } else {
                None
            };
            places.push(Place { record, usage });
        }
        Ok(places)
    }

    fn keep_permit(&mut self, permit: Permit, places: &[Place], intent: Option<u64>) -> PermitId {
        let number = self.head.next_permit;
        if !is_planted(Bug::ReusePermit) {
            self.head.next_permit += 1;
        }
        let record = |place: &Place| {
            let cached = self.cache.get(place.record)?;
            Some((cached.table, cached.key.clone()))
        };
        let records = places.iter().filter_map(record).collect();
        self.due.insert((permit.lease_until, number));
        let light = permit.holds.is_empty() && permit.breakers.is_empty() && permit.operation.is_none();
        // What settles nothing has no records to settle on.
        let records = if light { Vec::new() } else { records };
        let open = OpenPermit { epoch: self.epoch, intent, records, permit };
        let slot = self.cache.fresh(Table::Permit, &number_key(number));
        self.cache.put(slot, Some(Value::Permit(open)));
        PermitId::from_number(number).with_light(light)
    }
}

/// The record of a gate for an action.
fn name_of<'a>(gate: &Gate, inputs: &Inputs<'a>) -> Option<(RecordKind, KeyRef<'a>)> {
    let (kind, family, slot) = gate.check.record()?;
    let value = match slot {
        Some(slot) => inputs.keys.get(usize::from(slot.0)).copied(),
        None => inputs.once.map(|(key, _)| key),
    };
    let key = match value {
        Some(KeyValue::Bytes(bytes)) => bytes,
        Some(KeyValue::Missing(_)) | None => &[],
    };
    let shared = kind == RecordKind::Operation && is_planted(Bug::ShareTenants);
    let tenant = if shared { b"" } else { inputs.tenant.as_bytes() };
    Some((kind, KeyRef { family, tenant, key }))
}

/// The permit of an action that settles nothing: its outcome goes into the ledger.
pub(in crate::store) fn bare_permit(policy: &CompiledPolicy, now: Timestamp) -> Permit {
    let leases = policy.policy().leases();
    Permit {
        phase: PermitPhase::Started,
        lease_until: now.after(leases.started),
        leases,
        holds: SmallVec::new(),
        breakers: SmallVec::new(),
        operation: None,
    }
}
