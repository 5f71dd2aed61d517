//! Exact amounts: 128-bit integers counting 10^-12 of a unit, checked, never a float.

use std::fmt;

/// An exact, signed quantity in 10^-12 (pico) of its unit: one call, one token, one US dollar, one compute unit.
///
/// Arithmetic is checked; what does not fit is an error, never a wrapped or rounded number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Why a text or a number is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The text is empty or has characters a decimal number does not have (`NaN`, `inf`, spaces, signs twice).
    #[error("`{0}` is not a decimal number")]
    Malformed(String),
    /// More than twelve decimal places: it could not be kept exactly.
    #[error("`{0}` has more than 12 decimal places")]
    TooFine(String),
    /// The value does not fit 128 bits at 10^-12.
    #[error("`{0}` is out of range")]
    OutOfRange(String),
    /// The value is below zero where only zero or more makes sense.
    #[error("`{0}` is negative")]
    Negative(String),
    /// The unit is missing or unknown.
    #[error("`{0}` has no known unit")]
    Unit(String),
}

impl AmountError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "write a plain decimal such as `0.30`, money as text and never as a float",
            Self::TooFine(_) => "round it up to at most 12 decimal places",
            Self::OutOfRange(_) => "use a value below 10^26",
            Self::Negative(_) => "use zero or more",
            Self::Unit(_) => "name the unit: `usd`, `tokens`, `calls` or `cu`, as in `0.30 usd`",
        }
    }
}

const SCALE: i128 = 1_000_000_000_000;
const DECIMALS: usize = 12;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole unit: one call, one token, one dollar.
    pub const ONE: Self = Self(SCALE);
    /// The largest amount.
    pub const MAX: Self = Self(i128::MAX);

    /// An amount of `pico` 10^-12 units.
    pub const fn from_pico(pico: i128) -> Self {
        Self(pico)
    }

    /// The number of 10^-12 units.
    pub const fn pico(self) -> i128 {
        self.0
    }

    /// `units` whole units.
    pub const fn from_units(units: u64) -> Self {
        // A u64 times 10^12 stays below 2^104.
        Self(units as i128 * SCALE)
    }

    /// `nano` 10^-9 units, the resolution prices are rounded up to.
    pub const fn from_nano(nano: i64) -> Self {
        Self(nano as i128 * 1_000)
    }

    /// The whole units in it, rounded towards zero.
    pub const fn units(self) -> i128 {
        self.0 / SCALE
    }

    /// The sum, or `None` when it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when it does not fit.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The sum, held at the largest representable value: only for figures shown to people.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at the smallest representable value: only for figures shown to people.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Parses a plain decimal (`12`, `0.30`, `1e-9` is refused), zero or more.
    ///
    /// # Errors
    /// Malformed or negative text, more than 12 decimal places, or a value that does not fit.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(AmountError::Malformed(shorten(text)));
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > DECIMALS {
            return Err(AmountError::TooFine(shorten(text)));
        }
        let out_of_range = || AmountError::OutOfRange(shorten(text));
        let mut pico: i128 = 0;
        let padded = fraction.bytes().chain(std::iter::repeat(b'0')).take(DECIMALS);
        for digit in whole.trim_start_matches('0').bytes().chain(padded) {
            pico = pico
                .checked_mul(10)
                .and_then(|p| p.checked_add(i128::from(digit - b'0')))
                .ok_or_else(out_of_range)?;
        }
        if negative && pico != 0 {
            return Err(AmountError::Negative(shorten(text)));
        }
        Ok(Self(pico))
    }
}

/// Keeps hostile input out of messages: at most 40 characters, escaped.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}

impl fmt::Display for Amount {
    /// The shortest exact decimal: `0.3`, `12`, `0.000000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let (whole, fraction) = (magnitude / SCALE as u128, magnitude % SCALE as u128);
        let sign = if self.0 < 0 { "-" } else { "" };
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:012}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// What an amount counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Calls of an action.
    Calls,
    /// Tokens of a model.
    Tokens,
    /// US dollars.
    Usd,
    /// Compute units, as tariffs of gateways count them.
    ComputeUnits,
}

impl Unit {
    /// The word used in policies and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Tokens => "tokens",
            Self::Usd => "usd",
            Self::ComputeUnits => "cu",
        }
    }

    /// Reads a unit's word, singular or plural, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "call" | "calls" => Some(Self::Calls),
            "token" | "tokens" => Some(Self::Tokens),
            "usd" | "$" => Some(Self::Usd),
            "cu" => Some(Self::ComputeUnits),
            _ => None,
        }
    }

    /// Whether only whole amounts make sense.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Calls | Self::Tokens)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Parses an amount with its unit: `0.30 usd`, `$0.30`, `200000 tokens`, `12 calls`, `3 cu`.
///
/// # Errors
/// A missing or unknown unit, a malformed number, or a fraction of a call or token.
pub fn parse_quantity(text: &str) -> Result<(Amount, Unit), AmountError> {
    let text = text.trim();
    if let Some(number) = text.strip_prefix('$') {
        return Ok((Amount::parse(number.trim())?, Unit::Usd));
    }
    let (number, word) = text
        .split_once(|c: char| c.is_ascii_whitespace() || c == '_')
        .ok_or_else(|| AmountError::Unit(shorten(text)))?;
    let unit = Unit::parse(word.trim()).ok_or_else(|| AmountError::Unit(shorten(text)))?;
    let amount = Amount::parse(number)?;
    if unit.is_whole() && amount.pico() % SCALE != 0 {
        return Err(AmountError::TooFine(shorten(text)));
    }
    Ok((amount, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match parse_quantity(text) {
            Ok((amount, unit)) => format!("{amount} {unit}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "for {text}");
    }

    #[test]
    fn quantities() {
        check("0.30 usd", "0.3 usd");
        check("$0.000000000001", "0.000000000001 usd");
        check("200000 tokens", "200000 tokens");
        check("1 call", "1 calls");
        check("007.50 USD", "7.5 usd");
        check("1.5 tokens", "`1.5 tokens` has more than 12 decimal places");
        check("-1 usd", "`-1` is negative");
        check("-0 usd", "0 usd");
        check("NaN usd", "`NaN` is not a decimal number");
        check("1e3 usd", "`1e3` is not a decimal number");
        check("1 eur", "`1 eur` has no known unit");
        check("5", "`5` has no known unit");
        check("$", "`` is not a decimal number");
        check("0.0000000000001 usd", "`0.0000000000001` has more than 12 decimal places");
        check("999999999999999999999999999999 usd", "`999999999999999999999999999999` is out of range");
    }
}
