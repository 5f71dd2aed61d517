//! The general evaluation: values are converted once and the `cel` crate evaluates.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use cel::common::ast::Expr;
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, Kind,
};
use cel::common::value::Val;
use cel::{Context, Env, IdedExpr};
use regex::Regex;

use super::Outcome;
use super::bounds::{TEXT_BYTES_PER_ITEM, children};
use super::error::{EvaluationError, ExpressionError};
use super::lower::compile_regex;
use super::names::{Source, Variables, regex_literal};
use super::scope::{Operand, Scope};

/// How deep converted values may nest: as deep as the JSON reader lets them.
const MAX_DEPTH: usize = 64;

/// An expression as the `cel` crate evaluates it.
#[derive(Debug)]
pub(super) struct General {
    tree: IdedExpr,
    /// The patterns of `matches`, compiled once. Call number `n` has become `checkrein_matches_n(text)`.
    patterns: Vec<Regex>,
    /// The longest list, map or text (in units of 64 bytes) the expression may be evaluated over.
    pub(super) list_bound: u64,
    has_comprehension: bool,
    input_nodes: usize,
}

impl General {
    pub(super) fn new(
        mut tree: IdedExpr,
        source: &Source<'_>,
        list_bound: u64,
        input_nodes: usize,
    ) -> Result<Self, ExpressionError> {
        let mut patterns = Vec::new();
        replace_patterns(&mut tree, source, &mut patterns)?;
        let has_comprehension = contains_comprehension(&tree);
        Ok(Self { tree, patterns, list_bound, has_comprehension, input_nodes })
    }

    pub(super) fn evaluate<'a, S: Scope<'a>>(
        &self,
        variables: &Variables,
        reads: &BTreeSet<usize>,
        scope: &S,
        length: usize,
    ) -> Result<Outcome, EvaluationError> {
        let fail = |code, message: String| EvaluationError::new(code, 0..length, message);
        let mut input = Input { scope, nodes_left: self.input_nodes, largest: 0 };
        let mut context = Context::with_env(environment());
        let mut groups: HashMap<&str, HashMap<CelMapKey<'a>, Box<dyn Val + 'a>>> = HashMap::new();
        for (slot, name) in variables.names.iter().enumerate().filter(|(slot, _)| reads.contains(slot)) {
            if let Some((group, _)) = name.split_once('.') {
                groups.entry(group).or_default();
            }
            let value = match scope.slot(slot) {
                Operand::Missing => continue,
                operand => {
                    input.value(operand, 0).map_err(|unfit| fail(unfit.code(), unfit.message(name)))?
                }
            };
            match name.split_once('.') {
                // The member of a map keeps its own name where it is text: Arc<str> is not a key of CEL's.
                Some((group, member)) => {
                    groups.entry(group).or_default().insert(CelMapKey::from(member.to_owned()), value);
                }
                None => context.add_variable_as_val(&**name, value),
            }
        }
        for (group, members) in groups {
            if !variables.names.iter().any(|name| **name == *group) {
                context.add_variable_as_val(group, Box::new(CelMap::from(members)));
            }
        }
        if self.has_comprehension && input.largest > self.list_bound {
            let (largest, bound) = (input.largest, self.list_bound);
            let message =
                format!("the arguments hold a list of {largest} items, at most {bound} are evaluated here");
            return Err(fail("expression_input_too_large", message));
        }
        for (number, pattern) in self.patterns.iter().enumerate() {
            let pattern = pattern.clone();
            let test = move |text: Arc<String>| pattern.is_match(&text);
            context
                .add_function(&pattern_function(number), test)
                .map_err(|error| fail("expression_failed", error.to_string()))?;
        }
        let value = cel::Value::resolve_val(&self.tree, &context)
            .map_err(|error| fail(code_of(&error), describe(&error)))?;
        Ok(outcome(value.as_ref()))
    }
}

/// The standard library, built once.
fn environment() -> Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    Arc::clone(ENVIRONMENT.get_or_init(|| Arc::new(Env::stdlib())))
}

fn pattern_function(number: usize) -> String {
    format!("checkrein_matches_{number}")
}

fn replace_patterns(
    tree: &mut IdedExpr,
    source: &Source<'_>,
    patterns: &mut Vec<Regex>,
) -> Result<(), ExpressionError> {
    if let Expr::Call(call) = &mut tree.expr
        && call.func_name == "matches"
        && let Some((text, pattern)) = regex_literal(call)
    {
        let regex = compile_regex(pattern).map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(limit) => format!("its program exceeds {limit} bytes"),
                other => other.to_string().lines().last().unwrap_or_default().replace("error: ", ""),
            };
            ExpressionError::new(
                "expression_regex_invalid",
                source.span(tree.id).into(),
                format!("the pattern `{pattern}` is not accepted: {reason}"),
            )
        })?;
        let text = text.clone();
        call.func_name = pattern_function(patterns.len());
        call.target = None;
        call.args = vec![text];
        patterns.push(regex);
    }
    let mut result = Ok(());
    children_mut(&mut tree.expr, &mut |child| {
        if result.is_ok() {
            result = replace_patterns(child, source, patterns);
        }
    });
    result
}

pub(super) fn children_mut(expr: &mut Expr, visit: &mut dyn FnMut(&mut IdedExpr)) {
    use cel::common::ast::EntryExpr;
    let entry = |entry: &mut EntryExpr, visit: &mut dyn FnMut(&mut IdedExpr)| match entry {
        EntryExpr::StructField(field) => visit(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            visit(&mut entry.key);
            visit(&mut entry.value);
        }
    };
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| visit(target));
            call.args.iter_mut().for_each(visit);
        }
        Expr::Comprehension(inner) => {
            visit(&mut inner.iter_range);
            visit(&mut inner.accu_init);
            visit(&mut inner.loop_cond);
            visit(&mut inner.loop_step);
            visit(&mut inner.result);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(visit),
        Expr::Map(map) => map.entries.iter_mut().for_each(|item| entry(&mut item.expr, visit)),
        Expr::Select(select) => visit(&mut select.operand),
        Expr::Struct(strct) => strct.entries.iter_mut().for_each(|item| entry(&mut item.expr, visit)),
    }
}

fn contains_comprehension(tree: &IdedExpr) -> bool {
    let mut found = matches!(tree.expr, Expr::Comprehension(_));
    children(&tree.expr, &mut |child| found = found || contains_comprehension(child));
    found
}

/// Converts what an expression reads, within limits.
struct Input<'s, S> {
    scope: &'s S,
    nodes_left: usize,
    largest: u64,
}

/// A variable that cannot be converted.
enum Unfit {
    Unreadable,
    TooLarge,
}

impl Unfit {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "expression_unreadable",
            Self::TooLarge => "expression_input_too_large",
        }
    }

    fn message(&self, name: &str) -> String {
        match self {
            Self::Unreadable => format!("`{name}` holds something that expressions do not work with"),
            Self::TooLarge => format!("`{name}` is too deep or too large to be evaluated"),
        }
    }
}

impl<'a, S: Scope<'a>> Input<'_, S> {
    fn value(&mut self, operand: Operand<'a, S::Handle>, depth: usize) -> Result<Box<dyn Val + 'a>, Unfit> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(Unfit::TooLarge)?;
        Ok(match operand {
            Operand::Missing | Operand::Unreadable => return Err(Unfit::Unreadable),
            Operand::Null => Box::new(CelNull),
            Operand::Bool(value) => Box::new(CelBool::from(value)),
            Operand::Int(number) => Box::new(CelInt::from(number)),
            Operand::Uint(number) => Box::new(CelUInt::from(number)),
            Operand::Double(number) => Box::new(CelDouble::from(number)),
            Operand::Text(text) => {
                self.note(text.len() / TEXT_BYTES_PER_ITEM);
                Box::new(CelString::from(text))
            }
            Operand::Bytes(bytes) => {
                self.note(bytes.len() / TEXT_BYTES_PER_ITEM);
                Box::new(CelBytes::from(bytes.to_vec()))
            }
            Operand::List(list) => {
                let length = self.enter(list, depth)?;
                let mut items = Vec::with_capacity(length);
                for place in 0..length {
                    items.push(self.value(self.scope.item(list, place), depth.saturating_add(1))?);
                }
                Box::new(CelList::from(items))
            }
            Operand::Map(map) => {
                let length = self.enter(map, depth)?;
                let mut members: Vec<(&'a str, Operand<'a, S::Handle>)> = Vec::with_capacity(length);
                self.scope.members(map, &mut |name, value| members.push((name, value)));
                let mut converted: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::new();
                for (name, value) in members {
                    converted.insert(CelMapKey::from(name), self.value(value, depth.saturating_add(1))?);
                }
                Box::new(CelMap::from(converted))
            }
        })
    }

    fn enter(&mut self, container: S::Handle, depth: usize) -> Result<usize, Unfit> {
        let length = self.scope.length(container);
        if depth >= MAX_DEPTH || length > self.nodes_left {
            return Err(Unfit::TooLarge);
        }
        self.note(length);
        Ok(length)
    }

    fn note(&mut self, size: usize) {
        self.largest = self.largest.max(size as u64);
    }
}

fn outcome(value: &dyn Val) -> Outcome {
    let known = match value.get_type().kind() {
        Kind::NullType => Some(Outcome::Null),
        Kind::Boolean => value.downcast_ref::<CelBool>().map(|value| Outcome::Bool(*value.inner())),
        Kind::Int => value.downcast_ref::<CelInt>().map(|value| Outcome::Int(*value.inner())),
        Kind::UInt => value.downcast_ref::<CelUInt>().map(|value| Outcome::Uint(*value.inner())),
        Kind::Double => value.downcast_ref::<CelDouble>().map(|value| Outcome::Double(*value.inner())),
        Kind::String => {
            value.downcast_ref::<CelString<'_>>().map(|text| Outcome::Text(text.inner().to_owned()))
        }
        Kind::Bytes => Some(Outcome::Other("bytes")),
        Kind::List => Some(Outcome::Other("list")),
        Kind::Map => Some(Outcome::Other("map")),
        _ => None,
    };
    known.unwrap_or(Outcome::Other("type"))
}

fn code_of(error: &cel::ExecutionError) -> &'static str {
    use cel::ExecutionError as Error;
    match error {
        Error::UndeclaredReference(_) => "expression_missing_variable",
        Error::NoSuchKey(_) => "expression_no_such_member",
        Error::Overflow(..) => "expression_overflow",
        Error::DivisionByZero(_) | Error::RemainderByZero(_) => "expression_division_by_zero",
        Error::IndexOutOfBounds(_) => "expression_out_of_bounds",
        Error::NoSuchOverload(_)
        | Error::UnexpectedType { .. }
        | Error::UnsupportedBinaryOperator(..)
        | Error::UnsupportedIndex(..)
        | Error::UnsupportedKeyType(_)
        | Error::ValuesNotComparable(..)
        | Error::InvalidArgumentCount { .. }
        | Error::UnsupportedTargetType { .. } => "expression_type_error",
        _ => "expression_failed",
    }
}

/// Says what went wrong without the values: an argument may be a secret or a megabyte.
fn describe(error: &cel::ExecutionError) -> String {
    use cel::ExecutionError as Error;
    match error {
        Error::UndeclaredReference(name) => format!("`{name}` is missing"),
        Error::NoSuchKey(name) => {
            format!("there is no member `{}`", name.chars().take(64).collect::<String>())
        }
        Error::Overflow(operator, ..) => format!("the result of `{operator}` exceeds 64 bits"),
        Error::DivisionByZero(_) | Error::RemainderByZero(_) => "a division by zero".to_owned(),
        Error::IndexOutOfBounds(_) => "an index beyond the end of the list".to_owned(),
        Error::NoSuchOverload(overload) => overload.to_string(),
        Error::UnexpectedType { got, want } => format!("a value of type {got} where {want} is needed"),
        Error::UnsupportedBinaryOperator(operator, ..) => format!("`{operator}` does not take these types"),
        Error::ValuesNotComparable(..) => "two values that cannot be compared".to_owned(),
        Error::FunctionError { function, .. } => format!("`{function}` does not accept this value"),
        _ => "the evaluation failed".to_owned(),
    }
}
