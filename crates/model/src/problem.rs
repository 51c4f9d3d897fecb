//! The one error noun that crosses the doors, and the text it points into.

use crate::EntryRef;
use std::{fmt, path::PathBuf};

/// A stable error code, `C` and four digits; the first digit is the exit code of the command line, the first two
/// name the crate that defines it. `docs/errors.md` lists all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl Code {
    /// The exit code: the first digit.
    pub fn exit_code(self) -> u8 {
        (self.0 / 1000) as u8
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A place in a text: line and column, both from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// A stretch of the text with what is to be said about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// First character.
    pub start: Position,
    /// One past the last character.
    pub end: Position,
    /// What is to be said.
    pub text: String,
}

/// What went wrong, where, and what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable code.
    pub code: Code,
    /// Lower case, no full stop, user text in backticks.
    pub message: String,
    /// The next step.
    pub help: Option<String>,
    /// Places in the source.
    pub labels: Vec<Label>,
    /// The text the labels point into, where it is a file.
    pub file: Option<String>,
    /// The ledger entry that recorded it.
    pub entry: Option<EntryRef>,
    /// Further problems of the same input.
    pub related: Vec<Problem>,
}

impl Problem {
    /// A problem with a code and a message.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self {
            code: Code(code),
            message: message.into(),
            help: None,
            labels: vec![],
            file: None,
            entry: None,
            related: vec![],
        }
    }

    /// What cannot happen unless Custody itself is wrong. Every crate says it with this one code.
    pub fn bug(what: impl fmt::Display) -> Self {
        Self::new(1900, format!("this is a bug in custody: {what}")).help("please report it with what was asked")
    }

    /// Adds the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a place.
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.labels.push(label);
        self
    }

    /// Names the file that the labels point into.
    #[must_use]
    pub fn file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A text with the name to show for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceText {
    /// A path relative to the project, `-c`, `<statement>`.
    pub name: String,
    /// Where it was read from, if a file.
    pub path: Option<PathBuf>,
    /// The text.
    pub text: String,
}

impl SourceText {
    /// A text that came from no file.
    pub fn inline(text: impl Into<String>) -> Self {
        Self { name: "<statement>".into(), path: None, text: text.into() }
    }

    /// A text read from a file.
    pub fn file(name: impl Into<String>, path: PathBuf, text: impl Into<String>) -> Self {
        Self { name: name.into(), path: Some(path), text: text.into() }
    }
}
