//! `checkrein budget`: where budgets stand, and changes of their limits while programs run.

use std::path::PathBuf;

use checkrein::config::PolicyFileError;
use checkrein::store::StoreError;

use super::columns;
use super::policy::{exit_of, load};
use super::store::refuse;
use crate::Exit;

mod change;
mod known;
mod lines;
mod record;
mod show;

/// Where budgets stand, and changes of their limits while programs run
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein budget show --store sqlite:checkrein.db
  checkrein budget top-up team '5 usd' --for 2d --store sqlite:checkrein.db
  checkrein budget set agent '200000 tokens' --key ann --by kim --store sqlite:checkrein.db
  checkrein budget set agent --clear --key ann --store sqlite:checkrein.db

Limits are the policy's: `checkrein.toml`, or `[tool.checkrein]` of `pyproject.toml`, in the current directory, or the
file of `--policy`. A change is kept in the store: programs that run see it at their next decision, and it stays when
the policy is loaded again.")]
pub(crate) struct Budget {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Show(show::Show),
    Set(change::Set),
    TopUp(change::TopUp),
}

impl Budget {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let done = match &self.verb {
            Verb::Show(show) => show.run(),
            Verb::Set(set) => set.run(),
            Verb::TopUp(top_up) => top_up.run(),
        };
        done.or_else(|error| {
            let error = match error.downcast::<PolicyFileError>() {
                Ok(error) => return Ok(report(&error)),
                Err(error) => error,
            };
            match error.downcast::<StoreError>() {
                Ok(error) => Ok(refuse(&error)),
                Err(error) => Err(error),
            }
        })
    }
}

/// Where limits come from.
#[derive(clap::Args)]
struct PolicyOf {
    /// The policy file that says the limits; by default the one in the current directory, if there is one
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl PolicyOf {
    /// The budgets of the policy; none where nobody named a policy and there is none.
    fn read(&self) -> Result<Option<known::Policy>, PolicyFileError> {
        match load(self.policy.as_ref()) {
            Ok(file) => Ok(Some(known::Policy::of(file))),
            Err(error) => {
                let is_absent = error.problems().iter().all(|problem| problem.code == "policy_not_found");
                if is_absent && self.policy.is_none() { Ok(None) } else { Err(error) }
            }
        }
    }
}

/// Says what is wrong with a policy file, as `checkrein policy check` does.
fn report(error: &PolicyFileError) -> Exit {
    use std::io::Write as _;

    let mut stderr = anstream::stderr().lock();
    // Standard error may be closed; the exit code still tells.
    let _closed = write!(stderr, "{}", error.report(columns()));
    exit_of(error)
}
