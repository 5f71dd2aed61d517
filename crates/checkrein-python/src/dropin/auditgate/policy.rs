//! `AuditPolicy`, read once into what recording needs.

use pyo3::prelude::*;

use super::vocabulary::{json_name, vocabulary};

/// How entries are protected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integrity {
    None,
    Hash,
    Chain,
}

impl Integrity {
    pub(crate) fn read(policy: &Bound<'_, PyAny>) -> PyResult<Self> {
        let vocabulary = vocabulary(policy.py())?;
        let mode = policy.getattr("integrity")?;
        Ok(if mode.is(&vocabulary.integrity_none) {
            Self::None
        } else if mode.is(&vocabulary.integrity_chain) {
            Self::Chain
        } else {
            Self::Hash
        })
    }
}

/// A policy object and what it says.
pub(crate) struct PolicyView {
    pub(crate) object: Py<PyAny>,
    pub(crate) hard: bool,
    pub(crate) fail_closed: bool,
    pub(crate) floor: usize,
    pub(crate) retention: Option<Py<PyAny>>,
    pub(crate) integrity: Integrity,
    floor_name: String,
}

impl PolicyView {
    pub(crate) fn read(policy: &Bound<'_, PyAny>) -> PyResult<Self> {
        let vocabulary = vocabulary(policy.py())?;
        let severity = policy.getattr("min_severity")?;
        let name = json_name(&vocabulary.severities, &severity).unwrap_or_default();
        Ok(Self {
            hard: policy.getattr("mode")?.is(&vocabulary.hard),
            fail_closed: policy.getattr("on_store_error")?.is(&vocabulary.fail_closed),
            floor: vocabulary.rank(&severity)?,
            retention: Some(policy.getattr("retention_seconds")?.unbind())
                .filter(|seconds| !seconds.is_none(policy.py())),
            integrity: Integrity::read(policy)?,
            floor_name: String::from_utf8_lossy(name).trim_matches('"').to_owned(),
            object: policy.clone().unbind(),
        })
    }

    /// The reason of a decision that drops an event below the least severity.
    pub(crate) fn below(&self) -> String {
        format!("Below min_severity ({})", self.floor_name)
    }
}
