//! `Guard`: a compiled policy with its readers, asked by one native call before a guarded function runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use checkrein::config::CodeGates;
use checkrein::engine::Admitted;
use checkrein::store::{OwnedInputs, PermitId, Step};
use checkrein_core::admission::{Admission, Crossed, Inputs, KeyValue, Verdict};
use checkrein_core::code::Code;
use checkrein_core::decision::{Detail, GateKind, Reason, Retry};
use checkrein_core::key::{Key, KeyRef};
use checkrein_core::time::Span;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit, ffi};
use smallvec::SmallVec;

use crate::convert::{self, MAX_NODES, Unusable};
use crate::decision::Decision;
use crate::engine::{EngineBase, Held, Shared};
use crate::facts::Recipe;
use crate::inputs::{Reader, Reading};
use crate::operation::Operation;
use crate::permit::{Filed, Hooks, OnceKey, Permit, Proving, Taken};
use crate::policy::{Current, Gates};
use crate::simple::Simple;
use crate::waiting::{self, Bell, Ticket};
use crate::{entry, error, reason, spec};

/// The arguments of a call that the guard copied, and those it took as they are.
type Copies<'py> = SmallVec<[Option<Bound<'py, PyAny>>; 6]>;

/// A compiled policy and how its gates read the arguments of a call.
#[pyclass(name = "Guard", module = "checkrein._native", frozen, weakref)]
pub(crate) struct Guard {
    /// Before the engine, which is the last to be let go of.
    pub(crate) gates: Gates,
    /// What gates for other counts of facts are made of, where it needs some.
    recipe: Option<Recipe>,
    pub(crate) engine: Held,
    pub(crate) shared: Arc<Shared>,
    pub(crate) owner: Py<EngineBase>,
    pub(crate) reader: Reader,
    /// How many arguments it reads.
    pub(crate) slots: usize,
    /// Containers among them are copied.
    copies: bool,
    /// A refusal is raised, else returned.
    raises: bool,
    /// Nothing it reads runs Python code.
    pub(crate) quiet: bool,
    /// It reads nothing but text keys.
    pub(crate) simple: Option<Simple>,
    pub(crate) hooks: Hooks,
    /// Its decisions may wait for a disk or a server.
    pub(crate) waits: bool,
    /// How durable its decisions are.
    durability: &'static str,
    /// It waits, and its calls run on event loops: whatever need not be waited for is not.
    pub(crate) on_loop: bool,
    /// A repetition of an operation that is done gets its result, else it is refused.
    replays: bool,
    /// A store that cannot answer lets calls through: its code is a single rate limit whose owner wants that.
    open: bool,
}

/// What the run around a call says of it.
enum Around {
    /// Whose records count, if the run says so.
    Tenant(Option<String>),
    /// The run was stopped.
    Stopped(Box<Decision>),
}

/// How a call was decided.
pub(crate) enum Decided<'py> {
    /// It runs, perhaps on copies of its arguments, and perhaps has something to settle.
    Allowed(Option<PermitId>, Option<Bound<'py, PyTuple>>, Taken),
    /// It ran before.
    Replay(Arc<[u8]>),
    /// It does not run.
    Blocked(Box<Decision>),
}

#[pymethods]
impl Guard {
    /// Compiles a description; `checkrein.compile` writes it.
    #[new]
    fn new(owner: Bound<'_, EngineBase>, description: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = owner.py();
        let base = owner.get();
        base.check_fork(py)?;
        let mut described = spec::read(description)?;
        let waits = base.engine.waits();
        let reader = described.take_reader(base.tenant.clone())?;
        let mut code = CodeGates {
            gates: std::mem::take(&mut described.gates),
            leases: described.leases,
            keys: count(reader.keys.len()),
            costs: count(reader.costs.len()),
            verdicts: count(reader.rules.len()),
            no_result: described.is_generator.then_some("a generator has no result to store"),
            no_timeout: described.is_generator.then_some("a generator has no timeout"),
            opens: described.open,
        };
        let policies = base.policies.as_ref().filter(|_| described.filed);
        let recipe = reader.requires.as_ref().map(|requires| {
            let recipe = Recipe { code: code.clone(), policies: policies.cloned() };
            code = requires.with(&recipe.code, &requires.usual());
            recipe
        });
        let gates = Gates::new(py, &base.engine, policies, &reader.tool, code)?;
        let is_plain = !waits && gates.of_code().is_some();
        Ok(Self {
            engine: Held::new(base.engine.clone()),
            shared: Arc::clone(&base.shared),
            // Whoever lets go of the interpreter while it waits takes the general way.
            quiet: is_plain && reader.is_quiet(),
            simple: if is_plain { Simple::of(&reader, &described.hooks) } else { None },
            gates,
            recipe,
            reader,
            slots: described.slots,
            copies: described.copies,
            raises: described.raises,
            hooks: described.hooks,
            waits,
            durability: base.engine.durability(),
            on_loop: waits && described.on_loop,
            replays: described.replays,
            open: described.open,
            owner: owner.unbind(),
        })
    }

    /// The name in decisions and messages.
    #[getter]
    fn tool(&self) -> &str {
        &self.reader.tool
    }

    /// How long a coroutine waits for a decision, in seconds; then the store counts as gone.
    #[getter]
    pub(crate) fn _patience_s(&self) -> f64 {
        waiting::patience_s(&self.engine)
    }

    /// Whether somebody has to be told how calls end: a meter, a breaker, an operation, or the ledger.
    #[getter]
    pub(crate) fn settles(&self) -> bool {
        self.reader.told.is_some()
            || self.reader.proves.is_some()
            || self.gates.of_code().is_none_or(|policy| policy.policy().settles())
    }

    /// The kinds and names of its gates, in the order of their reasons.
    #[getter]
    fn gates(&self) -> Vec<(&'static str, String)> {
        let Some(current) = self.gates.current() else { return Vec::new() };
        let gates = current.compiled().policy().gates().iter();
        gates.map(|gate| (gate.check.kind().name(), gate.name.to_string())).collect()
    }

    /// How long the policy file lets a caller wait for the tool now, in seconds.
    #[getter]
    fn timeout_s(&self) -> Option<f64> {
        match self.gates.current()? {
            Current::Code(_) => None,
            Current::Filed(bound) => bound.timeout().map(Span::as_secs_f64),
        }
    }

    /// Decides a call without taking anything.
    #[pyo3(signature = (*args))]
    fn peek(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Decision> {
        if self.shared.is_foreign() {
            return Err(error::forked(py));
        }
        let pointers: SmallVec<[*mut ffi::PyObject; 8]> =
            args.iter_borrowed().map(|arg| arg.as_ptr()).collect();
        let mut copies = Copies::new();
        let tool = &self.reader.tool;
        let tenant = match self.around(py)? {
            Around::Stopped(decision) => return Ok(*decision),
            Around::Tenant(tenant) => tenant,
        };
        let current = self.current()?;
        // SAFETY: the pointers are those of the tuple's items, which it keeps alive.
        let peeked = unsafe {
            self.with_slots(py, &pointers, tenant, &mut copies, |reading| {
                self.by_facts(py, &current, reading, |current| {
                    self.decide_by(current, reading, |inputs| {
                        self.waiting(py, || self.engine.peek(current.compiled(), inputs))
                    })
                })
            })?
        };
        Ok(match peeked {
            Ok((admission, meters)) => {
                let Admission { verdict, reasons, observed, .. } = admission;
                Decision::new(tool, &verdict, reasons, observed, meters).durable(self.durability)
            }
            Err(reasons) => self.block(reasons),
        })
    }

    /// Decides a call without waiting: a ticket whose answer is there when the bell rings with `number`, or a refusal
    /// that no store was asked for.
    #[pyo3(signature = (bell, number, *args))]
    fn _submit(
        slf: &Bound<'_, Self>,
        bell: &Bell,
        number: u64,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let (py, guard) = (slf.py(), slf.get());
        if guard.shared.is_foreign() {
            return Err(error::forked(py));
        }
        let pointers: SmallVec<[*mut ffi::PyObject; 8]> =
            args.iter_borrowed().map(|arg| arg.as_ptr()).collect();
        let mut copies = Copies::new();
        let tenant = match guard.around(py)? {
            Around::Stopped(decision) => return guard.answer(py, slf, Ok(Decided::Blocked(decision))),
            Around::Tenant(tenant) => tenant,
        };
        let current = guard.current()?;
        // SAFETY: the pointers are those of the tuple's items, which it keeps alive.
        let read = unsafe {
            guard.with_slots(py, &pointers, tenant, &mut copies, |reading| {
                let held = guard.hooks.held(&reading.costs);
                guard.by_facts(py, &current, reading, |current| {
                    guard.decide_by(current, reading, |inputs| {
                        let taken = Taken { held, ..guard.taken(current, reading, inputs) };
                        (Step::Admit(Arc::clone(current.compiled()), OwnedInputs::from(inputs)), taken)
                    })
                })
            })?
        };
        let (step, taken) = match read {
            Ok(read) => read,
            Err(reasons) => {
                let refused = Decided::Blocked(Box::new(guard.block(reasons)));
                return guard.answer(py, slf, Ok(refused));
            }
        };
        // SAFETY: as above.
        let copied = if copies.is_empty() { None } else { Some(unsafe { merged(py, &pointers, copies)? }) };
        Ok(Py::new(py, Ticket::new(slf, step, bell, number, taken, copied))?.into_any())
    }

    /// The operation that a refused call found in doubt; `None` if that is not the first reason of its decision.
    #[pyo3(signature = (decision, *args))]
    fn _doubt(
        &self,
        py: Python<'_>,
        decision: &Decision,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Option<Operation>> {
        let current = self.current()?;
        let Some(run) = decision.doubt() else { return Ok(None) };
        let pointers: SmallVec<[*mut ffi::PyObject; 8]> =
            args.iter_borrowed().map(|arg| arg.as_ptr()).collect();
        let mut copies = Copies::new();
        let tenant = match self.around(py)? {
            Around::Stopped(_) => None,
            Around::Tenant(tenant) => tenant,
        };
        // SAFETY: the pointers are those of the tuple's items, which it keeps alive.
        let once = unsafe {
            self.with_slots(py, &pointers, tenant, &mut copies, |reading| {
                self.decide_by(&current, reading, |inputs| once_of(&current, inputs))
            })?
        };
        let Ok(Some(once)) = once else { return Ok(None) };
        let arguments = PyDict::new(py);
        for (name, slot) in self.reader.covered() {
            match copies.get(*slot).and_then(Option::as_ref) {
                Some(copy) => arguments.set_item(name, copy)?,
                None => arguments.set_item(name, args.get_item(*slot)?)?,
            }
        }
        let OnceKey { key, gate } = *once;
        let operation = Operation::new(self.owner.clone_ref(py), gate, key, "in_doubt");
        Ok(Some(operation.doubt(run, None, Some(arguments.unbind()))))
    }

    /// The bytes of a result, as a repetition would get it; `None` (and a warning) when it cannot be stored.
    fn _encode<'py>(
        &self,
        py: Python<'py>,
        result: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.encode(py, result)?.map(|stored| PyBytes::new(py, &stored)))
    }

    /// The function that wrappers call: a builtin without keyword arguments, bound to this guard.
    fn _admitter(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        entry::admitter(&slf)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)?;
        self.reader.traverse(&visit)?;
        self.hooks.traverse(&visit)
    }
}

impl Guard {
    /// Runs what may wait for a disk or a server; other threads run Python meanwhile.
    #[inline]
    pub(crate) fn waiting<T: Send>(&self, py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
        if self.waits { py.detach(work) } else { work() }
    }

    /// A refusal of a call of this guard.
    pub(crate) fn block(&self, reasons: Vec<Reason>) -> Decision {
        Decision::block(&self.reader.tool, reasons).durable(self.durability)
    }

    /// The refusal of a repetition.
    #[cold]
    fn already_done(&self) -> Reason {
        let once = self.gates.current().and_then(|current| Some(current.once()?.1));
        let gate = once.unwrap_or_else(|| Arc::clone(&self.reader.tool));
        Reason {
            code: Code::AlreadyDone,
            kind: GateKind::Once,
            gate,
            retry: Retry::Never,
            detail: Detail::None,
        }
    }

    /// The gates that count for one call.
    #[inline]
    fn current(&self) -> PyResult<Current<'_>> {
        self.gates.current().ok_or_else(|| PyRuntimeError::new_err("a guard has lost its policy"))
    }

    /// What the run around a call says of it, where one says anything.
    #[inline]
    fn around(&self, py: Python<'_>) -> PyResult<Around> {
        if self.shared.surroundings.load(Ordering::Relaxed) == 0 {
            return Ok(Around::Tenant(None));
        }
        self.ask_around(py)
    }

    #[cold]
    fn ask_around(&self, _py: Python<'_>) -> PyResult<Around> {
        // SAFETY: the calling thread is attached; `_py` is the proof.
        let answer = unsafe {
            Python::attach_unchecked(|py| {
                self.owner.bind(py).call_method0("_around")?.extract::<(Option<String>, Option<String>)>()
            })
        };
        let (stopped, tenant) = answer?;
        Ok(match stopped {
            None => Around::Tenant(tenant),
            Some(why) => {
                let reason = reason::of_action(&self.reader.tool, Code::Frozen, why);
                Around::Stopped(Box::new(self.block(vec![reason])))
            }
        })
    }

    /// Whether a store that cannot answer lets calls through now.
    fn opens(&self) -> bool {
        match self.gates.current() {
            Some(Current::Filed(bound)) => bound.opens(),
            Some(Current::Code(_)) => self.open,
            None => false,
        }
    }

    /// Hands `decide` what the gates ask for of a call that was read.
    #[inline]
    fn decide_by<T>(
        &self,
        current: &Current<'_>,
        reading: &Reading<'_>,
        decide: impl FnOnce(&Inputs<'_>) -> T,
    ) -> Result<T, Vec<Reason>> {
        self.reader.decide(reading, |inputs| match current {
            Current::Code(_) => decide(inputs),
            Current::Filed(_) => {
                let call = self.reader.call(reading, inputs.tenant);
                current.with_inputs(&self.engine, call, inputs, decide)
            }
        })
    }

    /// Picks the gates for as many facts as a call needs.
    #[inline]
    fn by_facts<T>(
        &self,
        py: Python<'_>,
        usual: &Current<'_>,
        reading: &Reading<'_>,
        decide: impl FnOnce(&Current<'_>) -> Result<T, Vec<Reason>>,
    ) -> Result<T, Vec<Reason>> {
        let (Some(requires), Some(named)) = (&self.reader.requires, &reading.named) else {
            return decide(usual);
        };
        let counts = requires.counts(named);
        if counts.iter().all(|count| *count == 1) || !reading.problems.is_empty() {
            return decide(usual);
        }
        let gates = requires.variant(&counts, |counts| {
            let recipe = self.recipe.as_ref();
            let code = recipe.map(|recipe| requires.with(&recipe.code, counts)).unwrap_or_default();
            let policies = recipe.and_then(|recipe| recipe.policies.as_ref());
            Gates::new(py, &self.engine, policies, &self.reader.tool, code)
        });
        match gates.as_ref().map(|gates| gates.current()) {
            Ok(Some(current)) => decide(&current),
            Ok(None) => {
                Err(vec![reason::of_action(&self.reader.tool, Code::PolicyError, "it is gone".to_owned())])
            }
            Err(problem) => {
                Err(vec![reason::of_action(&self.reader.tool, Code::TooLarge, problem.to_string())])
            }
        }
    }

    /// What the permit of a call has to know.
    fn taken(&self, current: &Current<'_>, reading: &Reading<'_>, inputs: &Inputs<'_>) -> Taken {
        let (once, filed) = (once_of(current, inputs), self.filed(current, reading, inputs));
        let proving = reading.proving.take().map(|proving| proving.of_tenant(inputs.tenant));
        Taken { once, filed, proving, ..Taken::default() }
    }

    /// What a policy file says of a call beyond its gates.
    fn filed(&self, current: &Current<'_>, reading: &Reading<'_>, inputs: &Inputs<'_>) -> Option<Box<Filed>> {
        let Current::Filed(bound) = current else { return None };
        if bound.timeout().is_none() && !bound.proves() {
            return None;
        }
        let call = self.reader.call(reading, inputs.tenant).filter(|_| bound.proves());
        let proving = call.map(|call| Proving {
            bound: Arc::clone(bound),
            tenant: call.tenant.to_owned(),
            run: call.action.run.to_owned(),
            session: call.action.session.to_owned(),
            arguments: call.arguments.clone(),
            uncovered: call.uncovered.cloned(),
        });
        Some(Box::new(Filed { timeout: bound.timeout(), proving }))
    }

    /// Copies what must be copied, reads what the gates ask for, and hands it to `decide`.
    ///
    /// # Safety
    /// `args` are live objects for as long as this runs.
    #[inline]
    unsafe fn with_slots<'py, T>(
        &self,
        py: Python<'py>,
        args: &[*mut ffi::PyObject],
        tenant: Option<String>,
        copies: &mut Copies<'py>,
        decide: impl FnOnce(&Reading<'_>) -> Result<T, Vec<Reason>>,
    ) -> PyResult<Result<T, Vec<Reason>>> {
        if args.len() != self.slots {
            return Err(PyRuntimeError::new_err("a guard was called with the wrong number of arguments"));
        }
        if self.copies
            && let Err(unusable) = copy_containers(py, args, copies)
        {
            return match unusable {
                Unusable::Raised(error) => Err(error),
                Unusable::Wrong(text) | Unusable::TooLarge(text) => Ok(Err(vec![reason::of_action(
                    &self.reader.tool,
                    Code::TooLarge,
                    format!("arguments of {text}"),
                )])),
            };
        }
        let slots: SmallVec<[Borrowed<'_, 'py, PyAny>; 6]> = if copies.is_empty() {
            // SAFETY: as for this function.
            args.iter().map(|arg| unsafe { Borrowed::from_ptr(py, *arg) }).collect()
        } else {
            // SAFETY: as for this function.
            let original = |arg: *mut ffi::PyObject| unsafe { Borrowed::from_ptr(py, arg) };
            args.iter()
                .zip(copies.iter())
                .map(|(arg, copy)| copy.as_ref().map_or_else(|| original(*arg), |copy| copy.as_borrowed()))
                .collect()
        };
        let mut reading = Reading::default();
        reading.run_tenant = tenant;
        self.reader.read(py, &slots, &mut reading)?;
        Ok(decide(&reading))
    }

    /// Decides a call.
    ///
    /// # Safety
    /// `args` are live objects for as long as this runs.
    #[inline]
    pub(crate) unsafe fn decide<'py>(
        &self,
        py: Python<'py>,
        args: &[*mut ffi::PyObject],
    ) -> PyResult<Decided<'py>> {
        if self.shared.is_foreign() {
            return Err(error::forked(py));
        }
        let mut copies = Copies::new();
        let tenant = match self.around(py)? {
            Around::Stopped(decision) => return Ok(Decided::Blocked(decision)),
            Around::Tenant(tenant) => tenant,
        };
        let current = self.current()?;
        // SAFETY: as for this function.
        let admitted = unsafe {
            self.with_slots(py, args, tenant, &mut copies, |reading| {
                let held = if self.hooks.holds.is_empty() {
                    SmallVec::new()
                } else {
                    self.hooks.held(&reading.costs)
                };
                self.by_facts(py, &current, reading, |current| {
                    self.decide_by(current, reading, |inputs| {
                        let admitted = self.waiting(py, || self.engine.admit(current.compiled(), inputs));
                        if admitted.admission.verdict != Verdict::Allow {
                            return (admitted, Taken::default());
                        }
                        (admitted, Taken { held, ..self.taken(current, reading, inputs) })
                    })
                })
            })?
        };
        let (admitted, taken) = match admitted {
            Ok(admitted) => admitted,
            Err(reasons) => {
                return Ok(Decided::Blocked(Box::new(self.block(reasons))));
            }
        };
        // SAFETY: as for this function.
        let copied =
            || if copies.is_empty() { Ok(None) } else { unsafe { merged(py, args, copies).map(Some) } };
        self.decided(py, admitted, taken, copied)
    }

    /// What an admission means for the call.
    #[inline]
    pub(crate) fn decided<'py>(
        &self,
        _py: Python<'py>,
        admitted: Admitted,
        taken: Taken,
        copied: impl FnOnce() -> PyResult<Option<Bound<'py, PyTuple>>>,
    ) -> PyResult<Decided<'py>> {
        let Admission { mut verdict, mut reasons, mut observed, crossed } = admitted.admission;
        if !crossed.is_empty() {
            // SAFETY: as below.
            unsafe { Python::attach_unchecked(|py| self.crossed(py, &crossed)) };
        }
        if self.opens() && reasons.first().is_some_and(|reason| reason.code == Code::StoreError) {
            // Its owner wants it to let calls through then; who watches the engine is told.
            observed.append(&mut reasons);
            verdict = Verdict::Allow;
        }
        if !observed.is_empty() {
            // SAFETY: the calling thread is attached; `py` is the proof.
            unsafe { Python::attach_unchecked(|py| self.observed(py, &observed))? };
        }
        match verdict {
            Verdict::Allow => {
                let taken = Taken { observed, ..taken };
                Ok(Decided::Allowed(admitted.permit, copied()?, taken))
            }
            Verdict::Replay(result) if self.replays => Ok(Decided::Replay(result)),
            Verdict::Replay(_) => Ok(Decided::Blocked(Box::new(self.block(vec![self.already_done()])))),
            Verdict::Block => {
                if let Some(requires) = &self.reader.requires {
                    requires.hint(&mut reasons);
                }
                let decision =
                    Decision::new(&self.reader.tool, &Verdict::Block, reasons, observed, Vec::new());
                Ok(Decided::Blocked(Box::new(decision.durable(self.durability))))
            }
        }
    }

    /// What the wrapper gets: nothing, copies, a permit, or a refusal, raised or returned.
    pub(crate) fn answer(
        &self,
        py: Python<'_>,
        slf: &Bound<'_, Self>,
        decided: PyResult<Decided<'_>>,
    ) -> PyResult<Py<PyAny>> {
        let listening = self.shared.listening.load(Ordering::Acquire);
        let tool = &self.reader.tool;
        let plain = |verdict: &Verdict| {
            Decision::new(tool, verdict, Vec::new(), Vec::new(), Vec::new()).durable(self.durability)
        };
        match decided? {
            Decided::Allowed(permit, copied, mut taken) => {
                if listening {
                    let observed = std::mem::take(&mut taken.observed);
                    let decision = Decision::new(tool, &Verdict::Allow, Vec::new(), observed, Vec::new());
                    self.announce(py, Bound::new(py, decision.durable(self.durability))?.into_any());
                }
                if self.settles() {
                    let guard = slf.clone().unbind();
                    return Ok(
                        Py::new(py, Permit::new(guard, permit, copied.map(Bound::unbind), taken))?.into_any()
                    );
                }
                Ok(copied.map_or_else(|| py.None(), |copied| copied.unbind().into_any()))
            }
            Decided::Replay(result) => {
                if listening {
                    self.announce(
                        py,
                        Bound::new(py, plain(&Verdict::Replay(Arc::clone(&result))))?.into_any(),
                    );
                }
                Ok(Py::new(py, Permit::replay(slf.clone().unbind(), result))?.into_any())
            }
            Decided::Blocked(decision) => {
                let code = decision.first_code().unwrap_or(Code::PolicyError);
                let decision = Bound::new(py, *decision)?.into_any();
                if error::is_debugging(py)? {
                    self.owner.bind(py).call_method1("_refused", (decision.clone(),))?;
                }
                if listening {
                    self.announce(py, decision.clone());
                }
                if self.raises { Err(error::denied(py, code, decision)) } else { Ok(decision.unbind()) }
            }
        }
    }

    /// The bytes of a result; `None` (and a warning) when it cannot be stored.
    pub(crate) fn encode(&self, py: Python<'_>, result: &Bound<'_, PyAny>) -> PyResult<Option<Arc<[u8]>>> {
        Ok(match self.hooks.codec.encode(result)? {
            Ok(stored) => Some(stored),
            Err(problem) => {
                self.warn(py, &format!("the result was not stored: {problem}; repetitions will be refused"));
                None
            }
        })
    }

    /// Has the engine log a warning; whatever happens there, the call goes on.
    pub(crate) fn warn(&self, py: Python<'_>, text: &str) {
        let owner = self.owner.bind(py);
        if let Err(error) = owner.call_method1("_warn", (self.tool(), text)) {
            error::unraisable(py, error, owner.as_any());
        }
    }

    /// Tells the engine's listeners; whatever happens there, the call goes on.
    fn announce(&self, py: Python<'_>, decision: Bound<'_, PyAny>) {
        let owner = self.owner.bind(py);
        if let Err(error) = owner.call_method1("_announce", (self.tool(), decision)) {
            error::unraisable(py, error, owner.as_any());
        }
    }

    #[cold]
    fn crossed(&self, py: Python<'_>, crossed: &[Crossed]) {
        let owner = self.owner.bind(py);
        for Crossed { gate, percent } in crossed {
            if let Err(error) = owner.call_method1("_crossed", (self.tool(), &**gate, *percent)) {
                error::unraisable(py, error, owner.as_any());
            }
        }
    }

    #[cold]
    fn observed(&self, py: Python<'_>, observed: &[Reason]) -> PyResult<()> {
        let reasons = reason::tuple(py, observed)?;
        let owner = self.owner.bind(py);
        if let Err(error) = owner.call_method1("_observed", (self.tool(), reasons)) {
            error::unraisable(py, error, owner.as_any());
        }
        Ok(())
    }
}

/// A number of slots; more than a description can name are refused when the gates are compiled.
fn count(slots: usize) -> u16 {
    u16::try_from(slots).unwrap_or(u16::MAX)
}

/// The once key of these inputs.
fn once_of(current: &Current<'_>, inputs: &Inputs<'_>) -> Option<Box<OnceKey>> {
    let (KeyValue::Bytes(key), _) = inputs.once? else { return None };
    let (family, gate) = current.once()?;
    let key = Key::new(KeyRef { family, tenant: inputs.tenant.as_bytes(), key });
    Some(Box::new(OnceKey { key, gate }))
}

/// Copies every container among the arguments; nothing is allocated when there is none.
#[inline]
fn copy_containers<'py>(
    py: Python<'py>,
    args: &[*mut ffi::PyObject],
    copies: &mut Copies<'py>,
) -> Result<(), Unusable> {
    // SAFETY: the caller's arguments are live.
    let borrowed = |arg: *mut ffi::PyObject| unsafe { Borrowed::<PyAny>::from_ptr(py, arg) };
    if !args.iter().any(|arg| convert::is_container(&borrowed(*arg))) {
        return Ok(());
    }
    let mut budget = MAX_NODES;
    let mut any = false;
    for arg in args {
        let copy = convert::snapshot(&borrowed(*arg), &mut budget, 0)?;
        any |= copy.is_some();
        copies.push(copy);
    }
    if !any {
        copies.clear();
    }
    Ok(())
}

/// The arguments with their copies, as the wrapper takes them over.
///
/// # Safety
/// `args` are live objects.
unsafe fn merged<'py>(
    py: Python<'py>,
    args: &[*mut ffi::PyObject],
    copies: Copies<'py>,
) -> PyResult<Bound<'py, PyTuple>> {
    let merged = args.iter().zip(copies).map(|(arg, copy)| {
        // SAFETY: as for this function.
        copy.unwrap_or_else(|| unsafe { Bound::from_borrowed_ptr(py, *arg) })
    });
    PyTuple::new(py, merged.collect::<Vec<_>>())
}
