//! Schedules of concurrent reads, cancels, disconnects, full disks, kills and power losses, on a disk whose every step
//! may fail: failed, failed but happened, half, full, or the machine stops before or after it.
//!
//! What must hold after every crash, and does or the schedule is a finding:
//! - Every acknowledged entry is in its chain, at its seq, with its bytes; so is every size and root that was signed.
//! - The bytes that a read let out are at most what durable entries grant it.
//! - Opening gives exactly the reads that began and have no durable outcome, with their last durable byte grants.
//! - Claimed control entries are completed once; the verifier, which shares no code, finds nothing to say.
//! - When space returns, a writer goes on without being opened again, and without a gap.

use super::{Finding, Random, entry, ledgers::START, ledgers::WAREHOUSE, ledgers::writer};
use crate::{
    Chain, ChainOptions, CommitFailed, EntryBytes, OpenRefused, Reader, Sha3, TreeHash, control, root_of,
    sim::{FakeSigner, Fault, SimDisk, fake_genesis},
    verify::{Grade, Kept, Outside, TrustPolicy, verify},
};
use custody_model::{
    CatalogChange, ControlSeq, DatasetId, Durability, EntryId, Hash, OpenIntent, Payload, ReadIntent, ReadOutcome, Seq,
    StoredEntry, WallNanos,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const NAMES: [&str; 2] = ["serve", "cli-0"];
const FAULTS: [Fault; 6] =
    [Fault::Fail, Fault::FailButHappened, Fault::NoSpace, Fault::Half, Fault::StopBefore, Fault::StopAfter];

/// What schedules did, so that a search that tests nothing shows.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Schedules run.
    pub schedules: u64,
    /// Reads begun.
    pub reads: u64,
    /// Bytes that left.
    pub bytes: u64,
    /// Entries acknowledged.
    pub acknowledged: u64,
    /// Steps of the disk that went wrong.
    pub faults: u64,
    /// Kills and power losses.
    pub crashes: u64,
    /// Commits refused for want of space.
    pub no_space: u64,
    /// Chains that gave up.
    pub poisoned: u64,
    /// Chains that went on after giving up, in the same process.
    pub revived: u64,
    /// Torn tails put aside.
    pub torn: u64,
}

impl Counts {
    /// Name and number of each count.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("schedules", self.schedules),
            ("reads", self.reads),
            ("bytes released", self.bytes),
            ("entries acknowledged", self.acknowledged),
            ("faults", self.faults),
            ("crashes", self.crashes),
            ("commits without space", self.no_space),
            ("chains given up", self.poisoned),
            ("chains revived", self.revived),
            ("torn tails", self.torn),
        ]
    }
}

/// Runs schedules `shard · runs` and on; the first that breaks a promise ends it.
pub fn shard(shard: u64, runs: u64) -> Result<Counts, Finding> {
    let mut counts = Counts::default();
    for run in 0..runs {
        let mut world = World::new(Random::new("schedules", shard, run))?;
        world.run().map_err(|f| Finding(format!("shard {shard}, run {run}: {f}")))?;
        let counted = world.counts;
        counts.schedules += 1;
        counts.reads += counted.reads;
        counts.bytes += counted.bytes;
        counts.acknowledged += counted.acknowledged;
        counts.faults += counted.faults;
        counts.crashes += counted.crashes;
        counts.no_space += counted.no_space;
        counts.poisoned += counted.poisoned;
        counts.revived += counted.revived;
        counts.torn += counted.torn;
    }
    Ok(counts)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The intent is queued.
    Asked,
    /// The intent is durable: messages may leave.
    Running,
    /// As `Running`, and a larger grant is queued.
    Extending,
    /// The outcome is queued.
    Ending,
    /// Over: ended, refused, or its process is gone.
    Over,
}

struct Read {
    process: usize,
    intent: EntryId,
    state: State,
    granted: u64,
    released: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Intent(usize),
    Progress(usize, u64),
    Outcome(usize),
    Control,
}

#[derive(Clone)]
struct Queued {
    entry: EntryBytes,
    what: What,
}

/// One process: a chain, and the queue before it.
struct Process {
    name: &'static str,
    chain: Option<Chain<SimDisk>>,
    queue: VecDeque<Queued>,
    epoch: u64,
}

struct World {
    random: Random,
    disk: SimDisk,
    processes: [Process; 2],
    reads: Vec<Read>,
    /// Process and seq → bytes.
    acknowledged: BTreeMap<(usize, u64), Vec<u8>>,
    signed: Vec<(usize, u64, Hash)>,
    /// The newest note that each process was given.
    notes: [Option<String>; 2],
    full: bool,
    millis: i64,
    counts: Counts,
}

type Checked = Result<(), Finding>;

impl World {
    fn new(random: Random) -> Result<Self, Finding> {
        let disk = SimDisk::new();
        fake_genesis(WAREHOUSE).store(&disk).map_err(|e| e.to_string())?;
        let process = |name| Process { name, chain: None, queue: VecDeque::new(), epoch: 0 };
        let mut world = Self {
            random,
            disk,
            processes: NAMES.map(process),
            reads: vec![],
            acknowledged: BTreeMap::new(),
            signed: vec![],
            notes: [None, None],
            full: false,
            millis: 0,
            counts: Counts::default(),
        };
        world.plan_faults();
        Ok(world)
    }

    fn run(&mut self) -> Checked {
        let steps = 30 + self.random.below(50);
        for _ in 0..steps {
            self.millis += 1;
            self.step()?;
            if self.disk.has_stopped() {
                self.crash(true)?;
            }
        }
        self.crash(false)?;
        self.end()
    }

    fn now(&self) -> WallNanos {
        WallNanos(START + self.millis * 1_000_000)
    }

    fn make(&mut self, payload: Payload, of: Option<EntryId>, control: u64) -> Result<EntryBytes, Finding> {
        let now = self.now();
        entry(&mut self.random, now, payload, of, control)
    }

    /// Faults for the steps to come, none in some stretches and many in others.
    fn plan_faults(&mut self) {
        let rate = [6, 12, 25, 1_000][self.random.below(4)];
        let first = self.disk.operations();
        for operation in first..first + 120 {
            if self.random.once_in(rate) {
                self.disk.fault(operation, FAULTS[self.random.below(FAULTS.len())]);
            }
        }
    }

    fn step(&mut self) -> Checked {
        let p = self.random.below(2);
        if self.processes[p].chain.is_none() {
            return if self.random.once_in(2) { self.open(p) } else { Ok(()) };
        }
        match self.random.below(20) {
            0..=3 => self.begin(p),
            4..=6 => self.release(p),
            7 => self.extend(p),
            8..=9 => self.finish(p),
            10..=15 => self.commit(p),
            16 => self.checkpoint(p),
            17 => self.claim(p),
            18 => {
                // A full disk, or room again.
                self.full = !self.full && self.random.once_in(2);
                self.disk.set_full(self.full);
                Ok(())
            }
            _ => match self.random.below(4) {
                0 => self.crash(true),
                1 => self.kill(p),
                2 => self.close(p),
                _ => Ok(()),
            },
        }
    }

    // ---------------------------------------------------------------- processes

    /// Opens a process's chain, gives crashed reads their outcomes, completes claims. A disk that fails meanwhile leaves
    /// the process down.
    fn open(&mut self, p: usize) -> Checked {
        let writer = writer(self.processes[p].name)?;
        let before = self.entries(p).ok();
        let seed = self.random.bytes();
        let options = ChainOptions { writer, segment_bytes: 8 * 512, seed };
        let (mut chain, recovery) = match Chain::open(self.disk.clone(), &fake_genesis(WAREHOUSE), options, self.now())
        {
            Ok(opened) => opened,
            Err(OpenRefused::Disk(_) | OpenRefused::Record(_)) => return Ok(()),
            // Reading is not broken here, the machine may have stopped all the same.
            Err(OpenRefused::Genesis(_)) if before.is_none() => return Ok(()),
            Err(refused) => return Err(Finding(format!("{} does not open: {refused}", self.processes[p].name))),
        };
        self.counts.torn += u64::from(recovery.torn.is_some());
        if let Some(before) = before {
            self.check_open_reads(&recovery.open, &before)?;
        }
        let mut first = vec![];
        for open in &recovery.open {
            let payload = Payload::ReadOutcome(ReadOutcome { code: Some("unknown_crash".into()), scans: vec![] });
            first.push(self.make(payload, Some(open.intent), 0)?);
        }
        let Ok(claims) = self.unappended() else { return Ok(()) };
        first.extend(claims);
        match chain.commit(&first, self.now()) {
            Ok(appended) => self.acknowledge(p, appended.iter().map(|a| a.entry_ref().seq.0).zip(&first)),
            Err(_) => return Ok(()),
        }
        self.processes[p].chain = Some(chain);
        self.processes[p].queue.clear();
        Ok(())
    }

    /// Exactly the reads that began and did not end, by what is durable.
    fn check_open_reads(&self, open: &[OpenIntent], durable: &[StoredEntry]) -> Checked {
        let mut expected: BTreeMap<EntryId, u64> = BTreeMap::new();
        for stored in durable {
            match (&stored.entry.payload, stored.entry.reference) {
                (Payload::ReadIntent(intent), _) => {
                    expected.insert(stored.entry.id, intent.granted_bytes);
                }
                (Payload::ReadProgress(granted), Some(read)) => {
                    expected.entry(read).and_modify(|g| *g = *granted);
                }
                (Payload::ReadOutcome(_), Some(read)) => drop(expected.remove(&read)),
                _ => {}
            }
        }
        let found: BTreeMap<EntryId, u64> = open.iter().map(|o| (o.intent, o.granted_bytes)).collect();
        if found == expected { Ok(()) } else { Err(Finding(format!("open reads are {found:?}, not {expected:?}"))) }
    }

    /// Claims that no chain has, of processes that are gone.
    fn unappended(&self) -> Result<Vec<EntryBytes>, Finding> {
        let mut known: BTreeSet<Hash> = BTreeSet::new();
        for p in 0..2 {
            known.extend(self.entries(p)?.into_iter().map(|e| e.leaf));
            known.extend(self.processes[p].queue.iter().map(|q| q.entry.leaf()));
        }
        let mut claims = vec![];
        let newest = control::newest(&self.disk, ControlSeq(0)).map_err(|e| e.to_string())?.0;
        for seq in 1..=newest {
            let bytes = control::read(&self.disk, ControlSeq(seq)).map_err(|e| e.to_string())?.unwrap_or_default();
            if !known.contains(&Sha3::leaf(&bytes)) {
                claims.push(EntryBytes::copied(bytes, &crate::NoBlobs).map_err(|e| e.to_string())?);
            }
        }
        Ok(claims)
    }

    /// The process is gone; its chain's lock goes with it.
    fn kill(&mut self, p: usize) -> Checked {
        self.counts.crashes += 1;
        self.processes[p].chain = None;
        self.processes[p].queue.clear();
        self.reads.iter_mut().filter(|r| r.process == p).for_each(|r| r.state = State::Over);
        self.check_durable()
    }

    /// The machine stops; what survives is checked, and the schedule goes on with it.
    fn crash(&mut self, faults: bool) -> Checked {
        let count = self.disk.faults_met();
        self.counts.faults += count;
        for p in 0..2 {
            self.processes[p].chain = None;
            self.processes[p].queue.clear();
        }
        self.counts.crashes += 1;
        self.reads.iter_mut().for_each(|r| r.state = State::Over);
        self.disk = match self.random.once_in(4) {
            true => self.disk.process_killed(),
            false => self.disk.power_loss(self.random.number()),
        };
        self.full = false;
        if faults {
            self.plan_faults();
        }
        self.check_durable()
    }

    fn close(&mut self, p: usize) -> Checked {
        // An orderly end waits for its reads.
        let waits = |r: &Read| r.process == p && r.state != State::Over;
        if self.reads.iter().any(waits) || !self.processes[p].queue.is_empty() {
            return Ok(());
        }
        let signer = self.signer(p)?;
        let Some(chain) = self.processes[p].chain.take() else { return Ok(()) };
        if let Ok(note) = chain.close(&signer, self.now()) {
            self.sign(p, &note)?;
        }
        Ok(())
    }

    // ---------------------------------------------------------------- reads

    fn begin(&mut self, p: usize) -> Checked {
        let granted_bytes = 100;
        let intent = ReadIntent {
            statement: None,
            statement_hash: Hash(self.random.bytes()),
            lineage_hash: None,
            plan: Hash::default(),
            granted_bytes,
            prediction: None,
        };
        let entry = self.make(Payload::ReadIntent(intent), None, 0)?;
        self.counts.reads += 1;
        self.processes[p].queue.push_back(Queued { entry: entry.clone(), what: What::Intent(self.reads.len()) });
        let (intent, state) = (entry.id(), State::Asked);
        self.reads.push(Read { process: p, intent, state, granted: 0, released: 0 });
        Ok(())
    }

    fn some_read(&mut self, p: usize, states: &[State]) -> Option<usize> {
        let fits = |r: &Read| r.process == p && states.contains(&r.state);
        let found: Vec<usize> = (0..self.reads.len()).filter(|n| fits(&self.reads[*n])).collect();
        found.get(self.random.below(found.len())).copied()
    }

    /// A message leaves if the grant allows it.
    fn release(&mut self, p: usize) -> Checked {
        let Some(n) = self.some_read(p, &[State::Running, State::Extending]) else { return Ok(()) };
        let length = 1 + self.random.below(80) as u64;
        let read = &mut self.reads[n];
        if read.released + length <= read.granted {
            read.released += length;
            self.counts.bytes += length;
        }
        Ok(())
    }

    fn extend(&mut self, p: usize) -> Checked {
        let Some(n) = self.some_read(p, &[State::Running]) else { return Ok(()) };
        let (total, intent) = (self.reads[n].granted + 100, self.reads[n].intent);
        let entry = self.make(Payload::ReadProgress(total), Some(intent), 0)?;
        self.reads[n].state = State::Extending;
        self.processes[p].queue.push_back(Queued { entry, what: What::Progress(n, total) });
        Ok(())
    }

    /// The end of a read, or a reader that goes away: both leave an outcome; before the intent is answered as well.
    fn finish(&mut self, p: usize) -> Checked {
        let Some(n) = self.some_read(p, &[State::Asked, State::Running, State::Extending]) else { return Ok(()) };
        self.outcome(n)
    }

    fn outcome(&mut self, n: usize) -> Checked {
        let (p, intent) = (self.reads[n].process, self.reads[n].intent);
        let payload = Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] });
        let entry = self.make(payload, Some(intent), 0)?;
        self.reads[n].state = State::Ending;
        self.processes[p].queue.push_back(Queued { entry, what: What::Outcome(n) });
        Ok(())
    }

    // ---------------------------------------------------------------- the writer

    fn commit(&mut self, p: usize) -> Checked {
        let take = 1 + self.random.below(6);
        let process = &mut self.processes[p];
        let take = take.min(process.queue.len());
        let batch: Vec<Queued> = process.queue.drain(..take).collect();
        let entries: Vec<EntryBytes> = batch.iter().map(|q| q.entry.clone()).collect();
        let now = WallNanos(START + self.millis * 1_000_000);
        let Some(chain) = process.chain.as_mut() else { return Ok(()) };
        if chain.is_poisoned() {
            return self.revive(p, batch);
        }
        let size = chain.size().0;
        match chain.commit(&entries, now) {
            Ok(appended) => {
                let seqs: Vec<u64> = appended.iter().map(|a| a.entry_ref().seq.0).collect();
                if seqs.windows(2).any(|w| w[1] != w[0] + 1) || seqs.first().is_some_and(|s| *s < size) {
                    return Err(Finding(format!("seqs {seqs:?} after {size} entries")));
                }
                self.acknowledge(p, seqs.into_iter().zip(&entries));
                for (appended, queued) in appended.into_iter().zip(batch) {
                    let receipt = appended.settle(Durability::Local);
                    self.durable(queued.what, receipt.is_ok());
                }
                Ok(())
            }
            Err(CommitFailed::NoSpace(_)) => {
                self.counts.no_space += 1;
                self.without_space(p, batch)
            }
            Err(_) => {
                // The process answers all with an error; it ends, or reads its chain anew.
                self.counts.poisoned += 1;
                if self.random.once_in(2) { self.kill(p) } else { self.revive(p, batch) }
            }
        }
    }

    /// An entry is durable: what it allows may happen.
    fn durable(&mut self, what: What, receipt: bool) {
        match what {
            What::Intent(n) if self.reads[n].state == State::Asked && receipt => {
                (self.reads[n].state, self.reads[n].granted) = (State::Running, 100);
            }
            What::Progress(n, total) => {
                self.reads[n].granted = total;
                if self.reads[n].state == State::Extending {
                    self.reads[n].state = State::Running;
                }
            }
            What::Outcome(n) => self.reads[n].state = State::Over,
            What::Intent(_) | What::Control => {}
        }
    }

    /// A chain that gave up is read anew; what its commits had made durable all the same is not appended again.
    fn revive(&mut self, p: usize, batch: Vec<Queued>) -> Checked {
        self.without_space(p, batch)?;
        let now = self.now();
        let Some(chain) = self.processes[p].chain.as_mut().filter(|c| c.is_poisoned()) else { return Ok(()) };
        let revived = match chain.revive(now) {
            Ok(revived) => revived,
            Err(OpenRefused::Disk(_) | OpenRefused::Record(_)) => return Ok(()), // tried again at the next commit
            Err(refused) => return Err(Finding(format!("{} does not revive: {refused}", self.processes[p].name))),
        };
        self.counts.revived += 1;
        self.processes[p].queue.retain(|q| !revived.leaves.contains(&q.entry.leaf()));
        // Outcomes among them have ended their reads.
        for n in 0..self.reads.len() {
            let queued = self.processes[p].queue.iter().any(|q| q.what == What::Outcome(n));
            if self.reads[n].process == p && self.reads[n].state == State::Ending && !queued {
                self.reads[n].state = State::Over;
            }
        }
        for open in revived.begun {
            let known = self.reads.iter().position(|r| r.intent == open.intent);
            match known {
                // Refused: it let nothing out, and its outcome says so.
                Some(n) if self.reads[n].state == State::Over => self.outcome(n)?,
                Some(_) => {}
                None => return Err(Finding("a read began that nobody asked for".into())),
            }
        }
        Ok(())
    }

    /// Reads are refused; outcomes and control entries are owed, and come first when there is room.
    fn without_space(&mut self, p: usize, batch: Vec<Queued>) -> Checked {
        let mut owed = vec![];
        for queued in batch {
            match queued.what {
                What::Intent(n) if self.reads[n].state == State::Asked => self.reads[n].state = State::Over,
                What::Progress(n, _) if self.reads[n].state == State::Extending => self.outcome(n)?,
                What::Intent(_) | What::Progress(..) => {}
                What::Outcome(_) | What::Control => owed.push(queued),
            }
        }
        owed.into_iter().rev().for_each(|q| self.processes[p].queue.push_front(q));
        Ok(())
    }

    fn acknowledge<'a>(&mut self, p: usize, entries: impl Iterator<Item = (u64, &'a EntryBytes)>) {
        for (seq, entry) in entries {
            self.counts.acknowledged += 1;
            self.acknowledged.insert((p, seq), entry.as_bytes().to_vec());
        }
    }

    fn signer(&mut self, p: usize) -> Result<FakeSigner, Finding> {
        let known = self.processes[p].chain.as_ref().and_then(Chain::key_epoch).unwrap_or(0);
        let epoch = self.processes[p].epoch.max(known).max(1) + u64::from(self.random.once_in(8));
        self.processes[p].epoch = epoch;
        Ok(FakeSigner::new(&fake_genesis(WAREHOUSE), &writer(self.processes[p].name)?, epoch))
    }

    fn checkpoint(&mut self, p: usize) -> Checked {
        let (signer, now) = (self.signer(p)?, self.now());
        let Some(chain) = self.processes[p].chain.as_mut() else { return Ok(()) };
        match chain.checkpoint(&signer, now) {
            Ok(note) => self.sign(p, &note),
            Err(_) => Ok(()),
        }
    }

    fn sign(&mut self, p: usize, note: &crate::SignedNote) -> Checked {
        let checkpoint = note.checkpoint().map_err(|e| e.to_string())?;
        self.signed.push((p, checkpoint.size.0, checkpoint.root));
        self.notes[p] = Some(note.to_string());
        Ok(())
    }

    /// A control act: its claim, then its entry. A claim that failed may have happened.
    fn claim(&mut self, p: usize) -> Checked {
        let Ok(newest) = control::newest(&self.disk, ControlSeq(0)) else { return Ok(()) };
        let seq = ControlSeq(newest.0 + 1);
        let id = DatasetId(uuid::Uuid::from_u128(self.random.number().into()));
        let name = "raw.a".parse().map_err(|_| Finding("not a name".into()))?;
        let payload = Payload::CatalogChange(CatalogChange::External { id, name });
        let entry = self.make(payload, None, seq.0)?;
        match control::claim(&self.disk, seq, &entry) {
            Ok(()) => self.processes[p].queue.push_back(Queued { entry, what: What::Control }),
            // Whoever is told of an error looks whether the place is taken.
            Err(_) => {
                if control::read(&self.disk, seq).ok().flatten().as_deref() == Some(entry.as_bytes()) {
                    self.processes[p].queue.push_back(Queued { entry, what: What::Control });
                }
            }
        }
        Ok(())
    }

    // ---------------------------------------------------------------- what must hold

    fn entries(&self, p: usize) -> Result<Vec<StoredEntry>, Finding> {
        let reader = Reader::new(self.disk.clone());
        let read = reader.tail(&writer(self.processes[p].name)?, crate::Position::default());
        read.map(|(entries, _)| entries).map_err(|e| Finding(e.to_string()))
    }

    /// What was acknowledged, signed and released, against what is there.
    fn check_durable(&self) -> Checked {
        let both = [self.entries(0), self.entries(1)];
        let [Ok(one), Ok(two)] = both else {
            return match self.disk.has_stopped() {
                true => Ok(()), // checked when the machine is up again
                false => Err(Finding(format!("a chain cannot be read: {both:?}"))),
            };
        };
        let chains = [one, two];
        for ((p, seq), bytes) in &self.acknowledged {
            let held = chains[*p].get(*seq as usize);
            if held.is_none_or(|e| e.seq != Seq(*seq) || e.raw != *bytes) {
                return Err(Finding(format!("entry {seq} of {} was acknowledged and is lost", NAMES[*p])));
            }
        }
        for (p, size, root) in &self.signed {
            let leaves: Vec<Hash> = chains[*p].iter().take(*size as usize).map(|e| e.leaf).collect();
            if leaves.len() as u64 != *size || root_of::<Sha3>(&leaves) != *root {
                return Err(Finding(format!("{size} entries of {} were signed and are others", NAMES[*p])));
            }
        }
        for read in self.reads.iter().filter(|r| r.released > 0) {
            let grants = chains[read.process].iter().map(|e| match (&e.entry.payload, e.entry.reference) {
                (Payload::ReadIntent(intent), _) if e.entry.id == read.intent => intent.granted_bytes,
                (Payload::ReadProgress(granted), Some(of)) if of == read.intent => *granted,
                _ => 0,
            });
            let granted = grants.max().unwrap_or(0);
            if read.released > granted {
                return Err(Finding(format!("{} bytes left, durable entries allow {granted}", read.released)));
            }
        }
        Ok(())
    }

    /// Nothing fails any more: every writer opens, ends its reads, closes, and the verifier agrees.
    fn end(&mut self) -> Checked {
        for (p, name) in NAMES.into_iter().enumerate() {
            self.millis += 2_000;
            self.open(p)?;
            if self.processes[p].chain.is_none() {
                return Err(Finding(format!("{name} does not open on a sound disk")));
            }
        }
        // Without space nothing is recorded; with space again the same chains go on.
        self.disk.set_full(true);
        for p in 0..2 {
            for _ in 0..4 {
                self.begin(p)?;
                self.commit(p)?;
            }
        }
        self.disk.set_full(false);
        for p in 0..2 {
            self.begin(p)?;
            let opened = self.processes[p].chain.as_ref().map(Chain::incarnation);
            while !self.processes[p].queue.is_empty() {
                self.commit(p)?;
            }
            for n in 0..self.reads.len() {
                if self.reads[n].process == p && self.reads[n].state == State::Running {
                    self.outcome(n)?;
                }
            }
            while !self.processes[p].queue.is_empty() {
                self.commit(p)?;
            }
            if opened.is_none() || self.processes[p].chain.as_ref().map(Chain::incarnation) != opened {
                return Err(Finding("a writer did not survive a full disk".into()));
            }
            self.close(p)?;
        }
        self.check_durable()?;
        for p in 0..2 {
            let entries = self.entries(p)?;
            self.check_open_reads(&[], &entries)?;
        }
        let notes: String = self.notes.iter().flatten().map(String::as_str).collect();
        let outside = Outside { since: vec![Kept { name: "kept".into(), notes }], ..Outside::none(self.now()) };
        let report =
            verify(&super::Files::of(&self.disk).map_err(|e| e.to_string())?, &TrustPolicy::default(), &outside);
        if report.verdict.exit_code() != 0 || report.findings.iter().any(|f| f.grade > Grade::Notice) {
            return Err(Finding(format!("the verifier says: {report}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10,000 schedules, over both processors.
    #[test]
    fn no_schedule_loses_an_entry_or_lets_a_byte_out_unaudited() {
        let counts: Vec<Counts> = std::thread::scope(|scope| {
            let run = |n| scope.spawn(move || shard(n, 5_000).unwrap_or_else(|f| panic!("{f}")));
            let running: Vec<_> = (0..2).map(run).collect();
            running.into_iter().map(|r| r.join().unwrap()).collect()
        });
        for counts in counts {
            assert_eq!(counts.schedules, 5_000);
            // A search in which nothing happens finds nothing.
            for (name, count) in counts.named() {
                assert!(count > 50, "{name}: {count}");
            }
        }
    }
}
