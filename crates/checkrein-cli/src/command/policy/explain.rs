//! `checkrein policy explain ACTION.json`: what every gate of a policy says to one action, without taking anything.

use std::io::{Read as _, Write};
use std::path::PathBuf;

use checkrein::Engine;
use checkrein::config::{Call, Policies};
use checkrein_core::admission::{Action, Admission, Verdict};
use checkrein_core::decision::{MeterStatus, Reason};
use checkrein_core::json::{Limits, Object, Value, read};
use checkrein_core::policy::{Gate, Mode};
use serde_json::json;

use super::{load, refuse};
use crate::command::{inert, print_error};
use crate::{Exit, Output};

/// The most bytes of an action.
const MAX_BYTES: u64 = 2 << 20;
/// The texts that an action may have beside its name.
const TEXTS: [&str; 7] = ["namespace", "principal", "tenant", "user", "agent", "run", "session"];

/// Show what every gate says to one action
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein policy explain action.json
  checkrein policy explain action.json --policy checkrein.toml --output json

An action is JSON: {\"name\": \"stripe.refund\", \"args\": {\"amount\": 5}, \"user\": \"ann\", \"run\": \"r1\"}, and may have \
namespace, principal, tenant, agent and session too. A call of a model has the namespace \"model\" and the arguments that a \
ledger keeps of it: model, input_bytes, answers, max_output. Nothing is taken, and the meters are empty: this is what the policy \
says, not what a store has counted. Exit code 1 when the action is refused.")]
pub(crate) struct Explain {
    /// The action
    action: PathBuf,
    /// The policy file; without it, that of the current directory
    #[arg(long)]
    policy: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Explain {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let file = match load(self.policy.as_ref()) {
            Ok(file) => file,
            Err(error) => return Ok(refuse(&mut to, &error, self.output)?),
        };
        let action = match self.read() {
            Ok(action) => action,
            Err(problem) => {
                print_error(&inert(&problem), Some("see `checkrein policy explain --help` for an example"));
                return Ok(Exit::Usage);
            }
        };
        let policies = Policies::new(Engine::new(), file)?;
        let text = |name: &str| action.get(name).and_then(Value::as_str).unwrap_or_default();
        let nothing = Value::Object(Object::default());
        let call = Call {
            tenant: text("tenant"),
            action: Action {
                namespace: text("namespace"),
                name: text("name"),
                principal: text("principal"),
                user: text("user"),
                agent: text("agent"),
                run: text("run"),
                session: text("session"),
                ..Action::default()
            },
            arguments: action.get("args").unwrap_or(&nothing),
            uncovered: None,
        };
        let (admission, meters) = policies.peek(&call);
        let policy = policies.gates_of(&call).ok().flatten();
        let gates = policy.as_ref().map_or(&[][..], |policy| policy.policy().gates());
        match self.output {
            Output::Text => write_text(&mut to, call.action.name, &admission, gates, &meters)?,
            output => {
                output.print(&mut to, &explained(call.action.name, &admission, gates, &meters))?;
            }
        }
        Ok(if is_allowed(&admission) { Exit::Ok } else { Exit::Found })
    }

    /// Reads the action strictly: whatever it says that is not looked at is an error.
    fn read(&self) -> Result<Value, String> {
        let name = self.action.display();
        let failed = |error: std::io::Error| format!("`{name}` cannot be read: {error}");
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&self.action).map_err(failed)?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        let action = read(&bytes, &Limits::default()).map_err(|error| format!("`{name}`: {error}"))?;
        let members = action.as_object().ok_or_else(|| format!("`{name}` is no JSON object"))?;
        for (member, value) in members.iter() {
            match member {
                "args" if value.as_object().is_none() => return Err("`args` is no JSON object".to_owned()),
                "args" => {}
                "name" if value.as_str().is_some() => {}
                text if TEXTS.contains(&text) && value.as_str().is_some() => {}
                text if text == "name" || TEXTS.contains(&text) => {
                    return Err(format!("`{text}` is no text"));
                }
                other => return Err(format!("unknown member `{other}`")),
            }
        }
        if action.get("name").is_none() {
            return Err("the action has no `name`".to_owned());
        }
        Ok(action)
    }
}

fn is_allowed(admission: &Admission) -> bool {
    admission.verdict == Verdict::Allow
}

/// The reasons of one gate, and whether they hold.
fn reasons_of<'a>(admission: &'a Admission, gate: &'a Gate) -> impl Iterator<Item = (&'a Reason, bool)> {
    let held = admission.reasons.iter().map(|reason| (reason, true));
    let observed = admission.observed.iter().map(|reason| (reason, false));
    held.chain(observed).filter(|(reason, _)| {
        // A malformed action is refused in the name of the gate that needs what it lacks.
        let is_own = reason.kind == gate.check.kind() || reason.kind.name() == "action";
        is_own && reason.gate == gate.name
    })
}

/// Where something is wrong with the action itself, no record is read: then only rules were asked, and who complained.
fn is_asked(admission: &Admission, gate: &Gate) -> bool {
    let is_malformed = admission.reasons.iter().any(|reason| reason.kind.name() == "action");
    !is_malformed || gate.check.record().is_none() || reasons_of(admission, gate).next().is_some()
}

fn mode(gate: &Gate) -> &'static str {
    if gate.mode == Mode::Observe { "observe" } else { "enforce" }
}

fn meter_of<'m>(meters: &'m [MeterStatus], gate: &Gate) -> Option<&'m MeterStatus> {
    meters.iter().find(|meter| meter.gate == gate.name && meter.kind == gate.check.kind())
}

fn write_text(
    to: &mut impl Write,
    tool: &str,
    admission: &Admission,
    gates: &[Gate],
    meters: &[MeterStatus],
) -> std::io::Result<()> {
    let verdict = if is_allowed(admission) { "\u{1b}[1;32mallow" } else { "\u{1b}[1;31mblock" };
    writeln!(to, "{verdict}\u{1b}[0m: {}", inert(tool))?;
    for gate in gates {
        let reasons: Vec<(&Reason, bool)> = reasons_of(admission, gate).collect();
        let word = match reasons.first() {
            None if !is_asked(admission, gate) => "not asked",
            None => "pass",
            Some((_, true)) => "refuse",
            Some((_, false)) => "would refuse",
        };
        writeln!(to, "  {word}: {} `{}`", gate.check.kind().name(), inert(&gate.name))?;
        for (reason, _) in reasons {
            writeln!(to, "    {}: {}", reason.code.word(), inert(&reason.message()))?;
        }
        if let Some(meter) = meter_of(meters, gate) {
            writeln!(to, "    limit {} {}", meter.limit, meter.unit)?;
        }
    }
    if gates.is_empty() {
        for reason in &admission.reasons {
            writeln!(to, "  {}: {}", reason.code.word(), inert(&reason.message()))?;
        }
    }
    Ok(())
}

fn explained(tool: &str, admission: &Admission, gates: &[Gate], meters: &[MeterStatus]) -> serde_json::Value {
    let reason = |reason: &Reason| json!({ "code": reason.code.word(), "message": reason.message() });
    let gate = |gate: &Gate| {
        let meter = meter_of(meters, gate);
        json!({
            "kind": gate.check.kind().name(),
            "name": &*gate.name,
            "mode": mode(gate),
            "pass": is_asked(admission, gate).then(|| reasons_of(admission, gate).next().is_none()),
            "reasons": reasons_of(admission, gate).map(|(found, _)| reason(found)).collect::<serde_json::Value>(),
            "limit": meter.map(|meter| format!("{} {}", meter.limit, meter.unit)),
        })
    };
    json!({
        "tool": tool,
        "verdict": if is_allowed(admission) { "allow" } else { "block" },
        "reasons": admission.reasons.iter().map(reason).collect::<serde_json::Value>(),
        "gates": gates.iter().map(gate).collect::<serde_json::Value>(),
    })
}
