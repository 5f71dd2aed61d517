//! Results that are kept for replay: bytes by the codec that the guard declared, never a pickle.

use std::sync::Arc;

use checkrein_core::canonical_json;
use checkrein_core::json::{Limits, Value, read};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::convert::{self, MAX_DEPTH, MAX_NODES, Unusable};
use crate::error;

/// The largest result that is kept, in bytes.
pub(crate) const MAX_RESULT_BYTES: usize = 16 << 20;

/// A stored result is as large as what was let in; it was not sent by anybody.
const STORED: Limits =
    Limits { bytes: MAX_RESULT_BYTES, depth: MAX_DEPTH + 1, nodes: MAX_NODES + 1, number_bytes: 128 };

/// How results become bytes and come back.
#[derive(Debug)]
pub(crate) enum Codec {
    /// Plain JSON values, and nothing else.
    Json,
    /// `dumps` and `loads` of the user's.
    Pair(Py<PyAny>, Py<PyAny>),
}

impl Codec {
    /// Reads `(dumps, loads)` or nothing.
    pub(crate) fn read(pair: Option<(Py<PyAny>, Py<PyAny>)>) -> Self {
        pair.map_or(Self::Json, |(dumps, loads)| Self::Pair(dumps, loads))
    }

    /// The bytes of a result; the inner `Err` says why it cannot be stored. What is stored comes back as a value of the
    /// same type. An outer `Err` is something to raise on, such as Ctrl-C inside a codec.
    pub(crate) fn encode(&self, result: &Bound<'_, PyAny>) -> PyResult<Result<Arc<[u8]>, String>> {
        let stored = match self {
            Self::Json => encode_json(result)?,
            Self::Pair(dumps, loads) => encode_by(dumps.bind(result.py()), loads, result)?,
        };
        Ok(stored.and_then(|stored| {
            if stored.len() <= MAX_RESULT_BYTES {
                Ok(stored)
            } else {
                Err(format!("it takes {} bytes, at most {MAX_RESULT_BYTES} are kept", stored.len()))
            }
        }))
    }

    /// A stored result as a value.
    pub(crate) fn decode<'py>(&self, py: Python<'py>, stored: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Pair(_, loads) => loads.bind(py).call1((PyBytes::new(py, stored),)),
            Self::Json => match read(stored, &STORED) {
                Ok(value) => convert::from_json(py, &value),
                Err(problem) => {
                    Err(error::permit(py, &format!("the stored result cannot be read: {problem}")))
                }
            },
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Json => Ok(()),
            Self::Pair(dumps, loads) => visit.call(dumps).and_then(|()| visit.call(loads)),
        }
    }
}

fn encode_json(result: &Bound<'_, PyAny>) -> PyResult<Result<Arc<[u8]>, String>> {
    if !convert::is_plain_json(result, 0) {
        return Ok(Err(not_plain(result, "result".to_owned(), 0)));
    }
    match convert::json_value(result, &mut { MAX_NODES }, 0) {
        Ok(value) => {
            let mut text = Vec::new();
            write(&value, &mut text);
            Ok(Ok(text.into()))
        }
        Err(Unusable::Raised(error)) => Err(error),
        Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => Ok(Err(text)),
    }
}

/// What of a result is no plain JSON value, and where it is; names of members that may be data are left out.
fn not_plain(value: &Bound<'_, PyAny>, place: String, depth: usize) -> String {
    if depth >= MAX_DEPTH {
        return format!("it has more than {MAX_DEPTH} containers inside one another");
    }
    let inside = |item: &Bound<'_, PyAny>| !convert::is_plain_json(item, depth + 1);
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        for (key, item) in dict.iter() {
            if !convert::is_exact::<PyString>(&key) {
                let kind = convert::a_type(&key);
                return format!("a key of `{place}` is {kind}, and keys of plain JSON are text");
            }
            if inside(&item) {
                let name = convert::utf8(&key).ok().filter(|name| is_name(name));
                let name = name.map_or_else(|| "...".to_owned(), |name| format!("\"{name}\""));
                return not_plain(&item, format!("{place}[{name}]"), depth + 1);
            }
        }
    } else if let Ok(list) = value.cast_exact::<PyList>() {
        for (index, item) in list.iter().enumerate() {
            if inside(&item) {
                return not_plain(&item, format!("{place}[{index}]"), depth + 1);
            }
        }
    }
    let kind = convert::a_type(value);
    if depth == 0 {
        format!("{kind} is no plain JSON value")
    } else {
        format!("`{place}` is {kind}, which is no plain JSON value")
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    (1..=40).contains(&text.len()) && text.bytes().all(plain)
}

fn encode_by(
    dumps: &Bound<'_, PyAny>,
    loads: &Py<PyAny>,
    result: &Bound<'_, PyAny>,
) -> PyResult<Result<Arc<[u8]>, String>> {
    let py = result.py();
    let raised = |error: PyErr| {
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        Ok(Err(format!("the codec raised {}", convert::type_name(error.value(py)))))
    };
    let stored = match dumps.call1((result,)) {
        Ok(stored) => stored,
        Err(error) => return raised(error),
    };
    let bytes: Arc<[u8]> = match (stored.cast::<PyBytes>(), convert::utf8(&stored)) {
        (Ok(bytes), _) => bytes.as_bytes().into(),
        (_, Ok(text)) => text.as_bytes().into(),
        _ => return Ok(Err(format!("the codec returned {}", convert::a_type(&stored)))),
    };
    // The first call and a repetition must not differ in type, so it is tried while the result is at hand.
    match loads.bind(py).call1((PyBytes::new(py, &bytes),)) {
        Ok(back) if back.get_type().is(result.get_type()) => Ok(Ok(bytes)),
        Ok(back) => {
            Ok(Err(format!("the codec turns {} into {}", convert::a_type(result), convert::a_type(&back))))
        }
        Err(error) => raised(error),
    }
}

/// Writes a result so that reading it gives the same value of the same type: canonical JSON has no `2.0`.
fn write(value: &Value, out: &mut Vec<u8>) {
    let start = out.len();
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write(item, out);
                out.push(b',');
            }
            close(out, start, b']');
        }
        Value::Object(object) => {
            out.push(b'{');
            for (name, value) in object.iter() {
                out.extend(canonical_json::to_vec(&Value::String(name.to_owned())));
                out.push(b':');
                write(value, out);
                out.push(b',');
            }
            close(out, start, b'}');
        }
        Value::Float(number) => {
            // The shortest digits that come back as the same double, always with a point or an exponent.
            out.extend(format!("{number:?}").into_bytes());
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::String(_) => {
            out.extend(canonical_json::to_vec(value));
        }
    }
}

/// Ends a container in place of the last comma.
fn close(out: &mut Vec<u8>, start: usize, bracket: u8) {
    if out.len() > start + 1 {
        out.pop();
    }
    out.push(bracket);
}
