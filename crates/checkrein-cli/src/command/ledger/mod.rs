//! `checkrein ledger`: look at a store's ledger, export it, prove and verify it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkrein::core::ledger::checkpoint::Signer;
use checkrein::core::ledger::entry::EntryView;
use checkrein::core::time::Timestamp;
use checkrein::ledger::{Database, LedgerError, OwnConnection, Sealed, keys, seal};

use super::keys::refuse;
use super::passphrase;
use crate::Exit;
use crate::show::inert_path;

mod checkpoint;
mod export;
mod prove;
mod prune;
mod render;
mod show;
mod tail;
mod together;
mod verify;

/// Look at a store's ledger, export it, prove and verify it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger tail --store sqlite:checkrein.db
  checkrein ledger export -o ledger.jsonl --store sqlite:checkrein.db
  checkrein ledger verify ledger.jsonl --key checkrein.db.pub")]
pub(crate) struct Ledger {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Tail(tail::Tail),
    Show(show::Show),
    Verify(verify::Verify),
    Prove(prove::Prove),
    Export(export::Export),
    Checkpoint(checkpoint::Checkpoint),
    Prune(prune::Prune),
}

/// Which store's ledger.
#[derive(clap::Args)]
struct StoreOf {
    /// The store, as in `sqlite:checkrein.db`
    #[arg(long, value_name = "URL", env = "CHECKREIN_STORE", hide_env_values = true)]
    store: String,
}

impl Ledger {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let done = match &self.action {
            Action::Tail(tail) => tail.run(),
            Action::Show(show) => show.run(),
            Action::Verify(verify) => verify.run(),
            Action::Prove(prove) => prove.run(),
            Action::Export(export) => export.run(),
            Action::Checkpoint(checkpoint) => checkpoint.run(),
            Action::Prune(prune) => prune.run(),
        };
        done.or_else(|error| match error.downcast::<LedgerError>() {
            Ok(error) => Ok(refuse(&error)),
            Err(error) => Err(error),
        })
    }
}

impl StoreOf {
    fn path(&self) -> Result<PathBuf, LedgerError> {
        Ok(checkrein::store::sqlite::path_of(&self.store)?)
    }

    fn open(&self) -> Result<Database, LedgerError> {
        Database::open(&self.path()?)
    }
}

/// Warns of an entry that is not what a store writes at its place; `false` when it did.
fn strict(seq: u64, body: &[u8]) -> bool {
    let what = match EntryView::read(body) {
        Ok(entry) if entry.seq == seq => return true,
        Ok(entry) => format!("entry {} stands in the place of entry {seq}", entry.seq),
        Err(error) => format!("entry {seq} is {error}"),
    };
    let error = LedgerError::Damaged(what);
    super::print_error(&format!("{error} ({})", error.code()), error.hint());
    false
}

/// The machine's time, in nanoseconds since 1970.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The key that seals a store's ledger: the one given, else the one beside its file, made if nothing is sealed yet.
fn signer(database: &Database, given: Option<&Path>) -> Result<Arc<Signer>, LedgerError> {
    let ask = |path: &Path| passphrase::ask(&format!("passphrase of {}: ", inert_path(path)));
    if let Some(path) = given {
        return keys::load(path, || ask(path)).map(Arc::new);
    }
    let path = keys::default_path(database.path());
    let is_sealed = database.newest_sealed()?.is_some();
    keys::of_ledger(&path, is_sealed, || ask(&path)).map(Arc::new)
}

/// Seals everything that is not sealed yet.
fn seal_all(database: &Database, signer: &Arc<Signer>) -> Result<Option<Sealed>, LedgerError> {
    let ground = OwnConnection::open(database.path(), now())?;
    let mut newest = None;
    while let Some(sealed) = seal(database, &ground, signer)? {
        newest = Some(sealed);
    }
    Ok(newest)
}
