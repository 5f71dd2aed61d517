//! Money as the drop-in takes it: any `Decimal` of zero or more with up to 38 places, exactly.
//!
//! The shared meters count 10^-12; what a `Decimal` has beyond (a third of a cent has 28 places) is kept beside it as
//! a whole number of 10^-38, so that sums stay exact. The places shown to the user are kept apart from the value.

use std::fmt::Write as _;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::Names;

const PICO_PLACES: usize = 12;
const FINE_PLACES: usize = 26;
const PICO: i128 = 10_i128.pow(PICO_PLACES as u32);
const FINE: i128 = 10_i128.pow(FINE_PLACES as u32);
/// Decimal places that are kept.
const PLACES: usize = PICO_PLACES + FINE_PLACES;
/// Longer exponents are refused before any digit is written out.
const LONGEST: i64 = 10_000;

/// A sum of money, zero or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Money {
    /// Whole 10^-12.
    pub(super) pico: i128,
    /// The rest in 10^-38, below one 10^-12.
    pub(super) fine: i128,
}

/// An amount and how many decimal places it was written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(super) money: Money,
    pub(super) places: u8,
}

impl Written {
    /// What `str` says of it as a `Decimal`, where that needs no exponent, no rounding and no more places than written.
    pub(crate) fn plain_text(self) -> Option<String> {
        if self.places > 6 || self.money.fine != 0 {
            return None;
        }
        // Below 2^64 pico (some 18 million) the arithmetic is that of the machine.
        let pico = u64::try_from(self.money.pico).ok()?;
        let places = u32::from(self.places);
        let (unit, below) = (10_u64.pow(places), 10_u64.pow(PICO_PLACES as u32 - places));
        if pico % below != 0 {
            return None;
        }
        let (whole, fraction) = (pico / below / unit, pico / below % unit);
        if places == 0 {
            return Some(whole.to_string());
        }
        let mut text = String::with_capacity(28);
        let _ = write!(text, "{whole}.{fraction:0width$}", width = usize::from(self.places));
        Some(text)
    }

    /// What is left of this budget after `spent`, as a decision prints it.
    pub(crate) fn remaining_after(self, spent: Self) -> Option<String> {
        let money = self.money.saturating_sub(spent.money);
        if money == Money::default() {
            return Some("0".to_owned());
        }
        Self { money, places: self.places.max(spent.places) }.plain_text()
    }
}

/// Why something is not an amount a ledger can take.
pub(crate) enum MoneyError {
    /// No amount at all, whatever the store: the sentence says what is wrong.
    Invalid(String),
    /// A good amount that the native ledger cannot hold exactly.
    Unfit(String),
}

impl MoneyError {
    pub(crate) fn sentence(&self) -> &str {
        match self {
            Self::Invalid(sentence) | Self::Unfit(sentence) => sentence,
        }
    }

    pub(crate) fn into_exception(self) -> PyErr {
        PyValueError::new_err(self.sentence().to_owned())
    }
}

impl Money {
    /// A sum from counts of both units, carrying what overflows the finer one.
    pub(super) fn from_parts(pico: i128, fine: i128) -> Option<Self> {
        let money = Self { pico: pico.checked_add(fine.div_euclid(FINE))?, fine: fine.rem_euclid(FINE) };
        (money.pico >= 0).then_some(money)
    }

    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        Self::from_parts(self.pico.checked_add(other.pico)?, self.fine + other.fine)
    }

    /// The difference, or nothing where it would be below zero.
    pub(crate) fn saturating_sub(self, other: Self) -> Self {
        let pico = self.pico.saturating_sub(other.pico);
        Self::from_parts(pico, self.fine - other.fine).unwrap_or_default()
    }

    /// Places its digits need.
    fn needed_places(self) -> usize {
        let digits = self.fraction();
        digits.trim_end_matches('0').len()
    }

    fn fraction(self) -> String {
        format!("{:012}{:026}", self.pico % PICO, self.fine)
    }

    /// The decimal with at least `places` places.
    pub(super) fn to_text(self, places: u8) -> String {
        let places = usize::from(places).max(self.needed_places()).min(PLACES);
        let whole = self.pico / PICO;
        if places == 0 {
            return whole.to_string();
        }
        let fraction = self.fraction();
        format!("{whole}.{}", fraction.get(..places).unwrap_or(&fraction))
    }

    /// The sum as a `Decimal` with at least `places` places.
    pub(super) fn to_decimal<'py>(self, py: Python<'py>, places: u8) -> PyResult<Bound<'py, PyAny>> {
        Names::get(py)?.decimal.bind(py).call1((self.to_text(places),))
    }
}

/// Reads an amount. Only a `Decimal` or an int is one; what Python says about adding anything else is the reason.
pub(crate) fn read(amount: &Bound<'_, PyAny>) -> PyResult<Result<Written, MoneyError>> {
    let py = amount.py();
    let names = Names::get(py)?;
    if amount.is_instance_of::<PyInt>() {
        if let Ok(whole) = amount.extract::<i64>() {
            if whole < 0 {
                return Ok(Err(MoneyError::Invalid(format!("amount must be >= 0, got {whole}"))));
            }
            let money = Money { pico: i128::from(whole) * PICO, fine: 0 };
            return Ok(Ok(Written { money, places: 0 }));
        }
        // Longer than any ledger holds; its digits need not be written out.
        return Ok(Err(if amount.lt(0)? {
            MoneyError::Invalid("amount must be >= 0".to_owned())
        } else {
            MoneyError::Unfit("amount is out of range".to_owned())
        }));
    }
    if !amount.is_instance(names.decimal.bind(py))? {
        let error = match names.zero.bind(py).add(amount) {
            Err(error) => error.value(py).str().map(|text| text.to_string()).unwrap_or_default(),
            Ok(_) => format!("amount must be a Decimal, got {}", amount.get_type().name()?),
        };
        return Ok(Err(MoneyError::Invalid(error)));
    }
    let text = amount.str()?;
    Ok(parse(&text.to_string_lossy()))
}

/// Reads the text of a `Decimal`.
pub(super) fn parse(text: &str) -> Result<Written, MoneyError> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = rest.split_once(['E', 'e']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if (whole.is_empty() && fraction.is_empty()) || !digits().all(|digit| digit.is_ascii_digit()) {
        return Err(MoneyError::Invalid(format!("amount must be a finite number, got {}", shorten(text))));
    }
    let is_zero = digits().all(|digit| digit == b'0');
    if negative && !is_zero {
        return Err(MoneyError::Invalid(format!("amount must be >= 0, got {}", shorten(text))));
    }
    let unfit = |what: &str| MoneyError::Unfit(format!("amount {what}: {}", shorten(text)));
    let shown = |places: i64| u8::try_from(places.clamp(0, PLACES as i64)).unwrap_or(0);
    let exponent: i64 = exponent.parse().map_err(|_| unfit("is out of range"))?;
    let places =
        exponent.checked_neg().and_then(|e| e.checked_add(fraction.len() as i64)).unwrap_or(i64::MAX);
    if is_zero {
        return Ok(Written { money: Money::default(), places: shown(places) });
    }
    if exponent.abs() > LONGEST {
        return Err(unfit(if exponent > 0 { "is out of range" } else { "has more than 38 decimal places" }));
    }
    // Where the point stands among the digits.
    let point = whole.len() as i64 + exponent;
    let (mut pico, mut fine) = (0_i128, 0_i128);
    let leading = (-point).max(0) as usize;
    let padded = std::iter::repeat_n(b'0', leading).chain(digits());
    let point = point.max(0) as usize;
    let mut seen = 0;
    for digit in padded {
        let digit = i128::from(digit - b'0');
        if seen < point + PICO_PLACES {
            pico = pico
                .checked_mul(10)
                .and_then(|p| p.checked_add(digit))
                .ok_or_else(|| unfit("is out of range"))?;
        } else if seen < point + PLACES {
            fine = fine * 10 + digit;
        } else if digit != 0 {
            return Err(unfit("has more than 38 decimal places"));
        }
        seen += 1;
    }
    for position in seen..point + PICO_PLACES {
        if position > LONGEST as usize * 2 {
            return Err(unfit("is out of range"));
        }
        pico = pico.checked_mul(10).ok_or_else(|| unfit("is out of range"))?;
    }
    for _ in seen.max(point + PICO_PLACES)..point + PLACES {
        fine *= 10;
    }
    Ok(Written { money: Money { pico, fine }, places: shown(places) })
}

/// Keeps hostile input out of messages.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}
