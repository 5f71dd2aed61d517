//! Why there is no price: typed, with what comes near.

use checkrein_core::code::Code;
use checkrein_core::usage::{UsageError, UsageUnit};

/// There is no price for a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// The book knows no such model of this provider.
    #[error("the price of `{model}` of `{provider}` is not known")]
    UnknownModel {
        /// The provider.
        provider: String,
        /// The model as it was asked for, cut to a printable length.
        model: String,
        /// Models with a price whose names are close, the closest first, as `provider/model`.
        near: Vec<String>,
    },
    /// The book knows no such provider, or none that such a model belongs to.
    #[error("no provider of `{model}` is known{}", .provider.as_ref().map(|name| format!(" as `{name}`")).unwrap_or_default())]
    UnknownProvider {
        /// The provider as it was asked for, if one was named.
        provider: Option<String>,
        /// The model as it was asked for, cut to a printable length.
        model: String,
        /// Providers or models whose names are close.
        near: Vec<String>,
    },
    /// The usage cannot be charged as it was reported.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The call has no maximum of something that has a price, so that no bound can be held for it.
    #[error("the call has no maximum of `{}`", .0.name())]
    Unbounded(UsageUnit),
    /// The cost does not fit.
    #[error("the cost of this call is out of range")]
    OutOfRange,
}

impl PriceError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } | Self::UnknownProvider { .. } => Code::UnknownPrice.word(),
            Self::Usage(error) => error.code(),
            Self::Unbounded(_) => "price_unbounded",
            Self::OutOfRange => "price_out_of_range",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownModel { near, .. } | Self::UnknownProvider { near, .. } if !near.is_empty() => {
                let names: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
                format!("did you mean {}? `checkrein prices list` lists every model", names.join(" or "))
            }
            Self::UnknownModel { .. } | Self::UnknownProvider { .. } => {
                "`checkrein prices list` lists every model with a price".to_owned()
            }
            Self::Usage(error) => error.hint().to_owned(),
            Self::Unbounded(UsageUnit::OutputTokens) => {
                "send a maximum of output tokens with the call, or give the model `reserve_output` in the policy"
                    .to_owned()
            }
            Self::Unbounded(_) => "state the most of it that the call can use".to_owned(),
            Self::OutOfRange => "a call that costs more than 10^17 USD is a mistake in the report".to_owned(),
        }
    }
}

/// A price book that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the price book: {fact}")]
pub struct BookError {
    /// The line, counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub fact: String,
}
