//! Names of datasets.

use std::{fmt, str::FromStr};

/// `schema.name`: the same text in SQL, Cedar ids, ledger and system tables.
/// System tables live in schemas `system.catalog`, `system.access`, …: their schema part keeps the catalog.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName {
    schema: String,
    name: String,
}

/// Text that is not a dataset name.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a dataset name: expected `schema.name`, each of letters, digits and `_`, not starting with a digit"
)]
pub struct BadName(pub String);

fn is_identifier(part: &str) -> bool {
    let mut bytes = part.bytes();
    part.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl DatasetName {
    /// Checks both parts: lower-case ASCII letters, digits and `_`. The schema may hold one dot (`system.access`).
    pub fn new(schema: &str, name: &str) -> Result<Self, BadName> {
        if is_identifier(name) && schema.split('.').count() <= 2 && schema.split('.').all(is_identifier) {
            Ok(Self { schema: schema.to_string(), name: name.to_string() })
        } else {
            Err(BadName(format!("{schema}.{name}")))
        }
    }

    /// `features` of `features.x`; `system.access` of `system.access.audit`.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// `x` of `features.x`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is a table of the catalog `system`.
    pub fn is_system(&self) -> bool {
        self.schema.starts_with("system.")
    }
}

impl FromStr for DatasetName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (schema, name) = text.rsplit_once('.').ok_or_else(|| BadName(text.to_string()))?;
        Self::new(schema, name)
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
