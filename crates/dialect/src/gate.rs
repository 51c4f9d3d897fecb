//! The gate: every clause of a query has a reader, or the query is refused where it stands.
//!
//! DataFusion parses and silently drops a good part of SQL. So every struct of the syntax tree is taken apart here
//! WITHOUT `..`: a field that an upgrade adds does not compile until somebody has decided what it means. Enums of
//! expressions are an allow-list. Along the way the gate collects what the rest of the engine needs to know: the
//! datasets a query names (with the scopes of `WITH` names taken into account) and the functions it calls.
//!
//! Trees may be deep (text.rs bounds how deep); walks over expressions and set operations use a work list.

use crate::{
    Place,
    problem::{code, not_part},
    reference::{self, BARE_HELP, Named, Reference, Unreadable, plain},
    statement::FunctionCall,
    text::{MAX_COLUMNS, MAX_CTES, MAX_JOINS, Tokens},
    types,
};
use custody_model::{Pin, Problem};
use sqlparser::{
    ast::{self, Expr, Spanned},
    tokenizer::{Location, Token},
};
use std::collections::BTreeSet;

/// Functions that may stand in a `FROM`.
pub const TABLE_FUNCTIONS: &[&str] = &["unnest", "generate_series", "range"];

/// What the gate found in a query that passes.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) references: Vec<Reference>,
    pub(crate) functions: Vec<FunctionCall>,
}

/// Checks a query that begins at token `first`.
pub(crate) fn query(ast: &ast::Query, tokens: &Tokens, first: usize) -> Result<Found, Vec<Problem>> {
    let mut gate = Gate::new(tokens, first);
    gate.query(ast, &Scope::default());
    gate.finish()
}

/// Checks a statement over declared tables: the queries and expressions of it.
pub(crate) fn bare(ast: &ast::Statement, tokens: &Tokens) -> Result<Found, Vec<Problem>> {
    let mut gate = Gate::new(tokens, 0);
    gate.bare = true;
    gate.write(ast);
    gate.finish()
}

/// Checks an expression over one row: no subqueries.
pub(crate) fn check(ast: &Expr, tokens: &Tokens, first: usize) -> Result<Found, Vec<Problem>> {
    let mut gate = Gate::new(tokens, first);
    gate.row_only = true;
    gate.exprs([ast], &Scope::default());
    gate.finish()
}

/// `WITH` names that a `FROM` may use.
#[derive(Clone, Default)]
struct Scope {
    names: BTreeSet<String>,
}

struct Gate<'a> {
    tokens: &'a Tokens,
    /// Where carets are looked for when a node has no place of its own.
    anchor: usize,
    found: Found,
    problems: Vec<Problem>,
    joins: usize,
    ctes: usize,
    row_only: bool,
    /// Whether tables are declared by a DDL text: any name, no versions, the planner's types.
    bare: bool,
    /// Whether this is in a select list, however deep.
    in_select_list: bool,
    /// Names of windows that may be used here. DataFusion resolves them in the select list only, drops `OVER w` elsewhere,
    /// and in subqueries of a select list takes the outer select's windows.
    windows: BTreeSet<String>,
}

impl<'a> Gate<'a> {
    fn new(tokens: &'a Tokens, anchor: usize) -> Self {
        Self {
            tokens,
            anchor,
            found: Found::default(),
            problems: vec![],
            joins: 0,
            ctes: 0,
            row_only: false,
            bare: false,
            in_select_list: false,
            windows: BTreeSet::new(),
        }
    }

    fn finish(mut self) -> Result<Found, Vec<Problem>> {
        self.found.references.sort_by_key(|r| r.start);
        self.found.functions.sort_by_key(|f| f.place);
        if self.problems.is_empty() { Ok(self.found) } else { Err(self.problems) }
    }

    // Refusing.

    fn refuse(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Refuses a clause named by its words, with the caret at those words at or after the anchor.
    fn clause(&mut self, words: &[&str], help: &str) {
        let shown = words.join(" ");
        self.clause_as(&shown, words, help);
    }

    fn clause_as(&mut self, shown: &str, words: &[&str], help: &str) {
        let label = match self.tokens.find(self.anchor, words) {
            Some(place) => place.label("nothing reads this clause"),
            None => self.tokens.place(self.anchor).label("in what begins here"),
        };
        self.refuse(not_part(shown, help).label(label));
    }

    fn at(&mut self, span: sqlparser::tokenizer::Span, shown: &str, help: &str) {
        let label = if span.start.line == 0 {
            self.tokens.place(self.anchor).label("in what begins here")
        } else {
            self.tokens.place_of(span).label("nothing reads this")
        };
        self.refuse(not_part(shown, help).label(label));
    }

    fn place(&self, span: sqlparser::tokenizer::Span) -> Place {
        if span.start.line == 0 { self.tokens.place(self.anchor) } else { self.tokens.place_of(span) }
    }

    /// Where a table's name stands. sqlparser gives no place to a name in single quotes: it is looked for.
    fn name_place(&self, name: &ast::ObjectName) -> Place {
        let quoted = |token: Option<&Token>| match (token, name.0.as_slice()) {
            (Some(Token::SingleQuotedString(text)), [ast::ObjectNamePart::Identifier(one)]) => *text == one.value,
            _ => false,
        };
        match (self.anchor..self.tokens.len()).find(|i| name.span().start.line == 0 && quoted(self.tokens.token(*i))) {
            Some(index) => self.tokens.place(index),
            None => self.place(name.span()),
        }
    }

    fn bound(&mut self, message: String, help: &str, place: Place) {
        self.refuse(Problem::new(code::BOUND, message).help(help).label(place.label("here")));
    }

    /// Runs `walk` with carets looked for from `location` on.
    fn anchored(&mut self, location: Location, walk: impl FnOnce(&mut Self)) {
        let before = self.anchor;
        if location.line > 0 {
            self.anchor = self.tokens.index_at(location);
        }
        walk(self);
        self.anchor = before;
    }

    // Writes. DataFusion takes their syntax apart without `..` and refuses what it does not read.

    fn write(&mut self, statement: &ast::Statement) {
        let scope = Scope::default();
        match statement {
            ast::Statement::Query(query) => self.query(query, &scope),
            ast::Statement::CreateView(view) => self.query(&view.query, &scope),
            ast::Statement::CreateTable(table) => {
                if let Some(query) = &table.query {
                    self.query(query, &scope);
                }
            }
            ast::Statement::Insert(insert) => {
                if let Some(source) = &insert.source {
                    self.query(source, &scope);
                }
            }
            ast::Statement::Update(update) => {
                self.from(std::slice::from_ref(&update.table), &scope);
                self.exprs(update.assignments.iter().map(|a| &a.value).chain(&update.selection), &scope);
            }
            ast::Statement::Delete(delete) => {
                let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
                self.from(from, &scope);
                self.exprs(delete.selection.iter().chain(&delete.limit), &scope);
            }
            ast::Statement::Merge(merge) => {
                self.table_factor(&merge.source, &scope);
                self.exprs([&*merge.on], &scope);
                for clause in &merge.clauses {
                    self.exprs(&clause.predicate, &scope);
                    self.merge_action(&clause.action, &scope);
                }
            }
            // Refused by whoever asked for a gate.
            _ => {}
        }
    }

    fn merge_action(&mut self, action: &ast::MergeAction, scope: &Scope) {
        match action {
            ast::MergeAction::Insert(insert) => {
                match &insert.kind {
                    ast::MergeInsertKind::Values(ast::Values { explicit_row: _, value_keyword: _, rows }) => {
                        for ast::Parens { opening_token: _, content, closing_token: _ } in rows {
                            self.exprs(content, scope);
                        }
                    }
                    ast::MergeInsertKind::Row => self.clause(&["ROW"], "write `VALUES (…)`"),
                }
                if insert.insert_predicate.is_some() {
                    self.clause_as("WHERE of a MERGE's INSERT", &["WHERE"], "write `WHEN NOT MATCHED AND …`");
                }
            }
            ast::MergeAction::Update(update) => {
                self.exprs(update.assignments.iter().map(|a| &a.value), scope);
                if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                    self.clause_as("WHERE of a MERGE's UPDATE", &["WHERE"], "write `WHEN MATCHED AND …`");
                }
            }
            ast::MergeAction::Delete { delete_token: _ } => {}
        }
    }

    // Queries.

    fn query(&mut self, query: &ast::Query, outer: &Scope) {
        let ast::Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        self.anchored(query_start(query), |gate| {
            let mut scope = outer.clone();
            if let Some(with) = with {
                gate.with(with, &mut scope);
            }
            gate.set_expr(body, &scope);
            if let Some(order_by) = order_by {
                gate.order_by(order_by, &scope);
            }
            if let Some(limit) = limit_clause {
                gate.limit(limit, &scope);
            }
            if let Some(ast::Fetch { with_ties: _, percent: _, quantity: _ }) = fetch {
                gate.clause(&["FETCH"], "write `LIMIT n`");
            }
            for ast::LockClause { lock_type, of: _, nonblock: _ } in locks {
                let word = match lock_type {
                    ast::LockType::Share => "SHARE",
                    ast::LockType::Update => "UPDATE",
                };
                gate.clause(&["FOR", word], "leave it out: published versions never change, so nothing needs a lock");
            }
            if let Some(clause) = for_clause {
                let word = match clause {
                    ast::ForClause::Browse => "BROWSE",
                    ast::ForClause::Json { for_json: _, root: _, include_null_values: _, without_array_wrapper: _ } => {
                        "JSON"
                    }
                    ast::ForClause::Xml { for_xml: _, elements: _, binary_base64: _, root: _, r#type: _ } => "XML",
                };
                gate.clause(&["FOR", word], "choose the form of the result outside the statement: `--format json`");
            }
            if settings.is_some() {
                gate.clause(&["SETTINGS"], "settings belong in `custody.toml`");
            }
            if format_clause.is_some() {
                gate.clause(&["FORMAT"], "choose the form of the result outside the statement: `--format json`");
            }
            if !pipe_operators.is_empty() {
                gate.clause(&["|>"], "write the steps as `WITH a AS (…), b AS (SELECT … FROM a) SELECT …`");
            }
        });
    }

    fn with(&mut self, with: &ast::With, scope: &mut Scope) {
        let ast::With { with_token: _, recursive, cte_tables } = with;
        let mut own = BTreeSet::new();
        for ast::Cte { alias, query, from, materialized, closing_paren_token: _ } in cte_tables {
            self.ctes += 1;
            if self.ctes == MAX_CTES + 1 {
                let place = self.place(alias.name.span);
                self.bound(
                    format!("more than {MAX_CTES} `WITH` names in a statement"),
                    "publish some of them as feature views",
                    place,
                );
            }
            let name = plain(&alias.name);
            if alias.name.quote_style.is_some() && !is_simple(&name) {
                let place = self.place(alias.name.span);
                self.refuse(
                    Problem::new(
                        code::NAME,
                        format!("`WITH` name `{name}` has characters other than lower-case letters, digits and `_`"),
                    )
                    .help("choose a plain name")
                    .label(place.label("here")),
                );
            }
            if !own.insert(name.clone()) {
                let place = self.place(alias.name.span);
                self.refuse(
                    Problem::new(code::NAME, format!("`WITH` name `{name}` is defined twice"))
                        .help("choose another name")
                        .label(place.label("defined again here")),
                );
            }
            self.alias(Some(alias));
            self.anchored(alias.name.span.start, |gate| {
                if from.is_some() {
                    gate.clause(&["FROM"], "leave it out");
                }
                match materialized {
                    None => {}
                    Some(ast::CteAsMaterialized::Materialized) => {
                        gate.clause(&["MATERIALIZED"], "leave it out; the optimizer decides");
                    }
                    Some(ast::CteAsMaterialized::NotMaterialized) => {
                        gate.clause(&["NOT", "MATERIALIZED"], "leave it out; the optimizer decides");
                    }
                }
            });
            if *recursive {
                self.recursive(query);
            }
            // Its own name is visible inside only if recursive, and then shadows an outer one; later names never are.
            let mut inside = scope.clone();
            if *recursive {
                inside.names.insert(name.clone());
            }
            self.query(query, &inside);
            scope.names.insert(name);
        }
    }

    /// DataFusion takes the two sides of a recursive union and drops what stands around them.
    fn recursive(&mut self, query: &ast::Query) {
        let is_union = matches!(&*query.body, ast::SetExpr::SetOperation { op: ast::SetOperator::Union, .. });
        if !is_union {
            return;
        }
        self.anchored(query_start(query), |gate| {
            if query.with.is_some() {
                gate.clause_as("WITH inside a recursive query", &["WITH"], "define the name before the recursive one");
            }
            if query.order_by.is_some() {
                gate.clause_as("ORDER BY of a recursive query", &["ORDER", "BY"], "order the query that reads it");
            }
            if query.limit_clause.is_some() {
                let help = "end the recursion with a condition in `WHERE`; limit the query that reads it";
                let word = if gate.tokens.find(gate.anchor, &["LIMIT"]).is_some() { "LIMIT" } else { "OFFSET" };
                gate.clause_as(&format!("{word} of a recursive query"), &[word], help);
            }
        });
    }

    fn set_expr(&mut self, root: &ast::SetExpr, scope: &Scope) {
        let mut rest = vec![root];
        while let Some(expr) = rest.pop() {
            match expr {
                ast::SetExpr::Select(select) => self.select(select, scope),
                ast::SetExpr::Query(query) => self.query(query, scope),
                ast::SetExpr::SetOperation { left, op, set_quantifier, right } => {
                    rest.push(right);
                    rest.push(left);
                    if *op == ast::SetOperator::Minus {
                        self.clause(&["MINUS"], "write `EXCEPT`");
                    }
                    match set_quantifier {
                        ast::SetQuantifier::All
                        | ast::SetQuantifier::Distinct
                        | ast::SetQuantifier::ByName
                        | ast::SetQuantifier::AllByName
                        | ast::SetQuantifier::DistinctByName
                        | ast::SetQuantifier::None => {}
                    }
                }
                ast::SetExpr::Values(ast::Values { explicit_row: _, value_keyword: _, rows }) => {
                    for ast::Parens { opening_token: _, content, closing_token: _ } in rows {
                        self.exprs(content, scope);
                    }
                }
                ast::SetExpr::Insert(_) => self.statement("INSERT"),
                ast::SetExpr::Update(_) => self.statement("UPDATE"),
                ast::SetExpr::Delete(_) => self.statement("DELETE"),
                ast::SetExpr::Merge(_) => self.statement("MERGE"),
                ast::SetExpr::Table(table) => {
                    let ast::Table { table_name: _, schema_name: _ } = &**table;
                    self.clause(&["TABLE"], "write `SELECT * FROM …`");
                }
            }
        }
    }

    fn statement(&mut self, word: &str) {
        let place = self.tokens.find(0, &[word]).unwrap_or_else(|| self.tokens.whole());
        self.refuse(crate::parse::unsupported_statement(word, place));
    }

    fn order_by(&mut self, order_by: &ast::OrderBy, scope: &Scope) {
        let ast::OrderBy { kind, interpolate } = order_by;
        match kind {
            ast::OrderByKind::All(ast::OrderByOptions { asc: _, nulls_first: _ }) => {
                self.clause(&["ORDER", "BY", "ALL"], "name the columns");
            }
            ast::OrderByKind::Expressions(exprs) => self.sorts(exprs, scope),
        }
        if let Some(ast::Interpolate { exprs: _ }) = interpolate {
            self.clause(&["INTERPOLATE"], "join with `generate_series` and fill with `coalesce`");
        }
    }

    fn sorts(&mut self, sorts: &[ast::OrderByExpr], scope: &Scope) {
        for ast::OrderByExpr { expr, options: ast::OrderByOptions { asc: _, nulls_first: _ }, with_fill } in sorts {
            self.exprs([expr], scope);
            if let Some(ast::WithFill { from: _, to: _, step: _ }) = with_fill {
                self.clause(&["WITH", "FILL"], "join with `generate_series`");
            }
        }
    }

    fn limit(&mut self, limit: &ast::LimitClause, scope: &Scope) {
        match limit {
            ast::LimitClause::LimitOffset { limit, offset, limit_by } => {
                self.exprs(limit, scope);
                if let Some(ast::Offset { value, rows: _ }) = offset {
                    self.exprs([value], scope);
                }
                if !limit_by.is_empty() {
                    self.clause_as(
                        "LIMIT … BY",
                        &["LIMIT"],
                        "keep rows with `row_number() OVER (PARTITION BY …) <= n` in `QUALIFY`",
                    );
                }
            }
            ast::LimitClause::OffsetCommaLimit { offset: _, limit: _ } => {
                self.clause_as("LIMIT m, n", &["LIMIT"], "write `LIMIT n OFFSET m`");
            }
        }
    }

    fn select(&mut self, select: &ast::Select, scope: &Scope) {
        self.anchored(select.select_token.0.span.start, |gate| gate.select_here(select, scope));
    }

    fn select_here(&mut self, select: &ast::Select, scope: &Scope) {
        let ast::Select {
            select_token: _,
            optimizer_hints,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        if !optimizer_hints.is_empty() {
            self.clause_as("an optimizer hint", &["SELECT"], "leave the hint out");
        }
        match distinct {
            None | Some(ast::Distinct::All | ast::Distinct::Distinct) => {}
            Some(ast::Distinct::On(exprs)) => self.exprs(exprs, scope),
        }
        if let Some(modifiers) = select_modifiers {
            self.modifiers(modifiers);
        }
        if let Some(ast::Top { with_ties: _, percent: _, quantity: _ }) = top {
            self.clause(&["TOP"], "write `LIMIT n`");
        }
        self.select_list(projection, named_window, scope);
        if exclude.is_some() {
            self.clause(&["EXCLUDE"], "write it directly after the star: `* EXCLUDE (a, b)`");
        }
        if let Some(ast::SelectInto { temporary: _, unlogged: _, table: _, name: _ }) = into {
            self.clause_as(
                "SELECT INTO",
                &["INTO"],
                "declare the result with `CREATE FEATURE VIEW … AS SELECT …` in a project file",
            );
        }
        self.from(from, scope);
        for ast::LateralView { lateral_view: _, lateral_view_name: _, lateral_col_alias: _, outer: _ } in lateral_views
        {
            self.clause(&["LATERAL", "VIEW"], "write `CROSS JOIN unnest(…)`");
        }
        if prewhere.is_some() {
            self.clause(&["PREWHERE"], "write the condition in `WHERE`; the engine pushes it down");
        }
        self.exprs(selection, scope);
        for clause in connect_by {
            match clause {
                ast::ConnectByKind::ConnectBy { connect_token: _, nocycle: _, relationships: _ } => {
                    self.clause(&["CONNECT", "BY"], "write `WITH RECURSIVE`");
                }
                ast::ConnectByKind::StartWith { start_token: _, condition: _ } => {
                    self.clause(&["START", "WITH"], "write `WITH RECURSIVE`");
                }
            }
        }
        self.group_by(group_by, scope);
        if !cluster_by.is_empty() {
            self.clause(&["CLUSTER", "BY"], "leave it out; published tables are sorted by key and time");
        }
        if !distribute_by.is_empty() {
            self.clause(&["DISTRIBUTE", "BY"], "leave it out; the engine distributes rows");
        }
        if !sort_by.is_empty() {
            self.clause(&["SORT", "BY"], "write `ORDER BY`");
        }
        self.exprs(having, scope);
        for ast::NamedWindowDefinition(_, window) in named_window {
            match window {
                ast::NamedWindowExpr::NamedWindow(name) => {
                    self.at(name.span, "a window that is another window", "repeat the window's clauses");
                }
                ast::NamedWindowExpr::WindowSpec(spec) => self.window(spec, scope),
            }
        }
        self.exprs(qualify, scope);
        match value_table_mode {
            None => {}
            Some(ast::ValueTableMode::AsStruct | ast::ValueTableMode::DistinctAsStruct) => {
                self.clause(&["AS", "STRUCT"], "write `named_struct('a', a, …)`");
            }
            Some(ast::ValueTableMode::AsValue | ast::ValueTableMode::DistinctAsValue) => {
                self.clause(&["AS", "VALUE"], "select the value itself");
            }
        }
        match flavor {
            ast::SelectFlavor::Standard => {}
            ast::SelectFlavor::FromFirst | ast::SelectFlavor::FromFirstNoSelect => {
                self.clause_as("FROM before SELECT", &["FROM"], "write `SELECT … FROM …`");
            }
        }
    }

    fn modifiers(&mut self, modifiers: &ast::SelectModifiers) {
        let ast::SelectModifiers {
            high_priority,
            straight_join,
            sql_small_result,
            sql_big_result,
            sql_buffer_result,
            sql_no_cache,
            sql_calc_found_rows,
        } = modifiers;
        for (set, word) in [
            (high_priority, "HIGH_PRIORITY"),
            (straight_join, "STRAIGHT_JOIN"),
            (sql_small_result, "SQL_SMALL_RESULT"),
            (sql_big_result, "SQL_BIG_RESULT"),
            (sql_buffer_result, "SQL_BUFFER_RESULT"),
            (sql_no_cache, "SQL_NO_CACHE"),
            (sql_calc_found_rows, "SQL_CALC_FOUND_ROWS"),
        ] {
            if *set {
                self.clause(&[word], "leave it out");
            }
        }
    }

    fn select_list(&mut self, items: &[ast::SelectItem], windows: &[ast::NamedWindowDefinition], scope: &Scope) {
        let mut names = BTreeSet::new();
        for ast::NamedWindowDefinition(ident, _) in windows {
            if !names.insert(plain(ident)) {
                let place = self.place(ident.span);
                self.refuse(
                    Problem::new(code::NAME, format!("window `{}` is defined twice", plain(ident)))
                        .help("choose another name")
                        .label(place.label("defined again here")),
                );
            }
        }
        let outside = self.in_select_list;
        self.windows = if outside { BTreeSet::new() } else { names };
        self.in_select_list = true;
        self.columns(items, scope);
        self.in_select_list = outside;
        self.windows = BTreeSet::new();
    }

    fn named_window(&mut self, ident: &ast::Ident) {
        let name = plain(ident);
        if !self.windows.contains(&name) {
            let place = self.place(ident.span);
            self.refuse(
                Problem::new(code::CLAUSE, format!("window `{name}` cannot be used here"))
                    .help(
                        "a window is named in the select list of the query that defines it; elsewhere write `OVER (…)`",
                    )
                    .label(place.label("here")),
            );
        }
    }

    fn columns(&mut self, items: &[ast::SelectItem], scope: &Scope) {
        if items.len() > MAX_COLUMNS {
            let place = self.tokens.place(self.anchor);
            self.bound(format!("more than {MAX_COLUMNS} columns"), "split the view", place);
        }
        for item in items {
            match item {
                ast::SelectItem::UnnamedExpr(expr) => self.exprs([expr], scope),
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    self.alias_name(alias);
                    self.exprs([expr], scope);
                }
                ast::SelectItem::ExprWithAliases { expr, aliases: _ } => {
                    self.at(expr.span(), "a list of aliases", "give each column its own alias");
                }
                ast::SelectItem::QualifiedWildcard(kind, options) => {
                    match kind {
                        ast::SelectItemQualifiedWildcardKind::ObjectName(_) => {}
                        ast::SelectItemQualifiedWildcardKind::Expr(expr) => {
                            self.at(expr.span(), "a star after an expression", "name the fields");
                        }
                    }
                    self.wildcard(options);
                }
                ast::SelectItem::Wildcard(options) => self.wildcard(options),
            }
        }
    }

    fn wildcard(&mut self, options: &ast::WildcardAdditionalOptions) {
        let ast::WildcardAdditionalOptions {
            wildcard_token,
            opt_ilike,
            opt_exclude,
            opt_except,
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        match opt_exclude {
            None | Some(ast::ExcludeSelectItem::Single(_) | ast::ExcludeSelectItem::Multiple(_)) => {}
        }
        let help = "write `* EXCLUDE (a)`, then the columns that differ";
        self.anchored(wildcard_token.0.span.start, |gate| {
            if opt_ilike.is_some() {
                gate.clause(&["ILIKE"], help);
            }
            if opt_except.is_some() {
                gate.clause(&["EXCEPT"], "write `* EXCLUDE (a, b)`");
            }
            if opt_replace.is_some() {
                gate.clause(&["REPLACE"], help);
            }
            if opt_rename.is_some() {
                gate.clause(&["RENAME"], help);
            }
            if opt_alias.is_some() {
                gate.clause_as("an alias of `*`", &["AS"], "name the columns");
            }
        });
    }

    fn group_by(&mut self, group_by: &ast::GroupByExpr, scope: &Scope) {
        let modifiers = match group_by {
            ast::GroupByExpr::All(modifiers) => modifiers,
            ast::GroupByExpr::Expressions(exprs, modifiers) => {
                self.exprs(exprs, scope);
                modifiers
            }
        };
        for modifier in modifiers {
            match modifier {
                ast::GroupByWithModifier::Rollup => self.clause(&["WITH", "ROLLUP"], "write `GROUP BY ROLLUP (b)`"),
                ast::GroupByWithModifier::Cube => self.clause(&["WITH", "CUBE"], "write `GROUP BY CUBE (b)`"),
                ast::GroupByWithModifier::Totals => self.clause(&["WITH", "TOTALS"], "write `GROUP BY ROLLUP (b)`"),
                ast::GroupByWithModifier::GroupingSets(_) => {
                    self.clause_as(
                        "GROUPING SETS after GROUP BY",
                        &["GROUPING", "SETS"],
                        "write `GROUP BY GROUPING SETS (…)`",
                    );
                }
            }
        }
    }

    fn window(&mut self, spec: &ast::WindowSpec, scope: &Scope) {
        let ast::WindowSpec { window_name, partition_by, order_by, window_frame } = spec;
        if let Some(name) = window_name {
            self.at(name.span, "a window built on a named window", "repeat the window's clauses");
        }
        self.exprs(partition_by, scope);
        self.sorts(order_by, scope);
        if let Some(ast::WindowFrame { units: _, start_bound, end_bound }) = window_frame {
            for bound in std::iter::once(start_bound).chain(end_bound) {
                match bound {
                    ast::WindowFrameBound::CurrentRow => {}
                    ast::WindowFrameBound::Preceding(expr) | ast::WindowFrameBound::Following(expr) => {
                        self.exprs(expr.as_deref(), scope);
                    }
                }
            }
        }
    }

    // FROM.

    fn from(&mut self, from: &[ast::TableWithJoins], scope: &Scope) {
        self.join_count(from.len().saturating_sub(1));
        for table in from {
            self.table_with_joins(table, scope);
        }
    }

    fn join_count(&mut self, more: usize) {
        let before = self.joins;
        self.joins += more;
        if before <= MAX_JOINS && self.joins > MAX_JOINS {
            let place = self.tokens.place(self.anchor);
            self.bound(
                format!("more than {MAX_JOINS} joins in a statement"),
                "publish a part of it as a feature view",
                place,
            );
        }
    }

    fn table_with_joins(&mut self, table: &ast::TableWithJoins, scope: &Scope) {
        let ast::TableWithJoins { relation, joins } = table;
        self.join_count(joins.len());
        self.table_factor(relation, scope);
        for ast::Join { relation, global, join_operator } in joins {
            if *global {
                self.clause(&["GLOBAL"], "leave it out");
            }
            let lateral = matches!(
                relation,
                ast::TableFactor::Derived { lateral: true, .. } | ast::TableFactor::Function { lateral: true, .. }
            );
            if lateral && matches!(join_operator, ast::JoinOperator::AsOf { .. }) {
                self.asof_refused(
                    "`ASOF JOIN` does not take `LATERAL`",
                    "leave `LATERAL` out: what is matched stands on its own, and `ON` and `MATCH_CONDITION` relate it",
                );
            }
            self.table_factor(relation, scope);
            self.join_operator(join_operator, scope);
        }
    }

    fn join_operator(&mut self, operator: &ast::JoinOperator, scope: &Scope) {
        use ast::JoinOperator as Op;
        match operator {
            Op::Join(constraint)
            | Op::Inner(constraint)
            | Op::Left(constraint)
            | Op::LeftOuter(constraint)
            | Op::Right(constraint)
            | Op::RightOuter(constraint)
            | Op::FullOuter(constraint)
            | Op::LeftSemi(constraint)
            | Op::RightSemi(constraint)
            | Op::LeftAnti(constraint)
            | Op::RightAnti(constraint) => match constraint {
                ast::JoinConstraint::On(expr) => self.exprs([expr], scope),
                ast::JoinConstraint::Using(_) | ast::JoinConstraint::Natural => {}
                ast::JoinConstraint::None => {
                    let place =
                        self.tokens.find(self.anchor, &["JOIN"]).unwrap_or_else(|| self.tokens.place(self.anchor));
                    self.refuse(
                        Problem::new(code::CLAUSE, "`JOIN` has no condition")
                            .help("add `ON …` or `USING (…)`, or write `CROSS JOIN`")
                            .label(place.label("joins every row with every row")),
                    );
                }
            },
            Op::CrossJoin(ast::JoinConstraint::None) => {}
            Op::CrossJoin(_) => {
                self.clause_as("CROSS JOIN with a condition", &["CROSS", "JOIN"], "write `JOIN … ON …`")
            }
            Op::Semi(_) => self.clause(&["SEMI", "JOIN"], "write `LEFT SEMI JOIN`, or `WHERE EXISTS (…)`"),
            Op::Anti(_) => self.clause(&["ANTI", "JOIN"], "write `LEFT ANTI JOIN`, or `WHERE NOT EXISTS (…)`"),
            Op::CrossApply => self.clause(&["CROSS", "APPLY"], "write `CROSS JOIN LATERAL (…)`"),
            Op::OuterApply => self.clause(&["OUTER", "APPLY"], "write `LEFT JOIN LATERAL (…) ON true`"),
            Op::AsOf { match_condition, constraint } => match constraint {
                ast::JoinConstraint::On(expr) => self.exprs([match_condition, expr], scope),
                ast::JoinConstraint::Using(_) | ast::JoinConstraint::Natural => {
                    self.asof_refused("`ASOF JOIN` does not take `USING`", "write `ON t.id = d.id`");
                }
                ast::JoinConstraint::None => self
                    .asof_refused("`ASOF JOIN` has no key", "add `ON t.id = d.id`: rows are matched within one entity"),
            },
            Op::StraightJoin(_) => self.clause(&["STRAIGHT_JOIN"], "write `JOIN`"),
            Op::ArrayJoin | Op::LeftArrayJoin | Op::InnerArrayJoin => {
                self.clause(&["ARRAY", "JOIN"], "write `CROSS JOIN unnest(…)`");
            }
        }
    }

    fn asof_refused(&mut self, message: &str, help: &str) {
        let place = self.tokens.find(self.anchor, &["ASOF", "JOIN"]).unwrap_or_else(|| self.tokens.place(self.anchor));
        self.refuse(Problem::new(code::CLAUSE, message).help(help).label(place.label("here")));
    }

    fn table_factor(&mut self, factor: &ast::TableFactor, scope: &Scope) {
        use ast::TableFactor as Factor;
        match factor {
            Factor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => self.anchored(name.span().start, |gate| {
                if !with_hints.is_empty() {
                    gate.clause_as("a table hint", &["WITH"], "leave the hint out");
                }
                if *with_ordinality {
                    gate.clause(&["WITH", "ORDINALITY"], "number the rows with `row_number() OVER (ORDER BY …)`");
                }
                if !partitions.is_empty() {
                    gate.clause(&["PARTITION"], "write a condition in `WHERE`");
                }
                if json_path.is_some() {
                    gate.clause_as("a path after a table name", &["["], "select the field in the select list");
                }
                if let Some(sample) = sample {
                    gate.sample(sample);
                }
                for ast::TableIndexHints { hint_type, index_type: _, for_clause: _, index_names: _ } in index_hints {
                    let word = match hint_type {
                        ast::TableIndexHintType::Use => "USE",
                        ast::TableIndexHintType::Ignore => "IGNORE",
                        ast::TableIndexHintType::Force => "FORCE",
                    };
                    gate.clause_as("an index hint", &[word], "leave the hint out");
                }
                gate.alias(alias.as_ref());
                gate.table(name, version.as_ref(), args.as_ref(), scope);
            }),
            Factor::Derived { lateral: _, subquery, alias, sample } => {
                if let Some(sample) = sample {
                    self.anchored(query_start(subquery), |gate| gate.sample(sample));
                }
                self.alias(alias.as_ref());
                self.subquery(subquery, scope);
            }
            Factor::UNNEST { alias, array_exprs, with_offset, with_offset_alias, with_ordinality } => {
                if *with_offset || with_offset_alias.is_some() {
                    self.clause(&["WITH", "OFFSET"], "number the rows with `row_number() OVER (ORDER BY …)`");
                }
                if *with_ordinality {
                    self.clause(&["WITH", "ORDINALITY"], "number the rows with `row_number() OVER (ORDER BY …)`");
                }
                self.alias(alias.as_ref());
                self.exprs(array_exprs, scope);
            }
            Factor::Function { lateral: _, name, args, with_ordinality, alias } => {
                self.anchored(name.span().start, |gate| {
                    if *with_ordinality {
                        gate.clause(&["WITH", "ORDINALITY"], "number the rows with `row_number() OVER (ORDER BY …)`");
                    }
                    gate.alias(alias.as_ref());
                    gate.table_function(name, args, scope);
                });
            }
            Factor::NestedJoin { table_with_joins, alias } => {
                self.alias(alias.as_ref());
                self.table_with_joins(table_with_joins, scope);
            }
            Factor::TableFunction { expr, alias: _ } => {
                self.anchored(expr.span().start, |gate| {
                    gate.clause_as("TABLE (…)", &["TABLE"], "write the function itself in `FROM`");
                });
            }
            Factor::JsonTable { json_expr, json_path: _, columns: _, alias: _ } => {
                self.at(json_expr.span(), "JSON_TABLE", "declare the source with columns");
            }
            Factor::OpenJsonTable { json_expr, json_path: _, columns: _, alias: _ } => {
                self.at(json_expr.span(), "OPENJSON", "declare the source with columns");
            }
            Factor::Pivot {
                table: _,
                aggregate_functions: _,
                value_column: _,
                value_source: _,
                default_on_null: _,
                alias: _,
            } => self.clause(&["PIVOT"], "write `max(value) FILTER (WHERE name = 'a') AS a` with `GROUP BY`"),
            Factor::Unpivot { table: _, value: _, name: _, columns: _, null_inclusion: _, alias: _ } => {
                self.clause(&["UNPIVOT"], "write one `SELECT` for each column, with `UNION ALL`");
            }
            Factor::MatchRecognize {
                table: _,
                partition_by: _,
                order_by: _,
                measures: _,
                rows_per_match: _,
                after_match_skip: _,
                pattern: _,
                symbols: _,
                alias: _,
            } => self.clause(&["MATCH_RECOGNIZE"], "use window functions"),
            Factor::XmlTable { namespaces: _, row_expression, passing: _, columns: _, alias: _ } => {
                self.at(row_expression.span(), "XMLTABLE", "declare the source with columns");
            }
            Factor::SemanticView { name, dimensions: _, metrics: _, facts: _, where_clause: _, alias: _ } => {
                self.at(name.span(), "SEMANTIC_VIEW", "select from a feature view");
            }
        }
    }

    fn sample(&mut self, sample: &ast::TableSampleKind) {
        let (ast::TableSampleKind::BeforeTableAlias(sample) | ast::TableSampleKind::AfterTableAlias(sample)) = sample;
        let ast::TableSample { modifier, name: _, quantity: _, seed: _, bucket: _, offset: _ } = &**sample;
        let word = match modifier {
            ast::TableSampleModifier::Sample => "SAMPLE",
            ast::TableSampleModifier::TableSample => "TABLESAMPLE",
        };
        self.clause(&[word], "a sample that can be reproduced is a part of a training set: `SPLIT BY HASH (…)`");
    }

    fn alias(&mut self, alias: Option<&ast::TableAlias>) {
        let Some(ast::TableAlias { explicit, name, columns, at }) = alias else { return };
        let word = name.value.to_uppercase();
        if !explicit && name.quote_style.is_none() && matches!(word.as_str(), "FINAL" | "ONLY") {
            self.at(name.span, &word, "leave it out; for an alias of this name write `AS` before it");
        }
        self.alias_name(name);
        for ast::TableAliasColumnDef { name, data_type } in columns {
            self.alias_name(name);
            if data_type.is_some() {
                self.at(name.span, "a type in a table alias", "cast the column in the select list");
            }
        }
        if let Some(at) = at {
            self.at(at.span, "an alias with `AT`", "number the rows with `row_number() OVER (ORDER BY …)`");
        }
    }

    fn alias_name(&mut self, name: &ast::Ident) {
        if name.quote_style == Some('\'') {
            let label = match self.tokens.find_text(self.anchor, &name.value) {
                Some(place) => place.label("nothing reads this"),
                None => self.tokens.place(self.anchor).label("in what begins here"),
            };
            let help = "write names in double quotes, texts in single quotes";
            self.refuse(not_part("a name in single quotes", help).label(label));
        }
    }

    fn table(
        &mut self,
        name: &ast::ObjectName,
        version: Option<&ast::TableVersion>,
        args: Option<&ast::TableFunctionArgs>,
        scope: &Scope,
    ) {
        let pin = match reference::pin(version) {
            Some(Ok(pin)) => pin,
            Some(Err(Unreadable { message, help })) => {
                let place = self.pin_place(name);
                self.refuse(Problem::new(code::CLAUSE, message).help(help).label(place.label("here")));
                return;
            }
            None => {
                self.version(version);
                return;
            }
        };
        let place = self.name_place(name);
        if let Some(ast::TableFunctionArgs { args, settings }) = args {
            if settings.is_some() {
                self.clause(&["SETTINGS"], "leave it out");
            }
            if pin != Pin::Newest {
                let place = self.pin_place(name);
                self.refuse(
                    Problem::new(code::CLAUSE, format!("table function `{name}` has no versions"))
                        .help("leave the version out")
                        .label(place.label("here")),
                );
            }
            self.table_function(name, args, scope);
            return;
        }
        if self.bare {
            if pin != Pin::Newest {
                let place = self.pin_place(name);
                self.refuse(
                    Problem::new(code::CLAUSE, format!("`{name}` is declared by a DDL text and has no versions"))
                        .help("leave the version out")
                        .label(place.label("here")),
                );
            }
            return;
        }
        match reference::named(name) {
            Ok(Named::Dataset(name)) => {
                self.found.references.push(Reference { name, pin, start: place.start, end: place.end });
            }
            Ok(Named::Bare(bare)) if scope.names.contains(&bare) => {
                if pin != Pin::Newest {
                    let place = self.pin_place(name);
                    self.refuse(
                        Problem::new(code::CLAUSE, format!("`{bare}` is defined by `WITH` and has no versions"))
                            .help("pin the datasets inside it")
                            .label(place.label("here")),
                    );
                }
            }
            Ok(Named::Bare(bare)) => self.refuse(
                Problem::new(code::NAME, format!("`{bare}` names no dataset"))
                    .help(BARE_HELP)
                    .label(place.label("one part only")),
            ),
            Err(Unreadable { message, help }) => {
                self.refuse(Problem::new(code::NAME, message).help(help).label(place.label("here")));
            }
        }
    }

    /// The tokens of the version clause that follows a name.
    fn pin_place(&self, name: &ast::ObjectName) -> Place {
        let after = self.tokens.index_at(name.span().end);
        self.tokens.place(after)
    }

    fn version(&mut self, version: Option<&ast::TableVersion>) {
        let help = "write `TIMESTAMP AS OF '2026-01-31T12:00:00Z'` or `VERSION 5`";
        match version {
            Some(ast::TableVersion::ForSystemTimeAsOf(_)) => self.clause(&["FOR", "SYSTEM_TIME", "AS", "OF"], help),
            Some(ast::TableVersion::Changes { changes: _, at: _, end: _ }) => {
                self.clause(&["CHANGES"], "compare two versions: `custody diff a@4..@5`");
            }
            Some(ast::TableVersion::Function(call)) => {
                let word = match call {
                    Expr::Function(f) => f.name.to_string().to_uppercase(),
                    _ => "AT".to_string(),
                };
                self.clause(&[&word], help);
            }
            Some(ast::TableVersion::TimestampAsOf(_) | ast::TableVersion::VersionAsOf(_)) | None => {}
        }
    }

    fn table_function(&mut self, name: &ast::ObjectName, args: &[ast::FunctionArg], scope: &Scope) {
        let place = self.place(name.span());
        match reference::named(name) {
            Ok(Named::Bare(bare)) if TABLE_FUNCTIONS.contains(&bare.as_str()) => {
                self.found.functions.push(FunctionCall { name: bare, place, in_from: true, modifiers: vec![] });
            }
            Ok(Named::Bare(bare)) => self.refuse(
                Problem::new(code::CLAUSE, format!("table function `{bare}` is not part of the dialect"))
                    .help(format!("table functions are {}", list(TABLE_FUNCTIONS)))
                    .label(place.label("here")),
            ),
            Ok(Named::Dataset(_)) | Err(_) => self.refuse(
                Problem::new(code::CLAUSE, format!("table function `{name}` is not part of the dialect"))
                    .help(format!("table functions are {}", list(TABLE_FUNCTIONS)))
                    .label(place.label("here")),
            ),
        }
        for arg in args {
            match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => self.exprs([expr], scope),
                ast::FunctionArg::Unnamed(
                    ast::FunctionArgExpr::QualifiedWildcard(_)
                    | ast::FunctionArgExpr::Wildcard
                    | ast::FunctionArgExpr::WildcardWithOptions(_),
                ) => self.clause_as("a star as a table function's argument", &["("], "name the arguments' values"),
                ast::FunctionArg::Named { name, arg: _, operator: _ } => {
                    self.at(name.span, "a named argument of a table function", "give arguments by position");
                }
                ast::FunctionArg::ExprNamed { name, arg: _, operator: _ } => {
                    self.at(name.span(), "a named argument of a table function", "give arguments by position");
                }
            }
        }
    }

    // Expressions.

    fn subquery(&mut self, query: &ast::Query, scope: &Scope) {
        if self.row_only {
            let place = self.place(query.span());
            self.refuse(
                Problem::new(code::CLAUSE, "an expectation looks at one row and has no subqueries")
                    .help("compute the value in the view's query and check it here")
                    .label(place.label("here")),
            );
        } else {
            let outer = std::mem::take(&mut self.windows);
            self.query(query, scope);
            self.windows = outer;
        }
    }

    fn data_type(&mut self, data_type: &ast::DataType, span: sqlparser::tokenizer::Span) {
        if self.bare {
            return;
        }
        if let Err(refused) = types::arrow_type(data_type) {
            let place = self.place(span);
            self.refuse(refused.problem().label(place.label("here")));
        }
    }

    fn exprs<'e>(&mut self, roots: impl IntoIterator<Item = &'e Expr>, scope: &Scope) {
        let mut rest: Vec<&Expr> = roots.into_iter().collect();
        rest.reverse();
        while let Some(expr) = rest.pop() {
            let from = rest.len();
            self.expr(expr, scope, &mut rest);
            if let Some(children) = rest.get_mut(from..) {
                children.reverse();
            }
        }
    }

    /// Checks one node; its children go to `rest`.
    fn expr<'e>(&mut self, expr: &'e Expr, scope: &Scope, rest: &mut Vec<&'e Expr>) {
        match expr {
            Expr::Identifier(ast::Ident { value: _, quote_style: _, span: _ }) | Expr::CompoundIdentifier(_) => {}
            Expr::CompoundFieldAccess { root, access_chain } => {
                rest.push(root);
                for access in access_chain {
                    match access {
                        ast::AccessExpr::Dot(field) => rest.push(field),
                        ast::AccessExpr::Subscript(ast::Subscript::Index { index }) => rest.push(index),
                        ast::AccessExpr::Subscript(ast::Subscript::Slice { lower_bound, upper_bound, stride }) => {
                            rest.extend(lower_bound.iter().chain(upper_bound).chain(stride));
                        }
                    }
                }
            }
            Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner)
            | Expr::Nested(inner) => rest.push(inner),
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                rest.extend([&**left, &**right])
            }
            Expr::InList { expr, list, negated: _ } => {
                rest.push(expr);
                rest.extend(list);
            }
            Expr::InSubquery { expr, subquery, negated: _ } => {
                rest.push(expr);
                self.subquery(subquery, scope);
            }
            Expr::Between { expr, negated: _, low, high } => rest.extend([&**expr, &**low, &**high]),
            Expr::BinaryOp { left, op, right } => {
                rest.extend([&**left, &**right]);
                self.binary(op, right);
            }
            Expr::Like { negated: _, any, expr, pattern, escape_char }
            | Expr::ILike { negated: _, any, expr, pattern, escape_char } => {
                rest.extend([&**expr, &**pattern]);
                if *any {
                    self.at(pattern.span(), "LIKE ANY", "write one `LIKE` for each pattern, with `OR`");
                }
                self.escape(escape_char.as_ref());
            }
            Expr::SimilarTo { negated: _, expr, pattern, escape_char } => {
                rest.extend([&**expr, &**pattern]);
                self.escape(escape_char.as_ref());
            }
            Expr::AnyOp { left, compare_op: _, right, is_some: _ } | Expr::AllOp { left, compare_op: _, right } => {
                rest.extend([&**left, &**right]);
            }
            Expr::UnaryOp { op, expr } => {
                rest.push(expr);
                match op {
                    ast::UnaryOperator::Plus | ast::UnaryOperator::Minus | ast::UnaryOperator::Not => {}
                    _ => self.at(expr.span(), &format!("operator `{op}`"), "write a function"),
                }
            }
            Expr::Cast { kind: _, expr: inner, data_type, array, format } => {
                rest.push(inner);
                if *array {
                    self.at(inner.span(), "CAST … ARRAY", "write `CAST(x AS type[])`");
                }
                if format.is_some() {
                    self.at(inner.span(), "CAST … FORMAT", "write `to_timestamp` or `to_char` with a format");
                }
                self.data_type(data_type, inner.span());
            }
            Expr::Extract { field: _, syntax, expr } => {
                rest.push(expr);
                match syntax {
                    ast::ExtractSyntax::From | ast::ExtractSyntax::Comma => {}
                }
            }
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                rest.push(expr);
                match field {
                    ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) => {}
                    ast::CeilFloorKind::DateTimeField(_) => {
                        self.at(expr.span(), "ceil or floor TO a time unit", "write `date_trunc('day', x)`");
                    }
                    ast::CeilFloorKind::Scale(_) => {
                        self.at(expr.span(), "a scale in ceil or floor", "write `round(x, n)` or `trunc(x, n)`");
                    }
                }
            }
            Expr::Position { expr, r#in } => rest.extend([&**expr, &**r#in]),
            Expr::Substring { expr, substring_from, substring_for, special: _, shorthand: _ } => {
                rest.push(expr);
                rest.extend(substring_from.iter().chain(substring_for).map(|e| &**e));
            }
            Expr::Trim { trim_where: _, trim_what, expr, trim_characters } => {
                rest.push(expr);
                rest.extend(trim_what.iter().map(|e| &**e));
                rest.extend(trim_characters.iter().flatten());
                if trim_characters.as_ref().is_some_and(|list| list.len() > 1) {
                    self.at(expr.span(), "a list of characters in trim", "write them in one text: `btrim(x, 'abc')`");
                }
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                rest.extend([&**expr, &**overlay_what, &**overlay_from]);
                rest.extend(overlay_for.iter().map(|e| &**e));
            }
            Expr::Value(ast::ValueWithSpan { value, span }) => self.value(value, *span),
            Expr::TypedString(ast::TypedString { data_type, value, uses_odbc_syntax }) => {
                if *uses_odbc_syntax {
                    self.at(value.span, "an ODBC literal", "write `DATE '…'` or `TIMESTAMP '…'`");
                }
                self.value(&value.value, value.span);
                self.data_type(data_type, value.span);
            }
            Expr::Function(function) => self.function(function, scope, rest),
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                rest.extend(operand.iter().map(|e| &**e));
                for ast::CaseWhen { condition, result } in conditions {
                    rest.extend([condition, result]);
                }
                rest.extend(else_result.iter().map(|e| &**e));
            }
            Expr::Exists { subquery, negated: _ } => self.subquery(subquery, scope),
            Expr::Subquery(subquery) => self.subquery(subquery, scope),
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => rest.extend(sets.iter().flatten()),
            Expr::Tuple(exprs) => rest.extend(exprs),
            Expr::Array(ast::Array { elem, named: _ }) => rest.extend(elem),
            Expr::Interval(interval) => {
                let ast::Interval { value, leading_field, leading_precision, last_field, fractional_seconds_precision } =
                    interval;
                rest.push(value);
                let unit_only =
                    leading_precision.is_none() && last_field.is_none() && fractional_seconds_precision.is_none();
                if leading_field.is_some() && !unit_only {
                    self.at(
                        value.span(),
                        "an interval with a precision or a range of units",
                        "write `INTERVAL '2 days 3 hours'`",
                    );
                }
            }
            Expr::AtTimeZone { timestamp, time_zone: _ } => self.anchored(timestamp.span().start, |gate| {
                gate.clause(&["AT", "TIME", "ZONE"], "timestamps are UTC; add an interval for another offset");
            }),
            Expr::Wildcard(_) => {}
            Expr::JsonAccess { value, path: _ } => {
                self.at(value.span(), "a path with `:`", "write `get_field(x, 'name')`");
            }
            Expr::Named { expr, name: _ } => {
                self.at(expr.span(), "AS inside an expression", "write `named_struct('a', a)`")
            }
            Expr::IsNormalized { expr, form: _, negated: _ } => {
                self.at(expr.span(), "IS NORMALIZED", "normalise text when it is loaded");
            }
            Expr::InUnnest { expr, array_expr: _, negated: _ } => {
                self.at(expr.span(), "IN UNNEST", "write `array_has(list, x)`");
            }
            Expr::RLike { negated: _, expr, pattern: _, regexp: _ } => {
                self.at(expr.span(), "RLIKE", "write `regexp_like(x, 'pattern')`");
            }
            Expr::Convert { is_try: _, expr, data_type: _, charset: _, target_before_value: _, styles: _ } => {
                self.at(expr.span(), "CONVERT", "write `CAST(x AS type)`");
            }
            Expr::Collate { expr, collation: _ } => self.anchored(expr.span().start, |gate| {
                gate.clause(&["COLLATE"], "text compares by its UTF-8 bytes; write `lower(x)` to ignore case");
            }),
            Expr::Prefixed { prefix, value: _ } => {
                self.at(prefix.span, "a prefix before a literal", "leave the prefix out")
            }
            Expr::Struct { values: _, fields: _ } => {
                self.at(expr.span(), "STRUCT (…)", "write `named_struct('a', a, …)`");
            }
            Expr::Dictionary(_) | Expr::Map(ast::Map { entries: _ }) => {
                self.at(expr.span(), "a map literal", "write `map(['a'], [1])`");
            }
            Expr::MatchAgainst { columns: _, match_value, opt_search_modifier: _ } => {
                self.at(match_value.span, "MATCH … AGAINST", "write `regexp_like(x, 'pattern')`");
            }
            Expr::QualifiedWildcard(name, _) => {
                self.at(name.span(), "a star with a table name here", "name the column");
            }
            Expr::OuterJoin(expr) => self.at(expr.span(), "(+)", "write `LEFT JOIN`"),
            Expr::Prior(expr) => self.at(expr.span(), "PRIOR", "write `WITH RECURSIVE`"),
            Expr::Lambda(ast::LambdaFunction { params: _, body, syntax: _ }) => {
                self.at(body.span(), "a lambda", "unnest the list and aggregate it");
            }
            Expr::MemberOf(_) => self.at(expr.span(), "MEMBER OF", "write `array_has(list, x)`"),
        }
    }

    fn escape(&mut self, escape: Option<&ast::ValueWithSpan>) {
        if let Some(ast::ValueWithSpan { value, span }) = escape {
            self.value(value, *span);
        }
    }

    fn binary(&mut self, op: &ast::BinaryOperator, right: &Expr) {
        use ast::BinaryOperator as Op;
        match op {
            Op::Plus
            | Op::Minus
            | Op::Multiply
            | Op::Divide
            | Op::Modulo
            | Op::StringConcat
            | Op::Gt
            | Op::Lt
            | Op::GtEq
            | Op::LtEq
            | Op::Eq
            | Op::NotEq
            | Op::And
            | Op::Or
            | Op::BitwiseOr
            | Op::BitwiseAnd
            | Op::BitwiseXor
            | Op::PGBitwiseShiftLeft
            | Op::PGBitwiseShiftRight
            | Op::PGRegexMatch
            | Op::PGRegexIMatch
            | Op::PGRegexNotMatch
            | Op::PGRegexNotIMatch => {}
            _ => self.at(right.span(), &format!("operator `{op}`"), "write a function"),
        }
    }

    fn value(&mut self, value: &ast::Value, span: sqlparser::tokenizer::Span) {
        match value {
            ast::Value::Number(_, _)
            | ast::Value::SingleQuotedString(_)
            | ast::Value::Boolean(_)
            | ast::Value::Null
            | ast::Value::Placeholder(_)
            | ast::Value::HexStringLiteral(_) => {}
            _ => self.at(span, "this form of literal", "write `'text'`, a number or `X'0af1'`"),
        }
    }

    fn function<'e>(&mut self, function: &'e ast::Function, scope: &Scope, rest: &mut Vec<&'e Expr>) {
        let ast::Function { name, uses_odbc_syntax, parameters, args, filter, null_treatment, over, within_group } =
            function;
        let place = self.place(name.span());
        let shown = name.to_string();
        match reference::named(name) {
            Ok(Named::Bare(bare)) => {
                let modifiers = modifiers(function);
                if modifiers.contains(&"OVER") && modifiers.contains(&"ORDER BY") {
                    self.at(
                        name.span(),
                        "ORDER BY in the arguments of a window function",
                        "write it in `OVER (… ORDER BY …)`",
                    );
                }
                self.found.functions.push(FunctionCall { name: bare, place, in_from: false, modifiers });
            }
            Ok(Named::Dataset(_)) | Err(_) => self.refuse(
                Problem::new(code::NAME, format!("function name `{shown}` has more than one part"))
                    .help("functions have names of one part")
                    .label(place.label("here")),
            ),
        }
        if *uses_odbc_syntax {
            self.at(name.span(), "{fn …}", "leave the braces out");
        }
        match parameters {
            ast::FunctionArguments::None => {}
            ast::FunctionArguments::Subquery(_) | ast::FunctionArguments::List(_) => {
                self.at(name.span(), &format!("{shown}(…)(…)"), "give all arguments in one list");
            }
        }
        match args {
            ast::FunctionArguments::None => {}
            ast::FunctionArguments::Subquery(_) => {
                self.at(
                    name.span(),
                    "a query as a function's only argument",
                    "write the query in parentheses of its own: `f((SELECT …))`",
                );
            }
            ast::FunctionArguments::List(list) => self.arguments(list, name, scope, rest),
        }
        rest.extend(filter.iter().map(|e| &**e));
        match null_treatment {
            None | Some(ast::NullTreatment::IgnoreNulls | ast::NullTreatment::RespectNulls) => {}
        }
        match over {
            None => {}
            Some(ast::WindowType::NamedWindow(name)) => self.named_window(name),
            Some(ast::WindowType::WindowSpec(spec)) => self.window(spec, scope),
        }
        self.sorts(within_group, scope);
    }

    fn arguments<'e>(
        &mut self,
        list: &'e ast::FunctionArgumentList,
        name: &ast::ObjectName,
        scope: &Scope,
        rest: &mut Vec<&'e Expr>,
    ) {
        let ast::FunctionArgumentList { duplicate_treatment, args, clauses } = list;
        match duplicate_treatment {
            None | Some(ast::DuplicateTreatment::Distinct | ast::DuplicateTreatment::All) => {}
        }
        for arg in args {
            let arg = match arg {
                ast::FunctionArg::Unnamed(arg) => arg,
                ast::FunctionArg::Named { name: _, arg, operator: ast::FunctionArgOperator::RightArrow } => arg,
                ast::FunctionArg::Named { name, arg, operator: _ } => {
                    self.at(name.span, "this form of named argument", "write `name => value`");
                    arg
                }
                ast::FunctionArg::ExprNamed { name, arg, operator: _ } => {
                    self.at(name.span(), "this form of named argument", "write `name => value`");
                    arg
                }
            };
            match arg {
                ast::FunctionArgExpr::Expr(expr) => rest.push(expr),
                ast::FunctionArgExpr::Wildcard => {}
                ast::FunctionArgExpr::QualifiedWildcard(star) => {
                    self.at(star.span(), "a star with a table name as an argument", "write `count(*)`");
                }
                ast::FunctionArgExpr::WildcardWithOptions(_) => {
                    self.at(name.span(), "a star with options as an argument", "write `count(*)`");
                }
            }
        }
        for clause in clauses {
            let refused = match clause {
                ast::FunctionArgumentClause::IgnoreOrRespectNulls(_) => continue,
                ast::FunctionArgumentClause::OrderBy(sorts) => {
                    self.sorts(sorts, scope);
                    continue;
                }
                ast::FunctionArgumentClause::Limit(_) => "LIMIT in arguments",
                ast::FunctionArgumentClause::OnOverflow(_) => "ON OVERFLOW",
                ast::FunctionArgumentClause::Having(_) => "HAVING in arguments",
                ast::FunctionArgumentClause::Separator(_) => "SEPARATOR",
                ast::FunctionArgumentClause::JsonNullClause(_) => "NULL ON NULL",
                ast::FunctionArgumentClause::JsonReturningClause(_) => "RETURNING",
            };
            self.at(name.span(), refused, "leave it out");
        }
    }
}

/// Where a query begins. sqlparser's `span` would walk all of it, at every level.
fn query_start(query: &ast::Query) -> Location {
    let mut query = query;
    loop {
        if let Some(with) = &query.with {
            return with.with_token.0.span.start;
        }
        let mut body = &*query.body;
        while let ast::SetExpr::SetOperation { left, op: _, set_quantifier: _, right: _ } = body {
            body = left;
        }
        match body {
            ast::SetExpr::Select(select) => return select.select_token.0.span.start,
            ast::SetExpr::Query(inner) => query = inner,
            ast::SetExpr::Values(values) => {
                return values.rows.first().map_or(Location::empty(), |row| row.opening_token.0.span.start);
            }
            ast::SetExpr::SetOperation { .. }
            | ast::SetExpr::Insert(_)
            | ast::SetExpr::Update(_)
            | ast::SetExpr::Delete(_)
            | ast::SetExpr::Merge(_)
            | ast::SetExpr::Table(_) => return Location::empty(),
        }
    }
}

/// Parts of a call that not every kind of function reads.
fn modifiers(function: &ast::Function) -> Vec<&'static str> {
    let (distinct, clauses) = match &function.args {
        ast::FunctionArguments::List(list) => (list.duplicate_treatment.is_some(), list.clauses.as_slice()),
        ast::FunctionArguments::None | ast::FunctionArguments::Subquery(_) => (false, &[][..]),
    };
    let order_by = clauses.iter().any(|c| matches!(c, ast::FunctionArgumentClause::OrderBy(_)));
    let nulls = function.null_treatment.is_some()
        || clauses.iter().any(|c| matches!(c, ast::FunctionArgumentClause::IgnoreOrRespectNulls(_)));
    [
        (distinct, "DISTINCT"),
        (order_by, "ORDER BY"),
        (function.filter.is_some(), "FILTER"),
        (!function.within_group.is_empty(), "WITHIN GROUP"),
        (nulls, "IGNORE NULLS"),
        (function.over.is_some(), "OVER"),
    ]
    .into_iter()
    .filter_map(|(present, word)| present.then_some(word))
    .collect()
}

fn is_simple(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

pub(crate) fn list(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}
