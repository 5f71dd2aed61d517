//! Where a guard finds the keys, costs and verdicts of a call: slots, paths, callables and expressions.

use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit, ffi};
use smallvec::SmallVec;

use crate::convert::{self, MAX_NODES, Unusable, a_type, type_name};
use crate::scope::BoundExpression;

/// The bound arguments of one call, by slot.
pub(crate) type Slots<'a, 'py> = [Borrowed<'a, 'py, PyAny>];

/// How the arguments of a call reach a callable that asks for some of them.
#[derive(Debug)]
pub(crate) struct Binding {
    callable: Py<PyAny>,
    positional: SmallVec<[usize; 4]>,
    keywords: Vec<(Py<PyString>, usize)>,
    /// Makes the one context-like argument from (slot names, slot values).
    context: Option<Py<PyAny>>,
}

/// A value computed from the arguments of a call.
#[derive(Debug)]
pub(crate) enum Source {
    /// The same for every call.
    Nothing,
    /// An argument.
    Slot(usize, String),
    /// Attributes or members of an argument.
    Path(usize, Vec<Py<PyString>>, String),
    /// What a callable returns.
    Call(Binding, String),
    /// What an expression evaluates to.
    Cel(BoundExpression, String),
    /// The run that the call belongs to, from whatever says who acts; empty outside of one.
    Run(Py<PyAny>),
    /// Several values that are one key.
    Parts(Vec<Source>),
}

/// The run of the current context: the fourth of what `actor` returns.
pub(crate) fn run_of<'py>(actor: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    Ok(actor.call0()?.cast_into::<PyTuple>()?.get_item(RUN)?.cast_into::<PyString>()?)
}

/// Where the run stands among principal, user, agent, run and session.
const RUN: usize = 3;

impl Binding {
    /// Reads `(callable, positional slots, ((keyword, slot), ...), context maker or None)`.
    fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        type Parts = (Py<PyAny>, Vec<usize>, Vec<(Py<PyString>, usize)>, Option<Py<PyAny>>);
        let (callable, positional, keywords, context): Parts = spec.extract()?;
        Ok(Self { callable, positional: positional.into(), keywords, context })
    }

    /// Calls on copies of the containers: what a callable does to its arguments reaches neither the gates after it
    /// nor what runs.
    pub(crate) fn call<'py>(&self, py: Python<'py>, slots: &Slots<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        if !slots.iter().any(|value| convert::is_container(value)) {
            return self.call_on(py, slots);
        }
        let reads = |index: usize| {
            self.context.is_some()
                || self.positional.contains(&index)
                || self.keywords.iter().any(|(_, slot)| *slot == index)
        };
        let mut budget = MAX_NODES;
        let mut copy = |value: &Bound<'py, PyAny>| match convert::snapshot(value, &mut budget, 0) {
            Ok(copy) => Ok(copy.unwrap_or_else(|| value.clone())),
            Err(Unusable::Raised(error)) => Err(error),
            Err(Unusable::Wrong(text) | Unusable::TooLarge(text)) => Err(PyValueError::new_err(text)),
        };
        let own = slots.iter().zip(0..).map(
            |(value, index)| {
                if reads(index) { copy(value) } else { Ok((*value).to_owned()) }
            },
        );
        let own = own.collect::<PyResult<SmallVec<[Bound<'py, PyAny>; 6]>>>()?;
        let borrowed: SmallVec<[Borrowed<'_, 'py, PyAny>; 6]> = own.iter().map(Bound::as_borrowed).collect();
        self.call_on(py, &borrowed)
    }

    #[inline]
    fn call_on<'py>(&self, py: Python<'py>, slots: &Slots<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let slot = |index: usize| {
            slots
                .get(index)
                .copied()
                .ok_or_else(|| PyValueError::new_err("the guard was called with too few slots"))
        };
        let callable = self.callable.bind(py);
        if let Some(context) = &self.context {
            let values = PyTuple::new(py, slots.iter().map(|value| value.to_owned()))?;
            return callable.call1((context.bind(py).call1((values,))?,));
        }
        if self.keywords.is_empty() {
            let mut values: SmallVec<[Borrowed<'_, 'py, PyAny>; 4]> = SmallVec::new();
            for &index in &self.positional {
                values.push(slot(index)?);
            }
            return call_positional(callable, &values);
        }
        let keywords = PyDict::new(py);
        for (name, index) in &self.keywords {
            keywords.set_item(name, slot(*index)?)?;
        }
        let values = self.positional.iter().map(|&index| slot(index)).collect::<PyResult<Vec<_>>>()?;
        callable.call(PyTuple::new(py, values)?, Some(&keywords))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callable)?;
        self.context.as_ref().map_or(Ok(()), |context| visit.call(context))
    }
}

/// Calls without building a tuple: the limited API has this for a fixed number of arguments only.
fn call_positional<'py>(
    callable: &Bound<'py, PyAny>,
    values: &[Borrowed<'_, 'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    let end = std::ptr::null_mut::<ffi::PyObject>();
    // SAFETY: callable and values are live borrowed references; the list of arguments ends with a null pointer; the
    // result is a new reference or null with an exception set.
    unsafe {
        let callable = callable.as_ptr();
        let result = match values {
            [] => ffi::PyObject_CallFunctionObjArgs(callable, end),
            [a] => ffi::PyObject_CallFunctionObjArgs(callable, a.as_ptr(), end),
            [a, b] => ffi::PyObject_CallFunctionObjArgs(callable, a.as_ptr(), b.as_ptr(), end),
            [a, b, c] => ffi::PyObject_CallFunctionObjArgs(callable, a.as_ptr(), b.as_ptr(), c.as_ptr(), end),
            [a, b, c, d] => {
                let (a, b, c, d) = (a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_ptr());
                ffi::PyObject_CallFunctionObjArgs(callable, a, b, c, d, end)
            }
            _ => {
                let callable = Bound::from_borrowed_ptr(py, callable);
                return callable.call1(PyTuple::new(py, values.iter().map(|value| value.to_owned()))?);
            }
        };
        Bound::from_owned_ptr_or_err(py, result)
    }
}

impl Source {
    /// Reads a source as `checkrein.compile` describes it.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        let spec = spec.cast::<PyTuple>()?;
        let word: String = spec.get_item(0)?.extract()?;
        let label = || -> PyResult<String> { spec.get_item(spec.len() - 1)?.extract() };
        match word.as_str() {
            "nothing" => Ok(Self::Nothing),
            "slot" => Ok(Self::Slot(spec.get_item(1)?.extract()?, label()?)),
            "path" => Ok(Self::Path(spec.get_item(1)?.extract()?, spec.get_item(2)?.extract()?, label()?)),
            "call" => Ok(Self::Call(Binding::read(&spec.get_item(1)?)?, label()?)),
            "cel" => {
                let pairs: Vec<(usize, usize)> = spec.get_item(2)?.extract()?;
                Ok(Self::Cel(BoundExpression::new(spec.get_item(1)?.extract()?, &pairs), label()?))
            }
            "run" => Ok(Self::Run(spec.get_item(1)?.unbind())),
            "parts" => {
                let parts = spec.get_item(1)?;
                parts.try_iter()?.map(|part| Self::read(&part?)).collect::<PyResult<_>>().map(Self::Parts)
            }
            _ => Err(PyValueError::new_err(format!("unknown source `{word}`"))),
        }
    }

    /// For a source that is an argument, its slot; for the one that is nothing, `Some(None)`.
    pub(crate) fn plain_slot(&self) -> Option<Option<usize>> {
        match self {
            Self::Nothing => Some(None),
            Self::Slot(index, _) => Some(Some(*index)),
            _ => None,
        }
    }

    /// What the source is called in messages.
    pub(crate) fn label(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Run(_) => "run",
            Self::Slot(_, label) | Self::Path(_, _, label) | Self::Call(_, label) | Self::Cel(_, label) => {
                label
            }
            Self::Parts(parts) => parts.first().map_or("", Self::label),
        }
    }

    /// The value for a call; `None` when the call does not have it.
    pub(crate) fn value<'py>(
        &self,
        py: Python<'py>,
        slots: &Slots<'_, 'py>,
    ) -> Result<Option<Bound<'py, PyAny>>, Unusable> {
        let present = |value: Bound<'py, PyAny>| if value.is_none() { None } else { Some(value) };
        match self {
            Self::Nothing | Self::Parts(_) => Ok(None),
            Self::Slot(index, _) => Ok(slots.get(*index).map(|value| (*value).to_owned()).and_then(present)),
            Self::Path(index, names, _) => {
                let Some(start) = slots.get(*index) else { return Ok(None) };
                let mut value = (*start).to_owned();
                for name in names {
                    match step(&value, name.bind(py))? {
                        Some(next) => value = next,
                        None => return Ok(None),
                    }
                }
                Ok(present(value))
            }
            Self::Cel(expression, _) => expression.value(py, slots),
            Self::Run(actor) => Ok(Some(run_of(actor.bind(py))?.into_any())),
            Self::Call(binding, label) => match binding.call(py, slots) {
                Ok(value) => reject_awaitable(value, label).map(present),
                Err(error) => Err(raised(py, error, label)),
            },
        }
    }

    /// The integer an expression gives; `None` for every other source.
    pub(crate) fn integer(&self, slots: &Slots<'_, '_>) -> Result<Option<i128>, Unusable> {
        match self {
            Self::Cel(expression, _) => expression.integer(slots),
            _ => Ok(None),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Call(binding, _) => binding.traverse(visit),
            Self::Run(actor) => visit.call(actor),
            Self::Parts(parts) => parts.iter().try_for_each(|part| part.traverse(visit)),
            Self::Nothing | Self::Slot(..) | Self::Path(..) | Self::Cel(..) => Ok(()),
        }
    }
}

/// One step of a path: a member of a dict, else an attribute.
fn step<'py>(
    value: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> Result<Option<Bound<'py, PyAny>>, Unusable> {
    if let Ok(dict) = value.cast::<PyDict>() {
        return Ok(dict.get_item(name)?);
    }
    match value.getattr(name) {
        Ok(next) => Ok(Some(next)),
        Err(error) if error.is_instance_of::<PyAttributeError>(value.py()) => Ok(None),
        Err(error) => Err(raised(value.py(), error, &name.to_string_lossy())),
    }
}

/// An exception of a user's callable as a refusal that names its type and never its text, which may quote arguments.
/// What is not an `Exception` (Ctrl-C, exit) is raised on.
pub(crate) fn raised(py: Python<'_>, error: PyErr, label: &str) -> Unusable {
    if !error.is_instance_of::<PyException>(py) {
        return Unusable::Raised(error);
    }
    Unusable::Wrong(format!("`{label}` raised {}", type_name(error.value(py).as_any())))
}

/// A coroutine is closed, so that Python does not warn that nobody awaited it, and refused.
fn reject_awaitable<'py>(value: Bound<'py, PyAny>, label: &str) -> Result<Bound<'py, PyAny>, Unusable> {
    // SAFETY: a plain read of the object's type.
    let plain = unsafe {
        ffi::PyUnicode_CheckExact(value.as_ptr()) != 0 || ffi::PyLong_CheckExact(value.as_ptr()) != 0
    };
    if plain || type_name(&value) != "coroutine" {
        return Ok(value);
    }
    value.call_method0("close")?;
    Err(Unusable::Wrong(format!("`{label}` returned a coroutine; it must be an ordinary function")))
}

/// A rule: asks a callable and takes exactly `True` and `False` for an answer.
#[derive(Debug)]
pub(crate) struct Rule {
    asked: Asked,
    /// What the rule says, in words.
    pub(crate) text: String,
    /// The name of its gate.
    pub(crate) gate: Arc<str>,
}

#[derive(Debug)]
enum Asked {
    Callable(Binding),
    Cel(BoundExpression),
}

/// What a rule answered.
pub(crate) enum Answer {
    /// Yes.
    Pass,
    /// No.
    Violated,
    /// It could not say; why not. Boxed, so that the usual answers stay small.
    Error(Box<str>),
}

impl Rule {
    /// Reads `(source, text, gate)`.
    pub(crate) fn read(spec: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (asked, text, gate): (Bound<'_, PyAny>, String, String) = spec.extract()?;
        let asked = match Source::read(&asked)? {
            Source::Call(binding, _) => Asked::Callable(binding),
            Source::Cel(expression, _) => Asked::Cel(expression),
            _ => return Err(PyValueError::new_err("a rule is a callable or an expression")),
        };
        Ok(Self { asked, text, gate: gate.into() })
    }

    /// Asks the rule about a call.
    #[inline]
    pub(crate) fn ask<'py>(&self, py: Python<'py>, slots: &Slots<'_, 'py>) -> PyResult<Answer> {
        let binding = match &self.asked {
            Asked::Callable(binding) => binding,
            Asked::Cel(expression) => {
                return Ok(match expression.test(slots) {
                    Ok(true) => Answer::Pass,
                    Ok(false) => Answer::Violated,
                    Err(text) => Answer::Error(format!("`{}`: {text}", self.text).into()),
                });
            }
        };
        let answer = match binding.call(py, slots) {
            Ok(answer) => answer,
            Err(error) => return self.failed(raised(py, error, &self.text)),
        };
        // SAFETY: `True` and `False` are immortal singletons; only their addresses are compared.
        let (yes, no) = unsafe { (ffi::Py_True(), ffi::Py_False()) };
        if answer.as_ptr() == yes {
            return Ok(Answer::Pass);
        }
        if answer.as_ptr() == no {
            return Ok(Answer::Violated);
        }
        match reject_awaitable(answer, &self.text) {
            Ok(answer) => {
                let text = format!("`{}` returned {}, not True or False", self.text, a_type(&answer));
                Ok(Answer::Error(text.into()))
            }
            Err(unusable) => self.failed(unusable),
        }
    }

    fn failed(&self, unusable: Unusable) -> PyResult<Answer> {
        match unusable {
            Unusable::Raised(error) => Err(error),
            Unusable::Wrong(text) | Unusable::TooLarge(text) => Ok(Answer::Error(text.into())),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.asked {
            Asked::Callable(binding) => binding.traverse(visit),
            Asked::Cel(_) => Ok(()),
        }
    }

    /// Whether asking runs Python code of the user.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.asked, Asked::Cel(_))
    }
}
