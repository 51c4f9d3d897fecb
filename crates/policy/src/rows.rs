//! Row-set expressions: a small closed language over one table's raw columns.
//!
//! Everything in it is total: no arithmetic, no casts of columns, no functions. Literals take the type of the column
//! they meet when the bundle is loaded, or the bundle is refused. An attribute is a set of texts; where the subject has
//! none it is the empty set, so attributes stand only where an empty set hides rows.

use crate::{
    entitlement::Entitlement,
    place::{Fault, Place},
};
use arrow_schema::DataType;
use custody_model::{DatasetName, Subject};
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::{Between, BinaryExpr, Expr, Like, Operator, expr::InList};
use sqlparser::ast::{self, Spanned};

/// A Boolean expression of the language.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum RowExpr {
    Constant(bool),
    Column(Name),
    And(Vec<RowExpr>),
    Or(Vec<RowExpr>),
    Not(Box<RowExpr>),
    /// IS [NOT] TRUE, IS [NOT] FALSE.
    Is {
        of: Box<RowExpr>,
        value: bool,
        negated: bool,
    },
    IsNull {
        of: Name,
        negated: bool,
    },
    Compare {
        left: Scalar,
        op: Operator,
        right: Scalar,
        at: Place,
    },
    In {
        of: Scalar,
        list: Vec<Scalar>,
        negated: bool,
        at: Place,
    },
    Between {
        of: Name,
        low: Scalar,
        high: Scalar,
        negated: bool,
    },
    Like {
        of: Name,
        pattern: String,
        negated: bool,
        at: Place,
    },
    /// `of IN (SELECT column FROM table WHERE condition)`: the table says who is entitled to what.
    Entitled {
        of: Name,
        table: DatasetName,
        column: Name,
        condition: Box<RowExpr>,
        at: Place,
    },
}

/// A column by its name in the policy text.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) at: Place,
}

/// What stands beside an operator.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Scalar {
    Column(Name),
    Literal(Literal, Place),
    Attribute(String, Place),
    Principal(Place),
}

/// A literal before it has met a column.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Literal {
    Bool(bool),
    Number(String),
    Text(String),
    Date(String),
    Timestamp(String),
}

/// A column as it is called and typed in the version at hand.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
}

/// Finds a column by its name in the policy text.
pub(crate) type Columns<'a> = dyn Fn(&str) -> Option<Bound> + 'a;

/// Finds a column of an entitlement table, as it was when the bundle was loaded.
pub(crate) type Entitlements<'a> = dyn Fn(&DatasetName, &str) -> Option<Bound> + 'a;

const ALLOWED: &str = "allowed are comparisons, IN, BETWEEN, LIKE, IS [NOT] NULL, TRUE, FALSE and DISTINCT FROM over \
                       columns, literals, `@attribute` and `@principal`, under AND, OR and NOT";

/// The expression, if it is in the language.
pub(crate) fn parse(expr: &ast::Expr) -> Result<RowExpr, Fault> {
    predicate(expr, true)
}

/// `positive`: a larger set in this place can only show more rows, so an empty attribute hides.
fn predicate(expr: &ast::Expr, positive: bool) -> Result<RowExpr, Fault> {
    use ast::{BinaryOperator as B, Expr as E, UnaryOperator as U};
    let at = Place::of(expr.span());
    match expr {
        E::Nested(inner) => predicate(inner, positive),
        E::Value(v) => match &v.value {
            ast::Value::Boolean(b) => Ok(RowExpr::Constant(*b)),
            _ => Err(not_boolean(expr, at)),
        },
        E::Identifier(_) => match scalar(expr)? {
            Scalar::Column(name) => Ok(RowExpr::Column(name)),
            Scalar::Literal(..) | Scalar::Attribute(..) | Scalar::Principal(_) => Err(not_boolean(expr, at)),
        },
        E::BinaryOp { op: B::And, .. } => Ok(RowExpr::And(chain(expr, &B::And, positive)?)),
        E::BinaryOp { op: B::Or, .. } => Ok(RowExpr::Or(chain(expr, &B::Or, positive)?)),
        E::UnaryOp { op: U::Not, expr } => Ok(RowExpr::Not(Box::new(predicate(expr, false)?))),
        E::BinaryOp { left, op, right } => {
            let op = match op {
                B::Eq => Operator::Eq,
                B::NotEq => Operator::NotEq,
                B::Lt => Operator::Lt,
                B::LtEq => Operator::LtEq,
                B::Gt => Operator::Gt,
                B::GtEq => Operator::GtEq,
                _ => return Err(not_allowed(expr, at)),
            };
            compare(left, op, right, positive, at)
        }
        E::IsDistinctFrom(l, r) => compare(l, Operator::IsDistinctFrom, r, positive, at),
        E::IsNotDistinctFrom(l, r) => compare(l, Operator::IsNotDistinctFrom, r, positive, at),
        E::IsTrue(of) => Ok(is(predicate(of, positive)?, true, false)),
        E::IsNotTrue(of) => Ok(is(predicate(of, false)?, true, true)),
        E::IsFalse(of) => Ok(is(predicate(of, false)?, false, false)),
        E::IsNotFalse(of) => Ok(is(predicate(of, false)?, false, true)),
        E::IsNull(of) => Ok(RowExpr::IsNull { of: column(of)?, negated: false }),
        E::IsNotNull(of) => Ok(RowExpr::IsNull { of: column(of)?, negated: true }),
        E::InList { expr: of, list, negated } => {
            let of = scalar(of)?;
            let list = list.iter().map(scalar).collect::<Result<Vec<_>, _>>()?;
            if let Some(Scalar::Attribute(name, at)) = list.iter().find(|s| matches!(s, Scalar::Attribute(..))) {
                shows_when_empty(name, *at, positive && !negated)?;
            }
            if let Scalar::Attribute(name, at) = &of {
                return Err(Fault::form(format!("attribute `@{name}` is a set and has no place left of IN"), *at)
                    .help("write the attribute inside the list: `region IN (@region)`"));
            }
            Ok(RowExpr::In { of, list, negated: *negated, at })
        }
        E::Between { expr: of, negated, low, high } => {
            let (low, high) = (scalar(low)?, scalar(high)?);
            for bound in [&low, &high] {
                if let Scalar::Attribute(name, at) = bound {
                    return Err(set_in_comparison(name, *at));
                }
            }
            Ok(RowExpr::Between { of: column(of)?, low, high, negated: *negated })
        }
        E::Like { negated, any: false, expr: of, pattern, escape_char: None } => match scalar(pattern)? {
            Scalar::Literal(Literal::Text(pattern), _) => {
                Ok(RowExpr::Like { of: column(of)?, pattern, negated: *negated, at })
            }
            _ => Err(Fault::form("the pattern of LIKE must be a literal text", at)),
        },
        E::InSubquery { expr: of, subquery, negated } => {
            if *negated || !positive {
                return Err(Fault::form("an entitlement stands under a negation", at)
                    .help("a subject that it does not name would see every row: say which rows are seen"));
            }
            entitled(column(of)?, subquery, at)
        }
        E::Exists { .. } | E::Subquery(_) => {
            Err(Fault::form(format!("`{}` is not allowed in a row set", short(expr)), at).help(ENTITLED))
        }
        _ => Err(not_allowed(expr, at)),
    }
}

const ENTITLED: &str = "an entitlement is `column IN (SELECT column FROM schema.table WHERE …)`";

/// What is not of this shape to the letter is refused, so that no clause is dropped unseen.
fn entitled(of: Name, query: &ast::Query, at: Place) -> Result<RowExpr, Fault> {
    let other = || Fault::form("this subquery is not an entitlement", at).help(ENTITLED);
    let ast::SetExpr::Select(select) = query.body.as_ref() else { return Err(other()) };
    let ([ast::SelectItem::UnnamedExpr(shown)], [from]) = (select.projection.as_slice(), select.from.as_slice()) else {
        return Err(other());
    };
    let ast::TableFactor::Table { name, .. } = &from.relation else { return Err(other()) };
    let condition = select.selection.as_ref();
    let whole = match condition {
        Some(condition) => format!("SELECT {shown} FROM {name} WHERE {condition}"),
        None => format!("SELECT {shown} FROM {name}"),
    };
    if whole != query.to_string() {
        return Err(other());
    }
    let parts: Option<Vec<String>> = name.0.iter().map(|part| Some(word(part.as_ident()?))).collect();
    let table = match parts.as_deref() {
        Some([schema, name]) => DatasetName::new(schema, name).ok(),
        _ => None,
    };
    let table = table.ok_or_else(|| Fault::form(format!("`{name}` is no dataset name"), at).help("`schema.table`"))?;
    let condition = match condition {
        Some(condition) => predicate(condition, true)?,
        None => RowExpr::Constant(true),
    };
    if condition.is_entitled() {
        return Err(Fault::form("an entitlement reads another table", at).help(ENTITLED));
    }
    Ok(RowExpr::Entitled { of, table, column: column(shown)?, condition: Box::new(condition), at })
}

fn word(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn is(of: RowExpr, value: bool, negated: bool) -> RowExpr {
    RowExpr::Is { of: Box::new(of), value, negated }
}

/// The operands of a chain of one operator, left to right, without recursing along it.
fn chain(expr: &ast::Expr, op: &ast::BinaryOperator, positive: bool) -> Result<Vec<RowExpr>, Fault> {
    let mut operands = vec![];
    let mut rest = expr;
    while let ast::Expr::BinaryOp { left, op: this, right } = rest {
        if this != op {
            break;
        }
        operands.push(predicate(right, positive)?);
        rest = left;
    }
    operands.push(predicate(rest, positive)?);
    operands.reverse();
    Ok(operands)
}

fn compare(l: &ast::Expr, op: Operator, r: &ast::Expr, positive: bool, at: Place) -> Result<RowExpr, Fault> {
    let (left, right) = (scalar(l)?, scalar(r)?);
    for (side, other) in [(&left, &right), (&right, &left)] {
        if let Scalar::Attribute(name, place) = side {
            if op != Operator::Eq {
                return Err(set_in_comparison(name, *place));
            }
            shows_when_empty(name, *place, positive)?;
            return Ok(RowExpr::In { of: other.clone(), list: vec![side.clone()], negated: false, at });
        }
    }
    Ok(RowExpr::Compare { left, op, right, at })
}

fn shows_when_empty(name: &str, at: Place, positive: bool) -> Result<(), Fault> {
    if positive {
        return Ok(());
    }
    Err(Fault::form(format!("attribute `@{name}` stands under a negation"), at)
        .help("a subject without the attribute would see every row: say which rows are seen, not which are hidden"))
}

fn set_in_comparison(name: &str, at: Place) -> Fault {
    Fault::form(format!("attribute `@{name}` is a set and can only be compared by `=` or IN"), at)
}

fn not_allowed(expr: &ast::Expr, at: Place) -> Fault {
    Fault::form(format!("`{}` is not allowed in a row set", short(expr)), at).help(ALLOWED)
}

fn not_boolean(expr: &ast::Expr, at: Place) -> Fault {
    Fault::types(format!("`{}` is not a condition", short(expr)), at).help(ALLOWED)
}

fn short(expr: &ast::Expr) -> String {
    let text = expr.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(['…']).collect() }
}

fn column(expr: &ast::Expr) -> Result<Name, Fault> {
    match scalar(expr)? {
        Scalar::Column(name) => Ok(name),
        Scalar::Literal(..) | Scalar::Attribute(..) | Scalar::Principal(_) => {
            Err(Fault::form(format!("`{}` must be a column", short(expr)), Place::of(expr.span())))
        }
    }
}

fn scalar(expr: &ast::Expr) -> Result<Scalar, Fault> {
    use ast::{Expr as E, Value as V};
    let at = Place::of(expr.span());
    match expr {
        E::Nested(inner) => scalar(inner),
        E::Identifier(ident) => Ok(match (ident.quote_style, ident.value.strip_prefix('@')) {
            (None, Some(name)) if name.eq_ignore_ascii_case("principal") => Scalar::Principal(at),
            (None, Some(name)) => Scalar::Attribute(name.to_string(), at),
            (None, None) => Scalar::Column(Name { text: ident.value.to_lowercase(), at }),
            (Some(_), _) => Scalar::Column(Name { text: ident.value.clone(), at }),
        }),
        E::Value(v) => Ok(Scalar::Literal(
            match &v.value {
                V::Number(text, _) => Literal::Number(text.clone()),
                V::SingleQuotedString(text) => Literal::Text(text.clone()),
                V::Boolean(b) => Literal::Bool(*b),
                V::Null => {
                    return Err(Fault::form("a comparison with NULL is never true", at).help("write `IS NULL`"));
                }
                _ => return Err(not_allowed(expr, at)),
            },
            at,
        )),
        E::UnaryOp { op: ast::UnaryOperator::Minus, expr: inner } => match scalar(inner)? {
            Scalar::Literal(Literal::Number(text), _) if !text.starts_with('-') => {
                Ok(Scalar::Literal(Literal::Number(format!("-{text}")), at))
            }
            _ => Err(not_allowed(expr, at)),
        },
        E::TypedString(typed) => match (&typed.data_type, &typed.value.value) {
            (ast::DataType::Date, V::SingleQuotedString(text)) => Ok(Scalar::Literal(Literal::Date(text.clone()), at)),
            (ast::DataType::Timestamp(..), V::SingleQuotedString(text)) => {
                Ok(Scalar::Literal(Literal::Timestamp(text.clone()), at))
            }
            _ => Err(not_allowed(expr, at)),
        },
        _ => Err(not_allowed(expr, at)),
    }
}

impl RowExpr {
    /// The expression over the columns of the version at hand. Without a subject every attribute is empty, which is
    /// enough to check names and types.
    pub(crate) fn compile(
        &self,
        columns: &Columns<'_>,
        entitlements: &Entitlements<'_>,
        subject: Option<&Subject>,
    ) -> Result<Expr, Fault> {
        Compiler { columns, entitlements, subject }.predicate(self)
    }

    /// The entitlement tables that it reads.
    pub(crate) fn reads(&self) -> Vec<&DatasetName> {
        match self {
            Self::Entitled { table, .. } => vec![table],
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::reads).collect(),
            Self::Not(of) | Self::Is { of, .. } => of.reads(),
            Self::Constant(_)
            | Self::Column(_)
            | Self::IsNull { .. }
            | Self::Compare { .. }
            | Self::In { .. }
            | Self::Between { .. }
            | Self::Like { .. } => vec![],
        }
    }

    fn is_entitled(&self) -> bool {
        !self.reads().is_empty()
    }
}

struct Compiler<'a> {
    columns: &'a Columns<'a>,
    entitlements: &'a Entitlements<'a>,
    subject: Option<&'a Subject>,
}

impl Compiler<'_> {
    fn predicate(&self, expr: &RowExpr) -> Result<Expr, Fault> {
        let all = |parts: &[RowExpr], op| -> Result<Expr, Fault> {
            let mut parts = parts.iter().map(|p| self.predicate(p));
            let first = parts.next().unwrap_or(Ok(literal(op == Operator::And)))?;
            parts.try_fold(first, |l, r| Ok(binary(l, op, r?)))
        };
        Ok(match expr {
            RowExpr::Constant(b) => literal(*b),
            RowExpr::Column(name) => {
                let bound = self.bound(name)?;
                if bound.data_type != DataType::Boolean {
                    return Err(Fault::types(
                        format!("column `{}` is {}, not Boolean", name.text, bound.data_type),
                        name.at,
                    ));
                }
                reference(&bound)
            }
            RowExpr::And(parts) => all(parts, Operator::And)?,
            RowExpr::Or(parts) => all(parts, Operator::Or)?,
            RowExpr::Not(of) => Expr::Not(Box::new(self.predicate(of)?)),
            RowExpr::Is { of, value, negated } => {
                let of = Box::new(self.predicate(of)?);
                match (value, negated) {
                    (true, false) => Expr::IsTrue(of),
                    (true, true) => Expr::IsNotTrue(of),
                    (false, false) => Expr::IsFalse(of),
                    (false, true) => Expr::IsNotFalse(of),
                }
            }
            RowExpr::IsNull { of, negated } => {
                let of = Box::new(reference(&self.bound(of)?));
                if *negated { Expr::IsNotNull(of) } else { Expr::IsNull(of) }
            }
            RowExpr::Compare { left, op, right, at } => {
                let data_type = self.common_type([left, right].into_iter(), *at)?;
                binary(self.single(left, &data_type)?, *op, self.single(right, &data_type)?)
            }
            RowExpr::In { of, list, negated, at } => {
                let data_type = self.common_type(std::iter::once(of).chain(list), *at)?;
                let of = self.single(of, &data_type)?;
                let mut members = vec![];
                for member in list {
                    match member {
                        Scalar::Attribute(name, _) => members.extend(self.attribute(name, &data_type)),
                        Scalar::Column(_) | Scalar::Literal(..) | Scalar::Principal(_) => {
                            members.push(self.single(member, &data_type)?);
                        }
                    }
                }
                if members.is_empty() {
                    literal(*negated)
                } else {
                    Expr::InList(InList::new(Box::new(of), members, *negated))
                }
            }
            RowExpr::Between { of, low, high, negated } => {
                let bound = self.bound(of)?;
                let data_type = self.common_type([&Scalar::Column(of.clone()), low, high].into_iter(), of.at)?;
                let (low, high) = (self.single(low, &data_type)?, self.single(high, &data_type)?);
                Expr::Between(Between::new(Box::new(reference(&bound)), *negated, Box::new(low), Box::new(high)))
            }
            RowExpr::Like { of, pattern, negated, at } => {
                let bound = self.bound(of)?;
                if !is_text(&bound.data_type) {
                    return Err(Fault::types(format!("column `{}` is {}, not text", of.text, bound.data_type), of.at));
                }
                let pattern = cast(&Literal::Text(pattern.clone()), &bound.data_type, *at)?;
                let pattern = Box::new(Expr::Literal(pattern, None));
                Expr::Like(Like::new(*negated, Box::new(reference(&bound)), pattern, None, false))
            }
            RowExpr::Entitled { of, table, column, condition, at } => {
                let bound = self.bound(of)?;
                let inner = |name: &str| (self.entitlements)(table, name);
                let read = inner(&column.text).ok_or_else(|| {
                    Fault::name(format!("column `{}` of `{table}` not found", column.text), column.at)
                })?;
                if read.data_type != bound.data_type {
                    let (one, other) = (&bound.data_type, &read.data_type);
                    let message =
                        format!("columns `{}` ({one}) and `{}` ({other}) differ in type", of.text, column.text);
                    return Err(Fault::types(message, *at));
                }
                let compiler = Compiler { columns: &inner, entitlements: self.entitlements, subject: self.subject };
                let condition = compiler.predicate(condition)?;
                Entitlement { table: table.clone(), column: read.name, data_type: read.data_type, condition }
                    .of(reference(&bound))
            }
        })
    }

    fn bound(&self, name: &Name) -> Result<Bound, Fault> {
        (self.columns)(&name.text).ok_or_else(|| Fault::name(format!("column `{}` not found", name.text), name.at))
    }

    /// The one type of the columns among these; text where only `@principal` and texts are compared.
    fn common_type<'a>(&self, of: impl Iterator<Item = &'a Scalar>, at: Place) -> Result<DataType, Fault> {
        let mut found: Option<(DataType, &Name)> = None;
        let mut open = false;
        for scalar in of {
            match scalar {
                Scalar::Column(name) => {
                    let data_type = self.bound(name)?.data_type;
                    if !comparable(&data_type) {
                        return Err(Fault::types(
                            format!("column `{}` of type {data_type} cannot be compared", name.text),
                            name.at,
                        ));
                    }
                    match &found {
                        Some((other, first)) if *other != data_type => {
                            return Err(Fault::types(
                                format!(
                                    "columns `{}` ({other}) and `{}` ({data_type}) differ in type",
                                    first.text, name.text
                                ),
                                at,
                            ));
                        }
                        Some(_) => {}
                        None => found = Some((data_type, name)),
                    }
                }
                Scalar::Attribute(..) | Scalar::Principal(_) => open = true,
                Scalar::Literal(..) => {}
            }
        }
        match found {
            Some((data_type, _)) => Ok(data_type),
            None if open => Ok(DataType::Utf8),
            None => Err(Fault::form("a comparison needs a column, `@principal` or an attribute", at)),
        }
    }

    fn single(&self, scalar: &Scalar, data_type: &DataType) -> Result<Expr, Fault> {
        Ok(match scalar {
            Scalar::Column(name) => reference(&self.bound(name)?),
            Scalar::Literal(value, at) => Expr::Literal(cast(value, data_type, *at)?, None),
            Scalar::Principal(at) => {
                if !is_text(data_type) {
                    return Err(Fault::types(
                        format!("`@principal` is text and cannot be compared with {data_type}"),
                        *at,
                    ));
                }
                let principal = self.subject.map(|s| s.principal.0.clone()).unwrap_or_default();
                Expr::Literal(cast(&Literal::Text(principal), data_type, *at)?, None)
            }
            Scalar::Attribute(name, at) => return Err(set_in_comparison(name, *at)),
        })
    }

    /// The attribute's values as far as they can be values of the column: others equal none of its values.
    fn attribute(&self, name: &str, data_type: &DataType) -> Vec<Expr> {
        let values = self.subject.and_then(|s| s.attributes.get(name));
        let values = values.into_iter().flatten().filter_map(|v| text_to(v, data_type));
        values.map(|v| Expr::Literal(v, None)).collect()
    }
}

fn literal(value: bool) -> Expr {
    Expr::Literal(ScalarValue::Boolean(Some(value)), None)
}

fn reference(bound: &Bound) -> Expr {
    Expr::Column(Column::new_unqualified(bound.name.clone()))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

pub(crate) fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
}

fn is_numeric(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_floating()
        || matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..))
}

fn comparable(data_type: &DataType) -> bool {
    *data_type == DataType::Boolean || is_text(data_type) || is_time(data_type) || is_numeric(data_type)
}

fn text_to(text: &str, data_type: &DataType) -> Option<ScalarValue> {
    let value = ScalarValue::try_from_string(text.to_string(), data_type).ok()?;
    (!value.is_null()).then_some(value)
}

/// The literal as a value of the type, or a refusal: nothing is rounded, nothing is cut.
pub(crate) fn cast(literal: &Literal, data_type: &DataType, at: Place) -> Result<ScalarValue, Fault> {
    let (text, fits) = match literal {
        Literal::Bool(b) if *data_type == DataType::Boolean => return Ok(ScalarValue::Boolean(Some(*b))),
        Literal::Bool(b) => (b.to_string(), false),
        Literal::Number(n) => (n.clone(), is_numeric(data_type)),
        Literal::Text(t) => (t.clone(), *data_type != DataType::Boolean),
        Literal::Date(t) | Literal::Timestamp(t) => (t.clone(), is_time(data_type)),
    };
    let value = if fits { text_to(&text, data_type) } else { None };
    value.ok_or_else(|| Fault::types(format!("`{text}` is not a value of type {data_type}"), at))
}

/// An expression of the language as SQL text. Anything else is printed as DataFusion prints it.
pub(crate) fn sql(expr: &Expr) -> String {
    let not = |negated: bool| if negated { "NOT " } else { "" };
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::Literal(value, _) => literal_sql(value),
        Expr::BinaryExpr(b) => format!("{} {} {}", nested(&b.left), b.op, nested(&b.right)),
        Expr::Not(e) => format!("NOT {}", nested(e)),
        Expr::IsTrue(e) => format!("{} IS TRUE", nested(e)),
        Expr::IsNotTrue(e) => format!("{} IS NOT TRUE", nested(e)),
        Expr::IsFalse(e) => format!("{} IS FALSE", nested(e)),
        Expr::IsNotFalse(e) => format!("{} IS NOT FALSE", nested(e)),
        Expr::IsNull(e) => format!("{} IS NULL", nested(e)),
        Expr::IsNotNull(e) => format!("{} IS NOT NULL", nested(e)),
        Expr::InList(i) => {
            let list = i.list.iter().map(sql).collect::<Vec<_>>().join(", ");
            format!("{} {}IN ({list})", nested(&i.expr), not(i.negated))
        }
        Expr::Between(b) => {
            format!("{} {}BETWEEN {} AND {}", nested(&b.expr), not(b.negated), nested(&b.low), nested(&b.high))
        }
        Expr::Like(l) => format!("{} {}LIKE {}", nested(&l.expr), not(l.negated), nested(&l.pattern)),
        other if Entitlement::in_expr(other).is_some() => Entitlement::in_expr(other)
            .map(|(entitlement, of)| format!("{} IN ({entitlement})", nested(of)))
            .unwrap_or_default(),
        other => other.to_string(),
    }
}

/// The same as an operand: in parentheses where it would otherwise be read differently.
pub(crate) fn nested(expr: &Expr) -> String {
    match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::InList(_) => sql(expr),
        Expr::BinaryExpr(b) if b.op != Operator::And && b.op != Operator::Or => sql(expr),
        _ => format!("({})", sql(expr)),
    }
}

fn literal_sql(value: &ScalarValue) -> String {
    let quoted = |prefix: &str, text: &str| format!("{prefix}'{}'", text.replace('\'', "''"));
    match value {
        ScalarValue::Boolean(Some(b)) => if *b { "TRUE" } else { "FALSE" }.into(),
        ScalarValue::Utf8(Some(t)) | ScalarValue::LargeUtf8(Some(t)) | ScalarValue::Utf8View(Some(t)) => quoted("", t),
        ScalarValue::Date32(_) | ScalarValue::Date64(_) => quoted("DATE ", &value.to_string()),
        _ if is_time(&value.data_type()) => match value.cast_to(&DataType::Utf8) {
            Ok(ScalarValue::Utf8(Some(t))) => quoted("TIMESTAMP ", &t),
            _ => value.to_string(),
        },
        _ => value.to_string(),
    }
}
