//! Places in policy files, and what is wrong at them.

use custody_model::{Label, Position, Problem};
use sqlparser::tokenizer::Span;

/// The text is not of the language.
pub(crate) const SYNTAX: u16 = 1601;
/// A name that is not known, or not declared.
pub(crate) const NAME: u16 = 1602;
/// The same thing twice, or two things that disagree.
pub(crate) const CONFLICT: u16 = 1603;
/// A value, column or mask of the wrong type.
pub(crate) const TYPES: u16 = 1604;
/// Of the language, but not allowed in a bundle.
pub(crate) const FORM: u16 = 1605;

/// A stretch of a policy file; columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) start: Position,
    pub(crate) end: Position,
}

impl Place {
    /// From sqlparser, whose columns count characters from 1 and whose ends are exclusive.
    pub(crate) fn of(span: Span) -> Self {
        let position = |l: sqlparser::tokenizer::Location| Position { line: l.line, column: l.column };
        Self { start: position(span.start), end: position(span.end) }
    }

    /// From byte offsets into a text.
    pub(crate) fn bytes(text: &str, start: usize, end: usize) -> Self {
        Self { start: position_at(text, start), end: position_at(text, end.max(start)) }
    }

    /// Whether sqlparser knew it: it marks unknown places with line 0.
    fn known(self) -> bool {
        self.start.line > 0 && self.end.line > 0
    }
}

fn position_at(text: &str, offset: usize) -> Position {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    Position { line: 1 + before.matches('\n').count() as u64, column: 1 + before[line_start..].chars().count() as u64 }
}

/// Something wrong at a place of the file at hand.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Fault {
    pub(crate) code: u16,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) at: Option<Place>,
}

impl Fault {
    pub(crate) fn new(code: u16, message: impl Into<String>, at: Place) -> Self {
        Self { code, message: message.into(), help: None, at: Some(at) }
    }

    pub(crate) fn syntax(message: impl Into<String>, at: Place) -> Self {
        Self::new(SYNTAX, message, at)
    }

    pub(crate) fn name(message: impl Into<String>, at: Place) -> Self {
        Self::new(NAME, message, at)
    }

    pub(crate) fn conflict(message: impl Into<String>, at: Place) -> Self {
        Self::new(CONFLICT, message, at)
    }

    pub(crate) fn types(message: impl Into<String>, at: Place) -> Self {
        Self::new(TYPES, message, at)
    }

    pub(crate) fn form(message: impl Into<String>, at: Place) -> Self {
        Self::new(FORM, message, at)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The problem in this file.
    pub(crate) fn problem(self, file: &str) -> Problem {
        let mut problem = Problem::new(self.code, self.message).file(file);
        problem.help = self.help;
        if let Some(at) = self.at.filter(|at| at.known()) {
            problem = problem.label(Label { start: at.start, end: at.end, text: "here".into() });
        }
        problem
    }
}
