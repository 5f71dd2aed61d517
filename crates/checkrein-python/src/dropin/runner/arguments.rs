//! A call's arguments: strict JSON text or a dict, read once before any gate is asked.

use checkrein_core::json::{Limits, Value, read_str};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString};

/// Model output is text of moderate size; what is larger is refused before anything is consumed.
const LIMITS: Limits = Limits { bytes: 16 << 20, depth: 512, nodes: 1_000_000, number_bytes: 1_024 };

/// Returns the arguments as a dict of the runner's own, or the message of the refusal.
pub(super) fn read<'py>(arguments: &Bound<'py, PyAny>) -> PyResult<Result<Bound<'py, PyDict>, String>> {
    if let Ok(text) = arguments.cast::<PyString>() {
        return parse(text);
    }
    let copied = if let Ok(dict) = arguments.cast_exact::<PyDict>() {
        dict.copy()?
    } else if arguments.cast::<PyMapping>().is_ok() {
        arguments.py().get_type::<PyDict>().call1((arguments,))?.cast_into::<PyDict>()?
    } else {
        let given = arguments.get_type().name()?;
        return Ok(Err(format!("Invalid arguments: expected a JSON object or a dict, got {given}")));
    };
    if copied.iter().any(|(name, _)| !name.is_instance_of::<PyString>()) {
        return Ok(Err("Invalid arguments: names must be text".to_owned()));
    }
    Ok(Ok(copied))
}

fn parse<'py>(text: &Bound<'py, PyString>) -> PyResult<Result<Bound<'py, PyDict>, String>> {
    let py = text.py();
    let refused = |reason: String| Ok(Err(format!("Invalid JSON arguments: {reason}")));
    let Ok(valid) = text.to_str() else {
        return refused("the text holds lone surrogates".to_owned());
    };
    match &read_str(valid, &LIMITS) {
        Ok(Value::Object(object)) => {
            let dict = PyDict::new(py);
            for (name, value) in object.iter() {
                dict.set_item(name, to_python(py, value)?)?;
            }
            Ok(Ok(dict))
        }
        Ok(other) => refused(format!("expected an object, got {}", other.type_name())),
        Err(error) => refused(familiar(text).unwrap_or_else(|| error.to_string())),
    }
}

/// The standard library's words for text that it refuses too.
fn familiar(text: &Bound<'_, PyString>) -> Option<String> {
    let json = text.py().import("json").ok()?;
    let error = json.call_method1("loads", (text,)).err()?;
    let decoding = json.getattr("JSONDecodeError").ok()?;
    let expected = error.value(text.py()).is_instance(&decoding).ok()?;
    if expected { Some(error.value(text.py()).str().ok()?.to_string_lossy().into_owned()) } else { None }
}

/// Recurses at most as deep as the limits let the reader go.
fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => flag.into_pyobject(py)?.to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Uint(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => number.into_pyobject(py)?.into_any(),
        Value::String(text) => text.into_pyobject(py)?.into_any(),
        Value::Array(items) => {
            let items = items.iter().map(|item| to_python(py, item)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, items)?.into_any()
        }
        Value::Object(object) => {
            let dict = PyDict::new(py);
            for (name, value) in object.iter() {
                dict.set_item(name, to_python(py, value)?)?;
            }
            dict.into_any()
        }
    })
}
