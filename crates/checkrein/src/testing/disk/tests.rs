use super::*;
use crate::store::StoreError;
use crate::store::durable::Tables;

fn put(handle: &mut Handle, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
    handle.begin()?;
    handle.put(Table::Meter, key, row)?;
    handle.commit()
}

/// The keys with the first byte of their rows, as text: `a1 b2`.
fn shown(disk: &Disk) -> String {
    let rows = disk.rows(Table::Meter);
    let shown = rows.iter().map(|(key, row)| {
        format!("{}{}", String::from_utf8_lossy(key), row.first().map_or('-', |byte| char::from(*byte)))
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_transaction_reads_its_own_changes_in_order() {
    let disk = Disk::new(1);
    let mut handle = disk.handle();
    put(&mut handle, b"a", b"1").unwrap();
    put(&mut handle, b"c", b"3").unwrap();
    handle.begin().unwrap();
    handle.put(Table::Meter, b"b", b"2").unwrap();
    handle.put(Table::Meter, b"d", b"4").unwrap();
    handle.delete(Table::Meter, b"a").unwrap();
    handle.put(Table::Permit, b"z", b"9").unwrap();
    let keys =
        |rows: Rows| rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<String>();
    assert_eq!(keys(handle.scan(Table::Meter, None, 10).unwrap()), "bcd");
    assert_eq!(keys(handle.scan(Table::Meter, None, 2).unwrap()), "bc");
    assert_eq!(keys(handle.scan(Table::Meter, Some(b"b"), 10).unwrap()), "cd");
    assert_eq!(handle.get(Table::Meter, b"a").unwrap(), None);
    assert_eq!(handle.last(Table::Meter).unwrap().unwrap().0, b"d");
    handle.delete(Table::Meter, b"d").unwrap();
    assert_eq!(handle.last(Table::Meter).unwrap().unwrap().0, b"c");
    assert_eq!(handle.last(Table::Breaker).unwrap(), None);
    handle.rollback();
    assert_eq!(shown(&disk), "a1 c3");
}

#[test]
fn begin_says_whether_another_process_has_committed() {
    let disk = Disk::new(1);
    let (mut one, mut two) = (disk.handle(), disk.handle());
    let mut seen = Vec::new();
    for (first, writes) in
        [(true, true), (true, true), (false, true), (true, false), (true, false), (false, false)]
    {
        let handle = if first { &mut one } else { &mut two };
        seen.push(handle.begin().unwrap());
        if writes {
            handle.put(Table::Meta, b"k", b"v").unwrap();
        }
        handle.commit().unwrap();
    }
    assert_eq!(seen, [true, false, true, true, false, false]);
}

/// What is read after two synced commits, two unsynced ones and a power cut.
fn after_power_cut(seed: u64, survives: Survives) -> String {
    let disk = Disk::new(seed);
    let mut handle = disk.handle();
    put(&mut handle, b"a", b"1").unwrap();
    handle.set_syncs(false);
    put(&mut handle, b"b", b"2").unwrap();
    put(&mut handle, b"a", b"3").unwrap();
    disk.power_cut(survives);
    assert!(handle.is_dead());
    assert!(put(&mut handle, b"c", b"4").is_err());
    shown(&disk)
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let all = |survives| -> std::collections::BTreeSet<String> {
        (0..100).map(|seed| after_power_cut(seed, survives)).collect()
    };
    let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(all(Survives::Nothing), set(&["a1"]));
    assert_eq!(all(Survives::Everything), set(&["a3 b2"]));
    assert_eq!(all(Survives::Beginning), set(&["a1", "a1 b2", "a3 b2"]));
    let anything = all(Survives::Anything);
    // The second commit without the first, and a torn row: no log would give either.
    assert!(anything.contains("a3") && anything.contains("a1 b-"), "{anything:?}");
}

#[test]
fn a_killed_process_loses_its_open_transaction_only() {
    let disk = Disk::new(1);
    let mut handle = disk.handle();
    handle.set_syncs(false);
    put(&mut handle, b"a", b"1").unwrap();
    handle.begin().unwrap();
    handle.put(Table::Meter, b"b", b"2").unwrap();
    handle.kill();
    assert!(handle.commit().is_err());
    let mut next = disk.handle();
    put(&mut next, b"c", b"3").unwrap();
    assert_eq!(shown(&disk), "a1 c3");
}

#[test]
fn faults_come_when_they_are_due_and_say_what_they_did() {
    let check = |access, skip, fault, expected: &str| {
        let disk = Disk::new(4);
        let mut handle = disk.handle();
        handle.fail(access, skip, fault);
        let results = ["1", "2", "3"].map(|row| match put(&mut handle, row.as_bytes(), row.as_bytes()) {
            Ok(()) => "ok",
            Err(StoreError::NotCommitted(_)) => {
                handle.rollback();
                "no"
            }
            Err(StoreError::Unknown(_) | StoreError::Damaged(_)) => "unknown",
        });
        assert_eq!(format!("{} [{}]", results.join(" "), shown(&disk)), expected, "{access:?} {fault:?}");
    };
    check(Access::Begin, 1, Fault::Refused, "ok no ok [11 33]");
    check(Access::Write, 0, Fault::Refused, "no ok ok [22 33]");
    check(Access::Commit, 1, Fault::Refused, "ok no ok [11 33]");
    check(Access::Commit, 1, Fault::Lost, "ok unknown no [11]");
    check(Access::Commit, 1, Fault::Kept, "ok unknown no [11 22]");
    check(Access::Commit, 1, Fault::Limbo, "ok unknown no [11]");
    check(Access::Commit, 1, Fault::DiesBefore, "ok unknown no [11]");
    check(Access::Commit, 1, Fault::DiesAfter, "ok unknown no [11 22]");
    check(Access::Write, 1, Fault::DiesBefore, "ok no no [11]");
}

#[test]
fn a_commit_in_limbo_is_found_by_a_recovery_or_overwritten() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let disk = Disk::new(seed);
        let (mut one, mut two) = (disk.handle(), disk.handle());
        one.fail(Access::Commit, 0, Fault::Limbo);
        assert!(put(&mut one, b"a", b"1").is_err());
        if seed % 2 == 0 {
            put(&mut two, b"b", b"2").unwrap();
        }
        drop((one, two));
        drop(disk.handle());
        seen.insert(shown(&disk));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "a1", "b2"]);
}

#[test]
fn a_full_or_read_only_disk_keeps_what_it_has() {
    let disk = Disk::new(1);
    let mut handle = disk.handle();
    put(&mut handle, b"a", b"1").unwrap();
    disk.set_full(true);
    assert!(matches!(put(&mut handle, b"b", b"2"), Err(StoreError::NotCommitted(_))));
    handle.rollback();
    disk.set_full(false);
    disk.set_read_only(true);
    assert!(handle.begin().is_err());
    disk.set_read_only(false);
    put(&mut handle, b"c", b"3").unwrap();
    assert_eq!(shown(&disk), "a1 c3");
}

#[test]
fn copies_stand_apart() {
    let disk = Disk::new(1);
    let mut handle = disk.handle();
    put(&mut handle, b"a", b"1").unwrap();
    handle.set_syncs(false);
    put(&mut handle, b"b", b"2").unwrap();
    assert_eq!(
        (shown(&disk.copy()), shown(&disk.durable_copy()), disk.unsynced()),
        ("a1 b2".into(), "a1".into(), 1)
    );
    let copy = disk.copy();
    copy.tamper(Table::Meter, b"a", |row| row.map(|_| b"9".to_vec()));
    assert_eq!((shown(&copy), shown(&disk)), ("a9 b2".into(), "a1 b2".into()));
}

#[test]
fn one_seed_gives_one_history() {
    let run = |seed| {
        let disk = Disk::new(seed);
        let mut handle = disk.handle();
        handle.set_syncs(false);
        for row in 0..20_u8 {
            put(&mut handle, &[row % 5], &[row]).unwrap();
        }
        disk.power_cut(Survives::Anything);
        (disk.trace(), disk.rows(Table::Meter))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn threads_take_turns() {
    let disk = Disk::new(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut handle = disk.handle();
            scope.spawn(move || {
                for _ in 0..200 {
                    handle.begin().unwrap();
                    let row = handle
                        .get(Table::Meta, b"n")
                        .unwrap()
                        .map_or(0, |row| u64::from_be_bytes(row.try_into().unwrap()));
                    handle.put(Table::Meta, b"n", &(row + 1).to_be_bytes()).unwrap();
                    handle.commit().unwrap();
                }
            });
        }
    });
    assert_eq!(disk.rows(Table::Meta).first().unwrap().1, 800_u64.to_be_bytes());
}
