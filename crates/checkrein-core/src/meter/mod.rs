//! The store's only counter: what was spent in a window, what is held, and when capacity comes back.
//!
//! A decision costs the same whatever the number of events in the window. Sixteen single calls live in the meter
//! itself; more of them, or other amounts, spill to the heap. Up to [`EXACT_EVENTS`] events are kept one by one;
//! beyond that they are merged once onto a grid of a thousandth of the window, each cell leaving with its latest
//! member: never more than the limit in any interval, capacity back at most a thousandth of the window late.

use crate::amount::Amount;
use crate::time::{Span, Timestamp, Window};

mod allowance;
pub(crate) mod codec;
mod events;
mod inline;

pub(crate) use allowance::NotKept;
pub use allowance::{Allowance, MAX_TOP_UPS, TopUp};
pub use events::EXACT_EVENTS;
use events::Events;
use inline::InlineEvents;

const NEVER: Timestamp = Timestamp::MIN;

/// Counts amounts over a window, and the holds on them. The maths of limits, attempts and budgets is all here.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Meter {
    /// The stamp of the latest event; [`NEVER`] before the first. An `Option` would cost eight bytes a principal.
    newest: Timestamp,
    large: Option<Box<Large>>,
    inline: InlineEvents,
}

/// The part of a meter that single calls within a rolling window do not need.
#[derive(Clone, Debug, Default)]
struct Large {
    events: Events,
    /// The number of the first slot of `events`: slots are numbered from the beginning of time.
    first: u64,
    /// No slot before this number has changed since the meter was last written to a disk.
    touched: u64,
    /// Events and amounts in `events`, or of the current period, or of all time.
    count: u64,
    sum: Amount,
    account: Account,
    /// Holds neither settled nor released, those of nothing included: their record must not be forgotten.
    open_holds: u32,
    period_end: Option<Timestamp>,
    closed: bool,
    /// Of a budget whose limit somebody has changed.
    allowance: Option<Box<Allowance>>,
}

/// Where every amount that was ever held has gone. `held` counts in full whatever its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Held now.
    pub held: Amount,
    /// Ever held.
    pub ever_held: Amount,
    /// Given back unspent because the action did not start.
    pub released: Amount,
    /// Freed by settlements, spent or not.
    pub settled: Amount,
    /// Spent beyond the hold's bound.
    pub overrun: Amount,
    /// Recorded without asking.
    pub forced: Amount,
}

/// A meter cannot do what was asked; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    /// The sum would not fit 128 bits.
    #[error("the amount does not fit the meter")]
    Overflow,
    /// The amount is below zero.
    #[error("the amount is negative")]
    Negative,
    /// An invariant does not hold on the staged values: the meter is closed until someone looks.
    #[error("invariant broken: {0}")]
    InvariantBroken(&'static str),
}

impl MeterError {
    /// The stable code of the error.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Overflow | Self::Negative => "invalid_amount",
            Self::InvariantBroken(_) => "invariant_broken",
        }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self { newest: NEVER, inline: InlineEvents::default(), large: None }
    }
}

impl Meter {
    /// A meter that has counted nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stamp of the latest event, also after it has left the window.
    #[inline]
    pub fn newest(&self) -> Option<Timestamp> {
        (self.newest != NEVER).then_some(self.newest)
    }

    /// Forgets what has left the window at `now`. For [`Window::Period`], `period_end` is the end of the calendar
    /// period that `now` lies in; a period only moves forward.
    #[inline(always)]
    pub fn advance(&mut self, now: Timestamp, window: Window, period_end: Timestamp) {
        match window {
            Window::Rolling(_) => self.forget_until(window.cutoff(now)),
            Window::Lifetime => {}
            Window::Period => self.enter_period(period_end),
        }
    }

    #[cold]
    fn enter_period(&mut self, period_end: Timestamp) {
        let large = self.large.get_or_insert_default();
        if large.period_end.is_none_or(|end| end < period_end) {
            large.period_end = Some(period_end);
            large.count = 0;
            large.sum = Amount::ZERO;
        }
    }

    /// Forgets every event stamped at or before `cutoff`.
    #[inline]
    pub fn forget_until(&mut self, cutoff: Timestamp) {
        self.inline.forget_until(cutoff);
        if self.large.is_some() {
            self.forget_large(cutoff);
        }
    }

    fn forget_large(&mut self, cutoff: Timestamp) {
        let Some(large) = &mut self.large else { return };
        let before = large.events.slots();
        let (count, sum) = large.events.forget_until(cutoff);
        large.first += (before - large.events.slots()) as u64;
        large.count -= count;
        large.sum = large.sum.saturating_sub(sum);
        if large.is_vacant() {
            self.large = None;
        }
    }

    /// What was spent in the window and how many events that were, for a look at a meter that was not advanced to now.
    pub fn seen(&self, now: Timestamp, window: Window) -> (Amount, u64) {
        let over = self.large.as_ref().and_then(|large| large.period_end).is_some_and(|end| end <= now);
        match window {
            Window::Rolling(_) => {
                let cutoff = window.cutoff(now);
                (self.spent_after(cutoff), self.count_after(cutoff))
            }
            Window::Period if over => (Amount::ZERO, 0),
            Window::Period | Window::Lifetime => (self.spent(), self.count()),
        }
    }

    /// Events in the window (merged ones counted one by one).
    #[inline]
    pub fn count(&self) -> u64 {
        self.inline.len() + self.large.as_ref().map_or(0, |large| large.count)
    }

    /// What was spent in the window.
    #[inline]
    pub fn spent(&self) -> Amount {
        let inline = Amount::from_units(self.inline.len());
        self.large.as_ref().map_or(inline, |large| large.sum.saturating_add(inline))
    }

    /// Events stamped after `cutoff`, for a check whose window is narrower than what the meter retains.
    pub fn count_after(&self, cutoff: Timestamp) -> u64 {
        self.inline.count_after(cutoff) + self.large.as_ref().map_or(0, |large| large.events.after(cutoff).0)
    }

    /// What was spent after `cutoff`, for a check whose window is narrower than what the meter retains.
    pub fn spent_after(&self, cutoff: Timestamp) -> Amount {
        let inline = Amount::from_units(self.inline.count_after(cutoff));
        self.large.as_ref().map_or(inline, |large| large.events.after(cutoff).1.saturating_add(inline))
    }

    /// What is held, whatever its age.
    #[inline]
    pub fn held(&self) -> Amount {
        self.account().held
    }

    /// Where everything held has gone, and what was recorded beyond the limit.
    #[inline]
    pub fn account(&self) -> Account {
        self.large.as_ref().map(|large| large.account).unwrap_or_default()
    }

    /// Whether a broken invariant has closed the meter.
    pub fn is_closed(&self) -> bool {
        self.large.as_ref().is_some_and(|large| large.closed)
    }

    /// Closes the meter: it refuses everything until it is reset.
    pub fn close(&mut self) {
        self.large.get_or_insert_default().closed = true;
    }

    /// Records that `amount` was spent at `stamp`. Out-of-order stamps are inserted where they belong.
    ///
    /// # Errors
    /// A negative amount, or a sum that does not fit; nothing is recorded then.
    #[inline(always)]
    pub fn record(&mut self, stamp: Timestamp, amount: Amount, window: Window) -> Result<(), MeterError> {
        if amount.is_negative() {
            return Err(MeterError::Negative);
        }
        let in_place = match window {
            Window::Rolling(_) if self.large.is_none() => amount == Amount::ONE && self.inline.push(stamp),
            _ => false,
        };
        if !in_place {
            self.record_large(stamp, amount, window)?;
        }
        self.newest = self.newest.max(stamp);
        Ok(())
    }

    fn record_large(&mut self, stamp: Timestamp, amount: Amount, window: Window) -> Result<(), MeterError> {
        let spent = self.spent().checked_add(amount).ok_or(MeterError::Overflow)?;
        if let Window::Rolling(length) = window {
            if amount == Amount::ZERO {
                return Ok(());
            }
            if self.inline.len() > 0 {
                self.spill(length);
            }
            let large = self.large.get_or_insert_default();
            large.push(stamp, amount, length);
            large.count += 1;
            large.sum = spent;
        } else {
            let large = self.large.get_or_insert_default();
            large.count += 1;
            large.sum = spent;
        }
        Ok(())
    }

    /// Moves the inline events to the heap. The caller writes the sum.
    #[cold]
    fn spill(&mut self, window: Span) {
        let large = self.large.get_or_insert_default();
        large.count += self.inline.len();
        for early in self.inline.drain() {
            large.push(early, Amount::ONE, window);
        }
    }

    /// Records what was spent without asking: it may pass the limit, and is kept visible as forced.
    ///
    /// # Errors
    /// A negative amount, or a sum that does not fit; nothing is recorded then.
    pub fn force(&mut self, stamp: Timestamp, amount: Amount, window: Window) -> Result<(), MeterError> {
        let forced = self.account().forced.checked_add(amount).ok_or(MeterError::Overflow)?;
        self.record(stamp, amount, window)?;
        self.large.get_or_insert_default().account.forced = forced;
        Ok(())
    }

    /// Holds `amount` until it is settled or released.
    ///
    /// # Errors
    /// A negative amount, or a sum that does not fit; nothing is held then.
    pub fn hold(&mut self, stamp: Timestamp, amount: Amount) -> Result<(), MeterError> {
        if amount.is_negative() {
            return Err(MeterError::Negative);
        }
        let before = self.account();
        let held = before.held.checked_add(amount).ok_or(MeterError::Overflow)?;
        let ever_held = before.ever_held.checked_add(amount).ok_or(MeterError::Overflow)?;
        self.spent().checked_add(held).ok_or(MeterError::Overflow)?;
        self.write_account(Account { held, ever_held, ..before })?;
        self.count_holds(1);
        self.newest = self.newest.max(stamp);
        Ok(())
    }

    /// Checks that `amount` more could be spent or held, without doing it.
    ///
    /// # Errors
    /// A negative amount, or a sum that would not fit.
    pub fn stage(&self, amount: Amount) -> Result<(), MeterError> {
        if amount.is_negative() {
            return Err(MeterError::Negative);
        }
        let account = self.account();
        let total = self.spent().checked_add(account.held).and_then(|taken| taken.checked_add(amount));
        let fits = total.and(account.ever_held.checked_add(amount)).and(account.forced.checked_add(amount));
        fits.map(|_| ()).ok_or(MeterError::Overflow)
    }

    /// Checks that `hold` could be settled at `actual`, without doing it.
    ///
    /// # Errors
    /// A negative amount, or a sum that would not fit.
    pub fn stage_settlement(&self, hold: Amount, actual: Amount) -> Result<(), MeterError> {
        if actual.is_negative() {
            return Err(MeterError::Negative);
        }
        let account = self.account();
        let others = account.held.checked_sub(hold).and_then(|held| held.checked_add(self.spent()));
        let excess = actual.saturating_sub(hold).max(Amount::ZERO);
        let fits =
            others.and_then(|taken| taken.checked_add(actual)).and(account.overrun.checked_add(excess));
        fits.and(account.settled.checked_add(hold)).map(|_| ()).ok_or(MeterError::Overflow)
    }

    /// Forgets what was spent and opens a closed meter; what is held stays held, and a changed limit changed.
    pub fn reset(&mut self) {
        let (held, open_holds) = (self.held(), self.large.as_ref().map_or(0, |large| large.open_holds));
        let allowance = self.large.as_mut().and_then(|large| large.allowance.take());
        *self = Self::new();
        if open_holds > 0 || allowance.is_some() {
            let account = Account { held, ever_held: held, ..Account::default() };
            self.large = Some(Box::new(Large { account, open_holds, allowance, ..Large::default() }));
        }
    }

    /// What somebody has changed of the limit.
    pub fn allowance(&self) -> Option<&Allowance> {
        self.large.as_ref().and_then(|large| large.allowance.as_deref())
    }

    /// What somebody has changed of the limit and that still counts at `now`.
    pub fn live_allowance(&self, now: Timestamp) -> Option<&Allowance> {
        self.allowance().filter(|allowance| now < allowance.expires())
    }

    /// The limit that counts at `now`, where the policy's is `policy`.
    #[inline]
    pub fn limit(&self, policy: Amount, now: Timestamp) -> Amount {
        self.allowance().map_or(policy, |allowance| allowance.limit(policy, now))
    }

    /// Changes the limit, or has the policy's count again.
    pub fn allow(&mut self, allowance: Option<Allowance>, window: Window) {
        if allowance.is_some() || self.large.is_some() {
            self.grow(window).allowance = allowance.map(Box::new);
        }
    }

    /// Keeps visible as forced what stands above a limit that was lowered, as far as nothing else explains it.
    pub(crate) fn force_above(&mut self, limit: Amount, window: Window) {
        let account = self.account();
        let taken = self.spent().saturating_add(account.held);
        let above = taken.saturating_sub(limit).saturating_sub(account.overrun);
        if above > account.forced {
            self.grow(window).account.forced = above;
        }
    }

    /// The part on the heap, with all events in it.
    fn grow(&mut self, window: Window) -> &mut Large {
        let spent = self.spent();
        if let (Window::Rolling(length), 1..) = (window, self.inline.len()) {
            self.spill(length);
        }
        let large = self.large.get_or_insert_default();
        large.sum = spent;
        large
    }

    /// Gives a hold back unspent.
    ///
    /// # Errors
    /// More than is held: [`MeterError::InvariantBroken`], and the meter is closed.
    pub fn release(&mut self, amount: Amount) -> Result<(), MeterError> {
        let before = self.account();
        let held = before.held.checked_sub(amount).ok_or(MeterError::Overflow)?;
        let released = before.released.checked_add(amount).ok_or(MeterError::Overflow)?;
        self.write_account(Account { held, released, ..before })?;
        self.count_holds(-1);
        Ok(())
    }

    fn count_holds(&mut self, change: i32) {
        let large = self.large.get_or_insert_default();
        large.open_holds = large.open_holds.saturating_add_signed(change);
    }

    /// Settles a hold: frees all of it and records what was really spent, at the time of settlement.
    ///
    /// # Errors
    /// A negative actual amount, a sum that does not fit, or more than is held; nothing is settled then.
    pub fn settle(
        &mut self,
        stamp: Timestamp,
        hold: Amount,
        actual: Amount,
        window: Window,
    ) -> Result<(), MeterError> {
        let before = self.account();
        let held = before.held.checked_sub(hold).ok_or(MeterError::Overflow)?;
        let settled = before.settled.checked_add(hold).ok_or(MeterError::Overflow)?;
        let excess = actual.checked_sub(hold).ok_or(MeterError::Overflow)?.max(Amount::ZERO);
        let overrun = before.overrun.checked_add(excess).ok_or(MeterError::Overflow)?;
        if held.is_negative() {
            return self.broken("more settled than held");
        }
        self.record(stamp, actual, window)?;
        self.write_account(Account { held, settled, overrun, ..before })?;
        self.count_holds(-1);
        Ok(())
    }

    /// Writes the account after checking it: conservation holds and nothing is below zero.
    fn write_account(&mut self, account: Account) -> Result<(), MeterError> {
        if account.held.is_negative() {
            return self.broken("more returned than held");
        }
        let gone = account.released.checked_add(account.settled);
        // INVARIANT: everything ever held is released, settled or still held.
        if gone.and_then(|gone| gone.checked_add(account.held)) != Some(account.ever_held) {
            return self.broken("held amounts are not conserved");
        }
        self.large.get_or_insert_default().account = account;
        Ok(())
    }

    #[cold]
    fn broken(&mut self, what: &'static str) -> Result<(), MeterError> {
        self.close();
        Err(MeterError::InvariantBroken(what))
    }

    /// The stamp of the event with whose leaving at least `excess` has left the window; `None` if that much is
    /// not in it.
    pub fn leaves_with(&self, excess: Amount) -> Option<Timestamp> {
        // What was forced or held makes the part on the heap while the calls are still inline.
        match &self.large {
            Some(large) if self.inline.len() == 0 => large.events.leaves_with(excess),
            _ => self.inline.nth_for(excess),
        }
    }

    /// When the record may be forgotten: nothing is held, and the largest of window and cooldown has passed.
    #[inline]
    pub fn expires(&self, window: Window, cooldown: Span) -> Timestamp {
        // Before the look at the latest event: a meter that was reset has none and may have holds.
        if self.large.as_ref().is_some_and(|large| large.open_holds > 0 || large.closed) {
            return Timestamp::MAX;
        }
        let allowed = self.allowance().map_or(Timestamp::MIN, Allowance::expires);
        let Some(newest) = self.newest() else { return allowed };
        let idle = newest.after(cooldown);
        let unused = match (window, &self.large) {
            (Window::Rolling(length), _) => newest.after(length.max(cooldown)),
            (Window::Period, Some(large)) => large.period_end.unwrap_or(Timestamp::MIN).max(idle),
            (Window::Lifetime, Some(large)) if large.sum > Amount::ZERO => Timestamp::MAX,
            (Window::Period | Window::Lifetime, _) => idle,
        };
        unused.max(allowed)
    }

    /// Bytes on the heap, for memory accounting.
    pub fn heap_bytes(&self) -> usize {
        self.large.as_ref().map_or(0, |large| size_of::<Large>() + large.events.heap_bytes())
    }
}

impl Large {
    fn push(&mut self, stamp: Timestamp, amount: Amount, window: Span) {
        let changed = self.events.push(stamp, amount, window);
        self.touched = self.touched.min(self.first + changed as u64);
    }

    /// Nothing here that the meter could not do without.
    fn is_vacant(&self) -> bool {
        self.count == 0
            && self.sum == Amount::ZERO
            && self.account == Account::default()
            && self.open_holds == 0
            && self.period_end.is_none()
            && !self.closed
            && self.allowance.is_none()
    }
}

#[cfg(test)]
mod tests;
