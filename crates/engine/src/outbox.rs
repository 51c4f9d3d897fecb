//! Runs and reads as OpenLineage events, in the order of the ledger.
//!
//! What holds here: an event leaves for each run and read that the receiving service may see, at least once; where one
//! stands is a position in each chain of the ledger, so that nothing is skipped while the receiver is away; a batch is
//! an export, recorded before it leaves.

use crate::{
    session::Session,
    system::{SubjectSees, sees, unreadable},
};
use custody_catalog::Catalog;
use custody_model::{
    ControlSeq, DatasetId, EntryRef, FieldId, Hash, LineageRecord, Outcome, Payload, Problem, ReadIntent, ReadOutcome,
    Rung, Seq, Verb, WriterId,
};
use custody_openlineage::{Known, Names};
use custody_system_tables::Snapshot;
use sha3::{Digest, Sha3_256};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

/// The seq of the next entry to tell of, by writer.
pub type Cursor = BTreeMap<WriterId, Seq>;

/// Events to send, and where to stand afterwards.
#[derive(Debug)]
pub struct Batch {
    /// JSON texts, one an event.
    pub events: Vec<String>,
    /// The cursor once they have arrived.
    pub next: Cursor,
    /// The entry that allowed them out; `None`: no event, so nothing to allow.
    pub entry: Option<EntryRef>,
}

impl Session {
    /// The next events behind a cursor, at most about `limit`; the batch is recorded as an export of this session's
    /// subject, who sees in it what policy lets it see of names. Where the cursor does not move there is nothing left.
    pub async fn outbox(&self, cursor: &Cursor, limit: usize) -> Result<Batch, Problem> {
        self.engine.refresh().await?;
        let catalog = self.engine.catalog();
        let (events, next) = self.events(&catalog, cursor, limit)?;
        let entry = self.export(&events).await?;
        Ok(Batch { events, next, entry })
    }

    /// The events of the runs that made these versions, as lines of JSON in the order of the ledger; recorded as an
    /// export. What this session's subject may not see is not in them.
    pub async fn lineage_events(&self, made_at: &BTreeSet<ControlSeq>) -> Result<String, Problem> {
        self.engine.refresh().await?;
        let catalog = self.engine.catalog();
        let snapshot = self.engine.snapshot(&catalog)?;
        let names = Seen { snapshot: &snapshot, sees: sees(self, &catalog) };
        let start = Cursor::new();
        let namespace = self.namespace();
        let mut events = vec![];
        let read = snapshot.entries_from(&start, |stored, _| {
            if matches!(stored.entry.payload, Payload::Publish(_)) && made_at.contains(&stored.entry.control_seq) {
                let event = custody_openlineage::event(stored, None, &namespace, &names);
                events.extend(event.map(|event| event.to_string() + "\n"));
            }
            ControlFlow::Continue(())
        });
        read.map_err(|e| unreadable(&e))?;
        self.export(&events).await?;
        Ok(events.concat())
    }

    /// The namespace of this warehouse's datasets and jobs.
    fn namespace(&self) -> String {
        format!("custody://{}", self.engine.settings().name)
    }

    /// Records that these events leave; `None`: there are none.
    async fn export(&self, events: &[String]) -> Result<Option<EntryRef>, Problem> {
        if events.is_empty() {
            return Ok(None);
        }
        let mut hasher = Sha3_256::new();
        events.iter().for_each(|e| hasher.update(e.as_bytes()));
        let intent = ReadIntent {
            statement: None,
            statement_hash: crate::hash_text("openlineage"),
            lineage_hash: None,
            plan: Hash(hasher.finalize().into()),
            granted_bytes: events.iter().map(|e| e.len() as u64).sum(),
            prediction: None,
        };
        let payload = Payload::Read(intent, ReadOutcome { code: None, scans: vec![] });
        let mut entry = self.entry(Verb::Export, Outcome::Success, payload);
        entry.measure.rows = Some(events.len() as u64);
        Ok(Some(self.engine.recorder.record(entry).await?.entry))
    }

    fn events(&self, catalog: &Catalog, cursor: &Cursor, limit: usize) -> Result<(Vec<String>, Cursor), Problem> {
        let snapshot = self.engine.snapshot(catalog)?;
        let names = Seen { snapshot: &snapshot, sees: sees(self, catalog) };
        let namespace = self.namespace();
        let (mut events, mut next) = (vec![], cursor.clone());
        let read = snapshot.entries_from(cursor, |stored, request| {
            if events.len() >= limit {
                return ControlFlow::Break(());
            }
            let request = request.map(|r| &r.entry);
            events.extend(custody_openlineage::event(stored, request, &namespace, &names).map(|e| e.to_string()));
            next.insert(stored.writer.clone(), Seq(stored.seq.0 + 1));
            ControlFlow::Continue(())
        });
        read.map_err(|e| unreadable(&e))?;
        Ok((events, next))
    }
}

/// The catalog as policy shows it to a subject.
struct Seen<'a> {
    snapshot: &'a Snapshot,
    sees: SubjectSees<'a>,
}

impl Names for Seen<'_> {
    fn known(&self, dataset: DatasetId, made_at: ControlSeq) -> Option<Known> {
        let catalog = self.snapshot.catalog();
        let version = catalog.version_made_at(made_at).filter(|v| v.table.dataset == dataset)?;
        let grant = self.sees.grant(made_at)?;
        let columns: BTreeSet<FieldId> =
            grant.columns.iter().filter(|c| c.rung > Rung::None).map(|c| c.field).collect();
        let mut definition = version.definition().clone();
        definition.name = catalog.dataset_by_id(dataset)?.name().clone();
        let known =
            Known { definition: Arc::new(definition), version: version.table.version, columns, open: grant.open() };
        grant.visible().then_some(known)
    }

    fn lineage(&self, made_at: ControlSeq) -> Option<LineageRecord> {
        self.snapshot.lineage_at(made_at).cloned()
    }
}
