//! From a text to statements.
//!
//! Heads of statements are read by hand on sqlparser's parser as a cursor; queries go to `parse_query` and then
//! through the gate. A statement must be read to its end: a word left over is an error, not a shorter statement.

use crate::{
    Place,
    gate::{self, list},
    problem::{self, Refusals, closest, code},
    reference::{self, Named, plain},
    statement::{
        Check, Clauses, ExecuteDef, Expectation, ExplainKind, GatedQuery, Incremental, Key, Located, OnViolation,
        Placed, PlainViewDef, PrepareDef, RenamedColumn, SourceColumn, SourceDef, SourceFormat, Statement, ViewDef,
    },
    text::{self, MAX_COLUMNS, Tokens},
    types,
};
use custody_model::{DatasetName, Problem, Purpose, SourceText};
use sqlparser::{
    ast,
    parser::Parser,
    tokenizer::{Token, Word},
};

/// The statements of a text, each through the gate; or everything that is wrong with them.
pub fn parse(source: &SourceText) -> Result<Vec<Located<Statement>>, Refusals> {
    let mut problems = vec![];
    let mut statements = vec![];
    for tokens in text::statements(source)? {
        let place = tokens.whole();
        match statement(&tokens) {
            Ok(value) => {
                statements.push(Located { value, text: tokens.text().to_string(), start: place.start, end: place.end })
            }
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() { Ok(statements) } else { Err(Refusals::new(problems, source)) }
}

pub(crate) type Result<T, E = Vec<Problem>> = std::result::Result<T, E>;

const STATEMENTS: &[&str] = &["SELECT", "WITH", "VALUES", "FROM", "EXPLAIN", "PREPARE", "EXECUTE", "CREATE"];

pub(crate) fn unsupported_statement(words: &str, place: Place) -> Problem {
    let help = match closest(words, STATEMENTS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => match words {
            "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "COPY" | "TRUNCATE" => {
                "data changes through `custody publish` and leaves as the result of a query".to_string()
            }
            "SET" | "RESET" | "PRAGMA" => "settings belong in `custody.toml`".to_string(),
            "SHOW" | "DESCRIBE" | "DESC" => {
                "select from `system.catalog.datasets` and `system.catalog.columns`".to_string()
            }
            _ if words.starts_with("CREATE") => {
                "definitions are `CREATE SOURCE`, `CREATE FEATURE VIEW` and `CREATE TRAINING SET`, in project files"
                    .to_string()
            }
            _ => {
                "statements are queries, `EXPLAIN`, `PREPARE`, `EXECUTE` and, in project files, `CREATE …`".to_string()
            }
        },
    };
    Problem::new(code::STATEMENT, format!("statement `{words}` is not supported")).help(help).label(place.label("here"))
}

fn statement(tokens: &Tokens) -> Result<Statement> {
    let mut head = Head::new(tokens);
    match head.word_at(0).as_deref() {
        Some("SELECT" | "WITH" | "VALUES" | "FROM" | "TABLE") => Ok(Statement::Query(head.query()?)),
        Some("EXPLAIN") => head.explain(),
        Some("PREPARE") => head.prepare(),
        Some("EXECUTE") => head.execute(),
        Some("CREATE") => head.create(),
        Some(word) => Err(vec![unsupported_statement(word, tokens.place(0))]),
        None if tokens.token(0) == Some(&Token::LParen) => Ok(Statement::Query(head.query()?)),
        None => Err(vec![head.expected("a statement")]),
    }
}

/// A cursor over one statement.
pub(crate) struct Head<'a> {
    tokens: &'a Tokens,
    parser: Parser<'static>,
}

impl<'a> Head<'a> {
    pub(crate) fn new(tokens: &'a Tokens) -> Self {
        Self { tokens, parser: tokens.parser() }
    }
}

impl Head<'_> {
    // The cursor.

    pub(crate) fn index(&self) -> usize {
        self.parser.index()
    }

    pub(crate) fn word_at(&self, ahead: usize) -> Option<String> {
        self.tokens.word(self.index() + ahead)
    }

    pub(crate) fn peek(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.word_at(i).as_deref() == Some(word))
    }

    pub(crate) fn skip(&mut self, tokens: usize) {
        for _ in 0..tokens {
            self.parser.next_token();
        }
    }

    pub(crate) fn eat(&mut self, words: &[&str]) -> bool {
        let found = self.peek(words);
        if found {
            self.skip(words.len());
        }
        found
    }

    pub(crate) fn need(&mut self, words: &[&str]) -> Result<()> {
        if self.eat(words) { Ok(()) } else { Err(vec![self.expected_word(&words.join(" "), words)]) }
    }

    pub(crate) fn eat_token(&mut self, token: &Token) -> bool {
        let found = self.tokens.token(self.index()) == Some(token);
        if found {
            self.skip(1);
        }
        found
    }

    pub(crate) fn need_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) { Ok(()) } else { Err(vec![self.expected(&format!("`{token}`"))]) }
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.tokens.token(self.index())
    }

    pub(crate) fn here(&self) -> Place {
        self.tokens.place(self.index())
    }

    pub(crate) fn since(&self, first: usize) -> Place {
        self.tokens.stretch(first, self.index())
    }

    pub(crate) fn expected(&self, what: &str) -> Problem {
        let found = match self.tokens.token(self.index()) {
            Some(token) => format!("`{token}`"),
            None => "the end of the statement".to_string(),
        };
        Problem::new(code::SYNTAX, format!("expected {what}, found {found}")).label(self.here().label("here"))
    }

    pub(crate) fn expected_word(&self, shown: &str, words: &[&str]) -> Problem {
        let problem = self.expected(&format!("`{shown}`"));
        match self.word_at(0).and_then(|w| closest(&w, words)) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem,
        }
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.index() >= self.tokens.len() {
            return Ok(());
        }
        if let Some(problem) = problem::foreign(self.tokens, self.index()) {
            return Err(vec![problem]);
        }
        let problem = self.expected("the end of the statement");
        let after_version = self.peek(&["VERSION"]) || self.peek(&["TIMESTAMP", "AS", "OF"]);
        Err(vec![if after_version {
            problem.help("a version stands directly after the dataset, before its alias: `raw.labs VERSION 5 AS l`")
        } else if let Some(near) = problem::near_miss(self.tokens, self.index()) {
            problem.help(near)
        } else {
            problem
        }])
    }

    pub(crate) fn at_end(&self) -> bool {
        self.index() >= self.tokens.len()
    }

    // What sqlparser reads; the gate comes later.

    /// A statement as sqlparser reads it.
    pub(crate) fn parsed(&mut self) -> Result<ast::Statement> {
        self.parser.parse_statement().map_err(|e| vec![problem::from_parser(&e, self.tokens)])
    }

    /// A query as sqlparser reads it.
    pub(crate) fn parsed_query(&mut self) -> Result<ast::Query> {
        self.parser.parse_query().map(|q| *q).map_err(|e| vec![problem::from_parser(&e, self.tokens)])
    }

    /// A table's name, as the query for all of it.
    pub(crate) fn whole_table(&mut self) -> Result<ast::Query> {
        let first = self.index();
        let name = self.parser.parse_object_name(false).map_err(|e| vec![problem::from_parser(&e, self.tokens)])?;
        let text = format!("SELECT * FROM {name}");
        let mut parser = sqlparser::parser::Parser::new(&crate::CustodyDialect)
            .try_with_sql(&text)
            .map_err(|e| vec![problem::from_parser(&e, self.tokens)])?;
        parser.parse_query().map(|q| *q).map_err(|_| {
            vec![Problem::new(code::NAME, format!("`{name}` is not a table")).label(self.since(first).label("here"))]
        })
    }

    // Small things.

    pub(crate) fn identifier(&mut self, what: &str) -> Result<(ast::Ident, Place)> {
        let place = self.here();
        match self.tokens.token(self.index()) {
            Some(Token::Word(Word { value, quote_style, .. })) => {
                let ident = ast::Ident {
                    value: value.clone(),
                    quote_style: *quote_style,
                    span: sqlparser::tokenizer::Span::empty(),
                };
                self.skip(1);
                Ok((ident, place))
            }
            _ => Err(vec![self.expected(what)]),
        }
    }

    /// A name of one part: lower case, digits, `_`.
    pub(crate) fn simple(&mut self, what: &str) -> Result<Placed<String>> {
        let (ident, place) = self.identifier(what)?;
        let value = plain(&ident);
        let plain_name = value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && value.len() <= 128;
        if plain_name {
            Ok(Placed { value, place })
        } else {
            Err(vec![
                Problem::new(code::NAME, format!("`{value}` is not a plain name"))
                    .help("use lower-case letters, digits and `_`, not starting with a digit")
                    .label(place.label("here")),
            ])
        }
    }

    /// A column; quoted, it may hold anything but dots, quotes and control characters.
    pub(crate) fn column(&mut self) -> Result<Placed<String>> {
        let (ident, place) = self.identifier("a column name")?;
        let value = plain(&ident);
        let fine = !value.is_empty()
            && value.chars().count() <= 128
            && !value.contains(|c: char| c.is_control() || matches!(c, '.' | '"' | '\'' | '`' | '\\'));
        if fine {
            Ok(Placed { value, place })
        } else {
            Err(vec![
                Problem::new(code::NAME, format!("`{value}` is not a column name"))
                    .help("dots, quotes, backslashes and control characters are left out, 128 characters at most")
                    .label(place.label("here")),
            ])
        }
    }

    pub(crate) fn columns(&mut self) -> Result<Vec<Placed<String>>> {
        self.need_token(&Token::LParen)?;
        let mut columns = vec![self.column()?];
        while self.eat_token(&Token::Comma) {
            columns.push(self.column()?);
        }
        self.need_token(&Token::RParen)?;
        for (i, column) in columns.iter().enumerate() {
            if columns.iter().take(i).any(|c| c.value == column.value) {
                return Err(vec![twice(&format!("column `{}`", column.value), column.place)]);
            }
        }
        Ok(columns)
    }

    pub(crate) fn dataset(&mut self) -> Result<Placed<DatasetName>> {
        let first = self.index();
        let mut parts = vec![ast::ObjectNamePart::Identifier(self.identifier("a dataset name")?.0)];
        while self.eat_token(&Token::Period) {
            parts.push(ast::ObjectNamePart::Identifier(self.identifier("a name")?.0));
        }
        let place = self.since(first);
        let name = ast::ObjectName(parts);
        match reference::named(&name) {
            Ok(Named::Dataset(value)) => Ok(Placed { value, place }),
            Ok(Named::Bare(bare)) => Err(vec![
                Problem::new(code::NAME, format!("`{bare}` names no dataset"))
                    .help("write `schema.name`, such as `features.x`")
                    .label(place.label("one part only")),
            ]),
            Err(unreadable) => {
                Err(vec![Problem::new(code::NAME, unreadable.message).help(unreadable.help).label(place.label("here"))])
            }
        }
    }

    pub(crate) fn defined(&mut self, schema: Option<&str>) -> Result<Placed<DatasetName>> {
        let name = self.dataset()?;
        let reserved = ["features", "training", "quarantine", "system", "information_schema"];
        let own = name.value.schema();
        let wrong = match schema {
            Some(schema) => (own != schema).then(|| format!("write `{schema}.{}`", name.value.name())),
            None => (reserved.contains(&own) || name.value.is_system())
                .then(|| format!("choose a schema other than {}", list(&reserved))),
        };
        match wrong {
            None => Ok(name),
            Some(help) => Err(vec![
                Problem::new(code::NAME, format!("`{}` cannot be defined by this statement", name.value))
                    .help(help)
                    .label(name.place.label("schema")),
            ]),
        }
    }

    pub(crate) fn text(&mut self, what: &str) -> Result<Placed<String>> {
        let place = self.here();
        match self.tokens.token(self.index()) {
            Some(Token::SingleQuotedString(value)) => {
                let value = value.clone();
                self.skip(1);
                Ok(Placed { value, place })
            }
            _ => Err(vec![self.expected(what)]),
        }
    }

    fn data_type(&mut self) -> Result<arrow_schema::DataType> {
        let first = self.index();
        let sql = self.parser.parse_data_type().map_err(|e| vec![problem::from_parser(&e, self.tokens)])?;
        types::arrow_type(&sql).map_err(|refused| vec![refused.problem().label(self.since(first).label("here"))])
    }

    /// `INTERVAL '5 years'`; the text.
    fn interval(&mut self) -> Result<Placed<String>> {
        self.need(&["INTERVAL"])?;
        let text = self.text("an interval such as `'730 days'`")?;
        if is_interval(&text.value) {
            Ok(text)
        } else {
            Err(vec![
                Problem::new(code::DEFINITION, format!("`{}` is not an interval", text.value))
                    .help("write whole numbers and units: `'2 years 6 months'`, `'730 days'`, `'12 hours'`")
                    .label(text.place.label("here")),
            ])
        }
    }

    // Queries.

    /// A query up to the end of the statement.
    fn query(&mut self) -> Result<GatedQuery> {
        let first = self.index();
        let ast = self.parsed_query()?;
        self.end()?;
        self.gated(ast, first)
    }

    /// A query in parentheses.
    pub(crate) fn query_inside(&mut self) -> Result<GatedQuery> {
        self.need_token(&Token::LParen)?;
        let first = self.index();
        let ast = self.parsed_query()?;
        let query = self.gated(ast, first)?;
        self.need_token(&Token::RParen)?;
        Ok(query)
    }

    fn gated(&self, mut ast: ast::Query, first: usize) -> Result<GatedQuery> {
        let found = gate::query(&ast, self.tokens, first)?;
        if found.functions.iter().any(|call| call.in_from && call.name == "unnest") {
            crate::rewrite::unnest(&mut ast);
        }
        crate::rewrite::asof(&mut ast);
        Ok(GatedQuery {
            ast,
            references: found.references,
            functions: found.functions,
            text: self.tokens.source(first, self.index()),
            normalised: self.tokens.normalised(first, self.index()),
            place: self.tokens.stretch(first, self.index()),
        })
    }

    fn explain(&mut self) -> Result<Statement> {
        self.need(&["EXPLAIN"])?;
        let kind = match self.word_at(0).as_deref() {
            Some("ANALYZE") => Some(ExplainKind::Analyze),
            Some("LINEAGE") => Some(ExplainKind::Lineage),
            Some("POLICY") => Some(ExplainKind::Policy),
            _ => None,
        };
        if kind.is_some() {
            self.skip(1);
        }
        let is_query = matches!(self.word_at(0).as_deref(), Some("SELECT" | "WITH" | "VALUES" | "FROM" | "TABLE"))
            || self.tokens.token(self.index()) == Some(&Token::LParen);
        if !is_query {
            let problem = self.expected("a query, `ANALYZE`, `LINEAGE` or `POLICY`");
            let near = self.word_at(0).and_then(|w| closest(&w, &["ANALYZE", "LINEAGE", "POLICY", "SELECT", "WITH"]));
            return Err(vec![match near {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem,
            }]);
        }
        Ok(Statement::Explain(kind.unwrap_or(ExplainKind::Plan), self.query()?))
    }

    fn prepare(&mut self) -> Result<Statement> {
        self.need(&["PREPARE"])?;
        let name = self.simple("a statement name")?;
        let mut parameters = vec![];
        if self.eat_token(&Token::LParen) {
            parameters.push(self.data_type()?);
            while self.eat_token(&Token::Comma) {
                parameters.push(self.data_type()?);
            }
            self.need_token(&Token::RParen)?;
        }
        self.need(&["AS"])?;
        Ok(Statement::Prepare(PrepareDef { name, parameters, query: self.query()? }))
    }

    fn execute(&mut self) -> Result<Statement> {
        self.need(&["EXECUTE"])?;
        let name = self.simple("a statement name")?;
        let mut arguments = vec![];
        if self.eat_token(&Token::LParen) {
            arguments.push(self.literal()?);
            while self.eat_token(&Token::Comma) {
                arguments.push(self.literal()?);
            }
            self.need_token(&Token::RParen)?;
        }
        self.end()?;
        Ok(Statement::Execute(ExecuteDef { name, arguments }))
    }

    fn literal(&mut self) -> Result<ast::Expr> {
        let first = self.index();
        let expr = self.parser.parse_expr().map_err(|e| vec![problem::from_parser(&e, self.tokens)])?;
        let literal = match &expr {
            ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus | ast::UnaryOperator::Plus, expr } => {
                matches!(&**expr, ast::Expr::Value(v) if matches!(v.value, ast::Value::Number(..)))
            }
            ast::Expr::Value(v) => !matches!(v.value, ast::Value::Placeholder(_)),
            ast::Expr::TypedString(_) | ast::Expr::Interval(_) => true,
            _ => false,
        };
        if literal {
            gate::check(&expr, self.tokens, first)?;
            Ok(expr)
        } else {
            Err(vec![
                Problem::new(code::SYNTAX, "arguments of `EXECUTE` are literals")
                    .help("write the value itself")
                    .label(self.since(first).label("here")),
            ])
        }
    }

    // Definitions.

    fn create(&mut self) -> Result<Statement> {
        let first = self.index();
        self.need(&["CREATE"])?;
        if self.eat(&["SOURCE"]) {
            return self.source();
        }
        if self.eat(&["FEATURE", "VIEW"]) {
            return self.feature_view();
        }
        if self.eat(&["VIEW"]) {
            return self.plain_view();
        }
        if self.eat(&["TRAINING", "SET"]) {
            return self.training_set();
        }
        let mut words = vec!["CREATE".to_string()];
        while let Some(word) = self.word_at(0) {
            let more = matches!(
                word.as_str(),
                "OR" | "REPLACE"
                    | "TEMP"
                    | "TEMPORARY"
                    | "EXTERNAL"
                    | "UNBOUNDED"
                    | "GLOBAL"
                    | "LOCAL"
                    | "UNIQUE"
                    | "MATERIALIZED"
            );
            words.push(word);
            self.skip(1);
            if !more || words.len() > 6 {
                break;
            }
        }
        let mut problem = unsupported_statement(&words.join(" "), self.since(first));
        if let Some(near) = words.get(1).and_then(|w| closest(w, &["SOURCE", "FEATURE", "VIEW", "TRAINING"])) {
            problem = problem.help(format!("did you mean `CREATE {near}`?"));
        }
        Err(vec![problem])
    }

    fn source(&mut self) -> Result<Statement> {
        let name = self.defined(None)?;
        self.need_token(&Token::LParen)?;
        let mut columns = vec![self.source_column()?];
        while self.eat_token(&Token::Comma) {
            columns.push(self.source_column()?);
        }
        self.need_token(&Token::RParen)?;
        if columns.len() > MAX_COLUMNS {
            return Err(vec![
                Problem::new(code::BOUND, format!("more than {MAX_COLUMNS} columns"))
                    .help("split the source")
                    .label(name.place.label("this source")),
            ]);
        }
        for (i, column) in columns.iter().enumerate() {
            if columns.iter().take(i).any(|c| c.name == column.name) {
                return Err(vec![twice(&format!("column `{}`", column.name), column.place)]);
            }
        }
        self.need(&["FROM"])?;
        let format = match self.word_at(0).as_deref() {
            Some("DELTA") => SourceFormat::Delta,
            Some("PARQUET") => SourceFormat::Parquet,
            Some("CSV") => SourceFormat::Csv,
            Some("JSON") => SourceFormat::Json,
            _ => {
                return Err(vec![
                    self.expected_word("DELTA`, `PARQUET`, `CSV` or `JSON", &["DELTA", "PARQUET", "CSV", "JSON"]),
                ]);
            }
        };
        self.skip(1);
        let location = self.text("a URL, or a path under the warehouse, in single quotes")?;
        if location.value.trim().is_empty() {
            return Err(vec![
                Problem::new(code::DEFINITION, "a source needs a location")
                    .help("write a URL, or a path under the warehouse")
                    .label(location.place.label("empty")),
            ]);
        }
        let key = self.key()?;
        let mut own = Own::default();
        let clauses = self.clauses(&SOURCE_CLAUSES, &mut own)?;
        self.end()?;
        for column in key_columns(&key) {
            if !columns.iter().any(|c| c.name == column.value) {
                return Err(vec![no_column(column, &name.value, columns.iter().map(|c| c.name.as_str()))]);
            }
        }
        for time in std::iter::once(&key.event_time).chain(&key.known_time) {
            if let Some(column) = columns.iter().find(|c| c.name == time.value)
                && column.data_type != types::timestamp_type()
            {
                return Err(vec![
                    Problem::new(code::DEFINITION, format!("time column `{}` is not a `TIMESTAMP`", time.value))
                        .help(format!("declare it as `{} TIMESTAMP`", time.value))
                        .label(column.place.label("declared here")),
                ]);
            }
        }
        Ok(Statement::Source(Box::new(SourceDef { name, columns, format, location, key, clauses })))
    }

    fn source_column(&mut self) -> Result<SourceColumn> {
        let name = self.column()?;
        let first = self.index();
        let data_type = self.data_type()?;
        let nullable = !self.eat(&["NOT", "NULL"]);
        if !matches!(self.tokens.token(self.index()), Some(Token::Comma | Token::RParen)) {
            return Err(vec![self.expected("`NOT NULL`, `,` or `)`")]);
        }
        let place = Place { start: name.place.start, end: self.since(first).end };
        Ok(SourceColumn { name: name.value, data_type, nullable, place })
    }

    fn key(&mut self) -> Result<Key> {
        self.need(&["ENTITY"])?;
        let entity = self.simple("an entity, such as `patient`")?;
        let columns = self.columns()?;
        self.need(&["EVENT", "TIME"])?;
        let event_time = self.column()?;
        let known_time = if self.eat(&["KNOWN", "TIME"]) { Some(self.column()?) } else { None };
        Ok(Key { entity, columns, event_time, known_time })
    }

    fn feature_view(&mut self) -> Result<Statement> {
        let name = self.defined(Some("features"))?;
        let key = self.key()?;
        let mut own = Own::default();
        let clauses = self.clauses(&VIEW_CLAUSES, &mut own)?;
        self.need_as(&VIEW_CLAUSES)?;
        let query = self.query()?;
        let Own { ttl, match_strict, incremental, definer: _ } = own;
        Ok(Statement::FeatureView(Box::new(ViewDef { name, key, ttl, match_strict, incremental, clauses, query })))
    }

    fn plain_view(&mut self) -> Result<Statement> {
        let name = self.defined(None)?;
        let mut own = Own::default();
        let clauses = self.clauses(&PLAIN_CLAUSES, &mut own)?;
        self.need_as(&PLAIN_CLAUSES)?;
        let query = self.query()?;
        if let Some(place) = own.definer
            && clauses.owner.is_none()
        {
            return Err(vec![
                Problem::new(code::DEFINITION, "a view with `DEFINER` needs an `OWNER`")
                    .help("add `OWNER id`: the view decides as that principal")
                    .label(place.label("decides as its owner")),
            ]);
        }
        let Clauses { owner, purposes: _, comment, expectations: _, renamed_from: _, renamed_columns: _ } = clauses;
        Ok(Statement::View(Box::new(PlainViewDef { name, definer: own.definer.is_some(), owner, comment, query })))
    }

    fn need_as(&mut self, allowed: &[Clause]) -> Result<()> {
        if self.eat(&["AS"]) {
            return Ok(());
        }
        Err(vec![self.unknown_clause(allowed, "`AS` and a query")])
    }

    fn unknown_clause(&self, allowed: &[Clause], otherwise: &str) -> Problem {
        let words: Vec<&str> = allowed.iter().filter_map(|c| c.words().first().copied()).chain(["AS"]).collect();
        let problem = self.expected(&format!("a clause or {otherwise}"));
        match self.word_at(0).and_then(|w| closest(&w, &words)) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => {
                let shown: Vec<String> = allowed.iter().map(|c| c.words().join(" ")).collect();
                problem.help(format!("clauses are {}", list(&shown.iter().map(String::as_str).collect::<Vec<_>>())))
            }
        }
    }

    /// Clauses in any order, each at most once but for those that add up.
    pub(crate) fn clauses(&mut self, allowed: &[Clause], own: &mut Own) -> Result<Clauses> {
        let mut out = Clauses::default();
        let mut seen: Vec<Clause> = vec![];
        loop {
            let first = self.index();
            let Some(clause) = allowed.iter().copied().find(|c| self.peek(c.words())) else { break };
            self.skip(clause.words().len());
            if !clause.repeats() && seen.contains(&clause) {
                return Err(vec![twice(&format!("clause `{}`", clause.words().join(" ")), self.since(first))]);
            }
            seen.push(clause);
            match clause {
                Clause::Owner => out.owner = Some(self.simple_path("an owner")?),
                Clause::Purpose => {
                    out.purposes.push(self.purpose()?);
                    while self.eat_token(&Token::Comma) {
                        out.purposes.push(self.purpose()?);
                    }
                }
                Clause::Comment => out.comment = Some(self.text("a text in single quotes")?.value),
                Clause::Expect => out.expectations.push(self.expectation(first)?),
                Clause::RenamedFrom => out.renamed_from = Some(self.dataset()?),
                Clause::Column => {
                    let new = self.column()?;
                    self.need(&["RENAMED", "FROM"])?;
                    out.renamed_columns.push(RenamedColumn { new, old: self.column()? });
                }
                Clause::Ttl => own.ttl = Some(self.interval()?),
                Clause::MatchStrict => own.match_strict = Some(self.since(first)),
                Clause::Incremental => {
                    let column = self.column()?;
                    self.need(&["LOOKBACK"])?;
                    let lookback = self.interval()?.value;
                    own.incremental = Some(Incremental { column, lookback, place: self.since(first) });
                }
                Clause::Definer => own.definer = Some(self.since(first)),
            }
        }
        if self.index() < self.tokens.len() && !self.peek(&["AS"]) {
            let otherwise = if allowed.contains(&Clause::Ttl) || allowed.contains(&Clause::Definer) {
                "`AS` and a query"
            } else {
                "the end of the statement"
            };
            return Err(vec![self.unknown_clause(allowed, otherwise)]);
        }
        Ok(out)
    }

    /// A principal or role: `clinic`, or quoted for anything with `/` or `-`.
    fn simple_path(&mut self, what: &str) -> Result<Placed<String>> {
        let (ident, place) = self.identifier(what)?;
        let value = plain(&ident);
        let fine = !value.is_empty() && value.len() <= 128 && !value.contains(|c: char| c.is_control() || c == '"');
        if fine {
            Ok(Placed { value, place })
        } else {
            Err(vec![
                Problem::new(code::NAME, format!("`{value}` is not {what}"))
                    .help("name a principal or role, in double quotes if it has other characters: `\"local/ann\"`")
                    .label(place.label("here")),
            ])
        }
    }

    fn purpose(&mut self) -> Result<Placed<Purpose>> {
        let Placed { value, place } = self.simple("a purpose, such as `research`")?;
        Ok(Placed { value: Purpose(value), place })
    }

    fn expectation(&mut self, first: usize) -> Result<Expectation> {
        let from = self.index();
        let mut functions = vec![];
        let unique = self.peek(&["UNIQUE"]) && self.tokens.token(self.index() + 1) == Some(&Token::LParen);
        let check = if unique {
            self.skip(1);
            Check::Unique(self.columns()?)
        } else {
            let expr = self.parser.parse_expr().map_err(|e| vec![problem::from_parser(&e, self.tokens)])?;
            functions = gate::check(&expr, self.tokens, from)?.functions;
            Check::Expr(Box::new(expr))
        };
        let text = self.tokens.source(from, self.index());
        self.need(&["ON", "VIOLATION"])?;
        let on_violation = match self.word_at(0).as_deref() {
            Some("FAIL") => OnViolation::Fail,
            Some("QUARANTINE") => OnViolation::Quarantine,
            Some("WARN") => OnViolation::Warn,
            _ => return Err(vec![self.expected_word("FAIL`, `QUARANTINE` or `WARN", &["FAIL", "QUARANTINE", "WARN"])]),
        };
        self.skip(1);
        Ok(Expectation { check, text, functions, on_violation, place: self.since(first) })
    }
}

/// Clauses that only some statements have.
#[derive(Default)]
pub(crate) struct Own {
    ttl: Option<Placed<String>>,
    match_strict: Option<Place>,
    incremental: Option<Incremental>,
    definer: Option<Place>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clause {
    Owner,
    Purpose,
    Comment,
    Expect,
    RenamedFrom,
    Column,
    Ttl,
    MatchStrict,
    Incremental,
    Definer,
}

impl Clause {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Owner => &["OWNER"],
            Self::Purpose => &["PURPOSE"],
            Self::Comment => &["COMMENT"],
            Self::Expect => &["EXPECT"],
            Self::RenamedFrom => &["RENAMED", "FROM"],
            Self::Column => &["COLUMN"],
            Self::Ttl => &["TTL"],
            Self::MatchStrict => &["MATCH", "STRICT"],
            Self::Incremental => &["INCREMENTAL", "BY"],
            Self::Definer => &["DEFINER"],
        }
    }

    fn repeats(self) -> bool {
        matches!(self, Self::Expect | Self::Column)
    }
}

const SOURCE_CLAUSES: [Clause; 6] =
    [Clause::Owner, Clause::Purpose, Clause::Comment, Clause::Expect, Clause::RenamedFrom, Clause::Column];
const VIEW_CLAUSES: [Clause; 9] = [
    Clause::Ttl,
    Clause::MatchStrict,
    Clause::Owner,
    Clause::Purpose,
    Clause::Comment,
    Clause::Expect,
    Clause::RenamedFrom,
    Clause::Column,
    Clause::Incremental,
];
pub(crate) const TRAINING_CLAUSES: [Clause; 4] = [Clause::Owner, Clause::Purpose, Clause::Comment, Clause::RenamedFrom];
const PLAIN_CLAUSES: [Clause; 3] = [Clause::Definer, Clause::Owner, Clause::Comment];

pub(crate) fn twice(what: &str, place: Place) -> Problem {
    Problem::new(code::DEFINITION, format!("{what} is given twice")).help("keep one").label(place.label("again here"))
}

fn key_columns(key: &Key) -> impl Iterator<Item = &Placed<String>> {
    key.columns.iter().chain(std::iter::once(&key.event_time)).chain(&key.known_time)
}

fn no_column<'a>(column: &Placed<String>, dataset: &DatasetName, columns: impl Iterator<Item = &'a str>) -> Problem {
    let problem = Problem::new(code::DEFINITION, format!("`{}` is not a column of `{dataset}`", column.value))
        .label(column.place.label("not declared"));
    let columns: Vec<String> = columns.map(str::to_uppercase).collect();
    let near = closest(&column.value, &columns.iter().map(String::as_str).collect::<Vec<_>>()).map(str::to_lowercase);
    match near {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help("declare it in the list of columns"),
    }
}

/// Pairs of a positive whole number and a unit.
fn is_interval(text: &str) -> bool {
    const UNITS: &[&str] = &["year", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond"];
    let words: Vec<&str> = text.split_whitespace().collect();
    !words.is_empty()
        && words.chunks(2).all(|pair| match pair {
            [number, unit] => {
                let unit = unit.to_lowercase();
                number.parse::<u32>().is_ok_and(|n| n > 0) && UNITS.contains(&unit.strip_suffix('s').unwrap_or(&unit))
            }
            _ => false,
        })
}
