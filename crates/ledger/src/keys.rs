//! Keys: a root that vouches, an epoch key for each writer that signs checkpoints for 24 hours.
//!
//! This is the embedded default: the root's seed is kept beside the warehouse, in `keys/root`, and each writer's epoch
//! key in `keys/w/<writer>`. An epoch key is certified by a note that the root signs; a `key` entry with that
//! certificate is in the chain before the key signs. A new epoch replaces the file of the old one, so that an old secret
//! cannot sign again. Seeds come from the caller: nothing here makes randomness.

use crate::{
    anchor::AnchorKey,
    disk::{Disk, DiskError},
    format::{NotCanonical, Value, from_bytes, to_bytes},
    note::{NoteSignature, SignedNote, VerifierKey, writer_origin},
    tree::{Sha3, TreeHash},
};
use custody_model::{Hash, KeyRecord, WallNanos, WriterId};
use ed25519_dalek::{Signer as _, SigningKey};

/// How long an epoch key may sign: 24 hours.
pub const EPOCH_NANOS: i64 = 24 * 3600 * 1_000_000_000;

/// The path of the genesis, below the ledger's folder.
pub const GENESIS_PATH: &str = "genesis";

/// What a ledger is, fixed when it begins. Its hash is the log id that every segment carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// The warehouse's name: the first part of every origin.
    pub warehouse: String,
    /// The root's key.
    pub root: VerifierKey,
}

/// The version of everything on disk that this binary reads and writes.
pub const LEDGER_FORMAT: u16 = 1;
const HASHES: [&str; 2] = ["sha3-256", "sha-256"];

/// A genesis that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadGenesis {
    /// Not the one encoding of a value.
    #[error("genesis is {0}")]
    NotCanonical(#[from] NotCanonical),
    /// Not a genesis.
    #[error("not a genesis")]
    Shape,
    /// Written by a newer version.
    #[error("ledger format {0} is newer than this binary reads ({LEDGER_FORMAT})")]
    Newer(u64),
}

impl Genesis {
    /// The stored bytes: `{0: format, 1: warehouse, 2: [tree hash, anchor hash], 3: root's verifier key}`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let hashes = HASHES.into_iter().map(|h| Value::Text(h.into())).collect();
        to_bytes(&Value::Map(vec![
            (0, Value::Uint(u64::from(LEDGER_FORMAT))),
            (1, Value::Text(self.warehouse.clone())),
            (2, Value::Array(hashes)),
            (3, Value::Text(self.root.to_string())),
        ]))
    }

    /// Reads stored bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadGenesis> {
        let Value::Map(map) = from_bytes(bytes)? else { return Err(BadGenesis::Shape) };
        if let Some((0, Value::Uint(format))) = map.first()
            && *format != u64::from(LEDGER_FORMAT)
        {
            return Err(BadGenesis::Newer(*format));
        }
        let [_, (1, Value::Text(warehouse)), _, (3, Value::Text(root))] = &map[..] else {
            return Err(BadGenesis::Shape);
        };
        let root = root.parse().map_err(|_| BadGenesis::Shape)?;
        let genesis = Self { warehouse: warehouse.clone(), root };
        if genesis.to_bytes() == bytes { Ok(genesis) } else { Err(BadGenesis::Shape) }
    }

    /// SHA3-256 of the stored bytes.
    pub fn log_id(&self) -> Hash {
        Sha3::digest(&[&self.to_bytes()])
    }

    /// Stores the genesis of a new ledger; an equal one that is there already is fine.
    pub fn store(&self, disk: &dyn Disk) -> Result<(), KeyError> {
        let bytes = self.to_bytes();
        if !disk.claim(GENESIS_PATH, &bytes)? && disk.read(GENESIS_PATH)?.as_ref() != Some(&bytes) {
            return Err(KeyError::OtherLedger);
        }
        Ok(())
    }

    /// The genesis of a ledger.
    pub fn load(disk: &dyn Disk) -> Result<Self, KeyError> {
        let bytes = disk.read(GENESIS_PATH)?.ok_or(KeyError::NoLedger)?;
        Ok(Self::parse(&bytes)?)
    }
}

/// Something that signs checkpoints.
pub trait Signer: Send {
    /// The key, under the origin of the writer whose checkpoints it signs.
    fn key(&self) -> &VerifierKey;
    /// What the `key` entry says that must be in the chain before the key signs.
    fn record(&self) -> &KeyRecord;
    /// The signature over a note's text.
    fn sign(&self, text: &[u8]) -> Result<[u8; 64], SignFailed>;
}

/// A signer that could not sign.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign: {0}")]
pub struct SignFailed(pub String);

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] BadGenesis),
    /// There is no ledger.
    #[error("there is no ledger here")]
    NoLedger,
    /// Another ledger is there.
    #[error("the ledger here has another genesis")]
    OtherLedger,
    /// No key.
    #[error("there is no key `{0}`")]
    NoKey(String),
    /// A key file in another form.
    #[error("key `{0}` is damaged")]
    Damaged(String),
    /// The root is not the one that the genesis names.
    #[error("the root key is not the one that the ledger's genesis names")]
    OtherRoot,
    /// An epoch that there has never been.
    #[error("there is no key epoch {0}")]
    NoEpoch(u64),
    /// The warehouse's name cannot be part of a key's name.
    #[error("`{0}` cannot name a warehouse's keys")]
    Name(String),
}

const ROOT: &str = "root";
const ANCHOR: &str = "anchor";

/// The keys of a warehouse that keeps them itself.
#[derive(Clone)]
pub struct KeySet<D> {
    disk: D,
    genesis: Genesis,
    root: SigningKey,
}

impl<D: Disk> KeySet<D> {
    /// Makes the root of a new warehouse from a fresh random seed. A root that is there already is kept.
    pub fn create(disk: D, warehouse: &str, seed: [u8; 32]) -> Result<Self, KeyError> {
        disk.claim(ROOT, &seed)?;
        let root = load_root(&disk)?;
        let key = VerifierKey::new(&format!("{warehouse}/root"), root.verifying_key().as_bytes());
        let root_key = key.map_err(|_| KeyError::Name(warehouse.to_string()))?;
        Ok(Self { disk, genesis: Genesis { warehouse: warehouse.to_string(), root: root_key }, root })
    }

    /// The keys of a warehouse whose genesis is known.
    pub fn open(disk: D, genesis: &Genesis) -> Result<Self, KeyError> {
        let root = load_root(&disk)?;
        if root.verifying_key().as_bytes() != genesis.root.public() {
            return Err(KeyError::OtherRoot);
        }
        Ok(Self { disk, genesis: genesis.clone(), root })
    }

    /// The genesis that names this root.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The writer's epoch key; a new one from `seed`, which is fresh random, where there is none, where the old one
    /// has expired at `now`, or where it is not newer than `last_epoch`, the last one in the chain, without being it.
    pub fn signer(
        &self,
        writer: &WriterId,
        last_epoch: Option<u64>,
        now: WallNanos,
        seed: [u8; 32],
    ) -> Result<EpochSigner, KeyError> {
        let path = format!("w/{writer}");
        let stored = self.disk.read(&path)?.map(|bytes| EpochSigner::parse(&bytes));
        let stored = match stored {
            Some(None) => return Err(KeyError::Damaged(path)),
            Some(Some(signer)) => Some(signer),
            None => None,
        };
        if let Some(signer) = &stored
            && now < signer.expires
            && last_epoch.is_none_or(|last| last <= signer.record.epoch)
        {
            return stored.ok_or(KeyError::Damaged(path));
        }
        let newest = stored.map_or(0, |s| s.record.epoch).max(last_epoch.unwrap_or(0));
        let signer = self.certify(writer, newest + 1, now, seed)?;
        self.disk.publish(&path, &signer.to_bytes())?;
        Ok(signer)
    }

    /// A new epoch key for a writer whose newest `key` entry is of `last_epoch`, although the old one has not expired; its
    /// `key` entry says that epoch `revoke` is distrusted from there on.
    pub fn rotate(
        &self,
        writer: &WriterId,
        last_epoch: Option<u64>,
        revoke: Option<u64>,
        now: WallNanos,
        seed: [u8; 32],
    ) -> Result<EpochSigner, KeyError> {
        let path = format!("w/{writer}");
        let stored = self.disk.read(&path)?.and_then(|bytes| EpochSigner::parse(&bytes));
        let newest = stored.map_or(0, |s| s.record.epoch).max(last_epoch.unwrap_or(0));
        if let Some(epoch) = revoke.filter(|epoch| *epoch == 0 || *epoch > newest) {
            return Err(KeyError::NoEpoch(epoch));
        }
        let mut signer = self.certify(writer, newest + 1, now, seed)?;
        signer.record.revoke = revoke;
        self.disk.publish(&path, &signer.to_bytes())?;
        Ok(signer)
    }

    /// The key that signs the anchor. `anew`: a new one from a fresh random seed, for an anchor that begins; whoever lost
    /// one begins another, under another key, for no key may sign two logs.
    pub fn anchor(&self, anew: Option<[u8; 32]>) -> Result<AnchorKey, KeyError> {
        if let Some(seed) = anew {
            self.disk.publish(ANCHOR, &seed)?;
        }
        let stored = self.disk.read(ANCHOR)?.ok_or_else(|| KeyError::NoKey(ANCHOR.into()))?;
        let seed = stored.try_into().map_err(|_| KeyError::Damaged(ANCHOR.into()))?;
        AnchorKey::new(&self.genesis, &self.root, seed).map_err(|_| KeyError::Name(self.genesis.warehouse.clone()))
    }

    fn certify(&self, writer: &WriterId, epoch: u64, now: WallNanos, seed: [u8; 32]) -> Result<EpochSigner, KeyError> {
        let secret = SigningKey::from_bytes(&seed);
        let origin = writer_origin(&self.genesis.warehouse, writer);
        let key = VerifierKey::new(&origin, secret.verifying_key().as_bytes());
        let key = key.map_err(|_| KeyError::Name(origin))?;
        let expires = WallNanos(now.0.saturating_add(EPOCH_NANOS));
        let text =
            Certificate { log_id: self.genesis.log_id(), writer: writer.clone(), epoch, key: key.clone(), expires }
                .to_string();
        let signature = self.root.sign(text.as_bytes()).to_bytes().to_vec();
        let by = &self.genesis.root;
        let line = NoteSignature { name: by.name().to_string(), id: by.id(), signature };
        let certificate = SignedNote::new(text, vec![line]).to_bytes();
        let record = KeyRecord { epoch, vkey: key.to_string(), certificate, revoke: None };
        Ok(EpochSigner { secret, key, record, expires })
    }
}

fn load_root(disk: &dyn Disk) -> Result<SigningKey, KeyError> {
    let bytes = disk.read(ROOT)?.ok_or_else(|| KeyError::NoKey(ROOT.into()))?;
    let seed: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Damaged(ROOT.into()))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// What the root signs about an epoch key. Its text, a line each: `custody-key/1`, log id, writer, epoch, verifier key,
/// expiry in nanoseconds. `KeyRecord::certificate` is the signed note of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// For which ledger.
    pub log_id: Hash,
    /// For which writer.
    pub writer: WriterId,
    /// From 1.
    pub epoch: u64,
    /// The key.
    pub key: VerifierKey,
    /// Until when it may sign.
    pub expires: WallNanos,
}

impl std::fmt::Display for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { log_id, writer, epoch, key, expires } = self;
        write!(f, "custody-key/1\n{log_id}\n{writer}\n{epoch}\n{key}\n{expires}\n")
    }
}

/// A writer's key for one epoch.
pub struct EpochSigner {
    secret: SigningKey,
    key: VerifierKey,
    record: KeyRecord,
    expires: WallNanos,
}

impl EpochSigner {
    /// Until when it may sign.
    pub fn expires(&self) -> WallNanos {
        self.expires
    }

    /// `[seed, epoch, verifier key, certificate, expiry]`.
    fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&Value::Array(vec![
            Value::Bytes(self.secret.to_bytes().to_vec()),
            Value::Uint(self.record.epoch),
            Value::Text(self.record.vkey.clone()),
            Value::Bytes(self.record.certificate.clone()),
            Value::Uint(u64::try_from(self.expires.0).unwrap_or(0)),
        ]))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Array(items) = from_bytes(bytes).ok()? else { return None };
        let [
            Value::Bytes(seed),
            Value::Uint(epoch),
            Value::Text(vkey),
            Value::Bytes(certificate),
            Value::Uint(expires),
        ] = &items[..]
        else {
            return None;
        };
        let secret = SigningKey::from_bytes(seed.as_slice().try_into().ok()?);
        let key: VerifierKey = vkey.parse().ok()?;
        let record = KeyRecord { epoch: *epoch, vkey: vkey.clone(), certificate: certificate.clone(), revoke: None };
        let expires = WallNanos(i64::try_from(*expires).ok()?);
        (key.public() == secret.verifying_key().as_bytes()).then_some(Self { secret, key, record, expires })
    }
}

impl Signer for EpochSigner {
    fn key(&self) -> &VerifierKey {
        &self.key
    }
    fn record(&self) -> &KeyRecord {
        &self.record
    }
    fn sign(&self, text: &[u8]) -> Result<[u8; 64], SignFailed> {
        Ok(self.secret.sign(text).to_bytes())
    }
}
