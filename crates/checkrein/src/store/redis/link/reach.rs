//! Which server keeps a tag, and a connection with it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::Slots;
use super::info::ServerInfo;
use super::node::Node;
use super::{Link, LinkError, cluster, sentinel, wire};
use crate::store::redis::address::{AddressError, Endpoint, Kind};
use crate::store::redis::name::Tag;

/// How long to wait before sentinels are asked again who the master is.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Where a tag's keys are.
#[derive(Debug)]
pub(super) enum Route {
    One(Endpoint),
    /// The master, if it is known.
    Sentinel(Option<Endpoint>),
    /// The slots, if they are known, and whether a server has said otherwise since.
    Cluster {
        slots: Option<Slots>,
        stale: bool,
    },
}

impl Route {
    pub(super) const CLUSTER: Self = Self::Cluster { slots: None, stale: false };
}

impl Link {
    /// Where a tag's keys are, if that is known.
    pub(super) fn place(&self, tag: Tag) -> Option<&Endpoint> {
        match &self.route {
            Route::One(endpoint) => Some(endpoint),
            Route::Sentinel(master) => master.as_ref(),
            Route::Cluster { slots, .. } => slots.as_ref()?.master(tag),
        }
    }

    /// An error of a server: forgets what it shows to be wrong.
    pub(super) fn failed(&mut self, at: &Endpoint, code: &str, text: String) -> LinkError {
        match code {
            "MOVED" | "READONLY" | "ASK" | "CLUSTERDOWN" | "MASTERDOWN" => self.doubt(),
            _ => {}
        }
        match code {
            "MOVED" => LinkError::Changed,
            "READONLY" => {
                self.hang_up(at);
                LinkError::Changed
            }
            code if wire::is_not_run(code) => LinkError::NotRun(text),
            _ => LinkError::Refused(text),
        }
    }

    /// What sentinels or a cluster said need no longer be so.
    fn doubt(&mut self) {
        match &mut self.route {
            Route::One(_) => {}
            Route::Sentinel(master) => *master = None,
            Route::Cluster { stale, .. } => *stale = true,
        }
    }

    /// A connection is of no use any more. Where there are sentinels the master may be another by now; in a cluster that
    /// shows when the next connection is made.
    pub(super) fn hang_up(&mut self, at: &Endpoint) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.hang_up();
        }
        if let Route::Sentinel(master) = &mut self.route {
            *master = None;
        }
    }

    /// Asks the cluster again, if one of its nodes has said that something has changed. What is known stays if nobody
    /// answers.
    pub(super) fn freshen(&mut self, deadline: Instant) {
        if matches!(self.route, Route::Cluster { slots: Some(_), stale: true }) {
            // Nothing depends on it: who cannot be reached says so itself.
            let _ = self.refresh(deadline);
        }
    }

    /// Asks the cluster how its slots are spread.
    fn refresh(&mut self, deadline: Instant) -> Result<(), LinkError> {
        let setup = self.setup.as_ref().map_err(Clone::clone)?;
        let Route::Cluster { slots, stale } = &mut self.route else { return Ok(()) };
        // Those first with whom there is a connection, then those that were named, which may be gone.
        let (there, others): (Vec<_>, Vec<_>) = self.nodes.values().partition(|node| node.is_ready());
        let mut nodes: Vec<Endpoint> = there.into_iter().map(|node| node.at.clone()).collect();
        for other in self.address.endpoints.iter().chain(others.into_iter().map(|node| &node.at)) {
            if !nodes.contains(other) {
                nodes.push(other.clone());
            }
        }
        let found = cluster::slots(&nodes, &setup.login, setup.tls.as_ref(), deadline)?;
        let masters = found.masters();
        self.nodes.retain(|at, _| masters.contains(at));
        (*slots, *stale) = (Some(found), false);
        Ok(())
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
            Route::Cluster { .. } => {
                if self.place(tag).is_none() {
                    self.refresh(deadline)?;
                }
                self.place(tag).cloned().ok_or_else(|| {
                    let text = "no node of the cluster serves the slot: look at `redis-cli --cluster check`";
                    LinkError::NotRun(text.to_owned())
                })
            }
        }
    }

    /// A forked child has the parent's sockets: what it sent there would be mixed with what the parent sends.
    pub(super) fn know_process(&mut self) {
        let process = std::process::id();
        if process != self.process {
            self.nodes.clear();
            self.process = process;
        }
    }

    /// A connection with a server that has been looked at.
    pub(super) fn open(&mut self, at: &Endpoint, deadline: Instant) -> Result<Arc<ServerInfo>, LinkError> {
        let setup = self.setup.as_ref().map_err(Clone::clone)?;
        let node = self.nodes.entry(at.clone()).or_insert_with(|| Node::new(at.clone()));
        let info = node.ready(setup, deadline)?;
        if info.cluster && matches!(self.route, Route::One(_)) {
            if self.address.database != 0 {
                return Err(LinkError::NotRun(AddressError::ClusterDatabase.to_string()));
            }
            self.route = Route::CLUSTER;
        }
        Ok(info)
    }

    /// The server that keeps a tag, ready. What sentinels or a cluster said may be old, so they are asked again when the
    /// server is not what they said: once in a cluster, and until the time is up by sentinels, because a failover takes
    /// its time.
    pub(super) fn reach(
        &mut self,
        tag: Tag,
        deadline: Instant,
    ) -> Result<(Endpoint, Arc<ServerInfo>), LinkError> {
        self.know_process();
        let mut again = true;
        loop {
            let known = self.place(tag).is_some();
            let reached = self.find(tag, deadline).and_then(|at| Ok((at.clone(), self.open(&at, deadline)?)));
            match (reached, &self.route) {
                // It has just turned out to be a node of a cluster, and need not be the right one.
                (Ok(_), Route::Cluster { slots: None, .. }) if again => again = false,
                (Ok(reached), _) => return Ok(reached),
                (Err(error), Route::Cluster { .. }) if known && again && Instant::now() < deadline => {
                    again = false;
                    self.refresh(deadline).map_err(|_| error)?;
                }
                (Err(error), Route::Sentinel(_)) => {
                    self.doubt();
                    if Instant::now() + ASK_AGAIN * 2 >= deadline {
                        return Err(error);
                    }
                    thread::sleep(ASK_AGAIN);
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
}
