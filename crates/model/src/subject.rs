//! Who asks, and for what.

use crate::Hash;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

macro_rules! word {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_string())
            }
        }
    };
}

word! {
    /// Who acts: `local/ann`, `service/train`.
    Principal
}
word! {
    /// What data is read for: `research`, `care`, `model_training`.
    Purpose
}

/// How the principal was established.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Authentication {
    /// The operating system's user, on a warehouse that the command opened itself.
    Local,
    /// A stand-in declared in the user file or a test file, under `dev.impersonate`.
    Impersonated,
    /// A bearer token issued by the warehouse.
    Token,
    /// The engine itself, for its own bookkeeping.
    Engine,
}

impl Authentication {
    /// The word in the ledger and system tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Impersonated => "impersonated",
            Self::Token => "token",
            Self::Engine => "engine",
        }
    }
}

/// Who asks, for what, from where: everything a decision may look at besides the data's own facts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Who.
    pub principal: Principal,
    /// `user`, `service`, `owner`.
    pub kind: String,
    /// Roles by claim.
    pub roles: BTreeSet<String>,
    /// Attributes by claim, name → values.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    /// What for. Never empty for a request that reads data.
    pub purpose: Purpose,
    /// A server setting, never the client's word: `prod`, `dev`.
    pub environment: String,
    /// `training`, `serving`, …; empty: not said.
    pub stage: String,
    /// A server setting: where the server stands.
    pub region: Option<String>,
    /// The model that asks.
    pub model: Option<String>,
    /// Its version.
    pub model_version: Option<u64>,
    /// How the principal was established.
    pub authentication: Authentication,
    /// The session, where there is one.
    pub session: Option<String>,
    /// The id of the token (`jti`), where there is one.
    pub token: Option<String>,
}

impl Subject {
    /// The kind of a view's owner, while somebody reads with the owner's rights.
    pub const OWNER: &str = "owner";

    /// Whoever owns a view that this subject reads with its owner's rights: the owner is principal and only role, without
    /// attributes or a model; purpose, environment, stage and region are the reader's.
    pub fn as_owner(&self, owner: &Principal) -> Self {
        Self {
            principal: owner.clone(),
            kind: Self::OWNER.into(),
            roles: BTreeSet::from([owner.0.clone()]),
            attributes: BTreeMap::new(),
            purpose: self.purpose.clone(),
            environment: self.environment.clone(),
            stage: self.stage.clone(),
            region: self.region.clone(),
            model: None,
            model_version: None,
            authentication: self.authentication,
            session: None,
            token: None,
        }
    }
}

/// SHA3-256 over everything in a subject that a decision may look at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubjectKey(pub Hash);
