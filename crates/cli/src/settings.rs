//! Settings: flag, then `CUSTODY_*`, then `custody.toml`, then the user file, then the default.
//!
//! What holds here: unknown keys are refused wherever they stand; who one is locally is the user file's to say, never
//! a project's that somebody else wrote.

use custody_model::{Label, Position, Problem};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The settings of a project.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProjectFile {
    pub(crate) project: ProjectSettings,
    pub(crate) serve: ServeSettings,
    pub(crate) sources: SourceSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) ledger: LedgerSettings,
    pub(crate) openlineage: OpenLineageSettings,
}

/// `[project]`
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProjectSettings {
    /// The warehouse's name: the origin of its ledger and the issuer of its tokens.
    pub(crate) name: String,
    /// Its folder, from the project's.
    pub(crate) warehouse: PathBuf,
    /// The default purpose.
    pub(crate) purpose: String,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self { name: "custody".into(), warehouse: "warehouse".into(), purpose: "feature_engineering".into() }
    }
}

/// `[serve]`
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServeSettings {
    /// Where to listen.
    pub(crate) bind: SocketAddr,
    /// What policies see as the environment of whoever comes through this server.
    pub(crate) environment: String,
    /// Where the server stands.
    pub(crate) region: Option<String>,
    /// How long running streams may go on after SIGTERM.
    pub(crate) drain_seconds: u64,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8815)),
            environment: "prod".into(),
            region: None,
            drain_seconds: 30,
        }
    }
}

/// `[sources]`
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceSettings {
    /// Folders that sources may lie in, besides `<warehouse>/raw` and the project's own.
    pub(crate) allow: Vec<PathBuf>,
}

/// `[limits]`
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitSettings {
    /// Memory of all queries together.
    pub(crate) memory_bytes: Option<usize>,
    /// How long a statement may compute.
    pub(crate) statement_seconds: Option<u64>,
    /// Partitions of a plan.
    pub(crate) partitions: Option<usize>,
}

/// `[ledger]`
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LedgerSettings {
    /// Encoded bytes that one entry lets out; 64 MiB.
    pub(crate) grant_bytes: Option<u64>,
    /// Size of a server's segments, a multiple of 512, at least 1 MiB; 64 MiB.
    pub(crate) segment_bytes: Option<u64>,
    /// The command that keeps a second copy, run by `sh -c`: `custody ledger peer --into DIR`, or the same through `ssh`.
    /// Entries of class `peer` count once it has synced them.
    pub(crate) peer: Option<String>,
}

/// `[openlineage]`
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OpenLineageSettings {
    /// Where events of runs and reads go: a file, or a receiver's address. None: nowhere.
    pub(crate) url: Option<String>,
    /// The roles of `service/openlineage`: policy decides which names it may tell.
    pub(crate) roles: BTreeSet<String>,
    /// Its attributes.
    pub(crate) attributes: BTreeMap<String, BTreeSet<String>>,
    /// Its purpose.
    pub(crate) purpose: String,
}

impl Default for OpenLineageSettings {
    fn default() -> Self {
        Self { url: None, roles: BTreeSet::new(), attributes: BTreeMap::new(), purpose: "lineage".into() }
    }
}

/// The user's own file: `$XDG_CONFIG_HOME/custody/config.toml`.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UserFile {
    pub(crate) local: StandIn,
    pub(crate) dev: Dev,
    pub(crate) principals: BTreeMap<String, StandIn>,
}

/// `[dev]`
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dev {
    /// Whether `--as` may be used.
    pub(crate) impersonate: bool,
}

/// A principal as a file declares it.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StandIn {
    pub(crate) kind: String,
    pub(crate) roles: BTreeSet<String>,
    pub(crate) attributes: BTreeMap<String, BTreeSet<String>>,
    pub(crate) purposes: BTreeSet<String>,
    pub(crate) environment: String,
    pub(crate) stage: String,
}

impl Default for StandIn {
    fn default() -> Self {
        Self {
            kind: "user".into(),
            roles: ["engineer".to_string()].into(),
            attributes: BTreeMap::new(),
            purposes: BTreeSet::new(),
            environment: "dev".into(),
            stage: String::new(),
        }
    }
}

/// `tests/principals.toml`
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PrincipalsFile {
    pub(crate) principals: BTreeMap<String, StandIn>,
}

/// Variables that are no settings.
const NOT_SETTINGS: &[&str] = &["CUSTODY_TOKEN", "CUSTODY_PROFILE", "CUSTODY_CONFIG", "CUSTODY_LOG"];

/// The nearest folder upward that holds `custody.toml`.
pub(crate) fn find_project(from: &Path) -> Option<PathBuf> {
    from.ancestors().find(|folder| folder.join("custody.toml").is_file()).map(Path::to_path_buf)
}

/// `custody.toml` of a folder with `CUSTODY_*` above it.
pub(crate) fn load_project(folder: &Path) -> Result<ProjectFile, Problem> {
    let path = folder.join("custody.toml");
    let text = fs::read_to_string(&path).map_err(|e| {
        Problem::new(2003, format!("`{}` cannot be read: {e}", path.display())).help("custody init NAME")
    })?;
    // The file alone first: its error knows the place.
    parse::<ProjectFile>("custody.toml", &text)?;
    let mut table: toml::Table = parse("custody.toml", &text)?;
    for (name, value) in env::vars().filter(|(n, _)| n.starts_with("CUSTODY_")) {
        if NOT_SETTINGS.contains(&name.as_str()) {
            continue;
        }
        overlay(&mut table, &name, &value)?;
    }
    table.try_into().map_err(|e| Problem::new(2004, format!("a setting does not fit: {e}")))
}

const KEYS: &[(&str, &str, Kind)] = &[
    ("project", "name", Kind::Text),
    ("project", "warehouse", Kind::Text),
    ("project", "purpose", Kind::Text),
    ("serve", "bind", Kind::Text),
    ("serve", "environment", Kind::Text),
    ("serve", "region", Kind::Text),
    ("serve", "drain_seconds", Kind::Number),
    ("limits", "memory_bytes", Kind::Number),
    ("limits", "statement_seconds", Kind::Number),
    ("limits", "partitions", Kind::Number),
    ("ledger", "grant_bytes", Kind::Number),
    ("ledger", "segment_bytes", Kind::Number),
    ("ledger", "peer", Kind::Text),
    ("openlineage", "url", Kind::Text),
    ("openlineage", "purpose", Kind::Text),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
}

fn overlay(table: &mut toml::Table, name: &str, value: &str) -> Result<(), Problem> {
    let spelled =
        |(section, key, _): &(&str, &str, Kind)| format!("CUSTODY_{}__{}", section.to_uppercase(), key.to_uppercase());
    let Some((section, key, kind)) = KEYS.iter().find(|k| spelled(k) == name) else {
        let near = KEYS.iter().map(spelled).min_by_key(|k| strsim(k, name)).unwrap_or_default();
        return Err(Problem::new(2005, format!("unknown setting `{name}`")).help(format!("did you mean `{near}`?")));
    };
    let value = match kind {
        Kind::Text => toml::Value::String(value.to_string()),
        Kind::Number => toml::Value::Integer(
            value.parse().map_err(|_| Problem::new(2004, format!("`{name}` takes a number, not `{value}`")))?,
        ),
    };
    let section = table.entry((*section).to_string()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(section) = section {
        section.insert((*key).to_string(), value);
    }
    Ok(())
}

/// How many characters differ: enough to name the nearest setting.
fn strsim(a: &str, b: &str) -> usize {
    let common = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    a.len().max(b.len()) - common
}

/// The user's own file; absent: the defaults.
pub(crate) fn load_user() -> Result<UserFile, Problem> {
    let folder = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let Some(path) = folder.map(|f| f.join("custody").join("config.toml")) else { return Ok(UserFile::default()) };
    match fs::read_to_string(&path) {
        Ok(text) => parse(&path.display().to_string(), &text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(UserFile::default()),
        Err(e) => Err(Problem::new(2003, format!("`{}` cannot be read: {e}", path.display()))),
    }
}

/// The stand-ins of a project.
pub(crate) fn load_principals(project: &Path) -> Result<BTreeMap<String, StandIn>, Problem> {
    let path = project.join("tests").join("principals.toml");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse::<PrincipalsFile>("tests/principals.toml", &text)?.principals),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(Problem::new(2003, format!("`{}` cannot be read: {e}", path.display()))),
    }
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str, text: &str) -> Result<T, Problem> {
    toml::from_str(text).map_err(|e| {
        let problem = Problem::new(2004, e.message().to_string()).file(name);
        match e.span() {
            Some(span) => problem.label(Label {
                start: position(text, span.start),
                end: position(text, span.end.max(span.start + 1)),
                text: "here".into(),
            }),
            None => problem,
        }
    })
}

fn position(text: &str, byte: usize) -> Position {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    Position { line, column }
}

/// `90s`, `15m`, `8h`, `30d` in seconds.
pub(crate) fn duration(text: &str) -> Result<u64, Problem> {
    let wrong = || Problem::new(2006, format!("`{text}` is not a duration")).help("write 90s, 15m, 8h or 30d");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)
}

/// `region=eu`, repeated, as attributes.
pub(crate) fn attributes(pairs: &[String]) -> Result<BTreeMap<String, BTreeSet<String>>, Problem> {
    let mut attributes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pair in pairs {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Problem::new(2007, format!("`{pair}` is not an attribute")).help("write it as region=eu"))?;
        attributes.entry(name.to_string()).or_default().insert(value.to_string());
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let problem = parse::<ProjectFile>("custody.toml", "[project]\nwarehose = 'x'\n").unwrap_err();
        assert!(problem.message.contains("warehose"), "{problem}");
        assert_eq!(problem.labels[0].start, Position { line: 2, column: 1 });
    }

    #[test]
    fn variables_lie_above_files_and_typos_are_told() {
        let mut table: toml::Table = parse("t", "[project]\nname = 'a'\n").unwrap();
        overlay(&mut table, "CUSTODY_PROJECT__NAME", "2026").unwrap();
        assert_eq!(table["project"]["name"].as_str(), Some("2026"));
        let problem = overlay(&mut table, "CUSTODY_PROJECT__WAREHOSE", "x").unwrap_err();
        assert_eq!(problem.help.as_deref(), Some("did you mean `CUSTODY_PROJECT__WAREHOUSE`?"));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("15m").unwrap(), 900);
        assert!(duration("15").is_err() && duration("").is_err() && duration("x").is_err());
    }
}
