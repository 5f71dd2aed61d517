//! Key files: an Ed25519 seed with mode 0600, as it is or under a passphrase, and its public half beside it.
//!
//! A private key is one line: `PRIVATE+KEY+NAME+ID+BASE64` as Go's tools for signed notes write it, or
//! `ENCRYPTED+KEY+NAME+ID+BASE64` with the seed in XChaCha20-Poly1305 under a key that argon2id makes of the passphrase.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use checkrein_core::ledger::checkpoint::{Signer, VerifierKey, decode, encode};
use checkrein_core::ledger::tree::to_hex;
use zeroize::{Zeroize as _, Zeroizing};

use super::LedgerError;

/// The environment variable that a passphrase is taken from.
pub const PASSPHRASE: &str = "CHECKREIN_KEY_PASSPHRASE";

const PLAIN: &str = "PRIVATE+KEY+";
const ENCRYPTED: &str = "ENCRYPTED+KEY+";
const ED25519: u8 = 1;
/// Memory in KiB, passes and lanes of argon2id: 64 MiB, as RFC 9106 recommends where memory is scarce.
const COST: [u32; 3] = [64 << 10, 3, 1];
/// What a file may ask for at most, so that reading one cannot exhaust the machine.
const MOST_COST: [u32; 3] = [1 << 20, 16, 8];
const SALT: usize = 16;
const NONCE: usize = 24;
/// Parameters, salt, nonce, and the seed with its tag.
const SEALED: usize = 1 + 12 + SALT + NONCE + 32 + 16;

/// The private key file that belongs to a store's file.
#[must_use]
pub fn default_path(database: &Path) -> PathBuf {
    with_suffix(database, ".key")
}

/// The public key file that belongs to a private one.
#[must_use]
pub fn public_path(key: &Path) -> PathBuf {
    if key.extension().is_some_and(|extension| extension == "key") {
        key.with_extension("pub")
    } else {
        with_suffix(key, ".pub")
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Makes a key: its file and the public one beside it, neither of which must exist yet.
///
/// # Errors
/// A file exists or cannot be written, or the name cannot name a key.
pub fn create(path: &Path, name: Option<&str>, passphrase: Option<&str>) -> Result<Signer, LedgerError> {
    let failed = |why: &str| LedgerError::Key { path: path.to_owned(), why: why.to_owned() };
    let beside = public_path(path);
    if beside.exists() && !path.exists() {
        // Whoever trusts the public key would be handed another one.
        return Err(failed(&format!(
            "it is not there and its public key `{}` is: restore it, or move that file away if its ledger is gone",
            beside.display()
        )));
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    fill(&mut *seed).map_err(|why| failed(&why))?;
    let signer = Signer::new(name, &seed)
        .map_err(|_| failed("a key's name has no spaces, no `+` and at most 255 bytes"))?;
    let public = signer.verifier();
    let text = match passphrase {
        None => plain(&public, &seed),
        Some("") => return Err(failed("the passphrase is empty")),
        Some(passphrase) => encrypted(&public, &seed, passphrase).map_err(|why| failed(&why))?,
    };
    put_new(path, text.as_bytes()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => failed("it exists already; a key is never overwritten"),
        _ => LedgerError::File { path: path.to_owned(), why: error },
    })?;
    write_public(&beside, &public)?;
    Ok(signer)
}

/// Reads a key. `passphrase` is asked for one if the file is encrypted.
///
/// # Errors
/// The file cannot be read, others than its owner can read it, it holds no key, or the passphrase is wrong.
pub fn load(
    path: &Path,
    passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
) -> Result<Signer, LedgerError> {
    let failed = |why: &str| LedgerError::Key { path: path.to_owned(), why: why.to_owned() };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(LedgerError::file(path))?);
    refuse_shared(path).map_err(|why| failed(&why))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let (rest, is_plain) = match (line.strip_prefix(PLAIN), line.strip_prefix(ENCRYPTED)) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => return Err(failed("it holds no private key")),
    };
    // Names and ids have no `+`; base64 has.
    let mut parts = rest.splitn(3, '+');
    let (Some(name), Some(id), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(failed("it holds no private key"));
    };
    let head = format!("{name}+{id}");
    let body = Zeroizing::new(decode(body).ok_or_else(|| failed("it is not base64"))?);
    let seed = if is_plain {
        let seed = body.strip_prefix(&[ED25519]).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        Zeroizing::new(seed.ok_or_else(|| failed("it holds no Ed25519 key"))?)
    } else {
        let passphrase = passphrase().ok_or_else(|| LedgerError::Passphrase(path.to_owned()))?;
        open(&body, &head, &passphrase).map_err(|why| failed(&why))?
    };
    let signer = Signer::new(Some(name), &seed).map_err(|_| failed("its name cannot name a key"))?;
    if to_hex(&signer.verifier().id()) != id {
        return Err(failed("its id is not that of its key"));
    }
    Ok(signer)
}

/// Reads the key of a store's ledger, and makes it at first use: for a ledger that has nothing sealed. A sealed one has
/// one key for its whole life, and no other is made for it.
///
/// # Errors
/// Those of [`load`] and [`create`], or the key of a sealed ledger is not there.
pub fn of_ledger(
    path: &Path,
    is_sealed: bool,
    passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
) -> Result<Signer, LedgerError> {
    if is_sealed && !path.exists() {
        let why = "it is not there, and this ledger has been sealed by a key: restore that file, or name the one \
                   that sealed it (`ledger_key=`, `--key`); beside a copy or a restored backup goes a copy of the \
                   key";
        return Err(LedgerError::Key { path: path.to_owned(), why: why.to_owned() });
    }
    load_or_create(path, passphrase)
}

/// Reads a key, and makes it if it is not there.
///
/// # Errors
/// Those of [`load`] and [`create`].
pub fn load_or_create(
    path: &Path,
    passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
) -> Result<Signer, LedgerError> {
    if !path.exists() {
        match create(path, None, None) {
            // Another process was faster: its key counts.
            Err(LedgerError::Key { .. }) if path.exists() => {}
            made => return made,
        }
    }
    load(path, passphrase)
}

/// The passphrase in the environment, if there is one.
#[must_use]
pub fn passphrase_of_environment() -> Option<Zeroizing<String>> {
    std::env::var(PASSPHRASE).ok().filter(|text| !text.is_empty()).map(Zeroizing::new)
}

/// Reads a public key file.
///
/// # Errors
/// It cannot be read, or holds no public key.
pub fn load_public(path: &Path) -> Result<VerifierKey, LedgerError> {
    let text = std::fs::read_to_string(path).map_err(LedgerError::file(path))?;
    let line = text.trim();
    if line.starts_with(PLAIN) || line.starts_with(ENCRYPTED) {
        let why =
            "it is the private key; the public one lies beside it, in a file that ends in `.pub`".to_owned();
        return Err(LedgerError::Key { path: path.to_owned(), why });
    }
    line.parse().map_err(|error: checkrein_core::ledger::checkpoint::InvalidKey| LedgerError::Key {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// Writes a public key file.
///
/// # Errors
/// It cannot be written.
pub fn write_public(path: &Path, key: &VerifierKey) -> Result<(), LedgerError> {
    let temporary = temporary_of(path);
    let written = write_file(&temporary, format!("{key}\n").as_bytes(), 0o644)
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(LedgerError::file(path))
}

fn plain(public: &VerifierKey, seed: &[u8; 32]) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(vec![ED25519]);
    bytes.extend_from_slice(seed);
    let body = Zeroizing::new(encode(&bytes));
    Zeroizing::new(format!("{PLAIN}{}+{}+{}\n", public.name(), to_hex(&public.id()), *body))
}

fn encrypted(public: &VerifierKey, seed: &[u8; 32], passphrase: &str) -> Result<Zeroizing<String>, String> {
    let (mut salt, mut nonce) = ([0_u8; SALT], [0_u8; NONCE]);
    fill(&mut salt)?;
    fill(&mut nonce)?;
    let head = format!("{}+{}", public.name(), to_hex(&public.id()));
    let mut bytes = vec![ED25519];
    COST.iter().for_each(|cost| bytes.extend(cost.to_be_bytes()));
    bytes.extend(salt);
    bytes.extend(nonce);
    let cipher = cipher(passphrase, &salt, COST)?;
    let aad = [head.as_bytes(), &bytes].concat();
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), Payload { msg: seed, aad: &aad })
        .map_err(|_| "it cannot be encrypted".to_owned())?;
    bytes.extend(sealed);
    Ok(Zeroizing::new(format!("{ENCRYPTED}{head}+{}\n", encode(&bytes))))
}

fn open(bytes: &[u8], head: &str, passphrase: &str) -> Result<Zeroizing<[u8; 32]>, String> {
    let damaged = || "it is damaged".to_owned();
    if bytes.len() != SEALED || bytes.first() != Some(&ED25519) {
        return Err(damaged());
    }
    let (parameters, sealed) = bytes.split_at_checked(SEALED - 48).ok_or_else(damaged)?;
    let mut cost = [0; 3];
    let numbers = parameters.get(1..13).ok_or_else(damaged)?;
    for ((value, bytes), most) in cost.iter_mut().zip(numbers.as_chunks::<4>().0).zip(MOST_COST) {
        *value = u32::from_be_bytes(*bytes);
        if *value == 0 || *value > most {
            return Err("it asks for more than 1 GiB or 16 passes".to_owned());
        }
    }
    let salt = parameters.get(13..13 + SALT).and_then(|salt| salt.try_into().ok()).ok_or_else(damaged)?;
    let nonce: [u8; NONCE] =
        parameters.get(13 + SALT..).and_then(|nonce| nonce.try_into().ok()).ok_or_else(damaged)?;
    let aad = [head.as_bytes(), parameters].concat();
    let seed = cipher(passphrase, salt, cost)?
        .decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad })
        .map(Zeroizing::new)
        .map_err(|_| "the passphrase is wrong, or the file was changed".to_owned())?;
    seed.as_slice().try_into().map(Zeroizing::new).map_err(|_| damaged())
}

fn cipher(
    passphrase: &str,
    salt: &[u8; SALT],
    [memory, passes, lanes]: [u32; 3],
) -> Result<XChaCha20Poly1305, String> {
    let parameters =
        argon2::Params::new(memory, passes, lanes, Some(32)).map_err(|error| error.to_string())?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
    let mut key = [0_u8; 32];
    argon.hash_password_into(passphrase.as_bytes(), salt, &mut key).map_err(|error| error.to_string())?;
    let cipher = XChaCha20Poly1305::new(&key.into());
    key.zeroize();
    Ok(cipher)
}

fn fill(bytes: &mut [u8]) -> Result<(), String> {
    getrandom::fill(bytes).map_err(|error| format!("the system gives no random bytes: {error}"))
}

/// Puts a whole file in its place, unless there is one: nobody ever sees half a key.
fn put_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = temporary_of(path);
    let put = write_file(&temporary, bytes, 0o600).and_then(|()| std::fs::hard_link(&temporary, path));
    // The name that counts is there or it is not; the other one goes in both cases.
    let _ = std::fs::remove_file(&temporary);
    put
}

fn temporary_of(path: &Path) -> PathBuf {
    with_suffix(path, &format!(".{}.new", std::process::id()))
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // What a killed process of the same number left behind is in the way.
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A private key that others can read is no secret any more.
fn refuse_shared(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = std::fs::metadata(path).map_err(|error| error.to_string())?.mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!("others can read it (mode {:03o}); run `chmod 600` on it, or make a new one", mode & 0o777))
}
