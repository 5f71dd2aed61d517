//! Parsing on a stack of its own.
//!
//! The generated parser recurses about a dozen frames per level of nesting. Text is checked against its bounds
//! only once it is parsed, so parsing and checking happen on a thread whose stack suffices for any text of
//! the permitted length, whatever stack the caller has left; a panic of the parser ends as an error, too.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::IdedExpr;
use cel::common::ast::SourceInfo;
use cel::parser::{ParseErrors, Parser};

use super::error::ExpressionError;

const STACK_BYTES: usize = 32 << 20;

/// Parses `text` and gives the tree to `then`.
pub(super) fn parsed<T: Send>(
    text: &str,
    then: impl FnOnce(IdedExpr, SourceInfo) -> Result<T, ExpressionError> + Send,
) -> Result<T, ExpressionError> {
    let whole = 0..text.len();
    let work = || parsed_here(text, then);
    let done = if HAS_ROOM.get() {
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| NoRoom::Panicked)
    } else {
        with_room(work)
    };
    done.unwrap_or_else(|problem| {
        Err(match problem {
            NoRoom::Panicked => {
                ExpressionError::new("expression_syntax", whole, "the expression cannot be parsed")
            }
            NoRoom::NoThread => ExpressionError::new(
                "expression_unavailable",
                whole,
                "no thread could be started to parse the expression",
            ),
        })
    })
}

/// Parses where there is room.
fn parsed_here<T>(
    text: &str,
    then: impl FnOnce(IdedExpr, SourceInfo) -> Result<T, ExpressionError>,
) -> Result<T, ExpressionError> {
    match Parser::default().parse_with_source_info(text) {
        Ok((tree, info)) => then(tree, info),
        Err(errors) => Err(syntax_error(text, &errors)),
    }
}

/// Why work could not be done on a stack of its own.
pub(crate) enum NoRoom {
    Panicked,
    NoThread,
}

thread_local! {
    /// Whether the stack of this thread suffices for any text.
    static HAS_ROOM: Cell<bool> = const { Cell::new(false) };
}

/// Does work that parses many expressions on one stack of its own.
///
/// # Errors
/// The work panicked, or there is no thread for it.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NoRoom> {
    let work = || {
        HAS_ROOM.set(true);
        work()
    };
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(threads, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(NoRoom::Panicked),
            Err(_) => Err(NoRoom::NoThread),
        }
    })
}

fn syntax_error(text: &str, errors: &ParseErrors) -> ExpressionError {
    let Some(error) = errors.errors.first() else {
        return ExpressionError::new("expression_syntax", 0..text.len(), "the expression cannot be parsed");
    };
    let line = usize::try_from(error.pos.0).unwrap_or(1).saturating_sub(1);
    let column = usize::try_from(error.pos.1).unwrap_or_default().saturating_sub(1);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let within = rest.char_indices().nth(column).map_or(rest.len(), |(byte, _)| byte);
    let start = before.saturating_add(within);
    let width = text.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    if error.msg.contains("Recursion limit") {
        return ExpressionError::new("expression_too_deep", 0..text.len(), "the expression nests too deeply");
    }
    ExpressionError::new(
        "expression_syntax",
        start..start.saturating_add(width),
        format!("the expression does not parse: {}", readable(&error.msg)),
    )
}

/// Shortens what the generated parser says: no list of every token that could have followed.
fn readable(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.split(" expecting {").next().unwrap_or(message);
    let message = message.replace("mismatched input", "unexpected").replace("extraneous input", "unexpected");
    message.replace("'<EOF>'", "end").replace("<EOF>", "the end").chars().take(160).collect()
}
