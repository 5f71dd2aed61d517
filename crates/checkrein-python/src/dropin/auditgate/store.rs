//! `MemoryStore`: one log per trail, appended to in the step that fixes sequence and hash.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple};

use super::entry::{AuditEntry, HashField, Seal, Sequence};
use super::query::Filter;

/// The log of one trail.
///
/// INVARIANT: no Python code runs and no Python object is made or dropped while the lock is held, because a
/// thread that waits for it may hold the interpreter.
pub(crate) struct TrailLog {
    state: Mutex<LogState>,
}

#[derive(Default)]
struct LogState {
    entries: VecDeque<Stored>,
    next_sequence: i64,
    /// Whether the stamps never decrease and all are numbers, so that pruning may stop at the first survivor.
    unordered: bool,
    /// Whether the store has forgotten this log; an append must then go to its successor.
    detached: bool,
}

struct Stored {
    ts: Option<f64>,
    entry: Py<AuditEntry>,
}

/// Why a log refused an entry.
pub(crate) enum AppendError {
    /// The log was cleared away; look the trail up again.
    Detached,
    /// There is no sequence number left.
    Exhausted,
    /// The entry before carries a hash that is neither text nor absent.
    UnusableHash,
}

/// Reads a stamp as a float when that loses nothing.
pub(crate) fn exact_stamp(ts: &Bound<'_, PyAny>) -> Option<f64> {
    if let Ok(number) = ts.cast_exact::<PyFloat>() {
        return Some(number.value()).filter(|number| !number.is_nan());
    }
    let number: i64 = ts.cast_exact::<PyInt>().ok()?.extract().ok()?;
    (number.unsigned_abs() <= 1 << 53).then_some(number as f64)
}

impl TrailLog {
    fn new() -> Self {
        Self { state: Mutex::new(LogState::default()) }
    }

    /// Appends `entry`, sealed by `seal` with the next sequence number and the hash of the entry before.
    pub(crate) fn append(
        &self,
        py: Python<'_>,
        entry: &Py<AuditEntry>,
        ts: Option<f64>,
        seal: impl FnOnce(i64, &HashField) -> Option<Seal>,
    ) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if state.detached {
            return Err(AppendError::Detached);
        }
        let sequence = state.next_sequence;
        let following = sequence.checked_add(1).ok_or(AppendError::Exhausted)?;
        let absent = HashField::Absent;
        let previous = state.entries.back().and_then(|last| last.entry.get().seal.get());
        let sealed = seal(sequence, previous.map_or(&absent, |seal| &seal.entry_hash))
            .ok_or(AppendError::UnusableHash)?;
        // A fresh entry has no seal yet; one that has keeps it, and it was made for another place.
        let _ = entry.get().seal.set(sealed);
        state.next_sequence = following;
        state.push(ts, entry.clone_ref(py));
        Ok(())
    }

    /// Appends an entry that was sealed elsewhere.
    fn append_sealed(&self, py: Python<'_>, entry: &Py<AuditEntry>, ts: Option<f64>) -> bool {
        let mut state = self.state.lock();
        if state.detached {
            return false;
        }
        if let Some(Seal { sequence: Sequence::Number(sequence), .. }) = entry.get().seal.get() {
            state.next_sequence = state.next_sequence.max(sequence.saturating_add(1));
        }
        state.push(ts, entry.clone_ref(py));
        true
    }

    pub(crate) fn snapshot(&self, py: Python<'_>) -> Vec<Py<AuditEntry>> {
        self.state.lock().entries.iter().map(|stored| stored.entry.clone_ref(py)).collect()
    }

    /// Whether the store has cleared this log away.
    pub(crate) fn is_detached(&self) -> bool {
        self.state.lock().detached
    }

    fn last(&self, py: Python<'_>) -> Option<Py<AuditEntry>> {
        self.state.lock().entries.back().map(|stored| stored.entry.clone_ref(py))
    }

    fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Takes out what is older than `cutoff`; the entries are dropped by the caller, outside the lock.
    pub(crate) fn take_older(&self, cutoff: f64) -> Option<Vec<Py<AuditEntry>>> {
        let mut state = self.state.lock();
        if state.unordered {
            return None;
        }
        let mut taken = Vec::new();
        while state.entries.front().and_then(|first| first.ts).is_some_and(|ts| ts < cutoff) {
            taken.extend(state.entries.pop_front().map(|stored| stored.entry));
        }
        Some(taken)
    }

    /// Takes out the given entries, for logs whose stamps are not in order.
    fn take_listed(&self, doomed: &[Py<AuditEntry>]) -> Vec<Py<AuditEntry>> {
        let listed: std::collections::HashSet<_> = doomed.iter().map(Py::as_ptr).collect();
        let mut state = self.state.lock();
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut state.entries)
            .into_iter()
            .partition(|stored| listed.contains(&stored.entry.as_ptr()));
        state.entries = kept;
        gone.into_iter().map(|stored| stored.entry).collect()
    }

    fn detach(&self) -> VecDeque<Py<AuditEntry>> {
        let mut state = self.state.lock();
        state.detached = true;
        std::mem::take(&mut state.entries).into_iter().map(|stored| stored.entry).collect()
    }
}

impl LogState {
    fn push(&mut self, ts: Option<f64>, entry: Py<AuditEntry>) {
        let in_order = match (self.entries.back().map(|last| last.ts), ts) {
            (_, None) | (Some(None), _) => false,
            (Some(Some(last)), Some(ts)) => last <= ts,
            (None, Some(_)) => true,
        };
        self.unordered |= !in_order;
        self.entries.push_back(Stored { ts, entry });
    }
}

#[pyclass(frozen)]
struct LogHandle(Arc<TrailLog>);

/// Keeps entries in memory, a log per trail.
#[pyclass(frozen, subclass, module = "checkrein.auditgate.store")]
pub(crate) struct MemoryStore {
    logs: Py<PyDict>,
}

impl MemoryStore {
    /// Returns the trail's log, making it when there is none.
    pub(crate) fn log(&self, trail: &Bound<'_, PyAny>) -> PyResult<Arc<TrailLog>> {
        if let Some(log) = self.existing(trail)? {
            return Ok(log);
        }
        let py = trail.py();
        let fresh = Py::new(py, LogHandle(Arc::new(TrailLog::new())))?;
        // `setdefault` is atomic in Python, so two threads end up with the same log.
        let handle = self.logs.bind(py).call_method1("setdefault", (trail, fresh))?;
        Ok(handle.cast_into::<LogHandle>()?.get().0.clone())
    }

    fn existing(&self, trail: &Bound<'_, PyAny>) -> PyResult<Option<Arc<TrailLog>>> {
        match self.logs.bind(trail.py()).get_item(trail)? {
            Some(handle) => Ok(Some(handle.cast_into::<LogHandle>()?.get().0.clone())),
            None => Ok(None),
        }
    }

    fn all(&self, py: Python<'_>) -> PyResult<Vec<Arc<TrailLog>>> {
        let handles = self.logs.bind(py).values();
        handles.iter().map(|handle| Ok(handle.cast_into::<LogHandle>()?.get().0.clone())).collect()
    }

    /// Removes what is older than `before` from one log and returns how many entries went.
    pub(crate) fn prune_log(log: &TrailLog, before: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = before.py();
        if let Some(taken) = exact_stamp(before).and_then(|cutoff| log.take_older(cutoff)) {
            return Ok(taken.len());
        }
        let mut doomed = Vec::new();
        for entry in log.snapshot(py) {
            if entry.get().ts.bind(py).lt(before)? {
                doomed.push(entry);
            }
        }
        Ok(log.take_listed(&doomed).len())
    }
}

#[pymethods]
impl MemoryStore {
    #[new]
    #[pyo3(signature = (*args, **kwargs), text_signature = "()")]
    fn new(py: Python<'_>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // Subclasses may take arguments of their own; `__init__` refuses them here.
        let _ = (args, kwargs);
        Self { logs: PyDict::new(py).unbind() }
    }

    fn __init__(&self) {}

    /// Appends an entry to its trail's log.
    fn append(&self, entry: &Bound<'_, AuditEntry>) -> PyResult<()> {
        let py = entry.py();
        let trail = entry.get().trail.bind(py);
        let ts = exact_stamp(entry.get().ts.bind(py));
        while !self.log(trail)?.append_sealed(py, entry.as_unbound(), ts) {}
        Ok(())
    }

    /// Returns the entries a filter selects, ordered by stamp and sequence.
    fn query<'py>(&self, filter: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = filter.py();
        let filter = Filter::from_object(filter)?;
        let logs = match &filter.trail {
            Some(trail) => self.existing(trail)?.into_iter().collect(),
            None => self.all(py)?,
        };
        let entries = logs.iter().flat_map(|log| log.snapshot(py)).collect();
        filter.select(py, entries)
    }

    /// Returns the newest entry of a trail.
    fn last_entry(&self, trail: &Bound<'_, PyAny>) -> PyResult<Option<Py<AuditEntry>>> {
        Ok(self.existing(trail)?.and_then(|log| log.last(trail.py())))
    }

    /// Returns how many entries a trail has.
    fn count(&self, trail: &Bound<'_, PyAny>) -> PyResult<usize> {
        Ok(self.existing(trail)?.map_or(0, |log| log.len()))
    }

    /// Removes entries stamped before `before_ts` and returns how many there were.
    fn prune(&self, trail: &Bound<'_, PyAny>, before_ts: &Bound<'_, PyAny>) -> PyResult<usize> {
        self.existing(trail)?.map_or(Ok(0), |log| Self::prune_log(&log, before_ts))
    }

    /// Forgets one trail.
    fn clear(&self, trail: &Bound<'_, PyAny>) -> PyResult<()> {
        let removed = self.logs.bind(trail.py()).call_method1("pop", (trail, trail.py().None()))?;
        if let Ok(handle) = removed.cast::<LogHandle>() {
            drop(handle.get().0.detach());
        }
        Ok(())
    }

    /// Forgets every trail.
    fn clear_all(&self, py: Python<'_>) -> PyResult<()> {
        let logs = self.all(py)?;
        self.logs.bind(py).clear();
        for log in logs {
            drop(log.detach());
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.logs)
    }
}
