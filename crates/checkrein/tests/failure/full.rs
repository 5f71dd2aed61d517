//! No room on the disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use checkrein_core::time::Span;

use crate::common::{SOON, assert_sound, call, count, limit, open};

/// A file system of four megabytes.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "checkrein-test"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = Small::mount(directory.path()) else {
        println!("skipped: only root can mount a small file system");
        return;
    };
    let path = disk.0.join("store.db");
    let engine = open(&path).unwrap();
    let policy = limit(&engine, 1_000_000, Span::from_secs(3_600));
    let filler = disk.0.join("filler");
    let mut allowed = 0;
    let text = loop {
        // Ever new keys, so that the file has to grow.
        let start = Instant::now();
        match call(&engine, &policy, &format!("user-{allowed}")) {
            Ok(()) => allowed += 1,
            Err(text) => {
                assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
                break text;
            }
        }
        if allowed == 50 {
            let used = std::fs::metadata(&path).unwrap().len();
            let wal = std::fs::metadata(disk.0.join("store.db-wal")).unwrap().len();
            let left = (4 << 20) - (used + wal + 64 * 1_024);
            std::fs::write(&filler, vec![0; usize::try_from(left).unwrap()]).unwrap();
        }
        assert!(allowed < 100_000, "the disk did not become full");
    };
    assert!(text.starts_with("store_error") && text.contains("not committed"), "{text}");
    assert!(text.contains("make room"), "{text}");
    assert!(call(&engine, &policy, "again").is_err());

    std::fs::remove_file(&filler).unwrap();
    assert_eq!(call(&engine, &policy, "room"), Ok(()));
    assert_eq!(engine.sqlite().unwrap().check().unwrap().miscounted, Vec::<String>::new());
    assert_sound(&engine);
    let kept = count_all(&engine);
    assert_eq!(kept, allowed + 1, "exactly the allowed calls are in the store");
    // What is on the disk says the same.
    drop((engine, policy));
    let engine = open(&path).unwrap();
    assert_eq!(count_all(&engine), kept);
    assert_sound(&engine);
    drop(engine);
}

fn count_all(engine: &checkrein::Engine) -> u64 {
    let mut total = 0;
    let mut after = checkrein::store::Cursor::default();
    loop {
        let (page, next) = engine.list(checkrein_core::policy::RecordKind::Meter, after, 500).unwrap();
        total += page.len() as u64;
        let Some(next) = next else { break };
        after = next;
    }
    assert!(total > 0 && count(engine) > 0);
    total
}
