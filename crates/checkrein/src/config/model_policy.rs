//! The gates and prices of the models of a policy file.

use std::collections::HashMap;
use std::sync::Arc;

use checkrein_core::amount::{Amount, Unit};
use checkrein_core::policy::{Charge, Check, Mode};
use checkrein_core::time::Span;
use parking_lot::Mutex;

use super::PolicyError;
use super::binding::{CodeGates, shifted};
use super::model::{ModelSection, Sections, ToolSection};
use super::resolve::{Question, Resolved};
use crate::engine::{CompileOptions, CompiledPolicy, Engine, GateSpec, GateSpecKind, ScopeShape, Taking};
use crate::price::{PriceError, PriceList, Quote, Terms, book};

/// The most models whose gates are kept.
const MAX_KEPT: usize = 10_000;

/// The gates of one model.
#[derive(Debug)]
pub(super) struct ModelPolicy {
    pub(super) gates: Arc<ModelGates>,
    pub(super) resolved: Resolved,
    origin: String,
    name: String,
    pub(super) reserve_output: Option<u64>,
    pub(super) reserve_unseen: Option<u64>,
}

/// Gates compiled for calls of one model.
#[derive(Debug)]
pub(super) struct ModelGates {
    pub(super) compiled: Arc<CompiledPolicy>,
    /// The budgets that hold, in the order of a permit's holds.
    pub(super) holds: Vec<ModelHold>,
}

/// A budget that a call of a model holds in.
#[derive(Debug)]
pub(super) struct ModelHold {
    pub(super) budget: Arc<str>,
    pub(super) unit: Unit,
    /// It is a meter of a scope around the call, not a budget of the file.
    pub(super) is_scope: bool,
    pub(super) is_limited: bool,
}

impl ModelPolicy {
    /// Its gates and those of the scopes around a call as one policy.
    pub(super) fn inside(
        self: &Arc<Self>,
        engine: &Engine,
        scopes: &ScopeShape,
    ) -> Result<Arc<ModelGates>, PolicyError> {
        scopes.kept(self, Taking::Hold, || self.join(engine, Some(scopes), Taking::Hold))
    }

    /// Its budgets, and the scopes around a call, as what records without asking.
    pub(super) fn recording(
        self: &Arc<Self>,
        engine: &Engine,
        scopes: Option<&ScopeShape>,
    ) -> Result<Arc<ModelGates>, PolicyError> {
        match scopes {
            None => self.join(engine, None, Taking::Record).map(Arc::new),
            Some(of) => of.kept(self, Taking::Record, || self.join(engine, scopes, Taking::Record)),
        }
    }

    fn join(
        &self,
        engine: &Engine,
        scopes: Option<&ScopeShape>,
        taking: Taking,
    ) -> Result<ModelGates, PolicyError> {
        let mut own = scopes.map(|scopes| scopes.gates(taking)).unwrap_or_default();
        let budgets = own.len();
        if scopes.is_some() && taking == Taking::Hold {
            let kind = GateSpecKind::Rule { verdict: 0 };
            own.push(GateSpec { name: "price".to_owned(), mode: Mode::Enforce, kind });
        }
        // With scopes there is a verdict before those of the file, whether a gate reads it or not.
        let [keys, costs, verdicts] = match scopes {
            Some(scopes) => [scopes.key_count(), 4, 1],
            None => [0, 0, 0],
        };
        let code = CodeGates { gates: own, keys, costs, verdicts, ..CodeGates::default() };
        let mut filed: Vec<GateSpec> = self.resolved.gates.iter().map(|gate| shifted(gate, &code)).collect();
        if taking == Taking::Record {
            filed.retain(|gate| matches!(gate.kind, GateSpecKind::Budget { .. }));
            for gate in &mut filed {
                gate.mode = Mode::Observe;
                if let GateSpecKind::Budget { charge, .. } = &mut gate.kind {
                    *charge = Charge::Fixed;
                }
            }
        }
        let mut gates = code.gates;
        let of_code = gates.len();
        gates.extend(filed);
        let mut origin = self.origin.clone();
        if scopes.is_some() {
            // Those of the code come first: whoever replays a ledger has to know which ones no file takes away.
            origin = format!("gates of the code: {of_code}\n{origin}");
        }
        gates_of(engine, gates, &self.resolved, origin, &self.name, budgets)
    }

    /// How long a call can last: prices that change meanwhile count.
    pub(super) fn lasts(&self) -> Span {
        self.resolved.timeout.unwrap_or(self.gates.compiled.policy().leases().started)
    }

    /// Whether a budget counts in this unit.
    pub(super) fn counts(&self, unit: Unit) -> bool {
        self.resolved.costs.iter().any(|(_, of)| *of == unit)
    }
}

/// The models of a policy file.
#[derive(Debug)]
pub(super) struct Models {
    /// The book under the terms of the file. A file that says nothing of models does not read the book.
    prices: Option<PriceList<'static>>,
    /// Models that were asked for, compiled when they are first seen.
    seen: Mutex<HashMap<String, Arc<ModelPolicy>>>,
    /// What holds for models that no section covers.
    uncovered: Arc<ModelPolicy>,
    /// What the ledger is told of where the gates come from.
    origin: String,
}

/// A model as a call names it, and what is known of it.
pub(super) struct Known<'p> {
    pub(super) provider: Option<String>,
    pub(super) quote: Result<Quote<'p>, PriceError>,
}

impl Models {
    pub(super) fn new(engine: &Engine, sections: &Sections, origin: &str) -> Result<Self, PolicyError> {
        let is_used = !sections.models.is_empty() || sections.terms != Terms::default();
        let prices = if is_used { Some(PriceList::new(book(), sections.terms.clone())?) } else { None };
        let uncovered = compile(engine, sections.uncovered(), &[], "policy", origin)?;
        let models = Self { prices, seen: Mutex::default(), uncovered, origin: origin.to_owned() };
        for section in sections.models.iter().filter(|section| section.pattern.is_exact()) {
            let name = section.pattern.as_str();
            let (provider, model) = name.split_once('/').map_or((None, name), |(p, m)| (Some(p), m));
            models.policy_of(engine, sections, provider, model)?;
        }
        Ok(models)
    }

    /// The prices of a model, and who sells it: the provider that the call names, else the one of the most specific
    /// section, else the one the book knows it of.
    pub(super) fn known(&self, sections: &Sections, provider: Option<&str>, model: &str) -> Known<'_> {
        let lower = model.to_lowercase();
        let named = provider.or_else(|| {
            let covering = sections.models.iter().filter(|section| section.pattern.covers(&lower));
            covering.rev().find_map(|section| section.provider.as_deref())
        });
        let quote = self.quote(named, model);
        let found = quote.as_ref().ok().filter(|quote| !quote.is_assumed).and_then(|quote| quote.found);
        let provider = match (named, found) {
            (_, Some(found)) => Some(found.provider.id.to_string()),
            (Some(named), None) => {
                let known = book().provider(named).map(|provider| provider.id.to_string());
                Some(known.unwrap_or_else(|| named.trim().to_lowercase()))
            }
            (None, None) => None,
        };
        Known { provider, quote }
    }

    /// The prices of a reference; `PROVIDER/MODEL` is understood where nothing goes by the whole of it.
    pub(super) fn quote(&self, provider: Option<&str>, model: &str) -> Result<Quote<'_>, PriceError> {
        let Some(prices) = &self.prices else {
            return Ok(Quote::from(book().find(provider, model)?));
        };
        let quote = prices.find(provider, model);
        if quote.as_ref().map_or(true, |quote| quote.is_assumed)
            && let Some((head, tail)) = model.split_once('/')
            && provider.is_none_or(|named| is_same(named, head))
            && let Ok(split) = prices.find(Some(head), tail)
            && !split.is_assumed
        {
            return Ok(split);
        }
        quote
    }

    /// Whether these are the gates of a model that no section covers.
    pub(super) fn is_uncovered(&self, policy: &Arc<ModelPolicy>) -> bool {
        Arc::ptr_eq(policy, &self.uncovered)
    }

    /// The gates of a model.
    pub(super) fn policy_of(
        &self,
        engine: &Engine,
        sections: &Sections,
        provider: Option<&str>,
        model: &str,
    ) -> Result<Arc<ModelPolicy>, PolicyError> {
        let model = model.to_lowercase();
        let full = provider.map(|provider| format!("{}/{model}", provider.to_lowercase()));
        let name = full.as_deref().unwrap_or(&model);
        if let Some(policy) = self.seen.lock().get(name) {
            return Ok(Arc::clone(policy));
        }
        let is_covered =
            |section: &&ModelSection| section.pattern.covers(&model) || section.pattern.covers(name);
        let covering: Vec<&ModelSection> = sections.models.iter().filter(is_covered).collect();
        if covering.is_empty() {
            return Ok(Arc::clone(&self.uncovered));
        }
        let gates: Vec<&ToolSection> = covering.iter().map(|section| &section.gates).collect();
        let mut resolved = sections.resolve_all(&gates);
        if resolved.costs.iter().any(|(_, unit)| matches!(unit, Unit::Usd | Unit::Tokens)) {
            // A call that cannot be bounded cannot be observed through: nothing would be counted.
            resolved.question("price", Mode::Enforce, Question::Price);
        }
        let policy = compile(engine, resolved, &covering, name, &self.origin)?;
        let mut seen = self.seen.lock();
        if seen.len() < MAX_KEPT {
            seen.insert(name.to_owned(), Arc::clone(&policy));
        }
        Ok(policy)
    }
}

/// Whether two names are those of one provider.
fn is_same(one: &str, other: &str) -> bool {
    let known = |name| book().provider(name).map(|provider| &*provider.id);
    one.eq_ignore_ascii_case(other) || known(one).is_some_and(|id| known(other) == Some(id))
}

fn compile(
    engine: &Engine,
    mut resolved: Resolved,
    covering: &[&ModelSection],
    name: &str,
    origin: &str,
) -> Result<Arc<ModelPolicy>, PolicyError> {
    for gate in &mut resolved.gates {
        if let GateSpecKind::Budget { charge, .. } = &mut gate.kind {
            *charge = Charge::Hold;
        }
    }
    let gates = gates_of(engine, resolved.gates.clone(), &resolved, origin.to_owned(), name, 0)?;
    let last = |of: fn(&ModelSection) -> Option<u32>| covering.iter().rev().find_map(|section| of(section));
    // Every section's maximum counts; what is reserved is no more than the smallest of them.
    let most = covering.iter().filter_map(|section| section.max_output).min();
    let reserved = last(|section| section.reserve_output);
    let reserve_output = [reserved, most].into_iter().flatten().min().map(u64::from);
    let reserve_unseen = last(|section| section.reserve_unseen).map(u64::from);
    let (gates, origin, name) = (Arc::new(gates), origin.to_owned(), name.to_owned());
    Ok(Arc::new(ModelPolicy { gates, resolved, origin, name, reserve_output, reserve_unseen }))
}

/// Compiles gates, of which the first budgets are those of scopes.
fn gates_of(
    engine: &Engine,
    gates: Vec<GateSpec>,
    resolved: &Resolved,
    origin: String,
    name: &str,
    scopes: usize,
) -> Result<ModelGates, PolicyError> {
    let options =
        CompileOptions { origin, thresholds: resolved.thresholds.clone(), ..CompileOptions::default() };
    let compiled = engine
        .compile_with(gates, &options)
        .map_err(|problem| PolicyError::Tool { tool: format!("model {name}"), problem })?;
    let budgets = compiled.policy().gates().iter().filter_map(|gate| match &gate.check {
        Check::Budget(budget) => Some((Arc::clone(&gate.name), budget.unit, budget.limit != Amount::MAX)),
        _ => None,
    });
    let hold = |(at, (budget, unit, is_limited)): (usize, (Arc<str>, Unit, bool))| ModelHold {
        budget,
        unit,
        is_scope: at < scopes,
        is_limited,
    };
    let holds = budgets.enumerate().map(hold).collect();
    Ok(ModelGates { compiled, holds })
}
