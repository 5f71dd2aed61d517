//! Events on their way into a log.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::super::common::clock::Now;
use super::decision::Decision;
use super::entry::DetailSource;
use super::policy::PolicyView;
use super::record::Draft;
use super::store::{AppendError, TrailLog};

/// What an engine knows about one trail.
#[pyclass(frozen)]
pub(crate) struct TrailSlot {
    pub(super) state: Mutex<SlotState>,
    pub(super) json: Box<[u8]>,
}

/// What changes about it.
#[derive(Default)]
pub(super) struct SlotState {
    pub(super) policy: Option<Arc<PolicyView>>,
    pub(super) log: Option<Arc<TrailLog>>,
    pub(super) async_log: Option<Arc<TrailLog>>,
}

/// One event to record.
pub(crate) struct Event<'a, 'py> {
    pub(crate) trail: &'a Bound<'py, PyAny>,
    pub(crate) verdict: &'a Bound<'py, PyAny>,
    pub(crate) severity: &'a Bound<'py, PyAny>,
    pub(crate) gate_type: &'a Bound<'py, PyAny>,
    pub(crate) gate_identity: &'a Bound<'py, PyAny>,
    pub(crate) reason: Option<&'a Bound<'py, PyAny>>,
    pub(crate) detail: EventDetail<'a, 'py>,
    pub(crate) policy: Option<&'a Bound<'py, PyAny>>,
    /// A reading of the machine's clock made for the same call.
    pub(crate) machine: Option<&'a Now>,
    /// Keeps what the engine knows about the trail, for callers with many events of one trail.
    pub(crate) known: Option<&'a KnownTrail>,
}

/// What an engine knows about one trail, kept by somebody who asks often. An engine never forgets a trail.
#[derive(Default)]
pub(crate) struct KnownTrail(pub(super) OnceLock<Py<TrailSlot>>);

/// The detail of an event.
pub(crate) enum EventDetail<'a, 'py> {
    Object(Option<&'a Bound<'py, PyAny>>),
    /// What writes its canonical JSON, and how to make the object when it is read.
    Prepared(&'a dyn Fn(&mut Vec<u8>), DetailSource),
}

/// What became of an event before it has its place in the log.
pub(crate) enum Opening {
    /// The store is the user's own: nothing was done.
    Foreign,
    /// Too light for the trail's policy, or it could not be built.
    Dropped(Py<Decision>),
    Ready(Box<Opened>),
}

/// An entry ready to be appended.
pub(crate) struct Opened {
    pub(super) slot: Py<TrailSlot>,
    pub(super) policy: Arc<PolicyView>,
    pub(super) now: Py<PyAny>,
    pub(super) ts: Option<f64>,
    pub(super) draft: Draft,
    pub(super) log: Arc<TrailLog>,
    pub(super) side: Side,
}

impl Opened {
    /// Gives the entry its place; runs no Python code and may be called under a lock of the same kind.
    pub(crate) fn append(&self, py: Python<'_>) -> Result<(), AppendError> {
        let draft = &self.draft;
        self.log.append(py, &draft.entry, self.ts, |sequence, previous| draft.seal(py, sequence, previous))
    }
}

/// Which of an engine's two logs an event goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Sync,
    Async,
}
