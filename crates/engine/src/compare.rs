//! Two versions of a dataset beside each other: columns, and how far their values are apart.
//!
//! What holds here: what is told of a column is what `system.catalog.columns` and `system.quality.profiles` tell this subject
//! of both versions.

use crate::{pin::not_found, publish::Contract, session::Session, system::sees};
use custody_catalog::VersionRecord;
use custody_model::{
    ColumnDef, DatasetName, FieldId, Node, Pin, Problem, TableVersion,
    profile::{ColumnProfile, Drift, Profile},
};
use custody_system_tables::Sees;

/// What became of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnChange {
    /// It is there in both, of one type and name.
    Kept,
    /// Another name.
    Renamed,
    /// Another type or nullability.
    Altered,
    /// New.
    Added,
    /// Gone.
    Removed,
}

impl ColumnChange {
    /// The mark in `custody diff`.
    pub fn mark(self) -> char {
        match self {
            Self::Kept => ' ',
            Self::Renamed | Self::Altered => '~',
            Self::Added => '+',
            Self::Removed => '-',
        }
    }
}

/// A column of either version.
#[derive(Clone, Debug)]
pub struct ComparedColumn {
    /// What became of it.
    pub change: ColumnChange,
    /// As it is in the earlier version.
    pub before: Option<ColumnDef>,
    /// As it is in the later one.
    pub now: Option<ColumnDef>,
    /// Profiles, where the subject may count the values: earlier, later.
    pub profiles: [Option<ColumnProfile>; 2],
    /// How far they are apart, where both are told.
    pub drift: Option<Drift>,
}

/// Two versions beside each other.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The earlier version, as asked.
    pub base: TableVersion,
    /// The later one.
    pub at: TableVersion,
    /// How the later one relates to the earlier one.
    pub contract: Contract,
    /// Rows of both, for whoever sees all of them.
    pub rows: Option<[u64; 2]>,
    /// Every column that the subject may see, those of the later version first.
    pub columns: Vec<ComparedColumn>,
}

impl Session {
    /// Compares two published versions of a dataset. Recorded as metadata.
    pub async fn compare(&self, name: &DatasetName, base: Pin, version: Pin) -> Result<Compared, Problem> {
        self.engine.refresh().await?;
        let compared = self.compared(name, base, version)?;
        self.record_metadata(&format!("compare {} {}", compared.base, compared.at)).await?;
        Ok(compared)
    }

    fn compared(&self, name: &DatasetName, base: Pin, version: Pin) -> Result<Compared, Problem> {
        let catalog = self.catalog();
        let sees = sees(self, &catalog);
        let found = |pin| {
            let version = catalog.resolve(name, pin).filter(|v| sees.dataset(v.table.dataset) && v.publish().is_some());
            version.ok_or_else(|| not_found(name))
        };
        let (before, now) = (found(base)?, found(version)?);
        let profiles = [self.counted(before)?, self.counted(now)?];
        let profile = |which: usize, version: &VersionRecord, field: FieldId| {
            let at = version.definition().columns.iter().position(|c| c.field == field)?;
            let node = Node::new(version.table.made_at, u16::try_from(at + 1).ok()?);
            profiles[which].as_ref().filter(|_| sees.raw(node))?.columns.get(at).cloned()
        };
        let visible = |version: &VersionRecord| -> Vec<ColumnDef> {
            let columns = (1u16..).zip(&version.definition().columns);
            columns.filter(|(i, _)| sees.column(Node::new(version.table.made_at, *i))).map(|(_, c)| c.clone()).collect()
        };
        let (old, new) = (visible(before), visible(now));
        let fields = new.iter().chain(old.iter().filter(|c| new.iter().all(|n| n.field != c.field))).map(|c| c.field);
        let columns = fields.map(|field| {
            let in_ = |columns: &[ColumnDef]| columns.iter().find(|c| c.field == field).cloned();
            let (a, b) = (in_(&old), in_(&new));
            let profiles = [profile(0, before, field), profile(1, now, field)];
            let drift = match &profiles {
                [Some(base), Some(now)] => now.drift(base),
                _ => None,
            };
            ComparedColumn { change: change(a.as_ref(), b.as_ref()), before: a, now: b, profiles, drift }
        });
        let columns: Vec<_> = columns.collect();
        let open = sees.open(&before.table) && sees.open(&now.table);
        let rows = before.publish().zip(now.publish()).filter(|_| open).map(|(a, b)| [a.rows, b.rows]);
        let same = before.identity() == now.identity();
        let contract = crate::publish::contract(Some(before.definition()), None, now.definition(), same);
        Ok(Compared { base: before.table.clone(), at: now.table.clone(), contract, rows, columns })
    }

    fn counted(&self, version: &VersionRecord) -> Result<Option<Profile>, Problem> {
        version.publish().and_then(|p| p.profile).map(|blob| self.engine.profile(&blob)).transpose()
    }
}

fn change(before: Option<&ColumnDef>, now: Option<&ColumnDef>) -> ColumnChange {
    match (before, now) {
        (None, _) => ColumnChange::Added,
        (_, None) => ColumnChange::Removed,
        (Some(a), Some(b)) if (&a.data_type, a.nullable) != (&b.data_type, b.nullable) => ColumnChange::Altered,
        (Some(a), Some(b)) if a.name != b.name => ColumnChange::Renamed,
        _ => ColumnChange::Kept,
    }
}
