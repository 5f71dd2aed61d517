//! An action as a file tells it, read strictly.

use std::io::Read;
use std::path::Path;

use checkrein::config::Call;
use checkrein_core::admission::Action;
use checkrein_core::json::{Limits, Object, Value, read};

/// The most bytes of an action.
const MAX_BYTES: u64 = 2 << 20;
/// The texts that an action may have beside its name.
const TEXTS: [&str; 7] = ["namespace", "principal", "tenant", "user", "agent", "run", "session"];

/// An action that was read.
pub(super) struct ActionFile {
    value: Value,
    arguments: Value,
}

impl ActionFile {
    /// Reads a file, or standard input for `-`: whatever it says that is not looked at is an error.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let failed = |error: std::io::Error| format!("`{name}` cannot be read: {error}");
        let mut bytes = Vec::new();
        if path.as_os_str() == "-" {
            std::io::stdin().lock().take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        } else {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        }
        Self::parse(&bytes).map_err(|problem| format!("`{name}`: {problem}"))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = read(bytes, &Limits::default()).map_err(|error| error.to_string())?;
        let members = value.as_object().ok_or("it is no JSON object")?;
        for (member, value) in members.iter() {
            match member {
                "args" if value.as_object().is_none() => return Err("`args` is no JSON object".to_owned()),
                "args" => {}
                "name" if value.as_str().is_some() => {}
                text if TEXTS.contains(&text) && value.as_str().is_some() => {}
                text if text == "name" || TEXTS.contains(&text) => {
                    return Err(format!("`{text}` is no text"));
                }
                other => {
                    let known = TEXTS.join(", ");
                    return Err(format!("unknown member `{other}`; an action has name, args, {known}"));
                }
            }
        }
        if value.get("name").is_none() {
            return Err("the action has no `name`".to_owned());
        }
        let arguments = value.get("args").cloned().unwrap_or_else(|| Value::Object(Object::default()));
        Ok(Self { value, arguments })
    }

    fn text(&self, name: &str) -> &str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn call(&self) -> Call<'_> {
        let action = Action {
            // What guards of functions count under.
            namespace: self.value.get("namespace").and_then(Value::as_str).unwrap_or("python"),
            name: self.text("name"),
            principal: self.text("principal"),
            user: self.text("user"),
            agent: self.text("agent"),
            run: self.text("run"),
            session: self.text("session"),
            ..Action::default()
        };
        Call { tenant: self.text("tenant"), action, arguments: &self.arguments, uncovered: None }
    }
}
