//! `checkrein completions SHELL`: the completion script of a shell.

use std::io::Write;

use clap_complete::Shell;

use crate::Exit;

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein completions bash >~/.local/share/bash-completion/completions/checkrein
  checkrein completions zsh >~/.zfunc/_checkrein
  checkrein completions fish >~/.config/fish/completions/checkrein.fish")]
pub(crate) struct Completions {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, mut command: clap::Command) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "checkrein", &mut script);
        std::io::stdout().lock().write_all(&script)?;
        Ok(Exit::Ok)
    }
}
