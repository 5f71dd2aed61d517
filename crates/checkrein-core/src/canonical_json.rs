//! RFC 8785 canonical JSON, out: one byte string per value, fed to any sink without an intermediate text.
//!
//! Members are sorted by the UTF-16 code units of their keys, strings are escaped only where they must be,
//! doubles are written as ECMAScript writes them. **One deviation**: RFC 8785 knows doubles only, so it would
//! round an integer above 2^53 and give two different arguments one form. Here 64-bit integers are written
//! digit by digit, and a *double* beyond 2^53, which RFC 8785 writes as an integer padded with zeros up to
//! 1e21, is written with its exponent (`1.8446744073709552e+19`), so that digits alone always mean exactly
//! that integer. Up to 2^53 and from 1e21 on, the form is that of the RFC.

use std::cmp::Ordering;
use std::fmt::Write as _;

use smallvec::SmallVec;

use crate::json::{Object, Value};

/// The largest double below which every integer is exact: 2^53.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// The fewest digits at which the shortest text of a double need not be unique: neighbouring doubles are
/// nearer to each other than half a unit of the fifteenth digit.
const FIRST_TIE: usize = 16;

/// Takes the bytes of a canonical form as they are produced.
pub trait Sink {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for sha2::Sha256 {
    fn put(&mut self, bytes: &[u8]) {
        sha2::Digest::update(self, bytes);
    }
}

/// Returns the canonical form of `value`.
#[must_use]
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

/// Writes the canonical form of `value` into `sink`, without recursion.
pub fn write<S: Sink>(value: &Value, sink: &mut S) {
    let mut open: SmallVec<[Open<'_>; 8]> = SmallVec::new();
    let mut current = Some(value);
    loop {
        if let Some(container) = current.take().and_then(|value| begin(value, sink)) {
            open.push(container);
        }
        let Some(container) = open.last_mut() else { return };
        current = container.next(sink);
        if current.is_none() {
            sink.put(container.closing());
            open.pop();
        }
    }
}

enum Open<'a> {
    Array(&'a [Value], usize),
    Object(&'a Object, usize),
}

impl<'a> Open<'a> {
    /// Writes what stands before the next value and returns that value.
    fn next<S: Sink>(&mut self, sink: &mut S) -> Option<&'a Value> {
        match self {
            Self::Array(items, place) => {
                let value = items.get(*place)?;
                if *place > 0 {
                    sink.put(b",");
                }
                *place = place.saturating_add(1);
                Some(value)
            }
            Self::Object(object, place) => {
                let (key, value) = object.sorted_at(*place)?;
                if *place > 0 {
                    sink.put(b",");
                }
                *place = place.saturating_add(1);
                write_string(key, sink);
                sink.put(b":");
                Some(value)
            }
        }
    }

    fn closing(&self) -> &'static [u8] {
        match self {
            Self::Array(..) => b"]",
            Self::Object(..) => b"}",
        }
    }
}

/// Writes a scalar whole and of a container the bracket that opens it.
fn begin<'a, S: Sink>(value: &'a Value, sink: &mut S) -> Option<Open<'a>> {
    match value {
        Value::Null => sink.put(b"null"),
        Value::Bool(true) => sink.put(b"true"),
        Value::Bool(false) => sink.put(b"false"),
        Value::Int(number) => write_int(*number, sink),
        Value::Uint(number) => write_uint(*number, sink),
        Value::Float(number) => write_float(*number, sink),
        Value::String(text) => write_string(text, sink),
        Value::Array(items) => {
            sink.put(b"[");
            return Some(Open::Array(items, 0));
        }
        Value::Object(object) => {
            sink.put(b"{");
            return Some(Open::Object(object, 0));
        }
    }
    None
}

/// Writes an integer digit by digit.
pub fn write_int<S: Sink>(number: i64, sink: &mut S) {
    if number < 0 {
        sink.put(b"-");
    }
    write_uint(number.unsigned_abs(), sink);
}

/// Writes an unsigned integer digit by digit.
pub fn write_uint<S: Sink>(number: u64, sink: &mut S) {
    let mut digits = Text::default();
    // A `Text` holds every u64, so that writing into it cannot fail.
    let _ = write!(digits, "{number}");
    sink.put(digits.as_bytes());
}

/// Writes a double: as RFC 8785 does up to 2^53, beyond that always with an exponent (see the module).
///
/// JSON has no form for NaN and the infinities; they are written as `null`, as ECMAScript does. Whoever takes
/// doubles from elsewhere than the reader refuses them first.
pub fn write_float<S: Sink>(number: f64, sink: &mut S) {
    write_double(number, number.abs() > EXACT_INTEGERS, sink);
}

fn write_double<S: Sink>(number: f64, always_exponent: bool, sink: &mut S) {
    if !number.is_finite() {
        return sink.put(b"null");
    }
    if number == 0.0 {
        return sink.put(b"0");
    }
    // The standard library writes the shortest digits that read back as the same double: `-d.ddde-dd`.
    let mut text = Text::default();
    let _ = write!(text, "{number:e}");
    let count =
        text.as_bytes().iter().take_while(|byte| **byte != b'e').filter(|byte| byte.is_ascii_digit()).count();
    if count >= FIRST_TIE {
        // Two shortest texts can be equally near. ECMAScript takes the even one, as exact rounding does.
        text = Text::default();
        let _ = write!(text, "{number:.*e}", count.saturating_sub(1));
    }
    let (mantissa, exponent) = text.as_str().split_once('e').unwrap_or(("0", "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let mut digits = Text::default();
    for part in mantissa.split('.') {
        let _ = digits.write_str(part);
    }
    sink.put(sign.as_bytes());
    lay_out(digits.as_bytes(), exponent.saturating_add(1), always_exponent, sink);
}

/// Writes `0.digits * 10^point` as ECMAScript's `Number::toString` lays it out.
fn lay_out<S: Sink>(digits: &[u8], point: i32, always_exponent: bool, sink: &mut S) {
    const ZEROS: &[u8] = b"000000000000000000000";
    let zeros = |count: usize| ZEROS.get(..count).unwrap_or(ZEROS);
    if always_exponent || !(-5..=21).contains(&point) {
        let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, b""));
        sink.put(first);
        if !rest.is_empty() {
            sink.put(b".");
            sink.put(rest);
        }
        let exponent = point.saturating_sub(1);
        sink.put(if exponent < 0 { b"e-" } else { b"e+" });
        return write_uint(u64::from(exponent.unsigned_abs()), sink);
    }
    let places = point.unsigned_abs() as usize;
    if point <= 0 {
        sink.put(b"0.");
        sink.put(zeros(places));
        sink.put(digits);
    } else if let Some((whole, fraction)) = digits.split_at_checked(places) {
        sink.put(whole);
        if !fraction.is_empty() {
            sink.put(b".");
            sink.put(fraction);
        }
    } else {
        sink.put(digits);
        sink.put(zeros(places.saturating_sub(digits.len())));
    }
}

/// Writes a string in quotes, escaping only quotes, backslashes and the control characters below U+0020.
pub fn write_string<S: Sink>(text: &str, sink: &mut S) {
    sink.put(b"\"");
    let mut rest = text.as_bytes();
    while let Some(place) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)) {
        let (plain, from) = rest.split_at_checked(place).unwrap_or((rest, b""));
        sink.put(plain);
        let Some((special, after)) = from.split_first() else { break };
        write_escape(*special, sink);
        rest = after;
    }
    sink.put(rest);
    sink.put(b"\"");
}

fn write_escape<S: Sink>(byte: u8, sink: &mut S) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short: &[u8] = match byte {
        b'"' => b"\\\"",
        b'\\' => b"\\\\",
        0x08 => b"\\b",
        b'\t' => b"\\t",
        b'\n' => b"\\n",
        0x0C => b"\\f",
        b'\r' => b"\\r",
        _ => {
            let digit = |half: u8| HEX.get(usize::from(half)).copied().unwrap_or(b'0');
            return sink.put(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xF)]);
        }
    };
    sink.put(short);
}

/// Compares two keys by their UTF-16 code units, the order of members in canonical JSON.
///
/// UTF-8 orders like the code points. The two differ only where a character beyond U+FFFF, whose surrogates
/// begin with D8 to DF, meets one of U+E000 to U+FFFF; there the first different byte decides the other way.
#[must_use]
pub fn compare_keys(left: &str, right: &str) -> Ordering {
    let rank = |byte: u8| if matches!(byte, 0xEE | 0xEF) { byte | 0x10 } else { byte };
    let different = left.bytes().zip(right.bytes()).find(|(left, right)| left != right);
    match different {
        // 0xEE and 0xEF lead U+E000 to U+FFFF. Ranked 0xFE and 0xFF they follow every longer character.
        Some((left, right)) => rank(left).cmp(&rank(right)),
        None => left.len().cmp(&right.len()),
    }
}

/// Says whether two numbers have the same canonical form.
pub(crate) fn same_number(left: &Value, right: &Value) -> bool {
    match (exact_integer(left), exact_integer(right)) {
        (Some(left), Some(right)) => left == right,
        (None, None) => match (left, right) {
            (Value::Float(left), Value::Float(right)) => {
                left == right || (!left.is_finite() && !right.is_finite())
            }
            _ => false,
        },
        _ => false,
    }
}

/// Returns the integer that the canonical form of a number spells in digits alone.
fn exact_integer(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        #[expect(clippy::cast_possible_truncation, reason = "an integral double up to 2^53 fits exactly")]
        Value::Float(number) if number.abs() <= EXACT_INTEGERS && number.fract() == 0.0 => {
            Some(*number as i128)
        }
        _ => None,
    }
}

/// Text of at most 32 bytes on the stack: a `u64` has 20 digits, a double in `{:e}` form at most 24 characters.
#[derive(Default)]
struct Text {
    bytes: [u8; 32],
    length: usize,
}

impl Text {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length.saturating_add(text.len());
        self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
