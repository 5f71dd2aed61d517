//! `cargo bench -p checkrein --bench policy -- [--json FILE] [--date TEXT]`: reading and compiling a policy file of a
//! thousand tools, and deciding calls by a policy that is warm. One thread, CPU time, medians of 15 rounds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use checkrein::Engine;
use checkrein::config::{Call, Policies, PolicyFile};
use checkrein_core::admission::{Action, Verdict};
use checkrein_core::json::{Limits, Value, read_str};
use cpu_time::ThreadTime;
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

/// Nanoseconds of one call by `elapsed`: the median of the rounds.
fn median(calls: u32, elapsed: impl Fn() -> f64, mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..16)
        .map(|_| {
            let begun = elapsed();
            (0..calls).for_each(|_| call());
            (elapsed() - begun) / f64::from(calls)
        })
        .skip(1)
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

/// A thousand tools, each with a rule of its own, a rate and a budget.
fn thousand_tools() -> Result<String, std::fmt::Error> {
    let mut text = String::from(
        "version = 1\n[budgets.team]\nkey = 'action.tenant'\nlimit = '50 usd'\nwindow = '1d'\n[tools.'service.*']\n\
         loop = { same_call = 100 }\n",
    );
    for tool in 0..1_000 {
        writeln!(
            text,
            "[tools.'service.tool{tool}']\nrules = [\"args.amount > {tool} && args.currency in ['eur', 'usd']\"]\n\
             limits = [{{ key = 'action.user', max_calls = 10, window = '1h' }}]\n\
             budgets = [{{ name = 'team', cost = '0.01 usd' }}]"
        )?;
    }
    Ok(text)
}

/// An object of about 300 bytes.
const ARGUMENTS: &str = r#"{"payment_id": "pay_01J9ZQ7Y8W3N5T6R4E2Q1A0S9D", "amount": 4200, "currency": "eur", "reason": "requested_by_customer",
"customer": {"id": "cus_8f14e45fceea167a", "email": "ann@example.com", "tags": ["gold", "eu", "beta"]}, "notify": true,
"lines": [{"sku": "A-100", "qty": 2}, {"sku": "B-220", "qty": 1}]}"#;

const NATIVE: &str = "version = 1\n[tools.refund]\nrules = ['args.amount > 0 && args.amount <= 50000', \"args.currency in ['eur', 'usd']\"]\n";
const GENERAL: &str = "version = 1\n[tools.refund]\nrules = ['args.lines.all(line, line.qty > 0 && line.qty < 100)', \"args.customer.tags.exists(tag, tag == 'eu')\"]\n";
const RATE: &str = "version = 1\n[tools.refund]\nrules = ['args.amount > 0 && args.amount <= 50000', \"args.currency in ['eur', 'usd']\"]\nlimits = [{ key = 'action.user', max_calls = 4000000000, window = '1s' }]\n";

fn decide(policies: &Policies, arguments: &Value) -> Verdict {
    let action = Action { name: "refund", user: "ann", run: "r1", ..Action::default() };
    policies.admit(&Call { tenant: "acme", action, arguments, uncovered: None }).admission.verdict
}

fn run() -> Result<(), Failure> {
    // Without cargo bench's own flag this is `cargo test`: a few calls are enough to see it run.
    let calls = if std::env::args().any(|word| word == "--bench") { 50_000 } else { 10 };
    let begun = Instant::now();
    // A file is read on a thread of its own, whose time is not this thread's.
    let wall = || begun.elapsed().as_nanos() as f64;
    let cpu = || ThreadTime::now().as_duration().as_nanos() as f64;
    let text = thousand_tools()?;
    let read = || PolicyFile::parse("checkrein.toml", &text, false);
    let file = read()?;
    let arguments = read_str(ARGUMENTS, &Limits::default())?;
    let mut rows = vec![
        ("read 1,000 tools", median(1, wall, || drop(black_box(read())))),
        (
            "compile 1,000 tools",
            median(1, wall, || drop(black_box(Policies::new(Engine::new(), file.clone())))),
        ),
    ];
    for (name, text) in [
        ("two native rules", NATIVE),
        ("two interpreted rules", GENERAL),
        ("two native rules and a rate", RATE),
    ] {
        let policies = Policies::new(Engine::new(), PolicyFile::parse("checkrein.toml", text, false)?)?;
        if decide(&policies, &arguments) != Verdict::Allow {
            return Err(format!("{name}: refused").into());
        }
        rows.push((name, median(calls, cpu, || drop(black_box(decide(&policies, black_box(&arguments)))))));
    }
    for (name, nanos) in &rows {
        println!("{name:<32} {:>12.2} us", nanos / 1e3);
    }
    if let Some(path) = option("--json") {
        let rows: Vec<_> = rows.iter().map(|(name, nanos)| json!({"name": name, "ns": nanos})).collect();
        let date = option("--date");
        std::fs::write(path, serde_json::to_vec_pretty(&json!({"date": date, "rows": rows}))?)?;
    }
    Ok(())
}
