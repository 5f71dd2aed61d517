//! Up to sixteen single calls, kept in the meter itself as 48-bit offsets in nanoseconds.

use crate::amount::Amount;
use crate::time::Timestamp;

const SLOTS: usize = 16;
/// 2^48 ns are 78 hours; what does not fit spills, exactly as more than sixteen events do.
const REACH: i64 = 1 << 48;

/// A ring of stamps in ascending order.
#[derive(Clone, Debug, Default)]
pub(super) struct InlineEvents {
    base: i64,
    offsets: [[u16; 3]; SLOTS],
    head: u8,
    length: u8,
}

impl InlineEvents {
    #[inline]
    pub(super) fn len(&self) -> u64 {
        u64::from(self.length)
    }

    /// The stamp at `position` from the oldest.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn stamp(&self, position: u8) -> i64 {
        let [high, middle, low] = self.offsets[usize::from(self.head.wrapping_add(position)) % SLOTS];
        self.base + (i64::from(high) << 32 | i64::from(middle) << 16 | i64::from(low))
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

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn write(&mut self, position: u8, offset: i64) {
        let slot = usize::from(self.head.wrapping_add(position)) % SLOTS;
        // The offset is below 2^48: each cast keeps one 16-bit part of it.
        self.offsets[slot] = [(offset >> 32) as u16, (offset >> 16) as u16, offset as u16];
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
        while self.length > 0 && self.stamp(0) <= cutoff.nanos() {
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

    /// Takes all stamps out, oldest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Timestamp> + use<> {
        let taken = std::mem::take(self);
        (0..taken.length).map(move |position| Timestamp::from_nanos(taken.stamp(position)))
    }
}
