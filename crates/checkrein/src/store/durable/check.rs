//! The full look at a store: every row read, the sum over them compared, books and holds counted again.

use std::collections::BTreeMap;

use checkrein_core::amount::Amount;

use super::cache::Value;
use super::head::Head;
use super::row::{self, Sum};
use super::{Durable, Options, Table, Tables};
use crate::store::StoreError;

use checkrein_core::time::Timestamp;

/// What a check found. Nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows read, of all tables with records.
    pub rows: u64,
    /// Rows that are not what was written, each with what is wrong.
    pub damaged: Vec<String>,
    /// The sum over all rows is the one that the last commit left: no row is missing or older than it should be.
    pub sum_matches: bool,
    /// Meters whose held amount is not the sum of what open permits hold on them.
    pub unbalanced: Vec<String>,
    /// Counts of live keys that are not the number of records.
    pub miscounted: Vec<String>,
    /// What the head that the newest checkpoint carries says otherwise: commits are lost, or records are not those that
    /// were signed. Whether the checkpoint is genuine is for a verification of the ledger to say.
    pub signed: Option<String>,
}

impl Report {
    /// The first thing that is wrong.
    pub fn first(&self) -> Option<String> {
        let sum = (!self.sum_matches).then(|| {
            "the sum over all rows is not the one of the last commit: a row is missing or older than it should be"
                .to_owned()
        });
        let all = self.damaged.iter().chain(&self.signed).chain(&self.unbalanced).chain(&self.miscounted);
        sum.into_iter().chain(all.cloned()).next()
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty()
            && self.sum_matches
            && self.unbalanced.is_empty()
            && self.miscounted.is_empty()
            && self.signed.is_none()
    }
}

const RECORDS: [Table; 9] = [
    Table::Family,
    Table::Meter,
    Table::Events,
    Table::Breaker,
    Table::Operation,
    Table::Outcome,
    Table::Fact,
    Table::Permit,
    Table::Usage,
];
const COUNTED: [Table; 4] = [Table::Meter, Table::Breaker, Table::Operation, Table::Fact];
const PAGE: usize = 1_024;

impl Durable {
    /// Reads every record, and says what does not agree.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn check(&mut self, tables: &mut impl Tables, now: Timestamp) -> Result<Report, StoreError> {
        self.transact(tables, now, |durable, tables, _| durable.check_all(tables))
    }

    /// The same for a store that is not in use, without having a part in it.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn check_copy(tables: &mut impl Tables) -> Result<Report, StoreError> {
        tables.begin()?;
        let read = Head::load(tables).and_then(|head| {
            let mut durable = Self::empty(Options { max_keys: usize::MAX, ledger: None }, head);
            durable.families.load(tables)?;
            durable.check_all(tables)
        });
        tables.rollback();
        read
    }

    fn check_all(&mut self, tables: &mut impl Tables) -> Result<Report, StoreError> {
        let head = Head::load(tables)?;
        let (mut report, mut sum) = (Report::default(), Sum::default());
        let mut live: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut holds: BTreeMap<Box<[u8]>, Amount> = BTreeMap::new();
        let mut books: BTreeMap<Vec<u8>, Amount> = BTreeMap::new();
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for table in RECORDS {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let rows = tables.scan(table, after.as_deref(), PAGE)?;
                for (key, bytes) in &rows {
                    report.rows += 1;
                    match row::open(table, key, bytes) {
                        Ok((_, digest)) => sum.add(&digest),
                        Err(error) => {
                            report.damaged.push(error.to_string());
                            continue;
                        }
                    }
                    if matches!(table, Table::Family | Table::Events | Table::Outcome) {
                        continue;
                    }
                    let slot = match self.cache.load(tables, table, key) {
                        Err(StoreError::Damaged(what)) => {
                            report.damaged.push(what);
                            continue;
                        }
                        slot => slot?,
                    };
                    if COUNTED.contains(&table)
                        && let Some(name) = row::read_key(key)
                    {
                        let group = key.get(..6 + name.tenant.len()).unwrap_or(key);
                        *live.entry(group.to_vec()).or_default() += 1;
                    }
                    match self.cache.value(slot) {
                        Some(Value::Meter(meter)) if meter.held() != Amount::ZERO => {
                            books.insert(key.clone(), meter.held());
                        }
                        Some(Value::Permit(open)) => {
                            for hold in &open.permit.holds {
                                if let Some((_, key)) = open.records.get(usize::from(hold.record)) {
                                    let held = holds.entry(key.clone()).or_default();
                                    *held = held.saturating_add(hold.amount);
                                }
                            }
                        }
                        Some(Value::Usage(count)) => {
                            counts.insert(key.clone(), *count);
                        }
                        _ => {}
                    }
                }
                match rows.last() {
                    Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                    _ => break,
                }
            }
            self.cache.next_batch();
        }
        report.sum_matches = sum == head.sum;
        report.signed = compare_signed(tables, &head)?;
        holds.retain(|_, held| *held != Amount::ZERO);
        for key in holds.keys().map(|key| key.to_vec()).chain(books.keys().cloned()) {
            let (held, open) = (books.get(&key), holds.get(key.as_slice()));
            if held != open {
                let (held, open) = (held.copied().unwrap_or_default(), open.copied().unwrap_or_default());
                let name = key.escape_ascii();
                report.unbalanced.push(format!("meter `{name}` holds {held}, open permits hold {open}"));
            }
        }
        report.unbalanced.sort();
        report.unbalanced.dedup();
        for group in live.keys().chain(counts.keys()) {
            let (live, count) = (live.get(group).copied(), counts.get(group).copied());
            if live != count {
                let (live, count) = (live.unwrap_or_default(), count.unwrap_or_default());
                let name = group.escape_ascii();
                report.miscounted.push(format!("`{name}` has {live} records and counts {count}"));
            }
        }
        report.miscounted.sort();
        report.miscounted.dedup();
        Ok(report)
    }
}

/// Compares the head with the one in the newest checkpoint.
fn compare_signed(tables: &mut impl Tables, head: &Head) -> Result<Option<String>, StoreError> {
    let Some((_, note)) = tables.last(Table::Checkpoint)? else { return Ok(None) };
    let note = String::from_utf8_lossy(&note);
    let Some(line) = note.lines().find_map(|line| line.strip_prefix("store ")) else { return Ok(None) };
    let Some((commit, sum)) =
        line.split_once(' ').and_then(|(commit, sum)| Some((commit.parse().ok()?, sum)))
    else {
        return Ok(Some("the newest checkpoint carries a head that does not read".to_owned()));
    };
    let own: String = head.sum.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(match head.commit.cmp(&commit) {
        std::cmp::Ordering::Less => Some(format!(
            "the store is at commit {} and its newest checkpoint was made at {commit}: commits are lost",
            head.commit
        )),
        std::cmp::Ordering::Equal if own != sum => {
            Some(format!("the records of commit {commit} are not those that its checkpoint signed"))
        }
        // Commits after the checkpoint are for the next one to sign.
        _ => None,
    })
}
