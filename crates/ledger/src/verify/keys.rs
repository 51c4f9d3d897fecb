//! Which key may sign a checkpoint of which size, for the verifier only.
//!
//! The genesis names the root key. A `key` entry names a writer's next key and carries a certificate: a note signed by the
//! root whose lines are `custody-key/1`, log id, writer, epoch, verifier key and the nanosecond it expires at. From the
//! checkpoint just above that entry on, the new key must sign; the key before may sign as well.

use super::{
    chain::{Chain, Log},
    facts::Key,
    note::{Checkpoint, Note, Vkey},
};
use custody_model::Hash;

/// Entries are stamped before they are appended, and keys end between two appends.
const EXPIRY_SLACK_NANOS: i64 = 3600 * 1_000_000_000;

struct Certified {
    seq: u64,
    epoch: u64,
    key: Vkey,
    expires: i64,
}

/// Checks a key entry against the root.
fn certified(log: &Log, chain: &Chain, seq: u64, key: &Key) -> Result<Certified, String> {
    let bad = |why: &str| format!("the key at seq {seq} {why}");
    let vkey = Vkey::parse(&key.vkey).filter(|v| v.name == log.origin_of(&chain.writer));
    let vkey = vkey.ok_or_else(|| bad("is not one of this writer"))?;
    let note = std::str::from_utf8(&key.certificate).map_err(|e| e.to_string()).and_then(Note::parse);
    let note = note.map_err(|why| bad(&format!("has a malformed certificate: {why}")))?;
    let signed = match &note.signatures[..] {
        [line] => {
            line.name == log.root.name
                && line.key_id == log.root.id
                && log.root.verifies(note.text.as_bytes(), &line.signature)
        }
        _ => false,
    };
    if !signed {
        return Err(bad("is not certified by the root key"));
    }
    let lines: Vec<&str> = note.text.split_terminator('\n').collect();
    let (log_id, writer, epoch) = (Hash(log.id).to_string(), chain.writer.to_string(), key.epoch.to_string());
    match &lines[..] {
        [kind, id, name, number, text, expires]
            if (*kind, *id, *name) == ("custody-key/1", &log_id, &writer)
                && (*number, *text) == (&epoch, &key.vkey) =>
        {
            let expires = expires.parse().map_err(|_| bad("has a certificate without end"))?;
            Ok(Certified { seq, epoch: key.epoch, key: vkey, expires })
        }
        _ => Err(bad("has the certificate of another key")),
    }
}

/// Checks every signature of a checkpoint whose size and root are known to be right; the error says what is wrong.
pub(super) fn signatures(log: &Log, chain: &Chain, note: &Checkpoint) -> Result<(), String> {
    let below: Vec<_> = chain.keys.iter().filter(|(seq, _)| *seq < note.size).collect();
    let keys = below.iter().map(|(seq, key)| certified(log, chain, *seq, key)).collect::<Result<Vec<_>, _>>()?;
    if let Some(pair) = keys.windows(2).find(|pair| pair[1].epoch <= pair[0].epoch) {
        return Err(format!("the key at seq {} does not begin a later epoch", pair[1].seq));
    }
    let revoked: Vec<u64> = below.iter().filter_map(|(_, key)| key.revoke).collect();
    let mut committed = keys.iter().rev().filter(|k| !revoked.contains(&k.epoch));
    let current = committed.next().ok_or("no key is committed below the checkpoint")?;
    let before = committed.next();
    let mut signed = false;
    for line in &note.signatures {
        let known = [Some(current), before].into_iter().flatten();
        let key = known.map(|k| &k.key).find(|k| k.id == line.key_id && k.name == line.name);
        let Some(key) = key else {
            return Err(format!("the checkpoint is signed by a key of `{}` that may not sign it", line.name));
        };
        if !key.verifies(note.text.as_bytes(), &line.signature) {
            return Err("the checkpoint does not match its signature".into());
        }
        signed |= *key == current.key;
    }
    if !signed {
        return Err("the checkpoint lacks the signature of its key".into());
    }
    let newest = usize::try_from(note.size).ok().and_then(|n| chain.walls.get(n.checked_sub(1)?));
    if newest.is_some_and(|wall| *wall > current.expires.saturating_add(EXPIRY_SLACK_NANOS)) {
        return Err("the checkpoint covers entries from after its key expired".into());
    }
    Ok(())
}
