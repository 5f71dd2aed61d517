//! Names of tools in a policy file: exact, or a pattern in which `*` stands for any text.

use std::cmp::Ordering;
use std::fmt;

/// Which tools a section covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    literal: usize,
}

impl Pattern {
    /// A pattern from its text.
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), literal: text.chars().filter(|c| *c != '*').count() }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers one name only.
    pub fn is_exact(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether it covers a name.
    pub fn covers(&self, name: &str) -> bool {
        let mut pieces = self.text.split('*');
        let Some(rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
        let mut rest = rest;
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        // The first place where a piece fits leaves the most room for those behind it.
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = rest.get(at.saturating_add(piece.len())..).unwrap_or_default();
        }
        rest.ends_with(last)
    }

    /// Less specific patterns come first: fewer characters that are not `*`, exact names last.
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        let rank = |pattern: &Self| (pattern.is_exact(), pattern.literal);
        rank(self).cmp(&rank(other)).then_with(|| self.text.cmp(&other.text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_names() {
        for (pattern, name, covers) in [
            ("stripe.refund", "stripe.refund", true),
            ("stripe.refund", "stripe.refunds", false),
            ("stripe.*", "stripe.refund", true),
            ("stripe.*", "stripe.", true),
            ("stripe.*", "stripe", false),
            ("*", "", true),
            ("*.delete", "db.users.delete", true),
            ("*.delete", "delete", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("**", "x", true),
            ("ä*", "äö", true),
        ] {
            assert_eq!(Pattern::new(pattern).covers(name), covers, "{pattern} {name}");
        }
    }

    #[test]
    fn exact_names_are_the_most_specific() {
        let mut patterns: Vec<Pattern> = ["db.x", "*", "db.users.*", "db.*"].map(Pattern::new).into();
        patterns.sort_by(Pattern::by_specificity);
        let order: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
        assert_eq!(order, ["*", "db.*", "db.users.*", "db.x"]);
    }
}
