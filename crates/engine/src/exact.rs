//! `sum` and `avg` of floats that do not depend on the order of rows.
//!
//! What holds here: the result is the exact sum, rounded once. So a published value is the same on any number of partitions, and
//! whether a window's rows were added one by one or added and taken away again. Everything else about the two functions is
//! DataFusion's own. Reads of people use DataFusion's faster ones.

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Float64Array},
        datatypes::{DataType, Field, FieldRef, Float64Type, UInt64Type},
    },
    common::{
        Result, ScalarValue, exec_err,
        tree_node::{Transformed, TreeNode},
        utils::SingleRowListArrayBuilder,
    },
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Expr, GroupsAccumulator, LogicalPlan, ReversedUDAF, Signature,
        WindowFunctionDefinition,
        expr::{AggregateFunctionParams, WindowFunctionParams},
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};
use std::sync::Arc;

/// The plan with exact sums and averages.
pub(crate) fn exactly(plan: LogicalPlan) -> Result<LogicalPlan> {
    let exact = |e: Expr| {
        e.transform(|e| {
            Ok(match e {
                Expr::AggregateFunction(mut a) => match replaced(&a.func) {
                    Some(func) => {
                        a.func = func;
                        Transformed::yes(Expr::AggregateFunction(a))
                    }
                    None => Transformed::no(Expr::AggregateFunction(a)),
                },
                Expr::WindowFunction(mut w) => {
                    let of = match &w.fun {
                        WindowFunctionDefinition::AggregateUDF(f) => replaced(f),
                        WindowFunctionDefinition::WindowUDF(_) => None,
                    };
                    match of {
                        Some(func) => {
                            w.fun = WindowFunctionDefinition::AggregateUDF(func);
                            Transformed::yes(Expr::WindowFunction(w))
                        }
                        None => Transformed::no(Expr::WindowFunction(w)),
                    }
                }
                other => Transformed::no(other),
            })
        })
    };
    plan.transform_down_with_subqueries(|node| node.map_expressions(exact)).map(|t| t.data)
}

fn replaced(function: &Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
    let average = match function.name() {
        "sum" => false,
        "avg" => true,
        _ => return None,
    };
    Some(Arc::new(AggregateUDF::new_from_impl(Exact { inner: Arc::clone(function), average })))
}

/// The function, exact over floats.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    inner: Arc<AggregateUDF>,
    average: bool,
}

impl Exact {
    /// Whether these are floats, each as often as it comes.
    fn applies(result: &DataType, distinct: bool) -> bool {
        *result == DataType::Float64 && !distinct
    }
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.display_name(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_schema_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match Self::applies(args.return_field.data_type(), args.is_distinct) {
            true => Ok(Box::new(Sum { average: self.average, ..Sum::default() })),
            false => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if !Self::applies(args.return_field.data_type(), args.is_distinct) {
            return self.inner.state_fields(args);
        }
        let parts = Field::new_list_field(DataType::Float64, true);
        let count = |what: &str| Arc::new(Field::new(format!("{}[{what}]", args.name), DataType::UInt64, true));
        Ok(vec![
            count("count"),
            count("nan"),
            count("up"),
            count("down"),
            Arc::new(Field::new_list(format!("{}[parts]", args.name), parts, true)),
        ])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !Self::applies(args.return_field.data_type(), args.is_distinct) && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match Self::applies(args.return_field.data_type(), args.is_distinct) {
            true => self.accumulator(args),
            false => self.inner.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// A sum without error: floats that do not overlap and add up to it (Shewchuk 1997, as Python's `fsum`).
#[derive(Debug, Default, Clone)]
struct Sum {
    average: bool,
    count: u64,
    nan: u64,
    up: u64,
    down: u64,
    parts: Vec<f64>,
}

impl Sum {
    fn part(&mut self, value: f64) -> Result<()> {
        let (mut x, mut kept) = (value, 0);
        for i in 0..self.parts.len() {
            let mut y = self.parts[i];
            if x.abs() < y.abs() {
                std::mem::swap(&mut x, &mut y);
            }
            let high = x + y;
            let low = y - (high - x);
            if low != 0.0 {
                self.parts[kept] = low;
                kept += 1;
            }
            x = high;
        }
        if !x.is_finite() {
            return exec_err!("a sum of floats leaves their range");
        }
        self.parts.truncate(kept);
        if x != 0.0 {
            self.parts.push(x);
        }
        Ok(())
    }

    fn special(&mut self, value: f64) -> &mut u64 {
        match value {
            v if v.is_nan() => &mut self.nan,
            v if v > 0.0 => &mut self.up,
            _ => &mut self.down,
        }
    }

    /// Every value of these rows, `NULL` aside, added or taken away.
    fn each(&mut self, values: &[ArrayRef], add: bool) -> Result<()> {
        let Some(values) = values.first() else { return Ok(()) };
        for value in values.as_primitive::<Float64Type>().iter().flatten() {
            if value.is_finite() {
                self.part(if add { value } else { -value })?;
            }
            match (add, value.is_finite()) {
                (true, true) => {}
                (true, false) => *self.special(value) += 1,
                (false, true) => {}
                (false, false) => {
                    let n = self.special(value);
                    *n = n.saturating_sub(1);
                }
            }
            self.count = if add { self.count + 1 } else { self.count.saturating_sub(1) };
        }
        Ok(())
    }

    /// The float nearest to the sum, of two equally near the even one.
    fn rounded(&self) -> f64 {
        match (self.nan, self.up, self.down) {
            (0, 0, 0) => {}
            (0, _, 0) => return f64::INFINITY,
            (0, 0, _) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let mut rest = self.parts.iter().rev().copied().peekable();
        let Some(mut high) = rest.next() else { return 0.0 };
        while let Some(next) = rest.next() {
            let sum = high + next;
            let low = next - (sum - high);
            high = sum;
            if low != 0.0 {
                // Half way between two floats, what is left decides.
                if let Some(after) = rest.peek()
                    && (low < 0.0) == (*after < 0.0)
                {
                    let twice = low * 2.0;
                    let other = high + twice;
                    if twice == other - high {
                        high = other;
                    }
                }
                break;
            }
        }
        high
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(values, true)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.each(values, false)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.rounded();
        Ok(ScalarValue::Float64(match (self.count, self.average) {
            (0, _) => None,
            (_, false) => Some(sum),
            (n, true) => Some(sum / n as f64),
        }))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.parts.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let parts = Arc::new(Float64Array::from(self.parts.clone()));
        let parts = SingleRowListArrayBuilder::new(parts).with_nullable(true).build_list_scalar();
        let counts = [self.count, self.nan, self.up, self.down].map(|n| ScalarValue::UInt64(Some(n)));
        Ok(counts.into_iter().chain([parts]).collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [count, nan, up, down, parts] = states else { return exec_err!("a sum of floats has five parts of state") };
        let all = |column: &ArrayRef| column.as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
        self.count += all(count);
        self.nan += all(nan);
        self.up += all(up);
        self.down += all(down);
        for parts in parts.as_list::<i32>().iter().flatten() {
            for part in parts.as_primitive::<Float64Type>().iter().flatten() {
                self.part(part)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use custody_model::profile::mixed;

    fn floats(values: &[f64]) -> Vec<ArrayRef> {
        vec![Arc::new(Float64Array::from(values.to_vec()))]
    }

    fn sum_of(values: &[f64]) -> f64 {
        let mut sum = Sum::default();
        sum.update_batch(&floats(values)).unwrap();
        sum.rounded()
    }

    #[test]
    fn sums_are_exact() {
        assert_eq!(sum_of(&[0.1; 10]), 1.0);
        assert_eq!(sum_of(&[1e100, 1.0, -1e100, 1e-100]), 1.0);
        assert_eq!(sum_of(&[-0.0]).to_bits(), 0);
        // Half way, with a little on either side.
        let (one, half, little) = (1.0, f64::EPSILON / 2.0, 1e-300);
        assert_eq!(sum_of(&[one, half]), 1.0);
        assert_eq!(sum_of(&[one, half, little]), 1.0 + f64::EPSILON);
        assert_eq!(sum_of(&[one, half, -little]), 1.0);
        assert!(sum_of(&[f64::INFINITY, 1.0]) == f64::INFINITY && sum_of(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert!(Sum::default().update_batch(&floats(&[f64::MAX, f64::MAX])).is_err());
    }

    /// In any order, in parts that are merged, and with others added and taken away: the same bits.
    #[test]
    fn sums_do_not_depend_on_how_they_are_made() {
        for seed in 0..200 {
            let random = |i: u64| mixed(seed * 1_000 + i);
            let value = |i: u64| {
                let scale = 2.0_f64.powi((random(i) % 120) as i32 - 60);
                (random(i + 500) as i64 as f64) / 9.2e18 * scale
            };
            let values: Vec<f64> = (0..100).map(value).collect();
            let expected = sum_of(&values).to_bits();
            let mut shuffled = values.clone();
            shuffled.sort_by_key(|v| mixed(v.to_bits()));
            assert_eq!(sum_of(&shuffled).to_bits(), expected);
            let mut merged = Sum::default();
            for part in shuffled.chunks(7) {
                let mut one = Sum::default();
                one.update_batch(&floats(part)).unwrap();
                let state: Vec<_> = one.state().unwrap().iter().map(|s| s.to_array().unwrap()).collect();
                merged.merge_batch(&state).unwrap();
            }
            assert_eq!((merged.rounded().to_bits(), merged.count), (expected, 100));
            let more: Vec<f64> = (100..180).map(value).chain([f64::NAN, f64::INFINITY]).collect();
            merged.update_batch(&floats(&more)).unwrap();
            assert!(merged.rounded().is_nan());
            merged.retract_batch(&floats(&more)).unwrap();
            assert_eq!((merged.rounded().to_bits(), merged.count), (expected, 100));
        }
    }
}
