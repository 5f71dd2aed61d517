//! Why a ledger cannot be replayed, with a stable code for each kind.

use crate::config::PolicyError;
use crate::ledger::LedgerError;

/// Why a ledger cannot be replayed or reported on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The policy cannot be put to work.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An entry is of a version that this program does not know.
    #[error("entry {seq} is of version {version}, and this program knows the versions 1 and 2")]
    Version {
        /// The entry.
        seq: u64,
        /// What it says.
        version: u64,
    },
    /// The store was written by a later program.
    #[error("`{path}` was written by a later version of checkrein (schema {schema})")]
    Store {
        /// The file.
        path: String,
        /// What it says.
        schema: u32,
    },
    /// What is there is no ledger.
    #[error("line {line} is neither a ledger entry nor a line of an export")]
    NoLedger {
        /// The line, counted from 1.
        line: u64,
    },
    /// The ledger is not what its checkpoints say, or not whole.
    #[error("the ledger is not as it was written: {0}")]
    Invalid(String),
}

impl ReplayError {
    /// The kind of error, as a stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::Policy(_) => "policy_error",
            Self::Version { .. } => "ledger_version",
            Self::Store { .. } => "store_version",
            Self::NoLedger { .. } => "ledger_form",
            Self::Invalid(_) => "ledger_damaged",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Ledger(error) => return error.hint(),
            Self::Policy(_) => "`checkrein policy check` says what is wrong with a file",
            Self::Version { .. } | Self::Store { .. } => {
                "use the version of checkrein that wrote it, or a later one"
            }
            Self::NoLedger { .. } => {
                "name a store's file, a host's ledger, or what `checkrein ledger export` wrote"
            }
            Self::Invalid(_) => {
                "export it again, and `checkrein ledger verify` the export with the public key"
            }
        })
    }
}
