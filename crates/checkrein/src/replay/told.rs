//! What a ledger says of the policies that decided: which of their gates stand in the code.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Cause, Happened};

/// The most policies that are remembered.
const MOST: usize = 10_000;

/// The gates of each policy that stand in the code.
#[derive(Debug, Default)]
pub(super) struct Told {
    policies: BTreeMap<[u8; 32], BTreeSet<(String, String)>>,
}

impl Told {
    /// Takes the event that has the text of a policy.
    pub(super) fn learn(&mut self, happened: &Happened) {
        let Some(digest) = digest_of(happened.field("digest")) else { return };
        if self.policies.len() < MOST {
            self.policies.insert(digest, in_code(happened.field("text")));
        }
    }

    /// Whether a gate of a policy stands in the code; nothing where the ledger does not tell.
    pub(super) fn is_in_code(&self, policy: Option<[u8; 32]>, cause: &Cause) -> Option<bool> {
        let gates = self.policies.get(&policy?)?;
        Some(gates.contains(&(cause.kind.clone(), cause.gate.escape_debug().to_string())))
    }
}

fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (byte, place) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// The gates in a policy's text that are not a file's: all of them where there is no file, else so many of the first as
/// the text says.
fn in_code(text: &str) -> BTreeSet<(String, String)> {
    let has_file = text.lines().any(|line| line.starts_with("file: "));
    let count = text.lines().find_map(|line| line.strip_prefix("gates of the code: ")?.parse().ok());
    let count = if has_file { count.unwrap_or(0) } else { usize::MAX };
    let gates = text.lines().take_while(|line| !line.starts_with("leases: "));
    gates.take(count).filter_map(gate_of).collect()
}

/// Kind and name at the start of a gate's line, the name as it is escaped there.
fn gate_of(line: &str) -> Option<(String, String)> {
    let (kind, rest) = line.split_once(" `")?;
    let (name, _) = rest.split_once("` (observed): ").or_else(|| rest.split_once("`: "))?;
    let kind = if kind == "loop guard" { "limit" } else { kind };
    Some((kind.to_owned(), name.to_owned()))
}
