//! What a usage costs: each unit without its parts, times its price, added up exactly and rounded up once.

use std::borrow::Cow;

use checkrein_core::amount::Amount;
use checkrein_core::time::Timestamp;
use checkrein_core::usage::{Direction, UnitSet, Usage, UsageError, UsageUnit};
use smallvec::SmallVec;

use super::book::Found;
use super::error::PriceError;
use super::rate::{Price, Prices};
use super::terms::{Factor, Quote};

/// Every number of units that a price can be for divides it, so that different units add up without a remainder.
pub(super) const SCALE: u128 = 9_000_000_000;
const PICO_PER_NANO: u128 = 1_000;

/// What a call costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// In USD, rounded up to the nano.
    pub usd: Amount,
    /// What was used and has no price in the book: it is not in `usd`.
    pub unpriced: UnitSet,
}

/// What one unit adds to the cost of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was counted.
    pub unit: UsageUnit,
    /// How many, without those that a part of it accounts for.
    pub count: u64,
    /// The price of as many as [`UsageUnit::per`] says, in pico-USD.
    pub rate: u64,
}

impl Line {
    /// Its share of the cost, rounded up to the pico-USD: for people, the sum is rounded once.
    pub fn usd(&self) -> Amount {
        let pico = (u128::from(self.count) * u128::from(self.rate)).div_ceil(u128::from(self.unit.per()));
        Amount::from_pico(i128::try_from(pico).unwrap_or(i128::MAX))
    }
}

impl<'a> Found<'a> {
    /// The prices that hold at an instant for a call of this context.
    ///
    /// A provider that passes on another's model sells it at the standard price: what the owner takes for its own
    /// special calls says nothing about it.
    pub fn prices(&self, at: Timestamp, context: &[(&str, &str)]) -> Cow<'a, Prices> {
        let standard = &self.model.standard;
        let holds = standard.iter().rev().find(|conditions| conditions.when.holds(at));
        let Some(prices) = holds.or(standard.first()).map(|conditions| &conditions.prices) else {
            return Cow::Owned(Prices::default());
        };
        let mut prices = Cow::Borrowed(prices);
        if !self.is_own || context.is_empty() {
            return prices;
        }
        let fitting = |variant: &&super::Conditions| variant.fits(context) && variant.when.holds(at);
        let mut taken = UnitSet::EMPTY;
        for Price { unit, rate } in self.model.variants.iter().filter(fitting).flat_map(|v| v.prices.iter()) {
            if !taken.has(*unit) {
                taken = taken.with(*unit);
                prices.to_mut().put(Price { unit: *unit, rate: rate.clone() });
            }
        }
        prices
    }

    /// What of a context changes nothing because the book has no price for it at that time.
    pub fn without_price<'c>(
        &self,
        at: Timestamp,
        context: &[(&'c str, &'c str)],
    ) -> Vec<(&'c str, &'c str)> {
        let standard = [("service_tier", "default"), ("service_tier", "standard"), ("speed", "standard")];
        let priced = |pair: &(&str, &str)| {
            let names = |variant: &&super::Conditions| {
                variant.when.holds(at) && variant.context.iter().any(|(key, said)| (&**key, &**said) == *pair)
            };
            self.is_own && self.model.variants.iter().any(|variant| names(&variant))
        };
        context.iter().copied().filter(|pair| !standard.contains(pair) && !priced(pair)).collect()
    }

    /// What a usage costs at an instant.
    ///
    /// # Errors
    /// The usage contradicts itself, does not tell what has a price, or the cost does not fit.
    pub fn cost(&self, usage: &Usage, at: Timestamp, context: &[(&str, &str)]) -> Result<Cost, PriceError> {
        Quote::from(*self).cost(usage, at, context)
    }

    /// What a usage costs at an instant, and line by line why.
    ///
    /// # Errors
    /// As [`Found::cost`].
    pub fn explain(
        &self,
        usage: &Usage,
        at: Timestamp,
        context: &[(&str, &str)],
    ) -> Result<(Cost, Vec<Line>), PriceError> {
        Quote::from(*self).explain(usage, at, context)
    }
}

impl Quote<'_> {
    /// What a usage costs at an instant.
    ///
    /// # Errors
    /// As [`Found::cost`].
    pub fn cost(&self, usage: &Usage, at: Timestamp, context: &[(&str, &str)]) -> Result<Cost, PriceError> {
        self.cost_with(usage, at, context, |_| {})
    }

    /// What a usage costs at an instant, and line by line why, before discounts.
    ///
    /// # Errors
    /// As [`Found::cost`].
    pub fn explain(
        &self,
        usage: &Usage,
        at: Timestamp,
        context: &[(&str, &str)],
    ) -> Result<(Cost, Vec<Line>), PriceError> {
        let mut lines = Vec::new();
        let cost = self.cost_with(usage, at, context, |line| lines.push(line))?;
        lines.sort_by_key(|line| line.unit);
        Ok((cost, lines))
    }

    fn cost_with(
        &self,
        usage: &Usage,
        at: Timestamp,
        context: &[(&str, &str)],
        each: impl FnMut(Line),
    ) -> Result<Cost, PriceError> {
        let charged = self.charged(usage)?;
        let cost = self.prices(at, context).cost(&charged, self.factor, each)?;
        // Nothing is missing where everything was declared to be free.
        Ok(if self.is_free() { Cost { unpriced: UnitSet::EMPTY, ..cost } } else { cost })
    }

    /// The usage with what is charged at least.
    pub(super) fn charged<'u>(&self, usage: &'u Usage) -> Result<Cow<'u, Usage>, UsageError> {
        let Some((unit, least)) = self.found.and_then(|found| found.model.minimum) else {
            return Ok(Cow::Borrowed(usage));
        };
        let inner = unit.parts().iter().find_map(|part| usage.reported(part));
        let Some(count) = usage.reported(unit).filter(|count| *count > 0).or(inner) else {
            return Ok(Cow::Borrowed(usage));
        };
        let billed = if count > 0 { count.max(least) } else { 0 };
        let mut charged = usage.clone();
        charged.set(unit, billed)?;
        for part in unit.parts().iter().filter(|part| part.direction() == Direction::Input) {
            charged.set(part, billed)?;
        }
        Ok(Cow::Owned(charged))
    }
}

impl Prices {
    /// What a usage costs at these prices.
    ///
    /// # Errors
    /// As [`Found::cost`].
    pub fn cost(
        &self,
        usage: &Usage,
        factor: Factor,
        mut each: impl FnMut(Line),
    ) -> Result<Cost, PriceError> {
        // Steps are chosen by the whole input, whichever part of it they price.
        let stepped = self.iter().any(|price| !price.rate.steps().is_empty());
        let input = if stepped { usage.count(UsageUnit::InputTokens)? } else { 0 };
        let mut sum = 0_u128;
        let mut covered = UnitSet::EMPTY;
        let mut counted: SmallVec<[(UsageUnit, u64); 16]> = SmallVec::new();
        for Price { unit, rate } in self.iter() {
            covered = covered.with(*unit);
            let count = match unit {
                UsageUnit::Requests => 1,
                _ => without_parts(*unit, usage, &counted)?,
            };
            counted.push((*unit, count));
            let rate = rate.at(input);
            sum = add(sum, *unit, count, rate).ok_or(PriceError::OutOfRange)?;
            if count > 0 {
                each(Line { unit: *unit, count, rate });
            }
        }
        let free = |unit: &UsageUnit| !covered.has(*unit) && covered.and(unit.wholes()).is_empty();
        let unpriced = usage.positive().iter().filter(free).fold(UnitSet::EMPTY, UnitSet::with);
        Ok(Cost { usd: rounded_up(sum, factor).ok_or(PriceError::OutOfRange)?, unpriced })
    }
}

/// The sum with one more line, in pico-USD times [`SCALE`].
pub(super) fn add(sum: u128, unit: UsageUnit, count: u64, rate: u64) -> Option<u128> {
    let each = u128::from(rate) * (SCALE / u128::from(unit.per()));
    each.checked_mul(u128::from(count))?.checked_add(sum)
}

/// The whole nano-USD that a sum needs.
pub(super) fn rounded_up(sum: u128, factor: Factor) -> Option<Amount> {
    let nano = match factor {
        Factor::ONE => sum.div_ceil(SCALE * PICO_PER_NANO),
        other => {
            let sum = sum.checked_mul(u128::from(other.millionths()))?;
            sum.div_ceil(SCALE * PICO_PER_NANO * u128::from(Factor::ONE.millionths()))
        }
    };
    i64::try_from(nano).ok().map(Amount::from_nano)
}

/// How many of a unit there are besides those that its priced parts account for.
fn without_parts(unit: UsageUnit, usage: &Usage, counted: &[(UsageUnit, u64)]) -> Result<u64, UsageError> {
    let whole = usage.count(unit)?;
    let parts: u64 = counted.iter().filter(|(part, _)| unit.parts().has(*part)).map(|(_, count)| count).sum();
    whole.checked_sub(parts).ok_or_else(|| {
        let names: Vec<String> =
            usage.positive().and(unit.parts()).iter().map(|part| format!("`{}`", part.name())).collect();
        let (names, name) = (names.join(" and "), unit.name());
        UsageError::Contradictory(format!("{names} together are {parts}, more than the {whole} of `{name}`"))
    })
}
