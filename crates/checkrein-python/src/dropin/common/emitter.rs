//! The listeners of an engine: called in order on the deciding thread, their exceptions counted and swallowed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// Base of each module's `Emitter`.
#[pyclass(module = "checkrein._native", subclass, frozen)]
pub(crate) struct ListenerList {
    listeners: Mutex<Listeners>,
    /// Read without the lock by engines that would rather not build an event nobody wants.
    length: AtomicUsize,
    errors: AtomicU64,
}

#[derive(Default)]
struct Listeners {
    /// A removed listener leaves a hole while an emit walks the list.
    places: Vec<Option<Py<PyAny>>>,
    walking: usize,
}

impl ListenerList {
    /// Whether anyone listens.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    /// Calls every listener; no lock is held meanwhile, and one added on the way still hears this event.
    pub(crate) fn tell(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.is_empty() {
            return Ok(());
        }
        let py = event.py();
        self.listeners.lock().walking += 1;
        let mut outcome = Ok(());
        let mut position = 0;
        loop {
            let listener = match self.listeners.lock().places.get(position) {
                None => break,
                Some(place) => place.as_ref().map(|listener| listener.clone_ref(py)),
            };
            position += 1;
            match listener.map(|listener| listener.call1(py, (event,))) {
                Some(Err(error)) if error.is_instance_of::<PyException>(py) => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    outcome = Err(error);
                    break;
                }
                Some(Ok(_)) | None => {}
            }
        }
        let mut listeners = self.listeners.lock();
        listeners.walking -= 1;
        if listeners.walking == 0 {
            listeners.places.retain(Option::is_some);
        }
        outcome
    }
}

#[pymethods]
impl ListenerList {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, pyo3::types::PyTuple>,
        _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> Self {
        Self { listeners: Mutex::default(), length: AtomicUsize::new(0), errors: AtomicU64::new(0) }
    }

    /// Adds a listener: any callable of one event.
    fn add(&self, listener: Py<PyAny>) {
        let mut listeners = self.listeners.lock();
        listeners.places.push(Some(listener));
        self.length.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the first listener equal to this one.
    fn remove(&self, listener: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = listener.py();
        // Equality is the user's code: it runs on a copy, without the lock.
        let copy: Vec<Option<Py<PyAny>>> =
            self.listeners.lock().places.iter().map(|p| p.as_ref().map(|l| l.clone_ref(py))).collect();
        for candidate in copy.into_iter().flatten() {
            if !candidate.bind(py).eq(listener)? {
                continue;
            }
            let mut listeners = self.listeners.lock();
            let place = listeners.places.iter_mut().find(|p| p.as_ref().is_some_and(|l| l.is(&candidate)));
            let Some(removed) = place.and_then(Option::take) else { break };
            self.length.fetch_sub(1, Ordering::Relaxed);
            if listeners.walking == 0 {
                listeners.places.retain(Option::is_some);
            }
            drop(listeners);
            drop(removed);
            return Ok(());
        }
        Err(PyValueError::new_err("listener not found"))
    }

    /// Calls every listener with the event.
    fn emit(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.tell(event)
    }

    /// How many times a listener raised.
    #[getter]
    fn error_count(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(listeners) = self.listeners.try_lock() {
            for listener in listeners.places.iter().flatten() {
                visit.call(listener)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let dropped = std::mem::take(&mut *self.listeners.lock());
        self.length.store(0, Ordering::Relaxed);
        drop(dropped);
    }
}

/// Where an engine's decisions are announced.
pub(crate) struct Announcer {
    emitter: Py<PyAny>,
    /// The emitter when nobody overrode its `emit`: told without a Python call, skipped when nobody listens.
    native: Option<Py<ListenerList>>,
}

impl Announcer {
    /// Announces through any object with an `emit` method.
    pub(crate) fn new(emitter: Bound<'_, PyAny>) -> PyResult<Self> {
        let py = emitter.py();
        let own = py.get_type::<ListenerList>().getattr("emit")?;
        let native = match emitter.cast::<ListenerList>() {
            Ok(list) if emitter.get_type().getattr("emit")?.is(&own) => Some(list.clone().unbind()),
            _ => None,
        };
        Ok(Self { emitter: emitter.unbind(), native })
    }

    /// The object given.
    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.emitter
    }

    /// Shows both references to a garbage collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.emitter)?;
        visit.call(&self.native)
    }

    /// Whether an event has to be built at all.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        self.native.as_ref().is_some_and(|list| list.get().is_empty())
    }

    /// Announces one event.
    #[inline]
    pub(crate) fn tell(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        match &self.native {
            Some(list) => list.get().tell(event),
            None => self.emitter.bind(event.py()).call_method1("emit", (event,)).map(drop),
        }
    }
}
