//! The second look at a policy file: from values of the right form to sections, names and contradictions checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit, parse_quantity};
use checkrein_core::policy::Mode;
use checkrein_core::time::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expressions::Expressions;
use super::model::*;
use super::pattern::Pattern;
use super::problem::Problems;
use super::shape::Text;
use super::walk::cut;
use super::{models, prices, tools};
use crate::calendar::{Calendar, Period};
use crate::engine::WindowSpec;
use crate::expression::{Expression, nearest};

const MINUTE: Span = Span::from_secs(60);

/// Reads sections. What the first look found wrong is left out here without another word.
pub(super) struct Reader<'r> {
    pub(super) problems: &'r mut Problems,
    pub(super) expressions: &'r mut Expressions,
    pub(super) budgets: BTreeMap<String, BudgetSection>,
    /// The names of all budgets, those that could not be read included.
    pub(super) named_budgets: BTreeSet<String>,
    pub(super) breakers: BTreeMap<String, BreakerSection>,
    /// The breakers that have a section of their own.
    pub(super) named_breakers: BTreeSet<String>,
}

/// A field of a table: its value and place.
pub(super) fn field<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}

pub(super) fn text<'t>(table: &'t DeTable<'_>, name: &str) -> Option<(&'t str, Range<usize>)> {
    let value = field(table, name)?;
    Some((value.get_ref().as_str()?, value.span()))
}

pub(super) fn table<'t, 'i>(of: &'t DeTable<'i>, name: &str) -> Option<&'t DeTable<'i>> {
    field(of, name)?.get_ref().as_table()
}

pub(super) fn list<'t, 'i>(of: &'t DeTable<'i>, name: &str) -> &'t [Spanned<DeValue<'i>>] {
    field(of, name).and_then(|value| value.get_ref().as_array()).map_or(&[], |items| items.as_ref())
}

pub(super) fn number(value: &DeValue<'_>) -> Option<u32> {
    let number = value.as_integer()?;
    u32::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
}

pub(super) fn mode(of: &DeTable<'_>) -> Option<Mode> {
    match text(of, "mode")?.0 {
        "observe" => Some(Mode::Observe),
        "enforce" => Some(Mode::Enforce),
        _ => None,
    }
}

fn freeze(of: &DeTable<'_>) -> Freeze {
    fn texts<'t>(of: &'t DeTable<'_>, name: &str) -> impl Iterator<Item = &'t str> {
        list(of, name).iter().filter_map(|item| item.get_ref().as_str())
    }
    let named = |name| texts(of, name).map(str::to_owned).collect();
    Freeze {
        tools: texts(of, "tools").map(Pattern::new).collect(),
        users: named("users"),
        tenants: named("tenants"),
        agents: named("agents"),
        runs: named("runs"),
    }
}

/// In growing order, each once.
fn thresholds(of: &DeTable<'_>) -> Arc<[u8]> {
    let written = list(of, "thresholds").iter().filter_map(|item| number(item.get_ref()));
    let all: BTreeSet<u8> = written.filter_map(|percent| u8::try_from(percent).ok()).collect();
    all.into_iter().collect()
}

impl Reader<'_> {
    /// Reads a whole file.
    pub(super) fn read(mut self, file: &DeTable<'_>) -> Sections {
        let defaults = table(file, "defaults");
        if let Some(budgets) = table(file, "budgets") {
            self.named_budgets.extend(budgets.iter().map(|(name, _)| name.get_ref().to_string()));
            for (name, section) in budgets {
                if let Some(budget) = section.get_ref().as_table().and_then(|of| self.budget(of)) {
                    self.budgets.insert(name.get_ref().to_string(), budget);
                }
            }
            self.check_parents(budgets);
        }
        if let Some(breakers) = table(file, "breakers") {
            for (name, section) in breakers {
                let Some(of) = section.get_ref().as_table() else { continue };
                let breaker = self.breaker(of);
                self.named_breakers.insert(name.get_ref().to_string());
                self.breakers.insert(name.get_ref().to_string(), breaker);
            }
        }
        let mut sections = Vec::new();
        let mut places = BTreeMap::new();
        if let Some(tools) = table(file, "tools") {
            for (name, section) in tools {
                let Some(of) = section.get_ref().as_table() else { continue };
                let section = tools::read(&mut self, Pattern::new(name.get_ref()), of);
                places.insert(section.pattern.as_str().to_owned(), name.span());
                sections.push(section);
            }
        }
        sections.sort_by(|a, b| a.pattern.by_specificity(&b.pattern));
        tools::check_several(self.problems, &sections, &places);
        let models = models::read_all(&mut self, file);
        let terms = prices::read(&mut self, file);
        Sections {
            allows_unknown_tools: defaults
                .and_then(|of| text(of, "decision"))
                .is_some_and(|(word, _)| word == "allow"),
            mode: defaults.and_then(mode).unwrap_or_default(),
            freeze: table(file, "freeze").map(|of| Arc::new(freeze(of))),
            budgets: self.budgets,
            breakers: self.breakers,
            tools: sections,
            models,
            terms,
        }
    }

    pub(super) fn expression(&mut self, of: &DeTable<'_>, name: &str, form: Text) -> Option<Arc<Expression>> {
        self.expressions.compile(form, text(of, name)?.0).ok()
    }

    /// A duration; one without a length is refused where `least` says so.
    pub(super) fn span(&mut self, of: &DeTable<'_>, name: &str, may_be_zero: bool) -> Option<Span> {
        let (written, place) = text(of, name)?;
        match Span::parse(written) {
            Some(span) if span.is_zero() && !may_be_zero => {
                let message = format!("`{name}` has no length");
                self.problems.add("policy_bad_duration", place, message, "use more than zero".to_owned());
                None
            }
            found => found,
        }
    }

    pub(super) fn window(&mut self, of: &DeTable<'_>) -> Option<WindowSpec> {
        if let Some((word, _)) = text(of, "calendar") {
            let period = Period::parse(word)?;
            let (zone, place) = text(of, "tz").unwrap_or(("UTC", 0..0));
            return match Calendar::new(period, zone) {
                Ok(calendar) => Some(WindowSpec::Calendar(calendar)),
                Err(error) => {
                    let hint = Text::Zone.advice().to_owned();
                    self.problems.add("policy_unknown_zone", place, error.to_string(), hint);
                    None
                }
            };
        }
        if field(of, "window").is_some() {
            return self.span(of, "window", false).map(WindowSpec::Rolling);
        }
        Some(WindowSpec::Lifetime)
    }

    /// An amount; what the form of the text let pass may still be too fine or too large.
    pub(super) fn quantity(&mut self, of: &DeTable<'_>, name: &str) -> Option<(Amount, Unit)> {
        let (written, place) = text(of, name)?;
        match parse_quantity(written) {
            Ok(found) => Some(found),
            Err(error) => {
                self.problems.add("policy_bad_amount", place, error.to_string(), error.hint().to_owned());
                None
            }
        }
    }

    fn budget(&mut self, of: &DeTable<'_>) -> Option<BudgetSection> {
        let key = self.expression(of, "key", Text::Key);
        let window = self.window(of);
        let (limit, unit) = self.quantity(of, "limit")?;
        Some(BudgetSection {
            key,
            limit,
            unit,
            window: window?,
            hard: field(of, "hard").and_then(|value| value.get_ref().as_bool()).unwrap_or_default(),
            thresholds: thresholds(of),
            parent: text(of, "parent").map(|(name, _)| name.to_owned()),
            mode: mode(of),
        })
    }

    fn check_parents(&mut self, sections: &DeTable<'_>) {
        for (name, section) in sections {
            let Some((parent, place)) = section.get_ref().as_table().and_then(|of| text(of, "parent")) else {
                continue;
            };
            let exists = sections.iter().any(|(other, _)| other.get_ref() == parent);
            if !exists {
                let known: Vec<&str> = sections.iter().map(|(name, _)| name.get_ref().as_ref()).collect();
                self.unknown_name("budget", parent, place, &known);
                continue;
            }
            let (child, above) = (self.budgets.get(name.get_ref().as_ref()), self.budgets.get(parent));
            let (Some(child), Some(above)) = (child, above) else { continue };
            if child.unit != above.unit {
                let message =
                    format!("`{}` counts {}, its parent {}", name.get_ref(), child.unit, above.unit);
                let hint = "a budget and its parent count the same unit".to_owned();
                self.problems.add("policy_contradiction", place, message, hint);
            } else if lineage(&self.budgets, name.get_ref()).is_none() {
                let message = format!("`{}` is its own ancestor", name.get_ref());
                self.problems.add(
                    "policy_contradiction",
                    place,
                    message,
                    "remove one `parent` of the ring".to_owned(),
                );
            }
        }
    }

    pub(super) fn breaker(&mut self, of: &DeTable<'_>) -> BreakerSection {
        let whole = |name| field(of, name).and_then(|value| number(value.get_ref()));
        BreakerSection {
            key: self.expression(of, "key", Text::Key),
            max_fails: whole("max_fails").unwrap_or(5),
            reset: self.span(of, "reset", false).unwrap_or(MINUTE),
            probes: whole("probes").unwrap_or(1),
            probe_lease: self.span(of, "probe_lease", false).unwrap_or(MINUTE),
            mode: mode(of),
        }
    }

    pub(super) fn unknown_name(&mut self, what: &str, name: &str, place: Range<usize>, known: &[&str]) {
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("add a section `[{what}s.{}]`", cut(name)),
            None => format!(
                "known: {}",
                known.iter().take(8).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
            ),
        };
        self.problems.add("policy_unknown_name", place, format!("no {what} is named `{}`", cut(name)), hint);
    }
}

/// A budget and those above it, itself first; nothing when they form a ring.
pub(super) fn lineage(budgets: &BTreeMap<String, BudgetSection>, name: &str) -> Option<Vec<String>> {
    let mut line = vec![name.to_owned()];
    let mut at = budgets.get(name).and_then(|budget| budget.parent.as_deref());
    while let Some(parent) = at {
        if line.iter().any(|known| known == parent) {
            return None;
        }
        line.push(parent.to_owned());
        at = budgets.get(parent).and_then(|budget| budget.parent.as_deref());
    }
    Some(line)
}
