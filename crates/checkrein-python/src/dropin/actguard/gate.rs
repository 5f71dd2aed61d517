//! The gates of one function, decided together: its idempotency key, its attempts, its rate, its breaker.

use checkrein_core::gate::breaker::{Health, Phase, Thresholds, Ticket};
use checkrein_core::time::{Span, Timestamp};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::super::common::clock::{seconds, span};
use super::call::{Call, Stored, is_plain};
use super::clock::Clock;
use super::memory::Memory;
use super::once::{Begun, Once};
use super::windows::{Limit, Windows};

/// Counts of attempts are read and written in one step.
static ATTEMPTS: Mutex<()> = Mutex::new(());

/// Why a call is refused.
pub(super) enum Refusal {
    MissingKey,
    InProgress,
    Duplicate,
    Reused,
    Unknown(Py<PyAny>),
    Attempts(u64),
    Rate(Span),
    Circuit(Timestamp),
}

struct Attempts {
    tool: Py<PyString>,
    limit: u64,
}

struct Rate {
    limit: Limit,
    clock: Clock,
    /// The windows, and the number of the memory they belong to.
    windows: Mutex<(u64, Windows)>,
}

/// The circuit of one dependency, as one function uses it.
pub(super) struct Circuit {
    name: String,
    thresholds: Thresholds,
    clock: Clock,
}

impl Circuit {
    /// Counts the outcome of an admitted call.
    pub(super) fn report(
        &self,
        py: Python<'_>,
        memory: &Memory,
        ticket: Ticket,
        outcome: Outcome,
    ) -> PyResult<()> {
        if let Outcome::Known(Health::Success) | Outcome::Unknown = outcome {
            let mut breakers = memory.breakers();
            if let Some(breaker) = breakers.of(&self.name)
                && matches!(breaker.phase(), Phase::Closed { .. })
            {
                // A closed circuit does not ask for the time of a success.
                breaker.report(ticket, Health::Success, Timestamp::MIN, self.thresholds);
                return Ok(());
            }
        }
        // An unknown exception ends a row of failures, but a probe that ends in one has found nothing out.
        let health = if let Outcome::Known(health) = outcome { health } else { Health::Neutral };
        let now = self.clock.read(py)?;
        let mut breakers = memory.breakers();
        if let Some(breaker) = breakers.of(&self.name) {
            breaker.report(ticket, health, now, self.thresholds);
        }
        Ok(())
    }
}

/// What the end of a call says of its dependency.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Known(Health),
    Unknown,
}

/// What a compiled wrapper calls before a guarded function.
#[pyclass(name = "ActGuardGate", module = "checkrein._native", frozen)]
pub(crate) struct Gate {
    /// The globals of the module that holds the memory.
    cache: Py<PyDict>,
    /// `(word, detail, run, key, scope) -> exception`: makes the exception of a refusal and announces it.
    refuse: Py<PyAny>,
    /// `(exception) -> int`: see [`super::call::outcome`].
    pub(super) judge: Py<PyAny>,
    /// `(result) -> int`: the same for a returned object that has a status.
    judge_result: Py<PyAny>,
    /// `(result) -> object`: what to keep of a result under its key.
    pub(super) keep: Py<PyAny>,
    /// `(kept, key) -> result`: what a second call gets.
    replay: Py<PyAny>,
    pub(super) once: Option<Once>,
    attempts: Option<Attempts>,
    rate: Option<Rate>,
    pub(super) breaker: Option<Circuit>,
}

type OnceParts<'py> = (Py<PyString>, Bound<'py, PyAny>, bool, Py<PyDict>, Py<PyAny>, Py<PyAny>);
type RateParts<'py> = (u64, Bound<'py, PyAny>, Py<PyDict>);
type BreakerParts<'py> = (String, u32, Bound<'py, PyAny>, Py<PyDict>);

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (cache, refuse, judge, judge_result, keep, replay, *, once=None, attempts=None, rate=None, breaker=None))]
    #[expect(clippy::too_many_arguments, reason = "six hooks and four gates, named by the only caller")]
    fn new(
        py: Python<'_>,
        cache: Py<PyDict>,
        refuse: Py<PyAny>,
        judge: Py<PyAny>,
        judge_result: Py<PyAny>,
        keep: Py<PyAny>,
        replay: Py<PyAny>,
        once: Option<OnceParts<'_>>,
        attempts: Option<(Py<PyString>, u64)>,
        rate: Option<RateParts<'_>>,
        breaker: Option<BreakerParts<'_>>,
    ) -> PyResult<Self> {
        let time = pyo3::intern!(py, "time");
        let once = once
            .map(|(tool, ttl, replays, globals, same, snapshot)| -> PyResult<Once> {
                let clock = Clock::new(globals, pyo3::intern!(py, "monotonic").clone());
                Ok(Once { tool, ttl: length(&ttl)?, replays, clock, same, snapshot })
            })
            .transpose()?;
        let rate = rate
            .map(|(max_calls, period, globals)| -> PyResult<Rate> {
                let limit = Limit { max_calls, period: length(&period)? };
                Ok(Rate { limit, clock: Clock::new(globals, time.clone()), windows: Mutex::default() })
            })
            .transpose()?;
        let breaker = breaker
            .map(|(name, max_fails, reset, globals)| -> PyResult<Circuit> {
                let reset = length(&reset)?;
                // One probe, and a lost one blocks as long as a failed one.
                let thresholds = Thresholds::new(max_fails, reset, 1, reset);
                Ok(Circuit { name, thresholds, clock: Clock::new(globals, time.clone()) })
            })
            .transpose()?;
        let attempts = attempts.map(|(tool, limit)| Attempts { tool, limit });
        Ok(Self { cache, refuse, judge, judge_result, keep, replay, once, attempts, rate, breaker })
    }

    /// Decides on a call: `None` when it may run and nothing hears of its end, an `ActGuardCall` when something does,
    /// an `ActGuardStored` when its key was used before. Raises what refuses it, and has consumed nothing then.
    #[pyo3(signature = (run, key, arguments, scope, /))]
    fn admit<'py>(
        slf: &Bound<'py, Self>,
        run: &Bound<'py, PyAny>,
        key: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyAny>,
        scope: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, gate) = (slf.py(), slf.get());
        let key = &text_of(key)?;
        // Clocks and texts are the user's code: they are asked before anything is taken.
        let moments = gate.moments(py)?;
        let scope = if gate.rate.is_some() && !scope.is_none() { Some(scope.str()?) } else { None };
        let asked = Asked { run, key, scope: scope.as_ref() };
        let call = match (&gate.once, moments.once) {
            (Some(once), Some(now)) => {
                if !key.is_truthy()? {
                    return Err(gate.refused(py, Refusal::MissingKey, &asked));
                }
                let place = Some((run.clone().unbind(), key.clone().unbind()));
                let call = Call::new(
                    slf.clone().unbind(),
                    place,
                    once.taken(arguments)?.unbind(),
                    now.after(once.ttl),
                );
                let call = Bound::new(py, call)?;
                match once.begin(py, run, key, &call, now)? {
                    Begun::New => Some(call),
                    Begun::Refused(refusal) => return Err(gate.refused(py, refusal, &asked)),
                    Begun::Done(earlier) => {
                        let kept = earlier.get().result(py).unwrap_or_else(|| py.None());
                        let result = gate.replay.bind(py).call1((kept, key))?.unbind();
                        return Ok(Bound::new(py, Stored { result })?.into_any());
                    }
                }
            }
            _ => None,
        };
        let passed = match gate.pass(py, run, scope.as_ref(), &moments) {
            Ok(Ok(passed)) => passed,
            refused => {
                // The tool never ran: its key is as it was.
                call.as_ref().map_or(Ok(()), Call::abandon)?;
                return Err(refused.map_or_else(
                    |error| error,
                    |refused| match refused {
                        Err(refusal) => gate.refused(py, refusal, &asked),
                        Ok(_) => PyTypeError::new_err("unreachable"),
                    },
                ));
            }
        };
        let Some((memory, ticket)) = passed else {
            return Ok(call.map_or_else(|| py.None().into_bound(py), Bound::into_any));
        };
        let call = match call {
            Some(call) => call,
            None => {
                let call = Call::new(slf.clone().unbind(), None, py.None(), Timestamp::MAX);
                Bound::new(py, call)?
            }
        };
        call.get().hold(memory, ticket);
        Ok(call.into_any())
    }

    /// How many scope values the rate limit remembers.
    #[getter]
    fn windows(&self) -> usize {
        self.rate.as_ref().map_or(0, |rate| rate.windows.lock().1.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for hook in [&self.refuse, &self.judge, &self.judge_result, &self.keep, &self.replay] {
            visit.call(hook)?;
        }
        visit.call(&self.cache)?;
        self.once.as_ref().map_or(Ok(()), |once| once.traverse(&visit))?;
        self.rate.as_ref().map_or(Ok(()), |rate| rate.clock.traverse(&visit))?;
        self.breaker.as_ref().map_or(Ok(()), |breaker| breaker.clock.traverse(&visit))
    }
}

/// The readings of the clocks that a decision needs.
struct Moments {
    once: Option<Timestamp>,
    rate: Timestamp,
    breaker: Timestamp,
}

type Passed = Option<(Py<Memory>, Ticket)>;

impl Gate {
    fn moments(&self, py: Python<'_>) -> PyResult<Moments> {
        let read = |clock: Option<&Clock>| clock.map(|clock| clock.read(py)).transpose();
        let rate = read(self.rate.as_ref().map(|rate| &rate.clock))?;
        let breaker = read(self.breaker.as_ref().map(|breaker| &breaker.clock))?;
        Ok(Moments {
            once: read(self.once.as_ref().map(|once| &once.clock))?,
            rate: rate.unwrap_or_default(),
            breaker: breaker.unwrap_or_default(),
        })
    }

    /// Asks attempts, rate and breaker, in this order, and takes from all of them or from none. Only a refusal for the
    /// attempts counts as an attempt: that many were asked for.
    fn pass(
        &self,
        py: Python<'_>,
        run: &Bound<'_, PyAny>,
        scope: Option<&Bound<'_, PyString>>,
        moments: &Moments,
    ) -> PyResult<Result<Passed, Refusal>> {
        let memory =
            if self.rate.is_some() || self.breaker.is_some() { Some(self.memory(py)?) } else { None };
        let counts = match &self.attempts {
            Some(attempts) => {
                let counts = run.getattr(pyo3::intern!(py, "_tool_attempts"))?.cast_into::<PyDict>()?;
                Some((attempts, counts))
            }
            None => None,
        };
        // No Python code runs from here on.
        let _one_at_a_time = counts.as_ref().map(|_| ATTEMPTS.lock());
        let mut used = 0;
        if let Some((attempts, counts)) = &counts {
            let found = counts.get_item(attempts.tool.bind(py))?;
            used = found.map_or(Ok(0), |found| found.extract::<u64>())? + 1;
            if used > attempts.limit {
                counts.set_item(attempts.tool.bind(py), used)?;
                return Ok(Err(Refusal::Attempts(used)));
            }
        }
        let passed = match self.rate_and_circuit(memory.as_ref(), scope, moments) {
            Ok(ticket) => ticket,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some((attempts, counts)) = &counts {
            counts.set_item(attempts.tool.bind(py), used)?;
        }
        Ok(Ok(passed.zip(memory).map(|(ticket, memory)| (memory.unbind(), ticket))))
    }

    fn rate_and_circuit(
        &self,
        memory: Option<&Bound<'_, Memory>>,
        scope: Option<&Bound<'_, PyString>>,
        moments: &Moments,
    ) -> Result<Option<Ticket>, Refusal> {
        let Some(memory) = memory.map(Bound::get) else { return Ok(None) };
        let scope = scope.map(|scope| scope.to_string_lossy()).unwrap_or_default();
        let mut windows = self.rate.as_ref().map(|rate| (rate, rate.windows.lock()));
        let mut meter = None;
        if let Some((rate, windows)) = &mut windows {
            if windows.0 != memory.number() {
                **windows = (memory.number(), Windows::default());
            }
            let found = windows.1.meter(&scope, moments.rate, &rate.limit);
            let found = found.ok_or(Refusal::Rate(rate.limit.period))?;
            if let Some(wait) = rate.limit.refusal(found, moments.rate) {
                return Err(Refusal::Rate(wait));
            }
            meter = Some((rate, found));
        }
        let mut breakers = self.breaker.as_ref().map(|circuit| (circuit, memory.breakers()));
        let mut breaker = None;
        if let Some((circuit, breakers)) = &mut breakers
            && let Some(found) = breakers.of(&circuit.name)
        {
            found.advance(moments.breaker, circuit.thresholds);
            if found.refusal(moments.breaker, circuit.thresholds).is_some() {
                return Err(Refusal::Circuit(reset_at(found.phase(), moments.breaker)));
            }
            breaker = Some((circuit, found));
        }
        if let Some((rate, meter)) = meter
            && !rate.limit.record(meter, moments.rate)
        {
            return Err(Refusal::Rate(rate.limit.period));
        }
        Ok(breaker.map(|(circuit, found)| found.admit(moments.breaker, circuit.thresholds)))
    }

    /// The memory in force: what the module names, or what it makes.
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Memory>> {
        let globals = self.cache.bind(py);
        let named = globals.get_item(pyo3::intern!(py, "_cache_instance"))?.filter(|named| !named.is_none());
        let memory = match named {
            Some(memory) => memory,
            None => globals.as_any().get_item(pyo3::intern!(py, "get_cache"))?.call0()?,
        };
        Ok(memory.cast_into::<Memory>()?)
    }

    /// What a returned object says of the dependency.
    pub(super) fn read_result(&self, result: &Bound<'_, PyAny>) -> PyResult<u8> {
        let py = result.py();
        if is_plain(result) || result.getattr_opt(pyo3::intern!(py, "status_code"))?.is_none() {
            return Ok(0);
        }
        self.judge_result.bind(py).call1((result,))?.extract()
    }

    fn refused(&self, py: Python<'_>, refusal: Refusal, asked: &Asked<'_, '_>) -> PyErr {
        let none = || py.None();
        let made = || -> PyResult<Bound<'_, PyAny>> {
            let (word, detail) = match refusal {
                Refusal::MissingKey => ("missing_key", none()),
                Refusal::InProgress => ("in_progress", none()),
                Refusal::Duplicate => ("duplicate", none()),
                Refusal::Reused => ("reused", none()),
                Refusal::Unknown(kind) => ("unknown", kind),
                Refusal::Attempts(used) => ("attempts", used.into_pyobject(py)?.into_any().unbind()),
                Refusal::Rate(wait) => ("rate", seconds(py, wait.nanos(), false)),
                Refusal::Circuit(at) => ("circuit", seconds(py, at.nanos(), false)),
            };
            self.refuse.bind(py).call1((word, detail, asked.run, asked.key, asked.scope))
        };
        made().map_or_else(|error| error, PyErr::from_value)
    }
}

/// What a refusal is about.
struct Asked<'a, 'py> {
    run: &'a Bound<'py, PyAny>,
    key: &'a Bound<'py, PyAny>,
    scope: Option<&'a Bound<'py, PyString>>,
}

/// When the next call may pass.
fn reset_at(phase: &Phase, now: Timestamp) -> Timestamp {
    match phase {
        Phase::Closed { .. } => now,
        Phase::Open { until } => *until,
        // At the latest then: a probe is under way, and its lease ends.
        Phase::HalfOpen { probes, .. } => probes.iter().map(|&(_, lease)| lease).min().unwrap_or(now),
    }
}

/// The key itself, but a text of a subclass as plain text: it is the same key.
fn text_of<'py>(key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match key.cast::<PyString>() {
        Ok(text) if !key.is_exact_instance_of::<PyString>() => {
            Ok(PyString::new(key.py(), text.to_str()?).into_any())
        }
        _ => Ok(key.clone()),
    }
}

/// A length of time in seconds; one beyond any clock is the longest there is.
fn length(seconds: &Bound<'_, PyAny>) -> PyResult<Span> {
    Ok(span(seconds)?.map_or(Span::MAX, Span::from_nanos))
}
