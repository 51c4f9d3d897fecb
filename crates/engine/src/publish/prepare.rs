//! What can be known of a view before it is computed: names pinned, grants decided, plan, exact lineage, classes,
//! contract.

use super::{
    Declaration, Overrides, Prepared,
    definition::renamed,
    identity::{digest, identity, plan_text},
    in_file,
    local::prove,
};
use crate::{
    expect,
    governed::{Drafted, EngineLeaves, limits},
    pin::{Asked, PinnedTable, QUARANTINE, Statement, Storage, not_found, present},
    project::{Declared, Project},
    session::Session,
    view::Within,
};
use custody_catalog::{Dataset, VersionStatus};
use custody_dialect::{OnViolation, ViewDef};
use custody_lineage::Text;
use custody_model::{
    Class, ClassLabel, DatasetDefinition, DatasetKind, DatasetName, FieldId, InputRef, Lineage, Problem, Purpose,
    TableVersion,
};
use custody_policy::{RowGrant, enforce};
use std::collections::{BTreeMap, BTreeSet};

impl Session {
    /// Everything about a view that can be known before it is computed.
    pub(crate) async fn prepare(
        &self,
        project: &Project,
        declared: &Declared<ViewDef>,
        overrides: &Overrides,
    ) -> Result<Prepared, Problem> {
        let text = project.text(declared.file);
        self.prepare_inner(declared, overrides).await.map_err(|p| in_file(p, text))
    }

    pub(super) async fn prepare_inner(
        &self,
        declared: &Declared<ViewDef>,
        overrides: &Overrides,
    ) -> Result<Prepared, Problem> {
        let def = &declared.def;
        let name = &def.name.value;
        let mut pinned = vec![];
        let mut provisional = false;
        for reference in def.query.references() {
            let found = self.resolve(reference, overrides);
            let here = |p: Problem| {
                p.label(custody_model::Label { start: reference.start, end: reference.end, text: "here".into() })
            };
            if reference.name.is_system() || reference.name.schema() == QUARANTINE {
                return Err(here(Problem::new(1118, format!("a feature cannot read `{}`", reference.name))));
            }
            let found = found.ok_or_else(|| here(not_found(&reference.name)))?;
            provisional |= matches!(found.storage, Storage::Planned);
            let mut table = self.pin_within(found, &Within::run(overrides)).await.map_err(here)?;
            table.reference = Some(reference.clone());
            for table in table.with_beneath() {
                require_complete(&table).map_err(here)?;
                pinned.push(table);
            }
        }
        let statement = Statement {
            asked: Asked::Query(def.query.clone()),
            explain: None,
            pinned,
            at: self.engine.seen(),
            hash: crate::hash_text(&def.query.text_normalised()),
        };
        let mut drafted = self.draft(&statement, Text::Shape).await?;
        let promised = &def.clauses.expectations;
        if promised.iter().any(|e| e.on_violation == OnViolation::Quarantine) {
            let deciding = expect::deciding(&drafted.plan, promised, &drafted.state)?;
            let (rules, limits) = (self.declassifications(), limits(Text::Shape));
            drafted.lineage = custody_lineage::extract(&deciding, &EngineLeaves, &rules, &limits)?;
        }
        let declaration = Declaration {
            kind: DatasetKind::FeatureView,
            name,
            key: &def.key,
            ttl: def.ttl.as_ref().map(|t| t.value.clone()),
            clauses: &def.clauses,
            text: &declared.text,
        };
        let mut says = def.query.ast().to_string();
        if def.match_strict.is_some() {
            says.push_str("\nMATCH STRICT");
        }
        says.push_str(&expect::says(promised));
        let mut prepared = self.ready(&declaration, &says, drafted, statement.pinned, provisional)?;
        prepared.expected = expect::ready(promised, &prepared.drafted.state, &prepared.definition)?;
        if let Some(clause) = &def.incremental {
            prepared.local = Some(prove(&prepared.drafted.plan, clause, &prepared.pinned)?);
        }
        Ok(prepared)
    }

    /// What is drafted, with its definition, identity, classes and contract. `says` is what else makes another version.
    pub(crate) fn ready(
        &self,
        declaration: &Declaration<'_>,
        says: &str,
        drafted: Drafted,
        pinned: Vec<PinnedTable>,
        provisional: bool,
    ) -> Result<Prepared, Problem> {
        let name = declaration.name;
        exact(name, &drafted.lineage)?;
        let catalog = self.catalog();
        let known = renamed(&catalog, name, declaration.clauses)?;
        let definition = self.output_definition(declaration, known, &drafted, &pinned)?;
        // Whose it is, not whose it says it is.
        let grant = self.decide(&present(&catalog, &definition), &[])?;
        if enforce!("publish.permitted", !grant.publish) {
            return Err(Problem::new(3102, format!("you may not publish `{name}`"))
                .help("a policy must permit action `publish` on it: custody policy decide"));
        }
        let labels = self.labels(&drafted.lineage, &pinned);
        let inputs = inputs(&pinned);
        let plan = plan_text(&drafted.plan)?;
        let plan_hash = digest("custody plan v1", &[says.as_bytes(), plan.as_bytes()]);
        let identity = identity(&plan_hash, &definition, &inputs);
        if let Some(revoked) = known.and_then(|d| catalog.version_by_identity(d.id(), &identity))
            && revoked.status == VersionStatus::Revoked
        {
            let why = revoked.status_because.as_deref().unwrap_or_default();
            return Err(Problem::new(
                1149,
                format!("this would be `{}` again, which is revoked: {why}", revoked.table),
            )
            .help("correct the query or its inputs"));
        }
        if let (DatasetKind::FeatureView, Some(known_time)) = (definition.kind, definition.known_time) {
            known_time_follows(name, &definition, known_time, &drafted.lineage, &pinned)?;
        }
        let newest = known.and_then(Dataset::newest);
        let same = known
            .and_then(|d| catalog.version_by_identity(d.id(), &identity))
            .filter(|v| newest.is_some_and(|n| n.table == v.table))
            .map(|v| (v.table.clone(), v.publish().map_or(0, |p| p.rows)));
        let contract = super::contract(newest.map(|v| v.definition()), known, &definition, same.is_some());
        Ok(Prepared {
            newest: newest.map(|v| v.table.version),
            definition,
            identity,
            plan_hash,
            inputs,
            labels,
            pinned,
            drafted,
            contract,
            same,
            provisional,
            recorded: None,
            expected: vec![],
            local: None,
            floor: grant.floor.as_ref().map(|f| f.least),
        })
    }

    /// The classes of each output, by lineage from the classes of what it reads.
    pub(crate) fn labels(&self, lineage: &Lineage, pinned: &[PinnedTable]) -> Vec<ClassLabel> {
        let bundle = self.bundle();
        let mut classes: BTreeMap<(TableVersion, FieldId), BTreeSet<Class>> = BTreeMap::new();
        for table in pinned {
            let Some(bundle) = &bundle else { continue };
            for column in crate::pin::facts(bundle, &table.definition, &table.labels).columns {
                classes.insert((table.at.clone(), column.field), column.classes);
            }
        }
        let rules = self.declassifications();
        custody_lineage::labels(
            lineage,
            &|table, field| classes.get(&(table.clone(), field)).cloned().unwrap_or_default(),
            &|version| rules.iter().find(|r| r.version == *version).cloned(),
        )
    }
}

/// A feature over rows that policy would silently drop is refused, naming what drops them.
pub(crate) fn require_complete(table: &PinnedTable) -> Result<(), Problem> {
    let by = match &table.grant.rows {
        RowGrant::All => return Ok(()),
        _ if !enforce!("publish.complete", true) => return Ok(()),
        RowGrant::Nothing => "no row set permits any of them".to_string(),
        RowGrant::Where(p) => {
            let names: Vec<_> = p
                .sets
                .iter()
                .map(|(id, _)| format!("row set `{id}`"))
                .chain(p.guards.iter().map(|(id, _)| format!("guard `{id}`")))
                .collect();
            format!("by {}", names.join(", "))
        }
    };
    Err(Problem::new(3103, format!("would be filtered: `{}` {by}", table.at.name)).help(
        "a feature must see all rows of what it reads: ask for `see_rows` and `skip_guard`, or read another dataset",
    ))
}

pub(super) fn exact(name: &DatasetName, lineage: &Lineage) -> Result<(), Problem> {
    exact_sources(name, lineage)?;
    if lineage.volatile {
        return Err(Problem::new(1123, format!("a volatile function makes `{name}` irreproducible"))
            .help("leave out now(), random(), uuid() and their kin; take times from the data"));
    }
    Ok(())
}

/// A row is known once everything it is made of is: its known time is made of that of every input that has one. This may
/// delay a value, it never leaks one.
fn known_time_follows(
    name: &DatasetName,
    definition: &DatasetDefinition,
    known_time: FieldId,
    lineage: &Lineage,
    pinned: &[PinnedTable],
) -> Result<(), Problem> {
    let column = definition.column(known_time).map(|c| c.name.as_str()).unwrap_or_default();
    let output = lineage.outputs.iter().find(|o| o.name == column);
    let made_of = |at: &TableVersion, field: FieldId| {
        output.is_some_and(|o| {
            let atoms = o.direct.iter().filter_map(|(_, ix)| lineage.atom(*ix));
            atoms.filter(|a| a.field == Some(field)).any(|a| lineage.table(a) == Some(at))
        })
    };
    for table in pinned {
        let Some(known) = table.definition.known_time else { continue };
        if !made_of(&table.at, known) {
            let hidden = table.definition.column(known).map(|c| c.name.as_str()).unwrap_or_default();
            return Err(Problem::new(1148, format!("`{name}` hides the known time of `{}`", table.at.name)).help(
                format!(
                    "make `{column}` of `{hidden}` too: greatest(…, {hidden}), or max({hidden}) OVER the same window"
                ),
            ));
        }
    }
    Ok(())
}

pub(super) fn exact_sources(name: &DatasetName, lineage: &Lineage) -> Result<(), Problem> {
    if lineage.exact {
        return Ok(());
    }
    let nodes = lineage.unknown.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    Err(Problem::new(1122, format!("lineage of `{name}` is not exact: {nodes} is not understood")))
}

/// A version may be read for no purpose that one of its inputs excludes.
pub(super) fn purposes(
    name: &DatasetName,
    declared: &BTreeSet<Purpose>,
    pinned: &[PinnedTable],
) -> Result<BTreeSet<Purpose>, Problem> {
    let mut allowed: Option<BTreeSet<Purpose>> = None;
    for table in pinned.iter().filter(|t| !t.definition.purposes.is_empty()) {
        if let Some(outside) = declared.iter().find(|p| !table.definition.purposes.contains(p))
            && enforce!("publish.purposes", !table.grant.declassify || table.owner.is_some())
        {
            return Err(Problem::new(3104, format!("purpose `{outside}` is not among those of `{}`", table.at.name))
                .help(format!("leave it out of the PURPOSE of `{name}`, or ask for `declassify` on the input")));
        }
        allowed = Some(match allowed {
            None => table.definition.purposes.clone(),
            Some(so_far) => so_far.intersection(&table.definition.purposes).cloned().collect(),
        });
    }
    match allowed {
        Some(allowed) if declared.is_empty() && allowed.is_empty() => {
            Err(Problem::new(3105, format!("no purpose is common to all inputs of `{name}`")))
        }
        Some(allowed) if declared.is_empty() => Ok(allowed),
        _ => Ok(declared.clone()),
    }
}

pub(super) fn inputs(pinned: &[PinnedTable]) -> Vec<InputRef> {
    let mut inputs: Vec<InputRef> = pinned
        .iter()
        // The plan holds what a plain view says; what it reads is among the inputs.
        .filter(|t| t.definition.kind != DatasetKind::View)
        .map(|t| InputRef {
            dataset: t.at.dataset,
            version: t.at.version,
            made_at: t.at.made_at,
            content: t.at.content,
        })
        .collect();
    inputs.sort_by_key(|i| (i.dataset, i.content));
    inputs.dedup();
    inputs
}
