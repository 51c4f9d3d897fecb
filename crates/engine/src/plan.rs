//! What a publish would do, without doing it: schemas, lineage, classes, readers, and what would be computed.

use crate::{
    explain::lineage_rows,
    pin::{Found, Storage, all_classes},
    project::Project,
    publish::{Contract, Overrides, PreparedView, renamed},
    session::Session,
};
use custody_lineage::LineageRow;
use custody_model::{
    ControlSeq, DatasetDefinition, Hash, Outcome, Payload, Problem, ReadIntent, ReadOutcome, Rung, Subject,
    TableVersion, Verb,
};
use std::{collections::BTreeSet, sync::Arc};

/// One view of a plan.
#[derive(Clone, Debug)]
pub struct PlannedView {
    /// What it would be.
    pub definition: DatasetDefinition,
    /// How that relates to its newest version.
    pub contract: Contract,
    /// Its newest version.
    pub newest: Option<u64>,
    /// Its rows, where it is published already with this identity.
    pub rows: Option<u64>,
    /// Why it would be computed; empty: it would not.
    pub because: Vec<String>,
    /// Datasets made of it: who a change reaches.
    pub consumers: Vec<custody_model::DatasetName>,
    /// Lineage of every column, as `EXPLAIN LINEAGE` has it.
    pub lineage: Vec<LineageRow>,
    /// The classes of each column, in order, by name.
    pub classes: Vec<Vec<String>>,
    /// What each of the given subjects would get: rungs by column, row sets; none: not found.
    pub readers: Vec<(String, Option<Reach>)>,
}

/// What a subject would get of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// By column, in order.
    pub rungs: Vec<Rung>,
    /// Row sets and guards that would apply.
    pub row_sets: Vec<String>,
    /// Whether no row would be left.
    pub no_rows: bool,
}

impl Session {
    /// Plans the project. Records one metadata entry, no snapshot; sources are taken as recorded, or as declared where
    /// they were never recorded.
    pub async fn plan(
        &self,
        project: &Project,
        select: &[String],
        readers: &[(String, Subject)],
    ) -> Result<Vec<PlannedView>, Problem> {
        self.engine.refresh().await?;
        self.same_policies(project)?;
        let chosen = project.select(select)?;
        let mut overrides = Overrides::new();
        self.declare_sources(project, &mut overrides).await?;
        let mut views = vec![];
        for name in &self.needed(project, &chosen) {
            if let Some(view) = project.views.get(name) {
                let prepared = self.prepare_view(project, view, &overrides).await?;
                overrides.insert(name.clone(), prepared.found());
                if chosen.contains(name) {
                    views.push(self.planned_view(prepared, readers)?);
                }
                continue;
            }
            let Some(declared) = project.features.get(name) else { continue };
            let prepared = self.prepare(project, declared, &overrides).await?;
            let mut because = vec![];
            if prepared.provisional {
                let changed: Vec<_> = Project::reads(&declared.def.query)
                    .into_iter()
                    .filter(|r| overrides.get(r).is_some_and(|f| matches!(f.storage, Storage::Planned)))
                    .collect();
                because.extend(changed.iter().map(|c| format!("`{c}` changes")));
            }
            if prepared.same.is_none() && because.is_empty() {
                because.push(match prepared.contract {
                    Contract::New => "it is new".into(),
                    Contract::Data => "its inputs or its query changed".into(),
                    other => format!("its query changed ({})", other.word()),
                });
            }
            if !because.is_empty() {
                overrides.insert(name.clone(), planned(&prepared.definition, &prepared.labels, prepared.newest));
            }
            let labels: Vec<BTreeSet<_>> = prepared.labels.iter().map(all_classes).collect();
            views.push(PlannedView {
                contract: prepared.contract,
                newest: prepared.newest,
                rows: prepared.same.as_ref().map(|(_, rows)| *rows),
                consumers: self.consumers(prepared.definition.id, name, Some(project)),
                because,
                lineage: lineage_rows(&prepared.pinned, &prepared.drafted.lineage),
                classes: labels.iter().map(|l| l.iter().map(ToString::to_string).collect()).collect(),
                readers: readers
                    .iter()
                    .map(|(name, subject)| Ok((name.clone(), self.reach(subject, &prepared.definition, &labels)?)))
                    .collect::<Result<_, Problem>>()?,
                definition: prepared.definition,
            });
        }
        let names: Vec<String> = views.iter().map(|v| v.definition.name.to_string()).collect();
        self.record_metadata(&format!("plan {}", names.join(","))).await?;
        Ok(views)
    }

    fn planned_view(&self, prepared: PreparedView, readers: &[(String, Subject)]) -> Result<PlannedView, Problem> {
        let contract = match prepared.before {
            None => Contract::New,
            Some(_) if prepared.same => Contract::None,
            Some(_) => Contract::Data,
        };
        let because = match contract {
            Contract::None => vec![],
            Contract::New => vec!["it is new".into()],
            _ => vec!["its text changed".into()],
        };
        let labels: Vec<BTreeSet<_>> = prepared.text.labels.iter().map(all_classes).collect();
        let definition = prepared.record.definition;
        Ok(PlannedView {
            contract,
            newest: prepared.before,
            rows: None,
            consumers: self.consumers(definition.id, &definition.name, None),
            because,
            lineage: lineage_rows(&prepared.text.beneath, &prepared.text.lineage),
            classes: labels.iter().map(|l| l.iter().map(ToString::to_string).collect()).collect(),
            readers: readers
                .iter()
                .map(|(name, subject)| Ok((name.clone(), self.reach(subject, &definition, &labels)?)))
                .collect::<Result<_, Problem>>()?,
            definition,
        })
    }

    fn reach(
        &self,
        subject: &Subject,
        definition: &DatasetDefinition,
        labels: &[BTreeSet<custody_model::Class>],
    ) -> Result<Option<Reach>, Problem> {
        let other = self.engine.session(subject.clone());
        let grant = other.decide(definition, labels)?;
        Ok(grant.visible().then(|| Reach {
            rungs: grant.columns.iter().map(|c| c.rung).collect(),
            row_sets: grant.row_sets(),
            no_rows: grant.rows == custody_policy::RowGrant::Nothing,
        }))
    }

    async fn declare_sources(&self, project: &Project, overrides: &mut Overrides) -> Result<(), Problem> {
        let catalog = self.engine.catalog();
        for (name, declared) in &project.sources {
            let known = renamed(&catalog, name, &declared.def.clauses)?;
            if known.is_none_or(|d| d.newest().is_none() || d.name() != name) {
                let definition = self.source_definition(declared, known)?;
                overrides.insert(name.clone(), planned(&definition, &[], None));
            }
        }
        Ok(())
    }

    /// Records a request that hands out no rows and is no statement.
    pub(crate) async fn record_metadata(&self, what: &str) -> Result<(), Problem> {
        let intent = ReadIntent {
            statement: None,
            statement_hash: crate::hash_text(what),
            lineage_hash: None,
            plan: Hash::default(),
            granted_bytes: 0,
            prediction: None,
        };
        let payload = Payload::Read(intent, ReadOutcome { code: None, scans: vec![] });
        self.engine.recorder.record(self.entry(Verb::Metadata, Outcome::Success, payload)).await?;
        Ok(())
    }
}

/// A version that is not there yet: plans can be made over it.
fn planned(definition: &DatasetDefinition, labels: &[custody_model::ClassLabel], newest: Option<u64>) -> Found {
    Found {
        at: TableVersion {
            dataset: definition.id,
            name: definition.name.clone(),
            version: newest.unwrap_or(0) + 1,
            made_at: ControlSeq(0),
            content: Hash::default(),
        },
        definition: Arc::new(definition.clone()),
        labels: labels.iter().map(all_classes).collect(),
        known: None,
        storage: Storage::Planned,
        revoked: None,
    }
}
