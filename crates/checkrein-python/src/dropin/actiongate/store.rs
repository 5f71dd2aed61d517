//! The native store behind `MemoryStore` and `AsyncMemoryStore`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::super::common::clock::{FOREIGN_DOMAIN, Now, seconds};
use super::super::common::identity::{Key, number_key};
use super::super::table::{Moment, Table};
use super::Gate;
use super::meter::GateCalls;
use super::policy::limits_of;

/// Base of both memory stores: a handle on one table of gates.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ActionStore {
    table: Arc<Table<GateCalls>>,
    /// Numbers for identities that are not three plain texts, compared as Python compares them.
    numbers: Py<PyDict>,
}

impl ActionStore {
    #[inline]
    pub(super) fn table(&self) -> &Arc<Table<GateCalls>> {
        &self.table
    }

    /// The bytes under which this store keeps `gate`.
    pub(super) fn key(&self, gate: &Bound<'_, PyAny>) -> PyResult<Key> {
        let py = gate.py();
        if let Some(key) = gate.cast_exact::<Gate>().ok().and_then(|gate| gate.get().text_key(py)) {
            return Ok(key);
        }
        let numbers = self.numbers.bind(py);
        let number = match numbers.get_item(gate)? {
            Some(number) => number,
            None => numbers.call_method1("setdefault", (gate, numbers.len()))?,
        };
        Ok(number_key(number.extract()?))
    }
}

#[pymethods]
impl ActionStore {
    #[new]
    #[pyo3(signature = (*_args, _share=None, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _share: Option<&Bound<'_, Self>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        match _share {
            Some(store) => {
                let store = store.get();
                Self { table: Arc::clone(&store.table), numbers: store.numbers.clone_ref(py) }
            }
            None => Self { table: Arc::default(), numbers: PyDict::new(py).unbind() },
        }
    }

    /// Decides on one call at `now` and records it when it is allowed: `(count, allowed, age of the last | None)`.
    fn check_and_reserve<'py>(
        &self,
        gate: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        policy: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let py = gate.py();
        let limits = limits_of(policy)?;
        let key = self.key(gate)?;
        let now = Now::from_object(now);
        let stamp = now.stamp.ok_or_else(|| PyValueError::new_err("now is not a usable time"))?;
        let moment = Moment { nanos: stamp, domain: FOREIGN_DOMAIN };
        let verdict = loop {
            let slot = self.table.slot(&key, moment);
            if let Some(verdict) = slot.with(moment.domain, |calls| calls.admit(stamp, now.whole, &limits)) {
                break verdict;
            }
        };
        let age = verdict.age.map(|age| seconds(py, age, verdict.whole));
        (verdict.count, verdict.allowed, age).into_pyobject(py)
    }

    /// Forgets one gate.
    fn clear(&self, gate: &Bound<'_, PyAny>) -> PyResult<()> {
        self.table.clear(&self.key(gate)?);
        Ok(())
    }

    /// Forgets every gate.
    fn clear_all(&self) {
        // Numbers stay: a decision that already has one must not meet another gate under it.
        self.table.clear_all();
    }

    fn __len__(&self) -> usize {
        self.table.len()
    }

    fn __bool__(&self) -> bool {
        true
    }
}
