//! Who the master is, as the sentinels say.

use std::sync::Arc;
use std::time::Instant;

use redis::Value;
use rustls::ClientConfig;

use super::connection::Connection;
use super::{LinkError, wire};
use crate::store::redis::address::{Endpoint, Login};

/// Asks one sentinel after the other, each for its share of the time that is left. What they say is only where to look:
/// the handshake with the server decides whether it is a master.
///
/// Not the client of the `redis` crate: it makes connections of its own, without a deadline.
pub(super) fn master(
    sentinels: &[Endpoint],
    name: &str,
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
    deadline: Instant,
) -> Result<Endpoint, LinkError> {
    let mut why = "none is named".to_owned();
    for (at, sentinel) in sentinels.iter().enumerate() {
        let now = Instant::now();
        let others = u32::try_from(sentinels.len() - at).unwrap_or(u32::MAX).saturating_add(1);
        let share = now + deadline.saturating_duration_since(now) / others;
        match ask(sentinel, name, login, tls, share) {
            Ok(master) => return Ok(master),
            Err(text) => why = text,
        }
    }
    Err(LinkError::NotRun(format!("no sentinel knows where the master is: {why}")))
}

fn ask(
    sentinel: &Endpoint,
    name: &str,
    login: &Login,
    tls: Option<&Arc<ClientConfig>>,
    deadline: Instant,
) -> Result<Endpoint, String> {
    let command = ["SENTINEL", "get-master-addr-by-name", name];
    let (_, replies) = Connection::start(sentinel, tls, login, &[&command], deadline)
        .map_err(super::connection::Broken::text)?;
    match replies.first() {
        Some(Value::Array(pair)) => {
            let host = pair.first().and_then(wire::text).filter(|host| !host.is_empty());
            let port = pair.get(1).and_then(wire::text).and_then(|port| port.parse().ok());
            match (host, port) {
                (Some(host), Some(port)) => Ok(Endpoint::Tcp { host: host.to_owned(), port }),
                _ => Err(format!("{sentinel} answered something that is no address")),
            }
        }
        Some(Value::Nil) => {
            Err(format!("{sentinel} knows no master called `{name}`: look at its `sentinel monitor`"))
        }
        Some(Value::ServerError(error)) if error.code() == "NOAUTH" => Err(format!(
            "{sentinel} wants a password of its own: write `?sentinel_password=...` (and `sentinel_user`) in the URL"
        )),
        Some(Value::ServerError(error)) if error.code() == "ERR" => Err(format!("{sentinel} is no sentinel")),
        Some(Value::ServerError(error)) => Err(wire::refusal(error)),
        _ => Err(format!("{sentinel} answered something that is no address")),
    }
}
