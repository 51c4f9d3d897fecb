//! A project to work on, and the command.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

const USER_FILE: &str = "[dev]\nimpersonate = true\n\n[principals.auditor]\nroles = [\"auditor\"]\n\
                         purposes = [\"audit\"]\nenvironment = \"prod\"\n";

/// The audit question of the README's promise: every request once, with its outcome.
pub const AUDIT: &str = "SELECT action, principal, purpose, dataset, dataset_version, decision, outcome, rows \
                         FROM system.access.audit WHERE action IN ('read', 'serve', 'deny') ORDER BY writer, seq";

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// What the command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Checks the exit code and gives stdout.
    #[track_caller]
    pub fn code(self, expected: i32) -> String {
        assert_eq!(self.code, expected, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self.out
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A folder of its own, with a home in it, so that nothing of this machine is read.
pub struct World {
    folder: TempDir,
    project: PathBuf,
}

impl World {
    /// An empty folder.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("home/custody")).unwrap();
        fs::write(folder.path().join("home/custody/config.toml"), USER_FILE).unwrap();
        let project = folder.path().join("work");
        fs::create_dir(&project).unwrap();
        Self { folder, project }
    }

    /// A copy of the demo's project, a hundredth of its rows; nothing is published.
    pub fn fresh() -> Self {
        Self::copy_of(&projects().0)
    }

    /// The same with first versions published.
    pub fn published() -> Self {
        Self::copy_of(&projects().1)
    }

    fn copy_of(project: &Path) -> Self {
        let world = Self::empty();
        copy(project, &world.project);
        world
    }

    /// The project's folder.
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// A path beside the project.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, in the project's folder, with nothing of this machine's environment but where programs are.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_custody"));
        self.environment(&mut command);
        command
    }

    /// Gives a program this world's surroundings.
    pub fn environment(&self, command: &mut Command) {
        command
            .current_dir(&self.project)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path().join("home"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("home"))
            .env("USER", "tester")
            .stdin(Stdio::null());
    }

    /// Runs the command.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command().args(arguments).output().unwrap().into()
    }

    /// Runs a query as a stand-in and gives its rows as CSV.
    #[track_caller]
    pub fn sql(&self, principal: &str, text: &str) -> String {
        self.run(&["--as", principal, "--format", "csv", "sql", "-c", text]).code(0)
    }
}

/// The demo's project before and after its first publish, made once. A warehouse may be moved and copied.
fn projects() -> &'static (PathBuf, PathBuf) {
    static MADE: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    MADE.get_or_init(|| {
        let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
        let _ = fs::remove_dir_all(&at);
        fs::create_dir_all(&at).unwrap();
        let world = World::empty();
        let (fresh, published) = (at.join("fresh"), at.join("published"));
        let path = fresh.to_str().unwrap();
        world.run(&["init", "--demo", "clinic", path, "--divide", "100"]).code(0);
        copy(&fresh, &published);
        world.run(&["--project", published.to_str().unwrap(), "publish", "-m", "first version"]).code(0);
        (fresh, published)
    })
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
