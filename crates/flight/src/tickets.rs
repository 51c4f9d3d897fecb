//! Tickets and handles: stateless, sealed, bound to the principal.
//!
//! What holds here: the server keeps no table of them; any server of the warehouse redeems one; an altered one, one of
//! another kind and one of another warehouse look the same. What a ticket says is decided again when it is redeemed.

use aes_gcm_siv::{
    Aes256GcmSiv, Key, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use custody_model::{DatasetName, EntryId, Hash, Pin, Problem};
use serde::{Deserialize, Serialize};

/// How long a ticket may wait, in seconds.
pub(crate) const SECONDS: u64 = 15 * 60;

/// What a sealed blob is for. Part of what is authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Redeemed by DoGet.
    Ticket,
    /// A prepared statement.
    Handle,
}

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum What {
    /// A statement.
    Sql(String),
    /// Rows of a dataset version.
    Dataset { name: String, version: u64, columns: Vec<String> },
}

/// A ticket's or handle's contents.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Whose.
    pub(crate) principal: String,
    /// For which purpose.
    pub(crate) purpose: String,
    /// What.
    pub(crate) what: What,
    /// The grants under which it was made, hexadecimal; empty for a handle.
    pub(crate) grants: Vec<String>,
    /// The versions that names stood for.
    pub(crate) versions: Vec<(String, u64)>,
    /// The entry that recorded its making.
    pub(crate) entry: Option<String>,
    /// Encoded parameters (an Arrow IPC stream), once bound.
    pub(crate) parameters: Option<Vec<u8>>,
    /// Not after, seconds since 1970.
    pub(crate) expires: u64,
}

impl Ticket {
    pub(crate) fn entry_id(&self) -> Option<EntryId> {
        self.entry.as_ref()?.parse().ok()
    }

    pub(crate) fn grant_hashes(&self) -> Vec<Hash> {
        self.grants.iter().filter_map(|g| g.parse().ok()).collect()
    }
}

/// Seals and opens.
#[derive(Clone)]
pub(crate) struct Sealer {
    cipher: Aes256GcmSiv,
    warehouse: String,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32], warehouse: &str) -> Self {
        Self { cipher: Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(*key)), warehouse: warehouse.to_string() }
    }

    fn bound(&self, kind: Kind) -> Vec<u8> {
        format!("custody/{}/{kind:?}/1", self.warehouse).into_bytes()
    }

    pub(crate) fn seal(&self, kind: Kind, ticket: &Ticket) -> Result<Vec<u8>, Problem> {
        let failed = || Problem::bug("a ticket could not be sealed");
        let plain = serde_json::to_vec(ticket).map_err(|_| failed())?;
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(|_| failed())?;
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: &plain, aad: &self.bound(kind) })
            .map_err(|_| failed())?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// `None`: altered, of another kind, or of another warehouse.
    pub(crate) fn open(&self, kind: Kind, bytes: &[u8]) -> Option<Ticket> {
        let (nonce, sealed) = bytes.split_first_chunk::<12>()?;
        let plain = self.cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: &self.bound(kind) }).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

/// `lab_trend@5`, `lab_trend@2026-10-01T00:00:00Z` is not offered: a ticket pins a number.
pub(crate) fn versioned(schema: &str, text: &str) -> Result<(DatasetName, Pin), Problem> {
    let (name, pin) = match text.split_once('@') {
        None => (text, Pin::Newest),
        Some((name, version)) => {
            let number = version.parse().map_err(|_| {
                Problem::new(1501, format!("`{version}` is not a version"))
                    .help("write it as `lab_trend@5`, or leave it out for the newest")
            })?;
            (name, Pin::Version(number))
        }
    };
    let name = name.strip_prefix(&format!("{schema}.")).unwrap_or(name);
    let name = DatasetName::new(schema, name).map_err(|e| Problem::new(1501, e.to_string()))?;
    Ok((name, pin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            principal: "ann".into(),
            purpose: "research".into(),
            what: What::Sql("select 1".into()),
            grants: vec![],
            versions: vec![],
            entry: None,
            parameters: None,
            expires: 1,
        }
    }

    #[test]
    fn every_altered_byte_is_refused() {
        let sealer = Sealer::new(&[7; 32], "clinic");
        let sealed = sealer.seal(Kind::Ticket, &ticket()).unwrap();
        assert_eq!(sealer.open(Kind::Ticket, &sealed), Some(ticket()));
        for i in 0..sealed.len() {
            let mut other = sealed.clone();
            other[i] ^= 1;
            assert_eq!(sealer.open(Kind::Ticket, &other), None, "byte {i}");
        }
    }

    #[test]
    fn a_ticket_is_bound_to_kind_and_warehouse() {
        let sealed = Sealer::new(&[7; 32], "clinic").seal(Kind::Ticket, &ticket()).unwrap();
        assert_eq!(Sealer::new(&[7; 32], "clinic").open(Kind::Handle, &sealed), None);
        assert_eq!(Sealer::new(&[7; 32], "other").open(Kind::Ticket, &sealed), None);
        assert_eq!(Sealer::new(&[8; 32], "clinic").open(Kind::Ticket, &sealed), None);
    }
}
