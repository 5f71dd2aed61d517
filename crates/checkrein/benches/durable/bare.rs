//! What SQLite alone could do: one row written over and one appended per call, with the same group commit.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, params};

use crate::Failure;

/// The most calls in one transaction, as in the store.
const BATCH: usize = 256;
/// A record and an entry of the sizes that the store writes for one limit.
const RECORD: usize = 80;
const ENTRY: usize = 420;

#[derive(Default)]
struct Queue {
    state: Mutex<(VecDeque<Call>, bool)>,
    came: Condvar,
}

struct Call {
    key: u64,
    done: Arc<(Mutex<bool>, Condvar)>,
}

/// The loop, with a thread that writes.
pub(crate) struct Bare {
    queue: Arc<Queue>,
    thread: Option<std::thread::JoinHandle<rusqlite::Result<()>>>,
}

impl Bare {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let connection = Connection::open(path)?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA journal_size_limit = 8388608;
             CREATE TABLE record (key BLOB PRIMARY KEY NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE entry (key INTEGER PRIMARY KEY NOT NULL, body BLOB NOT NULL);",
        )?;
        let queue = Arc::new(Queue::default());
        let jobs = Arc::clone(&queue);
        let thread = Some(std::thread::spawn(move || write(&connection, &jobs)));
        Ok(Self { queue, thread })
    }

    /// One call, on the disk when it returns.
    pub(crate) fn call(&self, key: u64) {
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        self.queue.state.lock().0.push_back(Call { key, done: Arc::clone(&done) });
        self.queue.came.notify_one();
        let mut state = done.0.lock();
        while !*state {
            done.1.wait(&mut state);
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.queue.state.lock().1 = true;
        self.queue.came.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn write(connection: &Connection, queue: &Queue) -> rusqlite::Result<()> {
    let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
    let mut put =
        connection.prepare("INSERT INTO record VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET body = ?2")?;
    let mut append = connection.prepare("INSERT INTO entry (body) VALUES (?1)")?;
    let mut commit = connection.prepare("COMMIT")?;
    let (mut record, entry) = (vec![7_u8; RECORD], vec![b'x'; ENTRY]);
    loop {
        let calls: Vec<Call> = {
            let mut state = queue.state.lock();
            while state.0.is_empty() {
                if state.1 {
                    return Ok(());
                }
                queue.came.wait(&mut state);
            }
            let most = state.0.len().min(BATCH);
            state.0.drain(..most).collect()
        };
        begin.execute([])?;
        for call in &calls {
            record.splice(..8, call.key.to_be_bytes());
            put.execute(params![format!("tenant/user-{:06}", call.key).as_bytes(), record])?;
            append.execute([&entry])?;
        }
        commit.execute([])?;
        for call in calls {
            *call.done.0.lock() = true;
            call.done.1.notify_one();
        }
    }
}
