//! A time that is only known between two bounds: whatever the true one is, no interval passes a limit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use checkrein_core::admission::{self, Inputs, KeyValue, Records, Verdict};
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::key::Family;
use checkrein_core::meter::Meter;
use checkrein_core::policy::{Check, Gate, KeySlot, Leases, Limit, Mode, Policy};
use checkrein_core::time::{Now, Span, Timestamp, Window};
use proptest::prelude::*;

/// One meter.
#[derive(Default)]
struct One(Option<Meter>);

impl Records for One {
    fn meter(&mut self, _: usize) -> Option<&mut Meter> {
        self.0.as_mut()
    }
    fn breaker(&mut self, _: usize) -> Option<&mut Breaker> {
        None
    }
    fn operation(&mut self, _: usize) -> Option<&mut Operation> {
        None
    }
    fn fact(&mut self, _: usize) -> Option<&mut Fact> {
        None
    }
    fn has_room(&mut self) -> bool {
        true
    }
    fn make_meter(&mut self, _: usize) -> Option<&mut Meter> {
        Some(self.0.get_or_insert_default())
    }
    fn make_breaker(&mut self, _: usize) -> Option<&mut Breaker> {
        None
    }
    fn put_operation(&mut self, _: usize, _: Operation) {}
}

const WINDOW: i64 = 1_000;
const COOLDOWN: i64 = 40;

fn policy(max_calls: u64, cooldown: i64) -> Policy {
    let limit = Limit {
        family: Family(0),
        key: KeySlot(0),
        max_calls,
        window: Window::Rolling(Span::from_nanos(WINDOW)),
        cooldown: Span::from_nanos(cooldown),
    };
    let gate = Gate { name: "limit".into(), mode: Mode::Enforce, check: Check::Limit(limit) };
    Policy::new(vec![gate], Leases::default()).unwrap()
}

/// The true times of what was admitted, when each step knew its time only so well.
fn admitted(policy: &Policy, steps: &[(i64, i64, i64)]) -> Vec<i64> {
    let (mut records, mut time, mut times) = (One::default(), 0, Vec::new());
    for (pause, early, late) in steps {
        time += pause;
        let now =
            Now { earliest: Timestamp::from_nanos(time - early), latest: Timestamp::from_nanos(time + late) };
        let keys = [KeyValue::Bytes(b"key")];
        let inputs = Inputs { keys: &keys, start: true, ..Inputs::default() };
        let plan = admission::plan(policy, &inputs);
        if admission::admit(plan, now, &mut records, false).0.verdict == Verdict::Allow {
            times.push(time);
        }
    }
    times
}

proptest! {
    #[test]
    fn no_interval_of_true_time_passes_the_limit(
        max_calls in 1_u64..6,
        steps in prop::collection::vec((0_i64..300, 0_i64..150, 0_i64..150), 1..200),
    ) {
        let times = admitted(&policy(max_calls, 0), &steps);
        for (at, begin) in times.iter().enumerate() {
            let within = times[at..].iter().filter(|time| **time < begin + WINDOW).count() as u64;
            prop_assert!(within <= max_calls, "{within} calls from {begin} on: {times:?}");
        }
    }

    #[test]
    fn a_cooldown_passes_in_true_time(
        steps in prop::collection::vec((0_i64..60, 0_i64..30, 0_i64..30), 1..200),
    ) {
        let times = admitted(&policy(1_000, COOLDOWN), &steps);
        for pair in times.windows(2) {
            prop_assert!(pair[1] - pair[0] >= COOLDOWN, "{pair:?}");
        }
    }

    #[test]
    fn an_exact_time_gives_back_all_there_is(steps in prop::collection::vec(0_i64..600, 1..200)) {
        let steps: Vec<_> = steps.into_iter().map(|pause| (pause, 0, 0)).collect();
        let (times, mut time) = (admitted(&policy(2, 0), &steps), 0);
        let mut open: Vec<i64> = Vec::new();
        for (pause, ..) in &steps {
            time += pause;
            open.retain(|event| event + WINDOW > time);
            if open.len() < 2 {
                open.push(time);
                prop_assert!(times.contains(&time));
            }
        }
    }
}
