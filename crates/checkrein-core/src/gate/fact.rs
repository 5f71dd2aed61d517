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
    /// The ledger entry that says so, where the store of the fact keeps the ledger.
    pub entry: Option<u64>,
}

impl Fact {
    /// Whether it counts at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

/// Before facts knew their entries.
const FIRST: u8 = 1;
const VERSION: u8 = 2;

impl Record for Fact {
    fn encode(&self, out: &mut Vec<u8>) {
        // One without an entry has the bytes that it always had.
        out.push(if self.entry.is_some() { VERSION } else { FIRST });
        out.stamp(self.proved);
        out.stamp(self.expires);
        if let Some(entry) = self.entry {
            out.number(u128::from(entry));
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let has_entry = bytes.first() == Some(&VERSION);
        let mut bytes = Reader::new(bytes, if has_entry { VERSION } else { FIRST })?;
        let (proved, expires) = (bytes.stamp()?, bytes.stamp()?);
        let number = if has_entry { Some(bytes.number()?) } else { None };
        let wrong = |_| Damaged::Value("the number of an entry is too large");
        let entry = number.map(u64::try_from).transpose().map_err(wrong)?;
        let fact = Self { proved, expires, entry };
        bytes.end()?;
        Ok(fact)
    }
}
