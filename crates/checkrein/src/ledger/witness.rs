//! A witness: a place outside the store that is told each checkpoint, so that a rollback shows.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use checkrein_core::ledger::checkpoint::VerifierKey;
use checkrein_core::ledger::proof;

use super::{Database, LedgerError};

/// The most that is read of a witness: the newest notes are at its end.
const TAIL: u64 = 256 << 10;

/// How long a witness behind a URL may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where checkpoints are sent.
#[derive(Debug)]
pub struct Witness {
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Every note is appended, with an empty line after it.
    File(PathBuf),
    /// Every note is posted; the newest one is got.
    Url(String, ureq::Agent),
}

impl Witness {
    /// The witness that `text` names: an `http` or `https` URL, or a file.
    ///
    /// # Errors
    /// This build has no TLS and the URL needs it, or the URL is of no kind that is known.
    pub fn parse(text: &str) -> Result<Self, LedgerError> {
        let is_scheme = |scheme: &str| {
            !scheme.is_empty() && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
        };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| is_scheme(scheme));
        if text.is_empty() || scheme.is_some_and(|scheme| !matches!(scheme, "http" | "https" | "file")) {
            let why = "a witness is a file, or a URL that begins with `http://` or `https://`".to_owned();
            return Err(LedgerError::Witness { witness: text.to_owned(), why });
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            let path = text.strip_prefix("file:").unwrap_or(text);
            return Ok(Self { place: Place::File(PathBuf::from(path)) });
        }
        if cfg!(not(feature = "https")) && text.starts_with("https://") {
            let why = "this build has no TLS; build it with the feature `https`".to_owned();
            return Err(LedgerError::Witness { witness: text.to_owned(), why });
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self { place: Place::Url(text.to_owned(), agent) })
    }

    /// Makes sure that a file can be appended to; it is made if it is not there. A URL is asked by [`newest`](Self::newest).
    ///
    /// # Errors
    /// It cannot be written.
    pub fn ready(&self) -> Result<(), LedgerError> {
        match &self.place {
            Place::File(path) => to_append(path).map(drop).map_err(|error| self.refused(error.to_string())),
            Place::Url(..) => Ok(()),
        }
    }

    /// Tells the witness of a checkpoint and waits until it has it.
    ///
    /// # Errors
    /// It cannot be reached, or does not accept it.
    pub fn send(&self, note: &str) -> Result<(), LedgerError> {
        match &self.place {
            Place::File(path) => append(path, note).map_err(|error| self.refused(error.to_string())),
            Place::Url(url, agent) => {
                let answer = agent.post(url).content_type("text/plain; charset=utf-8").send(note);
                let status = answer.map_err(|error| self.refused(error.to_string()))?.status();
                if status.is_success() { Ok(()) } else { Err(self.refused(format!("it answered {status}"))) }
            }
        }
    }

    /// The newest checkpoint it has of a ledger that `key` signs; nothing if it has none.
    ///
    /// # Errors
    /// It cannot be reached, or what it has cannot be read.
    pub fn newest(&self, key: &VerifierKey) -> Result<Option<String>, LedgerError> {
        let text = match &self.place {
            Place::File(path) => match tail(path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(self.refused(error.to_string())),
            },
            Place::Url(url, agent) => {
                let mut answer = agent.get(url).call().map_err(|error| self.refused(error.to_string()))?;
                match answer.status().as_u16() {
                    200 => answer
                        .body_mut()
                        .with_config()
                        .limit(TAIL)
                        .read_to_string()
                        .map_err(|error| self.refused(error.to_string()))?,
                    204 | 404 => return Ok(None),
                    status => return Err(self.refused(format!("it answered {status}"))),
                }
            }
        };
        let mine = notes(&text).filter_map(|note| Some((key.open(&note).ok()?.size, note)));
        let newest = mine.max_by_key(|(size, _)| *size).map(|(_, note)| note);
        // Something that none of its notes proves is no reason to believe that there is nothing.
        if newest.is_none() && !text.trim().is_empty() {
            return Err(self.refused(format!("it holds no checkpoint of `{}`", key.name())));
        }
        Ok(newest)
    }

    /// Refuses a ledger that is older than what the witness saw, or another one.
    ///
    /// # Errors
    /// It is, or the witness cannot be asked.
    pub fn check(&self, database: &Database, key: &VerifierKey) -> Result<(), LedgerError> {
        let Some(seen) = self.newest(key)?.and_then(|note| key.open(&note).ok()) else { return Ok(()) };
        let sealed = match database.newest_checkpoint()? {
            Some((_, note)) => key.open(&note).map_err(LedgerError::OtherKey)?.size,
            None => 0,
        };
        if seen.size > sealed {
            return Err(LedgerError::Rollback(format!(
                "the witness `{self}` saw {} sealed entries, `{}` has {sealed}",
                seen.size,
                database.path().display()
            )));
        }
        if proof::root(database, seen.size)? != seen.root {
            return Err(LedgerError::Rollback(format!(
                "the first {} entries of `{}` are not those that the witness `{self}` saw",
                seen.size,
                database.path().display()
            )));
        }
        Ok(())
    }

    fn refused(&self, why: String) -> LedgerError {
        LedgerError::Witness { witness: self.to_string(), why }
    }
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::File(path) => path.display().fmt(f),
            // What stands before the host and after it may be secret.
            Place::Url(url, _) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                write!(f, "{scheme}://{}", host.rsplit_once('@').map_or(host, |(_, host)| host))
            }
        }
    }
}

fn to_append(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn append(path: &std::path::Path, note: &str) -> std::io::Result<()> {
    let mut file = to_append(path)?;
    // One write: two processes that append at once do not mix their notes. The line breaks in front end what a crash
    // may have left unfinished.
    file.write_all(format!("\n\n{note}").as_bytes())?;
    file.sync_data()
}

fn tail(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The notes in a text, each a body, an empty line and its signatures. Parts that are no note are passed over.
fn notes(text: &str) -> impl Iterator<Item = String> {
    let blocks: Vec<&str> = text.split("\n\n").collect();
    let pairs: Vec<(String, String)> = blocks
        .iter()
        .zip(blocks.iter().skip(1))
        .map(|(body, signatures)| ((*body).to_owned(), (*signatures).to_owned()))
        .collect();
    pairs.into_iter().map(|(body, block)| {
        let signatures: String = block
            .lines()
            .take_while(|line| line.starts_with('\u{2014}'))
            .map(|line| format!("{line}\n"))
            .collect();
        format!("{}\n\n{signatures}", body.trim_start_matches('\n'))
    })
}
