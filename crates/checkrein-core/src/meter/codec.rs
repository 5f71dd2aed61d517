//! A meter on a disk: a head with the sums and the latest slots, and rows of 64 slots for those before.
//!
//! Slots are numbered from the beginning of time and lie in the chunk of their number divided by 64. The last chunk,
//! full or not, is part of the head, so that a decision writes one row, and a second one every 64 events.

use std::collections::VecDeque;
use std::ops::Range;

use super::events::{Events, Slot};
use super::inline::InlineEvents;
use super::{Account, Allowance, Large, Meter, NEVER};
use crate::amount::Amount;
use crate::codec::{Damaged, Reader, Write};
use crate::time::{Span, Timestamp, Window};

/// Slots of a chunk.
const CHUNK: u64 = 64;
const VERSION: u8 = 1;
/// Of the head of a meter whose limit somebody has changed: a version that knows nothing of that must not count on it.
const CHANGED: u8 = 2;
/// More slots than a meter can have: what says so is damaged.
const MAX_SLOTS: u64 = 4_096;

impl Meter {
    /// The chunks that lie outside the head now.
    pub fn chunks(&self) -> Range<u64> {
        let Some(large) = &self.large else { return 0..0 };
        let end = large.first + large.events.slots() as u64;
        large.first / CHUNK..(end / CHUNK).max(large.first / CHUNK)
    }

    /// Those of [`chunks`](Self::chunks) that are not as they were at [`mark_kept`](Self::mark_kept).
    pub fn changed_chunks(&self) -> Range<u64> {
        let Range { start, end } = self.chunks();
        let touched = self.large.as_ref().map_or(end, |large| large.touched / CHUNK);
        start.max(touched).min(end)..end
    }

    /// Remembers that the meter is on disk as it is now.
    pub fn mark_kept(&mut self) {
        if let Some(large) = &mut self.large {
            large.touched = large.first + large.events.slots() as u64;
        }
    }

    /// Appends the bytes of the head.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        out.push(if self.allowance().is_some() { CHANGED } else { VERSION });
        out.stamp(self.newest);
        let inline = self.inline.stamps();
        out.number(inline.len() as u128);
        let mut last = self.newest.nanos();
        for stamp in inline.rev() {
            // From the latest backwards: small numbers, whatever the time.
            out.signed(i128::from(last) - i128::from(stamp));
            last = stamp;
        }
        out.flag(self.large.is_some());
        if let Some(large) = &self.large {
            large.encode(self.chunks().end, out);
        }
        self.allowance().into_iter().for_each(|allowance| allowance.encode(out));
    }

    /// Appends the bytes of a chunk.
    pub fn encode_chunk(&self, number: u64, out: &mut Vec<u8>) {
        out.push(VERSION);
        let Some(large) = &self.large else { return };
        let start = (number * CHUNK).max(large.first);
        out.number(start.into());
        large.encode_slots(start..(number + 1) * CHUNK, out);
    }

    /// The chunks that [`decode`](Self::decode) needs beside this head.
    ///
    /// # Errors
    /// Bytes that no head has.
    pub fn needed_chunks(head: &[u8]) -> Result<Range<u64>, Damaged> {
        let (meter, first_kept) = Self::decode_head(head)?;
        let Some(large) = &meter.large else { return Ok(0..0) };
        Ok(large.first / CHUNK..first_kept / CHUNK)
    }

    /// When the meter of this head may be forgotten; see [`expires`](Self::expires).
    ///
    /// # Errors
    /// Bytes that no head has.
    pub fn expiry_of(head: &[u8], window: Window, cooldown: Span) -> Result<Timestamp, Damaged> {
        Self::decode_head(head).map(|(meter, _)| meter.expires(window, cooldown))
    }

    /// Reads a meter from its head and its chunks, in their order.
    ///
    /// # Errors
    /// Bytes that are not those of one meter.
    pub fn decode<'a>(head: &[u8], chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Damaged> {
        let (mut meter, tail) = Self::decode_head(head)?;
        if let Some(large) = &mut meter.large {
            let mut next = large.first;
            let mut earlier = Events::like(&large.events);
            for chunk in chunks {
                let mut bytes = Reader::new(chunk, VERSION)?;
                let start = bytes.small::<u64>()?;
                let mut slots = Events::like(&large.events);
                decode_slots(&mut bytes, &mut slots, None)?;
                bytes.end()?;
                for (number, slot) in (start..).zip(slots.into_slots()) {
                    if number == next && next < tail {
                        earlier.append(slot);
                        next += 1;
                    }
                }
            }
            if next != tail {
                return Err(Damaged::Value("events of a meter are missing"));
            }
            for slot in std::mem::take(&mut large.events).into_slots() {
                earlier.append(slot);
            }
            large.events = earlier;
            large.touched = large.first + large.events.slots() as u64;
        }
        Ok(meter)
    }

    /// The head, and the number of the first slot that is in it.
    fn decode_head(head: &[u8]) -> Result<(Self, u64), Damaged> {
        let changed = head.first() == Some(&CHANGED);
        let mut bytes = Reader::new(head, if changed { CHANGED } else { VERSION })?;
        let newest = bytes.stamp()?;
        let count = bytes.small::<u8>()?;
        let mut stamps = Vec::with_capacity(count.min(16).into());
        let mut last = newest.nanos();
        for _ in 0..count {
            let stamp = i128::from(last) - bytes.signed()?;
            last = i64::try_from(stamp).map_err(|_| Damaged::Value("a time is out of range"))?;
            stamps.push(last);
        }
        let mut inline = InlineEvents::default();
        for stamp in stamps.into_iter().rev() {
            if !inline.push(Timestamp::from_nanos(stamp)) {
                return Err(Damaged::Value("the events of a meter are not in order"));
            }
        }
        let mut tail = 0;
        let large = if bytes.flag()? {
            let (mut large, first_kept) = Large::decode(&mut bytes)?;
            tail = first_kept;
            large.allowance = if changed { Some(Box::new(Allowance::decode(&mut bytes)?)) } else { None };
            Some(Box::new(large))
        } else if changed {
            return Err(Damaged::Value("a changed limit is missing"));
        } else {
            None
        };
        bytes.end()?;
        if newest == NEVER && inline.len() > 0 {
            return Err(Damaged::Value("a meter has events and no latest one"));
        }
        Ok((Self { newest, large, inline }, tail))
    }
}

impl Large {
    fn encode(&self, chunks_end: u64, out: &mut Vec<u8>) {
        out.number(self.count.into());
        out.amount(self.sum);
        let Account { held, ever_held, released, settled, overrun, forced } = self.account;
        for amount in [held, ever_held, released, settled, overrun, forced] {
            out.amount(amount);
        }
        out.number(self.open_holds.into());
        out.optional_stamp(self.period_end);
        out.flag(self.closed);
        out.push(match &self.events {
            Events::Calls(_) => 0,
            Events::Amounts { merging: false, .. } => 1,
            Events::Amounts { merging: true, .. } => 2,
        });
        out.number(self.first.into());
        let end = self.first + self.events.slots() as u64;
        let tail = (chunks_end * CHUNK).clamp(self.first, end);
        out.number((tail - self.first).into());
        self.encode_slots(tail..end, out);
    }

    fn decode(bytes: &mut Reader<'_>) -> Result<(Self, u64), Damaged> {
        let (count, sum) = (bytes.small()?, bytes.amount()?);
        let account = Account {
            held: bytes.amount()?,
            ever_held: bytes.amount()?,
            released: bytes.amount()?,
            settled: bytes.amount()?,
            overrun: bytes.amount()?,
            forced: bytes.amount()?,
        };
        let (open_holds, period_end, closed) = (bytes.small()?, bytes.optional_stamp()?, bytes.flag()?);
        let mut events = match bytes.small::<u8>()? {
            0 => Events::default(),
            kind @ (1 | 2) => Events::Amounts { slots: VecDeque::new(), merging: kind == 2, count: 0 },
            _ => return Err(Damaged::Value("no such kind of events")),
        };
        let first = bytes.small::<u64>()?;
        let outside = bytes.small::<u64>()?;
        if outside > MAX_SLOTS {
            return Err(Damaged::Value("a meter has too many events"));
        }
        let tail = first.checked_add(outside).ok_or(Damaged::Value("a number is too large"))?;
        decode_slots(bytes, &mut events, None)?;
        let (touched, allowance) = (0, None);
        let large =
            Self { events, first, touched, count, sum, account, open_holds, period_end, closed, allowance };
        Ok((large, tail))
    }

    /// Slots by number, those that are there.
    fn encode_slots(&self, numbers: Range<u64>, out: &mut Vec<u8>) {
        let position = |number: u64| usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let length = self.events.slots();
        let range = position(numbers.start).min(length)..position(numbers.end).min(length);
        out.number(range.len() as u128);
        let mut last = 0;
        match &self.events {
            Events::Calls(stamps) => {
                for stamp in stamps.range(range) {
                    out.signed(i128::from(*stamp) - i128::from(last));
                    last = *stamp;
                }
            }
            Events::Amounts { slots, .. } => {
                for slot in slots.range(range) {
                    let (stamp, count, amount) = slot.parts();
                    out.signed(i128::from(stamp) - i128::from(last));
                    out.number(count.into());
                    out.amount(amount);
                    last = stamp;
                }
            }
        }
    }
}

fn decode_slots(bytes: &mut Reader<'_>, into: &mut Events, mut earlier: Option<i64>) -> Result<(), Damaged> {
    let length = bytes.small::<u64>()?;
    if length > MAX_SLOTS {
        return Err(Damaged::Value("a meter has too many events"));
    }
    let mut last = 0;
    for _ in 0..length {
        let stamp = i128::from(last) + bytes.signed()?;
        last = i64::try_from(stamp).map_err(|_| Damaged::Value("a time is out of range"))?;
        if earlier.is_some_and(|earlier| earlier > last) {
            return Err(Damaged::Value("the events of a meter are not in order"));
        }
        earlier = Some(last);
        let slot = match into {
            Events::Calls(_) => Slot::new(last, 1, Amount::ONE),
            Events::Amounts { .. } => Slot::new(last, bytes.small()?, bytes.amount()?),
        };
        into.append(slot);
    }
    Ok(())
}
