//! Forgetting what is idle: a few rows with each batch, everything when asked or at the cap on live keys.

use checkrein_core::codec::Record;
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::key::KeyRef;
use checkrein_core::meter::Meter;
use checkrein_core::time::{Span, Timestamp, Window};

use super::cache::Value;
use super::row::{self, read_key, write_key};
use super::{Durable, Table, Tables};
use crate::store::StoreError;
use crate::testing::planted::{Bug, is_planted};

const SWEPT: [Table; 4] = [Table::Meter, Table::Operation, Table::Breaker, Table::Fact];
/// After so many batches ...
const EVERY: u32 = 16;
/// ... so many rows are looked at, of one table after the other.
const ROWS: usize = 64;
/// At the cap everything is swept before a key is refused, but not more often than this.
const FULL_SWEEP_EVERY: Span = Span::from_millis(100);

/// How far the sweep has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    table: usize,
    after: Option<Vec<u8>>,
    batches: u32,
    swept_all: Option<Timestamp>,
}

impl Durable {
    /// Sweeps a little, once in a while.
    pub(super) fn sweep_some(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<(), StoreError> {
        self.sweep.batches += 1;
        // A transaction that writes nothing costs no sync and is not made to.
        if self.sweep.batches < EVERY || !self.cache.is_dirty() {
            return Ok(());
        }
        self.sweep.batches = 0;
        let Some(&table) = SWEPT.get(self.sweep.table % SWEPT.len()) else { return Ok(()) };
        let after = self.sweep.after.take();
        let (_, last) = self.sweep_rows(tables, table, after.as_deref(), ROWS, now)?;
        if last.is_none() {
            self.sweep.table += 1;
        }
        self.sweep.after = last;
        Ok(())
    }

    /// Removes every idle record; returns how many.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn collect(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<usize, StoreError> {
        self.transact(tables, now, |durable, tables, now| durable.sweep_tables(tables, now))
    }

    /// As [`collect`](Self::collect) within a batch, but not again and again.
    pub(super) fn sweep_all(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        if self.sweep.swept_all.is_some_and(|last| now < last.after(FULL_SWEEP_EVERY)) {
            return Ok(0);
        }
        self.sweep.swept_all = Some(now);
        self.sweep_tables(tables, now)
    }

    fn sweep_tables(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<usize, StoreError> {
        let mut removed = 0;
        for table in SWEPT {
            let mut after = None;
            loop {
                let (gone, last) = self.sweep_rows(tables, table, after.as_deref(), 1_024, now)?;
                removed += gone;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        }
        Ok(removed)
    }

    /// Sweeps the next rows of a table; returns how many went and where to go on.
    fn sweep_rows(
        &mut self,
        tables: &mut impl Tables,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
        now: Timestamp,
    ) -> Result<(usize, Option<Vec<u8>>), StoreError> {
        let rows = tables.scan(table, after, limit)?;
        let mut removed = 0;
        for (key, bytes) in &rows {
            let Some(name) = read_key(key) else { continue };
            if self.is_idle(table, name, key, bytes, now) {
                removed += usize::from(self.sweep_record(tables, table, name, key, now)?);
            }
        }
        let last = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
        Ok((removed, last))
    }

    /// Whether the row, as it is on disk, has something to forget. One that does not read is left where it is.
    fn is_idle(&self, table: Table, name: KeyRef<'_>, key: &[u8], bytes: &[u8], now: Timestamp) -> bool {
        let Ok((body, _)) = row::open(table, key, bytes) else { return false };
        match table {
            Table::Meter => {
                let Some(known) = self.families.get(name.family) else { return false };
                Meter::expiry_of(body, known.window(), known.cooldown).is_ok_and(|expires| expires <= now)
            }
            Table::Breaker => Breaker::decode(body).is_ok_and(|breaker| breaker.expires() <= now),
            Table::Fact => Fact::decode(body).is_ok_and(|fact| !fact.holds(now)),
            // The body of a result is not needed to know how old it is.
            _ => Operation::decode(body, || Some([].into()))
                .is_ok_and(|operation| operation.expires() <= now || operation.is_prunable(now)),
        }
    }

    /// Removes a record that is idle in memory too, or the stored result of one that is only known by its key.
    fn sweep_record(
        &mut self,
        tables: &mut impl Tables,
        table: Table,
        name: KeyRef<'_>,
        key: &[u8],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let slot = match self.cache.load(tables, table, key) {
            Err(StoreError::Damaged(_)) => return Ok(false),
            slot => slot?,
        };
        let family = self.families.get(name.family);
        let (window, cooldown) =
            family.map_or((Window::Lifetime, Span::MAX), |known| (known.window(), known.cooldown));
        let idle = match self.cache.value(slot) {
            Some(Value::Meter(meter)) => meter.expires(window, cooldown) <= now,
            Some(Value::Breaker(breaker)) => breaker.expires() <= now,
            Some(Value::Fact(fact)) => !fact.holds(now),
            Some(Value::Operation(operation)) => {
                let prunable = operation.is_prunable(now);
                operation.prune(now);
                let idle = operation.expires() <= now || (prunable && is_planted(Bug::PruneKeys));
                if prunable && !idle {
                    self.cache.mark(slot);
                }
                idle
            }
            _ => false,
        };
        if !idle {
            return Ok(false);
        }
        self.cache.put(slot, None);
        let mut usage = Vec::new();
        write_key(KeyRef { key: b"", ..name }, &mut usage);
        let usage = self.cache.load(tables, Table::Usage, &usage)?;
        let live = match self.cache.value(usage) {
            Some(Value::Usage(live)) => live.saturating_sub(1),
            _ => 0,
        };
        self.cache.put(usage, (live > 0).then_some(Value::Usage(live)));
        Ok(true)
    }
}
