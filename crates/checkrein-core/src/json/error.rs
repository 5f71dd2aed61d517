//! Why a document is refused: a stable code, the byte, the fact, and advice.

use std::fmt;

/// A document that is not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The byte of the document at which it is wrong, counted from zero.
    pub offset: usize,
}

impl JsonError {
    /// Returns the stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Returns what to do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.kind.hint()
    }
}

/// The ways in which a document fails to be strict JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// More bytes than the limit.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// More open arrays and objects than the limit.
    TooDeep {
        /// The limit in open containers.
        limit: usize,
    },
    /// More values than the limit.
    TooManyNodes {
        /// The limit in values.
        limit: usize,
    },
    /// A number written with more characters than the limit.
    NumberTooLong {
        /// The limit in characters.
        limit: usize,
    },
    /// The document begins with a byte order mark.
    ByteOrderMark,
    /// The bytes are not UTF-8.
    InvalidUtf8,
    /// The document ends in the middle of a value.
    UnexpectedEnd,
    /// A character that cannot stand here.
    UnexpectedCharacter {
        /// The character found.
        found: char,
        /// What could have stood here.
        expected: &'static str,
    },
    /// Something follows the value.
    TrailingData,
    /// A raw control character inside a string.
    ControlCharacter {
        /// The character found.
        found: char,
    },
    /// A backslash sequence that JSON does not know.
    InvalidEscape,
    /// Half of a UTF-16 surrogate pair.
    LoneSurrogate,
    /// The same key twice in one object, compared after unescaping.
    DuplicateKey {
        /// The key, cut to a printable length.
        key: String,
    },
    /// A number that JSON does not write this way, such as `01`, `1.` or `+1`.
    InvalidNumber,
    /// An integer that needs more than 64 bits.
    IntegerOutOfRange,
    /// A number with a fraction or exponent that a double cannot hold.
    FloatOutOfRange,
    /// `NaN` or `Infinity`.
    NonFinite,
}

impl JsonErrorKind {
    /// Returns the stable code of this kind.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "json_too_large",
            Self::TooDeep { .. } => "json_too_deep",
            Self::TooManyNodes { .. } => "json_too_many_nodes",
            Self::NumberTooLong { .. } => "json_number_too_long",
            Self::ByteOrderMark => "json_byte_order_mark",
            Self::InvalidUtf8 => "json_invalid_utf8",
            Self::UnexpectedEnd => "json_unexpected_end",
            Self::UnexpectedCharacter { .. } => "json_unexpected_character",
            Self::TrailingData => "json_trailing_data",
            Self::ControlCharacter { .. } => "json_control_character",
            Self::InvalidEscape => "json_invalid_escape",
            Self::LoneSurrogate => "json_lone_surrogate",
            Self::DuplicateKey { .. } => "json_duplicate_key",
            Self::InvalidNumber => "json_invalid_number",
            Self::IntegerOutOfRange => "json_integer_out_of_range",
            Self::FloatOutOfRange => "json_float_out_of_range",
            Self::NonFinite => "json_non_finite",
        }
    }

    /// Returns what to do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge { .. } | Self::TooDeep { .. } | Self::TooManyNodes { .. } => {
                Some("send less in one document, or raise the limit of this door")
            }
            Self::NumberTooLong { .. } | Self::IntegerOutOfRange => {
                Some("write a number beyond 64 bits as a string")
            }
            Self::ByteOrderMark => Some("send UTF-8 without a byte order mark"),
            Self::InvalidUtf8 => Some("send UTF-8"),
            Self::UnexpectedCharacter { found, .. } => match found {
                '\'' => Some("strings are written in double quotes"),
                '/' | '#' => Some("JSON has no comments"),
                ']' | '}' => Some("JSON has no trailing comma"),
                _ => None,
            },
            Self::TrailingData => Some("send exactly one value"),
            Self::ControlCharacter { .. } => Some("escape it, for example `\\n` or `\\u0000`"),
            Self::InvalidEscape => Some("escapes are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\uXXXX"),
            Self::LoneSurrogate => Some("a character beyond U+FFFF needs both halves of its pair"),
            Self::DuplicateKey { .. } => Some("two readers may choose different members; send each key once"),
            Self::InvalidNumber => {
                Some("numbers have no leading zero or plus sign and digits around the point")
            }
            Self::FloatOutOfRange => Some("write a number that a double cannot hold as a string"),
            Self::NonFinite => Some("JSON has no such number; send null or a string"),
            Self::UnexpectedEnd => None,
        }
    }
}

impl fmt::Display for JsonErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => write!(formatter, "more than {limit} bytes"),
            Self::TooDeep { limit } => write!(formatter, "more than {limit} nested arrays and objects"),
            Self::TooManyNodes { limit } => write!(formatter, "more than {limit} values"),
            Self::NumberTooLong { limit } => write!(formatter, "a number of more than {limit} characters"),
            Self::ByteOrderMark => formatter.write_str("a byte order mark"),
            Self::InvalidUtf8 => formatter.write_str("bytes that are not UTF-8"),
            Self::UnexpectedEnd => formatter.write_str("the document ends too early"),
            Self::UnexpectedCharacter { found, expected } => {
                write!(formatter, "unexpected `{}`, expected {expected}", printable(&found.to_string()))
            }
            Self::TrailingData => formatter.write_str("something follows the value"),
            Self::ControlCharacter { found } => {
                write!(formatter, "control character U+{:04X} inside a string", u32::from(*found))
            }
            Self::InvalidEscape => formatter.write_str("an unknown escape"),
            Self::LoneSurrogate => formatter.write_str("half of a surrogate pair"),
            Self::DuplicateKey { key } => write!(formatter, "key `{}` repeats", printable(key)),
            Self::InvalidNumber => formatter.write_str("a number that JSON does not write this way"),
            Self::IntegerOutOfRange => formatter.write_str("an integer beyond 64 bits"),
            Self::FloatOutOfRange => formatter.write_str("a number that a double cannot hold"),
            Self::NonFinite => formatter.write_str("a number that is not finite"),
        }
    }
}

/// Escapes what a terminal or log would hide, and leaves quotes as they are.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| match character {
            '\'' | '"' => character.to_string().chars().collect::<Vec<_>>(),
            _ => character.escape_debug().collect(),
        })
        .collect()
}
