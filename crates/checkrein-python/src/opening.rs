//! Opening the store of an engine: which options belong to which kind of store, and what is said about the others.

use std::path::PathBuf;
use std::time::Duration;

use checkrein::clock::Clock;
use checkrein::engine::Engine;
use checkrein::ledger::LedgerAt;
use checkrein::store::StoreError;
use checkrein::store::durable::KeepArguments;
use checkrein::store::redis::{RedisOptions, RedisStore};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore};
use pyo3::prelude::*;

use crate::error;
use crate::place::Place;

const FILE: &str = "give the engine a file: store=\"sqlite:PATH\"";
const BESIDE: &str = "give the engine a file for this host's ledger: ledger=\"PATH\"";
const SERVER: &str = "leave it out, or give the engine a server: store=\"redis://HOST:PORT\"";

/// What the engine was given beside its store.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) clock: Option<Clock>,
    pub(crate) max_keys: Option<usize>,
    pub(crate) arguments: Option<KeepArguments>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) witness: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) accept_failover_loss: Option<bool>,
    pub(crate) ledger: Option<PathBuf>,
}

impl Options {
    /// Whether it says something about a ledger's contents.
    fn is_about_a_ledger(&self) -> bool {
        self.arguments.is_some() || self.key.is_some() || self.witness.is_some()
    }

    /// An option that only makes sense with a server, if there is one.
    fn of_a_server(&self) -> Option<&'static str> {
        let given = [
            ("prefix", self.prefix.is_some()),
            ("deadline", self.deadline.is_some()),
            ("accept_failover_loss", self.accept_failover_loss.is_some()),
        ];
        given.iter().find(|(_, is_given)| *is_given).map(|(name, _)| *name)
    }
}

/// An engine on the store of a place.
pub(crate) fn open(py: Python<'_>, place: Place, options: Options) -> PyResult<Engine> {
    if !matches!(place, Place::Server(_))
        && let Some(name) = options.of_a_server()
    {
        let text = format!("`{name}` is an option of stores on a server");
        return Err(error::config(py, &text, name, SERVER));
    }
    match place {
        Place::Memory => in_memory(py, options),
        Place::File(path) => in_a_file(py, path, options),
        Place::Server(url) => on_a_server(py, &url, options),
    }
}

fn in_memory(py: Python<'_>, options: Options) -> PyResult<Engine> {
    if options.is_about_a_ledger() || options.ledger.is_some() {
        return Err(error::config(py, "an engine in memory keeps no ledger", "ledger", FILE));
    }
    let mut builder = Engine::builder();
    if let Some(clock) = options.clock {
        builder = builder.clock(clock);
    }
    if let Some(count) = options.max_keys {
        builder = builder.max_keys(count);
    }
    Ok(builder.build())
}

fn in_a_file(py: Python<'_>, path: PathBuf, options: Options) -> PyResult<Engine> {
    if options.ledger.is_some() {
        let text = "a store in a file keeps its ledger in the same file";
        return Err(error::config(py, text, "ledger", "leave `ledger` out"));
    }
    let defaults = SqliteOptions::default();
    let sqlite = SqliteOptions {
        clock: options.clock,
        key: options.key,
        witness: options.witness,
        max_keys: options.max_keys.unwrap_or(defaults.max_keys),
        ledger: options.arguments.or(defaults.ledger),
        ..defaults
    };
    let opened = py.detach(|| SqliteStore::open(&path, sqlite));
    let store = opened.map_err(|problem| error::unopened(py, &path, problem))?;
    Ok(Engine::builder().sqlite(store).build())
}

fn on_a_server(py: Python<'_>, url: &str, options: Options) -> PyResult<Engine> {
    if options.ledger.is_none() && options.is_about_a_ledger() {
        let text = "an engine on a server keeps no ledger unless it is given a file for it";
        return Err(error::config(py, text, "ledger", BESIDE));
    }
    let ledger = options.ledger.map(|path| {
        let defaults = SqliteOptions::default();
        let options = SqliteOptions {
            clock: options.clock.clone(),
            key: options.key,
            witness: options.witness,
            ledger: options.arguments.or(defaults.ledger),
            ..defaults
        };
        LedgerAt { path, options }
    });
    let defaults = RedisOptions::default();
    let redis = RedisOptions {
        prefix: options.prefix.unwrap_or(defaults.prefix),
        deadline: options.deadline.unwrap_or(defaults.deadline),
        max_keys: options.max_keys.unwrap_or(defaults.max_keys),
        accept_failover_loss: options.accept_failover_loss.unwrap_or(defaults.accept_failover_loss),
        clock: options.clock,
        ledger,
        ..defaults
    };
    if let Err(
        StoreError::NotCommitted(problem) | StoreError::Unknown(problem) | StoreError::Damaged(problem),
    ) = redis.check()
    {
        let (fact, hint) = problem.split_once(": ").unwrap_or((&problem, "use the default"));
        return Err(error::config(py, fact, "prefix", hint));
    }
    let store = py.detach(|| RedisStore::open(url, redis));
    let store = store.map_err(|problem| error::store(py, &problem))?;
    Ok(Engine::builder().redis(store).build())
}

/// A deadline as every length of time is read here.
pub(crate) fn read_deadline(py: Python<'_>, deadline: &Bound<'_, PyAny>) -> PyResult<Duration> {
    const LEAST_NS: u64 = 1_000_000;
    let read = py.import("checkrein.spec")?.getattr("span_ns")?;
    Ok(Duration::from_nanos(read.call1(("deadline", deadline, LEAST_NS))?.extract()?))
}
