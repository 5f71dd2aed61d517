//! What frozen, slotted dataclasses do, for native classes: equality, hash, repr, pickling, refusal of assignments.

use pyo3::basic::CompareOp;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

/// Adds to a native class what `@dataclass(frozen=True, slots=True)` would. The class has `FIELDS` and `values`.
macro_rules! frozen_record {
    ($class:ident { $($body:tt)* }) => {
        #[pyo3::pymethods]
        impl $class {
            $($body)*

            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                let values = slf.get().values(slf.py())?;
                $crate::dropin::common::record::repr(slf.as_any(), Self::FIELDS, &values)
            }

            fn __richcmp__(
                slf: &pyo3::Bound<'_, Self>,
                other: &pyo3::Bound<'_, pyo3::PyAny>,
                op: pyo3::basic::CompareOp,
            ) -> pyo3::PyResult<pyo3::Py<pyo3::PyAny>> {
                let py = slf.py();
                let same_class = slf.get_type().is(&other.get_type());
                let Some(other) = other.cast::<Self>().ok().filter(|_| same_class) else {
                    return Ok(py.NotImplemented());
                };
                $crate::dropin::common::record::compare(
                    &slf.get().values(py)?, &other.get().values(py)?, op,
                )
            }

            fn __hash__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<isize> {
                use pyo3::types::PyAnyMethods as _;
                slf.get().values(slf.py())?.hash()
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<(pyo3::Bound<'py, pyo3::types::PyType>, pyo3::Bound<'py, pyo3::types::PyTuple>)> {
                use pyo3::types::PyAnyMethods as _;
                Ok((slf.get_type(), slf.get().values(slf.py())?))
            }

            fn __setattr__(
                slf: &pyo3::Bound<'_, Self>,
                name: &pyo3::Bound<'_, pyo3::types::PyString>,
                value: &pyo3::Bound<'_, pyo3::PyAny>,
            ) -> pyo3::PyResult<()> {
                let own = slf.py().get_type::<Self>();
                $crate::dropin::common::record::assign(slf.as_any(), &own, Self::FIELDS, name, Some(value))
            }

            fn __delattr__(
                slf: &pyo3::Bound<'_, Self>,
                name: &pyo3::Bound<'_, pyo3::types::PyString>,
            ) -> pyo3::PyResult<()> {
                let own = slf.py().get_type::<Self>();
                $crate::dropin::common::record::assign(slf.as_any(), &own, Self::FIELDS, name, None)
            }
        }
    };
}
pub(crate) use frozen_record;

/// `Gate(namespace='n', action='a', principal='global')`.
pub(crate) fn repr(
    record: &Bound<'_, PyAny>,
    fields: &[&str],
    values: &Bound<'_, PyTuple>,
) -> PyResult<String> {
    let mut text = record.get_type().qualname()?.to_string();
    for (position, (field, value)) in fields.iter().zip(values.iter()).enumerate() {
        text.push_str(if position == 0 { "(" } else { ", " });
        text.push_str(field);
        text.push('=');
        text.push_str(&value.repr()?.to_string_lossy());
    }
    text.push(')');
    Ok(text)
}

/// Equality field by field; there is no order.
pub(crate) fn compare(
    left: &Bound<'_, PyTuple>,
    right: &Bound<'_, PyTuple>,
    op: CompareOp,
) -> PyResult<Py<PyAny>> {
    match op {
        CompareOp::Eq | CompareOp::Ne => Ok(left.rich_compare(right, op)?.unbind()),
        _ => Ok(left.py().NotImplemented()),
    }
}

/// Refuses to set or delete a field; a subclass with attributes of its own may keep those.
pub(crate) fn assign(
    record: &Bound<'_, PyAny>,
    own: &Bound<'_, PyType>,
    fields: &[&str],
    name: &Bound<'_, PyString>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = record.py();
    let text = name.to_string_lossy();
    let verb = if value.is_some() { "assign to" } else { "delete" };
    if fields.contains(&text.as_ref()) {
        let frozen = py.import("dataclasses")?.getattr("FrozenInstanceError")?;
        return Err(PyErr::from_value(frozen.call1((format!("cannot {verb} field {}", name.repr()?),))?));
    }
    if record.get_type().is(own) {
        let class = own.qualname()?;
        return Err(PyTypeError::new_err(format!("cannot {verb} {}: {class} is frozen", name.repr()?)));
    }
    let value = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: the interpreter is attached; record and name are live objects, and a null value means "delete".
    // `object.__setattr__` itself refuses classes that have a setter of their own, as this one does.
    let outcome = unsafe { pyo3::ffi::PyObject_GenericSetAttr(record.as_ptr(), name.as_ptr(), value) };
    if outcome == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}
