//! What a call of a model costs: a dated book of list prices, and exact arithmetic on what a provider counted.
//!
//! [`book`] is the price book this version was built with. [`PriceBook::find`] finds the model that a reference means,
//! [`Found::cost`] what a [`Usage`](checkrein_core::usage::Usage) of it costs. Prices are whole pico-USD for as many
//! units as the provider states them (a million tokens, a thousand searches, an hour), which is finer than pico-USD
//! per token; a call is added up exactly and rounded once, up, to the nano-USD.

mod book;
mod bound;
mod clause;
mod cost;
mod error;
mod load;
mod near;
mod rate;
mod terms;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

pub use book::{Found, Header, Model, PriceBook, Provider};
pub use bound::{Bound, CallBounds, Certainty};
pub use cost::{Cost, Line};
pub use error::{BookError, PriceError};
pub use rate::{Conditions, Price, Prices, Rate, When};
pub use terms::{Factor, Model as ModelName, Override, PriceList, Quote, Terms, TermsError};

/// The data behind [`book`], converted from the `genai-prices` package by `scripts/prices.py`. Its licence (MIT) stands
/// beside it.
const DATA: &str = include_str!("../../data/prices.jsonl");

/// The price book this version was built with, read at the first call.
pub fn book() -> &'static PriceBook {
    static BOOK: LazyLock<PriceBook> = LazyLock::new(|| {
        // A test reads the same bytes; an empty book refuses every model, which is how a damaged one must behave.
        PriceBook::read(DATA).unwrap_or_default()
    });
    &BOOK
}
