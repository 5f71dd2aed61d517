//! The names an expression uses: which variables it reads, and whether all of them exist.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators};

use super::bounds::children;
use super::error::{ExpressionError, Span, nearest};

/// The functions of CEL's standard library that are available here. Times, durations and optionals are not.
const FUNCTIONS: [&str; 13] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "bytes",
    "type",
    "dyn",
];

/// The types that can be compared with `type(x)`.
const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];

/// The variables that an expression may use.
///
/// A dotted name such as `args.amount` declares a member of the map `args`; together the members under one
/// name are that map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Variables {
    pub(super) names: Vec<Box<str>>,
}

/// What a chain of selections such as `args.user.id` begins with.
pub(super) enum Root {
    /// A variable and how many of the segments name it.
    Slot(usize, usize),
    /// The map that dotted names under this name make up.
    Group,
    /// Nothing that was declared.
    Unknown,
}

impl Variables {
    pub(super) fn new(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| Box::from(*name)).collect() }
    }

    /// Finds the longest variable that `segments` begin with.
    pub(super) fn root(&self, segments: &[&str]) -> Root {
        let named = |name: &str, count: usize| segments.iter().take(count).copied().eq(name.split('.'));
        for count in (1..=segments.len()).rev() {
            if let Some(slot) = self.names.iter().position(|name| named(name, count)) {
                return Root::Slot(slot, count);
            }
        }
        let first = segments.first().copied().unwrap_or_default();
        let is_group = segments.len() == 1 && self.members(first).next().is_some();
        if is_group { Root::Group } else { Root::Unknown }
    }

    /// Returns the slots and names of the members declared under `group`.
    pub(super) fn members<'n>(&'n self, group: &'n str) -> impl Iterator<Item = (usize, &'n str)> {
        self.names.iter().enumerate().filter_map(move |(slot, name)| {
            name.strip_prefix(group).and_then(|rest| rest.strip_prefix('.')).map(|member| (slot, member))
        })
    }
}

/// Returns the segments of `a.b.c`, root first, or nothing if the expression is no such chain.
pub(super) fn segments(expr: &Expr) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let mut expr = expr;
    loop {
        match expr {
            Expr::Ident(name) => {
                names.push(name.as_str());
                names.reverse();
                return Some(names);
            }
            Expr::Select(select) if !select.test => {
                names.push(select.field.as_str());
                expr = &select.operand.expr;
            }
            _ => return None,
        }
    }
}

/// Walks an expression, notes the slots it reads and refuses names that do not exist.
pub(super) struct Names<'t> {
    pub(super) variables: &'t Variables,
    pub(super) source: &'t Source<'t>,
    /// The variables of comprehensions around the current place.
    pub(super) bound: Vec<&'t str>,
    pub(super) reads: BTreeSet<usize>,
}

impl<'t> Names<'t> {
    pub(super) fn check(&mut self, tree: &'t IdedExpr) -> Result<(), ExpressionError> {
        match &tree.expr {
            Expr::Ident(name) => self.chain(tree, &[name]),
            Expr::Select(select) if select.test => {
                // `has(args.note)` asks for a member: a declared dotted name, or one of whatever `args` is.
                match segments(&select.operand.expr) {
                    Some(mut path) if !self.is_bound(&path) => {
                        path.push(&select.field);
                        self.chain(tree, &path)
                    }
                    _ => self.check(&select.operand),
                }
            }
            Expr::Select(select) => match segments(&tree.expr) {
                Some(path) => self.chain(tree, &path),
                None => self.check(&select.operand),
            },
            Expr::Call(call) => self.call(tree, call),
            Expr::Comprehension(inner) => {
                self.check(&inner.iter_range)?;
                self.check(&inner.accu_init)?;
                self.bound.push(&inner.iter_var);
                self.bound.extend(inner.iter_var2.as_deref());
                self.bound.push(&inner.accu_var);
                let depth = self.bound.len();
                for part in [&inner.loop_cond, &inner.loop_step, &inner.result] {
                    self.check(part)?;
                }
                self.bound.truncate(depth.saturating_sub(2 + usize::from(inner.iter_var2.is_some())));
                Ok(())
            }
            Expr::Struct(_) | Expr::Unspecified => Err(ExpressionError::new(
                "expression_unsupported",
                self.source.span(tree.id).into(),
                "message literals are not supported",
            )),
            Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => {
                let mut result = Ok(());
                children(&tree.expr, &mut |child| {
                    if result.is_ok() {
                        result = self.check(child);
                    }
                });
                result
            }
        }
    }

    fn is_bound(&self, path: &[&str]) -> bool {
        path.first().is_some_and(|root| self.bound.contains(root))
    }

    fn chain(&mut self, tree: &IdedExpr, path: &[&str]) -> Result<(), ExpressionError> {
        if self.is_bound(path) {
            return Ok(());
        }
        match self.variables.root(path) {
            Root::Slot(slot, _) => {
                self.reads.insert(slot);
                Ok(())
            }
            Root::Group => {
                let group = path.first().copied().unwrap_or_default();
                self.reads.extend(self.variables.members(group).map(|(slot, _)| slot));
                Ok(())
            }
            Root::Unknown if matches!(path, [name] if TYPES.contains(name)) => Ok(()),
            Root::Unknown => Err(self.unknown_variable(tree, path)),
        }
    }

    fn unknown_variable(&self, tree: &IdedExpr, path: &[&str]) -> ExpressionError {
        let first = path.first().copied().unwrap_or_default();
        let is_member = self.variables.members(first).next().is_some();
        let name = if is_member { path.get(..2).unwrap_or(path).join(".") } else { first.to_owned() };
        let span = self.source.place_of(&name, self.source.span(tree.id));
        let message = format!("unknown variable `{name}`");
        let error = ExpressionError::new("expression_unknown_variable", span.into(), message);
        let declared = || self.variables.names.iter().map(AsRef::as_ref);
        match nearest(&name, declared()) {
            Some(name) => error.with_hint(format!("did you mean `{name}`?")),
            None if self.variables.names.is_empty() => error.with_hint("there are no variables here"),
            None => {
                let known: Vec<&str> = declared().take(12).collect();
                error.with_hint(format!("known here: {}", known.join(", ")))
            }
        }
    }

    fn call(&mut self, tree: &'t IdedExpr, call: &'t CallExpr) -> Result<(), ExpressionError> {
        let name = call.func_name.as_str();
        let span = || std::ops::Range::from(self.source.span(tree.id));
        // Operators are calls of names that no text can spell.
        let is_operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
        if matches!(name, operators::OPT_INDEX | operators::OPT_SELECT) {
            return Err(ExpressionError::new(
                "expression_unsupported",
                span(),
                "optional values are not supported",
            ));
        }
        if !is_operator && !FUNCTIONS.contains(&name) {
            let message = format!("unknown function `{name}`");
            let error = ExpressionError::new("expression_unknown_function", span(), message);
            return Err(match nearest(name, FUNCTIONS.into_iter()) {
                Some(name) => error.with_hint(format!("did you mean `{name}`?")),
                None => error.with_hint(format!("known: {}", FUNCTIONS.join(", "))),
            });
        }
        if name == "matches" && regex_literal(call).is_none() {
            return Err(ExpressionError::new(
                "expression_regex_not_literal",
                span(),
                "the pattern of `matches` is not a text literal",
            )
            .with_hint("write the pattern into the expression, so that it is checked and compiled once"));
        }
        for part in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
            self.check(part)?;
        }
        Ok(())
    }
}

/// Returns the text and the pattern of `text.matches('pattern')` or `matches(text, 'pattern')`.
pub(super) fn regex_literal(call: &CallExpr) -> Option<(&IdedExpr, &str)> {
    let (text, pattern) = match (&call.target, call.args.as_slice()) {
        (Some(text), [pattern]) => (&**text, pattern),
        (None, [text, pattern]) => (text, pattern),
        _ => return None,
    };
    match &pattern.expr {
        Expr::Literal(LiteralValue::String(pattern)) => Some((text, pattern.inner())),
        _ => None,
    }
}

/// The text of an expression and where its parts stand.
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    pub(super) info: &'t SourceInfo,
}

impl Source<'_> {
    /// Returns the bytes of the token that a part was parsed from, or the whole text where it is not known.
    pub(super) fn span(&self, id: u64) -> Span {
        let end = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        let Some((first, last)) = self.info.offset_for(id) else { return Span { start: 0, end } };
        // The parser counts characters, and its last one belongs to the token.
        let byte = |place: u32| {
            self.text
                .char_indices()
                .nth(place as usize)
                .map_or(end, |(byte, _)| u32::try_from(byte).unwrap_or(end))
        };
        let start = byte(first);
        self.widened(start, byte(last.saturating_add(1)).max(start))
    }

    /// Takes in the name before a `(` and the whole chain around a `.`, which say more than the token does.
    fn widened(&self, start: u32, end: u32) -> Span {
        let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let (before, token) = self.text.split_at_checked(start as usize).unwrap_or((self.text, ""));
        let after = self.text.get(end as usize..).unwrap_or_default();
        let kept_before = match token.chars().next() {
            Some('(') => before.trim_end_matches(is_name),
            Some('.') => before.trim_end_matches(|character| is_name(character) || character == '.'),
            _ => before,
        };
        let kept_after = if token.starts_with('.') { after.trim_start_matches(is_name) } else { after };
        let place = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Span { start: place(kept_before.len()), end: place(self.text.len().saturating_sub(kept_after.len())) }
    }

    /// Returns where `name` stands around a token of it, or the token.
    fn place_of(&self, name: &str, token: Span) -> Span {
        self.text
            .match_indices(name)
            .filter_map(|(start, name)| {
                Some((u32::try_from(start).ok()?, u32::try_from(start.checked_add(name.len())?).ok()?))
            })
            .find(|(start, end)| *start < token.end && token.start < *end)
            .map_or(token, |(start, end)| Span { start, end })
    }
}
