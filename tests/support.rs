//! A project to work on, and the command.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

const USER_FILE: &str = "[dev]\nimpersonate = true\n\n[principals.auditor]\nroles = [\"auditor\"]\n\
                         purposes = [\"audit\"]\nenvironment = \"prod\"\n\n\
                         [principals.officer]\nroles = [\"admin\"]\npurposes = [\"audit\"]\n";

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

    /// Issues a token and gives it. Further arguments go to `token issue`.
    #[track_caller]
    pub fn token(&self, principal: &str, purpose: &str, role: &str, more: &[&str]) -> String {
        let issue = ["--purpose", purpose, "token", "issue", "--principal", principal, "--role", role];
        self.run(&[&issue[..], more].concat()).code(0).trim().to_string()
    }

    /// Runs a script of `python/tests` and gives what it printed.
    #[track_caller]
    pub fn script(&self, python: &Path, name: &str, variables: &[(&str, &str)]) -> String {
        let mut command = Command::new(python);
        self.environment(&mut command);
        command.arg(repository().join("python/tests").join(name)).envs(variables.iter().copied());
        Ran::from(command.output().unwrap()).code(0)
    }

    /// Runs a query as a stand-in and gives its rows as CSV.
    #[track_caller]
    pub fn sql(&self, principal: &str, text: &str) -> String {
        self.run(&["--as", principal, "--format", "csv", "sql", "-c", text]).code(0)
    }
}

/// A running `custody serve` on a free port of loopback.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Server {
    /// Serves a world's warehouse; returns once the port is open.
    pub fn start(world: &World) -> Self {
        let mut child =
            world.command().args(["serve", "--bind", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving ").unwrap_or_else(|| panic!("no server: {line}")).to_string();
        Self { child, address }
    }

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> i32 {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python with the packages of `python/requirements.txt`: that of `CUSTODY_TEST_PYTHON`, else of `target/python`.
/// Without one the test is skipped, but not in continuous integration.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("CUSTODY_TEST_PYTHON")
        .map_or_else(|| repository().join("target/python/bin/python"), PathBuf::from);
    let imports = ["-c", "import adbc_driver_flightsql, deltalake, jsonschema, polars, pyarrow.flight"];
    if Command::new(&python).args(imports).output().is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "{} lacks the packages of python/requirements.txt", python.display());
    eprintln!("skipped: no Python with python/requirements.txt in {}", python.display());
    None
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
