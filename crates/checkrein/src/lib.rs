//! Checkrein: runtime control of AI agents. Every gate of an action is decided in one atomic admission.

pub mod expression;
