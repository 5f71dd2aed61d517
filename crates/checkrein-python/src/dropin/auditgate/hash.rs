//! Entry hashes and the check of a chain.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};
use sha2::{Digest as _, Sha256};

use super::canonical::CanonicalWriter;
use super::entry::{AuditEntry, HashField};

/// A SHA-256 digest.
pub(crate) type Digest = [u8; 32];

/// Prints a digest in lower-case hexadecimal.
pub(crate) fn hex(digest: &Digest) -> [u8; 64] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        if let [high, low] = pair {
            *high = HEX.get(usize::from(byte >> 4)).copied().unwrap_or(b'0');
            *low = HEX.get(usize::from(byte & 15)).copied().unwrap_or(b'0');
        }
    }
    text
}

/// Reads a digest in lower-case hexadecimal; anything else is `None`.
pub(crate) fn from_hex(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let nibble = |index: usize| match pair.get(index)? {
            digit @ b'0'..=b'9' => Some(digit - b'0'),
            digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = nibble(0)? << 4 | nibble(1)?;
    }
    Some(digest)
}

/// Hashes one buffer.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// The hashed fields of one entry, in the order of their keys.
pub(crate) struct Fields<'py> {
    pub(crate) detail: Bound<'py, PyAny>,
    pub(crate) gate_identity: Bound<'py, PyAny>,
    pub(crate) gate_type: Bound<'py, PyAny>,
    pub(crate) prev_hash: Option<Bound<'py, PyAny>>,
    pub(crate) reason: Bound<'py, PyAny>,
    pub(crate) sequence: Bound<'py, PyAny>,
    pub(crate) severity: Bound<'py, PyAny>,
    pub(crate) trail: Bound<'py, PyAny>,
    pub(crate) ts: Bound<'py, PyAny>,
    pub(crate) verdict: Bound<'py, PyAny>,
}

/// Hashes the canonical form of `fields`.
pub(crate) fn digest(fields: &Fields<'_>) -> PyResult<Digest> {
    let mut bytes = Vec::with_capacity(512);
    let parts: [(&[u8], Option<&Bound<'_, PyAny>>); 10] = [
        (b"{\"detail\":", Some(&fields.detail)),
        (b",\"gate_identity\":", Some(&fields.gate_identity)),
        (b",\"gate_type\":", Some(&fields.gate_type)),
        (b",\"prev_hash\":", fields.prev_hash.as_ref()),
        (b",\"reason\":", Some(&fields.reason)),
        (b",\"sequence\":", Some(&fields.sequence)),
        (b",\"severity\":", Some(&fields.severity)),
        (b",\"trail\":", Some(&fields.trail)),
        (b",\"ts\":", Some(&fields.ts)),
        (b",\"verdict\":", Some(&fields.verdict)),
    ];
    for (key, value) in parts {
        if let Some(value) = value {
            bytes.extend_from_slice(key);
            CanonicalWriter::new(&mut bytes).value(value)?;
        }
    }
    bytes.push(b'}');
    Ok(sha256(&bytes))
}

/// Hashes the hashed fields of a mapping, with defaults for the missing ones.
#[pyfunction]
#[pyo3(signature = (entry_data, prev_hash=None))]
pub(crate) fn compute_hash<'py>(
    entry_data: &Bound<'py, PyAny>,
    prev_hash: Option<Bound<'py, PyAny>>,
) -> PyResult<String> {
    let py = entry_data.py();
    let empty = PyString::intern(py, "").into_any();
    let zero = PyInt::new(py, 0).into_any();
    let get = |key: &'static str, default: Bound<'py, PyAny>| entry_data.call_method1("get", (key, default));
    let fields = Fields {
        detail: get("detail", PyDict::new(py).into_any())?,
        gate_identity: get("gate_identity", empty.clone())?,
        gate_type: get("gate_type", empty.clone())?,
        prev_hash,
        reason: get("reason", py.None().into_bound(py))?,
        sequence: get("sequence", zero.clone())?,
        severity: get("severity", empty.clone())?,
        trail: get("trail", empty.clone())?,
        ts: get("ts", zero)?,
        verdict: get("verdict", empty)?,
    };
    Ok(String::from_utf8_lossy(&hex(&digest(&fields)?)).into_owned())
}

/// Returns a value's canonical JSON.
#[pyfunction]
pub(crate) fn canonical<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = Vec::new();
    CanonicalWriter::new(&mut bytes).value(value)?;
    Ok(PyBytes::new(value.py(), &bytes))
}

/// Checks the hash and the link of every entry that has a hash; returns whether all hold, and the sequence of the first entry that does not.
#[pyfunction]
pub(crate) fn verify_chain(py: Python<'_>, entries: &Bound<'_, PyAny>) -> PyResult<(bool, Py<PyAny>)> {
    let mut previous: Option<Bound<'_, AuditEntry>> = None;
    for entry in entries.try_iter()? {
        let entry = entry?
            .cast_into::<AuditEntry>()
            .map_err(|_| PyTypeError::new_err("verify_chain takes AuditEntry objects"))?;
        if !holds(py, entry.get(), previous.as_ref().map(Bound::get))? {
            return Ok((false, entry.getattr("sequence")?.unbind()));
        }
        previous = Some(entry);
    }
    Ok((true, py.None()))
}

fn holds(py: Python<'_>, entry: &AuditEntry, previous: Option<&AuditEntry>) -> PyResult<bool> {
    let seal = entry.sealed()?;
    if matches!(seal.entry_hash, HashField::Absent) {
        return Ok(true);
    }
    if !same(py, &seal.entry_hash, &HashField::Digest(entry.rehash(py)?))? {
        return Ok(false);
    }
    match previous {
        Some(previous) if !matches!(seal.prev_hash, HashField::Absent) => {
            same(py, &seal.prev_hash, &previous.sealed()?.entry_hash)
        }
        _ => Ok(true),
    }
}

fn same(py: Python<'_>, left: &HashField, right: &HashField) -> PyResult<bool> {
    match (left, right) {
        (HashField::Digest(left), HashField::Digest(right)) => Ok(left == right),
        _ => left.object(py).bind(py).eq(right.object(py)),
    }
}
