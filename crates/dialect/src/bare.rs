//! Statements over tables that a DDL text declares: what a reviewer runs on a change before any warehouse knows it.
//!
//! What holds here: the same gate as everywhere, so nothing that DataFusion would silently drop gets through. Beside
//! queries there are the writes that lineage has rules for; names may have one to three parts, types are the planner's.
//! The clauses of writes that hold neither query nor expression are left to the planner, which refuses what it does not
//! read.

use crate::{
    gate,
    parse::{Head, Result},
    problem::{Refusals, code},
    rewrite,
    statement::{FunctionCall, Located},
    text::{self, Tokens},
};
use custody_model::{Problem, SourceText};
use sqlparser::{ast, tokenizer::Token};

/// A statement over declared tables.
#[derive(Clone, PartialEq, Debug)]
pub enum Bare {
    /// `CREATE TABLE t (c type, …)`: declares, has no lineage.
    Table(Box<ast::Statement>),
    /// `CREATE VIEW v AS query`: declares, and has lineage.
    View(Box<ast::Statement>),
    /// A query, `INSERT`, `UPDATE`, `DELETE`, `MERGE`, `CREATE TABLE t AS query`.
    Statement(Box<ast::Statement>),
    /// `COPY query TO 'file'`, `COPY t TO 'file'`: the query, and the file.
    Copy(Box<ast::Query>, String),
}

impl Bare {
    /// Whether it belongs in a DDL text.
    pub fn declares(&self) -> bool {
        matches!(self, Self::Table(_) | Self::View(_))
    }
}

/// A gated statement with the functions it calls.
#[derive(Clone, PartialEq, Debug)]
pub struct BareStatement {
    /// The statement.
    pub statement: Bare,
    /// Every function called.
    pub functions: Vec<FunctionCall>,
}

/// The statements of a text over declared tables; or everything that is wrong with them.
pub fn parse_bare(source: &SourceText) -> std::result::Result<Vec<Located<BareStatement>>, Refusals> {
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

const HELP: &str = "a DDL text holds `CREATE TABLE` and `CREATE VIEW`; a query text one query, `INSERT`, `UPDATE`, \
                    `DELETE`, `MERGE`, `COPY` or `CREATE … AS`";

fn statement(tokens: &Tokens) -> Result<BareStatement> {
    let mut head = Head::new(tokens);
    let (mut statement, copied) = match head.word_at(0).as_deref() {
        Some("COPY") => {
            let (query, file) = copy(&mut head)?;
            (ast::Statement::Query(Box::new(query)), Some(file))
        }
        Some("EXPLAIN") if head.peek(&["EXPLAIN", "LINEAGE"]) => {
            head.skip(2);
            (head.parsed()?, None)
        }
        _ => (head.parsed()?, None),
    };
    head.end()?;
    let functions = gate::bare(&statement, tokens)?.functions;
    rewrite::unnest(&mut statement);
    rewrite::asof(&mut statement);
    let statement = match (copied, statement) {
        (Some(file), ast::Statement::Query(query)) => Bare::Copy(query, file),
        (_, ast::Statement::CreateTable(table)) if table.query.is_none() => {
            Bare::Table(Box::new(ast::Statement::CreateTable(table)))
        }
        (_, view @ ast::Statement::CreateView(_)) => Bare::View(Box::new(view)),
        (
            _,
            other @ (ast::Statement::Query(_)
            | ast::Statement::Insert(_)
            | ast::Statement::Update(_)
            | ast::Statement::Delete(_)
            | ast::Statement::Merge(_)
            | ast::Statement::CreateTable(_)),
        ) => Bare::Statement(Box::new(other)),
        (_, other) => return Err(vec![not_here(&other, tokens)]),
    };
    Ok(BareStatement { statement, functions })
}

fn not_here(statement: &ast::Statement, tokens: &Tokens) -> Problem {
    let text = statement.to_string();
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    Problem::new(code::STATEMENT, format!("statement `{}` has no lineage", words.join(" ")))
        .help(HELP)
        .label(tokens.place(0).label("here"))
}

/// `COPY (query) TO 'file'`, `COPY t TO 'file'`. What follows says how the file is written, which changes no column.
fn copy(head: &mut Head<'_>) -> Result<(ast::Query, String)> {
    head.need(&["COPY"])?;
    let query = if head.eat_token(&Token::LParen) {
        let query = head.parsed_query()?;
        head.need_token(&Token::RParen)?;
        query
    } else {
        head.whole_table()?
    };
    head.need(&["TO"])?;
    let file = head.text("a file name in single quotes")?.value;
    if head.eat(&["STORED", "AS"]) {
        head.identifier("a file format")?;
    }
    if head.eat(&["PARTITIONED", "BY"]) {
        head.columns()?;
    }
    if head.eat(&["OPTIONS"]) {
        head.need_token(&Token::LParen)?;
        while !head.eat_token(&Token::RParen) {
            if head.at_end() {
                return Err(vec![head.expected("`)`")]);
            }
            head.skip(1);
        }
    }
    Ok((query, file))
}
