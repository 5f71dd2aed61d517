//! `checkrein init [DIR]`: a first policy for a project, in observe mode, written by what the project uses.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use checkrein::config::{FILE_NAME, PYPROJECT, PolicyFile};
use serde_json::{Value, json};

use crate::command::{inert, print_error};
use crate::show::wrapped;
use crate::{Exit, Output};

mod detect;
mod draft;
mod known;

use detect::Found;

/// Write a first policy for a project, in observe mode
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein init
  checkrein init --dry-run
  checkrein init services/agent --output json

Looks at pyproject.toml, requirements*.txt, lock files, Cargo.toml, .mcp.json and the settings of coding agents in DIR, \
and writes checkrein.toml there: sections that fit what was found, each with a comment. Nothing is refused in observe \
mode that can be decided at all. A policy that is there is never changed.

Exit code 1 when there is a policy, 2 when DIR is none or cannot be written to.")]
pub(crate) struct Init {
    /// The directory of the project
    #[arg(value_name = "DIR", default_value = ".", hide_default_value = true)]
    directory: PathBuf,
    /// Print the policy and write nothing
    #[arg(long)]
    dry_run: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Init {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        if !self.directory.is_dir() {
            let fact = format!("`{}` is no directory", self.directory.display());
            print_error(&fact, Some("name the directory of the project"));
            return Ok(Exit::Usage);
        }
        let file = match self.directory.strip_prefix(".") {
            Ok(inside) => inside.join(FILE_NAME),
            Err(_) => self.directory.join(FILE_NAME),
        };
        match PolicyFile::find(&self.directory) {
            Ok(path) => return self.refuse(&mut to, &path),
            Err(error) => match error.problems().first().map(|problem| problem.code) {
                Some("policy_not_found") => {}
                Some("policy_contradiction") => return self.refuse(&mut to, &file),
                _ => {
                    print_error(&error.to_string(), Some("it may hold a policy; make it readable first"));
                    return Ok(Exit::Usage);
                }
            },
        }
        let found = Found::look(&self.directory);
        let policy = draft::policy(&found);
        if !self.dry_run {
            match write_new(&file, &policy) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return self.refuse(&mut to, &file),
                Err(error) => {
                    print_error(&format!("`{}` cannot be written: {error}", file.display()), None);
                    return Ok(Exit::Usage);
                }
            }
        }
        match (self.output, self.dry_run) {
            (Output::Text, false) => self.write_text(&mut to, &found, &file)?,
            (Output::Text, true) => {
                // The file is the answer; what was found is said beside it.
                let _closed = write_found(&mut anstream::stderr().lock(), &found);
                to.write_all(policy.as_bytes())?;
            }
            (output, _) => output.print(&mut to, &self.record(&found, &file, &policy))?,
        }
        Ok(Exit::Ok)
    }

    /// A policy that is there is somebody's work.
    fn refuse(&self, to: &mut impl Write, path: &Path) -> anyhow::Result<Exit> {
        let shown = inert(&path.display().to_string());
        let whose = if path.file_name().is_some_and(|name| name == PYPROJECT) {
            "`[tool.checkrein]` of "
        } else {
            ""
        };
        let fact = format!("there is a policy: {whose}`{shown}`");
        let hint = format!(
            "`checkrein policy check {shown}` checks it; `checkrein init --dry-run` needs a place without one"
        );
        match self.output {
            Output::Text => print_error(&fact, Some(&hint)),
            output => output
                .print(to, &json!({ "error": { "code": "policy_exists", "message": fact, "hint": hint } }))?,
        }
        Ok(Exit::Found)
    }

    fn next(&self, file: &Path) -> [String; 3] {
        let plain = Path::new(FILE_NAME) == file;
        let (named, option) = match plain {
            true => (String::new(), String::new()),
            false => (
                format!(" {}", inert(&file.display().to_string())),
                format!(" --policy {}", inert(&file.display().to_string())),
            ),
        };
        [
            format!("checkrein policy check{named}"),
            format!(
                "echo '{{\"name\": \"search\", \"run\": \"run-1\"}}' | checkrein policy explain -{option}"
            ),
            "checkrein report --ledger sqlite:checkrein.db".to_owned(),
        ]
    }

    fn write_text(&self, to: &mut impl Write, found: &Found, file: &Path) -> std::io::Result<()> {
        write_found(to, found)?;
        let shown = inert(&file.display().to_string());
        writeln!(to, "\u{1b}[1;32mwrote\u{1b}[0m {shown}")?;
        wrapped(to, "  ", "in observe mode: everything is decided and recorded, and passes")?;
        writeln!(to, "next")?;
        self.next(file).iter().try_for_each(|command| writeln!(to, "  {command}"))
    }

    fn record(&self, found: &Found, file: &Path, policy: &str) -> Value {
        let packages =
            found.packages.iter().map(|(name, (_, files))| json!({ "name": name, "files": files }));
        let servers = found.servers.iter().map(|(name, files)| json!({ "name": name, "files": files }));
        let settings = found.settings.iter().map(|(file, whose)| json!({ "file": file, "of": whose }));
        let unread = found.unread.iter().map(|(file, why)| json!({ "file": file, "reason": why }));
        json!({
            "file": file.display().to_string(),
            "written": !self.dry_run,
            "policy": policy,
            "found": {
                "packages": packages.collect::<Value>(),
                "mcp_servers": servers.collect::<Value>(),
                "settings": settings.collect::<Value>(),
                "unread": unread.collect::<Value>(),
            },
            "next": self.next(file),
        })
    }
}

fn write_found(to: &mut impl Write, found: &Found) -> std::io::Result<()> {
    let list = |names: Vec<String>| names.join(", ");
    let packages: Vec<String> = found.packages.keys().map(|name| (*name).to_owned()).collect();
    let servers: Vec<String> = found.servers.keys().map(|name| inert(name)).collect();
    let settings: Vec<String> =
        found.settings.iter().map(|(file, whose)| format!("{file} ({whose})")).collect();
    writeln!(to, "found")?;
    for (what, names) in [("packages", packages), ("MCP servers", servers), ("settings", settings)] {
        let names = if names.is_empty() { "none that are known here".to_owned() } else { list(names) };
        wrapped(to, &format!("  {what:13}"), &names)?;
    }
    for (file, why) in &found.unread {
        wrapped(to, "  not read     ", &format!("{}: {}", inert(file), inert(why)))?;
    }
    Ok(())
}

/// Writes a file that must not be there yet: all of it, or nothing.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::File::create_new(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    // A link fails where the name is taken, by a file, a directory or a link to nowhere.
    let linked = written.and_then(|()| match std::fs::hard_link(&temporary, path) {
        // File systems without links rename, where the name was free a moment ago.
        Err(error) if error.kind() != ErrorKind::AlreadyExists && path.symlink_metadata().is_err() => {
            std::fs::rename(&temporary, path)
        }
        linked => linked,
    });
    // What is left of it is of no use to anybody.
    let _gone = std::fs::remove_file(&temporary);
    linked
}
