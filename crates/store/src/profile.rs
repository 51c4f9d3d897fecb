//! Counting the values of a version while it is written.
//!
//! What holds here: a profile depends on the values alone, but for the mean, which is summed block by block in published
//! order. Memory is bounded by [`WORKING_CELLS`] a column, whatever the number of rows.

use arrow::{
    array::{Array, AsArray, PrimitiveArray, RecordBatch},
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        Schema, TimestampMicrosecondType,
    },
};
use custody_model::profile::{
    Cells, ColumnProfile, HASHED_CELLS, Profile, hashed_cell, mixed, ordered_float_key, ordered_key, stable_hash,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
};

/// Ordered cells held of a column.
const WORKING_CELLS: usize = 4_096;
/// Texts held of a column before they are hashed.
const WORKING_TEXTS: usize = 64;
/// Bytes of a text that is held.
const TEXT_BYTES: usize = 64;
/// Smallest hashes held to estimate how many different values there are.
const LEAST_HASHES: usize = 1_024;

/// Keys are spread already where it matters; one multiplication is enough.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = stable_hash(bytes);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Fast<K> = HashMap<K, u64, BuildHasherDefault<Spread>>;

/// The smallest hashes of the values seen.
struct Distinct {
    least: BTreeSet<u64>,
    /// Hashes from here on are among the smallest no more.
    end: u64,
}

impl Default for Distinct {
    fn default() -> Self {
        Self { least: BTreeSet::new(), end: u64::MAX }
    }
}

impl Distinct {
    /// For rows that come beside those already seen.
    fn beside(&self) -> Self {
        Self { least: BTreeSet::new(), end: self.end }
    }

    fn add(&mut self, hash: u64) {
        if hash >= self.end || !self.least.insert(hash) {
            return;
        }
        if self.least.len() > LEAST_HASHES {
            self.least.pop_last();
        }
        if self.least.len() == LEAST_HASHES {
            self.end = self.least.last().map_or(self.end, |most| self.end.min(*most));
        }
    }

    fn estimate(&self) -> u64 {
        match self.least.last() {
            Some(most) if self.least.len() >= LEAST_HASHES && *most > 0 => {
                ((LEAST_HASHES as f64 - 1.0) / (*most as f64 / u64::MAX as f64)).round() as u64
            }
            _ => self.least.len() as u64,
        }
    }
}

/// Cells of ordered values. INVARIANT: `shift` is the least with which all values so far have `WORKING_CELLS` cells or
/// fewer; it grows with the values, in whatever order they come.
#[derive(Default)]
struct Ordered {
    shift: u32,
    rows: Fast<u64>,
    /// Empty while cells are values.
    distinct: Distinct,
}

impl Ordered {
    fn add(&mut self, key: u64, rows: u64) {
        if self.shift > 0 {
            self.distinct.add(mixed(key));
        }
        *self.rows.entry(key >> self.shift).or_insert(0) += rows;
        if self.rows.len() > WORKING_CELLS {
            self.widen();
        }
    }

    fn widen(&mut self) {
        if self.shift == 0 {
            self.rows.keys().for_each(|key| self.distinct.add(mixed(*key)));
        }
        // Two neighbours become one cell once no bit in which they differ is left.
        let mut keys: Vec<u64> = self.rows.keys().copied().collect();
        keys.sort_unstable();
        let mut apart = [0_usize; 64];
        for pair in keys.windows(2) {
            let [a, b] = pair else { continue };
            apart[(a ^ b).checked_ilog2().unwrap_or(0) as usize] += 1;
        }
        let (mut cells, mut by) = (keys.len(), 0);
        while cells > WORKING_CELLS {
            cells -= apart[by as usize];
            by += 1;
        }
        self.widen_to(self.shift + by);
    }

    fn widen_to(&mut self, shift: u32) {
        let by = shift - self.shift;
        let mut wide = Fast::with_capacity_and_hasher(WORKING_CELLS + 1, BuildHasherDefault::default());
        for (cell, n) in self.rows.drain() {
            *wide.entry(cell >> by).or_insert(0) += n;
        }
        (self.rows, self.shift) = (wide, shift);
    }

    fn merge(&mut self, mut other: Self) {
        match (self.shift, other.shift) {
            (0, 0) => {}
            (0, shift) => {
                self.rows.keys().for_each(|key| self.distinct.add(mixed(*key)));
                self.widen_to(shift);
            }
            (shift, 0) => {
                other.rows.keys().for_each(|key| other.distinct.add(mixed(*key)));
                other.widen_to(shift);
            }
            (a, b) if a < b => self.widen_to(b),
            (a, b) if a > b => other.widen_to(a),
            _ => {}
        }
        other.distinct.least.into_iter().for_each(|hash| self.distinct.add(hash));
        for (cell, n) in other.rows {
            *self.rows.entry(cell).or_insert(0) += n;
        }
        if self.rows.len() > WORKING_CELLS {
            self.widen();
        }
    }
}

/// Texts: by value while there are few and short ones, else by hash.
#[derive(Default)]
struct Texts {
    known: Fast<Box<str>>,
    hashed: Option<Vec<u64>>,
    distinct: Distinct,
}

impl Texts {
    fn add(&mut self, text: &str, rows: u64) {
        if let Some(cells) = &mut self.hashed {
            let hash = stable_hash(text.as_bytes());
            cells[hashed_cell(hash)] += rows;
            self.distinct.add(hash);
            return;
        }
        if let Some(known) = self.known.get_mut(text) {
            *known += rows;
            return;
        }
        let _ = self.known.insert(text.into(), rows);
        if self.known.len() > WORKING_TEXTS || text.len() > TEXT_BYTES {
            self.hash();
        }
    }

    fn hash(&mut self) {
        if self.hashed.is_none() {
            self.hashed = Some(vec![0; HASHED_CELLS]);
            let known = std::mem::take(&mut self.known);
            known.iter().for_each(|(text, rows)| self.add(text, *rows));
        }
    }

    fn merge(&mut self, other: Self) {
        if let Some(theirs) = other.hashed {
            self.hash();
            let ours = self.hashed.iter_mut().flatten();
            ours.zip(theirs).for_each(|(ours, theirs)| *ours += theirs);
            other.distinct.least.into_iter().for_each(|hash| self.distinct.add(hash));
        }
        other.known.iter().for_each(|(text, rows)| self.add(text, *rows));
    }
}

enum Counting {
    /// Numbers and times; `sum` of numbers.
    Ordered {
        cells: Ordered,
        sum: Option<f64>,
    },
    Text(Texts),
    Boolean([u64; 2]),
    Nothing,
}

/// Counts the rows of a version, or of a part of it.
pub(crate) struct Profiler {
    rows: u64,
    columns: Vec<(u64, Counting)>,
}

impl Profiler {
    pub(crate) fn new(schema: &Schema) -> Self {
        let counting = |data_type: &DataType| match data_type {
            DataType::Boolean => Counting::Boolean([0, 0]),
            DataType::Utf8 => Counting::Text(Texts::default()),
            DataType::Date32 | DataType::Timestamp(..) => Counting::Ordered { cells: Ordered::default(), sum: None },
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(..) => Counting::Ordered { cells: Ordered::default(), sum: Some(0.0) },
            _ => Counting::Nothing,
        };
        Self { rows: 0, columns: schema.fields().iter().map(|f| (0, counting(f.data_type()))).collect() }
    }

    /// For rows beside those counted here, to be merged into it: cells are as wide from the start as they will be in the
    /// end at least.
    pub(crate) fn beside(&self) -> Self {
        let counting = |counting: &Counting| match counting {
            Counting::Ordered { cells, sum } => Counting::Ordered {
                cells: Ordered { shift: cells.shift, rows: Fast::default(), distinct: cells.distinct.beside() },
                sum: sum.map(|_| 0.0),
            },
            Counting::Text(texts) => {
                let distinct = texts.distinct.beside();
                let hashed = texts.hashed.as_ref().map(|_| vec![0; HASHED_CELLS]);
                Counting::Text(Texts { known: Fast::default(), hashed, distinct })
            }
            Counting::Boolean(_) => Counting::Boolean([0, 0]),
            Counting::Nothing => Counting::Nothing,
        };
        Self { rows: 0, columns: self.columns.iter().map(|(_, c)| (0, counting(c))).collect() }
    }

    /// Counts rows; columns are those of the schema.
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for ((nulls, counting), column) in self.columns.iter_mut().zip(batch.columns()) {
            *nulls += column.null_count() as u64;
            match counting {
                Counting::Ordered { cells, sum } => ordered(cells, sum, column.as_ref()),
                Counting::Text(texts) => {
                    let mut run: Option<(&str, u64)> = None;
                    for text in column.as_string::<i32>().iter().flatten() {
                        match &mut run {
                            Some((last, n)) if *last == text => *n += 1,
                            _ => {
                                if let Some((last, n)) = run.replace((text, 1)) {
                                    texts.add(last, n);
                                }
                            }
                        }
                    }
                    if let Some((last, n)) = run {
                        texts.add(last, n);
                    }
                }
                Counting::Boolean(counts) => {
                    let values = column.as_boolean();
                    counts[0] += values.false_count() as u64;
                    counts[1] += values.true_count() as u64;
                }
                Counting::Nothing => {}
            }
        }
    }

    /// Takes what was counted of the rows that come next.
    pub(crate) fn merge(&mut self, next: Self) {
        self.rows += next.rows;
        for ((nulls, ours), (more, theirs)) in self.columns.iter_mut().zip(next.columns) {
            *nulls += more;
            match (ours, theirs) {
                (Counting::Ordered { cells, sum }, Counting::Ordered { cells: next, sum: more }) => {
                    cells.merge(next);
                    *sum = sum.zip(more).map(|(a, b)| a + b);
                }
                (Counting::Text(texts), Counting::Text(next)) => texts.merge(next),
                (Counting::Boolean(counts), Counting::Boolean(next)) => {
                    counts.iter_mut().zip(next).for_each(|(a, b)| *a += b);
                }
                _ => {}
            }
        }
    }

    /// What was counted, small cells too.
    pub(crate) fn finish(self) -> Profile {
        let rows = self.rows;
        let column = |(nulls, counting): (u64, Counting)| {
            let (cells, distinct, mean) = match counting {
                Counting::Ordered { cells, sum } => {
                    let distinct = if cells.shift == 0 { cells.rows.len() as u64 } else { cells.distinct.estimate() };
                    let some = (rows - nulls) as f64;
                    let mean = sum.map(|sum| sum / some).filter(|m| m.is_finite());
                    let rows = cells.rows.into_iter().collect();
                    (Cells::Ordered { shift: cells.shift, rows }, Some(distinct), mean)
                }
                Counting::Text(texts) => match texts.hashed {
                    Some(cells) => (Cells::Hashed(cells), Some(texts.distinct.estimate()), None),
                    None => {
                        let distinct = texts.known.len() as u64;
                        let known = texts.known.into_iter().map(|(text, n)| (text.into_string(), n));
                        (Cells::Values(known.collect()), Some(distinct), None)
                    }
                },
                Counting::Boolean(counts) => {
                    let known = ["false", "true"].into_iter().zip(counts).filter(|(_, n)| *n > 0);
                    let known: BTreeMap<_, _> = known.map(|(word, n)| (word.to_string(), n)).collect();
                    let distinct = known.len() as u64;
                    (Cells::Values(known), Some(distinct), None)
                }
                Counting::Nothing => (Cells::Nothing, None, None),
            };
            ColumnProfile { nulls: Some(nulls), distinct, mean, cells, small: 0 }
        };
        Profile { rows, least: 0, columns: self.columns.into_iter().map(column).collect() }
    }
}

fn ordered(cells: &mut Ordered, sum: &mut Option<f64>, column: &dyn Array) {
    match column.data_type() {
        DataType::Int8 => each::<Int8Type>(cells, sum, column.as_primitive(), |v| (ordered_key(v.into()), v.into())),
        DataType::Int16 => each::<Int16Type>(cells, sum, column.as_primitive(), |v| (ordered_key(v.into()), v.into())),
        DataType::Int32 => each::<Int32Type>(cells, sum, column.as_primitive(), |v| (ordered_key(v.into()), v.into())),
        DataType::Int64 => each::<Int64Type>(cells, sum, column.as_primitive(), |v| (ordered_key(v), v as f64)),
        DataType::Date32 => each::<Date32Type>(cells, sum, column.as_primitive(), |v| (ordered_key(v.into()), 0.0)),
        DataType::Timestamp(..) => {
            each::<TimestampMicrosecondType>(cells, sum, column.as_primitive(), |v| (ordered_key(v), 0.0));
        }
        DataType::Float32 => {
            each::<Float32Type>(cells, sum, column.as_primitive(), |v| (ordered_float_key(v.into()), v.into()));
        }
        DataType::Float64 => each::<Float64Type>(cells, sum, column.as_primitive(), |v| (ordered_float_key(v), v)),
        _ => {
            if let Ok(floats) = cast(&arrow::array::make_array(column.to_data()), &DataType::Float64)
                && floats.data_type() == &DataType::Float64
            {
                each::<Float64Type>(cells, sum, floats.as_primitive(), |v| (ordered_float_key(v), v));
            }
        }
    }
}

fn each<T: ArrowPrimitiveType>(
    cells: &mut Ordered,
    sum: &mut Option<f64>,
    values: &PrimitiveArray<T>,
    of: impl Fn(T::Native) -> (u64, f64),
) {
    let (mut run, mut last, mut total) = (0, 0, 0.0);
    let mut one = |value: T::Native| {
        let (key, number) = of(value);
        total += number;
        if run > 0 && key == last {
            run += 1;
        } else {
            if run > 0 {
                cells.add(last, run);
            }
            (last, run) = (key, 1);
        }
    };
    match values.null_count() {
        0 => values.values().iter().for_each(|v| one(*v)),
        _ => values.iter().flatten().for_each(one),
    }
    if run > 0 {
        cells.add(last, run);
    }
    *sum = sum.map(|sum| sum + total);
}

/// A profile as the ledger keeps it: JSON, one form.
pub fn profile_to_json(profile: &Profile) -> Vec<u8> {
    let column = |c: &ColumnProfile| {
        let cells = match &c.cells {
            Cells::Ordered { shift, rows } => json!({"shift": shift, "rows": rows.iter().collect::<Vec<_>>()}),
            Cells::Values(rows) => json!({"values": rows}),
            Cells::Hashed(rows) => json!({"hashed": rows}),
            Cells::Nothing => Value::Null,
        };
        json!({"nulls": c.nulls, "distinct": c.distinct, "mean": c.mean.map(|m| format!("{m:?}")), "small": c.small,
            "cells": cells})
    };
    let columns: Vec<_> = profile.columns.iter().map(column).collect();
    json!({"profile": 1, "rows": profile.rows, "least": profile.least, "columns": columns}).to_string().into_bytes()
}

/// The profile in what [`profile_to_json`] wrote.
pub fn profile_from_json(json: &[u8]) -> Option<Profile> {
    let value: Value = serde_json::from_slice(json).ok()?;
    if value.get("profile")?.as_u64()? != 1 {
        return None;
    }
    let numbers = |v: &Value| v.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
    let cells = |v: &Value| {
        if v.is_null() {
            return Some(Cells::Nothing);
        }
        if let Some(shift) = v.get("shift") {
            let pair = |p: &Value| Some((p.get(0)?.as_u64()?, p.get(1)?.as_u64()?));
            let rows = v.get("rows")?.as_array()?.iter().map(pair).collect::<Option<_>>()?;
            let shift = u32::try_from(shift.as_u64()?).ok().filter(|s| *s < 64)?;
            return Some(Cells::Ordered { shift, rows });
        }
        if let Some(rows) = v.get("hashed") {
            return Some(Cells::Hashed(numbers(rows)?));
        }
        let rows = v.get("values")?.as_object()?.iter().map(|(k, n)| Some((k.clone(), n.as_u64()?)));
        Some(Cells::Values(rows.collect::<Option<_>>()?))
    };
    let column = |v: &Value| {
        Some(ColumnProfile {
            nulls: v.get("nulls")?.as_u64(),
            distinct: v.get("distinct")?.as_u64(),
            mean: v.get("mean")?.as_str().and_then(|m| m.parse().ok()),
            cells: cells(v.get("cells")?)?,
            small: v.get("small")?.as_u64()?,
        })
    };
    Some(Profile {
        rows: value.get("rows")?.as_u64()?,
        least: value.get("least")?.as_u64()?,
        columns: value.get("columns")?.as_array()?.iter().map(column).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
        datatypes::{Field, TimeUnit},
    };
    use std::sync::Arc;

    /// Rows from a seed: skewed numbers, few and many texts, NULLs.
    fn rows(seed: u64, n: usize) -> RecordBatch {
        let random: Vec<u64> = (0..n as u64).map(|i| mixed(seed * 1_000_003 + i)).collect();
        let some = |r: &u64| !r.is_multiple_of(11);
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = vec![
            Field::new("i", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("few", DataType::Utf8, true),
            Field::new("many", DataType::Utf8, true),
            Field::new("b", DataType::Boolean, true),
            Field::new("t", time, true),
            Field::new("d", DataType::Decimal128(12, 2), true),
        ];
        let decimals = random.iter().map(|r| Some(i128::from(r % 900))).collect::<Decimal128Array>();
        RecordBatch::try_new(
            Arc::new(Schema::new(fields)),
            vec![
                Arc::new(random.iter().map(|r| some(r).then_some((r % 20_000) as i64 - 7)).collect::<Int64Array>()),
                Arc::new(random.iter().map(|r| Some(((r % 9_999) as f64).sqrt() - 50.0)).collect::<Float64Array>()),
                Arc::new(random.iter().map(|r| some(r).then(|| format!("v{}", r % 5))).collect::<StringArray>()),
                Arc::new(random.iter().map(|r| Some(format!("name {}", r % 3_000))).collect::<StringArray>()),
                Arc::new(random.iter().map(|r| some(r).then_some(r % 3 == 0)).collect::<BooleanArray>()),
                Arc::new(
                    random
                        .iter()
                        .map(|r| Some((r % 86_400_000_000) as i64))
                        .collect::<TimestampMicrosecondArray>()
                        .with_timezone("UTC"),
                ),
                Arc::new(decimals.with_precision_and_scale(12, 2).unwrap()),
            ],
        )
        .unwrap()
    }

    fn counted<'a>(parts: impl IntoIterator<Item = &'a RecordBatch>) -> Profiler {
        let mut parts = parts.into_iter().peekable();
        let mut profiler = Profiler::new(&parts.peek().unwrap().schema());
        parts.for_each(|rows| profiler.add(rows));
        profiler
    }

    /// But for the mean, which is a sum of floats.
    fn without_means(mut profile: Profile) -> Profile {
        profile.columns.iter_mut().for_each(|c| c.mean = None);
        profile
    }

    #[test]
    fn a_profile_is_the_same_however_rows_are_divided_and_ordered() {
        let parts: Vec<RecordBatch> = (0..12).map(|seed| rows(seed, [10, 700, 5_000][seed as usize % 3])).collect();
        let whole = without_means(counted(&parts).finish());
        let mut beside = counted(&parts[..1]);
        for rows in &parts[1..] {
            let mut next = beside.beside();
            next.add(rows);
            beside.merge(next);
        }
        assert_eq!(without_means(beside.finish()), whole);
        let backwards = without_means(counted(parts.iter().rev()).finish());
        assert_eq!(whole, backwards);
        for cut in [1, 4, 11] {
            let (a, b) = parts.split_at(cut);
            let mut merged = counted(a);
            merged.merge(counted(b));
            assert_eq!(whole, without_means(merged.finish()), "cut at {cut}");
            let mut merged = counted(b);
            merged.merge(counted(a));
            assert_eq!(whole, without_means(merged.finish()), "cut at {cut}, the other way");
        }
        let wide = whole.columns.iter().map(|c| matches!(c.cells, Cells::Ordered { shift, .. } if shift > 0));
        assert_eq!(wide.collect::<Vec<_>>(), [true, true, false, false, false, true, false]);
        assert!(matches!(whole.columns[3].cells, Cells::Hashed(_)));
    }

    #[test]
    fn counts_are_those_of_the_rows() {
        let all = rows(3, 20_000);
        let profile = counted([&all]).finish();
        let exact = |column: usize| {
            let column = all.column(column);
            (0..column.len())
                .filter(|i| column.is_valid(*i))
                .map(|i| arrow::util::display::array_value_to_string(column, i).unwrap())
                .collect::<BTreeSet<_>>()
                .len() as f64
        };
        for (i, column) in profile.columns.iter().enumerate() {
            assert_eq!(column.nulls, Some(all.column(i).null_count() as u64));
            assert_eq!(column.cells.rows() + column.nulls.unwrap(), 20_000);
            let (found, expected) = (column.distinct.unwrap() as f64, exact(i));
            assert!((found / expected - 1.0).abs() < 0.1, "column {i}: {found} of {expected}");
        }
        assert_eq!(profile.columns[6].distinct, Some(900));
        let ints = all.column(0).as_primitive::<Int64Type>();
        let mean = arrow::compute::sum(ints).unwrap() as f64 / (20_000 - ints.null_count()) as f64;
        assert!((profile.columns[0].mean.unwrap() - mean).abs() < 1e-9);
        let stored = profile.without_small_cells(20);
        assert_eq!(profile_from_json(&profile_to_json(&stored)), Some(stored.clone()));
        let cells = stored.columns.iter().map(|c| c.cells.shown(&DataType::Float64).len());
        assert!(cells.clone().all(|n| n <= 256) && cells.max() > Some(50));
        assert_eq!(profile_from_json(b"{}"), None);
    }
}
