//! Checkrein: runtime control of AI agents. Every gate of an action is decided in one atomic admission.

pub mod calendar;
pub mod clock;
pub mod config;
pub mod engine;
pub mod expression;
pub mod ledger;
mod parking;
pub mod price;
pub mod replay;
pub mod store;
pub mod testing;

pub use checkrein_core as core;
pub use engine::Engine;

/// The Rust examples of the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// So are those of the page on the policy file.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/reference/policy.md")]
struct PolicyPage;

/// So are those of the page on prices.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/reference/prices.md")]
struct Prices;

/// So are those of the page on replays.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/reference/replay.md")]
struct ReplayPage;
