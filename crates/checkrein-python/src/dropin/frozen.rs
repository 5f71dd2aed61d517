//! What frozen, slotted dataclasses do, for native value types that stand in for them.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

/// A constructor argument that knows whether it was passed.
pub(crate) struct Given(pub(crate) Option<Py<PyAny>>);

impl<'a, 'py> FromPyObject<'a, 'py> for Given {
    type Error = std::convert::Infallible;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self(Some(value.to_owned().unbind())))
    }
}

impl Given {
    /// Returns the argument, or what `default` makes when it was left out.
    pub(crate) fn or_else(self, default: impl FnOnce() -> Py<PyAny>) -> Py<PyAny> {
        self.0.unwrap_or_else(default)
    }
}

/// Prints `Name(field=value, ...)`.
pub(crate) fn repr(slf: &Bound<'_, PyAny>, names: &[&str], values: &Bound<'_, PyTuple>) -> PyResult<String> {
    let mut printed = slf.get_type().qualname()?.to_string();
    for (index, (name, value)) in names.iter().zip(values.iter_borrowed()).enumerate() {
        printed.push_str(if index == 0 { "(" } else { ", " });
        printed.push_str(name);
        printed.push('=');
        printed.push_str(&value.repr()?.to_cow()?);
    }
    printed.push(')');
    Ok(printed)
}

/// Raises what assigning to or deleting a field of a frozen dataclass raises.
pub(crate) fn refuse(slf: &Bound<'_, PyAny>, names: &[&str], name: &str, deleting: bool) -> PyErr {
    static ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let verb = if deleting { "delete" } else { "assign to" };
    if !names.contains(&name) {
        let class = slf.get_type().qualname().map(|name| name.to_string()).unwrap_or_default();
        return PyTypeError::new_err(format!("cannot {verb} `{name}`: `{class}` has no such field"));
    }
    match ERROR.import(slf.py(), "dataclasses", "FrozenInstanceError") {
        Ok(class) => PyErr::from_type(class.clone(), format!("cannot {verb} field '{name}'")),
        Err(error) => error,
    }
}
