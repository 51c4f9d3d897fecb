//! Rows, and what a random policy shows of them, by plain loops: the reference that the engine is held against.
//!
//! Nothing here is taken from the code under test. `Policy::image` is the meaning of a policy (filter, then mask, then
//! store); `Policy::twin` makes another database with the same image.

use super::random::Random;
use custody_policy::mask::{hmac_sha3_256, token_message, token_number, token_text};
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// The types of the grammar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Int,
    Text,
    Date,
    Time,
    Bool,
    Float,
    Info,
    Tags,
}

/// Columns of `t` and `m`.
pub(crate) const COLUMNS: &[(&str, Kind)] = &[
    ("id", Kind::Int),
    ("mrn", Kind::Text),
    ("region", Kind::Text),
    ("amount", Kind::Int),
    ("code", Kind::Text),
    ("num", Kind::Int),
    ("birth", Kind::Date),
    ("note", Kind::Text),
    ("flag", Kind::Bool),
    ("score", Kind::Float),
    ("at", Kind::Time),
    ("info", Kind::Info),
    ("tags", Kind::Tags),
    ("secret", Kind::Int),
];

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    /// Year, month, day.
    Date(i64, i64, i64),
    /// A date and microseconds of the day.
    Time(i64, i64, i64, i64),
    Bool(bool),
    Float(f64),
    Info(i64, String),
    Tags(Vec<i64>),
}

pub(crate) type Row = Vec<Value>;

/// What a policy shows of a column.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Shown {
    None,
    /// In groups only, of more members than there are.
    Counted,
    Raw,
    Null,
    Const(Value),
    Token,
    First(usize),
    Last(usize),
    Year,
    Month,
    Bucket(i64),
}

/// A condition of a row set or guard.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Equal(usize, Value),
    Less(usize, Value),
    In(usize, Vec<Value>),
    Prefix(usize, String),
    IsNull(usize),
    IsTrue(usize),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// What one subject gets of one table.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) shown: Vec<Shown>,
    pub(crate) sets: Vec<Condition>,
    pub(crate) guards: Vec<Condition>,
}

impl Value {
    /// As a SQL literal; only of the types that conditions compare.
    pub(crate) fn sql(&self) -> String {
        match self {
            Self::Int(n) => n.to_string(),
            Self::Text(s) => format!("'{s}'"),
            Self::Date(y, m, d) => format!("DATE '{y:04}-{m:02}-{d:02}'"),
            Self::Bool(b) => b.to_string(),
            Self::Float(f) => format!("{f:.2}"),
            other => panic!("no literal for {other:?}"),
        }
    }

    fn before(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a < b),
            (Self::Text(a), Self::Text(b)) => Some(a < b),
            (Self::Date(a, b, c), Self::Date(x, y, z)) => Some((a, b, c) < (x, y, z)),
            _ => None,
        }
    }
}

impl Condition {
    /// SQL's three values.
    fn holds(&self, row: &Row) -> Option<bool> {
        let known = |i: &usize| (row[*i] != Value::Null).then(|| &row[*i]);
        match self {
            Self::Equal(i, v) => known(i).map(|x| x == v),
            Self::Less(i, v) => known(i).and_then(|x| x.before(v)),
            Self::In(i, vs) => known(i).map(|x| vs.contains(x)),
            Self::Prefix(i, p) => known(i).map(|x| matches!(x, Value::Text(s) if s.starts_with(p.as_str()))),
            Self::IsNull(i) => Some(row[*i] == Value::Null),
            Self::IsTrue(i) => Some(row[*i] == Value::Bool(true)),
            Self::Not(c) => c.holds(row).map(|b| !b),
            Self::And(a, b) => match (a.holds(row), b.holds(row)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.holds(row), b.holds(row)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
        }
    }

    pub(crate) fn sql(&self) -> String {
        let name = |i: &usize| COLUMNS[*i].0;
        match self {
            Self::Equal(i, v) => format!("{} = {}", name(i), v.sql()),
            Self::Less(i, v) => format!("{} < {}", name(i), v.sql()),
            Self::In(i, vs) => {
                format!("{} IN ({})", name(i), vs.iter().map(Value::sql).collect::<Vec<_>>().join(", "))
            }
            Self::Prefix(i, p) => format!("{} LIKE '{p}%'", name(i)),
            Self::IsNull(i) => format!("{} IS NULL", name(i)),
            Self::IsTrue(i) => format!("{} IS TRUE", name(i)),
            Self::Not(c) => format!("NOT ({})", c.sql()),
            Self::And(a, b) => format!("({} AND {})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({} OR {})", a.sql(), b.sql()),
        }
    }

    fn random(random: &mut Random, depth: usize) -> Self {
        let column = |name: &str| COLUMNS.iter().position(|(n, _)| *n == name).unwrap();
        let text = |s: &str| Value::Text(s.into());
        if depth > 0 && random.chance(35) {
            let (a, b) = (Box::new(Self::random(random, depth - 1)), Box::new(Self::random(random, depth - 1)));
            return match random.below(3) {
                0 => Self::And(a, b),
                1 => Self::Or(a, b),
                _ => Self::Not(a),
            };
        }
        match random.below(10) {
            0 | 1 => Self::Equal(column("region"), text("eu")),
            2 => Self::In(column("region"), vec![text("eu"), text("ca")]),
            3 => Self::IsTrue(column("flag")),
            4 => Self::Less(column("amount"), Value::Int(9 + random.below(6) as i64)),
            5 => Self::Prefix(column("code"), "1".into()),
            6 => Self::IsNull(column("note")),
            7 => Self::Less(column("secret"), Value::Int(3)),
            8 => Self::Less(column("birth"), Value::Date(1959 + random.below(3) as i64, 6, 1)),
            _ => Self::Equal(column("num"), Value::Int(random.below(5) as i64)),
        }
    }
}

/// A row that somebody may see; `i` makes ids unique. Numbers are never 0 in `clean` data, so that a division that fails
/// has met a hidden one.
fn natural(i: usize, clean: bool, random: &mut Random) -> Row {
    let n = random.below(18) as i64;
    let small = n + i64::from(clean);
    let date =
        |random: &mut Random| (1957 + random.below(5) as i64, 1 + random.below(12) as i64, 1 + random.below(28) as i64);
    let (y, m, d) = date(random);
    let (y2, m2, d2) = date(random);
    vec![
        Value::Int(i as i64),
        Value::Text(format!("m{}", random.below(14))),
        Value::Text(random.pick(&["eu", "eu", "eu", "ca", "us"]).into()),
        if random.chance(85) { Value::Int(small) } else { Value::Null },
        Value::Text(if clean || random.chance(80) { random.below(20).to_string() } else { "c".into() }),
        Value::Int(random.below(40) as i64),
        Value::Date(y, m, d),
        if random.chance(60) { Value::Null } else { Value::Text(format!("{}", random.below(30))) },
        Value::Bool(random.chance(60)),
        if random.chance(90) { Value::Float(random.below(80) as f64 / 4.0) } else { Value::Null },
        if random.chance(90) { Value::Time(y2, m2, d2, random.below(86_400) as i64 * 1_000_000) } else { Value::Null },
        Value::Info(small, format!("b{}", random.below(3))),
        Value::Tags((0..random.below(4)).map(|k| k as i64 + i64::from(clean)).collect()),
        Value::Int(random.below(6) as i64),
    ]
}

/// A value made to be noticed: what makes expressions fail, and what says that it is hidden.
fn hostile(kind: Kind, random: &mut Random) -> Value {
    fn number(random: &mut Random) -> i64 {
        match random.below(6) {
            0 | 1 => 0,
            2 => i64::MIN,
            3 => i64::MAX,
            _ => 900_000 + random.below(1000) as i64,
        }
    }
    match kind {
        Kind::Int => Value::Int(number(random)),
        Kind::Text => Value::Text(match random.below(5) {
            0 => String::new(),
            1 => "(".into(),
            2 => "1900-13-77".into(),
            _ => format!("HID{}", random.below(1000)),
        }),
        Kind::Date => Value::Date([1, 1700, 1958, 9999][random.below(4)], 1 + random.below(12) as i64, 28),
        Kind::Time => Value::Time([1, 1700, 1958, 9999][random.below(4)], 1 + random.below(12) as i64, 28, 7),
        Kind::Bool => Value::Bool(random.chance(50)),
        Kind::Float => Value::Float([0.0, f64::NAN, f64::INFINITY, -1e300, 900_000.5][random.below(5)]),
        Kind::Info => Value::Info(number(random), format!("HID{}", random.below(1000))),
        Kind::Tags => Value::Tags((0..random.below(4)).map(|_| number(random)).collect()),
    }
}

impl Shown {
    fn random(kind: Kind, random: &mut Random) -> Self {
        let r = random.below(100);
        match kind {
            _ if r < 45 => Self::Raw,
            _ if r < 49 => Self::None,
            _ if r < 53 => Self::Counted,
            _ if r < 62 => Self::Null,
            Kind::Int if r < 68 => Self::Const(Value::Int(random.below(9) as i64)),
            Kind::Int if r < 80 => Self::Token,
            Kind::Int => Self::Bucket([2, 10, 25][random.below(3)]),
            Kind::Text if r < 68 => Self::Const(Value::Text("gone".into())),
            Kind::Text if r < 82 => Self::Token,
            Kind::Text if r < 91 => Self::First(1 + random.below(2)),
            Kind::Text => Self::Last(1 + random.below(2)),
            Kind::Date | Kind::Time if r < 81 => Self::Year,
            Kind::Date | Kind::Time => Self::Month,
            Kind::Float => Self::Bucket([1, 5, 20][random.below(3)]),
            Kind::Bool if r < 80 => Self::Const(Value::Bool(false)),
            Kind::Bool | Kind::Info | Kind::Tags => Self::Raw,
        }
    }

    /// Whether rows show it.
    fn by_row(&self) -> bool {
        !matches!(self, Self::None | Self::Counted)
    }

    /// The image of a cell.
    fn image(&self, raw: &Value) -> Value {
        match (self, raw) {
            (Self::None | Self::Counted | Self::Null, _) => Value::Null,
            (Self::Raw, v) => v.clone(),
            (Self::Const(v), _) => v.clone(),
            (_, Value::Null) => Value::Null,
            (Self::Token, Value::Text(s)) => Value::Text(token_text(&mac(s.as_bytes()))),
            (Self::Token, Value::Int(n)) => Value::Int(token_number(&mac(&n.to_be_bytes()))),
            (Self::First(n), Value::Text(s)) if s.len() >= 2 * n => Value::Text(format!("{}***", &s[..*n])),
            (Self::Last(n), Value::Text(s)) if s.len() >= 2 * n => Value::Text(format!("***{}", &s[s.len() - n..])),
            (Self::First(_) | Self::Last(_), Value::Text(_)) => Value::Text("***".into()),
            (Self::Year, Value::Date(y, ..)) => Value::Date(*y, 1, 1),
            (Self::Month, Value::Date(y, m, _)) => Value::Date(*y, *m, 1),
            (Self::Year, Value::Time(y, ..)) => Value::Time(*y, 1, 1, 0),
            (Self::Month, Value::Time(y, m, ..)) => Value::Time(*y, *m, 1, 0),
            (Self::Bucket(w), Value::Int(n)) => Value::Int(n.div_euclid(*w) * w),
            (Self::Bucket(w), Value::Float(f)) => Value::Float((f / *w as f64).floor() * *w as f64),
            (mask, v) => panic!("{mask:?} of {v:?}"),
        }
    }

    /// Another cell with the same image.
    fn vary(&self, kind: Kind, raw: &Value, random: &mut Random) -> Value {
        let letters = |n: usize, random: &mut Random| (0..n).map(|_| random.pick(&["x", "7", "Q"])).collect::<String>();
        let (month, day) = (1 + random.below(12) as i64, 1 + random.below(28) as i64);
        match (self, raw) {
            (Self::None | Self::Counted | Self::Null | Self::Const(_), _) => hostile(kind, random),
            (Self::Raw | Self::Token, v) | (_, v @ Value::Null) => v.clone(),
            (Self::First(n), Value::Text(s)) if s.len() >= 2 * n => {
                let more = random.below(4);
                Value::Text(format!("{}{}", &s[..*n], letters(n + more, random)))
            }
            (Self::Last(n), Value::Text(s)) if s.len() >= 2 * n => {
                let more = random.below(4);
                Value::Text(format!("{}{}", letters(n + more, random), &s[s.len() - n..]))
            }
            (Self::First(n) | Self::Last(n), Value::Text(_)) => {
                let length = random.below(2 * n);
                Value::Text(letters(length, random))
            }
            (Self::Year, Value::Date(y, ..)) => Value::Date(*y, month, day),
            (Self::Month, Value::Date(y, m, _)) => Value::Date(*y, *m, day),
            (Self::Year, Value::Time(y, ..)) => Value::Time(*y, month, day, random.below(86_400) as i64),
            (Self::Month, Value::Time(y, m, ..)) => Value::Time(*y, *m, day, random.below(86_400) as i64),
            (Self::Bucket(w), Value::Int(n)) => Value::Int(n.div_euclid(*w) * w + random.below(*w as usize) as i64),
            (Self::Bucket(w), Value::Float(f)) => {
                Value::Float((f / *w as f64).floor() * *w as f64 + random.below(4 * *w as usize) as f64 / 4.0)
            }
            (mask, v) => panic!("{mask:?} of {v:?}"),
        }
    }
}

/// The key of every token.
pub(crate) fn mac(value: &[u8]) -> [u8; 32] {
    hmac_sha3_256(b"key", &token_message("d", value))
}

impl Policy {
    /// `rows`: whether some rows are hidden too. Ids are always raw, so that answers can be told apart.
    pub(crate) fn random(random: &mut Random, rows: bool) -> Self {
        let shown = |(i, (_, kind)): (usize, &(&str, Kind))| match i {
            0 => Shown::Raw,
            _ => Shown::random(*kind, random),
        };
        let shown = COLUMNS.iter().enumerate().map(shown).collect();
        let some = |random: &mut Random, n| (0..n).map(|_| Condition::random(random, 1)).collect::<Vec<_>>();
        if !rows {
            return Self { shown, sets: vec![], guards: vec![] };
        }
        let (sets, guards) = [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1)][random.below(5)];
        Self { shown, sets: some(random, sets), guards: some(random, guards) }
    }

    pub(crate) fn passes(&self, row: &Row) -> bool {
        let holds = |c: &Condition| c.holds(row) == Some(true);
        (self.sets.is_empty() || self.sets.iter().any(holds)) && self.guards.iter().all(holds)
    }

    /// Up to `n` rows that pass.
    pub(crate) fn base(&self, n: usize, clean: bool, random: &mut Random) -> Vec<Row> {
        (0..n * 4).map(|i| natural(i, clean, random)).filter(|r| self.passes(r)).take(n).collect()
    }

    /// A database with the image of `base`: masked cells differ, hidden rows come in between.
    pub(crate) fn twin(&self, base: &[Row], parts: usize, clean: bool, random: &mut Random) -> Vec<Vec<Row>> {
        let mut out = vec![vec![]; parts];
        for (i, row) in base.iter().enumerate() {
            for _ in 0..random.below(4) {
                out[i % parts].extend(self.hidden(clean, random));
            }
            out[i % parts].push(self.varied(row, random));
        }
        for part in &mut out {
            for _ in 0..random.below(12) {
                part.extend(self.hidden(clean, random));
            }
        }
        out
    }

    fn varied(&self, row: &Row, random: &mut Random) -> Row {
        for _ in 0..8 {
            let cell = |((shown, raw), (_, kind)): ((&Shown, &Value), &(&str, Kind))| shown.vary(*kind, raw, random);
            let varied: Row = self.shown.iter().zip(row).zip(COLUMNS).map(cell).collect();
            if self.passes(&varied) {
                return varied;
            }
        }
        row.clone()
    }

    fn hidden(&self, clean: bool, random: &mut Random) -> Option<Row> {
        for _ in 0..8 {
            let i = random.below(40);
            let mut row = natural(i, clean, random);
            for (cell, (_, kind)) in row.iter_mut().zip(COLUMNS) {
                if random.chance(70) {
                    *cell = hostile(*kind, random);
                }
            }
            if !self.passes(&row) {
                return Some(row);
            }
        }
        None
    }

    /// What the subject may see, in order.
    pub(crate) fn image(&self, rows: &[Row]) -> Vec<Row> {
        let image = |row: &Row| {
            let cells = self.shown.iter().zip(row).filter(|(s, _)| s.by_row());
            cells.map(|(shown, raw)| shown.image(raw)).collect()
        };
        rows.iter().filter(|r| self.passes(r)).map(image).collect()
    }

    /// The columns that the subject may see.
    pub(crate) fn columns(&self) -> Vec<(&'static str, Kind)> {
        COLUMNS.iter().zip(&self.shown).filter(|(_, s)| s.by_row()).map(|(c, _)| *c).collect()
    }
}

pub(crate) fn schema(columns: &[(&str, Kind)]) -> SchemaRef {
    let field = |(name, kind): &(&str, Kind)| {
        let data_type = match kind {
            Kind::Int => DataType::Int64,
            Kind::Text => DataType::Utf8,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, None),
            Kind::Bool => DataType::Boolean,
            Kind::Float => DataType::Float64,
            Kind::Info => DataType::Struct(info()),
            Kind::Tags => DataType::new_list(DataType::Int64, true),
        };
        Field::new(*name, data_type, true)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn info() -> Fields {
    Fields::from(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)])
}

/// Days since 1970.
fn days(y: i64, m: i64, d: i64) -> i64 {
    let leap = |y: i64| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    let before = (y - 1) * 365 + (y - 1) / 4 - (y - 1) / 100 + (y - 1) / 400;
    let months = [31, if leap(y) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    before + months[..m as usize - 1].iter().sum::<i64>() + d - 1 - 719_162
}

pub(crate) fn batch(columns: &[(&str, Kind)], rows: &[Row]) -> RecordBatch {
    let array = |(i, (_, kind)): (usize, &(&str, Kind))| -> ArrayRef {
        let cells = rows.iter().map(|r| &r[i]);
        match kind {
            Kind::Int => {
                Arc::new(cells.map(|v| if let Value::Int(n) = v { Some(*n) } else { None }).collect::<Int64Array>())
            }
            Kind::Text => Arc::new(
                cells.map(|v| if let Value::Text(s) = v { Some(s.as_str()) } else { None }).collect::<StringArray>(),
            ),
            Kind::Date => Arc::new(
                cells
                    .map(|v| if let Value::Date(y, m, d) = v { Some(days(*y, *m, *d) as i32) } else { None })
                    .collect::<Date32Array>(),
            ),
            Kind::Time => Arc::new(
                cells
                    .map(|v| match v {
                        Value::Time(y, m, d, micros) => Some(days(*y, *m, *d) * 86_400_000_000 + micros),
                        _ => None,
                    })
                    .collect::<TimestampMicrosecondArray>(),
            ),
            Kind::Bool => {
                Arc::new(cells.map(|v| if let Value::Bool(b) = v { Some(*b) } else { None }).collect::<BooleanArray>())
            }
            Kind::Float => {
                Arc::new(cells.map(|v| if let Value::Float(f) = v { Some(*f) } else { None }).collect::<Float64Array>())
            }
            Kind::Info => {
                let parts = |v: &Value| match v {
                    Value::Info(a, b) => (Some(*a), Some(b.clone())),
                    _ => (None, None),
                };
                let a: ArrayRef = Arc::new(cells.clone().map(|v| parts(v).0).collect::<Int64Array>());
                let b: ArrayRef = Arc::new(cells.clone().map(|v| parts(v).1).collect::<StringArray>());
                let valid = cells.map(|v| *v != Value::Null).collect::<Vec<_>>();
                Arc::new(StructArray::new(info(), vec![a, b], Some(valid.into())))
            }
            Kind::Tags => {
                let mut tags = ListBuilder::new(Int64Builder::new());
                cells.for_each(|v| match v {
                    Value::Tags(t) => tags.append_value(t.iter().copied().map(Some)),
                    _ => tags.append_null(),
                });
                Arc::new(tags.finish())
            }
        }
    };
    RecordBatch::try_new(schema(columns), columns.iter().enumerate().map(array).collect()).unwrap()
}

#[test]
fn days_are_those_of_the_calendar() {
    for (date, want) in [((1970, 1, 1), 0), ((2000, 3, 1), 11_017), ((1957, 8, 17), -4_520), ((1, 1, 1), -719_162)] {
        assert_eq!(days(date.0, date.1, date.2), want);
    }
}
