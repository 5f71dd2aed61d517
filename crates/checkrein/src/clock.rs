//! The engine's clock: one anchor on the calendar, then a monotonic counter that no clock step touches.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use checkrein_core::time::{Span, Timestamp};

/// Where an engine reads the time. It is read before any lock is taken.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { counter: quanta::Clock, origin: u64, anchor: i64 },
    SinceBoot { anchor: i64 },
    Fake(FakeClock),
}

impl Clock {
    /// The machine's clock: the time of day when it was made, advanced by a counter that never runs backwards.
    pub fn system() -> Self {
        let counter = quanta::Clock::new();
        let origin = counter.raw();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let anchor = i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX / 2);
        Self(Source::System { counter, origin, anchor })
    }

    /// A clock that shows the machine's time since it booted, after `anchor` nanoseconds since 1970.
    pub(crate) fn since_boot(anchor: i64) -> Self {
        Self(Source::SinceBoot { anchor })
    }

    /// A clock that stands still until its owner moves it.
    pub fn fake(clock: FakeClock) -> Self {
        Self(Source::Fake(clock))
    }

    /// Nanoseconds since 1970-01-01 00:00 UTC, as far as this clock knows.
    #[inline]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { counter, origin, anchor } => {
                let elapsed = counter.delta_as_nanos(*origin, counter.raw());
                Timestamp::from_nanos(anchor.saturating_add_unsigned(elapsed))
            }
            Source::SinceBoot { anchor } => {
                Timestamp::from_nanos(anchor.saturating_add(crate::store::sqlite::since_boot()))
            }
            Source::Fake(clock) => clock.now(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// A clock for tests: all clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct FakeClock(Arc<AtomicI64>);

impl FakeClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.nanos())))
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Acquire))
    }

    /// Moves it forward, at most to the end of time.
    pub fn advance(&self, span: Span) {
        let later = |now: i64| Some(now.saturating_add(span.nanos()));
        // The closure always gives a value, so the update cannot fail.
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).unwrap_or_default();
    }

    /// Sets it, also backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.nanos(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_runs_forward_and_knows_the_year() {
        let clock = Clock::system();
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first);
        assert!(first.nanos() > 1_700_000_000_000_000_000);
    }
}
