//! CEL over the bound Python arguments: slots are read where they lie, nothing is converted.

use std::ptr::NonNull;

use checkrein::expression::{Expression as CoreExpression, Operand, Outcome, Scope};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTypeInfo, ffi};

use crate::convert::{Unusable, with_article};
use crate::error;
use crate::source::Slots;

/// A compiled CEL expression over named variables.
#[pyclass(name = "Expression", module = "checkrein._native", frozen)]
#[derive(Debug)]
pub(crate) struct Expression(CoreExpression);

#[pymethods]
impl Expression {
    /// Compiles `text`; `what` names its place in messages.
    #[new]
    fn new(py: Python<'_>, text: &str, variables: Vec<String>, what: &str) -> PyResult<Self> {
        let names: Vec<&str> = variables.iter().map(String::as_str).collect();
        CoreExpression::compile(text, &names).map(Self).map_err(|problem| {
            let place = text.get(problem.span.clone()).unwrap_or(text);
            let place: String = place.chars().take(60).flat_map(char::escape_debug).collect();
            let message = format!("{what}: {} at byte {} (`{place}`)", problem.message, problem.span.start);
            error::config(
                py,
                &message,
                problem.code,
                problem.hint.as_deref().unwrap_or("it is CEL over the arguments"),
            )
        })
    }

    /// The positions of the variables it reads.
    #[getter]
    fn reads(&self) -> Vec<usize> {
        self.0.reads().collect()
    }

    /// The text it was compiled from.
    #[getter]
    fn text(&self) -> &str {
        self.0.text()
    }
}

/// An expression bound to the slots of a guard.
#[derive(Debug)]
pub(crate) struct BoundExpression {
    expression: Py<Expression>,
    /// The slot of each variable; beyond the slots where the expression does not read it.
    slots: Vec<usize>,
}

impl BoundExpression {
    /// Binds variables, as pairs of variable and slot.
    pub(crate) fn new(expression: Py<Expression>, pairs: &[(usize, usize)]) -> Self {
        let count = pairs.iter().map(|(variable, _)| variable.saturating_add(1)).max().unwrap_or(0);
        let mut slots = vec![usize::MAX; count];
        for (variable, slot) in pairs {
            if let Some(place) = slots.get_mut(*variable) {
                *place = *slot;
            }
        }
        Self { expression, slots }
    }

    /// Evaluates a condition; `Err` is why it has no answer.
    #[inline]
    pub(crate) fn test(&self, slots: &Slots<'_, '_>) -> Result<bool, String> {
        let scope = Arguments { slots, places: &self.slots };
        self.expression.get().0.test(&scope).map_err(|problem| problem.message)
    }

    /// Evaluates to a Python value; `None` for null.
    pub(crate) fn value<'py>(
        &self,
        py: Python<'py>,
        slots: &Slots<'_, 'py>,
    ) -> Result<Option<Bound<'py, PyAny>>, Unusable> {
        match self.outcome(slots)? {
            Outcome::Text(text) => Ok(Some(PyString::new(py, &text).into_any())),
            Outcome::Int(number) => Ok(Some(number.into_pyobject(py).map_err(PyErr::from)?.into_any())),
            Outcome::Uint(number) => Ok(Some(number.into_pyobject(py).map_err(PyErr::from)?.into_any())),
            Outcome::Null => Ok(None),
            other => {
                Err(Unusable::Wrong(format!("the expression gives {}", with_article(other.type_name()))))
            }
        }
    }

    /// The integer it evaluates to, if it does.
    pub(crate) fn integer(&self, slots: &Slots<'_, '_>) -> Result<Option<i128>, Unusable> {
        Ok(match self.outcome(slots)? {
            Outcome::Int(number) => Some(i128::from(number)),
            Outcome::Uint(number) => Some(i128::from(number)),
            _ => None,
        })
    }

    fn outcome(&self, slots: &Slots<'_, '_>) -> Result<Outcome, Unusable> {
        let scope = Arguments { slots, places: &self.slots };
        self.expression.get().0.evaluate(&scope).map_err(|problem| Unusable::Wrong(problem.message))
    }
}

/// The slots of one call as an expression sees them.
struct Arguments<'s, 'a, 'py> {
    slots: &'s Slots<'a, 'py>,
    places: &'s [usize],
}

/// A list, tuple or dict among the arguments.
#[derive(Clone, Copy)]
struct Handle(NonNull<ffi::PyObject>);

/// Reads an object for an expression.
///
/// # Safety
/// The object lives, and nobody changes it, for as long as `'a`: it is an argument of the call, or a member of the
/// private copy of one.
#[inline]
unsafe fn operand<'a>(object: *mut ffi::PyObject) -> Operand<'a, Handle> {
    let Some(handle) = NonNull::new(object) else { return Operand::Missing };
    // SAFETY: the object is live, and the interpreter is attached while an expression is evaluated.
    unsafe {
        if ffi::PyUnicode_Check(object) != 0 {
            return text(object).map_or(Operand::Unreadable, Operand::Text);
        }
        if ffi::PyLong_Check(object) != 0 {
            if ffi::PyBool_Check(object) != 0 {
                return Operand::Bool(object == ffi::Py_True());
            }
            let mut overflow = 0;
            let number = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            return match overflow {
                0 => Operand::Int(number),
                1 => {
                    let number = ffi::PyLong_AsUnsignedLongLong(object);
                    if ffi::PyErr_Occurred().is_null() {
                        Operand::Uint(number)
                    } else {
                        ffi::PyErr_Clear();
                        Operand::Unreadable
                    }
                }
                _ => Operand::Unreadable,
            };
        }
        let kind = ffi::Py_TYPE(object);
        if ffi::PyFloat_Check(object) != 0 {
            Operand::Double(ffi::PyFloat_AsDouble(object))
        } else if object == ffi::Py_None() {
            Operand::Null
        } else if kind == &raw mut ffi::PyDict_Type {
            Operand::Map(Handle(handle))
        } else if kind == &raw mut ffi::PyList_Type || kind == &raw mut ffi::PyTuple_Type {
            Operand::List(Handle(handle))
        } else if ffi::PyBytes_Check(object) != 0 {
            let length = usize::try_from(ffi::PyBytes_Size(object)).unwrap_or(0);
            Operand::Bytes(std::slice::from_raw_parts(ffi::PyBytes_AsString(object).cast(), length))
        } else {
            Operand::Unreadable
        }
    }
}

/// The UTF-8 of a text, which the object caches; `None` for half of a surrogate pair.
///
/// # Safety
/// As for [`operand`].
unsafe fn text<'a>(object: *mut ffi::PyObject) -> Option<&'a str> {
    let mut length = 0;
    // SAFETY: the object is a live text; the bytes live as long as it does and are UTF-8.
    unsafe {
        let bytes = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
        if bytes.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        let bytes = std::slice::from_raw_parts(bytes.cast(), usize::try_from(length).unwrap_or(0));
        Some(str::from_utf8_unchecked(bytes))
    }
}

/// The UTF-8 of an object that is exactly a text.
///
/// # Safety
/// The object lives for as long as `'a`.
#[inline]
pub(crate) unsafe fn exact_text<'a>(_py: Python<'_>, object: *mut ffi::PyObject) -> Option<&'a str> {
    // SAFETY: as for this function; the token shows that the thread is attached.
    unsafe { if ffi::PyUnicode_CheckExact(object) != 0 { text(object) } else { None } }
}

impl<'a> Scope<'a> for Arguments<'_, 'a, '_> {
    type Handle = Handle;

    #[inline]
    fn slot(&self, index: usize) -> Operand<'a, Handle> {
        let Some(place) = self.places.get(index) else { return Operand::Missing };
        // SAFETY: the slots are live and private for as long as the call is decided.
        self.slots.get(*place).map_or(Operand::Missing, |value| unsafe { operand(value.as_ptr()) })
    }

    fn length(&self, container: Handle) -> usize {
        let object = container.0.as_ptr();
        // SAFETY: a handle is a live dict, list or tuple.
        let length = unsafe {
            if ffi::Py_TYPE(object) == &raw mut ffi::PyDict_Type {
                ffi::PyDict_Size(object)
            } else if ffi::Py_TYPE(object) == &raw mut ffi::PyList_Type {
                ffi::PyList_Size(object)
            } else {
                ffi::PyTuple_Size(object)
            }
        };
        usize::try_from(length).unwrap_or(0)
    }

    fn item(&self, list: Handle, index: usize) -> Operand<'a, Handle> {
        let (object, index) =
            (list.0.as_ptr(), ffi::Py_ssize_t::try_from(index).unwrap_or(ffi::Py_ssize_t::MAX));
        // SAFETY: a handle is a live list or tuple; beyond its end the functions return null and set an error.
        unsafe {
            let item = if ffi::Py_TYPE(object) == &raw mut ffi::PyList_Type {
                ffi::PyList_GetItem(object, index)
            } else {
                ffi::PyTuple_GetItem(object, index)
            };
            if item.is_null() {
                ffi::PyErr_Clear();
            }
            operand(item)
        }
    }

    fn member(&self, map: Handle, name: &str) -> Operand<'a, Handle> {
        // SAFETY: the interpreter is attached while an expression is evaluated; a handle is a live dict, and the
        // borrowed item belongs to it.
        unsafe {
            let py = Python::assume_attached();
            let name = PyString::new(py, name);
            let item = ffi::PyDict_GetItemWithError(map.0.as_ptr(), name.as_ptr());
            if item.is_null() && !ffi::PyErr_Occurred().is_null() {
                // A key that fails while it is compared: nobody knows whether the member is there, so `has` must not
                // say that it is not.
                ffi::PyErr_Clear();
                return Operand::Unreadable;
            }
            operand(item)
        }
    }

    fn members(&self, map: Handle, visit: &mut dyn FnMut(&'a str, Operand<'a, Handle>)) {
        let (mut place, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a handle is a live dict that nobody changes; keys and values are borrowed from it.
        unsafe {
            while ffi::PyDict_Next(map.0.as_ptr(), &raw mut place, &raw mut key, &raw mut value) != 0 {
                let name =
                    if PyString::is_type_of(&Borrowed::<PyAny>::from_ptr(Python::assume_attached(), key)) {
                        text(key)
                    } else {
                        None
                    };
                match name {
                    Some(name) => visit(name, operand(value)),
                    None => visit("", Operand::Unreadable),
                }
            }
        }
    }
}
