//! Calendar windows: where the current day, week or month ends in a time zone.

use std::sync::Arc;

use checkrein_core::time::Timestamp;
use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, ToSpan, Zoned};
use parking_lot::Mutex;

/// A calendar period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// The word used in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Reads a period's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Day, Self::Week, Self::Month].into_iter().find(|period| period.name() == word)
    }
}

/// A calendar window: a period in a time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
    name: Arc<str>,
    /// The period that was computed last: most decisions fall into it.
    current: Arc<Mutex<Option<(Timestamp, Timestamp)>>>,
}

/// A time zone that this machine does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known time zone")]
pub struct UnknownZone(String);

impl Calendar {
    /// A period in an IANA time zone such as `Europe/Berlin`.
    ///
    /// # Errors
    /// The zone is not known.
    pub fn new(period: Period, zone: &str) -> Result<Self, UnknownZone> {
        let found = TimeZone::get(zone).map_err(|_| UnknownZone(zone.chars().take(60).collect()))?;
        Ok(Self { period, zone: found, name: zone.into(), current: Arc::default() })
    }

    /// The period.
    pub fn period(&self) -> Period {
        self.period
    }

    /// The time zone's name.
    pub fn zone(&self) -> &str {
        &self.name
    }

    /// The end of the period that `now` lies in, as the first instant of the next one.
    pub fn period_end(&self, now: Timestamp) -> Timestamp {
        let mut current = self.current.lock();
        if let Some((start, end)) = *current
            && start <= now
            && now < end
        {
            return end;
        }
        let Some((start, end)) = self.bounds(now) else { return Timestamp::MAX };
        *current = Some((start, end));
        end
    }

    fn bounds(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let zoned = Instant::from_nanosecond(i128::from(now.nanos())).ok()?.to_zoned(self.zone.clone());
        let midnight = zoned.start_of_day().ok()?;
        let (start, length) = match self.period {
            Period::Day => (midnight, 1.day()),
            Period::Week => {
                let since_monday = i64::from(midnight.weekday().to_monday_zero_offset());
                (midnight.checked_sub(since_monday.days()).ok()?, 1.week())
            }
            Period::Month => (midnight.first_of_month().ok()?, 1.month()),
        };
        // A day that begins at 01:00 after a gap still begins where the calendar says.
        let start = start.start_of_day().ok()?;
        let end = start.checked_add(length).ok()?.start_of_day().ok()?;
        Some((stamp(&start)?, stamp(&end)?))
    }
}

fn stamp(zoned: &Zoned) -> Option<Timestamp> {
    i64::try_from(zoned.timestamp().as_nanosecond()).ok().map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(period: Period, zone: &str, now: &str, end: &str) {
        let parse = |text: &str| {
            let instant: Instant = text.parse().unwrap();
            Timestamp::from_nanos(i64::try_from(instant.as_nanosecond()).unwrap())
        };
        let calendar = Calendar::new(period, zone).unwrap();
        for _ in 0..2 {
            assert_eq!(calendar.period_end(parse(now)), parse(end), "{period:?} {zone} {now}");
        }
    }

    #[test]
    fn periods_end_where_the_calendar_says() {
        check(Period::Day, "UTC", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z");
        check(Period::Day, "UTC", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z");
        // The day on which summer time begins has 23 hours, the one on which it ends 25.
        check(Period::Day, "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T22:00:00Z");
        check(Period::Day, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T23:00:00Z");
        check(Period::Week, "UTC", "2026-11-21T10:00:00Z", "2026-11-23T00:00:00Z");
        check(Period::Month, "America/New_York", "2026-12-31T23:00:00Z", "2027-01-01T05:00:00Z");
        assert_eq!(
            Calendar::new(Period::Day, "Mars/Olympus").unwrap_err().to_string(),
            "`Mars/Olympus` is not a known time zone"
        );
    }
}
