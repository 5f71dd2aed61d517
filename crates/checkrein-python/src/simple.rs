//! The short way for most guards: nothing but text keys is read, and nothing runs Python code.

use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::amount::Amount;
use checkrein_core::gate::budget::Cost;
use pyo3::ffi;
use pyo3::prelude::*;
use smallvec::SmallVec;

use crate::guard::{Decided, Guard};
use crate::inputs::{CostSource, Reader};
use crate::permit::{Hooks, Taken};
use crate::scope;
use crate::source::Source;

/// The inputs of a guard that reads nothing but text keys and whose costs are fixed: most guards.
pub(crate) struct Simple {
    /// The slot of each key; `None` for the one key that stands for everybody.
    keys: SmallVec<[Option<usize>; 2]>,
    costs: Vec<Cost>,
    /// What a call holds.
    held: SmallVec<[Amount; 2]>,
}

impl Simple {
    /// The inputs, if the guard is one of these.
    pub(crate) fn of(reader: &Reader, hooks: &Hooks) -> Option<Self> {
        let keys = reader.keys.iter().map(Source::plain_slot).collect::<Option<_>>()?;
        let costs = reader.costs.iter().map(CostSource::fixed).collect::<Option<Vec<_>>>()?;
        let held = hooks.held(&costs);
        let rest = reader.tenant.is_none() && reader.rules.is_empty() && reader.once.is_none();
        let rest = rest && reader.requires.is_none() && reader.proves.is_none();
        rest.then_some(Self { keys, costs, held })
    }

    /// Admits a call without anything to clean up; the outer `None` leaves a call with another key to the general way,
    /// the inner one is an admission.
    ///
    /// # Safety
    /// `args` are live objects for as long as this runs.
    #[inline]
    pub(crate) unsafe fn admit<'py>(
        &self,
        py: Python<'py>,
        guard: &Guard,
        args: &[*mut ffi::PyObject],
    ) -> Option<Option<PyResult<Decided<'py>>>> {
        let mut keys: SmallVec<[KeyValue<'_>; 2]> = SmallVec::new();
        for slot in &self.keys {
            let Some(slot) = slot else {
                keys.push(KeyValue::Bytes(&[]));
                continue;
            };
            // SAFETY: as for this function; the bytes of a text live as long as it does.
            let bytes = unsafe { scope::exact_text(py, *args.get(*slot)?) }?.as_bytes();
            if bytes.is_empty() {
                return None;
            }
            keys.push(KeyValue::Bytes(bytes));
        }
        let inputs = Inputs {
            tenant: &guard.reader.default_tenant,
            keys: &keys,
            costs: &self.costs,
            start: true,
            ..Inputs::default()
        };
        let policy = guard.gates.of_code()?;
        let admitted = guard.engine.admit(policy, &inputs);
        let settles = policy.policy().settles();
        if !settles && admitted.admission.verdict == Verdict::Allow && admitted.admission.observed.is_empty()
        {
            return Some(None);
        }
        Some(Some(
            guard.decided(py, admitted, Taken { held: self.held.clone(), ..Taken::default() }, || Ok(None)),
        ))
    }
}
