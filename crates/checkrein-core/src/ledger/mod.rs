//! The ledger: entries in one canonical form, the tree over them, signed checkpoints, proofs and their verification.
//!
//! Everything here is published in `docs/reference/ledger-format.md`, so that a stranger can write a verifier without
//! this code. Nothing here reads a disk or a clock, and keys come in as bytes.

pub mod checkpoint;
pub mod entry;
pub mod export;
pub mod moment;
pub mod proof;
pub mod together;
pub mod tree;
pub mod verify;
