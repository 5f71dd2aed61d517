//! The memory store: typed records under sharded locks, taken in one order, with no runtime, encoding or allocation
//! on the allow path. Durability D0: it ends with the process.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};

use checkrein_core::admission::{self, Admission, Inputs, KeyValue, PermitError, Plan};
use checkrein_core::code::Code;
use checkrein_core::decision::MeterStatus;
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::permit::{Permit, Settlement};
use checkrein_core::policy::{Gate, Limit, RecordKind};
use checkrein_core::time::{Span, Timestamp, Window};
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

mod capacity;
mod keep;
mod shard;
mod slab;
mod table;

use super::PermitId;
use crate::calendar::Calendar;
use capacity::Capacity;
use shard::{Entry, Guards, OpenPermit, PermitRecords, Retention, Shard, StepRecords};
use table::Slot;

const SHARDS: usize = 64;
/// After so many admissions of a shard ...
const SWEEP_EVERY: u32 = 64;
/// ... this many slots are looked at, so that a full round takes two admissions per slot.
const SWEEP_SLOTS: usize = 32;
/// A new key counts as so many admissions: eight slots are looked at for each that is taken, so that keys that come
/// once and never again do not pile up.
const NEW_KEY: u32 = 16;
/// Between two rounds over permits whose lease has ended, at least this much time passes.
const EXPIRE_AGAIN: Span = Span::from_millis(100);
/// At the cap all shards are swept before a key is refused, but not more often than this.
const FULL_SWEEP_EVERY: Span = Span::from_millis(10);

/// A store in this process's memory.
#[derive(Debug)]
pub struct MemoryStore {
    shards: Box<[Mutex<Shard>; SHARDS]>,
    hasher: RandomState,
    capacity: Capacity,
    /// No lease ends before this instant.
    next_due: AtomicI64,
    /// When all shards were swept last because the cap was reached.
    swept_all: AtomicI64,
}

impl MemoryStore {
    /// A store that keeps at most `max_keys` live keys per tenant and gate.
    pub fn new(max_keys: usize) -> Self {
        let shards = Box::new(std::array::from_fn(|_| Mutex::default()));
        let (hasher, next_due) = (RandomState::default(), AtomicI64::new(i64::MAX));
        let swept_all = AtomicI64::new(i64::MIN);
        Self { shards, hasher, capacity: Capacity::new(max_keys), next_due, swept_all }
    }

    #[inline]
    fn hash(&self, key: KeyRef<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.family.0.hash(&mut hasher);
        // With one tenant there is nothing to separate; with several the length keeps the two parts apart.
        if !key.tenant.is_empty() {
            hasher.write_usize(key.tenant.len());
            hasher.write(key.tenant);
        }
        hasher.write(key.key);
        hasher.finish()
    }

    fn shard_of(hash: u64) -> u8 {
        // Bits that neither the table's buckets (low) nor its tags (top seven) use first.
        (hash >> 48) as u8 % SHARDS as u8
    }

    /// Locks the shards of a set of bits, in ascending order: the one order in which shards are ever locked.
    #[inline]
    fn lock<'s>(&'s self, mut wanted: u64, guards: &mut Guards<'s>) {
        while wanted != 0 {
            // A bit's number is below 64.
            let number = wanted.trailing_zeros() as u8;
            if let Some(shard) = self.shards.get(usize::from(number)) {
                guards.push((number, shard.lock()));
            }
            wanted &= wanted - 1;
        }
    }

    #[expect(clippy::indexing_slicing, reason = "a store is made with its shards")]
    fn lock_one(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let number = usize::from(Self::shard_of(hash));
        // There are as many shards as the number can be large.
        self.shards.get(number).unwrap_or(&self.shards[0]).lock()
    }

    /// Tells the store how long records of a family are kept, and by which calendar it counts.
    pub(crate) fn retain(&self, family: Family, window: Window, cooldown: Span, calendar: Option<&Calendar>) {
        for shard in self.shards.iter() {
            let mut shard = shard.lock();
            let number = family.0 as usize;
            if shard.retentions.len() <= number {
                let unused = Retention { window: Window::Lifetime, cooldown: Span::ZERO, calendar: None };
                shard.retentions.resize(number + 1, unused);
            }
            if let Some(kept) = shard.retentions.get_mut(number) {
                let cooldown = kept.cooldown.max(cooldown);
                *kept = Retention { window, cooldown, calendar: calendar.cloned() };
            }
        }
    }

    #[inline(always)]
    fn entry<'a>(&self, gate: &Gate, inputs: &Inputs<'a>) -> Option<Entry<'a>> {
        let (kind, family, slot) = gate.check.record()?;
        let value = match slot {
            Some(slot) => inputs.keys.get(usize::from(slot.0)).copied(),
            None => inputs.once.map(|(key, _)| key),
        };
        let key = match value {
            Some(KeyValue::Bytes(bytes)) => bytes,
            Some(KeyValue::Missing(_)) | None => &[],
        };
        let key = KeyRef { family, tenant: inputs.tenant.as_bytes(), key };
        Some(Entry { kind, key, hash: self.hash(key), guard: 0, slot: None })
    }

    /// Locks the shards of a plan's records and finds them.
    #[inline(always)]
    fn records<'s, 'a>(
        &'s self,
        plan: &Plan<'a>,
        reserve: bool,
    ) -> StepRecords<'s, 'a, impl Fn(KeyRef<'_>) -> u64 + Copy + use<'s, 'a>> {
        let (policy, inputs) = (plan.policy(), plan.inputs());
        let mut entries: SmallVec<[Entry<'a>; 6]> = SmallVec::new();
        let mut wanted = 0_u64;
        for gate in policy.gates() {
            if let Some(entry) = self.entry(gate, inputs) {
                wanted |= 1 << Self::shard_of(entry.hash);
                entries.push(entry);
            }
        }
        let mut guards = Guards::new();
        self.lock(wanted, &mut guards);
        for entry in &mut entries {
            // As many shards are locked before this one as there are lower bits.
            let below = (1_u64 << Self::shard_of(entry.hash)) - 1;
            entry.guard = (wanted & below).count_ones() as u8;
            let shard = guards.get(usize::from(entry.guard));
            entry.slot = shard.and_then(|(_, shard)| shard.find(entry.kind, entry.hash, entry.key));
        }
        let hash_of = |key: KeyRef<'_>| self.hash(key);
        StepRecords { guards, entries, capacity: &self.capacity, hash_of, reserve }
    }

    /// Locks the shard of one record and finds it.
    fn record<'s, 'a>(
        &'s self,
        kind: RecordKind,
        key: KeyRef<'a>,
    ) -> StepRecords<'s, 'a, impl Fn(KeyRef<'_>) -> u64 + Copy + use<'s, 'a>> {
        let hash = self.hash(key);
        let shard = self.lock_one(hash);
        let slot = shard.find(kind, hash, key);
        let (mut guards, mut entries) = (Guards::new(), SmallVec::new());
        guards.push((Self::shard_of(hash), shard));
        entries.push(Entry { kind, key, hash, guard: 0, slot });
        let hash_of = |key: KeyRef<'_>| self.hash(key);
        StepRecords { guards, entries, capacity: &self.capacity, hash_of, reserve: true }
    }

    /// Decides one action and takes what it needs.
    pub fn admit(&self, plan: Plan<'_>, now: Timestamp) -> (Admission, Option<PermitId>) {
        if !plan.is_readable() {
            return (plan.into_refusal(), None);
        }
        let (policy, inputs) = (plan.policy(), plan.inputs());
        let (admission, permit) = self.admit_once(plan, now);
        let full = admission.reasons.iter().any(|reason| reason.code == Code::Capacity);
        if full && self.may_sweep_all(now) {
            self.collect(now);
            return self.admit_once(admission::plan(policy, inputs), now);
        }
        (admission, permit)
    }

    /// Whether a sweep of all shards is due again; whoever is told so does it.
    fn may_sweep_all(&self, now: Timestamp) -> bool {
        let last = self.swept_all.load(Ordering::Relaxed);
        let due = Timestamp::from_nanos(last).after(FULL_SWEEP_EVERY) <= now;
        due && self
            .swept_all
            .compare_exchange(last, now.nanos(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    #[inline(always)]
    fn admit_once(&self, plan: Plan<'_>, now: Timestamp) -> (Admission, Option<PermitId>) {
        let mut records = self.records(&plan, true);
        let (admission, permit) = admission::admit(plan, now, &mut records, false);
        let id = permit.and_then(|permit| {
            self.expect_at(permit.lease_until);
            let places = records.places();
            // The permit lies in the lowest of its records' shards, so that finishing it locks in the same order.
            let (number, shard) = records.guards.first_mut()?;
            let slot = shard.permits.insert(OpenPermit { permit, records: places });
            Some(PermitId { shard: *number, index: slot.index, generation: slot.generation })
        });
        self.sweep_some(&mut records.guards, now);
        (admission, id)
    }

    /// Decides one action without taking anything, and says where its meters stand.
    pub fn peek(&self, plan: Plan<'_>, now: Timestamp) -> (Admission, Vec<MeterStatus>) {
        if !plan.is_readable() {
            return (plan.into_refusal(), Vec::new());
        }
        let mut records = self.records(&plan, false);
        let status = admission::status(&plan, now, &mut records);
        (admission::admit(plan, now, &mut records, true).0, status)
    }

    /// The short way through an admission of one enforced rate limit whose key is live and whose call fits; `false`
    /// leaves everything to the long way.
    #[inline]
    pub(crate) fn admit_call(&self, limit: &Limit, inputs: &Inputs<'_>, now: Timestamp) -> bool {
        let Some(KeyValue::Bytes(key)) = inputs.keys.get(usize::from(limit.key.0)) else { return false };
        let key = KeyRef { family: limit.family, tenant: inputs.tenant.as_bytes(), key };
        let hash = self.hash(key);
        let Some(shard) = self.shards.get(usize::from(Self::shard_of(hash))) else { return false };
        let mut shard = shard.lock();
        let Some(meter) = shard.meters.find_mut(hash, key) else { return false };
        let period_end = inputs.period_ends.first().copied().unwrap_or(Timestamp::MIN);
        let allowed = admission::admit_call(meter, limit, now, period_end);
        self.sweep_shard(&mut shard, now);
        allowed
    }

    #[inline]
    fn sweep_some(&self, guards: &mut Guards<'_>, now: Timestamp) {
        for (_, shard) in guards {
            self.sweep_shard(shard, now);
        }
    }

    #[inline]
    fn sweep_shard(&self, shard: &mut Shard, now: Timestamp) {
        shard.ticks += 1;
        while shard.ticks >= SWEEP_EVERY {
            shard.ticks -= SWEEP_EVERY;
            shard.sweep(SWEEP_SLOTS, now, &self.capacity, |key| self.hash(key));
        }
    }

    /// Removes every idle record and gives memory back; returns how many went.
    pub fn collect(&self, now: Timestamp) -> usize {
        let hash_of = |key: KeyRef<'_>| self.hash(key);
        let sweep = |shard: &Mutex<Shard>| {
            let mut shard = shard.lock();
            let removed = shard.sweep(usize::MAX, now, &self.capacity, hash_of);
            shard.meters.shrink(hash_of);
            shard.breakers.shrink(hash_of);
            shard.operations.shrink(hash_of);
            shard.facts.shrink(hash_of);

            removed
        };
        self.shards.iter().map(sweep).sum()
    }

    /// Runs `step` on an open permit with its shards locked; `step` returns the permit if it stays open, and gets the
    /// ends of the current calendar periods of its holds.
    fn with_permit(
        &self,
        id: PermitId,
        now: Timestamp,
        step: impl FnOnce(&mut Permit, &mut PermitRecords<'_, '_>, &[Timestamp]) -> Result<bool, PermitError>,
    ) -> Result<(), PermitError> {
        let slot = Slot { index: id.index, generation: id.generation };
        let shard = self.shards.get(usize::from(id.shard)).ok_or(PermitError::Finished)?;
        let mut first = shard.lock();
        let mut open = first.permits.lift(slot).ok_or(PermitError::Finished)?;
        let mut guards = Guards::new();
        guards.push((id.shard, first));
        // The permit's own shard is the lowest of its records' shards.
        let shards = open.records.iter().fold(0_u64, |shards, place| shards | 1 << place.shard);
        self.lock(shards & !(1 << id.shard), &mut guards);
        let mut records = PermitRecords { guards, places: &open.records };
        let period_ends = records.period_ends(&open.permit, now);
        let result = step(&mut open.permit, &mut records, &period_ends);
        let stays = *result.as_ref().unwrap_or(&true);
        let PermitRecords { mut guards, .. } = records;
        if let Some((_, shard)) = guards.first_mut() {
            if stays {
                self.expect_at(open.permit.lease_until);
                shard.permits.put_back(slot, open);
            } else {
                shard.permits.free(slot);
            }
        }
        result.map(drop)
    }

    /// Marks a reserved permit's action as started.
    ///
    /// # Errors
    /// The permit is not reserved.
    pub fn start(&self, id: PermitId, now: Timestamp) -> Result<(), PermitError> {
        self.with_permit(id, now, |permit, records, _| admission::start(permit, now, records).map(|()| true))
    }

    /// Gives back everything a reserved permit holds.
    ///
    /// # Errors
    /// The action has started, or the permit is finished.
    pub fn release(&self, id: PermitId, now: Timestamp) -> Result<(), PermitError> {
        self.with_permit(id, now, |permit, records, _| {
            admission::release(permit, now, records).map(|()| false)
        })
    }

    /// Settles everything a permit holds.
    ///
    /// # Errors
    /// The permit is finished, or an amount is negative or does not fit: it stays open then.
    pub fn finish(
        &self,
        id: PermitId,
        settlement: &Settlement<'_>,
        now: Timestamp,
    ) -> Result<(), PermitError> {
        self.with_permit(id, now, |permit, records, period_ends| {
            admission::finish(permit, settlement, period_ends, now, records)
        })
    }

    /// Moves on a permit whose lease has ended.
    ///
    /// # Errors
    /// The permit is finished.
    pub fn expire(&self, id: PermitId, now: Timestamp) -> Result<(), PermitError> {
        self.with_permit(id, now, |permit, records, period_ends| {
            admission::expire(permit, now, period_ends, records)
        })
    }

    /// Moves on every permit whose lease has ended, if one may have; returns how many were moved.
    #[inline]
    pub fn expire_due(&self, now: Timestamp) -> usize {
        if now.nanos() < self.next_due.load(Ordering::Relaxed) { 0 } else { self.expire_all(now) }
    }

    #[cold]
    fn expire_all(&self, now: Timestamp) -> usize {
        // Whoever comes first does the round; leases that begin meanwhile announce themselves again.
        self.next_due.store(i64::MAX, Ordering::Relaxed);
        let due = self.due(now, usize::MAX);
        let moved = due.iter().filter(|&&id| self.expire(id, now).is_ok()).count();
        for shard in self.shards.iter() {
            let next = shard.lock().permits.iter().map(|(_, open)| open.permit.lease_until).min();
            // One that could not be moved on is not tried again by every call that comes by.
            next.into_iter().for_each(|lease| self.expect_at(lease.max(now.after(EXPIRE_AGAIN))));
        }
        moved
    }

    /// Remembers the earliest end of a lease.
    #[inline]
    fn expect_at(&self, lease_until: Timestamp) {
        if lease_until.nanos() < self.next_due.load(Ordering::Relaxed) {
            self.next_due.fetch_min(lease_until.nanos(), Ordering::Relaxed);
        }
    }

    /// At most `limit` permits whose lease ends at or before `before`.
    pub fn due(&self, before: Timestamp, limit: usize) -> Vec<PermitId> {
        let mut due = Vec::new();
        for (shard, number) in self.shards.iter().zip(0..) {
            let shard = shard.lock();
            let late = shard.permits.iter().filter(|(_, open)| open.permit.lease_until <= before);
            let ids =
                late.map(|(Slot { index, generation }, _)| PermitId { shard: number, index, generation });
            due.extend(ids.take(limit - due.len()));
        }
        due
    }
}
