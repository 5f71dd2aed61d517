//! The way to the servers: scripts go out, replies come back, and nothing runs on a server that has not been looked at.

use std::time::Instant;

use redis::Value;

use super::name::Tag;
use super::script::Script;

mod server;

use server::Server;

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
        bulk(&mut self.body, arg);
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
        bulk(&mut self.body, arg);
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
    /// The server that keeps the tag is another one than it was, or has started again: what is known of its records is
    /// nothing, and its standing may be another. It has not run.
    #[error("the server has changed")]
    Changed,
    /// The server refused it, in words; it wrote nothing.
    #[error("{0}")]
    Refused(String),
}

/// The connections of one store.
#[derive(Debug)]
pub(super) struct Link {
    server: Server,
}

impl Link {
    pub(super) fn new(address: super::Address, prefix: &str) -> Self {
        Self { server: Server::new(address, prefix) }
    }

    /// Runs requests, each on the server that keeps its tag, those of one server in one write; replies in their order.
    pub(super) fn run(&mut self, requests: &[Request], deadline: Instant) -> Vec<Result<Value, LinkError>> {
        self.server.run(requests, deadline)
    }

    /// What is known of the server that keeps a tag, looking at it first if need be.
    pub(super) fn standing(&mut self, tag: Tag, deadline: Instant) -> Result<Standing, LinkError> {
        self.server.standing(tag, deadline)
    }
}

fn bulk(body: &mut Vec<u8>, arg: &[u8]) {
    let mut length = itoa::Buffer::new();
    body.push(b'$');
    body.extend_from_slice(length.format(arg.len()).as_bytes());
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(arg);
    body.extend_from_slice(b"\r\n");
}
