//! The way to the servers: scripts go out, replies come back, and nothing runs on a server that has not been looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use redis::Value;

use super::address::{Address, Endpoint, Kind};
use super::name::{self, Tag};
use super::script::Script;

mod batch;
mod cluster;
mod connection;
mod epoch;
mod exchange;
mod info;
mod node;
mod reach;
mod resolve;
mod sentinel;
mod stream;
mod tls;
mod wire;

use batch::Batch;
use cluster::Slots;
use epoch::{Before, Known, Memory, Tags, Trust};
pub use info::ServerInfo;
use node::{Node, Setup};
use reach::Route;

/// Arguments as they go over the wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    count: u32,
    body: Vec<u8>,
}

impl Arguments {
    /// Adds one.
    pub(super) fn arg(&mut self, arg: &[u8]) {
        self.count += 1;
        wire::bulk(&mut self.body, arg);
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: i64) {
        let mut text = itoa::Buffer::new();
        self.arg(text.format(number).as_bytes());
    }
}

/// One script to run, with its keys and arguments as they go over the wire.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) script: Script,
    /// Where its keys lie.
    pub(super) tag: Tag,
    keys: u32,
    count: u32,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn new(script: Script, tag: Tag) -> Self {
        Self { script, tag, keys: 0, count: 0, body: Vec::with_capacity(512) }
    }

    /// Adds a key. Keys come before arguments.
    pub(super) fn key(&mut self, key: &[u8]) {
        self.keys += 1;
        self.arg(key);
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, arg: &[u8]) {
        self.count += 1;
        wire::bulk(&mut self.body, arg);
    }

    /// Adds arguments.
    pub(super) fn args(&mut self, arguments: &Arguments) {
        self.count += arguments.count;
        self.body.extend_from_slice(&arguments.body);
    }

    /// Adds a number as an argument.
    pub(super) fn number(&mut self, number: i64) {
        let mut text = itoa::Buffer::new();
        self.arg(text.format(number).as_bytes());
    }
}

/// What is known of the server that keeps a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// It is the incarnation that a person or the first user of the tag has accepted: nothing has been lost since.
    pub(super) accepted: bool,
    /// It has replicas that may take its place without what it acknowledged last.
    pub(super) replicated: bool,
}

/// Why there is no reply to a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// It has not run, and will not.
    #[error("{0}")]
    NotRun(String),
    /// It may have run, or may still.
    #[error("{0}")]
    Unknown(String),
    /// The server that keeps the tag is another one than it was, or has started again, or somebody says that it is no
    /// longer what it was: what is known of its records is nothing, and its standing may be another. It has not run.
    /// Nothing of the tag runs before its standing has been asked for.
    #[error("the server has changed")]
    Changed,
    /// The server refused it, in words; it wrote nothing.
    #[error("{0}")]
    Refused(String),
}

/// The connections of one store.
#[derive(Debug)]
pub(super) struct Link {
    address: Address,
    prefix: String,
    setup: Result<Setup, LinkError>,
    route: Route,
    nodes: BTreeMap<Endpoint, Node>,
    tags: Tags,
    memory: Arc<Memory>,
    process: u32,
}

impl Link {
    pub(super) fn new(address: Address, prefix: &str) -> Self {
        let tls = address.tls.as_ref().map(tls::settings).transpose();
        let setup = tls.map_err(LinkError::NotRun).map(|tls| Setup {
            tls,
            login: address.login.clone(),
            database: address.database,
        });
        let route = match (&address.kind, address.endpoints.first()) {
            (Kind::One, Some(endpoint)) => Route::One(endpoint.clone()),
            (Kind::Sentinel { .. }, _) => Route::Sentinel(None),
            _ => Route::CLUSTER,
        };
        let memory = Memory::of(&address, prefix);
        let (prefix, process) = (prefix.to_owned(), std::process::id());
        Self { address, prefix, setup, route, nodes: BTreeMap::new(), tags: Tags::default(), memory, process }
    }

    /// Runs requests, each on the server that keeps its tag, those of one server in one write; replies in their order.
    pub(super) fn run(&mut self, requests: &[Request], deadline: Instant) -> Vec<Result<Value, LinkError>> {
        self.know_process();
        self.freshen(deadline);
        let mut batch = Batch::new(requests, deadline);
        // Servers that are there first: one that is not may take all the time there is.
        let waiting = self.sort(&mut batch);
        self.exchange(&mut batch);
        if !waiting.is_empty() {
            self.reach_all(&waiting, &mut batch);
            self.exchange(&mut batch);
        }
        let missing = || Err(LinkError::NotRun("the request was not sent".to_owned()));
        batch.results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// What is known of the server that keeps a tag, looking at it first if need be.
    pub(super) fn standing(&mut self, tag: Tag, deadline: Instant) -> Result<Standing, LinkError> {
        self.freshen(deadline);
        if let Some(standing) = self.known(tag) {
            return Ok(standing);
        }
        match self.ask_standing(tag, deadline) {
            Err(LinkError::Changed) => self.ask_standing(tag, deadline),
            other => other,
        }
    }

    /// What is known of it without a word to anybody.
    fn known(&self, tag: Tag) -> Option<Standing> {
        let info = self.nodes.get(self.place(tag)?)?.info()?;
        let Known { incarnation, standing: Some((accepted, _)), stale: false } = self.tags.get(tag)? else {
            return None;
        };
        let holds = **incarnation == *info.incarnation && (*accepted || !self.tags.is_old(tag));
        holds.then(|| Standing { accepted: *accepted, replicated: self.is_replicated(info) })
    }

    /// Where there are sentinels somebody is ready to put another server in its place.
    fn is_replicated(&self, info: &ServerInfo) -> bool {
        info.replicated || matches!(self.route, Route::Sentinel(_))
    }

    fn ask_standing(&mut self, tag: Tag, deadline: Instant) -> Result<Standing, LinkError> {
        let (at, info) = self.reach(tag, deadline)?;
        // What the server says about the store as a whole, if it keeps that along with the tag.
        let store = if tag != Tag::STORE && self.place(Tag::STORE) == Some(&at) {
            let found = self.learn(Tag::STORE, None, &at, &info, deadline)?;
            Some(Trust::of(&info.incarnation, &found))
        } else {
            None
        };
        let found = self.learn(tag, store, &at, &info, deadline)?;
        let accepted = epoch::is_accepted(&info.incarnation, &found);
        Ok(Standing { accepted, replicated: self.is_replicated(&info) })
    }

    /// Reads the epoch key of a tag, which is written if there is none, and remembers what it says.
    fn learn(
        &mut self,
        tag: Tag,
        store: Option<Trust>,
        at: &Endpoint,
        info: &ServerInfo,
        deadline: Instant,
    ) -> Result<String, LinkError> {
        let remembered = self.memory.get(tag, &info.incarnation);
        let before = Before { remembered: remembered.as_deref(), store };
        let key = name::epoch(&self.prefix, tag);
        let first = before.first(&info.incarnation);
        let mut found = self.epoch(at, &[&["SET", &key, &first, "NX"], &["GET", &key]], deadline)?;
        if let Some(correction) = before.correction(&info.incarnation, &found) {
            // A person may have accepted it meanwhile, so only what was found is replaced.
            let script = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end \
                          return redis.call('GET', KEYS[1])";
            found = self.epoch(at, &[&["EVAL", script, "1", &key, &found, &correction]], deadline)?;
        }
        let accepted = epoch::is_accepted(&info.incarnation, &found);
        self.remember(tag, info, Some((accepted, Instant::now())));
        Ok(found)
    }

    /// Accepts the server that keeps a tag as it is now: a person says that what it has lost, if anything, does not
    /// matter.
    pub(super) fn accept(&mut self, tag: Tag, deadline: Instant) -> Result<(), LinkError> {
        let (at, info) = self.reach(tag, deadline)?;
        let key = name::epoch(&self.prefix, tag);
        self.epoch(&at, &[&["SET", &key, &epoch::accepted(&info.incarnation)]], deadline)?;
        self.remember(tag, &info, Some((true, Instant::now())));
        Ok(())
    }

    /// What every server says about itself now.
    pub(super) fn servers(&mut self, deadline: Instant) -> Result<Vec<ServerInfo>, LinkError> {
        self.reach(Tag::STORE, deadline)?;
        let all = match &self.route {
            Route::One(endpoint) => vec![endpoint.clone()],
            Route::Sentinel(master) => master.iter().cloned().collect(),
            Route::Cluster { slots, .. } => slots.as_ref().map(Slots::masters).unwrap_or_default(),
        };
        let mut servers = Vec::with_capacity(all.len());
        for at in all {
            // A handshake says it all; a look at a server in use does not.
            self.nodes.entry(at.clone()).or_insert_with(|| Node::new(at.clone())).hang_up();
            servers.push((*self.open(&at, deadline)?).clone());
        }
        Ok(servers)
    }

    fn remember(&mut self, tag: Tag, info: &ServerInfo, standing: Option<(bool, Instant)>) {
        let incarnation: Arc<str> = Arc::from(info.incarnation.as_str());
        if standing.is_some() {
            self.memory.set(tag, &incarnation);
        }
        self.tags.set(tag, Known { incarnation, standing, stale: false });
    }

    /// Sends what may be sent twice and returns the last reply, which is a text or `OK`.
    fn epoch(&mut self, at: &Endpoint, commands: &[&[&str]], deadline: Instant) -> Result<String, LinkError> {
        let node =
            self.nodes.get_mut(at).ok_or_else(|| LinkError::NotRun("there is no connection".to_owned()))?;
        for reply in node.ask(commands, deadline)?.iter().rev() {
            match reply {
                Value::ServerError(error) => {
                    let code = error.code().to_owned();
                    let text = wire::refusal(error);
                    return Err(self.failed(at, &code, text));
                }
                reply => {
                    if let Some(text) = wire::text(reply) {
                        return Ok(text.to_owned());
                    }
                }
            }
        }
        Err(LinkError::Refused(
            "the epoch key of the store is no text: somebody else writes under its prefix".to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests;
