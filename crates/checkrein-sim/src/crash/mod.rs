//! Real processes on one SQLite file, killed at any moment; a service that counts what really happened; and a judge.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use checkrein::testing::Random;

mod judge;
mod worker;

pub use judge::Verdict;
pub use worker::work;

/// Points of a process at which it can be made to end, in the store and around the call.
const POINTS: [&str; 5] =
    ["before commit", "after commit", "before dispatch", "after dispatch", "before outcome"];

/// How hard it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Processes that are killed.
    pub kills: u64,
    /// Processes at a time.
    pub workers: usize,
    /// Callers in each.
    pub callers: usize,
    /// What is random follows from it; when a process is killed does not.
    pub seed: u64,
}

/// Where a trial keeps its files.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store.
    pub store: PathBuf,
    /// A line for each effect: the service.
    pub effects: PathBuf,
    /// A line for each result that a caller was told.
    pub told: PathBuf,
}

impl Place {
    /// The files of a directory.
    pub fn of(directory: &Path) -> Self {
        let file = |name: &str| directory.join(name);
        Self { store: file("store.db"), effects: file("effects"), told: file("told") }
    }
}

/// Why a trial could not be judged, or what it did that it must not.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

struct Crew<'a> {
    program: &'a Path,
    directory: &'a Path,
    trial: Trial,
    random: Random,
    started: u64,
    /// How many ended by themselves at a point of theirs.
    at_points: u64,
    /// How many could not open the store.
    turned_away: u64,
}

impl Crew<'_> {
    fn start(&mut self) -> io::Result<Child> {
        self.started += 1;
        let keys = 200 + self.trial.kills * 150;
        let mut command = Command::new(self.program);
        command.arg("worker").arg(self.directory);
        command
            .args([self.trial.callers as u64, self.trial.seed + self.started, keys].map(|n| n.to_string()));
        if self.random.once_in(2) {
            let point =
                POINTS.get(self.random.below(POINTS.len() as u64) as usize).copied().unwrap_or_default();
            command.env("CHECKREIN_DIE", format!("{point}:{}", self.random.below(120)));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
    }

    /// Replaces the workers that have ended by themselves.
    fn mend(&mut self, workers: &mut [Child]) -> Result<(), Failure> {
        for worker in workers {
            if let Some(status) = worker.try_wait()? {
                if status.code() == Some(worker::BROKEN) {
                    return Err(Failure(
                        "a worker saw what must not be; it said so on standard error".to_owned(),
                    ));
                }
                // A killed process has no exit code: this one got as far as saying why it ends.
                match status.code() {
                    Some(_) => self.turned_away += 1,
                    None => self.at_points += 1,
                }
                *worker = self.start()?;
            }
        }
        Ok(())
    }
}

/// Kills processes until `trial` is through, and judges what they left.
///
/// # Errors
/// A rule was broken, or the trial could not be run.
pub fn crash(program: &Path, directory: &Path, trial: Trial) -> Result<Verdict, Failure> {
    let begun = Instant::now();
    let mut crew = Crew {
        program,
        directory,
        trial,
        random: Random::new(trial.seed),
        started: 0,
        at_points: 0,
        turned_away: 0,
    };
    let mut workers = Vec::new();
    for _ in 0..trial.workers {
        workers.push(crew.start()?);
    }
    let killed = slaughter(&mut crew, &mut workers);
    for worker in &mut workers {
        worker.kill()?;
        worker.wait()?;
    }
    let killed = killed?;
    let (at_points, turned_away, time) = (crew.at_points, crew.turned_away, begun.elapsed());
    let mut verdict = judge::judge(directory)?;
    verdict.turned_away = turned_away;
    (verdict.killed, verdict.at_points, verdict.time) = (killed, at_points, time);
    Ok(verdict)
}

fn slaughter(crew: &mut Crew<'_>, workers: &mut [Child]) -> Result<u64, Failure> {
    let mut killed = 0;
    while killed + crew.at_points < crew.trial.kills {
        std::thread::sleep(Duration::from_millis(20 + crew.random.below(150)));
        crew.mend(workers)?;
        // Once in a while all go at once, as when the machine's memory runs out.
        let all = crew.random.once_in(12);
        let victim = crew.random.below(workers.len() as u64) as usize;
        for (number, worker) in workers.iter_mut().enumerate() {
            if all || number == victim {
                worker.kill()?;
                worker.wait()?;
                killed += 1;
                *worker = crew.start()?;
            }
        }
    }
    Ok(killed)
}
