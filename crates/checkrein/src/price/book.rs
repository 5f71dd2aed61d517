//! The price book: providers, their models, and which model a reference means.

use hashbrown::HashTable;
use parking_lot::RwLock;

use super::clause::Clause;
use super::error::{BookError, PriceError};
use super::rate::Conditions;
use super::{load, near};
use checkrein_core::usage::UsageUnit;

/// Where a book comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The package it was converted from.
    pub source: String,
    /// The version of that package.
    pub version: String,
    /// The day it was converted, `2026-11-21`.
    pub date: String,
    /// The latest day on which a price in it changes.
    pub latest_change: String,
    /// SHA-256 of everything below the header.
    pub digest: String,
    /// How many providers it has.
    pub providers: usize,
    /// How many models it has.
    pub models: usize,
    /// How many prices had more than twelve decimals and were rounded up.
    pub rounded_up: usize,
}

/// Who is paid.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The identifier: `anthropic`.
    pub id: Box<str>,
    /// The name people know.
    pub name: Box<str>,
    pub(super) matching: Option<Clause>,
    pub(super) models_matching: Option<Clause>,
    /// Whose models it offers too, at the prices of their owners.
    pub fallback: Vec<Box<str>>,
    /// Its models; the first that a reference fits is meant.
    pub models: Vec<Model>,
}

/// A model and what it costs.
#[derive(Clone, Debug)]
pub struct Model {
    /// The identifier: `claude-opus-5`.
    pub id: Box<str>,
    pub(super) matching: Clause,
    /// The most tokens it can read, where that is known.
    pub context_window: Option<u64>,
    /// Whether its provider will withdraw it.
    pub is_deprecated: bool,
    /// The least of a unit that a call with any of it is charged for.
    pub minimum: Option<(UsageUnit, u64)>,
    /// Standard prices: the last that holds counts, and the first where none does.
    pub standard: Vec<Conditions>,
    /// Prices of special calls, over the standard ones: the first that fits counts.
    pub variants: Vec<Conditions>,
}

/// A model that was found, and by whom it is sold.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Who is paid.
    pub provider: &'a Provider,
    /// The model.
    pub model: &'a Model,
    /// Whether the provider has a price of its own, and the model is not one of those it passes on.
    pub is_own: bool,
}

/// Where a reference led: the place of the provider, of the model's owner, and of the model.
type Place = (usize, usize, usize);

#[derive(Debug)]
struct Known {
    hash: u64,
    provider: Option<Box<str>>,
    model: Box<str>,
    place: Place,
}

/// References remembered. Whoever asks for more different ones than that is answered more slowly.
const MOST_KNOWN: usize = 4_096;
/// The longest reference that can mean a model, in bytes.
const LONGEST: usize = 256;

/// Prices of all models of all providers.
#[derive(Debug, Default)]
pub struct PriceBook {
    header: Header,
    providers: Vec<Provider>,
    known: RwLock<HashTable<Known>>,
    hasher: foldhash::fast::RandomState,
}

impl PriceBook {
    /// Reads a book as `scripts/prices.py` writes it.
    ///
    /// # Errors
    /// A line that is not what the format has in its place.
    pub fn read(text: &str) -> Result<Self, BookError> {
        load::read(text)
    }

    pub(super) fn new(header: Header, providers: Vec<Provider>) -> Option<Self> {
        let there = |id: &str| providers.iter().any(|provider| &*provider.id == id);
        let complete = providers.iter().all(|provider| provider.fallback.iter().all(|id| there(id)));
        complete.then(|| Self { header, providers, ..Self::default() })
    }

    /// Where it comes from.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Its providers.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// The provider of an identifier, or of a name that means it.
    pub fn provider(&self, id: &str) -> Option<&Provider> {
        self.providers.get(self.provider_at(&id.trim().to_ascii_lowercase())?)
    }

    /// The model that a reference means, as the provider named, or the one it can only belong to, sells it.
    ///
    /// # Errors
    /// Nothing in the book fits; the error names what comes near.
    pub fn find(&self, provider: Option<&str>, model: &str) -> Result<Found<'_>, PriceError> {
        use std::hash::BuildHasher;
        let hash = self.hasher.hash_one((provider, model));
        let same = |known: &Known| &*known.model == model && known.provider.as_deref() == provider;
        let known = self.known.read().find(hash, same).map(|known| known.place);
        if let Some(found) = known.and_then(|place| self.at(place)) {
            return Ok(found);
        }
        let place = self.search(provider, model)?;
        let mut table = self.known.write();
        if table.len() < MOST_KNOWN && table.find(hash, same).is_none() {
            let known = Known { hash, provider: provider.map(Into::into), model: model.into(), place };
            table.insert_unique(hash, known, |known| known.hash);
        }
        drop(table);
        self.at(place).ok_or_else(|| near::unknown_provider(self, provider, model))
    }

    fn at(&self, (provider, owner, model): Place) -> Option<Found<'_>> {
        Some(Found {
            provider: self.providers.get(provider)?,
            model: self.providers.get(owner)?.models.get(model)?,
            is_own: provider == owner,
        })
    }

    fn search(&self, provider: Option<&str>, model: &str) -> Result<Place, PriceError> {
        let unknown_provider = || near::unknown_provider(self, provider, model);
        if model.is_empty() || model.len() > LONGEST || provider.is_some_and(|name| name.len() > LONGEST) {
            return Err(unknown_provider());
        }
        let mut reference = model.to_ascii_lowercase();
        let mut named = provider.map(|name| name.trim().to_ascii_lowercase());
        if named.as_deref() == Some("litellm") {
            // LiteLLM puts the real provider before the model.
            named = None;
            let split = reference.split_once('/').map(|(head, tail)| (head.to_owned(), tail.to_owned()));
            if let Some((head, tail)) = split.filter(|(head, _)| self.provider_at(head).is_some()) {
                (named, reference) = (Some(head), tail);
            }
        }
        let at = match &named {
            Some(name) => self.provider_at(name),
            None => self.providers.iter().position(|provider| {
                provider.models_matching.as_ref().is_some_and(|clause| clause.fits(&reference))
            }),
        };
        let at = at.ok_or_else(unknown_provider)?;
        let found = self.model_at(at, &reference).or_else(|| {
            let dashed = dashed_dates(&reference);
            (dashed != reference).then(|| self.model_at(at, &dashed)).flatten()
        });
        let (owner, model_at) = found.ok_or_else(|| near::unknown_model(self, at, model))?;
        Ok((at, owner, model_at))
    }

    fn provider_at(&self, name: &str) -> Option<usize> {
        let exact = self.providers.iter().position(|provider| &*provider.id == name);
        exact.or_else(|| {
            self.providers
                .iter()
                .position(|provider| provider.matching.as_ref().is_some_and(|clause| clause.fits(name)))
        })
    }

    /// The first model that fits: of the provider, then of those whose models it passes on.
    fn model_at(&self, at: usize, reference: &str) -> Option<(usize, usize)> {
        let first = |at: usize| {
            let models = &self.providers.get(at)?.models;
            models.iter().position(|model| model.matching.fits(reference)).map(|model| (at, model))
        };
        first(at).or_else(|| {
            let others = &self.providers.get(at)?.fallback;
            others.iter().find_map(|id| first(self.providers.iter().position(|other| other.id == *id)?))
        })
    }
}

/// The reference with `-20251211` written `-2025-12-11`, as the book has it. Routers write dates without dashes.
fn dashed_dates(reference: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (place, part) in reference.split('-').enumerate() {
        let (digits, tail) = part.split_at(part.find(':').unwrap_or(part.len()));
        match digits.as_bytes() {
            [b'2', b'0', _, _, _, _, _, _] if place > 0 && is_date(digits) => {
                let (year, day) = digits.split_at(4);
                let (month, day) = day.split_at(2);
                parts.push(format!("{year}-{month}-{day}{tail}"));
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts.join("-")
}

fn is_date(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && jiff::civil::Date::strptime("%Y%m%d", digits).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_without_dashes() {
        for (reference, expected) in [
            ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
            ("gpt-5.2-20251211:free", "gpt-5.2-2025-12-11:free"),
            ("a-20250101-b-20260101", "a-2025-01-01-b-2026-01-01"),
            ("gpt-20251311", "gpt-20251311"),
            ("gpt-20250230", "gpt-20250230"),
            ("20251211", "20251211"),
            ("gpt-202512111", "gpt-202512111"),
            ("gpt-19991211", "gpt-19991211"),
            ("gpt-20é512", "gpt-20é512"),
        ] {
            assert_eq!(dashed_dates(reference), expected);
        }
    }
}
