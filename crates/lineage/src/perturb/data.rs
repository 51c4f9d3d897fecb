//! Small tables made for a query: values around the literals its columns are compared with, nulls among them.

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
            ListArray, StringArray, UInt32Array, new_null_array,
        },
        compute::{cast, concat, take},
        datatypes::{DataType, FieldRef, Int32Type, SchemaRef},
    },
    common::{
        ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan},
};
use std::{collections::BTreeMap, sync::Arc};

/// A small generator, so that a seed says it all.
#[derive(Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        let mut draw = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| {
            draw.below(2);
        });
        draw
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// One in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// Literals by the name of the column they are compared with.
#[derive(Default, Clone, Debug)]
pub(crate) struct Hints(BTreeMap<String, Vec<ScalarValue>>);

impl Hints {
    /// From an optimised plan, in which literals have the types of the columns they meet.
    pub(crate) fn of(plan: &LogicalPlan) -> Self {
        let mut hints = Self::default();
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|e| {
                e.apply(|e| {
                    hints.add(e);
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })
        .unwrap();
        hints
    }

    fn add(&mut self, expr: &Expr) {
        let parts: Vec<&Expr> = match expr {
            Expr::BinaryExpr(b) => vec![&b.left, &b.right],
            Expr::InList(i) => std::iter::once(&*i.expr).chain(&i.list).collect(),
            Expr::Between(b) => vec![&b.expr, &b.low, &b.high],
            Expr::Like(l) => vec![&l.expr, &l.pattern],
            Expr::Case(c) => c.expr.as_deref().into_iter().chain(c.when_then_expr.iter().map(|(w, _)| &**w)).collect(),
            _ => return,
        };
        let mut columns = vec![];
        let mut literals = vec![];
        for part in parts {
            match part {
                Expr::Literal(value, _) if !value.is_null() => literals.push(value.clone()),
                other => columns.extend(other.column_refs().into_iter().map(|c| c.name.clone())),
            }
        }
        for column in columns {
            self.0.entry(column).or_default().extend(literals.clone());
        }
    }

    /// Those of a column, and those of names made of it, such as `sum(t.c)`.
    fn for_column(&self, column: &str) -> Vec<&ScalarValue> {
        self.0.iter().filter(|(name, _)| name.contains(column)).flat_map(|(_, values)| values).collect()
    }

    fn dates(&self) -> Vec<i32> {
        let all = self.0.values().flatten();
        all.filter_map(|v| if let ScalarValue::Date32(Some(day)) = v { Some(*day) } else { None }).collect()
    }
}

pub(crate) const ROWS: usize = 7;
/// 1995-01-01.
const SOME_DAY: i32 = 9131;

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(t)) | ScalarValue::Utf8View(Some(t)) | ScalarValue::LargeUtf8(Some(t)) => Some(t),
        _ => None,
    }
}

fn whole(value: &ScalarValue) -> Option<i64> {
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(n) => n,
        _ => None,
    }
}

/// Values of a column to draw from, those that a literal names first, and how many of these there are.
fn pool(field: &FieldRef, hints: &Hints) -> (Vec<ScalarValue>, usize) {
    let named = hints.for_column(field.name());
    let ints = |defaults: &[i64]| {
        let mut out: Vec<i64> = named.iter().filter_map(|v| whole(v)).collect();
        let count = out.len();
        out.extend(out.clone().into_iter().flat_map(|n| [n - 1, n + 1]));
        if count == 0 {
            out.extend(defaults);
        }
        (out, count)
    };
    match field.data_type() {
        DataType::Int32 => {
            let (out, count) = ints(&[0, 1, 2, 3]);
            (out.into_iter().map(|n| ScalarValue::Int32(i32::try_from(n).ok())).collect(), count)
        }
        DataType::Int64 => {
            let (out, count) = ints(&[1, 2, 3]);
            (out.into_iter().map(|n| ScalarValue::Int64(Some(n))).collect(), count)
        }
        DataType::Decimal128(p, s) => {
            let one = 10i128.pow(u32::from(s.unsigned_abs()));
            let mut out: Vec<i128> = named
                .iter()
                .filter_map(|v| match v.cast_to(&DataType::Decimal128(*p, *s)).ok()? {
                    ScalarValue::Decimal128(n, ..) => n,
                    _ => None,
                })
                .collect();
            let count = out.len();
            out.extend(out.clone().into_iter().flat_map(|n| [n - one, n + one]));
            out.extend([one, 2 * one, 7 * one / 2]);
            (out.into_iter().map(|n| ScalarValue::Decimal128(Some(n), *p, *s)).collect(), count)
        }
        DataType::Date32 => {
            let mut out: Vec<i32> =
                named.iter().filter_map(|v| if let ScalarValue::Date32(d) = v { *d } else { None }).collect();
            if out.is_empty() {
                out = hints.dates();
            }
            if out.is_empty() {
                out.push(SOME_DAY);
            }
            let exact: Vec<_> = out.iter().flat_map(|d| [*d, d + 1]).collect();
            let count = exact.len();
            let all = exact.into_iter().chain(out.iter().flat_map(|d| [d - 1, d + 40, d + 400]));
            (all.map(|d| ScalarValue::Date32(Some(d))).collect(), count)
        }
        DataType::Utf8 | DataType::Utf8View => {
            let texts: Vec<String> = named
                .iter()
                .filter_map(|v| text(v))
                .flat_map(|t| {
                    let t = t.replace('_', "q");
                    [t.replace('%', ""), t.replace('%', "z")]
                })
                .collect();
            let count = texts.len();
            let others = ["x", "xy", "12", "3"].map(String::from);
            (texts.into_iter().chain(others).map(|t| ScalarValue::Utf8(Some(t))).collect(), count)
        }
        DataType::Boolean => ([true, false].map(|b| ScalarValue::Boolean(Some(b))).to_vec(), 0),
        DataType::Float64 => ([0.0, 1.0, 2.0].map(|n| ScalarValue::Float64(Some(n))).to_vec(), 0),
        _ => (vec![], 0),
    }
}

/// Values for a column of `rows` rows.
pub(crate) fn column(field: &FieldRef, hints: &Hints, rows: usize, draw: &mut Draw) -> ArrayRef {
    if let DataType::List(item) = field.data_type()
        && *item.data_type() == DataType::Int32
    {
        let lists = (0..rows).map(|_| {
            let length = draw.below(4);
            Some((0..length).map(|_| (!draw.one_in(8)).then(|| draw.below(4) as i32)).collect::<Vec<_>>())
        });
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists.collect::<Vec<_>>()));
        return cast(&lists, field.data_type()).unwrap();
    }
    let (pool, count) = pool(field, hints);
    if pool.is_empty() {
        return new_null_array(field.data_type(), rows);
    }
    let values = (0..rows).map(|_| {
        if draw.one_in(14) {
            return None;
        }
        let named = count > 0 && !draw.one_in(4);
        Some(draw.of(if named { &pool[..count] } else { &pool }).clone())
    });
    array(field.data_type(), &values.collect::<Vec<_>>())
}

fn array(data_type: &DataType, values: &[Option<ScalarValue>]) -> ArrayRef {
    macro_rules! from {
        ($array:ty, $variant:ident) => {
            Arc::new(<$array>::from_iter(values.iter().map(|v| match v {
                Some(ScalarValue::$variant(v)) => v.clone(),
                _ => None,
            })))
        };
    }
    match data_type {
        DataType::Int32 => from!(Int32Array, Int32),
        DataType::Int64 => from!(Int64Array, Int64),
        DataType::Date32 => from!(Date32Array, Date32),
        DataType::Float64 => from!(Float64Array, Float64),
        DataType::Boolean => from!(BooleanArray, Boolean),
        DataType::Decimal128(p, s) => {
            let values = values.iter().map(|v| if let Some(ScalarValue::Decimal128(n, ..)) = v { *n } else { None });
            Arc::new(values.collect::<Decimal128Array>().with_precision_and_scale(*p, *s).unwrap())
        }
        _ => {
            let texts: ArrayRef = from!(StringArray, Utf8);
            cast(&texts, data_type).unwrap()
        }
    }
}

/// All columns of a table. In table `edges`, `src` < `dst`, so that recursion ends; `_k` numbers the rows.
pub(crate) fn table(name: &str, schema: &SchemaRef, hints: &Hints, draw: &mut Draw) -> Vec<ArrayRef> {
    let of = |field: &FieldRef| -> ArrayRef {
        match field.name().as_str() {
            "_k" => Arc::new(Int32Array::from_iter_values(0..ROWS as i32)),
            "src" if name == "edges" => Arc::new(Int32Array::from_iter_values((0..ROWS as i32).map(|i| i / 2))),
            "dst" if name == "edges" => Arc::new(Int32Array::from_iter_values((0..ROWS as i32).map(|i| i / 2 + 1))),
            _ => column(field, hints, ROWS, draw),
        }
    };
    schema.fields().iter().map(of).collect()
}

/// Ways to change a column.
pub(crate) const WAYS: usize = 7;

/// The column changed in one way; `None` where that way does not fit. `ends`: values must not grow.
pub(crate) fn changed(
    column_of: &ArrayRef,
    field: &FieldRef,
    hints: &Hints,
    way: usize,
    ends: bool,
    draw: &mut Draw,
) -> Option<ArrayRef> {
    let rows = column_of.len() as u32;
    let moved =
        |by: &dyn Fn(u32) -> Option<u32>| take(column_of, &UInt32Array::from_iter((0..rows).map(by)), None).unwrap();
    let cell = |draw: &mut Draw| {
        let at = draw.below(u64::from(rows)) as u32;
        let new = column(field, hints, 1, draw);
        let both = concat(&[column_of, &new]).unwrap();
        take(&both, &UInt32Array::from_iter_values((0..rows).map(|i| if i == at { rows } else { i })), None).unwrap()
    };
    Some(match way {
        0 => new_null_array(column_of.data_type(), rows as usize),
        1 => {
            let at = draw.below(u64::from(rows)) as u32;
            moved(&|i| (i != at).then_some(i))
        }
        _ if ends => return None,
        2 => moved(&|i| Some((i + 1) % rows)),
        3 => column(field, hints, rows as usize, draw),
        4 => {
            let numbers = column_of.as_any().downcast_ref::<Int32Array>()?;
            Arc::new(Int32Array::from_iter(numbers.iter().map(|n| n.map(|n| n + 1))))
        }
        _ => cell(draw),
    })
}
