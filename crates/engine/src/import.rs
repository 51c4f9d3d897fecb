//! Events of others become claims in the ledger.
//!
//! What holds here: the whole text is read before anything is recorded; each claim is an entry of its own and durable
//! when the import ends; one that is recorded already is not recorded again, so a source that sends twice, or an import
//! that was cut off, does no harm. What is recorded has names and no nodes: only the rows of `system.lineage` that say
//! `asserted` come of it.

use crate::{Engine, session::Session};
use custody_catalog::{Catalog, Dataset};
use custody_model::{
    AssertedLineage, AssertedTable, AttributeChange, CatalogChange, DatasetId, DatasetKind, DatasetName, Outcome,
    Payload, Problem, Verb,
};
use custody_openlineage::{Claim, Fault, ForeignEvent, Refused};
use futures::future::try_join_all;
use sha3::{Digest, Sha3_256};
use std::collections::BTreeMap;

/// Where foreign datasets stand in the catalog.
const SCHEMA: &str = "external";
/// How much of a foreign name is kept in the name it gets here: a name has at most 128 bytes, 9 of them for the digest.
const SLUG: usize = 119;
/// Claims that wait for the disk together.
const TOGETHER: usize = 256;

/// What an import did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImportedLineage {
    /// Events in the text.
    pub events: u64,
    /// Claims recorded: one for each output of a new event.
    pub assertions: u64,
    /// Datasets named for the first time.
    pub externals: u64,
    /// Events recorded already, by an earlier import or earlier in the text.
    pub known: u64,
    /// Events without outputs.
    pub without_outputs: u64,
}

/// A dataset by namespace and name.
type Foreign = (String, String);

impl Session {
    /// Records what OpenLineage events, one a line, claim. Needs role `admin`.
    pub async fn import_lineage(&self, text: &[u8]) -> Result<ImportedLineage, Problem> {
        let done = self.try_import(text).await;
        self.or_denied(done).await
    }

    async fn try_import(&self, text: &[u8]) -> Result<ImportedLineage, Problem> {
        self.engine.refresh().await?;
        self.needs("admin")?;
        let parsed = custody_openlineage::parse(text).map_err(refused)?;
        let mut done = ImportedLineage {
            events: parsed.count,
            without_outputs: parsed.without_outputs(),
            ..ImportedLineage::default()
        };
        let names = self.names(&parsed.events)?;
        let datasets = self.external_datasets(names, &mut done).await?;
        let mut recorded = self.engine.claims()?;
        let mut new = vec![];
        for event in parsed.events {
            let mut claims = asserted(event, &datasets)?;
            claims.retain(|claim| claim.key().is_none_or(|key| !recorded.contains(&key)));
            if claims.is_empty() {
                done.known += 1;
            }
            recorded.extend(claims.iter().filter_map(AssertedLineage::key));
            new.extend(claims);
        }
        done.assertions = new.len() as u64;
        let mut new = new.into_iter().peekable();
        while new.peek().is_some() {
            let entries = new.by_ref().take(TOGETHER).map(|claim| {
                self.engine.recorder.record(self.entry(
                    Verb::Admin,
                    Outcome::Success,
                    Payload::Asserted(Box::new(claim)),
                ))
            });
            try_join_all(entries).await?;
        }
        Ok(done)
    }

    /// The name here of every dataset that the events name.
    fn names(&self, events: &[ForeignEvent]) -> Result<BTreeMap<Foreign, DatasetName>, Problem> {
        let (catalog, mut names) = (self.engine.catalog(), BTreeMap::new());
        let mut holders: BTreeMap<DatasetName, Foreign> = BTreeMap::new();
        for table in events.iter().flat_map(|e| &e.claims).flat_map(|c| &c.tables) {
            let foreign = (table.namespace.clone(), table.name.clone());
            if names.contains_key(&foreign) {
                continue;
            }
            let name = match self.engine.own(&catalog, &foreign) {
                Some(dataset) => dataset.name().clone(),
                None => {
                    let name = external_name(&foreign)?;
                    let held = catalog.dataset(&name).filter(|d| d.kind() == DatasetKind::External);
                    let comment = held.and_then(|d| d.definition().comment.as_deref());
                    let holder = holders.entry(name.clone()).or_insert_with(|| foreign.clone());
                    if *holder != foreign || comment.is_some_and(|c| c != comment_of(&foreign)) {
                        return Err(taken(&name, &foreign));
                    }
                    name
                }
            };
            names.insert(foreign, name);
        }
        Ok(names)
    }

    /// Makes datasets of the names that are not in the catalog, each with what it stands for as its comment.
    async fn external_datasets(
        &self,
        names: BTreeMap<Foreign, DatasetName>,
        done: &mut ImportedLineage,
    ) -> Result<BTreeMap<Foreign, (DatasetId, DatasetName)>, Problem> {
        let mut datasets = BTreeMap::new();
        for (foreign, name) in names {
            let catalog = self.engine.catalog();
            let known = catalog.dataset(&name);
            let id = known.map_or_else(|| catalog.new_dataset_id(&name), Dataset::id);
            if known.is_none() {
                let change = CatalogChange::External { id, name: name.clone() };
                self.control(Verb::Admin, Payload::CatalogChange(change), vec![]).await?;
                done.externals += 1;
            }
            // An import that was cut off may have left one without its comment.
            if known.is_none_or(|d| d.kind() == DatasetKind::External && d.definition().comment.is_none()) {
                let change = AttributeChange {
                    dataset: id,
                    owner: None,
                    purposes: None,
                    comment: Some(comment_of(&foreign)),
                    name: None,
                };
                let change = CatalogChange::Attributes(change);
                self.control(Verb::Admin, Payload::CatalogChange(change), vec![]).await?;
            }
            datasets.insert(foreign, (id, name));
        }
        Ok(datasets)
    }
}

impl Engine {
    /// A dataset of this warehouse by its present name, where the namespace is ours.
    fn own<'a>(&self, catalog: &'a Catalog, (namespace, name): &Foreign) -> Option<&'a Dataset> {
        let ours = namespace.strip_prefix("custody://").is_some_and(|name| name == self.settings().name);
        catalog.dataset(&name.parse().ok().filter(|_| ours)?)
    }
}

/// `<namespace> <name>`: what a foreign dataset stands for.
fn comment_of((namespace, name): &Foreign) -> String {
    format!("{namespace} {name}")
}

/// `external.<letters and digits of the name>_<8 hex digits over namespace and name>`.
fn external_name(foreign: &Foreign) -> Result<DatasetName, Problem> {
    let (namespace, name) = foreign;
    let mut hasher = Sha3_256::new();
    for part in [namespace, name] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest: String = hasher.finalize().iter().take(4).map(|b| format!("{b:02x}")).collect();
    let words = name.to_lowercase();
    let words: Vec<&str> = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let mut slug = words.join("_");
    if !slug.starts_with(|c: char| c.is_ascii_lowercase()) {
        slug.insert(0, '_');
    }
    slug.truncate(SLUG);
    DatasetName::new(SCHEMA, &format!("{slug}_{digest}")).map_err(Problem::bug)
}

fn taken(name: &DatasetName, foreign: &Foreign) -> Problem {
    Problem::new(1153, format!("`{}` would be `{name}` here, and that is another dataset", comment_of(foreign)))
        .help("leave out the events that name it")
}

/// The entries of an event.
fn asserted(
    event: ForeignEvent,
    datasets: &BTreeMap<Foreign, (DatasetId, DatasetName)>,
) -> Result<Vec<AssertedLineage>, Problem> {
    let ForeignEvent { hash, producer, job_namespace, job, run, at, claims } = event;
    let claim = |Claim { tables, outputs, rows }| {
        let tables = tables.into_iter().map(|table| {
            let foreign = (table.namespace, table.name);
            let found = datasets.get(&foreign).cloned();
            let (dataset, name) = found.ok_or_else(|| Problem::bug("a dataset of an event has no name"))?;
            let (namespace, text) = foreign;
            Ok(AssertedTable { dataset, name, namespace, text, version: table.version })
        });
        Ok(AssertedLineage {
            event: hash,
            producer: producer.clone(),
            job_namespace: job_namespace.clone(),
            job: job.clone(),
            run: run.clone(),
            at,
            tables: tables.collect::<Result<_, Problem>>()?,
            outputs,
            rows,
        })
    };
    claims.into_iter().map(claim).collect()
}

fn refused(refused: Refused) -> Problem {
    let (help, message) = (refused.fault.help(), refused.to_string());
    let problem = match refused.fault {
        Fault::Json(_) => Problem::new(1150, message),
        Fault::Event { .. } | Fault::Control(_) => Problem::new(1151, message),
        Fault::Bound { .. } => Problem::new(1152, message),
    };
    problem.help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_become_names_here() {
        let named = |namespace: &str, name: &str| external_name(&(namespace.into(), name.into())).unwrap().to_string();
        assert_eq!(named("s3://lake", "Raw/Orders.v2"), "external.raw_orders_v2_7b7ad1e4");
        assert_ne!(named("s3://lake", "orders"), named("s3://lak", "eorders"));
        assert!(named("db", "2026").starts_with("external._2026_"));
        assert!(named("db", "Ünïcode").starts_with("external.n_code_"));
        assert!(named("db", "表").starts_with("external.__"));
        assert!(named("db", &"x".repeat(1024)).len() == "external.".len() + 128);
    }
}
