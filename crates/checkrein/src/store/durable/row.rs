//! Rows: keys as bytes, a check in every row, and a sum over all of them.

use checkrein_core::codec::Damaged;
use checkrein_core::key::{Family, KeyRef};
use sha2::{Digest as _, Sha256};

use super::Table;
use crate::store::StoreError;

/// The SHA-256 of a row with its table and key.
pub(in crate::store) type Digest = [u8; 32];
/// So many bytes of it stand at the end of the row.
const CHECK: usize = 8;

/// Appends a record's key: family, length of the tenant, tenant, key.
pub(super) fn write_key(key: KeyRef<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.family.0.to_be_bytes());
    // Keys of records have at most 4,096 bytes.
    out.extend_from_slice(&u16::try_from(key.tenant.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(key.tenant);
    out.extend_from_slice(key.key);
}

/// Reads what [`write_key`] wrote.
pub(super) fn read_key(bytes: &[u8]) -> Option<KeyRef<'_>> {
    let (family, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (tenant, key) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some(KeyRef { family: Family(u32::from_be_bytes(*family)), tenant, key })
}

/// The key of a numbered row.
pub(super) fn number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number of a numbered row.
pub(super) fn read_number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// Ends a row with its check.
pub(in crate::store) fn seal(table: Table, key: &[u8], body: &mut Vec<u8>) -> Digest {
    let digest = digest_of(table, key, body);
    body.extend(digest.iter().take(CHECK));
    digest
}

/// The body of a row.
///
/// # Errors
/// [`StoreError::Damaged`]: the row, or the key it stands under, is not what was written.
pub(in crate::store) fn open<'a>(
    table: Table,
    key: &[u8],
    row: &'a [u8],
) -> Result<(&'a [u8], Digest), StoreError> {
    let damaged = || damaged(table, key, Damaged::Value("its check does not match"));
    let (body, check) =
        row.len().checked_sub(CHECK).and_then(|at| row.split_at_checked(at)).ok_or_else(damaged)?;
    let digest = digest_of(table, key, body);
    if digest.starts_with(check) { Ok((body, digest)) } else { Err(damaged()) }
}

fn digest_of(table: Table, key: &[u8], body: &[u8]) -> Digest {
    let mut hasher = Sha256::new();
    let lengths = [table as u8, 0, 0, 0, 0, 0, 0, 0];
    hasher.update(lengths);
    hasher.update((key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().into()
}

/// The error for a row that does not read.
pub(super) fn damaged(table: Table, key: &[u8], why: Damaged) -> StoreError {
    let shown = match read_key(key) {
        Some(key) if !table.is_numbered() => {
            format!(
                "family {}, tenant `{}`, key `{}`",
                key.family.0,
                key.tenant.escape_ascii(),
                key.key.escape_ascii()
            )
        }
        _ => match read_number(key) {
            Some(number) => format!("number {number}"),
            None => format!("key `{}`", key.escape_ascii()),
        },
    };
    StoreError::Damaged(format!("{} of {shown}: {why}", table.name()))
}

/// The sum of the digests of all rows modulo 2^256: the same for the same rows, whatever the order of their changes.
/// It finds what was lost or changed by accident; against somebody who computes rows that cancel out stands the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    pub(super) const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    pub(super) fn from_bytes(bytes: &Digest) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut sum = [0; 4];
        for (own, word) in sum.iter_mut().zip(words) {
            *own = u64::from_le_bytes(*word);
        }
        Self(sum)
    }

    pub(super) fn to_bytes(self) -> Digest {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    pub(super) fn add(&mut self, digest: &Digest) {
        let mut carry = false;
        for (own, other) in self.0.iter_mut().zip(Self::from_bytes(digest).0) {
            let (sum, first) = own.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(carry.into());
            (*own, carry) = (sum, first || second);
        }
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        let mut borrow = false;
        for (own, other) in self.0.iter_mut().zip(Self::from_bytes(digest).0) {
            let (difference, first) = own.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(borrow.into());
            (*own, borrow) = (difference, first || second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_the_order(digests: Vec<[u8; 32]>, split: usize) {
            let (mut forward, mut backward) = (Sum::default(), Sum::default());
            digests.iter().for_each(|digest| forward.add(digest));
            digests.iter().rev().for_each(|digest| backward.add(digest));
            prop_assert_eq!(forward, backward);
            let at = split % (digests.len() + 1);
            digests[at..].iter().for_each(|digest| forward.remove(digest));
            let mut rest = Sum::default();
            digests[..at].iter().for_each(|digest| rest.add(digest));
            prop_assert_eq!(forward, rest);
            prop_assert_eq!(Sum::from_bytes(&rest.to_bytes()), rest);
        }
    }

    #[test]
    fn every_changed_bit_of_a_row_or_its_key_is_found() {
        let mut key = Vec::new();
        write_key(KeyRef { family: Family(7), tenant: b"acme", key: b"u1" }, &mut key);
        assert_eq!(read_key(&key).unwrap(), KeyRef { family: Family(7), tenant: b"acme", key: b"u1" });
        let mut row = b"a body".to_vec();
        seal(Table::Meter, &key, &mut row);
        assert!(open(Table::Meter, &key, &row).is_ok());
        assert!(open(Table::Fact, &key, &row).is_err());
        for bit in 0..row.len() * 8 {
            let mut changed = row.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Table::Meter, &key, &changed).is_err(), "bit {bit}");
        }
        for bit in 0..key.len() * 8 {
            let mut changed = key.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Table::Meter, &changed, &row).is_err(), "bit {bit} of the key");
        }
    }
}
