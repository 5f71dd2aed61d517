//! Passphrases, read from the terminal without showing them, or from the environment.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::Context as _;
use checkrein::ledger::keys::passphrase_of_environment;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The passphrase of a key: from the environment, else from the terminal if there is one.
pub(super) fn ask(prompt: &str) -> Option<Zeroizing<String>> {
    passphrase_of_environment().or_else(|| from_terminal(prompt).ok())
}

/// A passphrase for a new key, typed twice.
pub(super) fn choose() -> anyhow::Result<Zeroizing<String>> {
    if let Some(passphrase) = passphrase_of_environment() {
        return Ok(passphrase);
    }
    let first = from_terminal("passphrase: ")?;
    let second = from_terminal("once more: ")?;
    anyhow::ensure!(first == second, "the two passphrases differ");
    Ok(first)
}

fn from_terminal(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .context("there is no terminal to read a passphrase from; set CHECKREIN_KEY_PASSPHRASE")?;
    terminal.write_all(prompt.as_bytes())?;
    let quiet = Quiet::on(terminal.try_clone()?)?;
    let mut line = Zeroizing::new(String::new());
    let read = BufReader::new(&terminal).read_line(&mut line);
    drop(quiet);
    terminal.write_all(b"\n")?;
    read.context("the passphrase cannot be read")?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet {
    terminal: File,
    before: rustix::termios::Termios,
}

impl Quiet {
    fn on(terminal: File) -> anyhow::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The shell sets its terminal up again as well.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
