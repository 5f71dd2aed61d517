//! What a project uses, read from its own files: bounded, strictly, and without following what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use checkrein_core::json::{Limits, read};
use toml::de::{DeTable, DeValue};

use super::known::{Form, Kind, SETTINGS, package};

/// The most bytes of a file. Lock files of large projects have a few million.
const MAX_BYTES: u64 = 16 << 20;
/// The most lists of requirements, and the most entries of the directory that are looked at for them.
const MAX_LISTS: usize = 32;
const MAX_ENTRIES: usize = 10_000;
/// The most MCP servers that get a section.
pub(super) const MAX_SERVERS: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Packages that matter, and the files that name them.
    pub(super) packages: BTreeMap<&'static str, (Kind, BTreeSet<String>)>,
    /// MCP servers, and the files that name them.
    pub(super) servers: BTreeMap<String, BTreeSet<String>>,
    /// Settings of coding agents: the file, and whose they are.
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// Files that were there and could not be read, and why.
    pub(super) unread: Vec<(String, String)>,
}

impl Found {
    /// Looks at the files at the root of a project.
    pub(super) fn look(root: &Path) -> Self {
        let mut found = Self::default();
        found.toml(root, "pyproject.toml", python_names);
        for lock in ["uv.lock", "poetry.lock", "pdm.lock"] {
            found.toml(root, lock, locked_names);
        }
        found.toml(root, "Cargo.toml", cargo_names);
        for list in requirement_lists(root) {
            let Some(text) = found.text(root, &list) else { continue };
            let names: Vec<String> = text.lines().filter_map(required).map(str::to_owned).collect();
            found.add(&list, names);
        }
        for (file, whose, form) in SETTINGS {
            let Some(text) = found.text(root, file) else { continue };
            if *file != ".mcp.json" {
                found.settings.push((file, whose));
            }
            match servers(&text, *form) {
                Ok(names) => names.into_iter().for_each(|name| found.server(name, file)),
                Err(why) => found.unread.push(((*file).to_owned(), why)),
            }
        }
        found
    }

    pub(super) fn has(&self, kinds: &[Kind]) -> bool {
        self.packages.values().any(|(kind, _)| kinds.contains(kind))
    }

    fn toml(&mut self, root: &Path, file: &str, names: fn(&DeTable<'_>) -> Vec<String>) {
        let Some(text) = self.text(root, file) else { return };
        match DeTable::parse(&text) {
            Ok(table) => self.add(file, names(table.get_ref())),
            Err(error) => self.unread.push((file.to_owned(), error.message().to_owned())),
        }
    }

    fn add(&mut self, file: &str, names: Vec<String>) {
        for (known, kind) in names.iter().filter_map(|name| package(name)) {
            let (_, files) = self.packages.entry(known).or_insert_with(|| (kind, BTreeSet::new()));
            files.insert(file.to_owned());
        }
    }

    fn server(&mut self, name: String, file: &str) {
        // A section needs a name that can be one: no spaces, and `*` would mean all of them.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            let why = "the name of a server has other characters than letters, digits and `_ - .`";
            self.unread.push((file.to_owned(), why.to_owned()));
        } else if self.servers.len() < MAX_SERVERS || self.servers.contains_key(&name) {
            self.servers.entry(name).or_default().insert(file.to_owned());
        }
    }

    /// The text of a file, if it is there.
    fn text(&mut self, root: &Path, file: &str) -> Option<String> {
        match bounded(&root.join(file)) {
            Ok(text) => text,
            Err(why) => {
                self.unread.push((file.to_owned(), why));
                None
            }
        }
    }
}

fn bounded(path: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(path) {
        // A pipe would never end.
        Ok(metadata) if !metadata.is_file() => return Err("it is no file".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".to_owned())
}

/// `requirements.txt`, `requirements-dev.txt` and the like, in the order of their names.
fn requirement_lists(root: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().take(MAX_ENTRIES);
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let lists: BTreeSet<String> =
        names.filter(|name| name.starts_with("requirements") && name.ends_with(".txt")).collect();
    lists.into_iter().take(MAX_LISTS).collect()
}

/// The package that a line of requirements begins with.
fn required(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    let name = line.get(..end.unwrap_or(line.len()))?;
    (!name.is_empty() && !name.starts_with('-')).then_some(name)
}

fn field<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t DeValue<'i>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref())
}

fn inner<'t, 'i>(table: &'t DeTable<'i>, path: &[&str]) -> Option<&'t DeTable<'i>> {
    path.iter().try_fold(table, |table, name| field(table, name)?.as_table())
}

fn keys(table: Option<&DeTable<'_>>) -> Vec<String> {
    table.into_iter().flatten().map(|(key, _)| key.get_ref().to_string()).collect()
}

/// The requirements in a list of texts; groups also have tables, which name other groups.
fn listed(list: Option<&DeValue<'_>>) -> Vec<String> {
    let items = list.and_then(DeValue::as_array).into_iter().flatten();
    items.filter_map(|item| required(item.get_ref().as_str()?)).map(str::to_owned).collect()
}

fn python_names(project: &DeTable<'_>) -> Vec<String> {
    let mut names = listed(inner(project, &["project"]).and_then(|of| field(of, "dependencies")));
    for groups in [&["project", "optional-dependencies"][..], &["dependency-groups"]] {
        for (_, list) in inner(project, groups).into_iter().flatten() {
            names.extend(listed(Some(list.get_ref())));
        }
    }
    names.extend(keys(inner(project, &["tool", "poetry", "dependencies"])));
    for (_, group) in inner(project, &["tool", "poetry", "group"]).into_iter().flatten() {
        let of = group.get_ref().as_table();
        names.extend(keys(of.and_then(|of| field(of, "dependencies")).and_then(DeValue::as_table)));
    }
    names
}

fn locked_names(lock: &DeTable<'_>) -> Vec<String> {
    let packages = field(lock, "package").and_then(DeValue::as_array).into_iter().flatten();
    let name = |package: &DeTable<'_>| Some(field(package, "name")?.as_str()?.to_owned());
    packages.filter_map(|package| name(package.get_ref().as_table()?)).collect()
}

fn cargo_names(manifest: &DeTable<'_>) -> Vec<String> {
    let tables = [&["dependencies"][..], &["dev-dependencies"], &["workspace", "dependencies"]];
    tables.into_iter().flat_map(|path| keys(inner(manifest, path))).collect()
}

fn servers(text: &str, form: Form) -> Result<Vec<String>, String> {
    match form {
        Form::Toml(table) => {
            let file = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
            Ok(keys(inner(file.get_ref(), &[table])))
        }
        Form::Json(member) => {
            let limits = Limits { bytes: 4 << 20, nodes: 100_000, ..Limits::default() };
            let file = read(text.as_bytes(), &limits).map_err(|error| error.to_string())?;
            let servers = match file.get(member) {
                None if file.as_object().is_some() => return Ok(Vec::new()),
                None => return Err("it is no JSON object".to_owned()),
                Some(servers) => servers.as_object().ok_or(format!("`{member}` is no JSON object"))?,
            };
            Ok(servers.iter().map(|(name, _)| name.to_owned()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_begin_with_a_name() {
        for (line, name) in [
            ("openai>=1.0", Some("openai")),
            ("  langchain[all] ~= 0.3 ; python_version > '3'", Some("langchain")),
            ("pydantic_ai @ git+https://example.com/x", Some("pydantic_ai")),
            ("# openai", None),
            ("-r other.txt", None),
            ("--hash=sha256:00", None),
            ("", None),
        ] {
            assert_eq!(required(line), name, "{line}");
        }
    }
}
