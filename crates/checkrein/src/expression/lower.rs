//! From the parsed expression to the native tree, where it belongs to the common subset.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SelectExpr, operators};
use regex::Regex;

use super::names::{Root, Source, Variables, regex_literal, segments};
use super::native::{Arithmetic, Comparison, Kind, Term, TextTest};

/// What the native evaluation computes.
#[derive(Debug)]
pub(super) enum Native {
    /// One value.
    Value(Term),
    /// Text joined with `+`, at least one part of it a literal, so that every part must be text.
    Join(Vec<Term>),
}

/// Compiles to the native tree.
pub(super) struct Lowering<'t> {
    pub(super) variables: &'t Variables,
    pub(super) source: &'t Source<'t>,
}

impl Lowering<'_> {
    /// Returns the native form of a whole expression, or nothing if it is not in the common subset.
    pub(super) fn whole(&self, tree: &IdedExpr) -> Option<Native> {
        let mut parts = Vec::new();
        joined(tree, &mut parts);
        let is_text = |part: &&IdedExpr| matches!(part.expr, Expr::Literal(LiteralValue::String(_)));
        if parts.len() > 1 && parts.iter().any(is_text) {
            return parts.into_iter().map(|part| self.term(part)).collect::<Option<_>>().map(Native::Join);
        }
        self.term(tree).map(Native::Value)
    }

    fn term(&self, tree: &IdedExpr) -> Option<Term> {
        let kind = match &tree.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Null => Kind::Null,
                LiteralValue::Boolean(value) => Kind::Bool(*value.inner()),
                LiteralValue::Int(number) => Kind::Int(*number.inner()),
                LiteralValue::UInt(number) => Kind::Uint(*number.inner()),
                LiteralValue::Double(number) => Kind::Double(*number.inner()),
                LiteralValue::String(text) => Kind::Text(text.inner().into()),
                LiteralValue::Bytes(bytes) => Kind::Bytes(bytes.inner().into()),
            },
            Expr::Ident(name) => match self.variables.root(&[name]) {
                Root::Slot(slot, _) => Kind::Slot(slot),
                Root::Group | Root::Unknown => return None,
            },
            Expr::Select(select) if select.test => self.presence(select)?,
            Expr::Select(select) => self.selection(tree, select)?,
            Expr::Call(call) => self.call(call)?,
            _ => return None,
        };
        Some(Term { span: self.source.span(tree.id), kind })
    }

    fn boxed(&self, tree: &IdedExpr) -> Option<Box<Term>> {
        self.term(tree).map(Box::new)
    }

    fn selection(&self, tree: &IdedExpr, select: &SelectExpr) -> Option<Kind> {
        if let Some(path) = segments(&tree.expr) {
            return match self.variables.root(&path) {
                Root::Slot(slot, count) if count == path.len() => Some(Kind::Slot(slot)),
                Root::Slot(..) => {
                    Some(Kind::Member(self.boxed(&select.operand)?, select.field.as_str().into()))
                }
                Root::Group | Root::Unknown => None,
            };
        }
        Some(Kind::Member(self.boxed(&select.operand)?, select.field.as_str().into()))
    }

    fn presence(&self, select: &SelectExpr) -> Option<Kind> {
        if let Some(mut path) = segments(&select.operand.expr) {
            path.push(&select.field);
            match self.variables.root(&path) {
                Root::Slot(slot, count) if count == path.len() => return Some(Kind::HasSlot(slot)),
                Root::Slot(..) => {}
                Root::Group | Root::Unknown => return None,
            }
        }
        Some(Kind::HasMember(self.boxed(&select.operand)?, select.field.as_str().into()))
    }

    fn call(&self, call: &CallExpr) -> Option<Kind> {
        match (&call.target, call.args.as_slice()) {
            (None, [of]) => self.unary(&call.func_name, of),
            (None, [left, right]) => self.binary(call, left, right),
            (None, [condition, yes, no]) if call.func_name == operators::CONDITIONAL => {
                let parts = [self.term(condition)?, self.term(yes)?, self.term(no)?];
                Some(Kind::Conditional(Box::new(parts)))
            }
            (Some(target), arguments) => {
                // A variable with the name of a namespace of functions is left to the general evaluation.
                if segments(&target.expr).is_some_and(|path| path.first() == Some(&"optional")) {
                    return None;
                }
                self.method(call, target, arguments)
            }
            _ => None,
        }
    }

    fn unary(&self, name: &str, of: &IdedExpr) -> Option<Kind> {
        match name {
            operators::LOGICAL_NOT => Some(Kind::Not(self.boxed(of)?)),
            operators::NEGATE => Some(Kind::Negate(self.boxed(of)?)),
            "size" => Some(Kind::Size(self.boxed(of)?)),
            _ => None,
        }
    }

    fn binary(&self, call: &CallExpr, left: &IdedExpr, right: &IdedExpr) -> Option<Kind> {
        let pair = || Some((self.boxed(left)?, self.boxed(right)?));
        let comparison = |operator| pair().map(|(left, right)| Kind::Compare(operator, left, right));
        let arithmetic = |operator| pair().map(|(left, right)| Kind::Arithmetic(operator, left, right));
        match call.func_name.as_str() {
            operators::LOGICAL_AND => pair().map(|(left, right)| Kind::And(left, right)),
            operators::LOGICAL_OR => pair().map(|(left, right)| Kind::Or(left, right)),
            operators::EQUALS => pair().map(|(left, right)| Kind::Equal(left, right)),
            operators::NOT_EQUALS => pair().map(|(left, right)| Kind::NotEqual(left, right)),
            operators::INDEX => pair().map(|(of, index)| Kind::Index(of, index)),
            operators::LESS => comparison(Comparison::Less),
            operators::LESS_EQUALS => comparison(Comparison::LessOrEqual),
            operators::GREATER => comparison(Comparison::Greater),
            operators::GREATER_EQUALS => comparison(Comparison::GreaterOrEqual),
            operators::ADD => arithmetic(Arithmetic::Add),
            operators::SUBSTRACT => arithmetic(Arithmetic::Subtract),
            operators::MULTIPLY => arithmetic(Arithmetic::Multiply),
            operators::DIVIDE => arithmetic(Arithmetic::Divide),
            operators::MODULO => arithmetic(Arithmetic::Remainder),
            operators::IN => match &right.expr {
                Expr::List(list) if list.optional_indices.is_empty() => {
                    let items = list.elements.iter().map(|item| self.term(item)).collect::<Option<_>>()?;
                    Some(Kind::InItems(self.boxed(left)?, items))
                }
                _ => pair().map(|(needle, container)| Kind::In(needle, container)),
            },
            "matches" => self.matches(call),
            _ => None,
        }
    }

    fn method(&self, call: &CallExpr, target: &IdedExpr, arguments: &[IdedExpr]) -> Option<Kind> {
        let test = match (call.func_name.as_str(), arguments) {
            ("size", []) => return Some(Kind::Size(self.boxed(target)?)),
            ("matches", [_]) => return self.matches(call),
            ("startsWith", _) => TextTest::StartsWith,
            ("endsWith", _) => TextTest::EndsWith,
            ("contains", _) => TextTest::Contains,
            _ => return None,
        };
        let [part] = arguments else { return None };
        Some(Kind::TextTest(test, self.boxed(target)?, self.boxed(part)?))
    }

    fn matches(&self, call: &CallExpr) -> Option<Kind> {
        let (text, pattern) = regex_literal(call)?;
        Some(Kind::Matches(self.boxed(text)?, Box::new(compile_regex(pattern).ok()?)))
    }
}

/// Compiles a pattern within limits: 256 KiB of program, 1 MiB of cache.
pub(super) fn compile_regex(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(1 << 18).dfa_size_limit(1 << 20).build()
}

/// Takes `a + b + c` apart, in order.
fn joined<'t>(tree: &'t IdedExpr, parts: &mut Vec<&'t IdedExpr>) {
    if let Expr::Call(call) = &tree.expr
        && let (operators::ADD, None, [left, right]) =
            (call.func_name.as_str(), &call.target, call.args.as_slice())
    {
        joined(left, parts);
        parts.push(right);
    } else {
        parts.push(tree);
    }
}
