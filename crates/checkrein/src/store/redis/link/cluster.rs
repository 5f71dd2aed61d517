//! Which node of a cluster keeps which slot.

use std::sync::Arc;
use std::time::Instant;

use redis::Value;
use rustls::ClientConfig;

use super::connection::Connection;
use super::{LinkError, wire};
use crate::store::redis::address::{Endpoint, Login};
use crate::store::redis::name::Tag;

/// The number of slots, of every cluster.
const SLOTS: u16 = 16384;

/// The slots and their masters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(Vec<(u16, u16, Endpoint)>);

impl Slots {
    pub(super) fn master(&self, tag: Tag) -> Option<&Endpoint> {
        let slot = slot(tag);
        self.0.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(_, _, master)| master)
    }

    /// Every master, once.
    pub(super) fn masters(&self) -> Vec<Endpoint> {
        let mut all: Vec<_> = self.0.iter().map(|(_, _, master)| master.clone()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The slot of a tag's keys: CRC-16 (XMODEM) of what stands between the braces.
pub(super) fn slot(tag: Tag) -> u16 {
    crc16(tag.to_string().as_bytes()) % SLOTS
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ (u16::from(*byte) << 8), |sum, _| {
            if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 }
        })
    })
}

/// Asks the nodes one after the other how the slots are spread, each for its share of the time that is left.
///
/// Not the cluster client of the `redis` crate: it connects to nodes by itself, and nobody can look at one before it is
/// used; it also knows no write to several nodes before the replies of the first are read.
pub(super) fn slots(
    nodes: &[Endpoint],
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
    deadline: Instant,
) -> Result<Slots, LinkError> {
    let mut why = "none is named".to_owned();
    for (at, node) in nodes.iter().enumerate() {
        let now = Instant::now();
        let others = u32::try_from(nodes.len() - at).unwrap_or(u32::MAX).saturating_add(1);
        let share = now + deadline.saturating_duration_since(now) / others;
        match ask(node, login, tls, share) {
            Ok(slots) => return Ok(slots),
            Err(text) => why = text,
        }
    }
    Err(LinkError::NotRun(format!("no node of the cluster says how the slots are spread: {why}")))
}

fn ask(
    node: &Endpoint,
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
    deadline: Instant,
) -> Result<Slots, String> {
    let (_, replies) = Connection::start(node, tls, login, &[&["CLUSTER", "SLOTS"]], deadline)
        .map_err(super::connection::Broken::text)?;
    match replies.first() {
        Some(Value::Array(ranges)) => {
            let slots: Vec<_> = ranges.iter().filter_map(|range| read(range, node)).collect();
            if slots.is_empty() {
                return Err(format!(
                    "{node} knows of no slot that a node serves: look at `redis-cli --cluster check`"
                ));
            }
            Ok(Slots(slots))
        }
        Some(Value::ServerError(error)) if error.code() == "ERR" => {
            Err(format!("{node} is no node of a cluster: write `redis://` for a single server"))
        }
        Some(Value::ServerError(error)) => Err(wire::refusal(error)),
        _ => Err(format!("{node} answered something that is no list of slots")),
    }
}

/// One range: its first and last slot, and the master that the first node of the list is.
fn read(range: &Value, asked: &Endpoint) -> Option<(u16, u16, Endpoint)> {
    let Value::Array(parts) = range else { return None };
    let (Some(Value::Int(first)), Some(Value::Int(last)), Some(Value::Array(node))) =
        (parts.first(), parts.get(1), parts.get(2))
    else {
        return None;
    };
    let Some(Value::Int(port)) = node.get(1) else { return None };
    let host = match (node.first().and_then(wire::text).unwrap_or_default(), asked) {
        ("?", _) => return None,
        // It does not know its own address: that is the one we asked.
        ("", Endpoint::Tcp { host, .. }) => host.clone(),
        ("", Endpoint::Unix(_)) => return None,
        (host, _) => host.to_owned(),
    };
    let master = Endpoint::Tcp { host, port: u16::try_from(*port).ok()? };
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, master))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_the_specification_says() {
        // The check value of CRC-16/XMODEM, and slots that a server gave (`CLUSTER KEYSLOT`).
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b"foo") % SLOTS, 12182);
        assert_eq!(crc16(b"") % SLOTS, 0);
    }
}
