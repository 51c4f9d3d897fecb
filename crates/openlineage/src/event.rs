//! An entry, and what it says in OpenLineage's words.

use crate::facets;
use chrono::{DateTime, SecondsFormat};
use custody_model::{
    ControlSeq, DatasetDefinition, DatasetId, Entry, EntryId, FieldId, InputRef, LineageRecord, Outcome, Payload,
    Publish, ReadOutcome, RunRecord, RunState, StoredEntry, Target, Verb, WallNanos,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// A dataset version as the receiver may see it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its definition under its present name.
    pub definition: Arc<DatasetDefinition>,
    /// Its version.
    pub version: u64,
    /// Columns that the receiver may see.
    pub columns: BTreeSet<FieldId>,
    /// Whether the receiver may see every value, so that a count of rows tells nothing new.
    pub open: bool,
}

impl Known {
    pub(crate) fn shows(&self, field: FieldId) -> bool {
        self.columns.contains(&field)
    }
}

/// What entries point to.
pub trait Names {
    /// The version that this control position made; `None`: there is none, or the receiver may not see it.
    fn known(&self, dataset: DatasetId, made_at: ControlSeq) -> Option<Known>;
    /// The lineage that a version was published with.
    fn lineage(&self, made_at: ControlSeq) -> Option<LineageRecord>;
}

/// The event that an entry gives; `None`: it is about no run and no read, or about nothing the receiver may see.
///
/// `request` is the intent of an outcome. `namespace` names the warehouse: jobs and datasets live in it.
pub fn event(stored: &StoredEntry, request: Option<&Entry>, namespace: &str, names: &dyn Names) -> Option<Value> {
    let entry = &stored.entry;
    let place = format!("{}/{}", stored.writer, stored.seq.0);
    let made = Made { namespace, names, wall: entry.wall, place };
    match &entry.payload {
        Payload::Run(record) => made.run(record, entry.id, entry.reference),
        Payload::Publish(publish) => made.published(publish, entry.control_seq),
        Payload::ReadIntent(_) => made.read("START", entry, Map::new()),
        Payload::ReadOutcome(outcome) => {
            let kind = match entry.outcome {
                Outcome::Success => "COMPLETE",
                Outcome::Unknown => "ABORT",
                Outcome::Denied | Outcome::Failure | Outcome::Pending => "FAIL",
            };
            made.read(kind, request?, ended(outcome))
        }
        Payload::Read(_, outcome) => made.read("COMPLETE", entry, ended(outcome)),
        Payload::CatalogChange(_)
        | Payload::PolicyBundle(_)
        | Payload::AccessGrant(_)
        | Payload::AccessRequest(_)
        | Payload::AccessReview(_)
        | Payload::Lineage(_)
        // What others claim is not ours to tell.
        | Payload::Asserted(_)
        | Payload::ReadProgress(_)
        | Payload::Denied(_)
        | Payload::Bypass(_)
        | Payload::Key(_)
        | Payload::Heads(_)
        | Payload::Writer(_)
        | Payload::Erasure(_) => None,
    }
}

fn ended(outcome: &ReadOutcome) -> Map<String, Value> {
    outcome.code.iter().map(|code| ("code".to_string(), code.as_str().into())).collect()
}

struct Made<'a> {
    namespace: &'a str,
    names: &'a dyn Names,
    wall: WallNanos,
    place: String,
}

impl Made<'_> {
    fn run(&self, record: &RunRecord, id: EntryId, started: Option<EntryId>) -> Option<Value> {
        let job = self.job(&record.job.to_string(), "FEATURE_VIEW");
        let (kind, run) = match record.state {
            RunState::Started => ("START", id),
            RunState::Failed => ("FAIL", started?),
            // A publish says what came out; a run that only drafted gives nothing to others.
            RunState::Written | RunState::Ended => return None,
        };
        let mut facets = self.captured(Map::new());
        if let Some(code) = &record.error {
            facets.insert("errorMessage".into(), facets::error(code));
        }
        let inputs = self.inputs(&record.inputs);
        (record.inputs.is_empty() || !inputs.is_empty()).then(|| self.event(kind, run, facets, job, inputs, vec![]))
    }

    fn published(&self, publish: &Publish, made_at: ControlSeq) -> Option<Value> {
        let known = self.names.known(publish.definition.id, made_at)?;
        let job = self.job(&known.definition.name.to_string(), "FEATURE_VIEW");
        let mut told = Map::from_iter([("lineage_hash".into(), publish.lineage_hash.to_string().into())]);
        told.insert("content_root".into(), publish.content_root.to_string().into());
        let mut facets = Map::from_iter([
            ("schema".to_string(), facets::schema(&known)),
            ("version".to_string(), facets::version(publish.version)),
            ("custody_labels".to_string(), facets::labels(&known, &publish.labels)),
        ]);
        if let Some(record) = self.names.lineage(made_at) {
            told.insert("exact".into(), record.lineage.exact.into());
            facets.insert(
                "columnLineage".into(),
                facets::column_lineage(&record.lineage, &known, self.names, self.namespace),
            );
        }
        let mut output = self.dataset(&known, facets);
        if known.open {
            output["outputFacets"] = json!({"outputStatistics": facets::output_statistics(publish.rows)});
        }
        let inputs = self.inputs(&publish.inputs);
        Some(self.event("COMPLETE", publish.run, self.captured(told), job, inputs, vec![output]))
    }

    /// Reads of rows are events; metadata, exports (these events among them) and bookkeeping are not.
    fn read(&self, kind: &str, request: &Entry, told: Map<String, Value>) -> Option<Value> {
        if !matches!(request.verb, Verb::Read | Verb::Serve) {
            return None;
        }
        let input = |target: &Target| {
            let known = self.names.known(target.dataset, target.made_at)?;
            let facets = Map::from_iter([
                ("version".to_string(), facets::version(known.version)),
                ("custody_reads".to_string(), facets::reads(&known, target)),
            ]);
            Some(self.dataset(&known, facets))
        };
        let inputs: Vec<Value> = request.targets.iter().filter_map(input).collect();
        let job = self.job(request.verb.word(), "QUERY");
        (!inputs.is_empty()).then(|| self.event(kind, request.id, self.captured(told), job, inputs, vec![]))
    }

    fn inputs(&self, inputs: &[InputRef]) -> Vec<Value> {
        let input = |input: &InputRef| {
            let known = self.names.known(input.dataset, input.made_at)?;
            let facets = Map::from_iter([
                ("schema".to_string(), facets::schema(&known)),
                ("version".to_string(), facets::version(known.version)),
            ]);
            Some(self.dataset(&known, facets))
        };
        inputs.iter().filter_map(input).collect()
    }

    fn dataset(&self, known: &Known, facets: Map<String, Value>) -> Value {
        json!({"namespace": self.namespace, "name": known.definition.name.to_string(), "facets": facets})
    }

    fn job(&self, name: &str, kind: &str) -> Value {
        json!({"namespace": self.namespace, "name": name, "facets": {"jobType": facets::job_type(kind)}})
    }

    /// Run facets: where in the ledger this comes from, and what else the entry says.
    fn captured(&self, mut told: Map<String, Value>) -> Map<String, Value> {
        told.insert("entry".into(), self.place.clone().into());
        Map::from_iter([("custody_capture".to_string(), facets::own("capture", Value::Object(told)))])
    }

    fn event(
        &self,
        kind: &str,
        run: EntryId,
        facets: Map<String, Value>,
        job: Value,
        inputs: Vec<Value>,
        outputs: Vec<Value>,
    ) -> Value {
        json!({
            "eventType": kind,
            "eventTime": DateTime::from_timestamp_nanos(self.wall.0).to_rfc3339_opts(SecondsFormat::Nanos, true),
            "producer": facets::PRODUCER,
            "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
            "run": {"runId": run.0.to_string(), "facets": facets},
            "job": job,
            "inputs": inputs,
            "outputs": outputs,
        })
    }
}
