//! Whether a decision costs more when more events lie in the window: one key, a steady number of events.
//!
//! The clock is moved by hand, one tick a call, so that each call finds exactly that many events and one leaves.

use std::hint::black_box;

use checkrein::clock::{Clock, FakeClock};
use checkrein::engine::{Engine, GateSpec, GateSpecKind, WindowSpec};
use checkrein_core::admission::{Inputs, KeyValue, Verdict};
use checkrein_core::policy::{Leases, Mode, RecordKind};
use checkrein_core::time::{Span, Timestamp};
use cpu_time::ThreadTime;

use checkrein::store::RecordState;

use crate::Failure;

/// What one number of events costs.
pub(crate) struct Occupancy {
    /// Events in the window before each call.
    pub(crate) events: u64,
    /// Nanoseconds of thread CPU time per call, one value per round.
    pub(crate) cpu: Vec<f64>,
}

const EVENTS: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];
/// A tick of the clock by hand.
const TICK: Span = Span::from_nanos(1_000);
const KEY: &str = "tenant-000001/user-000000000001";

/// Measures all numbers of events in turn, in every round.
pub(crate) fn measure(quick: bool) -> Result<Vec<Occupancy>, Failure> {
    let (rounds, calls) = if quick { (5, 20_000) } else { (21, 100_000) };
    let runs = EVENTS.iter().map(|&events| prefilled(events)).collect::<Result<Vec<_>, _>>()?;
    let mut times: Vec<Occupancy> =
        EVENTS.iter().map(|&events| Occupancy { events, cpu: Vec::new() }).collect();
    for _ in 0..rounds {
        for (run, times) in runs.iter().zip(&mut times) {
            run(calls / 10);
            let start = ThreadTime::now();
            let refused = run(calls);
            times.cpu.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
            if refused > 0 {
                return Err(format!("{refused} calls refused at {} events", times.events).into());
            }
        }
    }
    Ok(times)
}

/// An engine whose one key has `events` events in the window, and a function that decides so many calls on it.
fn prefilled(events: u64) -> Result<impl Fn(u32) -> u64, Failure> {
    let clock = FakeClock::new(Timestamp::from_nanos(1_800_000_000_000_000_000));
    let engine = Engine::builder().clock(Clock::fake(clock.clone())).build();
    let ticks = i64::try_from(events)?;
    let window = WindowSpec::Rolling(Span::from_nanos(TICK.nanos() * ticks));
    // A window's events are merged onto a grid of a thousandth of it: that many more may be there.
    let max_calls = events + events / 1_000 + 1;
    let kind = GateSpecKind::Limit { key: 0, max_calls, window, cooldown: Span::from_nanos(1) };
    let gate = GateSpec { name: "rate".into(), mode: Mode::Enforce, kind };
    let policy = engine.compile(vec![gate], Leases::default())?;
    let store = engine.clone();
    let run = move |calls: u32| {
        let mut refused = 0;
        for _ in 0..calls {
            clock.advance(TICK);
            let inputs = Inputs {
                keys: &[KeyValue::Bytes(black_box(KEY).as_bytes())],
                start: true,
                ..Inputs::default()
            };
            refused += u64::from(engine.admit(&policy, &inputs).admission.verdict != Verdict::Allow);
        }
        refused
    };
    let refused = run(u32::try_from(events * 2)?);
    let (records, _) = store.list(RecordKind::Meter, Default::default(), 2)?;
    let held = records.iter().map(|record| match record.state {
        RecordState::Meter { count, .. } => count,
        _ => 0,
    });
    let held = held.sum::<u64>();
    if refused > 0 || held < events || held > max_calls {
        return Err(format!("{held} events instead of {events} are in the window, {refused} refused").into());
    }
    Ok(run)
}
