//! Open permits on a disk: what they hold, on which records, and whose they are.

use checkrein_core::codec::{Damaged, Record};
use checkrein_core::permit::Permit;

use super::Table;

/// An admitted action that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenPermit {
    /// The process that admitted it.
    pub(super) epoch: u64,
    /// The sequence of its intent in the ledger.
    pub(super) intent: Option<u64>,
    /// Its records, in the order of the policy's gates.
    pub(super) records: Vec<(Table, Box<[u8]>)>,
    pub(super) permit: Permit,
}

const VERSION: u8 = 1;
const RECORD_TABLES: [Table; 4] = [Table::Meter, Table::Breaker, Table::Operation, Table::Fact];

impl OpenPermit {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.intent.unwrap_or(u64::MAX).to_be_bytes());
        // A policy has at most 64 gates, and a key at most 4,096 bytes.
        out.push(self.records.len() as u8);
        for (table, key) in &self.records {
            out.push(*table as u8);
            out.extend_from_slice(&(key.len() as u32).to_be_bytes());
            out.extend_from_slice(key);
        }
        self.permit.encode(out);
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let (&version, rest) = bytes.split_first().ok_or(Damaged::Short)?;
        if version != VERSION {
            return Err(Damaged::Version(version));
        }
        let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(Damaged::Short)?;
        let (intent, rest) = rest.split_first_chunk::<8>().ok_or(Damaged::Short)?;
        let intent = u64::from_be_bytes(*intent);
        let (&count, mut rest) = rest.split_first().ok_or(Damaged::Short)?;
        let mut records = Vec::new();
        for _ in 0..count {
            let (&number, after) = rest.split_first().ok_or(Damaged::Short)?;
            let table = RECORD_TABLES.into_iter().find(|table| *table as u8 == number);
            let (length, after) = after.split_first_chunk::<4>().ok_or(Damaged::Short)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (key, after) = after.split_at_checked(length).ok_or(Damaged::Short)?;
            records.push((table.ok_or(Damaged::Value("no such kind of record"))?, key.into()));
            rest = after;
        }
        let permit = Permit::decode(rest)?;
        let intent = (intent != u64::MAX).then_some(intent);
        Ok(Self { epoch: u64::from_be_bytes(*epoch), intent, records, permit })
    }
}
