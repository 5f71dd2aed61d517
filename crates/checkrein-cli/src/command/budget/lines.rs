//! Lines that fit a narrow terminal.

use std::io::Write;

use checkrein::core::ledger::moment;
use checkrein::core::time::Timestamp;

/// An instant to the second, for people.
pub(super) fn instant(time: Timestamp) -> String {
    let text = moment::to_text(time);
    text.split('.').next().unwrap_or(&text).replace('T', " ") + " UTC"
}

/// Words below a title, in lines that fit.
pub(super) fn write_words(
    to: &mut impl Write,
    text: &str,
    width: usize,
    colour: &str,
) -> std::io::Result<()> {
    for line in wrapped(text, width, "  ") {
        if colour.is_empty() {
            writeln!(to, "{line}")?
        } else {
            writeln!(to, "\u{1b}[{colour}m{line}\u{1b}[0m")?
        }
    }
    Ok(())
}

/// A text in lines of at most `width` characters: broken between words, and within those that are longer.
pub(super) fn wrapped(text: &str, width: usize, indent: &str) -> Vec<String> {
    let room = width.saturating_sub(indent.len()).max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let mut word: &str = word;
        let fits = |line: &String, word: &str| line.chars().count() + 1 + word.chars().count() <= room;
        if let Some(line) = lines.last_mut().filter(|line| fits(line, word)) {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        while let Some((at, _)) = word.char_indices().nth(room) {
            let (head, rest) = word.split_at(at);
            lines.push(head.to_owned());
            word = rest;
        }
        lines.push(word.to_owned());
    }
    lines.into_iter().map(|line| format!("{indent}{}", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit() {
        let check = |text: &str, expected: &[&str]| assert_eq!(wrapped(text, 10, "  "), expected);
        check("a b c", &["  a b c"]);
        check("settled 12  held 3", &["  settled", "  12  held", "  3"]);
        check("abcdefghijklmnopqrs t", &["  abcdefgh", "  ijklmnop", "  qrs t"]);
        check("", &["  "]);
    }
}
