//! The servers' time, as far as it can be known from here: bounds, tightened by every reply.

use std::time::{Duration, Instant};

use checkrein_core::time::{Now, Timestamp};

/// One nanosecond in so many: two clocks that are in order drift apart more slowly.
const DRIFT: i64 = 5_000;
/// What is added to the later bound at first: the time that a request takes.
const PATIENCE: Duration = Duration::from_millis(2);
const MOST_PATIENCE: Duration = Duration::from_millis(200);
/// So long after one change of the patience comes the next.
const CALM: Duration = Duration::from_millis(10);

/// Where a server's clock stands, seen from this process's monotonic one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    base: Instant,
    /// The server's time at `base`, in nanoseconds since 1970, is between these.
    low: i64,
    high: i64,
    /// When the bounds were last made.
    at: Instant,
    patience: Duration,
    /// When the patience was last made longer or shorter.
    changed: Instant,
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX / 4)
}

impl Estimate {
    /// From one reply: the server said `micros` after `sent` and before `received`.
    pub(super) fn first(sent: Instant, received: Instant, micros: i64) -> Self {
        let (low, high) = (i64::MIN / 4, i64::MAX / 4);
        let mut estimate =
            Self { base: sent, low, high, at: received, patience: PATIENCE, changed: received };
        estimate.learn(sent, received, micros);
        estimate
    }

    pub(super) fn learn(&mut self, sent: Instant, received: Instant, micros: i64) {
        let server = micros.saturating_mul(1_000);
        let since = |instant: Instant| nanos(instant.saturating_duration_since(self.base));
        // The server rounds down to the microsecond.
        let (low, high) = (server - since(received), server + 1_000 - since(sent));
        let drift = nanos(received.saturating_duration_since(self.at)) / DRIFT;
        (self.low, self.high) = (low.max(self.low - drift), high.min(self.high + drift));
        if self.low > self.high {
            // The server's clock was set.
            (self.low, self.high) = (low, high);
        }
        self.at = received;
    }

    /// The bounds for a request that is sent now.
    pub(super) fn now(&self) -> Now {
        let now = Instant::now();
        let since = nanos(now.saturating_duration_since(self.base));
        let drift = nanos(now.saturating_duration_since(self.at)) / DRIFT;
        Now {
            earliest: Timestamp::from_nanos(self.low - drift + since),
            latest: Timestamp::from_nanos(self.high + drift + since + nanos(self.patience)),
        }
    }

    /// The bounds were too narrow for a round that took so long: the next ones are wider. All replies of a round say the
    /// same, so only the first of them counts.
    pub(super) fn widen(&mut self, took: Duration) {
        if self.changed.elapsed() >= took {
            self.set_patience((self.patience * 2).max(took));
        }
    }

    /// They were wide enough: what was added goes slowly, so that one long round is not refused after another.
    pub(super) fn relax(&mut self) {
        if self.patience > PATIENCE && self.changed.elapsed() >= CALM {
            self.set_patience(self.patience * 7 / 8);
        }
    }

    fn set_patience(&mut self, patience: Duration) {
        (self.patience, self.changed) = (patience.clamp(PATIENCE, MOST_PATIENCE), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_time_lies_between_the_bounds() {
        let base = Instant::now();
        let at = |micros: u64| base + Duration::from_micros(micros);
        // The server is an hour ahead, and the request takes 100 us there and 50 back.
        let server = 3_600_000_000_i64;
        let mut estimate = Estimate::first(at(0), at(150), server + 100);
        for step in 1..1_000_u64 {
            let (sent, there, back) = (step * 1_000, 20 + step % 7 * 30, 10 + step % 5 * 40);
            let true_time = server + (sent + there) as i64;
            estimate.learn(at(sent), at(sent + there + back), true_time);
            assert!(estimate.low <= server * 1_000 && server * 1_000 <= estimate.high, "{estimate:?}");
        }
        assert!(estimate.high - estimate.low < 60_000, "{estimate:?}");
        // Somebody sets the server's clock back: the next reply counts.
        estimate.learn(at(2_000_000), at(2_000_100), 50);
        let now = 50_000 - 2_000_000_000;
        assert!((estimate.low - now).abs() <= 200_000, "{estimate:?}");
    }

    #[test]
    fn a_round_of_late_replies_widens_the_bounds_once() {
        let sent = Instant::now();
        let mut estimate = Estimate::first(sent, sent, 1_000_000);
        // The round took longer than there was patience, and each of its replies says that it came too late.
        let took = Duration::from_millis(30);
        estimate.changed = sent - took;
        (0..64).for_each(|_| estimate.widen(took));
        assert_eq!(estimate.patience, took);
        // Replies that came in time take it back, but not all at once.
        (0..64).for_each(|_| estimate.relax());
        assert_eq!(estimate.patience, took);
        estimate.changed = sent - CALM;
        (0..64).for_each(|_| estimate.relax());
        assert_eq!(estimate.patience, took * 7 / 8);
    }
}
