//! Sections of tools.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::policy::MAX_GATES;
use checkrein_core::time::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expressions::VARIABLES;
use super::model::*;
use super::pattern::Pattern;
use super::problem::Problems;
use super::sections::{Reader, field, lineage, list, mode, number, table, text};
use super::shape::Text;
use crate::expression::Expression;

const DAY: Span = Span::from_secs(86_400);
const KEY_KEPT: Span = Span::from_secs(400 * 86_400);

/// Reads one section.
pub(super) fn read(reader: &mut Reader<'_>, pattern: Pattern, of: &DeTable<'_>) -> ToolSection {
    let section = ToolSection {
        pattern,
        mode: mode(of),
        rules: list(of, "rules").iter().filter_map(|item| rule(reader, item.get_ref())).collect(),
        limits: tables(of, "limits").filter_map(|item| limit(reader, item)).collect(),
        takes: takes(reader, of),
        attempts: attempts(reader, of),
        once: table(of, "once").and_then(|once| self::once(reader, once)),
        breaker: breaker(reader, of),
        facts: tables(of, "facts").filter_map(fact).collect(),
        proves: tables(of, "proves").filter_map(proof).collect(),
        repetition: table(of, "loop").and_then(|of| {
            Some(RepetitionGate { same_call: number(field(of, "same_call")?.get_ref())?, mode: mode(of) })
        }),
        timeout: reader.span(of, "timeout", false),
        opens: text(of, "on_store_error").map(|(word, _)| word == "open"),
    };
    for (number, fact) in section.facts.iter().enumerate() {
        if section.facts.iter().take(number).any(|other| other.kind == fact.kind)
            && let Some((_, place)) = tables(of, "facts").nth(number).and_then(|fact| text(fact, "kind"))
        {
            let message = format!("two facts of the kind `{}`", fact.kind);
            let hint = "name kinds after what was read: `payment`, `customer`".to_owned();
            reader.problems.add("policy_contradiction", place, message, hint);
        }
    }
    if section.opens == Some(true)
        && let Some((_, place)) = text(of, "on_store_error")
        && !(section.gates() == 1 && section.limits.len() == 1)
    {
        let hint =
            "everything else must hold when the store is gone; give the rate a tool of its own".to_owned();
        reader.problems.add("policy_contradiction", place, "only a single rate limit may fail open", hint);
    }
    section
}

impl ToolSection {
    /// How many gates it brings along, parents of budgets not counted.
    pub fn gates(&self) -> usize {
        [
            self.rules.len(),
            self.limits.len(),
            self.takes.len(),
            self.facts.len(),
            usize::from(self.attempts.is_some()),
            usize::from(self.once.is_some()),
            usize::from(self.breaker.is_some()),
            usize::from(self.repetition.is_some()),
        ]
        .into_iter()
        .sum()
    }
}

pub(super) fn tables<'t, 'i>(of: &'t DeTable<'i>, name: &str) -> impl Iterator<Item = &'t DeTable<'i>> {
    list(of, name).iter().filter_map(|item| item.get_ref().as_table())
}

pub(super) fn rule(reader: &mut Reader<'_>, item: &DeValue<'_>) -> Option<RuleGate> {
    if let Some(check) = item.as_str() {
        let compiled = reader.expressions.compile(Text::Condition, check).ok()?;
        let name = check.to_owned();
        let message = name.clone();
        return Some(RuleGate { check: compiled, when: None, lookalikes: None, message, name, mode: None });
    }
    let of = item.as_table()?;
    let check = reader.expression(of, "check", Text::Condition)?;
    let compares = field(of, "lookalikes").and_then(|value| value.get_ref().as_bool()).unwrap_or_default();
    let lookalikes = if compares { Some(self::lookalikes(reader, of)?) } else { None };
    let name = text(of, "name").map_or(check.text(), |(name, _)| name).to_owned();
    Some(RuleGate {
        when: reader.expression(of, "when", Text::Condition),
        message: text(of, "message").map_or(name.as_str(), |(message, _)| message).to_owned(),
        name,
        check,
        lookalikes,
        mode: mode(of),
    })
}

/// The expressions of a rule for texts as they look.
fn lookalikes(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Option<Lookalikes> {
    let mut compile = |name| {
        let (written, place) = text(of, name)?;
        match Expression::compile_lookalike(written, &VARIABLES) {
            Ok(compiled) => Some(Arc::new(compiled)),
            Err(error) => {
                let hint =
                    "leave `lookalikes` out, or write it with `contains`, `startsWith` or `==`".to_owned();
                reader.problems.add(error.code, place, error.message, hint);
                None
            }
        }
    };
    let check = compile("check")?;
    let when = if field(of, "when").is_some() { Some(compile("when")?) } else { None };
    Some(Lookalikes { check, when })
}

pub(super) fn limit(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Option<LimitGate> {
    let max_calls = match field(of, "max_calls") {
        Some(value) => Some((number(value.get_ref())?, reader.window(of)?)),
        None => None,
    };
    Some(LimitGate {
        key: reader.expression(of, "key", Text::Key),
        cooldown: reader.span(of, "cooldown", max_calls.is_some()).unwrap_or(Span::ZERO),
        max_calls,
        name: text(of, "name").map(|(name, _)| name.to_owned()),
        mode: mode(of),
    })
}

fn takes(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Vec<Take> {
    let mut takes: Vec<Take> = Vec::new();
    for item in list(of, "budgets") {
        let Some((take, place)) = take(reader, item) else { continue };
        let line = lineage(&reader.budgets, &take.budget).unwrap_or_default();
        for other in &takes {
            let other_line = lineage(&reader.budgets, &other.budget).unwrap_or_default();
            if line.contains(&other.budget) || other_line.contains(&take.budget) {
                let message = format!("`{}` and `{}` take from the same budget", other.budget, take.budget);
                let hint = "a budget takes from its parents on its own".to_owned();
                reader.problems.add("policy_contradiction", place.clone(), message, hint);
            }
        }
        takes.push(take);
    }
    takes
}

fn take(reader: &mut Reader<'_>, item: &Spanned<DeValue<'_>>) -> Option<(Take, Range<usize>)> {
    let (name, place, of) = match item.get_ref() {
        DeValue::String(name) => (name.as_ref(), item.span(), None),
        DeValue::Table(of) => {
            let (name, place) = text(of, "name")?;
            (name, place, Some(of))
        }
        _ => return None,
    };
    if !reader.named_budgets.contains(name) {
        let known: Vec<String> = reader.named_budgets.iter().cloned().collect();
        reader.unknown_name("budget", name, place, &known.iter().map(String::as_str).collect::<Vec<_>>());
        return None;
    }
    let unit = reader.budgets.get(name)?.unit;
    let cost = match of.and_then(|of| Some((of, field(of, "cost")?))) {
        None if unit == Unit::Calls => TakenCost::Fixed(Amount::ONE),
        None => {
            let message = format!("nothing says what a call takes from `{name}`");
            let hint = format!("write `{{ name = \"{name}\", cost = \"1 {unit}\" }}`");
            reader.problems.add("policy_missing_field", place, message, hint);
            return None;
        }
        Some((of, value)) => match value.get_ref() {
            DeValue::Table(computed) => {
                TakenCost::Computed(reader.expression(computed, "cel", Text::Cost)?)
            }
            _ => {
                let (amount, found) = reader.quantity(of, "cost")?;
                if found != unit {
                    let message = format!("a cost in {found} for a budget in {unit}");
                    let hint = format!("write it in {unit}");
                    reader.problems.add("policy_wrong_unit", value.span(), message, hint);
                    return None;
                }
                TakenCost::Fixed(amount)
            }
        },
    };
    Some((Take { budget: name.to_owned(), cost, mode: of.and_then(mode) }, place))
}

fn attempts(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Option<AttemptsGate> {
    let value = field(of, "attempts")?.get_ref();
    if let Some(of) = value.as_table() {
        let max = number(field(of, "max")?.get_ref())?;
        return Some(AttemptsGate { key: reader.expression(of, "key", Text::Key), max, mode: mode(of) });
    }
    Some(AttemptsGate { key: None, max: number(value)?, mode: None })
}

fn once(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Option<OnceGate> {
    let key = reader.expression(of, "key", Text::Key);
    let keep_result = reader.span(of, "keep_result", true).unwrap_or(DAY);
    let kept = reader.span(of, "keep_key", false);
    if let (Some(kept), Some((_, place))) = (kept, text(of, "keep_key"))
        && kept < keep_result
    {
        let message = "the key would be forgotten before its result";
        let hint = "keep the key at least as long as the result".to_owned();
        reader.problems.add("policy_contradiction", place, message, hint);
    }
    Some(OnceGate { key: key?, keep_result, keep_key: kept.unwrap_or(KEY_KEPT).max(keep_result) })
}

pub(super) fn breaker(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Option<String> {
    let value = field(of, "breaker")?;
    if let Some(name) = value.get_ref().as_str() {
        if !reader.breakers.contains_key(name) {
            let known: Vec<String> = reader.breakers.keys().cloned().collect();
            reader.unknown_name(
                "breaker",
                name,
                value.span(),
                &known.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
        return Some(name.to_owned());
    }
    let own = value.get_ref().as_table()?;
    let (name, place) = text(own, "name")?;
    let section = reader.breaker(own);
    let known = reader.breakers.get(name);
    let hint = "describe it once, as a section of its own, and name it in the tools".to_owned();
    if reader.named_breakers.contains(name) {
        let message = format!("the breaker `{name}` has a section of its own too");
        reader.problems.add("policy_contradiction", place, message, hint);
    } else if known.is_some_and(|known| known.words() != section.words()) {
        let message = format!("the breaker `{name}` is described in two ways");
        reader.problems.add("policy_contradiction", place, message, hint);
    } else {
        reader.breakers.insert(name.to_owned(), section);
    }
    Some(name.to_owned())
}

impl BreakerSection {
    /// All it says, for comparison.
    fn words(&self) -> impl PartialEq + '_ {
        let key = self.key.as_ref().map(|key| key.text());
        (key, self.max_fails, self.reset, self.probes, self.probe_lease, self.mode)
    }
}

fn fact(of: &DeTable<'_>) -> Option<FactGate> {
    let (argument, kind) = (text(of, "arg")?.0.to_owned(), text(of, "kind")?.0.to_owned());
    Some(FactGate { argument, kind, mode: mode(of) })
}

fn proof(of: &DeTable<'_>) -> Option<Proof> {
    let echo = field(of, "echo").and_then(|value| value.get_ref().as_bool()).unwrap_or_default();
    let (kind, pointer) = (text(of, "kind")?.0.to_owned(), text(of, "pointer")?.0.to_owned());
    Some(Proof { kind, pointer, echo })
}

/// What exact names and the patterns that cover them cannot both say.
pub(super) fn check_several(
    problems: &mut Problems,
    sections: &[ToolSection],
    places: &BTreeMap<String, Range<usize>>,
) {
    let patterns: Vec<&ToolSection> = sections.iter().filter(|section| !section.pattern.is_exact()).collect();
    for section in sections {
        let name = section.pattern.as_str();
        let place = || places.get(name).cloned().unwrap_or_default();
        let above =
            || patterns.iter().filter(|other| section.pattern.is_exact() && other.pattern.covers(name));
        let gates = above().map(|other| other.gates()).fold(section.gates(), usize::saturating_add);
        if gates > MAX_GATES {
            let message = format!("`{name}` has {gates} gates, those of its patterns included");
            problems.add("policy_too_many", place(), message, format!("at most {MAX_GATES} are allowed"));
        }
        let several = |has: fn(&ToolSection) -> bool| {
            let mut all = above().copied().chain([section]).filter(|section| has(section));
            all.next().zip(all.next()).map(|(one, _)| one.pattern.to_string())
        };
        let hint = "keep one of them: a call has one such gate".to_owned();
        if let Some(other) = several(|section| section.once.is_some()) {
            let message = format!("`{name}` has a once key of its own and one of `{other}`");
            problems.add("policy_contradiction", place(), message, hint);
        }
    }
}
