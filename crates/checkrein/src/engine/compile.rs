//! Policies compiled against an engine: gates with the families of records that they count on.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use checkrein_core::amount::Unit;
use checkrein_core::key::Family;
use checkrein_core::policy::{
    Attempts, BreakerSpec, Budget, Check, FactSpec, Gate, KeySlot, Leases, Limit, Mode, Once, Policy,
    PolicyError, RecordKind,
};
use checkrein_core::time::{Span, Timestamp, Window};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use super::spec::{GateSpec, GateSpecKind, WindowSpec, describe};
use super::{Backend, Engine};
use crate::calendar::Calendar;
use crate::store::StoreError;
use crate::store::durable::FamilyKey;

/// A policy compiled against an engine.
#[derive(Debug)]
pub struct CompiledPolicy {
    pub(super) policy: Policy,
    /// The policy is this one enforced rate limit and nothing else.
    pub(super) only_limit: Option<Limit>,
    /// By position of the gate; empty when no window is a calendar period.
    calendars: Vec<Option<Calendar>>,
    /// The gates in words, for the ledger, and the digest of these.
    text: String,
    digest: [u8; 32],
}

impl CompiledPolicy {
    /// The core's policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The one enforced rate limit that the policy is, if it is nothing else.
    pub(crate) fn only_limit(&self) -> Option<&Limit> {
        self.only_limit.as_ref()
    }

    /// The gates in words, one a line, as the ledger keeps them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of [`text`](Self::text).
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The ends of the calendar periods that `now` lies in, by position of the gate.
    #[inline]
    pub fn period_ends(&self, now: Timestamp) -> SmallVec<[Timestamp; 8]> {
        let end =
            |calendar: &Option<Calendar>| calendar.as_ref().map_or(Timestamp::MIN, |c| c.period_end(now));
        self.calendars.iter().map(end).collect()
    }
}

/// What there is to say of a policy beside its gates.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// How long unfinished permits are kept.
    pub leases: Leases,
    /// Where the gates come from, one a line: it is kept with them in the ledger.
    pub origin: String,
    /// Percentages of their limits at which budgets are announced, by the names of their gates.
    pub thresholds: BTreeMap<String, Arc<[u8]>>,
}

/// What an engine knows about a family of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyInfo {
    /// Its number.
    pub family: Family,
    /// The kind of record.
    pub kind: RecordKind,
    /// The gate's name.
    pub name: String,
    /// What a meter counts.
    pub unit: Option<Unit>,
    /// A meter's window.
    pub window: Option<Window>,
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A gate cannot work as written.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store does not know its families.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Compiles gates into a policy of this engine.
    ///
    /// # Errors
    /// A gate that cannot work as written, or a store that is not to be had.
    pub fn compile(&self, gates: Vec<GateSpec>, leases: Leases) -> Result<Arc<CompiledPolicy>, CompileError> {
        self.compile_with(gates, &CompileOptions { leases, ..CompileOptions::default() })
    }

    /// The same with more to say.
    ///
    /// # Errors
    /// A gate that cannot work as written, or a store that is not to be had.
    pub fn compile_with(
        &self,
        gates: Vec<GateSpec>,
        options: &CompileOptions,
    ) -> Result<Arc<CompiledPolicy>, CompileError> {
        let mut text = describe(&gates, options.leases);
        text.push_str(&options.origin);
        let digest = Sha256::digest(&text).into();
        let mut compiled = Vec::with_capacity(gates.len());
        let mut calendars = BTreeMap::new();
        for spec in gates {
            let (mut check, calendar) = self.check_of(&spec)?;
            if let (Check::Budget(budget), Some(at)) = (&mut check, options.thresholds.get(&spec.name)) {
                budget.thresholds = Arc::clone(at);
            }
            if let (Some((_, family, _)), Some(calendar)) = (check.record(), calendar) {
                calendars.insert(family, calendar);
            }
            compiled.push(Gate { name: spec.name.into(), mode: spec.mode, check });
        }
        let policy = Policy::new(compiled, options.leases)?;
        #[cfg(feature = "redis")]
        if let Backend::Redis(store) = &self.0.store {
            store.object_to(&policy)?;
        }
        let calendar_of =
            |gate: &Gate| gate.check.record().and_then(|(_, family, _)| calendars.get(&family).cloned());
        let calendars =
            if calendars.is_empty() { Vec::new() } else { policy.gates().iter().map(calendar_of).collect() };
        let only_limit = match policy.gates() {
            [Gate { mode: Mode::Enforce, check: Check::Limit(limit), .. }] if calendars.is_empty() => {
                Some(limit.clone())
            }
            _ => None,
        };
        Ok(Arc::new(CompiledPolicy { policy, only_limit, calendars, text, digest }))
    }

    fn check_of(&self, spec: &GateSpec) -> Result<(Check, Option<Calendar>), StoreError> {
        let plain = |kind| self.family(kind, &spec.name, None, None, Span::ZERO);
        Ok(match &spec.kind {
            GateSpecKind::Rule { verdict } => (Check::Rule(*verdict), None),
            GateSpecKind::Fact { key } => {
                (Check::Fact(FactSpec { family: plain(RecordKind::Fact)?, key: KeySlot(*key) }), None)
            }
            GateSpecKind::Once { keep_result, keep_key } => {
                let family = plain(RecordKind::Operation)?;
                (Check::Once(Once { family, keep_result: *keep_result, keep_key: *keep_key }), None)
            }
            GateSpecKind::Breaker { key, max_fails, reset, probes, probe_lease } => {
                let breaker = BreakerSpec {
                    family: plain(RecordKind::Breaker)?,
                    key: KeySlot(*key),
                    max_fails: *max_fails,
                    reset: *reset,
                    probes: *probes,
                    probe_lease: *probe_lease,
                };
                (Check::Breaker(breaker), None)
            }
            GateSpecKind::Attempts { key, max } => {
                let window = Some(&WindowSpec::Lifetime);
                let name = format!("attempts:{}", spec.name);
                let family = self.family(RecordKind::Meter, &name, Some(Unit::Calls), window, Span::ZERO)?;
                (Check::Attempts(Attempts { family, key: KeySlot(*key), max: *max }), None)
            }
            GateSpecKind::Limit { key, max_calls, window, cooldown } => {
                let name = format!("limit:{}", spec.name);
                let family =
                    self.family(RecordKind::Meter, &name, Some(Unit::Calls), Some(window), *cooldown)?;
                let limit = Limit {
                    family,
                    key: KeySlot(*key),
                    max_calls: *max_calls,
                    window: window.window(),
                    cooldown: *cooldown,
                    repeats: false,
                };
                (Check::Limit(limit), window.calendar().cloned())
            }
            GateSpecKind::Repetition { key, same_call, keep } => {
                let (name, window) = (format!("loop:{}", spec.name), WindowSpec::Rolling(*keep));
                let limit = Limit {
                    family: self.family(
                        RecordKind::Meter,
                        &name,
                        Some(Unit::Calls),
                        Some(&window),
                        Span::ZERO,
                    )?,
                    key: KeySlot(*key),
                    max_calls: u64::from(same_call.saturating_sub(1)),
                    window: window.window(),
                    cooldown: Span::ZERO,
                    repeats: true,
                };
                (Check::Limit(limit), None)
            }
            GateSpecKind::Budget { key, limit, unit, window, cost, charge, hard } => {
                let name = format!("budget:{}", spec.name);
                let family = self.family(RecordKind::Meter, &name, Some(*unit), Some(window), Span::ZERO)?;
                self.remember_limit(family, *limit);
                let budget = Budget {
                    family,
                    key: KeySlot(*key),
                    limit: *limit,
                    unit: *unit,
                    window: window.window(),
                    cost: *cost,
                    charge: *charge,
                    hard: *hard,
                    thresholds: Arc::default(),
                };
                (Check::Budget(budget), window.calendar().cloned())
            }
        })
    }

    pub(super) fn families_here(&self) -> Result<MutexGuard<'_, BTreeMap<FamilyKey, Family>>, StoreError> {
        let text = "the engine is not to be had: this process was forked while a policy was compiled; make a new engine";
        let until = Instant::now() + Duration::from_secs(10);
        self.0.families.lock_by(until).ok_or_else(|| StoreError::NotCommitted(text.to_owned()))
    }

    /// The family of a definition; the same one for the same definition.
    pub(crate) fn family(
        &self,
        kind: RecordKind,
        name: &str,
        unit: Option<Unit>,
        window: Option<&WindowSpec>,
        cooldown: Span,
    ) -> Result<Family, StoreError> {
        let calendar = window.and_then(WindowSpec::calendar);
        let key = FamilyKey {
            kind,
            name: name.to_owned(),
            unit,
            window: window.map(WindowSpec::window),
            calendar: calendar.map(|c| (c.period().name(), c.zone().to_owned())),
        };
        let mut families = self.families_here()?;
        match &self.0.store {
            Backend::Memory(store) => {
                let next = Family(u32::try_from(families.len()).unwrap_or(u32::MAX - 1));
                let family = *families.entry(key).or_insert(next);
                let window = window.map_or(Window::Lifetime, WindowSpec::window);
                store.retain(family, window, cooldown, calendar);
                Ok(family)
            }
            Backend::Sqlite(store) if self.0.only_looks => {
                if families.is_empty() {
                    families.extend(store.families()?.into_iter().map(|(family, key)| (key, family)));
                }
                // From above: a store gives its numbers out from below, so that nothing is found under these.
                let count = u32::try_from(families.len()).unwrap_or(u32::MAX);
                Ok(*families.entry(key).or_insert(Family(u32::MAX.saturating_sub(count))))
            }
            Backend::Sqlite(store) => {
                let family = store.family(key.clone(), cooldown)?;
                families.insert(key, family);
                Ok(family)
            }
            #[cfg(feature = "redis")]
            Backend::Redis(store) => {
                let family = store.family(&key, cooldown)?;
                families.insert(key, family);
                Ok(family)
            }
        }
    }

    /// The families of a kind of record under the name that a ledger calls them by.
    pub(crate) fn families_named(&self, kind: RecordKind, name: &str) -> Vec<Family> {
        let Ok(families) = self.families_here() else { return Vec::new() };
        let named = families.iter().filter(|(key, _)| key.kind == kind && key.name == name);
        named.map(|(_, family)| *family).collect()
    }

    /// What this engine counts, by family.
    pub fn families(&self) -> Vec<FamilyInfo> {
        let Ok(families) = self.families_here() else { return Vec::new() };
        let info = |(key, family): (&FamilyKey, &Family)| FamilyInfo {
            family: *family,
            kind: key.kind,
            name: match key.kind {
                // Meters are kept under the kind of their gate and its name.
                RecordKind::Meter => key.name.split_once(':').map_or(key.name.as_str(), |(_, name)| name),
                _ => key.name.as_str(),
            }
            .to_owned(),
            unit: key.unit,
            window: key.window,
        };
        families.iter().map(info).collect()
    }
}
