//! The `checkrein` command: parses the command line, runs one verb, turns its end into an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod command;
mod progress;
mod show;

/// Runtime control of AI agents: every gate of an action in one atomic admission.
#[derive(Parser)]
#[command(name = "checkrein", version, propagate_version = false, arg_required_else_help = true)]
#[command(after_help = "Examples:
  checkrein init
  checkrein policy check
  checkrein demo

Every verb takes --help, and `--output text`, `json` or `jsonl` where it has something to tell. Exit code 0: done, or \
allowed. 1: denied, invalid, or something was found. 2: wrong use, or something is missing on this machine.")]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Init(command::init::Init),
    Demo(command::demo::Demo),
    Explain(command::explain::Explain),
    Policy(command::policy::Policy),
    Schema(command::schema::Schema),
    Once(command::once::Once),
    Budget(command::budget::Budget),
    Ledger(command::ledger::Ledger),
    Keys(command::keys::Keys),
    Prices(command::prices::PricesVerb),
    Replay(command::replay::Replay),
    Report(command::report::Report),
    Backup(command::backup::Backup),
    Restore(command::restore::Restore),
    Doctor(command::doctor::Doctor),
    Completions(command::completions::Completions),
    Man(command::man::Man),
}

/// How a verb prints its answer.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs: nothing but one JSON document on standard output
    Json,
    /// For programs: one JSON value on each line
    Jsonl,
}

/// How a verb ended, as the shell sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Allowed, or done.
    Ok,
    /// Denied or invalid, or something was found.
    Found,
    /// Wrong use, or something is missing on this machine.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => Self::SUCCESS,
            Exit::Found => Self::from(1),
            Exit::Usage => Self::from(2),
        }
    }
}

fn main() -> ExitCode {
    let verb = match CommandLine::try_parse() {
        Ok(line) => line.verb,
        Err(error) => return told(&error),
    };
    let outcome = match verb {
        Verb::Init(init) => init.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Explain(explain) => explain.run(),
        Verb::Policy(policy) => policy.run(),
        Verb::Schema(schema) => schema.run(),
        Verb::Once(once) => once.run(),
        Verb::Budget(budget) => budget.run(),
        Verb::Ledger(ledger) => ledger.run(),
        Verb::Keys(keys) => keys.run(),
        Verb::Prices(prices) => prices.run(),
        Verb::Replay(replay) => replay.run(),
        Verb::Report(report) => report.run(),
        Verb::Backup(backup) => backup.run(),
        Verb::Restore(restore) => restore.run(),
        Verb::Doctor(doctor) => doctor.run(),
        Verb::Man(man) => man.run(CommandLine::command()),
        Verb::Completions(completions) => completions.run(CommandLine::command()),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            command::print_error(&format!("{error:#}"), None);
            Exit::Usage.into()
        }
    }
}

/// Prints what was asked of the command line itself, or what is wrong with it: in words that are inert, for they may
/// repeat what somebody else chose.
fn told(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if !error.use_stderr() {
        // A reader that goes away is no failure.
        let _closed = write!(anstream::stdout().lock(), "{}", text.ansi());
        return ExitCode::SUCCESS;
    }
    let _closed = write!(anstream::stderr().lock(), "{}", show::harmless(&text.to_string()));
    Exit::Usage.into()
}

/// `checkrein explain | head` is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
