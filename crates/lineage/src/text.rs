//! The text of an expression, for people: complete parentheses, no types on literals, at most 512 bytes. What is recorded has
//! `?` for every literal.

use crate::Text;
use datafusion_common::ScalarValue;
use datafusion_expr::{
    Expr, Operator, WindowFunctionDefinition,
    expr::{GroupingSet, NullTreatment, SetQuantifier, Sort},
};

/// Longest text in bytes.
pub(crate) const LIMIT: usize = 512;

/// The text of an expression.
pub(crate) fn of(style: Text, expr: &Expr) -> String {
    let mut out = Out::new(style);
    write(&mut out, expr);
    out.finish()
}

/// The text of several expressions; plain columns are left out, since they are their own text.
pub(crate) fn of_many<'a>(style: Text, exprs: impl IntoIterator<Item = &'a Expr>) -> String {
    let mut out = Out::new(style);
    for expr in exprs.into_iter().filter(|e| !is_plain(e)) {
        if !out.text.is_empty() {
            out.push(", ");
        }
        write(&mut out, expr);
    }
    out.finish()
}

/// The text of the mark of a mask.
pub(crate) fn mask(policy: &str, rung: &str) -> String {
    let mut out = Out::new(Text::Full);
    out.push("mask(");
    out.push(policy);
    out.push(", ");
    out.push(rung);
    out.push(")");
    out.finish()
}

/// The text of a row set or guard. Its predicate is policy's, not the statement's, and is recorded with the bundle.
pub(crate) fn row_set(style: Text, name: &str, predicate: &Expr) -> String {
    match style {
        Text::Full => of(style, predicate),
        Text::Shape | Text::None => format!("rows({name})"),
    }
}

/// The text of a limit.
pub(crate) fn limit(style: Text, skip: Option<&Expr>, fetch: Option<&Expr>) -> String {
    let mut out = Out::new(style);
    if let Some(fetch) = fetch {
        out.push("LIMIT ");
        write(&mut out, fetch);
    }
    if let Some(skip) = skip {
        out.push(if out.text.is_empty() { "OFFSET " } else { " OFFSET " });
        write(&mut out, skip);
    }
    out.finish()
}

/// The text of join keys and filter.
pub(crate) fn join(style: Text, on: &[(Expr, Expr)], filter: Option<&Expr>) -> String {
    let mut out = Out::new(style);
    for (left, right) in on {
        if !out.text.is_empty() {
            out.push(" AND ");
        }
        operand(&mut out, left, TIGHT);
        out.push(" = ");
        operand(&mut out, right, TIGHT);
    }
    if let Some(filter) = filter {
        if !out.text.is_empty() {
            out.push(" AND ");
        }
        operand(&mut out, filter, Operator::And.precedence());
    }
    out.finish()
}

/// Whether an expression is a column under any number of aliases.
pub(crate) fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_plain(&alias.expr),
        Expr::Column(_) | Expr::OuterReferenceColumn(..) => true,
        _ => false,
    }
}

struct Out {
    text: String,
    full: bool,
    style: Text,
}

impl Out {
    fn new(style: Text) -> Self {
        Self { text: String::new(), full: false, style }
    }

    /// Whether literals stand in the text.
    fn literals(&self) -> bool {
        self.style == Text::Full
    }

    fn push(&mut self, text: &str) {
        if self.full {
            return;
        }
        let room = LIMIT - '…'.len_utf8() - self.text.len().min(LIMIT - '…'.len_utf8());
        if text.len() <= room {
            self.text.push_str(text);
            return;
        }
        let cut = (0..=room).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        self.text.push_str(text.get(..cut).unwrap_or_default());
        self.text.push('…');
        self.full = true;
    }

    fn finish(self) -> String {
        self.text
    }
}

/// How tightly an expression binds, on the scale of `Operator::precedence`; 255: needs no parentheses.
fn precedence(expr: &Expr) -> u8 {
    match expr {
        Expr::BinaryExpr(b) => b.op.precedence(),
        Expr::Not(_) => 12,
        Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::InList(_)
        | Expr::InSubquery(_)
        | Expr::SetComparison(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_) => 15,
        Expr::Negative(_) => 50,
        Expr::Lambda(_) => 0,
        Expr::Alias(alias) => precedence(&alias.expr),
        _ => 255,
    }
}

fn operand(out: &mut Out, expr: &Expr, least: u8) {
    if precedence(expr) < least {
        out.push("(");
        write(out, expr);
        out.push(")");
    } else {
        write(out, expr);
    }
}

fn list<'a>(out: &mut Out, exprs: impl IntoIterator<Item = &'a Expr>) {
    for (i, expr) in exprs.into_iter().enumerate() {
        if i > 0 {
            out.push(", ");
        }
        write(out, expr);
    }
}

fn write_sorts(out: &mut Out, sorts: &[Sort]) {
    for (i, sort) in sorts.iter().enumerate() {
        if i > 0 {
            out.push(", ");
        }
        write(out, &sort.expr);
        if !sort.asc {
            out.push(" DESC");
        }
        // SQL's default: NULL is the largest value.
        if sort.nulls_first == sort.asc {
            out.push(if sort.nulls_first { " NULLS FIRST" } else { " NULLS LAST" });
        }
    }
}

fn literal(out: &mut Out, value: &ScalarValue) {
    if !out.literals() {
        return out.push("?");
    }
    if value.is_null() {
        return out.push("NULL");
    }
    let plain = value.data_type().is_numeric() || matches!(value, ScalarValue::Boolean(_));
    let text = value.to_string();
    if plain {
        out.push(&text);
    } else {
        out.push("'");
        out.push(&text.replace('\'', "''"));
        out.push("'");
    }
}

fn quote(out: &mut Out, name: &str) {
    let mut bytes = name.bytes();
    // The planner names an aggregate's or window's output after its expression.
    let expression = name.contains('(');
    let bare = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if expression && !out.literals() {
        // The expression, with its literals, stands where it is computed.
        out.push("…");
    } else if bare || expression {
        out.push(name);
    } else {
        out.push("\"");
        out.push(&name.replace('"', "\"\""));
        out.push("\"");
    }
}

fn suffix(out: &mut Out, expr: &Expr, text: &str) {
    operand(out, expr, TIGHT);
    out.push(text);
}

fn call(out: &mut Out, name: &str, distinct: bool, args: &[Expr], order_by: &[Sort]) {
    out.push(name);
    out.push("(");
    if distinct {
        out.push("DISTINCT ");
    }
    list(out, args);
    if !order_by.is_empty() {
        out.push(" ORDER BY ");
        write_sorts(out, order_by);
    }
    out.push(")");
}

fn nulls(out: &mut Out, treatment: Option<NullTreatment>) {
    match treatment {
        Some(NullTreatment::IgnoreNulls) => out.push(" IGNORE NULLS"),
        Some(NullTreatment::RespectNulls) => out.push(" RESPECT NULLS"),
        None => {}
    }
}

fn filter(out: &mut Out, filter: Option<&Expr>) {
    if let Some(filter) = filter {
        out.push(" FILTER (WHERE ");
        write(out, filter);
        out.push(")");
    }
}

fn cast(out: &mut Out, word: &str, expr: &Expr, to: &impl std::fmt::Display) {
    // A date or time is written as a string and a cast; the string says it all.
    if let Expr::Literal(value, _) = expr
        && matches!(value, ScalarValue::Utf8(_) | ScalarValue::Utf8View(_) | ScalarValue::LargeUtf8(_))
    {
        return literal(out, value);
    }
    out.push(word);
    out.push("(");
    write(out, expr);
    out.push(" AS ");
    out.push(&to.to_string());
    out.push(")");
}

fn pattern(out: &mut Out, like: &datafusion_expr::expr::Like, word: &str) {
    operand(out, &like.expr, TIGHT);
    out.push(if like.negated { " NOT " } else { " " });
    out.push(word);
    out.push(" ");
    operand(out, &like.pattern, TIGHT);
    if let Some(c) = like.escape_char {
        out.push(" ESCAPE ");
        literal(out, &ScalarValue::from(c.to_string().as_str()));
    }
}

/// Tighter than any comparison.
const TIGHT: u8 = 26;

/// The frames of a window that names none, with and without ORDER BY.
const FRAME_SORTED: &str = "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW";
const FRAME_WHOLE: &str = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING";

const SUBQUERY: &str = "(SELECT …)";

fn write(out: &mut Out, expr: &Expr) {
    if out.full {
        return;
    }
    match expr {
        Expr::Alias(alias) => write(out, &alias.expr),
        Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => quote(out, &column.name),
        Expr::ScalarVariable(_, names) => out.push(&names.join(".")),
        Expr::Literal(value, _) => literal(out, value),
        Expr::BinaryExpr(b) => {
            let least = b.op.precedence();
            operand(out, &b.left, least);
            out.push(" ");
            out.push(&b.op.to_string());
            out.push(" ");
            // AND and OR may be chained either way; anything else associates to the left.
            let chain = matches!(b.op, Operator::And | Operator::Or);
            operand(out, &b.right, if chain { least } else { least.saturating_add(1) });
        }
        Expr::Like(like) => pattern(out, like, if like.case_insensitive { "ILIKE" } else { "LIKE" }),
        Expr::SimilarTo(like) => pattern(out, like, "SIMILAR TO"),
        Expr::Not(e) => {
            out.push("NOT ");
            operand(out, e, 12);
        }
        Expr::IsNotNull(e) => suffix(out, e, " IS NOT NULL"),
        Expr::IsNull(e) => suffix(out, e, " IS NULL"),
        Expr::IsTrue(e) => suffix(out, e, " IS TRUE"),
        Expr::IsFalse(e) => suffix(out, e, " IS FALSE"),
        Expr::IsUnknown(e) => suffix(out, e, " IS UNKNOWN"),
        Expr::IsNotTrue(e) => suffix(out, e, " IS NOT TRUE"),
        Expr::IsNotFalse(e) => suffix(out, e, " IS NOT FALSE"),
        Expr::IsNotUnknown(e) => suffix(out, e, " IS NOT UNKNOWN"),
        Expr::Negative(e) => {
            out.push("-");
            operand(out, e, 51);
        }
        Expr::Between(b) => {
            operand(out, &b.expr, TIGHT);
            out.push(if b.negated { " NOT BETWEEN " } else { " BETWEEN " });
            operand(out, &b.low, TIGHT);
            out.push(" AND ");
            operand(out, &b.high, TIGHT);
        }
        Expr::Case(case) => {
            out.push("CASE");
            if let Some(base) = &case.expr {
                out.push(" ");
                write(out, base);
            }
            for (when, then) in &case.when_then_expr {
                out.push(" WHEN ");
                write(out, when);
                out.push(" THEN ");
                write(out, then);
            }
            if let Some(otherwise) = &case.else_expr {
                out.push(" ELSE ");
                write(out, otherwise);
            }
            out.push(" END");
        }
        Expr::Cast(c) => cast(out, "CAST", &c.expr, c.field.data_type()),
        Expr::TryCast(c) => cast(out, "TRY_CAST", &c.expr, c.field.data_type()),
        Expr::ScalarFunction(f) => call(out, f.name(), false, &f.args, &[]),
        Expr::AggregateFunction(f) => {
            call(out, f.func.name(), f.params.distinct, &f.params.args, &f.params.order_by);
            filter(out, f.params.filter.as_deref());
            nulls(out, f.params.null_treatment);
        }
        Expr::WindowFunction(f) => {
            let name = match &f.fun {
                WindowFunctionDefinition::AggregateUDF(fun) => fun.name(),
                WindowFunctionDefinition::WindowUDF(fun) => fun.name(),
            };
            call(out, name, f.params.distinct, &f.params.args, &[]);
            filter(out, f.params.filter.as_deref());
            nulls(out, f.params.null_treatment);
            out.push(" OVER (");
            if !f.params.partition_by.is_empty() {
                out.push("PARTITION BY ");
                list(out, &f.params.partition_by);
            }
            if !f.params.order_by.is_empty() {
                out.push(if f.params.partition_by.is_empty() { "ORDER BY " } else { " ORDER BY " });
                write_sorts(out, &f.params.order_by);
            }
            let frame = f.params.window_frame.to_string();
            if frame != FRAME_SORTED && frame != FRAME_WHOLE {
                out.push(" ");
                // The bounds of a frame are literals.
                out.push(if out.literals() { &frame } else { "BETWEEN ? AND ?" });
            }
            out.push(")");
        }
        Expr::InList(i) => {
            operand(out, &i.expr, TIGHT);
            out.push(if i.negated { " NOT IN (" } else { " IN (" });
            list(out, &i.list);
            out.push(")");
        }
        Expr::Exists(e) => {
            out.push(if e.negated { "NOT EXISTS " } else { "EXISTS " });
            out.push(SUBQUERY);
        }
        Expr::InSubquery(i) => {
            operand(out, &i.expr, TIGHT);
            out.push(if i.negated { " NOT IN " } else { " IN " });
            out.push(SUBQUERY);
        }
        Expr::SetComparison(s) => {
            operand(out, &s.expr, TIGHT);
            out.push(" ");
            out.push(&s.op.to_string());
            out.push(match s.quantifier {
                SetQuantifier::Any => " ANY ",
                SetQuantifier::All => " ALL ",
            });
            out.push(SUBQUERY);
        }
        Expr::ScalarSubquery(_) => out.push(SUBQUERY),
        #[expect(deprecated, reason = "the match has no wildcard arm")]
        Expr::Wildcard { .. } => out.push("*"),
        Expr::GroupingSet(GroupingSet::Rollup(exprs)) => call(out, "ROLLUP ", false, exprs, &[]),
        Expr::GroupingSet(GroupingSet::Cube(exprs)) => call(out, "CUBE ", false, exprs, &[]),
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
            out.push("GROUPING SETS (");
            for (i, set) in sets.iter().enumerate() {
                call(out, if i > 0 { ", " } else { "" }, false, set, &[]);
            }
            out.push(")");
        }
        Expr::Placeholder(p) => out.push(&p.id),
        Expr::Unnest(u) => {
            out.push("unnest(");
            write(out, &u.expr);
            out.push(")");
        }
        Expr::HigherOrderFunction(f) => call(out, f.name(), false, &f.args, &[]),
        Expr::Lambda(l) => {
            out.push("(");
            out.push(&l.params.join(", "));
            out.push(") -> ");
            write(out, &l.body);
        }
        Expr::LambdaVariable(v) => quote(out, &v.name),
    }
}
