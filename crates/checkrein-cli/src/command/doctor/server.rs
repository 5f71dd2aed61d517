//! `checkrein doctor` on a store on a server: what the servers are, whose records are trusted, and what is open.

use std::io::{BufRead as _, IsTerminal as _, Write};

use checkrein::store::StoreError;
use checkrein::store::redis::{RedisStore, ServerInfo};
use serde_json::{Value, json};

use super::super::store::{refuse, short};
use super::super::{inert, print_error};
use super::{Doctor, Finding, PAGE, Records, of_records, write_findings};
use crate::{Exit, Output};

/// The most tenants that are listed by their tags.
const MOST_SHOWN: usize = 20;

/// What is known of a store on a server.
struct Found {
    store: String,
    prefix: String,
    servers: Vec<ServerInfo>,
    /// Tenants by their tags, and whether their server is the one that was accepted.
    epochs: Vec<(String, bool)>,
    /// Tags that were accepted just now.
    accepted: Vec<String>,
    records: Option<Records>,
}

impl Found {
    fn unaccepted(&self) -> Vec<&str> {
        let unaccepted = self.epochs.iter().filter(|(_, accepted)| !accepted);
        unaccepted.map(|(tag, _)| tag.as_str()).collect()
    }
}

impl Doctor {
    pub(super) fn run_on_a_server(&self) -> anyhow::Result<Exit> {
        let store = match self.store.on_a_server() {
            Ok(store) => store,
            Err(error) => return Ok(refuse(&error)),
        };
        let accepted = if self.accept_epoch { self.accept(&store) } else { Ok(Some(Vec::new())) };
        let found = match accepted {
            Ok(Some(accepted)) => self.look(&store, accepted),
            Ok(None) => return Ok(Exit::Usage),
            Err(error) => Err(error),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return Ok(refuse(&error)),
        };
        let findings = findings(&found);
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text => write_text(&mut to, &found, &findings)?,
            output => output.print(&mut to, &record(&found, &findings))?,
        }
        Ok(if findings.is_empty() { Exit::Ok } else { Exit::Found })
    }

    fn look(&self, store: &RedisStore, accepted: Vec<String>) -> Result<Found, StoreError> {
        let mut found = Found {
            store: store.shown().to_owned(),
            prefix: self.store.prefix().to_owned(),
            servers: store.servers()?,
            epochs: store.epochs()?,
            accepted,
            records: None,
        };
        if !self.quick {
            let mut records = Records::default();
            records.count(store.clock().now(), |kind, after| store.scan(kind, &after, PAGE))?;
            found.records = Some(records);
        }
        Ok(found)
    }

    /// Accepts the epoch, if somebody who may says so; the tags that were not, or `None` when nobody did.
    fn accept(&self, store: &RedisStore) -> Result<Option<Vec<String>>, StoreError> {
        let unaccepted = store.unaccepted()?;
        if !unaccepted.is_empty() && !self.yes && !is_confirmed(unaccepted.len()) {
            return Ok(None);
        }
        store.accept_epoch()?;
        Ok(Some(unaccepted))
    }
}

/// Asks on a terminal; without one nobody can answer.
fn is_confirmed(tenants: usize) -> bool {
    let hint = "look at what was lost, then say --yes";
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        print_error("nobody is here to confirm that the servers are to be trusted as they are", Some(hint));
        return false;
    }
    let question = format!(
        "{tenants} tags are in safe mode: what was spent and done under them may be lost.\n\
         Type `accept` to trust the servers as they are now: "
    );
    let mut stderr = anstream::stderr().lock();
    if write!(stderr, "{question}").and_then(|()| stderr.flush()).is_err() {
        return false;
    }
    drop(stderr);
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let confirmed = read.is_ok() && answer.trim() == "accept";
    if !confirmed {
        print_error("nothing was accepted", Some(hint));
    }
    confirmed
}

fn findings(found: &Found) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unaccepted = found.unaccepted();
    if !unaccepted.is_empty() {
        let what = format!(
            "{} tags are in safe mode: their records were counted on another server, or in another life of this one: {}",
            unaccepted.len(),
            listed(&unaccepted)
        );
        let hint = "find out what was lost, then `checkrein doctor --accept-epoch`; until then hard budgets and once keys are refused";
        findings.push(Finding { what, hint });
    }
    for server in found.servers.iter().filter(|server| server.maxmemory_policy != "noeviction") {
        let what = format!(
            "{} throws records away when its memory is full: {}",
            server.address, server.maxmemory_policy
        );
        findings.push(Finding { what, hint: "set `maxmemory-policy noeviction`" });
    }
    findings.extend(found.records.iter().flat_map(of_records));
    findings
}

fn listed(tags: &[&str]) -> String {
    let shown = tags.get(..MOST_SHOWN).unwrap_or(tags).join(", ");
    match tags.len().saturating_sub(MOST_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What happens to what a server acknowledged.
fn promise(server: &ServerInfo) -> &'static str {
    match (server.replicated, server.durability) {
        (true, _) => "a failover loses what it acknowledged last: once keys and hard budgets are refused",
        (false, "D2") => "D2: on its disk before it is acknowledged",
        (false, _) if server.append_only => "D1: a crash of its machine loses up to what it syncs later",
        (false, _) => "D1: what it has is gone when it ends",
    }
}

fn record(found: &Found, findings: &[Finding]) -> Value {
    let server = |server: &ServerInfo| {
        json!({
            "address": server.address,
            "version": server.version,
            "role": "master",
            "incarnation": server.incarnation,
            "replicas": server.replicas,
            "replicated": server.replicated,
            "maxmemory_policy": server.maxmemory_policy,
            "append_only": server.append_only,
            "durability": server.durability,
        })
    };
    let tag = |(tag, accepted): &(String, bool)| json!({ "tag": tag, "accepted": accepted });
    let records = found.records.as_ref();
    json!({
        "sound": findings.is_empty(),
        "findings": findings.iter().map(|f| json!({ "what": f.what, "hint": f.hint })).collect::<Value>(),
        "store": found.store,
        "prefix": found.prefix,
        "servers": found.servers.iter().map(server).collect::<Value>(),
        "tags": found.epochs.iter().map(tag).collect::<Value>(),
        "accepted_now": found.accepted,
        "permits_open": records.map(|records| records.permits),
        "in_doubt": records.map(|records| records.in_doubt),
        "oldest_doubt_seconds": records
            .and_then(|records| records.oldest_doubt)
            .map(|span| span.nanos() / 1_000_000_000),
    })
}

fn write_text(to: &mut impl Write, found: &Found, findings: &[Finding]) -> std::io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(to, "{name:14}  {value}");
    line("store", format!("{}, prefix {}", inert(&found.store), inert(&found.prefix)))?;
    for server in &found.servers {
        let version = inert(&server.version);
        let replicas = match server.replicas {
            0 => "no replicas".to_owned(),
            1 => "1 replica".to_owned(),
            more => format!("{more} replicas"),
        };
        line("server", format!("{}, {version}, master, {replicas}", inert(&server.address)))?;
        let file = if server.append_only { "on" } else { "off" };
        line("", format!("eviction {}, append-only file {file}", inert(&server.maxmemory_policy)))?;
        line("", promise(server).to_owned())?;
    }
    // The first tag is the store's own.
    let safe = found.unaccepted().len();
    let tenants = found.epochs.len().saturating_sub(1);
    line(
        "tenants",
        format!(
            "{tenants} in use, {}",
            if safe == 0 { "no safe mode".to_owned() } else { format!("{safe} tags in safe mode") }
        ),
    )?;
    if !found.accepted.is_empty() {
        let tags: Vec<&str> = found.accepted.iter().map(String::as_str).collect();
        line("accepted now", listed(&tags))?;
    }
    if let Some(records) = &found.records {
        let oldest =
            records.oldest_doubt.map(|span| format!(", the oldest for {}", short(span))).unwrap_or_default();
        line(
            "open",
            format!("{} permits, {} operations in doubt{oldest}", records.permits, records.in_doubt),
        )?;
    }
    write_findings(to, findings)
}
