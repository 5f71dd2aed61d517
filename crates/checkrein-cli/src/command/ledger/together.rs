//! What the ledgers of several hosts show together.

use std::io::{Result, Write};

use checkrein::core::ledger::together::{Compared, Finding, ListName, Place};
use serde_json::{Value, json};

use super::render::count;

/// So many findings are shown to people.
const SHOWN: usize = 20;

/// For programs.
pub(super) fn record(compared: &Compared) -> Value {
    let replaced = |(list, next): &(ListName, u64)| {
        let ListName { store, tag, list } = list;
        json!({ "store": store.to_string(), "tag": tag.to_string(), "list": list.to_string(), "taken_before": next })
    };
    let absent = compared.absent.iter();
    let absent = absent.map(|(host, outcomes)| json!({ "host": host.to_string(), "outcomes": outcomes }));
    json!({
        "sound": compared.is_sound(),
        "hosts": compared.hosts.iter().map(|host| host.map(|host| host.to_string())).collect::<Vec<_>>(),
        "entries": compared.shared,
        "findings": compared.findings.iter().map(finding).collect::<Vec<_>>(),
        "more_findings": compared.untold,
        "intents_without_outcome": compared.open,
        "hosts_not_given": absent.collect::<Vec<_>>(),
        "outcomes_of_removed_intents": compared.removed,
        "lists_replaced": compared.replaced.iter().map(replaced).collect::<Vec<_>>(),
    })
}

fn places(at: &[Place]) -> Vec<Value> {
    at.iter().map(|place| json!({ "ledger": place.ledger, "seq": place.seq })).collect()
}

fn finding(finding: &Finding) -> Value {
    let of_list = |list: &ListName, more: Value| {
        let mut all = json!({
            "store": list.store.to_string(),
            "tag": list.tag.to_string(),
            "list": list.list.to_string(),
        });
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let mut value = match finding {
        Finding::Twice { store, process, draft, at } => {
            json!({ "store": store.to_string(), "process": process, "draft": draft, "at": places(at) })
        }
        Finding::Position { list, number, at } => {
            of_list(list, json!({ "number": number, "at": places(at) }))
        }
        Finding::Missing { list, from, before, told } => {
            of_list(list, json!({ "from": from, "before": before, "told": told }))
        }
        Finding::KeptAside { list, number, at } => {
            of_list(list, json!({ "number": number, "at": places(&[*at]) }))
        }
        Finding::NoIntent { store, permit, at } => {
            json!({ "store": store.to_string(), "permit": permit, "at": places(&[*at]) })
        }
        Finding::OneHost { host, ledgers } => json!({ "host": host.to_string(), "ledgers": ledgers }),
        Finding::OtherHost { own, other, at } => {
            json!({ "host": own.to_string(), "other": other.to_string(), "at": places(&[*at]) })
        }
    };
    if let Some(value) = value.as_object_mut() {
        value.insert("kind".to_owned(), finding.word().into());
    }
    value
}

/// For people. `names` are those of the ledgers.
pub(super) fn print(to: &mut impl Write, compared: &Compared, names: &[String]) -> Result<()> {
    let entries = count(compared.shared, "entry", "entries");
    if compared.is_sound() {
        writeln!(
            to,
            "\u{1b}[1;32mthey fit\u{1b}[0m  {entries} from shared stores, each once, and none is missing"
        )?;
    } else {
        let found = compared.untold.saturating_add(compared.findings.len() as u64);
        let found = count(found, "finding", "findings");
        writeln!(to, "\u{1b}[1;31mthey do not fit\u{1b}[0m  {found} in {entries} from shared stores")?;
    }
    for (host, name) in compared.hosts.iter().zip(names) {
        let host =
            host.map_or_else(|| "none: no ledger beside a shared store".to_owned(), |host| host.to_string());
        writeln!(to, "  host         {host}  {name}")?;
    }
    for finding in compared.findings.iter().take(SHOWN) {
        writeln!(
            to,
            "  \u{1b}[31m{:<22}\u{1b}[0m  {}",
            finding.word().replace('_', " "),
            shown(finding, names)
        )?;
    }
    let more = compared.untold.saturating_add(compared.findings.len().saturating_sub(SHOWN) as u64);
    if more > 0 {
        writeln!(to, "  and {more} more; `--output json` has up to a thousand")?;
    }
    for (list, next) in &compared.replaced {
        writeln!(
            to,
            "  \u{1b}[33mlist gone\u{1b}[0m    {}, taken out before position {next}: what was in it after that is lost, or came \
             again",
            shown_list(list)
        )?;
    }
    if let Some(first) = compared.first_open {
        let open = count(compared.open, "intent has", "intents have");
        writeln!(to, "  open         {open} no outcome here, the first is {}", shown_place(first, names))?;
    }
    for (host, outcomes) in &compared.absent {
        let outcomes = count(*outcomes, "outcome has its intent", "outcomes have their intents");
        writeln!(
            to,
            "  \u{1b}[33mnot checked\u{1b}[0m  {outcomes} in the ledger of host {host}, which is not here"
        )?;
    }
    if compared.removed > 0 {
        let outcomes = count(compared.removed, "outcome", "outcomes");
        writeln!(
            to,
            "  \u{1b}[33mnot checked\u{1b}[0m  {outcomes}: the intents may be among entries that were removed"
        )?;
    }
    Ok(())
}

fn shown_place(place: Place, names: &[String]) -> String {
    let name = names.get(place.ledger).map_or("", String::as_str);
    if names.len() > 1 { format!("entry {} of {name}", place.seq) } else { format!("entry {}", place.seq) }
}

fn shown_list(list: &ListName) -> String {
    format!("list {} of part {} of store {}", list.list, list.tag, list.store)
}

fn shown(finding: &Finding, names: &[String]) -> String {
    let all = |at: &[Place]| {
        let at = at.iter().take(SHOWN).map(|place| shown_place(*place, names));
        at.collect::<Vec<_>>().join(", ")
    };
    match finding {
        Finding::Twice { store, process, draft, at } => {
            format!("draft {draft} of process {process} in store {store} is {}", all(at))
        }
        Finding::Position { list, number, at } => {
            format!("position {number} of {} is {}", shown_list(list), all(at))
        }
        Finding::Missing { list, from, before, told } => {
            let positions = match before.saturating_sub(*from) {
                1 => format!("position {from}"),
                _ => format!("positions {from} to {}", before.saturating_sub(1)),
            };
            let told = if *told { ": a ledger says that they never came" } else { "" };
            format!("{positions} of {} are in no ledger{told}", shown_list(list))
        }
        Finding::KeptAside { list, number, at } => {
            let at = shown_place(*at, names);
            format!("what stood at position {number} of {} is no entry, says {at}", shown_list(list))
        }
        Finding::NoIntent { store, permit, at } => {
            format!(
                "{} ends permit {permit} of store {store}, which none of these gave out",
                shown_place(*at, names)
            )
        }
        Finding::OneHost { host, ledgers } => {
            let names = ledgers.iter().filter_map(|ledger| names.get(*ledger));
            format!("{} are of host {host}: copies", names.map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        Finding::OtherHost { own, other, at } => {
            format!("{} is for host {other} in the ledger of host {own}", shown_place(*at, names))
        }
    }
}
