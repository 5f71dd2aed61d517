//! What every verb prints in the same way: answers, errors, and text that somebody else chose.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::path::Path;

use checkrein_core::amount::Amount;
use checkrein_core::ledger::moment;
use checkrein_core::time::Timestamp;
use serde_json::Value;

use crate::Output;

impl Output {
    /// Prints an answer for programs: as one document, or an object per line. Text is for the verb itself.
    pub(crate) fn print(self, to: &mut impl Write, answer: &Value) -> std::io::Result<()> {
        match (self, answer) {
            (Self::Jsonl, Value::Array(items)) => {
                items.iter().try_for_each(|item| writeln!(to, "{}", inert_json(&item.to_string())))
            }
            (Self::Jsonl, answer) => writeln!(to, "{}", inert_json(&answer.to_string())),
            _ => writeln!(to, "{}", inert_json(&format!("{answer:#}"))),
        }
    }
}

/// Prints an error, and what to do about it, to standard error.
pub(crate) fn print_error(message: &str, hint: Option<&str>) {
    let mut stderr = anstream::stderr().lock();
    // Standard error may be closed; the exit code still tells.
    let _closed = writeln!(stderr, "\u{1b}[1;31merror\u{1b}[0m: {}", harmless(message));
    if let Some(hint) = hint {
        let _closed = writeln!(stderr, "\u{1b}[1;36mhint\u{1b}[0m: {}", harmless(hint));
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

/// The same for the name of a file.
pub(crate) fn inert_path(path: &Path) -> String {
    inert(&path.display().to_string())
}

/// The same for text in which line breaks are our own.
pub(crate) fn harmless(text: &str) -> String {
    text.split('\n').map(inert).collect::<Vec<_>>().join("\n")
}

/// JSON in which nothing moves the cursor or hides what follows, when it is shown on a terminal.
pub(crate) fn inert_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    // Outside of strings JSON is ASCII, and there every character may be written by its number.
    for c in json.chars() {
        let is_plain = (c.is_ascii() && c != '\u{7f}') || (!c.is_ascii() && c.escape_debug().count() == 1);
        if is_plain {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

/// JSON that programs get byte by byte, because it is hashed; a terminal gets it inert.
pub(crate) fn as_hashed(json: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() { Cow::Owned(inert_json(json)) } else { Cow::Borrowed(json) }
}

/// A number and what is counted.
pub(crate) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The columns of the terminal, or of `COLUMNS`; 100 where there is none.
pub(crate) fn columns() -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    named.unwrap_or_else(|| {
        let size = rustix::termios::tcgetwinsize(std::io::stderr());
        size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(100)
    })
}

/// An instant as people write it: a day, or a day and a time to the second or finer.
pub(crate) fn instant(text: &str) -> Result<Timestamp, &'static str> {
    let whole = match (text.len(), text.strip_suffix('Z')) {
        (10, _) => format!("{text}T00:00:00.000000000Z"),
        (20, Some(head)) => format!("{head}.000000000Z"),
        _ => text.to_owned(),
    };
    moment::read(whole.as_bytes()).ok_or("write a day or an instant in UTC, as in `2026-11-21T12:30:00Z`")
}

/// How much of a limit is spent, held and left.
pub(crate) fn bar(spent: Amount, held: Amount, limit: Amount, length: usize) -> String {
    let full = cells(spent, limit, length);
    let both = cells(spent.saturating_add(held), limit, length).max(full);
    let (held, left) = (both.saturating_sub(full), length.saturating_sub(both));
    format!("{}{}{}", "█".repeat(full), "▒".repeat(held), "░".repeat(left))
}

/// The cells of a bar: at least one for anything, all of them for the limit and more.
fn cells(amount: Amount, limit: Amount, length: usize) -> usize {
    let most = i128::try_from(length).unwrap_or_default();
    let (amount, limit) = (amount.pico(), limit.pico());
    if amount <= 0 {
        return 0;
    }
    // Whole parts of the limit first: the product of large amounts does not fit.
    let part = (limit / most.max(1)).max(1);
    let cells = if amount >= limit { most } else { (amount / part).clamp(1, most.saturating_sub(1).max(1)) };
    usize::try_from(cells).unwrap_or(length)
}

/// Writes words in lines of the terminal's width: the first after `first`, the others after as many spaces. A word
/// that is longer than a line is cut into several.
pub(crate) fn wrapped(to: &mut impl Write, first: &str, text: &str) -> std::io::Result<()> {
    let width = columns().clamp(40, 120);
    let indent = first.chars().count();
    let room = width.saturating_sub(indent).max(16);
    let mut line = String::new();
    let mut is_first = true;
    let mut flush = |line: &mut String| {
        let start = if std::mem::take(&mut is_first) { first.to_owned() } else { " ".repeat(indent) };
        let written = writeln!(to, "{}", format!("{start}{line}").trim_end());
        line.clear();
        written
    };
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used.saturating_add(1).saturating_add(word.len()) > room {
            flush(&mut line)?;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while word.len() > room {
            line.extend(word.drain(..room));
            flush(&mut line)?;
        }
        line.extend(word);
    }
    flush(&mut line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_inert_and_means_the_same() {
        let value = json!({ "message": "a\u{1b}[2Jb\u{202e}c\u{e000}d\u{1f600}é\u{e0001}\u{7f}" });
        for output in [Output::Json, Output::Jsonl] {
            let mut shown = Vec::new();
            output.print(&mut shown, &value).unwrap();
            let shown = String::from_utf8(shown).unwrap();
            assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{e0001}', '\u{7f}']), "{shown}");
            assert!(shown.contains("é"), "{shown}");
            assert_eq!(serde_json::from_str::<Value>(&shown).ok(), Some(value.clone()));
        }
    }

    #[test]
    fn instants_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-21", Some("2026-11-21T00:00:00.000000000Z")),
            ("2026-11-21T12:30:00Z", Some("2026-11-21T12:30:00.000000000Z")),
            ("2026-11-21T12:30:00.500000000Z", Some("2026-11-21T12:30:00.500000000Z")),
            ("2026-02-30", None),
            ("2026-11-21T12:30:00", None),
            ("now", None),
            ("éééééééééé", None),
        ] {
            assert_eq!(instant(text).ok().map(moment::to_text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn bars_are_full_at_the_limit_only() {
        let units = Amount::from_units;
        for (spent, held, limit, shown) in [
            (0, 0, 10, "░░░░░"),
            (5, 3, 10, "██▒▒░"),
            (9, 0, 10, "████░"),
            (10, 0, 10, "█████"),
            (99, 1, 10, "█████"),
            (0, 1, 1_000_000, "▒░░░░"),
            (1, 0, 0, "█████"),
            (0, 0, 0, "░░░░░"),
        ] {
            assert_eq!(bar(units(spent), units(held), units(limit), 5), shown, "{spent} {held} {limit}");
        }
        assert_eq!(bar(Amount::MAX, Amount::MAX, Amount::MAX, 3), "███");
    }

    #[test]
    fn a_list_is_a_document_or_lines() {
        let value = json!([{ "a": 1 }, { "b": [2] }]);
        let shown = |output: Output| {
            let mut shown = Vec::new();
            output.print(&mut shown, &value).unwrap();
            String::from_utf8(shown).unwrap()
        };
        assert_eq!(shown(Output::Jsonl), "{\"a\":1}\n{\"b\":[2]}\n");
        assert_eq!(serde_json::from_str::<Value>(&shown(Output::Json)).ok(), Some(value.clone()));
    }

    #[test]
    fn an_error_keeps_its_own_lines_only() {
        assert_eq!(harmless("a\nb\u{1b}[2J\u{202e}'c'"), "a\nb\\u{1b}[2J\\u{202e}'c'");
    }
}
