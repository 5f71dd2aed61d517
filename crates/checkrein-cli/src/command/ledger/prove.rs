//! `checkrein ledger prove`: that an entry is in the ledger, or that the ledger only grew.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use checkrein::core::ledger::checkpoint::{Note, VerifierKey};
use checkrein::core::ledger::proof::{self, ConsistencyProof, InclusionProof, verify_consistency};
use checkrein::ledger::{Database, LedgerError, keys};
use serde_json::json;

use super::StoreOf;
use super::render::count;
use crate::{Exit, Output};

/// Prove that an entry is in the ledger, or that the ledger only grew; check such a proof
///
/// A proof is a small text: `checkrein ledger prove SEQ --store URL` makes one for an entry, `--since CHECKPOINT` one
/// for growth, and `--check PROOF --key FILE` checks one without the store.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  checkrein ledger prove 42 --store sqlite:checkrein.db >proof.txt
  checkrein ledger prove --since checkpoint.txt --store sqlite:checkrein.db >growth.txt
  checkrein ledger prove --check proof.txt --key checkrein.db.pub --entry entry.json")]
pub(super) struct Prove {
    /// The entry
    #[arg(required_unless_present_any = ["since", "check"], conflicts_with_all = ["since", "check"])]
    seq: Option<u64>,
    /// The store, as in `sqlite:checkrein.db`
    #[arg(
        long,
        value_name = "URL",
        env = "CHECKREIN_STORE",
        hide_env_values = true,
        required_unless_present = "check"
    )]
    store: Option<String>,
    /// Prove that the ledger only grew since this checkpoint
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<PathBuf>,
    /// Check a proof
    #[arg(long, value_name = "PROOF", requires = "key", conflicts_with = "since")]
    check: Option<PathBuf>,
    /// The public key file, to check a proof with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Of a proof of an entry: the file with exactly its line
    #[arg(long, value_name = "FILE", requires = "check")]
    entry: Option<PathBuf>,
    /// Of a proof of growth: the older checkpoint
    #[arg(long, value_name = "FILE", requires = "check", conflicts_with = "entry")]
    old: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Prove {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        if let (Some(path), Some(key)) = (&self.check, &self.key) {
            return self.check(path, &keys::load_public(key)?);
        }
        let database = StoreOf { store: self.store.clone().unwrap_or_default() }.open()?;
        let (size, checkpoint) = database.newest_checkpoint()?.ok_or(LedgerError::NothingSealed)?;
        let (text, path) = match (self.seq, &self.since) {
            (Some(seq), _) => inclusion(&database, seq, size, checkpoint)?,
            (None, Some(since)) => growth(&database, since, size, checkpoint)?,
            (None, None) => anyhow::bail!("name an entry, or a checkpoint with `--since`"),
        };
        let mut stdout = anstream::stdout().lock();
        match self.output {
            Output::Text => write!(stdout, "{text}")?,
            output => {
                let answer = json!({ "size": size, "hashes": path, "proof": text });
                output.print(&mut stdout, &answer)?;
            }
        }
        Ok(Exit::Ok)
    }

    fn check(&self, path: &Path, key: &VerifierKey) -> anyhow::Result<Exit> {
        let text = read(path)?;
        let verdict = match (&self.entry, &self.old) {
            (Some(entry), _) => check_inclusion(&text, &read(entry)?, key),
            (None, Some(old)) => check_growth(&text, &read(old)?, key),
            (None, None) => anyhow::bail!("name what is proved: `--entry FILE` or `--old CHECKPOINT`"),
        };
        let mut stdout = anstream::stdout().lock();
        match (self.output, &verdict) {
            (output @ (Output::Json | Output::Jsonl), verdict) => {
                let answer = json!({ "valid": verdict.is_ok(), "reason": verdict.as_ref().err() });
                output.print(&mut stdout, &answer)?;
            }
            (Output::Text, Ok(what)) => writeln!(stdout, "\u{1b}[1;32mproved\u{1b}[0m  {what}")?,
            (Output::Text, Err(why)) => writeln!(stdout, "\u{1b}[1;31mnot proved\u{1b}[0m  {why}")?,
        }
        Ok(if verdict.is_ok() { Exit::Ok } else { Exit::Found })
    }
}

fn read(path: &Path) -> Result<String, LedgerError> {
    std::fs::read_to_string(path).map_err(|why| LedgerError::File { path: path.to_owned(), why })
}

type Proof = (String, Vec<String>);

fn inclusion(database: &Database, seq: u64, size: u64, checkpoint: String) -> anyhow::Result<Proof> {
    let path = proof::inclusion(database, seq, size).map_err(LedgerError::from)?;
    let hashes = path.iter().map(|hash| checkrein::core::ledger::checkpoint::encode(hash)).collect();
    Ok((InclusionProof { index: seq, path, checkpoint }.to_text(), hashes))
}

fn growth(database: &Database, since: &Path, size: u64, checkpoint: String) -> anyhow::Result<Proof> {
    let note = read(since)?;
    let old = Note::parse(&note)
        .and_then(|note| checkrein::core::ledger::checkpoint::Checkpoint::parse(note.text))
        .map_err(|error| LedgerError::NotFound(format!("`{}`: {error}", since.display())))?;
    let path = proof::consistency(database, old.size, size).map_err(LedgerError::from)?;
    let hashes = path.iter().map(|hash| checkrein::core::ledger::checkpoint::encode(hash)).collect();
    Ok((ConsistencyProof { old: old.size, path, checkpoint }.to_text(), hashes))
}

fn check_inclusion(text: &str, entry: &str, key: &VerifierKey) -> Result<String, String> {
    let proof = InclusionProof::parse(text).map_err(|error| error.to_string())?;
    let checkpoint = key.open(&proof.checkpoint).map_err(|error| format!("its checkpoint: {error}"))?;
    let entry = entry.strip_suffix('\n').unwrap_or(entry);
    if !proof.proves(entry.as_bytes(), checkpoint.size, &checkpoint.root) {
        return Err(format!("these bytes are not entry {} of this ledger", proof.index));
    }
    let size = count(checkpoint.size, "entry", "entries");
    Ok(format!("it is entry {} of the ledger of {size} that {} signed", proof.index, key.name()))
}

fn check_growth(text: &str, old: &str, key: &VerifierKey) -> Result<String, String> {
    let proof = ConsistencyProof::parse(text).map_err(|error| error.to_string())?;
    let newer = key.open(&proof.checkpoint).map_err(|error| format!("its checkpoint: {error}"))?;
    let older = key.open(old).map_err(|error| format!("the older checkpoint: {error}"))?;
    let holds = older.size == proof.old
        && verify_consistency(older.size, &older.root, newer.size, &newer.root, &proof.path);
    if !holds {
        return Err("the newer checkpoint is not a continuation of the older one".to_owned());
    }
    let (from, to) = (count(older.size, "entry", "entries"), count(newer.size, "entry", "entries"));
    Ok(format!("the ledger only grew, from {from} to {to}"))
}
