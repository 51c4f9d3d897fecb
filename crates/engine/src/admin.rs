//! Acts of administrators: policies, tokens. Each is a control entry.

use crate::{bundle_files, engine::CatalogTables, project::Project, publish::renamed, session::Session};
use custody_model::{
    BlobRef, CatalogChange, ControlSeq, DatasetDefinition, Hash, Outcome, Payload, PolicyBundleRecord, Problem,
    TokenRecord, Verb,
};
use custody_policy::Bundle;
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use std::sync::Arc;

/// What `policy apply` did or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The bundle's epoch.
    pub epoch: u64,
    /// Its hash.
    pub hash: Hash,
    /// Whether it was active already.
    pub unchanged: bool,
}

impl Session {
    /// Checks the project's policies against what its files declare and what the catalog knows.
    pub async fn check_policies(&self, project: &Project) -> Result<Bundle, Problem> {
        self.engine.refresh().await?;
        let declared = self.declared(project).await?;
        let catalog = self.engine.catalog();
        let tables = CatalogTables { catalog: &catalog, declared: &declared };
        let bundle = Bundle::load(&project.policies, &tables).map_err(|problems| {
            let mut problems = problems.into_iter();
            let mut first = problems.next().unwrap_or_else(|| Problem::new(1310, "the policies are refused"));
            first.related.extend(problems);
            first
        })?;
        match bundle.waits_for().first() {
            None => Ok(bundle),
            Some(table) => Err(Problem::new(1315, format!("a row set reads `{table}`, which is not there"))
                .help("an entitlement table is declared as a source, or was published before")),
        }
    }

    /// Activates the project's policies. Needs role `policy_admin`.
    pub async fn apply_policies(&self, project: &Project, because: &str, dry: bool) -> Result<Applied, Problem> {
        let done = self.try_apply(project, because, dry).await;
        self.or_denied(done).await
    }

    async fn try_apply(&self, project: &Project, because: &str, dry: bool) -> Result<Applied, Problem> {
        self.needs("policy_admin")?;
        let bundle = self.check_policies(project).await?;
        let catalog = self.engine.catalog();
        let active = catalog.bundle();
        if let Some(active) = active
            && active.record.hash == bundle.hash()
        {
            return Ok(Applied { epoch: active.record.epoch, hash: bundle.hash(), unchanged: true });
        }
        let epoch = active.map_or(1, |b| b.record.epoch + 1);
        if dry {
            return Ok(Applied { epoch, hash: bundle.hash(), unchanged: false });
        }
        let blob = self.engine.recorder.put_blob(bundle_files::encode(bundle.files())).await?;
        self.activate(project, &bundle, epoch, blob, because).await?;
        Ok(Applied { epoch, hash: bundle.hash(), unchanged: false })
    }

    /// Claims the bundle's place, with the classes that published versions have under it. A version that is published
    /// in between gets its place first, and its classes are derived too.
    async fn activate(
        &self,
        project: &Project,
        bundle: &Bundle,
        epoch: u64,
        blob: BlobRef,
        because: &str,
    ) -> Result<(), Problem> {
        for _ in 0..1_000 {
            self.engine.refresh().await?;
            let catalog = self.engine.catalog();
            if catalog.bundle().map_or(1, |b| b.record.epoch + 1) != epoch {
                return Err(
                    Problem::new(7107, "other policies were activated meanwhile").help("custody policy apply again")
                );
            }
            let record = PolicyBundleRecord {
                epoch,
                hash: bundle.hash(),
                blob,
                approvers: vec![self.subject.principal.clone()],
                because: because.to_string(),
                relabelled: self.engine.relabelled(&catalog, bundle, epoch, &project.coming(&catalog))?,
            };
            let mut entry = self.entry(Verb::Admin, Outcome::Success, Payload::PolicyBundle(record));
            entry.control_seq = ControlSeq(catalog.at().0 + 1);
            match self.engine.recorder.control(entry).await {
                Ok(_) => return self.engine.refresh().await,
                Err(failed) if failed.taken() => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(Problem::new(7003, "the catalog changes too fast to add to it").help("try again"))
    }

    /// Records a token that a door has made. Needs role `admin`.
    pub async fn record_token(&self, token: TokenRecord) -> Result<(), Problem> {
        let done = match self.needs("admin") {
            Ok(()) => {
                self.control(Verb::Admin, Payload::CatalogChange(CatalogChange::Token(token)), vec![]).await.map(|_| ())
            }
            Err(refused) => Err(refused),
        };
        self.or_denied(done).await
    }

    /// Tokens issued on this warehouse, without the tokens themselves. Needs role `admin`.
    pub async fn tokens(&self) -> Result<RecordBatch, Problem> {
        self.engine.refresh().await?;
        let allowed = self.needs("admin");
        self.or_denied(allowed).await?;
        self.record_metadata("list tokens").await?;
        let catalog = self.engine.catalog();
        let all: Vec<&TokenRecord> = catalog.tokens().collect();
        let text = |f: &dyn Fn(&TokenRecord) -> String| {
            Arc::new(all.iter().map(|t| Some(f(t))).collect::<StringArray>()) as ArrayRef
        };
        let micros = |t: &&TokenRecord| Some(t.expires.micros().0);
        let expires = all.iter().map(micros).collect::<TimestampMicrosecondArray>().with_timezone("UTC");
        RecordBatch::try_from_iter([
            ("jti", text(&|t| t.jti.clone())),
            ("principal", text(&|t| t.principal.0.clone())),
            ("roles", text(&|t| t.roles.iter().cloned().collect::<Vec<_>>().join(","))),
            ("purposes", text(&|t| t.purposes.iter().map(|p| p.0.clone()).collect::<Vec<_>>().join(","))),
            ("audience", text(&|t| t.audience.clone())),
            ("expires", Arc::new(expires) as ArrayRef),
            ("revoked", Arc::new(all.iter().map(|t| Some(t.revoked)).collect::<BooleanArray>()) as ArrayRef),
        ])
        .map_err(|e| Problem::bug(format!("the list of tokens has no shape: {e}")))
    }

    /// Records a refusal of an act that is no read.
    pub(crate) async fn or_denied<T>(&self, done: Result<T, Problem>) -> Result<T, Problem> {
        match done {
            Err(problem) if problem.code.exit_code() == 3 => Err(self.refuse(Verb::Admin, problem).await),
            other => other,
        }
    }

    /// Records a refusal without a statement: of an act, or of a request at the door.
    pub async fn refuse(&self, verb: Verb, problem: Problem) -> Problem {
        let payload = Payload::Denied(custody_model::Denied {
            code: problem.code.to_string(),
            statement_hash: None,
            targets: vec![],
            count: 1,
        });
        let outcome = if matches!(problem.code.exit_code(), 3 | 6) { Outcome::Denied } else { Outcome::Failure };
        match self.engine.recorder.record(self.entry(verb, outcome, payload)).await {
            Ok(recorded) => Problem { entry: Some(recorded.entry), ..problem },
            Err(lost) => lost.into(),
        }
    }

    /// `publish` never activates: the project's policies must be those that are active.
    pub(crate) fn same_policies(&self, project: &Project) -> Result<(), Problem> {
        let Some(active) = self.engine.bundle() else {
            return Err(
                Problem::new(1301, "no policy bundle is active").help("custody policy apply -m 'first policies'")
            );
        };
        if project.policies == active.files() {
            Ok(())
        } else {
            Err(Problem::new(1311, "policies differ from the active bundle")
                .help("custody policy apply -m WHY activates those of the project"))
        }
    }

    /// Definitions that the project declares, as far as they can be known without policies: sources as written,
    /// features that are in the catalog already.
    pub(crate) async fn declared(&self, project: &Project) -> Result<Vec<DatasetDefinition>, Problem> {
        let catalog = self.engine.catalog();
        let mut definitions = vec![];
        for (name, declared) in &project.sources {
            definitions.push(self.source_definition(declared, renamed(&catalog, name, &declared.def.clauses)?)?);
        }
        Ok(definitions)
    }
}
