//! The way to the servers: scripts go out, replies come back, and nothing runs on a server that has not been looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use super::address::{Address, Endpoint, Kind};
use super::name::{self, Tag};
use super::script::Script;

mod cluster;
mod connection;
mod epoch;
mod info;
mod node;
mod resolve;
mod sentinel;
mod stream;
mod tls;
mod wire;

use cluster::Slots;
use epoch::{Known, Memory, Tags};
pub use info::ServerInfo;
use node::{Node, Setup};

/// How long to wait before sentinels are asked again who the master is.
const ASK_AGAIN: Duration = Duration::from_millis(50);

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

/// Where a tag's keys are.
#[derive(Debug)]
enum Route {
    One(Endpoint),
    /// The master, if it is known.
    Sentinel(Option<Endpoint>),
    /// The slots, if they are known.
    Cluster(Option<Slots>),
}

/// What is asked along with requests, when it is time.
enum Also {
    Server,
    Epoch(Tag),
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
            _ => Route::Cluster(None),
        };
        let memory = Memory::of(&address, prefix);
        let (prefix, process) = (prefix.to_owned(), std::process::id());
        Self { address, prefix, setup, route, nodes: BTreeMap::new(), tags: Tags::default(), memory, process }
    }

    /// Runs requests, each on the server that keeps its tag, those of one server in one write; replies in their order.
    pub(super) fn run(&mut self, requests: &[Request], deadline: Instant) -> Vec<Result<Value, LinkError>> {
        let mut results: Vec<Option<Result<Value, LinkError>>> = Vec::new();
        results.resize_with(requests.len(), || None);
        let groups = self.groups(requests, deadline, &mut results);
        let sent: Vec<_> = groups
            .into_iter()
            .filter_map(|(at, group)| self.send(at, group, requests, deadline, &mut results))
            .collect();
        for (at, group, also) in sent {
            self.receive(&at, &group, &also, requests, deadline, &mut results);
        }
        let missing = || Err(LinkError::NotRun("the request was not sent".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// What is known of the server that keeps a tag, looking at it first if need be.
    pub(super) fn standing(&mut self, tag: Tag, deadline: Instant) -> Result<Standing, LinkError> {
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
        let at = match &self.route {
            Route::One(endpoint) => endpoint,
            Route::Sentinel(master) => master.as_ref()?,
            Route::Cluster(slots) => slots.as_ref()?.master(tag)?,
        };
        let info = self.nodes.get(at)?.info()?;
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
        let remembered = self.memory.get(tag);
        let key = name::epoch(&self.prefix, tag);
        let first = epoch::first(remembered.as_deref(), &info.incarnation);
        let mut found = self.epoch(&at, &[&["SET", &key, &first, "NX"], &["GET", &key]], deadline)?;
        if let Some(correction) = epoch::correction(remembered.as_deref(), &info.incarnation, &found) {
            // A person may have accepted it meanwhile, so only what was found is replaced.
            let script = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end \
                          return redis.call('GET', KEYS[1])";
            found = self.epoch(&at, &[&["EVAL", script, "1", &key, &found, &correction]], deadline)?;
        }
        let accepted = epoch::is_accepted(&info.incarnation, &found);
        self.remember(tag, &info, Some((accepted, Instant::now())));
        Ok(Standing { accepted, replicated: self.is_replicated(&info) })
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
            Route::Cluster(slots) => slots.as_ref().map(Slots::masters).unwrap_or_default(),
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
        if standing.is_some() || self.memory.get(tag).is_none() {
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

    /// An error of a server: forgets what it shows to be wrong.
    fn failed(&mut self, at: &Endpoint, code: &str, text: String) -> LinkError {
        match code {
            "MOVED" => {
                self.lose(at, false);
                LinkError::Changed
            }
            "READONLY" => {
                self.lose(at, true);
                LinkError::Changed
            }
            "ASK" | "CLUSTERDOWN" | "MASTERDOWN" => {
                self.lose(at, false);
                LinkError::NotRun(text)
            }
            code if wire::is_not_run(code) => LinkError::NotRun(text),
            _ => LinkError::Refused(text),
        }
    }

    /// Forgets where things are, and the connection if it is of no use.
    fn lose(&mut self, at: &Endpoint, connection: bool) {
        if connection && let Some(node) = self.nodes.get_mut(at) {
            node.hang_up();
        }
        match &mut self.route {
            Route::One(_) => {}
            Route::Sentinel(master) => *master = None,
            Route::Cluster(slots) => *slots = None,
        }
    }

    /// Where a tag's keys are, as far as is known; asks if need be.
    fn find(&mut self, tag: Tag, deadline: Instant) -> Result<Endpoint, LinkError> {
        let setup = self.setup.as_ref().map_err(Clone::clone)?;
        match &mut self.route {
            Route::One(endpoint) => Ok(endpoint.clone()),
            Route::Sentinel(Some(master)) => Ok(master.clone()),
            Route::Sentinel(master) => {
                let Kind::Sentinel { master: name, login } = &self.address.kind else {
                    return Err(LinkError::NotRun("the store has no sentinels".to_owned()));
                };
                let found =
                    sentinel::master(&self.address.endpoints, name, login, setup.tls.as_ref(), deadline)?;
                Ok(master.insert(found).clone())
            }
            Route::Cluster(slots) => {
                if slots.is_none() {
                    // Those that were named first, then those that were found: the named ones may be gone.
                    let mut nodes = self.address.endpoints.clone();
                    nodes.extend(
                        self.nodes.keys().filter(|node| !self.address.endpoints.contains(node)).cloned(),
                    );
                    let found = cluster::slots(&nodes, &setup.login, setup.tls.as_ref(), deadline)?;
                    let masters = found.masters();
                    self.nodes.retain(|at, _| masters.contains(at));
                    *slots = Some(found);
                }
                slots.as_ref().and_then(|slots| slots.master(tag)).cloned().ok_or_else(|| {
                    LinkError::NotRun(
                        "no node of the cluster serves the slot: look at `redis-cli --cluster check`"
                            .to_owned(),
                    )
                })
            }
        }
    }

    /// A connection with a server that has been looked at.
    fn open(&mut self, at: &Endpoint, deadline: Instant) -> Result<Arc<ServerInfo>, LinkError> {
        let process = std::process::id();
        if process != self.process {
            // A forked child has the parent's sockets: what it wrote there would answer the parent.
            self.nodes.clear();
            self.process = process;
        }
        let setup = self.setup.as_ref().map_err(Clone::clone)?;
        let node = self.nodes.entry(at.clone()).or_insert_with(|| Node::new(at.clone()));
        let info = node.ready(setup, deadline)?;
        if info.cluster && matches!(self.route, Route::One(_)) {
            if self.address.database != 0 {
                return Err(LinkError::NotRun(super::address::AddressError::ClusterDatabase.to_string()));
            }
            self.route = Route::Cluster(None);
        }
        Ok(info)
    }

    /// The server that keeps a tag, ready. What sentinels or a cluster said may be old, so they are asked again when the
    /// server is not what they said: once in a cluster, and until the time is up by sentinels, because a failover takes
    /// its time.
    fn reach(&mut self, tag: Tag, deadline: Instant) -> Result<(Endpoint, Arc<ServerInfo>), LinkError> {
        let mut again = true;
        loop {
            let known = match &self.route {
                Route::One(_) => true,
                Route::Sentinel(master) => master.is_some(),
                Route::Cluster(slots) => slots.is_some(),
            };
            let reached = self.find(tag, deadline).and_then(|at| match self.open(&at, deadline) {
                Ok(info) => Ok((at, info)),
                Err(error) => {
                    self.lose(&at, true);
                    Err(error)
                }
            });
            match (reached, &self.route) {
                // It has just turned out to be a node of a cluster, and need not be the right one.
                (Ok(_), Route::Cluster(None)) if again => again = false,
                (Ok(reached), _) => return Ok(reached),
                (Err(_), Route::Cluster(_)) if known && again => again = false,
                (Err(_), Route::Sentinel(_)) if Instant::now() + ASK_AGAIN * 2 < deadline => {
                    thread::sleep(ASK_AGAIN)
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// Which requests go where. Those that cannot go anywhere have their result already.
    fn groups(
        &mut self,
        requests: &[Request],
        deadline: Instant,
        results: &mut [Option<Result<Value, LinkError>>],
    ) -> Vec<(Endpoint, Vec<usize>)> {
        let mut groups: Vec<(Endpoint, Vec<usize>)> = Vec::new();
        let mut last: Option<(Tag, Result<usize, LinkError>)> = None;
        for (number, (request, result)) in requests.iter().zip(results).enumerate() {
            let group = match &last {
                Some((tag, group)) if *tag == request.tag => group.clone(),
                _ => self.check(request.tag, deadline).map(|at| {
                    groups.iter().position(|(other, _)| *other == at).unwrap_or_else(|| {
                        groups.push((at, Vec::with_capacity(requests.len())));
                        groups.len() - 1
                    })
                }),
            };
            match &group {
                Ok(group) => groups.get_mut(*group).into_iter().for_each(|(_, group)| group.push(number)),
                Err(error) => *result = Some(Err(error.clone())),
            }
            last = Some((request.tag, group));
        }
        groups
    }

    /// The server that keeps a tag, if it is still what it was when the tag was last used.
    fn check(&mut self, tag: Tag, deadline: Instant) -> Result<Endpoint, LinkError> {
        let (at, info) = self.reach(tag, deadline)?;
        match self.tags.get(tag) {
            Some(known) if known.stale || *known.incarnation != *info.incarnation => Err(LinkError::Changed),
            Some(_) => Ok(at),
            None => {
                self.remember(tag, &info, None);
                Ok(at)
            }
        }
    }

    /// Writes the requests of one server, and what else is to be asked.
    fn send(
        &mut self,
        at: Endpoint,
        group: Vec<usize>,
        requests: &[Request],
        deadline: Instant,
        results: &mut [Option<Result<Value, LinkError>>],
    ) -> Option<(Endpoint, Vec<usize>, Vec<Also>)> {
        let node = self.nodes.get_mut(&at)?;
        let (mut also, mut commands) = (Vec::new(), Vec::new());
        let mut last = None;
        for tag in group.iter().filter_map(|number| requests.get(*number)).map(|request| request.tag) {
            if last != Some(tag) && self.tags.is_old(tag) {
                also.push(Also::Epoch(tag));
                commands.push(vec!["GET".to_owned(), name::epoch(&self.prefix, tag)]);
            }
            last = Some(tag);
        }
        if let Some(look) = node.look() {
            also.push(Also::Server);
            commands.push(look);
        }
        let all = group.iter().filter_map(|number| requests.get(*number));
        match node.send(all, &commands, deadline) {
            Ok(()) => Some((at, group, also)),
            Err(error) => {
                self.lose(&at, true);
                for number in group {
                    put(results, number, Err(error.clone()));
                }
                None
            }
        }
    }

    /// Reads the replies of one server.
    fn receive(
        &mut self,
        at: &Endpoint,
        group: &[usize],
        also: &[Also],
        requests: &[Request],
        deadline: Instant,
        results: &mut [Option<Result<Value, LinkError>>],
    ) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let mut replies = node.receive(group.len() + also.len());
        let others = replies.split_off(group.len().min(replies.len()));
        let info = node.info().cloned();
        for (also, reply) in also.iter().zip(others) {
            match (also, reply) {
                (Also::Server, Ok(reply)) => node.saw(&reply),
                (Also::Epoch(tag), Ok(reply)) => {
                    let accepted = info
                        .as_ref()
                        .zip(wire::text(&reply))
                        .is_some_and(|(info, found)| epoch::is_accepted(&info.incarnation, found));
                    self.tags.saw(*tag, accepted);
                }
                (_, Err(_)) => {}
            }
        }
        if replies.iter().any(Result::is_err) {
            self.lose(at, true);
        }
        let mut unknown = Vec::new();
        for (number, reply) in group.iter().zip(replies) {
            match reply {
                Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT" => unknown.push(*number),
                reply => {
                    let reply = self.judge(at, reply);
                    put(results, *number, reply);
                }
            }
        }
        if !unknown.is_empty() {
            self.resend(at, &unknown, requests, deadline, results);
        }
    }

    /// Requests that did not run because somebody has flushed the scripts: loads them and sends once more.
    fn resend(
        &mut self,
        at: &Endpoint,
        group: &[usize],
        requests: &[Request],
        deadline: Instant,
        results: &mut [Option<Result<Value, LinkError>>],
    ) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let all = group.iter().filter_map(|number| requests.get(*number));
        let replies = match node.reload(deadline).and_then(|()| node.send(all, &[], deadline)) {
            Ok(()) => node.receive(group.len()),
            Err(error) => vec![Err(error); group.len()],
        };
        for (number, reply) in group.iter().zip(replies) {
            let reply = match reply {
                Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT" => Err(LinkError::NotRun(
                    "the server forgets the scripts as soon as they are loaded".to_owned(),
                )),
                reply => self.judge(at, reply),
            };
            put(results, *number, reply);
        }
    }

    fn judge(&mut self, at: &Endpoint, reply: Result<Value, LinkError>) -> Result<Value, LinkError> {
        match reply {
            Ok(Value::ServerError(error)) => {
                let text = wire::refusal(&error);
                Err(self.failed(at, error.code(), text))
            }
            reply => reply,
        }
    }
}

fn put(results: &mut [Option<Result<Value, LinkError>>], number: usize, reply: Result<Value, LinkError>) {
    if let Some(result) = results.get_mut(number) {
        *result = Some(reply);
    }
}

#[cfg(test)]
mod tests;
