//! SHA3-256 over length-prefixed parts, so that no two different inputs hash alike by running together.

use custody_model::Hash;
use sha3::{Digest as _, Sha3_256};

/// A hash in the making. Every part is preceded by its length, every list by its count.
pub(crate) struct Digest(Sha3_256);

impl Digest {
    /// Begins with a domain, which keeps hashes of different things apart.
    pub(crate) fn new(domain: &str) -> Self {
        let mut digest = Self(Sha3_256::new());
        digest.text(domain);
        digest
    }

    pub(crate) fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn text(&mut self, part: &str) -> &mut Self {
        self.bytes(part.as_bytes())
    }

    pub(crate) fn number(&mut self, part: u64) -> &mut Self {
        self.bytes(&part.to_le_bytes())
    }

    pub(crate) fn flag(&mut self, part: bool) -> &mut Self {
        self.bytes(&[u8::from(part)])
    }

    /// `None` and an empty text differ.
    pub(crate) fn optional(&mut self, part: Option<&str>) -> &mut Self {
        self.flag(part.is_some()).text(part.unwrap_or_default())
    }

    pub(crate) fn texts<'a>(&mut self, parts: impl ExactSizeIterator<Item = &'a str>) -> &mut Self {
        self.number(parts.len() as u64);
        for part in parts {
            self.text(part);
        }
        self
    }

    pub(crate) fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}
