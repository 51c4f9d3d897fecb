//! A project's tests of its policies: what readers are expected to get, held against the policies in its folder.
//! Nothing is activated.
//!
//! What holds here: a dataset is one that the project declares or that the tester may see; its classes are those that
//! it would have once these policies were active.

use crate::{
    pin::{all_classes, facts, not_found, present},
    project::Project,
    session::Session,
};
use custody_model::{Class, DatasetDefinition, DatasetName, Problem, Subject};
use custody_policy::{Bundle, Expected, Finding, Reader, decide};
use std::collections::{BTreeSet, HashMap};

/// One expectation, held against policy.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The file it stands in.
    pub file: String,
    /// Who reads.
    pub reader: String,
    /// Of which dataset.
    pub dataset: DatasetName,
    /// What was expected, and what there is.
    pub finding: Finding,
}

type Known = (DatasetDefinition, Vec<BTreeSet<Class>>);

impl Session {
    /// Holds the project's policies against these readers' expectations, each with its file. Recorded as metadata.
    pub async fn test_policies(
        &self,
        project: &Project,
        readers: &[(String, Reader, Subject)],
    ) -> Result<Vec<Tested>, Problem> {
        let bundle = self.check_policies(project).await?;
        let known = self.datasets_under(project, &bundle).await?;
        let mut tested = vec![];
        let mut missing = vec![];
        for (file, reader, subject) in readers {
            for expected in &reader.expected {
                let Some((definition, labels)) = known.get(&expected.dataset) else {
                    missing.push(unknown(file, expected));
                    continue;
                };
                let facts = self.engine.with_token_keys(&bundle, facts(&bundle, definition, labels));
                let grant = decide(&bundle, subject, &facts);
                tested.extend(expected.findings(file, reader, &grant).into_iter().map(|finding| Tested {
                    file: file.clone(),
                    reader: reader.text.clone(),
                    dataset: expected.dataset.clone(),
                    finding,
                }));
            }
        }
        let mut missing = missing.into_iter();
        if let Some(mut first) = missing.next() {
            first.related.extend(missing);
            return Err(first);
        }
        self.record_metadata(&format!("policy test {}", bundle.hash())).await?;
        Ok(tested)
    }

    /// What a test may speak of: datasets of the catalog that the tester may see, with the classes that they would have
    /// under this bundle, and sources that the project declares.
    async fn datasets_under(&self, project: &Project, bundle: &Bundle) -> Result<HashMap<DatasetName, Known>, Problem> {
        let catalog = self.engine.catalog();
        let epoch = catalog.bundle().map_or(1, |b| b.record.epoch + 1);
        let relabelled = self.engine.relabelled(&catalog, bundle, epoch, &project.coming(&catalog))?;
        let mut known = HashMap::new();
        for definition in self.declared(project).await? {
            known.insert(definition.name.clone(), (definition, vec![]));
        }
        for dataset in catalog.datasets() {
            let name = dataset.name();
            let declared = project.features.contains_key(name) || project.training.contains_key(name);
            let declared = declared || project.sources.contains_key(name);
            let Some(newest) = dataset.newest() else { continue };
            let recorded: Vec<_> = newest.labels().unwrap_or_default().iter().map(all_classes).collect();
            let definition = present(&catalog, newest.definition());
            if !declared && !self.decide(&definition, &recorded).is_ok_and(|grant| grant.visible()) {
                continue;
            }
            if newest.publish().is_some() {
                let changed = relabelled.iter().find(|r| r.made_at == newest.table.made_at);
                let labels = changed.map_or(recorded, |r| r.labels.iter().map(all_classes).collect());
                known.insert(name.clone(), (definition, labels));
            } else if !known.contains_key(name) {
                known.insert(name.clone(), (definition, vec![]));
            }
        }
        Ok(known)
    }
}

fn unknown(file: &str, expected: &Expected) -> Problem {
    let problem = not_found(&expected.dataset);
    expected
        .refused(file, problem.code.0, problem.message)
        .help("a test speaks of sources that the project declares and of views that are published")
}
