//! What a server says about itself, and whether a store may be on it.

use redis::Value;

use super::{LinkError, wire};

/// What is known of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Where it listens.
    pub address: String,
    /// `redis` or `valkey`, and its version.
    pub version: String,
    /// Its name for this life of it, and that of its history of writes: another one means that it started again, or that
    /// another took its place.
    pub incarnation: String,
    /// How many replicas it has now.
    pub replicas: u32,
    /// Another server may take its place without what this one acknowledged last.
    pub replicated: bool,
    /// What it does when its memory is full.
    pub maxmemory_policy: String,
    /// It writes an append-only file.
    pub append_only: bool,
    /// What it keeps when it dies: `D2` when every write is on its disk before it is acknowledged, else `D1`.
    pub durability: &'static str,
    /// It is a node of a cluster.
    pub(super) cluster: bool,
    pub(super) run_id: String,
}

/// The lines of an INFO.
pub(super) struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    pub(super) fn of(reply: &'a Value) -> Result<Self, LinkError> {
        match reply {
            Value::ServerError(error) => Err(LinkError::NotRun(wire::refusal(error))),
            reply => wire::text(reply).map(Self).ok_or_else(|| {
                LinkError::NotRun("the server does not say what it is: its INFO is no text".to_owned())
            }),
        }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
    }

    fn number(&self, name: &str) -> u32 {
        self.get(name).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Which life of the server this is: of its process, and of its history of writes. A replica that becomes the master
    /// starts a history of its own without being started again.
    pub(super) fn incarnation(&self) -> Option<String> {
        Some(format!("{}:{}", self.get("run_id")?, self.get("master_replid")?))
    }

    fn need(&self, name: &str) -> Result<&'a str, LinkError> {
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            LinkError::NotRun(format!("the server does not say its `{name}` in INFO: it cannot be used"))
        })
    }

    /// Refuses what may forget records or is no place to write.
    pub(super) fn check(&self) -> Result<(), LinkError> {
        let role = self.need("role")?;
        if role != "master" {
            return Err(LinkError::NotRun(format!(
                "the server is a {}: name the master, or use `redis+sentinel://` so that it is found",
                if role == "slave" { "replica" } else { "server of another role" }
            )));
        }
        if self.get("loading").is_some_and(|loading| loading != "0")
            || self.get("async_loading").is_some_and(|loading| loading != "0")
        {
            return Err(LinkError::NotRun(
                "the server is still loading its data: wait until it has".to_owned(),
            ));
        }
        let policy = self.need("maxmemory_policy")?;
        if policy != "noeviction" {
            return Err(LinkError::NotRun(format!(
                "the server may throw records away when its memory is full (`maxmemory-policy {policy}`), and a limit \
                 that is forgotten is none: set `maxmemory-policy noeviction`, or use a server of the store's own"
            )));
        }
        Ok(())
    }

    /// A master with replicas may lose what it has acknowledged: when it is replaced, and it has been if it had some
    /// lately (the backlog for them outlives them by an hour).
    pub(super) fn is_replicated(&self) -> bool {
        self.number("connected_slaves") > 0
            || self.number("repl_backlog_active") > 0
            || self.get("min_slaves_good_slaves").is_some()
    }
}

impl ServerInfo {
    /// Reads INFO and `CONFIG GET appendfsync` (which may be forbidden), and refuses a server that a store cannot be on.
    pub(super) fn of(address: String, info: &Value, fsync: &Value) -> Result<Self, LinkError> {
        let info = Info::of(info)?;
        let number = info.need("redis_version")?;
        let major = number.split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(0);
        if major < 7 {
            return Err(LinkError::NotRun(format!(
                "the server is Redis {number}: the store needs Redis 7.0 or Valkey 7.2, or later"
            )));
        }
        info.check()?;
        let run_id = info.need("run_id")?;
        // The text of the scripts contains it.
        if run_id.len() > 64 || !run_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(LinkError::NotRun("the server's `run_id` is not one: it cannot be used".to_owned()));
        }
        let version = match info.get("valkey_version") {
            Some(valkey) => format!("valkey {valkey}"),
            None => format!("redis {number}"),
        };
        let append_only = info.number("aof_enabled") > 0;
        let always =
            matches!(fsync, Value::Array(pair) if pair.get(1).and_then(wire::text) == Some("always"));
        let history = info.need("master_replid")?;
        Ok(Self {
            address,
            version,
            incarnation: format!("{run_id}:{history}"),
            replicas: info.number("connected_slaves"),
            replicated: info.is_replicated(),
            maxmemory_policy: info.need("maxmemory_policy")?.to_owned(),
            append_only,
            durability: if append_only && always { "D2" } else { "D1" },
            cluster: info.number("cluster_enabled") > 0,
            run_id: run_id.to_owned(),
        })
    }
}
