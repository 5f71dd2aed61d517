//! What a durable store needs of a disk: ordered tables of bytes, changed in transactions.

use crate::store::StoreError;

/// The tables of a durable store. Keys are bytes and ordered as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single values of the store: schema, time, counters, the head over all records.
    Meta,
    /// What is counted, by number.
    Family,
    /// Heads of meters.
    Meter,
    /// Events of meters that outgrew their head, 64 to a row.
    Events,
    /// Circuit breakers.
    Breaker,
    /// Operations behind once keys.
    Operation,
    /// Bodies of stored results, apart from their operations because they are kept for a shorter time.
    Outcome,
    /// Proved values.
    Fact,
    /// Open permits, by number.
    Permit,
    /// Live keys per tenant and family.
    Usage,
    /// Processes that have the store open, by number.
    Epoch,
    /// Ledger entries, by sequence.
    Entry,
    /// Erasable salts of digests in ledger entries, by sequence.
    Salt,
    /// Hashes of the ledger's tree.
    Tile,
    /// Signed checkpoints, by size.
    Checkpoint,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 15] = [
        Self::Meta,
        Self::Family,
        Self::Meter,
        Self::Events,
        Self::Breaker,
        Self::Operation,
        Self::Outcome,
        Self::Fact,
        Self::Permit,
        Self::Usage,
        Self::Epoch,
        Self::Entry,
        Self::Salt,
        Self::Tile,
        Self::Checkpoint,
    ];

    /// Its name in a schema.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Family => "family",
            Self::Meter => "meter",
            Self::Events => "events",
            Self::Breaker => "breaker",
            Self::Operation => "operation",
            Self::Outcome => "outcome",
            Self::Fact => "fact",
            Self::Permit => "permit",
            Self::Usage => "usage",
            Self::Epoch => "epoch",
            Self::Entry => "entry",
            Self::Salt => "salt",
            Self::Tile => "tile",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// Whether every key is a number: eight bytes, big-endian, below 2^63.
    pub const fn is_numbered(self) -> bool {
        matches!(self, Self::Permit | Self::Epoch | Self::Entry | Self::Salt | Self::Checkpoint)
    }
}

/// Ordered tables on a disk, as one process sees them. All reads and changes lie between [`begin`](Self::begin) and
/// [`commit`](Self::commit) or [`rollback`](Self::rollback).
pub trait Tables {
    /// Begins a transaction that excludes every other writer, in this process and in others. `true`: another process
    /// has committed since this handle's last transaction, so nothing remembered from before it may be used.
    ///
    /// # Errors
    /// The disk cannot be had in time, or is not usable; nothing has begun then.
    fn begin(&mut self) -> Result<bool, StoreError>;

    /// The row of a key.
    ///
    /// # Errors
    /// The disk cannot be read; the transaction must be rolled back.
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes a row, over the one of this key if there is one.
    ///
    /// # Errors
    /// The disk cannot be written; the transaction must be rolled back.
    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError>;

    /// Removes a row, if there is one.
    ///
    /// # Errors
    /// The disk cannot be written; the transaction must be rolled back.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;

    /// At most `limit` rows in ascending order of their keys, from the first one after `after` (or the first of all).
    ///
    /// # Errors
    /// The disk cannot be read; the transaction must be rolled back.
    fn scan(&mut self, table: Table, after: Option<&[u8]>, limit: usize) -> Result<Rows, StoreError>;

    /// The last row of a table, by the order of the keys.
    ///
    /// # Errors
    /// The disk cannot be read; the transaction must be rolled back.
    fn last(&mut self, table: Table) -> Result<Option<Row>, StoreError>;

    /// Makes every change of the transaction last, and returns only when it does.
    ///
    /// # Errors
    /// [`StoreError::NotCommitted`] when nothing was kept, [`StoreError::Unknown`] when that cannot be said: after a
    /// failed sync nothing may be written through this handle again.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Forgets every change of the transaction.
    fn rollback(&mut self);
}

/// A row of a table: key and body.
pub type Row = (Vec<u8>, Vec<u8>);

/// Rows of a table.
pub type Rows = Vec<Row>;
