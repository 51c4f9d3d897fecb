//! Every decoder against bytes that nobody wrote, and against sound ones with some changed: none panics, and what one
//! accepts is the one encoding of what it says.

use crate::{
    Change, Checkpoint, Genesis, PeerAnswer, PeerHello, SegmentHeader, SignedNote, decode,
    edge::Edge,
    encode,
    format::{NoBlobs, from_bytes, to_bytes},
    segment::parse_frame,
    verify::check_proof,
};
use proptest::{collection::vec, prelude::*};
use std::sync::LazyLock;

/// Sound bytes of every format, from the golden files.
static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ledger");
    let mut sound = vec![];
    for name in ["entries.hex", "ledger.hex"] {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        for word in text.split_whitespace().filter(|w| w.len() > 20 && w.bytes().all(|b| b.is_ascii_hexdigit())) {
            let byte = |at: usize| u8::from_str_radix(&word[at..at + 2], 16).ok();
            sound.extend((0..word.len() / 2 * 2).step_by(2).map(byte).collect::<Option<Vec<u8>>>());
        }
    }
    for name in ["anchored.proof", "entry.proof", "consistency.proof", "root.key"] {
        sound.push(std::fs::read(format!("{folder}/proofs/{name}")).unwrap());
    }
    sound.push(crate::edge::tests::some_edge());
    let writer = custody_model::WriterId::new("serve").unwrap();
    let names = ["blob/00".to_string()].into();
    sound.extend([
        Change::Begin { header: sound[0].clone() }.to_bytes(),
        Change::Frames { number: 1, offset: 512, bytes: vec![1, 2, 3] }.to_bytes(),
        Change::File { path: "control/1".into(), bytes: vec![4] }.to_bytes(),
        PeerHello { writer, genesis: vec![5] }.to_bytes(),
        PeerAnswer { names, ..PeerAnswer::default() }.to_bytes(),
        PeerAnswer::refusal("no"),
    ]);
    sound
});

fn every_decoder(bytes: &[u8]) {
    if let Ok(value) = from_bytes(bytes) {
        assert_eq!(to_bytes(&value), bytes);
    }
    if let Ok(entry) = decode(bytes, &NoBlobs) {
        let again = encode(&entry).map(|e| (e.entry.as_bytes().to_vec(), e.blob));
        assert!(again.as_ref().is_ok_and(|(b, blob)| b == bytes || blob.is_some()), "{entry:?}");
    }
    if let Ok(genesis) = Genesis::parse(bytes) {
        assert_eq!(genesis.to_bytes(), bytes);
    }
    if let Ok(header) = SegmentHeader::parse(bytes) {
        assert_eq!(&header.to_bytes()[..], bytes);
    }
    if let Some(edge) = Edge::parse(bytes) {
        assert_eq!(edge.to_bytes(), bytes);
    }
    if let Ok(note) = SignedNote::parse(bytes) {
        assert_eq!(note.to_bytes(), bytes);
        if let Ok(checkpoint) = note.checkpoint() {
            assert_eq!(checkpoint.to_string().parse::<Checkpoint>(), Ok(checkpoint));
        }
    }
    // Leaves of the anchor, as the writer and the verifier cut them apart.
    assert_eq!(crate::anchor::bundle(bytes), crate::verify::anchor_bundle(bytes));
    if let Some(change) = Change::parse(bytes) {
        assert_eq!(change.to_bytes(), bytes);
    }
    if let Some(hello) = PeerHello::parse(bytes) {
        assert_eq!(hello.to_bytes(), bytes);
    }
    if let Some(Ok(answer)) = PeerAnswer::parse(bytes) {
        assert_eq!(answer.to_bytes(), bytes);
    }
    let _ = parse_frame(bytes, &[0; 16]);
    let _ = parse_frame(bytes, &bytes.get(..16).and_then(|b| b.try_into().ok()).unwrap_or([1; 16]));
    let root = "clinic/root+00000000+AAAA";
    assert!(check_proof(bytes, root).is_err());
    let _ = check_proof(&SOUND[SOUND.len() - 10], &String::from_utf8_lossy(bytes));
}

/// A ledger folder in which every file has these bytes.
struct Nonsense<'a>(&'a [u8]);

impl crate::verify::Source for Nonsense<'_> {
    fn list(&self, folder: &str) -> Result<Vec<String>, crate::verify::Unreadable> {
        let names: &[&str] = match folder {
            "w" => &["serve", "cli-0"],
            "w/serve/seg" => &["000000000001.seg", "000000000002.seg"],
            "w/serve/tile" => &["0", "1", "9", "99999999999"],
            "w/serve/tile/1" => &["000", "x001", "001.p"],
            "control" => &["00000000000000000001", "x"],
            _ => &[],
        };
        Ok(names.iter().map(|n| n.to_string()).collect())
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, crate::verify::Unreadable> {
        let genesis = crate::sim::fake_genesis("clinic").to_bytes();
        Ok(Some(if path == "genesis" { genesis } else { self.0.to_vec() }))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_decoder_minds_nonsense(bytes in vec(any::<u8>(), 0..700)) {
        every_decoder(&bytes);
    }

    #[test]
    fn no_decoder_minds_changed_bytes(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4),
    ) {
        let mut bytes = which.get(&SOUND).clone();
        for (at, byte, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        every_decoder(&bytes);
        let report = crate::verify::verify(
            &Nonsense(&bytes),
            &crate::verify::TrustPolicy::default(),
            &crate::verify::Outside::none(custody_model::WallNanos(0)),
        );
        prop_assert!(matches!(report.verdict.exit_code(), 1 | 4), "{}", report);
    }
}
