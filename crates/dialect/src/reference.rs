//! What a table factor names: a dataset, at which version.

use crate::Place;
use custody_model::{DatasetName, Pin, Position, WallMicros};
use sqlparser::ast;

/// A dataset named in a `FROM`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Which dataset.
    pub name: DatasetName,
    /// At which version.
    pub pin: Pin,
    /// First character of the name.
    pub start: Position,
    /// One past the last character of the name.
    pub end: Position,
}

impl Reference {
    /// Where the name stands.
    pub fn place(&self) -> Place {
        Place { start: self.start, end: self.end }
    }
}

/// An identifier as this dialect reads it: in lower case unless quoted.
pub(crate) fn plain(ident: &ast::Ident) -> String {
    if ident.quote_style.is_none() { ident.value.to_ascii_lowercase() } else { ident.value.clone() }
}

/// Why a name or pin cannot be read: a message and a help.
pub(crate) struct Unreadable {
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// What an object name in a `FROM` may be.
pub(crate) enum Named {
    /// One part: a `WITH` name, or a table function.
    Bare(String),
    /// `schema.name`, or `system.schema.name`.
    Dataset(DatasetName),
}

const NAME_HELP: &str =
    "a dataset is named `schema.name` in lower-case letters, digits and `_`; system tables `system.schema.name`";

pub(crate) fn named(name: &ast::ObjectName) -> Result<Named, Unreadable> {
    let unreadable = || Unreadable { message: format!("`{name}` is not a dataset name"), help: NAME_HELP };
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| match part {
            ast::ObjectNamePart::Identifier(ident) => Some(plain(ident)),
            ast::ObjectNamePart::Function(_) => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(unreadable)?;
    match parts.as_slice() {
        [name] => Ok(Named::Bare(name.clone())),
        [schema, name] => DatasetName::new(schema, name).map(Named::Dataset).map_err(|_| unreadable()),
        [system, schema, name] if system == "system" => {
            DatasetName::new(&format!("system.{schema}"), name).map(Named::Dataset).map_err(|_| unreadable())
        }
        _ => Err(unreadable()),
    }
}

pub(crate) const BARE_HELP: &str = "write `schema.name`, such as `features.x`, or define the name with `WITH`";

/// The pin of a table factor. `None` for a version clause that is not part of the dialect.
pub(crate) fn pin(version: Option<&ast::TableVersion>) -> Option<Result<Pin, Unreadable>> {
    match version {
        None => Some(Ok(Pin::Newest)),
        Some(ast::TableVersion::VersionAsOf(expr)) => Some(version_number(expr)),
        Some(ast::TableVersion::TimestampAsOf(expr)) => Some(timestamp(expr)),
        Some(
            ast::TableVersion::ForSystemTimeAsOf(_)
            | ast::TableVersion::Function(_)
            | ast::TableVersion::Changes { changes: _, at: _, end: _ },
        ) => None,
    }
}

fn version_number(expr: &ast::Expr) -> Result<Pin, Unreadable> {
    let number = match expr {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(digits, _), span: _ }) => {
            digits.replace('_', "").parse().ok()
        }
        _ => None,
    };
    number
        .map(Pin::Version)
        .ok_or_else(|| Unreadable { message: format!("`{expr}` is not a version number"), help: "write `VERSION 5`" })
}

fn timestamp(expr: &ast::Expr) -> Result<Pin, Unreadable> {
    let literal = match expr {
        ast::Expr::Value(value) => Some(value),
        ast::Expr::TypedString(ast::TypedString {
            data_type: ast::DataType::Timestamp(None, ast::TimezoneInfo::None),
            value,
            uses_odbc_syntax: false,
        }) => Some(value),
        _ => None,
    };
    let micros = match literal {
        Some(ast::ValueWithSpan { value: ast::Value::SingleQuotedString(text), span: _ }) => parse_timestamp(text),
        _ => None,
    };
    micros.map(Pin::At).ok_or_else(|| Unreadable {
        message: format!("`{expr}` is not a point in time"),
        help: "write `TIMESTAMP AS OF '2026-01-31T12:00:00Z'`; without a zone it is UTC",
    })
}

/// RFC 3339, or a date with an optional time in UTC.
pub(crate) fn parse_timestamp(text: &str) -> Option<WallMicros> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(WallMicros(time.timestamp_micros()));
    }
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
        .map(|time| WallMicros(time.and_utc().timestamp_micros()))
}
