//! Tests of policies as text: who reads, and what they are expected to get.
//!
//! ```text
//! as researcher                                  # a declared stand-in …
//! as role=research purpose=research @region=eu   # … or claims, or both: claims win
//!
//! raw.patients
//!   name, national_id   token
//!   birth_date          partial year
//!   *                   raw
//!   rows                region = 'eu' AND (consent IS TRUE)
//!   may                 nothing
//! raw.labs not found
//! ```
//!
//! What holds here: a line that does not read is refused with its place; nothing that is written is passed over.

use crate::{
    explain::rows_text,
    grant::Grant,
    mask,
    place::{Fault, NAME, Place, SYNTAX},
};
use custody_model::{DatasetName, Position, Problem, Rung};
use std::collections::{BTreeMap, BTreeSet};

/// The code of an expectation that does not hold.
const UNMET: u16 = 1606;

/// Who reads, and what they are expected to get.
#[derive(Clone, PartialEq, Debug)]
pub struct Reader {
    /// Its line, as written after `as`.
    pub text: String,
    /// The declared stand-in that it starts from.
    pub stand_in: Option<String>,
    /// What it claims.
    pub claims: Claims,
    /// What it is expected to get, by dataset, in order.
    pub expected: Vec<Expected>,
    at: Place,
}

/// Claims that a line gives; what it does not name stays as it was.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Claims {
    /// `principal`, `kind`, `purpose`, `environment`, `stage`, `model`, by name.
    pub texts: BTreeMap<&'static str, String>,
    /// `role`.
    pub roles: Option<BTreeSet<String>>,
    /// `@name`.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
}

/// What is expected of one dataset.
#[derive(Clone, PartialEq, Debug)]
pub struct Expected {
    /// The dataset.
    pub dataset: DatasetName,
    lines: Vec<Line>,
    at: Place,
}

#[derive(Clone, PartialEq, Debug)]
struct Line {
    what: What,
    at: Place,
}

#[derive(Clone, PartialEq, Debug)]
enum What {
    NotFound,
    /// `None`: every column that no other line names.
    Columns(Option<Vec<(String, Place)>>, Rung, Option<String>),
    Rows(String),
    May(Vec<&'static str>),
}

/// One thing that was expected, and what there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The line of the file, from 1.
    pub line: u64,
    /// A column, `rows`, `may`, or the dataset itself.
    pub what: String,
    /// As expected.
    pub expected: String,
    /// As decided.
    pub got: String,
    /// By which policies.
    pub policies: Vec<String>,
    /// Set where the two differ.
    pub problem: Option<Problem>,
}

const CLAIMS: [&str; 6] = ["principal", "kind", "purpose", "environment", "stage", "model"];
const ACTIONS: [&str; 3] = ["publish", "declassify", "explain_raw"];

/// The readers of a file, or all that is wrong with it.
pub fn read_expectations(file: &str, text: &str) -> Result<Vec<Reader>, Vec<Problem>> {
    let (mut readers, mut faults): (Vec<Reader>, Vec<Fault>) = (vec![], vec![]);
    for (number, line) in (1..).zip(text.lines()) {
        let words = Words::new(line, number);
        let told = match words.rest() {
            rest if rest.is_empty() || rest.starts_with('#') => Ok(()),
            _ if line.starts_with([' ', '\t']) => expectation(words, &mut readers),
            _ => head(words, &mut readers),
        };
        faults.extend(told.err());
    }
    for reader in readers.iter().filter(|_| faults.is_empty()).collect::<Vec<_>>() {
        for expected in reader.expected.iter().filter(|e| e.lines.is_empty()) {
            let fault = Fault::new(SYNTAX, format!("nothing is expected of `{}`", expected.dataset), expected.at);
            faults.push(fault.help("write below it, indented, what a column, `rows` or `may` should be"));
        }
        if reader.expected.is_empty() {
            faults.push(Fault::new(SYNTAX, "nothing is expected of this reader", reader.at));
        }
    }
    faults.sort_by_key(|f| f.at.map(|at| (at.start, at.end)));
    if faults.is_empty() { Ok(readers) } else { Err(faults.into_iter().map(|f| f.problem(file)).collect()) }
}

/// `as …`, or a dataset.
fn head(mut words: Words<'_>, readers: &mut Vec<Reader>) -> Result<(), Fault> {
    let whole = words.here();
    let (first, at) = words.word();
    if first == "as" {
        let (text, start) = (words.rest().to_string(), words.here());
        let (mut stand_in, mut claims) = (None, Claims::default());
        if text.is_empty() {
            return Err(Fault::new(SYNTAX, "expected a stand-in or claims after `as`", at)
                .help("as researcher; as role=research purpose=research @region=eu"));
        }
        while !words.rest().is_empty() {
            let (word, at) = words.word();
            match word.split_once('=') {
                Some((name, value)) => claims.take(name, value, at)?,
                None if stand_in.is_none() && claims == Claims::default() => stand_in = Some(word.to_string()),
                None => {
                    return Err(Fault::new(SYNTAX, format!("expected `name=value`, found `{word}`"), at)
                        .help("several values of one claim stand with commas: @region=eu,us"));
                }
            }
        }
        readers.push(Reader { text, stand_in, claims, expected: vec![], at: start });
        return Ok(());
    }
    let dataset: DatasetName =
        first.parse().map_err(|e: custody_model::BadName| Fault::new(SYNTAX, e.to_string(), at).help(FORM))?;
    let rest = words.here();
    let lines = match words.rest() {
        "" => vec![],
        "not found" => vec![Line { what: What::NotFound, at: rest }],
        other => return Err(Fault::new(SYNTAX, format!("expected `not found` or nothing, found `{other}`"), rest)),
    };
    let Some(reader) = readers.last_mut() else {
        return Err(Fault::new(SYNTAX, "no reader stands above this dataset", whole).help("as researcher"));
    };
    if reader.expected.iter().any(|e| e.dataset == dataset) {
        return Err(Fault::new(SYNTAX, format!("`{dataset}` stands twice under this reader"), at));
    }
    reader.expected.push(Expected { dataset, lines, at });
    Ok(())
}

const FORM: &str =
    "lines are `as READER`, `schema.table`, and indented `COLUMN RUNG [MASK]`, `rows CONDITION`, `may ACTIONS`";

impl Claims {
    fn take(&mut self, name: &str, value: &str, at: Place) -> Result<(), Fault> {
        let values = || value.split(',').filter(|v| !v.is_empty()).map(String::from).collect::<BTreeSet<_>>();
        if let Some(attribute) = name.strip_prefix('@') {
            self.attributes.insert(attribute.to_string(), values());
        } else if name == "role" {
            self.roles = Some(values());
        } else if let Some(claim) = CLAIMS.into_iter().find(|c| *c == name) {
            self.texts.insert(claim, value.to_string());
        } else {
            return Err(Fault::new(NAME, format!("claim `{name}` not found"), at)
                .help(format!("claims are role, {}, and attributes: @{name}={value}", CLAIMS.join(", "))));
        }
        Ok(())
    }
}

/// An indented line.
fn expectation(mut words: Words<'_>, readers: &mut [Reader]) -> Result<(), Fault> {
    let whole = words.here();
    let Some(expected) = readers.last_mut().and_then(|r| r.expected.last_mut()) else {
        return Err(Fault::new(SYNTAX, "no dataset stands above this line", whole).help(FORM));
    };
    if expected.lines.iter().any(|l| l.what == What::NotFound) {
        return Err(Fault::new(SYNTAX, format!("`{}` is expected not to be found", expected.dataset), whole));
    }
    let mut names = vec![];
    loop {
        let (name, at, comma) = words.name()?;
        names.push((name, at));
        if !comma {
            break;
        }
    }
    let what = match names.as_slice() {
        [(name, _)] if name == "rows" => What::Rows(words.rest().to_string()),
        [(name, _)] if name == "may" => What::May(words.actions()?),
        _ => {
            let (word, at) = words.word();
            let Some(rung) = Rung::ALL.into_iter().find(|r| r.word() == word) else {
                return Err(Fault::new(NAME, format!("rung `{word}` not found"), at)
                    .help("rungs are none, aggregate, redact, token, partial and raw"));
            };
            let how = Some(words.rest()).filter(|r| !r.is_empty()).map(squeeze);
            let all = matches!(names.as_slice(), [(star, _)] if star == "*");
            let names = names.into_iter().map(|(name, at)| (name.trim_matches('"').to_string(), at)).collect();
            What::Columns((!all).then_some(names), rung, how)
        }
    };
    expected.lines.push(Line { what, at: whole });
    Ok(())
}

/// What differs in spaces only is alike.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A line, read from the left; places count characters.
struct Words<'a> {
    line: &'a str,
    number: u64,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(line: &'a str, number: u64) -> Self {
        let line = line.trim_end();
        Self { line, number, at: line.len() - line.trim_start().len() }
    }

    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn place(&self, from: usize, to: usize) -> Place {
        let at = |byte: usize| Position {
            line: self.number,
            column: 1 + self.line.get(..byte).unwrap_or(self.line).chars().count() as u64,
        };
        Place { start: at(from), end: at(to.max(from)) }
    }

    /// What is left of the line.
    fn here(&self) -> Place {
        self.place(self.at, self.line.len())
    }

    fn skip(&mut self, bytes: usize) {
        let rest = self.rest().get(bytes..).unwrap_or_default();
        self.at = self.line.len() - rest.trim_start().len();
    }

    fn word(&mut self) -> (&'a str, Place) {
        let rest = self.rest();
        let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let place = self.place(self.at, self.at + length);
        self.skip(length);
        (&rest[..length], place)
    }

    /// A column's name, quoted or not, and whether a comma follows.
    fn name(&mut self) -> Result<(String, Place, bool), Fault> {
        let rest = self.rest();
        let length = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map(|end| end + 2),
            None => Some(rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(rest.len())),
        };
        let Some(length) = length.filter(|l| *l > 0) else {
            return Err(Fault::new(SYNTAX, "expected a column, `rows` or `may`", self.here()).help(FORM));
        };
        let place = self.place(self.at, self.at + length);
        self.skip(length);
        let comma = self.rest().starts_with(',');
        if comma {
            self.skip(1);
        }
        Ok((rest[..length].to_string(), place, comma))
    }

    fn actions(&mut self) -> Result<Vec<&'static str>, Fault> {
        if self.rest() == "nothing" {
            return Ok(vec![]);
        }
        let mut actions = vec![];
        while !self.rest().is_empty() {
            let (word, at) = self.word();
            match ACTIONS.into_iter().find(|a| *a == word) {
                Some(action) => actions.push(action),
                None => {
                    return Err(Fault::new(NAME, format!("action `{word}` not found"), at)
                        .help("actions on tables are publish, declassify and explain_raw; or `nothing`"));
                }
            }
        }
        if actions.is_empty() {
            return Err(Fault::new(SYNTAX, "expected actions, or `nothing`", self.here()));
        }
        Ok(actions)
    }
}

impl Reader {
    /// A refusal that points at this reader's line.
    pub fn refused(&self, file: &str, code: u16, message: impl Into<String>) -> Problem {
        Fault::new(code, message, self.at).problem(file)
    }
}

impl Expected {
    /// A refusal that points at this dataset.
    pub fn refused(&self, file: &str, code: u16, message: impl Into<String>) -> Problem {
        Fault::new(code, message, self.at).problem(file)
    }

    /// Holds a grant against what is expected of it.
    pub fn findings(&self, file: &str, reader: &Reader, grant: &Grant) -> Vec<Finding> {
        let mut findings = vec![];
        let mut find = |at: Place, what: &str, expected: String, got: String, policies: &[String]| {
            let problem = (expected != got).then(|| {
                let of =
                    if what == self.dataset.to_string() { what.into() } else { format!("{}.{what}", self.dataset) };
                let mut fault =
                    Fault::new(UNMET, format!("`{of}` as {}: expected `{expected}`, got `{got}`", reader.text), at);
                if !policies.is_empty() {
                    fault = fault.help(format!("decided by {}", policies.join(", ")));
                }
                fault.problem(file)
            });
            let line = at.start.line;
            findings.push(Finding { line, what: what.into(), expected, got, policies: policies.to_vec(), problem });
        };
        let visible = if grant.visible() { "found" } else { "not found" };
        let named: BTreeSet<&str> = self
            .lines
            .iter()
            .filter_map(|l| if let What::Columns(Some(names), ..) = &l.what { Some(names) } else { None })
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        for Line { what, at } in &self.lines {
            match what {
                What::NotFound => {
                    find(*at, &self.dataset.to_string(), "not found".into(), visible.into(), &grant.policies);
                }
                What::Rows(condition) => {
                    let got = if grant.visible() { rows_text(&grant.rows) } else { "FALSE".into() };
                    find(*at, "rows", squeeze(condition), squeeze(&got), &grant.policies);
                }
                What::May(actions) => {
                    let words = |may: [bool; 3]| {
                        let words: Vec<_> = ACTIONS.into_iter().zip(may).filter(|(_, m)| *m).map(|(a, _)| a).collect();
                        if words.is_empty() { "nothing".into() } else { words.join(" ") }
                    };
                    let got = words([grant.publish, grant.declassify, grant.explain_raw]);
                    find(*at, "may", words(ACTIONS.map(|a| actions.contains(&a))), got, &grant.policies);
                }
                What::Columns(names, rung, how) => {
                    let all: Vec<(String, Place)> = match names {
                        Some(names) => names.clone(),
                        None => {
                            let others = grant.columns.iter().filter(|c| !named.contains(c.name.as_str()));
                            others.map(|c| (c.name.clone(), *at)).collect()
                        }
                    };
                    for (name, at) in all {
                        let Some(column) = grant.columns.iter().find(|c| c.name == name) else {
                            find(at, &name, rung.word().into(), "no such column".into(), &[]);
                            continue;
                        };
                        let mask = column.mask.as_ref().map(|m| squeeze(&mask::describe(m)));
                        let shown = |rung: Rung, how: Option<&String>| match how {
                            Some(how) => format!("{rung} {how}"),
                            None => rung.word().to_string(),
                        };
                        // How it is masked counts where the line says how.
                        let got = mask.as_ref().filter(|_| how.is_some() || column.rung != *rung);
                        find(at, &name, shown(*rung, how.as_ref()), shown(column.rung, got), &column.policies);
                    }
                }
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expect: Expect) {
        let shown = match read_expectations("t.txt", text) {
            Ok(readers) => readers.iter().map(|r| format!("{} {}\n", r.text, r.expected.len())).collect(),
            Err(problems) => problems
                .iter()
                .map(|p| {
                    let at = p.labels.first().map(|l| format!("{}:{}-{}", l.start.line, l.start.column, l.end.column));
                    format!("{} {}: {}\n", p.code, at.unwrap_or_default(), p.message)
                })
                .collect::<String>(),
        };
        expect.assert_eq(&shown);
    }

    #[test]
    fn every_line_is_read_or_refused() {
        check(
            "# nothing\nas x role=a,b @region=eu,us stage=s\na.b\n  c, \"d e\"  token  hmac( … )\n  rows TRUE\n  may nothing\na.c not found\n",
            expect![[r#"
                x role=a,b @region=eu,us stage=s 2
            "#]],
        );
        check(
            "  id raw\n",
            expect![[r#"
            C1601 1:3-9: no dataset stands above this line
        "#]],
        );
        check(
            "a.b\n  id raw\n",
            expect![[r#"
            C1601 1:1-4: no reader stands above this dataset
            C1601 2:3-9: no dataset stands above this line
        "#]],
        );
        check(
            "as x\nas y\na.b\n",
            expect![[r#"
            C1601 1:4-5: nothing is expected of this reader
            C1601 3:1-4: nothing is expected of `a.b`
        "#]],
        );
        check(
            "as\nas x y\nas enviroment=dev\nfoo\n",
            expect![[r#"
                C1601 1:1-3: expected a stand-in or claims after `as`
                C1601 2:6-7: expected `name=value`, found `y`
                C1602 3:4-18: claim `enviroment` not found
                C1601 4:1-4: `foo` is not a dataset name: expected `schema.name`, each of letters, digits and `_`, not starting with a digit
            "#]],
        );
        check(
            "as x\na.b not there\na.c not found\n  id raw\na.c\na.d\n  id rawish\n  , raw\n  \"id raw\n  may read\n  may\n",
            expect![[r#"
                C1601 2:5-14: expected `not found` or nothing, found `not there`
                C1601 4:3-9: `a.c` is expected not to be found
                C1601 5:1-4: `a.c` stands twice under this reader
                C1602 7:6-12: rung `rawish` not found
                C1601 8:3-8: expected a column, `rows` or `may`
                C1601 9:3-10: expected a column, `rows` or `may`
                C1602 10:7-11: action `read` not found
                C1601 11:6-6: expected actions, or `nothing`
            "#]],
        );
    }
}
