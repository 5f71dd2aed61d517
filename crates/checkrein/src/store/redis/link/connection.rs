//! One connection: commands out, replies in, and what a failed exchange means.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Parser, Value};
use rustls::ClientConfig;

use super::stream::{Stream, reason};
use super::wire;
use crate::store::redis::address::{Endpoint, Login};

/// Why a connection was not made, or not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// In words; not a byte was sent.
    Unsent(String),
    /// In words; the time was not up.
    Lost(String),
    /// The time was up.
    Late(String),
}

impl Broken {
    pub(super) fn text(self) -> String {
        match self {
            Self::Unsent(text) | Self::Lost(text) | Self::Late(text) => text,
        }
    }
}

/// A connection with a server.
///
/// Not the connection of the `redis` crate, of which only the parser and the values are used: its timeouts are for each
/// read and not for an exchange, its look-up of names and its connect know no deadline, its errors carry what a server
/// said about `AUTH`, and neither its manager nor its cluster client lets anybody look at a server between a reconnect and
/// the first command.
pub(super) struct Connection {
    stream: Stream,
    parser: Parser,
    at: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection").field(&self.at).finish()
    }
}

impl Connection {
    pub(super) fn open(
        at: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        deadline: Instant,
    ) -> Result<Self, Broken> {
        let stream = Stream::open(at, tls, deadline).map_err(|text| {
            if Instant::now() < deadline { Broken::Lost(text) } else { Broken::Late(text) }
        })?;
        Ok(Self { stream, parser: Parser::new(), at: at.to_string() })
    }

    pub(super) fn is_dead(&self) -> bool {
        self.stream.is_dead()
    }

    /// Writes what has to be written by a moment.
    pub(super) fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Broken> {
        self.stream.until(deadline);
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if rest.len() == bytes.len() && self.stream.is_plain() => {
                    return Err(Broken::Unsent(self.broken(&error).text()));
                }
                Err(error) => return Err(self.broken(&error)),
            }
        }
        self.stream.flush().map_err(|error| self.broken(&error))
    }

    /// The next reply, an error of the server included.
    pub(super) fn receive(&mut self) -> Result<Value, Broken> {
        let mut reader = Noting { stream: &mut self.stream, failed: None, ended: false };
        let reply = self.parser.parse_value(&mut reader);
        let (failed, ended) = (reader.failed.map(|error| (error.kind(), reason(&error))), reader.ended);
        reply.map_err(|_| match failed {
            None if ended => {
                Broken::Lost(format!("the connection with {} was lost: the server closed it", self.at))
            }
            None => Broken::Lost(format!("what listens on {} does not speak the protocol of Redis", self.at)),
            Some((io::ErrorKind::TimedOut, _)) => Broken::Late(format!("no answer from {} in time", self.at)),
            Some((io::ErrorKind::InvalidData, why)) => Broken::Lost(format!(
                "TLS with {} failed ({why}): does the server want a `client_cert`?",
                self.at
            )),
            Some((_, why)) => Broken::Lost(format!("the connection with {} was lost: {why}", self.at)),
        })
    }

    /// Sends commands in one write and reads all their replies.
    pub(super) fn ask(&mut self, commands: &[&[&str]], deadline: Instant) -> Result<Vec<Value>, Broken> {
        let mut bytes = Vec::with_capacity(256);
        for command in commands {
            wire::command(&mut bytes, command);
        }
        self.send(&bytes, deadline)?;
        commands.iter().map(|_| self.receive()).collect()
    }

    /// What a server says before it is asked anything: why it will not talk. It says it once and hangs up, and a command
    /// that is already under way may make the system throw its words away; so nothing is sent.
    fn greeting(at: &Endpoint, tls: Option<&Arc<ClientConfig>>, deadline: Instant) -> Option<String> {
        let mut connection = Self::open(at, tls, deadline).ok()?;
        connection.stream.until(deadline.min(Instant::now() + Duration::from_millis(50)));
        match connection.receive() {
            Ok(Value::ServerError(error)) => Some(wire::refusal(&error)),
            _ => None,
        }
    }

    /// Connects and says who one is; the replies to further commands come along.
    pub(super) fn start(
        at: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        login: &Login,
        commands: &[&[&str]],
        deadline: Instant,
    ) -> Result<(Self, Vec<Value>), Broken> {
        let mut connection = Self::open(at, tls, deadline)?;
        let password = login.password.as_ref().map_or("", |word| word.reveal());
        let mut first: Vec<&[&str]> = Vec::with_capacity(commands.len() + 1);
        let (named, plain);
        match (&login.user, &login.password) {
            (None, None) => {}
            (Some(user), _) => {
                named = ["AUTH", user.reveal(), password];
                first.push(&named);
            }
            (None, Some(_)) => {
                plain = ["AUTH", password];
                first.push(&plain);
            }
        }
        let logs_in = !first.is_empty();
        first.extend_from_slice(commands);
        let mut replies = match connection.ask(&first, deadline) {
            Ok(replies) => replies,
            Err(Broken::Lost(text) | Broken::Unsent(text)) => {
                let why = Self::greeting(at, tls, deadline);
                return Err(Broken::Lost(why.unwrap_or_else(|| {
                    let advice = "; if the server expects TLS, write `rediss` instead of `redis` in the URL";
                    format!("{text}{}", if tls.is_none() { advice } else { "" })
                })));
            }
            Err(late) => return Err(late),
        };
        if logs_in {
            // What a server says about AUTH may quote it.
            if let Value::ServerError(error) = replies.remove(0) {
                return Err(Broken::Lost(wire::login_refusal(error.code(), at)));
            }
        }
        Ok((connection, replies))
    }

    fn broken(&self, error: &io::Error) -> Broken {
        let text = format!("no connection to {}: {}", self.at, reason(error));
        if error.kind() == io::ErrorKind::TimedOut { Broken::Late(text) } else { Broken::Lost(text) }
    }
}

/// Reads, and keeps what went wrong: the parser says only that something did.
struct Noting<'a> {
    stream: &'a mut Stream,
    failed: Option<io::Error>,
    ended: bool,
}

impl io::Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        self.ended |= matches!(read, Ok(0));
        read.map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }
}
