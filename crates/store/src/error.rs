//! What can go wrong with bytes and files, and what to do about it.
//!
//! Messages name files, columns, rows and types. They never hold a value: an error text travels further than the data.

use arrow::datatypes::DataType;
use custody_model::{Hash, Problem};
use datafusion::error::DataFusionError;

/// An error of the store. The first digit of [`StoreError::code`] is the caller's next move: fix the input (1), look at
/// damaged data (4), look for something else (6), try again (7).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A warehouse location that this binary cannot open.
    #[error("`{location}` cannot be a warehouse: {why}")]
    Location {
        /// As given.
        location: String,
        /// Why not.
        why: String,
    },
    /// A column of a type that versions cannot hold.
    #[error("column `{column}` has type `{data_type}`, which versions cannot hold")]
    Type {
        /// The column.
        column: String,
        /// Its type.
        data_type: DataType,
        /// The type to cast to, in SQL.
        cast: &'static str,
    },
    /// A value that does not fit the type that stands in for its own.
    #[error("column `{column}` holds a value that does not fit `{target}`")]
    Overflow {
        /// The column.
        column: String,
        /// The type it becomes.
        target: DataType,
    },
    /// Rows that are not of the declared columns.
    #[error("the rows have {found}, the version declares {declared}")]
    Columns {
        /// What the rows have.
        found: String,
        /// What was declared.
        declared: String,
    },
    /// A NULL where the version declares none.
    #[error("column `{column}` is declared NOT NULL and holds NULL in row {row}")]
    Null {
        /// The column.
        column: String,
        /// From 1, in published order.
        row: u64,
    },
    /// Rows out of order.
    #[error("row {row} sorts before its predecessor: versions are written in the order of their keys and times")]
    Order {
        /// From 1, in published order.
        row: u64,
    },
    /// More than the format can count.
    #[error("{what} of column `{column}` exceed what a block of a version can hold")]
    TooLarge {
        /// The column.
        column: String,
        /// What is too large.
        what: &'static str,
    },
    /// A url that sources may not read.
    #[error("source `{url}` lies outside the folders that sources may read")]
    NotAllowed {
        /// As declared, or the file below it that leads elsewhere.
        url: String,
    },
    /// A url that cannot be a source.
    #[error("source `{url}` cannot be read: {why}")]
    Source {
        /// As declared.
        url: String,
        /// Why not.
        why: String,
    },
    /// A source file without a declared column.
    #[error("source file `{file}` has no column `{column}`")]
    MissingColumn {
        /// Below the source's url.
        file: String,
        /// The declared column.
        column: String,
    },
    /// A source file whose column has another type than declared.
    #[error("column `{column}` of source file `{file}` has type `{found}`, declared is `{declared}`")]
    OtherType {
        /// Below the source's url.
        file: String,
        /// The column.
        column: String,
        /// In the file.
        found: DataType,
        /// In the declaration.
        declared: DataType,
    },
    /// A NULL in a source's NOT NULL column.
    #[error("column `{column}` of source file `{file}` is declared NOT NULL and holds NULL{}", at_row(*.row))]
    SourceNull {
        /// Below the source's url.
        file: String,
        /// The column.
        column: String,
        /// From 1 without the header, where rows were read from the first on.
        row: Option<u64>,
    },
    /// A source value that is not of the declared type.
    #[error("column `{column}` of source file `{file}` holds a value that is not a `{declared}`{}", at_row(*.row))]
    SourceValue {
        /// Below the source's url.
        file: String,
        /// The column.
        column: String,
        /// In the declaration.
        declared: DataType,
        /// From 1 without the header, where rows were read from the first on.
        row: Option<u64>,
    },
    /// A source file that is not of its format.
    #[error("source file `{file}` is not valid {format}{}", at_row(*.row))]
    SourceFormat {
        /// Below the source's url.
        file: String,
        /// `CSV`, `JSON`, `PARQUET`.
        format: &'static str,
        /// About which row, from 1 without the header.
        row: Option<u64>,
    },
    /// A source file that changed between its snapshot and the end of the read.
    #[error("source file changed while it was read: `{file}`")]
    SourceChanged {
        /// Below the source's url.
        file: String,
    },
    /// Files of a recorded Delta version are gone.
    #[error("source `{name}` lost files of version {version}")]
    SourceLost {
        /// The dataset's name.
        name: String,
        /// The Delta version.
        version: u64,
    },
    /// No version at this place.
    #[error("no version `{identity}` in `{path}`")]
    NoVersion {
        /// The identity looked for.
        identity: Hash,
        /// The folder.
        path: String,
    },
    /// A place that holds a committed version where none may be.
    #[error("`{path}` holds a version")]
    Committed {
        /// The folder.
        path: String,
    },
    /// Stored bytes that are not what was written.
    #[error("`{path}` is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// In which way.
        what: String,
    },
    /// The disk or the object store refused.
    #[error("{step} `{path}` failed: {source}")]
    Io {
        /// What was being done: `writing`, `reading`, `listing`, `syncing`.
        step: &'static str,
        /// To which file.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn at_row(row: Option<u64>) -> String {
    row.map(|row| format!(" in row {row}")).unwrap_or_default()
}

impl StoreError {
    /// An I/O error with its step and path.
    pub(crate) fn io(
        step: &'static str,
        path: impl ToString,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Io { step, path: path.to_string(), source: source.into() }
    }

    /// The stable code: `C1xxx` input, `C4xxx` integrity, `C6xxx` not found, `C7xxx` try again.
    pub fn code(&self) -> u16 {
        match self {
            Self::Location { .. } => 1701,
            Self::Type { .. } => 1702,
            Self::Overflow { .. } => 1703,
            Self::Columns { .. } => 1704,
            Self::Null { .. } => 1705,
            Self::Order { .. } => 1706,
            Self::TooLarge { .. } => 1707,
            Self::NotAllowed { .. } => 1710,
            Self::Source { .. } => 1711,
            Self::MissingColumn { .. } => 1712,
            Self::OtherType { .. } => 1713,
            Self::SourceNull { .. } => 1714,
            Self::SourceValue { .. } => 1715,
            Self::SourceFormat { .. } => 1716,
            Self::Committed { .. } => 1720,
            Self::SourceLost { .. } => 4701,
            Self::Damaged { .. } => 4702,
            Self::NoVersion { .. } => 6701,
            Self::SourceChanged { .. } => 7701,
            Self::Io { .. } => 7702,
        }
    }

    /// The next step, where there is one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Location { .. } => Some("give a folder of this machine".into()),
            Self::Type { column, cast, .. } => Some(format!("write `CAST({column} AS {cast})`")),
            Self::Overflow { column, .. } => Some(format!("cast `{column}` to a type that holds its values")),
            Self::Columns { .. } | Self::Order { .. } | Self::TooLarge { .. } | Self::NoVersion { .. } => None,
            Self::Null { column, .. } => Some(format!("filter with `{column} IS NOT NULL`, or declare it nullable")),
            Self::NotAllowed { .. } => Some(
                "put the files under the warehouse's `raw/` or the project's folder, or name theirs in `sources.allow`"
                    .into(),
            ),
            Self::Source { .. } => None,
            Self::MissingColumn { .. } | Self::OtherType { .. } => {
                Some("declare the columns as the files have them in `CREATE SOURCE`".into())
            }
            Self::SourceNull { column, .. } => {
                Some(format!("declare `{column}` without NOT NULL, or correct the file"))
            }
            Self::SourceValue { .. } | Self::SourceFormat { .. } => Some("correct the file".into()),
            Self::SourceChanged { .. } => Some("run again: a new snapshot will be taken".into()),
            Self::SourceLost { .. } => Some("restore the files, or take a new snapshot by `custody run`".into()),
            Self::Committed { .. } => None,
            Self::Damaged { .. } => Some("run `custody verify`".into()),
            Self::Io { .. } => Some("nothing became visible; correct the cause and run the command again".into()),
        }
    }

    /// As the noun that crosses the doors.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.code(), self.to_string());
        match self.help() {
            Some(help) => problem.help(help),
            None => problem,
        }
    }

    /// The store's error inside one of DataFusion's, where there is one.
    pub fn inside(error: &DataFusionError) -> Option<&Self> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            if let Some(DataFusionError::External(inner)) = error.downcast_ref::<DataFusionError>()
                && let Some(found) = inner.downcast_ref::<Self>()
            {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl From<StoreError> for DataFusionError {
    fn from(error: StoreError) -> Self {
        Self::External(Box::new(error))
    }
}
