//! Native half of `checkrein.actiongate`: rate limits and cooldowns.

mod api;
mod decision;
mod engine;
mod guard;
mod meter;
mod policy;
mod store;
mod together;

pub(crate) use decision::Decision;
pub(crate) use engine::ActionEngine;
pub(crate) use meter::Verdict;
pub(crate) use together::{Admission, Prepared};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::common::identity::identity_class;

identity_class!(
    Gate,
    "Gate",
    "checkrein.actiongate.core",
    action,
    "(namespace, action, principal='global')",
    "ag",
    engine::Memo
);

/// The enum members and classes that the Python half defines.
pub(crate) struct Names {
    allow: Py<PyAny>,
    block: Py<PyAny>,
    rate_limit: Py<PyAny>,
    cooldown: Py<PyAny>,
    store_error: Py<PyAny>,
    mode: super::common::names::Modes,
    blocked: Py<PyAny>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

impl Names {
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        NAMES.get_or_try_init(py, || {
            let core = py.import("checkrein.actiongate.core")?;
            let member = |class: &str, name: &str| -> PyResult<Py<PyAny>> {
                Ok(core.getattr(class)?.getattr(name)?.unbind())
            };
            Ok(Self {
                allow: member("Status", "ALLOW")?,
                block: member("Status", "BLOCK")?,
                rate_limit: member("BlockReason", "RATE_LIMIT")?,
                cooldown: member("BlockReason", "COOLDOWN")?,
                store_error: member("BlockReason", "STORE_ERROR")?,
                mode: super::common::names::Modes::load(&core)?,
                blocked: core.getattr("Blocked")?.unbind(),
            })
        })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ActionGateGate", module.py().get_type::<Gate>())?;
    module.add("ActionGatePolicy", module.py().get_type::<policy::Policy>())?;
    module.add("ActionGateDecision", module.py().get_type::<Decision>())?;
    module.add("ActionGateStore", module.py().get_type::<store::ActionStore>())?;
    module.add("ActionGateEngine", module.py().get_type::<ActionEngine>())?;
    module.add("ActionGateGuard", module.py().get_type::<guard::ActionGuard>())
}
