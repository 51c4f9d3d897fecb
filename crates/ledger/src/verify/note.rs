//! C2SP signed notes, checkpoints and verifier keys, for the verifier only.
//!
//! What holds true here: a note is read in its one form, signatures are checked with `verify_strict`, and nothing is
//! trusted because of its name alone.

use super::tree::Digest32;
use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

const ED25519: u8 = 1;

/// A verifier key: `<name>+<key id>+<base64(0x01 ‖ public key)>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Vkey {
    pub(super) name: String,
    pub(super) id: [u8; 4],
    key: VerifyingKey,
}

impl Vkey {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = STANDARD.decode(key).ok()?;
        let (kind, public) = key.split_first()?;
        if *kind != ED25519 || name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let found = key_id(name, &key);
        let written: String = found.iter().map(|b| format!("{b:02x}")).collect();
        let key = VerifyingKey::from_bytes(public.try_into().ok()?).ok()?;
        (written == id).then(|| Self { name: name.to_string(), id: found, key })
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|s| self.key.verify_strict(message, &s).is_ok())
    }
}

/// The first four bytes of SHA-256(name ‖ newline ‖ kind ‖ public key).
fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let digest = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(key).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// One signature line of a note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SignatureLine {
    pub(super) name: String,
    pub(super) key_id: [u8; 4],
    pub(super) signature: Vec<u8>,
}

/// A signed note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// What is signed, the last newline included.
    pub(super) text: String,
    pub(super) signatures: Vec<SignatureLine>,
}

impl Note {
    /// Reads a note; the error says what is wrong with it.
    pub(super) fn parse(note: &str) -> Result<Self, String> {
        let split = note.rfind("\n\n").ok_or("no signature")?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        if !lines.ends_with('\n') {
            return Err("no signature".into());
        }
        // Not `lines()`, which would accept another end of line.
        let lines = lines[..lines.len() - 1].split('\n').map(signature_line);
        let signatures = lines.collect::<Option<Vec<_>>>().ok_or("a signature line is malformed")?;
        for (n, line) in signatures.iter().enumerate() {
            if signatures[..n].iter().any(|l| (l.key_id, &l.name) == (line.key_id, &line.name)) {
                return Err("a key has signed twice".into());
            }
        }
        Ok(Self { text: text.to_string(), signatures })
    }
}

/// A checkpoint: a signed note whose text is origin, size and root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    /// What is signed, the last newline included.
    pub(super) text: String,
    pub(super) origin: String,
    pub(super) size: u64,
    pub(super) root: Digest32,
    pub(super) signatures: Vec<SignatureLine>,
}

impl Checkpoint {
    /// Reads a checkpoint; the error says what is wrong with it.
    pub(super) fn parse(note: &str) -> Result<Self, String> {
        let Note { text, signatures } = Note::parse(note)?;
        let mut body = text[..text.len() - 1].split('\n');
        let (origin, size, root) = match (body.next(), body.next(), body.next(), body.next()) {
            (Some(origin), Some(size), Some(root), None) => (origin, size, root),
            _ => return Err("not three lines".into()),
        };
        let number: u64 = size.parse().map_err(|_| "its size is not a number")?;
        if number.to_string() != size || origin.is_empty() {
            return Err("its size or origin is not in canonical form".into());
        }
        let root =
            STANDARD.decode(root).ok().and_then(|r| Digest32::try_from(r).ok()).ok_or("its root is not a hash")?;
        Ok(Self { origin: origin.to_string(), size: number, root, signatures, text: text.clone() })
    }
}

fn signature_line(line: &str) -> Option<SignatureLine> {
    let (name, value) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let value = STANDARD.decode(value).ok()?;
    let (id, signature) = value.split_at_checked(4)?;
    let fine = !name.is_empty() && !signature.is_empty();
    fine.then(|| SignatureLine {
        name: name.to_string(),
        key_id: [id[0], id[1], id[2], id[3]],
        signature: signature.to_vec(),
    })
}

/// Cuts concatenated signed notes apart: each begins where the signature lines of the one before end.
pub fn split_notes(text: &str) -> Vec<String> {
    let mut notes = vec![];
    let mut note = String::new();
    let mut signed = false;
    for line in text.lines() {
        let is_signature = line.starts_with("\u{2014} ");
        if signed && !is_signature {
            notes.push(std::mem::take(&mut note));
            signed = false;
            if line.is_empty() {
                continue;
            }
        }
        signed |= is_signature;
        if !note.is_empty() || !line.is_empty() {
            note.push_str(line);
            note.push('\n');
        }
    }
    if !note.is_empty() {
        notes.push(note);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::{Checkpoint, Vkey, split_notes};

    const NOTE: &str = "a/b\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} a/b AAAAAQID\n";

    #[test]
    fn notes_come_apart() {
        let other = NOTE.replace("\n3\n", "\n4\n");
        for between in ["", "\n"] {
            assert_eq!(split_notes(&format!("{NOTE}{between}{other}")), [NOTE.to_string(), other.clone()]);
        }
        assert_eq!(split_notes(""), Vec::<String>::new());
    }

    #[test]
    fn one_form_of_a_checkpoint() {
        let good = Checkpoint::parse(NOTE).expect("a good note");
        assert_eq!((good.origin.as_str(), good.size, good.root), ("a/b", 3, [0; 32]));
        for (from, to) in
            [("\n3\n", "\n03\n"), ("\n3\n", "\n+3\n"), ("AAA=", "AAAB"), ("=\n", "=\nx\n"), ("\u{2014}", "-")]
        {
            assert!(Checkpoint::parse(&NOTE.replace(from, to)).is_err(), "{to}");
        }
        assert!(Checkpoint::parse("a/b\n3\n").is_err());
    }

    #[test]
    fn key_ids_are_checked() {
        // The example of the C2SP signed-note specification.
        let good = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert!(Vkey::parse(good).is_some());
        assert!(Vkey::parse(&good.replace("c74f20a3", "c74f20a4")).is_none());
        assert!(Vkey::parse(&good.replace("Peter", "peter")).is_none());
    }
}
