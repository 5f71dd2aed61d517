//! The store's own row: how far it has come, and the sum over all its records.

use checkrein_core::codec::{Damaged, Reader, Write};
use checkrein_core::time::Timestamp;

use super::row::{self, Sum};
use super::{Table, Tables};
use crate::store::StoreError;

/// The version of the tables' form. An older program refuses a newer one; a newer one brings an older one forward.
pub const SCHEMA: u32 = 1;
const KEY: &[u8] = b"head";
const VERSION: u8 = 1;

/// Written in every transaction that changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Transactions that changed something.
    pub(super) commit: u64,
    /// Over all records.
    pub(super) sum: Sum,
    /// The next ledger entry's sequence.
    pub(super) next_entry: u64,
    /// The next permit's number.
    pub(super) next_permit: u64,
    /// The next process's number.
    pub(super) next_epoch: u64,
    /// The latest time of any transaction: the store's clock never shows less.
    pub(super) last: Timestamp,
}

impl Head {
    const NEW: Self = Self {
        commit: 0,
        sum: Sum::from_words([0; 4]),
        next_entry: 0,
        next_permit: 1,
        next_epoch: 1,
        last: Timestamp::MIN,
    };

    /// The head on disk, or that of a new store.
    pub(super) fn load(tables: &mut impl Tables) -> Result<Self, StoreError> {
        let Some(bytes) = tables.get(Table::Meta, KEY)? else { return Ok(Self::NEW) };
        Self::read(&bytes)
    }

    /// The head that a row says.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let (body, _) = row::open(Table::Meta, KEY, bytes)?;
        Self::decode(body).map_err(|why| row::damaged(Table::Meta, KEY, why))
    }

    pub(super) fn store(&self, tables: &mut impl Tables) -> Result<(), StoreError> {
        let mut out = Vec::with_capacity(96);
        out.push(VERSION);
        out.number(SCHEMA.into());
        out.number(self.commit.into());
        out.extend_from_slice(&self.sum.to_bytes());
        out.number(self.next_entry.into());
        out.number(self.next_permit.into());
        out.number(self.next_epoch.into());
        out.stamp(self.last);
        row::seal(Table::Meta, KEY, &mut out);
        tables.put(Table::Meta, KEY, &out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut bytes = Reader::new(bytes, VERSION)?;
        if bytes.small::<u32>()? > SCHEMA {
            return Err(Damaged::Value("a later version of checkrein wrote this store"));
        }
        let commit = bytes.small()?;
        let sum = bytes.take(32)?.try_into().map_err(|_| Damaged::Short)?;
        let (next_entry, next_permit, next_epoch) = (bytes.small()?, bytes.small()?, bytes.small()?);
        let last = bytes.stamp()?;
        bytes.end()?;
        Ok(Self { commit, sum: Sum::from_bytes(&sum), next_entry, next_permit, next_epoch, last })
    }
}
