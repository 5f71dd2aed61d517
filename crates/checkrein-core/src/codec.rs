//! Bytes of records on a disk: one form per value, a version in front, and an error for whatever is not that form.
//!
//! Numbers are variable-length (seven bits a byte, least significant first; signed ones zigzag), texts and byte strings
//! come after their length. A decoder takes nothing that its encoder does not write.

use crate::amount::Amount;
use crate::time::{Span, Timestamp, Window};

/// Bytes that are not what their encoder writes: damaged, cut, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// They end too early.
    #[error("the record is cut short")]
    Short,
    /// They go on too long.
    #[error("the record has bytes after its end")]
    Long,
    /// A later version wrote them.
    #[error("the record has format {0}, which this version does not know")]
    Version(u8),
    /// A value that cannot be.
    #[error("the record is damaged: {0}")]
    Value(&'static str),
}

/// A value with a form of its own on a disk.
pub trait Record: Sized {
    /// Appends its bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads it, from exactly these bytes.
    ///
    /// # Errors
    /// Bytes that [`encode`](Self::encode) does not write.
    fn decode(bytes: &[u8]) -> Result<Self, Damaged>;
}

/// Appends values.
pub trait Write {
    /// A number of zero or more.
    fn number(&mut self, value: u128);
    /// A number.
    fn signed(&mut self, value: i128);
    /// Yes or no.
    fn flag(&mut self, value: bool);
    /// Bytes after their length.
    fn blob(&mut self, bytes: &[u8]);

    /// An instant.
    fn stamp(&mut self, value: Timestamp) {
        self.signed(value.nanos().into());
    }

    /// A length of time.
    fn span(&mut self, value: Span) {
        self.signed(value.nanos().into());
    }

    /// An amount.
    fn amount(&mut self, value: Amount) {
        self.signed(value.pico());
    }

    /// A window.
    fn window(&mut self, value: Window) {
        match value {
            Window::Rolling(length) => {
                self.number(0);
                self.span(length);
            }
            Window::Period => self.number(1),
            Window::Lifetime => self.number(2),
        }
    }

    /// An instant, or none.
    fn optional_stamp(&mut self, value: Option<Timestamp>) {
        self.flag(value.is_some());
        if let Some(value) = value {
            self.stamp(value);
        }
    }
}

impl Write for Vec<u8> {
    #[inline]
    fn number(&mut self, mut value: u128) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    #[inline]
    fn signed(&mut self, value: i128) {
        self.number(((value << 1) ^ (value >> 127)).cast_unsigned());
    }

    fn flag(&mut self, value: bool) {
        self.push(value.into());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u128);
        self.extend_from_slice(bytes);
    }
}

/// Takes values off the front of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts reading a record of this version.
    ///
    /// # Errors
    /// Another version.
    pub fn new(bytes: &'a [u8], version: u8) -> Result<Self, Damaged> {
        let (&found, rest) = bytes.split_first().ok_or(Damaged::Short)?;
        if found == version { Ok(Self(rest)) } else { Err(Damaged::Version(found)) }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Something is left.
    pub fn end(self) -> Result<(), Damaged> {
        if self.0.is_empty() { Ok(()) } else { Err(Damaged::Long) }
    }

    /// A number of zero or more.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    #[inline]
    pub fn number(&mut self) -> Result<u128, Damaged> {
        let (mut value, mut shift) = (0_u128, 0_u32);
        loop {
            let (&byte, rest) = self.0.split_first().ok_or(Damaged::Short)?;
            self.0 = rest;
            let bits = u128::from(byte & 0x7f);
            if shift > 126 || (shift == 126 && bits > 3) {
                return Err(Damaged::Value("a number is too large"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                // One form per number: no empty last byte.
                let canonical = byte != 0 || shift == 0;
                return if canonical { Ok(value) } else { Err(Damaged::Value("a number is padded")) };
            }
            shift += 7;
        }
    }

    /// A number of a smaller type.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn small<T: TryFrom<u128>>(&mut self) -> Result<T, Damaged> {
        T::try_from(self.number()?).map_err(|_| Damaged::Value("a number is too large"))
    }

    /// A number.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn signed(&mut self) -> Result<i128, Damaged> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Yes or no.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn flag(&mut self) -> Result<bool, Damaged> {
        match self.small::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged::Value("a flag is neither 0 nor 1")),
        }
    }

    /// Bytes after their length.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn blob(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.small::<usize>()?;
        self.take(length)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    /// An instant.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn stamp(&mut self) -> Result<Timestamp, Damaged> {
        let nanos = i64::try_from(self.signed()?).map_err(|_| Damaged::Value("a time is out of range"))?;
        Ok(Timestamp::from_nanos(nanos))
    }

    /// A length of time.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn span(&mut self) -> Result<Span, Damaged> {
        let nanos = i64::try_from(self.signed()?).ok().filter(|nanos| *nanos >= 0);
        nanos.map(Span::from_nanos).ok_or(Damaged::Value("a length of time is out of range"))
    }

    /// An amount.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn amount(&mut self) -> Result<Amount, Damaged> {
        self.signed().map(Amount::from_pico)
    }

    /// A window.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn window(&mut self) -> Result<Window, Damaged> {
        match self.small::<u8>()? {
            0 => self.span().map(Window::Rolling),
            1 => Ok(Window::Period),
            2 => Ok(Window::Lifetime),
            _ => Err(Damaged::Value("no such kind of window")),
        }
    }

    /// An instant, or none.
    ///
    /// # Errors
    /// Bytes that end, or that no encoder writes.
    pub fn optional_stamp(&mut self) -> Result<Option<Timestamp>, Damaged> {
        if self.flag()? { self.stamp().map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(value: i128, other: u128) {
            let mut bytes = vec![1];
            bytes.signed(value);
            bytes.number(other);
            let mut reader = Reader::new(&bytes, 1).unwrap();
            prop_assert_eq!(reader.signed(), Ok(value));
            prop_assert_eq!(reader.number(), Ok(other));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn one_form_per_number() {
        for bytes in [&[1, 0x80, 0x00][..], &[1, 0xff], &[1]] {
            assert!(Reader::new(bytes, 1).unwrap().number().is_err(), "{bytes:?}");
        }
        assert_eq!(Reader::new(&[9], 1).unwrap_err(), Damaged::Version(9));
    }
}
