//! `checkrein doctor`: what is wrong with a store, or with this machine as a place for one.

use std::io::Write;

use checkrein::core::ledger::moment;
use checkrein::core::policy::RecordKind;
use checkrein::core::time::{Span, Timestamp};
use checkrein::ledger::{Audit, Database, audit, keys};
use checkrein::store::durable::Report;
use checkrein::store::sqlite::{Examination, SqliteStore, examine};
use checkrein::store::{Cursor, Page, RecordState, StoreError};
use serde_json::{Value, json};

use super::inert;
use super::store::{SharedStoreOf, age, refuse, short, size};
use crate::show::inert_path;
use crate::{Exit, Output};

mod server;

/// Operations in doubt for longer are a finding.
const OLD_DOUBT: Span = Span::from_secs(24 * 3_600);
/// A log of more bytes is a finding: a reader does not end, or nobody could clean up.
const LARGE_WAL: u64 = 256 << 20;
/// A store's clock that differs more from the machine's is a finding.
const CLOCK_OFF: i64 = 300 * 1_000_000_000;
/// Records read at a time.
const PAGE: usize = 1_024;

/// Look for what is wrong with a store
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein doctor --store sqlite:checkrein.db
  checkrein doctor --store sqlite:checkrein.db --quick --output json
  CHECKREIN_STORE=redis://:PASSWORD@10.0.0.5 checkrein doctor --prefix shop
  checkrein doctor --store redis://10.0.0.5 --accept-epoch --yes

Exit code 1 when something was found. Without --quick every row, page and index is read.

A server that was started again without its data, or whose place another one has taken, may have forgotten what was \
spent and done. Tenants whose records were there are in safe mode then: hard budgets and once keys are refused, until \
somebody who knows what was lost says --accept-epoch.")]
pub(crate) struct Doctor {
    #[command(flatten)]
    store: SharedStoreOf,
    /// Leave out what takes time: indexes, and the cross-check of all records
    #[arg(long)]
    quick: bool,
    /// Trust the servers of the store as they are now: ends the safe mode
    #[arg(long)]
    accept_epoch: bool,
    /// Do not ask before the epoch is accepted
    #[arg(long, requires = "accept_epoch")]
    yes: bool,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// One thing that is wrong, and what to do about it.
struct Finding {
    what: String,
    hint: &'static str,
}

/// What is known of the records.
#[derive(Default)]
struct Records {
    report: Option<Report>,
    permits: u64,
    in_doubt: u64,
    oldest_doubt: Option<Span>,
}

impl Doctor {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        if self.store.is_on_a_server() {
            return self.run_on_a_server();
        }
        if self.accept_epoch {
            let text = "`--accept-epoch` is for stores on a server; leave it out";
            return Ok(refuse(&StoreError::NotCommitted(text.to_owned())));
        }
        let of = match self.store.in_a_file() {
            Ok(of) => of,
            Err(error) => return Ok(refuse(&error)),
        };
        let found = of.path().and_then(|path| examine(&path, !self.quick));
        let file = match found {
            Ok(file) => file,
            Err(error) => return Ok(refuse(&error)),
        };
        let mut findings = of_file(&file);
        let records = match of.open_unchecked().and_then(|store| self.records(&store)) {
            Ok(records) => records,
            Err(error) => {
                let hint = "nobody can decide by this store now";
                findings.push(Finding { what: format!("it cannot be opened: {error}"), hint });
                Records::default()
            }
        };
        findings.extend(of_records(&records));
        let ledger = if self.quick { None } else { of_ledger(&file, &mut findings) };
        let mut to = anstream::stdout().lock();
        match self.output {
            Output::Text => write_text(&mut to, &file, &records, ledger.as_ref(), &findings)?,
            output => output.print(&mut to, &record(&file, &records, ledger.as_ref(), &findings))?,
        }
        Ok(if findings.is_empty() { Exit::Ok } else { Exit::Found })
    }

    fn records(&self, store: &SqliteStore) -> Result<Records, StoreError> {
        let mut records = Records::default();
        if !self.quick {
            records.report = Some(store.check()?);
        }
        records.count(store.clock().now(), |kind, after| store.scan(kind, after, PAGE))?;
        Ok(records)
    }
}

impl Records {
    /// Counts open permits and operations in doubt, page by page.
    fn count(
        &mut self,
        now: Timestamp,
        scan: impl Fn(RecordKind, Cursor) -> Result<Page, StoreError>,
    ) -> Result<(), StoreError> {
        each(&scan, RecordKind::Permit, |_| self.permits += 1)?;
        each(&scan, RecordKind::Operation, |state| {
            if let RecordState::Operation { state, since, .. } = state
                && state.name() == "in_doubt"
            {
                self.in_doubt += 1;
                let old = age(now, since);
                self.oldest_doubt = Some(self.oldest_doubt.map_or(old, |oldest| oldest.max(old)));
            }
        })
    }
}

fn each(
    scan: &impl Fn(RecordKind, Cursor) -> Result<Page, StoreError>,
    kind: RecordKind,
    mut use_state: impl FnMut(RecordState),
) -> Result<(), StoreError> {
    let mut after = Cursor::default();
    loop {
        let (page, next) = scan(kind, after)?;
        page.into_iter().for_each(|record| use_state(record.state));
        match next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

fn of_file(file: &Examination) -> Vec<Finding> {
    let mut findings: Vec<Finding> = file
        .broken
        .iter()
        .map(|line| Finding {
            what: format!("SQLite finds: {line}"),
            hint: "restore a backup with `checkrein restore`",
        })
        .collect();
    let mut add = |what: String, hint: &'static str| findings.push(Finding { what, hint });
    if file.mode & 0o077 != 0 {
        let what = format!("others than its owner may use the file: its mode is {:o}", file.mode);
        add(what, "chmod 600 the file, and look at who read it");
    }
    if file.wal_bytes > LARGE_WAL {
        let what = format!("the write-ahead log has {}", size(file.wal_bytes));
        add(what, "a reader of the file does not end; find it and end it");
    }
    if file.mark.is_none() {
        add("the store's own row cannot be read".to_owned(), "restore a backup with `checkrein restore`");
    }
    if let Some(ahead) = file.clock_ahead.filter(|ahead| ahead.unsigned_abs() > CLOCK_OFF.unsigned_abs()) {
        let off = short(Span::from_nanos(ahead.saturating_abs()));
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        add(
            format!("the store's clock is {off} {side} the machine's"),
            "one of them was set; the store's follows at the next start of the machine",
        );
    }
    let last = file.mark.map(|mark| mark.last);
    if let Some(last) = last.filter(|last| age(*last, now()).nanos() > CLOCK_OFF) {
        add(
            format!("the store has seen {}, which is to come", moment::to_text(last)),
            "its time stands still until then: a clock was ahead",
        );
    }
    findings
}

fn of_records(records: &Records) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(report) = &records.report {
        let mut add = |what: String, hint: &'static str| findings.push(Finding { what, hint });
        let restore = "restore a backup with `checkrein restore`";
        report.damaged.iter().for_each(|what| add(what.clone(), restore));
        if !report.sum_matches {
            let what = "a record is missing, or older than the last commit left it";
            add(
                what.to_owned(),
                "rows were lost or changed by hand; restore a backup with `checkrein restore`",
            );
        }
        let wrong = report.signed.iter().chain(&report.unbalanced).chain(&report.miscounted);
        wrong.for_each(|what| {
            add(what.clone(), "this is a bug of checkrein, or somebody changed rows by hand")
        });
    }
    if let Some(oldest) = records.oldest_doubt.filter(|oldest| *oldest > OLD_DOUBT) {
        let what = format!("an operation is in doubt for {}", short(oldest));
        findings
            .push(Finding { what, hint: "`checkrein once list` shows it, `checkrein once resolve` ends it" });
    }
    findings
}

/// Checks the whole ledger, with the public key beside the store if there is one.
fn of_ledger(file: &Examination, findings: &mut Vec<Finding>) -> Option<Audit> {
    let mut add = |what: String, hint: &'static str| findings.push(Finding { what, hint });
    let compare = "stop, copy the file, and compare it with a backup, an export, or what the witness saw";
    let public = keys::public_path(&keys::default_path(&file.path));
    let key = match public.exists().then(|| keys::load_public(&public)).transpose() {
        Ok(key) => key,
        Err(error) => {
            add(error.to_string(), "put the public key of this ledger there");
            None
        }
    };
    let audited = Database::open(&file.path).and_then(|database| {
        let unknown = database.unknown_tables()?;
        Ok((audit(&database, key.as_ref())?, unknown))
    });
    match audited {
        Ok((audit, unknown)) => {
            audit.findings.iter().for_each(|what| add(format!("the ledger: {what}"), compare));
            if let Some(mark) = file.mark.filter(|mark| mark.entries > audit.first + audit.entries) {
                let kept = audit.first + audit.entries;
                add(format!("the ledger has {kept} entries and the store wrote {}", mark.entries), compare);
            }
            for name in unknown {
                let what =
                    format!("the file has a table, view, index or trigger `{name}` that is not the store's");
                add(what, "find out who made it; nothing of checkrein uses it");
            }
            Some(audit)
        }
        Err(error) => {
            add(format!("the ledger cannot be read: {error}"), compare);
            None
        }
    }
}

fn now() -> Timestamp {
    checkrein::clock::Clock::system().now()
}

fn record(file: &Examination, records: &Records, ledger: Option<&Audit>, findings: &[Finding]) -> Value {
    let processes: Vec<Value> = file
        .processes
        .iter()
        .map(|process| {
            json!({
                "epoch": process.epoch,
                "pid": process.info.pid,
                "host": process.info.host,
                "since": moment::to_text(process.since),
                "alive": process.alive,
            })
        })
        .collect();
    json!({
        "sound": findings.is_empty(),
        "findings": findings.iter().map(|f| json!({ "what": f.what, "hint": f.hint })).collect::<Value>(),
        "path": file.path.display().to_string(),
        "bytes": file.bytes,
        "wal_bytes": file.wal_bytes,
        "mode": format!("{:o}", file.mode),
        "owner": file.owner,
        "file_system": file.file_system,
        "sqlite": file.sqlite,
        "schema": file.schema,
        "commits": file.mark.map(|mark| mark.commits),
        "ledger_entries": file.mark.map(|mark| mark.entries),
        "last_seen": file.mark.map(|mark| moment::to_text(mark.last)),
        "clock_ahead_ns": file.clock_ahead,
        "ledger_host": file.ledger_host.map(|host| host.to_string()),
        "processes": processes,
        "rows": records.report.as_ref().map(|report| report.rows),
        "ledger": ledger.map(|ledger| json!({
            "first": ledger.first,
            "entries": ledger.entries,
            "sealed": ledger.sealed,
            "checkpoints": ledger.checkpoints,
            "signatures_checked": ledger.signatures,
        })),
        "permits_open": records.permits,
        "in_doubt": records.in_doubt,
        "oldest_doubt_seconds": records.oldest_doubt.map(|span| span.nanos() / 1_000_000_000),
    })
}

fn write_text(
    to: &mut impl Write,
    file: &Examination,
    records: &Records,
    ledger: Option<&Audit>,
    findings: &[Finding],
) -> std::io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(to, "{name:14}  {value}");
    line("store", format!("{} on {}", inert_path(&file.path), file.file_system))?;
    let log = size(file.wal_bytes);
    line("file", format!("{}, log {log}, mode {:o}, schema {}", size(file.bytes), file.mode, file.schema))?;
    if let Some(mark) = file.mark {
        let last = moment::to_text(mark.last);
        line("so far", format!("{} commits, {} ledger entries, last at {last}", mark.commits, mark.entries))?;
    }
    if let Some(host) = file.ledger_host {
        line("ledger of", format!("host {host}, beside a store that it shares with others"))?;
    }
    let clock = match file.clock_ahead {
        Some(ahead) => format!("{:+.3} s from the machine's", ahead as f64 / 1e9),
        None => "to be set: the machine has been started since, or the store never was open".to_owned(),
    };
    line("clock", clock)?;
    for process in &file.processes {
        let state = if process.alive { "lives" } else { "is gone" };
        let host = inert(&process.info.host);
        let since = moment::to_text(process.since);
        line("process", format!("{} on {host} since {since} {state}", process.info.pid))?;
    }
    line("open", format!("{} permits, {} operations in doubt", records.permits, records.in_doubt))?;
    if let Some(report) = &records.report {
        let entries = ledger.map_or(0, |ledger| ledger.entries);
        let what = format!("{} rows, {entries} ledger entries, SQLite {}", report.rows, file.sqlite);
        line("checked", what)?;
    }
    if let Some(ledger) = ledger {
        let signed = if ledger.signatures {
            "signatures checked"
        } else {
            "no public key beside it: signatures unchecked"
        };
        let what =
            format!("{} entries sealed by {} checkpoints, {signed}", ledger.sealed, ledger.checkpoints);
        line("ledger", what)?;
    }
    write_findings(to, findings)
}

fn write_findings(to: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    if findings.is_empty() {
        return writeln!(to, "\u{1b}[1;32mnothing is wrong\u{1b}[0m");
    }
    for finding in findings {
        writeln!(to, "\u{1b}[1;31mfound\u{1b}[0m           {}", inert(&finding.what))?;
        writeln!(to, "                {}", finding.hint)?;
    }
    Ok(())
}
