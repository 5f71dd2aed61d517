//! How far the ledger was sealed: a row of the store's own, so that a checkpoint that is taken away is missed.

use checkrein_core::codec::Damaged;

use super::Table;
use super::row;
use crate::store::StoreError;

/// The key of the row.
pub(crate) const SEALED: &[u8] = b"sealed";

/// The row that notes `size` sealed entries.
pub(crate) fn sealed_row(size: u64) -> Vec<u8> {
    let mut row = size.to_be_bytes().to_vec();
    row::seal(Table::Meta, SEALED, &mut row);
    row
}

/// How many sealed entries a row notes.
///
/// # Errors
/// It is not what was written.
pub(crate) fn read_sealed(row: &[u8]) -> Result<u64, StoreError> {
    let (body, _) = row::open(Table::Meta, SEALED, row)?;
    let damaged = || row::damaged(Table::Meta, SEALED, Damaged::Short);
    body.try_into().map(u64::from_be_bytes).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_nothing_else() {
        let row = sealed_row(70_000);
        assert_eq!(read_sealed(&row).ok(), Some(70_000));
        for place in 0..row.len() {
            let mut changed = row.clone();
            changed[place] ^= 1;
            assert!(read_sealed(&changed).is_err(), "{place}");
        }
    }
}
