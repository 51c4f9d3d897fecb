//! C2SP signed notes, verifier keys and checkpoints.
//!
//! A note is text that ends in a newline, an empty line, and signature lines `— name base64(key id ‖ signature)`. A
//! verifier key is written `name+key id+base64(0x01 ‖ Ed25519 key)`; its key id is the first four bytes of
//! SHA-256(name ‖ 0x0A ‖ 0x01 ‖ key). A checkpoint's text is origin, size and base64 root, a line each.

use crate::tree::{Sha2, TreeHash, TreeSize};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use custody_model::{Hash, WriterId};
use ed25519_dalek::{Signature, VerifyingKey};
use std::{fmt, str::FromStr};

const ED25519: u8 = 1;

/// A public key under a name.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

/// Text that is not a verifier key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not an Ed25519 verifier key")]
pub struct BadVerifierKey(pub String);

impl VerifierKey {
    /// A key under a name, which has no spaces and no `+`.
    pub fn new(name: &str, public: &[u8; 32]) -> Result<Self, BadVerifierKey> {
        let fine = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+');
        let key = VerifyingKey::from_bytes(public).ok().filter(|k| fine && !k.is_weak());
        key.map(|key| Self { name: name.to_string(), key }).ok_or_else(|| BadVerifierKey(name.to_string()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The key id of its signature lines.
    pub fn id(&self) -> [u8; 4] {
        let digest = Sha2::digest(&[self.name.as_bytes(), &[b'\n', ED25519], self.public()]);
        let [a, b, c, d, ..] = digest.0;
        [a, b, c, d]
    }

    /// Whether this is the key's signature over a text.
    pub fn verify(&self, text: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(text, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = [&[ED25519][..], self.public()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id()), BASE64.encode(typed))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

impl FromStr for VerifierKey {
    type Err = BadVerifierKey;

    fn from_str(text: &str) -> Result<Self, BadVerifierKey> {
        let bad = || BadVerifierKey(text.to_string());
        let (name, rest) = text.split_once('+').ok_or_else(bad)?;
        let (_, key) = rest.split_once('+').ok_or_else(bad)?;
        let typed = BASE64.decode(key).map_err(|_| bad())?;
        let public = typed.strip_prefix(&[ED25519]).and_then(|k| k.try_into().ok()).ok_or_else(bad)?;
        // Comparing the whole text covers the key id and every spelling that is not the one.
        Self::new(name, public).ok().filter(|key| key.to_string() == text).ok_or_else(bad)
    }
}

/// One signature line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// 64 bytes for Ed25519; other keys may have others.
    pub signature: Vec<u8>,
}

/// A text with signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// Bytes that are not a signed note, or not one for the purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadNote {
    /// Text and signature lines cannot be told apart.
    #[error("not a signed note")]
    Shape,
    /// A signature line is malformed.
    #[error("a signature line is malformed")]
    Signature,
    /// The key asked for has not signed, or signed another text.
    #[error("no valid signature of the key")]
    Unsigned,
    /// Not the three lines of a checkpoint.
    #[error("not a checkpoint")]
    Checkpoint,
}

impl SignedNote {
    /// A note of this text, which ends in a newline, and these signatures.
    pub fn new(text: String, signatures: Vec<NoteSignature>) -> Self {
        Self { text, signatures }
    }

    /// The signed text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Reads a note.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadNote> {
        let note = std::str::from_utf8(bytes).map_err(|_| BadNote::Shape)?;
        if note.contains(|c: char| c < ' ' && c != '\n') {
            return Err(BadNote::Shape);
        }
        let split = note.rfind("\n\n").ok_or(BadNote::Shape)?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(BadNote::Shape)?;
        let signatures = lines.split('\n').map(signature_line).collect::<Option<Vec<_>>>();
        Ok(Self { text: text.to_string(), signatures: signatures.ok_or(BadNote::Signature)? })
    }

    /// Checks that the key signed this text.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), BadNote> {
        let mut own = self.signatures.iter().filter(|s| s.name == key.name() && s.id == key.id());
        let fine = own.any(|s| s.signature.as_slice().try_into().is_ok_and(|s| key.verify(self.text.as_bytes(), s)));
        if fine { Ok(()) } else { Err(BadNote::Unsigned) }
    }

    /// The checkpoint that the text says.
    pub fn checkpoint(&self) -> Result<Checkpoint, BadNote> {
        self.text.parse()
    }

    /// The bytes of the note.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

fn signature_line(line: &str) -> Option<NoteSignature> {
    let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = BASE64.decode(encoded).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    let fine = !name.is_empty() && !name.contains('+') && !signature.is_empty();
    fine.then(|| NoteSignature { name: name.to_string(), id: *id, signature: signature.to_vec() })
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for NoteSignature { name, id, signature } in &self.signatures {
            writeln!(f, "— {name} {}", BASE64.encode([&id[..], signature].concat()))?;
        }
        Ok(())
    }
}

/// What a tree's owner signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which tree.
    pub origin: String,
    /// How many leaves.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
}

/// The origin of a writer's tree: `<warehouse>/sha3-256/<writer>`.
pub fn writer_origin(warehouse: &str, writer: &WriterId) -> String {
    format!("{warehouse}/sha3-256/{writer}")
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0))
    }
}

impl FromStr for Checkpoint {
    type Err = BadNote;

    fn from_str(text: &str) -> Result<Self, BadNote> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(BadNote::Checkpoint);
        };
        let size = size.parse().map(TreeSize).map_err(|_| BadNote::Checkpoint)?;
        let root = BASE64.decode(root).ok().and_then(|r| r.try_into().ok()).ok_or(BadNote::Checkpoint)?;
        let checkpoint = Self { origin: origin.to_string(), size, root: Hash(root) };
        // `+5`, `05` and the like are other spellings.
        if checkpoint.to_string() == text { Ok(checkpoint) } else { Err(BadNote::Checkpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Go's `sumdb/note`, which C2SP's `signed-note` describes.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\
        \n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn a_foreign_note() {
        let key: VerifierKey = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        let note = SignedNote::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(note.to_string(), NOTE);
        assert_eq!(note.verify(&key), Ok(()));
        assert_eq!(note.checkpoint(), Err(BadNote::Checkpoint));
        let other = SignedNote::new(note.text().replace("your", "my"), note.signatures().to_vec());
        assert_eq!(other.verify(&key), Err(BadNote::Unsigned));
    }

    #[test]
    fn refuses_other_spellings() {
        let broken = [
            KEY.replace("c74f20a3", "c74f20a4"),
            KEY.replace("c74f20a3", "C74F20A3"),
            KEY.replace("+AR", "+BR"),
            KEY.replace("PeterNeumann", "Peter Neumann"),
            KEY[..60].to_string(),
        ];
        for text in broken {
            assert_eq!(text.parse::<VerifierKey>(), Err(BadVerifierKey(text)));
        }
        for note in ["", "text\n", "text\n\n", "text\n\n— a b\n", "text\n\n— x08go\n", "t\tt\n\n— a AAAAAAA=\n"] {
            assert!(SignedNote::parse(note.as_bytes()).is_err(), "{note:?}");
        }
        assert!(SignedNote::parse(&NOTE.as_bytes()[..NOTE.len() - 1]).is_err());
        let checkpoint = Checkpoint { origin: "o".into(), size: TreeSize(5), root: Hash([1; 32]) };
        let text = checkpoint.to_string();
        assert_eq!(text.parse(), Ok(checkpoint));
        for other in [text.replace('5', "05"), text.replace('5', "+5"), format!("{text}x\n"), text.replace("=\n", "=")]
        {
            assert_eq!(other.parse::<Checkpoint>(), Err(BadNote::Checkpoint));
        }
    }
}
