//! Facets: OpenLineage's own at the versions of its release 1.50.0, and ours.

use crate::event::{Known, Names};
use custody_model::{Atom, ClassLabel, ColumnRole, Lineage, TableVersion, Target};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Who makes the events.
pub(crate) const PRODUCER: &str = concat!("urn:custody:engine:", env!("CARGO_PKG_VERSION"));

/// A facet of OpenLineage, by file and definition.
fn standard(name: &str, version: &str, content: Value) -> Value {
    facet(format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}"), content)
}

/// A facet of ours.
pub(crate) fn own(name: &str, content: Value) -> Value {
    facet(format!("urn:custody:facet:{name}:1"), content)
}

fn facet(schema: String, content: Value) -> Value {
    let mut facet = Map::from_iter([("_producer".into(), PRODUCER.into()), ("_schemaURL".into(), schema.into())]);
    if let Value::Object(content) = content {
        facet.extend(content);
    }
    Value::Object(facet)
}

pub(crate) fn job_type(kind: &str) -> Value {
    let content = json!({"processingType": "BATCH", "integration": "CUSTODY", "jobType": kind});
    standard("JobTypeJobFacet", "2-0-3", content)
}

pub(crate) fn error(code: &str) -> Value {
    // The code only: a message may hold values.
    standard("ErrorMessageRunFacet", "1-0-1", json!({"message": code, "programmingLanguage": "SQL"}))
}

pub(crate) fn version(number: u64) -> Value {
    standard("DatasetVersionDatasetFacet", "1-0-1", json!({"datasetVersion": number.to_string()}))
}

pub(crate) fn output_statistics(rows: u64) -> Value {
    standard("OutputStatisticsOutputDatasetFacet", "1-0-2", json!({"rowCount": rows}))
}

/// The visible columns with their types.
pub(crate) fn schema(known: &Known) -> Value {
    let columns = known.definition.columns.iter().filter(|c| known.shows(c.field));
    let fields = columns.map(|c| json!({"name": c.name, "type": c.data_type.to_string()}));
    standard("SchemaDatasetFacet", "1-2-0", json!({"fields": fields.collect::<Vec<_>>()}))
}

/// The classes of each visible column.
pub(crate) fn labels(known: &Known, labels: &[ClassLabel]) -> Value {
    let columns = known.definition.columns.iter().zip(labels).filter(|(c, _)| known.shows(c.field));
    let words = |set: &custody_model::ClassSet| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    let columns = columns.map(
        |(c, label)| json!({"column": c.name, "explicit": words(&label.explicit), "implicit": words(&label.implicit)}),
    );
    own("labels", json!({"columns": columns.collect::<Vec<_>>()}))
}

/// Which columns a read touched, in which parts, and what was given of each.
pub(crate) fn reads(known: &Known, target: &Target) -> Value {
    let column = |c: &custody_model::TargetColumn| {
        let name = match c.ordinal.checked_sub(1) {
            None => "*",
            Some(index) => {
                let column = known.definition.columns.get(usize::from(index))?;
                known.shows(column.field).then_some(column.name.as_str())?
            }
        };
        let roles: Vec<&str> = c.roles.iter().map(ColumnRole::word).collect();
        Some(json!({"column": name, "roles": roles, "requested": c.requested, "rung": c.rung.word()}))
    };
    own("reads", json!({"columns": target.columns.iter().filter_map(column).collect::<Vec<_>>()}))
}

/// How each output column came about, and what decides about all of them.
pub(crate) fn column_lineage(lineage: &Lineage, output: &Known, names: &dyn Names, namespace: &str) -> Value {
    let input = |atom: &Atom, kind: &str, subtype: &str| -> Option<(InputField, Value)> {
        let table: &TableVersion = lineage.table(atom)?;
        let known = names.known(table.dataset, table.made_at)?;
        let field = match atom.field {
            None => "*".to_string(),
            Some(field) => known.shows(field).then(|| known.definition.column(field).map(|c| c.name.clone()))??,
        };
        let masking = !atom.masks.is_empty();
        Some((
            (known.definition.name.to_string(), field),
            json!({"type": kind, "subtype": subtype, "masking": masking}),
        ))
    };
    let gathered = |inputs: &mut dyn Iterator<Item = (InputField, Value)>| {
        let mut fields: BTreeMap<InputField, Vec<Value>> = BTreeMap::new();
        for (field, transformation) in inputs {
            let all = fields.entry(field).or_default();
            if !all.contains(&transformation) {
                all.push(transformation);
            }
        }
        let value = |((name, field), transformations)| json!({"namespace": namespace, "name": name, "field": field, "transformations": transformations});
        Value::Array(fields.into_iter().map(value).collect())
    };
    let visible = |name: &str| output.definition.column_named(name).is_some_and(|c| output.shows(c.field));
    let fields: Map<String, Value> = lineage
        .outputs
        .iter()
        .filter(|o| visible(&o.name))
        .map(|o| {
            let direct = o.direct.iter().filter_map(|(how, atom)| input(lineage.atom(*atom)?, "DIRECT", how.word()));
            let decides = o.field.iter().filter_map(|i| input(lineage.atom(i.atom)?, "INDIRECT", i.kind.word()));
            (o.name.clone(), json!({"inputFields": gathered(&mut direct.chain(decides))}))
        })
        .collect();
    let mut all = lineage.dataset.iter().filter_map(|i| input(lineage.atom(i.atom)?, "INDIRECT", i.kind.word()));
    let dataset = gathered(&mut all);
    standard("ColumnLineageDatasetFacet", "1-2-0", json!({"fields": fields, "dataset": dataset}))
}

/// Dataset and column.
type InputField = (String, String);
