//! The ledger's entries of a durable store, each in the transaction that makes it so.

use checkrein_core::admission::{Admission, Inputs};
use checkrein_core::decision::MeterStatus;
use checkrein_core::ledger::entry::{Body, Entry, Event, Verdict};
use checkrein_core::time::Timestamp;

use super::journal::{self, Told};
use super::row::{number_key, read_number};
use super::{Durable, SEALED, Table, Tables, read_sealed, sealed_row};
use crate::engine::CompiledPolicy;
use crate::ledger::{Moment, Row as SealedRow};
use crate::store::StoreError;

impl Durable {
    fn append(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        body: Body<'_>,
    ) -> Result<u64, StoreError> {
        let mut bytes = std::mem::take(&mut self.entry_bytes);
        bytes.clear();
        Entry { seq: self.head.next_entry, time: now, epoch: self.epoch, body }.write(&mut bytes);
        let put = self.append_bytes(tables, &bytes);
        self.entry_bytes = bytes;
        put
    }

    /// Puts an entry that says the next number itself.
    pub(super) fn append_bytes(&mut self, tables: &mut impl Tables, bytes: &[u8]) -> Result<u64, StoreError> {
        let seq = self.head.next_entry;
        tables.put(Table::Entry, &number_key(seq), bytes)?;
        self.head.next_entry += 1;
        self.wrote = true;
        Ok(seq)
    }

    /// Writes that something happened to the store or was done to it; returns the entry's number where one is kept.
    pub(super) fn note_event(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        name: &str,
        fields: &[(&str, &str)],
    ) -> Result<Option<u64>, StoreError> {
        if self.options.ledger.is_none() {
            return Ok(None);
        }
        self.append(tables, now, Body::Event(Event { name, fields })).map(Some)
    }

    /// Writes a decision; returns the entry's sequence, unless nothing was written.
    #[expect(clippy::too_many_arguments, reason = "everything that a decision is made of")]
    pub(super) fn note_decision(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        policy: &CompiledPolicy,
        inputs: &Inputs<'_>,
        admission: &Admission,
        meters: &[MeterStatus],
        permit: Option<u64>,
    ) -> Result<Option<u64>, StoreError> {
        let Some(options) = self.options.ledger else { return Ok(None) };
        self.note_policy(tables, now, policy)?;
        if journal::verdict_of(admission) == Verdict::Refusal
            && self.journal.count_refusal(options.arguments, now, policy, inputs, admission)
        {
            return Ok(None);
        }
        let (decision, salt) = journal::decision(options, policy, inputs, admission, meters, permit);
        let seq = self.append(tables, now, Body::Decision(&decision))?;
        if let Some(salt) = salt {
            tables.put(Table::Salt, &number_key(seq), &salt)?;
        }
        Ok(Some(seq))
    }

    /// Writes a policy's text the first time that this process decides by it.
    pub(super) fn note_policy(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        policy: &CompiledPolicy,
    ) -> Result<(), StoreError> {
        if self.journal.knows(policy) {
            return Ok(());
        }
        let digest: String = policy.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        self.note_event(tables, now, "policy", &[("digest", &digest), ("text", policy.text())])?;
        self.journal.learn(policy);
        Ok(())
    }

    /// Writes the refusals whose time is over; all of them, when `everything`.
    pub(super) fn flush_refusals(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        everything: bool,
    ) -> Result<(), StoreError> {
        let mut journal = std::mem::take(&mut self.journal);
        let flushed = journal
            .flush(now, everything, |decision| self.append(tables, now, Body::Decision(decision)).map(drop));
        self.journal = journal;
        flushed
    }

    /// Writes what a sealer has made of the ledger, in a transaction that shows it where the store stands.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn seal(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        make: impl FnOnce(&Moment) -> Vec<SealedRow>,
    ) -> Result<(), StoreError> {
        self.transact(tables, now, |durable, tables, now| {
            // What ended meanwhile is written first: the head that is signed is the one that this transaction leaves.
            durable.write(tables)?;
            let newest = tables.last(Table::Checkpoint)?.and_then(|(key, _)| read_number(&key));
            let sum: String = durable.head.sum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            let moment = Moment { now, newest, head: Some((durable.head.commit, sum)) };
            for row in make(&moment) {
                tables.put(row.table, &row.key, &row.body)?;
                if let (Table::Checkpoint, Some(size)) = (row.table, read_number(&row.key)) {
                    tables.put(Table::Meta, SEALED, &sealed_row(size))?;
                }
                durable.changed = true;
            }
            Ok(())
        })
    }

    /// The ledger ends where the store says that it does, and is sealed as far as it notes.
    pub(super) fn check_end(&self, tables: &mut impl Tables) -> Result<(), StoreError> {
        let last = tables.last(Table::Entry)?.and_then(|(key, _)| read_number(&key));
        let (entries, expected) = (last.map_or(0, |last| last + 1), self.head.next_entry);
        if entries == expected {
            return check_sealed(tables);
        }
        Err(StoreError::Damaged(format!(
            "the ledger has {entries} entries and the store wrote {expected}; restore a backup or look for what removed them"
        )))
    }

    /// Writes how an action ended.
    pub(super) fn note_outcome(
        &mut self,
        tables: &mut impl Tables,
        now: Timestamp,
        permit: u64,
        intent: Option<u64>,
        told: Told<'_>,
    ) -> Result<(), StoreError> {
        if self.options.ledger.is_none() {
            return Ok(());
        }
        self.append(tables, now, Body::Outcome(&told.outcome(permit, intent))).map(drop)
    }
}

/// A checkpoint and the note of it are written together: one without the other was taken away, or put back.
fn check_sealed(tables: &mut impl Tables) -> Result<(), StoreError> {
    let noted = tables.get(Table::Meta, SEALED)?.as_deref().map_or(Ok(0), read_sealed)?;
    let newest = tables.last(Table::Checkpoint)?.and_then(|(key, _)| read_number(&key)).unwrap_or(0);
    if noted == newest {
        return Ok(());
    }
    Err(StoreError::Damaged(format!(
        "the store notes {noted} sealed ledger entries and its newest checkpoint is over {newest}: checkpoints were \
         removed or put back; restore a backup or look for what did it"
    )))
}
