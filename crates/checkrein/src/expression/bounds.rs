//! What bounds an expression: CEL itself has no limit on the cost of an evaluation.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators};

use super::error::ExpressionError;

/// How large an expression may be and how much work it may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the text. Default 4,096.
    pub source_bytes: usize,
    /// Parentheses, brackets and braces open at the same time. Default 24.
    pub brackets: usize,
    /// Levels of the parsed expression. Default 40.
    pub depth: usize,
    /// Parts of the parsed expression, macros expanded. Default 1,000.
    pub nodes: usize,
    /// Comprehensions (`all`, `exists`, `map`, `filter`) inside one another. Default 2.
    pub comprehensions: usize,
    /// Steps of one evaluation. An expression with comprehensions is given the longest list it may be
    /// evaluated over so that it stays within them. Default 1,000,000.
    pub steps: u64,
    /// Values that are converted for one evaluation. Default 10,000.
    pub input_nodes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            source_bytes: 4_096,
            brackets: 24,
            depth: 40,
            nodes: 1_000,
            comprehensions: 2,
            steps: 1_000_000,
            input_nodes: 10_000,
        }
    }
}

/// The fewest items that every accepted comprehension can be evaluated over.
const SMALLEST_LIST: u64 = 16;

/// Text of a kilobyte counts like a list of sixteen items: copying is cheaper than evaluating.
pub(super) const TEXT_BYTES_PER_ITEM: usize = 64;

impl Bounds {
    /// Checks what can be checked before the parser, which is the costliest part, sees the text.
    pub(super) fn check_text(&self, text: &str) -> Result<(), ExpressionError> {
        if text.trim().is_empty() {
            return Err(ExpressionError::new("expression_empty", 0..text.len(), "the expression is empty"));
        }
        if text.len() > self.source_bytes {
            let limit = self.source_bytes;
            return Err(ExpressionError::new(
                "expression_too_long",
                0..text.len(),
                format!("the expression has {} bytes, at most {limit} are accepted", text.len()),
            ));
        }
        let mut open = 0_usize;
        for (place, byte) in text.bytes().enumerate() {
            match byte {
                // Brackets inside text literals count too: whoever has 24 of them open there writes less.
                b'(' | b'[' | b'{' => open = open.saturating_add(1),
                b')' | b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > self.brackets {
                return Err(too_deep(place..place.saturating_add(1), self.brackets));
            }
        }
        Ok(())
    }

    /// Checks the parsed expression and returns the longest list it may be evaluated over.
    pub(super) fn check_tree(&self, tree: &IdedExpr, length: usize) -> Result<u64, ExpressionError> {
        let shape = Shape::of(tree);
        if shape.depth > self.depth {
            return Err(too_deep(0..length, self.depth));
        }
        if shape.nodes > self.nodes {
            let limit = self.nodes;
            let message = format!("the expression has {} parts, at most {limit} are accepted", shape.nodes);
            return Err(ExpressionError::new("expression_too_large", 0..length, message));
        }
        if shape.comprehensions > self.comprehensions {
            return Err(ExpressionError::new(
                "expression_nested_comprehensions",
                0..length,
                format!("more than {} comprehensions inside one another", self.comprehensions),
            ));
        }
        // The cost grows with the items, so that the largest number is found bit by bit from the top.
        let fits = |items: u64| Cost::of(tree, items).steps <= self.steps;
        let largest = (0..32).rev().map(|power| 1_u64 << power).fold(0_u64, |items, bit| {
            let more = items.saturating_add(bit);
            if fits(more) { more } else { items }
        });
        if largest < SMALLEST_LIST {
            return Err(ExpressionError::new(
                "expression_too_costly",
                0..length,
                format!("the expression would take more than {} steps over short lists", self.steps),
            ));
        }
        Ok(largest)
    }
}

fn too_deep(span: std::ops::Range<usize>, limit: usize) -> ExpressionError {
    ExpressionError::new("expression_too_deep", span, format!("more than {limit} levels of nesting"))
}

/// The size of a parsed expression.
struct Shape {
    nodes: usize,
    depth: usize,
    comprehensions: usize,
}

impl Shape {
    fn of(tree: &IdedExpr) -> Self {
        let mut shape = Self { nodes: 1, depth: 0, comprehensions: 0 };
        children(&tree.expr, &mut |child| {
            let inner = Self::of(child);
            shape.nodes = shape.nodes.saturating_add(inner.nodes);
            shape.depth = shape.depth.max(inner.depth);
            shape.comprehensions = shape.comprehensions.max(inner.comprehensions);
        });
        shape.depth = shape.depth.saturating_add(1);
        if matches!(tree.expr, Expr::Comprehension(_)) {
            shape.comprehensions = shape.comprehensions.saturating_add(1);
        }
        shape
    }
}

/// An upper bound of what evaluating takes, and of the size of the result, when no list, map or text of the
/// input is larger than a given number of items.
#[derive(Clone, Copy)]
struct Cost {
    steps: u64,
    size: u64,
}

impl Cost {
    fn of(tree: &IdedExpr, items: u64) -> Self {
        match &tree.expr {
            Expr::Comprehension(comprehension) => Self::of_comprehension(comprehension, items),
            Expr::Literal(literal) => Self { steps: 1, size: literal_size(literal) },
            // The accumulator of a macro, which is appended to in place: `@result + [x]`.
            Expr::Ident(name) if name.starts_with('@') => Self { steps: 1, size: 0 },
            Expr::Ident(_) | Expr::Unspecified => Self { steps: 1, size: items },
            Expr::Call(call) => Self::of_call(call, items),
            // A member of something is no larger than the whole.
            _ => Self::of_parts(&tree.expr, items),
        }
    }

    fn of_call(call: &CallExpr, items: u64) -> Self {
        let arguments = call.target.iter().map(AsRef::as_ref).chain(&call.args);
        let costs: Vec<Self> = arguments.map(|argument| Self::of(argument, items)).collect();
        let steps = costs.iter().fold(1_u64, |sum, cost| sum.saturating_add(cost.steps));
        let sum = costs.iter().fold(0_u64, |sum, cost| sum.saturating_add(cost.size));
        match call.func_name.as_str() {
            operators::CONDITIONAL | operators::INDEX => Self { steps, size: sum },
            operators::ADD => Self { steps: steps.saturating_add(sum), size: sum },
            // Searching for a pattern and converting look at every byte; comparing stops early or is cheap.
            "matches" | "string" | "int" | "uint" | "double" | "bytes" => {
                Self { steps: steps.saturating_add(sum), size: sum }
            }
            _ => Self { steps: steps.saturating_add(sum / 32), size: sum },
        }
    }

    fn of_parts(expr: &Expr, items: u64) -> Self {
        let mut cost = Self { steps: 1, size: 0 };
        let mut count = 0_u64;
        // What becomes an item of a literal is copied, whole lists included.
        let copies = matches!(expr, Expr::List(_) | Expr::Map(_));
        children(expr, &mut |child| {
            let part = Self::of(child, items);
            let copied = if copies { part.size } else { 0 };
            cost.steps = cost.steps.saturating_add(part.steps).saturating_add(copied);
            cost.size = cost.size.max(part.size);
            count = count.saturating_add(1);
        });
        cost.size = cost.size.max(count);
        cost
    }

    fn of_comprehension(comprehension: &ComprehensionExpr, items: u64) -> Self {
        let range = Self::of(&comprehension.iter_range, items);
        // Inside, the variable may be as large as what is iterated over.
        let inner = items.max(range.size);
        let body = [&comprehension.accu_init, &comprehension.loop_cond, &comprehension.loop_step]
            .map(|part| Self::of(part, inner))
            .into_iter()
            .fold(Self { steps: 1, size: 0 }, |sum, part| Self {
                steps: sum.steps.saturating_add(part.steps),
                size: sum.size.max(part.size),
            });
        Self {
            steps: range.steps.saturating_add(range.size.max(1).saturating_mul(body.steps)),
            size: range.size.max(body.size),
        }
    }
}

fn literal_size(literal: &LiteralValue) -> u64 {
    let bytes = match literal {
        LiteralValue::String(text) => text.inner().len(),
        LiteralValue::Bytes(bytes) => bytes.inner().len(),
        _ => 0,
    };
    (bytes / TEXT_BYTES_PER_ITEM) as u64
}

/// Shows every direct part of an expression to `visit`.
pub(super) fn children<'t>(expr: &'t Expr, visit: &mut dyn FnMut(&'t IdedExpr)) {
    use cel::common::ast::EntryExpr;
    let entry = |entry: &'t EntryExpr, visit: &mut dyn FnMut(&'t IdedExpr)| match entry {
        EntryExpr::StructField(field) => visit(&field.value),
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key);
            visit(&entry.value);
        }
    };
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => {
            call.target.iter().for_each(|target| visit(target));
            call.args.iter().for_each(visit);
        }
        Expr::Comprehension(inner) => {
            let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } = &**inner;
            [iter_range, accu_init, loop_cond, loop_step, result].into_iter().for_each(visit);
        }
        Expr::List(list) => list.elements.iter().for_each(visit),
        Expr::Map(map) => map.entries.iter().for_each(|item| entry(&item.expr, visit)),
        Expr::Select(select) => visit(&select.operand),
        Expr::Struct(strct) => strct.entries.iter().for_each(|item| entry(&item.expr, visit)),
    }
}
