//! The allow path allocates nothing: counted, not claimed.

use std::alloc::System;

use checkrein::engine::{Decided, Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein_core::admission::{Inputs, KeyValue, RuleVerdict};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::gate::breaker::Health;
use checkrein_core::gate::budget::Cost;
use checkrein_core::permit::{Outcome, Settlement};
use checkrein_core::policy::{Charge, Leases, Mode};
use checkrein_core::time::Span;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn gate(name: &str, kind: GateSpecKind) -> GateSpec {
    GateSpec { name: name.into(), mode: Mode::Enforce, kind }
}

fn limit(name: &str, cooldown: Span) -> GateSpec {
    let (max_calls, window) = (u64::MAX, WindowSpec::Rolling(Span::from_secs(3_600)));
    gate(name, GateSpecKind::Limit { key: 0, max_calls, window, cooldown })
}

fn budget(name: &str, charge: Charge) -> GateSpec {
    let (limit, window) = (Amount::from_units(u64::MAX), WindowSpec::Rolling(Span::from_secs(3_600)));
    gate(name, GateSpecKind::Budget { key: 0, limit, unit: Unit::Usd, window, cost: 0, charge, hard: true })
}

#[test]
fn the_allow_path_allocates_nothing() {
    let engine = Engine::new();
    let breaker = GateSpecKind::Breaker {
        key: 0,
        max_fails: 3,
        reset: Span::from_secs(60),
        probes: 1,
        probe_lease: Span::from_secs(60),
    };
    let policies = [
        vec![limit("calls", Span::ZERO)],
        vec![limit("calls", Span::from_nanos(1)), budget("fixed", Charge::Fixed)],
        vec![
            gate("rule", GateSpecKind::Rule { verdict: 0 }),
            gate("breaker", breaker),
            gate("attempts", GateSpecKind::Attempts { key: 0, max: u64::MAX }),
            limit("calls", Span::ZERO),
            budget("fixed", Charge::Fixed),
            budget("run", Charge::Hold),
            budget("team", Charge::Hold),
        ],
    ];
    for gates in policies {
        let shown = format!("{} gates", gates.len());
        let policy = engine.compile(gates, Leases::default()).unwrap();
        let decide = || {
            let inputs = Inputs {
                keys: &[KeyValue::Bytes(b"ada")],
                costs: &[Cost::proven(Amount::ONE)],
                verdicts: &[RuleVerdict::Pass],
                start: true,
                ..Inputs::default()
            };
            let Decided::Allowed(permit) = engine.decide(&policy, &inputs) else { return false };
            let settlement = Settlement::new(Outcome::Done(None), Health::Success);
            permit.is_none_or(|permit| engine.finish(permit, &settlement).is_ok())
        };
        // Rings grow to their full size first: they grow with the events of a window and not with the decisions.
        for _ in 0..5_000 {
            assert!(decide(), "{shown}");
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..1_000 {
            assert!(decide(), "{shown}");
        }
        let counted = region.change();
        assert_eq!((counted.allocations, counted.reallocations), (0, 0), "{shown}: {counted:?}");
    }
}
