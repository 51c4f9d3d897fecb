//! A subject on a warehouse, and what it may ask for.

use crate::Engine;
use custody_catalog::Catalog;
use custody_dialect::GatedQuery;
use custody_model::{DatasetName, Declassification, EntryId, Hash, Pin, Problem, SourceText, Subject, Verb, WallNanos};
use custody_policy::{Bundle, enforce};
use datafusion::common::ParamValues;
use std::sync::Arc;

/// One subject's view of a warehouse. Cheap to make; holds nothing that outlives a policy change.
#[derive(Clone)]
pub struct Session {
    pub(crate) engine: Arc<Engine>,
    pub(crate) subject: Arc<Subject>,
    pub(crate) then: Option<Arc<Then>>,
    /// What its reads are for.
    pub(crate) prediction: Option<Arc<str>>,
}

/// What a recorded act was decided by.
pub(crate) struct Then {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) epoch: u64,
    /// When.
    pub(crate) wall: WallNanos,
}

/// What a caller asks to read.
#[derive(Clone, Debug)]
pub enum ReadRequest {
    /// A SQL statement.
    Sql {
        /// Its text.
        text: SourceText,
        /// Values of its placeholders.
        parameters: Option<ParamValues>,
        /// The entry this read follows: a ticket's.
        follows: Option<EntryId>,
    },
    /// The rows of one dataset version, by name.
    Dataset {
        /// Which dataset.
        name: DatasetName,
        /// Which version.
        pin: Pin,
        /// Which columns, in this order; none: all that the subject may see.
        columns: Vec<String>,
        /// The entry this read follows: a ticket's.
        follows: Option<EntryId>,
    },
}

impl ReadRequest {
    /// A SQL statement without parameters.
    pub fn sql(text: impl Into<String>) -> Self {
        Self::Sql { text: SourceText::inline(text), parameters: None, follows: None }
    }

    /// All visible columns of a dataset.
    pub fn dataset(name: DatasetName, pin: Pin) -> Self {
        Self::Dataset { name, pin, columns: vec![], follows: None }
    }

    /// Says which entry this read follows.
    #[must_use]
    pub fn following(mut self, entry: Option<EntryId>) -> Self {
        match &mut self {
            Self::Sql { follows, .. } | Self::Dataset { follows, .. } => *follows = entry,
        }
        self
    }

    pub(crate) fn verb(&self) -> Verb {
        match self {
            Self::Sql { .. } => Verb::Read,
            Self::Dataset { .. } => Verb::Serve,
        }
    }

    pub(crate) fn follows(&self) -> Option<EntryId> {
        match self {
            Self::Sql { follows, .. } | Self::Dataset { follows, .. } => *follows,
        }
    }

    /// The request as text, for the sealed statement of its entry.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Sql { text, .. } => text.text.clone(),
            Self::Dataset { name, pin, columns, .. } => {
                let version = match pin {
                    Pin::Newest => String::new(),
                    Pin::Version(n) => format!("@{n}"),
                    Pin::At(t) => format!("@{}us", t.0),
                };
                format!("{name}{version} {}", columns.join(",")).trim_end().to_string()
            }
        }
    }

    /// The hash of the request with literals as `?`. A text that does not parse is hashed without its literals as
    /// far as it can be tokenised, so that no value can be found by guessing.
    pub(crate) fn statement_hash(&self) -> Option<Hash> {
        match self {
            Self::Sql { text, .. } => Some(crate::hash_text(&custody_dialect::normalise(&text.text)?)),
            Self::Dataset { .. } => Some(crate::hash_text(&self.text())),
        }
    }

    /// Names the request mentions, as far as it can be parsed.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            Self::Sql { text, .. } => self
                .query(text)
                .map(|q| q.references().iter().map(|r| r.name.to_string()).collect())
                .unwrap_or_default(),
            Self::Dataset { name, .. } => vec![name.to_string()],
        }
    }

    fn query(&self, text: &SourceText) -> Option<GatedQuery> {
        let mut statements = custody_dialect::parse(text).ok()?;
        match statements.pop()?.value {
            custody_dialect::Statement::Query(q) | custody_dialect::Statement::Explain(_, q) => Some(q),
            _ => None,
        }
    }
}

impl Session {
    /// Who this is.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The same subject, whose reads are for one prediction: their entries say so.
    pub fn for_prediction(mut self, id: &str) -> Result<Self, Problem> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
        if id.is_empty() || id.len() > 128 || !id.bytes().all(plain) {
            return Err(Problem::new(1158, "not a prediction's id")
                .help("1 to 128 letters, digits and `-_.:/`; it is recorded in clear, so name no person by it"));
        }
        self.prediction = Some(id.into());
        Ok(self)
    }

    /// The catalog that names are resolved in: the newest, or that of a recorded act.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.then.as_ref().map_or_else(|| self.engine.catalog(), |then| Arc::clone(&then.catalog))
    }

    /// The policies that decide: the active ones, or those of a recorded act.
    pub(crate) fn bundle(&self) -> Option<Arc<Bundle>> {
        self.then.as_ref().map_or_else(|| self.engine.bundle(), |then| Some(Arc::clone(&then.bundle)))
    }

    /// The rules of those policies that lower classes.
    pub(crate) fn declassifications(&self) -> Vec<Declassification> {
        match &self.then {
            Some(then) => then.bundle.declassifications(then.epoch),
            None => self.engine.declassifications(),
        }
    }

    /// Roles by claim and by this warehouse's own records.
    pub(crate) fn holds(&self, role: &str) -> bool {
        self.subject.roles.contains(role)
            || self.engine.catalog().warehouse_roles(&self.subject.principal).contains(role)
    }

    pub(crate) fn needs(&self, role: &str) -> Result<(), Problem> {
        if !enforce!("session.role", !self.holds(role)) {
            Ok(())
        } else {
            Err(Problem::new(3101, format!("this needs role `{role}`")).help(format!(
                "`{}` holds {}",
                self.subject.principal,
                words(&self.subject.roles)
            )))
        }
    }
}

fn words(roles: &std::collections::BTreeSet<String>) -> String {
    if roles.is_empty() {
        return "no role".into();
    }
    roles.iter().map(|r| format!("`{r}`")).collect::<Vec<_>>().join(", ")
}
