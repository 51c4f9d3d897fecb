//! Secrets of a warehouse, each in a file of its own under `keys/` (0700, files 0600).
//!
//! What holds here: a key is made once, by whoever needs it first, and never leaves this module except as the
//! operation it is for. Nothing here is ever printed or logged. A subject's key that is destroyed is gone from the file
//! and from memory; the next one has another id, so that no erasure ever takes a key that came after it.

use aes_gcm_siv::{
    Aes256GcmSiv, Key, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use custody_model::{Hash, Principal, Problem, SealedBox};
use sha3::{Digest, Sha3_256};
use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// The key ring of a warehouse.
pub struct Keys {
    folder: PathBuf,
    cache: Mutex<HashMap<String, [u8; 32]>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Opens, and where needed makes, the folder.
    pub fn open(folder: &Path) -> Result<Self, Problem> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| failed(folder, &e))?;
        Ok(Self { folder: folder.to_path_buf(), cache: Mutex::default() })
    }

    /// 32 bytes under a name, made on first use.
    pub(crate) fn key(&self, name: &str) -> Result<[u8; 32], Problem> {
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(key) = cache.get(name) {
            return Ok(*key);
        }
        let path = self.folder.join(format!("{name}.key"));
        let key = match read(&path)? {
            Some(key) => key,
            None => self.make(&path)?,
        };
        cache.insert(name.to_string(), key);
        Ok(key)
    }

    /// Writes beside and links: of two who make the same key at once, both end with the one that was linked first.
    fn make(&self, path: &Path) -> Result<[u8; 32], Problem> {
        let fresh = random::<32>()?;
        let temporary = path.with_extension(format!("tmp{}", hex(&random::<8>()?)));
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&fresh)?;
            file.sync_all()?;
            match fs::hard_link(&temporary, path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            fs::File::open(&self.folder)?.sync_all()
        };
        let done = write();
        let _ = fs::remove_file(&temporary);
        done.map_err(|e| failed(path, &e))?;
        read(path)?.ok_or_else(|| failed(path, &std::io::Error::from(std::io::ErrorKind::NotFound)))
    }

    /// A keyed hash of a name or value, so that the ledger can tell equal ones without holding them.
    pub(crate) fn token(&self, domain: &str, value: &[u8]) -> Result<Hash, Problem> {
        Ok(keyed(&self.key("audit")?, domain, value))
    }

    /// Seals text under the principal's own key; destroying that key erases it.
    pub(crate) fn seal(&self, principal: &Principal, field: &str, text: &str) -> Result<SealedBox, Problem> {
        let name = subject(principal);
        let nonce = random::<12>()?;
        let key = self.key(&name)?;
        let ciphertext = cipher(&key)
            .encrypt(&Nonce::from(nonce), Payload { msg: text.as_bytes(), aad: field.as_bytes() })
            .map_err(|_| Problem::bug("a text could not be sealed"))?;
        Ok(SealedBox { key: key_id(&name, &key), nonce, ciphertext })
    }

    /// The id of the key that a principal's fields are sealed under now; `None`: there is none.
    pub(crate) fn subject_key(&self, principal: &Principal) -> Result<Option<String>, Problem> {
        let name = subject(principal);
        Ok(read(&self.folder.join(format!("{name}.key")))?.map(|key| key_id(&name, &key)))
    }

    /// Destroys a subject's key, if it is still here: overwritten, removed, forgotten. `false`: it was gone already.
    pub(crate) fn destroy(&self, id: &str) -> Result<bool, Problem> {
        let Some((name, _)) = id.rsplit_once('-').filter(|(name, _)| name.starts_with("subject-")) else {
            return Ok(false);
        };
        let path = self.folder.join(format!("{name}.key"));
        // One process at a time looks and removes, so that a key made meanwhile is not taken for the old one.
        let mut options = fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(self.folder.join("destroy.lock"));
        let lock = lock.and_then(|file| file.lock().map(|()| file));
        let _held = lock.map_err(|e| failed(&path, &e))?;
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.get(name).is_some_and(|key| key_id(name, key) == id) {
            cache.remove(name);
        }
        if read(&path)?.is_none_or(|key| key_id(name, &key) != id) {
            return Ok(false);
        }
        let gone = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all(&[0; 32])?;
            file.sync_all()?;
            fs::remove_file(&path)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        gone().map(|()| true).map_err(|e| failed(&path, &e))
    }

    /// Opens what [`Keys::seal`] closed; `None` where the key is gone or the text was altered.
    pub(crate) fn unseal(&self, sealed: &SealedBox, field: &str) -> Option<String> {
        let (name, _) = sealed.key.rsplit_once('-')?;
        let key = read(&self.folder.join(format!("{name}.key"))).ok()??;
        let payload = Payload { msg: &sealed.ciphertext, aad: field.as_bytes() };
        String::from_utf8(cipher(&key).decrypt(&Nonce::from(sealed.nonce), payload).ok()?).ok()
    }

    /// The seed of the token issuer's Ed25519 key.
    pub fn issuer_seed(&self) -> Result<[u8; 32], Problem> {
        self.key("issuer")
    }

    /// The key that seals tickets and handles.
    pub fn ticket_key(&self) -> Result<[u8; 32], Problem> {
        self.key("ticket")
    }
}

impl Keys {
    /// What tells two keys of one id apart without telling the key; `None` where the key cannot be had.
    pub(crate) fn token_key_version(&self, key: &str) -> Option<Hash> {
        custody_policy::TokenKeys::mac(self, key, b"custody/token-key-version/v1").map(Hash)
    }
}

/// The ring of token masks: plans know ids, keys stay here.
impl custody_policy::TokenKeys for Keys {
    fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]> {
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !plain || key.is_empty() {
            return None;
        }
        Some(custody_policy::mask::hmac_sha3_256(&self.key(&format!("token-{key}")).ok()?, message))
    }
}

fn cipher(key: &[u8; 32]) -> Aes256GcmSiv {
    Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(*key))
}

/// The name of a principal's key: the principal's own name is not in it.
fn subject(principal: &Principal) -> String {
    format!("subject-{}", &Hash(Sha3_256::digest(principal.0.as_bytes()).into()).to_string()[..32])
}

/// Tells one key of a name from the next without telling the key.
fn key_id(name: &str, key: &[u8; 32]) -> String {
    format!("{name}-{}", &keyed(key, "key-id", name.as_bytes()).to_string()[..8])
}

/// HMAC-SHA3-256 over length-prefixed domain and value.
fn keyed(key: &[u8; 32], domain: &str, value: &[u8]) -> Hash {
    let message = [domain.as_bytes(), value].map(|part| [&(part.len() as u64).to_be_bytes(), part].concat()).concat();
    Hash(custody_policy::mask::hmac_sha3_256(key, &message))
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Problem::new(7009, format!("the system gives no random numbers: {e}")))?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Option<[u8; 32]>, Problem> {
    match fs::read(path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes)
            .map(Some)
            .map_err(|_| Problem::new(4001, format!("key file `{}` is not 32 bytes long", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(path, &e)),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(7008, format!("keys cannot be read or written at `{}`: {error}", path.display()))
        .help("the folder `keys` must belong to whoever runs custody, mode 0700")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_text_opens_only_with_its_key_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path()).unwrap();
        let sealed = keys.seal(&Principal::from("ann"), "statement", "select 'secret'").unwrap();
        assert_eq!(keys.unseal(&sealed, "statement").as_deref(), Some("select 'secret'"));
        assert_eq!(keys.unseal(&sealed, "address"), None);
        assert_eq!(keys.subject_key(&Principal::from("ann")).unwrap(), Some(sealed.key.clone()));
        assert!(keys.destroy(&sealed.key).unwrap());
        assert_eq!(keys.unseal(&sealed, "statement"), None);
        assert_eq!(keys.subject_key(&Principal::from("ann")).unwrap(), None);
        // The next key is another one, and an erasure of the first leaves it alone.
        let next = keys.seal(&Principal::from("ann"), "statement", "select 2").unwrap();
        assert_ne!(next.key, sealed.key);
        assert!(!keys.destroy(&sealed.key).unwrap());
        assert_eq!(keys.unseal(&next, "statement").as_deref(), Some("select 2"));
        assert_eq!(keys.unseal(&sealed, "statement"), None);
        assert!(!keys.destroy("audit").unwrap() && !keys.destroy("token-a-00000000").unwrap());
    }

    #[test]
    fn a_destroyed_key_is_forgotten_by_a_process_that_has_it_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Keys::open(folder.path()).unwrap(), Keys::open(folder.path()).unwrap());
        let ann = Principal::from("ann");
        let sealed = one.seal(&ann, "address", "10.0.0.1").unwrap();
        assert!(other.destroy(&sealed.key).unwrap());
        assert_eq!(one.unseal(&sealed, "address"), None);
        assert!(!one.destroy(&sealed.key).unwrap());
        let next = one.seal(&ann, "address", "10.0.0.2").unwrap();
        assert_eq!(one.unseal(&next, "address").as_deref(), Some("10.0.0.2"));
    }

    #[test]
    fn keys_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let one = Keys::open(folder.path()).unwrap().key("audit").unwrap();
        assert_eq!(Keys::open(folder.path()).unwrap().key("audit").unwrap(), one);
        assert_ne!(Keys::open(folder.path()).unwrap().key("ticket").unwrap(), one);
    }
}
