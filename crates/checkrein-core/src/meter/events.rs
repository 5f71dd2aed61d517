//! The events of a meter that outgrew its sixteen inline slots: exact first, on a grid beyond.

use std::collections::VecDeque;

use crate::amount::Amount;
use crate::time::{Span, Timestamp};

/// Up to this many events are kept one by one.
pub const EXACT_EVENTS: usize = 1_024;
/// Beyond, events are merged into this many cells a window.
const CELLS: i64 = 1_000;
/// Below this many events a merged meter keeps single events again, so that it does not merge at every step.
const RESUME_EXACT: u64 = EXACT_EVENTS as u64 / 2;

/// Events in ascending order of stamp.
#[derive(Clone, Debug)]
pub(super) enum Events {
    /// Single calls: eight bytes each.
    Calls(VecDeque<i64>),
    /// Amounts, merged into cells while there are too many.
    Amounts { slots: VecDeque<Slot>, merging: bool, count: u64 },
}

/// One event, or the events of one cell; it leaves with its latest member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    stamp: i64,
    count: u64,
    // An i128 in two halves: aligned to 8 bytes a slot takes 32 bytes and not 48.
    high: i64,
    low: u64,
}

impl Slot {
    pub(super) fn new(stamp: i64, count: u64, amount: Amount) -> Self {
        let pico = amount.pico();
        Self { stamp, count, high: (pico >> 64) as i64, low: pico as u64 }
    }

    fn amount(self) -> Amount {
        Amount::from_pico(i128::from(self.high) << 64 | i128::from(self.low))
    }

    pub(super) fn parts(self) -> (i64, u64, Amount) {
        (self.stamp, self.count, self.amount())
    }

    fn merge(&mut self, stamp: i64, count: u64, amount: Amount) {
        let sum = self.amount().saturating_add(amount);
        *self = Self::new(self.stamp.max(stamp), self.count + count, sum);
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::Calls(VecDeque::new())
    }
}

fn cell_of(stamp: i64, window: Span) -> i64 {
    stamp.div_euclid((window.nanos() / CELLS).max(1))
}

impl Events {
    /// Slots, merged ones counted once.
    #[inline]
    pub(super) fn slots(&self) -> usize {
        match self {
            Self::Calls(stamps) => stamps.len(),
            Self::Amounts { slots, .. } => slots.len(),
        }
    }

    /// Removes everything stamped at or before `cutoff`; returns how many events and how much that was.
    #[inline]
    pub(super) fn forget_until(&mut self, cutoff: Timestamp) -> (u64, Amount) {
        let cutoff = cutoff.nanos();
        match self {
            Self::Calls(stamps) => {
                let mut gone = 0;
                while stamps.front().is_some_and(|&stamp| stamp <= cutoff) {
                    stamps.pop_front();
                    gone += 1;
                }
                if gone > 0 && stamps.len() < stamps.capacity() / 8 {
                    stamps.shrink_to(stamps.len() * 2);
                }
                (gone, Amount::from_units(gone))
            }
            Self::Amounts { slots, merging, count } => {
                let (mut gone, mut sum) = (0, Amount::ZERO);
                while let Some(slot) = slots.front().filter(|slot| slot.stamp <= cutoff) {
                    gone += slot.count;
                    sum = sum.saturating_add(slot.amount());
                    slots.pop_front();
                }
                *count -= gone;
                *merging &= *count > RESUME_EXACT;
                if gone > 0 && slots.len() < slots.capacity() / 8 {
                    slots.shrink_to(slots.len() * 2);
                }
                (gone, sum)
            }
        }
    }

    /// Events and amount stamped after `cutoff`.
    pub(super) fn after(&self, cutoff: Timestamp) -> (u64, Amount) {
        let cutoff = cutoff.nanos();
        match self {
            Self::Calls(stamps) => {
                let count = (stamps.len() - stamps.partition_point(|&stamp| stamp <= cutoff)) as u64;
                (count, Amount::from_units(count))
            }
            Self::Amounts { slots, .. } => slots
                .range(slots.partition_point(|slot| slot.stamp <= cutoff)..)
                .fold((0, Amount::ZERO), |(n, sum), slot| {
                    (n + slot.count, sum.saturating_add(slot.amount()))
                }),
        }
    }

    /// Adds an event; its caller keeps count and sum. Returns the first slot that is not what it was.
    pub(super) fn push(&mut self, stamp: Timestamp, amount: Amount, window: Span) -> usize {
        let stamp = stamp.nanos();
        let mut rewritten = false;
        if let Self::Calls(stamps) = self {
            if amount == Amount::ONE && stamps.len() < EXACT_EVENTS {
                if stamps.back().is_none_or(|&last| last <= stamp) {
                    stamps.push_back(stamp);
                    return stamps.len() - 1;
                }
                let place = stamps.partition_point(|&other| other <= stamp);
                stamps.insert(place, stamp);
                return place;
            }
            let slots: VecDeque<Slot> = stamps.iter().map(|&at| Slot::new(at, 1, Amount::ONE)).collect();
            *self = Self::Amounts { count: slots.len() as u64, slots, merging: false };
            rewritten = true;
        }
        let Self::Amounts { slots, merging, count } = self else { return 0 };
        *count += 1;
        if slots.len() >= EXACT_EVENTS && !*merging {
            *merging = true;
            merge_cells(slots, window);
            rewritten = true;
        }
        let position = match slots.back() {
            Some(last) if last.stamp > stamp => slots.partition_point(|slot| slot.stamp <= stamp),
            _ => slots.len(),
        };
        if *merging {
            let cell = cell_of(stamp, window);
            // A cell's slot carries its latest stamp, so the event's own cell is the slot after or before it.
            for near in [position.checked_sub(1), Some(position)].into_iter().flatten() {
                if let Some(slot) = slots.get_mut(near).filter(|slot| cell_of(slot.stamp, window) == cell) {
                    slot.merge(stamp, 1, amount);
                    return if rewritten { 0 } else { near };
                }
            }
            if slots.len() >= 2 * EXACT_EVENTS {
                // Only a meter whose window changed can come here.
                merge_cells(slots, window);
                let last = slots.partition_point(|slot| slot.stamp <= stamp);
                slots.insert(last, Slot::new(stamp, 1, amount));
                return 0;
            }
        }
        slots.insert(position, Slot::new(stamp, 1, amount));
        if rewritten { 0 } else { position }
    }

    /// The stamp of the event with whose leaving at least `excess` has left; `None` if that much is not here.
    pub(super) fn leaves_with(&self, excess: Amount) -> Option<Timestamp> {
        let stamp = match self {
            Self::Calls(stamps) => {
                let position = (excess.pico().max(1) - 1) / Amount::ONE.pico();
                stamps.get(usize::try_from(position).ok()?).copied()
            }
            Self::Amounts { slots, .. } => {
                let mut left = Amount::ZERO;
                slots.iter().find_map(|slot| {
                    left = left.saturating_add(slot.amount());
                    (left >= excess).then_some(slot.stamp)
                })
            }
        };
        stamp.map(Timestamp::from_nanos)
    }

    /// No events, kept in the same way.
    pub(super) fn like(other: &Self) -> Self {
        match other {
            Self::Calls(_) => Self::default(),
            Self::Amounts { merging, .. } => {
                Self::Amounts { slots: VecDeque::new(), merging: *merging, count: 0 }
            }
        }
    }

    /// Puts a slot at the end, as it is.
    pub(super) fn append(&mut self, slot: Slot) {
        match self {
            Self::Calls(stamps) => stamps.push_back(slot.stamp),
            Self::Amounts { slots, count, .. } => {
                *count += slot.count;
                slots.push_back(slot);
            }
        }
    }

    /// All slots, oldest first.
    pub(super) fn into_slots(self) -> impl Iterator<Item = Slot> {
        let (calls, amounts) = match self {
            Self::Calls(stamps) => (stamps, VecDeque::new()),
            Self::Amounts { slots, .. } => (VecDeque::new(), slots),
        };
        calls.into_iter().map(|stamp| Slot::new(stamp, 1, Amount::ONE)).chain(amounts)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Calls(stamps) => stamps.capacity() * size_of::<i64>(),
            Self::Amounts { slots, .. } => slots.capacity() * size_of::<Slot>(),
        }
    }
}

/// Merges neighbours of one cell.
fn merge_cells(slots: &mut VecDeque<Slot>, window: Span) {
    let mut merged: VecDeque<Slot> = VecDeque::with_capacity(EXACT_EVENTS);
    for slot in slots.iter() {
        match merged.back_mut() {
            Some(last) if cell_of(last.stamp, window) == cell_of(slot.stamp, window) => {
                last.merge(slot.stamp, slot.count, slot.amount());
            }
            _ => merged.push_back(*slot),
        }
    }
    *slots = merged;
}
