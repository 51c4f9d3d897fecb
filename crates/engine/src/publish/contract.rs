//! What a change of a declaration means to whoever reads the dataset, and who that is.

use super::{Contract, Prepared};
use crate::{project::Project, session::Session, system::sees};
use custody_catalog::Dataset;
use custody_dialect::Reference;
use custody_model::{DatasetDefinition, DatasetId, DatasetName, FieldId, Problem};
use custody_system_tables::Sees;
use std::collections::BTreeSet;

pub(crate) fn contract(
    before: Option<&DatasetDefinition>,
    known: Option<&Dataset>,
    now: &DatasetDefinition,
    same: bool,
) -> Contract {
    let Some(before) = before else { return Contract::New };
    let attributes = before.comment != now.comment
        || known.is_some_and(|d| d.owner() != now.owner || *d.purposes() != now.purposes || *d.name() != now.name);
    match (same, !broken(before, now).is_empty(), now.columns.len() > before.columns.len()) {
        (true, ..) if attributes => Contract::Metadata,
        (true, ..) => Contract::None,
        (false, true, _) => Contract::Breaking,
        (false, false, true) => Contract::Additive,
        (false, false, false) => Contract::Data,
    }
}

/// What readers of `before` would miss, in words.
pub(crate) fn broken(before: &DatasetDefinition, now: &DatasetDefinition) -> Vec<String> {
    let mut out = vec![];
    for column in &before.columns {
        let nulls = |nullable: bool| if nullable { "" } else { " NOT NULL" };
        match now.column(column.field) {
            None => out.push(format!("column `{}` is gone", column.name)),
            Some(n) if n.name != column.name => out.push(format!("column `{}` is now `{}`", column.name, n.name)),
            Some(n) if n != column => out.push(format!(
                "column `{}` is `{}{}`, was `{}{}`",
                n.name,
                n.data_type,
                nulls(n.nullable),
                column.data_type,
                nulls(column.nullable)
            )),
            Some(_) => {}
        }
    }
    let names = |d: &DatasetDefinition, fields: &[FieldId]| {
        let names = fields.iter().filter_map(|f| d.column(*f).map(|c| format!("`{}`", c.name)));
        names.collect::<Vec<_>>().join(", ")
    };
    let mut moved = |what: &str, a: &[FieldId], b: &[FieldId]| {
        if a != b {
            out.push(format!("{what} is {}, was {}", names(now, b), names(before, a)));
        }
    };
    moved("the key", &before.keys, &now.keys);
    moved("event time", before.event_time.as_slice(), now.event_time.as_slice());
    moved("known time", before.known_time.as_slice(), now.known_time.as_slice());
    if before.ttl != now.ttl {
        let ttl = |d: &DatasetDefinition| d.ttl.clone().unwrap_or_else(|| "none".into());
        out.push(format!("TTL is {}, was {}", ttl(now), ttl(before)));
    }
    out
}

impl Session {
    /// Datasets made of this one, as the catalog and the project have them, as far as this subject may see them; by name.
    pub(crate) fn consumers(&self, id: DatasetId, name: &DatasetName, project: Option<&Project>) -> Vec<DatasetName> {
        let catalog = self.catalog();
        let sees = sees(self, &catalog);
        let reads = |d: &&Dataset| {
            let publish = d.newest().and_then(|v| v.publish());
            publish.is_some_and(|p| p.inputs.iter().any(|i| i.dataset == id)) && sees.dataset(d.id())
        };
        let mut out: BTreeSet<DatasetName> = catalog.datasets().filter(reads).map(|d| d.name().clone()).collect();
        if let Some(project) = project {
            let newest = |r: &Reference| r.name == *name;
            let views = project.features.iter().filter(|(_, d)| d.def.query.references().iter().any(newest));
            out.extend(views.map(|(name, _)| name.clone()));
            let sets = project.training.iter().filter(|(_, d)| {
                d.def.features.iter().any(|f| f.reference.name == *name) || d.def.spine.references().iter().any(newest)
            });
            out.extend(sets.map(|(name, _)| name.clone()));
        }
        out.remove(name);
        out.into_iter().collect()
    }

    /// Why a change that breaks readers is not published without `--accept-breaking`.
    pub(crate) fn breaking(&self, prepared: &Prepared, project: Option<&Project>) -> Problem {
        let name = &prepared.definition.name;
        let catalog = self.catalog();
        let before = catalog.dataset_by_id(prepared.definition.id).and_then(Dataset::newest);
        let what = before.map(|v| broken(v.definition(), &prepared.definition)).unwrap_or_default().join("; ");
        let readers = self.consumers(prepared.definition.id, name, project);
        let readers: Vec<_> = readers.iter().map(|r| format!("`{r}`")).collect();
        let who = if readers.is_empty() { "its readers".into() } else { format!("its readers {}", readers.join(", ")) };
        Problem::new(1116, format!("publishing `{name}` would break {who}: {what}"))
            .help("custody plan shows the change; --accept-breaking publishes it")
    }
}
