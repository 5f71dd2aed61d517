//! What a replay keeps in order.

use super::order::Order;
use super::record::{Happened, Step, What};
use checkrein_core::time::{Span, Timestamp};

#[test]
fn entries_come_in_the_order_of_their_times() {
    let mut order = Order::default();
    let event = |name: &str| What::Event(Happened { event: name.to_owned(), fields: Vec::new() });
    let at = |seconds| Timestamp::from_nanos(0).after(Span::from_secs(seconds));
    order.put(at(10), 0, event("a"));
    order.put(at(5), 1, event("b"));
    assert!(order.next(false).is_none(), "something earlier may still come");
    order.put(at(40), 2, event("c"));
    assert!(order.next(false).is_none(), "what was counted may be written with the next commit");
    order.put(at(41), 3, event("d"));
    let mut seen = Vec::new();
    while let Some(record) = order.next(seen.len() >= 2) {
        let Step::Note(happened) = record.step else { panic!("an event was put in") };
        seen.push(happened.event);
    }
    assert_eq!(seen, ["b", "a", "c", "d"]);
    order.put(at(1), 4, event("late"));
    assert_eq!(order.late, 1);
}
