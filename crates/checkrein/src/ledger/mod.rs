//! The ledger beside a store: sealing off the commit path, keys, witnesses, exports, verification of files.
//!
//! A store appends entries in the transaction of the decision they record. A [`Sealer`] reads them back from the disk
//! later, over a connection of its own, hashes them, and has the tiles of the tree and a signed checkpoint written. What
//! it reads is what gets signed: an entry that was damaged on the way to the disk is not sealed.

mod audit;
mod auditgate;
mod database;
mod error;
mod export;
mod host;
pub mod keys;
mod sealer;
mod verify;
mod witness;

#[cfg(test)]
mod tests;

pub use audit::{Audit, audit};
pub use auditgate::export_auditgate;
pub use database::Database;
pub use error::LedgerError;
pub use export::{Exported, Scope, export};
pub use host::{Drafts, HostLedger, LedgerAt};
pub use sealer::{Ground, Make, Moment, OwnConnection, Row, SealOptions, Sealed, Sealer, seal};
pub(crate) use verify::is_store;
pub use verify::{verify_file, verify_with};
pub use witness::Witness;
