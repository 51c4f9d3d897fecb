//! Random statements over `t`, `m` and `u`.
//!
//! Typed, so that most of them plan; with expressions that fail on some values, predicates without columns, and names
//! that the subject may not see.

use super::{
    database::{OPEN, Setting},
    random::Random,
    world::{COLUMNS, Kind, Shown},
};
use datafusion::common::ScalarValue;

type Columns = Vec<(String, Kind)>;

/// Makes statements for one setting.
pub(crate) struct Grammar {
    pub(crate) random: Random,
    t: Columns,
    m: Columns,
    hidden: Vec<&'static str>,
    counted: Columns,
    /// Whether the statement's answer depends on the order in which rows come.
    pub(crate) by_order: bool,
    values: Vec<ScalarValue>,
    prepared: bool,
    aliases: usize,
}

/// Names in reach.
type Scope = Vec<(String, Kind)>;

impl Grammar {
    pub(crate) fn new(random: Random, setting: &Setting) -> Self {
        let own = |columns: Vec<(&str, Kind)>| columns.into_iter().map(|(n, k)| (n.to_string(), k)).collect();
        let hidden = COLUMNS.iter().zip(&setting.t.shown).filter(|(_, s)| **s == Shown::None).map(|(c, _)| c.0);
        let counted = COLUMNS.iter().zip(&setting.t.shown).filter(|(_, s)| **s == Shown::Counted).map(|(c, _)| *c);
        let counted = own(counted.collect());
        Self {
            random,
            t: own(setting.t.columns()),
            m: own(setting.m.columns()),
            hidden: hidden.collect(),
            counted,
            by_order: false,
            values: vec![],
            prepared: false,
            aliases: 0,
        }
    }

    /// A statement, and the values of its placeholders.
    pub(crate) fn statement(&mut self) -> (String, Vec<ScalarValue>) {
        self.values.clear();
        self.prepared = self.random.chance(15);
        self.aliases = 0;
        self.by_order = false;
        let sql = match self.random.below(12) {
            0 => self.recursive(),
            1 => {
                let (inner, columns) = self.query(1);
                let names = columns.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
                let join = self.random.pick(&["JOIN", "LEFT JOIN", "FULL JOIN"]);
                let on = format!("a.{0} = b.{0}", columns[0].0);
                let scope: Scope = columns.iter().map(|(n, k)| (format!("a.{n}"), *k)).collect();
                let p = self.predicate(&scope, 1, 0);
                format!("WITH x({names}) AS ({inner}) SELECT a.* FROM x a {join} x b ON {on} WHERE {p}")
            }
            2 | 3 if !self.counted.is_empty() => self.floored(),
            _ => {
                let (sql, columns) = self.query(2);
                self.tail(sql, &columns)
            }
        };
        (sql, std::mem::take(&mut self.values))
    }

    /// Aggregates over columns that no group is large enough for: nothing comes out, whatever the column holds.
    fn floored(&mut self) -> String {
        let (column, kind) = self.counted[self.random.below(self.counted.len())].clone();
        let a = self.alias();
        let t = self.t.clone();
        let (c, all) = (format!("{a}.{column}"), scope(&a, &t));
        let (key_kind, literal) = (self.kind(), self.literal(kind));
        let key = self.column(&all, key_kind);
        let compares = !matches!(kind, Kind::Info | Kind::Tags | Kind::Float | Kind::Time | Kind::Bool);
        let filter = match self.random.below(4) {
            0 if compares => format!("{c} > {literal}"),
            1 if compares => {
                format!("{c} <> {literal} AND {} = {}", self.column(&all, Kind::Text), self.literal(Kind::Text))
            }
            2 => format!("{c} IS NOT NULL"),
            _ => "TRUE".into(),
        };
        let number = if kind == Kind::Int { c.clone() } else { self.column(&all, Kind::Int) };
        let from = format!("FROM t {a} WHERE {filter}");
        let sql = match self.random.below(5) {
            0 => format!("SELECT count({c}) AS n {from}"),
            1 if key.contains('.') => {
                format!("SELECT {key} AS k, count({c}) AS n, sum({number}) AS s {from} GROUP BY {key}")
            }
            2 if !matches!(kind, Kind::Info | Kind::Tags) => format!("SELECT count(*) AS n {from} GROUP BY {c}"),
            3 => format!("SELECT count(*) AS n, avg({number}) AS m, count({c}) AS o {from} HAVING 1 / 0 > 0"),
            _ => format!("SELECT count({c}) AS n, corr({number}, {a}.id) AS m {from}"),
        };
        match self.random.below(3) {
            0 => format!("SELECT u.id, x.n FROM u, ({sql}) x"),
            1 => format!("SELECT id FROM u WHERE id > (SELECT max(n) FROM ({sql}))"),
            _ => sql,
        }
    }

    /// ORDER BY and LIMIT around a query.
    fn tail(&mut self, sql: String, columns: &Columns) -> String {
        let k = 1 + self.random.below(12);
        let sortable = columns.iter().all(|(_, kind)| !matches!(kind, Kind::Info | Kind::Tags));
        let all = (1..=columns.len()).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
        let direction = self.random.pick(&["", " DESC", " DESC NULLS LAST", " NULLS FIRST"]);
        match self.random.below(10) {
            0 if sortable => format!("SELECT * FROM ({sql}) ORDER BY 1{direction}, {all} LIMIT {k}"),
            1 if sortable => format!("SELECT * FROM ({sql}) ORDER BY {all} LIMIT {k} OFFSET {}", k / 2),
            2 => format!("SELECT count(*) FROM ({sql} LIMIT {k})"),
            3 => {
                self.by_order = true;
                format!("{sql} LIMIT {k}")
            }
            4 if sortable => {
                self.by_order = true;
                format!("SELECT * FROM ({sql}) ORDER BY 1{direction} LIMIT {k}")
            }
            _ => sql,
        }
    }

    fn recursive(&mut self) -> String {
        let t = self.table();
        let columns = self.columns_of(t);
        let (a, b) = (scope("a", &columns), scope("b", &columns));
        let (p, q) = (self.predicate(&a, 1, 1), self.predicate(&b, 1, 1));
        let all = self.random.pick(&["UNION", "UNION ALL"]);
        let step = 1 + self.random.below(4);
        let k = self.random.below(6);
        match self.random.below(3) {
            0 => format!(
                "WITH RECURSIVE r AS (SELECT a.id FROM {t} a WHERE {p} AND a.id < {k} {all} SELECT b.id FROM {t} b \
                 JOIN r ON b.id = r.id + {step} WHERE {q}) SELECT * FROM r"
            ),
            1 => format!(
                "WITH RECURSIVE r(n) AS (SELECT 1 {all} SELECT n + {step} FROM r WHERE n < {}) SELECT n, count(*) \
                 FROM r JOIN {t} a ON a.id >= n WHERE {p} GROUP BY n",
                k + 3
            ),
            _ => format!(
                "WITH RECURSIVE r(n) AS (SELECT count(*) FROM {t} a WHERE {p} {all} SELECT n - {step} FROM r WHERE \
                 n > 0 AND EXISTS (SELECT 1 FROM {t} b WHERE b.id < n AND {q})) SELECT n FROM r"
            ),
        }
    }

    // ---- queries ------------------------------------------------------------------------------------------------

    fn query(&mut self, depth: usize) -> (String, Columns) {
        match self.random.below(10) {
            0 | 1 if depth > 0 => {
                let kinds: Vec<_> = (0..1 + self.random.below(2)).map(|_| self.kind()).collect();
                let (left, columns) = self.select(depth - 1, Some(&kinds));
                let (right, _) = self.select(depth - 1, Some(&kinds));
                let op =
                    self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"]);
                (format!("{left} {op} {right}"), columns)
            }
            _ => self.select(depth, None),
        }
    }

    fn kind(&mut self) -> Kind {
        [Kind::Int, Kind::Int, Kind::Text, Kind::Date, Kind::Bool, Kind::Time][self.random.below(6)]
    }

    fn select(&mut self, depth: usize, kinds: Option<&[Kind]>) -> (String, Columns) {
        let (from, scope) = self.from(depth);
        let filter =
            if self.random.chance(80) { format!(" WHERE {}", self.predicate(&scope, 2, depth)) } else { String::new() };
        let from = format!("FROM {from}{filter}");
        match (kinds, self.random.below(12)) {
            (None, 0..3) => self.grouped(&from, &scope, depth),
            (None, 3 | 4) => self.windowed(&from, &scope),
            (kinds, n) => {
                let kinds = match kinds {
                    Some(kinds) => kinds.to_vec(),
                    None => (0..1 + self.random.below(3)).map(|_| self.kind()).collect(),
                };
                let columns: Columns = kinds.iter().enumerate().map(|(i, k)| (format!("c{i}"), *k)).collect();
                let out = kinds.iter().map(|k| self.expression(&scope, *k, 2)).collect::<Vec<_>>();
                let out = out.iter().enumerate().map(|(i, e)| format!("{e} AS c{i}")).collect::<Vec<_>>().join(", ");
                let distinct = if n == 5 { "DISTINCT " } else { "" };
                if n == 6 {
                    let (key, k) = (self.expression(&scope, Kind::Int, 2), 1 + self.random.below(9));
                    let all = columns.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>().join(", ");
                    let limit = format!("ORDER BY key, {all} LIMIT {k}");
                    return (format!("SELECT {all} FROM (SELECT {out}, {key} AS key {from} {limit})"), columns);
                }
                (format!("SELECT {distinct}{out} {from}"), columns)
            }
        }
    }

    fn grouped(&mut self, from: &str, scope: &Scope, depth: usize) -> (String, Columns) {
        let mut keys: Vec<(String, Kind)> = vec![];
        for _ in 0..self.random.below(3) {
            let kind = self.kind();
            keys.push((
                if self.random.chance(70) { self.column(scope, kind) } else { self.expression(scope, kind, 1) },
                kind,
            ));
        }
        keys.dedup_by(|a, b| a.0 == b.0);
        // A literal as a key would be a position.
        keys.retain(|(e, _)| e.contains('.'));
        let (n, s) = (self.expression(scope, Kind::Int, 1), self.expression(scope, Kind::Text, 1));
        let d = self.column(scope, Kind::Date);
        let k = self.random.below(8);
        let drawn = self.random.below(11);
        self.by_order |= matches!(drawn, 8 | 9);
        let (aggregate, kind) = match drawn {
            0 => (format!("sum({n})"), Kind::Int),
            1 => (format!("min({n})"), Kind::Int),
            2 => (format!("max({s})"), Kind::Text),
            3 => (format!("count(DISTINCT {n})"), Kind::Int),
            4 => (format!("max({d})"), Kind::Date),
            5 => (format!("count({s})"), Kind::Int),
            6 => (format!("count(*) FILTER (WHERE {})", self.predicate(scope, 1, 0)), Kind::Int),
            7 => (format!("bool_and({n} > {k})"), Kind::Bool),
            8 => (format!("string_agg({s}, ',')"), Kind::Text),
            9 => (format!("first_value({n})"), Kind::Int),
            _ => ("count(*)".into(), Kind::Int),
        };
        let mut columns: Columns = keys.iter().enumerate().map(|(i, (_, k))| (format!("c{i}"), *k)).collect();
        columns.push(("agg".into(), kind));
        let out: Vec<_> = keys.iter().enumerate().map(|(i, (e, _))| format!("{e} AS c{i}")).collect();
        let out = [out, vec![format!("{aggregate} AS agg")]].concat().join(", ");
        let list = keys.iter().map(|(e, _)| e.clone()).collect::<Vec<_>>().join(", ");
        let group = match (keys.len(), self.random.below(6)) {
            (0, _) => String::new(),
            (2, 0) => format!(" GROUP BY ROLLUP ({list})"),
            (2, 1) => format!(" GROUP BY CUBE ({list})"),
            (2, 2) => format!(" GROUP BY GROUPING SETS (({}), ({}), ())", keys[0].0, keys[1].0),
            _ => format!(" GROUP BY {list}"),
        };
        let having = match self.random.below(6) {
            0 => format!(" HAVING count(*) > {k}"),
            1 => format!(" HAVING max({n}) > {k}"),
            2 if depth > 0 => format!(" HAVING count(*) > (SELECT min(val) FROM u WHERE id > {k})"),
            _ => String::new(),
        };
        (format!("SELECT {out} {from}{group}{having}"), columns)
    }

    fn windowed(&mut self, from: &str, scope: &Scope) -> (String, Columns) {
        let kind = self.kind();
        let (c, n) = (self.column(scope, kind), self.expression(scope, Kind::Int, 1));
        let (by, order) = (self.column(scope, Kind::Text), self.column(scope, Kind::Int));
        let partition = if self.random.chance(60) { format!("PARTITION BY {by} ") } else { String::new() };
        let drawn = self.random.below(9);
        self.by_order |= drawn >= 4;
        let (function, frame) = match drawn {
            0 => ("rank()".into(), ""),
            1 => ("dense_rank()".into(), ""),
            2 => (format!("sum({n})"), ""),
            3 => ("count(*)".into(), ""),
            4 => ("row_number()".into(), ""),
            5 => (format!("lag({n})"), ""),
            6 => (format!("first_value({n})"), ""),
            7 => ("ntile(3)".into(), ""),
            _ => (format!("max({n})"), " ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING"),
        };
        let over = format!("OVER ({partition}ORDER BY {order}{frame})");
        let sql = format!("SELECT {c} AS c0, {function} {over} AS w {from}");
        let columns = vec![("c0".to_string(), kind), ("w".to_string(), Kind::Int)];
        if self.random.chance(40) {
            return (format!("SELECT * FROM ({sql}) WHERE w < {}", 1 + self.random.below(9)), columns);
        }
        (sql, columns)
    }

    // ---- relations ----------------------------------------------------------------------------------------------

    fn table(&mut self) -> &'static str {
        self.random.pick(&["t", "t", "m"])
    }

    fn columns_of(&self, table: &str) -> Columns {
        match table {
            "t" => self.t.clone(),
            "m" => self.m.clone(),
            _ => OPEN.iter().map(|(n, k)| (n.to_string(), *k)).collect(),
        }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("a{}", self.aliases)
    }

    fn relation(&mut self, depth: usize) -> (String, Scope) {
        let a = self.alias();
        if depth > 0 && self.random.chance(25) {
            let (inner, columns) = self.query(depth - 1);
            return (format!("({inner}) {a}"), scope(&a, &columns));
        }
        let table = if self.random.chance(85) { self.table() } else { "u" };
        let columns = self.columns_of(table);
        (format!("{table} {a}"), scope(&a, &columns))
    }

    fn from(&mut self, depth: usize) -> (String, Scope) {
        let (left, l) = self.relation(depth);
        match self.random.below(16) {
            0..3 => {
                let (right, r) = self.relation(depth.min(1));
                let join = self.random.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                let on = self.on(&l, &r);
                (format!("{left} {join} {right} ON {on}"), [l, r].concat())
            }
            3 | 4 => {
                let (right, r) = self.relation(depth.min(1));
                let join = self.random.pick(&["LEFT SEMI", "LEFT ANTI", "RIGHT SEMI", "RIGHT ANTI"]);
                let on = self.on(&l, &r);
                (format!("{left} {join} JOIN {right} ON {on}"), if join.starts_with("LEFT") { l } else { r })
            }
            5 => {
                let a = self.alias();
                let join = self.random.pick(&["JOIN", "LEFT JOIN", "FULL JOIN"]);
                let x = self.alias();
                let (t, o) = (self.table(), self.random.pick(&["u", "m"]));
                let columns = self.columns_of(t);
                let (sx, so) = (scope(&x, &columns), scope(&a, &self.columns_of(o)));
                // `id` alone is ambiguous to no one but us: qualified names stay.
                (format!("{t} {x} {join} {o} {a} USING (id)"), [sx, so].concat())
            }
            6 => {
                let (right, r) = self.relation(0);
                let p = self.predicate(&r, 1, 0);
                let j = self.alias();
                (format!("{left} CROSS JOIN (SELECT 1 FROM {right} WHERE {p}) {j}"), l)
            }
            7 => {
                let a = self.alias();
                let y = self.alias();
                let t = self.table();
                let inner = scope(&y, &self.columns_of(t));
                let p = self.predicate(&inner, 1, 0);
                let column = self.column(&inner, Kind::Int);
                let link = self.column(&l, Kind::Int);
                let sql =
                    format!("{left}, LATERAL (SELECT {column} AS v FROM {t} {y} WHERE {y}.id = {link} AND {p}) {a}");
                (sql, [l, vec![(format!("{a}.v"), Kind::Int)]].concat())
            }
            8 => {
                let t = self.table();
                let columns = self.columns_of(t);
                let a = self.alias();
                let y = self.alias();
                if !columns.iter().any(|(n, _)| n == "tags") {
                    return (left, l);
                }
                let p = self.predicate(&scope(&y, &columns), 1, 0);
                let sql = format!("(SELECT {y}.id, unnest({y}.tags) AS tag FROM {t} {y} WHERE {p}) {a}");
                (sql, vec![(format!("{a}.id"), Kind::Int), (format!("{a}.tag"), Kind::Int)])
            }
            9 => {
                let a = self.alias();
                let link = self.column(&l, Kind::Int);
                let sql = format!("{left} JOIN (VALUES (1, 'x'), (2, '7'), (NULL, 'y')) {a}(n, s) ON {link} > {a}.n");
                (sql, [l, vec![(format!("{a}.n"), Kind::Int), (format!("{a}.s"), Kind::Text)]].concat())
            }
            _ => (left, l),
        }
    }

    fn on(&mut self, l: &Scope, r: &Scope) -> String {
        let kind = if self.random.chance(75) { Kind::Int } else { Kind::Text };
        let equal = format!("{} = {}", self.column(l, kind), self.column(r, kind));
        match self.random.below(5) {
            0 => equal,
            1 => format!("{equal} AND {}", self.predicate(&[l.clone(), r.clone()].concat(), 1, 0)),
            2 => format!("{equal} AND {} < {}", self.expression(l, Kind::Int, 1), self.expression(r, Kind::Int, 1)),
            3 => format!("{} = {}", self.expression(l, Kind::Int, 1), self.column(r, Kind::Int)),
            _ => format!("{equal} AND {}", self.predicate(r, 1, 0)),
        }
    }

    // ---- expressions --------------------------------------------------------------------------------------------

    fn column(&mut self, scope: &Scope, kind: Kind) -> String {
        let fit: Vec<&str> = scope.iter().filter(|(_, k)| *k == kind).map(|(n, _)| n.as_str()).collect();
        if fit.is_empty() { self.literal(kind) } else { self.random.pick(&fit).to_string() }
    }

    fn literal(&mut self, kind: Kind) -> String {
        let k = self.random.below(20);
        match kind {
            Kind::Int if self.prepared && self.values.len() < 3 => {
                self.values.push(ScalarValue::Int64(Some(k as i64)));
                format!("${}", self.values.len())
            }
            Kind::Int => k.to_string(),
            Kind::Text => format!("'{}'", self.random.pick(&["eu", "us", "7", "b1", "", "HID", "gone"])),
            Kind::Date => format!("DATE '{}-01-01'", 1957 + k % 6),
            Kind::Time => format!("TIMESTAMP '{}-03-01 00:00:00'", 1957 + k % 6),
            Kind::Bool => self.random.pick(&["TRUE", "FALSE", "NULL::BOOLEAN"]).into(),
            Kind::Float => format!("{k}.5"),
            Kind::Info => "NULL".into(),
            Kind::Tags => "[1, 2]".into(),
        }
    }

    /// An expression of a kind; four in ten can fail on some value.
    fn expression(&mut self, scope: &Scope, kind: Kind, depth: usize) -> String {
        if depth == 0 || self.random.chance(55) {
            return if self.random.chance(85) { self.column(scope, kind) } else { self.literal(kind) };
        }
        let inner = |g: &mut Self, kind| g.expression(scope, kind, depth - 1);
        let fallible = self.random.chance(45);
        match kind {
            Kind::Int if fallible => {
                let (a, b) = (inner(self, Kind::Int), inner(self, Kind::Int));
                let s = inner(self, Kind::Text);
                match self.random.below(9) {
                    0 | 1 => format!("({} / {a})", self.random.below(50)),
                    2 => format!("({a} % {b})"),
                    3 => format!("CAST({s} AS BIGINT)"),
                    4 => format!("abs({a} - {b})"),
                    5 => format!("CAST(CAST({a} AS SMALLINT) AS BIGINT)"),
                    6 => format!("(CASE WHEN {a} = 0 THEN {b} / {a} ELSE {a} END)"),
                    7 => format!("({a} * {b})"),
                    _ => format!("CAST({} AS INT)", self.column(scope, Kind::Text)),
                }
            }
            Kind::Int => {
                let (a, s) = (inner(self, Kind::Int), inner(self, Kind::Text));
                match self.random.below(9) {
                    0 => format!("coalesce({a}, {})", self.literal(Kind::Int)),
                    1 => format!("nullif({a}, {})", self.random.below(9)),
                    2 => format!("CAST(length({s}) AS BIGINT)"),
                    3 => format!("CAST(date_part('year', {}) AS BIGINT)", self.column(scope, Kind::Date)),
                    4 => format!("TRY_CAST({s} AS BIGINT)"),
                    5 => match scope.iter().find(|(_, k)| *k == Kind::Info) {
                        Some((n, _)) => format!("{n}['a']"),
                        None => a,
                    },
                    6 => match scope.iter().find(|(_, k)| *k == Kind::Tags) {
                        Some((n, _)) => format!("{n}[{}]", 1 + self.random.below(2)),
                        None => a,
                    },
                    7 => format!("(CASE WHEN {} THEN {a} ELSE {} END)", inner(self, Kind::Bool), self.random.below(9)),
                    _ => format!("({a} + {})", self.random.below(9)),
                }
            }
            Kind::Text => {
                let (s, n) = (inner(self, Kind::Text), inner(self, Kind::Int));
                match self.random.below(8) {
                    0 => format!("upper({s})"),
                    1 => format!("substr({s}, 1, {n})"),
                    2 => format!("({s} || '{}')", self.random.below(9)),
                    3 => format!("CAST({n} AS VARCHAR)"),
                    4 => format!("coalesce({s}, 'none')"),
                    5 => format!("regexp_replace({s}, {}, 'r')", self.column(scope, Kind::Text)),
                    6 => match scope.iter().find(|(_, k)| *k == Kind::Info) {
                        Some((n, _)) => format!("{n}['b']"),
                        None => s,
                    },
                    _ => format!("split_part({s}, '1', 1)"),
                }
            }
            Kind::Date => {
                let (d, s) = (inner(self, Kind::Date), inner(self, Kind::Text));
                match self.random.below(4) {
                    0 => format!("CAST({s} AS DATE)"),
                    1 => format!("CAST({} AS DATE)", self.column(scope, Kind::Time)),
                    2 => format!("({d} + INTERVAL '{} days')", self.random.below(40)),
                    _ => format!("coalesce({d}, DATE '1960-01-01')"),
                }
            }
            Kind::Time => match self.random.below(4) {
                0 => format!("CAST({} AS TIMESTAMP)", inner(self, Kind::Date)),
                1 => format!("date_trunc('month', {})", inner(self, Kind::Time)),
                2 => format!("to_timestamp({})", inner(self, Kind::Text)),
                _ => self.column(scope, Kind::Time),
            },
            Kind::Bool => self.predicate(scope, 0, 0),
            Kind::Float => format!("({} / {})", inner(self, Kind::Float), inner(self, Kind::Int)),
            Kind::Info | Kind::Tags => self.column(scope, kind),
        }
    }

    /// A condition; `queries` is how deep subqueries may go.
    fn predicate(&mut self, scope: &Scope, depth: usize, queries: usize) -> String {
        if depth > 0 && self.random.chance(50) {
            let (l, r) = (self.predicate(scope, depth - 1, queries), self.predicate(scope, depth - 1, queries));
            return match self.random.below(5) {
                0 => format!("({l} OR {r})"),
                1 => format!("NOT ({l} AND {r})"),
                _ => format!("({l} AND {r})"),
            };
        }
        let k = self.random.below(20);
        match self.random.below(if queries > 0 { 26 } else { 19 }) {
            0..5 => {
                let op = self.random.pick(&["=", "<>", "<", ">=", "IS DISTINCT FROM"]);
                format!("{} {op} {}", self.expression(scope, Kind::Int, 2), self.expression(scope, Kind::Int, 1))
            }
            5 | 6 => format!("{} = {}", self.column(scope, Kind::Text), self.literal(Kind::Text)),
            7 => {
                let kind = self.kind();
                format!("{} IS {}NULL", self.expression(scope, kind, 1), self.random.pick(&["", "NOT "]))
            }
            8 => {
                let like = self.random.pick(&["LIKE", "NOT LIKE", "ILIKE"]);
                let pattern = self.random.pick(&["%a%", "1%", "HID%", "%", "_"]);
                format!("{} {like} '{pattern}'", self.column(scope, Kind::Text))
            }
            9 => format!("{} IN ('1', '3', 'eu', 'HID')", self.column(scope, Kind::Text)),
            10 => format!("{} < {}", self.expression(scope, Kind::Date, 1), self.literal(Kind::Date)),
            11 => format!("{} BETWEEN {k} AND {}", self.expression(scope, Kind::Int, 1), k + 6),
            12 => self.column(scope, Kind::Bool),
            13 => self.random.pick(&["1 / 0 > 0", "CAST('x' AS INT) > 0", "1 > 2", "10 / (2 - 2) = 1"]).into(),
            14 => format!("{} ~ {}", self.column(scope, Kind::Text), self.column(scope, Kind::Text)),
            15 => format!("{} >= {}", self.expression(scope, Kind::Time, 1), self.literal(Kind::Time)),
            16 => format!("{} < {}", self.column(scope, Kind::Float), self.expression(scope, Kind::Float, 1)),
            17 => format!("{} = {}", self.expression(scope, Kind::Text, 2), self.expression(scope, Kind::Text, 1)),
            18 => match self.hidden.first() {
                Some(hidden) if self.random.chance(6) => format!("{hidden} IS NULL"),
                _ => self.column(scope, Kind::Bool),
            },
            n => self.subquery(scope, n - 19, k),
        }
    }

    fn subquery(&mut self, outer: &Scope, n: usize, k: usize) -> String {
        let a = self.alias();
        let t = if self.random.chance(70) { self.table() } else { "u" };
        let inner = scope(&a, &self.columns_of(t));
        let p = self.predicate(&inner, 1, 0);
        let (column, link) = (self.column(&inner, Kind::Int), self.column(outer, Kind::Int));
        let not = self.random.pick(&["", "NOT "]);
        match n {
            0 => format!("{link} {not}IN (SELECT {column} FROM {t} {a} WHERE {p})"),
            1 => format!("{not}EXISTS (SELECT 1 FROM {t} {a} WHERE {column} = {link} AND {p})"),
            2 => format!("{link} > (SELECT max({column}) - {k} FROM {t} {a} WHERE {p})"),
            3 => format!("{k} / (SELECT count(*) FROM {t} {a} WHERE {p}) > {link}"),
            4 => format!("{k} > (SELECT count(*) FROM {t} {a} WHERE {column} = {link} AND {p})"),
            5 => format!("EXISTS (SELECT 1 FROM {t} {a} WHERE {p})"),
            _ => format!(
                "({link} {not}IN (SELECT {column} FROM {t} {a}) OR {p_outer})",
                p_outer = self.predicate(outer, 0, 0)
            ),
        }
    }
}

fn scope(alias: &str, columns: &Columns) -> Scope {
    columns.iter().map(|(n, k)| (format!("{alias}.{n}"), *k)).collect()
}
