//! What was decided, kept in memory for those who ask: the latest decisions of a store, never more than its cap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::super::common::clock::{FOREIGN_DOMAIN, Now, span};
use super::super::common::identity::{Key, number_key};
use super::super::table::{Moment, Record, Slot, Table};
use super::decision::Decision;
use super::{Names, Rule};

/// How many decisions a store keeps unless it is told otherwise.
const MAX_RECORDS: usize = 100_000;

/// One decision and when it was taken.
struct Entry {
    number: u64,
    now: Now,
    decision: Kept,
}

/// A decision as the journal keeps it.
pub(super) enum Kept {
    /// An object that somebody has seen, or will.
    Object(Py<PyAny>),
    /// An allowance nobody looked at: it becomes an object when somebody asks for it.
    Allowed { rule: Py<PyAny>, ruleset: Py<PyAny>, evaluated: usize },
}

impl Kept {
    fn copy(&self, py: Python<'_>) -> Self {
        match self {
            Self::Object(object) => Self::Object(object.clone_ref(py)),
            Self::Allowed { rule, ruleset, evaluated } => Self::Allowed {
                rule: rule.clone_ref(py),
                ruleset: ruleset.clone_ref(py),
                evaluated: *evaluated,
            },
        }
    }

    fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Allowed { rule, ruleset, evaluated } => {
                let decision = Decision::decided(rule, ruleset, evaluated, Vec::new());
                Ok(Py::new(py, decision)?.into_any())
            }
        }
    }

    fn show(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Object(object) => visit.call(object),
            Self::Allowed { rule, ruleset, .. } => {
                visit.call(rule)?;
                visit.call(ruleset)
            }
        }
    }
}

/// The decisions on one rule, oldest first.
#[derive(Default)]
pub(super) struct Decided {
    entries: VecDeque<Entry>,
}

impl Decided {
    /// Puts `decision` in the place of what is kept under `number`.
    fn keep(&mut self, number: u64, decision: Kept) -> Option<Kept> {
        let position = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        let entry = self.entries.get_mut(position)?;
        Some(std::mem::replace(&mut entry.decision, decision))
    }
}

impl Record for Decided {
    fn is_idle(&self, _now: i64) -> bool {
        self.entries.is_empty()
    }
}

/// A rule's decisions and the number of one of them.
type Place = (Arc<Slot<Decided>>, u64);

/// The decisions of one store.
pub(super) struct Journal {
    pub(super) table: Table<Decided>,
    /// All decisions in the order they came, so that the oldest can go first.
    order: Mutex<VecDeque<Place>>,
    numbers: AtomicU64,
    max_records: usize,
}

impl Journal {
    fn new(max_records: usize) -> Self {
        Self { table: Table::default(), order: Mutex::default(), numbers: AtomicU64::new(0), max_records }
    }

    /// Keeps a decision; `false` when the slot is retired and has to be looked up again.
    pub(super) fn record(&self, slot: &Arc<Slot<Decided>>, domain: u64, now: Now, decision: Kept) -> bool {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { number, now, decision };
        if slot.with(domain, |decided| decided.entries.push_back(entry)).is_none() {
            return false;
        }
        let oldest = {
            let mut order = self.order.lock();
            order.push_back((Arc::clone(slot), number));
            if order.len() > self.max_records { order.pop_front() } else { None }
        };
        if let Some((slot, number)) = oldest {
            let gone = slot.with(0, |decided| {
                let is_it = decided.entries.front().is_some_and(|entry| entry.number == number);
                if is_it { decided.entries.pop_front() } else { None }
            });
            // Dropped here, without a lock: a decision may be the last to hold the user's objects.
            drop(gone);
        }
        true
    }

    fn clear_all(&self) {
        self.table.clear_all();
        let dropped = std::mem::take(&mut *self.order.lock());
        drop(dropped);
    }
}

/// Base of both memory stores: a handle on one journal.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct RuleStore {
    journal: Arc<Journal>,
    /// The handle that owns the journal, when this one only shares it.
    owner: Option<Py<Self>>,
    /// Numbers for identities that are not three plain texts, compared as Python compares them.
    numbers: Py<PyDict>,
}

impl RuleStore {
    #[inline]
    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The bytes under which this store keeps `rule`.
    pub(super) fn key(&self, rule: &Bound<'_, PyAny>) -> PyResult<Key> {
        let py = rule.py();
        if let Some(key) = rule.cast_exact::<Rule>().ok().and_then(|rule| rule.get().text_key(py)) {
            return Ok(key);
        }
        let numbers = self.numbers.bind(py);
        let number = match numbers.get_item(rule)? {
            Some(number) => number,
            None => numbers.call_method1("setdefault", (rule, numbers.len()))?,
        };
        Ok(number_key(number.extract()?))
    }
}

#[pymethods]
impl RuleStore {
    #[new]
    #[pyo3(signature = (*_args, max_records=MAX_RECORDS, _share=None, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        max_records: usize,
        _share: Option<&Bound<'_, Self>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> Self {
        match _share {
            Some(shared) => {
                let store = shared.get();
                let owner = store.owner.as_ref().map_or_else(|| shared.clone().unbind(), |o| o.clone_ref(py));
                let numbers = store.numbers.clone_ref(py);
                Self { journal: Arc::clone(&store.journal), owner: Some(owner), numbers }
            }
            None => {
                let journal = Arc::new(Journal::new(max_records));
                Self { journal, owner: None, numbers: PyDict::new(py).unbind() }
            }
        }
    }

    /// Keeps a decision. The oldest of the store makes room when it is full.
    fn record(
        &self,
        rule: &Bound<'_, PyAny>,
        now: &Bound<'_, PyAny>,
        decision: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let key = self.key(rule)?;
        let now = Now::from_object(now);
        let nanos = now.stamp.ok_or_else(|| PyValueError::new_err("now is not a usable time"))?;
        let moment = Moment { nanos, domain: FOREIGN_DOMAIN };
        loop {
            let slot = self.journal.table.slot(&key, moment);
            let (now, decision) = (now.copy(rule.py()), Kept::Object(decision.clone().unbind()));
            if self.journal.record(&slot, moment.domain, now, decision) {
                return Ok(());
            }
        }
    }

    /// The decisions on a rule within `window` seconds before `now`, oldest first; older ones are forgotten.
    fn get_records<'py>(
        &self,
        rule: &Bound<'py, PyAny>,
        now: &Bound<'py, PyAny>,
        window: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let py = rule.py();
        let oldest = match window {
            window if window.is_none() => i64::MIN,
            window => {
                let now = Now::from_object(now).stamp;
                let now = now.ok_or_else(|| PyValueError::new_err("now is not a usable time"))?;
                span(window)?.map_or(i64::MIN, |window| now.saturating_sub(window))
            }
        };
        let Some(slot) = self.journal.table.find(&self.key(rule)?) else { return Ok(PyList::empty(py)) };
        let (kept, forgotten) = slot
            .with(0, |decided| {
                let is_kept = |entry: &Entry| entry.now.stamp.is_none_or(|stamp| stamp >= oldest);
                let entries = std::mem::take(&mut decided.entries);
                let (kept, forgotten): (VecDeque<_>, VecDeque<_>) = entries.into_iter().partition(is_kept);
                let copies = kept.iter().map(|e| (e.number, e.now.copy(py), e.decision.copy(py))).collect();
                decided.entries = kept;
                (copies, forgotten)
            })
            .unwrap_or_else(|| (Vec::new(), VecDeque::new()));
        drop(forgotten);
        let record = Names::get(py)?.eval_record.bind(py);
        let list = PyList::empty(py);
        for (number, now, decision) in kept {
            let seen = matches!(decision, Kept::Object(_));
            let decision = decision.into_object(py)?;
            if !seen {
                // The next to ask gets the same object.
                let object = Kept::Object(decision.clone_ref(py));
                let old = slot.with(0, |decided| decided.keep(number, object)).flatten();
                drop(old);
            }
            list.append(record.call1((now.object(py), decision))?)?;
        }
        Ok(list)
    }

    /// Forgets the decisions on one rule.
    fn clear(&self, rule: &Bound<'_, PyAny>) -> PyResult<()> {
        self.journal.table.clear(&self.key(rule)?);
        Ok(())
    }

    /// Forgets every decision.
    fn clear_all(&self) {
        self.journal.clear_all();
    }

    fn __len__(&self) -> usize {
        self.journal.table.len()
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.numbers)?;
        if let Some(owner) = &self.owner {
            return visit.call(owner);
        }
        self.journal
            .table
            .try_visit(|decided| decided.entries.iter().try_for_each(|entry| entry.decision.show(&visit)))
    }

    fn __clear__(&self) {
        // Only the owner showed what is in the journal; it is unreachable only when all that share it are.
        if self.owner.is_none() {
            self.journal.clear_all();
        }
    }
}
