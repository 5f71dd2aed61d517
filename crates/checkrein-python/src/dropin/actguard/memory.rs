//! What the guards of a process share: the breakers, by the names of the dependencies they guard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use checkrein_core::gate::breaker::Breaker;
use checkrein_core::time::Timestamp;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Fewer breakers than this are never swept.
const SWEEP_FROM: usize = 1_024;

static MEMORIES: AtomicU64 = AtomicU64::new(1);

/// Base of `InMemoryCache`. Rates belong to their gates, which forget them when they meet another memory.
#[pyclass(name = "ActGuardMemory", module = "checkrein._native", subclass, frozen)]
pub(crate) struct Memory {
    number: u64,
    breakers: Mutex<Breakers>,
}

/// The breakers by name.
#[derive(Default)]
pub(super) struct Breakers {
    by_name: HashMap<Box<str>, Breaker, RandomState>,
    sweep_at: usize,
}

impl Breakers {
    /// The breaker of a dependency, made if there is none.
    pub(super) fn of(&mut self, name: &str) -> Option<&mut Breaker> {
        if !self.by_name.contains_key(name) {
            if self.by_name.len() >= self.sweep_at.max(SWEEP_FROM) {
                self.by_name.retain(|_, breaker| breaker.expires() == Timestamp::MAX);
                self.sweep_at = self.by_name.len() * 2;
            }
            self.by_name.insert(name.into(), Breaker::default());
        }
        self.by_name.get_mut(name)
    }
}

impl Memory {
    /// Tells this memory from every other of the process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock()
    }
}

#[pymethods]
impl Memory {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let number = MEMORIES.fetch_add(1, Ordering::Relaxed);
        Self { number, breakers: Mutex::default() }
    }

    /// Where a dependency's circuit stands: `closed`, `open` or `half_open`.
    fn circuit(&self, name: &str) -> &'static str {
        self.breakers.lock().by_name.get(name).map_or("closed", |breaker| breaker.phase().name())
    }
}
