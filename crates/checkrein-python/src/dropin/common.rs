//! What the native halves of the drop-in modules share: given time, listeners, identities, and classes that look
//! like the frozen dataclasses their users know.

pub(crate) mod clock;
pub(crate) mod emitter;
pub(crate) mod identity;
pub(crate) mod names;
pub(crate) mod record;
pub(crate) mod result;

use pyo3::prelude::*;

/// An argument that was left out, as opposed to one given as `None`.
pub(crate) enum Given {
    /// Left out.
    Nothing,
    /// Given, whatever it is.
    Object(Py<PyAny>),
}

impl Given {
    /// The object given, or what `default` makes.
    pub(crate) fn or_else(self, default: impl FnOnce() -> PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Nothing => default(),
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self::Object(object.to_owned().unbind()))
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    clock::calibrate(module.py())?;
    module.add_class::<emitter::ListenerList>()?;
    module.add_class::<result::Missing>()?;
    module.add_class::<result::ResultBase>()
}
