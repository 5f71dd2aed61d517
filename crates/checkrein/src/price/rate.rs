//! A price as the book has it: per unit, in steps of the length of the input, from a day on or at some hours.

use checkrein_core::time::Timestamp;
use checkrein_core::usage::UsageUnit;

/// The price of as many units as [`UsageUnit::per`] says, in pico-USD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    base: u64,
    /// Where a dearer or cheaper price begins, ascending: above so many input tokens all of them cost it.
    steps: Box<[(u64, u64)]>,
}

impl Rate {
    /// The largest price: a million USD per million tokens.
    pub const MOST: u64 = 1_000_000_000_000_000_000;

    /// One price, whatever the length of the input.
    pub fn flat(pico: u64) -> Option<Self> {
        Self::stepped(pico, Vec::new())
    }

    /// A price, and other prices for every token of a call with more input tokens than the steps say.
    ///
    /// `None` when a price exceeds [`Rate::MOST`] or the steps do not ascend.
    pub fn stepped(base: u64, steps: Vec<(u64, u64)>) -> Option<Self> {
        let ascending = steps.iter().zip(steps.iter().skip(1)).all(|(low, high)| low.0 < high.0);
        let small = base <= Self::MOST && steps.iter().all(|(_, pico)| *pico <= Self::MOST);
        (ascending && small).then(|| Self { base, steps: steps.into() })
    }

    /// The price without steps.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The steps: above so many input tokens, so much.
    pub fn steps(&self) -> &[(u64, u64)] {
        &self.steps
    }

    /// The price in a call with so many input tokens.
    pub fn at(&self, input: u64) -> u64 {
        self.steps.iter().rev().find(|(above, _)| input > *above).map_or(self.base, |(_, pico)| *pico)
    }

    /// The dearest price in any call with at most so many input tokens.
    pub fn dearest(&self, input: u64) -> u64 {
        let reached = self.steps.iter().filter(|(above, _)| input > *above).map(|(_, pico)| *pico);
        reached.fold(self.base, u64::max)
    }

    /// Whether it is nowhere below another.
    pub(super) fn is_never_below(&self, other: &Self) -> bool {
        self.edges(other).all(|input| self.at(input) >= other.at(input))
    }

    /// The dearer of both at every length of the input.
    pub(super) fn dearer(&self, other: &Self) -> Self {
        let mut starts: Vec<u64> = self.steps.iter().chain(&other.steps).map(|(above, _)| *above).collect();
        starts.sort_unstable();
        starts.dedup();
        let price = |input| self.at(input).max(other.at(input));
        let steps = starts.iter().map(|above| (*above, price(above.saturating_add(1)))).collect();
        Self { base: self.base.max(other.base), steps }
    }

    /// An input length of every step of both.
    fn edges<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let starts = self.steps.iter().chain(&other.steps).map(|(above, _)| above.saturating_add(1));
        starts.chain([0])
    }
}

/// The price of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// What is counted.
    pub unit: UsageUnit,
    /// What it costs.
    pub rate: Rate,
}

/// The prices of a model under one condition, parts before their wholes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices(Vec<Price>);

impl Prices {
    /// Prices, each unit once.
    pub fn new(mut prices: Vec<Price>) -> Option<Self> {
        prices.sort_by_key(|price| order(price.unit));
        let twice = prices.iter().zip(prices.iter().skip(1)).any(|(one, next)| one.unit == next.unit);
        (!twice).then_some(Self(prices))
    }

    /// The prices.
    pub fn iter(&self) -> std::slice::Iter<'_, Price> {
        self.0.iter()
    }

    /// Whether nothing has a price.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The price of a unit.
    pub fn get(&self, unit: UsageUnit) -> Option<&Rate> {
        self.0.iter().find(|price| price.unit == unit).map(|price| &price.rate)
    }

    /// Puts a price in the place of that of the same unit, or beside the others.
    pub fn put(&mut self, price: Price) {
        match self.0.binary_search_by_key(&order(price.unit), |other| order(other.unit)) {
            Ok(at) => {
                if let Some(place) = self.0.get_mut(at) {
                    *place = price;
                }
            }
            Err(at) => self.0.insert(at, price),
        }
    }
}

/// Parts first: what they use is taken out of their wholes.
fn order(unit: UsageUnit) -> (std::cmp::Reverse<u32>, UsageUnit) {
    (std::cmp::Reverse(unit.detail()), unit)
}

/// When a price holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At any time.
    Always,
    /// From the first second of a day (UTC) on: seconds since 1970.
    From(i64),
    /// Every day from one second of the day (UTC) until before another; over midnight when the first is later.
    Between(u32, u32),
}

const DAY: i64 = 86_400;
const NANOS: i64 = 1_000_000_000;

impl When {
    /// Whether it holds at an instant, counted from 1970.
    pub fn holds(self, at: Timestamp) -> bool {
        let seconds = at.nanos().div_euclid(NANOS);
        match self {
            Self::Always => true,
            Self::From(begin) => seconds >= begin,
            Self::Between(begin, end) => {
                let now = seconds.rem_euclid(DAY);
                let (begin, end) = (i64::from(begin), i64::from(end));
                if end < begin { now >= begin || now < end } else { begin <= now && now < end }
            }
        }
    }

    /// The instants after one and until another, a day later at most, at which it begins or ends to hold.
    pub(super) fn changes(self, after: Timestamp, until: Timestamp) -> impl Iterator<Item = Timestamp> {
        let midnight = after.nanos().div_euclid(NANOS * DAY).saturating_mul(DAY);
        let of_day = |second: u32| midnight.saturating_add(i64::from(second));
        let seconds = match self {
            Self::Always => [None; 4],
            Self::From(begin) => [Some(begin), None, None, None],
            Self::Between(begin, end) => {
                let [begin, end] = [of_day(begin), of_day(end)];
                [begin, end, begin.saturating_add(DAY), end.saturating_add(DAY)].map(Some)
            }
        };
        let instants = seconds.into_iter().flatten().map(|second| second.saturating_mul(NANOS));
        instants.map(Timestamp::from_nanos).filter(move |instant| *instant > after && *instant <= until)
    }
}

/// Prices and when they hold. For a variant, also which calls they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// When they hold.
    pub when: When,
    /// What the call must be, all of it: `processing` is `batch`. Nothing for standard prices.
    pub context: Vec<(Box<str>, Box<str>)>,
    /// The prices.
    pub prices: Prices,
}

impl Conditions {
    /// Whether a call with this context is one of them.
    pub fn fits(&self, context: &[(&str, &str)]) -> bool {
        self.context.iter().all(|(key, value)| {
            let said = context.iter().find(|(given, _)| *given == &**key);
            said.is_some_and(|(_, given)| *given == &**value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_reached_only_above_their_beginning() {
        let rate = Rate::stepped(3, vec![(100, 6), (200, 5)]).unwrap();
        for (input, price, dearest) in [(0, 3, 3), (100, 3, 3), (101, 6, 6), (200, 6, 6), (201, 5, 6)] {
            assert_eq!((rate.at(input), rate.dearest(input)), (price, dearest), "{input}");
        }
        assert_eq!(Rate::stepped(1, vec![(5, 1), (5, 2)]), None);
        assert_eq!(Rate::flat(Rate::MOST + 1), None);
        let other = Rate::stepped(4, vec![(150, 1)]).unwrap();
        let both = rate.dearer(&other);
        assert_eq!(both, Rate::stepped(4, vec![(100, 6), (150, 6), (200, 5)]).unwrap());
        assert!(both.is_never_below(&rate) && both.is_never_below(&other) && !rate.is_never_below(&other));
    }

    #[test]
    fn times_of_the_day_and_days() {
        let at = |seconds: i64| Timestamp::from_nanos(seconds * NANOS);
        let late = When::Between(79_200, 3_600);
        for (when, seconds, holds) in [
            (When::From(DAY), DAY - 1, false),
            (When::From(DAY), DAY, true),
            (When::Between(3_600, 7_200), 5 * DAY + 3_600, true),
            (When::Between(3_600, 7_200), 5 * DAY + 7_200, false),
            (When::Between(3_600, 7_200), -DAY + 3_600, true),
            (late, 79_199, false),
            (late, 79_200, true),
            (late, DAY + 3_599, true),
            (late, DAY + 3_600, false),
        ] {
            assert_eq!(when.holds(at(seconds)), holds, "{when:?} {seconds}");
        }
        let changes = |when: When, from, until| {
            when.changes(at(from), at(until)).map(|at| at.nanos() / NANOS).collect::<Vec<_>>()
        };
        assert!(changes(When::Always, 0, DAY).is_empty());
        assert_eq!(changes(When::From(DAY), 0, DAY), [DAY]);
        assert!(changes(When::From(DAY), DAY, 2 * DAY).is_empty());
        assert_eq!(changes(When::Between(10, 20), 15, 2 * DAY), [20, DAY + 10, DAY + 20]);
        assert!(changes(When::Between(10, 20), 15, 19).is_empty());
    }
}
