//! `AuditEntry`: one line of a log, its fields turned into Python objects only when they are read.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

use super::super::common::Given;
use super::super::common::record::frozen_record;
use super::canonical::CanonicalWriter;
use super::hash::{self, Digest};
use super::wall;

/// A hash field: absent, computed here, or whatever a caller put there.
pub(crate) enum HashField {
    Absent,
    Digest(Digest),
    /// The object, and its canonical JSON when it is text (a chain continues from it).
    Object(Py<PyAny>, Option<Box<[u8]>>),
}

impl HashField {
    fn from_object(py: Python<'_>, value: Option<Py<PyAny>>) -> Self {
        let Some(object) = value else {
            return Self::Absent;
        };
        let mut json = Vec::new();
        let text = object.bind(py).cast_exact::<PyString>().ok();
        if let Some(digest) = text.and_then(|text| hash::from_hex(text.to_str().ok()?)) {
            return Self::Digest(digest);
        }
        let written = text.is_some_and(|text| CanonicalWriter::new(&mut json).string(text).is_ok());
        Self::Object(object, written.then(|| json.into_boxed_slice()))
    }

    pub(crate) fn object(&self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Self::Absent => py.None(),
            Self::Digest(digest) => {
                let text = hash::hex(digest);
                PyString::new(py, std::str::from_utf8(&text).unwrap_or_default()).into_any().unbind()
            }
            Self::Object(object, _) => object.clone_ref(py),
        }
    }

    pub(crate) fn copy(&self, py: Python<'_>) -> Self {
        match self {
            Self::Absent => Self::Absent,
            Self::Digest(digest) => Self::Digest(*digest),
            Self::Object(object, json) => Self::Object(object.clone_ref(py), json.clone()),
        }
    }
}

/// Where an entry stands in its log; fixed in the same step that appends it.
pub(crate) struct Seal {
    pub(crate) sequence: Sequence,
    pub(crate) entry_hash: HashField,
    pub(crate) prev_hash: HashField,
}

/// A sequence number, or whatever a caller put there.
pub(crate) enum Sequence {
    Number(i64),
    Object(Py<PyAny>),
}

/// A wall-clock stamp: text, or microseconds since the epoch printed when read.
pub(crate) enum WallStamp {
    Text(Py<PyAny>),
    Micros(i64),
}

/// Makes an entry's detail when it is first read.
pub(crate) type DetailSource = std::sync::Arc<dyn Fn(Python<'_>) -> PyResult<Py<PyAny>> + Send + Sync>;

/// An entry's detail: an object, an empty dict to be made, or a source.
pub(crate) struct Detail {
    made: PyOnceLock<Py<PyAny>>,
    source: Option<DetailSource>,
}

impl Detail {
    pub(crate) fn empty() -> Self {
        Self { made: PyOnceLock::new(), source: None }
    }

    pub(crate) fn lazy(source: DetailSource) -> Self {
        Self { made: PyOnceLock::new(), source: Some(source) }
    }

    pub(crate) fn ready(py: Python<'_>, object: Py<PyAny>) -> Self {
        let detail = Self::empty();
        let _ = detail.made.set(py, object);
        detail
    }

    fn get(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let make = || match &self.source {
            Some(source) => source(py),
            None => Ok(PyDict::new(py).into_any().unbind()),
        };
        self.made.get_or_try_init(py, make).map(|object| object.clone_ref(py))
    }
}

/// One recorded event.
#[pyclass(frozen, subclass, module = "checkrein.auditgate.core")]
pub(crate) struct AuditEntry {
    #[pyo3(get)]
    pub(crate) trail: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) ts: Py<PyAny>,
    pub(crate) wall: WallStamp,
    #[pyo3(get)]
    pub(crate) verdict: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) severity: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) gate_type: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) gate_identity: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) recorded_by: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) reason: Py<PyAny>,
    pub(crate) detail: Detail,
    pub(crate) seal: OnceLock<Seal>,
}

impl AuditEntry {
    const FIELDS: &'static [&'static str] = &[
        "trail",
        "ts",
        "wall_ts",
        "verdict",
        "severity",
        "gate_type",
        "gate_identity",
        "recorded_by",
        "reason",
        "detail",
        "entry_hash",
        "prev_hash",
        "sequence",
    ];

    /// Returns the seal; an entry is never visible without one.
    pub(crate) fn sealed(&self) -> PyResult<&Seal> {
        self.seal.get().ok_or_else(|| PyRuntimeError::new_err("the entry is not sealed"))
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(
            py,
            [
                self.trail.clone_ref(py),
                self.ts.clone_ref(py),
                self.wall_ts(py)?,
                self.verdict.clone_ref(py),
                self.severity.clone_ref(py),
                self.gate_type.clone_ref(py),
                self.gate_identity.clone_ref(py),
                self.recorded_by.clone_ref(py),
                self.reason.clone_ref(py),
                self.detail(py)?,
                self.entry_hash(py)?,
                self.prev_hash(py)?,
                self.sequence(py)?,
            ],
        )
    }

    /// Computes the hash this entry should carry.
    pub(crate) fn rehash(&self, py: Python<'_>) -> PyResult<Digest> {
        let name = intern_name(py);
        hash::digest(&hash::Fields {
            detail: self.detail(py)?.into_bound(py),
            gate_identity: self.gate_identity.bind(py).clone(),
            gate_type: self.gate_type.bind(py).clone(),
            prev_hash: Some(self.prev_hash(py)?.into_bound(py)).filter(|hash| !hash.is_none()),
            reason: self.reason.bind(py).clone(),
            sequence: self.sequence(py)?.into_bound(py),
            severity: self.severity.bind(py).getattr(name)?,
            trail: self.trail.bind(py).str()?.into_any(),
            ts: self.ts.bind(py).clone(),
            verdict: self.verdict.bind(py).getattr(name)?,
        })
    }
}

fn intern_name(py: Python<'_>) -> &Bound<'_, PyString> {
    pyo3::intern!(py, "name")
}

frozen_record!(AuditEntry {
    #[new]
    #[pyo3(
        signature = (
            trail, ts, wall_ts, verdict, severity, gate_type, gate_identity, recorded_by=Given::Nothing, reason=None,
            detail=Given::Nothing, entry_hash=None, prev_hash=None, sequence=Given::Nothing
        ),
        text_signature = "(trail, ts, wall_ts, verdict, severity, gate_type, gate_identity, recorded_by='', \
                          reason=None, detail={}, entry_hash=None, prev_hash=None, sequence=0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the fields of the contract's dataclass")]
    fn new(
        py: Python<'_>,
        trail: Py<PyAny>,
        ts: Py<PyAny>,
        wall_ts: Py<PyAny>,
        verdict: Py<PyAny>,
        severity: Py<PyAny>,
        gate_type: Py<PyAny>,
        gate_identity: Py<PyAny>,
        recorded_by: Given,
        reason: Option<Py<PyAny>>,
        detail: Given,
        entry_hash: Option<Py<PyAny>>,
        prev_hash: Option<Py<PyAny>>,
        sequence: Given,
    ) -> PyResult<Self> {
        let sequence = sequence.or_else(|| Ok(PyInt::new(py, 0).into_any().unbind()))?;
        let number = sequence.bind(py).cast_exact::<PyInt>().ok().and_then(|number| number.extract().ok());
        let seal = Seal {
            sequence: number.map_or(Sequence::Object(sequence), Sequence::Number),
            entry_hash: HashField::from_object(py, entry_hash),
            prev_hash: HashField::from_object(py, prev_hash),
        };
        Ok(Self {
            trail,
            ts,
            wall: WallStamp::Text(wall_ts),
            verdict,
            severity,
            gate_type,
            gate_identity,
            recorded_by: recorded_by.or_else(|| Ok(PyString::intern(py, "").into_any().unbind()))?,
            reason: reason.unwrap_or_else(|| py.None()),
            detail: match detail {
                Given::Object(detail) => Detail::ready(py, detail),
                Given::Nothing => Detail::empty(),
            },
            seal: OnceLock::from(seal),
        })
    }

    #[getter]
    fn wall_ts(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.wall {
            WallStamp::Text(text) => text.clone_ref(py),
            WallStamp::Micros(micros) => PyString::new(py, &wall::isoformat(*micros)).into_any().unbind(),
        })
    }

    #[getter]
    fn detail(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.detail.get(py)
    }

    #[getter]
    fn entry_hash(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.sealed()?.entry_hash.object(py))
    }

    #[getter]
    fn prev_hash(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.sealed()?.prev_hash.object(py))
    }

    #[getter]
    fn sequence(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match &self.sealed()?.sequence {
            Sequence::Number(number) => PyInt::new(py, *number).into_any().unbind(),
            Sequence::Object(object) => object.clone_ref(py),
        })
    }

    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let name = intern_name(py);
        let dict = PyDict::new(py);
        dict.set_item(pyo3::intern!(py, "schema_version"), pyo3::intern!(py, "0.1.1"))?;
        for (field, value) in Self::FIELDS.iter().zip(self.values(py)?.iter_borrowed()) {
            match *field {
                "trail" => dict.set_item(field, value.str()?)?,
                "verdict" | "severity" => dict.set_item(field, value.getattr(name)?)?,
                _ => dict.set_item(field, value)?,
            }
        }
        Ok(dict)
    }
});
