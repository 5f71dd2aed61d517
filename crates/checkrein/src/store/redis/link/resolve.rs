//! Names of hosts to addresses, without waiting longer than one may.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// The most look-ups that may be under way in a process. The system's resolver cannot be told to stop, so one that hangs
/// keeps its thread until it gives up by itself.
const MOST: usize = 16;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

struct Slot;

impl Slot {
    fn take() -> Option<Self> {
        let free = |count| (count < MOST).then_some(count + 1);
        UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The addresses of a host. A name is looked up in a thread of its own, because the system offers no look-up that ends in
/// time; numbers need none.
pub(super) fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let slot = Slot::take()
        .ok_or_else(|| format!("the name `{host}` cannot be looked up: {MOST} look-ups hang already"))?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let name = host.to_owned();
    thread::Builder::new()
        .name("checkrein-dns".to_owned())
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // Nobody may be waiting any more.
            let _ = sender.send(found);
            drop(slot);
        })
        .map_err(|error| format!("the name `{host}` cannot be looked up: {error}"))?;
    match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Err(_) => Err(format!("the name `{host}` was not found in time")),
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => Err(format!("there is no host called `{host}`")),
    }
}
