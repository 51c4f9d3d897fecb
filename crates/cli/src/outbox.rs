//! Events on their way out: to a file or to an OpenLineage receiver, at least once.
//!
//! What holds here: the cursor moves only after the receiver has taken the events or the file holds them durably; a
//! receiver that is away delays events and loses none; whoever else sends from this warehouse waits or leaves it to the
//! one who is sending.

use crate::settings::OpenLineageSettings;
use custody_engine::{Cursor, Engine, Session};
use custody_model::{Authentication, Principal, Problem, Purpose, Seq, Subject, WriterId};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Events between two moves of the cursor.
const BATCH: usize = 500;
/// How long a receiver may take for one event.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server waits between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Sends what is new. A failure is told and changes nothing else: the next command or the server tries again.
pub(crate) async fn flush(engine: &Arc<Engine>, settings: &OpenLineageSettings, root: &Path, warehouse: &Path) {
    if settings.url.is_none() {
        return;
    }
    if let Err(problem) = send(engine, settings, root, warehouse).await {
        eprintln!("lineage events wait: {problem}");
    }
}

/// Sends what is new, again and again.
pub(crate) async fn keep_sending(
    engine: Arc<Engine>,
    settings: OpenLineageSettings,
    root: PathBuf,
    warehouse: PathBuf,
) {
    let mut told = String::new();
    while settings.url.is_some() {
        tokio::time::sleep(PAUSE).await;
        let now = send(&engine, &settings, &root, &warehouse).await.err().map(|p| p.to_string()).unwrap_or_default();
        if now != told && !now.is_empty() {
            eprintln!("lineage events wait: {now}");
        }
        told = now;
    }
}

async fn send(
    engine: &Arc<Engine>,
    settings: &OpenLineageSettings,
    root: &Path,
    warehouse: &Path,
) -> Result<(), Problem> {
    let Some(url) = &settings.url else { return Ok(()) };
    let receiver = Receiver::new(url, root)?;
    let Some(mut position) = Position::lock(warehouse)? else { return Ok(()) };
    let session = session(engine, settings);
    loop {
        let batch = session.outbox(&position.cursor, BATCH).await?;
        if batch.next == position.cursor {
            return Ok(());
        }
        if !batch.events.is_empty() {
            receiver.take(&batch.events).await?;
        }
        position.moved(batch.next)?;
        // What the export itself wrote gives no event: the next look finds only that.
        if batch.events.len() < BATCH {
            return Ok(());
        }
    }
}

fn session(engine: &Arc<Engine>, settings: &OpenLineageSettings) -> Session {
    engine.session(Subject {
        principal: Principal("service/openlineage".into()),
        kind: "service".into(),
        roles: settings.roles.clone(),
        attributes: settings.attributes.clone(),
        purpose: Purpose(settings.purpose.clone()),
        environment: engine.settings().environment.clone(),
        stage: String::new(),
        region: engine.settings().region.clone(),
        model: None,
        model_version: None,
        authentication: Authentication::Engine,
        session: None,
        token: None,
    })
}

/// Where events go.
enum Receiver {
    File(PathBuf),
    Http(reqwest::Client, String),
}

impl Receiver {
    fn new(url: &str, root: &Path) -> Result<Self, Problem> {
        if url.starts_with("http://") || url.starts_with("https://") {
            let client = reqwest::Client::builder().timeout(PATIENCE).build();
            let client = client.map_err(|e| Problem::new(2017, format!("no HTTP client: {e}")))?;
            return Ok(Self::Http(client, url.to_string()));
        }
        match url.strip_prefix("file://").or((!url.contains("://")).then_some(url)) {
            Some(path) => Ok(Self::File(root.join(path))),
            None => Err(Problem::new(2017, format!("`openlineage.url` cannot be `{url}`"))
                .help("a file, or the address of a receiver: https://host/api/v1/lineage")),
        }
    }

    /// Hands events over, in order.
    async fn take(&self, events: &[String]) -> Result<(), Problem> {
        match self {
            Self::File(path) => append(path, events).map_err(|e| {
                Problem::new(7204, format!("events cannot be written to `{}`: {e}", path.display()))
                    .help("they stay in the ledger and are sent later")
            }),
            Self::Http(client, url) => {
                for event in events {
                    let request = client.post(url).header("content-type", "application/json").body(event.clone());
                    let answer = request.send().await.and_then(reqwest::Response::error_for_status);
                    answer.map_err(|e| {
                        Problem::new(7204, format!("the receiver of lineage events failed: {}", e.without_url()))
                            .help("they stay in the ledger and are sent later")
                    })?;
                }
                Ok(())
            }
        }
    }
}

fn append(path: &Path, events: &[String]) -> std::io::Result<()> {
    let mut lines = events.join("\n");
    lines.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

/// What has been sent, in a file beside the ledger's projections, under a lock while somebody sends.
struct Position {
    path: PathBuf,
    cursor: Cursor,
    _lock: File,
}

impl Position {
    /// `None`: another process is sending.
    fn lock(warehouse: &Path) -> Result<Option<Self>, Problem> {
        let folder = warehouse.join("projection");
        let wrong = |e: &dyn std::fmt::Display| {
            Problem::new(7204, format!("the position of lineage events cannot be kept in `{}`: {e}", folder.display()))
        };
        fs::create_dir_all(&folder).map_err(|e| wrong(&e))?;
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("openlineage.lock"));
        let lock = options.map_err(|e| wrong(&e))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(wrong(&e)),
        }
        let path = folder.join("openlineage.json");
        let cursor = match fs::read(&path) {
            Ok(bytes) => parse(&bytes).ok_or_else(|| {
                wrong(&"`openlineage.json` is damaged").help("remove it: every event is then sent once more")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Cursor::new(),
            Err(e) => return Err(wrong(&e)),
        };
        Ok(Some(Self { path, cursor, _lock: lock }))
    }

    fn moved(&mut self, next: Cursor) -> Result<(), Problem> {
        let json: serde_json::Map<String, serde_json::Value> =
            next.iter().map(|(writer, seq)| (writer.as_str().to_string(), seq.0.into())).collect();
        let part = self.path.with_extension("part");
        let write = || {
            let mut file = File::create(&part)?;
            file.write_all(serde_json::Value::Object(json).to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &self.path)
        };
        write().map_err(|e| Problem::new(7204, format!("the position of lineage events cannot be kept: {e}")))?;
        self.cursor = next;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<Cursor> {
    let json: std::collections::BTreeMap<String, u64> = serde_json::from_slice(bytes).ok()?;
    json.into_iter().map(|(writer, seq)| Some((WriterId::new(&writer)?, Seq(seq)))).collect()
}
