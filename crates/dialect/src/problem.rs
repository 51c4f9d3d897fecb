//! What the dialect refuses with: problems with codes, places and a next step.

use crate::text::Tokens;
use custody_model::{Label, Position, Problem, SourceText};
use sqlparser::{parser::ParserError, tokenizer::Token};
use std::fmt;

/// Codes of this crate. All are exit code 1: fix the input.
pub mod code {
    /// The text does not parse.
    pub const SYNTAX: u16 = 1001;
    /// A statement that is not part of the dialect.
    pub const STATEMENT: u16 = 1002;
    /// A clause, operator or expression that nothing reads.
    pub const CLAUSE: u16 = 1003;
    /// A bound on size or depth.
    pub const BOUND: u16 = 1004;
    /// A name of the wrong form.
    pub const NAME: u16 = 1005;
    /// A definition that says something twice, or too little.
    pub const DEFINITION: u16 = 1006;
    /// Definitions that need each other.
    pub const CYCLE: u16 = 1007;
    /// A type that is not part of the dialect.
    pub const TYPE: u16 = 1008;
    /// Part of the dialect, not of this version.
    pub const NOT_YET: u16 = 1009;
}

/// A stretch of a text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// First character.
    pub start: Position,
    /// One past the last character.
    pub end: Position,
}

impl Place {
    /// A label for this place.
    pub fn label(self, text: impl Into<String>) -> Label {
        Label { start: self.start, end: self.end, text: text.into() }
    }
}

/// Why a text is refused: at least one problem, in the order of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusals(Vec<Problem>);

impl Refusals {
    /// Problems of one text. Without labels to sort by, a problem comes first.
    pub(crate) fn new(mut problems: Vec<Problem>, source: &SourceText) -> Self {
        for problem in &mut problems {
            if problem.file.is_none() {
                problem.file = Some(source.name.clone());
            }
        }
        problems.sort_by_key(|p| p.labels.first().map(|l| l.start));
        problems.dedup();
        Self(problems)
    }

    pub(crate) fn one(problem: Problem, source: &SourceText) -> Self {
        Self::new(vec![problem], source)
    }

    pub(crate) fn from_problem(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// All of them as one: the first, with the others related to it.
    pub fn into_problem(self) -> Problem {
        let mut problems = self.0.into_iter();
        let mut first = problems.next().unwrap_or_else(|| Problem::new(code::SYNTAX, "the text is refused"));
        first.related.extend(problems);
        first
    }
}

impl From<Refusals> for Problem {
    fn from(refusals: Refusals) -> Self {
        refusals.into_problem()
    }
}

impl From<Refusals> for Vec<Problem> {
    fn from(refusals: Refusals) -> Self {
        refusals.0
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}

pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.trim().trim_end_matches('.').chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// sqlparser's error with its location, which it keeps as text only, as a label.
pub(crate) fn from_parser(error: &ParserError, tokens: &Tokens) -> Problem {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Problem::new(code::BOUND, format!("nested more than {} deep", crate::text::MAX_NESTING))
                .help("give the inner queries names with `WITH`")
                .label(tokens.whole().label("in this statement"));
        }
    };
    let (message, location) = split_location(text);
    let index = location
        .map_or(tokens.len(), |(line, column)| tokens.index_at(sqlparser::tokenizer::Location::new(line, column)));
    if let Some(problem) = foreign(tokens, index) {
        return problem;
    }
    let mut index = index;
    let message = match message.split_once(", found: ") {
        Some((expected, found)) => {
            // Some errors of the parser give the place after the token that they name.
            let is_found = |i: usize| tokens.token(i).is_some_and(|t| t.to_string() == found);
            if let Some(before) = index.checked_sub(1)
                && !is_found(index)
                && is_found(before)
            {
                index = before;
            }
            let expected = expected.trim_start_matches("Expected: ").trim_start_matches("Expected ");
            let expected = expected.trim_start_matches("expected ");
            let literal = !expected.chars().any(|c| c.is_lowercase() || c == ' ');
            let expected = if literal { format!("`{expected}`") } else { lower_first(expected) };
            let found = if found == "EOF" { "the end of the statement".to_string() } else { format!("`{found}`") };
            format!("expected {expected}, found {found}")
        }
        None if message.to_lowercase().starts_with("no infix parser") => {
            let token = tokens.token(index).map_or_else(|| "the end".to_string(), |t| format!("`{t}`"));
            format!("{token} cannot stand after an expression")
        }
        None => lower_first(message),
    };
    let problem = Problem::new(code::SYNTAX, message).label(tokens.place(index).label("here"));
    let after_comma = || index.checked_sub(1).and_then(|i| tokens.token(i)) == Some(&Token::Comma);
    match near_miss(tokens, index) {
        Some(help) => problem.help(help),
        None if after_comma() => problem.help("leave out the comma before it"),
        None => problem.help("`docs/sql.md` describes the dialect"),
    }
}

/// Clauses of other systems at which sqlparser stops, refused by name.
pub(crate) fn foreign(tokens: &Tokens, index: usize) -> Option<Problem> {
    let word = |i: Option<usize>| i.and_then(|i| tokens.word(i));
    let symbol = |i: Option<usize>, symbol: &Token| i.and_then(|i| tokens.token(i)) == Some(symbol);
    let before = index.checked_sub(1);
    let two_before = index.checked_sub(2);
    let (first, shown, help) = match word(Some(index)).as_deref() {
        Some("PARTITION") => (index, "PARTITION (…)", "write a condition in `WHERE`"),
        Some("INDEX" | "KEY") if matches!(word(before).as_deref(), Some("USE" | "IGNORE" | "FORCE")) => {
            (before?, "an index hint", "leave the hint out")
        }
        Some("AT") => (index, "an alias with `AT`", "number the rows with `row_number() OVER (ORDER BY …)`"),
        Some("MATERIALIZED") => (index, "MATERIALIZED", "leave it out; the optimizer decides"),
        Some("NOT") if word(Some(index + 1)).as_deref() == Some("MATERIALIZED") => {
            (index, "NOT MATERIALIZED", "leave it out; the optimizer decides")
        }
        _ if word(before).as_deref() == Some("STRUCT") && word(two_before).as_deref() == Some("AS") => {
            (two_before?, "AS STRUCT", "write `named_struct('a', a, …)`")
        }
        _ if word(before).as_deref() == Some("VALUE") && word(two_before).as_deref() == Some("AS") => {
            (two_before?, "AS VALUE", "select the value itself")
        }
        _ if word(before).as_deref() == Some("SELECT") && symbol(two_before, &Token::LParen) => (
            before?,
            "a query as a function's only argument",
            "write the query in parentheses of its own: `f((SELECT …))`",
        ),
        _ if symbol(Some(index), &Token::LParen) && symbol(before, &Token::RParen) => {
            (index, "a second list of arguments", "give all arguments in one list")
        }
        _ => return None,
    };
    Some(not_part(shown, help).label(tokens.stretch(first, index + 1).label("nothing reads this")))
}

/// `… is not part of the dialect`: words of SQL in backticks, descriptions without.
pub(crate) fn not_part(shown: &str, help: &str) -> Problem {
    let described = shown.starts_with(|c: char| c.is_lowercase());
    let message = if described {
        format!("{shown} is not part of the dialect")
    } else {
        format!("`{shown}` is not part of the dialect")
    };
    Problem::new(code::CLAUSE, message).help(help)
}

fn split_location(text: &str) -> (&str, Option<(u64, u64)>) {
    let parse = || {
        let (message, rest) = text.rsplit_once(" at Line: ")?;
        let (line, column) = rest.split_once(", Column: ")?;
        Some((message, (line.parse().ok()?, column.parse().ok()?)))
    };
    parse().map_or((text, None), |(message, location)| (message, Some(location)))
}

/// Clause words that a misspelt word may stand for.
const WORDS: &[&str] = &[
    "SELECT",
    "DISTINCT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "WINDOW",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "CROSS",
    "USING",
    "VERSION",
    "TIMESTAMP",
    "QUALIFY",
    "EXPLAIN",
    "LINEAGE",
    "POLICY",
    "ANALYZE",
    "PREPARE",
    "EXECUTE",
    "CREATE",
    "SOURCE",
    "FEATURE",
    "BETWEEN",
    "PARTITION",
];

/// `did you mean …` for the word at `index` or the one before it, which an alias may have swallowed.
pub(crate) fn near_miss(tokens: &Tokens, index: usize) -> Option<String> {
    [Some(index), index.checked_sub(1), index.checked_sub(2)].into_iter().flatten().find_map(|i| {
        let word = tokens.word(i)?;
        closest(&word, WORDS).filter(|w| *w != word).map(|w| format!("did you mean `{w}`?"))
    })
}

/// The candidate at edit distance one, or two for long words, swaps counting one; none for words already right.
pub(crate) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_uppercase();
    if candidates.iter().any(|c| *c == word) || word.len() < 3 || word.len() > 64 {
        return None;
    }
    candidates
        .iter()
        .map(|c| (distance(&word, c), *c))
        .filter(|(d, c)| *d <= if c.len() >= 6 { 2 } else { 1 })
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}
