//! From the sections that cover a tool to its gates: those of all sections add up, and only scalars are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkrein_core::amount::Unit;
use checkrein_core::policy::{Charge, Mode};
use checkrein_core::time::Span;

use super::model::{Freeze, Proof, RuleGate, Sections, TakenCost, ToolSection};
use super::sections::lineage;
use crate::engine::{GateSpec, GateSpecKind, WindowSpec};
use crate::expression::Expression;

/// How long a call is remembered by a loop guard: longer than a run lasts.
const LOOP_KEPT: Span = Span::from_secs(86_400);
/// A cooldown alone is a limit that nobody reaches.
const NEVER_REACHED: u64 = 1 << 32;

/// Where the key of a gate comes from.
#[derive(Clone, Debug)]
pub(super) enum KeySource {
    /// One record for everybody.
    Everybody,
    /// An expression.
    Expression(Arc<Expression>),
    /// The run or session, and the value at a place in the arguments.
    Fact(String),
    /// The run or session, and the digest of the request.
    SameCall,
}

/// What a verdict of a call says, beside the rules that people write.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// A rule.
    Rule(RuleGate),
    /// Whether anything of the call is frozen.
    Freeze(Arc<Freeze>),
    /// Whether the cost of this position has a value.
    Cost(usize),
    /// Whether a call of a model can be bounded and priced: answered where its costs are worked out.
    Price,
    /// The tool is covered by no section: always a refusal.
    Uncovered,
}

/// The gates of a tool, and where what they ask for comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    pub(super) gates: Vec<GateSpec>,
    pub(super) keys: Vec<KeySource>,
    pub(super) costs: Vec<(TakenCost, Unit)>,
    /// What the verdicts answer, by position.
    pub(super) questions: Vec<Question>,
    pub(super) thresholds: BTreeMap<String, Arc<[u8]>>,
    pub(super) once: Vec<Arc<Expression>>,
    pub(super) proves: Vec<Proof>,
    pub(super) timeout: Option<Span>,
    pub(super) opens: bool,
}

impl Sections {
    /// Whether a section covers a tool.
    pub(super) fn covers(&self, tool: &str) -> bool {
        self.tools.iter().any(|section| section.pattern.covers(tool))
    }

    /// A gate of the code that would count on the records of one of the file, whatever tools it is for.
    pub(super) fn shared_with(&self, code: &[GateSpec]) -> Option<String> {
        code.iter().find_map(|gate| match gate.kind {
            GateSpecKind::Budget { .. } if self.budgets.contains_key(&gate.name) => {
                Some(format!("the budget `{}`", gate.name))
            }
            GateSpecKind::Breaker { .. } if self.breakers.contains_key(&gate.name) => {
                Some(format!("the breaker `{}`", gate.name))
            }
            GateSpecKind::Limit { .. } if self.names_limit(&gate.name) => {
                Some(format!("the limit `{}`", gate.name))
            }
            _ => None,
        })
    }

    fn names_limit(&self, name: &str) -> bool {
        self.tools.iter().flat_map(|section| &section.limits).any(|limit| limit.name.as_deref() == Some(name))
    }

    /// What holds for a tool that no section covers.
    pub(super) fn uncovered(&self) -> Resolved {
        let mut resolved = Resolved::default();
        resolved.freeze(self);
        if !self.allows_unknown_tools {
            resolved.question("policy", self.mode, Question::Uncovered);
        }
        resolved
    }

    /// The gates of a tool from all sections that cover it.
    pub(super) fn resolve(&self, tool: &str) -> Resolved {
        let covering: Vec<&ToolSection> =
            self.tools.iter().filter(|section| section.pattern.covers(tool)).collect();
        if covering.is_empty() { self.uncovered() } else { self.resolve_all(&covering) }
    }

    /// The gates of sections, of which the most specific comes last.
    pub(super) fn resolve_all(&self, covering: &[&ToolSection]) -> Resolved {
        let mut resolved = Resolved::default();
        resolved.freeze(self);
        for section in covering {
            resolved.section(self, section);
        }
        resolved.budgets(self, covering);
        resolved.timeout = covering.iter().rev().find_map(|section| section.timeout);
        let opens = covering.iter().rev().find_map(|section| section.opens).unwrap_or_default();
        resolved.opens = opens && matches!(resolved.gates.as_slice(), [only] if is_rate(only));
        resolved
    }
}

fn is_rate(gate: &GateSpec) -> bool {
    matches!(gate.kind, GateSpecKind::Limit { .. })
}

impl Resolved {
    fn key(&mut self, source: KeySource) -> u16 {
        self.keys.push(source);
        u16::try_from(self.keys.len().saturating_sub(1)).unwrap_or(u16::MAX)
    }

    fn key_of(&mut self, expression: Option<&Arc<Expression>>) -> u16 {
        self.key(
            expression
                .map_or(KeySource::Everybody, |expression| KeySource::Expression(Arc::clone(expression))),
        )
    }

    /// Adds a gate whose verdict answers a question.
    pub(super) fn question(&mut self, name: &str, mode: Mode, question: Question) {
        let verdict = u16::try_from(self.questions.len()).unwrap_or(u16::MAX);
        self.questions.push(question);
        self.gate(name, mode, GateSpecKind::Rule { verdict });
    }

    /// What is frozen does not run, whatever the mode.
    fn freeze(&mut self, sections: &Sections) {
        if let Some(freeze) = &sections.freeze {
            self.question("freeze", Mode::Enforce, Question::Freeze(Arc::clone(freeze)));
        }
    }

    /// Whether a gate compares whole requests with one another.
    pub(super) fn compares_requests(&self) -> bool {
        !self.once.is_empty() || self.keys.iter().any(|key| matches!(key, KeySource::SameCall))
    }

    /// Adds a gate; a second one that would count on the records of the first is numbered.
    fn gate(&mut self, name: &str, mode: Mode, kind: GateSpecKind) {
        // Two limits of different windows count on different records under one name: a limit that is added takes
        // nothing from the one that was there.
        let same_kind = |gate: &GateSpec| match (&gate.kind, &kind) {
            (GateSpecKind::Limit { window: one, .. }, GateSpecKind::Limit { window: other, .. }) => {
                one.is(other)
            }
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        let taken: BTreeSet<&str> =
            self.gates.iter().filter(|gate| same_kind(gate)).map(|gate| gate.name.as_str()).collect();
        let mut unique = name.to_owned();
        let mut number = 1_u32;
        while taken.contains(unique.as_str()) && !matches!(kind, GateSpecKind::Rule { .. }) {
            number = number.saturating_add(1);
            unique = format!("{name}#{number}");
        }
        self.gates.push(GateSpec { name: unique, mode, kind });
    }

    fn section(&mut self, sections: &Sections, section: &ToolSection) {
        let own = section.mode.unwrap_or(sections.mode);
        let pattern = section.pattern.as_str();
        for rule in &section.rules {
            self.question(&rule.name, rule.mode.unwrap_or(own), Question::Rule(rule.clone()));
        }
        for fact in &section.facts {
            if self.knows_fact(&fact.argument, &fact.kind, fact.mode.unwrap_or(own)) {
                continue;
            }
            let key = self.key(KeySource::Fact(fact.argument.clone()));
            // Facts are found by their kind, so that its name is not numbered: two of them are one too many.
            let kind = GateSpecKind::Fact { key };
            self.gates.push(GateSpec { name: fact.kind.clone(), mode: fact.mode.unwrap_or(own), kind });
        }
        if let Some(once) = &section.once {
            self.once.push(Arc::clone(&once.key));
            let (keep_result, keep_key) = (once.keep_result, once.keep_key);
            // Once is enforced whatever the mode.
            self.gate(
                &format!("{pattern}.once"),
                Mode::Enforce,
                GateSpecKind::Once { keep_result, keep_key },
            );
        }
        if let Some(name) = &section.breaker {
            self.breaker(sections, name, own);
        }
        if let Some(attempts) = &section.attempts {
            let key = self.key_of(attempts.key.as_ref());
            let kind = GateSpecKind::Attempts { key, max: u64::from(attempts.max) };
            self.gate(&format!("{pattern}.attempts"), attempts.mode.unwrap_or(own), kind);
        }
        for limit in &section.limits {
            let key = self.key_of(limit.key.as_ref());
            let label = limit.key.as_ref().map(|key| format!("[{}]", key.text())).unwrap_or_default();
            let what = if limit.max_calls.is_some() { "rate" } else { "cooldown" };
            let name = limit.name.clone().unwrap_or_else(|| format!("{pattern}.{what}{label}"));
            let (max_calls, window) = match &limit.max_calls {
                Some((max, window)) => (u64::from(*max), window.clone()),
                None => (NEVER_REACHED, WindowSpec::Rolling(limit.cooldown)),
            };
            let kind = GateSpecKind::Limit { key, max_calls, window, cooldown: limit.cooldown };
            self.gate(&name, limit.mode.unwrap_or(own), kind);
        }
        if let Some(repetition) = &section.repetition {
            let key = self.key(KeySource::SameCall);
            let kind = GateSpecKind::Repetition { key, same_call: repetition.same_call, keep: LOOP_KEPT };
            self.gate(&format!("{pattern}.loop"), repetition.mode.unwrap_or(own), kind);
        }
        self.proves.extend(section.proves.iter().cloned());
    }

    /// Whether another section asks for the same fact already; it then holds in the stricter mode of both.
    fn knows_fact(&mut self, argument: &str, kind: &str, mode: Mode) -> bool {
        let keys = &self.keys;
        let same = |gate: &&mut GateSpec| match gate.kind {
            GateSpecKind::Fact { key } => {
                let source = keys.get(usize::from(key));
                gate.name == kind && matches!(source, Some(KeySource::Fact(known)) if known == argument)
            }
            _ => false,
        };
        let known = self.gates.iter_mut().find(same);
        known.map(|gate| gate.mode = stricter(gate.mode, mode)).is_some()
    }

    /// Breakers of one name are one breaker: a second section only makes it hold more strictly.
    fn breaker(&mut self, sections: &Sections, name: &str, own: Mode) {
        let Some(breaker) = sections.breakers.get(name) else { return };
        let mode = breaker.mode.unwrap_or(own);
        let known =
            |gate: &&mut GateSpec| matches!(gate.kind, GateSpecKind::Breaker { .. }) && gate.name == name;
        if let Some(gate) = self.gates.iter_mut().find(known) {
            gate.mode = stricter(gate.mode, mode);
            return;
        }
        let key = self.key_of(breaker.key.as_ref());
        let kind = GateSpecKind::Breaker {
            key,
            max_fails: breaker.max_fails,
            reset: breaker.reset,
            probes: breaker.probes,
            probe_lease: breaker.probe_lease,
        };
        self.gate(name, mode, kind);
    }

    /// Budgets and their parents, each once: what a call takes from it the most specific section says.
    fn budgets(&mut self, sections: &Sections, covering: &[&ToolSection]) {
        for section in covering.iter().rev() {
            let own = section.mode.unwrap_or(sections.mode);
            for take in &section.takes {
                let Some(unit) = sections.budgets.get(&take.budget).map(|budget| budget.unit) else {
                    continue;
                };
                let cost = u16::try_from(self.costs.len()).unwrap_or(u16::MAX);
                self.costs.push((take.cost.clone(), unit));
                if matches!(take.cost, TakenCost::Computed(_)) {
                    // A cost without a value cannot be observed through: nothing would be counted.
                    let question = Question::Cost(usize::from(cost));
                    self.question(&format!("{} cost", take.budget), Mode::Enforce, question);
                }
                for name in lineage(&sections.budgets, &take.budget).unwrap_or_default() {
                    let Some(budget) = sections.budgets.get(&name) else { continue };
                    // The mode of what is taken is not for the budgets above.
                    let taken = take.mode.filter(|_| name == take.budget);
                    let mode = taken.or(budget.mode).unwrap_or(own);
                    let known = |gate: &&mut GateSpec| {
                        matches!(gate.kind, GateSpecKind::Budget { .. }) && gate.name == name
                    };
                    if let Some(gate) = self.gates.iter_mut().find(known) {
                        gate.mode = stricter(gate.mode, mode);
                        continue;
                    }
                    if !budget.thresholds.is_empty() {
                        self.thresholds.insert(name.clone(), Arc::clone(&budget.thresholds));
                    }
                    let key = self.key_of(budget.key.as_ref());
                    let kind = GateSpecKind::Budget {
                        key,
                        limit: budget.limit,
                        unit,
                        window: budget.window.clone(),
                        cost,
                        charge: Charge::Fixed,
                        hard: budget.hard,
                    };
                    self.gate(&name, mode, kind);
                }
            }
        }
    }
}

fn stricter(one: Mode, other: Mode) -> Mode {
    if one == Mode::Enforce { one } else { other }
}
