//! A server of the benchmark's own, what it says about itself, and a proxy that makes the way to it longer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::Failure;
use crate::bare::{Reply, Wire, command};

/// A `redis-server` on a free port, which ends with this value.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// `None` for one that somebody else has started.
    child: Option<Child>,
    /// It writes nothing, but its working directory must not be ours.
    _directory: Option<TempDir>,
}

impl Server {
    pub(crate) fn start() -> Result<Self, Failure> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let directory = tempfile::tempdir()?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("no `redis-server` to measure: {error}"))?;
        let server = Self { port, child: Some(child), _directory: Some(directory) };
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(mut wire) = Wire::connect(port)
                && matches!(wire.ask(&command(&[b"PING"])), Ok(Reply::Text(_)))
            {
                return Ok(server);
            }
            if Instant::now() > end {
                return Err("the server did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One that runs already.
    pub(crate) fn at(port: u16) -> Self {
        Self { port, child: None, _directory: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks one thing over a connection of its own.
    pub(crate) fn ask(&self, words: &[&[u8]]) -> Result<Reply, Failure> {
        Wire::connect(self.port)?.ask(&command(words))
    }

    /// What it has done so far.
    pub(crate) fn counters(&self) -> Result<Counters, Failure> {
        let Reply::Text(text) = self.ask(&[b"INFO", b"everything"])? else { return Err("no INFO".into()) };
        let text = String::from_utf8(text)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0)
        };
        // `cmdstat_evalsha:calls=12,usec=345,usec_per_call=28.75,...`
        let script = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).unwrap_or("");
        let of_script = |name: &str| {
            let part = script.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            part.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0)
        };
        Ok(Counters {
            scripts: of_script("calls"),
            script_us: of_script("usec"),
            cpu_us: (field("used_cpu_user") + field("used_cpu_sys")) * 1e6,
            to_server: field("total_net_input_bytes"),
            from_server: field("total_net_output_bytes"),
            memory: field("used_memory"),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whether it was there does not matter any more.
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What a server says it has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) scripts: f64,
    pub(crate) script_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) to_server: f64,
    pub(crate) from_server: f64,
    pub(crate) memory: f64,
}

/// A proxy that hands on everything so much later, in each direction; returns its port. It lives as long as the process.
pub(crate) fn slow_way(to: u16, delay: Duration) -> Result<u16, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
            let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
            carry(client_too, server, delay);
            carry(server_too, client, delay);
        }
    });
    Ok(port)
}

/// What is read is written when its time has come; reading goes on meanwhile.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + delay, bytes)).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// What was sent.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A proxy that keeps a copy of everything that is sent over one connection at a time; its port, and the copy.
pub(crate) fn listening_way(to: u16) -> Result<(u16, Heard), Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let heard = Heard::default();
    let copy = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)) else { return };
            let (Ok(mut client_too), Ok(mut server_too)) = (client.try_clone(), server.try_clone()) else {
                return;
            };
            let copy = Arc::clone(&copy);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    copy.lock().extend_from_slice(bytes);
                    if server.write_all(bytes).is_err() {
                        return;
                    }
                }
                let _ = server.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server_too, &mut client_too);
                let _ = client_too.shutdown(Shutdown::Both);
            });
        }
    });
    Ok((port, heard))
}
