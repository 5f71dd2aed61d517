//! `checkrein explain [CODE]`: what a reason code means and what to do about it.

use std::io::Write;

use checkrein_core::code::Code;
use serde_json::{Value, json};

use crate::{Exit, Output};

/// Explain a reason code, or list all of them
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein explain budget_exceeded
  checkrein explain --output json")]
pub(crate) struct Explain {
    /// The code, as in `rate_limited`; without it, every code
    code: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Explain {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut stdout = anstream::stdout().lock();
        match (&self.code, self.output) {
            (None, Output::Text) => write_table(&mut stdout)?,
            (None, output) => output.print(&mut stdout, &Code::all().map(record).collect())?,
            (Some(word), output) => {
                let Some(code) = Code::from_word(&word.to_ascii_lowercase().replace('-', "_")) else {
                    let hint = nearest(word).map_or_else(
                        || "`checkrein explain` lists every code".to_owned(),
                        |near| format!("did you mean `{near}`? `checkrein explain` lists every code"),
                    );
                    super::print_error(
                        &format!("unknown reason code `{}`", word.escape_debug()),
                        Some(&hint),
                    );
                    return Ok(Exit::Usage);
                };
                match output {
                    Output::Text => write_code(&mut stdout, code)?,
                    output => output.print(&mut stdout, &record(code))?,
                }
            }
        }
        Ok(Exit::Ok)
    }
}

fn record(code: Code) -> Value {
    json!({
        "code": code.word(),
        "message": code.message(),
        "model_message": code.model_message(),
        "hint": code.hint(),
        "http_status": code.http_status(),
        "exception": format!("checkrein.{}", code.exception()),
    })
}

fn write_code(to: &mut impl Write, code: Code) -> std::io::Result<()> {
    writeln!(to, "\u{1b}[1m{}\u{1b}[0m: {}", code.word(), code.message())?;
    writeln!(to)?;
    writeln!(to, "  what to do     {}", code.hint())?;
    writeln!(to, "  to the model   {}", code.model_message())?;
    writeln!(to, "  in Python      checkrein.{}", code.exception())?;
    writeln!(to, "  over HTTP      {}", code.http_status())
}

fn write_table(to: &mut impl Write) -> std::io::Result<()> {
    let width = Code::all().map(|code| code.word().len()).max().unwrap_or_default();
    writeln!(to, "\u{1b}[1m{:width$}  HTTP  meaning\u{1b}[0m", "code")?;
    for code in Code::all() {
        writeln!(to, "{:width$}  {:4}  {}", code.word(), code.http_status(), code.message())?;
    }
    Ok(())
}

/// The code that needs the fewest edits, if they are few.
fn nearest(word: &str) -> Option<&'static str> {
    // Longer input is no typing error, and the distance costs the product of both lengths.
    if word.len() > 40 {
        return None;
    }
    Code::all()
        .map(|code| (distance(word, code.word()), code.word()))
        .min()
        .filter(|(edits, _)| *edits <= 4)
        .map(|(_, near)| near)
}

/// Insertions, removals and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let here = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn a_typing_error_finds_its_code() {
        assert_eq!(nearest("rate_limit"), Some("rate_limited"));
        assert_eq!(nearest("budget_exeeded"), Some("budget_exceeded"));
        assert_eq!(nearest("something_else_entirely"), None);
        assert_eq!(nearest(&"a".repeat(41)), None);
    }
}
