//! Every verb there is, and how tests run one.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the command away from everything that this machine's user has set.
fn command(directory: &Path, columns: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkrein"));
    command.args(arguments).current_dir(directory).env_clear();
    command.env("COLUMNS", columns).env("PATH", "").env("USER", "kim");
    command
}

pub(crate) fn run(directory: &Path, columns: &str, arguments: &[&str]) -> Output {
    command(directory, columns, arguments).output().unwrap()
}

/// Every verb, as its words: the help texts name them, so that a new one cannot be forgotten. The first is the
/// command itself.
pub(crate) fn verbs() -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut next = 0;
    while let Some(verb) = all.get(next).cloned() {
        let words: Vec<&str> = verb.iter().map(String::as_str).chain(["--help"]).collect();
        let help = String::from_utf8(run(Path::new("."), "100", &words).stdout).unwrap();
        let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
        // A verb is indented by two; the text of a long one goes on further right.
        let lines = listed.lines().take_while(|line| line.starts_with("  "));
        let names =
            lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        for name in names.filter(|name| *name != "help") {
            all.push(verb.iter().cloned().chain([name.to_owned()]).collect());
        }
        next += 1;
    }
    all
}
