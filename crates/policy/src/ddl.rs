//! The SQL of policy files: classes, tags, row sets, guards, mask parameters, floors, durability, declassifications.
//!
//! Statements are read one by one; a statement that is wrong is reported and the next one is read. What names mean is
//! settled by `bundle`, when all files are known.

use crate::place::{Fault, Place};
use crate::rows::{self, Literal, Name, RowExpr};
use custody_model::{Class, DatasetName, DeclassificationTarget, Durability, Part, Rung};
use sqlparser::{
    dialect::GenericDialect,
    parser::Parser,
    tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer},
};
use std::collections::BTreeSet;

/// The most operators in one statement: the expressions are walked by recursion, here and in the planner.
const MAX_OPERATORS: usize = 256;

/// One statement and where it stands.
pub(crate) struct Statement {
    pub(crate) what: What,
    pub(crate) text: String,
    pub(crate) at: Place,
}

/// What a statement says.
pub(crate) enum What {
    Classification {
        name: Name,
        under: Vec<Name>,
    },
    Tag {
        columns: Vec<ColumnName>,
        classes: Vec<Name>,
    },
    RowSet {
        guard: bool,
        name: Name,
        table: TableName,
        expr: RowExpr,
        text: String,
        /// The whole condition.
        at: Place,
    },
    MaskParameters {
        of: MaskTarget,
        masks: Vec<(Rung, MaskSpec, Place)>,
    },
    GroupFloor {
        least: u64,
        table: TableName,
        counting: Name,
    },
    Durability {
        durability: Durability,
        table: TableName,
    },
    Declassification(Declassify),
}

/// `CREATE DECLASSIFICATION`.
pub(crate) struct Declassify {
    pub(crate) name: Name,
    pub(crate) target: DeclassificationTarget,
    pub(crate) removes: Name,
    pub(crate) replaces_with: Option<Name>,
    pub(crate) from: BTreeSet<Part>,
    pub(crate) group: Option<(u64, String)>,
}

/// A dataset by name.
#[derive(Clone)]
pub(crate) struct TableName {
    pub(crate) name: DatasetName,
    pub(crate) at: Place,
}

/// A column of a dataset.
pub(crate) struct ColumnName {
    pub(crate) table: DatasetName,
    pub(crate) column: Name,
}

/// Whose parameters.
pub(crate) enum MaskTarget {
    Class(Name),
    Column(ColumnName),
}

/// A mask before it has met a column.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum MaskSpec {
    Null,
    Const(Literal),
    Token { key: String, domain: String },
    First(u32),
    Last(u32),
    Year,
    Month,
    Bucket(u64),
}

/// All statements of a file, and all that is wrong with the others.
pub(crate) fn parse(text: &str) -> (Vec<Statement>, Vec<Fault>) {
    let tokens = match Tokenizer::new(&GenericDialect, text).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            let at = Place::of(Span::new(error.location, error.location));
            return (vec![], vec![Fault::syntax(lower(&error.message), at)]);
        }
    };
    let tokens: Vec<_> = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
    let (mut statements, mut faults) = (vec![], vec![]);
    for tokens in tokens.split(|t| t.token == Token::SemiColon).filter(|s| !s.is_empty()) {
        let span = Span::new(tokens[0].span.start, tokens[tokens.len() - 1].span.end);
        match (Reader { tokens, next: 0, text }).statement() {
            Ok(what) => statements.push(Statement { what, text: slice(text, span), at: Place::of(span) }),
            Err(fault) => faults.push(fault),
        }
    }
    (statements, faults)
}

struct Reader<'a> {
    tokens: &'a [TokenWithSpan],
    next: usize,
    text: &'a str,
}

const STATEMENTS: &str = "statements are CREATE CLASSIFICATION, TAG COLUMN, CREATE ROW SET, CREATE GUARD, \
                          CREATE MASK PARAMETERS, CREATE GROUP FLOOR, CREATE DURABILITY, CREATE DECLASSIFICATION";

impl Reader<'_> {
    fn statement(&mut self) -> Result<What, Fault> {
        let what = if self.words("TAG COLUMN") {
            self.tag()?
        } else if self.words("CREATE CLASSIFICATION") {
            let name = self.name("a class")?;
            let under = if self.words("UNDER") { self.list(|r| r.name("a class"))? } else { vec![] };
            What::Classification { name, under }
        } else if self.words("CREATE ROW SET") {
            self.row_set(false)?
        } else if self.words("CREATE GUARD") {
            self.row_set(true)?
        } else if self.words("CREATE MASK PARAMETERS FOR") {
            self.mask_parameters()?
        } else if self.words("CREATE GROUP FLOOR") {
            let least = self.number("the least size of a group")?;
            self.expect("ON")?;
            let table = self.table()?;
            self.expect("COUNTING")?;
            What::GroupFloor { least, table, counting: self.name("a column")? }
        } else if self.words("CREATE DURABILITY") {
            let word = self.name("a durability")?;
            let durability = match word.text.as_str() {
                "local" => Durability::Local,
                "peer" => Durability::Peer,
                "object" => Durability::Object,
                _ => {
                    return Err(Fault::name(format!("durability `{}` not found", word.text), word.at)
                        .help("durabilities are local, peer and object"));
                }
            };
            self.expect("ON")?;
            What::Durability { durability, table: self.table()? }
        } else if self.words("CREATE DECLASSIFICATION") {
            self.declassification()?
        } else {
            return Err(self.unexpected("a policy statement").help(STATEMENTS));
        };
        if self.next < self.tokens.len() {
            return Err(self.unexpected("the end of the statement"));
        }
        Ok(what)
    }

    fn tag(&mut self) -> Result<What, Fault> {
        let columns = self.list(Self::column)?;
        self.expect("AS")?;
        Ok(What::Tag { columns, classes: self.list(|r| r.name("a class"))? })
    }

    fn row_set(&mut self, guard: bool) -> Result<What, Fault> {
        let name = self.name("a name")?;
        self.expect("ON")?;
        let table = self.table()?;
        self.expect("AS")?;
        let tokens = &self.tokens[self.next..];
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
            return Err(self.unexpected("a condition"));
        };
        let span = Span::new(first.span.start, last.span.end);
        if tokens.iter().filter(|t| is_operator(&t.token)).count() > MAX_OPERATORS {
            return Err(Fault::form(format!("more than {MAX_OPERATORS} operators in a row set"), Place::of(span)));
        }
        let mut parser = Parser::new(&GenericDialect).with_tokens_with_locations(tokens.to_vec());
        let parsed = parser.parse_expr().map_err(|e| parser_fault(&e, Place::of(span)))?;
        let rest = parser.peek_token();
        if rest.token != Token::EOF {
            let message = format!("expected the end of the statement, found `{}`", rest.token);
            return Err(Fault::syntax(message, Place::of(rest.span)));
        }
        self.next = self.tokens.len();
        Ok(What::RowSet {
            guard,
            name,
            table,
            expr: rows::parse(&parsed)?,
            text: slice(self.text, span),
            at: Place::of(span),
        })
    }

    fn mask_parameters(&mut self) -> Result<What, Fault> {
        let of = if self.words("COLUMN") {
            MaskTarget::Column(self.column()?)
        } else {
            MaskTarget::Class(self.name("a class")?)
        };
        self.symbol(&Token::LParen, "`(`")?;
        let masks = self.list(|r| {
            let word = r.name("redact, token or partial")?;
            r.symbol(&Token::Eq, "`=`")?;
            let start = r.next;
            let (rung, spec) = match word.text.as_str() {
                "redact" => (Rung::Redact, r.redact()?),
                "token" => (Rung::Token, r.token_mask()?),
                "partial" => (Rung::Partial, r.partial()?),
                _ => {
                    return Err(Fault::name(format!("`{}` is not a rung with parameters", word.text), word.at)
                        .help("rungs with parameters are redact, token and partial"));
                }
            };
            Ok((rung, spec, r.since(start)))
        })?;
        self.symbol(&Token::RParen, "`)`")?;
        Ok(What::MaskParameters { of, masks })
    }

    fn redact(&mut self) -> Result<MaskSpec, Fault> {
        if self.words("NULL") {
            return Ok(MaskSpec::Null);
        }
        if !self.words("CONST") {
            return Err(self.unexpected("`null` or `const(…)`"));
        }
        self.symbol(&Token::LParen, "`(`")?;
        let negative = self.next_is(&Token::Minus);
        let literal = match self.take() {
            Some(Token::Number(n, _)) => Literal::Number(if negative { format!("-{n}") } else { n }),
            Some(Token::SingleQuotedString(t)) if !negative => Literal::Text(t),
            Some(Token::Word(w)) if !negative && w.quote_style.is_none() && w.value.eq_ignore_ascii_case("true") => {
                Literal::Bool(true)
            }
            Some(Token::Word(w)) if !negative && w.quote_style.is_none() && w.value.eq_ignore_ascii_case("false") => {
                Literal::Bool(false)
            }
            _ => {
                self.next -= 1;
                return Err(self.unexpected("a literal"));
            }
        };
        self.symbol(&Token::RParen, "`)`")?;
        Ok(MaskSpec::Const(literal))
    }

    fn token_mask(&mut self) -> Result<MaskSpec, Fault> {
        if !self.words("HMAC") {
            return Err(self.unexpected("`hmac(key '…', domain '…')`"));
        }
        self.symbol(&Token::LParen, "`(`")?;
        self.expect("KEY")?;
        let key = self.string("the key's name")?;
        self.symbol(&Token::Comma, "`,`")?;
        self.expect("DOMAIN")?;
        let domain = self.string("the domain")?;
        self.symbol(&Token::RParen, "`)`")?;
        Ok(MaskSpec::Token { key, domain })
    }

    fn partial(&mut self) -> Result<MaskSpec, Fault> {
        let word = self.name("first(n), last(n), year, month or bucket(w)")?;
        let argument = |r: &mut Self| -> Result<u64, Fault> {
            r.symbol(&Token::LParen, "`(`")?;
            let at = r.here();
            let n = r.number("a number above 0")?;
            r.symbol(&Token::RParen, "`)`")?;
            if n == 0 { Err(Fault::form(format!("`{}(0)` masks nothing that is left", word.text), at)) } else { Ok(n) }
        };
        let small = |r: &mut Self| -> Result<u32, Fault> {
            let at = r.here();
            let n = argument(r)?;
            match u32::try_from(n) {
                Ok(n) if n <= 1024 => Ok(n),
                _ => Err(Fault::form(format!("`{}` keeps at most 1024 characters", word.text), at)),
            }
        };
        match word.text.as_str() {
            "year" => Ok(MaskSpec::Year),
            "month" => Ok(MaskSpec::Month),
            "first" => Ok(MaskSpec::First(small(self)?)),
            "last" => Ok(MaskSpec::Last(small(self)?)),
            "bucket" => Ok(MaskSpec::Bucket(argument(self)?)),
            _ => Err(Fault::name(format!("mask `{}` not found", word.text), word.at)
                .help("partial masks are first(n), last(n), year, month and bucket(w)")),
        }
    }

    fn declassification(&mut self) -> Result<What, Fault> {
        let name = self.name("a name")?;
        self.expect("FOR")?;
        let target = if self.words("AGGREGATE") {
            DeclassificationTarget::Aggregates(
                self.list(|r| r.name("a function"))?.into_iter().map(|n| n.text).collect(),
            )
        } else if self.words("MASK") {
            let word = self.name("a rung")?;
            match word.text.as_str() {
                "redact" => DeclassificationTarget::Mask(Rung::Redact),
                "token" => DeclassificationTarget::Mask(Rung::Token),
                "partial" => DeclassificationTarget::Mask(Rung::Partial),
                _ => {
                    return Err(Fault::name(format!("`{}` is not a mask", word.text), word.at)
                        .help("masks are redact, token and partial"));
                }
            }
        } else if self.words("FUNCTION") {
            DeclassificationTarget::Function(self.name("a function")?.text)
        } else {
            return Err(self.unexpected("AGGREGATE, MASK or FUNCTION"));
        };
        let (removes, replaces_with) = if self.words("REMOVES") {
            (self.name("a class")?, None)
        } else if self.words("REPLACES") {
            let removes = self.name("a class")?;
            self.expect("WITH")?;
            (removes, Some(self.name("a class")?))
        } else {
            return Err(self.unexpected("REMOVES or REPLACES"));
        };
        self.expect("FROM")?;
        let from = self.list(|r| {
            if r.words("EXPLICIT") {
                Ok(Part::Explicit)
            } else if r.words("IMPLICIT") {
                Ok(Part::Implicit)
            } else {
                Err(r.unexpected("EXPLICIT or IMPLICIT"))
            }
        })?;
        let group = if self.words("WHEN GROUP SIZE") {
            self.symbol(&Token::GtEq, "`>=`")?;
            let least = self.number("the least size of a group")?;
            self.expect("COUNTING")?;
            Some((least, self.name("a column")?.text))
        } else {
            None
        };
        let from = from.into_iter().collect();
        Ok(What::Declassification(Declassify { name, target, removes, replaces_with, from, group }))
    }

    fn peek(&self) -> Option<&TokenWithSpan> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.peek().map(|t| t.token.clone());
        self.next += 1;
        token
    }

    fn next_is(&mut self, token: &Token) -> bool {
        let is = self.peek().is_some_and(|t| t.token == *token);
        self.next += usize::from(is);
        is
    }

    /// Takes these words if all of them are next.
    fn words(&mut self, words: &str) -> bool {
        let found = words.split(' ').enumerate().all(|(i, word)| {
            matches!(self.tokens.get(self.next + i).map(|t| &t.token),
                Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
        });
        if found {
            self.next += words.split(' ').count();
        }
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), Fault> {
        if self.words(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    fn symbol(&mut self, token: &Token, shown: &str) -> Result<(), Fault> {
        if self.next_is(token) { Ok(()) } else { Err(self.unexpected(shown)) }
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut items = vec![item(self)?];
        while self.next_is(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// An identifier, in lower case unless quoted.
    fn name(&mut self, expected: &str) -> Result<Name, Fault> {
        match self.peek() {
            Some(TokenWithSpan { token: Token::Word(word), span }) if !word.value.starts_with('@') => {
                let text = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
                let name = Name { text, at: Place::of(*span) };
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn path(&mut self, expected: &str) -> Result<(Vec<Name>, Place), Fault> {
        let start = self.next;
        let mut parts = vec![self.name(expected)?];
        while self.next_is(&Token::Period) {
            parts.push(self.name(expected)?);
        }
        Ok((parts, self.since(start)))
    }

    fn table(&mut self) -> Result<TableName, Fault> {
        let (parts, at) = self.path("a dataset's name")?;
        Ok(TableName { name: dataset(&parts, at)?, at })
    }

    fn column(&mut self) -> Result<ColumnName, Fault> {
        let (mut parts, at) = self.path("a column's name")?;
        match parts.pop() {
            Some(column) if !parts.is_empty() => Ok(ColumnName { table: dataset(&parts, at)?, column }),
            _ => Err(Fault::syntax("a column is named `schema.table.column`", at)),
        }
    }

    fn number(&mut self, expected: &str) -> Result<u64, Fault> {
        if let Some(TokenWithSpan { token: Token::Number(text, _), .. }) = self.peek()
            && let Ok(n) = text.parse()
        {
            self.next += 1;
            return Ok(n);
        }
        Err(self.unexpected(expected))
    }

    fn string(&mut self, expected: &str) -> Result<String, Fault> {
        if let Some(TokenWithSpan { token: Token::SingleQuotedString(text), .. }) = self.peek()
            && !text.is_empty()
        {
            let text = text.clone();
            self.next += 1;
            return Ok(text);
        }
        Err(self.unexpected(expected))
    }

    /// The next token's place, or just behind the last one's.
    fn here(&self) -> Place {
        match (self.peek(), self.tokens.last()) {
            (Some(t), _) => Place::of(t.span),
            (None, Some(t)) => Place::of(Span::new(t.span.end, t.span.end)),
            (None, None) => Place::of(Span::empty()),
        }
    }

    fn since(&self, start: usize) -> Place {
        let end = self.next.min(self.tokens.len()).max(start + 1) - 1;
        match (self.tokens.get(start), self.tokens.get(end)) {
            (Some(a), Some(b)) => Place::of(Span::new(a.span.start, b.span.end)),
            _ => self.here(),
        }
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let found = self.peek().map_or("the end of the statement".to_string(), |t| format!("`{}`", t.token));
        Fault::syntax(format!("expected {expected}, found {found}"), self.here())
    }
}

fn dataset(parts: &[Name], at: Place) -> Result<DatasetName, Fault> {
    let text = parts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join(".");
    text.parse().map_err(|e: custody_model::BadName| Fault::syntax(e.to_string(), at))
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(w) => {
            ["AND", "OR", "NOT", "IN", "IS", "LIKE", "BETWEEN"].iter().any(|k| w.value.eq_ignore_ascii_case(k))
        }
        Token::Eq | Token::Neq | Token::Lt | Token::LtEq | Token::Gt | Token::GtEq => true,
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::LParen | Token::StringConcat => true,
        _ => false,
    }
}

/// sqlparser's message, with its place taken out of the text: ` at Line: 1, Column: 5`.
fn parser_fault(error: &sqlparser::parser::ParserError, whole: Place) -> Fault {
    use sqlparser::parser::ParserError as E;
    let text = match error {
        E::TokenizerError(text) | E::ParserError(text) => text.as_str(),
        E::RecursionLimitExceeded => "the expression is nested too deeply",
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, place.split_once(", Column: ")),
        None => (text, None),
    };
    let at = place.and_then(|(line, column)| {
        let at = Location { line: line.parse().ok()?, column: column.parse().ok()? };
        Some(Place::of(Span::new(at, at)))
    });
    Fault::syntax(lower(message), at.unwrap_or(whole))
}

pub(crate) fn lower(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}

/// The text of a span.
fn slice(text: &str, span: Span) -> String {
    let offset = |l: Location| -> usize {
        let line_start: usize =
            text.split_inclusive('\n').take(usize::try_from(l.line.saturating_sub(1)).unwrap_or(0)).map(str::len).sum();
        let rest = &text[line_start.min(text.len())..];
        let column = usize::try_from(l.column.saturating_sub(1)).unwrap_or(0);
        line_start + rest.char_indices().nth(column).map_or(rest.len(), |(i, _)| i)
    };
    text.get(offset(span.start)..offset(span.end)).unwrap_or_default().to_string()
}

/// The class of a name.
pub(crate) fn class(name: &Name) -> Class {
    Class(name.text.clone())
}
