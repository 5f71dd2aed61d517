//! Instants as text: RFC 3339 in UTC with nine decimals, computed from nanoseconds alone.

use crate::time::Timestamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Bytes of an instant as text, always the same: `2026-11-21T10:18:30.123456789Z`.
pub const LENGTH: usize = 30;

/// Writes `time`, nanoseconds since 1970 in UTC, as text.
pub fn write(time: Timestamp, out: &mut Vec<u8>) {
    let seconds = time.nanos().div_euclid(NANOS_PER_SECOND);
    let nanos = time.nanos().rem_euclid(NANOS_PER_SECOND);
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    for (value, width, before) in [
        (year, 4, None),
        (month, 2, Some(b'-')),
        (day, 2, Some(b'-')),
        (second / 3600, 2, Some(b'T')),
        (second / 60 % 60, 2, Some(b':')),
        (second % 60, 2, Some(b':')),
        (nanos, 9, Some(b'.')),
    ] {
        out.extend(before);
        digits(value.unsigned_abs(), width, out);
    }
    out.push(b'Z');
}

/// Returns `time` as text.
#[must_use]
pub fn to_text(time: Timestamp) -> String {
    let mut out = Vec::with_capacity(LENGTH);
    write(time, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Reads an instant in exactly the form that [`write`] gives it.
#[must_use]
pub fn read(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; LENGTH] = text.try_into().ok()?;
    let number = |from: usize, width: usize| {
        text.get(from..from.saturating_add(width))?.iter().try_fold(0_i64, |sum, byte| {
            byte.is_ascii_digit().then(|| sum.saturating_mul(10).saturating_add(i64::from(byte & 0xF)))
        })
    };
    let days = days_from_civil(number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let second = number(11, 2)?
        .saturating_mul(3600)
        .saturating_add(number(14, 2)?.saturating_mul(60))
        .saturating_add(number(17, 2)?);
    let time = days
        .checked_mul(SECONDS_PER_DAY)?
        .checked_add(second)?
        .checked_mul(NANOS_PER_SECOND)
        .and_then(|nanos| nanos.checked_add(number(20, 9)?))
        .map(Timestamp::from_nanos)?;
    // One form: separators, ranges and days that do not exist are all decided by writing it again.
    let mut again = Vec::with_capacity(LENGTH);
    write(time, &mut again);
    (again == text).then_some(time)
}

fn digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 9];
    for place in text.iter_mut().rev().take(width) {
        *place = b'0' | u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
    out.extend(text.iter().skip(9_usize.saturating_sub(width)));
}

/// The day of the proleptic Gregorian calendar that is `days` after 1970-01-01, counted in eras of 400 years from
/// the first of March, so that the leap day is the last of its year. An `i64` of nanoseconds ends in 2262.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_795_256_310_123_456_789, "2026-11-21T10:18:30.123456789Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(to_text(Timestamp::from_nanos(nanos)), text);
            if nanos != i64::MIN {
                assert_eq!(read(text.as_bytes()), Some(Timestamp::from_nanos(nanos)));
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "2026-11-21T10:18:30Z",
            "2026-11-21t10:18:30.123456789Z",
            "2026-11-21T10:18:30.123456789z",
            "2026-11-31T10:18:30.123456789Z",
            "2025-02-29T10:18:30.123456789Z",
            "2026-13-21T10:18:30.123456789Z",
            "2026-11-21T24:18:30.123456789Z",
            "2026-11-21T10:60:30.123456789Z",
            "9999-11-21T10:18:30.123456789Z",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_reads_back(nanos in i64::MIN / 2..i64::MAX) {
            let time = Timestamp::from_nanos(nanos);
            prop_assert_eq!(read(to_text(time).as_bytes()), Some(time));
        }
    }
}
