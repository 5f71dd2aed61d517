//! Looks at the disk after every commit, as a process of its own would see it.

use std::collections::{BTreeMap, BTreeSet};

use checkrein::core::amount::Amount;
use checkrein::core::decision::GateKind;
use checkrein::core::gate::breaker::Phase;
use checkrein::core::gate::once::OperationState;
use checkrein::core::policy::{Gate, RecordKind};
use checkrein::core::time::Timestamp;
use checkrein::store::durable::{Durable, Liveness, ProcessInfo, Report, Table};
use checkrein::store::{Cursor, RecordInfo, RecordState, StoreError};
use checkrein::testing::disk::Disk;

use crate::books::Books;
use crate::oracle::{Check, ensure};
use crate::tools::{Call, Tool};
use crate::upstream::OnceKey;
use crate::world::OPTIONS;

/// Every process is alive, so that looking moves nothing on.
struct Everybody;

impl Liveness for Everybody {
    fn claim(&mut self, _epoch: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_alive(&mut self, _epoch: u64) -> bool {
        true
    }

    fn forget(&mut self, _epoch: u64) {}
}

/// What the last look found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    version: u64,
    /// Tenants whose breaker is not closed, at the last look and at the one before.
    tripped: BTreeSet<String>,
    tripped_before: BTreeSet<String>,
    /// Where each operation stands.
    pub(crate) operations: BTreeMap<OnceKey, OperationState>,
    /// What the ledger says.
    pub(crate) books: Books,
}

/// Everything but the ledger, which [`Books`] reads; a store that is opened looks at its last entry.
const RECORDS: [Table; 11] = [
    Table::Meta,
    Table::Family,
    Table::Meter,
    Table::Events,
    Table::Breaker,
    Table::Operation,
    Table::Outcome,
    Table::Fact,
    Table::Permit,
    Table::Usage,
    Table::Epoch,
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a copy of the disk says: the full check, and every record.
pub(crate) fn read(disk: &Disk, now: Timestamp) -> Result<(Report, Vec<RecordInfo>), StoreError> {
    let copy = disk.copy_of(&RECORDS);
    if let Some((key, row)) = disk.last_row(Table::Entry) {
        copy.tamper(Table::Entry, &key, |_| Some(row));
    }
    let mut handle = copy.handle();
    let info = ProcessInfo { pid: 0, host: "audit".to_owned() };
    let mut durable = Durable::open(&mut handle, OPTIONS, now, &info, &mut Everybody)?;
    let report = durable.check(&mut handle, now)?;
    let mut records = Vec::new();
    for kind in [RecordKind::Meter, RecordKind::Breaker, RecordKind::Operation, RecordKind::Permit] {
        records.extend(durable.scan(&mut handle, kind, &Cursor::default(), usize::MAX, now)?.0);
    }
    Ok((report, records))
}

impl Audit {
    /// Looks, if anything was committed since the last look.
    pub(crate) fn look(&mut self, disk: &Disk, now: Timestamp, calls: &[Call], tools: &[Tool]) -> Check {
        self.tripped_before.clone_from(&self.tripped);
        let version = disk.version();
        if version == self.version || disk.rows(Table::Meta).is_empty() {
            return Ok(());
        }
        self.version = version;
        self.books.read(disk, calls, tools)?;
        let (report, records) =
            read(disk, now).map_err(|error| format!("the store does not read: {error}"))?;
        ensure(report.is_sound(), || format!("the store is not sound: {report:?}"))?;
        self.tripped.clear();
        self.operations.clear();
        for record in records {
            let name = record.key.borrow();
            match record.state {
                RecordState::Meter { spent, account, .. } => {
                    let gone = account.released.checked_add(account.settled);
                    let known = gone.and_then(|gone| gone.checked_add(account.held));
                    ensure(known == Some(account.ever_held) && account.held >= Amount::ZERO, || {
                        format!("the books of {name:?} do not balance: {account:?}, spent {spent:?}")
                    })?;
                    let gates = tools.iter().flat_map(|tool| tool.policy.policy().gates());
                    let of = |gate: &&Gate| {
                        gate.check.record().is_some_and(|(_, family, _)| family == name.family)
                    };
                    let Some(gate) = gates.filter(|gate| gate.check.kind() == GateKind::Budget).find(of)
                    else {
                        continue;
                    };
                    let book = self.books.book(&(gate.name.to_string(), text(name.tenant), text(name.key)));
                    ensure((book.held, book.spent) == (account.held, spent), || {
                        format!("{name:?} holds {} and spent {spent}; the ledger says {book:?}", account.held)
                    })?;
                }
                RecordState::Breaker { phase } => {
                    if !matches!(phase, Phase::Closed { .. }) {
                        self.tripped.insert(text(name.tenant));
                    }
                }
                RecordState::Operation { state, .. } => {
                    self.operations.insert((text(name.tenant), text(name.key)), state);
                }
                RecordState::Fact(_) | RecordState::Permit { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether a call that the last batch let through was a probe of its tenant's breaker.
    pub(crate) fn is_probe(&self, tenant: &str) -> bool {
        self.tripped.contains(tenant) && self.tripped_before.contains(tenant)
    }

    /// What allows a call to run must stand on the platter: a power cut right now would not take it away.
    pub(crate) fn intent_is_durable(&self, disk: &Disk, permit: Option<u64>, call: &Call) -> Check {
        let Some(permit) = permit else { return Err(format!("{call:?} runs without a permit")) };
        let entry = self.books.intent_of(permit).map(u64::to_be_bytes);
        let entry = entry.and_then(|seq| disk.durable_row(Table::Entry, &seq));
        let permit = disk.durable_row(Table::Permit, &permit.to_be_bytes());
        ensure(permit.is_some() && entry.is_some(), || {
            format!("{call:?} runs, and a power cut would take its intent away")
        })
    }

    /// What a client is told must stand on the platter too.
    pub(crate) fn outcome_is_durable(&self, disk: &Disk, permit: Option<u64>) -> Check {
        let Some(permit) = permit else { return Ok(()) };
        let entry = self.books.outcome_of(permit).map(u64::to_be_bytes);
        let entry = entry.and_then(|seq| disk.durable_row(Table::Entry, &seq));
        ensure(entry.is_some(), || {
            format!("the outcome of permit {permit} was told, and a power cut would take it away")
        })
    }
}
