//! Lines that fit a narrow terminal.

use std::io::Write;

use checkrein::core::ledger::moment;
use checkrein::core::time::Timestamp;

use crate::show::wrapped;

/// An instant to the second, for people.
pub(super) fn instant(time: Timestamp) -> String {
    let text = moment::to_text(time);
    text.split('.').next().unwrap_or(&text).replace('T', " ") + " UTC"
}

/// Words in lines that fit, each after `indent` and in a colour.
pub(super) fn write_words(
    to: &mut impl Write,
    indent: &str,
    text: &str,
    colour: &str,
) -> std::io::Result<()> {
    let mut lines = Vec::new();
    wrapped(&mut lines, indent, text)?;
    for line in String::from_utf8_lossy(&lines).lines() {
        writeln!(to, "\u{1b}[{colour}m{line}\u{1b}[0m")?;
    }
    Ok(())
}
