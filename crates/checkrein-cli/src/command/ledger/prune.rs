//! `checkrein ledger prune`: removes old entries; their hashes stay.

use std::io::Write as _;

use checkrein::core::ledger::entry::EntryView;
use checkrein::core::time::{Span, Timestamp};
use checkrein::ledger::{Database, LedgerError};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use serde_json::json;

use super::render::count;
use super::{StoreOf, now};
use crate::{Exit, Output};

/// Remove old entries, in whole groups of 256: their hashes stay, so that every proof and checkpoint holds
///
/// Export what is removed first, if it is to be kept. An entry of the ledger says what was removed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger prune --older-than 400d --store sqlite:checkrein.db
  checkrein ledger prune --before 100000 --store sqlite:checkrein.db")]
pub(super) struct Prune {
    #[command(flatten)]
    store: StoreOf,
    /// Remove those before this one
    #[arg(long, value_name = "SEQ", required_unless_present = "older_than", conflicts_with = "older_than")]
    before: Option<u64>,
    /// Remove those older than this, as in `400d`
    #[arg(long, value_name = "DURATION")]
    older_than: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Prune {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let database = self.store.open()?;
        let first = database.first()?;
        let before = match (&self.before, &self.older_than) {
            (Some(before), _) => *before,
            (None, Some(text)) => {
                let span = Span::parse(text).ok_or_else(|| {
                    anyhow::anyhow!("`{}` is no duration, as `400d` is", text.escape_debug())
                })?;
                first_from(&database, now().before(span))?
            }
            (None, None) => anyhow::bail!("say which entries with `--before` or `--older-than`"),
        };
        let store =
            SqliteStore::open(database.path(), SqliteOptions::default()).map_err(LedgerError::from)?;
        let kept = store.remove_entries(before).map_err(LedgerError::from)?;
        let removed = kept.saturating_sub(first);
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => {
                let removed = count(removed, "entry", "entries");
                writeln!(stdout, "{removed} removed; the ledger begins with entry {kept}")?;
            }
            output => output.print(&mut stdout, &json!({ "removed": removed, "first": kept }))?,
        }
        Ok(Exit::Ok)
    }
}

/// The first entry that was committed at `time` or later. The store's time never runs backwards.
fn first_from(database: &Database, time: Timestamp) -> Result<u64, LedgerError> {
    let (mut low, mut high) = (database.first()?, database.size()?);
    while low < high {
        let middle = low + (high - low) / 2;
        let body = database.entry(middle)?;
        let entry = EntryView::read(&body)
            .map_err(|error| LedgerError::Damaged(format!("entry {middle} is {error}")))?;
        if entry.committed() < time { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}
