//! One server: a connection, the handshake that looks at it, and the scripts under names that no other incarnation has.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::{Client, Connection, Value};

use super::{LinkError, Request, Standing};
use crate::store::redis::Address;
use crate::store::redis::name::{self, Tag};
use crate::store::redis::script::Script;

/// One server, connected or not.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    prefix: String,
    connected: Option<Connected>,
}

struct Connected {
    connection: Connection,
    /// The server's name for this life of it.
    run_id: String,
    replicated: bool,
    /// The SHA-1 of each script on this server.
    shas: Vec<String>,
    standings: HashMap<Tag, Standing>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("run_id", &self.run_id).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(address: Address, prefix: &str) -> Self {
        Self { address, prefix: prefix.to_owned(), connected: None }
    }

    pub(super) fn standing(&mut self, tag: Tag, deadline: Instant) -> Result<Standing, LinkError> {
        let epoch = name::epoch(&self.prefix, tag);
        let connected = self.connect(deadline)?;
        if let Some(standing) = connected.standings.get(&tag) {
            return Ok(*standing);
        }
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(&epoch).arg(&connected.run_id).arg("NX").ignore().cmd("GET").arg(&epoch);
        let (accepted,): (String,) =
            pipe.query(&mut connected.connection).map_err(|error| LinkError::NotRun(error.to_string()))?;
        let standing =
            Standing { accepted: accepted == connected.run_id, replicated: connected.replicated };
        connected.standings.insert(tag, standing);
        Ok(standing)
    }

    pub(super) fn run(&mut self, requests: &[Request], deadline: Instant) -> Vec<Result<Value, LinkError>> {
        let connected = match self.connect(deadline) {
            Ok(connected) => connected,
            Err(error) => return vec![Err(error); requests.len()],
        };
        let mut bytes = Vec::with_capacity(requests.iter().map(|request| request.body.len() + 96).sum());
        for request in requests {
            let sha = connected.shas.get(request.script as usize).map_or("", String::as_str);
            head(&mut bytes, request, sha);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let sent = connected
            .connection
            .set_read_timeout(Some(left))
            .and_then(|()| connected.connection.set_write_timeout(Some(left)))
            .and_then(|()| connected.connection.send_packed_command(&bytes));
        if let Err(error) = sent {
            self.connected = None;
            return vec![Err(LinkError::Unknown(error.to_string())); requests.len()];
        }
        let mut replies = Vec::with_capacity(requests.len());
        let mut lost: Option<LinkError> = None;
        for _ in requests {
            if let Some(error) = &lost {
                replies.push(Err(error.clone()));
                continue;
            }
            match connected.connection.recv_response() {
                Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                    replies.push(Err(LinkError::Changed));
                }
                Ok(Value::ServerError(error)) => replies.push(Err(LinkError::Refused(error.to_string()))),
                Ok(value) => replies.push(Ok(value)),
                Err(error) => {
                    lost = Some(LinkError::Unknown(error.to_string()));
                    replies.push(Err(LinkError::Unknown(error.to_string())));
                }
            }
        }
        if lost.is_some() || replies.iter().any(|reply| *reply == Err(LinkError::Changed)) {
            self.connected = None;
        }
        replies
    }

    fn connect(&mut self, deadline: Instant) -> Result<&mut Connected, LinkError> {
        let connected = match self.connected.take() {
            Some(connected) => connected,
            None => open(&self.address, deadline).map_err(|error| LinkError::NotRun(error.to_string()))?,
        };
        Ok(self.connected.insert(connected))
    }
}

fn open(address: &Address, deadline: Instant) -> redis::RedisResult<Connected> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut connection = Client::open(address.url())?.get_connection_with_timeout(left)?;
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut connection)?;
    let run_id: String = info.get("run_id").unwrap_or_default();
    let replicated = info.get::<u32>("connected_slaves").is_some_and(|replicas| replicas > 0);
    let mut shas = Vec::new();
    for script in Script::ALL {
        let sha = redis::cmd("SCRIPT").arg("LOAD").arg(script.text(&run_id)).query(&mut connection)?;
        shas.push(sha);
    }
    Ok(Connected { connection, run_id, replicated, shas, standings: HashMap::new() })
}

fn head(bytes: &mut Vec<u8>, request: &Request, sha: &str) {
    let mut number = itoa::Buffer::new();
    bytes.push(b'*');
    bytes.extend_from_slice(number.format(request.count + 3).as_bytes());
    bytes.extend_from_slice(b"\r\n$7\r\nEVALSHA\r\n");
    super::bulk(bytes, sha.as_bytes());
    super::bulk(bytes, number.format(request.keys).as_bytes());
    bytes.extend_from_slice(&request.body);
}
