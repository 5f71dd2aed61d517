//! What people and housekeeping do with records outside an admission: look at them, reset, resolve, prove.

use checkrein_core::admission::{self, AdjustError, Adjusted, Adjustment};
use checkrein_core::gate::breaker::{Health, Phase};
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{Operation, OperationState, Run};
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Timestamp, Window};
use parking_lot::Mutex;

use super::MemoryStore;
use super::shard::{OpenPermit, Place, Shard};
use super::table::Slot;
use crate::store::{Cursor, Page, PermitId, RecordInfo, RecordState};

impl MemoryStore {
    /// Ends an operation in doubt: a person or a look-up says what happened. `false` when there is none in doubt.
    pub fn resolve(&self, key: KeyRef<'_>, run: Option<Run>, state: OperationState, now: Timestamp) -> bool {
        let outcome = match state {
            OperationState::FailedClean => Outcome::FailedClean,
            _ => Outcome::Done(None),
        };
        let hash = self.hash(key);
        let mut shard = self.lock_one(hash);
        let Some(slot) = shard.operations.find(hash, key) else { return false };
        let Some(operation) = shard.operations.get_mut(slot).and_then(Option::as_mut) else { return false };
        let of = operation.run();
        let resolved = operation.resolve(run, state, now);
        drop(shard);
        if resolved {
            // What became of it is known, and so is its cost: what its permit holds is released, or settled in full.
            let place = Place { family: key.family, shard: Self::shard_of(hash), slot };
            for id in self.permits_of(place, of) {
                // Its lease may end at the same moment; then there is nothing left to settle.
                let _ = self.finish(id, &Settlement::new(outcome.clone(), Health::Neutral), now);
            }
        }
        resolved
    }

    fn permits_of(&self, operation: Place, run: Run) -> Vec<PermitId> {
        let mut found = Vec::new();
        for (shard, number) in self.shards.iter().zip(0..) {
            let shard = shard.lock();
            let of_run = |open: &OpenPermit| {
                open.permit.operation.is_some_and(|(at, of)| {
                    of == run && open.records.get(usize::from(at)) == Some(&operation)
                })
            };
            let ids = shard.permits.iter().filter(|(_, open)| of_run(open));
            found.extend(ids.map(|(Slot { index, generation }, _)| PermitId {
                shard: number,
                index,
                generation,
            }));
        }
        found
    }

    /// Records a proved value.
    pub fn prove(&self, key: KeyRef<'_>, fact: Fact) -> bool {
        let hash = self.hash(key);
        let mut shard = self.lock_one(hash);
        match shard.facts.find(hash, key) {
            Some(slot) => {
                if let Some(known) = shard.facts.get_mut(slot) {
                    (known.proved, known.expires) = (fact.proved, known.expires.max(fact.expires));
                }
            }
            None if !self.capacity.take(key) => return false,
            None => {
                shard.facts.insert(key, fact, |key| self.hash(key));
            }
        }
        true
    }

    /// Forgets what a meter spent, or closes a breaker; what is held stays held. `false` when there is no record.
    pub fn reset(&self, kind: RecordKind, key: KeyRef<'_>) -> bool {
        let hash = self.hash(key);
        let mut shard = self.lock_one(hash);
        shard.find(kind, hash, key).is_some_and(|slot| reset_slot(&mut shard, kind, slot))
    }

    /// Changes the limit of a budget's meter, which is made if need be.
    ///
    /// # Errors
    /// A change that cannot be kept; nothing was changed then.
    pub fn adjust(
        &self,
        key: KeyRef<'_>,
        adjustment: &Adjustment,
        now: Timestamp,
    ) -> Result<Adjusted, AdjustError> {
        let mut records = self.record(RecordKind::Meter, key);
        let kept = records.guards.first().and_then(|(_, shard)| shard.retentions.get(key.family.0 as usize));
        let (window, calendar) =
            kept.map_or((Window::Lifetime, None), |kept| (kept.window, kept.calendar.clone()));
        let period_end = calendar.map_or(Timestamp::MIN, |calendar| calendar.period_end(now));
        admission::adjust(adjustment, window, period_end, now, &mut records)
    }

    /// Resets every record of a family; returns how many.
    pub fn reset_all(&self, kind: RecordKind, family: Family) -> usize {
        let reset = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock();
            let slots = match kind {
                RecordKind::Meter => shard.meters.slots_of(family),
                RecordKind::Breaker => shard.breakers.slots_of(family),
                RecordKind::Operation | RecordKind::Fact | RecordKind::Permit => Vec::new(),
            };
            slots.into_iter().filter(|slot| reset_slot(&mut shard, kind, *slot)).count()
        };
        self.shards.iter().map(reset).sum()
    }

    /// At most `limit` records of a kind after `after`, with the cursor to go on from; `None` at the end.
    pub fn scan(&self, kind: RecordKind, after: Cursor, limit: usize, now: Timestamp) -> Page {
        let mut found = Vec::new();
        for (number, shard) in self.shards.iter().enumerate().skip(after.shard) {
            let skip = if number == after.shard { after.offset } else { 0 };
            let records = shard_records(&shard.lock(), kind, now);
            let taken = found.len();
            found.extend(records.into_iter().skip(skip).take(limit - taken));
            if found.len() >= limit {
                return (found, Some(Cursor { shard: number, offset: skip + limit - taken, after: None }));
            }
        }
        (found, None)
    }

    /// Records of a kind, idle ones that no sweep has reached yet included.
    pub fn usage_of(&self, kind: RecordKind) -> usize {
        let of = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            match kind {
                RecordKind::Meter => shard.meters.len(),
                RecordKind::Breaker => shard.breakers.len(),
                RecordKind::Operation => shard.operations.len(),
                RecordKind::Fact => shard.facts.len(),
                RecordKind::Permit => shard.permits.len(),
            }
        };
        self.shards.iter().map(of).sum()
    }

    /// Live records of all kinds, and the bytes they take.
    pub fn usage(&self) -> (usize, usize) {
        let of = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            let heap: usize = shard.meters.entries().map(|entry| entry.record.heap_bytes()).sum();
            let live = shard.meters.len() + shard.breakers.len() + shard.operations.len() + shard.facts.len();
            let bytes = shard.meters.bytes() + shard.breakers.bytes() + shard.operations.bytes();
            (live + shard.permits.len(), heap + bytes + shard.facts.bytes() + shard.permits.bytes())
        };
        self.shards.iter().map(of).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }
}

fn reset_slot(shard: &mut Shard, kind: RecordKind, slot: Slot) -> bool {
    match kind {
        RecordKind::Meter => shard.meters.get_mut(slot).map(|meter| meter.reset()).is_some(),
        RecordKind::Breaker => shard.breakers.get_mut(slot).map(|breaker| breaker.reset()).is_some(),
        RecordKind::Operation | RecordKind::Fact | RecordKind::Permit => false,
    }
}

fn shard_records(shard: &Shard, kind: RecordKind, now: Timestamp) -> Vec<RecordInfo> {
    let info = |key: KeyRef<'_>, state| RecordInfo { key: Key::new(key), state };
    match kind {
        RecordKind::Meter => {
            let retentions = &shard.retentions;
            let entries = shard.meters.entries().map(|entry| {
                let window = retentions.get(entry.key().family.0 as usize).map(|kept| kept.window);
                let window = window.unwrap_or(Window::Lifetime);
                info(entry.key(), RecordState::of_meter(&entry.record, window, now))
            });
            entries.collect()
        }
        RecordKind::Breaker => {
            let state = |phase: &Phase| RecordState::Breaker { phase: phase.clone() };
            shard.breakers.entries().map(|e| info(e.key(), state(e.record.phase()))).collect()
        }
        RecordKind::Operation => {
            let state = |op: &Operation| RecordState::Operation {
                state: op.state().clone(),
                since: op.since(),
                run: op.run(),
            };
            let entries = shard.operations.entries();
            entries.filter_map(|e| Some(info(e.key(), state(e.record.as_ref()?)))).collect()
        }
        RecordKind::Fact => {
            shard.facts.entries().map(|e| info(e.key(), RecordState::Fact(e.record))).collect()
        }
        RecordKind::Permit => {
            let state = |open: &OpenPermit| RecordState::Permit {
                phase: open.permit.phase,
                lease_until: open.permit.lease_until,
            };
            let named = shard.permits.iter().map(|(slot, open)| {
                let name = (u64::from(slot.generation) << 32 | u64::from(slot.index)).to_be_bytes();
                info(KeyRef { family: Family(u32::MAX), tenant: b"", key: &name }, state(open))
            });
            named.collect()
        }
    }
}
