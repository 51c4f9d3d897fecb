//! Heads of other writers, as their newest checkpoints sign them: what one chain says about all.
//!
//! A writer whose head stands in another chain cannot be removed or rolled back without that chain's telling. Each merged
//! checkpoint, the one just above a `heads` entry, covers all of them.

use crate::{
    disk::{Disk, DiskError},
    frames::Frames,
    note::SignedNote,
    segment::{BLOCK_BYTES, SegmentHeader, checkpoint_path, segment_number, segment_path, writer_folder},
};
use custody_model::{Hash, HeadRecord, WriterId};

/// A writer's head; `None`: it has no checkpoint yet, or none that can be read, which is for `verify` to judge.
pub fn signed_head(disk: &dyn Disk, writer: &WriterId) -> Result<Option<HeadRecord>, DiskError> {
    let Some(bytes) = disk.read(&checkpoint_path(writer))? else { return Ok(None) };
    let Ok(note) = SignedNote::parse(&bytes).and_then(|note| note.checkpoint()) else { return Ok(None) };
    let size = note.size.0;
    let Some((incarnation, frame)) = frame_before(disk, writer, size)? else { return Ok(None) };
    Ok(Some(HeadRecord { writer: writer.clone(), incarnation, size, root: note.root, frame }))
}

/// Which opening wrote the entry before `size`, and the hash of the frame that ends with it. A checkpoint is signed between
/// two frames.
fn frame_before(disk: &dyn Disk, writer: &WriterId, size: u64) -> Result<Option<(u64, Hash)>, DiskError> {
    let names = disk.list(&format!("{}/seg", writer_folder(writer)))?;
    for number in names.iter().rev().filter_map(|name| segment_number(name)) {
        let bytes = disk.read_at(&segment_path(writer, number), 0, BLOCK_BYTES)?;
        let Ok(header) = SegmentHeader::parse(&bytes) else { continue };
        if header.first_seq.0 >= size {
            continue;
        }
        let mut frames = Frames::new(disk, &header, BLOCK_BYTES as u64, header.size);
        while let Some(found) = frames.next()? {
            let end = found.frame.first_seq + found.frame.entries.len() as u64;
            if end >= size {
                return Ok((end == size).then_some((header.incarnation, found.frame.hash)));
            }
        }
        return Ok(None);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Chain, ChainOptions,
        samples::encoded,
        sim::{FakeSigner, SimDisk, fake_genesis},
        verify::{Outside, TrustPolicy, Verdict, verify},
    };
    use custody_model::{Payload, WallNanos};

    #[test]
    fn a_writer_whose_head_another_chain_holds_cannot_be_taken_away() {
        let (disk, genesis, now) = (SimDisk::new(), fake_genesis("clinic"), WallNanos(1_800_000_000_000_000_000));
        genesis.store(&disk).unwrap();
        let open = |name: &str, seed| {
            let writer = WriterId::new(name).unwrap();
            let options = ChainOptions { writer: writer.clone(), segment_bytes: 8 * 512, seed: [seed; 32] };
            let chain = Chain::open(disk.clone(), &genesis, options, now).unwrap().0;
            (chain, FakeSigner::new(&genesis, &writer, 1))
        };
        let ((mut one, signs_one), (mut two, signs_two)) = (open("serve", 1), open("cli-0", 2));
        assert_eq!(signed_head(&disk, one.writer()).unwrap(), None);
        for n in 0..30 {
            one.commit(&[encoded(n, Payload::ReadProgress(1))], now).unwrap();
        }
        one.checkpoint(&signs_one, now).unwrap();
        let head = signed_head(&disk, one.writer()).unwrap().unwrap();
        assert_eq!((head.size, head.root, head.frame), (one.size().0, one.root(), one.frame_hash()));
        assert_eq!(head.incarnation, one.incarnation());
        two.heads(vec![head], now).unwrap();
        two.checkpoint(&signs_two, now).unwrap();
        let judged =
            |disk: &SimDisk| verify(&crate::tests::Files(disk), &TrustPolicy::default(), &Outside::none(now)).verdict;
        assert_eq!(judged(&disk), Verdict::FreshnessUnproven);
        let gone = disk.process_killed();
        for path in gone.paths().into_iter().filter(|path| path.starts_with("w/serve/")) {
            gone.remove(&path);
        }
        assert_eq!(judged(&gone), Verdict::Tampered);
    }
}
