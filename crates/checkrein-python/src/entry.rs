//! The native call that every wrapper makes: one builtin function, bound to its guard.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::guard::{Decided, Guard};

/// The builtin function `admit`, bound to a guard.
pub(crate) fn admitter<'py>(guard: &Bound<'py, Guard>) -> PyResult<Bound<'py, PyAny>> {
    let definition = (&raw const ADMIT.0).cast_mut();
    // SAFETY: the definition is a static that lives for ever and is only read; the function keeps the guard alive.
    unsafe {
        let function = ffi::PyCFunction_NewEx(definition, guard.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(guard.py(), function)
    }
}

/// The method table entry of the native admission.
struct Definition(ffi::PyMethodDef);

// SAFETY: the definition holds pointers to static data only, and nobody writes to it.
unsafe impl Sync for Definition {}

static ADMIT: Definition = Definition(ffi::PyMethodDef {
    ml_name: c"admit".as_ptr(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: admit },
    ml_flags: ffi::METH_FASTCALL,
    ml_doc: c"Decides a call; raises or returns what the wrapper needs.".as_ptr(),
});

unsafe extern "C" fn admit(
    slf: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: Python calls this with the object the function was made with, which is a guard, and with `count` valid
    // arguments, while the calling thread is attached to the interpreter.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<Guard>();
        let args = match usize::try_from(count) {
            Ok(count) if count > 0 => std::slice::from_raw_parts(args.cast_const(), count),
            _ => &[],
        };
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let guard = slf.get();
            if let Some(inputs) = &guard.simple
                && !guard.shared.listening.load(Ordering::Relaxed)
                && guard.shared.surroundings.load(Ordering::Relaxed) == 0
                && !guard.shared.is_foreign()
                && args.len() == guard.slots
                && let Some(admitted) = inputs.admit(py, guard, args)
            {
                return match admitted {
                    None => Ok(py.None()),
                    Some(decided) => Python::attach_unchecked(|py| guard.answer(py, &slf, decided)),
                };
            }
            if guard.quiet
                && !guard.shared.listening.load(Ordering::Relaxed)
                && guard.shared.surroundings.load(Ordering::Relaxed) == 0
            {
                // Nothing here can run Python code or drop a reference that is not its own.
                return match guard.decide(py, args) {
                    Ok(Decided::Allowed(None, None, _)) => Ok(py.None()),
                    decided => Python::attach_unchecked(|py| guard.answer(py, &slf, decided)),
                };
            }
            Python::attach_unchecked(|py| {
                let decided = guard.decide(py, args);
                guard.answer(py, &slf, decided)
            })
        }));
        match decided {
            Ok(Ok(object)) => object.into_ptr(),
            Ok(Err(error)) => {
                error.restore(py);
                std::ptr::null_mut()
            }
            Err(_) => {
                PyRuntimeError::new_err("checkrein failed inside; the call was refused").restore(py);
                std::ptr::null_mut()
            }
        }
    }
}
