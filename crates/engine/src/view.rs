//! Plain views: texts that are planned anew at each use.
//!
//! What holds here: a view without `DEFINER` shows its reader what the reader could ask for, and no more; one with it reads
//! with its owner's rights, under a sealed barrier through which no predicate, plan or error of the reader's sees. Either
//! has a grant of its own, like any table. Whatever keeps a reader from using a view reads like a view that is not there.

use crate::{
    governed::{Drafted, EngineLeaves, limits, nothing_dropped, plan_query},
    pin::{Found, PinnedTable, QUARANTINE, all_classes, not_found},
    problem::from_datafusion,
    provider::GovernedTable,
    publish::Overrides,
    session::Session,
};
use custody_catalog::PlainView;
use custody_dialect::{GatedQuery, Reference, Statement};
use custody_lineage::{Leaf, Leaves, NodeRule, Text};
use custody_model::{
    Class, ClassLabel, DatasetDefinition, DatasetId, DatasetKind, FieldId, Lineage, Pin, Principal, Problem, SourceText,
};
use custody_policy::{Barrier, enforce, floor, govern_view};
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, UserDefinedLogicalNode},
};
use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, LazyLock},
};

/// Tables that one view may read, directly and through other views.
const MOST_TABLES: usize = 256;

static NOTHING: LazyLock<Overrides> = LazyLock::new(Overrides::new);

/// Where a reference stands.
#[derive(Clone)]
pub(crate) struct Within<'a> {
    /// Versions and views of this run that stand in for the catalog's.
    pub(crate) overrides: &'a Overrides,
    /// Views around it, outermost first.
    pub(crate) views: Vec<DatasetId>,
}

impl Default for Within<'_> {
    fn default() -> Self {
        Self { overrides: &NOTHING, views: vec![] }
    }
}

impl<'a> Within<'a> {
    /// At the top of a definition of this run.
    pub(crate) fn run(overrides: &'a Overrides) -> Self {
        Self { overrides, views: vec![] }
    }
}

/// The text of a view, planned.
pub(crate) struct PlannedText {
    pub(crate) plan: LogicalPlan,
    pub(crate) lineage: Lineage,
    /// What it reads, and what that reads.
    pub(crate) beneath: Vec<PinnedTable>,
    /// The classes of its columns, by lineage.
    pub(crate) labels: Vec<ClassLabel>,
}

impl Session {
    /// What this subject, or the owner with whose rights a view reads, may do.
    pub(crate) fn with_rights_of(&self, owner: &Option<Principal>) -> Self {
        match owner {
            Some(owner) => Self { subject: Arc::new(self.subject.as_owner(owner)), ..self.clone() },
            None => self.clone(),
        }
    }

    /// What a reference means before any decision, in this run.
    pub(crate) fn resolve(&self, reference: &Reference, overrides: &Overrides) -> Option<Found> {
        match overrides.get(&reference.name) {
            Some(found) if reference.pin == Pin::Newest => Some(found.clone()),
            _ => self.find(&reference.name, reference.pin),
        }
    }

    /// A plain view as this subject may use it.
    pub(crate) async fn pin_view(
        &self,
        view: Arc<PlainView>,
        found: &Found,
        within: &Within<'_>,
    ) -> Result<PinnedTable, Problem> {
        let hidden = |why: Problem| {
            // Disks and ledgers fail for everybody; all else would tell about what the view reads.
            if why.code.exit_code() == 7 {
                return why;
            }
            tracing::info!(view = %found.at.name, code = %why.code, %why, "a plain view cannot be used");
            not_found(&found.definition.name)
        };
        let owner = view.record.definer.then(|| Principal(view.record.definition.owner.clone()));
        let rights = self.with_rights_of(&owner);
        let text = rights.plan_text(&query_of(&view.record.definition.sql)?, found.at.dataset, within).await;
        let mut text = text.map_err(hidden)?;
        if let Some(owner) = &owner {
            // A view within that has an owner of its own keeps it.
            text.beneath.iter_mut().for_each(|t| t.owner = t.owner.take().or_else(|| Some(owner.clone())));
        }
        let inherited = || text.labels.iter().map(all_classes).collect::<Vec<_>>();
        let mut labels = if enforce!("view.classes", view.record.definer) { inherited() } else { vec![] };
        if labels.iter().all(BTreeSet::is_empty) {
            labels.clear();
        }
        let (plan, fields, labels) =
            shaped(text.plan, &found.definition, labels, view.record.definer).map_err(hidden)?;
        let grant = self.decide(&found.definition, &labels)?;
        // Below a seal nothing looks any more whether the reader's query keeps to a group floor: the text must.
        let sealed = view.record.definer || !grant.open();
        let plan = if sealed { floor::settle(plan).map_err(|e| hidden(from_datafusion(&e)))? } else { plan };
        if !grant.failed.is_empty() {
            self.alert(&found.at, &grant).await?;
        }
        if enforce!("view.visible", !grant.visible()) {
            return Err(not_found(&found.definition.name));
        }
        let keys: Arc<dyn custody_policy::TokenKeys> = Arc::clone(&self.engine.keys) as _;
        let (resolved, entitlements) = self.entitled(&found.at, &grant).await?;
        let plan = govern_view(plan, &found.at, &fields, &resolved, &keys, view.record.definer)
            .map_err(|e| from_datafusion(&e))?;
        Ok(PinnedTable {
            reference: None,
            at: found.at.clone(),
            definition: Arc::clone(&found.definition),
            labels: labels.into(),
            grant,
            provider: Arc::new(GovernedTable::new(plan)),
            owner: None,
            beneath: text.beneath,
            entitlements,
        })
    }

    /// Plans the text of a view with this subject's rights.
    pub(crate) async fn plan_text(
        &self,
        query: &GatedQuery,
        view: DatasetId,
        within: &Within<'_>,
    ) -> Result<PlannedText, Problem> {
        if within.views.contains(&view) {
            return Err(Problem::new(1154, "a plain view reads itself").help("leave out one of the references"));
        }
        let inner = Within { overrides: within.overrides, views: within.views.iter().copied().chain([view]).collect() };
        let mut beneath = vec![];
        for reference in query.references() {
            let here = |p: Problem| p.label(reference.place().label("here"));
            if reference.name.is_system()
                || matches!(reference.name.schema(), QUARANTINE | "draft" | "information_schema")
            {
                let what = format!("a plain view cannot read `{}`", reference.name);
                return Err(here(Problem::new(1118, what)).help("ask for it where the view is used"));
            }
            let found = self.resolve(reference, within.overrides).ok_or_else(|| here(not_found(&reference.name)))?;
            let mut table = self.pin_within(found, &inner).await.map_err(here)?;
            table.reference = Some(reference.clone());
            beneath.extend(table.with_beneath());
            if beneath.len() > MOST_TABLES {
                return Err(here(Problem::new(1155, format!("a plain view reads more than {MOST_TABLES} tables")))
                    .help("make a feature view of a part of it"));
            }
        }
        let state = self.engine.state(&beneath, &self.subject)?;
        nothing_dropped(&state, query)?;
        let plan = plan_query(&state, query.clone().into_ast()).await?;
        let lineage = custody_lineage::extract(&plan, &EngineLeaves, &self.declassifications(), &limits(Text::None))?;
        let labels = self.labels(&lineage, &beneath);
        // They are planned: the text around must not find them by the names that this one has for them.
        beneath.iter_mut().for_each(|t| t.reference = None);
        Ok(PlannedText { plan, lineage, beneath, labels })
    }

    /// Lineage as this subject may see it: it ends at a view that read with its owner's rights.
    pub(crate) fn lineage_to_views(&self, drafted: Drafted, pinned: &[PinnedTable]) -> Result<Lineage, Problem> {
        if !pinned.iter().any(|t| t.definition.kind == DatasetKind::View) {
            return Ok(drafted.lineage);
        }
        let open: HashSet<_> = pinned.iter().filter(|t| t.explains()).map(|t| t.at.clone()).collect();
        let leaves = ToViews { open: &|barrier| open.contains(barrier.at()) };
        Ok(custody_lineage::extract(&drafted.plan, &leaves, &self.declassifications(), &limits(Text::Full))?)
    }
}

impl PinnedTable {
    /// Whether the reader may see what lies below its barrier: nobody may by another's rights.
    pub(crate) fn explains(&self) -> bool {
        self.grant.explain_raw && !enforce!("view.explain", self.owner.is_some())
    }
}

/// The engine's leaves and nodes; sealed barriers that are not open to the reader are sources.
struct ToViews<'a> {
    open: &'a dyn Fn(&Barrier) -> bool,
}

impl Leaves for ToViews<'_> {
    fn scan(&self, scan: &TableScan) -> Leaf {
        EngineLeaves.scan(scan)
    }

    fn node<'a>(&self, node: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a> {
        match Barrier::of(node) {
            Some(barrier) if enforce!("view.lineage", barrier.sealed() && !(self.open)(barrier)) => {
                NodeRule::Source(barrier.at().clone(), barrier.fields())
            }
            _ => EngineLeaves.node(node),
        }
    }
}

/// The query in the text of a view.
fn query_of(sql: &str) -> Result<GatedQuery, Problem> {
    let mut statements = custody_dialect::parse(&SourceText::inline(sql)).map_err(crate::refused)?;
    match statements.pop().map(|s| s.value) {
        Some(Statement::View(def)) if statements.is_empty() => Ok(def.query),
        _ => Err(Problem::bug("the text of a plain view is not one")),
    }
}

type Shaped = (LogicalPlan, Vec<FieldId>, Vec<BTreeSet<Class>>);

/// The planned text as what the view was recorded to be: its columns in their order under its own name. Of a view that reads
/// with its reader's rights, columns that the reader does not see are left out.
fn shaped(
    text: LogicalPlan,
    definition: &DatasetDefinition,
    labels: Vec<BTreeSet<Class>>,
    definer: bool,
) -> Result<Shaped, Problem> {
    let wrong = |e| from_datafusion(&e);
    let schema = custody_store::version_schema(text.schema().as_arrow()).map_err(|e| e.problem())?;
    let (mut columns, mut fields, mut classes) = (vec![], vec![], vec![]);
    let stale = |what: String| Err(Problem::new(1156, what).help("custody publish records the view as it is now"));
    for column in &definition.columns {
        let Some(at) = schema.fields().iter().position(|f| *f.name() == column.name) else {
            if definer {
                return stale(format!("`{}` has no column `{}` any more", definition.name, column.name));
            }
            classes.push(BTreeSet::new());
            continue;
        };
        if *schema.field(at).data_type() != column.data_type {
            return stale(format!("column `{}` of `{}` has another type now", column.name, definition.name));
        }
        columns.push(Expr::Column(Column::from(text.schema().qualified_field(at))).alias(&column.name));
        fields.push(column.field);
        classes.push(labels.get(at).cloned().unwrap_or_default());
    }
    if columns.is_empty() {
        return stale(format!("`{}` has no column any more", definition.name));
    }
    let plan = LogicalPlanBuilder::from(text)
        .project(columns)
        .and_then(|b| b.alias(definition.name.name()))
        .and_then(LogicalPlanBuilder::build)
        .map_err(wrong)?;
    let labels = if labels.is_empty() { vec![] } else { classes };
    Ok((plan, fields, labels))
}
