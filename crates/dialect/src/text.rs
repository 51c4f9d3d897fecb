//! A text as tokens with positions, cut into statements and checked against the bounds that must hold
//! before anything is parsed.
//!
//! INVARIANT: no chain of operators in a statement is longer than [`MAX_CHAIN`], nesting included. sqlparser
//! and DataFusion build such chains as deep trees whose drop, clone and planning recurse; past the bound the
//! process would abort rather than return an error.

use crate::{
    CustodyDialect, Place,
    problem::{self, Refusals, code},
};
use custody_model::{Position, Problem, SourceText};
use sqlparser::{
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError, Whitespace, Word},
};

/// Bytes of one text.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// Columns of one select list or source.
pub const MAX_COLUMNS: usize = 2_000;
/// Operators in one chain, counting those of nested parentheses.
pub const MAX_CHAIN: usize = 256;
/// Names defined by `WITH` in one statement.
pub const MAX_CTES: usize = 256;
/// `UNION`, `EXCEPT` and `INTERSECT` in one statement.
pub const MAX_SET_OPERATIONS: usize = 256;
/// Joins in one statement, comma joins included.
pub const MAX_JOINS: usize = 64;
/// Open parentheses, brackets and `CASE` at once.
pub const MAX_NESTING: usize = 50;

/// One statement's tokens without white space and comments, and the text they came from.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    all: Vec<TokenWithSpan>,
    text: String,
    end: Location,
}

impl Tokens {
    /// A parser that stands before the first token.
    pub(crate) fn parser(&self) -> Parser<'static> {
        Parser::new(&CustodyDialect).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(self.all.clone())
    }

    /// The text from the first token to the last.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn token(&self, index: usize) -> Option<&Token> {
        self.all.get(index).map(|t| &t.token)
    }

    /// The unquoted word at `index`, in upper case.
    pub(crate) fn word(&self, index: usize) -> Option<String> {
        self.token(index).and_then(unquoted).map(str::to_uppercase)
    }

    fn span(&self, index: usize) -> Span {
        self.all.get(index).map_or(Span::new(self.end, self.end), |t| t.span)
    }

    /// Where the token at `index` stands; past the last token, the end of the statement.
    pub(crate) fn place(&self, index: usize) -> Place {
        self.place_of(self.span(index))
    }

    /// From the token at `first` to the token before `after`.
    pub(crate) fn stretch(&self, first: usize, after: usize) -> Place {
        let last = after.saturating_sub(1).max(first);
        let (start, end) = (self.place(first), self.place(last));
        Place { start: start.start, end: end.end.max(start.end) }
    }

    /// The whole statement.
    pub(crate) fn whole(&self) -> Place {
        self.stretch(0, self.all.len())
    }

    /// The place of a span, the whole statement for one that sqlparser left empty.
    pub(crate) fn place_of(&self, span: Span) -> Place {
        if span.start.line == 0 {
            return self.whole();
        }
        let (start, end) = (position(span.start), position(span.end));
        if end > start {
            Place { start, end }
        } else {
            Place { start, end: Position { column: start.column + 1, ..start } }
        }
    }

    /// The source text from token `first` to the token before `after`.
    pub(crate) fn source(&self, first: usize, after: usize) -> String {
        let Some(origin) = self.all.first() else { return String::new() };
        if after <= first {
            return String::new();
        }
        let lines = Lines::new(&self.text, origin.span.start);
        let (start, end) = (lines.offset(self.span(first).start), lines.offset(self.span(after - 1).end));
        self.text.get(start..end).unwrap_or_default().to_string()
    }

    /// The index of the token that starts at or after `location`.
    pub(crate) fn index_at(&self, location: Location) -> usize {
        self.all.partition_point(|t| t.span.start < location)
    }

    /// The first run of these unquoted words at or after token `from`, preferring `from`'s own level of parentheses.
    pub(crate) fn find(&self, from: usize, words: &[&str]) -> Option<Place> {
        self.find_at_level(from, words, true)
            .or_else(|| self.find_at_level(from, words, false))
            .map(|first| self.stretch(first, first + words.len()))
    }

    /// The first text in single quotes at or after token `from` that says `text`.
    pub(crate) fn find_text(&self, from: usize, text: &str) -> Option<Place> {
        (from..self.all.len())
            .find(|i| matches!(self.token(*i), Some(Token::SingleQuotedString(found)) if found == text))
            .map(|i| self.place(i))
    }

    fn find_at_level(&self, from: usize, words: &[&str], same_level: bool) -> Option<usize> {
        let mut depth = 0_i64;
        for index in from..self.all.len() {
            match self.token(index)? {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            if same_level && depth < 0 {
                return None;
            }
            if (!same_level || depth == 0 || matches!(words, ["("])) && self.matches(index, words) {
                return Some(index);
            }
        }
        None
    }

    fn matches(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| match self.token(index + i) {
            Some(Token::Word(w)) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
            Some(other) => other.to_string() == *word,
            None => false,
        })
    }

    /// Canonical spacing, words in lower case, literals as `?`, from token `first` to the token before `after`.
    pub(crate) fn normalised(&self, first: usize, after: usize) -> String {
        normalised(self.all.get(first..after.min(self.all.len())).unwrap_or_default())
    }
}

/// The text of an unquoted word.
pub(crate) fn unquoted(token: &Token) -> Option<&str> {
    match token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value),
        _ => None,
    }
}

pub(crate) fn position(location: Location) -> Position {
    Position { line: location.line, column: location.column }
}

/// Byte offsets of sqlparser's locations in a text that begins at `origin`.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    origin: Location,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, origin: Location) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { text, starts, origin }
    }

    fn offset(&self, location: Location) -> usize {
        let line = usize::try_from(location.line.saturating_sub(self.origin.line)).unwrap_or(usize::MAX);
        let first = if line == 0 { self.origin.column } else { 1 };
        let chars = usize::try_from(location.column.saturating_sub(first)).unwrap_or(usize::MAX);
        let Some(start) = self.starts.get(line) else { return self.text.len() };
        let rest = self.text.get(*start..).unwrap_or_default();
        start + rest.char_indices().nth(chars).map_or(rest.len(), |(i, _)| i)
    }
}

/// Cuts a text into statements. Empty statements are dropped.
pub(crate) fn statements(source: &SourceText) -> Result<Vec<Tokens>, Refusals> {
    if source.text.len() > MAX_STATEMENT_BYTES {
        let problem =
            Problem::new(code::BOUND, "statement is larger than 1 MiB").help("split the file, one statement each");
        return Err(Refusals::one(problem, source));
    }
    let all = tokenise(&source.text).map_err(|error| Refusals::one(tokenizer_problem(&error, &source.text), source))?;
    let mut problems = vec![];
    let mut out = vec![];
    for tokens in all.split(|t| t.token == Token::SemiColon) {
        let mut kept = vec![];
        for token in tokens {
            match &token.token {
                Token::Whitespace(space) => problems.extend(hint(space, token.span)),
                Token::EOF => {}
                _ => kept.push(token.clone()),
            }
        }
        let (Some(first), Some(last)) = (kept.first(), kept.last()) else { continue };
        let lines = Lines::new(&source.text, Location::new(1, 1));
        let text = source.text.get(lines.offset(first.span.start)..lines.offset(last.span.end)).unwrap_or_default();
        let statement = Tokens { text: text.to_string(), end: last.span.end, all: as_of(kept) };
        problems.extend(bounds(&statement));
        out.push(statement);
    }
    if problems.is_empty() { Ok(out) } else { Err(Refusals::new(problems, source)) }
}

fn tokenise(text: &str) -> Result<Vec<TokenWithSpan>, TokenizerError> {
    Tokenizer::new(&CustodyDialect, text).tokenize_with_location()
}

/// The text with literals as `?`, one space between tokens and words in lower case, comments left out: what the
/// hash of a statement is taken over. A text that is not even tokens gives `None`.
pub fn normalise(text: &str) -> Option<String> {
    if text.len() > MAX_STATEMENT_BYTES {
        return None;
    }
    let mut tokens = tokenise(text).ok()?;
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    Some(normalised(&as_of(tokens)))
}

fn normalised(tokens: &[TokenWithSpan]) -> String {
    let mut out = String::new();
    for token in tokens {
        let text = match &token.token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::TripleSingleQuotedByteStringLiteral(_)
            | Token::TripleDoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::TripleSingleQuotedRawStringLiteral(_)
            | Token::TripleDoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::QuoteDelimitedStringLiteral(_)
            | Token::NationalQuoteDelimitedStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_) => "?".to_string(),
            Token::Word(Word { value, quote_style: None, .. }) => value.to_lowercase(),
            other => other.to_string(),
        };
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&text);
    }
    out
}

/// `VERSION 5` reads as `VERSION AS OF 5`; the two words stand where `VERSION` stands.
fn as_of(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        let span = token.span;
        let version = unquoted(&token.token).is_some_and(|w| w.eq_ignore_ascii_case("version"))
            && rest.peek().is_some_and(|next| matches!(next.token, Token::Number(..)));
        out.push(token);
        if version {
            for word in ["AS", "OF"] {
                out.push(TokenWithSpan::new(Token::make_keyword(word), span));
            }
        }
    }
    out
}

fn hint(space: &Whitespace, span: Span) -> Option<Problem> {
    let (Whitespace::MultiLineComment(comment) | Whitespace::SingleLineComment { comment, .. }) = space else {
        return None;
    };
    comment.starts_with('+').then(|| {
        let place = Place { start: position(span.start), end: position(span.end) };
        Problem::new(code::CLAUSE, "optimizer hints are not part of the dialect")
            .help("leave the hint out; for a plain comment put a space before the `+`")
            .label(place.label("nothing reads this hint"))
    })
}

fn tokenizer_problem(error: &TokenizerError, text: &str) -> Problem {
    let at = position(error.location);
    let start = if at.line == 0 { Position { line: 1, column: 1 } } else { at };
    let known = usize::try_from(start.line).ok().and_then(|l| text.lines().nth(l.saturating_sub(1))).is_some();
    let problem = Problem::new(code::SYNTAX, problem::lower_first(&error.message));
    if known {
        let end = Position { line: start.line, column: start.column + 1 };
        problem.label(Place { start, end }.label("here"))
    } else {
        problem
    }
}

/// Between an opening parenthesis, bracket or `CASE` and its end: what would make a deep tree.
#[derive(Clone, Copy, Default)]
struct Level {
    is_case: bool,
    operators: usize,
    deepest_inside: usize,
    deepest_chain: usize,
}

impl Level {
    fn end_chain(&mut self) {
        self.deepest_chain = self.deepest_chain.max(self.operators + self.deepest_inside);
        self.operators = 0;
        self.deepest_inside = 0;
    }
}

fn open(levels: &mut Vec<Level>, is_case: bool) {
    levels.push(Level { is_case, ..Level::default() });
}

/// Ends the innermost level; the outermost stays.
fn close(levels: &mut Vec<Level>) {
    if levels.len() < 2 {
        return;
    }
    let Some(mut inner) = levels.pop() else { return };
    inner.end_chain();
    if let Some(outer) = levels.last_mut() {
        outer.deepest_inside = outer.deepest_inside.max(inner.deepest_chain + 1);
    }
}

/// The bounds that must hold before the parser runs; the first that does not.
///
/// Any keyword may also be a name, so a clause word ends a chain only where an operator cannot be waiting for it.
fn bounds(tokens: &Tokens) -> Option<Problem> {
    let mut levels = vec![Level::default()];
    let mut set_operations = 0;
    let mut after_operator = false;
    let too = |index: usize, message: String, help: &str| {
        Some(Problem::new(code::BOUND, message).help(help).label(tokens.place(index).label("here")))
    };
    for (index, token) in tokens.all.iter().enumerate() {
        let Some(level) = levels.last_mut() else { break };
        let mut operator = false;
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                level.operators += usize::from(token.token == Token::LBracket);
                open(&mut levels, false);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                while levels.last().is_some_and(|l| l.is_case) {
                    close(&mut levels);
                }
                close(&mut levels);
            }
            Token::Comma => level.end_chain(),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => {
                    set_operations += 1;
                    if !after_operator {
                        level.end_chain();
                    }
                }
                Keyword::CASE => open(&mut levels, true),
                Keyword::WHEN | Keyword::THEN | Keyword::ELSE if level.is_case && !after_operator => level.end_chain(),
                Keyword::END if level.is_case && !after_operator => close(&mut levels),
                k if !after_operator && ends_chain(k, tokens, index) => level.end_chain(),
                k if is_operator(k) => {
                    level.operators += 1;
                    operator = true;
                }
                _ => {}
            },
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::EOF => {}
            _ => {
                level.operators += 1;
                operator = true;
            }
        }
        after_operator = operator;
        let chain = levels.last().map_or(0, |l| l.operators + l.deepest_inside);
        if chain > MAX_CHAIN {
            return too(
                index,
                format!("more than {MAX_CHAIN} operators in a chain"),
                "use `IN (…)`, `concat(…)`, or a table to join with",
            );
        }
        if set_operations > MAX_SET_OPERATIONS {
            return too(
                index,
                format!("more than {MAX_SET_OPERATIONS} set operations in a statement"),
                "put the rows into a source and select from it",
            );
        }
        if levels.len() - 1 > MAX_NESTING {
            return too(
                index,
                format!("nested more than {MAX_NESTING} deep"),
                "give the inner queries names with `WITH`",
            );
        }
    }
    None
}

/// Whether the word at `index`, which no operator waits for, begins a new clause: not the `FROM` of
/// `IS DISTINCT FROM`, not the `GROUP` of `WITHIN GROUP`.
fn ends_chain(keyword: Keyword, tokens: &Tokens, index: usize) -> bool {
    let before = index.checked_sub(1).and_then(|i| tokens.word(i));
    match keyword {
        Keyword::FROM => before.as_deref() != Some("DISTINCT"),
        Keyword::GROUP | Keyword::ORDER => tokens.word(index + 1).as_deref() == Some("BY"),
        Keyword::SELECT
        | Keyword::WHERE
        | Keyword::HAVING
        | Keyword::WINDOW
        | Keyword::QUALIFY
        | Keyword::LIMIT
        | Keyword::JOIN
        | Keyword::ON
        | Keyword::VALUES => true,
        _ => false,
    }
}

/// Words that make a tree one deeper, in infix, prefix or postfix position.
fn is_operator(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::NOTNULL
            | Keyword::IS
            | Keyword::IN
            | Keyword::BETWEEN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::MATCH
            | Keyword::MEMBER
            | Keyword::DIV
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::OVERLAPS
            | Keyword::OPERATOR
            | Keyword::INTERVAL
            | Keyword::PRIOR
            | Keyword::PIVOT
            | Keyword::UNPIVOT
            | Keyword::MATCH_RECOGNIZE
            | Keyword::ARRAY
    )
}
