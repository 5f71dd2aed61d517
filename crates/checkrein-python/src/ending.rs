//! A permit that is no guard's: whoever holds it says how its action ended, once; let go of before, it is in doubt.

use std::sync::atomic::{AtomicBool, Ordering};

use checkrein::engine::SettleError;
use checkrein::store::PermitId;
use checkrein_core::gate::breaker::Health;
use checkrein_core::permit::{Outcome, Settlement};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::engine::{EngineBase, generation};
use crate::error;
use crate::waiting;

/// A permit on its way to its end.
pub(crate) struct Ending {
    pub(crate) owner: Py<EngineBase>,
    id: Option<PermitId>,
    /// The count of the process that it was given to.
    born: u32,
    /// Nobody has said yet how the action ended.
    open: AtomicBool,
}

impl Drop for Ending {
    /// An action that was interrupted before anybody said how it ended is one of unknown outcome.
    fn drop(&mut self) {
        if *self.open.get_mut() {
            self.unwaited(Outcome::InDoubt);
        }
    }
}

impl Ending {
    pub(crate) fn new(owner: Py<EngineBase>, id: Option<PermitId>) -> Self {
        Self { owner, id, born: generation(), open: AtomicBool::new(true) }
    }

    /// Ends it without waiting for the store; one that has ended already stays as it is.
    pub(crate) fn unwaited(&self, outcome: Outcome) {
        let Some(id) = self.id.filter(|_| self.born == generation()) else { return };
        let engine = &self.owner.get().engine;
        if engine.waits() {
            engine.submit_then(vec![waiting::finish(id, outcome, Health::Neutral)], Box::new(|_| {}));
        } else {
            // It may have ended at the end of its lease: then there is nothing left to say.
            let _ = engine.finish(id, &Settlement::new(outcome, Health::Neutral));
        }
    }

    /// The same for one that nobody else has ended; says whether it was so.
    pub(crate) fn abandon(&self, outcome: Outcome) -> bool {
        let is_first = self.open.swap(false, Ordering::AcqRel);
        if is_first {
            self.unwaited(outcome);
        }
        is_first
    }

    /// Ends it as `end` says; an error says what became of it, and carries the `whole` result.
    pub(crate) fn end<T: Send>(
        &self,
        py: Python<'_>,
        name: &str,
        whole: Option<&Bound<'_, PyAny>>,
        end: impl Send + FnOnce(Option<PermitId>) -> Result<T, SettleError>,
    ) -> PyResult<T> {
        let base = self.owner.get();
        base.check_fork(py)?;
        let id = self.id;
        let result = if base.engine.waits() { py.detach(|| end(id)) } else { end(id) };
        result.map_err(|problem| match (&problem, whole) {
            (SettleError::Permit(problem), _) => error::permit(py, &problem.to_string()),
            (SettleError::Store(store), Some(whole)) => {
                error::not_recorded(py, name, "store_error", &store.to_string(), whole.clone())
            }
            (SettleError::Store(store), None) => error::store(py, store),
        })
    }

    /// Notes that it has ended, and tells the engine's listeners how.
    pub(crate) fn ended(&self, py: Python<'_>, name: &str, outcome: &str) {
        self.open.store(false, Ordering::Release);
        let owner = self.owner.bind(py);
        if owner.get().shared.listening.load(Ordering::Acquire)
            && let Err(raised) = owner.call_method1("_ended", (name, outcome, None::<bool>))
        {
            error::unraisable(py, raised, owner.as_any());
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)
    }
}
