//! One gate's calls: the shared meter behind the edges this module's contract states.
//!
//! An event exactly as old as the window still counts here, so a window is one nanosecond longer than the policy
//! says. What is retained follows the largest window seen, and every check counts with its own (a narrow policy
//! must not make a wide one forget).

use checkrein_core::amount::Amount;
use checkrein_core::meter::Meter;
use checkrein_core::time::{Span, Timestamp, Window};

use super::super::table::Record;
use super::policy::Limits;

/// What a decision found, before it becomes a Python object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Blocked by the cooldown rather than by the limit.
    pub(crate) cooling: bool,
    /// Calls counted, this one included when it is allowed.
    pub(crate) count: u64,
    /// Age of the previous call in nanoseconds.
    pub(crate) age: Option<i64>,
    /// Both stamps of the age came from a clock that counts in Python integers.
    pub(crate) whole: bool,
}

/// The calls of one gate.
#[derive(Default)]
pub(crate) struct GateCalls {
    meter: Meter,
    /// Latest stamp, and whether its clock counts in integers.
    newest: Option<(i64, bool)>,
    /// The largest window seen, its edge included; zero while only window-less policies were.
    retention: i64,
    /// Calls since the first policy without a window, which counts them all.
    ever: Option<u64>,
    /// Calls made before any window was known, and the stamp of the last: they count from there.
    early: (u64, i64),
}

impl Record for GateCalls {
    fn is_idle(&self, now: i64) -> bool {
        match self.newest {
            _ if self.ever.is_some_and(|calls| calls > 0) => false,
            Some((newest, _)) => now.saturating_sub(newest) > self.retention,
            None => true,
        }
    }
}

impl GateCalls {
    /// Calls that `window` still sees at `now`.
    fn count(&self, now: i64, window: Option<i64>) -> u64 {
        let Some(window) = window else {
            return self.ever.unwrap_or_else(|| self.meter.count());
        };
        // INVARIANT: stamps and windows stay within 2^62 of zero, so these cannot overflow; saturate all the same.
        let cutoff = now.saturating_sub(window).saturating_sub(1);
        let early = if self.early.1 > cutoff { self.early.0 } else { 0 };
        let held = if window.saturating_add(1) == self.retention {
            self.meter.count()
        } else {
            self.meter.count_after(Timestamp::from_nanos(cutoff))
        };
        held + early
    }

    /// Age of the latest call that `window` still sees.
    fn age(&self, now: i64, window: Option<i64>) -> Option<i64> {
        let (newest, _) = self.newest?;
        let age = now.saturating_sub(newest);
        window.is_none_or(|window| age <= window).then_some(age)
    }

    /// Makes room for a policy's window and forgets what no window sees any more.
    fn prepare(&mut self, now: i64, window: Option<i64>) {
        match window {
            Some(window) => {
                let window = window.saturating_add(1);
                if self.retention == 0 {
                    // Only window-less policies so far: their calls have no stamps but the last.
                    self.early = (self.ever.unwrap_or(0), self.newest.map_or(0, |(newest, _)| newest));
                }
                self.retention = self.retention.max(window);
            }
            None if self.ever.is_none() => self.ever = Some(self.meter.count()),
            None => {}
        }
        if self.retention > 0 {
            let cutoff = now.saturating_sub(self.retention);
            self.meter.forget_until(Timestamp::from_nanos(cutoff));
            // A clock that goes back must not bring back what has left.
            if self.ever.is_none() && self.newest.is_some_and(|(newest, _)| newest <= cutoff) {
                self.newest = None;
            }
        }
    }

    /// What a call at `now` would be told; records nothing.
    pub(super) fn judge(&mut self, now: i64, whole: bool, limits: &Limits) -> Verdict {
        self.prepare(now, limits.window);
        let age = self.age(now, limits.window);
        let count = self.count(now, limits.window);
        let cooling = limits.cooldown > 0 && age.is_some_and(|age| age < limits.cooldown);
        let allowed = !cooling && count < limits.max_calls;
        let whole = whole && self.newest.is_some_and(|(_, newest_whole)| newest_whole);
        Verdict { allowed, cooling, count: if allowed { count + 1 } else { count }, age, whole }
    }

    /// Records a call at `now`; `false` when the meter refuses it, which leaves everything as it was.
    pub(super) fn record(&mut self, now: i64, whole: bool) -> bool {
        if self.retention > 0 {
            let window = Window::Rolling(Span::from_nanos(self.retention));
            if self.meter.record(Timestamp::from_nanos(now), Amount::ONE, window).is_err() {
                return false;
            }
        }
        if let Some(calls) = &mut self.ever {
            *calls += 1;
        }
        if self.newest.is_none_or(|(newest, _)| newest <= now) {
            self.newest = Some((now, whole));
        }
        true
    }

    /// Decides and, when it is allowed, records.
    #[inline]
    pub(super) fn admit(&mut self, now: i64, whole: bool, limits: &Limits) -> Verdict {
        let mut verdict = self.judge(now, whole, limits);
        if verdict.allowed && !self.record(now, whole) {
            verdict.allowed = false;
            verdict.count -= 1;
        }
        verdict
    }
}
