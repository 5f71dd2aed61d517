//! A process: its view of the disk, its part of the store, and the calls it is working on.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkrein::core::amount::Unit;
use checkrein::core::gate::once::Run;
use checkrein::core::key::Key;
use checkrein::core::policy::RecordKind;
use checkrein::core::time::{Span, Timestamp, Window};
use checkrein::engine::{CompiledPolicy, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::durable::{Durable, FamilyKey};
use checkrein::store::{PermitId, Step, StoreError};
use checkrein::testing::disk::Handle;

use crate::tools::{LEASES, Tool};
use crate::upstream::OnceKey;

/// A process. It has no store while it is down.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Counts its starts: what was planned in an earlier life does not reach it any more.
    pub(crate) life: u64,
    pub(crate) open: Option<(Handle, Durable)>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    pub(crate) tasks_begun: u64,
    pub(crate) inbox: Vec<Pending>,
    pub(crate) flush_planned: bool,
}

/// A call that a process is working on.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) call: usize,
    pub(crate) tries: u32,
    pub(crate) stage: Stage,
    pub(crate) permit: Option<PermitId>,
    pub(crate) dispatch: Option<usize>,
    /// When its lease ends, in the store's time.
    pub(crate) lease: i64,
    /// A half-open breaker let it through.
    pub(crate) probe: bool,
}

/// How far a call has come in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Deciding,
    /// Admitted; its start is not committed yet.
    Reserved,
    /// Sent to the service.
    Running,
    /// An outcome is on its way to the store.
    Ending,
    /// Said to be in doubt; a late answer may still come.
    Doubtful,
}

/// A step that waits for the next batch.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) what: What,
    pub(crate) step: Step,
}

/// What a step is for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Admit(u64),
    Start(u64),
    Release(u64),
    Done(u64),
    Clean(u64),
    Doubt(u64),
    /// An outcome that is delivered twice.
    Repeat,
    /// Somebody found out what became of a call in doubt.
    Resolve(OnceKey, Option<usize>),
    /// A person resets what was spent.
    Reset,
}

/// What a look-up needs to know of an operation in doubt.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    pub(crate) key: Key,
    pub(crate) run: Run,
}

/// Compiles the gates of every tool.
pub(crate) fn compile(gates: Vec<(&'static str, Vec<GateSpec>)>) -> Vec<Tool> {
    let engine = Engine::new();
    let mut tools = Vec::new();
    for (name, gates) in gates {
        let once = gates.iter().any(|gate| gate.name == "once");
        if let Ok(policy) = engine.compile(gates.clone(), LEASES) {
            tools.push(Tool { name, gates, policy: Arc::clone(&policy), once });
        }
    }
    tools
}

/// Makes the store know what the tools' policies count.
pub(crate) fn intern(
    durable: &mut Durable,
    handle: &mut Handle,
    tools: &[Tool],
    now: Timestamp,
) -> Result<(), StoreError> {
    tools.iter().try_for_each(|tool| intern_gates(durable, handle, &tool.gates, &tool.policy, now))
}

/// The same for one policy.
pub(crate) fn intern_gates(
    durable: &mut Durable,
    handle: &mut Handle,
    gates: &[GateSpec],
    policy: &CompiledPolicy,
    now: Timestamp,
) -> Result<(), StoreError> {
    for gate in gates {
        let Some((key, cooldown)) = family_of(gate) else { continue };
        let family = durable.family(handle, &key, cooldown, now)?;
        let compiled = policy.policy().gates().iter().find(|compiled| *compiled.name == *gate.name);
        let expected = compiled.and_then(|compiled| compiled.check.record());
        if expected.is_none_or(|(_, expected, _)| expected != family) {
            return Err(StoreError::Damaged(format!("family {family:?} of {key:?} is another")));
        }
    }
    Ok(())
}

fn family_of(gate: &GateSpec) -> Option<(FamilyKey, Span)> {
    let key = |kind, name: String| FamilyKey { kind, name, unit: None, window: None, calendar: None };
    let meter = |kind: &str, unit, window: &WindowSpec| {
        let calendar = match window {
            WindowSpec::Calendar(calendar) => Some(calendar),
            _ => None,
        };
        let window = match window {
            WindowSpec::Rolling(length) => Window::Rolling(*length),
            WindowSpec::Calendar(_) => Window::Period,
            WindowSpec::Lifetime => Window::Lifetime,
        };
        let name = format!("{kind}:{}", gate.name);
        let calendar = calendar.map(|calendar| (calendar.period().name(), calendar.zone().to_owned()));
        FamilyKey { unit: Some(unit), window: Some(window), calendar, ..key(RecordKind::Meter, name) }
    };
    Some(match &gate.kind {
        GateSpecKind::Fact { .. } => (key(RecordKind::Fact, gate.name.clone()), Span::ZERO),
        GateSpecKind::Once { .. } => (key(RecordKind::Operation, gate.name.clone()), Span::ZERO),
        GateSpecKind::Breaker { .. } => (key(RecordKind::Breaker, gate.name.clone()), Span::ZERO),
        GateSpecKind::Attempts { .. } => (meter("attempts", Unit::Calls, &WindowSpec::Lifetime), Span::ZERO),
        GateSpecKind::Limit { window, cooldown, .. } => (meter("limit", Unit::Calls, window), *cooldown),
        GateSpecKind::Repetition { keep, .. } => {
            (meter("loop", Unit::Calls, &WindowSpec::Rolling(*keep)), Span::ZERO)
        }
        GateSpecKind::Budget { window, unit, .. } => (meter("budget", *unit, window), Span::ZERO),
        GateSpecKind::Rule { .. } => return None,
    })
}
