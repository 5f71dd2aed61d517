//! Canonical JSON written straight from Python objects, byte for byte what `json.dumps` with sorted keys writes.

use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::number::{push_float, push_integer};

/// Containers may nest this deep; the encoder of the standard library gives up at about the same depth.
pub(crate) const MAX_DEPTH: usize = 1_000;
/// One entry may not be larger than this when written.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// Walks Python values once and appends their canonical form to a buffer.
pub(crate) struct CanonicalWriter<'out> {
    out: &'out mut Vec<u8>,
    ancestors: Vec<*mut ffi::PyObject>,
}

impl<'out> CanonicalWriter<'out> {
    pub(crate) fn new(out: &'out mut Vec<u8>) -> Self {
        Self { out, ancestors: Vec::new() }
    }

    /// Appends `value`, or raises what `json.dumps` raises for it.
    pub(crate) fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.string(text)
        } else if value.is_none() {
            self.raw(b"null")
        } else if let Ok(flag) = value.cast_exact::<PyBool>() {
            self.raw(if flag.is_true() { b"true" } else { b"false" })
        } else if let Ok(number) = value.cast_exact::<PyInt>() {
            self.integer(number)
        } else if let Ok(number) = value.cast_exact::<PyFloat>() {
            push_float(self.out, number.value());
            Ok(())
        } else if let Ok(mapping) = value.cast_exact::<PyDict>() {
            self.nested(value, |writer| writer.plain_dict(mapping))
        } else if let Ok(items) = value.cast_exact::<PyList>() {
            self.nested(value, |writer| writer.list(items))
        } else if let Ok(items) = value.cast_exact::<PyTuple>() {
            self.nested(value, |writer| writer.tuple(items))
        } else {
            self.subclass(value)
        }
    }

    /// Appends a value whose type derives from a JSON type; anything else is a `TypeError`.
    fn subclass(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast::<PyString>() {
            self.string(text)
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.integer(number)
        } else if let Ok(number) = value.cast::<PyFloat>() {
            push_float(self.out, number.value());
            Ok(())
        } else if let Ok(items) = value.cast::<PyList>() {
            self.nested(value, |writer| writer.list(items))
        } else if let Ok(items) = value.cast::<PyTuple>() {
            self.nested(value, |writer| writer.tuple(items))
        } else if let Ok(mapping) = value.cast::<PyDict>() {
            self.nested(value, |writer| writer.foreign_dict(mapping))
        } else {
            let name = value.get_type().name()?;
            Err(PyTypeError::new_err(format!("Object of type {name} is not JSON serializable")))
        }
    }

    fn raw(&mut self, bytes: &[u8]) -> PyResult<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn nested(
        &mut self,
        container: &Bound<'_, PyAny>,
        write: impl FnOnce(&mut Self) -> PyResult<()>,
    ) -> PyResult<()> {
        if self.ancestors.len() >= MAX_DEPTH {
            return Err(too_deep(&self.ancestors));
        }
        if self.out.len() > MAX_BYTES {
            return Err(too_large());
        }
        self.ancestors.push(container.as_ptr());
        let written = write(self);
        self.ancestors.pop();
        written
    }

    fn list(&mut self, items: &Bound<'_, PyList>) -> PyResult<()> {
        self.out.push(b'[');
        let mut index = 0;
        // The length is read again each time: encoding an element can run Python code that changes the list.
        while index < items.len() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&items.get_item(index)?)?;
            index += 1;
        }
        self.raw(b"]")
    }

    fn tuple(&mut self, items: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.out.push(b'[');
        for (index, item) in items.iter_borrowed().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&item)?;
        }
        self.raw(b"]")
    }

    fn plain_dict(&mut self, mapping: &Bound<'_, PyDict>) -> PyResult<()> {
        let mut items = Vec::with_capacity(mapping.len());
        for (key, value) in mapping.iter() {
            match key.cast_into_exact::<PyString>() {
                // A key with a lone surrogate has no UTF-8 form; Python's own ordering decides then.
                Ok(text) if text.to_str().is_ok() => items.push((text, value)),
                _ => return self.foreign_dict(mapping),
            }
        }
        // UTF-8 orders like code points, which is how Python orders str. Every `to_str` succeeded above.
        items.sort_unstable_by(|left, right| left.0.to_str().ok().cmp(&right.0.to_str().ok()));
        self.out.push(b'{');
        for (index, (key, value)) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.string(key)?;
            self.out.push(b':');
            self.value(value)?;
        }
        self.raw(b"}")
    }

    /// Appends a dict with other than plain text keys, or a subclass of dict, ordered by Python itself.
    fn foreign_dict(&mut self, mapping: &Bound<'_, PyDict>) -> PyResult<()> {
        if mapping.is_empty() {
            return self.raw(b"{}");
        }
        let items = mapping.py().get_type::<PyList>().call1((mapping.call_method0("items")?,))?;
        items.call_method0("sort")?;
        self.out.push(b'{');
        for (index, item) in items.try_iter()?.enumerate() {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
                item?.extract().map_err(|_| PyValueError::new_err("items must return 2-tuples"))?;
            if index > 0 {
                self.out.push(b',');
            }
            self.key(&key)?;
            self.out.push(b':');
            self.value(&value)?;
        }
        self.raw(b"}")
    }

    fn key(&mut self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast::<PyString>() {
            return self.string(text);
        }
        if let Ok(number) = key.cast::<PyFloat>() {
            self.out.push(b'"');
            push_float(self.out, number.value());
        } else if let Ok(flag) = key.cast_exact::<PyBool>() {
            self.raw(if flag.is_true() { b"\"true" } else { b"\"false" })?;
        } else if key.is_none() {
            self.raw(b"\"null")?;
        } else if let Ok(number) = key.cast::<PyInt>() {
            self.out.push(b'"');
            self.integer(number)?;
        } else {
            let name = key.get_type().name()?;
            let message = format!("keys must be str, int, float, bool or None, not {name}");
            return Err(PyTypeError::new_err(message));
        }
        self.raw(b"\"")
    }

    fn integer(&mut self, number: &Bound<'_, PyInt>) -> PyResult<()> {
        // SAFETY: `number` is a live int (or a subclass); the call only reads its value.
        let mut overflow = 0;
        let small = unsafe { ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow) };
        if overflow == 0 {
            push_integer(self.out, small);
            return Ok(());
        }
        // Beyond 64 bits Python prints it, limit on digits included.
        let printed = number.py().get_type::<PyInt>().getattr("__repr__")?.call1((number,))?;
        self.raw(printed.cast::<PyString>()?.to_str()?.as_bytes())
    }

    /// Appends `text` quoted, in ASCII.
    pub(crate) fn string(&mut self, text: &Bound<'_, PyString>) -> PyResult<()> {
        let Ok(valid) = text.to_str() else {
            return self.surrogates(text);
        };
        if valid.len() > MAX_BYTES {
            return Err(too_large());
        }
        push_string(self.out, valid);
        Ok(())
    }

    /// Appends text that holds lone surrogates, which Python passes through as escapes.
    fn surrogates(&mut self, text: &Bound<'_, PyString>) -> PyResult<()> {
        let encoded = text.call_method1("encode", ("utf-16-le", "surrogatepass"))?;
        let bytes: Vec<u8> = encoded.extract()?;
        self.out.push(b'"');
        for pair in bytes.chunks_exact(2) {
            if let [low, high] = *pair {
                push_unit(self.out, u16::from_le_bytes([low, high]));
            }
        }
        self.raw(b"\"")
    }
}

fn too_deep(ancestors: &[*mut ffi::PyObject]) -> PyErr {
    let mut seen = std::collections::HashSet::new();
    if ancestors.iter().all(|container| seen.insert(*container)) {
        PyRecursionError::new_err("maximum recursion depth exceeded while encoding a JSON object")
    } else {
        PyValueError::new_err("Circular reference detected")
    }
}

fn too_large() -> PyErr {
    PyValueError::new_err(format!("entry is larger than {MAX_BYTES} bytes"))
}

/// Appends one UTF-16 unit the way Python's ASCII encoder does.
fn push_unit(out: &mut Vec<u8>, unit: u16) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let escaped = match unit {
        0x22 => b'"',
        0x5c => b'\\',
        0x08 => b'b',
        0x0c => b'f',
        0x0a => b'n',
        0x0d => b'r',
        0x09 => b't',
        0x20..=0x7e => {
            out.push(unit.to_le_bytes()[0]);
            return;
        }
        _ => {
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                out.push(HEX.get(usize::from((unit >> shift) & 15)).copied().unwrap_or(b'0'));
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', escaped]);
}

/// Appends `text` as a quoted JSON string in ASCII.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for unit in text.encode_utf16() {
            push_unit(out, unit);
        }
    }
    out.push(b'"');
}
