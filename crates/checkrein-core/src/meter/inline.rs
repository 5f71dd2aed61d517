//! Up to sixteen single calls, kept in the meter itself as 48-bit offsets in nanoseconds.

use crate::amount::Amount;
use crate::time::Timestamp;

const SLOTS: usize = 16;
/// 2^48 ns are 78 hours; what does not fit spills, exactly as more than sixteen events do.
const REACH: i64 = 1 << 48;

/// Bytes of an offset.
const WIDTH: usize = 6;
const MASK: u64 = (1 << 48) - 1;

/// A ring of stamps in ascending order. What every decision reads comes first: it shares a cache line with the key.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct InlineEvents {
    base: i64,
    head: u8,
    length: u8,
    /// Little-endian offsets; two bytes more, so that each is read as the low part of a whole word.
    offsets: [u8; SLOTS * WIDTH + 2],
}

impl Default for InlineEvents {
    fn default() -> Self {
        Self { base: 0, offsets: [0; SLOTS * WIDTH + 2], head: 0, length: 0 }
    }
}

impl InlineEvents {
    #[inline]
    pub(super) fn len(&self) -> u64 {
        u64::from(self.length)
    }

    #[inline(always)]
    fn place(&self, position: u8) -> usize {
        usize::from(self.head.wrapping_add(position)) % SLOTS * WIDTH
    }

    #[inline(always)]
    fn offset(&self, position: u8) -> u64 {
        let word = self.offsets.get(self.place(position)..).and_then(|bytes| bytes.first_chunk::<8>());
        word.map_or(0, |word| u64::from_le_bytes(*word) & MASK)
    }

    /// The stamp at `position` from the oldest.
    #[inline(always)]
    fn stamp(&self, position: u8) -> i64 {
        // Below 2^48, and the sum is a stamp that was put in.
        self.base.wrapping_add_unsigned(self.offset(position))
    }

    /// Appends a stamp; `false` (and nothing changed) when it does not fit here.
    #[inline(always)]
    pub(super) fn push(&mut self, stamp: Timestamp) -> bool {
        let stamp = stamp.nanos();
        if self.length == 0 {
            self.base = stamp;
            self.head = 0;
        } else {
            let full = usize::from(self.length) == SLOTS;
            if full || stamp < self.stamp(self.length - 1) {
                return false;
            }
            if stamp.saturating_sub(self.base) >= REACH && !self.rebase(stamp) {
                return false;
            }
        }
        self.write(self.length, stamp - self.base);
        self.length += 1;
        true
    }

    #[inline(always)]
    fn write(&mut self, position: u8, offset: i64) {
        let place = self.place(position);
        let word = self.offsets.get_mut(place..).and_then(|bytes| bytes.first_chunk_mut::<8>());
        if let Some(word) = word {
            // The two bytes above belong to the next offset.
            let next = u64::from_le_bytes(*word) & !MASK;
            *word = (next | offset.cast_unsigned() & MASK).to_le_bytes();
        }
    }

    /// Counts offsets from the oldest event again; `false` when even that does not reach `stamp`.
    #[cold]
    fn rebase(&mut self, stamp: i64) -> bool {
        let oldest = self.stamp(0);
        if stamp.saturating_sub(oldest) >= REACH {
            return false;
        }
        let shift = oldest - self.base;
        for position in 0..self.length {
            let offset = self.stamp(position) - self.base;
            self.write(position, offset - shift);
        }
        self.base = oldest;
        true
    }

    #[inline(always)]
    pub(super) fn forget_until(&mut self, cutoff: Timestamp) {
        // Offsets are compared as they are: none is below zero.
        let Ok(reach) = u64::try_from(cutoff.nanos().saturating_sub(self.base)) else { return };
        while self.length > 0 && self.offset(0) <= reach {
            self.head = (self.head + 1) % SLOTS as u8;
            self.length -= 1;
        }
    }

    pub(super) fn count_after(&self, cutoff: Timestamp) -> u64 {
        (0..self.length).filter(|&position| self.stamp(position) > cutoff.nanos()).count() as u64
    }

    /// The stamp of the event with which `excess` single calls have left.
    pub(super) fn nth_for(&self, excess: Amount) -> Option<Timestamp> {
        let calls = (excess.pico().max(1) - 1) / Amount::ONE.pico();
        let position = u8::try_from(calls).ok().filter(|&position| position < self.length)?;
        Some(Timestamp::from_nanos(self.stamp(position)))
    }

    /// All stamps, oldest first.
    pub(super) fn stamps(&self) -> impl ExactSizeIterator<Item = i64> + DoubleEndedIterator {
        (0..usize::from(self.length)).map(|position| self.stamp(position as u8))
    }

    /// Takes all stamps out, oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Timestamp> + use<> {
        let taken = std::mem::take(self);
        (0..taken.length).map(move |position| Timestamp::from_nanos(taken.stamp(position)))
    }
}
