//! The user's clock: a function of the `time` that a module's globals name, looked up at each call.

use std::time::{SystemTime, UNIX_EPOCH};

use checkrein_core::time::Timestamp;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use super::super::common::clock::{Now, stamp_of};

/// `time.time` and `time.monotonic` as they were when the extension was loaded.
static MACHINE: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

/// Remembers the machine's own clocks, which need no call to be read.
pub(super) fn remember(py: Python<'_>) -> PyResult<()> {
    let time = py.import("time")?;
    let machine = (time.getattr("time")?.unbind(), time.getattr("monotonic")?.unbind());
    MACHINE.get_or_init(py, || machine);
    Ok(())
}

/// Where a clock is looked up, so that whoever patches `time.time` is heard.
pub(super) struct Clock {
    globals: Py<PyDict>,
    function: Py<PyString>,
}

impl Clock {
    /// The function of this name, of the `time` in these globals.
    pub(super) fn new(globals: Py<PyDict>, function: Bound<'_, PyString>) -> Self {
        Self { globals, function: function.unbind() }
    }

    /// Reads the clock. It is the user's code: no lock may be held.
    #[inline]
    pub(super) fn read(&self, py: Python<'_>) -> PyResult<Timestamp> {
        let module = self.globals.bind(py).get_item(pyo3::intern!(py, "time"))?;
        let module = module.ok_or_else(|| PyValueError::new_err("the module has no `time`"))?;
        let function = module.getattr(self.function.bind(py))?;
        if let Some(stamp) = machine(&function) {
            return Ok(Timestamp::from_nanos(stamp));
        }
        let reading = function.call0()?;
        let stamp = stamp_of(&reading).ok_or_else(|| {
            PyValueError::new_err(format!("the clock returned {reading}, which is no time"))
        })?;
        Ok(Timestamp::from_nanos(stamp))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.globals)
    }
}

/// What one of the machine's own clocks says, in nanoseconds; `None` for a function that somebody has put there.
fn machine(function: &Bound<'_, PyAny>) -> Option<i64> {
    let (wall, monotonic) = MACHINE.get(function.py())?;
    if function.is(wall) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        return i64::try_from(since.as_nanos()).ok();
    }
    if function.is(monotonic) { Now::of_machine().stamp } else { None }
}
