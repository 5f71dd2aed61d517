//! `checkrein man [DIR]`: manual pages, written from the same descriptions as the help texts.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::{Arg, Command};

use crate::Exit;
use crate::command::print_error;

/// Print the manual page, or write one for each verb
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein man | man -l -
  checkrein man ~/.local/share/man/man1

Without DIR the page of the command itself goes to standard output. With it there is a page for each verb, such as \
checkrein-policy-check.1; pages that are there are written anew.")]
pub(crate) struct Man {
    /// The directory for all pages; it has to be there
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, mut command: Command) -> anyhow::Result<Exit> {
        command.build();
        let Some(directory) = &self.directory else {
            std::io::stdout().lock().write_all(page(&command).as_bytes())?;
            return Ok(Exit::Ok);
        };
        if !directory.is_dir() {
            print_error(&format!("`{}` is no directory", directory.display()), Some("make it first"));
            return Ok(Exit::Usage);
        }
        let mut to = anstream::stdout().lock();
        let mut next = vec![command];
        while let Some(command) = next.pop() {
            let path = directory.join(format!("{}.1", name_of(&command)));
            std::fs::write(&path, page(&command))?;
            writeln!(to, "{}", crate::command::inert(&path.display().to_string()))?;
            next.extend(command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned());
        }
        Ok(Exit::Ok)
    }
}

fn name_of(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).replace(' ', "-")
}

/// Text in the language of manual pages: nothing in it is taken for a request.
fn escaped(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The page of one verb.
fn page(command: &Command) -> String {
    let name = name_of(command);
    let mut page = format!(".TH \"{}\" \"1\" \"\" \"checkrein\"\n.SH NAME\n", escaped(&name).to_uppercase());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.push_str(&format!("{} \\- {}\n", escaped(&name), escaped(&about)));
    let usage = command.clone().render_usage().to_string();
    page.push_str(&format!(".SH SYNOPSIS\n{}\n", escaped(usage.trim_start_matches("Usage: "))));
    if let Some(long) = command.get_long_about() {
        page.push_str(&format!(".SH DESCRIPTION\n{}\n", paragraphs(&long.to_string())));
    }
    let shown = |arg: &&Arg| !arg.is_hide_set();
    section(&mut page, "ARGUMENTS", command.get_positionals().filter(shown));
    section(
        &mut page,
        "OPTIONS",
        command.get_opts().chain(command.get_arguments().filter(|arg| is_flag(arg))).filter(shown),
    );
    let verbs: Vec<&Command> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
    if !verbs.is_empty() {
        page.push_str(".SH COMMANDS\n");
        for verb in verbs {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = write!(page, ".TP\n.BR {} (1)\n{}\n", escaped(&name_of(verb)), escaped(&about));
        }
    }
    if let Some(after) = command.get_after_help() {
        let text = after.to_string();
        let (examples, notes) = text.split_once("\n\n").unwrap_or((&text, ""));
        let examples = examples.trim_start_matches("Examples:\n");
        page.push_str(&format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", escaped(examples)));
        if !notes.is_empty() {
            page.push_str(&format!(".SH NOTES\n.nf\n{}\n.fi\n", escaped(notes)));
        }
    }
    page.push_str(".SH EXIT STATUS\n0: done, or allowed. 1: denied, invalid, or something was found. 2: wrong use, or something is missing on this machine.\n");
    page
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(escaped).collect::<Vec<_>>().join("\n.PP\n")
}

fn is_flag(arg: &Arg) -> bool {
    !arg.is_positional() && !arg.get_action().takes_values()
}

fn section<'a>(page: &mut String, title: &str, arguments: impl Iterator<Item = &'a Arg>) {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some() {
        page.push_str(&format!(".SH {title}\n"));
    }
    for arg in arguments {
        let help =
            arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(&arg.to_string()), paragraphs(&help)));
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            page.push_str(&format!("Possible values: {}.\n", escaped(&values.join(", "))));
        }
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() && !arg.is_hide_default_value_set() {
            page.push_str(&format!("Default: {}.\n", escaped(&defaults.join(", "))));
        }
        if let Some(variable) = arg.get_env() {
            page.push_str(&format!("Also from the environment: {}.\n", escaped(&variable.to_string_lossy())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(escaped(".so /etc/passwd\n'x\n--a\\b"), "\\&.so /etc/passwd\n\\&'x\n\\-\\-a\\eb");
    }
}
