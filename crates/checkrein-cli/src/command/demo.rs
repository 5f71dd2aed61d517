//! `checkrein demo`: runs the Python demo of the installation that this binary belongs to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::{Exit, Output};

/// Asks an interpreter, without importing the package, whether it can run the demo. The working directory is not
/// searched: a stray directory called `checkrein` is not the installation.
const PROBE: &str = "import sys
if sys.version_info < (3, 11): sys.exit(4)
sys.path[:] = [entry for entry in sys.path if entry]
import importlib.util as u
sys.exit(0 if u.find_spec('checkrein') and u.find_spec('checkrein.demo') else 3)";
const PROBE_NOT_INSTALLED: i32 = 3;
const PROBE_TOO_OLD: i32 = 4;

/// Watch a misbehaving agent being controlled: no key, no network
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein demo
  checkrein demo --fast --keep demo-files")]
pub(crate) struct Demo {
    /// Never wait for a key press, as in CI
    #[arg(long)]
    no_input: bool,
    /// No pauses between the steps
    #[arg(long)]
    fast: bool,
    /// Leave the demo's files in a new directory
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let Some(python) = interpreter(&std::env::current_exe().context("this binary cannot find itself")?)
        else {
            super::print_error(
                "no Python was found for the demo",
                Some("run it from the environment that has the package: pip install 'checkrein[demo]'"),
            );
            return Ok(Exit::Usage);
        };
        let probe = Command::new(&python)
            .args(["-c", PROBE])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("`{}` cannot be started", python.display()))?;
        let install = format!("{} -m pip install 'checkrein[demo]'", python.display());
        let missing = match probe.code() {
            Some(0) => None,
            Some(PROBE_NOT_INSTALLED) => {
                Some((format!("`{}` has no package `checkrein`", python.display()), install))
            }
            Some(PROBE_TOO_OLD) => Some((
                format!("`{}` is older than Python 3.11", python.display()),
                "run it from an environment of a newer Python: pip install 'checkrein[demo]'".to_owned(),
            )),
            _ => anyhow::bail!("`{}` does not work: {}", python.display(), probe),
        };
        if let Some((fact, hint)) = missing {
            super::print_error(&fact, Some(&hint));
            return Ok(Exit::Usage);
        }
        let mut demo = Command::new(&python);
        demo.args(["-P", "-m", "checkrein.demo"]);
        // The demo has its ledger verified by this very command.
        demo.env("CHECKREIN_COMMAND", std::env::current_exe().context("this binary cannot find itself")?);
        if self.no_input {
            demo.arg("--no-input");
        }
        if self.fast {
            demo.arg("--fast");
        }
        match self.output {
            Output::Text => {}
            Output::Json => drop(demo.args(["--output", "json"])),
            Output::Jsonl => drop(demo.args(["--output", "jsonl"])),
        }
        if let Some(directory) = &self.keep {
            demo.arg("--keep").arg(directory);
        }
        become_process(demo)
    }
}

/// The Python beside the binary (they share a `bin` directory in an environment), else the one on `PATH`.
fn interpreter(binary: &Path) -> Option<PathBuf> {
    let beside = binary.parent().into_iter().flat_map(|directory| names().map(|name| directory.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .flat_map(|directory| names().map(move |name| directory.join(name)))
        .collect();
    beside.chain(on_path).find(|candidate| candidate.is_file())
}

fn names() -> impl Iterator<Item = &'static str> {
    let names: &[&str] = if cfg!(windows) { &["python.exe"] } else { &["python3", "python"] };
    names.iter().copied()
}

/// Gives this process to the demo, so that signals, the terminal and the exit code are the demo's own.
#[cfg(unix)]
fn become_process(mut demo: Command) -> anyhow::Result<Exit> {
    use std::os::unix::process::CommandExt;
    let program = demo.get_program().to_os_string();
    Err(demo.exec()).with_context(|| format!("`{}` cannot be started", Path::new(&program).display()))
}

#[cfg(not(unix))]
fn become_process(mut demo: Command) -> anyhow::Result<Exit> {
    let status = demo.status().context("the demo cannot be started")?;
    std::process::exit(status.code().unwrap_or(2))
}
