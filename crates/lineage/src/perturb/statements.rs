//! Statements at random, every rule of the extractor on top of every other. All columns are whole numbers; `_k` of a base
//! table is never changed, so it tells rows apart.

use super::data::Draw;

/// The tables of all generated statements.
pub(crate) const SCHEMA: [&str; 4] = [
    "CREATE TABLE t (_k INT, a INT, b INT, c INT)",
    "CREATE TABLE u (_k INT, a INT, x INT, y INT)",
    "CREATE TABLE w (_k INT, a INT, z INT)",
    "CREATE TABLE edges (_k INT, src INT, dst INT, cost INT)",
];

const TABLES: [(&str, &[&str]); 4] = [
    ("t", &["_k", "a", "b", "c"]),
    ("u", &["_k", "a", "x", "y"]),
    ("w", &["_k", "a", "z"]),
    ("edges", &["_k", "src", "dst", "cost"]),
];

/// A relation in scope.
#[derive(Clone)]
struct Relation {
    alias: String,
    columns: Vec<String>,
}

/// A query and the names of its outputs.
struct Query {
    sql: String,
    columns: Vec<String>,
}

pub(crate) struct Generator {
    draw: Draw,
    names: usize,
    /// `WITH` names of the statement, with their columns.
    ctes: Vec<Relation>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { draw: Draw::new(seed), names: 0, ctes: vec![] }
    }

    /// One statement.
    pub(crate) fn statement(&mut self) -> String {
        self.names = 0;
        self.ctes.clear();
        let mut with = vec![];
        let mut recursive = "";
        if self.draw.one_in(3) {
            for _ in 0..=self.draw.below(2) {
                let name = self.name("q");
                let query = self.query(2, &[]);
                with.push(format!("{name}({}) AS ({})", query.columns.join(", "), query.sql));
                self.ctes.push(Relation { alias: name, columns: query.columns });
            }
        }
        if self.draw.one_in(7) {
            recursive = "RECURSIVE ";
            let name = self.name("r");
            with.push(self.recursion(&name));
            self.ctes.push(Relation { alias: name, columns: vec!["p".into(), "n".into()] });
        }
        let query = self.query(3, &[]);
        if with.is_empty() { query.sql } else { format!("WITH {recursive}{} {}", with.join(", "), query.sql) }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn recursion(&mut self, name: &str) -> String {
        let (union, start) = (*self.draw.of(&["UNION ALL", "UNION"]), *self.draw.of(&["src", "cost"]));
        let step = *self.draw.of(&["e.dst", "e.cost", "r.p"]);
        let more = *self.draw.of(&["", " AND e.cost > 0", " AND r.p < (SELECT max(z) FROM w)"]);
        format!(
            "{name}(p, n) AS (SELECT {start} AS p, 0 AS n FROM edges WHERE src = 0 {union} SELECT {step}, r.n + 1 FROM \
             {name} AS r JOIN edges AS e ON e.src = r.n{more} WHERE r.n < 3)"
        )
    }

    fn query(&mut self, depth: u32, outer: &[Relation]) -> Query {
        match self.draw.below(12) {
            0..4 => self.select(depth, outer),
            4..6 => self.aggregate(depth, outer),
            6 | 7 => self.window(depth, outer),
            8 => self.set_operation(depth, outer),
            9 => self.distinct(depth, outer),
            10 if outer.is_empty() => self.limited(depth),
            10 => self.select(depth, outer),
            _ => self.unnested(depth, outer),
        }
    }

    // Relations.

    fn base(&mut self) -> (String, Relation) {
        let alias = self.name("s");
        let (name, columns) = *self.draw.of(&TABLES);
        let columns = columns.iter().map(|c| c.to_string()).collect();
        (format!("{name} AS {alias}"), Relation { alias, columns })
    }

    fn relation(&mut self, depth: u32) -> (String, Relation) {
        if !self.ctes.is_empty() && self.draw.one_in(2) {
            let cte = self.draw.of(&self.ctes.clone()).clone();
            let alias = self.name("s");
            return (format!("{} AS {alias}", cte.alias), Relation { alias, columns: cte.columns });
        }
        if depth > 0 && self.draw.one_in(4) {
            let query = self.query(depth - 1, &[]);
            let alias = self.name("s");
            return (format!("({}) AS {alias}", query.sql), Relation { alias, columns: query.columns });
        }
        self.base()
    }

    fn from(&mut self, depth: u32, outer: &[Relation]) -> (String, Vec<Relation>) {
        let (mut sql, first) = self.relation(depth);
        let mut all = vec![first];
        while all.len() < 3 && self.draw.one_in(3) {
            let (more, relation) = self.relation(depth.saturating_sub(1));
            let left = self.draw.of(&all.clone()).clone();
            let kind = self.draw.below(9);
            if kind == 8 {
                sql = format!("{sql} CROSS JOIN {more}");
                all.push(relation);
                continue;
            }
            let (l, r) = (self.column(std::slice::from_ref(&left)), self.column(std::slice::from_ref(&relation)));
            let mut scope = all.clone();
            scope.push(relation.clone());
            let and = if self.draw.one_in(3) {
                format!(" AND {}", self.simple_predicate(&scope, outer))
            } else {
                String::new()
            };
            let (word, keeps) = match kind {
                0..3 => ("JOIN", true),
                3 => ("LEFT JOIN", true),
                4 => ("RIGHT JOIN", true),
                5 => ("FULL JOIN", true),
                6 => ("LEFT SEMI JOIN", false),
                _ => ("LEFT ANTI JOIN", false),
            };
            sql = format!("{sql} {word} {more} ON {l} = {r}{and}");
            if keeps {
                all.push(relation);
            }
        }
        (sql, all)
    }

    // Expressions.

    fn column(&mut self, scope: &[Relation]) -> String {
        let relation = self.draw.of(scope).clone();
        let column = self.draw.of(&relation.columns).clone();
        format!("{}.{column}", relation.alias)
    }

    fn number(&mut self) -> String {
        self.draw.below(4).to_string()
    }

    fn value(&mut self, depth: u32, scope: &[Relation], outer: &[Relation]) -> String {
        if depth == 0 || self.draw.one_in(3) {
            return match self.draw.below(8) {
                0 => self.number(),
                1 if !outer.is_empty() => self.column(outer),
                _ => self.column(scope),
            };
        }
        let d = depth - 1;
        match self.draw.below(10) {
            0 | 1 => {
                let op = *self.draw.of(&["+", "-", "*"]);
                format!("({} {op} {})", self.value(d, scope, outer), self.value(d, scope, outer))
            }
            2 => format!("({} % 3)", self.value(d, scope, outer)),
            3 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.predicate(d, scope, outer),
                self.value(d, scope, outer),
                self.value(d, scope, outer)
            ),
            4 => format!(
                "CASE {} WHEN {} THEN {} END",
                self.value(d, scope, outer),
                self.number(),
                self.value(d, scope, outer)
            ),
            5 => format!("coalesce({}, {})", self.value(d, scope, outer), self.value(d, scope, outer)),
            6 => format!("nullif({}, {})", self.value(d, scope, outer), self.value(d, scope, outer)),
            7 => format!("greatest({}, {})", self.value(d, scope, outer), self.value(d, scope, outer)),
            8 => format!("CAST({} AS BIGINT)", self.value(d, scope, outer)),
            _ => self.scalar_subquery(d, scope),
        }
    }

    /// A subquery of one row, mostly correlated.
    fn scalar_subquery(&mut self, depth: u32, outer: &[Relation]) -> String {
        let (from, relation) = self.relation(depth.min(1));
        let scope = [relation];
        let aggregate = self.aggregate_call(&scope, &[]);
        let filter = self.correlation(&scope, outer);
        format!("(SELECT {aggregate} FROM {from}{filter})")
    }

    fn correlation(&mut self, scope: &[Relation], outer: &[Relation]) -> String {
        let mut parts = vec![];
        if !self.draw.one_in(4) {
            parts.push(format!("{} = {}", self.column(scope), self.column(outer)));
        }
        if self.draw.one_in(3) {
            parts.push(self.simple_predicate(scope, &[]));
        }
        if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
    }

    fn simple_predicate(&mut self, scope: &[Relation], outer: &[Relation]) -> String {
        let op = *self.draw.of(&["=", "<", ">", "<=", "<>"]);
        let right = if self.draw.one_in(2) { self.number() } else { self.value(0, scope, outer) };
        format!("{} {op} {right}", self.value(0, scope, outer))
    }

    fn predicate(&mut self, depth: u32, scope: &[Relation], outer: &[Relation]) -> String {
        if depth == 0 {
            return self.simple_predicate(scope, outer);
        }
        let d = depth - 1;
        match self.draw.below(12) {
            0 | 1 => self.simple_predicate(scope, outer),
            2 => format!("({} AND {})", self.predicate(d, scope, outer), self.predicate(d, scope, outer)),
            3 => format!("({} OR {})", self.predicate(d, scope, outer), self.predicate(d, scope, outer)),
            4 => format!("NOT ({})", self.predicate(d, scope, outer)),
            5 => format!("{} IS NULL", self.value(d, scope, outer)),
            6 => {
                format!("{} BETWEEN {} AND {}", self.value(d, scope, outer), self.number(), self.value(d, scope, outer))
            }
            7 => format!("{} IN ({}, {})", self.value(d, scope, outer), self.number(), self.value(0, scope, outer)),
            8 | 9 => {
                let not = *self.draw.of(&["", "NOT "]);
                let (from, relation) = self.relation(d.min(1));
                let inner = [relation];
                let column = self.column(&inner);
                let filter = self.correlation(&inner, scope);
                format!("{} {not}IN (SELECT {column} FROM {from}{filter})", self.value(d, scope, outer))
            }
            10 => {
                let not = *self.draw.of(&["", "NOT "]);
                let (from, relation) = self.relation(d.min(1));
                let filter = self.correlation(&[relation], scope);
                format!("{not}EXISTS (SELECT 1 FROM {from}{filter})")
            }
            _ => {
                let op = *self.draw.of(&["=", "<", ">"]);
                format!("{} {op} {}", self.value(0, scope, outer), self.scalar_subquery(d, scope))
            }
        }
    }

    fn aggregate_call(&mut self, scope: &[Relation], outer: &[Relation]) -> String {
        let argument = self.value(1, scope, outer);
        let call = match self.draw.below(9) {
            0 => "count(*)".to_string(),
            1 => format!("count({argument})"),
            2 => format!("count(DISTINCT {argument})"),
            3 | 4 => format!("sum({argument})"),
            5 => format!("min({argument})"),
            6 => format!("max({argument})"),
            // Without FILTER and with one key: DataFusion panics on others.
            7 => return format!("first_value({argument} ORDER BY {})", self.column(scope)),
            _ => return format!("last_value({argument} ORDER BY {})", self.column(scope)),
        };
        if self.draw.one_in(4) { format!("{call} FILTER (WHERE {})", self.simple_predicate(scope, &[])) } else { call }
    }

    // Queries.

    fn clause(&mut self, depth: u32, scope: &[Relation], outer: &[Relation]) -> String {
        if self.draw.one_in(2) {
            format!(" WHERE {}", self.predicate(depth.min(2), scope, outer))
        } else {
            String::new()
        }
    }

    /// `_k` of the relations that have one, then some values.
    fn items(&mut self, depth: u32, scope: &[Relation], outer: &[Relation]) -> Vec<String> {
        let with_key = scope.iter().filter(|r| r.columns.iter().any(|c| c == "_k"));
        let mut items: Vec<String> = with_key.map(|r| format!("{}._k", r.alias)).collect();
        for _ in 0..=self.draw.below(3) {
            items.push(self.value(depth.min(2), scope, outer));
        }
        items
    }

    fn named(&mut self, items: &[String]) -> (String, Vec<String>) {
        let names: Vec<String> = (1..=items.len()).map(|i| format!("c{i}")).collect();
        let list = items.iter().zip(&names).map(|(e, n)| format!("{e} AS {n}")).collect::<Vec<_>>().join(", ");
        (list, names)
    }

    fn select(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let (from, scope) = self.from(depth, outer);
        let items = self.items(depth, &scope, outer);
        let (list, columns) = self.named(&items);
        let filter = self.clause(depth, &scope, outer);
        Query { sql: format!("SELECT {list} FROM {from}{filter}"), columns }
    }

    fn aggregate(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let (from, scope) = self.from(depth, outer);
        let keys: Vec<String> = (0..=self.draw.below(2)).map(|_| self.column(&scope)).collect();
        let filter = self.clause(depth, &scope, outer);
        let calls: Vec<String> = (0..=self.draw.below(2)).map(|_| self.aggregate_call(&scope, outer)).collect();
        let group = match self.draw.below(8) {
            0 => format!("ROLLUP ({})", keys.join(", ")),
            1 => format!("CUBE ({})", keys.join(", ")),
            2 => format!("GROUPING SETS (({}), ({}))", keys.join(", "), keys[0]),
            _ => keys.join(", "),
        };
        let having = match self.draw.below(4) {
            0 => format!(" HAVING {} > {}", self.aggregate_call(&scope, &[]), self.number()),
            1 => format!(
                " HAVING {} > {}",
                calls[0],
                self.scalar_subquery(
                    0,
                    &[Relation {
                        alias: scope[0].alias.clone(),
                        columns: vec![keys[0].rsplit('.').next().unwrap_or_default().to_string()],
                    }]
                )
            ),
            _ => String::new(),
        };
        let mut items = keys;
        items.extend(calls);
        let (list, columns) = self.named(&items);
        Query { sql: format!("SELECT {list} FROM {from}{filter} GROUP BY {group}{having}"), columns }
    }

    fn window(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let (from, scope) = self.from(depth, outer);
        let mut items = self.items(1, &scope, outer);
        for _ in 0..=self.draw.below(2) {
            let argument = self.value(1, &scope, &[]);
            let filtered = if self.draw.one_in(3) {
                format!(" FILTER (WHERE {})", self.simple_predicate(&scope, &[]))
            } else {
                String::new()
            };
            let call = match self.draw.below(9) {
                0 => "row_number()".to_string(),
                1 => "rank()".to_string(),
                2 => "dense_rank()".to_string(),
                3 => format!("lag({argument})"),
                4 => format!("lead({argument}, 1, 0)"),
                5 => format!("first_value({argument})"),
                6 => format!("count(*){filtered}"),
                _ => format!("sum({argument}){filtered}"),
            };
            let partition = if self.draw.one_in(2) {
                format!("PARTITION BY {} ", self.value(1, &scope, &[]))
            } else {
                String::new()
            };
            let frame = *self.draw.of(&["", "", " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW"]);
            items.push(format!(
                "{call} OVER ({partition}ORDER BY {}, {}{frame})",
                self.column(&scope),
                self.column(&scope)
            ));
        }
        let (list, columns) = self.named(&items);
        let filter = self.clause(depth, &scope, outer);
        let sql = format!("SELECT {list} FROM {from}{filter}");
        match self.draw.below(3) {
            // A window that filters.
            0 => {
                let alias = self.name("s");
                let last = columns.last().cloned().unwrap_or_default();
                let kept = columns[..columns.len() - 1].to_vec();
                let sql =
                    format!("SELECT {} FROM ({sql}) AS {alias} WHERE {last} <= {}", kept.join(", "), self.number());
                Query { sql, columns: kept }
            }
            _ => Query { sql, columns },
        }
    }

    fn set_operation(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let op = *self.draw.of(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
        let side = |g: &mut Self| {
            let (from, scope) = g.from(depth.saturating_sub(1), outer);
            let items = [g.value(1, &scope, outer), g.value(1, &scope, outer)];
            let (list, columns) = g.named(&items);
            let filter = g.clause(1, &scope, outer);
            (format!("SELECT {list} FROM {from}{filter}"), columns)
        };
        let ((left, columns), (right, _)) = (side(self), side(self));
        let alias = self.name("s");
        Query { sql: format!("SELECT {} FROM ({left} {op} {right}) AS {alias}", columns.join(", ")), columns }
    }

    fn distinct(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let (from, scope) = self.from(depth, outer);
        let items: Vec<String> = (0..=self.draw.below(2)).map(|_| self.value(1, &scope, outer)).collect();
        let (list, columns) = self.named(&items);
        let filter = self.clause(depth, &scope, outer);
        let on = if outer.is_empty() && self.draw.one_in(3) {
            let key = self.column(&scope);
            return Query {
                sql: format!(
                    "SELECT DISTINCT ON ({key}) {list} FROM {from}{filter} ORDER BY {key}, {}, {}",
                    self.column(&scope),
                    self.column(&scope)
                ),
                columns,
            };
        } else {
            "DISTINCT"
        };
        Query { sql: format!("SELECT {on} {list} FROM {from}{filter}"), columns }
    }

    fn limited(&mut self, depth: u32) -> Query {
        let inner = self.query(depth.saturating_sub(1), &[]);
        let alias = self.name("s");
        let order = self.draw.of(&inner.columns).clone();
        let all = inner.columns.join(", ");
        let sql = format!(
            "SELECT {all} FROM (SELECT * FROM ({}) AS {alias} ORDER BY {order}, {all} LIMIT {}) AS {alias}",
            inner.sql,
            1 + self.draw.below(4)
        );
        Query { sql, columns: inner.columns }
    }

    fn unnested(&mut self, depth: u32, outer: &[Relation]) -> Query {
        let (from, scope) = self.from(depth.saturating_sub(1), outer);
        let (a, b, p) = (self.value(1, &scope, &[]), self.value(1, &scope, &[]), self.simple_predicate(&scope, &[]));
        let mut items = self.items(1, &scope, &[]);
        items.push(format!("unnest(CASE WHEN {p} THEN make_array({a}, {b}) ELSE make_array({b}) END)"));
        let (list, columns) = self.named(&items);
        Query { sql: format!("SELECT {list} FROM {from}"), columns }
    }
}
