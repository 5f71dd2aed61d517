//! What a call used, as its provider reports it: counts by unit, strictly read, never guessed.

pub mod dialect;
mod error;
mod unit;

pub use error::UsageError;
pub use unit::{Direction, Family, Modality, UnitSet, UsageUnit};

/// The most of one unit that a report may name.
pub const MOST: u64 = 1_000_000_000_000;

/// What one call used: a count for each unit that was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    counts: [u64; UsageUnit::ALL.len()],
    reported: UnitSet,
    positive: UnitSet,
}

impl Default for Usage {
    fn default() -> Self {
        Self { counts: [0; UsageUnit::ALL.len()], reported: UnitSet::EMPTY, positive: UnitSet::EMPTY }
    }
}

impl Usage {
    /// Reports a count, in the place of an earlier one.
    ///
    /// # Errors
    /// A count above [`MOST`], or of requests: a call is one request, and nobody reports it.
    pub fn set(&mut self, unit: UsageUnit, count: u64) -> Result<(), UsageError> {
        if unit == UsageUnit::Requests {
            return Err(UsageError::UnknownUnit(unit.name().to_owned()));
        }
        if count > MOST {
            return Err(UsageError::TooLarge(unit.name().to_owned()));
        }
        if let Some(place) = self.counts.get_mut(unit as usize) {
            *place = count;
        }
        self.reported = self.reported.with(unit);
        self.positive = if count > 0 { self.positive.with(unit) } else { self.positive.without(unit) };
        Ok(())
    }

    /// Adds to what is reported.
    ///
    /// # Errors
    /// As [`Usage::set`].
    pub fn add(&mut self, unit: UsageUnit, count: u64) -> Result<(), UsageError> {
        self.set(unit, self.reported(unit).unwrap_or_default().saturating_add(count))
    }

    /// What is reported of a unit, if anything.
    pub fn reported(&self, unit: UsageUnit) -> Option<u64> {
        self.reported.has(unit).then(|| self.count_at(unit))
    }

    /// The units with a count above zero.
    pub const fn positive(&self) -> UnitSet {
        self.positive
    }

    /// Whether nothing is reported.
    pub const fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    /// Every count that is reported.
    pub fn iter(&self) -> impl Iterator<Item = (UsageUnit, u64)> {
        self.reported.iter().map(|unit| (unit, self.count_at(unit)))
    }

    /// The count of a unit: as reported, or zero where nothing reported says otherwise.
    ///
    /// # Errors
    /// A part of it is reported, or two units that overlap in it, and it is not.
    pub fn count(&self, unit: UsageUnit) -> Result<u64, UsageError> {
        if self.reported.has(unit) {
            return Ok(self.count_at(unit));
        }
        let parts = self.positive.and(unit.parts());
        if !parts.is_empty() {
            return Err(ambiguous(unit, parts));
        }
        let wholes = self.positive.and(unit.wholes());
        let mut pairs = wholes.iter().flat_map(|left| wholes.iter().map(move |right| (left, right)));
        match pairs.find(|(left, right)| left < right && overlap(unit, *left, *right)) {
            None => Ok(0),
            Some((left, right)) => Err(ambiguous(unit, UnitSet::EMPTY.with(left).with(right))),
        }
    }

    fn count_at(&self, unit: UsageUnit) -> u64 {
        self.counts.get(unit as usize).copied().unwrap_or_default()
    }
}

/// Whether two units overlap in exactly this one. A unit and a part of it overlap in the part, which is reported.
fn overlap(unit: UsageUnit, left: UsageUnit, right: UsageUnit) -> bool {
    !left.parts().has(right) && !right.parts().has(left) && unit.is_overlap_of(left, right)
}

fn ambiguous(unit: UsageUnit, from: UnitSet) -> UsageError {
    let names: Vec<String> = from.iter().map(|unit| format!("`{}`", unit.name())).collect();
    UsageError::Ambiguous { unit: unit.name(), from: names.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(counts: &[(UsageUnit, u64)]) -> Usage {
        let mut usage = Usage::default();
        for (unit, count) in counts {
            usage.set(*unit, *count).unwrap();
        }
        usage
    }

    fn check(counts: &[(UsageUnit, u64)], unit: UsageUnit, expected: &str) {
        let shown = match usage(counts).count(unit) {
            Ok(count) => count.to_string(),
            Err(error) => format!("{}: {error}", error.code()),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_not_reported_is_zero_only_where_nothing_says_otherwise() {
        use UsageUnit::{CacheAudioReadTokens, CacheReadTokens, InputAudioTokens, InputTokens};
        check(&[(InputTokens, 7)], InputTokens, "7");
        check(&[(InputTokens, 7)], CacheReadTokens, "0");
        check(&[(CacheReadTokens, 0)], InputTokens, "0");
        check(
            &[(CacheReadTokens, 1)],
            InputTokens,
            "usage_ambiguous: `input_tokens` is not reported, and cannot be worked out from `cache_read_tokens`",
        );
        let both = [(InputTokens, 9), (CacheReadTokens, 1), (InputAudioTokens, 2)];
        check(
            &both,
            CacheAudioReadTokens,
            "usage_ambiguous: `cache_audio_read_tokens` is not reported, and cannot be worked out from \
             `cache_read_tokens` and `input_audio_tokens`",
        );
        check(&[both[0], both[1], (InputAudioTokens, 0)], CacheAudioReadTokens, "0");
    }

    #[test]
    fn counts_beyond_any_call_are_refused() {
        let mut usage = Usage::default();
        assert_eq!(usage.set(UsageUnit::InputTokens, MOST), Ok(()));
        assert_eq!(usage.add(UsageUnit::InputTokens, 1), Err(UsageError::TooLarge("input_tokens".into())));
        assert_eq!(usage.add(UsageUnit::InputTokens, u64::MAX).unwrap_err().code(), "usage_too_large");
        assert_eq!(usage.set(UsageUnit::Requests, 1).unwrap_err().code(), "usage_unknown_unit");
        assert_eq!(usage.iter().collect::<Vec<_>>(), [(UsageUnit::InputTokens, MOST)]);
    }

    #[test]
    fn parts_and_wholes_mirror_each_other() {
        for one in UsageUnit::ALL {
            assert_eq!(UsageUnit::from_name(one.name()), Some(*one));
            assert_eq!(UsageUnit::from_price_name(one.price_name()), Some(*one));
            for other in UsageUnit::ALL {
                assert_eq!(one.parts().has(*other), other.wholes().has(*one));
                assert!(!one.parts().has(*other) || one.detail() < other.detail());
            }
        }
        let write = UsageUnit::CacheWrite1hTokens;
        let wholes: Vec<&str> = write.wholes().iter().map(UsageUnit::name).collect();
        assert_eq!(wholes, ["input_tokens", "cache_write_tokens"]);
    }
}
