//! What two processes say to each other about a copy: a hello, then changes, each answered.
//!
//! A message is a length of four bytes and canonical CBOR. The side that keeps the copy answers each one, after it is
//! durable, with how far it has come; a refusal is its last word.

use crate::{
    copy::{Change, Copied, CopyRefused, Held},
    disk::Disk,
    format::{Value, from_bytes, to_bytes},
};
use custody_model::WriterId;
use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
};

/// No message is longer.
const MAX_MESSAGE: usize = 256 << 20;

/// The first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerHello {
    /// Whose chain is to be copied.
    pub writer: WriterId,
    /// Of which ledger.
    pub genesis: Vec<u8>,
}

impl PeerHello {
    /// `["custody-copy/1", writer, genesis]`.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_bytes(&Value::Array(vec![
            Value::Text("custody-copy/1".into()),
            Value::Text(self.writer.to_string()),
            Value::Bytes(self.genesis.clone()),
        ]))
    }

    /// Reads what `to_bytes` writes, and nothing else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Array(items) = from_bytes(bytes).ok()? else { return None };
        let [Value::Text(kind), Value::Text(writer), Value::Bytes(genesis)] = &items[..] else { return None };
        let writer = WriterId::new(writer).filter(|_| kind == "custody-copy/1")?;
        Some(Self { writer, genesis: genesis.clone() })
    }
}

/// An answer: how far the copy has come; to a hello, also the files that it has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerAnswer {
    /// How far.
    pub held: Held,
    /// Paths of blobs, control entries and torn tails.
    pub names: BTreeSet<String>,
}

impl PeerAnswer {
    /// `[0, segment, length, entries, [path]]`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Held { number, length, size } = self.held;
        let names = self.names.iter().map(|n| Value::Text(n.clone())).collect();
        let [number, length, size] = [number, length, size].map(Value::Uint);
        to_bytes(&Value::Array(vec![Value::Uint(0), number, length, size, Value::Array(names)]))
    }

    /// `[1, why]`: the last word of a copy that refuses.
    pub fn refusal(why: &str) -> Vec<u8> {
        to_bytes(&Value::Array(vec![Value::Uint(1), Value::Text(why.into())]))
    }

    /// Reads an answer, or why there is none.
    pub fn parse(bytes: &[u8]) -> Option<Result<Self, String>> {
        let Value::Array(items) = from_bytes(bytes).ok()? else { return None };
        match &items[..] {
            [Value::Uint(0), Value::Uint(number), Value::Uint(length), Value::Uint(size), Value::Array(names)] => {
                let text = |v: &Value| if let Value::Text(text) = v { Some(text.clone()) } else { None };
                let names: Vec<String> = names.iter().map(text).collect::<Option<_>>()?;
                if !names.is_sorted_by(|a, b| a < b) {
                    return None;
                }
                let held = Held { number: *number, length: *length, size: *size };
                Some(Ok(Self { held, names: names.into_iter().collect() }))
            }
            [Value::Uint(1), Value::Text(why)] => Some(Err(why.clone())),
            _ => None,
        }
    }
}

/// Writes one message.
pub fn write_message(out: &mut dyn Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::Error::other("a message is too long"))?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(message)
}

/// Reads one message; `None`: there are no more. A message that is cut short is no message.
pub fn read_message(input: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let whole = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(None),
        _ => Err(error),
    };
    if let Err(error) = input.read_exact(&mut length) {
        return whole(error);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other("a message is too long"));
    }
    let mut message = vec![0; length];
    match input.read_exact(&mut message) {
        Ok(()) => Ok(Some(message)),
        Err(error) => whole(error),
    }
}

/// Keeps a copy on `disk` as long as `input` lasts. Every answer comes after what it answers is durable.
pub fn keep_copy<D: Disk>(disk: D, input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let Some(hello) = read_message(input)? else { return Ok(()) };
    let refuse = |output: &mut dyn Write, why: &CopyRefused| {
        write_message(output, &PeerAnswer::refusal(&why.to_string()))?;
        output.flush()?;
        Err(io::Error::other(why.to_string()))
    };
    let Some(hello) = PeerHello::parse(&hello) else {
        return refuse(output, &CopyRefused::Malformed("no greeting that is known here"));
    };
    let names = names(&disk, &hello.writer);
    let opened = Copied::open(disk, &hello.genesis, &hello.writer).and_then(|copy| Ok((copy, names?)));
    let (mut copy, names) = match opened {
        Ok(opened) => opened,
        Err(why) => return refuse(output, &why),
    };
    write_message(output, &PeerAnswer { held: copy.held(), names }.to_bytes())?;
    output.flush()?;
    while let Some(message) = read_message(input)? {
        let taken = match Change::parse(&message) {
            Some(change) => copy.take(&change),
            None => Err(CopyRefused::Malformed("no change that is known here")),
        };
        if let Err(why) = taken {
            return refuse(output, &why);
        }
        write_message(output, &PeerAnswer { held: copy.held(), ..PeerAnswer::default() }.to_bytes())?;
        output.flush()?;
    }
    Ok(())
}

/// The files of a copy that are made once.
fn names(disk: &dyn Disk, writer: &WriterId) -> Result<BTreeSet<String>, CopyRefused> {
    let mut names = BTreeSet::new();
    for folder in ["blob".to_string(), "control".to_string(), format!("w/{writer}/quarantine")] {
        names.extend(disk.list(&folder)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    Ok(names)
}
