//! `checkrein schema`: the JSON Schema of the policy file.

use std::io::Write;

use checkrein::config::json_schema;

use crate::Exit;

/// Print the JSON Schema of the policy file
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein schema > checkrein.schema.json

An editor that knows it completes and checks `checkrein.toml` while it is written. What sections say of each other, \
and whether an expression is one, `checkrein policy check` tells.")]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        std::io::stdout().lock().write_all(json_schema().as_bytes())?;
        Ok(Exit::Ok)
    }
}
