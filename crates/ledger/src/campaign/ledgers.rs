//! Ledgers of any size out of a seed: several writers, restarts and crashes, key epochs, control entries, blobs, reads.

use super::{Files, Finding, Random};
use crate::{
    Chain, ChainOptions, Disk, EntryBytes,
    anchor::{ANCHOR_CHECKPOINT, anchor},
    blob_ref, control, put_blob,
    sim::{FakeSigner, Fault, SimDisk, fake_anchor, fake_genesis},
    verify::keep,
};
use custody_model::{
    CatalogChange, ControlSeq, DatasetId, Denied, EntryId, Hash, Payload, PolicyBundleRecord, ReadIntent, ReadOutcome,
    WallNanos, WriterId,
};
use uuid::Uuid;

/// The first moment of every ledger here.
pub(super) const START: i64 = 1_790_000_000_000_000_000;
pub(super) const SECOND: i64 = 1_000_000_000;
pub(super) const WAREHOUSE: &str = "clinic";

/// How a ledger is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// About so many entries.
    pub entries: u64,
    /// Size of segments.
    pub segment_bytes: u64,
    /// Whether writers crash on the way.
    pub crashes: bool,
}

/// A ledger, an earlier copy of it, and what others remember.
pub(super) struct Written {
    /// The ledger, every writer closed.
    pub files: Files,
    /// The same ledger when it was half as long, every writer closed as well.
    pub half: Files,
    /// Its checkpoints.
    pub kept: String,
    /// The checkpoint of its anchor.
    pub anchored: String,
    /// Receipts of some entries.
    pub receipts: Vec<String>,
    /// Later than every entry.
    pub now: WallNanos,
}

/// A writer's name.
pub(super) fn writer(name: &str) -> Result<WriterId, Finding> {
    WriterId::new(name).ok_or_else(|| Finding(format!("`{name}` is no writer")))
}

struct Making<'a> {
    disk: SimDisk,
    random: &'a mut Random,
    shape: Shape,
    second: i64,
    receipts: Vec<String>,
    /// Epochs are numbered across writers.
    epoch: u64,
    /// Control entries whose claim is made and whose append is not known to have happened.
    owed: Vec<EntryBytes>,
}

/// A ledger out of random numbers; closed and sound.
pub(super) fn write(random: &mut Random, shape: Shape) -> Result<Written, Finding> {
    let disk = SimDisk::new();
    fake_genesis(WAREHOUSE).store(&disk).map_err(|e| e.to_string())?;
    let mut making = Making { disk, random, shape, second: 0, receipts: vec![], epoch: 0, owed: vec![] };
    let mut half = None;
    let names = ["serve", "cli-0", "serve", "cli-1", "serve"];
    let each = shape.entries / names.len() as u64;
    for (n, name) in names.into_iter().enumerate() {
        making.incarnation(name, each)?;
        making.anchor()?;
        if n == 1 {
            half = Some(Files::of(&making.disk).map_err(|e| e.to_string())?);
        }
    }
    let files = Files::of(&making.disk).map_err(|e| e.to_string())?;
    let kept = keep(&files).map_err(|e| e.to_string())?;
    let now = WallNanos(START + (making.second + 1) * SECOND);
    let anchored = String::from_utf8_lossy(files.bytes(ANCHOR_CHECKPOINT)).into_owned();
    Ok(Written { files, half: half.unwrap_or_default(), kept, anchored, receipts: making.receipts, now })
}

impl Making<'_> {
    fn now(&self) -> WallNanos {
        WallNanos(START + self.second * SECOND)
    }

    fn open(&mut self, name: &str) -> Result<Chain<SimDisk>, Finding> {
        let options =
            ChainOptions { writer: writer(name)?, segment_bytes: self.shape.segment_bytes, seed: self.random.bytes() };
        let opened = Chain::open(self.disk.clone(), &fake_genesis(WAREHOUSE), options, self.now());
        let (mut chain, recovery) = opened.map_err(|e| format!("{name} does not open: {e}"))?;
        let mut first: Vec<EntryBytes> = std::mem::take(&mut self.owed);
        for open in recovery.open {
            first.push(self.entry(
                Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }),
                Some(open.intent),
                0,
            )?);
        }
        chain.commit(&first, self.now()).map_err(|e| e.to_string())?;
        Ok(chain)
    }

    /// One life of a writer, from opening to an orderly close, with a crash in it now and then.
    fn incarnation(&mut self, name: &str, entries: u64) -> Result<(), Finding> {
        let mut chain = self.open(name)?;
        let until = chain.size().0 + entries;
        self.epoch += 1;
        let mut signer = FakeSigner::new(&fake_genesis(WAREHOUSE), chain.writer(), self.epoch);
        while chain.size().0 + 2 < until {
            self.second += 1;
            let frame = self.frame()?;
            let torn = self.shape.crashes && self.random.once_in(40);
            if torn {
                self.crash_at_next_step();
            }
            match chain.commit(&frame, self.now()) {
                Ok(appended) => {
                    for appended in appended {
                        let receipt = appended.settle(custody_model::Durability::Local).map(|r| r.to_string());
                        if self.random.once_in(5)
                            && let Ok(receipt) = receipt
                        {
                            self.receipts.push(receipt);
                        }
                    }
                }
                Err(_) if torn => {
                    drop(chain);
                    self.owed.extend(frame.into_iter().filter(|e| e.kind().is_control()));
                    self.disk = match self.random.once_in(2) {
                        true => self.disk.process_killed(),
                        false => self.disk.power_loss(self.random.number()),
                    };
                    self.owed_once();
                    chain = self.open(name)?;
                    continue;
                }
                Err(e) => return Err(Finding(format!("{name} does not record: {e}"))),
            }
            if self.random.once_in(10) {
                chain.checkpoint(&signer, self.now()).map_err(|e| e.to_string())?;
            }
            if self.random.once_in(60) {
                self.epoch += 1;
                signer = FakeSigner::new(&fake_genesis(WAREHOUSE), chain.writer(), self.epoch);
            }
        }
        chain.close(&signer, self.now()).map_err(|e| format!("{name} does not close: {e}"))?;
        Ok(())
    }

    /// A round of the anchor.
    fn anchor(&mut self) -> Result<(), Finding> {
        let notes: Vec<_> = ["serve", "cli-0", "cli-1"]
            .iter()
            .filter_map(|name| self.disk.read(&format!("w/{name}/checkpoint")).transpose())
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let done = anchor(&self.disk, &fake_anchor(&fake_genesis(WAREHOUSE)), &notes).map_err(|e| e.to_string())?;
        done.old.iter().for_each(|path| {
            self.disk.remove(path);
        });
        Ok(())
    }

    fn crash_at_next_step(&mut self) {
        let step = self.disk.operations() + self.random.below(2) as u64;
        let fault = [Fault::StopBefore, Fault::StopAfter, Fault::Half][self.random.below(3)];
        self.disk.fault(step, fault);
        self.disk.fault(step + 1, Fault::StopBefore);
    }

    /// A control entry that a crashed process appended must not come twice from here.
    fn owed_once(&mut self) {
        let reader = crate::Reader::new(self.disk.clone());
        let leaves: Vec<Hash> = reader
            .writers()
            .unwrap_or_default()
            .iter()
            .flat_map(|writer| reader.leaves(writer).unwrap_or_default())
            .collect();
        self.owed.retain(|entry| !leaves.contains(&entry.leaf()));
    }

    fn frame(&mut self) -> Result<Vec<EntryBytes>, Finding> {
        let mut frame = vec![];
        for _ in 0..=self.random.below(6) {
            let more = match self.random.below(12) {
                0 => self.control()?,
                1..=4 => {
                    let payload = Payload::ReadIntent(self.intent());
                    let begins = self.entry(payload, None, 0)?;
                    let id = begins.id();
                    let mut read = vec![begins];
                    if self.random.once_in(2) {
                        read.push(self.entry(Payload::ReadProgress(1 << 27), Some(id), 0)?);
                    }
                    read.push(self.entry(
                        Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }),
                        Some(id),
                        0,
                    )?);
                    read
                }
                _ => {
                    let code = "C".repeat(1 + self.random.below(60));
                    let denied = Denied { code, statement_hash: None, targets: vec![], count: 1 };
                    vec![self.entry(Payload::Denied(denied), None, 0)?]
                }
            };
            frame.extend(more);
        }
        Ok(frame)
    }

    fn intent(&mut self) -> ReadIntent {
        ReadIntent {
            statement: None,
            statement_hash: Hash(self.random.bytes()),
            lineage_hash: None,
            plan: Hash(self.random.bytes()),
            granted_bytes: 1 << 26,
            prediction: None,
        }
    }

    /// A control entry with its claim; a bundle's blob first.
    fn control(&mut self) -> Result<Vec<EntryBytes>, Finding> {
        let next = control::newest(&self.disk, ControlSeq(0)).map_err(|e| e.to_string())?.0 + 1;
        let payload = if self.random.once_in(4) {
            let bundle = self.random.bytes().repeat(1 + self.random.below(20));
            let blob = put_blob(&self.disk, &bundle).map_err(|e| e.to_string())?;
            let (hash, because) = (blob_ref(b"x").hash, "why not".to_string());
            Payload::PolicyBundle(PolicyBundleRecord {
                epoch: next,
                hash,
                blob,
                approvers: vec![],
                because,
                relabelled: vec![],
            })
        } else {
            let id = DatasetId(Uuid::from_u128(self.random.number().into()));
            let name = "raw.a".parse().map_err(|_| Finding("not a name".into()))?;
            Payload::CatalogChange(CatalogChange::External { id, name })
        };
        let entry = self.entry(payload, None, next)?;
        control::claim(&self.disk, ControlSeq(next), &entry).map_err(|e| e.to_string())?;
        Ok(vec![entry])
    }

    fn entry(&mut self, payload: Payload, reference: Option<EntryId>, control: u64) -> Result<EntryBytes, Finding> {
        let now = self.now();
        super::entry(self.random, now, payload, reference, control)
    }
}
