//! Plain views are recorded as they are now: text, columns, whose rights.

use super::{Event, Overrides, in_file, prepare::exact_sources};
use crate::{
    pin::{Found, present},
    project::{Declared, Project},
    session::Session,
    view::{PlannedText, Within},
};
use custody_catalog::{Dataset, PlainView};
use custody_dialect::PlainViewDef;
use custody_model::{
    CatalogChange, ColumnDef, DatasetDefinition, DatasetKind, Hash, Payload, Pin, Principal, Problem, TableVersion,
    Verb, ViewRecord,
};
use custody_policy::enforce;
use std::{collections::BTreeSet, sync::Arc};

/// A plain view that is ready to be recorded.
pub(crate) struct PreparedView {
    pub(crate) record: ViewRecord,
    pub(crate) text: PlannedText,
    /// The number of its newest record.
    pub(crate) before: Option<u64>,
    /// Whether that record says the same.
    pub(crate) same: bool,
}

impl PreparedView {
    /// Stands in for the catalog's, in this run.
    pub(crate) fn found(&self) -> Found {
        let definition = &self.record.definition;
        let table = TableVersion {
            dataset: definition.id,
            name: definition.name.clone(),
            version: self.before.unwrap_or(0) + 1,
            made_at: custody_model::ControlSeq(0),
            content: Hash::default(),
        };
        let view = Arc::new(PlainView { table, record: self.record.clone() });
        Found::view(&view, definition.clone())
    }
}

impl Session {
    /// Everything about a plain view that can be known: its columns and their classes, by planning its text.
    pub(crate) async fn prepare_view(
        &self,
        project: &Project,
        declared: &Declared<PlainViewDef>,
        overrides: &Overrides,
    ) -> Result<PreparedView, Problem> {
        let text = project.text(declared.file);
        self.prepare_view_inner(declared, overrides).await.map_err(|p| in_file(p, text))
    }

    async fn prepare_view_inner(
        &self,
        declared: &Declared<PlainViewDef>,
        overrides: &Overrides,
    ) -> Result<PreparedView, Problem> {
        let def = &declared.def;
        let name = &def.name.value;
        let catalog = self.catalog();
        let known = catalog.dataset(name);
        if let Some(known) = known.filter(|d| !matches!(d.kind(), DatasetKind::View | DatasetKind::External)) {
            let problem = Problem::new(1117, format!("`{name}` is a {} already", known.kind().word()));
            return Err(problem.label(def.name.place.label("here")));
        }
        let owner = def.owner.as_ref().map_or(&self.subject.principal.0, |o| &o.value);
        let owner = Principal(owner.clone());
        // Else whoever may publish a view could read all that anybody may.
        let own = self.subject.principal == owner || self.subject.roles.contains(&owner.0);
        if enforce!("view.owner", def.definer && !own) {
            let place = def.owner.as_ref().map_or(def.name.place, |o| o.place);
            return Err(Problem::new(3109, format!("you may not give `{name}` the rights of `{owner}`"))
                .help("a view with `DEFINER` is published by its owner, or by somebody in the role that owns it")
                .label(place.label("you are neither this principal nor in this role")));
        }
        let id = known.map_or_else(|| catalog.new_dataset_id(name), Dataset::id);
        let rights = self.with_rights_of(&def.definer.then(|| owner.clone()));
        let text = rights.plan_text(&def.query, id, &Within::run(overrides)).await?;
        exact_sources(name, &text.lineage)?;
        let schema = custody_store::version_schema(text.plan.schema().as_arrow()).map_err(|e| e.problem())?;
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(Problem::new(1119, format!("column `{twice}` appears twice")).help("give one of them an alias"));
        }
        let fields = catalog.next_field_ids(id, &names);
        let columns = schema.fields().iter().zip(fields).map(|(f, field)| ColumnDef {
            field,
            name: f.name().clone(),
            data_type: f.data_type().clone(),
            nullable: f.is_nullable(),
        });
        let definition = DatasetDefinition {
            id,
            name: name.clone(),
            kind: DatasetKind::View,
            columns: columns.collect(),
            entity: None,
            keys: vec![],
            event_time: None,
            known_time: None,
            ttl: None,
            owner: owner.0,
            purposes: BTreeSet::new(),
            comment: def.comment.clone(),
            sql: declared.text.clone(),
        };
        // Whose it is, not whose it says it is.
        let grant = self.decide(&present(&catalog, &definition), &[])?;
        if enforce!("view.publish", !grant.publish) {
            return Err(Problem::new(3102, format!("you may not publish `{name}`"))
                .help("a policy must permit action `publish` on it: custody policy decide"));
        }
        let labels = if def.definer { text.labels.clone() } else { vec![] };
        let record = ViewRecord { definition, definer: def.definer, labels };
        let before = known.and_then(Dataset::view);
        let same = before.is_some_and(|v| v.record == record);
        Ok(PreparedView { before: before.map(|v| v.table.version), same, record, text })
    }

    /// Records the view where it is not what was recorded last.
    pub(super) async fn record_view(
        &self,
        prepared: PreparedView,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        let name = prepared.record.definition.name.clone();
        if prepared.same {
            tell(Event::ViewUnchanged { view: name });
            return Ok(());
        }
        let change = CatalogChange::View(prepared.record);
        self.control(Verb::Publish, Payload::CatalogChange(change), vec![]).await?;
        if let Some(found) = self.find(&name, Pin::Newest) {
            tell(Event::View { at: found.at });
        }
        Ok(())
    }
}
