//! One file per verb, and the few things they print in the same way.

use std::io::Write;

pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod once;
mod passphrase;
pub(crate) mod policy;
pub(crate) mod prices;
mod recording;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod restore;
pub(crate) mod schema;
mod store;

/// Prints an error, and what to do about it, to standard error.
pub(crate) fn print_error(message: &str, hint: Option<&str>) {
    let mut stderr = anstream::stderr().lock();
    // Standard error may be closed; the exit code still tells.
    let _closed = writeln!(stderr, "\u{1b}[1;31merror\u{1b}[0m: {message}");
    if let Some(hint) = hint {
        let _closed = writeln!(stderr, "\u{1b}[1;36mhint\u{1b}[0m: {hint}");
    }
}

/// Text that somebody else chose, for a terminal: nothing in it moves the cursor or hides what follows.
pub(crate) fn inert(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if matches!(c, '\'' | '"' | '\\') {
            shown.push(c)
        } else {
            shown.extend(c.escape_debug())
        }
        shown
    })
}

/// The columns of the terminal, or of `COLUMNS`; 100 where there is none.
pub(crate) fn columns() -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    named.unwrap_or_else(|| {
        let size = rustix::termios::tcgetwinsize(std::io::stderr());
        size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(100)
    })
}
