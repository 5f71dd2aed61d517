//! Records in memory: read once, changed in place, written once per batch; dropped whole when a commit fails.

use std::collections::HashMap;
use std::sync::Arc;

use checkrein_core::codec::Record;
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::meter::Meter;
use checkrein_core::policy::RecordKind;
use foldhash::fast::RandomState;

use super::permits::OpenPermit;
use super::row::{self, Digest, Sum};
use super::{Table, Tables};
use crate::store::StoreError;

/// More records than this are not remembered: those that were not used lately are read again when they are needed.
const MAX_CACHED: usize = 65_536;

/// What a row says.
#[derive(Debug)]
pub(super) enum Value {
    Meter(Meter),
    Breaker(Breaker),
    Operation(Operation),
    Fact(Fact),
    Permit(OpenPermit),
    Usage(u64),
}

/// A record, or the knowledge that there is none.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) table: Table,
    pub(super) key: Box<[u8]>,
    pub(super) value: Option<Value>,
    /// The digest of the row on disk, if there is one.
    kept: Option<Digest>,
    /// The further rows of the record on disk: chunks of a meter, the stored result of an operation.
    parts: Vec<(u64, Digest)>,
    dirty: bool,
    used: u64,
}

/// A position in the cache, good until the end of the batch.
pub(super) type Slot = usize;

#[derive(Debug, Default)]
pub(super) struct Cache {
    index: HashMap<Box<[u8]>, Slot, RandomState>,
    slots: Vec<Cached>,
    dirty: Vec<Slot>,
    batch: u64,
    name: Vec<u8>,
    row: Vec<u8>,
}

pub(super) const fn table_of(kind: RecordKind) -> Table {
    match kind {
        RecordKind::Meter => Table::Meter,
        RecordKind::Breaker => Table::Breaker,
        RecordKind::Operation => Table::Operation,
        RecordKind::Fact => Table::Fact,
        RecordKind::Permit => Table::Permit,
    }
}

fn part_key(key: &[u8], part: u64) -> Vec<u8> {
    [key, &part.to_be_bytes()].concat()
}

impl Cache {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
        self.dirty.clear();
    }

    /// Between two batches: makes room if there is too much.
    pub(super) fn next_batch(&mut self) {
        self.batch += 1;
        if self.slots.len() <= MAX_CACHED {
            return;
        }
        let recent = self.batch.saturating_sub(64);
        let mut kept: Vec<Cached> =
            std::mem::take(&mut self.slots).into_iter().filter(|cached| cached.used >= recent).collect();
        if kept.len() > MAX_CACHED / 2 {
            kept.clear();
        }
        self.index.clear();
        for (slot, cached) in kept.iter().enumerate() {
            self.index.insert(name_of(cached.table, &cached.key), slot);
        }
        self.slots = kept;
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Cached> {
        self.slots.get(slot)
    }

    pub(super) fn value(&mut self, slot: Slot) -> Option<&mut Value> {
        self.slots.get_mut(slot)?.value.as_mut()
    }

    /// Puts a value, or `None` to remove the record; it is written at the end of the batch.
    pub(super) fn put(&mut self, slot: Slot, value: Option<Value>) {
        if let Some(cached) = self.slots.get_mut(slot) {
            cached.value = value;
        }
        self.mark(slot);
    }

    /// Says that a record has been changed.
    pub(super) fn mark(&mut self, slot: Slot) {
        if let Some(cached) = self.slots.get_mut(slot).filter(|cached| !cached.dirty) {
            cached.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Whether anything has to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Finds a record, reading it if it is not here.
    pub(super) fn load(
        &mut self,
        tables: &mut impl Tables,
        table: Table,
        key: &[u8],
    ) -> Result<Slot, StoreError> {
        self.name.clear();
        self.name.push(table as u8);
        self.name.extend_from_slice(key);
        if let Some(&slot) = self.index.get(self.name.as_slice()) {
            if let Some(cached) = self.slots.get_mut(slot) {
                cached.used = self.batch;
            }
            return Ok(slot);
        }
        let mut cached = Cached::new(table, key, self.batch);
        if let Some(bytes) = tables.get(table, key)? {
            cached.read(tables, &bytes)?;
        }
        Ok(self.keep(cached))
    }

    /// The place of a record that does not exist yet: its number has just been given out.
    pub(super) fn fresh(&mut self, table: Table, key: &[u8]) -> Slot {
        self.name.clear();
        self.name.push(table as u8);
        self.name.extend_from_slice(key);
        if let Some(&slot) = self.index.get(self.name.as_slice()) {
            return slot;
        }
        self.keep(Cached::new(table, key, self.batch))
    }

    /// Keeps a record under the name that was looked for.
    fn keep(&mut self, cached: Cached) -> Slot {
        let slot = self.slots.len();
        self.index.insert(self.name.as_slice().into(), slot);
        self.slots.push(cached);
        slot
    }

    /// Writes every changed record.
    pub(super) fn write(&mut self, tables: &mut impl Tables, sum: &mut Sum) -> Result<(), StoreError> {
        let dirty = std::mem::take(&mut self.dirty);
        for slot in &dirty {
            if let Some(cached) = self.slots.get_mut(*slot) {
                cached.write(tables, sum, &mut self.row)?;
                cached.dirty = false;
            }
        }
        self.dirty = dirty;
        self.dirty.clear();
        Ok(())
    }
}

fn name_of(table: Table, key: &[u8]) -> Box<[u8]> {
    [&[table as u8], key].concat().into()
}

impl Cached {
    fn new(table: Table, key: &[u8], used: u64) -> Self {
        Self { table, key: key.into(), value: None, kept: None, parts: Vec::new(), dirty: false, used }
    }

    fn read(&mut self, tables: &mut impl Tables, bytes: &[u8]) -> Result<(), StoreError> {
        let (table, key) = (self.table, &*self.key);
        let (body, digest) = row::open(table, key, bytes)?;
        let bad = |why| row::damaged(table, key, why);
        let value = match table {
            Table::Meter => {
                let needed = Meter::needed_chunks(body).map_err(bad)?;
                let mut chunks = Vec::new();
                for number in needed {
                    let chunk = read_part(tables, Table::Events, key, number, &mut self.parts)?;
                    chunks.push(chunk.unwrap_or_default());
                }
                Value::Meter(Meter::decode(body, chunks.iter().map(Vec::as_slice)).map_err(bad)?)
            }
            Table::Operation => {
                let result = read_part(tables, Table::Outcome, key, 0, &mut self.parts)?;
                Value::Operation(Operation::decode(body, || result.map(Arc::from)).map_err(bad)?)
            }
            Table::Breaker => Value::Breaker(Breaker::decode(body).map_err(bad)?),
            Table::Fact => Value::Fact(Fact::decode(body).map_err(bad)?),
            Table::Permit => Value::Permit(OpenPermit::decode(body).map_err(bad)?),
            _ => {
                let count = body.try_into().map(u64::from_be_bytes);
                Value::Usage(count.map_err(|_| bad(checkrein_core::codec::Damaged::Short))?)
            }
        };
        (self.value, self.kept) = (Some(value), Some(digest));
        Ok(())
    }

    fn write(
        &mut self,
        tables: &mut impl Tables,
        sum: &mut Sum,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        self.write_parts(tables, sum, out)?;
        out.clear();
        match &mut self.value {
            Some(Value::Meter(meter)) => {
                meter.encode_head(out);
                meter.mark_kept();
            }
            Some(Value::Breaker(breaker)) => breaker.encode(out),
            Some(Value::Operation(operation)) => operation.encode(out),
            Some(Value::Fact(fact)) => fact.encode(out),
            Some(Value::Permit(permit)) => permit.encode(out),
            Some(Value::Usage(count)) => out.extend_from_slice(&count.to_be_bytes()),
            None => {
                if let Some(digest) = self.kept.take() {
                    tables.delete(self.table, &self.key)?;
                    sum.remove(&digest);
                }
                return Ok(());
            }
        }
        let digest = row::seal(self.table, &self.key, out);
        if self.kept == Some(digest) {
            return Ok(());
        }
        tables.put(self.table, &self.key, out)?;
        self.kept.iter().for_each(|old| sum.remove(old));
        sum.add(&digest);
        self.kept = Some(digest);
        Ok(())
    }

    /// Writes the further rows: chunks that changed, a result that came, and removes those that went.
    fn write_parts(
        &mut self,
        tables: &mut impl Tables,
        sum: &mut Sum,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let (part_table, live, changed) = match &self.value {
            Some(Value::Meter(meter)) => (Table::Events, meter.chunks(), meter.changed_chunks()),
            Some(Value::Operation(operation)) => {
                let there = u64::from(operation.result().is_some());
                (Table::Outcome, 0..there, 0..there)
            }
            None if self.table == Table::Meter => (Table::Events, 0..0, 0..0),
            None if self.table == Table::Operation => (Table::Outcome, 0..0, 0..0),
            _ => return Ok(()),
        };
        for (number, digest) in self.parts.extract_if(.., |(number, _)| !live.contains(number)) {
            tables.delete(part_table, &part_key(&self.key, number))?;
            sum.remove(&digest);
        }
        for number in changed {
            out.clear();
            match &self.value {
                Some(Value::Meter(meter)) => meter.encode_chunk(number, out),
                Some(Value::Operation(operation)) => {
                    operation.result().into_iter().for_each(|result| out.extend_from_slice(result));
                }
                _ => {}
            }
            let key = part_key(&self.key, number);
            let digest = row::seal(part_table, &key, out);
            let kept = self.parts.iter_mut().find(|(other, _)| *other == number);
            if kept.as_ref().is_some_and(|(_, old)| *old == digest) {
                continue;
            }
            tables.put(part_table, &key, out)?;
            sum.add(&digest);
            match kept {
                Some((_, old)) => {
                    sum.remove(old);
                    *old = digest;
                }
                None => self.parts.push((number, digest)),
            }
        }
        Ok(())
    }
}

/// Reads a further row of a record and remembers that it is there.
fn read_part(
    tables: &mut impl Tables,
    table: Table,
    key: &[u8],
    number: u64,
    parts: &mut Vec<(u64, Digest)>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let key = part_key(key, number);
    let Some(row) = tables.get(table, &key)? else { return Ok(None) };
    let (body, digest) = row::open(table, &key, &row)?;
    parts.push((number, digest));
    Ok(Some(body.to_vec()))
}
