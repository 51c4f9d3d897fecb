//! Identifiers and positions, each a type of its own so that one cannot stand in for another.

use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id! {
    /// A ledger entry's own id, a UUIDv7.
    EntryId
}
uuid_id! {
    /// A dataset's id, a UUIDv8 derived from its first name, so that another folder derives the same one.
    DatasetId
}
number! {
    /// A column's identity within its dataset: from 1 in order of first declaration, never reused, kept by renames.
    FieldId(u32)
}
number! {
    /// Position in the one order of control entries (catalog, policy, publish): dense, from 1. 0: before any.
    ControlSeq(u64)
}
number! {
    /// Position in one writer's chain: dense, from 0.
    Seq(u64)
}
number! {
    /// Wall-clock nanoseconds since 1970, UTC. Never used for order.
    WallNanos(i64)
}
number! {
    /// Wall-clock microseconds since 1970, UTC: the resolution of SQL timestamps.
    WallMicros(i64)
}

impl WallNanos {
    /// Rounded down to microseconds.
    pub fn micros(self) -> WallMicros {
        WallMicros(self.0.div_euclid(1000))
    }
}

/// One column of one dataset version: the control position that made the version × 65,536 + ordinal.
/// Ordinal 0 stands for *which rows exist*; control position 0 holds the system tables' columns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node(pub i64);

impl Node {
    /// The node of the column at `ordinal` (from 1; 0: row existence) of the version made at `made_at`.
    pub fn new(made_at: ControlSeq, ordinal: u16) -> Self {
        Self((made_at.0 as i64) * 65_536 + i64::from(ordinal))
    }

    /// The control position of the entry that made the version.
    pub fn made_at(self) -> ControlSeq {
        ControlSeq((self.0 / 65_536) as u64)
    }

    /// The column's ordinal, from 1; 0 for row existence.
    pub fn ordinal(self) -> u16 {
        (self.0 % 65_536) as u16
    }
}

/// A ledger writer's name: `serve`, `cli-0`; 1 to 16 bytes of `a-z 0-9 - _`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriterId(String);

impl WriterId {
    /// Checks the name; `None` where it is empty, longer than 16 bytes or has other characters.
    pub fn new(name: &str) -> Option<Self> {
        let fine = (1..=16).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        fine.then(|| Self(name.to_string()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
