//! Time of the drop-in engines: the machine's monotonic clock read natively, or whatever callable the user gave.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyFloat, PyInt};

/// `time.monotonic` as it was when the extension was loaded, and the instant that belongs to its reading.
static ORIGIN: OnceLock<(Instant, i64)> = OnceLock::new();
static MONOTONIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static DOMAINS: AtomicU64 = AtomicU64::new(NATIVE_DOMAIN + 1);

/// Stamps beyond this many nanoseconds (about 126 years) are refused, so that window arithmetic never overflows.
const REACH: f64 = 4e18;
const NANOS: i64 = 1_000_000_000;

/// The domain of all engines on the machine's clock: their stamps may be compared.
pub(crate) const NATIVE_DOMAIN: u64 = 1;
/// The domain of stamps whose clock is unknown (a store called directly): never swept.
pub(crate) const FOREIGN_DOMAIN: u64 = u64::MAX;

/// Relates the machine's clock to `time.monotonic`, whose readings users pass to stores.
pub(crate) fn calibrate(py: Python<'_>) -> PyResult<()> {
    let time = py.import("time")?;
    let reading: i64 = time.getattr("monotonic_ns")?.call0()?.extract()?;
    // The instant is taken after the reading: our stamps are never ahead of what Python reads later.
    ORIGIN.get_or_init(|| (Instant::now(), reading));
    MONOTONIC.get_or_init(py, || match time.getattr("monotonic") {
        Ok(function) => function.unbind(),
        Err(_) => py.None(),
    });
    Ok(())
}

fn monotonic_nanos() -> i64 {
    let Some((origin, reading)) = ORIGIN.get() else { return 0 };
    let passed = origin.elapsed();
    let seconds = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX / NANOS);
    reading.saturating_add(seconds.saturating_mul(NANOS)).saturating_add(i64::from(passed.subsec_nanos()))
}

/// Where an engine's time comes from.
pub(crate) enum Clock {
    /// The machine's monotonic clock, as `time.monotonic` reads it.
    Monotonic,
    /// A callable of the user, called exactly once per decision and never under a lock.
    Given(Py<PyAny>),
}

impl Clock {
    /// The clock for an engine's `clock` argument, and the domain its stamps belong to.
    pub(crate) fn from_argument(py: Python<'_>, given: Option<Bound<'_, PyAny>>) -> PyResult<(Self, u64)> {
        let clock = match given {
            Some(clock) if clock.is_callable() => clock,
            Some(clock) if clock.is_truthy()? => clock,
            // As it is now: a test may have patched it.
            _ => py.import("time")?.getattr("monotonic")?,
        };
        let original = MONOTONIC.get(py).is_some_and(|original| clock.is(original));
        if original && clock.is_exact_instance_of::<PyCFunction>() {
            return Ok((Self::Monotonic, NATIVE_DOMAIN));
        }
        Ok((Self::Given(clock.unbind()), DOMAINS.fetch_add(1, Ordering::Relaxed)))
    }

    /// The callable, for those who read an engine's private attribute.
    pub(crate) fn callable(&self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Self::Monotonic => MONOTONIC.get(py).map_or_else(|| py.None(), |clock| clock.clone_ref(py)),
            Self::Given(clock) => clock.clone_ref(py),
        }
    }

    /// Reads the clock once, or takes a reading of the machine's clock that was made for the same call.
    #[inline]
    pub(crate) fn read_or_take(&self, py: Python<'_>, machine: &Now) -> PyResult<Now> {
        match self {
            Self::Monotonic => Ok(machine.copy(py)),
            Self::Given(_) => self.read(py),
        }
    }

    /// Whether `clock` is the machine's clock as Python reads it.
    pub(crate) fn is_machine(py: Python<'_>, clock: &Bound<'_, PyAny>) -> bool {
        MONOTONIC.get(py).is_some_and(|original| clock.is(original))
            && clock.is_exact_instance_of::<PyCFunction>()
    }

    /// Reads the clock once.
    #[inline]
    pub(crate) fn read(&self, py: Python<'_>) -> PyResult<Now> {
        match self {
            Self::Monotonic => Ok(Now::of_machine()),
            Self::Given(clock) => {
                let reading = clock.bind(py).call0()?;
                Ok(Now::from_object(&reading))
            }
        }
    }
}

/// One reading of a clock.
pub(crate) struct Now {
    /// Nanoseconds; `None` when the clock returned something that is no time.
    pub(crate) stamp: Option<i64>,
    /// The clock counts in Python integers, which ages and stamps shown to the user keep.
    pub(crate) whole: bool,
    given: Option<Py<PyAny>>,
}

impl Now {
    /// The machine's monotonic clock, now.
    pub(crate) fn of_machine() -> Self {
        Self { stamp: Some(monotonic_nanos()), whole: false, given: None }
    }

    /// A reading handed in as a Python number of seconds.
    pub(crate) fn from_object(reading: &Bound<'_, PyAny>) -> Self {
        let whole = reading.is_instance_of::<PyInt>();
        Self { stamp: stamp_of(reading), whole, given: Some(reading.clone().unbind()) }
    }

    /// The same reading again.
    pub(crate) fn copy(&self, py: Python<'_>) -> Self {
        let given = self.given.as_ref().map(|given| given.clone_ref(py));
        Self { stamp: self.stamp, whole: self.whole, given }
    }

    /// The reading as its user gave it, or seconds as a float.
    pub(crate) fn object(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.given {
            Some(given) => given.clone_ref(py),
            None => seconds(py, self.stamp.unwrap_or_default(), false),
        }
    }
}

/// The nanoseconds of a Python number of seconds; `None` for what is not a time within reach.
pub(crate) fn stamp_of(seconds: &Bound<'_, PyAny>) -> Option<i64> {
    if let Ok(float) = seconds.cast_exact::<PyFloat>() {
        return nanos(float.value());
    }
    if seconds.is_instance_of::<PyInt>() {
        let whole: i64 = seconds.extract().ok()?;
        return whole.checked_mul(NANOS).filter(|nanos| (*nanos as f64).abs() <= REACH);
    }
    nanos(seconds.extract().ok()?)
}

/// The nearest nanosecond. Whole and fractional seconds are converted apart, so that epoch times stay exact.
pub(crate) fn nanos(seconds: f64) -> Option<i64> {
    let whole = seconds.floor();
    let reach = REACH / NANOS as f64;
    // NaN is in no range.
    if !(-reach..=reach).contains(&whole) {
        return None;
    }
    // Both parts are within reach: the casts keep their values.
    Some(whole as i64 * NANOS + ((seconds - whole) * NANOS as f64).round() as i64)
}

/// Nanoseconds as a Python number of seconds: an int for clocks that count in ints.
pub(crate) fn seconds(py: Python<'_>, nanos: i64, whole: bool) -> Py<PyAny> {
    if whole && nanos % NANOS == 0 {
        return PyInt::new(py, nanos / NANOS).into_any().unbind();
    }
    PyFloat::new(py, as_seconds(nanos)).into_any().unbind()
}

/// Nanoseconds as seconds, for people: correctly rounded below 2^53 ns.
pub(crate) fn as_seconds(nanos: i64) -> f64 {
    nanos as f64 / NANOS as f64
}

/// Whether `value` is below zero, or at it; NaN is neither, and refused like what is below.
pub(crate) fn is_below(value: &Bound<'_, PyAny>, or_equal: bool) -> PyResult<bool> {
    let zero = PyInt::new(value.py(), 0);
    let below = if or_equal { value.le(&zero)? } else { value.lt(&zero)? };
    Ok(below || value.ne(value)?)
}

/// A length of time in nanoseconds; `None` when it is longer than any clock runs.
pub(crate) fn span(seconds: &Bound<'_, PyAny>) -> PyResult<Option<i64>> {
    if let Some(nanos) = stamp_of(seconds) {
        return Ok(Some(nanos));
    }
    // Beyond reach, or not a number at all: the conversion tells.
    seconds.extract::<f64>().map(nanos)
}
