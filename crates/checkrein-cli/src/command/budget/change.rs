//! `checkrein budget set` and `checkrein budget top-up`: somebody changes the limit of one record.

use std::io::Write;
use std::path::PathBuf;

use checkrein::core::admission::{AdjustError, Adjusted, Adjustment, Change, Lasting};
use checkrein::core::amount::{Amount, Unit, parse_quantity};
use checkrein::core::key::{Family, Key, KeyRef};
use checkrein::core::time::Span;
use checkrein::store::durable::FamilyKey;
use checkrein::store::{Step, StepResult};
use serde_json::json;

use super::super::store::{Opened, SharedStoreOf};
use super::super::{inert, print_error};
use super::PolicyOf;
use super::known::{Policy, key_of, make};
use super::lines::{instant, write_words};
use super::record::{ends, is_keyed, read_key};
use crate::{Exit, Output};

/// Set the limit of a budget for one key, in place of the policy's, until it is cleared
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein budget set team '80 usd' --note 'quarter end' --store sqlite:checkrein.db
  checkrein budget set agent 0 tokens --key ann --store sqlite:checkrein.db
  checkrein budget set team --clear --store sqlite:checkrein.db

Top-ups end when a limit is set or cleared. A limit below what is spent takes nothing back: further actions are refused.
The ledger says who did it.")]
pub(super) struct Set {
    /// The budget
    name: String,
    /// The limit with its unit, as in `80 usd`
    #[arg(num_args = 0..=2, required_unless_present = "clear")]
    amount: Vec<String>,
    /// The limit of the policy counts again
    #[arg(long, conflicts_with = "amount")]
    clear: bool,
    #[command(flatten)]
    by: By,
}

/// Add to the limit of a budget for one key, for a time
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein budget top-up team '5 usd' --store sqlite:checkrein.db
  checkrein budget top-up agent '50000 tokens' --key ann --for 2d --store sqlite:checkrein.db

It ends with the calendar period, after one length of a rolling window, or never where there is no window, unless `--for`
says otherwise. The ledger says who did it.")]
pub(super) struct TopUp {
    /// The budget
    name: String,
    /// How much more, with its unit, as in `5 usd`
    #[arg(num_args = 1..=2, required = true)]
    amount: Vec<String>,
    /// How long it counts, as in `2d`, or `ever`
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<String>,
    #[command(flatten)]
    by: By,
}

/// Whose limit, and who changes it.
#[derive(clap::Args)]
struct By {
    #[command(flatten)]
    store: SharedStoreOf,
    #[command(flatten)]
    policy: PolicyOf,
    /// The key whose limit it is, as `checkrein budget show` shows it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The tenant
    #[arg(long, value_name = "TENANT", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Who does it; by default the name of the user and of this machine
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// What there is to say about it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// The file of this host's ledger, for a store on a server
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Why nothing was changed, and what to do about it.
struct Refusal(String, Option<String>);

impl Refusal {
    fn new(text: String, hint: &str) -> Self {
        Self(text, Some(hint.to_owned()))
    }
}

impl From<AdjustError> for Refusal {
    fn from(error: AdjustError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl Set {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        if self.clear {
            return self.by.change(&self.name, Ok((Change::Clear, None)));
        }
        let quantity = quantity_of(&self.amount);
        self.by.change(&self.name, quantity.map(|(amount, unit)| (Change::Set(amount), Some(unit))))
    }
}

impl TopUp {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let change = quantity_of(&self.amount).and_then(|(amount, unit)| {
            let lasting = match self.lasts.as_deref() {
                None => Lasting::Window,
                Some("ever") => Lasting::Ever,
                Some(text) => {
                    let no_length = || format!("`{}` is no length of time", inert(text));
                    let span = Span::parse(text);
                    Lasting::For(
                        span.ok_or_else(|| Refusal::new(no_length(), "use e.g. `2d`, `90m` or `ever`"))?,
                    )
                }
            };
            Ok((Change::TopUp(amount, lasting), Some(unit)))
        });
        self.by.change(&self.name, change)
    }
}

fn quantity_of(words: &[String]) -> Result<(Amount, Unit), Refusal> {
    parse_quantity(&words.join(" ")).map_err(|error| Refusal::new(error.to_string(), error.hint()))
}

impl By {
    fn change(&self, name: &str, change: Result<(Change, Option<Unit>), Refusal>) -> anyhow::Result<Exit> {
        let (change, unit) = match change {
            Ok(change) => change,
            Err(refusal) => return Ok(refuse(&refusal)),
        };
        let policy = self.policy.read()?;
        let store = self.open()?;
        let found = match self.find(&store, policy.as_ref(), name, unit)? {
            Ok(found) => found,
            Err(refusal) => return Ok(refuse(&refusal)),
        };
        let (store, family) = match (found.family, policy.as_ref().and_then(|policy| policy.budget(name))) {
            (Some(family), _) => (store, family),
            (None, Some(budget)) => make(store, name, budget)?,
            (None, None) => anyhow::bail!("the store has no such budget"),
        };
        let by = self.by.clone().unwrap_or_else(whoever);
        let adjustment = match Adjustment::new(change, found.limit, &by, &self.note) {
            Ok(adjustment) => adjustment,
            Err(error) => return Ok(refuse(&error.into())),
        };
        let key = self.key.as_deref().map(read_key).unwrap_or_default();
        let key = Key::new(KeyRef { family, tenant: self.tenant.as_bytes(), key: &key });
        let adjusted = match store.run(vec![Step::Adjust(key, adjustment.clone())])?.pop() {
            Some(StepResult::Adjusted(adjusted)) => adjusted,
            Some(StepResult::NotAdjusted(error)) => return Ok(refuse(&error.into())),
            Some(StepResult::Failed(error)) => return Err(error.into()),
            other => anyhow::bail!("the store answered {other:?}"),
        };
        if let Opened::Server(server) = &store {
            server.drain()?;
        }
        self.say(name, found.unit, &adjustment, &adjusted)
    }

    fn open(&self) -> anyhow::Result<Opened> {
        match &self.ledger {
            None => Ok(self.store.open()?),
            Some(_) if !self.store.is_on_a_server() => {
                anyhow::bail!("a store in a file has its ledger in it: leave `--ledger` out")
            }
            Some(path) => Ok(Opened::Server(self.store.on_a_server_with(Some(path))?)),
        }
    }

    /// Which records are meant, and what is known of them.
    fn find(
        &self,
        store: &Opened,
        policy: Option<&Policy>,
        name: &str,
        unit: Option<Unit>,
    ) -> anyhow::Result<Result<Found, Refusal>> {
        let families = store.families()?;
        let named = inert(name);
        if let Some(budget) = policy.and_then(|policy| policy.budget(name)) {
            if let Some(given) = unit.filter(|unit| *unit != budget.unit) {
                return Ok(Err(other_unit(&named, budget.unit, given)));
            }
            return Ok(match (&budget.key, &self.key) {
                (Some(whose), None) => {
                    let text = format!("the budget `{named}` counts for each `{}`", inert(whose.text()));
                    Err(Refusal::new(text, "say whose limit it is: `--key KEY`"))
                }
                (None, Some(_)) => {
                    let text = format!("the budget `{named}` counts for everybody");
                    Err(Refusal::new(text, "leave `--key` out"))
                }
                _ => {
                    let key = key_of(name, budget);
                    let family = families.iter().find(|(_, known)| *known == key).map(|(family, _)| *family);
                    Ok(Found { family, unit: Some(budget.unit), limit: Some(budget.limit) })
                }
            });
        }
        let found = among(&families, &named, name, unit);
        if let (Ok(Found { family: Some(family), .. }), None) = (&found, &self.key)
            && is_keyed(store, *family)?
        {
            let text = format!("the budget `{named}` counts for each key");
            return Ok(Err(Refusal::new(text, "say whose limit it is: `--key KEY`")));
        }
        Ok(found)
    }

    fn say(
        &self,
        name: &str,
        unit: Option<Unit>,
        adjustment: &Adjustment,
        adjusted: &Adjusted,
    ) -> anyhow::Result<Exit> {
        let mut to = anstream::stdout().lock();
        let unit = unit.map_or("", Unit::name);
        let Adjusted { before, after, until, spent, held } = *adjusted;
        match self.output {
            Output::Text => {
                let amount = |limit: Option<Amount>| {
                    limit.map_or_else(|| "the policy's".to_owned(), |limit| format!("{limit} {unit}"))
                };
                let more = match adjustment.change() {
                    Change::TopUp(more, _) if after.is_none() => format!(" + {more} {unit}"),
                    _ => String::new(),
                };
                write_words(&mut to, "", &format!("limit of `{}`", inert(name)), "0")?;
                write_words(&mut to, "  ", &format!("before {}", amount(before)), "0")?;
                write_words(&mut to, "  ", &format!("now {}{more}", amount(after)), "1")?;
                if let Some(until) = until {
                    write_words(&mut to, "  ", &format!("until {}", instant(until)), "0")?;
                }
                write_words(&mut to, "  ", &format!("settled {spent}, held {held}"), "0")?;
                write_words(&mut to, "  ", &format!("by {}", inert(adjustment.by())), "0")?;
            }
            output => {
                let amount = |amount: Amount| amount.to_string();
                let said = json!({
                    "budget": name,
                    "tenant": self.tenant,
                    "key": self.key.as_deref().unwrap_or_default(),
                    "unit": unit,
                    "before": before.map(amount),
                    "after": after.map(amount),
                    "until": until.and_then(ends),
                    "settled": amount(spent),
                    "held": amount(held),
                    "by": adjustment.by(),
                    "note": adjustment.note(),
                });
                output.print(&mut to, &said)?;
            }
        }
        if self.store.is_on_a_server() && self.ledger.is_none() {
            let mut stderr = anstream::stderr().lock();
            // Standard error may be closed; what was done is done.
            let _closed = writeln!(stderr, "note: no ledger tells of it; `--ledger FILE` names this host's");
        }
        Ok(Exit::Ok)
    }
}

/// The records that are meant.
struct Found {
    /// Nothing where the budget is in the policy and was never counted.
    family: Option<Family>,
    unit: Option<Unit>,
    limit: Option<Amount>,
}

/// The budget of a name that no policy has, among those that are counted in the store.
fn among(
    families: &[(Family, FamilyKey)],
    named: &str,
    name: &str,
    unit: Option<Unit>,
) -> Result<Found, Refusal> {
    let all: Vec<&(Family, FamilyKey)> =
        families.iter().filter(|(_, known)| known.budget() == Some(name)).collect();
    let fits = |known: &&&(Family, FamilyKey)| unit.is_none() || known.1.unit == unit;
    let fitting: Vec<&&(Family, FamilyKey)> = all.iter().filter(fits).collect();
    match (fitting.as_slice(), all.first(), unit) {
        ([(family, known)], ..) => Ok(Found { family: Some(*family), unit: known.unit, limit: None }),
        ([], Some((_, known)), Some(given)) => match known.unit {
            Some(counts) => Err(other_unit(named, counts, given)),
            None => Err(Refusal(format!("the budget `{named}` counts nothing"), None)),
        },
        ([], ..) => Err(Refusal::new(
            format!("there is no budget `{named}`"),
            "`checkrein budget show --all` shows every budget; `--policy FILE` names the policy it is in",
        )),
        (several, ..) => Err(Refusal::new(
            format!("{} budgets are named `{named}`: they count over other windows", several.len()),
            "`--policy FILE` names the policy that says which one counts",
        )),
    }
}

fn other_unit(named: &str, counts: Unit, given: Unit) -> Refusal {
    let text = format!("the budget `{named}` counts {}, not {}", counts.name(), given.name());
    Refusal::new(text, "name the amount in the budget's unit")
}

fn refuse(refusal: &Refusal) -> Exit {
    print_error(&refusal.0, refusal.1.as_deref());
    Exit::Usage
}

/// The name of the user and of this machine.
fn whoever() -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{}@{host}", user.as_deref().unwrap_or("unknown"))
}
