//! What a forger does who knows the format: a writer's chain taken apart into headers and entries, altered, and put
//! together again with every checksum, hash, seq and length as a writer would make them.

use super::{Files, Finding, ledgers::WAREHOUSE, ledgers::writer};
use crate::{
    Checkpoint, NoteSignature, SegmentHeader, Signer, TreeSize, VerifierKey,
    note::{SignedNote, writer_origin},
    segment::{BLOCK_BYTES, frame_bytes, leaves_root, parse_frame, segment_path},
    sim::FakeSigner,
    tree::{Sha3, Tree, TreeHash},
};
use custody_model::{Hash, WallNanos};
use ed25519_dalek::{Signer as _, SigningKey};
use std::collections::BTreeMap;

/// One frame's entries.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) wall: WallNanos,
    pub(super) entries: Vec<Vec<u8>>,
}

/// One segment: its header as it was, its frames, and what lies behind them.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) frames: Vec<Frame>,
    behind: Vec<u8>,
}

/// Takes a writer's chain apart.
pub(super) fn take_apart(files: &Files, name: &str) -> Result<Vec<Segment>, Finding> {
    let writer = writer(name)?;
    let headers: Vec<SegmentHeader> = (1..)
        .map_while(|number| files.0.get(&segment_path(&writer, number)))
        .map_while(|bytes| SegmentHeader::parse(bytes.get(..BLOCK_BYTES)?).ok())
        .collect();
    let mut segments = vec![];
    for (n, header) in headers.iter().enumerate() {
        let bytes = files.bytes(&segment_path(&writer, header.number));
        let limit = headers.get(n + 1).map_or(bytes.len(), |next| next.previous_length as usize);
        let (mut at, mut frames) = (BLOCK_BYTES, vec![]);
        while let Some(frame) = bytes.get(at..limit).and_then(|rest| parse_frame(rest, &header.salt)) {
            let entries = frame.entries.iter().map(|range| bytes[at..][range.clone()].to_vec()).collect();
            frames.push(Frame { wall: frame.wall, entries });
            at += frame.total;
        }
        let behind = bytes[at..].to_vec();
        segments.push(Segment { header: header.clone(), frames, behind });
    }
    Ok(segments)
}

/// All entries of a chain, with segment, frame and place of each.
pub(super) fn places(segments: &[Segment]) -> Vec<(usize, usize, usize)> {
    let frames = segments.iter().enumerate().flat_map(|(s, segment)| (0..segment.frames.len()).map(move |f| (s, f)));
    frames.flat_map(|(s, f)| (0..segments[s].frames[f].entries.len()).map(move |e| (s, f, e))).collect()
}

/// Puts a chain together again in place of the old one. Segments grow where they must. Gives the new chain's root.
pub(super) fn put_together(
    files: &mut Files,
    name: &str,
    segments: &[Segment],
    log: Hash,
) -> Result<(u64, Hash), Finding> {
    let writer = writer(name)?;
    for path in files.below(&format!("w/{name}/seg/")) {
        files.0.remove(&path);
    }
    let mut tree = Tree::<Sha3>::new();
    let (mut newest, mut end, mut number) = (Hash::default(), 0, 0);
    for segment in segments {
        number += 1;
        let mut frames: Vec<&Frame> = segment.frames.iter().collect();
        frames.retain(|f| !f.entries.is_empty());
        let mut header = SegmentHeader {
            log_id: log,
            number,
            first_seq: custody_model::Seq(tree.size().0),
            previous_length: end,
            previous_frame: newest,
            ..segment.header.clone()
        };
        let length = |f: &&Frame| crate::segment::frame_length(f.entries.iter().map(Vec::as_slice));
        let used = BLOCK_BYTES + frames.iter().map(length).sum::<usize>();
        let behind = segment.behind.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
        header.size = header.size.max((used + behind).next_multiple_of(BLOCK_BYTES) as u64);
        let mut bytes = header.to_bytes().to_vec();
        let mut previous = header.hash();
        for frame in frames {
            let entries: Vec<&[u8]> = frame.entries.iter().map(Vec::as_slice).collect();
            let mut leaves = vec![Hash::default(); entries.len()];
            Sha3::leaves(&entries, &mut leaves);
            let first = tree.size().0;
            let made = frame_bytes(&entries, first, frame.wall, &previous, &leaves_root(&leaves), &header.salt);
            let (made, hash) = made.ok_or_else(|| Finding("a forged frame is too long".into()))?;
            bytes.extend(made);
            leaves.into_iter().for_each(|leaf| tree.push(leaf));
            (previous, newest) = (hash, hash);
        }
        end = bytes.len() as u64;
        bytes.extend(&segment.behind[..behind]);
        bytes.resize(header.size as usize, 0);
        files.0.insert(segment_path(&writer, number), bytes.into());
    }
    Ok((tree.size().0, tree.root()))
}

/// Signs a forged chain with the writer's own newest key, as a thief of it would.
pub(super) fn sign_stolen(files: &mut Files, name: &str, size: u64, root: Hash) -> Result<(), Finding> {
    let writer = writer(name)?;
    let path = format!("w/{name}/checkpoint");
    let old = SignedNote::parse(files.bytes(&path)).map_err(|e| e.to_string())?;
    let id = old.signatures().first().map(|line| line.id);
    let genesis = crate::sim::fake_genesis(WAREHOUSE);
    // Epochs are small numbers here: the thief has them all.
    let mut signers = (1..100).map(|epoch| FakeSigner::new(&genesis, &writer, epoch));
    let signer = signers.find(|s| Some(s.key().id()) == id).ok_or_else(|| Finding("no such key".into()))?;
    let text = Checkpoint { origin: writer_origin(WAREHOUSE, &writer), size: TreeSize(size), root }.to_string();
    let signature = signer.sign(text.as_bytes()).map_err(|e| e.to_string())?.to_vec();
    let line = NoteSignature { name: signer.key().name().into(), id: signer.key().id(), signature };
    files.0.insert(path, SignedNote::new(text, vec![line]).to_bytes().into());
    Ok(())
}

/// A key pair under a name, from a seed.
pub(super) struct Own {
    secret: SigningKey,
    pub(super) key: VerifierKey,
}

impl Own {
    pub(super) fn new(name: &str, seed: [u8; 32]) -> Result<Self, Finding> {
        let secret = SigningKey::from_bytes(&seed);
        let key = VerifierKey::new(name, secret.verifying_key().as_bytes()).map_err(|e| e.to_string())?;
        Ok(Self { secret, key })
    }

    /// A note of this text, signed.
    pub(super) fn note(&self, text: String) -> SignedNote {
        let signature = self.secret.sign(text.as_bytes()).to_bytes().to_vec();
        let line = NoteSignature { name: self.key.name().into(), id: self.key.id(), signature };
        SignedNote::new(text, vec![line])
    }
}

/// Makes the control objects fit a forged chain: each control entry's object has its bytes.
pub(super) fn fit_control(files: &mut Files) -> Result<(), Finding> {
    let mut objects = BTreeMap::new();
    for name in ["serve", "cli-0", "cli-1"] {
        for segment in take_apart(files, name)? {
            for entry in segment.frames.into_iter().flat_map(|f| f.entries) {
                let decoded = crate::decode(&entry, &crate::NoBlobs);
                if let Ok(decoded) = decoded
                    && decoded.kind().is_control()
                {
                    objects.insert(format!("control/{:020}", decoded.control_seq.0), entry);
                }
            }
        }
    }
    objects.into_iter().for_each(|(path, entry)| drop(files.0.insert(path, entry.into())));
    Ok(())
}
