//! A disk in memory that fails when told to, and a fake signer.
//!
//! [`SimDisk`] keeps what is durable apart from what is only written: writes go to sectors of 512 bytes that count as
//! unsynced until `sync`; [`SimDisk::power_loss`] keeps any of them, as a seed says. Operations that change something are
//! numbered from 0, and [`Fault`]s are planned for a number: fail before it happens, or after.

use crate::{
    anchor::AnchorKey,
    disk::{Disk, DiskError, DiskLock},
    keys::{Certificate, Genesis, SignFailed, Signer},
    note::{NoteSignature, SignedNote, VerifierKey, writer_origin},
    tree::{Sha3, TreeHash},
};
use custody_model::{KeyRecord, WallNanos, WriterId};
use ed25519_dalek::{Signer as _, SigningKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

const SECTOR: usize = 512;

/// How an operation goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An error; nothing happened.
    Fail,
    /// An error; it happened all the same.
    FailButHappened,
    /// The disk is full; nothing happened.
    NoSpace,
    /// A write of which only the first half happened, then an error.
    Half,
    /// The machine stops before the operation: this and every later one fails.
    StopBefore,
    /// The machine stops after the operation: this and every later one fails.
    StopAfter,
}

#[derive(Clone, Default, Debug)]
struct File {
    /// What a reader sees.
    now: Vec<u8>,
    /// What power loss leaves.
    durable: Vec<u8>,
    /// Sectors in which they may differ.
    unsynced: BTreeSet<usize>,
}

impl File {
    fn durable(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), now: bytes, unsynced: BTreeSet::new() }
    }
}

#[derive(Default, Debug)]
struct State {
    files: BTreeMap<String, File>,
    locks: BTreeMap<String, Arc<AtomicBool>>,
    faults: BTreeMap<u64, Fault>,
    operations: u64,
    syncs: u64,
    stopped: bool,
    full: bool,
    /// Planned faults that an operation ran into.
    met: u64,
    /// Bytes handed out by `read_at`.
    read: u64,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault for the operation with this number.
    pub fn fault(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// How many changing operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many of them were `sync`s of file content.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// How many planned faults operations ran into.
    pub fn faults_met(&self) -> u64 {
        self.state().met
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.state().read
    }

    /// Whether the machine has stopped: nothing works any more.
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// From now on the disk is full, or has room again: what needs new room fails with `StorageFull`.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// The disk after power loss: of the unsynced sectors those stay that `seed` picks. No locks, no faults.
    pub fn power_loss(&self, seed: u64) -> Self {
        let state = self.state();
        let mut files = BTreeMap::new();
        for (path, file) in &state.files {
            let mut bytes = file.durable.clone();
            for sector in &file.unsynced {
                let pick = Sha3::digest(&[&seed.to_be_bytes(), path.as_bytes(), &sector.to_be_bytes()]);
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(file.now.len());
                if pick.0[0] & 1 == 1
                    && let (Some(to), Some(from)) = (bytes.get_mut(range.clone()), file.now.get(range))
                {
                    to.copy_from_slice(from);
                }
            }
            files.insert(path.clone(), File::durable(bytes));
        }
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    /// The disk after the process was killed: everything written stays. No locks, no faults.
    pub fn process_killed(&self) -> Self {
        let state = self.state();
        let files = state.files.iter().map(|(path, file)| (path.clone(), File::durable(file.now.clone()))).collect();
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    /// Every path, in order.
    pub fn paths(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    /// Changes a file's bytes behind everyone's back; `false`: no such file.
    pub fn tamper(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        match self.state().files.get_mut(path) {
            None => false,
            Some(file) => {
                change(&mut file.now);
                *file = File::durable(std::mem::take(&mut file.now));
                true
            }
        }
    }

    /// Removes a file behind everyone's back; `false`: no such file.
    pub fn remove(&self, path: &str) -> bool {
        self.state().files.remove(path).is_some()
    }

    /// One changing operation with its fault, if any is planned. `grows`: it needs new room.
    fn change<T>(
        &self,
        operation: &'static str,
        path: &str,
        grows: bool,
        act: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        let error = |source: io::Error| DiskError { operation, path: path.to_string(), source };
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        let fault = state.faults.get(&number).copied();
        state.met += u64::from(fault.is_some() && !state.stopped);
        if state.stopped || fault == Some(Fault::StopBefore) {
            state.stopped = true;
            return Err(error(io::Error::other("the machine has stopped")));
        }
        if fault == Some(Fault::NoSpace) || (state.full && grows) {
            return Err(error(io::ErrorKind::StorageFull.into()));
        }
        if fault == Some(Fault::Fail) {
            return Err(error(io::Error::other("planned failure")));
        }
        let done = act(&mut state, fault).map_err(error)?;
        match fault {
            Some(Fault::StopAfter) => {
                state.stopped = true;
                Err(error(io::Error::other("the machine has stopped")))
            }
            Some(Fault::FailButHappened | Fault::Half) => Err(error(io::Error::other("planned failure"))),
            Some(Fault::Fail | Fault::NoSpace | Fault::StopBefore) | None => Ok(done),
        }
    }

    fn look<T>(&self, operation: &'static str, path: &str, look: impl FnOnce(&State) -> T) -> Result<T, DiskError> {
        let state = self.state();
        if state.stopped {
            let source = io::Error::other("the machine has stopped");
            return Err(DiskError { operation, path: path.to_string(), source });
        }
        Ok(look(&state))
    }
}

impl Disk for SimDisk {
    fn create_new(&self, path: &str, head: &[u8], size: u64) -> Result<(), DiskError> {
        self.change("create", path, true, |state, _| {
            if state.files.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let mut bytes = head.to_vec();
            bytes.resize(usize::try_from(size).unwrap_or(usize::MAX).max(head.len()), 0);
            state.files.insert(path.to_string(), File::durable(bytes));
            Ok(())
        })
    }

    fn claim(&self, path: &str, bytes: &[u8]) -> Result<bool, DiskError> {
        self.change("claim", path, true, |state, _| {
            let free = !state.files.contains_key(path);
            if free {
                state.files.insert(path.to_string(), File::durable(bytes.to_vec()));
            }
            Ok(free)
        })
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.change("publish", path, true, |state, _| {
            state.files.insert(path.to_string(), File::durable(bytes.to_vec()));
            Ok(())
        })
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.change("write", path, false, |state, fault| {
            let file = state.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
            let bytes = if fault == Some(Fault::Half) { &bytes[..bytes.len() / 2] } else { bytes };
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start + bytes.len();
            let to = file.now.get_mut(start..end).ok_or_else(|| io::Error::other("a write behind the end"))?;
            to.copy_from_slice(bytes);
            file.unsynced.extend(start / SECTOR..end.div_ceil(SECTOR));
            Ok(())
        })
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        self.change("sync", path, false, |state, _| {
            state.syncs += 1;
            let file = state.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
            *file = File::durable(std::mem::take(&mut file.now));
            Ok(())
        })
    }

    fn read_at(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let read = self.look("read", path, |state| {
            let file = state.files.get(path)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.now.len());
            Some(file.now[start..start.saturating_add(length).min(file.now.len())].to_vec())
        })?;
        self.state().read += read.as_ref().map_or(0, Vec::len) as u64;
        let source = io::ErrorKind::NotFound.into();
        read.ok_or(DiskError { operation: "read", path: path.to_string(), source })
    }

    fn len(&self, path: &str) -> Result<Option<u64>, DiskError> {
        self.look("look at", path, |state| state.files.get(path).map(|f| f.now.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        let inside = format!("{folder}/");
        self.look("list", folder, |state| {
            let names = state.files.keys().filter_map(|path| path.strip_prefix(&inside)?.split('/').next());
            names.map(str::to_string).collect::<BTreeSet<_>>().into_iter().collect()
        })
    }

    fn lock(&self, path: &str) -> Result<Option<DiskLock>, DiskError> {
        self.look("lock", path, |_| ())?;
        let held = self.state().locks.entry(path.to_string()).or_default().clone();
        let free = held.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        Ok(free.then(|| DiskLock::new(Held(held))))
    }
}

/// A signer whose secret is made from its epoch, certified by [`fake_root`]: for tests only.
pub struct FakeSigner {
    secret: SigningKey,
    key: VerifierKey,
    record: KeyRecord,
    /// Set to make every signature fail.
    pub fails: bool,
}

fn fake_root_secret() -> SigningKey {
    SigningKey::from_bytes(&Sha3::digest(&[b"fake root"]).0)
}

/// The genesis of a ledger whose root is known to everyone.
pub fn fake_genesis(warehouse: &str) -> Genesis {
    let public = fake_root_secret().verifying_key().to_bytes();
    #[expect(clippy::expect_used, reason = "a fixed, sound key")]
    let root = VerifierKey::new(&format!("{warehouse}/root"), &public).expect("a sound key");
    Genesis { warehouse: warehouse.to_string(), root }
}

/// The key of a ledger's anchor that everyone knows: for tests only.
pub fn fake_anchor(genesis: &Genesis) -> AnchorKey {
    #[expect(clippy::expect_used, reason = "a fixed, sound key")]
    AnchorKey::new(genesis, &fake_root_secret(), Sha3::digest(&[b"fake anchor"]).0).expect("a sound key")
}

impl FakeSigner {
    /// The signer of an epoch, valid to the end of time.
    pub fn new(genesis: &Genesis, writer: &WriterId, epoch: u64) -> Self {
        let secret = SigningKey::from_bytes(&Sha3::digest(&[b"fake epoch", &epoch.to_be_bytes()]).0);
        let origin = writer_origin(&genesis.warehouse, writer);
        #[expect(clippy::expect_used, reason = "a fixed, sound key")]
        let key = VerifierKey::new(&origin, secret.verifying_key().as_bytes()).expect("a sound key");
        let (log_id, expires) = (genesis.log_id(), WallNanos(i64::MAX));
        let text = Certificate { log_id, writer: writer.clone(), epoch, key: key.clone(), expires }.to_string();
        let signature = fake_root_secret().sign(text.as_bytes()).to_bytes().to_vec();
        let line = NoteSignature { name: genesis.root.name().to_string(), id: genesis.root.id(), signature };
        let certificate = SignedNote::new(text, vec![line]).to_bytes();
        let record = KeyRecord { epoch, vkey: key.to_string(), certificate, revoke: None };
        Self { secret, key, record, fails: false }
    }
}

impl Signer for FakeSigner {
    fn key(&self) -> &VerifierKey {
        &self.key
    }
    fn record(&self) -> &KeyRecord {
        &self.record
    }
    fn sign(&self, text: &[u8]) -> Result<[u8; 64], SignFailed> {
        if self.fails {
            return Err(SignFailed("told to fail".into()));
        }
        Ok(self.secret.sign(text).to_bytes())
    }
}
