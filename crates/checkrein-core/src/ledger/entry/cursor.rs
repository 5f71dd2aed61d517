//! A cursor over canonical JSON: it accepts one form of every value and nothing else.

use std::borrow::Cow;
use std::cmp::Ordering;

use smallvec::SmallVec;

use super::{LARGEST_INTEGER, SALT_LENGTH, ShortId};
use crate::canonical_json::{compare_keys, write_float};
use crate::json::MAX_DEPTH;
use crate::ledger::moment;
use crate::time::Timestamp;

/// Why bytes are not an entry in its canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical entry: {expected} expected at byte {offset}")]
pub struct EntryError {
    /// The byte at which they differ from it.
    pub offset: usize,
    /// What should stand there.
    pub expected: &'static str,
}

/// Says whether `bytes` are the canonical form of one JSON value.
#[must_use]
pub fn is_canonical(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut cursor = Cursor::new(text);
    cursor.value().is_ok() && cursor.end().is_ok()
}

pub(super) struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    place: usize,
}

type Read<T> = Result<T, EntryError>;

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), place: 0 }
    }

    pub(super) const fn fail<T>(&self, expected: &'static str) -> Read<T> {
        Err(EntryError { offset: self.place, expected })
    }

    /// How many bytes have been read.
    pub(super) const fn place(&self) -> usize {
        self.place
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.place..).unwrap_or_default()
    }

    fn slice(&self, from: usize) -> &'a str {
        self.text.get(from..self.place).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.place).copied()
    }

    /// Steps over `bytes` if they stand here.
    pub(super) fn took(&mut self, bytes: &[u8]) -> bool {
        let here = self.rest().starts_with(bytes);
        if here {
            self.place = self.place.saturating_add(bytes.len());
        }
        here
    }

    /// Steps over the name of a member and its colon, after `before`, if they stand here.
    pub(super) fn took_name(&mut self, before: &[u8], name: &str) -> bool {
        let after = self.rest().strip_prefix(before).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        let Some(after) = after.and_then(|rest| rest.strip_prefix(b"\":")) else { return false };
        self.place = self.bytes.len().saturating_sub(after.len());
        true
    }

    pub(super) fn expect(&mut self, bytes: &'static str) -> Read<()> {
        if self.took(bytes.as_bytes()) { Ok(()) } else { self.fail(bytes) }
    }

    pub(super) fn end(&self) -> Read<()> {
        if self.place == self.bytes.len() { Ok(()) } else { self.fail("the end") }
    }

    /// Reads a string; borrowed unless it has escapes.
    pub(super) fn string(&mut self) -> Read<Cow<'a, str>> {
        self.expect("\"")?;
        let from = self.place;
        let mut owned: Option<String> = None;
        let mut copied = from;
        loop {
            let plain = self.rest().iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F));
            let Some(plain) = plain else { return self.fail("the end of a string") };
            self.place = self.place.saturating_add(plain);
            if self.peek() == Some(b'"') {
                let tail = self.slice(copied);
                self.place = self.place.saturating_add(1);
                return Ok(match owned {
                    None => Cow::Borrowed(tail),
                    Some(mut text) => {
                        text.push_str(tail);
                        Cow::Owned(text)
                    }
                });
            }
            let text = owned.get_or_insert_default();
            text.push_str(self.slice(copied));
            let character = self.escape()?;
            owned.get_or_insert_default().push(character);
            copied = self.place;
        }
    }

    /// Reads an escape: those of quote, backslash and the characters below U+0020, each in its one form.
    fn escape(&mut self) -> Read<char> {
        const SHORT: [(&[u8], char); 7] = [
            (b"\\\"", '"'),
            (b"\\\\", '\\'),
            (b"\\b", '\u{8}'),
            (b"\\t", '\t'),
            (b"\\n", '\n'),
            (b"\\f", '\u{c}'),
            (b"\\r", '\r'),
        ];
        for (form, character) in SHORT {
            if self.took(form) {
                return Ok(character);
            }
        }
        if let Some([b'\\', b'u', b'0', b'0', high @ b'0'..=b'1', low]) = self.rest().first_chunk::<6>() {
            let low = match low {
                b'0'..=b'9' => low & 0xF,
                b'a'..=b'f' => low - b'a' + 10,
                _ => return self.fail("a canonical escape"),
            };
            let character = char::from((high & 1) << 4 | low);
            if !matches!(character, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r') {
                self.place = self.place.saturating_add(6);
                return Ok(character);
            }
        }
        self.fail("a canonical escape")
    }

    /// Reads an integer that every reader of JSON keeps exactly.
    pub(super) fn integer(&mut self) -> Read<u64> {
        let from = self.place;
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = self.rest().get(..digits.min(17)).unwrap_or_default();
        let number =
            text.iter().fold(0_u64, |sum, byte| sum.saturating_mul(10).saturating_add(u64::from(byte & 0xF)));
        let canonical = digits == 1 || (digits > 1 && self.peek() != Some(b'0'));
        if !canonical || digits > 16 || number > LARGEST_INTEGER {
            return self.fail("an integer from 0 to 2^53 - 1");
        }
        self.place = from.saturating_add(digits);
        Ok(number)
    }

    /// Reads an instant.
    pub(super) fn time(&mut self) -> Read<Timestamp> {
        let from = self.place;
        let text = self.rest().get(1..=moment::LENGTH).unwrap_or_default();
        let Some(time) = moment::read(text) else { return self.fail("an instant") };
        self.expect("\"")?;
        self.place = self.place.saturating_add(moment::LENGTH);
        if !self.took(b"\"") {
            self.place = from;
            return self.fail("an instant");
        }
        Ok(time)
    }

    /// Reads 32 bytes in lower-case hexadecimal digits.
    pub(super) fn digest(&mut self) -> Read<[u8; 32]> {
        let hex = self.rest().get(1..=64).unwrap_or_default();
        let Some(digest) = crate::ledger::tree::read_hex(hex) else {
            return self.fail("64 hexadecimal digits");
        };
        self.expect("\"")?;
        self.place = self.place.saturating_add(64);
        self.expect("\"")?;
        Ok(digest)
    }

    /// Reads eight bytes in lower-case hexadecimal digits.
    pub(super) fn short_id(&mut self) -> Read<ShortId> {
        self.hex().map_or_else(|| self.fail("16 hexadecimal digits"), |bytes| Ok(ShortId::from_bytes(bytes)))
    }

    /// Reads a salt in lower-case hexadecimal digits.
    pub(super) fn salt(&mut self) -> Read<[u8; SALT_LENGTH]> {
        self.hex().map_or_else(|| self.fail("32 hexadecimal digits"), Ok)
    }

    /// Reads so many bytes in lower-case hexadecimal digits; steps over nothing else.
    fn hex<const N: usize>(&mut self) -> Option<[u8; N]> {
        let digits = self.rest().strip_prefix(b"\"")?.get(..2 * N)?;
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *byte = *byte << 4 | value;
            }
        }
        let closed = self.rest().get(2 * N + 1) == Some(&b'"');
        closed.then(|| {
            self.place = self.place.saturating_add(2 * N + 2);
            bytes
        })
    }

    /// Reads an amount: digits, and a fraction of at most twelve that does not end in a zero.
    pub(super) fn amount(&mut self) -> Read<&'a str> {
        self.expect("\"")?;
        let from = self.place;
        let negative = self.took(b"-");
        let whole = self.digits();
        let fraction = if self.took(b".") { Some(self.digits()) } else { None };
        let canonical_whole = whole.len() == 1 || (whole.len() > 1 && !whole.starts_with('0'));
        let canonical_fraction =
            fraction.is_none_or(|digits| !digits.is_empty() && digits.len() <= 12 && !digits.ends_with('0'));
        let nothing = whole == "0" && fraction.is_none();
        if !canonical_whole || !canonical_fraction || whole.len() > 27 || (negative && nothing) {
            self.place = from;
            return self.fail("an amount");
        }
        let text = self.slice(from);
        self.expect("\"")?;
        Ok(text)
    }

    fn digits(&mut self) -> &'a str {
        let from = self.place;
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.place = from.saturating_add(count);
        self.slice(from)
    }

    /// Steps over one value of any kind and returns its bytes.
    pub(super) fn value(&mut self) -> Read<&'a str> {
        let from = self.place;
        let mut open: SmallVec<[Open<'a>; 8]> = SmallVec::new();
        loop {
            if self.begin(&mut open)? {
                continue;
            }
            while let Some(container) = open.last_mut() {
                if self.took(container.closing()) {
                    open.pop();
                    continue;
                }
                self.expect(",")?;
                if let Open::Object(earlier) = container {
                    let key = self.string()?;
                    if compare_keys(earlier, &key) != Ordering::Less {
                        return self.fail("a key after the one before it");
                    }
                    *earlier = key;
                    self.expect(":")?;
                }
                break;
            }
            if open.is_empty() {
                return Ok(self.slice(from));
            }
        }
    }

    /// Steps over a scalar or an empty container; `true` if a container was opened and its first value follows.
    fn begin(&mut self, open: &mut SmallVec<[Open<'a>; 8]>) -> Read<bool> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b'{') => {
                self.expect("{")?;
                if self.took(b"}") {
                    return Ok(false);
                }
                let key = self.string()?;
                self.expect(":")?;
                open.push(Open::Object(key));
                self.deeper(open.len())
            }
            Some(b'[') => {
                self.expect("[")?;
                if self.took(b"]") {
                    return Ok(false);
                }
                open.push(Open::Array);
                self.deeper(open.len())
            }
            _ if self.took(b"null") || self.took(b"true") || self.took(b"false") => Ok(false),
            _ => self.fail("a value"),
        }
    }

    fn deeper(&self, depth: usize) -> Read<bool> {
        if depth > MAX_DEPTH { self.fail("less nesting") } else { Ok(true) }
    }

    fn number(&mut self) -> Read<()> {
        let from = self.place;
        let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e');
        let length = self.rest().iter().take_while(|byte| part(byte)).count();
        self.place = from.saturating_add(length);
        let text = self.slice(from);
        let digits = text.strip_prefix('-').unwrap_or(text);
        let canonical = if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            // The digits of a 64-bit integer mean exactly that integer; there are no others, and no `-0`.
            let one_form = digits == "0" && text == "0" || !digits.starts_with('0');
            one_form && (text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok())
        } else {
            let mut again = Vec::with_capacity(32);
            if let Ok(number) = text.parse::<f64>() {
                write_float(number, &mut again);
            }
            again == text.as_bytes()
        };
        if !canonical {
            self.place = from;
            return self.fail("a canonical number");
        }
        Ok(())
    }
}

enum Open<'a> {
    Array,
    /// With the key of the member being read.
    Object(Cow<'a, str>),
}

impl Open<'_> {
    const fn closing(&self) -> &'static [u8] {
        match self {
            Self::Array => b"]",
            Self::Object(_) => b"}",
        }
    }
}
