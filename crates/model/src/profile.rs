//! What the values of a version look like: counts of cells.
//!
//! What holds here: cells add up. How many values a cell holds depends on the values alone, not on their order nor on how
//! they were divided among whoever counted; so profiles of parts merge, and profiles of two versions compare. A cell of
//! ordered values is all that share their leading bits; the fewer bits, the wider the cell.
//!
//! Deliberately absent: smallest and largest values, and cells of few rows.

use arrow_schema::{DataType, TimeUnit};
use std::collections::BTreeMap;

/// Cells that a stored profile has of one column at most.
pub const MOST_CELLS: usize = 256;
/// Fewer rows are not stored as a cell of their own, whatever policy says.
pub const LEAST_ROWS: u64 = 10;
/// Hashed values have this many cells.
pub const HASHED_CELLS: usize = 256;

/// The values of a version, counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// Rows.
    pub rows: u64,
    /// The fewest rows that a cell has.
    pub least: u64,
    /// Each column, in order.
    pub columns: Vec<ColumnProfile>,
}

/// The values of one column, counted.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnProfile {
    /// NULLs; absent where there are some, but few.
    pub nulls: Option<u64>,
    /// Different values; above a few thousand an estimate within a few percent. Absent where few rows have a value.
    pub distinct: Option<u64>,
    /// Mean of numbers; absent where few rows have a value.
    pub mean: Option<f64>,
    /// How many rows have which values.
    pub cells: Cells,
    /// Rows in cells that are not stored.
    pub small: u64,
}

/// How many rows have which values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cells {
    /// By the leading bits of an order-preserving key ([`ordered_key`]).
    Ordered {
        /// How many trailing bits are left out.
        shift: u32,
        /// Rows by the bits that are left.
        rows: BTreeMap<u64, u64>,
    },
    /// By value, where there are few.
    Values(BTreeMap<String, u64>),
    /// By the first byte of a hash, where there are many.
    Hashed(Vec<u64>),
    /// Not counted: lists, structs, bytes.
    Nothing,
}

/// One cell, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The value, or the first one that the cell can hold.
    pub from: String,
    /// The last value that the cell can hold.
    pub to: String,
    /// Rows.
    pub rows: u64,
}

/// How far two profiles of a column are apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Drift {
    /// Population stability index over ten cells of equal weight, NULL and what is not stored.
    pub psi: f64,
    /// Largest difference of the distribution functions, for ordered values.
    pub ks: Option<f64>,
}

impl Drift {
    /// `stable`, from 0.1 `moved`, from 0.2 `apart`.
    pub fn word(self) -> &'static str {
        match self.psi {
            psi if psi >= 0.2 => "apart",
            psi if psi >= 0.1 => "moved",
            _ => "stable",
        }
    }
}

/// A number of the same order as the integer.
pub fn ordered_key(value: i64) -> u64 {
    (value as u64) ^ (1 << 63)
}

/// A number of the same order as the float: NaN last, −0 as 0.
pub fn ordered_float_key(value: f64) -> u64 {
    let value = if value == 0.0 { 0.0 } else { value };
    let bits = if value.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { value.to_bits() };
    if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) }
}

/// A hash that is the same everywhere and for ever: FNV-1a, mixed.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    mixed(hash)
}

/// The bits of a number, spread (SplitMix64's last step).
pub fn mixed(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The cell of a hash.
pub fn hashed_cell(hash: u64) -> usize {
    (hash >> 56) as usize
}

impl Cells {
    /// Rows in all cells.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Ordered { rows, .. } => rows.values().sum(),
            Self::Values(rows) => rows.values().sum(),
            Self::Hashed(rows) => rows.iter().sum(),
            Self::Nothing => 0,
        }
    }

    /// Each cell as text, in order; hashed ones are numbers of cells.
    pub fn shown(&self, data_type: &DataType) -> Vec<Shown> {
        match self {
            Self::Ordered { shift, rows } => {
                let shift = (*shift).min(63);
                let cell = |(cell, rows): (&u64, &u64)| Shown {
                    from: text(cell << shift, data_type),
                    to: text((cell << shift) | ((1 << shift) - 1), data_type),
                    rows: *rows,
                };
                rows.iter().map(cell).collect()
            }
            Self::Values(rows) => {
                rows.iter().map(|(v, rows)| Shown { from: v.clone(), to: v.clone(), rows: *rows }).collect()
            }
            Self::Hashed(rows) => {
                let cell = |i: usize| format!("hash {i:02x}");
                let some = rows.iter().enumerate().filter(|(_, rows)| **rows > 0);
                some.map(|(i, rows)| Shown { from: cell(i), to: cell(i), rows: *rows }).collect()
            }
            Self::Nothing => vec![],
        }
    }
}

/// Ordered cells with fewer bits.
pub fn coarser(rows: &BTreeMap<u64, u64>, bits: u32) -> BTreeMap<u64, u64> {
    let mut wide = BTreeMap::new();
    for (cell, n) in rows {
        *wide.entry(cell.checked_shr(bits).unwrap_or(0)).or_insert(0) += n;
    }
    wide
}

impl Profile {
    /// The same without cells of fewer than `least` rows. Ordered cells are widened first, until hardly any is that small.
    #[must_use]
    pub fn without_small_cells(self, least: u64) -> Self {
        let least = least.max(LEAST_ROWS);
        let rows = self.rows;
        let columns = self.columns.into_iter().map(|c| c.without_small_cells(rows, least)).collect();
        Self { rows, least, columns }
    }
}

impl ColumnProfile {
    fn without_small_cells(self, rows: u64, least: u64) -> Self {
        let nulls = self.nulls.unwrap_or(0);
        let few = rows.saturating_sub(nulls) < least;
        let counted = self.cells.rows();
        let is_small = |n: &u64| *n < least;
        let cells = match self.cells {
            Cells::Ordered { mut shift, mut rows } => {
                let fits = |rows: &BTreeMap<u64, u64>| {
                    let small: u64 = rows.values().filter(|n| is_small(n)).sum();
                    rows.len() <= MOST_CELLS && small * 20 <= counted
                };
                while !fits(&rows) && shift < 63 && rows.len() > 1 {
                    (rows, shift) = (coarser(&rows, 1), shift + 1);
                }
                rows.retain(|_, n| !is_small(n));
                Cells::Ordered { shift, rows }
            }
            Cells::Values(mut rows) => {
                rows.retain(|_, n| !is_small(n));
                Cells::Values(rows)
            }
            Cells::Hashed(rows) => Cells::Hashed(rows.into_iter().map(|n| if is_small(&n) { 0 } else { n }).collect()),
            Cells::Nothing => Cells::Nothing,
        };
        let few_nulls = nulls > 0 && nulls < least;
        Self {
            nulls: (!few_nulls).then_some(nulls),
            distinct: self.distinct.filter(|_| !few),
            mean: self.mean.filter(|_| !few),
            small: self.small + (counted - cells.rows()) + if few_nulls { nulls } else { 0 },
            cells,
        }
    }

    /// How far this is from `base`; `None` where either has too few rows, or they are of kinds that do not compare.
    pub fn drift(&self, base: &Self) -> Option<Drift> {
        let (before, now, ks) = match (&base.cells, &self.cells) {
            (Cells::Ordered { shift: a, rows: before }, Cells::Ordered { shift: b, rows: now }) => {
                let wide = (*a).max(*b);
                let (before, now) = (coarser(before, wide - a), coarser(now, wide - b));
                let ks = distance(&before, &now);
                let (before, now) = tenths(&before, &now);
                (before, now, ks)
            }
            (Cells::Values(before), Cells::Values(now)) => {
                let all: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
                let of = |rows: &BTreeMap<String, u64>| all.iter().map(|v| *rows.get(*v).unwrap_or(&0)).collect();
                (of(before), of(now), None)
            }
            (a @ (Cells::Values(_) | Cells::Hashed(_)), b @ (Cells::Values(_) | Cells::Hashed(_))) => {
                (hashed(a), hashed(b), None)
            }
            _ => return None,
        };
        let with = |mut cells: Vec<u64>, c: &Self| {
            cells.extend([c.nulls.unwrap_or(0), c.small]);
            cells
        };
        let (before, now) = (with(before, base), with(now, self));
        let (all_before, all_now) = (before.iter().sum::<u64>(), now.iter().sum::<u64>());
        if all_before == 0 || all_now == 0 {
            return None;
        }
        let share = |n: u64, all: u64| (n as f64 / all as f64).max(1e-6);
        let term = |(p, q): (f64, f64)| (p - q) * (p / q).ln();
        let psi = before
            .iter()
            .zip(&now)
            .filter(|(a, b)| **a > 0 || **b > 0)
            .map(|(a, b)| (share(*b, all_now), share(*a, all_before)));
        Some(Drift { psi: psi.map(term).sum(), ks })
    }
}

/// Both in ten cells, which hold a tenth of `before` each, as nearly as its cells allow.
fn tenths(before: &BTreeMap<u64, u64>, now: &BTreeMap<u64, u64>) -> (Vec<u64>, Vec<u64>) {
    let all: u64 = before.values().sum();
    let (mut out, mut so_far) = ((vec![0; 10], vec![0; 10]), 0);
    let cells: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    for cell in cells {
        let (a, b) = (*before.get(cell).unwrap_or(&0), *now.get(cell).unwrap_or(&0));
        // A cell goes where its middle is.
        let at = ((so_far * 2 + a) * 5).checked_div(all).map_or(0, |at| at.min(9) as usize);
        out.0[at] += a;
        out.1[at] += b;
        so_far += a;
    }
    out
}

fn distance(before: &BTreeMap<u64, u64>, now: &BTreeMap<u64, u64>) -> Option<f64> {
    let (all_before, all_now) = (before.values().sum::<u64>(), now.values().sum::<u64>());
    if all_before == 0 || all_now == 0 {
        return None;
    }
    let cells: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let (mut a, mut b, mut most) = (0, 0, 0.0_f64);
    for cell in cells {
        a += before.get(cell).unwrap_or(&0);
        b += now.get(cell).unwrap_or(&0);
        most = most.max((a as f64 / all_before as f64 - b as f64 / all_now as f64).abs());
    }
    Some(most)
}

/// In sixteen cells: more would be noise where rows are few.
fn hashed(cells: &Cells) -> Vec<u64> {
    let mut out = vec![0; 16];
    match cells {
        Cells::Values(rows) => {
            rows.iter().for_each(|(v, n)| out[hashed_cell(stable_hash(v.as_bytes())) / 16] += n);
        }
        Cells::Hashed(rows) => rows.iter().enumerate().for_each(|(i, n)| out[(i / 16).min(15)] += n),
        Cells::Ordered { .. } | Cells::Nothing => {}
    }
    out
}

/// The value that has this key.
fn text(key: u64, data_type: &DataType) -> String {
    let integer = (key ^ (1 << 63)) as i64;
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => integer.to_string(),
        DataType::Date32 => date(integer),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let (day, micros) = (integer.div_euclid(86_400_000_000), integer.rem_euclid(86_400_000_000));
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
            format!("{}T{clock}.{micros:06}Z", date(day))
        }
        _ => {
            let bits = if key >> 63 == 1 { key ^ (1 << 63) } else { !key };
            f64::from_bits(bits).to_string()
        }
    }
}

/// A day since 1970 in the Gregorian calendar.
fn date(days: i64) -> String {
    // Eras of 400 years that begin on 1 March of year 0.
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn ints(values: impl IntoIterator<Item = i64>) -> ColumnProfile {
        let mut rows = BTreeMap::new();
        values.into_iter().for_each(|v| *rows.entry(ordered_key(v)).or_insert(0) += 1);
        let distinct = Some(rows.len() as u64);
        ColumnProfile { nulls: Some(0), distinct, mean: None, cells: Cells::Ordered { shift: 0, rows }, small: 0 }
    }

    #[test]
    fn keys_keep_the_order() {
        let floats = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 2.5, f64::INFINITY, f64::NAN];
        assert!(floats.map(ordered_float_key).is_sorted_by(|a, b| a < b));
        assert_eq!(ordered_float_key(-0.0), ordered_float_key(0.0));
        assert_eq!(ordered_float_key(-f64::NAN), ordered_float_key(f64::NAN));
        assert!([i64::MIN, -1, 0, 1, i64::MAX].map(ordered_key).is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn cells_as_text() {
        let shown = |cells: Cells, data_type: &DataType| {
            cells.shown(data_type).into_iter().map(|s| format!("{}..{} {}", s.from, s.to, s.rows)).collect::<Vec<_>>()
        };
        let one = |key: u64, shift: u32| Cells::Ordered { shift, rows: BTreeMap::from([(key >> shift, 12)]) };
        assert_eq!(shown(one(ordered_key(70), 3), &DataType::Int64), ["64..71 12"]);
        assert_eq!(shown(one(ordered_float_key(1.5), 51), &DataType::Float64), ["1.5..1.9999999999999998 12"]);
        assert_eq!(shown(one(ordered_float_key(-1.5), 0), &DataType::Float64), ["-1.5..-1.5 12"]);
        let days = [-719_468, -1, 0, 59, 11_016, 19_782, 2_932_896];
        let dates = days.map(|d| shown(one(ordered_key(d), 0), &DataType::Date32)[0].clone());
        let whole = ["0000-03-01", "1969-12-31", "1970-01-01", "1970-03-01", "2000-02-29", "2024-02-29", "9999-12-31"];
        assert_eq!(dates, whole.map(|d| format!("{d}..{d} 12")));
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(
            shown(one(ordered_key(-1), 0), &time),
            ["1969-12-31T23:59:59.999999Z..1969-12-31T23:59:59.999999Z 12"]
        );
    }

    #[test]
    fn few_rows_are_never_a_cell() {
        let columns = vec![
            ints((0..1000).map(|i| i % 7).chain([50; 9])),
            ints(0..1009),
            ColumnProfile {
                nulls: Some(3),
                distinct: Some(2),
                mean: None,
                cells: Cells::Values(BTreeMap::from([("eu".into(), 997), ("me".into(), 9)])),
                small: 0,
            },
        ];
        let profile = Profile { rows: 1009, least: 0, columns }.without_small_cells(1);
        for column in &profile.columns {
            assert!(column.cells.shown(&DataType::Int64).iter().all(|cell| cell.rows >= LEAST_ROWS), "{column:?}");
            assert_eq!(column.cells.rows() + column.small + column.nulls.unwrap_or(0), 1009);
        }
        assert_eq!(profile.columns[0].small, 9);
        assert_eq!((profile.columns[2].nulls, profile.columns[2].small), (None, 12));
        let Cells::Ordered { shift, rows } = &profile.columns[1].cells else { panic!() };
        assert!(*shift == 4 && rows.len() == 63, "{shift} {}", rows.len());
        let few = Profile { rows: 9, least: 0, columns: vec![ints(0..9)] }.without_small_cells(0);
        let few = &few.columns[0];
        assert_eq!((few.distinct, few.small, few.cells.rows()), (None, 9, 0));
    }

    #[test]
    fn drift_is_none_of_itself_and_grows() {
        let base = ints((0..10_000).map(|i| i * 37 % 1_000));
        let moved = |by: i64| ints((0..10_000).map(|i| i * 37 % 1_000 + by)).drift(&base).unwrap();
        assert_eq!(moved(0), Drift { psi: 0.0, ks: Some(0.0) });
        let (little, much) = (moved(20), moved(300));
        assert!(little.psi > 0.0 && little.psi < 0.1 && little.word() == "stable", "{little:?}");
        assert!((little.ks.unwrap() - 0.02).abs() < 0.002, "{little:?}");
        assert!(much.psi > 0.2 && much.word() == "apart", "{much:?}");
        assert!((much.ks.unwrap() - 0.3).abs() < 0.01, "{much:?}");
        // By hand: 0.5/0.5 against 0.8/0.2 is 0.3·ln 1.6 + 0.3·ln 2.5.
        let texts = |a: u64, b: u64| ColumnProfile {
            nulls: Some(0),
            distinct: Some(2),
            mean: None,
            cells: Cells::Values(BTreeMap::from([("a".into(), a), ("b".into(), b)])),
            small: 0,
        };
        let psi = texts(800, 200).drift(&texts(500, 500)).unwrap().psi;
        assert!((psi - 0.3 * (1.6_f64.ln() + 2.5_f64.ln())).abs() < 1e-12, "{psi}");
        // Many values against few compare by hash; numbers and texts do not.
        let mut many = texts(0, 0);
        many.cells = Cells::Hashed(vec![10; HASHED_CELLS]);
        assert!(many.drift(&texts(500, 500)).unwrap().psi > 0.2);
        assert_eq!(texts(500, 500).drift(&base), None);
    }
}
