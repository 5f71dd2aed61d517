//! The keys of one tool in one run.

use std::sync::atomic::{AtomicUsize, Ordering};

use checkrein_core::time::{Span, Timestamp};
use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::call::{Call, Found, are_plain};
use super::clock::Clock;
use super::gate::Refusal;

/// Fewer keys than this are never swept.
const SWEEP_FROM: usize = 1_024;
/// How often a key that another thread is freeing is looked at before the call is refused.
const MAX_LOOKS: usize = 1_000;

/// The calls of one tool in one run, by key.
#[pyclass(name = "ActGuardKeys", module = "checkrein._native", frozen)]
pub(crate) struct Keys {
    /// By keys that are plain text; nothing of the user's runs when one is looked up.
    texts: Py<PyDict>,
    /// By all other keys.
    others: Py<PyDict>,
    sweep_at: AtomicUsize,
    /// Held from the look at a text to its entry.
    taking: Mutex<()>,
}

#[pymethods]
impl Keys {
    fn __len__(&self, py: Python<'_>) -> usize {
        self.len(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.texts)?;
        visit.call(&self.others)
    }
}

impl Keys {
    fn len(&self, py: Python<'_>) -> usize {
        self.texts.bind(py).len() + self.others.bind(py).len()
    }

    fn new(py: Python<'_>) -> Self {
        let empty = || PyDict::new(py).unbind();
        Self {
            texts: empty(),
            others: empty(),
            sweep_at: AtomicUsize::new(SWEEP_FROM),
            taking: Mutex::new(()),
        }
    }

    fn of<'py>(&self, key: &Bound<'py, PyAny>) -> &Bound<'py, PyDict> {
        let calls = if key.is_exact_instance_of::<PyString>() { &self.texts } else { &self.others };
        calls.bind(key.py())
    }

    /// The call under a key, which is `call` if nobody was there before.
    fn take<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        call: &Bound<'py, Call>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if key.is_exact_instance_of::<PyString>() {
            let texts = self.texts.bind(key.py());
            let _alone = self.taking.lock();
            if let Some(found) = texts.get_item(key)? {
                return Ok(Some(found));
            }
            texts.set_item(key, call)?;
            return Ok(None);
        }
        // One step of the dictionary, whatever the key's own comparison does.
        let others = self.others.bind(key.py());
        let found = others.call_method1(pyo3::intern!(key.py(), "setdefault"), (key, call))?;
        Ok(if found.is(call) { None } else { Some(found) })
    }

    /// Drops what has expired once the keys have doubled, so that forgetting costs each new key the same.
    fn sweep(&self, py: Python<'_>, now: Timestamp) -> PyResult<()> {
        if self.len(py) < self.sweep_at.load(Ordering::Relaxed) {
            return Ok(());
        }
        for calls in [self.texts.bind(py), self.others.bind(py)] {
            for pair in calls.items() {
                let (key, call): (Bound<'_, PyAny>, Bound<'_, Call>) = pair.extract()?;
                if call.get().expire(now) {
                    calls.call_method1(pyo3::intern!(py, "pop"), (key, py.None()))?;
                }
            }
        }
        self.sweep_at.store((self.len(py) * 2).max(SWEEP_FROM), Ordering::Relaxed);
        Ok(())
    }
}

/// The idempotency of one tool.
pub(super) struct Once {
    pub(super) tool: Py<PyString>,
    pub(super) ttl: Span,
    /// Whether a second call gets the first one's result, or is refused.
    pub(super) replays: bool,
    pub(super) clock: Clock,
    /// `(stored arguments, arguments) -> bool`.
    pub(super) same: Py<PyAny>,
    /// `(arguments) -> arguments`: copies what can change.
    pub(super) snapshot: Py<PyAny>,
}

/// What an idempotency key says of a call.
pub(super) enum Begun {
    /// Nobody has used it.
    New,
    /// It was used, and this is the call.
    Done(Py<Call>),
    Refused(Refusal),
}

impl Once {
    /// The arguments of a call, to be compared with those of a second one.
    pub(super) fn taken<'py>(&self, arguments: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if are_plain(arguments) {
            return Ok(arguments.clone());
        }
        self.snapshot.bind(arguments.py()).call1((arguments,))
    }

    /// Puts `call` under its key in a run, unless the key is taken.
    pub(super) fn begin(
        &self,
        py: Python<'_>,
        run: &Bound<'_, PyAny>,
        key: &Bound<'_, PyAny>,
        call: &Bound<'_, Call>,
        now: Timestamp,
    ) -> PyResult<Begun> {
        let keys = self.keys(py, run)?;
        keys.get().sweep(py, now)?;
        for _ in 0..MAX_LOOKS {
            let Some(found) = keys.get().take(key, call)? else { return Ok(Begun::New) };
            let found = found.cast_into::<Call>()?;
            match found.get().look(py, now) {
                // Whoever made it so takes it away.
                Found::Gone => py.detach(std::thread::yield_now),
                Found::Expired => {
                    keys.get().of(key).set_item(key, call)?;
                    return Ok(Begun::New);
                }
                Found::Running => return Ok(Begun::Refused(Refusal::InProgress)),
                Found::Unknown(kind) => return Ok(Begun::Refused(Refusal::Unknown(kind))),
                Found::Done => return self.repeated(py, found, call),
            }
        }
        Ok(Begun::Refused(Refusal::InProgress))
    }

    fn repeated(&self, py: Python<'_>, found: Bound<'_, Call>, call: &Bound<'_, Call>) -> PyResult<Begun> {
        if !self.replays {
            return Ok(Begun::Refused(Refusal::Duplicate));
        }
        let arguments = (found.get().arguments(py), call.get().arguments(py));
        if !self.same.bind(py).call1(arguments)?.is_truthy()? {
            return Ok(Begun::Refused(Refusal::Reused));
        }
        Ok(Begun::Done(found.unbind()))
    }

    /// Frees a key whose call did not run, or may run again.
    pub(super) fn free(
        &self,
        py: Python<'_>,
        run: &Bound<'_, PyAny>,
        key: &Bound<'_, PyAny>,
        call: &Bound<'_, Call>,
    ) -> PyResult<()> {
        let keys = self.keys(py, run)?;
        let calls = keys.get().of(key);
        if calls.get_item(key)?.is_some_and(|found| found.is(call)) {
            calls.call_method1(pyo3::intern!(py, "pop"), (key, py.None()))?;
        }
        Ok(())
    }

    fn keys<'py>(&self, py: Python<'py>, run: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Keys>> {
        let tools = run.getattr(pyo3::intern!(py, "_idem_store"))?.cast_into::<PyDict>()?;
        if let Some(keys) = tools.get_item(self.tool.bind(py))? {
            return Ok(keys.cast_into::<Keys>()?);
        }
        let keys = tools.call_method1(
            pyo3::intern!(py, "setdefault"),
            (self.tool.bind(py), Bound::new(py, Keys::new(py))?),
        )?;
        Ok(keys.cast_into::<Keys>()?)
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.clock.traverse(visit)?;
        visit.call(&self.snapshot)?;
        visit.call(&self.same)
    }
}
