//! Which store a verb is about.

use std::path::{Path, PathBuf};

use checkrein::clock::Clock;
use checkrein::core::key::Family;
use checkrein::core::policy::RecordKind;
use checkrein::core::time::{Span, Timestamp};
use checkrein::ledger::LedgerAt;
use checkrein::store::durable::FamilyKey;
use checkrein::store::redis::{DEFAULT_PREFIX, RedisOptions, RedisStore};
use checkrein::store::sqlite::{SqliteOptions, SqliteStore, path_of};
use checkrein::store::{Cursor, Page, Results, Step, StoreError};

use crate::Exit;

/// A person waits longer than a decision does.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Which store, of those that may be on a server.
#[derive(clap::Args)]
pub(super) struct SharedStoreOf {
    /// The store, as in `sqlite:checkrein.db` or `redis://HOST:PORT`
    #[arg(long, value_name = "URL", env = "CHECKREIN_STORE", hide_env_values = true)]
    store: String,
    /// What the keys of a store on a server begin with
    #[arg(long, value_name = "TEXT", env = "CHECKREIN_PREFIX", default_value = DEFAULT_PREFIX)]
    prefix: String,
}

impl SharedStoreOf {
    /// One that was named in another way.
    pub(super) fn of(store: &str, prefix: &str) -> Self {
        Self { store: store.to_owned(), prefix: prefix.to_owned() }
    }

    /// Whether it is on a server.
    pub(super) fn is_on_a_server(&self) -> bool {
        RedisStore::is_url(&self.store)
    }

    /// The one in a file.
    pub(super) fn in_a_file(&self) -> Result<StoreOf, StoreError> {
        if self.prefix == DEFAULT_PREFIX {
            return Ok(StoreOf { store: self.store.clone() });
        }
        let text = "`--prefix` is for stores on a server; leave it out";
        Err(StoreError::NotCommitted(text.to_owned()))
    }

    /// What the keys on the server begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens the one on a server. The failover is nobody's fault who only looks.
    pub(super) fn on_a_server(&self) -> Result<RedisStore, StoreError> {
        self.on_a_server_with(None)
    }

    /// The same with a ledger of this host that says what is done. Whoever else keeps it seals it.
    pub(super) fn on_a_server_with(&self, ledger: Option<&Path>) -> Result<RedisStore, StoreError> {
        let sealed = SqliteOptions { seal: None, ..SqliteOptions::default() };
        let options = RedisOptions {
            prefix: self.prefix.clone(),
            deadline: PATIENCE,
            accept_failover_loss: true,
            ledger: ledger.map(|path| LedgerAt { path: path.to_owned(), options: sealed }),
            ..RedisOptions::default()
        };
        RedisStore::open(&self.store, options)
    }

    /// Opens it, wherever it is.
    pub(super) fn open(&self) -> Result<Opened, StoreError> {
        if self.is_on_a_server() {
            return self.on_a_server().map(Opened::Server);
        }
        self.in_a_file()?.open().map(Opened::File)
    }
}

/// A store that a verb looks into.
pub(super) enum Opened {
    File(SqliteStore),
    Server(RedisStore),
}

impl Opened {
    pub(super) fn clock(&self) -> &Clock {
        match self {
            Self::File(store) => store.clock(),
            Self::Server(store) => store.clock(),
        }
    }

    pub(super) fn families(&self) -> Result<Vec<(Family, FamilyKey)>, StoreError> {
        match self {
            Self::File(store) => store.families(),
            Self::Server(store) => store.families(),
        }
    }

    pub(super) fn scan(&self, kind: RecordKind, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        match self {
            Self::File(store) => store.scan(kind, after, limit),
            Self::Server(store) => store.scan(kind, &after, limit),
        }
    }

    pub(super) fn run(&self, steps: Vec<Step>) -> Results {
        match self {
            Self::File(store) => store.run(steps),
            Self::Server(store) => store.run(steps),
        }
    }
}

/// Which store.
#[derive(clap::Args)]
pub(super) struct StoreOf {
    /// The store, as in `sqlite:checkrein.db`
    #[arg(long, value_name = "URL", env = "CHECKREIN_STORE", hide_env_values = true)]
    pub(super) store: String,
}

impl StoreOf {
    pub(super) fn path(&self) -> Result<PathBuf, StoreError> {
        path_of(&self.store)
    }

    /// Opens a store that is there: a verb never makes one.
    pub(super) fn open(&self) -> Result<SqliteStore, StoreError> {
        self.open_with(SqliteOptions::default())
    }

    /// Opens a store of which records may be missing, to say which.
    pub(super) fn open_unchecked(&self) -> Result<SqliteStore, StoreError> {
        self.open_with(SqliteOptions { check_at_open: false, ..SqliteOptions::default() })
    }

    fn open_with(&self, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
        let path = self.path()?;
        if !path.is_file() {
            return Err(StoreError::NotCommitted(format!("there is no store `{}`", path.display())));
        }
        // Whoever uses the store seals its ledger; that needs a key which this verb does not.
        SqliteStore::open(&path, SqliteOptions { seal: None, ..options })
    }
}

/// Prints why a store cannot be used. It is the environment's fault.
pub(super) fn refuse(error: &StoreError) -> Exit {
    let text = match error {
        StoreError::NotCommitted(text) | StoreError::Damaged(text) => text.clone(),
        StoreError::Unknown(_) => error.to_string(),
    };
    super::print_error(&text, None);
    Exit::Usage
}

/// A length of time as lists show it: its two largest units.
pub(super) fn short(span: Span) -> String {
    let seconds = span.nanos() / 1_000_000_000;
    match seconds {
        ..60 => format!("{} s", seconds.max(0)),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// How long ago an instant was.
pub(super) fn age(now: Timestamp, since: Timestamp) -> Span {
    let age = now.since(since);
    if age.nanos() < 0 { Span::ZERO } else { age }
}

/// Bytes as people say them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        ..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_and_sizes() {
        for (seconds, shown) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(short(Span::from_secs(seconds)), shown);
        }
        assert_eq!(age(Timestamp::MIN, Timestamp::MAX), Span::ZERO);
        assert_eq!(size(9_999), "9999 bytes");
        assert_eq!(size(123_456), "123 KB");
    }
}
