//! Request digest and fingerprint: the two identities of an action that others may sign, store or compare; and the
//! idempotency key that a target gets.
//!
//! All are SHA-256 over a domain tag and fields, each field preceded by its length as eight big-endian bytes;
//! an absent field is the length `2^64 - 1` and nothing else, so that it differs from an empty one and no two
//! lists of fields share their bytes. The **request digest** says *what is asked*: it is what a once key
//! is compared with, and a deploy or a key rotation does not change it. The **fingerprint** adds *under which
//! definition, credential and policy*: it is what an approval signs. The **idempotency key** says *which operation*.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

const REQUEST_TAG: &[u8] = b"checkrein-request-v1";
const IDEMPOTENCY_TAG: &[u8] = b"checkrein-idempotency-v1";
const FINGERPRINT_TAG: &[u8] = b"checkrein-fingerprint-v1";

/// What an action asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The namespace of the tool.
    pub namespace: &'a str,
    /// The name of the tool.
    pub name: &'a str,
    /// On whose behalf.
    pub principal: &'a str,
    /// What the tool acts on, where it is not part of the arguments (a host, a server).
    pub target: Option<&'a str>,
    /// The arguments as canonical JSON (see [`crate::canonical_json`]).
    pub arguments: &'a [u8],
}

/// Under which circumstances a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Circumstances<'a> {
    /// The digest of the tool's definition.
    pub tool_definition: Option<&'a [u8]>,
    /// The reference (never the value) of the credential that will be injected.
    pub credential: Option<&'a str>,
    /// The scope of policy that decides.
    pub policy_scope: Option<&'a str>,
    /// The arguments as they were received, where those bytes are what is sent on.
    pub raw_arguments: Option<&'a [u8]>,
}

/// The SHA-256 of a request: equal for equal tool, target, principal and canonical arguments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestDigest([u8; 32]);

/// The SHA-256 of a request and its circumstances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl RequestDigest {
    /// Computes the digest of `request`.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        Self(digest(
            REQUEST_TAG,
            [
                Some(request.namespace.as_bytes()),
                Some(request.name.as_bytes()),
                Some(request.principal.as_bytes()),
                request.target.map(str::as_bytes),
                Some(request.arguments),
            ],
        ))
    }
}

impl Fingerprint {
    /// Computes the fingerprint of a request under its circumstances.
    #[must_use]
    pub fn of(request: RequestDigest, circumstances: &Circumstances<'_>) -> Self {
        Self(digest(
            FINGERPRINT_TAG,
            [
                Some(request.as_bytes()),
                circumstances.tool_definition,
                circumstances.credential.map(str::as_bytes),
                circumstances.policy_scope.map(str::as_bytes),
                circumstances.raw_arguments,
            ],
        ))
    }
}

/// What a target is given to tell the attempts of one operation apart from other operations: equal for equal scope,
/// in every process and after every restart.
///
/// It is written as a UUID of version 8 (RFC 9562) over the first 128 bits of its SHA-256: 36 characters, which every
/// interface that takes such keys accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey([u8; 16]);

impl IdempotencyKey {
    /// The key of the operation `key` of one tenant and one once gate.
    #[must_use]
    pub fn of(tenant: &[u8], namespace: &str, gate: &str, key: &[u8]) -> Self {
        let fields = [Some(tenant), Some(namespace.as_bytes()), Some(gate.as_bytes()), Some(key)];
        let hash = u128::from_be_bytes(first_half(digest(IDEMPOTENCY_TAG, fields)));
        let (version, variant) = (0xf_u128 << 76, 0b11_u128 << 62);
        Self((hash & !version & !variant | 8 << 76 | 0b10 << 62).to_be_bytes())
    }
}

fn first_half(hash: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.iter_mut().zip(hash).for_each(|(slot, byte)| *slot = byte);
    half
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (byte, position) in self.0.iter().zip(0..) {
            let dash = if matches!(position, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(formatter, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

fn digest<const N: usize>(tag: &[u8], fields: [Option<&[u8]>; N]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in std::iter::once(Some(tag)).chain(fields) {
        match field {
            Some(field) => {
                hash.update((field.len() as u64).to_be_bytes());
                hash.update(field);
            }
            None => hash.update(u64::MAX.to_be_bytes()),
        }
    }
    hash.finalize().into()
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lower-case hexadecimal digits")]
pub struct InvalidDigest;

macro_rules! hexadecimal {
    ($name:ident) => {
        impl $name {
            /// Takes bytes that were stored earlier.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                read_hexadecimal(text).map(Self)
            }
        }
    };
}

hexadecimal!(RequestDigest);
hexadecimal!(Fingerprint);

fn read_hexadecimal(text: &str) -> Result<[u8; 32], InvalidDigest> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(InvalidDigest),
    };
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return Err(InvalidDigest);
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        if let [high, low] = *pair {
            *byte = (value(high)? << 4) | value(low)?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical_json;
    use crate::json::{Limits, read_str};
    use proptest::prelude::*;

    const REFUND: Request<'_> = Request {
        namespace: "stripe",
        name: "refund",
        principal: "user:42",
        target: None,
        arguments: br#"{"amount":100,"currency":"eur"}"#,
    };

    /// The expected digests were computed with Python's hashlib over the bytes that the module describes.
    fn check(request: &Request<'_>, circumstances: &Circumstances<'_>, digest: &str, fingerprint: &str) {
        let computed = RequestDigest::of(request);
        assert_eq!(computed.to_string(), digest);
        assert_eq!(Fingerprint::of(computed, circumstances).to_string(), fingerprint);
    }

    #[test]
    fn a_plain_request() {
        check(
            &REFUND,
            &Circumstances::default(),
            "6cdb7fb088c2cd2f345d3e8806fc3c72f703eb14996bfe1ea2718d85fe48bec3",
            "2305c5e437a38bf4fc27c36b03091764deb1bbb130e081e6d72d145a8518d084",
        );
    }

    #[test]
    fn a_request_with_a_target() {
        check(
            &Request { target: Some("api.stripe.com"), ..REFUND },
            &Circumstances {
                tool_definition: Some(&[7; 32]),
                credential: Some("secret:stripe"),
                policy_scope: Some("tools.stripe.refund"),
                raw_arguments: Some(b"{}"),
            },
            "e3166c23182fde5a0ed0de23163d420354a0616529dcf909a92371dba62d7a14",
            "e63f564534752a6299a6325461b08f0c4974088c77c7650b081b422acb2ddd0b",
        );
    }

    #[test]
    fn an_empty_target_is_not_an_absent_one() {
        check(
            &Request { target: Some(""), ..REFUND },
            &Circumstances { credential: Some(""), ..Default::default() },
            "384a02590eec2e3b7e592a1472b639c8c6cb2b35cccf3b8fd300422dbaa34c0d",
            "004653c99db02f91bcddcf7b30a3b2fffe4efcf634947c12d9cf32195c96db85",
        );
    }

    #[test]
    fn text_is_hashed_as_utf_8() {
        check(
            &Request { principal: "zo\u{eb}", arguments: b"{}", ..REFUND },
            &Circumstances { policy_scope: Some("p"), ..Default::default() },
            "6e9c3739285860f3adbe9f4b4088f6af1bf9579cec8b25b1f5be4d8af9861173",
            "26fc06dde1f7a8533cc5b58c3c7554e64237d871357f764fe35275ed15bbe5e4",
        );
    }

    #[test]
    fn a_written_digest_reads_back() {
        let digest = RequestDigest::of(&REFUND);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(format!("{digest:?}"), format!("RequestDigest({digest})"));
        for text in ["", "00", &"A".repeat(64), &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(text.parse::<Fingerprint>(), Err(InvalidDigest), "of {text}");
        }
    }

    /// The expected text was computed with Python's hashlib and uuid.
    #[test]
    fn an_operation_has_one_idempotency_key() {
        let of = |tenant: &str, gate: &str, key: &str| {
            IdempotencyKey::of(tenant.as_bytes(), "python", gate, key.as_bytes()).to_string()
        };
        assert_eq!(of("acme", "refund.once", "pay_1"), "324a64ed-5e56-81f7-9e85-01ceb727c93e");
        assert_ne!(of("", "refund.once", "pay_1"), of("acme", "refund.once", "pay_1"));
        assert_ne!(of("a", "bc", "d"), of("ab", "c", "d"));
    }

    #[test]
    fn documents_with_one_meaning_have_one_digest() {
        let of = |document: &str| {
            let arguments = canonical_json::to_vec(&read_str(document, &Limits::default()).unwrap());
            RequestDigest::of(&Request { arguments: &arguments, ..REFUND })
        };
        assert_eq!(of(r#"{"amount":100,"currency":"eur"}"#), RequestDigest::of(&REFUND));
        assert_eq!(of(r#"{ "currency" : "\u0065ur", "amount" : 1e2 }"#), RequestDigest::of(&REFUND));
        assert_ne!(of(r#"{"amount":9007199254740993}"#), of(r#"{"amount":9007199254740992}"#));
    }

    proptest! {
        /// Moving characters from one field to its neighbour is another request.
        #[test]
        fn fields_cannot_be_shifted(text in "[a:@]{2,12}", first in 0_usize..12, second in 0_usize..12) {
            let cut = |place: usize| {
                let (namespace, name) = text.split_at(place % text.len());
                RequestDigest::of(&Request { namespace, name, ..REFUND })
            };
            prop_assert_eq!(cut(first) == cut(second), first % text.len() == second % text.len());
        }
    }
}
