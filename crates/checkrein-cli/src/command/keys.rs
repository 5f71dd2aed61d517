//! `checkrein keys`: the keys that sign ledgers.

use std::io::Write as _;
use std::path::PathBuf;

use checkrein::ledger::{LedgerError, keys};
use serde_json::json;

use super::passphrase;
use crate::show::inert_path;
use crate::{Exit, Output};

/// Make or show the key that signs a ledger
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein keys new ledger.key --name example.com/ledger
  checkrein keys show ledger.key.pub")]
pub(crate) struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    New(New),
    Show(Show),
}

/// Make an Ed25519 key: a private file with mode 0600, and the public one beside it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein keys new ledger.key --name example.com/ledger
  checkrein keys new ledger.key --passphrase")]
struct New {
    /// The private key file; it must not exist yet
    file: PathBuf,
    /// The name under which it signs, as in `example.com/ledger`
    #[arg(long)]
    name: Option<String>,
    /// Encrypt it: the passphrase comes from the terminal, or from CHECKREIN_KEY_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Show the public half of a key, private or public
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein keys show ledger.key.pub
  checkrein keys show ledger.key --output json")]
struct Show {
    /// The key file
    file: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Keys {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        match &self.action {
            Action::New(new) => new.run(),
            Action::Show(show) => show.run(),
        }
    }
}

impl New {
    fn run(&self) -> anyhow::Result<Exit> {
        let passphrase = if self.passphrase { Some(passphrase::choose()?) } else { None };
        let passphrase = passphrase.as_ref().map(|text| text.as_str());
        let signer = match keys::create(&self.file, self.name.as_deref(), passphrase) {
            Ok(signer) => signer,
            Err(error) => return Ok(refuse(&error)),
        };
        let (key, public) = (signer.verifier(), keys::public_path(&self.file));
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => {
                writeln!(stdout, "private key  {}", inert_path(&self.file))?;
                writeln!(stdout, "public key   {}", inert_path(&public))?;
                writeln!(stdout, "\u{1b}[1m{key}\u{1b}[0m")?;
            }
            output => {
                let answer = json!({
                    "name": key.name(),
                    "private": self.file.display().to_string(),
                    "public": public.display().to_string(),
                    "key": key.to_string(),
                });
                output.print(&mut stdout, &answer)?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Show {
    fn run(&self) -> anyhow::Result<Exit> {
        let ask = || passphrase::ask(&format!("passphrase of {}: ", inert_path(&self.file)));
        // A public key is as good; only a private one may need a passphrase.
        let key = keys::load_public(&self.file).or_else(|public| match keys::load(&self.file, ask) {
            Ok(signer) => Ok(signer.verifier()),
            Err(LedgerError::Key { .. }) if !is_private(&self.file) => Err(public),
            Err(error) => Err(error),
        });
        let key = match key {
            Ok(key) => key,
            Err(error) => return Ok(refuse(&error)),
        };
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => writeln!(stdout, "{key}")?,
            output => {
                output.print(&mut stdout, &json!({ "name": key.name(), "key": key.to_string() }))?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn is_private(path: &std::path::Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains("+KEY+"))
}

/// Prints why something could not be done with a ledger or a key.
pub(super) fn refuse(error: &LedgerError) -> Exit {
    super::print_error(&format!("{error} ({})", error.code()), error.hint());
    Exit::Usage
}
