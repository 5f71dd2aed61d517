//! A policy file that was read: sections with their values checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::policy::Mode;
use checkrein_core::time::Span;

use super::pattern::Pattern;
use crate::engine::WindowSpec;
use crate::expression::Expression;
use crate::price::Terms;

/// The sections of a policy file.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    /// Whether a tool without a section may run.
    pub allows_unknown_tools: bool,
    /// The mode of gates and sections without one.
    pub mode: Mode,
    /// Who or what is stopped.
    pub freeze: Option<Arc<Freeze>>,
    /// Budgets by name.
    pub budgets: BTreeMap<String, BudgetSection>,
    /// Breakers by name, those that tools describe in full included.
    pub breakers: BTreeMap<String, BreakerSection>,
    /// Tools in the order of their specificity, the most specific last.
    pub tools: Vec<ToolSection>,
    /// Models in the order of their specificity, the most specific last.
    pub models: Vec<ModelSection>,
    /// What differs from the price book.
    pub terms: Terms,
}

/// A kill switch: what it names does not run, whatever else the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freeze {
    /// Tools.
    pub tools: Vec<Pattern>,
    /// Users.
    pub users: BTreeSet<String>,
    /// Tenants.
    pub tenants: BTreeSet<String>,
    /// Agents.
    pub agents: BTreeSet<String>,
    /// Runs.
    pub runs: BTreeSet<String>,
}

/// A budget.
#[derive(Clone, Debug)]
pub struct BudgetSection {
    /// For whom it counts; everybody without it.
    pub key: Option<Arc<Expression>>,
    /// The most that may be spent and held.
    pub limit: Amount,
    /// What is counted.
    pub unit: Unit,
    /// The window.
    pub window: WindowSpec,
    /// Refuses costs that are only estimated.
    pub hard: bool,
    /// The percentages of the limit at which it is announced, in growing order.
    pub thresholds: Arc<[u8]>,
    /// What is taken from it is taken from this one too.
    pub parent: Option<String>,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// A breaker.
#[derive(Clone, Debug)]
pub struct BreakerSection {
    /// For whom it counts; everybody without it.
    pub key: Option<Arc<Expression>>,
    /// Consecutive failures that open it.
    pub max_fails: u32,
    /// How long it stays open.
    pub reset: Span,
    /// Probes let through half-open.
    pub probes: u32,
    /// How long a probe may take.
    pub probe_lease: Span,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// What a file says of the tools whose name fits a pattern.
#[derive(Clone, Debug)]
pub struct ToolSection {
    /// Which tools.
    pub pattern: Pattern,
    /// The mode of its gates that have none of their own.
    pub mode: Option<Mode>,
    /// Conditions.
    pub rules: Vec<RuleGate>,
    /// Rate limits.
    pub limits: Vec<LimitGate>,
    /// Costs and the budgets they are taken from.
    pub takes: Vec<Take>,
    /// A bounded number of calls.
    pub attempts: Option<AttemptsGate>,
    /// At most one run per key.
    pub once: Option<OnceGate>,
    /// The name of a breaker.
    pub breaker: Option<String>,
    /// Values that must have been proved.
    pub facts: Vec<FactGate>,
    /// What results prove.
    pub proves: Vec<Proof>,
    /// Against repetition.
    pub repetition: Option<RepetitionGate>,
    /// How long a caller waits.
    pub timeout: Option<Span>,
    /// Whether calls pass when the store cannot answer.
    pub opens: Option<bool>,
}

/// What a file says of the models whose name fits a pattern.
#[derive(Clone, Debug)]
pub struct ModelSection {
    /// Which models: `MODEL`, or `PROVIDER/MODEL`, in lower case.
    pub pattern: Pattern,
    /// The gates. Costs are the prices of the calls.
    pub gates: ToolSection,
    /// The maximum of output tokens of a call whose caller sets none.
    pub reserve_output: Option<u32>,
    /// The most output tokens a caller may ask for.
    pub max_output: Option<u32>,
    /// The input tokens held for what a request does not contain.
    pub reserve_unseen: Option<u32>,
    /// The provider where the call names none.
    pub provider: Option<String>,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct RuleGate {
    /// What must hold.
    pub check: Arc<Expression>,
    /// Asked first; if it does not hold the rule passes.
    pub when: Option<Arc<Expression>>,
    /// The same two for texts as they look, where the rule compares these too.
    pub lookalikes: Option<Lookalikes>,
    /// Its name in reasons.
    pub name: String,
    /// What a refusal says.
    pub message: String,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// A rule for texts as they look.
#[derive(Clone, Debug)]
pub struct Lookalikes {
    /// What must hold.
    pub check: Arc<Expression>,
    /// Asked first.
    pub when: Option<Arc<Expression>>,
}

/// A rate limit, a cooldown or both.
#[derive(Clone, Debug)]
pub struct LimitGate {
    /// For whom it counts; everybody without it.
    pub key: Option<Arc<Expression>>,
    /// The most calls in a window, unless there is only a cooldown.
    pub max_calls: Option<(u32, WindowSpec)>,
    /// What must pass between two calls.
    pub cooldown: Span,
    /// Limits of one name count together.
    pub name: Option<String>,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// What a call takes from a budget.
#[derive(Clone, Debug)]
pub struct Take {
    /// The budget.
    pub budget: String,
    /// How much.
    pub cost: TakenCost,
    /// The mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// A cost in the unit of its budget.
#[derive(Clone, Debug)]
pub enum TakenCost {
    /// The same for every call.
    Fixed(Amount),
    /// Computed: nano-dollars, or whole units.
    Computed(Arc<Expression>),
}

/// A bounded number of calls.
#[derive(Clone, Debug)]
pub struct AttemptsGate {
    /// For whom it counts; everybody without it.
    pub key: Option<Arc<Expression>>,
    /// The most calls.
    pub max: u32,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// At most one run per key.
#[derive(Clone, Debug)]
pub struct OnceGate {
    /// The key.
    pub key: Arc<Expression>,
    /// How long a result is kept for replay.
    pub keep_result: Span,
    /// How long the key is remembered.
    pub keep_key: Span,
}

/// An argument that must have been proved.
#[derive(Clone, Debug)]
pub struct FactGate {
    /// Where it stands in the arguments, as a JSON pointer.
    pub argument: String,
    /// The kind of fact.
    pub kind: String,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}

/// A value of a result that becomes a fact.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The kind of fact.
    pub kind: String,
    /// Where it stands in the result, as a JSON pointer.
    pub pointer: String,
    /// Whether a value that was among the arguments of the call is proved by its result too.
    pub echo: bool,
}

/// Against repetition.
#[derive(Clone, Debug)]
pub struct RepetitionGate {
    /// The call of this number with the same arguments is refused.
    pub same_call: u32,
    /// Its mode, if it has one of its own.
    pub mode: Option<Mode>,
}
