//! Which sections of a policy file a gate comes from.

use checkrein::config::{Call, Pattern, Sections, ToolSection};
use checkrein_core::decision::GateKind;
use checkrein_core::json::Value;
use checkrein_core::policy::Gate;

/// The sections, the least specific first; a budget and a breaker have one of their own.
pub(super) fn sections_of(sections: &Sections, call: &Call<'_>, gate: &Gate) -> Vec<String> {
    let mut found = Vec::new();
    match gate.check.kind() {
        GateKind::Budget if sections.budgets.contains_key(&*gate.name) => {
            found.push(format!("budgets.{}", gate.name));
        }
        GateKind::Breaker if sections.breakers.contains_key(&*gate.name) => {
            found.push(format!("breakers.{}", gate.name));
        }
        _ => {}
    }
    if call.action.namespace == "model" {
        let model = call.action.name.to_lowercase();
        let provider =
            call.arguments.get("provider").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let sold = format!("{provider}/{model}");
        let covers = |pattern: &Pattern| pattern.covers(&model) || pattern.covers(&sold);
        let covering = sections.models.iter().filter(|section| covers(&section.pattern));
        let bringing = covering.filter(|section| brings(sections, &section.gates, gate));
        found.extend(bringing.map(|section| format!("models.\"{}\"", section.pattern)));
        return found;
    }
    let covering = sections.tools.iter().filter(|section| section.pattern.covers(call.action.name));
    let bringing = covering.filter(|section| brings(sections, section, gate));
    found.extend(bringing.map(|section| format!("tools.\"{}\"", section.pattern)));
    found
}

fn brings(sections: &Sections, section: &ToolSection, gate: &Gate) -> bool {
    let name: &str = &gate.name;
    // Gates without a name of their own are named after their section.
    let is_own = name.strip_prefix(section.pattern.as_str()).is_some_and(|rest| rest.starts_with('.'));
    match gate.check.kind() {
        GateKind::Rule => section.rules.iter().any(|rule| rule.name == name),
        GateKind::Fact => section.facts.iter().any(|fact| fact.kind == name),
        GateKind::Once => section.once.is_some(),
        GateKind::Breaker => section.breaker.as_deref() == Some(name),
        GateKind::Attempts => section.attempts.is_some() && is_own,
        GateKind::Budget => section.takes.iter().any(|take| reaches(sections, &take.budget, name)),
        GateKind::Limit => {
            let named = name.split_once('#').map_or(name, |(name, _)| name);
            is_own || section.limits.iter().any(|limit| limit.name.as_deref() == Some(named))
        }
        _ => false,
    }
}

/// Whether what is taken from a budget is taken from another one, itself or above it.
fn reaches(sections: &Sections, budget: &str, other: &str) -> bool {
    let mut at = Some(budget);
    // A file in which budgets form a ring is refused, and has no more of them than this.
    for _ in 0..=sections.budgets.len() {
        match at {
            Some(name) if name == other => return true,
            Some(name) => at = sections.budgets.get(name).and_then(|budget| budget.parent.as_deref()),
            None => return false,
        }
    }
    false
}
