//! The grammar of a JSON number.

/// What the characters of a number say about it.
pub(super) struct NumberShape {
    /// Neither a point nor an exponent.
    pub(super) is_integer: bool,
    /// Every digit before the exponent is zero.
    pub(super) is_zero: bool,
}

impl NumberShape {
    /// Checks `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
    pub(super) fn of(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let whole_is_valid = is_digits(whole) && (whole == "0" || !whole.starts_with('0'));
        let exponent_is_valid =
            exponent.is_none_or(|exponent| is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
        if !whole_is_valid || !fraction.is_none_or(is_digits) || !exponent_is_valid {
            return None;
        }
        let is_zero = mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        Some(Self { is_integer: fraction.is_none() && exponent.is_none(), is_zero })
    }
}
