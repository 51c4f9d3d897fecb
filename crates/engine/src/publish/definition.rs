//! Definitions as the catalog keeps them: datasets and columns keep their ids, renamed or not.

use super::{Declaration, prepare::purposes};
use crate::{governed::Drafted, pin::PinnedTable, session::Session};
use custody_catalog::{Catalog, Dataset};
use custody_dialect::Placed;
use custody_model::{ColumnDef, DatasetDefinition, DatasetKind, DatasetName, FieldId, Problem};

impl Session {
    pub(super) fn output_definition(
        &self,
        declaration: &Declaration<'_>,
        known: Option<&Dataset>,
        drafted: &Drafted,
        pinned: &[PinnedTable],
    ) -> Result<DatasetDefinition, Problem> {
        let catalog = self.catalog();
        let schema = custody_store::version_schema(drafted.plan.schema().as_arrow()).map_err(|e| e.problem())?;
        let id = known.map_or_else(|| catalog.new_dataset_id(declaration.name), Dataset::id);
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(
                Problem::new(1119, format!("column `{}` appears twice", twice.1)).help("give one of them an alias")
            );
        }
        let fields = catalog.next_field_ids(id, &earlier_names(known, &names, declaration.clauses)?);
        let columns = schema
            .fields()
            .iter()
            .zip(fields)
            .map(|(f, field)| ColumnDef {
                field,
                name: f.name().clone(),
                data_type: f.data_type().clone(),
                nullable: f.is_nullable(),
            })
            .collect();
        let mut definition = self.definition(
            declaration.kind,
            id,
            declaration.name,
            columns,
            declaration.key,
            declaration.ttl.clone(),
            declaration.clauses,
            declaration.text,
        )?;
        definition.purposes = purposes(declaration.name, &definition.purposes, pinned)?;
        Ok(definition)
    }

    #[expect(clippy::too_many_arguments, reason = "one place builds definitions, from two kinds of declaration")]
    pub(super) fn definition(
        &self,
        kind: DatasetKind,
        id: custody_model::DatasetId,
        name: &DatasetName,
        columns: Vec<ColumnDef>,
        key: &custody_dialect::Key,
        ttl: Option<String>,
        clauses: &custody_dialect::Clauses,
        text: &str,
    ) -> Result<DatasetDefinition, Problem> {
        let field = |wanted: &Placed<String>, what: &str| -> Result<FieldId, Problem> {
            columns.iter().find(|c| c.name == wanted.value).map(|c| c.field).ok_or_else(|| {
                let names: Vec<_> = columns.iter().map(|c| format!("`{}`", c.name)).collect();
                Problem::new(1120, format!("{what} `{}` is not a column of `{name}`", wanted.value))
                    .help(format!("there are {}", names.join(", ")))
                    .label(wanted.place.label("no such column"))
            })
        };
        let keys = key.columns.iter().map(|c| field(c, "key")).collect::<Result<Vec<_>, _>>()?;
        let event_time = field(&key.event_time, "event time")?;
        let known_time = key.known_time.as_ref().map(|c| field(c, "known time")).transpose()?;
        for (time, place) in [(Some(event_time), Some(&key.event_time)), (known_time, key.known_time.as_ref())] {
            let Some((column, place)) = time.and_then(|t| columns.iter().find(|c| c.field == t)).zip(place) else {
                continue;
            };
            use datafusion::arrow::datatypes::{DataType, TimeUnit};
            if !matches!(column.data_type, DataType::Timestamp(TimeUnit::Microsecond, Some(_)) | DataType::Date32) {
                return Err(Problem::new(1121, format!("time `{}` has type `{}`", column.name, column.data_type))
                    .help("a time is a TIMESTAMP (microseconds, UTC) or a DATE: CAST it")
                    .label(place.place.label("not a time")));
            }
        }
        Ok(DatasetDefinition {
            id,
            name: name.clone(),
            kind,
            entity: Some(key.entity.value.clone()),
            keys,
            event_time: Some(event_time),
            known_time,
            ttl,
            owner: clauses.owner.as_ref().map_or_else(|| self.subject.principal.0.clone(), |o| o.value.clone()),
            purposes: clauses.purposes.iter().map(|p| p.value.clone()).collect(),
            comment: clauses.comment.clone(),
            sql: text.to_string(),
            columns,
        })
    }
}

/// The dataset that a definition speaks of: that of its name, or the one it says it is renamed from. Once renamed, the
/// clause has nothing left to do.
pub(crate) fn renamed<'a>(
    catalog: &'a Catalog,
    name: &DatasetName,
    clauses: &custody_dialect::Clauses,
) -> Result<Option<&'a Dataset>, Problem> {
    match (catalog.dataset(name), &clauses.renamed_from) {
        (Some(known), _) => Ok(Some(known)),
        (None, None) => Ok(None),
        (None, Some(old)) => match catalog.dataset(&old.value) {
            Some(known) => Ok(Some(known)),
            None => Err(Problem::new(1128, format!("there is no `{}` to be renamed", old.value))
                .help("leave `RENAMED FROM` out of a new definition")
                .label(old.place.label("here"))),
        },
    }
}

/// The names under which the catalog knows these columns: of a renamed one, its old name. Once renamed, the clause has
/// nothing left to do.
pub(super) fn earlier_names<'a>(
    known: Option<&Dataset>,
    names: &[&'a str],
    clauses: &'a custody_dialect::Clauses,
) -> Result<Vec<&'a str>, Problem> {
    let mut earlier = names.to_vec();
    for renamed in &clauses.renamed_columns {
        let (new, old) = (renamed.new.value.as_str(), renamed.old.value.as_str());
        let knows = |name: &str| known.is_some_and(|d| d.definition().column_named(name).is_some());
        let wrong = |what: String, help: &str, place: custody_dialect::Place| {
            Err(Problem::new(1128, what).help(help).label(place.label("here")))
        };
        let Some(at) = names.iter().position(|n| *n == new) else {
            return wrong(format!("there is no column `{new}`"), "name a column of the definition", renamed.new.place);
        };
        if names.contains(&old) {
            return wrong(format!("column `{old}` is still there"), "give one of them another name", renamed.old.place);
        }
        match (knows(new), knows(old)) {
            (true, _) => {}
            (false, true) => earlier[at] = old,
            (false, false) => {
                let help = "leave `RENAMED FROM` out where nothing was published yet";
                return wrong(format!("there is no column `{old}` to be renamed"), help, renamed.old.place);
            }
        }
    }
    Ok(earlier)
}
