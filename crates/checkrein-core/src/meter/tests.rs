use proptest::prelude::*;

use super::*;
use crate::codec::Damaged;

const W: Span = Span::from_nanos(1_000_000);
const ROLLING: Window = Window::Rolling(W);

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

/// The obvious meter: a list of events, filtered at each look.
#[derive(Default)]
struct Naive(Vec<(i64, i128)>);

impl Naive {
    fn spent(&self, now: i64) -> i128 {
        self.0.iter().filter(|(stamp, _)| now - stamp < W.nanos()).map(|(_, amount)| amount).sum()
    }
}

#[test]
fn a_meter_is_small() {
    assert!(size_of::<Meter>() <= 128, "{}", size_of::<Meter>());
}

#[test]
fn an_event_exactly_as_old_as_the_window_has_left() {
    let mut meter = Meter::new();
    meter.record(at(5), Amount::ONE, ROLLING).unwrap();
    meter.advance(at(5 + W.nanos() - 1), ROLLING, Timestamp::MIN);
    assert_eq!(meter.count(), 1);
    meter.advance(at(5 + W.nanos()), ROLLING, Timestamp::MIN);
    assert_eq!((meter.count(), meter.newest()), (0, Some(at(5))));
}

#[test]
fn long_gaps_and_old_stamps_spill_exactly() {
    let day = 86_400_000_000_000;
    let window = Window::Rolling(Span::from_nanos(30 * day));
    let mut meter = Meter::new();
    for stamp in [0, day, 2 * day, 10 * day, 9 * day, 29 * day] {
        meter.record(at(stamp), Amount::ONE, window).unwrap();
    }
    for (now, count) in
        [(29 * day, 6), (30 * day, 5), (32 * day, 3), (39 * day, 2), (40 * day, 1), (59 * day, 0)]
    {
        meter.advance(at(now), window, Timestamp::MIN);
        assert_eq!(meter.count(), count, "on day {}", now / day);
    }
}

#[test]
fn periods_only_move_forward_and_holds_outlive_them() {
    let mut meter = Meter::new();
    let roll = |meter: &mut Meter, end| meter.advance(at(0), Window::Period, at(end));
    roll(&mut meter, 100);
    meter.record(at(10), Amount::from_units(3), Window::Period).unwrap();
    meter.hold(at(20), Amount::from_units(2)).unwrap();
    roll(&mut meter, 50);
    assert_eq!((meter.spent(), meter.held()), (Amount::from_units(3), Amount::from_units(2)));
    roll(&mut meter, 200);
    assert_eq!((meter.spent(), meter.held()), (Amount::ZERO, Amount::from_units(2)));
    meter.settle(at(110), Amount::from_units(2), Amount::ONE, Window::Period).unwrap();
    assert_eq!((meter.spent(), meter.held()), (Amount::ONE, Amount::ZERO));
}

#[test]
fn returning_more_than_is_held_closes_the_meter() {
    let mut meter = Meter::new();
    meter.hold(at(1), Amount::ONE).unwrap();
    let error = meter.settle(at(2), Amount::from_units(2), Amount::ONE, ROLLING).unwrap_err();
    assert_eq!(error.code(), "invariant_broken");
    assert!(meter.is_closed());
    assert_eq!((meter.held(), meter.spent()), (Amount::ONE, Amount::ZERO));
}

#[test]
fn the_largest_hold_can_be_settled_and_released() {
    let mut meter = Meter::new();
    meter.hold(at(1), Amount::MAX).unwrap();
    meter.stage_settlement(Amount::MAX, Amount::MAX).unwrap();
    assert_eq!(meter.clone().settle(at(2), Amount::MAX, Amount::MAX, ROLLING), Ok(()));
    assert_eq!(meter.stage_settlement(Amount::MAX, Amount::from_pico(-1)), Err(MeterError::Negative));
    assert_eq!(meter.release(Amount::MAX), Ok(()));
}

#[test]
fn an_overrun_is_counted_and_shown() {
    let mut meter = Meter::new();
    meter.hold(at(1), Amount::ONE).unwrap();
    meter.settle(at(2), Amount::ONE, Amount::from_units(3), ROLLING).unwrap();
    assert_eq!((meter.spent(), meter.account().overrun), (Amount::from_units(3), Amount::from_units(2)));
}

#[test]
fn amounts_that_do_not_fit_change_nothing() {
    let mut meter = Meter::new();
    meter.record(at(1), Amount::MAX, ROLLING).unwrap();
    assert_eq!(meter.record(at(2), Amount::ONE, ROLLING), Err(MeterError::Overflow));
    assert_eq!(meter.record(at(2), Amount::from_pico(-1), ROLLING), Err(MeterError::Negative));
    assert_eq!((meter.spent(), meter.count(), meter.newest()), (Amount::MAX, 1, Some(at(1))));
}

#[test]
fn the_grid_never_forgets_early_and_at_most_a_thousandth_late() {
    let cell = W.nanos() / 1_000;
    let mut meter = Meter::new();
    let mut stamps = Vec::new();
    for i in 0..20_000_i64 {
        let now = i * 41;
        meter.advance(at(now), ROLLING, Timestamp::MIN);
        meter.record(at(now), Amount::ONE, ROLLING).unwrap();
        stamps.push(now);
        let younger = |age: i64| stamps.iter().filter(|&&stamp| now - stamp < age).count() as u64;
        if i % 97 == 0 {
            let count = meter.count();
            assert!(count >= younger(W.nanos()) && count <= younger(W.nanos() + cell), "at {now}: {count}");
        }
    }
    assert!(meter.heap_bytes() < 100_000, "{}", meter.heap_bytes());
    meter.advance(at(20_000 * 41 + W.nanos()), ROLLING, Timestamp::MIN);
    assert_eq!((meter.count(), meter.spent(), meter.heap_bytes()), (0, Amount::ZERO, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_the_naive_meter(steps in prop::collection::vec((0_i64..200_000, 0_u64..4), 1..400)) {
        let (mut meter, mut naive, mut now) = (Meter::new(), Naive::default(), 0_i64);
        for (gap, units) in steps {
            now += gap;
            meter.advance(at(now), ROLLING, Timestamp::MIN);
            prop_assert_eq!(meter.spent().pico(), naive.spent(now));
            let amount = Amount::from_units(units);
            meter.record(at(now), amount, ROLLING).unwrap();
            naive.0.push((now, amount.pico()));
            let half = at(now - W.nanos() / 2);
            let recent: i128 = naive.0.iter().filter(|(s, _)| *s > half.nanos()).map(|(_, a)| a).sum();
            prop_assert_eq!(meter.spent_after(half).pico(), recent);
            // Once the event it names has left, at least the excess has left, and not before.
            let excess = Amount::from_units(2);
            if let Some(stamp) = meter.leaves_with(excess) {
                let left = |time: i64| naive.spent(now) - naive.spent(time);
                prop_assert!(left(stamp.nanos() + W.nanos()) >= excess.pico());
                prop_assert!(left(stamp.nanos() + W.nanos() - 1) < excess.pico());
            } else {
                prop_assert!(naive.spent(now) < excess.pico());
            }
        }
    }
}

/// A meter as a store keeps it: the head, and only those chunks written again that changed.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    chunks: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl Kept {
    fn keep(&mut self, meter: &mut Meter) -> usize {
        let changed = meter.changed_chunks();
        let written = (changed.end - changed.start) as usize;
        for number in changed {
            let mut row = Vec::new();
            meter.encode_chunk(number, &mut row);
            self.chunks.insert(number, row);
        }
        let live = meter.chunks();
        self.chunks.retain(|number, _| live.contains(number));
        self.head.clear();
        meter.encode_head(&mut self.head);
        meter.mark_kept();
        written
    }

    fn read(&self) -> Meter {
        assert!(Meter::needed_chunks(&self.head).unwrap().eq(self.chunks.keys().copied()));
        Meter::decode(&self.head, self.chunks.values().map(Vec::as_slice)).unwrap()
    }
}

/// Everything a meter knows; where its ring begins is not part of it.
fn said(meter: &Meter) -> String {
    let stamps: Vec<i64> = meter.inline.stamps().collect();
    format!("{:?} {stamps:?} {:?}", meter.newest, meter.large)
}

#[derive(Clone, Debug)]
enum Act {
    Record(u32, u8),
    Hold(u8),
    Settle(u8),
    Pass(u32),
    Early(u32),
    Allow(Option<u8>, u8),
    Reset,
    Keep,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let many = prop_oneof![
        20 => (0..20_u32, prop_oneof![9 => Just(1_u8), 1 => 0..5_u8]).prop_map(|(dt, n)| Act::Record(dt, n)),
        2 => any::<u8>().prop_map(Act::Hold),
        2 => any::<u8>().prop_map(Act::Settle),
        1 => (0..3_000_u32).prop_map(Act::Pass),
        1 => (0..200_u32).prop_map(Act::Early),
        1 => any::<(Option<u8>, u8)>().prop_map(|(set, until)| Act::Allow(set, until)),
        5 => Just(Act::Keep),
    ];
    let rare = prop_oneof![400 => many, 1 => Just(Act::Reset)];
    proptest::collection::vec(rare, 0..3_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_meter_comes_back_from_its_rows(acts in acts(), start: i64) {
        let window = Window::Rolling(Span::from_nanos(20_000));
        let (mut meter, mut kept) = (Meter::new(), Kept::default());
        let mut now = start / 2;
        let mut held = Vec::new();
        for act in acts {
            match act {
                Act::Record(dt, amount) => {
                    now += i64::from(dt);
                    meter.advance(Timestamp::from_nanos(now), window, Timestamp::MIN);
                    meter.record(Timestamp::from_nanos(now), Amount::from_units(amount.into()), window).unwrap();
                }
                Act::Early(back) => {
                    let stamp = Timestamp::from_nanos(now - i64::from(back));
                    meter.record(stamp, Amount::ONE, window).unwrap();
                }
                Act::Hold(amount) => {
                    meter.hold(Timestamp::from_nanos(now), Amount::from_units(amount.into())).unwrap();
                    held.push(amount);
                }
                Act::Settle(actual) => {
                    let Some(hold) = held.pop() else { continue };
                    let units = |n: u8| Amount::from_units(n.into());
                    meter.settle(Timestamp::from_nanos(now), units(hold), units(actual), window).unwrap();
                }
                Act::Pass(time) => {
                    now += i64::from(time) * 10;
                    meter.advance(Timestamp::from_nanos(now), window, Timestamp::MIN);
                }
                Act::Allow(set, until) => {
                    let known = set.map(|limit| Allowance::of(Amount::from_units(limit.into())));
                    let until = Timestamp::from_nanos(now + i64::from(until));
                    let top_up = TopUp { amount: Amount::ONE, until };
                    let next = known.or_else(|| {
                        let known = meter.allowance().cloned().unwrap_or_default();
                        known.with(top_up, Timestamp::from_nanos(now)).ok()
                    });
                    meter.allow(next.filter(|_| until != Timestamp::from_nanos(now)), window);
                }
                Act::Reset => meter.reset(),
                Act::Keep => {
                    kept.keep(&mut meter);
                    prop_assert_eq!(said(&kept.read()), said(&meter));
                }
            }
        }
    }
}

#[test]
fn a_meter_with_many_events_is_written_like_one_with_few() {
    let window = Window::Rolling(Span::from_secs(1));
    let (mut meter, mut kept) = (Meter::new(), Kept::default());
    let mut written = 0;
    for call in 0..1_000 {
        meter.record(Timestamp::from_nanos(call * 1_000), Amount::from_units(2), window).unwrap();
        written += kept.keep(&mut meter);
        assert!(kept.head.len() < 64 * 12 + 64, "{}", kept.head.len());
    }
    assert_eq!(written, 15);
}

#[test]
fn damaged_rows_are_errors() {
    let window = Window::Rolling(Span::from_secs(1));
    let (mut meter, mut kept) = (Meter::new(), Kept::default());
    for call in 0..200 {
        meter.record(Timestamp::from_nanos(call * 1_000), Amount::ONE, window).unwrap();
    }
    kept.keep(&mut meter);
    assert!(Meter::decode(&kept.head, []).is_err());
    for cut in 0..kept.head.len() {
        let chunks = kept.chunks.values().map(Vec::as_slice);
        assert!(Meter::decode(&kept.head[..cut], chunks).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_meter_that_was_reset_keeps_its_record_as_long_as_it_holds() {
    let (window, now) = (Window::Lifetime, Timestamp::from_nanos(5));
    let mut meter = Meter::new();
    meter.hold(now, Amount::ONE).unwrap();
    meter.reset();
    assert_eq!((meter.held(), meter.expires(window, Span::ZERO)), (Amount::ONE, Timestamp::MAX));
    meter.release(Amount::ONE).unwrap();
    assert_eq!(meter.expires(window, Span::ZERO), Timestamp::MIN);
}

/// What version 1 wrote for this meter: one call and one hold, and nobody had changed a limit.
const VERSION_1: &str = "010a010001000080c0a8ca9a3a80c0a8ca9a3a0000000001000000000000";

#[test]
fn a_meter_of_version_1_is_read_and_written_as_it_was() {
    let bytes: Vec<u8> = (0..VERSION_1.len())
        .step_by(2)
        .map(|place| u8::from_str_radix(&VERSION_1[place..place + 2], 16).unwrap())
        .collect();
    let meter = Meter::decode(&bytes, []).unwrap();
    assert_eq!((meter.spent(), meter.held(), meter.allowance()), (Amount::ONE, Amount::ONE, None));
    let mut again = Vec::new();
    meter.encode_head(&mut again);
    assert_eq!(again, bytes);
}

#[test]
fn a_version_that_knows_no_changed_limits_refuses_them() {
    let mut meter = Meter::new();
    meter.record(at(5), Amount::ONE, ROLLING).unwrap();
    meter.allow(Some(Allowance::of(Amount::from_units(7))), ROLLING);
    let mut head = Vec::new();
    meter.encode_head(&mut head);
    assert_eq!(crate::codec::Reader::new(&head, 1).unwrap_err(), Damaged::Version(2));
    let read = Meter::decode(&head, []).unwrap();
    meter.mark_kept();
    assert_eq!(said(&read), said(&meter));
    assert_eq!(read.limit(Amount::ONE, at(9)), Amount::from_units(7));
    // The second version is for changed limits only, so that there is one form of each meter.
    for cut in 1..head.len() {
        assert!(Meter::decode(&head[..cut], []).is_err(), "cut at {cut}");
    }
    meter.allow(None, ROLLING);
    let mut plain = Vec::new();
    meter.encode_head(&mut plain);
    assert_eq!(plain[0], 1);
    plain[0] = 2;
    assert!(Meter::decode(&plain, []).is_err());
    let empty = [&plain[..], &[0, 0]].concat();
    assert!(Meter::decode(&empty, []).is_err());
}

#[test]
fn a_changed_limit_keeps_its_record_and_outlasts_a_reset() {
    let day = Span::from_secs(86_400);
    for window in [ROLLING, Window::Lifetime] {
        let mut meter = Meter::new();
        let top_up = TopUp { amount: Amount::ONE, until: at(5).after(day) };
        meter.allow(Some(Allowance::default().with(top_up, at(5)).unwrap()), window);
        assert_eq!(meter.expires(window, Span::ZERO), at(5).after(day));
        meter.record(at(6), Amount::ONE, window).unwrap();
        meter.reset();
        assert_eq!((meter.spent(), meter.expires(window, Span::ZERO)), (Amount::ZERO, at(5).after(day)));
        assert_eq!(meter.limit(Amount::ONE, at(6)), Amount::from_units(2));
        assert_eq!(meter.limit(Amount::ONE, at(5).after(day)), Amount::ONE);
        assert_eq!(
            (meter.live_allowance(at(5).after(day)), meter.live_allowance(at(6)).is_some()),
            (None, true)
        );
        meter.allow(Some(Allowance::of(Amount::ONE)), window);
        meter.advance(at(5).after(day).after(day), window, Timestamp::MIN);
        assert_eq!(meter.expires(window, Span::ZERO), Timestamp::MAX);
        meter.allow(None, window);
        assert_eq!(meter.expires(window, Span::ZERO), Timestamp::MIN);
    }
}

#[test]
fn a_look_at_a_meter_sees_what_has_left_its_window() {
    let mut meter = Meter::new();
    meter.advance(at(0), Window::Period, at(100));
    meter.record(at(10), Amount::from_units(3), Window::Period).unwrap();
    assert_eq!(meter.seen(at(99), Window::Period), (Amount::from_units(3), 1));
    assert_eq!(meter.seen(at(100), Window::Period), (Amount::ZERO, 0));
    let mut rolling = Meter::new();
    rolling.record(at(10), Amount::from_units(3), ROLLING).unwrap();
    assert_eq!(rolling.seen(at(9 + W.nanos()), ROLLING), (Amount::from_units(3), 1));
    assert_eq!(rolling.seen(at(10 + W.nanos()), ROLLING), (Amount::ZERO, 0));
}
