//! One server: a connection, the handshake that looks at it, and the scripts under names that no other incarnation has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use rustls::ClientConfig;

use super::connection::{Broken, Connection};
use super::info::{Info, ServerInfo};
use super::{LinkError, Request, wire};
use crate::store::redis::address::{Endpoint, Login};
use crate::store::redis::script::Script;

/// How often a server that is in use is looked at again: a change of its role, its history or its eviction policy is
/// noticed that late, where it comes with no error.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What every connection of a store is made with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) login: Login,
    pub(super) database: u16,
}

/// One server, connected or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Endpoint,
    connection: Option<Connection>,
    info: Option<Arc<ServerInfo>>,
    /// The SHA-1 of each script on this server.
    shas: Vec<String>,
    looked: Instant,
}

/// What became of what was sent.
pub(super) type Replies = Vec<Result<Value, LinkError>>;

impl Node {
    pub(super) fn new(at: Endpoint) -> Self {
        Self { at, connection: None, info: None, shas: Vec::new(), looked: Instant::now() }
    }

    /// What it is, as of the last handshake.
    pub(super) fn info(&self) -> Option<&Arc<ServerInfo>> {
        self.connection.as_ref().and(self.info.as_ref())
    }

    /// Whether something can be sent to it without a handshake.
    pub(super) fn is_ready(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_dead())
    }

    /// Forgets the connection; what is sent next begins with a handshake.
    pub(super) fn hang_up(&mut self) {
        self.connection = None;
    }

    /// A connection with a server that has been looked at.
    pub(super) fn ready(&mut self, setup: &Setup, deadline: Instant) -> Result<Arc<ServerInfo>, LinkError> {
        if let Some(info) = self.info.as_ref().filter(|_| self.is_ready()) {
            return Ok(Arc::clone(info));
        }
        self.connection = None;
        let mut commands: Vec<&[&str]> =
            vec![&["INFO"], &["CONFIG", "GET", "appendfsync"], &["CLIENT", "SETNAME", "checkrein"]];
        let number = setup.database.to_string();
        let select = ["SELECT", number.as_str()];
        if setup.database != 0 {
            commands.push(&select);
        }
        let (mut connection, replies) =
            Connection::start(&self.at, setup.tls.as_ref(), &setup.login, &commands, deadline)
                .map_err(|broken| LinkError::NotRun(broken.text()))?;
        let mut replies = replies.iter();
        let (info, fsync) = (replies.next().unwrap_or(&Value::Nil), replies.next().unwrap_or(&Value::Nil));
        let info = Arc::new(ServerInfo::of(self.at.to_string(), info, fsync)?);
        if let Some(Value::ServerError(_)) = replies.nth(1) {
            return Err(LinkError::NotRun(format!("{} has no database {number}", self.at)));
        }
        self.shas = load(&mut connection, &info.run_id, deadline)?;
        self.connection = Some(connection);
        self.info = Some(Arc::clone(&info));
        self.looked = Instant::now();
        Ok(info)
    }

    /// Sends requests and a few commands after them, in one write. Nothing that fails here has been sent whole.
    pub(super) fn send<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a Request> + Clone,
        also: &[Vec<String>],
        deadline: Instant,
    ) -> Result<(), LinkError> {
        let Some(connection) = &mut self.connection else {
            return Err(LinkError::NotRun("there is no connection".to_owned()));
        };
        if Instant::now() >= deadline {
            return Err(LinkError::NotRun(format!("no time was left to ask {}", self.at)));
        }
        let mut bytes = Vec::with_capacity(requests.clone().map(|request| request.body.len() + 96).sum());
        for request in requests {
            head(&mut bytes, request, self.shas.get(request.script as usize).map_or("", String::as_str));
        }
        for command in also {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            wire::command(&mut bytes, &words);
        }
        connection.send(&bytes, deadline).map_err(|broken| {
            self.connection = None;
            match broken {
                Broken::Unsent(text) => LinkError::NotRun(text),
                broken => LinkError::Unknown(broken.text()),
            }
        })
    }

    /// The replies to what was sent.
    pub(super) fn receive(&mut self, count: usize) -> Replies {
        let mut replies = Vec::with_capacity(count);
        let Some(connection) = &mut self.connection else {
            replies.resize(count, Err(LinkError::NotRun("there is no connection".to_owned())));
            return replies;
        };
        let mut lost = None;
        while replies.len() < count && lost.is_none() {
            match connection.receive() {
                Ok(value) => replies.push(Ok(value)),
                Err(broken) => lost = Some(broken.text()),
            }
        }
        if let Some(text) = lost {
            // What comes after this reply can never be told from it.
            self.connection = None;
            replies.resize(count, Err(LinkError::Unknown(text)));
        }
        replies
    }

    /// Asks for something that may be asked twice.
    pub(super) fn ask(&mut self, commands: &[&[&str]], deadline: Instant) -> Result<Vec<Value>, LinkError> {
        let Some(connection) = &mut self.connection else {
            return Err(LinkError::NotRun("there is no connection".to_owned()));
        };
        connection.ask(commands, deadline).map_err(|broken| {
            self.connection = None;
            LinkError::NotRun(broken.text())
        })
    }

    /// Loads the scripts again after somebody has flushed them: on the same incarnation that is no change.
    pub(super) fn reload(&mut self, deadline: Instant) -> Result<(), LinkError> {
        let info = self.ask(&[&["INFO", "server", "replication", "memory"]], deadline)?;
        let same = info.first().is_some_and(|info| self.is_same(info));
        let (Some(connection), Some(known), true) = (&mut self.connection, &self.info, same) else {
            self.connection = None;
            return Err(LinkError::Changed);
        };
        self.shas = load(connection, &known.run_id, deadline)?;
        Ok(())
    }

    /// The command that looks at a server in use again, when it is time.
    pub(super) fn look(&self) -> Option<Vec<String>> {
        (self.looked.elapsed() >= LOOK_EVERY)
            .then(|| ["INFO", "server", "replication", "memory"].map(str::to_owned).to_vec())
    }

    /// What such a look saw. A server that is no longer what it was is looked at from the beginning before anything else
    /// is sent to it.
    pub(super) fn saw(&mut self, reply: &Value) {
        self.looked = Instant::now();
        if !self.is_same(reply) {
            self.connection = None;
        }
    }

    fn is_same(&self, reply: &Value) -> bool {
        let Some(known) = &self.info else { return false };
        Info::of(reply).is_ok_and(|info| {
            info.incarnation().is_some_and(|incarnation| incarnation == known.incarnation)
                && info.is_replicated() == known.replicated
                && info.check().is_ok()
        })
    }
}

/// Loads every script. Their text contains the incarnation, so that no other one knows them.
fn load(connection: &mut Connection, run_id: &str, deadline: Instant) -> Result<Vec<String>, LinkError> {
    let texts = Script::ALL.map(|script| script.text(run_id));
    let commands = texts.each_ref().map(|text| ["SCRIPT", "LOAD", text.as_str()]);
    let commands = commands.each_ref().map(|command| command.as_slice());
    let replies =
        connection.ask(&commands, deadline).map_err(|broken: Broken| LinkError::NotRun(broken.text()))?;
    replies
        .iter()
        .map(|reply| match reply {
            Value::ServerError(error) => Err(LinkError::NotRun(wire::refusal(error))),
            reply => wire::text(reply).map(str::to_owned).ok_or_else(|| {
                LinkError::NotRun("the server gave a script no name: it cannot be used".to_owned())
            }),
        })
        .collect()
}

fn head(bytes: &mut Vec<u8>, request: &Request, sha: &str) {
    let mut number = itoa::Buffer::new();
    bytes.push(b'*');
    bytes.extend_from_slice(number.format(request.count + 3).as_bytes());
    bytes.extend_from_slice(b"\r\n$7\r\nEVALSHA\r\n");
    wire::bulk(bytes, sha.as_bytes());
    wire::bulk(bytes, number.format(request.keys).as_bytes());
    bytes.extend_from_slice(&request.body);
}
