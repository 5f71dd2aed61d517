//! Changes of a budget's limit: what admissions make of them, to the instant at which a top-up ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use checkrein_core::admission::{
    self, AdjustError, Adjusted, Adjustment, Admission, Change, Inputs, KeyValue, Lasting, Records, Verdict,
};
use checkrein_core::amount::{Amount, Unit};
use checkrein_core::decision::{Detail, Retry};
use checkrein_core::gate::breaker::Breaker;
use checkrein_core::gate::budget::Cost;
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::Operation;
use checkrein_core::key::Family;
use checkrein_core::meter::Meter;
use checkrein_core::policy::{Budget, Charge, Check, Gate, KeySlot, Leases, Mode, Policy};
use checkrein_core::time::{Now, Span, Timestamp, Window};

/// One meter, and whether there may be one.
#[derive(Default)]
struct One {
    meter: Option<Meter>,
    full: bool,
}

impl Records for One {
    fn meter(&mut self, _: usize) -> Option<&mut Meter> {
        self.meter.as_mut()
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
        !self.full
    }
    fn make_meter(&mut self, _: usize) -> Option<&mut Meter> {
        Some(self.meter.get_or_insert_default())
    }
    fn make_breaker(&mut self, _: usize) -> Option<&mut Breaker> {
        None
    }
    fn put_operation(&mut self, _: usize, _: Operation) {}
}

const HOUR: Span = Span::from_nanos(3_600);
const ROLLING: Window = Window::Rolling(HOUR);
/// By the policy.
const LIMIT: u64 = 10;

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn units(units: u64) -> Amount {
    Amount::from_units(units)
}

/// One budget and its record.
struct Book {
    policy: Policy,
    window: Window,
    period_end: Timestamp,
    records: One,
}

impl Book {
    fn new(window: Window) -> Self {
        let budget = Budget {
            family: Family(0),
            key: KeySlot(0),
            limit: units(LIMIT),
            unit: Unit::Usd,
            window,
            cost: 0,
            charge: Charge::Fixed,
            hard: false,
            thresholds: [50, 100].as_slice().into(),
        };
        let gate = Gate { name: "team".into(), mode: Mode::Enforce, check: Check::Budget(budget) };
        let policy = Policy::new(vec![gate], Leases::default()).unwrap();
        Self { policy, window, period_end: at(10_000), records: One::default() }
    }

    fn spend(&mut self, now: impl Into<Now>, amount: u64) -> Admission {
        let (keys, costs) = ([KeyValue::Bytes(b"k")], [Cost::proven(units(amount))]);
        let period_ends = [self.period_end];
        let inputs = Inputs { keys: &keys, costs: &costs, period_ends: &period_ends, ..Inputs::default() };
        admission::admit(admission::plan(&self.policy, &inputs), now, &mut self.records, false).0
    }

    fn passes(&mut self, now: i64, amount: u64) -> bool {
        self.spend(at(now), amount).verdict == Verdict::Allow
    }

    /// When the same may be asked again, by the one reason why not.
    fn retry(&mut self, now: i64, amount: u64) -> Retry {
        self.spend(at(now), amount).reasons.first().map(|reason| reason.retry).unwrap()
    }

    fn adjust(&mut self, now: i64, change: Change) -> Result<Adjusted, AdjustError> {
        let adjustment = Adjustment::new(change, Some(units(LIMIT)), "ann", "")?;
        admission::adjust(&adjustment, self.window, self.period_end, at(now), &mut self.records)
    }
}

fn top_up(amount: u64) -> Change {
    Change::TopUp(units(amount), Lasting::Window)
}

#[test]
fn a_top_up_counts_until_it_ends() {
    let mut book = Book::new(ROLLING);
    assert!(book.passes(0, 10) && !book.passes(1, 1));
    let adjusted = book.adjust(2, top_up(5)).unwrap();
    let (before, after) = (Some(units(10)), Some(units(15)));
    let (spent, held, until) = (units(10), Amount::ZERO, Some(at(2).after(HOUR)));
    assert_eq!(adjusted, Adjusted { before, after, until, spent, held });
    assert!(book.passes(3, 5) && !book.passes(4, 1));
    // At 3,600 the ten have left, at 3,602 the top-up ends.
    assert!(book.passes(3_601, 10) && !book.passes(3_602, 1));
    assert!(!book.passes(3_603, 1), "the five of 3 have left, and the ten of 3,601 are the policy's limit");
}

#[test]
fn reasons_and_figures_show_the_limit_that_counts() {
    let mut book = Book::new(Window::Lifetime);
    book.adjust(0, Change::Set(units(3))).unwrap();
    let refused = book.spend(at(1), 4);
    let detail = refused.reasons.first().map(|reason| reason.detail.clone());
    let (spent, held) = (Amount::ZERO, Amount::ZERO);
    let (requested, limit) = (units(4), units(3));
    assert_eq!(detail, Some(Detail::Budget { spent, held, requested, limit, unit: Unit::Usd }));
    let inputs = Inputs { keys: &[KeyValue::Bytes(b"k")], costs: &[Cost::default()], ..Inputs::default() };
    let plan = admission::plan(&book.policy, &inputs);
    let standing = admission::status(&plan, at(2), &mut book.records);
    assert_eq!(standing.first().map(|meter| meter.limit), Some(units(3)));
}

#[test]
fn a_retry_does_not_count_on_a_top_up_that_will_have_ended() {
    // Ten at 0 and five at 100 leave at 3,600 and 3,700; with the top-up five would fit when the ten have left.
    let mut book = Book::new(ROLLING);
    book.adjust(0, Change::TopUp(units(5), Lasting::Until(at(200)))).unwrap();
    assert!(book.passes(0, 10) && book.passes(100, 5));
    assert_eq!(book.retry(150, 7), Retry::After(at(3_700).since(at(150))));
    assert!(!book.passes(3_699, 7) && book.passes(3_700, 7));
    // With what will have ended only, more is asked for than will ever be there.
    let mut book = Book::new(ROLLING);
    book.adjust(0, Change::TopUp(units(5), Lasting::Until(at(200)))).unwrap();
    assert!(book.passes(0, 10));
    assert_eq!(book.retry(1, 12), Retry::Never);
    // A top-up of a period ends with it.
    let mut book = Book::new(Window::Period);
    book.adjust(0, top_up(5)).unwrap();
    assert!(book.passes(1, 12));
    assert_eq!((book.retry(2, 8), book.retry(2, 12)), (Retry::After(at(10_000).since(at(2))), Retry::Never));
}

#[test]
fn thresholds_are_parts_of_the_limit_that_counts() {
    let mut book = Book::new(Window::Lifetime);
    book.adjust(0, Change::Set(units(20))).unwrap();
    let crossed = |admission: Admission| -> Vec<u8> {
        admission.crossed.iter().map(|crossed| crossed.percent).collect()
    };
    assert_eq!(crossed(book.spend(at(1), 9)), []);
    assert_eq!(crossed(book.spend(at(2), 1)), [50]);
    book.adjust(3, Change::Set(units(11))).unwrap();
    assert_eq!(crossed(book.spend(at(4), 1)), [100]);
}

#[test]
fn a_top_up_lasts_as_long_as_its_window() {
    for (window, until) in
        [(ROLLING, Some(at(7).after(HOUR))), (Window::Period, Some(at(10_000))), (Window::Lifetime, None)]
    {
        assert_eq!(Book::new(window).adjust(7, top_up(1)).unwrap().until, until);
    }
}

#[test]
fn top_ups_end_each_at_its_own_time_and_a_set_limit_ends_them() {
    let mut book = Book::new(Window::Lifetime);
    let until = |amount, end| Change::TopUp(units(amount), Lasting::Until(at(end)));
    for (change, after) in [(until(1, 100), 11), (until(2, 50), 13), (until(4, 100), 17), (top_up(8), 25)] {
        assert_eq!(book.adjust(0, change).unwrap().after, Some(units(after)));
    }
    let limit = |book: &Book, now| book.records.meter.as_ref().unwrap().limit(units(LIMIT), at(now));
    assert_eq!([0, 49, 50, 99, 100].map(|now| limit(&book, now)), [25, 25, 23, 23, 18].map(units));
    assert_eq!(book.adjust(1, Change::Set(units(2))).unwrap().after, Some(units(2)));
    assert_eq!(book.adjust(2, until(3, 60)).unwrap().after, Some(units(5)));
    let cleared = book.adjust(3, Change::Clear).unwrap();
    assert_eq!((cleared.before, cleared.after), (Some(units(5)), Some(units(10))));
}

#[test]
fn a_limit_below_what_is_spent_takes_nothing_back_and_is_forced() {
    let mut book = Book::new(ROLLING);
    assert!(book.passes(0, 9));
    let forced = |book: &Book| book.records.meter.as_ref().unwrap().account().forced;
    let lowered = book.adjust(1, Change::Set(units(4))).unwrap();
    assert_eq!((lowered.spent, forced(&book)), (units(9), units(5)));
    assert!(!book.passes(2, 1) && book.passes(2, 0));
    // Up and down again is not forced twice.
    book.adjust(3, Change::Set(units(20))).unwrap();
    book.adjust(4, Change::Set(units(4))).unwrap();
    assert_eq!(forced(&book), units(5));
    assert!(!book.records.meter.as_ref().unwrap().is_closed());
    assert!(book.passes(3_600, 4), "the nine have left");
}

#[test]
fn of_a_time_known_by_bounds_the_later_one_ends_a_top_up() {
    let mut book = Book::new(Window::Lifetime);
    book.adjust(0, Change::TopUp(units(5), Lasting::Until(at(100)))).unwrap();
    let between = |earliest, latest| Now { earliest: at(earliest), latest: at(latest) };
    assert_eq!(book.spend(between(90, 100), 12).verdict, Verdict::Block);
    assert_eq!(book.spend(between(90, 99), 12).verdict, Verdict::Allow);
}

#[test]
fn what_cannot_be_kept_changes_nothing() {
    let mut book = Book::new(ROLLING);
    for (change, error, code) in [
        (Change::Set(Amount::from_pico(-1)), AdjustError::Negative, "invalid_amount"),
        (top_up(0), AdjustError::Nothing, "invalid_amount"),
        (Change::TopUp(Amount::MAX, Lasting::Ever), AdjustError::Overflow, "invalid_amount"),
        (Change::TopUp(Amount::ONE, Lasting::For(Span::ZERO)), AdjustError::Ended, "invalid_time"),
        (Change::TopUp(Amount::ONE, Lasting::Until(at(5))), AdjustError::Ended, "invalid_time"),
    ] {
        assert_eq!((book.adjust(5, change), error.code()), (Err(error), code), "{change:?}");
        assert!(book.records.meter.is_none());
    }
    for number in 1..=17 {
        let added = book.adjust(5, Change::TopUp(Amount::ONE, Lasting::For(Span::from_nanos(number))));
        assert_eq!(added.err(), (number == 17).then_some(AdjustError::TooMany));
    }
    // One has ended, and one with the end of another is none more.
    assert!(book.adjust(6, Change::TopUp(Amount::ONE, Lasting::For(Span::from_nanos(16)))).is_ok());
    assert!(book.adjust(6, Change::TopUp(Amount::ONE, Lasting::For(Span::from_nanos(16)))).is_ok());
    let limit = Some(units(LIMIT));
    for (by, note, error) in [
        (" ", "", AdjustError::MissingBy),
        (&"b".repeat(201), "", AdjustError::TooLong("name of who changes the limit", 200)),
        ("ann", &"n".repeat(1_001), AdjustError::TooLong("note", 1_000)),
    ] {
        assert_eq!(Adjustment::new(Change::Clear, limit, by, note), Err(error));
    }
    let mut full = Book::new(ROLLING);
    full.records.full = true;
    assert_eq!(full.adjust(1, Change::Set(Amount::ONE)), Err(AdjustError::Capacity));
    assert!(full.adjust(1, Change::Clear).is_ok(), "what makes no record needs no room");
}

#[test]
fn without_the_policy_s_limit_only_a_set_one_is_known() {
    let mut book = Book::new(ROLLING);
    let mut adjust = |change| {
        let adjustment = Adjustment::new(change, None, " ann ", " why ").unwrap();
        assert_eq!((adjustment.by(), adjustment.note()), ("ann", "why"));
        let adjusted = admission::adjust(&adjustment, ROLLING, at(0), at(1), &mut book.records).unwrap();
        (adjusted.before, adjusted.after)
    };
    assert_eq!(adjust(top_up(1)), (None, None));
    assert_eq!(adjust(Change::Set(units(3))), (None, Some(units(3))));
    assert_eq!(adjust(top_up(2)), (Some(units(3)), Some(units(5))));
    assert_eq!(adjust(Change::Clear), (Some(units(5)), None));
}
