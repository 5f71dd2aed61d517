//! As little client as there can be: prepared commands over a socket. What everything else is compared with.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use parking_lot::Mutex;

use crate::Failure;

/// An exact window of at most 100 events in a list, on the server's time: one rate limit as one writes it by hand.
pub(crate) const RING: &[u8] = b"local t = redis.call('TIME')
local now, window, most = t[1] * 1000000 + t[2], tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('LLEN', KEYS[1]) >= most then
  if tonumber(redis.call('LINDEX', KEYS[1], 0)) > now - window then return 0 end
  redis.call('LPOP', KEYS[1])
end
redis.call('RPUSH', KEYS[1], now)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// A window so short that its hundred events have left whenever the next call comes.
const WINDOW_US: &[u8] = b"100";
const EVENTS: &[u8] = b"100";
const KEPT_MS: &[u8] = b"60000";

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Int(i64),
    Text(Vec<u8>),
    Error(String),
    Nil,
    Array(Vec<Reply>),
}

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Wire {
    pub(crate) fn connect(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 1 << 16], from: 0, to: 0 })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes)?)
    }

    pub(crate) fn ask(&mut self, bytes: &[u8]) -> Result<Reply, Failure> {
        self.send(bytes)?;
        self.reply()
    }

    /// Sends prepared commands in one write, and says whether every reply is what is allowed.
    fn all(&mut self, bytes: &[u8], commands: usize, allowed: &Reply) -> Result<bool, Failure> {
        self.send(bytes)?;
        let mut good = true;
        for _ in 0..commands {
            good &= self.reply()? == *allowed;
        }
        Ok(good)
    }

    pub(crate) fn reply(&mut self) -> Result<Reply, Failure> {
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or("an empty reply")?;
        let text = std::str::from_utf8(rest)?;
        Ok(match kind {
            b'+' => Reply::Text(rest.to_vec()),
            b'-' => Reply::Error(text.to_owned()),
            b':' => Reply::Int(text.parse()?),
            b'$' => match text.parse::<i64>()? {
                -1 => Reply::Nil,
                length => Reply::Text(self.take(usize::try_from(length)?)?),
            },
            b'*' => match text.parse::<i64>()? {
                -1 => Reply::Nil,
                count => Reply::Array((0..count).map(|_| self.reply()).collect::<Result<_, _>>()?),
            },
            _ => return Err(format!("not a reply: `{text}`").into()),
        })
    }

    fn more(&mut self) -> Result<(), Failure> {
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        if self.to == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = self.stream.read(self.buffer.get_mut(self.to..).unwrap_or_default())?;
        if count == 0 {
            return Err("the server hung up".into());
        }
        self.to += count;
        Ok(())
    }

    fn line(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            let there = self.buffer.get(self.from..self.to).unwrap_or_default();
            if let Some(end) = there.windows(2).position(|pair| pair == b"\r\n") {
                let line = there.get(..end).unwrap_or_default().to_vec();
                self.from += end + 2;
                return Ok(line);
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.to - self.from < length + 2 {
            self.more()?;
        }
        let bytes = self.buffer.get(self.from..self.from + length).unwrap_or_default().to_vec();
        self.from += length + 2;
        Ok(bytes)
    }
}

/// A command as it goes over the wire.
pub(crate) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// What is sent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum What {
    Ping,
    /// `EVALSHA` of `return 1`.
    One,
    Ring,
}

/// Callers with a connection each, and a prepared command for each key.
pub(crate) struct Bare {
    callers: Vec<Mutex<Wire>>,
    commands: Vec<Vec<u8>>,
    /// So many calls in one write.
    batch: usize,
    allowed: Reply,
}

impl Bare {
    pub(crate) fn open(
        port: u16,
        what: What,
        callers: usize,
        keys: u64,
        batch: usize,
    ) -> Result<Self, Failure> {
        let mut wire = Wire::connect(port)?;
        let script: &[u8] = if what == What::Ring { RING } else { b"return 1" };
        let Reply::Text(sha) = wire.ask(&command(&[b"SCRIPT", b"LOAD", script]))? else {
            return Err("the script was not loaded".into());
        };
        let one = |key: u64| match what {
            What::Ping => command(&[b"PING"]),
            What::One => command(&[b"EVALSHA", &sha, b"0"]),
            What::Ring => {
                let key = format!("bare:{key:06}");
                command(&[b"EVALSHA", &sha, b"1", key.as_bytes(), WINDOW_US, EVENTS, KEPT_MS])
            }
        };
        let commands = (0..keys).map(|key| one(key).repeat(batch)).collect();
        let callers = (0..callers).map(|_| Wire::connect(port).map(Mutex::new)).collect::<Result<_, _>>()?;
        let allowed = if what == What::Ping { Reply::Text(b"PONG".to_vec()) } else { Reply::Int(1) };
        Ok(Self { callers, commands, batch, allowed })
    }

    /// One write of a caller, with one answer per call in it; whether all were what they should be.
    pub(crate) fn call(&self, caller: usize, key: u64) -> bool {
        let (Some(wire), Some(bytes)) = (self.callers.get(caller), self.commands.get(key as usize)) else {
            return false;
        };
        wire.lock().all(bytes, self.batch, &self.allowed).unwrap_or(false)
    }
}
