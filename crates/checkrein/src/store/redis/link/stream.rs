//! Bytes to a server and back, with one deadline for all of it: however many pieces an answer comes in, and whichever
//! layer waits, nothing takes longer than was allowed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, sockopt};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{resolve, tls};
use crate::store::redis::address::Endpoint;

/// The most bytes that one exchange may bring: an answer beyond it is not one of ours.
const MOST_BYTES: u64 = 256 << 20;

/// How many reads there may be when the time is up. An answer that has come is taken, although one waited for another
/// server's before it.
const MOST_LATE: u8 = 32;

/// What is left is waited for at once when it is less than this.
const SHORT: Duration = Duration::from_millis(20);

/// A connection that was used so short a while ago is not idle.
const JUST_NOW: Duration = Duration::from_millis(1);

/// A connected socket that waits until a moment and no longer.
#[derive(Debug)]
pub(super) struct Timed<S> {
    socket: S,
    deadline: Instant,
    left: u64,
    late: u8,
    /// How long the system waits in a read and in a write.
    reading: Duration,
    writing: Duration,
    used: Instant,
}

pub(super) trait Socket: Read + Write + std::os::fd::AsFd {
    fn wait(&self, reading: bool, time: Duration) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn wait(&self, reading: bool, time: Duration) -> io::Result<()> {
        if reading { self.set_read_timeout(Some(time)) } else { self.set_write_timeout(Some(time)) }
    }
}

impl Socket for UnixStream {
    fn wait(&self, reading: bool, time: Duration) -> io::Result<()> {
        if reading { self.set_read_timeout(Some(time)) } else { self.set_write_timeout(Some(time)) }
    }
}

impl<S: Socket> Timed<S> {
    fn new(socket: S, deadline: Instant) -> Self {
        let (reading, writing, used) = (Duration::ZERO, Duration::ZERO, Instant::now());
        Self { socket, deadline, left: MOST_BYTES, late: MOST_LATE, reading, writing, used }
    }

    fn until(&mut self, deadline: Instant) {
        (self.deadline, self.left, self.late) = (deadline, MOST_BYTES, MOST_LATE);
    }

    /// Makes sure that the system waits no longer than there is time. It may wait for less, and be asked again: so it need
    /// not be told before each read and each write, which are few microseconds apart.
    fn wait(&mut self, is_reading: bool) -> io::Result<()> {
        self.used = Instant::now();
        let time = self.deadline.saturating_duration_since(self.used);
        if time.is_zero() {
            self.late = self.late.checked_sub(1).filter(|_| is_reading).ok_or(io::ErrorKind::TimedOut)?;
        }
        let known = if is_reading { &mut self.reading } else { &mut self.writing };
        if *known > time || *known < time / 8 || known.is_zero() {
            let part = if time > SHORT { time / 2 } else { time };
            // Less than the system's resolution would mean to wait for ever.
            *known = part.max(Duration::from_millis(1));
            self.socket.wait(is_reading, *known)?;
        }
        Ok(())
    }

    fn is_dead(&self) -> bool {
        self.used.elapsed() > JUST_NOW && peek(&self.socket) != Err(rustix::io::Errno::AGAIN)
    }

    /// Whether to go on after the system has waited for nothing, or was interrupted.
    fn goes_on(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Instant::now() < self.deadline,
            _ => false,
        }
    }
}

fn late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl<S: Socket> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(true)?;
            match self.socket.read(buffer) {
                Err(error) if self.goes_on(&error) => {}
                Err(error) => return Err(late(error)),
                Ok(count) => {
                    self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
                    return Ok(count);
                }
            }
        }
    }
}

impl<S: Socket> Write for Timed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(false)?;
            match self.socket.write(bytes) {
                Err(error) if self.goes_on(&error) => {}
                other => return other.map_err(late),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Connects without waiting: a socket whose queue is full, because its server stands still, would keep us for ever.
fn unix(path: &Path) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The way to one server.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(Timed<TcpStream>),
    Unix(Timed<UnixStream>),
    Tls(Box<StreamOwned<ClientConnection, Timed<TcpStream>>>),
}

impl Stream {
    /// Connects. The errors are facts about the network, in words.
    pub(super) fn open(
        at: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        deadline: Instant,
    ) -> Result<Self, String> {
        let (host, port) = match at {
            Endpoint::Unix(path) => {
                let socket = unix(path)
                    .map_err(|error| format!("no connection to `{}`: {}", path.display(), reason(&error)))?;
                return Ok(Self::Unix(Timed::new(socket, deadline)));
            }
            Endpoint::Tcp { host, port } => (host, *port),
        };
        let socket = tcp(host, port, deadline)?;
        let Some(settings) = tls else { return Ok(Self::Tcp(socket)) };
        let mut stream = StreamOwned::new(tls::client(settings, host)?, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::TimedOut => "the server does not answer: is this a TLS port?",
                    io::ErrorKind::InvalidData => "is this a TLS port, and is its certificate from the authority that `ca_cert` names?",
                    _ => "the server closed the connection: is this a TLS port, and does it want a `client_cert`?",
                };
                format!("TLS with {at} failed ({}): {hint}", reason(&error))
            })?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// From here on everything has to be done by this moment.
    pub(super) fn until(&mut self, deadline: Instant) {
        match self {
            Self::Tcp(timed) => timed.until(deadline),
            Self::Unix(timed) => timed.until(deadline),
            Self::Tls(stream) => stream.sock.until(deadline),
        }
    }

    /// Whether what is written goes straight to the system: an error then means that nothing was.
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// Whether the other end has closed it, or said something that nobody asked for, while it was idle. One system call
    /// that does not wait: what would otherwise be sent into a closed connection, and be in doubt, is not sent. What TLS
    /// says by itself comes before the first answer, and its farewell counts as one.
    pub(super) fn is_dead(&self) -> bool {
        match self {
            Self::Tcp(timed) => timed.is_dead(),
            Self::Unix(timed) => timed.is_dead(),
            Self::Tls(stream) => stream.sock.is_dead(),
        }
    }
}

fn peek(socket: &impl std::os::fd::AsFd) -> rustix::io::Result<usize> {
    let mut byte = [0_u8; 1];
    rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT).map(|(_, count)| count)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(timed) => timed.read(buffer),
            Self::Unix(timed) => timed.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(timed) => timed.write(bytes),
            Self::Unix(timed) => timed.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(timed) => timed.flush(),
            Self::Unix(timed) => timed.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn tcp(host: &str, port: u16, deadline: Instant) -> Result<Timed<TcpStream>, String> {
    let mut why = "the time is up".to_owned();
    let addresses: Vec<SocketAddr> = resolve::resolve(host, port, deadline)?;
    let mut rest = addresses.len();
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        // A host with several addresses may be deaf on the first.
        let share = left / u32::try_from(rest).unwrap_or(1).max(1);
        rest -= 1;
        match TcpStream::connect_timeout(&address, share.max(Duration::from_millis(1))) {
            Ok(socket) => {
                tune(&socket)
                    .map_err(|error| format!("no connection to {host}:{port}: {}", reason(&error)))?;
                return Ok(Timed::new(socket, deadline));
            }
            Err(error) => why = reason(&error),
        }
    }
    Err(format!("no connection to {host}:{port}: {why}"))
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    // A host that vanished without a word is found within half a minute even when nobody asks it anything.
    sockopt::set_socket_keepalive(socket, true)?;
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(socket, 3)?;
    }
    Ok(())
}

/// What went wrong, without numbers of the system.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not connect".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "the connection was closed".to_owned()
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to that host".to_owned()
        }
        io::ErrorKind::FileTooLarge => "the answer is too large".to_owned(),
        _ => error.to_string(),
    }
}
