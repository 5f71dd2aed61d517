//! Strict JSON, in.
