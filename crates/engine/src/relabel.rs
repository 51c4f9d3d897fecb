//! Classes of what is published already, under other policies.
//!
//! What holds here: the classes of a version's columns are a function of its lineage, of the tags and of the rules that
//! lower them; a bundle that changes tags or rules carries the new classes of every version in its own entry, so that no
//! moment exists in which it is active and they are not.

use crate::{
    Engine,
    pin::{all_classes, facts, present},
};
use custody_catalog::Catalog;
use custody_lineage::labels;
use custody_model::{
    Class, ClassLabel, ControlSeq, DatasetId, DatasetName, FieldId, Problem, Relabelled, TableVersion,
};
use custody_policy::Bundle;
use std::collections::{BTreeMap, BTreeSet};

/// Datasets by the names that the next publish will give them: the bundle speaks of them by those.
pub(crate) type Names = BTreeMap<DatasetId, DatasetName>;

impl Engine {
    /// Versions whose columns have other classes under this bundle than under the present one.
    pub(crate) fn relabelled(
        &self,
        catalog: &Catalog,
        bundle: &Bundle,
        epoch: u64,
        coming: &Names,
    ) -> Result<Vec<Relabelled>, Problem> {
        let snapshot = self.snapshot(catalog)?;
        let rules = bundle.declassifications(epoch);
        let mut versions: Vec<_> = catalog.datasets().flat_map(|d| d.versions()).collect();
        versions.sort_by_key(|v| v.table.made_at);
        let mut derived: BTreeMap<ControlSeq, Vec<ClassLabel>> = BTreeMap::new();
        let mut changed = vec![];
        for version in versions.into_iter().filter(|v| v.publish().is_some()) {
            let made_at = version.table.made_at;
            let record = snapshot.lineage_at(made_at).ok_or_else(|| {
                let name = &version.table.name;
                Problem::new(4002, format!("the lineage of `{name}` version {} is not there", version.table.version))
                    .help("custody ledger verify")
            })?;
            // An input was made before what reads it, so its classes are derived already.
            let mut inputs: BTreeMap<&TableVersion, BTreeMap<FieldId, BTreeSet<Class>>> = BTreeMap::new();
            for input in &record.lineage.inputs {
                let Some(known) = catalog.version_made_at(input.made_at) else { continue };
                let inherited: Vec<_> = derived.get(&input.made_at).into_iter().flatten().map(all_classes).collect();
                let mut definition = present(catalog, known.definition());
                if let Some(name) = coming.get(&definition.id) {
                    definition.name = name.clone();
                }
                let columns = facts(bundle, &definition, &inherited).columns;
                inputs.insert(input, columns.into_iter().map(|c| (c.field, c.classes)).collect());
            }
            // A rule that is no longer in the bundle lowers nothing; one that is, as it stands there now.
            let now = labels(
                &record.lineage,
                &|table, field| inputs.get(table).and_then(|f| f.get(&field)).cloned().unwrap_or_default(),
                &|applied| rules.iter().find(|r| r.version.rule == applied.rule).cloned(),
            );
            if version.labels() != Some(now.as_slice()) {
                changed.push(Relabelled { made_at, labels: now.clone() });
            }
            derived.insert(made_at, now);
        }
        Ok(changed)
    }
}
