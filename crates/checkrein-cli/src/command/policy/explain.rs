//! `checkrein policy explain ACTION.json`: what every gate of a policy says to one action, without taking anything.

use std::io::Write;
use std::path::PathBuf;

use checkrein::Engine;
use checkrein::clock::{Clock, FakeClock};
use checkrein::config::{Call, Policies, PolicyFile};
use checkrein::store::StoreError;
use checkrein::store::redis::DEFAULT_PREFIX;
use checkrein::store::sqlite::{SqliteOptions, SqliteStore, backup, path_of};
use checkrein_core::admission::{Admission, Verdict};
use checkrein_core::decision::{MeterStatus, Reason, Retry};
use checkrein_core::ledger::moment;
use checkrein_core::policy::{Gate, Mode};
use checkrein_core::time::Timestamp;
use serde_json::{Value, json};

use super::action::ActionFile;
use super::{load, origin, refuse};
use crate::command::store::SharedStoreOf;
use crate::command::{columns, inert, print_error};
use crate::show::{bar, instant, wrapped};
use crate::{Exit, Output};

/// Show what every gate says to one action
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein policy explain action.json
  checkrein policy explain action.json --store sqlite:checkrein.db
  echo '{\"name\": \"search\", \"run\": \"r1\"}' | checkrein policy explain - --output json
  checkrein policy explain action.json --at 2026-12-31T23:59:00Z

An action is JSON: {\"name\": \"stripe.refund\", \"args\": {\"amount\": 5}, \"user\": \"ann\", \"run\": \"r1\"}, and may have \
namespace, principal, tenant, agent and session too. A call of a model has the namespace \"model\" and the arguments \
that a ledger keeps of it: model, input_bytes, answers, max_output. Nothing is taken and nothing is written. Without --store the \
meters are empty: this is what the policy says, not what a store has counted. With --at and a store in a file, it is a \
copy of the store that is asked.

Exit code 1 when the action is refused, 2 when there is none, or no policy or store.")]
pub(crate) struct Explain {
    /// The action; `-` is standard input
    action: PathBuf,
    /// The policy file; without it, that of the current directory
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The store whose counts matter, as in `sqlite:checkrein.db` or `redis://HOST:PORT`
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// What the keys of a store on a server begin with
    #[arg(long, value_name = "TEXT", env = "CHECKREIN_PREFIX", default_value = DEFAULT_PREFIX)]
    prefix: String,
    /// As of this day or instant (UTC), as in `2026-11-21` or `2026-11-21T12:30:00Z`; without it, of now
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Timestamp>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What is asked: an engine, and the copy of a store that it may have open.
struct Asked {
    engine: Engine,
    copy: Option<Copy>,
}

/// A copy of a store, which goes with it.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left of it stands in a directory of its own, below the system's for such files.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// An admission, and what it was made of.
struct Explained<'e> {
    call: Call<'e>,
    file: &'e PolicyFile,
    admission: Admission,
    gates: &'e [Gate],
    meters: Vec<MeterStatus>,
    store: Option<&'e str>,
    now: Timestamp,
}

impl Explain {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let file = match load(self.policy.as_ref()) {
            Ok(file) => file,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        let action = match ActionFile::load(&self.action) {
            Ok(action) => action,
            Err(problem) => {
                print_error(&problem, Some("see `checkrein policy explain --help` for an example"));
                return Ok(Exit::Usage);
            }
        };
        let asked = match self.engine() {
            Ok(asked) => asked,
            Err(error) => return Ok(crate::command::store::refuse(&error)),
        };
        let now = asked.engine.now();
        let policies = match Policies::new(asked.engine.clone(), file.clone()) {
            Ok(policies) => policies,
            Err(error) => {
                print_error(&error.to_string(), Some("`checkrein policy check` tells more"));
                return Ok(if error.code() == "store_error" { Exit::Usage } else { Exit::Found });
            }
        };
        let call = action.call();
        let (admission, meters) = policies.peek(&call);
        let policy = policies.gates_of(&call).ok().flatten();
        let gates = policy.as_ref().map_or(&[][..], |policy| policy.policy().gates());
        let store = self.store.as_deref();
        let explained = Explained { call, file: &file, admission, gates, meters, store, now };
        match self.output {
            Output::Text => explained.write(&mut to)?,
            output => output.print(&mut to, &explained.record())?,
        }
        drop(asked.copy);
        Ok(if explained.is_allowed() { Exit::Ok } else { Exit::Found })
    }

    fn engine(&self) -> Result<Asked, StoreError> {
        let Some(url) = &self.store else {
            let clock = self.at.map_or_else(Clock::system, |at| Clock::fake(FakeClock::new(at)));
            return Ok(Asked { engine: Engine::builder().clock(clock).build(), copy: None });
        };
        let store = SharedStoreOf::of(url, &self.prefix);
        let looking = Engine::builder().only_looks();
        if store.is_on_a_server() {
            if self.at.is_some() {
                let text = "a server has its own time: `--at` is for a store in a file, or for none";
                return Err(StoreError::NotCommitted(text.to_owned()));
            }
            return Ok(Asked { engine: looking.redis(store.on_a_server()?).build(), copy: None });
        }
        let Some(at) = self.at else {
            return Ok(Asked { engine: looking.sqlite(store.in_a_file()?.open()?).build(), copy: None });
        };
        // The store itself would take another time for its own, and end leases by it.
        let failed =
            |error: std::io::Error| StoreError::NotCommitted(format!("no copy of the store: {error}"));
        let directory = std::env::temp_dir().join(format!("checkrein-explain-{}", std::process::id()));
        std::fs::create_dir(&directory).map_err(failed)?;
        let copy = Copy(directory.clone());
        let (path, file) = (path_of(url)?, directory.join("store.db"));
        if !path.is_file() {
            return Err(StoreError::NotCommitted(format!("there is no store `{}`", path.display())));
        }
        backup(&path, &file)?;
        let clock = Some(Clock::fake(FakeClock::new(at)));
        let options = SqliteOptions { seal: None, clock, ..SqliteOptions::default() };
        let engine = looking.sqlite(SqliteStore::open(&file, options)?).build();
        Ok(Asked { engine, copy: Some(copy) })
    }
}

fn mode(gate: &Gate) -> &'static str {
    if gate.mode == Mode::Observe { "observe" } else { "enforce" }
}

fn retry(reason: &Reason) -> String {
    match reason.retry {
        Retry::After(span) => format!("again in {span}"),
        Retry::Unknown => "when something else has happened".to_owned(),
        Retry::Never => "never with these arguments".to_owned(),
    }
}

impl Explained<'_> {
    fn is_allowed(&self) -> bool {
        self.admission.verdict == Verdict::Allow
    }

    fn verdict(&self) -> &'static str {
        match self.admission.verdict {
            Verdict::Allow => "allow",
            Verdict::Replay(_) => "replay",
            Verdict::Block => "block",
        }
    }

    /// The reasons of one gate, and whether they hold.
    fn reasons_of(&self, gate: &Gate) -> impl Iterator<Item = (&Reason, bool)> {
        let held = self.admission.reasons.iter().map(|reason| (reason, true));
        let observed = self.admission.observed.iter().map(|reason| (reason, false));
        held.chain(observed).filter(move |(reason, _)| {
            // A malformed action is refused in the name of the gate that needs what it lacks.
            let is_own = reason.kind == gate.check.kind() || reason.kind.name() == "action";
            is_own && reason.gate == gate.name
        })
    }

    /// Where something is wrong with the action itself, no record is read: then only rules were asked, and who
    /// complained.
    fn is_asked(&self, gate: &Gate) -> bool {
        let is_malformed = self.admission.reasons.iter().any(|reason| reason.kind.name() == "action");
        !is_malformed || gate.check.record().is_none() || self.reasons_of(gate).next().is_some()
    }

    fn meter_of(&self, gate: &Gate) -> Option<&MeterStatus> {
        self.meters.iter().find(|meter| meter.gate == gate.name && meter.kind == gate.check.kind())
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let colour = if self.is_allowed() { "\u{1b}[1;32m" } else { "\u{1b}[1;31m" };
        writeln!(to, "{colour}{}\u{1b}[0m: {}", self.verdict(), inert(self.call.action.name))?;
        for gate in self.gates {
            self.write_gate(to, gate)?;
        }
        let of_a_gate = |reason: &&Reason| self.gates.iter().any(|gate| gate.name == reason.gate);
        for reason in self.admission.reasons.iter().filter(|reason| !of_a_gate(reason)) {
            wrapped(to, "  ", &format!("{}: {}", reason.code.word(), inert(&reason.message())))?;
        }
        match self.store {
            Some(_) => wrapped(to, "", &format!("as counted at {} UTC", moment::to_text(self.now))),
            None => wrapped(to, "", "nothing is counted: name a store with --store"),
        }
    }

    fn write_gate(&self, to: &mut impl Write, gate: &Gate) -> std::io::Result<()> {
        let reasons: Vec<(&Reason, bool)> = self.reasons_of(gate).collect();
        let word = match reasons.first() {
            None if !self.is_asked(gate) => "not asked",
            None => "pass",
            Some((_, true)) => "refuse",
            Some((_, false)) => "would refuse",
        };
        let mode = if gate.mode == Mode::Observe { " (observe)" } else { "" };
        wrapped(to, "  ", &format!("{word}: {} `{}`{mode}", gate.check.kind().name(), inert(&gate.name)))?;
        let from = origin::sections_of(self.file.sections(), &self.call, gate);
        if !from.is_empty() {
            let from: Vec<String> = from.iter().map(|section| format!("[{}]", inert(section))).collect();
            wrapped(to, "    from ", &from.join(", "))?;
        }
        for (reason, _) in reasons {
            let text = format!("{}: {}; {}", reason.code.word(), inert(&reason.message()), retry(reason));
            wrapped(to, "    ", &text)?;
        }
        if let Some(meter) = self.meter_of(gate) {
            let length = columns().clamp(40, 100).saturating_sub(12).min(40);
            writeln!(to, "    {}", bar(meter.spent, meter.held, meter.limit, length))?;
            let held = if meter.held.pico() == 0 { String::new() } else { format!(", held {}", meter.held) };
            let text = format!("spent {}{held}, limit {} {}", meter.spent, meter.limit, meter.unit);
            wrapped(to, "    ", &text)?;
        }
        Ok(())
    }

    fn record(&self) -> Value {
        let reason = |reason: &Reason| {
            json!({
                "code": reason.code.word(),
                "message": reason.message(),
                "retry_after_ms": reason.retry.after().map(|span| span.nanos().div_euclid(1_000_000)),
            })
        };
        let gate = |gate: &Gate| {
            let meter = self.meter_of(gate);
            json!({
                "kind": gate.check.kind().name(),
                "name": &*gate.name,
                "mode": mode(gate),
                "sections": origin::sections_of(self.file.sections(), &self.call, gate),
                "pass": self.is_asked(gate).then(|| self.reasons_of(gate).next().is_none()),
                "reasons": self.reasons_of(gate).map(|(found, _)| reason(found)).collect::<Value>(),
                "meter": meter.map(|meter| json!({
                    "spent": meter.spent.to_string(),
                    "held": meter.held.to_string(),
                    "limit": meter.limit.to_string(),
                    "unit": meter.unit.name(),
                })),
            })
        };
        json!({
            "tool": self.call.action.name,
            "verdict": self.verdict(),
            "at": self.store.is_some().then(|| moment::to_text(self.now)),
            "counted": self.store.is_some(),
            "reasons": self.admission.reasons.iter().map(reason).collect::<Value>(),
            "observed": self.admission.observed.iter().map(reason).collect::<Value>(),
            "gates": self.gates.iter().map(gate).collect::<Value>(),
        })
    }
}
