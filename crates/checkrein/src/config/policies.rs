//! A policy file at work: the gates of every tool, compiled once against an engine, replaced all at once or not at all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use checkrein_core::admission::Admission;
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, MeterStatus, Reason, Retry};
use checkrein_core::key::KeyRef;
use checkrein_core::policy::{Leases, RecordKind};
use checkrein_core::time::Span;
use parking_lot::{Mutex, RwLock};

use super::call::{Call, Evaluated, at_pointer, fact_key};
use super::resolve::Resolved;
use super::{PolicyFile, PolicyFileError};
use crate::engine::{Admitted, CompileError, CompiledPolicy, Engine, GateSpec};
use crate::store::StoreError;

/// The most names of tools whose gates are kept when only patterns cover them.
const MAX_KEPT: usize = 10_000;
/// How long a fact holds: longer than a run lasts.
const FACT_KEPT: Span = Span::from_secs(86_400);

/// The gates of one tool.
#[derive(Debug)]
pub struct ToolPolicy {
    compiled: Arc<CompiledPolicy>,
    pub(super) resolved: Resolved,
}

impl ToolPolicy {
    /// The gates in words, in the order of their reasons.
    pub fn compiled(&self) -> &Arc<CompiledPolicy> {
        &self.compiled
    }

    /// The gates as the policy writes them.
    pub fn gates(&self) -> &[GateSpec] {
        &self.resolved.gates
    }

    /// How long a caller waits for the tool.
    pub fn timeout(&self) -> Option<Span> {
        self.resolved.timeout
    }

    /// Whether a call passes when the store cannot answer.
    pub fn opens(&self) -> bool {
        self.resolved.opens
    }
}

/// Why a policy file cannot be put to work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PolicyFileError),
    /// The gates of a tool cannot work as written.
    #[error("{tool}: {problem}")]
    Tool {
        /// The tool.
        tool: String,
        /// What is wrong.
        problem: CompileError,
    },
    /// A fact cannot be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct Loaded {
    file: PolicyFile,
    exact: HashMap<String, Arc<ToolPolicy>>,
    /// Tools that only patterns cover, compiled when they are first seen.
    seen: Mutex<HashMap<String, Arc<ToolPolicy>>>,
}

/// Decides calls by a policy file. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Policies {
    engine: Engine,
    loaded: Arc<RwLock<Arc<Loaded>>>,
}

impl Policies {
    /// Compiles every tool that the file names.
    ///
    /// # Errors
    /// The gates of a tool cannot work as written, or the store is not to be had.
    pub fn new(engine: Engine, file: PolicyFile) -> Result<Self, PolicyError> {
        let loaded = Loaded::new(&engine, file)?;
        Ok(Self { engine, loaded: Arc::new(RwLock::new(Arc::new(loaded))) })
    }

    /// Puts another file in the place of this one: all of it at once. After an error the old one goes on.
    ///
    /// # Errors
    /// The gates of a tool cannot work as written, or the store is not to be had.
    pub fn replace(&self, file: PolicyFile) -> Result<(), PolicyError> {
        let loaded = Arc::new(Loaded::new(&self.engine, file)?);
        *self.loaded.write() = loaded;
        Ok(())
    }

    /// Reads a file and puts it in the place of this one. After an error the old one goes on.
    ///
    /// # Errors
    /// The file cannot be read or used, or the store is not to be had.
    pub fn reload(&self, path: &Path) -> Result<(), PolicyError> {
        self.replace(PolicyFile::load(path)?)
    }

    /// The SHA-256 of the file that counts now.
    pub fn digest(&self) -> [u8; 32] {
        *self.loaded.read().file.digest()
    }

    /// The engine that decides.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The gates of a tool; nothing when no section covers it.
    ///
    /// # Errors
    /// The sections that cover it cannot work together.
    pub fn for_action(&self, tool: &str) -> Result<Option<Arc<ToolPolicy>>, PolicyError> {
        let loaded = Arc::clone(&self.loaded.read());
        loaded.policy_of(&self.engine, tool)
    }

    /// Decides a call and takes what it needs.
    pub fn admit(&self, call: &Call<'_>) -> Admitted {
        self.decided(call, |evaluated, policy| {
            evaluated
                .with_inputs(&policy.resolved, call, |inputs| self.engine.admit(&policy.compiled, inputs))
        })
    }

    /// Decides a call without taking anything, and says where the meters stand.
    pub fn peek(&self, call: &Call<'_>) -> (Admission, Vec<MeterStatus>) {
        let mut status = Vec::new();
        let admitted = self.decided(call, |evaluated, policy| {
            let (admission, meters) = evaluated
                .with_inputs(&policy.resolved, call, |inputs| self.engine.peek(&policy.compiled, inputs));
            status = meters;
            Admitted { admission, permit: None }
        });
        (admitted.admission, status)
    }

    fn decided(&self, call: &Call<'_>, decide: impl FnOnce(&Evaluated, &ToolPolicy) -> Admitted) -> Admitted {
        // Held for the whole decision: another file that comes meanwhile decides from the next call on.
        let loaded = Arc::clone(&self.loaded.read());
        let refused = |code, text: &str| Admitted { admission: refusal(code, text), permit: None };
        let policy = match loaded.policy_of(&self.engine, call.action.name) {
            Ok(Some(policy)) => policy,
            Ok(None) if loaded.file.sections().allows_unknown_tools => {
                return Admitted { admission: Admission::allow(), permit: None };
            }
            Ok(None) => return refused(Code::UnknownTool, "no section covers it"),
            Err(error) => return refused(Code::PolicyError, &error.to_string()),
        };
        let evaluated = Evaluated::of(&policy.resolved, call, self.engine.now());
        let mut admitted = decide(&evaluated, &policy);
        explain_costs(&mut admitted.admission, &evaluated, &policy.resolved);
        admitted
    }

    /// Records what the result of a tool proves, for the run or session of the call. Returns how many facts.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn prove(&self, call: &Call<'_>, result: &checkrein_core::json::Value) -> Result<usize, PolicyError> {
        let (Some(policy), Some(scope)) = (self.for_action(call.action.name)?, call.scope()) else {
            return Ok(0);
        };
        let mut proved = 0_usize;
        for proof in &policy.resolved.proves {
            let Some(value) = at_pointer(result, &proof.pointer) else { continue };
            let family = self.engine.family(RecordKind::Fact, &proof.kind, None, None, Span::ZERO)?;
            let bytes = fact_key(scope, value);
            let key = KeyRef { family, tenant: call.tenant.as_bytes(), key: &bytes };
            proved = proved.saturating_add(usize::from(self.engine.prove(key, FACT_KEPT)?));
        }
        Ok(proved)
    }
}

impl Loaded {
    fn new(engine: &Engine, file: PolicyFile) -> Result<Self, PolicyError> {
        let mut exact = HashMap::new();
        for section in file.sections().tools.iter().filter(|section| section.pattern.is_exact()) {
            let tool = section.pattern.as_str();
            if let Some(policy) = compile(engine, &file, tool)? {
                exact.insert(tool.to_owned(), policy);
            }
        }
        Ok(Self { file, exact, seen: Mutex::default() })
    }

    fn policy_of(&self, engine: &Engine, tool: &str) -> Result<Option<Arc<ToolPolicy>>, PolicyError> {
        if let Some(policy) = self.exact.get(tool) {
            return Ok(Some(Arc::clone(policy)));
        }
        if let Some(policy) = self.seen.lock().get(tool) {
            return Ok(Some(Arc::clone(policy)));
        }
        let Some(policy) = compile(engine, &self.file, tool)? else { return Ok(None) };
        let mut seen = self.seen.lock();
        if seen.len() < MAX_KEPT {
            seen.insert(tool.to_owned(), Arc::clone(&policy));
        }
        Ok(Some(policy))
    }
}

fn compile(engine: &Engine, file: &PolicyFile, tool: &str) -> Result<Option<Arc<ToolPolicy>>, PolicyError> {
    let Some(resolved) = file.sections().resolve(tool) else { return Ok(None) };
    let compiled = engine
        .compile(resolved.gates.clone(), Leases::default())
        .map_err(|problem| PolicyError::Tool { tool: tool.to_owned(), problem })?;
    Ok(Some(Arc::new(ToolPolicy { compiled, resolved })))
}

/// A refusal before any gate was asked.
fn refusal(code: Code, text: &str) -> Admission {
    let (kind, gate, retry) = (GateKind::Action, Arc::from("policy"), Retry::Never);
    Admission::block(vec![Reason { code, kind, gate, retry, detail: Detail::Text(text.into()) }], Vec::new())
}

/// A cost without a value is refused as one that is negative; the reason says why it has none.
fn explain_costs(admission: &mut Admission, evaluated: &Evaluated, resolved: &Resolved) {
    for reason in admission.reasons.iter_mut().filter(|reason| reason.code == Code::InvalidAction) {
        let gate = resolved.gates.iter().find(|gate| gate.name == *reason.gate);
        if let Some(GateSpec { kind: crate::engine::GateSpecKind::Budget { cost, .. }, .. }) = gate
            && let Some(Some(error)) = evaluated.cost_errors.get(usize::from(*cost))
        {
            reason.detail = Detail::Text(format!("the cost {error}").into());
        }
    }
}
