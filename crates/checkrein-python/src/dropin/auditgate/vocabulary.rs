//! The enums and classes that `checkrein.auditgate.core` defines in Python, looked up once.

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// One enum member and its name as JSON text.
pub(crate) struct Member {
    pub(crate) object: Py<PyAny>,
    pub(crate) json: &'static [u8],
}

/// What the native half needs to know by identity.
pub(crate) struct Vocabulary {
    pub(crate) verdicts: [Member; 4],
    pub(crate) severities: [Member; 5],
    pub(crate) recorded: Py<PyAny>,
    pub(crate) dropped: Py<PyAny>,
    pub(crate) hard: Py<PyAny>,
    pub(crate) fail_closed: Py<PyAny>,
    pub(crate) integrity_none: Py<PyAny>,
    pub(crate) integrity_chain: Py<PyAny>,
    pub(crate) policy_class: Py<PyAny>,
    pub(crate) wall_clock: Py<PyAny>,
    pub(crate) error_class: Py<PyAny>,
}

static VOCABULARY: PyOnceLock<Vocabulary> = PyOnceLock::new();

/// Returns the vocabulary, importing `checkrein.auditgate` at the first call.
pub(crate) fn vocabulary(py: Python<'_>) -> PyResult<&Vocabulary> {
    VOCABULARY.get_or_try_init(py, || load(py))
}

fn load(py: Python<'_>) -> PyResult<Vocabulary> {
    let core = py.import("checkrein.auditgate.core")?;
    let member = |class: &str, name: &str| core.getattr(class)?.getattr(name).map(Bound::unbind);
    let named = |class: &str, json: &'static str| -> PyResult<Member> {
        let object = member(class, json.trim_matches('"'))?;
        Ok(Member { object, json: json.as_bytes() })
    };
    Ok(Vocabulary {
        verdicts: [
            named("Verdict", "\"ALLOW\"")?,
            named("Verdict", "\"BLOCK\"")?,
            named("Verdict", "\"ERROR\"")?,
            named("Verdict", "\"OVERRIDE\"")?,
        ],
        severities: [
            named("Severity", "\"DEBUG\"")?,
            named("Severity", "\"INFO\"")?,
            named("Severity", "\"WARN\"")?,
            named("Severity", "\"ERROR\"")?,
            named("Severity", "\"CRITICAL\"")?,
        ],
        recorded: member("Status", "RECORDED")?,
        dropped: member("Status", "DROPPED")?,
        hard: member("Mode", "HARD")?,
        fail_closed: member("StoreErrorMode", "FAIL_CLOSED")?,
        integrity_none: member("IntegrityMode", "NONE")?,
        integrity_chain: member("IntegrityMode", "CHAIN")?,
        policy_class: core.getattr("AuditPolicy")?.unbind(),
        wall_clock: core.getattr("wall_clock")?.unbind(),
        error_class: core.getattr("AuditError")?.unbind(),
    })
}

impl Vocabulary {
    /// Returns the rank of a severity; anything but a member is a `KeyError`.
    pub(crate) fn rank(&self, severity: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.severities
            .iter()
            .position(|member| severity.is(&member.object))
            .ok_or_else(|| PyKeyError::new_err(severity.clone().unbind()))
    }
}

/// Finds `object` among `members`.
pub(crate) fn json_name(members: &[Member], object: &Bound<'_, PyAny>) -> Option<&'static [u8]> {
    members.iter().find(|member| object.is(&member.object)).map(|member| member.json)
}
