//! What somebody really pays: prices of their own over those of the book, discounts, and what an unknown model costs.
//!
//! A policy hands these in as values; they are checked once, and then every price goes through the [`PriceList`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use checkrein_core::time::Timestamp;

use super::book::{Found, PriceBook};
use super::error::PriceError;
use super::rate::{Price, Prices};

/// A share of a price, in millionths: 900,000 is ten percent off, 1,100,000 ten percent more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u32);

impl Factor {
    /// The whole price.
    pub const ONE: Self = Self(1_000_000);
    /// Ten times the price: more is a mistake.
    pub const MOST: Self = Self(10_000_000);

    /// So many millionths, at most [`Factor::MOST`].
    pub const fn from_millionths(millionths: u32) -> Option<Self> {
        if millionths > Self::MOST.0 { None } else { Some(Self(millionths)) }
    }

    /// Its millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// The provider, as the book names it or a name of your own.
    pub provider: String,
    /// The model: its identifier in the book, or exactly what calls ask for.
    pub model: String,
}

/// A price of your own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// All prices of the model: what is not among them has no price.
    All(Prices),
    /// Some prices, over those of the book.
    Some(Prices),
    /// The model costs nothing, and that is meant.
    Free,
}

/// What differs from the book.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Prices of your own.
    pub overrides: Vec<(Model, Override)>,
    /// The share of the book's prices that a provider takes. Models with prices of your own take no part in it.
    pub factors: Vec<(String, Factor)>,
    /// The model at whose prices a model without one is charged; without it such a model is refused.
    pub assume: Option<Model>,
}

/// Terms that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TermsError {
    /// The same model or provider twice.
    #[error("`{0}` is priced twice")]
    Twice(String),
    /// No prices at all where some are expected.
    #[error("`{0}` is given no price; a model that costs nothing must say so")]
    Empty(String),
    /// A provider that the book does not know has no prices to take a share of.
    #[error("no provider is known as `{0}`")]
    UnknownProvider(String),
    /// The model whose prices are to be changed or assumed has none.
    #[error(transparent)]
    Unknown(#[from] PriceError),
}

/// The book under the terms of one policy.
#[derive(Debug)]
pub struct PriceList<'b> {
    book: &'b PriceBook,
    /// By provider, then by model, both in lower case.
    own: BTreeMap<String, BTreeMap<String, Override>>,
    factors: BTreeMap<String, Factor>,
    assume: Option<Model>,
}

/// The prices of a model under these terms.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    /// The model in the book, if it is in it.
    pub found: Option<Found<'a>>,
    own: Option<&'a Override>,
    pub(super) factor: Factor,
    /// Whether the model is unknown and these are the prices of the one that is assumed.
    pub is_assumed: bool,
}

impl<'a> From<Found<'a>> for Quote<'a> {
    fn from(found: Found<'a>) -> Self {
        Self { found: Some(found), own: None, factor: Factor::ONE, is_assumed: false }
    }
}

impl<'b> PriceList<'b> {
    /// The book under these terms.
    ///
    /// # Errors
    /// Terms that contradict themselves, or change what the book does not have.
    pub fn new(book: &'b PriceBook, terms: Terms) -> Result<Self, TermsError> {
        let mut list = Self { book, own: BTreeMap::new(), factors: BTreeMap::new(), assume: None };
        for (name, own) in terms.overrides {
            let shown = format!("{}/{}", name.provider, name.model);
            match &own {
                Override::All(prices) | Override::Some(prices) if prices.is_empty() => {
                    return Err(TermsError::Empty(shown));
                }
                Override::Some(_) => drop(book.find(Some(&name.provider), &name.model)?),
                _ => {}
            }
            let models = list.own.entry(list.provider(&name.provider)).or_default();
            if models.insert(name.model.to_ascii_lowercase(), own).is_some() {
                return Err(TermsError::Twice(shown));
            }
        }
        for (name, factor) in terms.factors {
            let provider = book.provider(&name).ok_or_else(|| TermsError::UnknownProvider(name.clone()))?;
            if list.factors.insert(provider.id.to_string(), factor).is_some() {
                return Err(TermsError::Twice(name));
            }
        }
        if let Some(assumed) = terms.assume {
            list.known(Some(&assumed.provider), &assumed.model)?;
            list.assume = Some(assumed);
        }
        Ok(list)
    }

    /// The prices of the model that a reference means.
    ///
    /// # Errors
    /// `unknown_price`, where no model is assumed instead.
    pub fn find(&self, provider: Option<&str>, model: &str) -> Result<Quote<'_>, PriceError> {
        self.known(provider, model).or_else(|error| {
            let assumed = self.assume.as_ref().ok_or(error)?;
            let quote = self.known(Some(&assumed.provider), &assumed.model)?;
            Ok(Quote { is_assumed: true, ..quote })
        })
    }

    fn known(&self, provider: Option<&str>, model: &str) -> Result<Quote<'_>, PriceError> {
        let found = self.book.find(provider, model);
        let own = if self.own.is_empty() { None } else { self.own(provider, model, found.as_ref().ok()) };
        match (found, own) {
            (Ok(found), own) => {
                let factor = self.factors.get(&*found.provider.id).filter(|_| own.is_none());
                let factor = factor.copied().unwrap_or(Factor::ONE);
                Ok(Quote { found: Some(found), own, factor, is_assumed: false })
            }
            (Err(_), Some(own)) => {
                Ok(Quote { found: None, own: Some(own), factor: Factor::ONE, is_assumed: false })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The price of one's own: for exactly this reference, else for the model of the book that it means.
    fn own(&self, provider: Option<&str>, model: &str, found: Option<&Found<'_>>) -> Option<&Override> {
        let provider = match (provider, found) {
            (_, Some(found)) => found.provider.id.to_string(),
            (Some(name), None) => self.provider(name),
            (None, None) => return None,
        };
        let models = self.own.get(&provider)?;
        let exact = models.get(&model.to_ascii_lowercase());
        exact.or_else(|| models.get(&found?.model.id.to_ascii_lowercase()))
    }

    fn provider(&self, name: &str) -> String {
        let known = self.book.provider(name).map(|provider| provider.id.to_string());
        known.unwrap_or_else(|| name.trim().to_ascii_lowercase())
    }
}

impl<'a> Quote<'a> {
    /// The prices that hold at an instant for a call of this context, before a discount.
    pub fn prices(&self, at: Timestamp, context: &[(&str, &str)]) -> Cow<'a, Prices> {
        let of_book = || self.found.map_or_else(Cow::default, |found| found.prices(at, context));
        match self.own {
            None => of_book(),
            Some(Override::Free) => Cow::default(),
            Some(Override::All(prices)) => Cow::Borrowed(prices),
            Some(Override::Some(prices)) => {
                let mut all = of_book();
                for Price { unit, rate } in prices.iter() {
                    all.to_mut().put(Price { unit: *unit, rate: rate.clone() });
                }
                all
            }
        }
    }

    /// Whether all its prices are one's own, which no context, day or hour changes.
    pub const fn is_own(&self) -> bool {
        matches!(self.own, Some(Override::All(_) | Override::Free))
    }

    /// Whether it was declared to cost nothing.
    pub const fn is_free(&self) -> bool {
        matches!(self.own, Some(Override::Free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::{Rate, book};
    use checkrein_core::usage::{Usage, UsageUnit};

    fn named(provider: &str, model: &str) -> Model {
        Model { provider: provider.to_owned(), model: model.to_owned() }
    }

    /// So many USD per million.
    fn prices(units: &[(UsageUnit, u64)]) -> Prices {
        let price = |(unit, usd): &(UsageUnit, u64)| Price {
            unit: *unit,
            rate: Rate::flat(usd * 1_000_000_000_000).unwrap(),
        };
        Prices::new(units.iter().map(price).collect()).unwrap()
    }

    fn cost(list: &PriceList<'_>, provider: Option<&str>, model: &str) -> String {
        let mut usage = Usage::default();
        usage.set(UsageUnit::InputTokens, 1_000_000).unwrap();
        usage.set(UsageUnit::OutputTokens, 1_000_000).unwrap();
        match list.find(provider, model) {
            Err(error) => error.code().to_owned(),
            Ok(quote) => {
                let cost = quote.cost(&usage, Timestamp::from_nanos(1_795_262_400_000_000_000), &[]).unwrap();
                let assumed = if quote.is_assumed { " assumed" } else { "" };
                let unpriced = if cost.unpriced.is_empty() { "" } else { " unpriced" };
                format!("{}{assumed}{unpriced}", cost.usd)
            }
        }
    }

    #[test]
    fn prices_of_ones_own_come_before_those_of_the_book() {
        let input = |usd| prices(&[(UsageUnit::InputTokens, usd)]);
        let terms = Terms {
            overrides: vec![
                (named("anthropic", "claude-opus-5"), Override::Some(input(3))),
                (named("anthropic", "claude-opus-5-20260101"), Override::All(input(2))),
                (named("house", "Llama"), Override::Free),
                (named("azure", "my-deployment"), Override::All(prices(&[(UsageUnit::OutputTokens, 7)]))),
            ],
            factors: vec![("OpenAI".to_owned(), Factor::from_millionths(875_000).unwrap())],
            assume: None,
        };
        let list = PriceList::new(book(), terms).unwrap();
        for (provider, model, expected) in [
            (Some("anthropic"), "claude-opus-5", "28"),
            (None, "Claude-Opus-5", "28"),
            (Some("anthropic"), "claude-opus-5-20260202", "28"),
            (Some("anthropic"), "claude-opus-5-20260101", "2 unpriced"),
            (Some("house"), "llama", "0"),
            (Some("house"), "other", "unknown_price"),
            (Some("azure"), "my-deployment", "7 unpriced"),
            // 2 and 8 USD, an eighth off.
            (Some("openai"), "o3", "8.75"),
            (Some("azure"), "o3", "10"),
            (None, "nothing-like-it", "unknown_price"),
        ] {
            assert_eq!(cost(&list, provider, model), expected, "{provider:?} {model}");
        }
    }

    #[test]
    fn an_unknown_model_costs_what_is_assumed_and_says_so() {
        let terms = Terms { assume: Some(named("anthropic", "claude-opus-5")), ..Terms::default() };
        let list = PriceList::new(book(), terms).unwrap();
        assert_eq!(cost(&list, Some("nobody"), "nothing"), "30 assumed");
        assert_eq!(cost(&list, Some("openai"), "o3"), "10");
    }

    #[test]
    fn terms_that_cannot_be_meant_are_refused() {
        let some = || Override::Some(prices(&[(UsageUnit::InputTokens, 1)]));
        let fails = |terms: Terms| PriceList::new(book(), terms).map(|_| ()).unwrap_err().to_string();
        let own = |overrides| Terms { overrides, ..Terms::default() };
        let opus = || named("anthropic", "claude-opus-5");
        assert_eq!(
            fails(own(vec![(opus(), some()), (named("Anthropic", "CLAUDE-opus-5"), some())])),
            "`Anthropic/CLAUDE-opus-5` is priced twice"
        );
        assert_eq!(
            fails(own(vec![(opus(), Override::All(prices(&[])))])),
            "`anthropic/claude-opus-5` is given no price; a model that costs nothing must say so"
        );
        assert_eq!(
            fails(own(vec![(named("anthropic", "claud"), some())])),
            "the price of `claud` of `anthropic` is not known"
        );
        let assume = Terms { assume: Some(named("house", "x")), ..Terms::default() };
        assert_eq!(fails(assume), "no provider of `x` is known as `house`");
        let factors = vec![("openai".to_owned(), Factor::ONE), ("openai".to_owned(), Factor::ONE)];
        assert_eq!(fails(Terms { factors, ..Terms::default() }), "`openai` is priced twice");
        let factors = vec![("house".to_owned(), Factor::ONE)];
        assert_eq!(fails(Terms { factors, ..Terms::default() }), "no provider is known as `house`");
        assert_eq!(Factor::from_millionths(10_000_001), None);
    }
}
