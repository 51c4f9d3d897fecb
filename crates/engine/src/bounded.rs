//! Functions whose result grows with the *value* of an argument, with an end to it.
//!
//! DataFusion's own allocate outside the memory pool, so `repeat('x', 9000000000)` would end the process. Here such a call
//! fails once its results for one batch would have more than [`MOST`] parts.

use custody_policy::enforce;
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Int64Array},
        compute::cast,
        datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit},
    },
    common::{Result, exec_err},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        simplify::{ExprSimplifyResult, SimplifyContext},
        sort_properties::{ExprProperties, SortProperties},
    },
};
use std::sync::Arc;

/// Bytes or elements that one call may make for one batch.
const MOST: i128 = 1 << 26;

/// How large a function's result is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Growth {
    /// The first argument as often as the second says.
    Times,
    /// As many parts as the second argument says.
    Length,
    /// From a start to a stop by a step.
    Steps,
}

const BOUNDED: &[(&str, Growth)] = &[
    ("array_repeat", Growth::Times),
    ("array_resize", Growth::Length),
    ("generate_series", Growth::Steps),
    ("lpad", Growth::Length),
    ("range", Growth::Steps),
    ("repeat", Growth::Times),
    ("rpad", Growth::Length),
];

/// The function, bounded where its result could be without end.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match BOUNDED.iter().find(|(name, _)| *name == function.name()) {
        Some((_, growth)) => Arc::new(ScalarUDF::from(Bounded { inner: function, growth: *growth })),
        None => function,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let scalars = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let arrays =
            args.args.iter().map(|a| a.to_array(if scalars { 1 } else { rows })).collect::<Result<Vec<_>>>()?;
        let size = match self.growth {
            Growth::Times => times(&arrays),
            Growth::Length => arrays.get(1).map_or(Ok(0), |n| whole(n).map(|n| sum(&n))),
            Growth::Steps => steps(&arrays),
        }?;
        if enforce!("bounded.size", size > MOST) {
            return exec_err!("`{}` would make more than {MOST} parts", self.name());
        }
        self.inner.invoke_with_args(args)
    }
}

fn whole(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn sum(counts: &Int64Array) -> i128 {
    counts.iter().flatten().map(|n| i128::from(n.max(0))).sum()
}

/// Each row's first argument, by its share of the memory of all, as often as the second says.
fn times(args: &[ArrayRef]) -> Result<i128> {
    let [what, count, ..] = args else { return Ok(0) };
    let counts = whole(count)?;
    Ok(match what.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = cast(what, &DataType::LargeUtf8)?;
            let text = text.as_string::<i64>();
            let product = |i: usize| {
                let length = if text.is_null(i) { 0 } else { text.value(i).len() as i128 };
                if counts.is_null(i) { 0 } else { length.max(1) * i128::from(counts.value(i).max(0)) }
            };
            (0..counts.len()).map(product).sum()
        }
        other if other.is_primitive() || *other == DataType::Boolean => sum(&counts),
        _ => sum(&counts) * (what.get_array_memory_size() as i128 / what.len().max(1) as i128).max(1),
    })
}

/// How many steps from start to stop, whatever their type.
fn steps(args: &[ArrayRef]) -> Result<i128> {
    const DAY: i128 = 86_400_000_000_000;
    let zero;
    let (start, stop, step) = match args {
        [stop] => {
            zero = Arc::new(Int64Array::from(vec![0; stop.len()])) as ArrayRef;
            (&zero, stop, None)
        }
        [start, stop] => (start, stop, None),
        [start, stop, step, ..] => (start, stop, Some(step)),
        [] => return Ok(0),
    };
    // Dates count days and instants nanoseconds, so that a step of any interval can be told.
    let numbers = |a: &ArrayRef| -> Result<Vec<Option<i128>>> {
        Ok(match a.data_type() {
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
                let at = cast(a, &DataType::Timestamp(TimeUnit::Second, None))?;
                whole(&at)?.iter().map(|v| v.map(|v| i128::from(v) * 1_000_000_000)).collect()
            }
            DataType::Interval(_) => {
                let at = cast(a, &DataType::Interval(datafusion::arrow::datatypes::IntervalUnit::MonthDayNano))?;
                let nanos = |v: datafusion::arrow::datatypes::IntervalMonthDayNano| {
                    (i128::from(v.months) * 28 + i128::from(v.days)) * DAY + i128::from(v.nanoseconds)
                };
                at.as_primitive::<IntervalMonthDayNanoType>().iter().map(|v| v.map(nanos)).collect()
            }
            _ => whole(a)?.iter().map(|v| v.map(i128::from)).collect(),
        })
    };
    let (starts, stops) = (numbers(start)?, numbers(stop)?);
    let sizes = step.map(numbers).transpose()?;
    let count = |i: usize| {
        let (Some(Some(start)), Some(Some(stop))) = (starts.get(i), stops.get(i)) else { return 0 };
        let step = match &sizes {
            Some(sizes) => sizes.get(i).copied().flatten().unwrap_or(1),
            None => 1,
        };
        let way = if step < 0 { start - stop } else { stop - start };
        way.max(0) / step.abs().max(1)
    };
    Ok((0..starts.len()).map(count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bounded_function_exists() {
        let known = crate::functions::scalar();
        for (name, _) in BOUNDED {
            let found = known.iter().find(|f| f.name() == *name).unwrap_or_else(|| panic!("{name}"));
            assert!((found.inner().as_ref() as &dyn std::any::Any).is::<Bounded>(), "{name}");
        }
    }
}
