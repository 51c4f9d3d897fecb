//! What somebody would get of a dataset: by the active policies, by those of an earlier epoch, or as of an entry.
//!
//! What holds here: who asks must see the dataset themselves, now.

use crate::{
    access::approvals,
    pin::{all_classes, facts, not_found, present},
    proofs::entry_place,
    relabel::Names,
    session::Session,
};
use custody_ledger::{Position, Reader};
use custody_model::{
    Approvals, Class, ControlSeq, DatasetDefinition, DatasetId, DatasetName, Pin, Problem, Rung, Subject, WallNanos,
    WriterId,
};
use custody_policy::{Bundle, Grant, decide, enforce};
use custody_store::FileDisk;
use std::{collections::BTreeSet, sync::Arc};

/// By column: name, rung, policies; then what decides the rows.
pub type Decided = (Vec<(String, Rung, String)>, String);

/// As of when to decide.
enum AsOf {
    /// By the active bundle.
    Now,
    /// By the bundle of this epoch, over the catalog as it is.
    Epoch(u64),
    /// By the bundle and over the catalog of this entry: writer, seq.
    Entry(String, u64),
}

impl AsOf {
    fn read(at: Option<&str>) -> Result<Self, Problem> {
        match at.map(|at| (at, at.parse())) {
            None => Ok(Self::Now),
            Some((_, Ok(epoch))) => Ok(Self::Epoch(epoch)),
            Some((entry, Err(_))) => entry_place(entry).map(|(writer, seq)| Self::Entry(writer, seq)),
        }
    }
}

/// A bundle that never was.
pub(crate) fn no_epoch(epoch: u64) -> Problem {
    Problem::new(6005, format!("no bundle has epoch {epoch}"))
        .help("SELECT epoch, policy_hash FROM system.policy.bundles lists them")
}

impl Session {
    /// What another subject would get of a dataset; none where it would not be found. For those who see it themselves.
    /// `at`: by the active bundle, by that of an epoch, or as of an entry `writer/seq`.
    pub async fn decide_for(
        &self,
        name: &DatasetName,
        subject: &Subject,
        at: Option<&str>,
    ) -> Result<Option<Decided>, Problem> {
        let as_of = AsOf::read(at)?;
        self.engine.refresh().await?;
        let found = self.find(name, Pin::Newest).ok_or_else(|| not_found(name))?;
        if enforce!("checks.decide", !self.decide(&found.definition, &found.labels)?.visible()) {
            return Err(not_found(name));
        }
        self.record_metadata(&format!("decide {name}")).await?;
        let grant = match &as_of {
            AsOf::Now => self.engine.session(subject.clone()).decide(&found.definition, &found.labels)?,
            AsOf::Epoch(epoch) => {
                let catalog = self.engine.catalog();
                let bundle = self.engine.bundle_of(&catalog, |e| e.record.epoch == *epoch)?;
                let bundle = bundle.ok_or_else(|| no_epoch(*epoch))?;
                let changed = self.engine.relabelled(&catalog, &bundle, *epoch, &Names::new())?;
                let changed = changed.iter().find(|r| r.made_at == found.at.made_at);
                let labels = changed.map_or(found.labels, |r| r.labels.iter().map(all_classes).collect());
                let approved = |dataset| approvals(&catalog, subject, dataset, catalog.at(), self.engine.clock.now());
                Arc::new(self.decide_by(&bundle, subject, &found.definition, &labels, approved))
            }
            AsOf::Entry(writer, seq) => {
                let (at, wall) = self.seen_by(writer, *seq)?;
                let then = self.engine.catalog_at(at)?;
                let none = || Problem::new(1301, format!("no policy bundle was active at entry {writer}/{seq}"));
                let hash = then.bundle().map(|b| b.record.hash).ok_or_else(none)?;
                let bundle = self.engine.bundle_of(&then, |e| e.record.hash == hash)?.ok_or_else(none)?;
                let Some(version) = then.resolve(name, Pin::Newest) else { return Ok(None) };
                let labels: Vec<_> = version.labels().unwrap_or_default().iter().map(all_classes).collect();
                let approved = |dataset| approvals(&then, subject, dataset, at, wall);
                Arc::new(self.decide_by(&bundle, subject, &present(&then, version.definition()), &labels, approved))
            }
        };
        if !grant.visible() {
            return Ok(None);
        }
        let columns = grant.columns.iter().map(|c| (c.name.clone(), c.rung, c.policies.join(", "))).collect();
        let rows = match &grant.rows {
            custody_policy::RowGrant::All => "all".to_string(),
            custody_policy::RowGrant::Nothing => "none".to_string(),
            custody_policy::RowGrant::Where(_) => grant.row_sets().join(", "),
        };
        Ok(Some((columns, rows)))
    }

    fn decide_by(
        &self,
        bundle: &Bundle,
        subject: &Subject,
        definition: &DatasetDefinition,
        labels: &[BTreeSet<Class>],
        approved: impl Fn(DatasetId) -> Approvals,
    ) -> Grant {
        let facts = facts(bundle, definition, labels).with_approvals(&approved(definition.id));
        decide(bundle, subject, &self.engine.with_token_keys(bundle, facts))
    }

    /// The control position that an entry was made at, and when.
    fn seen_by(&self, writer: &str, seq: u64) -> Result<(ControlSeq, WallNanos), Problem> {
        let unreadable = |e: &dyn std::error::Error| {
            Problem::new(4006, format!("the ledger cannot be read: {e}")).help("custody ledger verify")
        };
        let missing =
            || Problem::new(6005, format!("no entry {writer}/{seq}")).help("custody ledger tail lists entries");
        let id = WriterId::new(writer).ok_or_else(missing)?;
        let reader = Reader::new(FileDisk::new(self.engine.settings.ledger()));
        let (entries, _) = reader.tail(&id, Position::default()).map_err(|e| unreadable(&e))?;
        let entry = entries.iter().find(|e| e.seq.0 == seq);
        entry.map(|e| (e.entry.control_seq, e.entry.wall)).ok_or_else(missing)
    }
}
