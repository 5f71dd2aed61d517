//! Native half of `checkrein.rulegate`: predicates over the arguments of a call.

mod api;
mod context;
mod decision;
mod engine;
mod guard;
mod predicate;
mod records;
mod ruleset;
mod snapshot;

pub(crate) use decision::Decision;
pub(crate) use engine::RuleEngine;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::common::identity::identity_class;
use super::common::names::Modes;

identity_class!(
    Rule,
    "Rule",
    "checkrein.rulegate.core",
    action,
    "(namespace, action, principal='global')",
    "rg",
    engine::Memo
);

/// The enum members and classes that the Python half defines.
pub(crate) struct Names {
    allow: Py<PyAny>,
    block: Py<PyAny>,
    policy_violation: Py<PyAny>,
    mode: Modes,
    violation_error: Py<PyAny>,
    eval_record: Py<PyAny>,
}

static NAMES: PyOnceLock<Names> = PyOnceLock::new();

impl Names {
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        NAMES.get_or_try_init(py, || {
            let core = py.import("checkrein.rulegate.core")?;
            let status = core.getattr("Status")?;
            Ok(Self {
                allow: status.getattr("ALLOW")?.unbind(),
                block: status.getattr("BLOCK")?.unbind(),
                policy_violation: core.getattr("BlockReason")?.getattr("POLICY_VIOLATION")?.unbind(),
                mode: Modes::load(&core)?,
                violation_error: core.getattr("PolicyViolationError")?.unbind(),
                eval_record: core.getattr("EvalRecord")?.unbind(),
            })
        })
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("RuleGateRule", module.py().get_type::<Rule>())?;
    module.add("RuleGateRuleset", module.py().get_type::<ruleset::Ruleset>())?;
    module.add("RuleGateContext", module.py().get_type::<context::Context>())?;
    module.add("RuleGateNamedPredicate", module.py().get_type::<predicate::NamedPredicate>())?;
    module.add("RuleGateDecision", module.py().get_type::<decision::Decision>())?;
    module.add("RuleGateStore", module.py().get_type::<records::RuleStore>())?;
    module.add("RuleGateEngine", module.py().get_type::<RuleEngine>())?;
    module.add("RuleGateGuard", module.py().get_type::<guard::RuleGuard>())
}
