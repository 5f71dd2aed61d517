//! What can go wrong with a ledger, with a stable code for each kind.

use std::path::PathBuf;

use checkrein_core::ledger::checkpoint::NoteError;

use crate::store::StoreError;

/// Why something could not be done with a ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The ledger is older than what a witness saw, or another one.
    #[error("the ledger was rolled back: {0}")]
    Rollback(String),
    /// What is on the disk is not what was written.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// The ledger's checkpoints are of another key.
    #[error("the newest checkpoint is not of this key: {0}")]
    OtherKey(NoteError),
    /// A key file cannot be used.
    #[error("the key `{}` cannot be used: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key needs a passphrase.
    #[error("the key `{}` is encrypted, and there is no passphrase", .0.display())]
    Passphrase(PathBuf),
    /// Nothing has been sealed yet.
    #[error("the ledger has no checkpoint yet")]
    NothingSealed,
    /// There is no such entry, tree or record.
    #[error("{0}")]
    NotFound(String),
    /// The witness cannot be reached or refuses.
    #[error("the witness `{witness}` cannot be used: {why}")]
    Witness {
        /// The file or URL.
        witness: String,
        /// What it said.
        why: String,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be read.
    #[error("the store cannot be read: {0}")]
    Database(#[from] rusqlite::Error),
    /// A file cannot be read or written.
    #[error("`{}`: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
}

impl LedgerError {
    /// The kind of error, as a stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rollback(_) => "ledger_rollback",
            Self::Damaged(_) => "ledger_damaged",
            Self::OtherKey(_) | Self::Key { .. } | Self::Passphrase(_) => "ledger_key",
            Self::NothingSealed => "ledger_unsealed",
            Self::NotFound(_) => "ledger_not_found",
            Self::Witness { .. } => "ledger_witness",
            Self::Store(_) | Self::Database(_) => "store_error",
            Self::File { .. } => "file_error",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Rollback(_) => {
                "find the newer file; if a backup was restored on purpose, begin a new witness file and keep the old one"
            }
            Self::Damaged(_) => "stop, copy the file, and compare it with a backup or an export",
            Self::OtherKey(_) => "name the key that sealed this ledger, as `--key FILE`",
            Self::Key { .. } => {
                "`checkrein keys show FILE` says what a file holds, `checkrein keys new FILE` makes one"
            }
            Self::Passphrase(_) => "set CHECKREIN_KEY_PASSPHRASE, or run it in a terminal",
            Self::NothingSealed => "`checkrein ledger checkpoint --store sqlite:PATH` seals what is there",
            Self::Witness { .. } => {
                "a witness is a file that can be written, or an http(s) URL that answers; checkpoints are kept in the store meanwhile"
            }
            Self::NotFound(_) | Self::Store(_) | Self::Database(_) | Self::File { .. } => return None,
        })
    }

    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |why| Self::File { path, why }
    }
}
