//! One shard: the tables behind one lock, and how the core sees the records of a step across several shards.

use checkrein_core::admission::Records;
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::key::{Family, KeyRef};
use checkrein_core::meter::Meter;
use checkrein_core::permit::Permit;
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Span, Timestamp, Window};
use parking_lot::MutexGuard;

use smallvec::SmallVec;

use super::capacity::Capacity;
use super::slab::Slab;
use super::table::{Slot, Table, Vacant};
use crate::calendar::Calendar;

/// How long records of a family are kept: the largest window and cooldown that any policy gave it.
#[derive(Clone, Debug)]
pub(super) struct Retention {
    pub(super) window: Window,
    pub(super) cooldown: Span,
    pub(super) calendar: Option<Calendar>,
}

/// A permit and where its records lie.
#[derive(Debug)]
pub(super) struct OpenPermit {
    pub(super) permit: Permit,
    pub(super) records: SmallVec<[Place; 6]>,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) shard: u8,
    pub(super) slot: Slot,
}

impl Vacant for Meter {
    fn vacant() -> Self {
        Self::new()
    }
}

impl Vacant for Breaker {
    fn vacant() -> Self {
        Self::default()
    }
}

impl Vacant for Option<Operation> {
    fn vacant() -> Self {
        None
    }
}

impl Vacant for Fact {
    fn vacant() -> Self {
        Self { proved: Timestamp::MIN, expires: Timestamp::MIN, entry: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) meters: Table<Meter>,
    pub(super) breakers: Table<Breaker>,
    pub(super) operations: Table<Option<Operation>>,
    pub(super) facts: Table<Fact>,
    pub(super) permits: Slab<OpenPermit>,
    pub(super) retentions: Vec<Retention>,
    pub(super) ticks: u32,
}

impl Shard {
    pub(super) fn find(&self, kind: RecordKind, hash: u64, key: KeyRef<'_>) -> Option<Slot> {
        match kind {
            RecordKind::Meter => self.meters.find(hash, key),
            RecordKind::Breaker => self.breakers.find(hash, key),
            RecordKind::Operation => self.operations.find(hash, key),
            RecordKind::Fact => self.facts.find(hash, key),
            RecordKind::Permit => None,
        }
    }

    /// Sweeps `count` slots of each table. What is idle at `now` goes.
    pub(super) fn sweep(
        &mut self,
        count: usize,
        now: Timestamp,
        capacity: &Capacity,
        hash_of: impl Fn(KeyRef<'_>) -> u64 + Copy,
    ) -> usize {
        let retentions = &self.retentions;
        let gone = |key: KeyRef<'_>| capacity.give_back(key);
        let idle_meter = |key: KeyRef<'_>, meter: &mut Meter| {
            let kept = retentions.get(key.family.0 as usize);
            kept.is_some_and(|kept| meter.expires(kept.window, kept.cooldown) <= now)
        };
        let idle_operation = |_: KeyRef<'_>, operation: &mut Option<Operation>| {
            let Some(operation) = operation else { return true };
            operation.prune(now);
            operation.expires() <= now
        };
        self.meters.sweep(count, idle_meter, gone, hash_of)
            + self.breakers.sweep(count, |_, breaker| breaker.expires() <= now, gone, hash_of)
            + self.operations.sweep(count, idle_operation, gone, hash_of)
            + self.facts.sweep(count, |_, fact| !fact.holds(now), gone, hash_of)
    }
}

/// The locked shards of one step, in ascending order.
pub(super) type Guards<'a> = SmallVec<[(u8, MutexGuard<'a, Shard>); 6]>;

/// One record of a step.
pub(super) struct Entry<'a> {
    pub(super) kind: RecordKind,
    pub(super) key: KeyRef<'a>,
    pub(super) hash: u64,
    /// Position among the guards.
    pub(super) guard: u8,
    pub(super) slot: Option<Slot>,
}

/// The records of one step, as the core sees them.
pub(super) struct StepRecords<'s, 'a, H> {
    pub(super) guards: Guards<'s>,
    pub(super) entries: SmallVec<[Entry<'a>; 6]>,
    pub(super) capacity: &'s Capacity,
    pub(super) hash_of: H,
    /// Whether room found is taken at once.
    pub(super) reserve: bool,
}

impl<'s, H: Fn(KeyRef<'_>) -> u64 + Copy> StepRecords<'s, '_, H> {
    #[inline]
    fn shard(&mut self, index: usize) -> Option<(&mut Shard, Slot)> {
        let entry = self.entries.get(index)?;
        let slot = entry.slot?;
        self.guards.get_mut(usize::from(entry.guard)).map(|(_, shard)| (&mut **shard, slot))
    }

    /// Makes a record where there is none and remembers its slot.
    fn insert<T: Vacant>(&mut self, index: usize, record: T, table: impl Fn(&mut Shard) -> &mut Table<T>) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        let Some((_, shard)) = self.guards.get_mut(usize::from(entry.guard)) else { return };
        entry.slot = Some(table(shard).insert(entry.key, record, self.hash_of));
        shard.ticks += super::NEW_KEY;
    }

    /// Where the step's records lie.
    pub(super) fn places(&self) -> SmallVec<[Place; 6]> {
        let missing = Slot { index: u32::MAX, generation: 0 };
        let mut places = SmallVec::new();
        for entry in &self.entries {
            let shard = self.guards.get(usize::from(entry.guard)).map_or(0, |(number, _)| *number);
            places.push(Place { family: entry.key.family, shard, slot: entry.slot.unwrap_or(missing) });
        }
        places
    }
}

impl<H: Fn(KeyRef<'_>) -> u64 + Copy> Records for StepRecords<'_, '_, H> {
    #[inline]
    fn meter(&mut self, index: usize) -> Option<&mut Meter> {
        let (shard, slot) = self.shard(index)?;
        shard.meters.get_mut(slot)
    }

    fn breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        let (shard, slot) = self.shard(index)?;
        shard.breakers.get_mut(slot)
    }

    fn operation(&mut self, index: usize) -> Option<&mut Operation> {
        let (shard, slot) = self.shard(index)?;
        shard.operations.get_mut(slot)?.as_mut()
    }

    fn fact(&mut self, index: usize) -> Option<&mut Fact> {
        let (shard, slot) = self.shard(index)?;
        shard.facts.get_mut(slot)
    }

    fn has_room(&mut self) -> bool {
        let missing =
            self.entries.iter().filter(|entry| entry.slot.is_none() && entry.kind != RecordKind::Fact);
        let mut taken: SmallVec<[KeyRef<'_>; 6]> = SmallVec::new();
        for entry in missing {
            if !self.capacity.take(entry.key) {
                taken.into_iter().for_each(|key| self.capacity.give_back(key));
                return false;
            }
            taken.push(entry.key);
        }
        if !self.reserve {
            taken.into_iter().for_each(|key| self.capacity.give_back(key));
        }
        true
    }

    #[inline]
    fn make_meter(&mut self, index: usize) -> Option<&mut Meter> {
        if self.entries.get(index)?.slot.is_none() {
            self.insert(index, Meter::new(), |shard| &mut shard.meters);
        }
        self.meter(index)
    }

    fn make_breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        if self.entries.get(index)?.slot.is_none() {
            self.insert(index, Breaker::default(), |shard| &mut shard.breakers);
        }
        self.breaker(index)
    }

    fn put_operation(&mut self, index: usize, operation: Operation) {
        match self.operation(index) {
            Some(existing) => *existing = operation,
            None => self.insert(index, Some(operation), |shard| &mut shard.operations),
        }
    }
}

/// The records of an open permit, as the core sees them.
pub(super) struct PermitRecords<'s, 'p> {
    pub(super) guards: Guards<'s>,
    pub(super) places: &'p [Place],
}

impl PermitRecords<'_, '_> {
    /// The end of the calendar period that `now` lies in, for each of the permit's holds.
    pub(super) fn period_ends(&mut self, permit: &Permit, now: Timestamp) -> SmallVec<[Timestamp; 2]> {
        if permit.holds.iter().all(|hold| hold.window != Window::Period) {
            return SmallVec::new();
        }
        let calendars = permit.holds.iter().map(|hold| {
            let family = self.places.get(usize::from(hold.record))?.family;
            let (_, shard) = self.guards.first()?;
            shard.retentions.get(family.0 as usize)?.calendar.as_ref()
        });
        calendars
            .map(|calendar| calendar.map_or(Timestamp::MIN, |calendar| calendar.period_end(now)))
            .collect()
    }

    fn shard(&mut self, index: usize) -> Option<(&mut Shard, Slot)> {
        let place = *self.places.get(index)?;
        let (_, shard) = self.guards.iter_mut().find(|(number, _)| *number == place.shard)?;
        Some((&mut **shard, place.slot))
    }
}

impl Records for PermitRecords<'_, '_> {
    fn meter(&mut self, index: usize) -> Option<&mut Meter> {
        let (shard, slot) = self.shard(index)?;
        shard.meters.get_mut(slot)
    }

    fn breaker(&mut self, index: usize) -> Option<&mut Breaker> {
        let (shard, slot) = self.shard(index)?;
        shard.breakers.get_mut(slot)
    }

    fn operation(&mut self, index: usize) -> Option<&mut Operation> {
        let (shard, slot) = self.shard(index)?;
        shard.operations.get_mut(slot)?.as_mut()
    }

    fn fact(&mut self, index: usize) -> Option<&mut Fact> {
        let (shard, slot) = self.shard(index)?;
        shard.facts.get_mut(slot)
    }

    fn has_room(&mut self) -> bool {
        true
    }

    // A permit's step only settles what exists; nothing is made.
    fn make_meter(&mut self, _index: usize) -> Option<&mut Meter> {
        None
    }

    fn make_breaker(&mut self, _index: usize) -> Option<&mut Breaker> {
        None
    }

    fn put_operation(&mut self, _index: usize, _operation: Operation) {}
}
