//! The logic of a durable store, for several processes on one simulated disk.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::sync::Arc;

use checkrein::Engine;
use checkrein::core::amount::{Amount, Unit};
use checkrein::core::gate::budget::Cost;
use checkrein::core::gate::fact::Fact;
use checkrein::core::key::{Family, Key, KeyRef};
use checkrein::core::policy::{Charge, Leases, Mode};
use checkrein::core::time::{Span, Timestamp};
use checkrein::engine::{CompiledPolicy, GateSpec, GateSpecKind, WindowSpec};
use checkrein::store::durable::{Durable, FamilyKey, Liveness, Mark, Options, ProcessInfo, Table};
use checkrein::store::{OwnedInputs, PermitId, Step, StepResult, StoreError};
use checkrein::testing::disk::{Access, Disk, Fault, Handle};

/// Everybody whose number is not here is dead.
#[derive(Default)]
struct Alive(BTreeSet<u64>);

impl Liveness for Alive {
    fn claim(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.0.insert(epoch);
        Ok(())
    }

    fn is_alive(&mut self, epoch: u64) -> bool {
        self.0.contains(&epoch)
    }

    fn forget(&mut self, epoch: u64) {
        self.0.remove(&epoch);
    }
}

fn at(seconds: u32) -> Timestamp {
    Timestamp::from_nanos(1_790_000_000_000_000_000).after(Span::from_secs(seconds))
}

/// A process on the disk, with a budget of 10 that holds.
fn process(disk: &Disk, alive: &mut Alive, now: Timestamp) -> (Handle, Durable, Arc<CompiledPolicy>) {
    let mut tables = disk.handle();
    let options = Options { max_keys: 100, ledger: None };
    let info = ProcessInfo { pid: 1, host: "here".into() };
    let mut durable = Durable::open(&mut tables, options, now, &info, alive).unwrap();
    let unit = Unit::Usd;
    let kind = GateSpecKind::Budget {
        key: 0,
        limit: Amount::from_units(10),
        unit,
        window: WindowSpec::Lifetime,
        cost: 0,
        charge: Charge::Hold,
        hard: false,
    };
    let gate = GateSpec { name: "money".into(), mode: Mode::Enforce, kind };
    // The families of a store that nothing was counted on are numbered from zero, as those of an engine in memory.
    let policy = Engine::new().compile(vec![gate], Leases::default()).unwrap();
    let key = FamilyKey {
        kind: checkrein::core::policy::RecordKind::Meter,
        name: "budget:money".into(),
        unit: Some(unit),
        window: Some(checkrein::core::time::Window::Lifetime),
        calendar: None,
    };
    assert_eq!(durable.family(&mut tables, &key, Span::ZERO, now), Ok(Family(0)));
    (tables, durable, policy)
}

fn admit(
    (tables, durable, policy): &mut (Handle, Durable, Arc<CompiledPolicy>),
    amount: u64,
    now: Timestamp,
) -> Option<PermitId> {
    let inputs = OwnedInputs {
        keys: vec![Ok(b"ada".to_vec())],
        costs: vec![Cost::proven(Amount::from_units(amount))],
        start: true,
        ..OwnedInputs::default()
    };
    let results = durable.run(tables, &[Step::Admit(Arc::clone(policy), inputs)], now).unwrap();
    match results.as_slice() {
        [StepResult::Admitted(_, permit)] => *permit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_stands_still_holds_a_budget_no_longer_than_its_leases() {
    let (disk, mut alive) = (Disk::new(1), Alive::default());
    let mut stopped = process(&disk, &mut alive, at(0));
    let mut running = process(&disk, &mut alive, at(0));
    assert!(admit(&mut stopped, 10, at(1)).is_some());
    let mut look = |now| running.1.recover(&mut running.0, now, &mut alive).unwrap();
    // Started for an hour, and its own process has some time to move it on.
    assert_eq!((look(at(3_600)), look(at(3_640))), (0, 1));
    // In doubt it is held for one more lease, now by the process that runs; then it is settled in full.
    assert!(admit(&mut running, 1, at(7_211)).is_none());
    let (tables, durable, _) = &mut running;
    let report = durable.check(tables, at(7_300)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    // What the process that stood still says now is late: the permit is not there any more.
    let late = stopped.1.run(&mut stopped.0, &[Step::Release(PermitId::from_number(1))], at(7_400)).unwrap();
    assert!(matches!(late.as_slice(), [StepResult::Refused(_)]), "{late:?}");
}

#[test]
fn what_a_dead_process_left_is_moved_on_by_the_next() {
    let (disk, mut alive) = (Disk::new(1), Alive::default());
    let mut first = process(&disk, &mut alive, at(0));
    assert!(admit(&mut first, 4, at(1)).is_some());
    alive.forget(first.1.epoch());
    drop(first);
    let mut second = process(&disk, &mut alive, at(2));
    // In doubt: 4 are still held.
    assert!(admit(&mut second, 7, at(3)).is_none());
    assert!(admit(&mut second, 6, at(3)).is_some());
    assert_eq!(second.1.processes(&mut second.0, at(4)).unwrap().len(), 1);
}

#[test]
fn a_key_that_no_record_can_have_is_an_error_of_its_step() {
    let (disk, mut alive) = (Disk::new(1), Alive::default());
    let (mut tables, mut durable, _) = process(&disk, &mut alive, at(0));
    let key = |length: usize| Key::new(KeyRef { family: Family(0), tenant: &vec![b't'; length], key: b"k" });
    let fact = Fact { proved: at(0), expires: at(9), entry: None };
    let steps = [Step::Prove(key(70_000), fact), Step::Prove(key(4_095), fact)];
    let results = durable.run(&mut tables, &steps, at(1)).unwrap();
    assert!(matches!(results.as_slice(), [StepResult::Failed(_), StepResult::Done]), "{results:?}");
}

/// The budget that a new process can still give out, tried from the top.
fn left(disk: &Disk, now: Timestamp) -> u64 {
    let most = |amount: &u64| {
        let disk = disk.copy();
        let mut process = process(&disk, &mut Alive::default(), now);
        admit(&mut process, *amount, now).is_some()
    };
    (1..=10).rev().find(most).unwrap_or_default()
}

#[test]
fn a_sync_that_fails_stops_the_store_and_is_never_tried_again() {
    for (fault, expected) in [(Fault::Lost, 6), (Fault::Kept, 3)] {
        let disk = Disk::new(7);
        let mut alive = Alive::default();
        let mut first = process(&disk, &mut alive, at(0));
        assert!(admit(&mut first, 4, at(1)).is_some());
        first.0.fail(Access::Commit, 0, fault);
        let inputs = OwnedInputs {
            keys: vec![Ok(b"ada".to_vec())],
            costs: vec![Cost::proven(Amount::from_units(3))],
            start: true,
            ..OwnedInputs::default()
        };
        let step = [Step::Admit(Arc::clone(&first.2), inputs)];
        let (tables, durable, _) = &mut first;
        let error = durable.run(tables, &step, at(2)).unwrap_err();
        assert!(matches!(error, StoreError::Unknown(_)), "{error}");
        let version = disk.version();
        for _ in 0..3 {
            let error = durable.run(tables, &step, at(3)).unwrap_err();
            assert!(matches!(error, StoreError::NotCommitted(_)), "{error}");
        }
        assert_eq!(disk.version(), version, "nothing was written after the failure");
        // The next process finds either all of it or nothing.
        drop(first);
        assert_eq!(left(&disk, at(4)), expected, "{fault:?}");
    }
}

#[test]
fn a_restore_is_whole_or_not_at_all() {
    let disk = Disk::new(3);
    let mut first = process(&disk, &mut Alive::default(), at(0));
    assert!(admit(&mut first, 4, at(1)).is_some());
    let backup = disk.copy();
    assert!(admit(&mut first, 5, at(2)).is_some());
    let head = |disk: &Disk| Table::ALL.map(|table| disk.rows(table));

    let before = head(&backup);
    let options = Options { max_keys: 100, ledger: None };
    let info = ProcessInfo { pid: 9, host: "there".into() };
    let replaced = Mark { commits: 50, entries: 0, next_permit: 40, next_epoch: 30, last: at(500) };
    let mut tables = backup.handle();
    tables.fail(Access::Write, 1, Fault::Refused);
    assert!(Durable::restored(&mut tables, options, at(10), &info, Some(replaced)).is_err());
    tables.fail(Access::Commit, 0, Fault::Refused);
    assert!(Durable::restored(&mut tables, options, at(10), &info, Some(replaced)).is_err());
    assert_eq!(head(&backup), before);

    let restored = Durable::restored(&mut tables, options, at(10), &info, Some(replaced)).unwrap();
    assert_eq!((restored.voided, restored.epoch), (1, 30));
    drop(tables);
    // What had started may have been spent, whatever the backup knows of it; numbers go on behind those given out.
    let (mut tables, mut durable, policy) = process(&backup, &mut Alive::default(), at(11));
    assert_eq!(durable.epoch(), 31);
    let report = durable.check(&mut tables, at(11)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let mut next = (tables, durable, policy);
    assert_eq!(admit(&mut next, 7, at(12)), None);
    assert!(admit(&mut next, 6, at(12)).unwrap().number() >= 40);
}
