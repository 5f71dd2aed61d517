//! `checkrein policy check [FILE]`: whether a policy file can be used, and everything that is wrong with it.

use std::io::Write;
use std::path::PathBuf;

use checkrein::Engine;
use checkrein::config::{Policies, PolicyError, PolicyFile};
use serde_json::json;

use super::{load, refuse};
use crate::command::{inert, print_error};
use crate::show::counted;
use crate::{Exit, Output};

/// Check a policy file, and tell everything that is wrong with it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein policy check
  checkrein policy check checkrein.toml --output json

Without FILE it is `checkrein.toml`, or `[tool.checkrein]` of `pyproject.toml`, in the current directory. \
Exit code 1 when something is wrong with the file, 2 when there is none.")]
pub(crate) struct Check {
    /// The policy file
    file: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Check {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let file = match load(self.file.as_ref()) {
            Ok(file) => file,
            Err(error) => {
                let exit = refuse(&mut to, &error, self.output)?;
                if self.output == Output::Text {
                    // Standard error may be closed; the exit code still tells.
                    let found = error.problems().len().saturating_add(error.more());
                    let _closed = writeln!(anstream::stderr().lock(), "{}", counted(found, "problem"));
                }
                return Ok(exit);
            }
        };
        if let Err(error) = Policies::new(Engine::new(), file.clone()) {
            // Sections that are right on their own may not work together.
            match self.output {
                Output::Text => print_error(&error.to_string(), None),
                output => output.print(&mut to, &unworkable(&file, &error))?,
            }
            return Ok(Exit::Found);
        }
        match self.output {
            Output::Text => write_valid(&mut to, &file)?,
            output => output.print(&mut to, &valid(&file))?,
        }
        Ok(Exit::Ok)
    }
}

/// How many sections cover one tool, and how many a pattern of names.
fn tools(file: &PolicyFile) -> (usize, usize) {
    let all = &file.sections().tools;
    let exact = all.iter().filter(|tool| tool.pattern.is_exact()).count();
    (exact, all.len().saturating_sub(exact))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unworkable(file: &PolicyFile, error: &PolicyError) -> serde_json::Value {
    let problem = json!({ "code": "policy_error", "message": error.to_string(), "hint": null });
    json!({ "file": file.name(), "valid": false, "problems": [problem], "more": 0 })
}

fn valid(file: &PolicyFile) -> serde_json::Value {
    let (exact, patterns) = tools(file);
    json!({
        "file": file.name(),
        "valid": true,
        "problems": [],
        "tools": exact,
        "patterns": patterns,
        "budgets": file.sections().budgets.len(),
        "breakers": file.sections().breakers.len(),
        "digest": hex(file.digest()),
    })
}

fn write_valid(to: &mut impl Write, file: &PolicyFile) -> std::io::Result<()> {
    let (exact, patterns) = tools(file);
    let digest = hex(file.digest());
    writeln!(to, "\u{1b}[1;32mvalid\u{1b}[0m: {}", inert(file.name()))?;
    writeln!(to, "  tools     {exact}, patterns {patterns}")?;
    writeln!(to, "  budgets   {}", file.sections().budgets.len())?;
    writeln!(to, "  breakers  {}", file.sections().breakers.len())?;
    writeln!(to, "  digest    {}", digest.get(..16).unwrap_or(&digest))
}
