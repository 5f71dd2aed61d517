//! The reader: one pass, an explicit stack, and a limit on everything.

use super::error::{JsonError, JsonErrorKind};
use super::number::NumberShape;
use super::value::{Object, Value};

/// The deepest nesting the reader accepts, whatever the limits say: equality, cloning and printing of values
/// recurse once per level.
pub const MAX_DEPTH: usize = 512;

/// How large a document may be. The defaults are those of every door that states no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the document. Default 1 MiB.
    pub bytes: usize,
    /// Arrays and objects open at the same time. Default 64, never more than [`MAX_DEPTH`].
    pub depth: usize,
    /// Values in the document, containers included. Default 10,000.
    pub nodes: usize,
    /// Characters of one number. Default 128: more than any double or 64-bit integer needs.
    pub number_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 20, depth: 64, nodes: 10_000, number_bytes: 128 }
    }
}

/// Reads the one value that `bytes` holds.
///
/// # Errors
/// If the bytes are not strict JSON or exceed `limits`.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    if bytes.len() > limits.bytes {
        return Err(JsonError {
            kind: JsonErrorKind::TooLarge { limit: limits.bytes },
            offset: limits.bytes,
        });
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(JsonError { kind: JsonErrorKind::ByteOrderMark, offset: 0 });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonError { kind: JsonErrorKind::InvalidUtf8, offset: error.valid_up_to() })?;
    Reader { text, bytes, position: 0, nodes: 0, limits }.document()
}

/// Reads the one value that `text` holds.
///
/// # Errors
/// If the text is not strict JSON or exceeds `limits`.
pub fn read_str(text: &str, limits: &Limits) -> Result<Value, JsonError> {
    read(text.as_bytes(), limits)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    nodes: usize,
    limits: &'a Limits,
}

/// A container that has been opened and not yet closed.
enum Open {
    Array(Vec<Value>),
    Object { members: Vec<(String, Value)>, key_offsets: Vec<usize>, key: String },
}

enum Begun {
    Whole(Value),
    Opened(Open),
}

enum Continued {
    MoreToCome,
    Closed(Value),
}

impl Reader<'_> {
    fn document(mut self) -> Result<Value, JsonError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let mut value = match self.begin_value(open.len())? {
                Begun::Whole(value) => value,
                Begun::Opened(container) => {
                    open.push(container);
                    continue;
                }
            };
            loop {
                let Some(container) = open.last_mut() else {
                    return self.finish(value);
                };
                match self.add_to(container, value)? {
                    Continued::MoreToCome => break,
                    Continued::Closed(whole) => {
                        open.pop();
                        value = whole;
                    }
                }
            }
        }
    }

    fn finish(mut self, value: Value) -> Result<Value, JsonError> {
        self.skip_whitespace();
        if self.position < self.bytes.len() {
            return Err(self.error(JsonErrorKind::TrailingData));
        }
        Ok(value)
    }

    fn begin_value(&mut self, depth: usize) -> Result<Begun, JsonError> {
        self.skip_whitespace();
        if self.nodes >= self.limits.nodes {
            return Err(self.error(JsonErrorKind::TooManyNodes { limit: self.limits.nodes }));
        }
        self.nodes = self.nodes.saturating_add(1);
        let value = match self.peek() {
            Some(b'{') => return self.begin_object(depth),
            Some(b'[') => return self.begin_array(depth),
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true", Value::Bool(true))?,
            Some(b'f') => self.literal("false", Value::Bool(false))?,
            Some(b'n') => self.literal("null", Value::Null)?,
            Some(b'N' | b'I') => self.non_finite(self.position)?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Begun::Whole(value))
    }

    fn begin_array(&mut self, depth: usize) -> Result<Begun, JsonError> {
        self.enter(depth)?;
        if self.peek() == Some(b']') {
            self.advance(1);
            return Ok(Begun::Whole(Value::Array(Vec::new())));
        }
        Ok(Begun::Opened(Open::Array(Vec::new())))
    }

    fn begin_object(&mut self, depth: usize) -> Result<Begun, JsonError> {
        self.enter(depth)?;
        if self.peek() == Some(b'}') {
            self.advance(1);
            return Ok(Begun::Whole(Value::Object(Object::default())));
        }
        let mut key_offsets = Vec::new();
        let key = self.key(&mut key_offsets, "a key or `}`")?;
        Ok(Begun::Opened(Open::Object { members: Vec::new(), key_offsets, key }))
    }

    fn enter(&mut self, depth: usize) -> Result<(), JsonError> {
        let limit = self.limits.depth.min(MAX_DEPTH);
        if depth >= limit {
            return Err(self.error(JsonErrorKind::TooDeep { limit }));
        }
        self.advance(1);
        self.skip_whitespace();
        Ok(())
    }

    /// Adds a finished value to the innermost open container and reads on to the next value or the end of it.
    fn add_to(&mut self, container: &mut Open, value: Value) -> Result<Continued, JsonError> {
        self.skip_whitespace();
        match container {
            Open::Array(items) => {
                items.push(value);
                match self.peek() {
                    Some(b',') => self.advance(1),
                    Some(b']') => {
                        self.advance(1);
                        return Ok(Continued::Closed(Value::Array(std::mem::take(items))));
                    }
                    _ => return Err(self.unexpected("`,` or `]`")),
                }
            }
            Open::Object { members, key_offsets, key } => {
                members.push((std::mem::take(key), value));
                match self.peek() {
                    Some(b',') => {
                        self.advance(1);
                        self.skip_whitespace();
                        *key = self.key(key_offsets, "a key")?;
                    }
                    Some(b'}') => {
                        self.advance(1);
                        return close_object(std::mem::take(members), key_offsets).map(Continued::Closed);
                    }
                    _ => return Err(self.unexpected("`,` or `}`")),
                }
            }
        }
        Ok(Continued::MoreToCome)
    }

    fn key(&mut self, offsets: &mut Vec<usize>, expected: &'static str) -> Result<String, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(expected));
        }
        offsets.push(self.position);
        let key = self.string()?;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("`:`"));
        }
        self.advance(1);
        Ok(key)
    }

    fn literal(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        if rest.starts_with(word.as_bytes()) {
            self.advance(word.len());
            return Ok(value);
        }
        let shared = rest.iter().zip(word.as_bytes()).take_while(|(left, right)| left == right).count();
        self.advance(shared);
        Err(self.unexpected("`true`, `false` or `null`"))
    }

    fn non_finite(&self, from: usize) -> Result<Value, JsonError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        if rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") {
            return Err(JsonError { kind: JsonErrorKind::NonFinite, offset: from });
        }
        Err(self.unexpected("a value"))
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.advance(1);
        let mut text = String::new();
        loop {
            let start = self.position;
            let rest = self.bytes.get(start..).unwrap_or_default();
            let Some(plain) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)) else {
                self.position = self.bytes.len();
                return Err(self.error(JsonErrorKind::UnexpectedEnd));
            };
            self.advance(plain);
            // The run stops at ASCII bytes only, so it is cut between characters.
            text.push_str(self.text.get(start..self.position).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.advance(1);
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                other => {
                    let found = char::from(other.unwrap_or_default());
                    return Err(self.error(JsonErrorKind::ControlCharacter { found }));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.position;
        self.advance(1);
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{C}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            Some(_) => return Err(JsonError { kind: JsonErrorKind::InvalidEscape, offset: start }),
            None => return Err(self.error(JsonErrorKind::UnexpectedEnd)),
        };
        self.advance(1);
        Ok(plain)
    }

    fn unicode_escape(&mut self, start: usize) -> Result<char, JsonError> {
        let lone = JsonError { kind: JsonErrorKind::LoneSurrogate, offset: start };
        let first = self.code_unit(start)?;
        if !(0xD800..=0xDFFF).contains(&first) {
            return char::from_u32(first).ok_or(lone);
        }
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        if first >= 0xDC00 || !rest.starts_with(b"\\u") {
            return Err(lone);
        }
        self.advance(1);
        let second = self.code_unit(start)?;
        if !(0xDC00..=0xDFFF).contains(&second) {
            return Err(lone);
        }
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)).ok_or(lone)
    }

    /// Reads `uXXXX`; the reader stands on the `u`.
    fn code_unit(&mut self, start: usize) -> Result<u32, JsonError> {
        self.advance(1);
        let Some(digits) = self.bytes.get(self.position..self.position.saturating_add(4)) else {
            self.position = self.bytes.len();
            return Err(self.error(JsonErrorKind::UnexpectedEnd));
        };
        let mut unit = 0_u32;
        for digit in digits {
            let Some(number) = char::from(*digit).to_digit(16) else {
                return Err(JsonError { kind: JsonErrorKind::InvalidEscape, offset: start });
            };
            unit = (unit << 4) | number;
        }
        self.advance(4);
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.position;
        let fail = |kind| Err(JsonError { kind, offset: start });
        let rest = self.bytes.get(start..).unwrap_or_default();
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        // One more than the limit is enough to know that it is exceeded.
        let length =
            rest.iter().take(self.limits.number_bytes.saturating_add(1)).take_while(|b| is_part(b)).count();
        if length > self.limits.number_bytes {
            return fail(JsonErrorKind::NumberTooLong { limit: self.limits.number_bytes });
        }
        let text = self.text.get(start..start.saturating_add(length)).unwrap_or_default();
        if text == "-" && rest.get(1) == Some(&b'I') {
            self.advance(1);
            return self.non_finite(start);
        }
        let Some(shape) = NumberShape::of(text) else {
            return fail(JsonErrorKind::InvalidNumber);
        };
        let value = if shape.is_integer {
            match (text.parse::<i64>(), text.parse::<u64>()) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) => Value::Uint(number),
                _ => return fail(JsonErrorKind::IntegerOutOfRange),
            }
        } else {
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() && (number != 0.0 || shape.is_zero) => Value::Float(number),
                _ => return fail(JsonErrorKind::FloatOutOfRange),
            }
        };
        self.advance(length);
        Ok(value)
    }

    fn skip_whitespace(&mut self) {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.advance(blanks);
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes);
    }

    fn error(&self, kind: JsonErrorKind) -> JsonError {
        JsonError { kind, offset: self.position }
    }

    fn unexpected(&self, expected: &'static str) -> JsonError {
        match self.text.get(self.position..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.error(JsonErrorKind::UnexpectedCharacter { found, expected }),
            None => self.error(JsonErrorKind::UnexpectedEnd),
        }
    }
}

fn close_object(members: Vec<(String, Value)>, key_offsets: &[usize]) -> Result<Value, JsonError> {
    Object::from_members(members).map(Value::Object).map_err(|duplicate| JsonError {
        offset: key_offsets.get(duplicate.index).copied().unwrap_or_default(),
        kind: JsonErrorKind::DuplicateKey { key: duplicate.key },
    })
}
