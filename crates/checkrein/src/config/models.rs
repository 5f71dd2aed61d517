//! Sections of models.

use std::collections::BTreeMap;
use std::ops::Range;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::policy::MAX_GATES;
use toml::de::DeTable;

use super::model::*;
use super::pattern::Pattern;
use super::sections::{Reader, field, lineage, list, mode, number, table, text};
use super::shape::Text;
use super::tools::{breaker, limit, rule, tables};

/// Reads all sections, the most specific last.
pub(super) fn read_all(reader: &mut Reader<'_>, file: &DeTable<'_>) -> Vec<ModelSection> {
    let mut places: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut sections: Vec<ModelSection> = Vec::new();
    for (name, section) in table(file, "models").into_iter().flatten() {
        let Some(of) = section.get_ref().as_table() else { continue };
        // Names of models mean the same in any case: what is written otherwise must not slip past a section.
        let pattern = name.get_ref().to_lowercase();
        if places.insert(pattern.clone(), name.span()).is_some() {
            let message = format!("`{pattern}` has two sections that differ in case only");
            reader.problems.add("policy_contradiction", name.span(), message, "keep one of them".to_owned());
        }
        sections.push(read(reader, &pattern, of));
    }
    sections.sort_by(|a, b| a.pattern.by_specificity(&b.pattern));
    for section in &sections {
        let name = section.pattern.as_str();
        let above = sections.iter().filter(|other| {
            section.pattern.is_exact() && !other.pattern.is_exact() && other.pattern.covers(name)
        });
        let gates = above.map(|other| other.gates.gates()).fold(section.gates.gates(), usize::saturating_add);
        if gates > MAX_GATES {
            let message = format!("`{name}` has {gates} gates, those of its patterns included");
            let place = places.get(name).cloned().unwrap_or_default();
            reader.problems.add(
                "policy_too_many",
                place,
                message,
                format!("at most {MAX_GATES} are allowed"),
            );
        }
    }
    sections
}

fn read(reader: &mut Reader<'_>, pattern: &str, of: &DeTable<'_>) -> ModelSection {
    let whole = |name| field(of, name).and_then(|value| number(value.get_ref()));
    let mut gates = ToolSection {
        // The name of its gates: a tool of the same name counts on records of its own.
        pattern: Pattern::new(&format!("model:{pattern}")),
        mode: mode(of),
        rules: list(of, "rules").iter().filter_map(|item| rule(reader, item.get_ref())).collect(),
        limits: tables(of, "limits").filter_map(|item| limit(reader, item)).collect(),
        takes: takes(reader, of),
        attempts: None,
        once: None,
        breaker: breaker(reader, of),
        facts: Vec::new(),
        proves: Vec::new(),
        repetition: None,
        timeout: reader.span(of, "timeout", false),
        opens: None,
    };
    let (reserve_output, max_output) = (whole("reserve_output"), whole("max_output"));
    if let Some(most) = max_output
        && let Ok(check) = reader.expressions.compile(Text::Condition, &format!("args.max_output <= {most}"))
    {
        let (name, message) =
            ("max_output".to_owned(), format!("a call may ask for at most {most} output tokens"));
        gates.rules.push(RuleGate { check, when: None, lookalikes: None, name, message, mode: None });
    }
    if let (Some(reserved), Some(most)) = (reserve_output, max_output)
        && reserved > most
        && let Some(value) = field(of, "reserve_output")
    {
        let message = format!("`reserve_output` is more than the {most} of `max_output`");
        let hint = "reserve at most what a caller may ask for".to_owned();
        reader.problems.add("policy_contradiction", value.span(), message, hint);
    }
    ModelSection {
        pattern: Pattern::new(pattern),
        gates,
        reserve_output,
        max_output,
        reserve_unseen: whole("reserve_unseen"),
        provider: text(of, "provider").map(|(name, _)| name.to_owned()),
    }
}

/// The budgets a call is taken from. How much that is, the price of the call says.
fn takes(reader: &mut Reader<'_>, of: &DeTable<'_>) -> Vec<Take> {
    let mut takes: Vec<Take> = Vec::new();
    for item in list(of, "budgets") {
        let Some(name) = item.get_ref().as_str() else { continue };
        let place = item.span();
        if !reader.named_budgets.contains(name) {
            let known: Vec<String> = reader.named_budgets.iter().cloned().collect();
            reader.unknown_name("budget", name, place, &known.iter().map(String::as_str).collect::<Vec<_>>());
            continue;
        }
        let Some(unit) = reader.budgets.get(name).map(|budget| budget.unit) else { continue };
        if unit == Unit::ComputeUnits {
            let message = format!("`{name}` counts {unit}, which models have no price in");
            let hint = "take a call of a model from budgets in usd, tokens or calls".to_owned();
            reader.problems.add("policy_wrong_unit", place, message, hint);
            continue;
        }
        let line = lineage(&reader.budgets, name).unwrap_or_default();
        let same = takes.iter().find(|other| {
            let other_line = lineage(&reader.budgets, &other.budget).unwrap_or_default();
            line.contains(&other.budget) || other_line.iter().any(|above| above == name)
        });
        if let Some(other) = same {
            let message = format!("`{}` and `{name}` take from the same budget", other.budget);
            let hint = "a budget takes from its parents on its own".to_owned();
            reader.problems.add("policy_contradiction", place, message, hint);
            continue;
        }
        // What is held is worked out for each call; a call of a model is one call.
        takes.push(Take { budget: name.to_owned(), cost: TakenCost::Fixed(Amount::ONE), mode: None });
    }
    takes
}
