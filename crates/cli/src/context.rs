//! What a command works on: a project, its warehouse, and who one is.

use crate::{
    arguments::Arguments,
    settings::{self, ProjectFile, StandIn, UserFile},
};
use custody_engine::{
    Engine, Project, Session, Settings,
    audit::WriterChoice,
    clock::{Clock, SystemClock},
};
use custody_model::{Authentication, Principal, Problem, Purpose, Subject};
use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A command's surroundings.
pub(crate) struct Context {
    pub(crate) root: PathBuf,
    pub(crate) file: ProjectFile,
    pub(crate) user: UserFile,
    purpose: Option<String>,
    stand_in: Option<String>,
}

impl Context {
    /// The project that the arguments name, or the nearest one upward.
    pub(crate) fn find(arguments: &Arguments) -> Result<Self, Problem> {
        let here =
            env::current_dir().map_err(|e| Problem::new(2003, format!("the working folder cannot be read: {e}")))?;
        let root = match &arguments.project {
            Some(folder) => here.join(folder),
            None => settings::find_project(&here).ok_or_else(|| {
                Problem::new(2003, "there is no custody.toml here or in any folder above")
                    .help("custody init NAME, then cd NAME")
            })?,
        };
        Self::at(root, arguments.purpose.clone(), arguments.stand_in.clone())
    }

    /// The project in a folder.
    pub(crate) fn at(root: PathBuf, purpose: Option<String>, stand_in: Option<String>) -> Result<Self, Problem> {
        let file = settings::load_project(&root)?;
        Ok(Self { file, user: settings::load_user()?, purpose, stand_in, root })
    }

    /// The project's definitions.
    pub(crate) fn project(&self) -> Result<Project, Problem> {
        Project::load(&self.root)
    }

    /// Engine settings for a command or a server.
    pub(crate) fn engine_settings(&self, writer: WriterChoice) -> Settings {
        let mut settings = Settings::new(self.root.join(&self.file.project.warehouse), &self.file.project.name, writer);
        settings.environment = self.file.serve.environment.clone();
        settings.region = self.file.serve.region.clone();
        settings.sources_allow = self.file.sources.allow.iter().map(|p| self.root.join(p)).collect();
        settings.sources_allow.push(self.root.clone());
        if let Some(bytes) = self.file.limits.memory_bytes {
            settings.memory_bytes = bytes;
        }
        if let Some(seconds) = self.file.limits.statement_seconds {
            settings.statement_time = std::time::Duration::from_secs(seconds);
        }
        if let Some(partitions) = self.file.limits.partitions {
            settings.partitions = partitions;
        }
        if let Some(bytes) = self.file.ledger.grant_bytes {
            settings.granted_bytes = bytes;
        }
        if let Some(bytes) = self.file.ledger.segment_bytes {
            settings.segment_bytes = bytes;
        }
        settings.peer = self.file.ledger.peer.clone();
        settings
    }

    /// Opens the warehouse.
    pub(crate) async fn open(&self, writer: WriterChoice) -> Result<Arc<Engine>, Problem> {
        Engine::open(self.engine_settings(writer), clock()).await
    }

    /// Makes the warehouse.
    pub(crate) async fn create(&self) -> Result<Arc<Engine>, Problem> {
        Engine::create(self.engine_settings(WriterChoice::Cli), clock(), self.subject()?).await
    }

    /// Opens the warehouse for one command and gives its session.
    pub(crate) async fn session(&self) -> Result<(Arc<Engine>, Session), Problem> {
        let engine = self.open(WriterChoice::Cli).await?;
        let session = engine.session(self.subject()?);
        Ok((engine, session))
    }

    /// Ends a command's work on a warehouse: what it did is told to the receiver of lineage events, if there is one.
    pub(crate) async fn close(&self, engine: &Arc<Engine>) -> Result<(), Problem> {
        let warehouse = self.root.join(&self.file.project.warehouse);
        crate::outbox::flush(engine, &self.file.openlineage, &self.root, &warehouse).await;
        engine.close().await
    }

    /// Who runs this command: the operating system's user, or a declared stand-in.
    pub(crate) fn subject(&self) -> Result<Subject, Problem> {
        let Some(name) = &self.stand_in else {
            let user = env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_else(|_| "unknown".into());
            let purpose = self.purpose.clone().unwrap_or_else(|| self.file.project.purpose.clone());
            let local = &self.user.local;
            if !local.purposes.is_empty() && !local.purposes.contains(&purpose) {
                return Err(Problem::new(3201, format!("purpose `{purpose}` is not among yours"))
                    .help("`[local] purposes` in the user file lists them"));
            }
            return Ok(subject(&format!("local/{user}"), local, purpose, Authentication::Local));
        };
        if !self.user.dev.impersonate {
            return Err(Problem::new(3203, format!("you may not act as `{name}`"))
                .help("`[dev] impersonate = true` in the user file allows it on this machine"));
        }
        self.stand_in(name, Authentication::Impersonated)
    }

    /// A declared stand-in with its purpose.
    pub(crate) fn stand_in(&self, name: &str, how: Authentication) -> Result<Subject, Problem> {
        let all = self.stand_ins()?;
        let found = all.iter().find(|(n, _)| n == name).map(|(_, s)| s);
        let declared = found.ok_or_else(|| {
            Problem::new(6201, format!("no principal `{name}` is declared"))
                .help("tests/principals.toml declares stand-ins: [principals.NAME]")
        })?;
        let purpose = match (&self.purpose, declared.purposes.len()) {
            (Some(purpose), _) if declared.purposes.contains(purpose) => purpose.clone(),
            (Some(purpose), _) => {
                return Err(Problem::new(3201, format!("purpose `{purpose}` is not among those of `{name}`")));
            }
            (None, _) => declared.purposes.first().cloned().unwrap_or_else(|| self.file.project.purpose.clone()),
        };
        Ok(subject(name, declared, purpose, how))
    }

    /// All declared stand-ins, those of the user file first.
    pub(crate) fn stand_ins(&self) -> Result<Vec<(String, StandIn)>, Problem> {
        let mut all: Vec<_> = self.user.principals.clone().into_iter().collect();
        let project = settings::load_principals(&self.root)?;
        all.extend(project.into_iter().filter(|(n, _)| !self.user.principals.contains_key(n)));
        Ok(all)
    }
}

/// A declared principal as a subject.
pub(crate) fn subject(name: &str, declared: &StandIn, purpose: String, how: Authentication) -> Subject {
    Subject {
        principal: Principal(name.to_string()),
        kind: declared.kind.clone(),
        roles: declared.roles.clone(),
        attributes: declared.attributes.clone(),
        purpose: Purpose(purpose),
        environment: declared.environment.clone(),
        stage: declared.stage.clone(),
        region: None,
        model: None,
        model_version: None,
        authentication: how,
        session: None,
        token: None,
    }
}

/// The commit of the repository that a folder lies in, and whether it has uncommitted changes. Git is asked if it is
/// there; without it, nothing is claimed.
pub(crate) fn git(folder: &Path) -> (Option<String>, Option<bool>) {
    let ask = |arguments: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = ask(&["rev-parse", "HEAD"]);
    let dirty = commit.as_ref().and_then(|_| ask(&["status", "--porcelain"])).map(|changes| !changes.is_empty());
    (commit, dirty)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}
