//! Events of others, as newline-delimited JSON, into what they claim of lineage.
//!
//! What holds here:
//!
//! - All or nothing: one line that is not an event refuses the whole text, with its line, its field and what to do.
//! - What is kept is bounded: each text, each list, each event, all events together. What is not kept (facets that say
//!   nothing of lineage) is only as long as its line.
//! - An event claims one thing of each of its outputs. A failed or aborted run made nothing, so its outputs count as none.
//! - Inputs that only the facet names count as well. Where an event has an input in two versions, the facet does not say
//!   which one a column is of, and neither does the claim.

use crate::claims::{Claims, Input};
use chrono::DateTime;
use custody_model::{AssertedOutput, AssertedSource, EntryId, Hash, WallNanos};
use serde_json::{Map, Value};
use sha3::{Digest, Sha3_256};
use std::fmt::{self, Write};

/// The longest file, 256 MiB.
pub const MAX_BYTES: usize = 256 << 20;
/// The longest line, 8 MiB.
const MAX_LINE: usize = 8 << 20;
/// The longest name, in bytes.
const MAX_TEXT: usize = 1024;
/// The most entries of a list or map.
const MAX_LIST: usize = 16_384;
/// What the claims of one event may hold together, in bytes of text and 16 for each item.
const MAX_EVENT: usize = 16 << 20;
/// The same for all events.
const MAX_ALL: usize = 256 << 20;

/// A dataset as an event names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ForeignTable {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its version, where the event gives one that is a number.
    pub version: Option<u64>,
}

/// What an event claims of one output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The output, then the inputs in ascending order.
    pub tables: Vec<ForeignTable>,
    /// Columns of the output in ascending order.
    pub outputs: Vec<AssertedOutput>,
    /// What decides about all rows.
    pub rows: Vec<AssertedSource>,
}

/// An event that claims something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignEvent {
    /// SHA3-256 of the event with sorted keys and without white space.
    pub hash: Hash,
    /// Who made it.
    pub producer: String,
    /// The namespace of its job; empty: none is named.
    pub job_namespace: String,
    /// Its job.
    pub job: String,
    /// Its run; empty: none is named.
    pub run: String,
    /// When.
    pub at: WallNanos,
    /// One for each output.
    pub claims: Vec<Claim>,
}

/// All events of a text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Those that claim something, in order.
    pub events: Vec<ForeignEvent>,
    /// How many there are in all.
    pub count: u64,
}

impl Imported {
    /// How many have no output.
    pub fn without_outputs(&self) -> u64 {
        self.count - self.events.len() as u64
    }
}

/// Why a text is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{fault}", .line.map(|n| format!("line {n}: ")).unwrap_or_default())]
pub struct Refused {
    /// From 1; `None`: the text as a whole.
    pub line: Option<u64>,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A line that does not parse.
    #[error("this is not JSON: {0}")]
    Json(String),
    /// A line that is no event of OpenLineage 2-0-2.
    #[error("{field} {why}")]
    Event {
        /// Where: `` `outputs[0].name` ``.
        field: Place,
        /// What is the matter with it.
        why: String,
    },
    /// More than is taken.
    #[error("{what} more than {most} {unit}")]
    Bound {
        /// What is too large.
        what: String,
        /// Bytes, items.
        unit: &'static str,
        /// The bound.
        most: usize,
    },
    /// A name that would not be shown as it is.
    #[error("{0} holds a control character")]
    Control(Place),
}

impl Fault {
    /// What to do.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Json(_) => "one JSON object a line, as UTF-8; `jq -c . FILE` writes it so",
            Self::Event { .. } => "RunEvent, JobEvent and DatasetEvent of OpenLineage 2-0-2 are taken",
            Self::Bound { .. } => "split the file, or leave out the event",
            Self::Control(_) => "names are shown to auditors as they are; correct the producer or leave out the event",
        }
    }
}

/// A path into an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(String);

impl Place {
    fn root() -> Self {
        Self(String::new())
    }

    fn key(&self, key: &str) -> Self {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push('.');
        }
        // A key may be anything, so it is shown escaped and cut.
        let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
        path.push_str(&shown);
        Self(path)
    }

    fn item(&self, index: usize) -> Self {
        let mut path = self.0.clone();
        let _ = write!(path, "[{index}]");
        Self(path)
    }

    fn wrong(&self, why: impl Into<String>) -> Fault {
        Fault::Event { field: self.clone(), why: why.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { write!(f, "the line") } else { write!(f, "`{}`", self.0) }
    }
}

/// A value and where it stands.
pub(crate) struct At<'a> {
    value: &'a Value,
    place: Place,
}

impl<'a> At<'a> {
    /// The same as an object.
    pub(crate) fn object(&self) -> Result<Object<'a>, Fault> {
        match self.value {
            Value::Object(map) if map.len() > MAX_LIST => Err(too_long(&self.place)),
            Value::Object(map) => Ok(Object { map, place: self.place.clone() }),
            _ => Err(self.place.wrong("is not an object")),
        }
    }

    /// The same as a list.
    pub(crate) fn list(&self) -> Result<Vec<At<'a>>, Fault> {
        match self.value {
            Value::Array(items) if items.len() > MAX_LIST => Err(too_long(&self.place)),
            Value::Array(items) => {
                Ok(items.iter().enumerate().map(|(i, value)| At { value, place: self.place.item(i) }).collect())
            }
            _ => Err(self.place.wrong("is not a list")),
        }
    }

    /// The same as a name: neither empty nor endless, and without control characters.
    pub(crate) fn text(&self) -> Result<&'a str, Fault> {
        match self.value {
            Value::String(text) => checked(text, &self.place),
            _ => Err(self.place.wrong("is not a text")),
        }
    }

    /// The same as a boolean.
    pub(crate) fn bool(&self) -> Result<bool, Fault> {
        self.value.as_bool().ok_or_else(|| self.place.wrong("is neither true nor false"))
    }

    pub(crate) fn wrong(&self, why: impl Into<String>) -> Fault {
        self.place.wrong(why)
    }
}

fn too_long(place: &Place) -> Fault {
    Fault::Bound { what: format!("{place} has"), unit: "items", most: MAX_LIST }
}

fn checked<'a>(text: &'a str, place: &Place) -> Result<&'a str, Fault> {
    // Marks that change the direction of what follows hide what a name is.
    let hides = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.is_empty() {
        Err(place.wrong("is empty"))
    } else if text.len() > MAX_TEXT {
        Err(Fault::Bound { what: format!("{place} has"), unit: "bytes", most: MAX_TEXT })
    } else if text.chars().any(hides) {
        Err(Fault::Control(place.clone()))
    } else {
        Ok(text)
    }
}

/// An object and where it stands.
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    place: Place,
}

impl<'a> Object<'a> {
    /// What stands under a key; null is nothing.
    pub(crate) fn get(&self, key: &str) -> Option<At<'a>> {
        let value = self.map.get(key).filter(|v| !v.is_null())?;
        Some(At { value, place: self.place.key(key) })
    }

    /// What must stand under a key.
    pub(crate) fn need(&self, key: &str) -> Result<At<'a>, Fault> {
        self.get(key).ok_or_else(|| self.place.key(key).wrong("is missing"))
    }

    /// A list that may be absent.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<At<'a>>, Fault> {
        self.get(key).map_or_else(|| Ok(vec![]), |at| at.list())
    }

    /// An object that may be absent.
    pub(crate) fn inner(&self, key: &str) -> Result<Option<Object<'a>>, Fault> {
        self.get(key).map(|at| at.object()).transpose()
    }

    /// All keys, which are names, with their values.
    pub(crate) fn named(&self) -> impl Iterator<Item = Result<(&'a str, At<'a>), Fault>> {
        self.map.iter().map(|(key, value)| {
            let place = self.place.key(key);
            Ok((checked(key, &place)?, At { value, place }))
        })
    }
}

/// What a text of events, one a line, claims.
pub fn parse(text: &[u8]) -> Result<Imported, Refused> {
    parse_within(text, MAX_ALL)
}

fn parse_within(text: &[u8], most: usize) -> Result<Imported, Refused> {
    let bound = |line, what: &str, unit, most| Refused { line, fault: Fault::Bound { what: what.into(), unit, most } };
    if text.len() > MAX_BYTES {
        return Err(bound(None, "the file has", "bytes", MAX_BYTES));
    }
    let (mut all, mut room) = (Imported::default(), most);
    for (number, line) in (1u64..).zip(text.split(|b| *b == b'\n')) {
        let at = Some(number);
        if line.len() > MAX_LINE {
            return Err(bound(at, "it has", "bytes", MAX_LINE));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let event = event(line).map_err(|fault| Refused { line: at, fault })?;
        all.count += 1;
        let Some(event) = event else { continue };
        let weight: usize = event.claims.iter().map(Claim::weight).sum();
        room = room.checked_sub(weight).ok_or_else(|| bound(at, "up to here the claims have", "bytes", most))?;
        all.events.push(event);
    }
    Ok(all)
}

fn event(line: &[u8]) -> Result<Option<ForeignEvent>, Fault> {
    let value: Value = serde_json::from_slice(line).map_err(|e| {
        // One line is one text: its line number says nothing.
        let told = e.to_string();
        let why = told.rsplit_once(" at line ").map_or(told.as_str(), |(why, _)| why);
        Fault::Json(format!("{why} at column {}", e.column()))
    })?;
    let event = At { value: &value, place: Place::root() }.object()?;
    let producer = event.need("producer")?.text()?;
    known_schema(&event.need("schemaURL")?)?;
    let time = event.need("eventTime")?;
    let at = DateTime::parse_from_rfc3339(time.text()?).ok().and_then(|t| t.timestamp_nanos_opt());
    let at = WallNanos(at.ok_or_else(|| time.wrong("is not a time such as 2026-01-31T12:00:00Z"))?);
    let mut made = true;
    let run = match event.inner("run")? {
        None => "",
        Some(run) => {
            made = succeeds(&event)?;
            let id = run.need("runId")?;
            id.text()?.parse::<EntryId>().map_err(|_| id.wrong("is not a UUID"))?;
            id.text()?
        }
    };
    let dataset = event.get("dataset").filter(|_| run.is_empty());
    let (job_namespace, job) = match &dataset {
        Some(_) => ("", ""),
        None => {
            let job = event.need("job").map_err(|_| event.place.wrong("has neither `job` nor `dataset`"))?.object()?;
            (job.need("namespace")?.text()?, job.need("name")?.text()?)
        }
    };
    let inputs = event.list("inputs")?.iter().map(Input::read).collect::<Result<Vec<_>, _>>()?;
    let mut claims = Claims::new(inputs, MAX_EVENT);
    match &dataset {
        // Of a dataset by itself only its lineage claims anything.
        Some(dataset) => claims.add(dataset, false)?,
        None => event.list("outputs")?.iter().try_for_each(|output| claims.add(output, true))?,
    }
    let claims = if made { claims.done() } else { vec![] };
    let event = ForeignEvent {
        hash: Hash(Sha3_256::digest(canonical(&value)).into()),
        producer: producer.into(),
        job_namespace: job_namespace.into(),
        job: job.into(),
        run: run.into(),
        at,
        claims,
    };
    Ok((!event.claims.is_empty()).then_some(event))
}

/// Whether a run is not one that made nothing.
fn succeeds(event: &Object<'_>) -> Result<bool, Fault> {
    let Some(kind) = event.get("eventType") else { return Ok(true) };
    match kind.text()? {
        "START" | "RUNNING" | "COMPLETE" | "OTHER" => Ok(true),
        "FAIL" | "ABORT" => Ok(false),
        _ => Err(kind.wrong("is none of START, RUNNING, COMPLETE, ABORT, FAIL, OTHER")),
    }
}

/// A schema of OpenLineage itself says its version; one that is newer may mean something else.
fn known_schema(url: &At<'_>) -> Result<(), Fault> {
    let Some(rest) = url.text()?.strip_prefix("https://openlineage.io/spec/") else { return Ok(()) };
    let major: Option<u32> = rest.split('-').next().and_then(|n| n.parse().ok());
    if major.is_none_or(|n| n <= 2) { Ok(()) } else { Err(url.wrong("names a newer OpenLineage than 2")) }
}

/// The value with keys in order, whatever order this build keeps them in.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let pairs = pairs.into_iter().map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests;
