//! What there is to read, as one subject may see it.

use crate::{
    Engine,
    pin::{all_classes, present},
    schema_of,
    session::Session,
};
use custody_model::{
    BypassRecord, DatasetKind, DatasetName, Denied, Entry, Outcome, Payload, Problem, Reason, Rung, Verb,
};
use custody_policy::enforce;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use std::sync::Arc;

/// A dataset that the subject may see.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: DatasetName,
    /// What it is.
    pub kind: DatasetKind,
    /// The columns that the subject may see, of the newest version.
    pub schema: SchemaRef,
    /// The newest version.
    pub newest: Option<u64>,
}

impl Session {
    /// Datasets and system tables that this subject may see. Recorded as metadata.
    pub async fn datasets(&self) -> Result<Vec<Listed>, Problem> {
        self.engine.refresh().await?;
        let mut listed = vec![];
        if self.engine.bundle().is_some() {
            let catalog = self.engine.catalog();
            for dataset in catalog.datasets() {
                let Some((table, definition, labels)) = dataset.readable() else { continue };
                let labels: Vec<_> = labels.iter().map(all_classes).collect();
                let grant = self.decide(&present(&catalog, definition), &labels)?;
                if enforce!("listing.visible", !grant.visible()) {
                    continue;
                }
                let whole = schema_of(definition);
                let fields: Vec<Arc<Field>> = whole
                    .fields()
                    .iter()
                    .zip(&grant.columns)
                    .filter(|(_, c)| !enforce!("listing.columns", c.rung == Rung::None))
                    .map(|(f, c)| {
                        let masked = c.mask.is_some() || f.is_nullable();
                        Arc::new(f.as_ref().clone().with_nullable(masked))
                    })
                    .collect();
                listed.push(Listed {
                    name: dataset.name().clone(),
                    kind: dataset.kind(),
                    schema: Arc::new(Schema::new(fields)),
                    newest: dataset.view().is_none().then_some(table.version),
                });
            }
        }
        listed.extend(custody_system_tables::tables().iter().map(|t| Listed {
            name: t.definition.name.clone(),
            kind: DatasetKind::System,
            schema: Arc::clone(&t.schema),
            newest: None,
        }));
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        self.record_metadata("list datasets").await?;
        Ok(listed)
    }

    /// Records an attempt to get around policy, and gives the problem back with its entry.
    pub async fn bypass(&self, technique: &str, problem: Problem) -> Problem {
        let payload = Payload::Bypass(BypassRecord { technique: technique.to_string(), evidence: vec![] });
        match self.engine.recorder.record(self.entry(Verb::Read, Outcome::Denied, payload)).await {
            Ok(recorded) => Problem { entry: Some(recorded.entry), ..problem },
            Err(lost) => lost.into(),
        }
    }
}

impl Engine {
    /// Records a refusal of somebody who was not established.
    pub async fn refuse_unknown(&self, verb: Verb, problem: Problem, count: u64) -> Problem {
        let now = self.clock.now();
        let entry = Entry {
            id: crate::entries::entry_id(now),
            wall: now,
            reference: None,
            control_seq: self.seen(),
            trace: None,
            actor: None,
            verb,
            targets: vec![],
            outcome: Outcome::Denied,
            reason: Reason {
                environment: self.settings.environment.clone(),
                region: self.settings.region.clone(),
                ..Reason::default()
            },
            measure: Default::default(),
            payload: Payload::Denied(Denied {
                code: problem.code.to_string(),
                statement_hash: None,
                targets: vec![],
                count,
            }),
        };
        match self.recorder.record(entry).await {
            Ok(recorded) => Problem { entry: Some(recorded.entry), ..problem },
            Err(lost) => lost.into(),
        }
    }
}
