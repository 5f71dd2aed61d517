//! Locks beside the file: whose turn it is to write, and which processes are alive.
//!
//! They are locks of `flock`: they belong to the handle that took them, so that no other handle on the same file ends
//! them when it is closed, as record locks would end if some part of the program copied the directory. They end with the
//! process however it ends; a child that was forked meanwhile keeps them up, and then the process counts as alive until
//! the child ends too, or until its leases do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::store::StoreError;
use crate::store::durable::Liveness;

/// The directory of the locks of a file.
pub(super) fn directory_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-locks");
    name.into()
}

fn open(directory: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(name))
}

fn failed(what: &Path, error: &io::Error) -> StoreError {
    StoreError::NotCommitted(format!("the lock `{}` cannot be had: {error}", what.display()))
}

/// Whose turn it is to write. SQLite's own lock lets whoever polls at the right moment in; one process was seen to wait
/// for seconds. Here everybody queues: who waits for the writer keeps the door closed to those who come later, the
/// process that has just written among them.
#[derive(Debug)]
pub(super) struct WriterLock {
    queue: File,
    writer: File,
    held: bool,
}

impl WriterLock {
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(directory, &error));
            }
            _ => {}
        }
        let lock = |name| open(directory, name).map_err(|error| failed(&directory.join(name), &error));
        Ok(Self { queue: lock("queue")?, writer: lock("writer")?, held: false })
    }

    /// Waits for this process's turn. Callers with a deadline wait elsewhere, for the thread that calls this.
    pub(super) fn acquire(&mut self) -> Result<(), StoreError> {
        if self.held {
            return Ok(());
        }
        let wait = |file: &File| loop {
            match flock(file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                result => {
                    return result.map_err(|error| {
                        StoreError::NotCommitted(format!("the file's lock cannot be had: {error}"))
                    });
                }
            }
        };
        wait(&self.queue)?;
        let writer = wait(&self.writer);
        let _ = flock(&self.queue, FlockOperation::Unlock);
        writer?;
        self.held = true;
        Ok(())
    }

    /// Waits for this process's turn, but not for ever.
    pub(super) fn acquire_within(&mut self, patience: Duration) -> Result<(), StoreError> {
        let deadline = Instant::now() + patience;
        while flock(&self.writer, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= deadline {
                return Err(StoreError::NotCommitted("another process writes to the store".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.held = true;
        Ok(())
    }

    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            // Unlocking a file that is open does not fail.
            let _ = flock(&self.writer, FlockOperation::Unlock);
        }
    }
}

/// The numbers of the processes that have a lock in a directory, dead ones among them.
pub(super) fn processes(directory: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |file: std::fs::DirEntry| file.file_name().to_str()?.strip_prefix("process-")?.parse().ok();
    files.filter_map(number).collect()
}

/// The locks by which processes of a store show that they are alive.
#[derive(Debug)]
pub(super) struct ProcessLocks {
    directory: PathBuf,
    own: Option<(u64, File)>,
}

impl ProcessLocks {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, own: None }
    }

    fn name(epoch: u64) -> String {
        format!("process-{epoch}")
    }
}

/// Whether a process that is alive has a lock in a directory.
pub(super) fn is_used(directory: &Path) -> bool {
    let mut locks = ProcessLocks::new(directory.to_owned());
    processes(directory).into_iter().any(|epoch| locks.is_alive(epoch))
}

impl Liveness for ProcessLocks {
    fn claim(&mut self, epoch: u64) -> Result<(), StoreError> {
        let path = self.directory.join(Self::name(epoch));
        let file = open(&self.directory, &Self::name(epoch)).map_err(|error| failed(&path, &error))?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|error| failed(&path, &error.into()))?;
        self.own = Some((epoch, file));
        Ok(())
    }

    fn is_alive(&mut self, epoch: u64) -> bool {
        if self.own.as_ref().is_some_and(|(own, _)| *own == epoch) {
            // Closing a second handle on the own file would drop the lock.
            return true;
        }
        let path = self.directory.join(Self::name(epoch));
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
            // A process removes its file only when it has left. A lock that is not there, or cannot be looked at, says
            // nothing: what such a process left is moved on at the end of its leases.
            Err(_) => true,
        }
    }

    fn forget(&mut self, epoch: u64) {
        self.own.take_if(|(own, _)| *own == epoch);
        // A file that stays behind does no harm: its number is never used again.
        let _ = std::fs::remove_file(self.directory.join(Self::name(epoch)));
    }
}
