//! `checkrein once`: the operations behind once keys, and what a person knows about those in doubt.

use checkrein::core::fingerprint::IdempotencyKey;
use checkrein::core::gate::once::{OperationState, Run};
use checkrein::core::key::{Family, Key, decode_parts};
use checkrein::core::ledger::moment;
use checkrein::core::policy::RecordKind;
use checkrein::core::time::Timestamp;
use checkrein::store::{Cursor, RecordState, StoreError};
use serde_json::{Value, json};

use super::store::{Opened, age, refuse};
use crate::Exit;

mod list;
mod resolve;
mod show;

/// Look at the operations behind once keys, and say what became of those in doubt
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein once list --store sqlite:checkrein.db
  checkrein once show inv-7 --store sqlite:checkrein.db
  CHECKREIN_STORE=redis://:PASSWORD@10.0.0.5 checkrein once list --prefix shop
  checkrein once resolve inv-7 --as done --result '{\"paid\": \"49.00\"}' --by kim --store sqlite:checkrein.db")]
pub(crate) struct Once {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    List(list::List),
    Show(show::Show),
    Resolve(resolve::Resolve),
}

impl Once {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let done = match &self.action {
            Action::List(list) => list.run(),
            Action::Show(show) => show.run(),
            Action::Resolve(resolve) => resolve.run(),
        };
        done.or_else(|error| match error.downcast::<StoreError>() {
            Ok(error) => Ok(refuse(&error)),
            Err(error) => Err(error),
        })
    }
}

/// Records read at a time.
const PAGE: usize = 1_024;

/// One operation as these verbs show it.
#[derive(Clone, Debug)]
struct Operation {
    gate: String,
    key: Key,
    state: OperationState,
    since: Timestamp,
    run: Run,
}

impl Operation {
    /// Whether nobody knows what became of it.
    fn is_in_doubt(&self) -> bool {
        self.state == OperationState::InDoubt
    }

    fn tenant(&self) -> String {
        String::from_utf8_lossy(self.key.borrow().tenant).into_owned()
    }

    /// What targets of Python tools were sent as the idempotency key.
    fn idempotency_key(&self) -> String {
        let key = self.key.borrow();
        IdempotencyKey::of(key.tenant, "python", &self.gate, key.key).to_string()
    }

    fn json(&self, now: Timestamp) -> Value {
        let result = match &self.state {
            OperationState::Done(Some(result)) => Some(result),
            _ => None,
        };
        json!({
            "key": shown(self.key.borrow().key),
            "gate": self.gate,
            "tenant": self.tenant(),
            "state": self.state.name(),
            "since": moment::to_text(self.since),
            "age_seconds": age(now, self.since).nanos() / 1_000_000_000,
            "run": self.run.number(),
            "admitted": moment::to_text(self.run.admitted()),
            "idempotency_key": self.idempotency_key(),
            "result_bytes": result.map(|result| result.len()),
        })
    }
}

/// A key as people write it: text, the parts of a key of several as a JSON array, or what is no text escaped.
fn shown(key: &[u8]) -> String {
    if key.first() == Some(&0)
        && let Some(parts) = decode_parts(key)
    {
        return Value::from(parts.into_iter().map(text).collect::<Vec<String>>()).to_string();
    }
    text(key)
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// Calls `each` with every operation of a store.
fn all(store: &Opened, mut each: impl FnMut(Operation)) -> Result<(), StoreError> {
    let gates: std::collections::BTreeMap<Family, String> =
        store.families()?.into_iter().map(|(family, known)| (family, known.name)).collect();
    let mut after = Cursor::default();
    loop {
        let (page, next) = store.scan(RecordKind::Operation, after, PAGE)?;
        for record in page {
            if let RecordState::Operation { state, since, run } = record.state {
                let gate = gates.get(&record.key.borrow().family).cloned().unwrap_or_default();
                each(Operation { gate, key: record.key, state, since, run });
            }
        }
        match next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// Which operation.
#[derive(clap::Args)]
struct Which {
    /// The key, as `checkrein once list` shows it
    key: String,
    /// Only of this once gate, where several have the key
    #[arg(long, value_name = "NAME")]
    gate: Option<String>,
    /// Only of this tenant, where several have the key
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

impl Which {
    /// The operation; printed and `None` when there is none, or several.
    fn find(&self, store: &Opened) -> Result<Option<Operation>, StoreError> {
        let mut found = Vec::new();
        all(store, |operation| {
            let fits = shown(operation.key.borrow().key) == self.key
                && self.gate.as_ref().is_none_or(|gate| *gate == operation.gate)
                && self.tenant.as_ref().is_none_or(|tenant| *tenant == operation.tenant());
            if fits {
                found.push(operation);
            }
        })?;
        let key = super::inert(&self.key);
        match found.as_slice() {
            [one] => return Ok(Some(one.clone())),
            [] => super::print_error(
                &format!("there is no operation `{key}`"),
                Some("`checkrein once list --all` shows every key"),
            ),
            several => {
                let name = |operation: &Operation| {
                    format!("--gate {:?} --tenant {:?}", operation.gate, operation.tenant())
                };
                let names: Vec<String> = several.iter().map(name).collect();
                super::print_error(
                    &format!("{} operations have the key `{key}`", several.len()),
                    Some(&format!("say which one: {}", names.join(", or "))),
                );
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkrein::core::key::encode_parts;

    #[test]
    fn keys_as_people_write_them() {
        let mut parts = Vec::new();
        encode_parts([b"inv-7".as_slice(), "\u{fc}".as_bytes()], &mut parts);
        for (key, expected) in [
            (b"inv-7".as_slice(), "inv-7"),
            (parts.as_slice(), r#"["inv-7","ü"]"#),
            (b"a\xffb", r"a\xffb"),
            (b"a\x1b[2J", r"a\x1b[2J"),
            (b"", ""),
        ] {
            assert_eq!(shown(key), expected);
        }
    }
}
