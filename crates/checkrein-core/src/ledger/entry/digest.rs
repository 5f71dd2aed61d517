//! Digests that can be erased: without its salt a digest of few possible values says nothing.

use sha2::{Digest as _, Sha256};

use crate::fingerprint::RequestDigest;

/// Bytes of a salt, drawn afresh for every entry.
pub const SALT_LENGTH: usize = 16;

/// The digest of canonical arguments under the salt of their entry.
#[must_use]
pub fn salted_arguments(salt: &[u8; SALT_LENGTH], arguments: &[u8]) -> [u8; 32] {
    salted(b"checkrein-arguments-v1", salt, arguments)
}

/// The digest of a request under the salt of its entry.
#[must_use]
pub fn keyed_request(salt: &[u8; SALT_LENGTH], request: &RequestDigest) -> [u8; 32] {
    salted(b"checkrein-request-keyed-v1", salt, request.as_bytes())
}

/// The tag is of fixed content and the salt of fixed length, so that no two inputs share their bytes.
fn salted(tag: &[u8], salt: &[u8; SALT_LENGTH], bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(tag);
    hash.update([0]);
    hash.update(salt);
    hash.update(bytes);
    hash.finalize().into()
}
