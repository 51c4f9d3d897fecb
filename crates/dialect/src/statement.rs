//! The statements of the dialect, after the gate.
//!
//! A definition keeps everything that was declared, executed yet or not, so that the engine can refuse what it
//! cannot honour with the place where it was written. Nothing here is optional because a reader forgot it.

use crate::{Place, code, reference::Reference};
use arrow_schema::DataType;
use custody_model::{DatasetName, Position, Problem, Purpose, WallMicros};
use sqlparser::ast;

/// Something with the text it was written as and where.
#[derive(Clone, PartialEq, Debug)]
pub struct Located<T> {
    /// What it is.
    pub value: T,
    /// Its own source text, without a closing `;`.
    pub text: String,
    /// First character.
    pub start: Position,
    /// One past the last character.
    pub end: Position,
}

impl Located<Statement> {
    /// Why a session refuses it: definitions come from project files only.
    pub fn refused_in_session(&self) -> Option<Problem> {
        self.value.is_definition().then(|| {
            Problem::new(code::STATEMENT, format!("statement `{}` belongs in a project file", self.value.words()))
                .help("save it below `sources/`, `features/` or `views/` and run `custody plan`")
                .label(Place { start: self.start, end: self.end }.label("here"))
        })
    }
}

/// Something small with its place, for carets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed<T> {
    /// What it is.
    pub value: T,
    /// Where it is written.
    pub place: Place,
}

/// One statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// A query.
    Query(GatedQuery),
    /// `EXPLAIN` of a query.
    Explain(ExplainKind, GatedQuery),
    /// `PREPARE name AS query`.
    Prepare(PrepareDef),
    /// `EXECUTE name (…)`.
    Execute(ExecuteDef),
    /// `CREATE SOURCE`.
    Source(Box<SourceDef>),
    /// `CREATE FEATURE VIEW`.
    FeatureView(Box<ViewDef>),
    /// `CREATE TRAINING SET`.
    TrainingSet(Box<TrainingDef>),
    /// `CREATE VIEW`.
    View(Box<PlainViewDef>),
}

impl Statement {
    /// The statement's words: `CREATE SOURCE`.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Query(_) => "SELECT",
            Self::Explain(..) => "EXPLAIN",
            Self::Prepare(_) => "PREPARE",
            Self::Execute(_) => "EXECUTE",
            Self::Source(_) => "CREATE SOURCE",
            Self::FeatureView(_) => "CREATE FEATURE VIEW",
            Self::TrainingSet(_) => "CREATE TRAINING SET",
            Self::View(_) => "CREATE VIEW",
        }
    }

    /// Whether it belongs in a project file only.
    pub fn is_definition(&self) -> bool {
        match self {
            Self::Query(_) | Self::Explain(..) | Self::Prepare(_) | Self::Execute(_) => false,
            Self::Source(_) | Self::FeatureView(_) | Self::TrainingSet(_) | Self::View(_) => true,
        }
    }

    /// The name that a definition defines.
    pub fn defines(&self) -> Option<&Placed<DatasetName>> {
        match self {
            Self::Query(_) | Self::Explain(..) | Self::Prepare(_) | Self::Execute(_) => None,
            Self::Source(def) => Some(&def.name),
            Self::FeatureView(def) => Some(&def.name),
            Self::TrainingSet(def) => Some(&def.name),
            Self::View(def) => Some(&def.name),
        }
    }

    /// Every dataset that it reads.
    pub fn references(&self) -> Vec<&Reference> {
        let features = match self {
            Self::TrainingSet(def) => def.features.as_slice(),
            _ => &[],
        };
        let inner = self.query().map(GatedQuery::references).unwrap_or_default();
        inner.iter().chain(features.iter().map(|f| &f.reference)).collect()
    }

    /// The query inside.
    pub fn query(&self) -> Option<&GatedQuery> {
        match self {
            Self::Query(query) | Self::Explain(_, query) => Some(query),
            Self::Prepare(def) => Some(&def.query),
            Self::FeatureView(def) => Some(&def.query),
            Self::TrainingSet(def) => Some(&def.spine),
            Self::View(def) => Some(&def.query),
            Self::Execute(_) | Self::Source(_) => None,
        }
    }
}

/// What to explain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExplainKind {
    /// `EXPLAIN`: the plan down to the barriers.
    Plan,
    /// `EXPLAIN ANALYZE`: the same with measurements.
    Analyze,
    /// `EXPLAIN LINEAGE`.
    Lineage,
    /// `EXPLAIN POLICY`.
    Policy,
}

/// A query of which every clause has a reader. Only the gate makes one.
#[derive(Clone, PartialEq, Debug)]
pub struct GatedQuery {
    pub(crate) ast: ast::Query,
    pub(crate) references: Vec<Reference>,
    pub(crate) functions: Vec<FunctionCall>,
    pub(crate) text: String,
    pub(crate) normalised: String,
    pub(crate) place: Place,
}

impl GatedQuery {
    /// Every dataset that a `FROM` names, anywhere in the query, in the order of the text.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Every function called, in the order of the text, table functions included.
    pub fn functions(&self) -> &[FunctionCall] {
        &self.functions
    }

    /// Modifiers of calls that DataFusion would drop, given what each function is. Names that are no function are
    /// left to the planner.
    pub fn dropped_modifiers(&self, kind: impl Fn(&str) -> Option<FunctionKind>) -> Vec<Problem> {
        dropped_modifiers(&self.functions, kind)
    }

    /// The syntax tree. Its pins are in the table factors: plan it with [`crate::Relations`].
    pub fn ast(&self) -> &ast::Query {
        &self.ast
    }

    /// The syntax tree. Its pins are in the table factors: plan it with [`crate::Relations`].
    pub fn into_ast(self) -> ast::Query {
        self.ast
    }

    /// The query as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Literals as `?`, one space between tokens, words in lower case: what the statement hash is taken over.
    pub fn text_normalised(&self) -> String {
        self.normalised.clone()
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// Modifiers of calls that DataFusion would drop, given what each function is. Names that are no function are left to
/// the planner.
pub fn dropped_modifiers(calls: &[FunctionCall], kind: impl Fn(&str) -> Option<FunctionKind>) -> Vec<Problem> {
    let mut problems = vec![];
    for call in calls.iter().filter(|call| !call.in_from) {
        let (kept, noun): (&[&str], &str) = match kind(&call.name) {
            Some(FunctionKind::Scalar) => (&[], "scalar function"),
            Some(FunctionKind::Window) => (&["OVER", "IGNORE NULLS"], "window function"),
            Some(FunctionKind::Aggregate) | None => continue,
        };
        for modifier in call.modifiers.iter().filter(|m| !kept.contains(m)) {
            problems.push(
                Problem::new(code::CLAUSE, format!("`{modifier}` has no meaning for {noun} `{}`", call.name))
                    .help("leave it out")
                    .label(call.place.label("in this call")),
            );
        }
    }
    problems
}

/// A function call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionCall {
    /// In lower case.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// Whether it stands in `FROM`.
    pub in_from: bool,
    /// Parts of the call that DataFusion reads for some kinds of functions and drops for others: `DISTINCT`, `FILTER`,
    /// `OVER`, `WITHIN GROUP`, `ORDER BY`, `IGNORE NULLS`. See [`GatedQuery::dropped_modifiers`].
    pub modifiers: Vec<&'static str>,
}

/// What kind of function a name is, as far as modifiers of its call go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FunctionKind {
    /// One value per row.
    Scalar,
    /// One value per group, also over windows.
    Aggregate,
    /// Over windows only.
    Window,
}

/// `PREPARE name [(type, …)] AS query`.
#[derive(Clone, PartialEq, Debug)]
pub struct PrepareDef {
    /// In lower case.
    pub name: Placed<String>,
    /// Types of `$1`, `$2`, …, where given.
    pub parameters: Vec<DataType>,
    /// The query.
    pub query: GatedQuery,
}

/// `EXECUTE name [(literal, …)]`.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecuteDef {
    /// In lower case.
    pub name: Placed<String>,
    /// Literals, possibly negated.
    pub arguments: Vec<ast::Expr>,
}

/// How a source's files are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceFormat {
    /// A Delta table.
    Delta,
    /// Parquet files.
    Parquet,
    /// CSV files.
    Csv,
    /// JSON lines.
    Json,
}

impl SourceFormat {
    /// `DELTA`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "DELTA",
            Self::Parquet => "PARQUET",
            Self::Csv => "CSV",
            Self::Json => "JSON",
        }
    }
}

/// A column that a source declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Without `NOT NULL`.
    pub nullable: bool,
    /// Where it is declared.
    pub place: Place,
}

/// `ENTITY entity (cols) EVENT TIME col [KNOWN TIME col]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// `patient`.
    pub entity: Placed<String>,
    /// Columns that identify the entity.
    pub columns: Vec<Placed<String>>,
    /// When a row became true.
    pub event_time: Placed<String>,
    /// When a row became known.
    pub known_time: Option<Placed<String>>,
}

/// `COLUMN new RENAMED FROM old`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenamedColumn {
    /// The name from now on.
    pub new: Placed<String>,
    /// The name until now.
    pub old: Placed<String>,
}

/// What a violated expectation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnViolation {
    /// Nothing is published.
    Fail,
    /// The rows go to `quarantine.<view>`.
    Quarantine,
    /// It is reported.
    Warn,
}

impl OnViolation {
    /// The keyword.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Quarantine => "QUARANTINE",
            Self::Warn => "WARN",
        }
    }
}

/// What must hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Check {
    /// An expression over one row, without subqueries; NULL passes.
    Expr(Box<ast::Expr>),
    /// `UNIQUE (cols)`.
    Unique(Vec<Placed<String>>),
}

/// `EXPECT check ON VIOLATION …`.
#[derive(Clone, PartialEq, Debug)]
pub struct Expectation {
    /// What must hold.
    pub check: Check,
    /// The check as written.
    pub text: String,
    /// Functions that the check calls.
    pub functions: Vec<FunctionCall>,
    /// What a violation does.
    pub on_violation: OnViolation,
    /// The whole clause.
    pub place: Place,
}

/// Clauses that every definition may have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Clauses {
    /// `OWNER id`: a principal or role.
    pub owner: Option<Placed<String>>,
    /// `PURPOSE id, …`; empty: not restricted.
    pub purposes: Vec<Placed<Purpose>>,
    /// `COMMENT 'text'`.
    pub comment: Option<String>,
    /// `EXPECT …`, in order.
    pub expectations: Vec<Expectation>,
    /// `RENAMED FROM name`.
    pub renamed_from: Option<Placed<DatasetName>>,
    /// `COLUMN new RENAMED FROM old`, in order.
    pub renamed_columns: Vec<RenamedColumn>,
}

/// `CREATE SOURCE`.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceDef {
    /// Its name.
    pub name: Placed<DatasetName>,
    /// Its columns.
    pub columns: Vec<SourceColumn>,
    /// How it is read.
    pub format: SourceFormat,
    /// A URL, or a path under the warehouse.
    pub location: Placed<String>,
    /// Key and times.
    pub key: Key,
    /// The rest.
    pub clauses: Clauses,
}

/// `INCREMENTAL BY column LOOKBACK interval`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incremental {
    /// The time column.
    pub column: Placed<String>,
    /// As written: `730 days`.
    pub lookback: String,
    /// The whole clause.
    pub place: Place,
}

/// `CREATE FEATURE VIEW`.
#[derive(Clone, PartialEq, Debug)]
pub struct ViewDef {
    /// Its name.
    pub name: Placed<DatasetName>,
    /// Key and times, by the names of output columns.
    pub key: Key,
    /// `TTL INTERVAL '5 years'`: `5 years`.
    pub ttl: Option<Placed<String>>,
    /// `MATCH STRICT`.
    pub match_strict: Option<Place>,
    /// Rebuilt in parts.
    pub incremental: Option<Incremental>,
    /// The rest.
    pub clauses: Clauses,
    /// What it computes.
    pub query: GatedQuery,
}

/// `CREATE VIEW name [DEFINER] (OWNER id | COMMENT 'text')* AS query`.
#[derive(Clone, PartialEq, Debug)]
pub struct PlainViewDef {
    /// Its name.
    pub name: Placed<DatasetName>,
    /// Whether it decides as its owner.
    pub definer: bool,
    /// A principal or role.
    pub owner: Option<Placed<String>>,
    /// Free text.
    pub comment: Option<String>,
    /// What it selects.
    pub query: GatedQuery,
}

/// Whether a training row may see what was not yet known at its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KnownAt {
    /// Nothing that was not known at the event time of the spine: the default.
    EventTime,
    /// Nothing that was not known at this time.
    Instant(WallMicros),
    /// Everything, known or not; why.
    Ignored(String),
}

/// `view.*`, `view (col AS col)`, each with a pin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureItem {
    /// The view, at which version.
    pub reference: Reference,
    /// Columns and their names in the training set; none: all but keys and times.
    pub columns: Option<Vec<(Placed<String>, Placed<String>)>>,
}

/// `SAMPLE BY HASH (cols) n IN m SEED n`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Columns of the spine whose values decide.
    pub columns: Vec<Placed<String>>,
    /// So many rows are kept,
    pub take: u32,
    /// of so many, on average.
    pub of: u32,
    /// Another seed, another sample.
    pub seed: u64,
}

/// `SPLIT BY HASH (cols) INTO part n, … SEED n`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// Columns of the spine whose values decide.
    pub columns: Vec<Placed<String>>,
    /// Parts and their weights.
    pub parts: Vec<(String, u32)>,
    /// Another seed, another split.
    pub seed: u64,
}

/// `CREATE TRAINING SET`.
#[derive(Clone, PartialEq, Debug)]
pub struct TrainingDef {
    /// Its name.
    pub name: Placed<DatasetName>,
    /// Key and time of the spine.
    pub key: Key,
    /// What is to be learnt: a column of the spine.
    pub label: Placed<String>,
    /// One row for each row of the training set.
    pub spine: GatedQuery,
    /// What is looked up for each.
    pub features: Vec<FeatureItem>,
    /// What a row may see.
    pub known_at: KnownAt,
    /// Which rows of the spine are kept; none: all.
    pub sample: Option<Sample>,
    /// Train, test and their kin.
    pub split: Split,
    /// The rest.
    pub clauses: Clauses,
}
