//! What a check found, graded, with words for people.

use custody_model::WriterId;
use std::{fmt, time::Duration};

/// The one answer; its exit code is what scripts look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Consistent, and outside memory is young enough.
    Fresh,
    /// Bytes contradict evidence.
    Tampered,
    /// Evidence cannot be read.
    CannotVerify,
    /// Consistent, but nothing outside says that this is the newest state.
    FreshnessUnproven,
}

impl Verdict {
    /// 0, 4, 1, 8.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fresh => 0,
            Self::Tampered => 4,
            Self::CannotVerify => 1,
            Self::FreshnessUnproven => 8,
        }
    }

    /// A word for JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Tampered => "tampered",
            Self::CannotVerify => "cannot_verify",
            Self::FreshnessUnproven => "freshness_unproven",
        }
    }
}

/// How bad a finding is. `Ord`: worse is larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grade {
    /// Worth knowing, and what a crash or a live writer leaves behind.
    Notice,
    /// Evidence cannot be read.
    Unverifiable,
    /// Bytes contradict evidence.
    Tampering,
}

impl Grade {
    /// A word for JSON and for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Unverifiable => "cannot verify",
            Self::Tampering => "tampered",
        }
    }
}

/// Where something was found, as exactly as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// Whose chain.
    pub writer: Option<WriterId>,
    /// In which segment.
    pub segment: Option<u64>,
    /// At which byte of it.
    pub offset: Option<u64>,
    /// At which entry.
    pub seq: Option<u64>,
    /// In which file, where that is not a segment.
    pub file: Option<String>,
}

impl Place {
    pub(super) fn file(path: &str) -> Self {
        Self { file: Some(path.to_string()), ..Self::default() }
    }

    pub(super) fn writer(writer: &WriterId) -> Self {
        Self { writer: Some(writer.clone()), ..Self::default() }
    }

    pub(super) fn seq(writer: &WriterId, seq: u64) -> Self {
        Self { seq: Some(seq), ..Self::writer(writer) }
    }

    pub(super) fn segment(writer: &WriterId, segment: u64, offset: usize) -> Self {
        Self { segment: Some(segment), offset: Some(offset as u64), ..Self::writer(writer) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        if let Some(file) = &self.file {
            parts.push(format!("`{file}`"));
        }
        if let Some(writer) = &self.writer {
            parts.push(format!("writer {writer}"));
        }
        match (self.seq, self.segment, self.offset) {
            (Some(seq), ..) => parts.push(format!("seq {seq}")),
            (None, Some(segment), Some(offset)) => parts.push(format!("segment {segment} offset {offset}")),
            (None, Some(segment), None) => parts.push(format!("segment {segment}")),
            (None, None, _) => {}
        }
        f.write_str(&parts.join(" "))
    }
}

/// One thing found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub grade: Grade,
    /// Where.
    pub place: Place,
    /// What; lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.to_string();
        let colon = if place.is_empty() { "" } else { ": " };
        write!(f, "{}: {place}{colon}{}", self.grade.word(), self.message)
    }
}

/// What was read of one writer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriterReport {
    /// Whose chain.
    pub writer: WriterId,
    /// Entries that were read and are chained.
    pub size: u64,
    /// The size that its checkpoint signs.
    pub signed: Option<u64>,
    /// Segments read.
    pub segments: u64,
    /// Whether its last entry closes it.
    pub closed: bool,
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The one answer.
    pub verdict: Verdict,
    /// What was found, the worst first, else in the order of reading.
    pub findings: Vec<Finding>,
    /// Each writer.
    pub writers: Vec<WriterReport>,
    /// Age of the youngest outside memory that the ledger is consistent with.
    pub memory_age: Option<Duration>,
}

impl Report {
    pub(super) fn new(
        writers: Vec<WriterReport>,
        mut findings: Vec<Finding>,
        memory_age: Option<Duration>,
        max_age: Duration,
    ) -> Self {
        findings.sort_by_key(|f| std::cmp::Reverse(f.grade));
        let verdict = match findings.first().map(|f| f.grade) {
            Some(Grade::Tampering) => Verdict::Tampered,
            Some(Grade::Unverifiable) => Verdict::CannotVerify,
            Some(Grade::Notice) | None => match memory_age {
                Some(age) if age <= max_age => Verdict::Fresh,
                _ => Verdict::FreshnessUnproven,
            },
        };
        Self { verdict, findings, writers, memory_age }
    }

    /// Entries of all writers.
    pub fn entries(&self) -> u64 {
        self.writers.iter().map(|w| w.size).sum()
    }

    /// The verdict in a line, then each finding and each writer in a line of its own.
    pub fn render(&self) -> String {
        let entries = self.entries();
        let mut lines = match (self.verdict, self.memory_age) {
            (Verdict::Fresh | Verdict::FreshnessUnproven, None) => {
                vec![format!("consistent up to {entries} entries; freshness unproven")]
            }
            (Verdict::FreshnessUnproven, Some(age)) => vec![format!(
                "consistent up to {entries} entries; freshness unproven: outside memory is {} old",
                words(age)
            )],
            (Verdict::Fresh, Some(age)) => {
                vec![format!("consistent up to {entries} entries; fresh: outside memory is {} old", words(age))]
            }
            (Verdict::Tampered | Verdict::CannotVerify, _) => vec![],
        };
        lines.extend(self.findings.iter().map(Finding::to_string));
        lines.extend(self.writers.iter().map(|w| {
            let signed = w.signed.map_or("unsigned".into(), |n| format!("{n} signed"));
            let closed = if w.closed { ", closed" } else { "" };
            format!("writer {}: {} entries, {signed}, {} segments{closed}", w.writer, w.size, w.segments)
        }));
        lines.push(String::new());
        lines.join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

fn words(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
