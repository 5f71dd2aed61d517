//! Which store a verb is about.

use std::path::PathBuf;

use checkrein::core::time::{Span, Timestamp};
use checkrein::store::StoreError;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore, path_of};

use crate::Exit;

/// Which store.
#[derive(clap::Args)]
pub(super) struct StoreOf {
    /// The store, as in `sqlite:checkrein.db`
    #[arg(long, value_name = "URL", env = "CHECKREIN_STORE")]
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
