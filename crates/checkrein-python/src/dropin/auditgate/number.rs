//! Numbers as Python prints them.

use std::fmt::Write as _;

/// Appends a decimal integer.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    for (index, slot) in digits.iter_mut().enumerate().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        at = index;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

/// Appends a float as Python's `repr` prints it, with the JSON names of the values that are not numbers.
pub(crate) fn push_float(out: &mut Vec<u8>, number: f64) {
    if number.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if number.is_sign_negative() && !number.is_nan() {
        out.push(b'-');
    }
    let magnitude = number.abs();
    if magnitude.is_infinite() {
        return out.extend_from_slice(b"Infinity");
    }
    if magnitude < 1e15 && magnitude.trunc() == magnitude {
        push_integer(out, magnitude as i64);
        return out.extend_from_slice(b".0");
    }
    if push_nanos(out, magnitude) {
        return;
    }
    let shortest = shortest_digits(magnitude);
    let (mantissa, exponent) = shortest.as_str().split_once('e').unwrap_or(("0", "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    push_digits(out, first.as_bytes(), rest.as_bytes(), exponent);
}

/// Appends a magnitude that is a whole number of billionths with at most 15 digits, as clocks return them.
///
/// Two decimals of at most 15 digits never share a double, so the one that reads back is also the shortest.
fn push_nanos(out: &mut Vec<u8>, magnitude: f64) -> bool {
    if !(1e-4..1e6).contains(&magnitude) {
        return false;
    }
    let nanos = (magnitude * 1e9).round();
    if nanos >= 1e15 || nanos / 1e9 != magnitude {
        return false;
    }
    push_billionths(out, nanos as u64);
    true
}

/// Appends a number of billionths without trailing zeros, but with at least one digit after the point.
fn push_billionths(out: &mut Vec<u8>, nanos: u64) {
    push_integer(out, (nanos / 1_000_000_000) as i64);
    out.push(b'.');
    let (mut rest, mut places) = (nanos % 1_000_000_000, 9);
    while places > 1 && rest % 10 == 0 {
        rest /= 10;
        places -= 1;
    }
    let mut digits = [b'0'; 9];
    for slot in digits.iter_mut().take(places).rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(digits.get(..places).unwrap_or_default());
}

/// Returns the shortest digits that read back as `magnitude`, as `d.ddde±x`.
fn shortest_digits(magnitude: f64) -> ShortText {
    let mut shortest = ShortText::default();
    // Writing to the fixed buffer cannot fail: the longest form has 24 characters.
    let _ = write!(shortest, "{magnitude:e}");
    let digits = shortest.as_str().find('e').unwrap_or(0).saturating_sub(1);
    if digits >= 15 {
        // Two shortest forms can be equally near; Python takes the even one, which is how exact rounding decides.
        let mut even = ShortText::default();
        let _ = write!(even, "{magnitude:.precision$e}", precision = digits - 1);
        if even.as_str().parse() == Ok(magnitude) {
            return even;
        }
    }
    shortest
}

/// Lays out the digits `first.rest` times ten to the `exponent` as Python does.
fn push_digits(out: &mut Vec<u8>, first: &[u8], rest: &[u8], exponent: i32) {
    if !(-4..16).contains(&exponent) {
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        return push_integer(out, i64::from(exponent.abs()));
    }
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', exponent.unsigned_abs() as usize - 1));
        out.extend_from_slice(first);
        return out.extend_from_slice(rest);
    }
    let whole = exponent.unsigned_abs() as usize;
    out.extend_from_slice(first);
    let (left, right) = rest.split_at(whole.min(rest.len()));
    out.extend_from_slice(left);
    out.extend(std::iter::repeat_n(b'0', whole - left.len()));
    out.push(b'.');
    out.extend_from_slice(if right.is_empty() { b"0" } else { right });
}

/// A text of at most 32 bytes on the stack.
#[derive(Default)]
struct ShortText {
    bytes: [u8; 32],
    len: usize,
}

impl ShortText {
    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("0")
    }
}

impl std::fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
