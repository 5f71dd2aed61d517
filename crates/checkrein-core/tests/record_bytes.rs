//! Records come back from their bytes, and nothing but those bytes is taken for one.

#![expect(clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use checkrein_core::amount::Amount;
use checkrein_core::codec::Record;
use checkrein_core::fingerprint::RequestDigest;
use checkrein_core::gate::breaker::{Breaker, Health, Thresholds};
use checkrein_core::gate::fact::Fact;
use checkrein_core::gate::once::{Keep, Operation, OperationState};
use checkrein_core::key::Family;
use checkrein_core::meter::Meter;
use checkrein_core::permit::{Hold, Permit, PermitPhase};
use checkrein_core::policy::{BreakerSpec, KeySlot, Leases, Once};
use checkrein_core::time::{Span, Timestamp, Window};
use proptest::prelude::*;

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn spec() -> BreakerSpec {
    let (max_fails, probes) = (3, 2);
    let (reset, probe_lease) = (Span::from_secs(10), Span::from_secs(5));
    BreakerSpec { family: Family(1), key: KeySlot(0), max_fails, reset, probes, probe_lease }
}

/// A breaker after a history of calls and outcomes.
fn breaker(history: &[(u8, i32)]) -> Breaker {
    let (mut breaker, mut now, thresholds) = (Breaker::default(), 0, Thresholds::from(&spec()));
    for (outcome, passed) in history {
        now += i64::from(passed.unsigned_abs()) * 10;
        breaker.advance(at(now), thresholds);
        if breaker.refusal(at(now), thresholds).is_none() {
            let ticket = breaker.admit(at(now), thresholds);
            let health =
                [Health::Success, Health::Failure, Health::Neutral].get(usize::from(*outcome)).copied();
            health.into_iter().for_each(|health| breaker.report(ticket, health, at(now), thresholds));
        }
    }
    breaker
}

/// A permit that holds on a policy's records.
fn permit(holds: &[(u8, i64)], phase: u8, history: &[(u8, i32)]) -> Permit {
    let window = |hold: i64| match hold % 3 {
        0 => Window::Rolling(Span::from_nanos(hold.saturating_abs())),
        1 => Window::Period,
        _ => Window::Lifetime,
    };
    let hold = |(record, amount): &(u8, i64)| Hold {
        record: record % 64,
        amount: Amount::from_nano(*amount),
        window: window(*amount),
    };
    let thresholds = Thresholds::from(&spec());
    let ticket = breaker(history).admit(at(5), thresholds);
    Permit {
        phase: [PermitPhase::Reserved, PermitPhase::Started, PermitPhase::InDoubt][usize::from(phase % 3)],
        lease_until: at(i64::from(phase) << 40),
        leases: Leases::default(),
        holds: holds.iter().map(hold).collect(),
        breakers: history.iter().map(|(record, _)| (*record % 64, ticket, thresholds)).collect(),
        operation: phase.is_multiple_of(2).then(|| (phase % 64, operation(phase, 7, b"").run())),
    }
}

fn operation(steps: u8, seed: u8, result: &[u8]) -> Operation {
    let once = Once { family: Family(2), keep_result: Span::from_secs(9), keep_key: Span::from_secs(99) };
    let digest = RequestDigest::from_bytes([seed; 32]);
    let earlier = Operation::admitted(digest, false, at(-3), Keep::from(&once), None);
    let mut operation =
        Operation::admitted(digest, steps.is_multiple_of(2), at(4), Keep::from(&once), Some(&earlier));
    let to = match steps % 5 {
        0 => OperationState::Done(Some(result.into())),
        1 => OperationState::FailedClean,
        2 => OperationState::InDoubt,
        3 => OperationState::Done(None),
        _ => OperationState::Started,
    };
    operation.enter(to, at(8));
    operation
}

/// Whatever `decode` takes is exactly what `encode` writes.
fn only_its_own_bytes<T: Record + PartialEq + std::fmt::Debug>(
    record: &T,
    place: usize,
    byte: u8,
    cut: usize,
) {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    assert_eq!(T::decode(&bytes).as_ref(), Ok(record));
    let again = |bytes: &[u8]| {
        if let Ok(read) = T::decode(bytes) {
            let mut out = Vec::new();
            read.encode(&mut out);
            assert_eq!(out, bytes, "two forms of {read:?}");
        }
    };
    assert!(T::decode(&bytes[..cut % bytes.len()]).is_err());
    bytes.push(byte);
    assert!(T::decode(&bytes).is_err());
    bytes.pop();
    let place = place % bytes.len();
    bytes[place] = byte;
    again(&bytes);
}

proptest! {
    #[test]
    fn records_round_trip(
        history in proptest::collection::vec((0..4_u8, any::<i32>()), 0..40),
        holds in proptest::collection::vec((any::<u8>(), any::<i64>()), 0..5),
        (phase, place, byte, cut) in any::<(u8, usize, u8, usize)>(),
        (proved, expires, entry) in any::<(i64, i64, Option<u64>)>(),
    ) {
        only_its_own_bytes(&breaker(&history), place, byte, cut);
        only_its_own_bytes(&permit(&holds, phase, &history[..history.len().min(4)]), place, byte, cut);
        only_its_own_bytes(&Fact { proved: at(proved), expires: at(expires), entry }, place, byte, cut);
    }

    #[test]
    fn operations_round_trip(steps: u8, seed: u8, result: Vec<u8>, place: usize, byte: u8) {
        let operation = operation(steps, seed, &result);
        let mut bytes = Vec::new();
        operation.encode(&mut bytes);
        let stored = || Some(result.as_slice().into());
        prop_assert_eq!(Operation::decode(&bytes, stored), Ok(operation.clone()));
        // An operation whose result has vanished is no operation without one.
        let lost = Operation::decode(&bytes, || None);
        prop_assert_eq!(lost.is_err(), operation.result().is_some());
        let place = place % bytes.len();
        bytes[place] = byte;
        if let Ok(read) = Operation::decode(&bytes, stored) {
            let mut out = Vec::new();
            read.encode(&mut out);
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>, version in 0..3_u8) {
        let bytes = [&[version], bytes.as_slice()].concat();
        let _ = Breaker::decode(&bytes);
        let _ = Fact::decode(&bytes);
        let _ = Permit::decode(&bytes);
        let _ = Operation::decode(&bytes, || Some([].into()));
        let _ = Meter::needed_chunks(&bytes);
        let _ = Meter::decode(&bytes, [bytes.as_slice()]);
    }
}
