//! One file per verb.

pub(crate) mod backup;
pub(crate) mod budget;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod man;
pub(crate) mod once;
mod passphrase;
pub(crate) mod policy;
pub(crate) mod prices;
mod recording;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod restore;
pub(crate) mod schema;
mod store;

pub(crate) use crate::show::{columns, inert, print_error};
