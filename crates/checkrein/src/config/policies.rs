//! A policy file at work: the gates of every tool, compiled once against an engine, replaced all at once or not at all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use checkrein_core::admission::{Admission, Inputs};
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, MeterStatus, Reason, Retry};
use checkrein_core::time::Span;
use parking_lot::{Mutex, RwLock};

use super::binding::{Bound, CodeGates};
use super::call::{Call, Evaluated};
use super::facts::FactFamilies;
use super::model_call::NAMESPACE;
use super::model_policy::Models;
use super::resolve::Resolved;
use super::{PolicyFile, PolicyFileError};
use crate::engine::{Admitted, CompileError, CompileOptions, CompiledPolicy, Engine, GateSpec};
use crate::price::TermsError;
use crate::store::{Step, StoreError};

/// The most names of tools whose gates are kept when only patterns cover them.
const MAX_KEPT: usize = 10_000;

/// The gates of one tool.
#[derive(Debug)]
pub struct ToolPolicy {
    compiled: Arc<CompiledPolicy>,
    pub(super) resolved: Resolved,
    facts: FactFamilies,
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
    /// The prices contradict each other.
    #[error(transparent)]
    Prices(#[from] TermsError),
    /// What a guard in the code is cannot do what the file asks of its tool.
    #[error("{tool}: {problem}")]
    Guard {
        /// The tool.
        tool: String,
        /// What is wrong.
        problem: String,
    },
    /// A fact cannot be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PolicyError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(error) => error.code(),
            Self::Tool { .. } | Self::Guard { .. } | Self::Prices(_) => "policy_contradiction",
            Self::Store(_) => "store_error",
        }
    }
}

/// One file, compiled. It never changes: another file makes another one.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) file: PolicyFile,
    pub(super) models: Models,
    exact: HashMap<String, Arc<ToolPolicy>>,
    /// What holds for tools that no section covers.
    uncovered: Arc<ToolPolicy>,
    /// Tools that only patterns cover, compiled when they are first seen.
    seen: Mutex<HashMap<String, Arc<ToolPolicy>>>,
}

/// What counts now: a file, and what it makes of the guards in the code.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) loaded: Arc<Loaded>,
    pub(super) bound: Vec<Option<Arc<Bound>>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    state: RwLock<Arc<State>>,
    /// The guards in the code, by the number of their binding.
    guards: Mutex<Vec<Option<Arc<Guarded>>>>,
}

/// A guard in the code.
#[derive(Debug)]
struct Guarded {
    tool: String,
    code: CodeGates,
}

/// Decides calls by a policy file. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Policies(pub(super) Arc<Shared>);

/// A guard in the code: its gates and those of its tool's sections are one policy. Its end is that of the binding.
#[derive(Debug)]
pub struct Binding {
    policies: Policies,
    number: usize,
}

impl Policies {
    /// Compiles every tool that the file names.
    ///
    /// # Errors
    /// The gates of a tool cannot work as written, or the store is not to be had.
    pub fn new(engine: Engine, file: PolicyFile) -> Result<Self, PolicyError> {
        let loaded = Arc::new(Loaded::new(&engine, file)?);
        let state = RwLock::new(Arc::new(State { loaded, bound: Vec::new() }));
        Ok(Self(Arc::new(Shared { engine, state, guards: Mutex::default() })))
    }

    /// Puts another file in the place of this one: all of it at once, for every tool and every guard in the code. After
    /// an error the old one goes on.
    ///
    /// # Errors
    /// The gates of a tool cannot work as written, with the guards in the code, or the store is not to be had.
    pub fn replace(&self, file: PolicyFile) -> Result<(), PolicyError> {
        let loaded = Arc::new(Loaded::new(&self.0.engine, file)?);
        // Held until the new state is in place: a guard that is made meanwhile would miss it.
        let guards = self.0.guards.lock();
        let bind = |guard: &Arc<Guarded>| self.bound(&loaded, guard).map(Arc::new);
        let bound =
            guards.iter().map(|slot| slot.as_ref().map(bind).transpose()).collect::<Result<_, _>>()?;
        *self.0.state.write() = Arc::new(State { loaded, bound });
        Ok(())
    }

    /// Reads a file and puts it in the place of this one. After an error the old one goes on.
    ///
    /// # Errors
    /// The file cannot be read or used, or the store is not to be had.
    pub fn reload(&self, path: &Path) -> Result<(), PolicyError> {
        self.replace(PolicyFile::load(path)?)
    }

    /// Makes the gates of a guard in the code and those of its tool's sections one policy, now and after each reload.
    ///
    /// # Errors
    /// They cannot work together, or the store is not to be had.
    pub fn bind(&self, tool: &str, code: CodeGates) -> Result<Binding, PolicyError> {
        let mut guards = self.0.guards.lock();
        let state = self.state();
        let guard = Arc::new(Guarded { tool: tool.to_owned(), code });
        let bound = Arc::new(self.bound(&state.loaded, &guard)?);
        let number = guards.iter().position(Option::is_none).unwrap_or(guards.len());
        match guards.get_mut(number) {
            Some(slot) => *slot = Some(guard),
            None => guards.push(Some(guard)),
        }
        let mut state = State::clone(&state);
        state.bound.resize(guards.len(), None);
        if let Some(slot) = state.bound.get_mut(number) {
            *slot = Some(bound);
        }
        *self.0.state.write() = Arc::new(state);
        Ok(Binding { policies: self.clone(), number })
    }

    fn bound(&self, loaded: &Loaded, guard: &Guarded) -> Result<Bound, PolicyError> {
        let sections = loaded.file.sections();
        if let Some(shared) = sections.shared_with(&guard.code.gates) {
            let problem = format!("its code and the policy file both have {shared}; keep one of them");
            return Err(PolicyError::Guard { tool: guard.tool.clone(), problem });
        }
        let resolved = sections.resolve(&guard.tool);
        Bound::new(&self.0.engine, &guard.tool, &guard.code, resolved, loaded.origin())
    }

    /// The SHA-256 of the file that counts now.
    pub fn digest(&self) -> [u8; 32] {
        *self.state().loaded.file.digest()
    }

    /// What the file that counts now is called.
    pub fn name(&self) -> String {
        self.state().loaded.file.name().to_owned()
    }

    /// What counts now.
    pub(super) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.state().loaded)
    }

    /// The engine that decides.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.state.read())
    }

    /// Whether the file has a budget of a name.
    pub fn has_budget(&self, name: &str) -> bool {
        self.state().loaded.file.sections().budgets.contains_key(name)
    }

    /// Whether a section covers a tool.
    pub fn covers(&self, tool: &str) -> bool {
        self.state().loaded.file.sections().covers(tool)
    }

    /// The gates of a tool; nothing when no section covers it.
    ///
    /// # Errors
    /// The sections that cover it cannot work together.
    pub fn for_action(&self, tool: &str) -> Result<Option<Arc<ToolPolicy>>, PolicyError> {
        let state = self.state();
        let policy = state.loaded.policy_of(&self.0.engine, tool)?;
        Ok(Some(policy).filter(|policy| !Arc::ptr_eq(policy, &state.loaded.uncovered)))
    }

    /// Decides a call and takes what it needs. One of the namespace `model` is a call of a model, told of by what a
    /// ledger keeps of it; [`admit_model`](Self::admit_model) is for those who make one.
    pub fn admit(&self, call: &Call<'_>) -> Admitted {
        if call.action.namespace == NAMESPACE {
            return self.admit_told(call);
        }
        self.decided(call, |policy, inputs| self.0.engine.admit(&policy.compiled, inputs))
    }

    /// Decides a call without taking anything, and says where the meters stand.
    pub fn peek(&self, call: &Call<'_>) -> (Admission, Vec<MeterStatus>) {
        if call.action.namespace == NAMESPACE {
            return self.peek_told(call);
        }
        let mut status = Vec::new();
        let admitted = self.decided(call, |policy, inputs| {
            let (admission, meters) = self.0.engine.peek(&policy.compiled, inputs);
            status = meters;
            Admitted { admission, permit: None }
        });
        (admitted.admission, status)
    }

    fn decided(
        &self,
        call: &Call<'_>,
        decide: impl FnOnce(&ToolPolicy, &Inputs<'_>) -> Admitted,
    ) -> Admitted {
        // Held for the whole decision: another file that comes meanwhile decides from the next call on.
        let state = self.state();
        let policy = match state.loaded.policy_of(&self.0.engine, call.action.name) {
            Ok(policy) => policy,
            Err(error) => return Admitted { admission: refusal(&error.to_string()), permit: None },
        };
        let evaluated =
            Evaluated::of(&policy.resolved, call, self.0.engine.now(), self.0.engine.keeps_ledger());
        evaluated.with_inputs(&policy.resolved, call, &Inputs::default(), |inputs| decide(&policy, inputs))
    }

    /// Records what the result of a tool proves, for the run or session of the call. Returns how many facts.
    ///
    /// # Errors
    /// The store did not commit, or cannot say whether it did.
    pub fn prove(&self, call: &Call<'_>, result: &checkrein_core::json::Value) -> Result<usize, PolicyError> {
        let Some(policy) = self.for_action(call.action.name)? else { return Ok(0) };
        let steps = policy.facts.steps(&policy.resolved, call, result, self.0.engine.now());
        let mut proved = 0_usize;
        for step in steps {
            let Step::Prove(key, fact) = step else { continue };
            let kept = fact.expires.since(fact.proved);
            proved = proved.saturating_add(usize::from(self.0.engine.prove(key.borrow(), kept)?));
        }
        Ok(proved)
    }
}

impl Binding {
    /// What counts for the guard now. To be asked once for each call.
    pub fn current(&self) -> Option<Arc<Bound>> {
        self.policies.0.state.read().bound.get(self.number).cloned().flatten()
    }

    /// The policies that it belongs to.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let shared = &self.policies.0;
        let mut guards = shared.guards.lock();
        if let Some(slot) = guards.get_mut(self.number) {
            *slot = None;
        }
        let mut state = shared.state.write();
        if let Some(slot) = Arc::make_mut(&mut state).bound.get_mut(self.number) {
            *slot = None;
        }
    }
}

impl Loaded {
    fn new(engine: &Engine, file: PolicyFile) -> Result<Self, PolicyError> {
        let origin = origin_of(&file);
        let mut exact = HashMap::new();
        for section in file.sections().tools.iter().filter(|section| section.pattern.is_exact()) {
            let tool = section.pattern.as_str();
            exact.insert(tool.to_owned(), compile(engine, file.sections().resolve(tool), tool, &origin)?);
        }
        let uncovered = compile(engine, file.sections().uncovered(), "policy", &origin)?;
        let models = Models::new(engine, file.sections(), &origin)?;
        Ok(Self { file, models, exact, uncovered, seen: Mutex::default() })
    }

    /// What the ledger is told of where the gates come from.
    pub(super) fn origin(&self) -> String {
        origin_of(&self.file)
    }

    fn policy_of(&self, engine: &Engine, tool: &str) -> Result<Arc<ToolPolicy>, PolicyError> {
        if let Some(policy) = self.exact.get(tool) {
            return Ok(Arc::clone(policy));
        }
        if let Some(policy) = self.seen.lock().get(tool) {
            return Ok(Arc::clone(policy));
        }
        if !self.file.sections().covers(tool) {
            return Ok(Arc::clone(&self.uncovered));
        }
        let policy = compile(engine, self.file.sections().resolve(tool), tool, &self.origin())?;
        let mut seen = self.seen.lock();
        if seen.len() < MAX_KEPT {
            seen.insert(tool.to_owned(), Arc::clone(&policy));
        }
        Ok(policy)
    }
}

fn origin_of(file: &PolicyFile) -> String {
    use std::fmt::Write as _;
    // Where the file lies is nobody's business who reads the ledger.
    let name =
        Path::new(file.name()).file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let mut text = format!("file: {} sha256:", name.escape_debug());
    for byte in file.digest() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    if let Some(prices) = file.sections().prices_line() {
        text.push_str(&prices);
        text.push('\n');
    }
    text
}

fn compile(
    engine: &Engine,
    resolved: Resolved,
    tool: &str,
    origin: &str,
) -> Result<Arc<ToolPolicy>, PolicyError> {
    let options = CompileOptions {
        origin: origin.to_owned(),
        thresholds: resolved.thresholds.clone(),
        ..CompileOptions::default()
    };
    let compiled = engine
        .compile_with(resolved.gates.clone(), &options)
        .map_err(|problem| PolicyError::Tool { tool: tool.to_owned(), problem })?;
    let facts = FactFamilies::of(engine, &resolved)?;
    Ok(Arc::new(ToolPolicy { compiled, resolved, facts }))
}

/// A refusal before any gate was asked.
pub(super) fn refusal(text: &str) -> Admission {
    let (kind, gate, retry) = (GateKind::Action, Arc::from("policy"), Retry::Never);
    let (code, detail) = (Code::PolicyError, Detail::Text(text.into()));
    Admission::block(vec![Reason { code, kind, gate, retry, detail }], Vec::new())
}
