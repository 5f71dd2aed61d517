//! The logic of every store on a disk, whatever the disk: steps on rows of bytes, one batch in one transaction.

mod tables;

pub use tables::{Row, Rows, Table, Tables};
