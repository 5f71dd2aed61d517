//! What `store=` says: memory, the file of a SQLite store, or the URL of a server; and what was probably meant when it is
//! none of them.

use std::path::PathBuf;

use checkrein::store::StoreError;
use checkrein::store::durable::KeepArguments;
use checkrein::store::redis::RedisStore;
use checkrein::store::sqlite::{path_of, quotable};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::{convert, error};

const HINT: &str =
    "use store=\"memory\", store=\"sqlite:PATH\" for a file, or store=\"redis://HOST:PORT\" for a server";
/// Stores that come with later versions.
const LATER: [&str; 3] = ["postgres", "postgresql", "mysql"];

/// Where records are.
#[derive(Debug)]
pub(crate) enum Place {
    Memory,
    File(PathBuf),
    /// A URL that can be one; it may have a password in it.
    Server(String),
}

/// The place that `store=` names.
pub(crate) fn of(py: Python<'_>, store: Option<&Bound<'_, PyAny>>) -> PyResult<Place> {
    let Some(store) = store else { return Ok(Place::Memory) };
    let Ok(text) = store.cast::<PyString>() else {
        let text = format!("the store is {}", convert::a_type(store));
        let is_path = store.hasattr("__fspath__").unwrap_or_default();
        let hint = if is_path { "write store=f\"sqlite:{path}\"" } else { HINT };
        return Err(error::config(py, &text, "store", hint));
    };
    let text = text.to_str()?;
    if text == "memory" {
        return Ok(Place::Memory);
    }
    if RedisStore::is_url(text) {
        return server_of(py, text);
    }
    if text.starts_with("sqlite:~") {
        let hint = "use os.path.expanduser, or `sqlite:./~` for a file of that name";
        return Err(error::config(py, "`~` is not expanded", "store", hint));
    }
    let problem = match path_of(text) {
        Ok(path) => return Ok(Place::File(path)),
        Err(
            StoreError::NotCommitted(problem) | StoreError::Unknown(problem) | StoreError::Damaged(problem),
        ) => problem,
    };
    if text.starts_with("sqlite:") {
        let (fact, hint) = problem.split_once("; ").unwrap_or((&problem, HINT));
        return Err(error::config(py, fact, "store", hint));
    }
    let fact = format!("there is no store `{}`", quotable(text).escape_debug());
    Err(error::config(py, &fact, "store", &meant(text)))
}

/// A URL of a server, if it is one. Nothing of one that is none is quoted: it may be the password.
fn server_of(py: Python<'_>, url: &str) -> PyResult<Place> {
    match RedisStore::check_url(url) {
        Ok(()) => Ok(Place::Server(url.to_owned())),
        Err(
            StoreError::NotCommitted(problem) | StoreError::Unknown(problem) | StoreError::Damaged(problem),
        ) => {
            let (fact, hint) = problem.split_once(": ").unwrap_or((&problem, "write `redis://HOST:PORT`"));
            Err(error::config(py, fact, "store", hint))
        }
    }
}

/// What a ledger keeps of arguments.
pub(crate) fn arguments_of(py: Python<'_>, word: &str) -> PyResult<KeepArguments> {
    match word {
        "full" => Ok(KeepArguments::Full),
        "digest" => Ok(KeepArguments::Digest),
        "none" => Ok(KeepArguments::None),
        _ => {
            let fact = format!("ledger_arguments is `{}`", word.escape_debug());
            Err(error::config(py, &fact, "ledger", "use `full`, `digest` or `none`"))
        }
    }
}

/// What somebody who wrote this probably meant.
fn meant(text: &str) -> String {
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    let scheme = scheme.to_lowercase();
    let path = rest.trim_start_matches('/');
    if LATER.contains(&scheme.as_str()) {
        return format!("stores in {scheme} come with a later version; {HINT}");
    }
    if distance(&scheme, "sqlite") <= 2 || scheme == "file" {
        // What follows may be the URL of a server, with its password.
        let rest = if path.is_empty() || rest.contains('@') { "PATH" } else { rest };
        return format!("did you mean `sqlite:{}`?", rest.escape_debug());
    }
    if distance(&scheme, "memory") <= 2 {
        return "did you mean `memory`?".to_owned();
    }
    let looks_like_a_file = [".db", ".sqlite", ".sqlite3"].iter().any(|end| text.ends_with(end));
    if rest.is_empty() && !text.contains('@') && (looks_like_a_file || text.contains('/')) {
        return format!("did you mean `sqlite:{}`?", text.escape_debug());
    }
    HINT.to_owned()
}

/// Single characters to put in, take out or change between two short words.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (count, letter) in one.chars().take(32).enumerate() {
        let mut next = vec![count + 1];
        for (known, pair) in other.iter().zip(row.windows(2)) {
            if let (&[above_left, above], Some(&left)) = (pair, next.last()) {
                let changed = above_left + usize::from(*known != letter);
                next.push(changed.min(above + 1).min(left + 1));
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
