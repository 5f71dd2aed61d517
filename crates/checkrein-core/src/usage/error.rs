//! Why a usage report is refused: a stable code, the member, the fact.

/// A usage report that cannot be charged as it stands.
///
/// Whoever settles by a report that is refused charges the full hold: nothing becomes free by being malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// A member that every report of this kind has is not there.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A member has another type than it must have.
    #[error("`{path}` is {found}, not {expected}")]
    Type {
        /// The member.
        path: String,
        /// What it is.
        found: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A count below zero.
    #[error("`{0}` is negative")]
    Negative(String),
    /// A count with a fraction or an exponent.
    #[error("`{0}` is not a whole number")]
    Fraction(String),
    /// A count no call can reach: more than [`super::MOST`].
    #[error("`{0}` is more than any call can use")]
    TooLarge(String),
    /// Two members say different things.
    #[error("{0}")]
    Contradictory(String),
    /// A part is reported and the whole is not, or two parts overlap by an amount that is not told.
    #[error("`{unit}` is not reported, and cannot be worked out from {from}")]
    Ambiguous {
        /// The unit whose count is needed.
        unit: &'static str,
        /// The units that make it uncertain.
        from: String,
    },
    /// A unit nobody knows.
    #[error("`{0}` is no unit of usage")]
    UnknownUnit(String),
    /// The report has none of the known forms.
    #[error("this is no usage report of a known form")]
    UnknownForm,
}

impl UsageError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "usage_missing",
            Self::Type { .. } => "usage_type",
            Self::Negative(_) => "usage_negative",
            Self::Fraction(_) => "usage_fraction",
            Self::TooLarge(_) => "usage_too_large",
            Self::Contradictory(_) => "usage_contradictory",
            Self::Ambiguous { .. } => "usage_ambiguous",
            Self::UnknownUnit(_) => "usage_unknown_unit",
            Self::UnknownForm => "usage_unknown_form",
        }
    }

    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing(_) => "pass the provider's whole reply, of a stream the last event that has usage",
            Self::Type { .. } | Self::Negative(_) | Self::Fraction(_) => {
                "counts are whole numbers, zero or more"
            }
            Self::TooLarge(_) => "a call of more than 10^12 units is a mistake in the report",
            Self::Contradictory(_) => "pass the report as the provider sent it; sums must add up",
            Self::Ambiguous { .. } => "report the unit itself, if it is zero too",
            Self::UnknownUnit(_) => "`checkrein prices list --units` lists every unit",
            Self::UnknownForm => {
                "known are OpenAI chat completions and responses, Anthropic messages, Gemini, and `usage` by units"
            }
        }
    }
}
