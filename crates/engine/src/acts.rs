//! Acts on versions: advised against, taken out of use, learned from. What a version holds never changes.

use crate::{
    pin::not_found,
    receipt::{self, Statement},
    session::Session,
};
use custody_model::{
    CatalogChange, DatasetKind, DatasetName, EntryRef, InputRef, ModelRecord, Payload, Pin, Problem, StatusRecord,
    TableVersion, Verb,
};

/// A model that was registered.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its version.
    pub version: u64,
    /// What it learned from.
    pub training: TableVersion,
    /// The entry.
    pub entry: EntryRef,
    statement: Statement,
}

impl Session {
    /// Advises against a version, or takes it out of use. Needs `publish` on the dataset.
    pub async fn set_status(
        &self,
        name: &DatasetName,
        pin: Pin,
        revoked: bool,
        because: &str,
    ) -> Result<(TableVersion, EntryRef), Problem> {
        self.engine.refresh().await?;
        let found = self.find(name, pin).ok_or_else(|| not_found(name))?;
        let grant = self.decide(&found.definition, &found.labels)?;
        if !grant.visible() {
            return Err(not_found(name));
        }
        if !grant.publish {
            let refused = Problem::new(3102, format!("you may not publish `{name}`"))
                .help("a policy must permit action `publish` on it: custody policy decide");
            return self.or_denied(Err(refused)).await;
        }
        let record = StatusRecord {
            dataset: found.at.dataset,
            made_at: found.at.made_at,
            revoked,
            because: because.to_string(),
        };
        let change = Payload::CatalogChange(CatalogChange::Status(record));
        let recorded = self.control(Verb::Publish, change, vec![]).await?;
        Ok((found.at, recorded.entry))
    }

    /// Registers the next version of a model: what it learned from, and the digest of its artifact. Needs the training set
    /// to be visible.
    pub async fn register_model(
        &self,
        name: &str,
        training: &DatasetName,
        pin: Pin,
        artifact: &[u8],
        because: &str,
    ) -> Result<Registered, Problem> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
            return Err(Problem::new(2102, format!("`{name}` cannot be a model's name"))
                .help("letters, digits, `_`, `-` and `.`, at most 128"));
        }
        let key = receipt::key(&self.engine)?;
        let mut made = None;
        let recorded = self
            .claim(Verb::Publish, |catalog| {
                let found = self.find(training, pin).ok_or_else(|| not_found(training))?;
                if !self.decide(&found.definition, &found.labels)?.visible() {
                    return Err(not_found(training));
                }
                if found.definition.kind != DatasetKind::TrainingSet {
                    return Err(Problem::new(1141, format!("`{training}` is not a training set"))
                        .help("a model is registered with a version such as training.x@1"));
                }
                if let Some(why) = found.revoked {
                    return Err(Problem::new(3108, format!("`{}` is revoked: {why}", found.at))
                        .help("build another version, and learn from that"));
                }
                let at = found.at;
                let record = ModelRecord {
                    name: name.to_string(),
                    version: catalog.model(name).len() as u64 + 1,
                    training: InputRef {
                        dataset: at.dataset,
                        version: at.version,
                        made_at: at.made_at,
                        content: at.content,
                    },
                    artifact: custody_store::sha3(artifact),
                    artifact_bytes: artifact.len() as u64,
                    receipt_key: key.verifier()?,
                    because: because.to_string(),
                };
                made = Some((record.version, Statement::of(&record, &at), at));
                Ok(Payload::CatalogChange(CatalogChange::Model(record)))
            })
            .await?;
        let (version, statement, training) = made.ok_or_else(|| Problem::bug("a model was claimed and not made"))?;
        Ok(Registered { version, training, entry: recorded.entry, statement })
    }
}

impl Registered {
    /// The receipt, once the engine is closed and a checkpoint covers the entry.
    pub fn receipt(&self, settings: &crate::Settings) -> Result<Vec<u8>, Problem> {
        receipt::make(settings, &self.statement, &self.entry)
    }
}
