//! The identities of the drop-in modules: three values, kept and compared as a tuple, never as a joined string.

use pyo3::prelude::*;
use pyo3::types::PyString;
use smallvec::SmallVec;

/// The bytes under which a native store finds an identity.
pub(crate) type Key = SmallVec<[u8; 96]>;

/// Encodes three texts unambiguously (each with its length); `None` when one is not plain text.
pub(crate) fn text_key(parts: [&Bound<'_, PyAny>; 3]) -> Option<Key> {
    let mut key = Key::new();
    key.push(0);
    for part in parts {
        let text = part.cast_exact::<PyString>().ok()?.to_str().ok()?;
        key.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
        key.extend_from_slice(text.as_bytes());
    }
    Some(key)
}

/// The key of an identity that is not three plain texts: a number its store gave it.
pub(crate) fn number_key(number: u64) -> Key {
    let mut key = Key::new();
    key.push(1);
    key.extend_from_slice(&number.to_le_bytes());
    key
}

/// Defines an identity class: its name, its module, the name of its second field, the prefix of `.key`, and what an
/// engine may remember on it between two decisions.
macro_rules! identity_class {
    ($class:ident, $name:tt, $module:tt, $field:ident, $text:tt, $prefix:tt, $memo:ty) => {
        /// An identity: `(namespace, name, principal)`.
        #[pyo3::pyclass(name = $name, module = $module, subclass, frozen)]
        pub(crate) struct $class {
            #[pyo3(get)]
            namespace: pyo3::Py<pyo3::PyAny>,
            #[pyo3(get)]
            $field: pyo3::Py<pyo3::PyAny>,
            #[pyo3(get)]
            principal: pyo3::Py<pyo3::PyAny>,
            /// Where the last engine that decided on this very object found its meter and policy.
            pub(crate) memo: parking_lot::Mutex<Option<$memo>>,
        }

        impl $class {
            pub(crate) const FIELDS: &'static [&'static str] = &["namespace", stringify!($field), "principal"];

            fn values<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::types::PyTuple>> {
                pyo3::types::PyTuple::new(
                    py,
                    [self.namespace.bind(py), self.$field.bind(py), self.principal.bind(py)],
                )
            }

            /// The bytes a native store finds it by; `None` when its fields are not plain text.
            pub(crate) fn text_key(&self, py: pyo3::Python<'_>) -> Option<$crate::dropin::common::identity::Key> {
                $crate::dropin::common::identity::text_key([
                    self.namespace.bind(py),
                    self.$field.bind(py),
                    self.principal.bind(py),
                ])
            }
        }

        $crate::dropin::common::record::frozen_record!($class {
            #[new]
            #[pyo3(
                signature = (namespace, $field, principal=$crate::dropin::common::Given::Nothing),
                text_signature = $text
            )]
            fn new(
                py: pyo3::Python<'_>,
                namespace: pyo3::Py<pyo3::PyAny>,
                $field: pyo3::Py<pyo3::PyAny>,
                principal: $crate::dropin::common::Given,
            ) -> pyo3::PyResult<Self> {
                let global = || Ok(pyo3::intern!(py, "global").clone().into_any().unbind());
                let principal = principal.or_else(global)?;
                Ok(Self { namespace, $field, principal, memo: parking_lot::Mutex::new(None) })
            }

            /// A printable name. Two identities may print alike; nothing is looked up by it.
            #[getter]
            fn key(&self, py: pyo3::Python<'_>) -> pyo3::PyResult<String> {
                use pyo3::types::PyAnyMethods as _;
                let part = |value: &pyo3::Py<pyo3::PyAny>| value.bind(py).str().map(|text| text.to_string());
                Ok(format!(
                    concat!($prefix, ":{}:{}:{}"),
                    part(&self.namespace)?, part(&self.$field)?, part(&self.principal)?
                ))
            }

            fn __str__(&self, py: pyo3::Python<'_>) -> pyo3::PyResult<String> {
                use pyo3::types::PyAnyMethods as _;
                let part = |value: &pyo3::Py<pyo3::PyAny>| value.bind(py).str().map(|text| text.to_string());
                Ok(format!("{}:{}@{}", part(&self.namespace)?, part(&self.$field)?, part(&self.principal)?))
            }
        });
    };
}
pub(crate) use identity_class;
