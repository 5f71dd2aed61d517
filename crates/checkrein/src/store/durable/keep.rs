//! What people and housekeeping do with records outside an admission: look at them, reset, resolve, prove.

use checkrein_core::admission;
use checkrein_core::codec::Damaged;
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{OperationState, Run};
use checkrein_core::key::{Family, Key, KeyRef};
use checkrein_core::ledger::entry::{By, Ending};
use checkrein_core::meter::Meter;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::RecordKind;
use checkrein_core::time::{Timestamp, Window};

use super::cache::{Slot, Value, table_of};
use super::journal::Told;
use super::permits::OpenPermit;
use super::row::{self, read_key, write_key};
use super::{Durable, Table, Tables};
use crate::store::{Cursor, Page, RecordInfo, RecordState, StoreError};
use crate::testing::planted::{Bug, is_planted};

/// Rows read at a time.
const PAGE: usize = 256;

impl Durable {
    fn find(
        &mut self,
        tables: &mut impl Tables,
        kind: RecordKind,
        name: KeyRef<'_>,
    ) -> Result<Slot, StoreError> {
        let mut key = Vec::new();
        write_key(name, &mut key);
        self.cache.load(tables, table_of(kind), &key)
    }

    pub(super) fn resolve(
        &mut self,
        tables: &mut impl Tables,
        key: KeyRef<'_>,
        run: Option<Run>,
        state: OperationState,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let slot = self.find(tables, RecordKind::Operation, key)?;
        let Some(Value::Operation(operation)) = self.cache.value(slot) else { return Ok(false) };
        let (word, of) = (state.name(), operation.run());
        let outcome = if matches!(state, OperationState::FailedClean) {
            Outcome::FailedClean
        } else {
            Outcome::Done(None)
        };
        let resolved = operation.resolve(run, state, now);
        if resolved {
            self.cache.mark(slot);
            let by = if run.is_some() { By::Reconcile } else { By::Person };
            self.end_resolved(tables, key, of, &outcome, by, now)?;
            let gate = self.gate_of(key);
            let name = key.key.escape_ascii().to_string();
            let tenant = key.tenant.escape_ascii().to_string();
            // No digest of the request: without a salt it gives few possible arguments away.
            let fields = [("gate", &*gate), ("key", &*name), ("tenant", &*tenant), ("state", word)];
            self.note_event(tables, now, "resolved", &fields)?;
        }
        Ok(resolved)
    }

    /// What became of an operation is known: so is its cost. What its permit holds is released, or settled in full.
    fn end_resolved(
        &mut self,
        tables: &mut impl Tables,
        key: KeyRef<'_>,
        run: Run,
        outcome: &Outcome,
        by: By,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // Permits are looked for on the disk: those of this batch have to be there.
        self.write(tables)?;
        let mut name = Vec::new();
        write_key(key, &mut name);
        let of_run = |open: &OpenPermit| {
            open.permit.operation.is_some_and(|(at, of)| {
                of == run && open.records.get(usize::from(at)).is_some_and(|(_, record)| **record == *name)
            })
        };
        for (number, _) in self.permits_where(tables, of_run)? {
            let settlement = Settlement::new(outcome.clone(), Health::Neutral);
            let ending = match outcome {
                Outcome::FailedClean => Ending::FailedClean,
                _ => Ending::Done,
            };
            let told = Told::new(ending, by).note("resolved");
            self.with_permit(tables, number, now, Some(told), |permit, records, period_ends| {
                admission::finish(permit, &settlement, period_ends, now, records)
            })?;
        }
        Ok(())
    }

    pub(super) fn prove(
        &mut self,
        tables: &mut impl Tables,
        key: KeyRef<'_>,
        fact: Fact,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // The value may be private: the ledger says that one was proved, and of which kind.
        let (gate, tenant) = (self.gate_of(key), key.tenant.escape_ascii().to_string());
        let slot = self.find(tables, RecordKind::Fact, key)?;
        if let Some(Value::Fact(known)) = self.cache.value(slot) {
            known.expires = known.expires.max(fact.expires);
            self.cache.mark(slot);
            let entry = self.note_event(tables, now, "proved", &[("fact", &gate), ("tenant", &tenant)])?;
            if let Some(Value::Fact(known)) = self.cache.value(slot) {
                (known.proved, known.entry) = (now, entry);
            }
            return Ok(true);
        }
        let mut name = Vec::new();
        write_key(KeyRef { key: b"", ..key }, &mut name);
        let usage = self.cache.load(tables, Table::Usage, &name)?;
        let live = match self.cache.value(usage) {
            Some(Value::Usage(live)) => *live,
            _ => 0,
        };
        if live >= self.options.max_keys as u64 {
            return Ok(false);
        }
        self.cache.put(usage, Some(Value::Usage(live + 1)));
        let entry = self.note_event(tables, now, "proved", &[("fact", &gate), ("tenant", &tenant)])?;
        self.cache.put(slot, Some(Value::Fact(Fact { entry, ..fact })));
        Ok(true)
    }

    pub(super) fn reset(
        &mut self,
        tables: &mut impl Tables,
        kind: RecordKind,
        key: KeyRef<'_>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let slot = self.find(tables, kind, key)?;
        let reset = self.reset_slot(slot);
        if reset {
            let (gate, name) = (self.gate_of(key), key.key.escape_ascii().to_string());
            let tenant = key.tenant.escape_ascii().to_string();
            self.note_event(tables, now, "reset", &[("gate", &gate), ("key", &name), ("tenant", &tenant)])?;
        }
        Ok(reset)
    }

    /// The name of the gate that a record belongs to.
    pub(super) fn gate_of(&self, key: KeyRef<'_>) -> String {
        self.families.get(key.family).map(|known| known.key.name.clone()).unwrap_or_default()
    }

    fn reset_slot(&mut self, slot: Slot) -> bool {
        match self.cache.value(slot) {
            Some(Value::Meter(meter)) if is_planted(Bug::ResetHolds) => *meter = Meter::new(),
            Some(Value::Meter(meter)) => meter.reset(),
            Some(Value::Breaker(breaker)) => breaker.reset(),
            _ => return false,
        }
        self.cache.mark(slot);
        true
    }

    /// Resets every record of a family; returns how many.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn reset_all(
        &mut self,
        tables: &mut impl Tables,
        kind: RecordKind,
        family: Family,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            let (table, prefix) = (table_of(kind), family.0.to_be_bytes());
            let (mut count, mut after) = (0, prefix.to_vec());
            loop {
                let rows = tables.scan(table, Some(&after), PAGE)?;
                for (key, _) in rows.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                    let slot = durable.cache.load(tables, table, key)?;
                    count += usize::from(durable.reset_slot(slot));
                }
                match rows.last() {
                    Some((key, _)) if key.starts_with(&prefix) => after.clone_from(key),
                    _ => break,
                }
            }
            let gate = durable.gate_of(KeyRef { family, tenant: b"", key: b"" });
            durable.note_event(
                tables,
                now,
                "reset_all",
                &[("gate", &gate), ("records", &count.to_string())],
            )?;
            Ok(count)
        })
    }

    /// At most `limit` records of a kind after `after`, with the cursor to go on from; `None` at the end. Rows that do
    /// not read are left out: [`check`](Self::check) names them.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn scan(
        &mut self,
        tables: &mut impl Tables,
        kind: RecordKind,
        after: &Cursor,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page, StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            let table = table_of(kind);
            let rows = tables.scan(table, after.after.as_deref(), limit)?;
            let last = rows.last().map(|(key, _)| key.clone().into_boxed_slice());
            let next = last
                .filter(|_| rows.len() == limit)
                .map(|key| Cursor { after: Some(key), ..Cursor::default() });
            let mut found = Vec::new();
            for (key, _) in rows {
                let slot = match durable.cache.load(tables, table, &key) {
                    Err(StoreError::Damaged(_)) => continue,
                    slot => slot?,
                };
                found.extend(durable.info(slot, &key, now)?);
            }
            Ok((found, next))
        })
    }

    fn info(&mut self, slot: Slot, key: &[u8], now: Timestamp) -> Result<Option<RecordInfo>, StoreError> {
        let Some(cached) = self.cache.get(slot) else { return Ok(None) };
        let state = match &cached.value {
            Some(Value::Meter(meter)) => {
                let family = read_key(key).and_then(|key| self.families.get(key.family));
                let window = family.map_or(Window::Lifetime, |known| known.window());
                RecordState::of_meter(meter, window, now)
            }
            Some(Value::Breaker(breaker)) => RecordState::Breaker { phase: breaker.phase().clone() },
            Some(Value::Operation(operation)) => RecordState::Operation {
                state: operation.state().clone(),
                since: operation.since(),
                run: operation.run(),
            },
            Some(Value::Fact(fact)) => RecordState::Fact(*fact),
            Some(Value::Permit(open)) => {
                RecordState::Permit { phase: open.permit.phase, lease_until: open.permit.lease_until }
            }
            Some(Value::Usage(_)) | None => return Ok(None),
        };
        let name = match &cached.value {
            Some(Value::Permit(_)) => Some(KeyRef { family: Family(u32::MAX), tenant: b"", key }),
            _ => read_key(key),
        };
        let bad = || row::damaged(cached.table, key, Damaged::Value("its key does not read"));
        Ok(Some(RecordInfo { key: Key::new(name.ok_or_else(bad)?), state }))
    }
}
