//! One ledger's spend: the shared meters behind the edges this module's contract states, and its open reservations.
//!
//! A reservation counts in full until it is committed, released or cleared, whatever its age. One that nobody
//! settles within its lease is settled at its full amount, so that nothing is held for ever and nothing that may
//! have been spent is forgotten.

use std::collections::{HashMap, VecDeque};

use checkrein_core::amount::Amount;
use checkrein_core::meter::Meter;
use checkrein_core::time::{Span, Timestamp, Window};
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::super::table::Record;
use super::money::{Money, Written};

/// How long a reservation may stay open, or as long as its window where that is longer.
const LEASE: i64 = 3_600_000_000_000;

/// The name of a reservation.
pub(super) type Id = [u8; 16];

/// The numbers of a budget as the meter needs them.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// `None`: no limit.
    pub(super) max_spend: Option<Money>,
    /// Nanoseconds; `None` counts for ever.
    pub(super) window: Option<i64>,
    pub(super) fail_open: bool,
}

/// What a decision found, before it becomes a Python object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Spent in the window, this amount included when it is allowed.
    pub(crate) spent: Written,
}

/// The spend of one ledger.
#[derive(Default)]
pub(crate) struct LedgerSpend {
    meter: Meter,
    /// What amounts have beyond 10^-12; most ledgers never need it.
    fine: Option<Box<Meter>>,
    newest: Option<i64>,
    /// The largest window seen, its edge included; zero while only window-less budgets were.
    retention: i64,
    /// Nothing stamped at or before this is in the meters.
    forgotten: i64,
    /// All spend since the first budget without a window, which counts it all.
    ever: Option<Written>,
    /// Spend before any window was known, and the stamp of the last: it counts from there.
    early: (Money, i64),
    /// For each number of decimal places, when it was last written: a sum shows the places of what is in it.
    places: SmallVec<[(u8, i64); 2]>,
    holds: Option<Box<Holds>>,
}

#[derive(Default)]
struct Holds {
    by_id: HashMap<Id, Hold, RandomState>,
    /// When each lease ends, in order of reservation.
    leases: VecDeque<(i64, Id)>,
    sum: Money,
    /// How many are held with so many decimal places.
    places: SmallVec<[(u8, u32); 2]>,
}

#[derive(Clone, Copy)]
struct Hold {
    amount: Written,
    lease: i64,
    /// Its lease ended: the amount counts as spent and is no longer held.
    settled: bool,
}

/// Why a reservation cannot be settled.
pub(super) enum SettleError {
    Unknown,
    Overflow,
}

impl Record for LedgerSpend {
    fn is_idle(&self, now: i64) -> bool {
        if self.holds.is_some() || self.ever.is_some_and(|ever| ever.money > Money::default()) {
            return false;
        }
        self.newest.is_none_or(|newest| now.saturating_sub(newest) > self.retention)
    }
}

fn cutoff(now: i64, window: i64) -> i64 {
    now.saturating_sub(window).saturating_sub(1)
}

impl LedgerSpend {
    /// Makes room for a budget's window and forgets what no window sees any more.
    fn prepare(&mut self, now: i64, window: Option<i64>) {
        match window {
            Some(window) => {
                if self.retention == 0 {
                    let early = self.ever.map_or_else(Money::default, |ever| ever.money);
                    self.early = (early, self.newest.unwrap_or(0));
                }
                self.retention = self.retention.max(window.saturating_add(1));
            }
            None if self.ever.is_none() => {
                let places = self.places.iter().map(|&(places, _)| places).max().unwrap_or(0);
                self.ever = Some(Written { money: self.metered(i64::MIN), places });
            }
            None => {}
        }
        self.end_leases(now);
        if self.retention > 0 {
            self.forgotten = now.saturating_sub(self.retention);
            let limit = Timestamp::from_nanos(self.forgotten);
            self.meter.forget_until(limit);
            self.places.retain(|(_, stamp)| *stamp > limit.nanos());
            if let Some(fine) = &mut self.fine {
                fine.forget_until(limit);
            }
        }
    }

    /// What the meters hold after `cutoff`.
    fn metered(&self, cutoff: i64) -> Money {
        // Everything up to here is gone already: the sum is at hand.
        let whole = cutoff <= self.forgotten;
        let read = |meter: &Meter| {
            if whole { meter.spent().pico() } else { meter.spent_after(Timestamp::from_nanos(cutoff)).pico() }
        };
        let fine = self.fine.as_ref().map_or(0, |meter| read(meter));
        Money::from_parts(read(&self.meter), fine).unwrap_or_default()
    }

    /// Spent and held within `window` at `now`, the time of the engine: what has run out by then is let go first.
    pub(super) fn look(&mut self, now: i64, window: Option<i64>) -> Option<Written> {
        self.end_leases(now);
        self.spent(now, window)
    }

    /// Spent and held within `window` at `now`; `None` when the sum does not fit.
    pub(super) fn spent(&self, now: i64, window: Option<i64>) -> Option<Written> {
        let held = self.holds.as_ref().map_or_else(Money::default, |holds| holds.sum);
        let held_places = self.holds.as_ref().map_or(0, |holds| holds.places());
        let (money, places) = match window {
            None => {
                let ever = self.ever.unwrap_or_else(|| Written {
                    money: self.metered(i64::MIN),
                    places: self.places.iter().map(|&(places, _)| places).max().unwrap_or(0),
                });
                (ever.money, ever.places)
            }
            Some(window) => {
                let cutoff = cutoff(now, window);
                let mut money = self.metered(cutoff);
                if self.early.1 > cutoff {
                    money = money.checked_add(self.early.0)?;
                }
                let seen = self.places.iter().filter(|&&(_, stamp)| stamp > cutoff);
                (money, seen.map(|&(places, _)| places).max().unwrap_or(0))
            }
        };
        Some(Written { money: money.checked_add(held)?, places: places.max(held_places) })
    }

    /// What spending `amount` at `now` would be told, and what spent and held would be then; records nothing.
    /// `None` when the sum does not fit.
    pub(super) fn judge(&mut self, now: i64, amount: Written, limits: &Limits) -> Option<Verdict> {
        self.prepare(now, limits.window);
        let spent = self.spent(now, limits.window)?;
        let after = spent.money.checked_add(amount.money)?;
        if limits.max_spend.is_some_and(|limit| after > limit) {
            return Some(Verdict { allowed: false, spent });
        }
        let places = spent.places.max(amount.places);
        Some(Verdict { allowed: true, spent: Written { money: after, places } })
    }

    /// Records spend; `None` when a sum would not fit, which leaves everything as it was.
    pub(super) fn record(&mut self, stamp: i64, amount: Written) -> Option<()> {
        let ever = match self.ever {
            Some(ever) => Some(Written {
                money: ever.money.checked_add(amount.money)?,
                places: ever.places.max(amount.places),
            }),
            None => None,
        };
        if self.retention > 0 {
            let window = Window::Rolling(Span::from_nanos(self.retention));
            let at = Timestamp::from_nanos(stamp);
            self.meter.record(at, Amount::from_pico(amount.money.pico), window).ok()?;
            if amount.money.fine > 0 {
                // Below 10^26 each: 10^12 of them fit, so this cannot fail once the coarse part was taken.
                self.fine
                    .get_or_insert_default()
                    .record(at, Amount::from_pico(amount.money.fine), window)
                    .ok()?;
            }
        }
        self.ever = ever;
        // A clock that went back may record behind what was forgotten.
        self.forgotten = self.forgotten.min(stamp.saturating_sub(1));
        self.note_places(amount.places, stamp);
        self.newest = self.newest.max(Some(stamp));
        Some(())
    }

    fn note_places(&mut self, places: u8, stamp: i64) {
        match self.places.iter_mut().find(|(known, _)| *known == places) {
            Some((_, latest)) => *latest = (*latest).max(stamp),
            None => self.places.push((places, stamp)),
        }
    }

    /// Decides and, when it is allowed, records.
    pub(super) fn admit(&mut self, now: i64, amount: Written, limits: &Limits) -> Option<Verdict> {
        let verdict = self.judge(now, amount, limits)?;
        if verdict.allowed {
            self.record(now, amount)?;
        }
        Some(verdict)
    }

    /// Decides and, when it is allowed, holds.
    pub(super) fn reserve(&mut self, now: i64, id: Id, amount: Written, limits: &Limits) -> Option<Verdict> {
        let verdict = self.judge(now, amount, limits)?;
        if verdict.allowed {
            let lease = limits.window.map_or(LEASE, |window| window.max(LEASE));
            let holds = self.holds.get_or_insert_default();
            holds.sum = holds.sum.checked_add(amount.money)?;
            holds.note_places(amount.places);
            holds.by_id.insert(id, Hold { amount, lease, settled: false });
            holds.leases.push_back((now.saturating_add(lease), id));
            self.newest = self.newest.max(Some(now));
        }
        Some(verdict)
    }

    /// Settles a reservation: frees it and records what was really spent, at the time of settlement.
    pub(super) fn commit(&mut self, id: &Id, now: Option<i64>, actual: Written) -> Result<(), SettleError> {
        let now = now.or(self.newest).unwrap_or(0);
        let hold = self.hold(id).ok_or(SettleError::Unknown)?;
        let due = if hold.settled {
            // The full amount was recorded when the lease ended; only what exceeds it is new.
            Written { money: actual.money.saturating_sub(hold.amount.money), places: actual.places }
        } else {
            actual
        };
        self.record(now, due).ok_or(SettleError::Overflow)?;
        self.drop_hold(id);
        Ok(())
    }

    /// Gives a reservation back unspent.
    pub(super) fn release(&mut self, id: &Id) -> Result<(), SettleError> {
        self.hold(id).ok_or(SettleError::Unknown)?;
        self.drop_hold(id);
        Ok(())
    }

    pub(super) fn hold_exists(&self, id: &Id) -> bool {
        self.hold(id).is_some()
    }

    fn hold(&self, id: &Id) -> Option<Hold> {
        self.holds.as_ref()?.by_id.get(id).copied()
    }

    fn drop_hold(&mut self, id: &Id) {
        let Some(holds) = &mut self.holds else { return };
        if let Some(hold) = holds.by_id.remove(id)
            && !hold.settled
        {
            holds.free(hold.amount);
        }
        if holds.by_id.is_empty() {
            self.holds = None;
        } else if holds.leases.len() > 2 * holds.by_id.len() + 16 {
            let by_id = &holds.by_id;
            holds.leases.retain(|(_, id)| by_id.contains_key(id));
        }
    }

    /// Settles at the full amount what stayed open beyond its lease; forgets it one more lease later.
    fn end_leases(&mut self, now: i64) {
        while let Some((due, id)) = self.holds.as_ref().and_then(|holds| holds.leases.front().copied()) {
            if due > now {
                return;
            }
            match self.hold(&id) {
                Some(hold) if !hold.settled => {
                    if self.record(due, hold.amount).is_none() {
                        return;
                    }
                    let Some(holds) = &mut self.holds else { return };
                    holds.leases.pop_front();
                    holds.free(hold.amount);
                    holds.by_id.insert(id, Hold { settled: true, ..hold });
                    let again = due.saturating_add(hold.lease);
                    let place = holds.leases.partition_point(|&(other, _)| other <= again);
                    holds.leases.insert(place, (again, id));
                }
                _ => {
                    if let Some(holds) = &mut self.holds {
                        holds.leases.pop_front();
                    }
                    self.drop_hold(&id);
                }
            }
        }
    }
}

impl Holds {
    fn places(&self) -> u8 {
        self.places.iter().map(|&(places, _)| places).max().unwrap_or(0)
    }

    fn note_places(&mut self, places: u8) {
        match self.places.iter_mut().find(|(known, _)| *known == places) {
            Some((_, holds)) => *holds += 1,
            None => self.places.push((places, 1)),
        }
    }

    /// Takes an amount out of what is held.
    fn free(&mut self, amount: Written) {
        self.sum = self.sum.saturating_sub(amount.money);
        if let Some((_, holds)) = self.places.iter_mut().find(|(places, _)| *places == amount.places) {
            *holds -= 1;
        }
        self.places.retain(|(_, holds)| *holds > 0);
    }
}
