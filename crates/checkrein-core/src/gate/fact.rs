//! Facts: values that a read has shown in this run or session, and that a later action must use.

use crate::codec::{Damaged, Reader, Record, Write};
use crate::time::Timestamp;

/// The record of a proved value; kind, scope and value are its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// When it was proved.
    pub proved: Timestamp,
    /// From when it no longer counts.
    pub expires: Timestamp,
}

impl Fact {
    /// Whether it counts at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

const VERSION: u8 = 1;

impl Record for Fact {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.stamp(self.proved);
        out.stamp(self.expires);
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(bytes, VERSION)?;
        let fact = Self { proved: bytes.stamp()?, expires: bytes.stamp()? };
        bytes.end()?;
        Ok(fact)
    }
}
