//! What is wrong with a policy file: every problem with its place, and how it is shown.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// The most problems of one file that are reported.
pub const MAX_PROBLEMS: usize = 50;

/// The most characters of a source line that are shown around a problem.
const SHOWN: usize = 200;

/// One thing that is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stable code.
    pub code: &'static str,
    /// The fact.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The bytes of the file that are meant.
    pub span: Range<usize>,
    /// The line of the first of them, from 1.
    pub line: usize,
    /// The character of that line, from 1.
    pub column: usize,
}

/// A policy file that cannot be used, with everything that was found wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct PolicyFileError {
    name: String,
    text: Arc<str>,
    problems: Vec<Problem>,
    more: usize,
}

/// Collects problems while a file is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Problem>,
    /// Where nothing more is reported, because something larger was.
    silenced: Vec<Range<usize>>,
}

impl Problems {
    pub(super) fn add(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let is_within = |silent: &Range<usize>| silent.start <= span.start && span.end <= silent.end;
        // One place is complained of once: the second look finds again what the first one did.
        if self.silenced.iter().any(is_within) || self.found.iter().any(|known| known.span == span) {
            return;
        }
        let (message, hint) = (message.into(), hint.into());
        self.found.push(Problem { code, message, hint, span, line: 0, column: 0 });
    }

    /// Reports nothing more within `span`.
    pub(super) fn silence(&mut self, span: Range<usize>) {
        self.silenced.push(span);
    }

    /// The error, if there is one: problems in the order of their places.
    pub(super) fn into_error(mut self, name: &str, text: &str) -> Option<PolicyFileError> {
        if self.found.is_empty() {
            return None;
        }
        self.found.sort_by_key(|problem| (problem.span.start, problem.span.end));
        let more = self.found.len().saturating_sub(MAX_PROBLEMS);
        self.found.truncate(MAX_PROBLEMS);
        for problem in &mut self.found {
            (problem.line, problem.column) = place_of(text, problem.span.start);
        }
        Some(PolicyFileError { name: name.to_owned(), text: text.into(), problems: self.found, more })
    }
}

/// Line and column of a byte, both from 1.
pub(super) fn place_of(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.get(line_start..).unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}

impl PolicyFileError {
    /// An error about a whole file.
    pub(super) fn whole(name: &str, code: &'static str, message: String, hint: &str) -> Self {
        let hint = Some(hint.to_owned());
        let problem = Problem { code, message, hint, span: 0..0, line: 1, column: 1 };
        Self { name: name.to_owned(), text: "".into(), problems: vec![problem], more: 0 }
    }

    /// The stable code of the first problem.
    pub fn code(&self) -> &'static str {
        self.problems.first().map_or("policy_syntax", |problem| problem.code)
    }

    /// What the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The problems in the order of their places, at most [`MAX_PROBLEMS`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are than [`problems`](Self::problems) shows.
    pub fn more(&self) -> usize {
        self.more
    }

    fn summary(&self) -> String {
        let Some(first) = self.problems.first() else { return String::new() };
        let others = self.problems.len().saturating_sub(1).saturating_add(self.more);
        let others = if others == 0 { String::new() } else { format!(" (and {others} more)") };
        format!("{}:{}:{}: {}{others}", inert(&self.name), first.line, first.column, inert(&first.message))
    }

    /// Every problem with the line it stands in, for a terminal of `width` columns. Nothing in the file moves the
    /// cursor or hides what follows.
    pub fn report(&self, width: usize) -> String {
        let width = width.clamp(40, 200);
        let mut report = String::new();
        for problem in &self.problems {
            wrapped(&mut report, &format!("{}: {}", problem.code, inert(&problem.message)), "", width);
            let place = format!("{}:{}:{}", inert(&self.name), problem.line, problem.column);
            if self.text.is_empty() {
                wrapped(&mut report, &format!("--> {}", inert(&self.name)), "  ", width);
            } else {
                wrapped(&mut report, &format!("--> {place}"), "  ", width);
                self.snippet(&mut report, problem, width);
            }
            if let Some(hint) = &problem.hint {
                wrapped(&mut report, &format!("hint: {}", inert(hint)), "  ", width);
            }
            report.push('\n');
        }
        if self.more > 0 {
            wrapped(&mut report, &format!("{} more problems are not shown", self.more), "", width);
        }
        report
    }

    /// The line of a problem, cut to the width, with the meant part underlined.
    fn snippet(&self, to: &mut String, problem: &Problem, width: usize) {
        let line = self.text.lines().nth(problem.line.saturating_sub(1)).unwrap_or_default();
        let number = problem.line.to_string();
        let room = width.saturating_sub(number.len().saturating_add(3)).max(16);
        let meant = self.text.get(problem.span.clone()).unwrap_or_default();
        let meant = meant.lines().next().unwrap_or_default().chars().count().max(1);
        let first = problem.column.saturating_sub(1);
        // A quarter of the room before the problem, the rest from its start on.
        let cut = if line.chars().count() > room { first.saturating_sub(room / 4) } else { 0 };
        let (mut shown, mut marks) = (String::new(), String::new());
        for (at, character) in line.chars().enumerate().skip(cut).take(SHOWN) {
            let piece = inert(character.encode_utf8(&mut [0; 4]));
            let columns = piece.chars().count();
            if shown.chars().count().saturating_add(columns) > room {
                break;
            }
            let is_meant = at >= first && at < first.saturating_add(meant);
            marks.extend(std::iter::repeat_n(if is_meant { '^' } else { ' ' }, columns));
            shown.push_str(&piece);
        }
        let marks = if marks.trim().is_empty() {
            format!("{}^", " ".repeat(shown.chars().count().min(room.saturating_sub(1))))
        } else {
            marks.trim_end().to_owned()
        };
        let indent = " ".repeat(number.len());
        // Writing to a string does not fail.
        let _ = writeln!(to, "{number} | {}\n{indent} | {marks}", shown.trim_end());
    }
}

/// Text that somebody else chose, for a terminal.
fn inert(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if matches!(c, '\'' | '"' | '\\') {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
        shown
    })
}

/// Writes a sentence in lines of at most `width`, broken at spaces, and within words that are longer.
fn wrapped(to: &mut String, sentence: &str, indent: &str, width: usize) {
    let room = width.saturating_sub(indent.len()).max(16);
    let mut line = String::new();
    let mut used = 0_usize;
    let mut flush = |line: &mut String| {
        let _ = writeln!(to, "{indent}{line}");
        line.clear();
    };
    for word in sentence.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used.saturating_add(1).saturating_add(rest.len()) > room {
            flush(&mut line);
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used = used.saturating_add(1);
        }
        while rest.len() > room {
            line.extend(rest.drain(..room));
            flush(&mut line);
            used = 0;
        }
        used = used.saturating_add(rest.len());
        line.extend(rest);
    }
    flush(&mut line);
}
