//! Sources are recorded at what their files are now.

use super::{
    Event,
    definition::{earlier_names, renamed},
    in_file,
    sources::possible,
};
use crate::{
    pin::{not_found, present},
    project::{Declared, Project},
    session::Session,
};
use custody_catalog::Dataset;
use custody_dialect::{Placed, SourceDef, SourceFormat};
use custody_model::{
    CatalogChange, ColumnDef, DatasetDefinition, DatasetKind, Payload, Pin, Problem, SourceKind, SourceSnapshot,
    SourceText, Verb,
};
use custody_policy::enforce;
use custody_store::{SourceFiles, SourceSpec, snapshot_hash};

impl Session {
    /// Records a source as its files are now. A subject without `publish` on it goes on with the newest recorded.
    pub(crate) async fn snapshot(
        &self,
        project: &Project,
        declared: &Declared<SourceDef>,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        let def = &declared.def;
        let name = &def.name.value;
        let catalog = self.engine.catalog();
        let known = renamed(&catalog, name, &def.clauses)?;
        if let Some(known) = known
            && known.kind() != DatasetKind::Source
        {
            return Err(Problem::new(1117, format!("`{name}` is a {} already", known.kind().word())));
        }
        let definition = self.source_definition(declared, known)?;
        // Whose it is, not whose it says it is.
        let grant = self.decide(&present(&catalog, &definition), &[])?;
        if enforce!("publish.source", !grant.publish) {
            return match known.and_then(Dataset::newest) {
                Some(_) if grant.visible() => Ok(()),
                _ => Err(not_found(name)),
            };
        }
        self.engine.promise(name, &def.clauses.expectations);
        let newest = known.and_then(Dataset::newest).and_then(|v| v.snapshot().cloned());
        let previous = match &newest {
            Some(snapshot) => self.engine.recorder.get_blob(&snapshot.files)?,
            None => None,
        };
        let previous = previous.map(|json| SourceFiles::from_json(&json)).transpose().map_err(|e| e.problem())?;
        let kind = source_kind(def.format);
        let store = &self.engine.store;
        let keys = self.engine.settings.keys();
        let more: Vec<String> = self.engine.settings.sources_allow.iter().map(|p| p.display().to_string()).collect();
        let allow = store.allow(Some(&project.root), &more, &[keys]).map_err(|e| e.problem())?;
        let spec = SourceSpec { kind, url: &def.location.value, schema: crate::schema_of(&definition) };
        let files = store
            .snapshot(&allow, &spec, previous.as_ref())
            .await
            .map_err(|e| at_place(e.problem(), &def.location, project.text(declared.file)))?;
        for warning in &files.warnings {
            tell(Event::Warning(warning.clone()));
        }
        let hash = snapshot_hash(&definition, &files);
        if let Some(newest) = &newest
            && newest.snapshot == hash
        {
            if known.is_some_and(|d| d.name() != name) {
                self.change_attributes(&definition).await?;
            }
            let at = known.and_then(Dataset::newest).map(|v| v.table.clone());
            if let Some(at) = at {
                tell(Event::SnapshotUnchanged { at });
            }
            return Ok(());
        }
        let version = match &files.delta {
            Some((_, version)) => *version,
            None => newest.map_or(1, |n| n.version + 1),
        };
        let bytes = files.bytes();
        let blob = self.engine.recorder.put_blob(files.to_json()).await?;
        let snapshot = SourceSnapshot {
            definition,
            version,
            kind,
            url: def.location.value.clone(),
            snapshot: hash,
            files: blob,
            bytes,
        };
        self.control(Verb::Publish, Payload::CatalogChange(CatalogChange::Source(snapshot)), vec![]).await?;
        if let Some(found) = self.find(name, Pin::Newest) {
            tell(Event::Snapshot { at: found.at, bytes });
        }
        Ok(())
    }

    pub(crate) fn source_definition(
        &self,
        declared: &Declared<SourceDef>,
        known: Option<&Dataset>,
    ) -> Result<DatasetDefinition, Problem> {
        let def = &declared.def;
        let catalog = self.engine.catalog();
        let id = known.map_or_else(|| catalog.new_dataset_id(&def.name.value), Dataset::id);
        let names: Vec<&str> = def.columns.iter().map(|c| c.name.as_str()).collect();
        let fields = catalog.next_field_ids(id, &earlier_names(known, &names, &def.clauses)?);
        let columns: Vec<ColumnDef> = def
            .columns
            .iter()
            .zip(fields)
            .map(|(c, field)| ColumnDef {
                field,
                name: c.name.clone(),
                data_type: c.data_type.clone(),
                nullable: c.nullable,
            })
            .collect();
        let (name, key, clauses) = (&def.name.value, &def.key, &def.clauses);
        let definition = self.definition(DatasetKind::Source, id, name, columns, key, None, clauses, &declared.text)?;
        possible(self, &def.clauses.expectations, &definition)?;
        Ok(definition)
    }
}

pub(super) fn source_kind(format: SourceFormat) -> SourceKind {
    match format {
        SourceFormat::Delta => SourceKind::Delta,
        SourceFormat::Parquet => SourceKind::Parquet,
        SourceFormat::Csv => SourceKind::Csv,
        SourceFormat::Json => SourceKind::Json,
    }
}

pub(super) fn at_place(problem: Problem, place: &Placed<String>, text: Option<&SourceText>) -> Problem {
    in_file(problem.label(place.place.label("declared here")), text)
}
