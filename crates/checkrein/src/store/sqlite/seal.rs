//! The ledger's sealer, writing through the store's own writer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use checkrein_core::ledger::checkpoint::Signer;

use super::queue::{Job, Queue, ended};
use super::{SealEvery, SqliteOptions, refused, tables};
use crate::ledger::{Database, Ground, LedgerError, Make, SealOptions, Sealer, Witness, keys};
use crate::store::StoreError;

/// How long a sealer waits for the writer. What it could not write it seals at its next look.
const PATIENCE: Duration = Duration::from_secs(2);

/// With which key and for whom a store's ledger is sealed.
#[derive(Debug)]
pub(super) struct SealPlan {
    signer: Arc<Signer>,
    options: SealOptions,
}

impl SealPlan {
    /// The plan of a store that keeps a ledger. A ledger that is older than what its witness saw is refused here,
    /// before anything is written.
    pub(super) fn of(path: &Path, options: &SqliteOptions) -> Result<Option<Self>, StoreError> {
        let (Some(_), Some(every)) = (options.ledger, options.seal) else { return Ok(None) };
        if std::fs::metadata(path).is_ok_and(|about| about.len() > 0) {
            // No key is made beside a file that is no store.
            tables::refuse_others(path)?;
        }
        Self::make(path, options, every).map(Some).map_err(|error| refused(&error))
    }

    fn make(path: &Path, options: &SqliteOptions, every: SealEvery) -> Result<Self, LedgerError> {
        let key = options.key.clone().unwrap_or_else(|| keys::default_path(path));
        let witness = options.witness.as_deref().map(Witness::parse).transpose()?.map(Arc::new);
        let is_new = std::fs::metadata(path).map_or(true, |about| about.len() == 0);
        let is_sealed = !is_new && !key.exists() && is_sealed(path)?;
        let signer = keys::of_ledger(&key, is_sealed, keys::passphrase_of_environment)?;
        if let Some(witness) = &witness {
            let seen = if is_new { witness.newest(&signer.verifier())? } else { None };
            if let Some(seen) = seen {
                let first = seen.lines().nth(1).unwrap_or_default().to_owned();
                return Err(LedgerError::Rollback(format!(
                    "`{}` is new, and the witness `{witness}` saw a ledger of {first} entries",
                    path.display()
                )));
            }
            if !is_new {
                witness.check(&Database::open(path)?, &signer.verifier())?;
            }
            witness.ready()?;
        }
        let (every, within) = (every.entries, every.time);
        Ok(Self { signer: Arc::new(signer), options: SealOptions { every, within, witness } })
    }

    pub(super) fn start(self, path: &Path, queue: Arc<Queue>) -> Result<Sealer, LedgerError> {
        Sealer::start(path, Arc::new(Through(queue)), self.signer, self.options)
    }
}

/// Whether anything of the ledger in a file was ever sealed.
fn is_sealed(path: &Path) -> Result<bool, LedgerError> {
    match Database::open(path) {
        Ok(database) => Ok(database.newest_sealed()?.is_some()),
        // Another process is just making its tables.
        Err(LedgerError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The writer's queue.
#[derive(Debug)]
struct Through(Arc<Queue>);

impl Ground for Through {
    fn write(&self, make: Make) -> Result<(), StoreError> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let call = Job::Call(Box::new(move |durable, tables, now| {
            // A sealer that has stopped waiting finds the rows at its next look.
            let _ = send.send(durable.seal(tables, now, make));
        }));
        self.0.push(call).map_err(|_| ended())?;
        receive
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| Err(StoreError::Unknown("the store has not answered the sealer".to_owned())))
    }
}
