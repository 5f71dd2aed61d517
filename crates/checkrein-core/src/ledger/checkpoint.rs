//! Checkpoints: the size and root of a ledger at a moment, signed, in the C2SP forms `tlog-checkpoint` and
//! `signed-note`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::moment;
use super::tree::{Hash, to_hex};
use crate::time::Timestamp;

/// The algorithm byte of Ed25519 in signed notes.
const ED25519: u8 = 1;

/// The most bytes of a note.
const LARGEST_NOTE: usize = 64 << 10;

/// The most signatures of a note.
const MOST_SIGNATURES: usize = 16;

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ledger: the name of the key that signs it.
    pub origin: String,
    /// The number of entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// Lines of our own after these: `time ...`, `store ...`. None is empty or has a line break.
    pub extensions: Vec<String>,
}

/// Why a note is not a checkpoint of the expected key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text is no signed note.
    #[error("it is not a signed note: {0}")]
    Malformed(&'static str),
    /// No signature is of the expected key.
    #[error("it is not signed by the expected key")]
    NotSigned,
    /// A signature of the expected key does not hold.
    #[error("its signature does not hold")]
    Forged,
    /// The checkpoint is of another ledger.
    #[error("it is of another ledger than the key")]
    OtherOrigin,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, encode(&self.root));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// When it was made, if it says so.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        moment::read(self.extension("time")?.as_bytes())
    }

    /// The rest of the extension line that begins with `name` and a space.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }

    /// Reads the text that is signed.
    ///
    /// # Errors
    /// If it is not what [`text`](Self::text) gives.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let body = text.strip_suffix('\n').ok_or(NoteError::Malformed("no line break at its end"))?;
        let mut lines = body.split('\n');
        let origin = lines.next().filter(|origin| is_name(origin));
        let origin = origin.ok_or(NoteError::Malformed("the first line is no origin"))?.to_owned();
        let size =
            lines.next().and_then(decimal).ok_or(NoteError::Malformed("the second line is no size"))?;
        let root =
            lines.next().and_then(decode_hash).ok_or(NoteError::Malformed("the third line is no root"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(NoteError::Malformed("an empty line"));
        }
        Ok(Self { origin, size, root, extensions })
    }
}

/// A signed note, taken apart but not yet believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The text that is signed, with its last line break.
    pub text: &'a str,
    /// The names and bytes of its signatures: four of the key's id, then the signature.
    pub signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// If it does not have the one form of a signed note.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        if note.len() > LARGEST_NOTE {
            return Err(NoteError::Malformed("it is larger than 64 KiB"));
        }
        if note.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
            return Err(NoteError::Malformed("a control character"));
        }
        let (body, signatures) =
            note.rsplit_once("\n\n").ok_or(NoteError::Malformed("no signature after an empty line"))?;
        let text = note.get(..body.len().saturating_add(1)).unwrap_or_default();
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::Malformed("no line break at its end"))?;
        let mut found = Vec::new();
        for line in lines.split('\n') {
            if found.len() >= MOST_SIGNATURES {
                return Err(NoteError::Malformed("more than 16 signatures"));
            }
            let signature = line.strip_prefix("\u{2014} ").and_then(|rest| {
                let (name, bytes) = rest.split_once(' ')?;
                let bytes = STANDARD.decode(bytes).ok()?;
                (is_name(name) && bytes.len() > 4).then_some((name, bytes))
            });
            found.push(signature.ok_or(NoteError::Malformed("a line that is no signature"))?);
        }
        Ok(Self { text, signatures: found })
    }
}

/// A public key under its name: who signs a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

/// Text that is not a public key in the form of signed notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no public key: `NAME+HASH+KEY` is expected, as `checkrein keys show` prints it")]
pub struct InvalidKey;

impl VerifierKey {
    /// Its name: the origin of the ledgers it signs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The four bytes that stand before its signatures.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, &self.key)
    }

    /// Checks the signature of a checkpoint and returns what it says.
    ///
    /// # Errors
    /// If the note is malformed, not signed by this key, or of another ledger.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let note = Note::parse(note)?;
        let id = self.id();
        let mut signed = false;
        for (name, bytes) in &note.signatures {
            let Some(signature) = bytes.strip_prefix(&id).filter(|_| *name == self.name) else { continue };
            let signature = Signature::from_slice(signature).map_err(|_| NoteError::Forged)?;
            self.key.verify_strict(note.text.as_bytes(), &signature).map_err(|_| NoteError::Forged)?;
            signed = true;
        }
        if !signed {
            return Err(NoteError::NotSigned);
        }
        let checkpoint = Checkpoint::parse(note.text)?;
        if checkpoint.origin == self.name { Ok(checkpoint) } else { Err(NoteError::OtherOrigin) }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, to_hex(&self.id()), STANDARD.encode(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let mut parts = text.splitn(3, '+');
        let (name, id, bytes) =
            (|| Some((parts.next()?, parts.next()?, parts.next()?)))().ok_or(InvalidKey)?;
        let bytes = STANDARD.decode(bytes).map_err(|_| InvalidKey)?;
        let bytes = bytes.strip_prefix(&[ED25519]).and_then(|key| <&[u8; 32]>::try_from(key).ok());
        let key = VerifyingKey::from_bytes(bytes.ok_or(InvalidKey)?).map_err(|_| InvalidKey)?;
        // A key of small order would accept signatures that nobody made.
        let valid = is_name(name) && !key.is_weak() && to_hex(&key_id(name, &key)) == id;
        if valid { Ok(Self { name: name.to_owned(), key }) } else { Err(InvalidKey) }
    }
}

/// A private key under its name. It never shows itself.
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl Signer {
    /// The key of a seed under `name`; without a name, one is derived from the public key.
    ///
    /// # Errors
    /// If the name is empty, longer than 255 bytes, or has a space, a plus sign or a control character.
    pub fn new(name: Option<&str>, seed: &[u8; 32]) -> Result<Self, InvalidKey> {
        let key = SigningKey::from_bytes(seed);
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                let digest = Sha256::digest(key.verifying_key().as_bytes());
                format!("checkrein-ledger/{}", to_hex(digest.get(..8).unwrap_or_default()))
            }
        };
        if is_name(&name) { Ok(Self { name, key }) } else { Err(InvalidKey) }
    }

    /// Its name: the origin of the ledgers it signs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its public half.
    #[must_use]
    pub fn verifier(&self) -> VerifierKey {
        VerifierKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs the checkpoint of a tree. `extensions` are lines of our own; line breaks in them become spaces.
    #[must_use]
    pub fn sign(&self, size: u64, root: Hash, extensions: &[String]) -> String {
        let extensions = extensions
            .iter()
            .map(|line| line.replace(|c: char| c.is_control(), " "))
            .filter(|line| !line.is_empty())
            .collect();
        let checkpoint = Checkpoint { origin: self.name.clone(), size, root, extensions };
        let text = checkpoint.text();
        let mut bytes = key_id(&self.name, &self.key.verifying_key()).to_vec();
        bytes.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("name", &self.name).finish_non_exhaustive()
    }
}

fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([b'\n', ED25519]);
    hash.update(key.as_bytes());
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

/// Says whether `text` can name a key: not empty, without spaces, plus signs and control characters.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// Reads a number in its one decimal form.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

/// Writes bytes in base64.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads base64 in its one form: with padding, without bits that mean nothing.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Reads a hash in base64.
pub(super) fn decode_hash(text: &str) -> Option<Hash> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests;
