//! Which references mean a model: texts, beginnings, ends, digits, and combinations of them.

use checkrein_core::json::Value;

/// A test of a reference in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clause {
    Is(Box<str>),
    Begins(Box<str>),
    Ends(Box<str>),
    Has(Box<str>),
    /// The whole text, `#` standing for a digit.
    Whole(Box<str>),
    /// The beginning of the text, `#` standing for a digit.
    Start(Box<str>),
    Any(Box<[Clause]>),
    All(Box<[Clause]>),
    Not(Box<Clause>),
}

/// How deep clauses may nest: the book needs three.
const DEPTH: usize = 8;

impl Clause {
    /// Reads a clause as the book writes it: a mark and a text, or a list that begins with how it combines.
    pub(super) fn read(value: &Value) -> Option<Self> {
        Self::read_within(value, DEPTH)
    }

    fn read_within(value: &Value, depth: usize) -> Option<Self> {
        if let Some(text) = value.as_str() {
            let mut characters = text.chars();
            let mark = characters.next()?;
            let word: Box<str> = characters.as_str().into();
            return match mark {
                '=' => Some(Self::Is(word)),
                '^' => Some(Self::Begins(word)),
                '$' => Some(Self::Ends(word)),
                '*' => Some(Self::Has(word)),
                '#' => Some(Self::Whole(word)),
                '~' => Some(Self::Start(word)),
                _ => None,
            };
        }
        let (mark, parts) = value.as_array()?.split_first()?;
        let depth = depth.checked_sub(1)?;
        let parts = parts.iter().map(|part| Self::read_within(part, depth)).collect::<Option<Vec<_>>>()?;
        match (mark.as_str()?, parts.as_slice()) {
            (_, []) => None,
            ("|", _) => Some(Self::Any(parts.into())),
            ("&", _) => Some(Self::All(parts.into())),
            ("!", [one]) => Some(Self::Not(Box::new(one.clone()))),
            _ => None,
        }
    }

    /// Whether a reference, in lower case, passes.
    pub(super) fn fits(&self, text: &str) -> bool {
        match self {
            Self::Is(word) => text == &**word,
            Self::Begins(word) => text.starts_with(&**word),
            Self::Ends(word) => text.ends_with(&**word),
            Self::Has(word) => text.contains(&**word),
            Self::Whole(word) => text.len() == word.len() && begins_like(text, word),
            Self::Start(word) => begins_like(text, word),
            Self::Any(parts) => parts.iter().any(|part| part.fits(text)),
            Self::All(parts) => parts.iter().all(|part| part.fits(text)),
            Self::Not(part) => !part.fits(text),
        }
    }
}

fn begins_like(text: &str, word: &str) -> bool {
    text.len() >= word.len()
        && text
            .bytes()
            .zip(word.bytes())
            .all(|(byte, wanted)| if wanted == b'#' { byte.is_ascii_digit() } else { byte == wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkrein_core::json::{Limits, read_str};

    fn clause(text: &str) -> Option<Clause> {
        Clause::read(&read_str(text, &Limits::default()).unwrap())
    }

    #[test]
    fn each_mark_does_what_it_says() {
        for (written, fits, fails) in [
            (r#""=gpt-5""#, "gpt-5", "gpt-5-mini"),
            (r#""^gpt-5""#, "gpt-5-mini", "a-gpt-5"),
            (r#""$-tts""#, "x-tts", "x-tts-1"),
            (r#""*claude""#, "a/claude-2", "claud"),
            (r###""#v-####""###, "v-2025", "v-202"),
            (r###""#v-####""###, "v-0000", "v-20251"),
            (r###""~v-#""###, "v-1-anything", "v-x"),
            (r#"["|","=a","=b"]"#, "b", "c"),
            (r#"["&","^a","$b"]"#, "a-b", "a-c"),
            (r#"["!","*/"]"#, "ab", "a/b"),
        ] {
            let read = clause(written).unwrap();
            assert!(read.fits(fits), "{written} {fits}");
            assert!(!read.fits(fails), "{written} {fails}");
        }
    }

    #[test]
    fn what_is_no_clause_is_refused() {
        let deep = format!("{}\"=a\"{}", r#"["!","#.repeat(9), "]".repeat(9));
        for written in
            [r#""""#, r#""a""#, "1", "[]", r#"["|"]"#, r#"["!","=a","=b"]"#, r#"["?","=a"]"#, &deep]
        {
            assert_eq!(clause(written), None, "{written}");
        }
    }
}
