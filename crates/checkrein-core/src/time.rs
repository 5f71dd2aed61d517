//! Time as the core sees it: integer nanoseconds that come in as values.

use std::fmt;

/// An instant: nanoseconds since the origin of the meter's clock (the store's, or the one its user gave).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant; nothing happened then.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest instant.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant `nanos` nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The instant `span` later, held at the end of time.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The instant `span` earlier, held at the beginning of time.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Span {
        let nanos = self.0.saturating_sub(earlier.0);
        Span(if nanos < 0 { 0 } else { nanos })
    }
}

/// A length of time in nanoseconds, zero or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest span, about 292 years.
    pub const MAX: Self = Self(i64::MAX);

    /// A span of `nanos` nanoseconds; below zero it is zero.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(if nanos < 0 { 0 } else { nanos })
    }

    /// A span of whole seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self(secs as i64 * 1_000_000_000)
    }

    /// A span of whole milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis as i64 * 1_000_000)
    }

    /// Its nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Its seconds, for people: never for arithmetic.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Whether it has no length.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Parses `250ms`, `2s`, `1.5s`, `10m`, `1h`, `7d`, `2w`, with or without a space, or a unit's name (`minute`).
    ///
    /// Returns `None` for anything else, for zero digits, and for what does not fit.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, word) = text.split_at(at);
        let unit: i64 = match word.trim().to_ascii_lowercase().as_str() {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" | "second" | "seconds" => 1_000_000_000,
            "m" | "min" | "minute" | "minutes" => 60_000_000_000,
            "h" | "hour" | "hours" => 3_600_000_000_000,
            "d" | "day" | "days" => 86_400_000_000_000,
            "w" | "week" | "weeks" => 604_800_000_000_000,
            _ => return None,
        };
        if number.is_empty() {
            return Some(Self(unit));
        }
        let pico = crate::amount::Amount::parse(number).ok()?.pico();
        let nanos = pico.checked_mul(i128::from(unit))? / 1_000_000_000_000;
        i64::try_from(nanos).ok().map(Self)
    }
}

impl fmt::Display for Span {
    /// The largest unit that shows it exactly, else seconds with a fraction: `2s`, `10m`, `1.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 5] = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
        ];
        if self.0 == 0 {
            return f.write_str("0s");
        }
        for (nanos, name) in UNITS {
            if self.0 % nanos == 0 {
                return write!(f, "{}{name}", self.0 / nanos);
            }
        }
        let (whole, fraction) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let digits = format!("{fraction:09}");
        write!(f, "{whole}.{}s", digits.trim_end_matches('0'))
    }
}

/// Over which stretch of time a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The last stretch of this length: an event exactly this old has left.
    Rolling(Span),
    /// The current calendar period; its end comes in with each step and only moves forward.
    Period,
    /// All time: a sum is enough.
    Lifetime,
}

impl Window {
    /// The instant at and before which events have left a rolling window.
    pub const fn cutoff(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Rolling(length) => now.before(length),
            Self::Period | Self::Lifetime => Timestamp::MIN,
        }
    }
}

/// The time of a step, as far as it is known: a store whose clock is another machine's knows two bounds of it.
///
/// What has left a window is judged by the earlier one and what happens now is stamped with the later one, so that
/// whatever the true time is, no interval sees more than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// It is not earlier than this.
    pub earliest: Timestamp,
    /// It is not later than this.
    pub latest: Timestamp,
}

impl From<Timestamp> for Now {
    #[inline]
    fn from(now: Timestamp) -> Self {
        Self { earliest: now, latest: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, shown) in [
            ("2s", "2s"),
            ("1.5s", "1500ms"),
            ("10 min", "10m"),
            ("day", "1d"),
            ("90m", "90m"),
            ("0.0000005s", "0.0000005s"),
            ("0s", "0s"),
        ] {
            assert_eq!(Span::parse(text).map(|s| s.to_string()).as_deref(), Some(shown), "for {text}");
        }
        for text in ["", "5", "5 fortnights", "-1s", "1e9s", "99999999999999999999d"] {
            assert_eq!(Span::parse(text), None, "for {text}");
        }
    }
}
