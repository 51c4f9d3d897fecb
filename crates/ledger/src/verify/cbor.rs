//! A reader of deterministic CBOR, for the verifier only.
//!
//! What holds true here: every function refuses bytes that are not the one encoding of what they say (RFC 8949
//! §4.2.1): shortest lengths, definite lengths, maps with strictly ascending unsigned keys, UTF-8 text, no floats,
//! tags, nulls or undefined values. Deliberately absent: anything shared with the writer's encoder.

/// Entries nest a handful of levels; anything deeper is not an entry.
const MAX_DEPTH: u32 = 64;

/// A value, borrowed from the bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// Major type 0.
    Unsigned(u64),
    /// Major type 1: the value is -1 - n.
    Negative(u64),
    /// Major type 2.
    Bytes(&'a [u8]),
    /// Major type 3.
    Text(&'a str),
    /// Major type 4.
    Array(Vec<Value<'a>>),
    /// Major type 5, unsigned keys only.
    Map(Vec<(u64, Value<'a>)>),
    /// `true` or `false`.
    Bool(bool),
}

impl<'a> Value<'a> {
    /// The value under a key of a map.
    pub(super) fn get(&self, key: u64) -> Option<&Value<'a>> {
        match self {
            Value::Map(pairs) => pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// An unsigned integer.
    pub(super) fn unsigned(&self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(*n),
            _ => None,
        }
    }

    /// An integer that fits `i64`.
    pub(super) fn signed(&self) -> Option<i64> {
        match self {
            Value::Unsigned(n) => i64::try_from(*n).ok(),
            Value::Negative(n) => i64::try_from(*n).ok().map(|n| -1 - n),
            _ => None,
        }
    }

    /// A byte string.
    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(b) => Some(b),
            _ => None,
        }
    }

    /// A byte string of 32 bytes.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        self.bytes().and_then(|b| b.try_into().ok())
    }

    /// A text string.
    pub(super) fn text(&self) -> Option<&'a str> {
        match self {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The items of an array.
    pub(super) fn items(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }
}

/// Reads exactly one value that fills `bytes`. The error says what is not canonical, and at which byte.
pub(super) fn read(bytes: &[u8]) -> Result<Value<'_>, String> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(0)?;
    if reader.at == bytes.len() { Ok(value) } else { Err(format!("bytes follow the value at {}", reader.at)) }
}

/// Reads a map that fills `bytes`: `take` is given each key and the reader, which stands before the key's value, and reads
/// that value or skips it. What is skipped is held to the one encoding all the same; most of an entry is nothing that this
/// verifier has an opinion about.
pub(super) fn each<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(u64, &mut Reader<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = Reader { bytes, at: 0 };
    let (major, _, count) = reader.head()?;
    if major != 5 {
        return Err("not a map at 0".into());
    }
    let mut last = None;
    for _ in 0..count {
        let key = reader.key(&mut last)?;
        take(key, &mut reader)?;
    }
    if reader.at == bytes.len() { Ok(()) } else { Err(format!("bytes follow the value at {}", reader.at)) }
}

/// A place in canonical bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(format!("{count} bytes expected at {}, fewer remain", self.at)),
        }
    }

    /// Initial byte and argument, in the shortest form.
    #[inline(always)]
    fn head(&mut self) -> Result<(u8, u8, u64), String> {
        match self.bytes.get(self.at..) {
            // Most heads of an entry: small numbers, keys, short lengths; then lengths of hashes.
            Some([first, ..]) if first & 31 < 24 => {
                self.at += 1;
                Ok((first >> 5, first & 31, u64::from(first & 31)))
            }
            Some([first, second, ..]) if first & 31 == 24 && *second >= 24 => {
                self.at += 2;
                Ok((first >> 5, 24, u64::from(*second)))
            }
            _ => self.long_head(),
        }
    }

    fn long_head(&mut self) -> Result<(u8, u8, u64), String> {
        let at = self.at;
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let (argument, least) = match info {
            0..=23 => (u64::from(info), 0),
            24 => (self.number(1)?, 24),
            25 => (self.number(2)?, 1 << 8),
            26 => (self.number(4)?, 1 << 16),
            27 => (self.number(8)?, 1 << 32),
            _ => return Err(format!("indefinite or reserved length at {at}")),
        };
        if argument < least {
            return Err(format!("a number at {at} is not in its shortest form"));
        }
        Ok((major, info, argument))
    }

    fn number(&mut self, width: u64) -> Result<u64, String> {
        Ok(self.take(width)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// Reads a value.
    pub(super) fn value(&mut self, depth: u32) -> Result<Value<'a>, String> {
        let at = self.at;
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} at {at}"));
        }
        let (major, info, argument) = self.head()?;
        match major {
            0 => Ok(Value::Unsigned(argument)),
            1 => Ok(Value::Negative(argument)),
            2 => self.take(argument).map(Value::Bytes),
            3 => std::str::from_utf8(self.take(argument)?)
                .map(Value::Text)
                .map_err(|_| format!("text at {at} is not UTF-8")),
            4 => (0..argument).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::Array),
            5 => self.map(argument, depth),
            7 if info == 20 => Ok(Value::Bool(false)),
            7 if info == 21 => Ok(Value::Bool(true)),
            _ => Err(format!("a tag, float or null at {at}")),
        }
    }

    fn map(&mut self, count: u64, depth: u32) -> Result<Value<'a>, String> {
        let (mut pairs, mut last): (Vec<(u64, Value<'a>)>, _) = (Vec::new(), None);
        for _ in 0..count {
            let key = self.key(&mut last)?;
            pairs.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(pairs))
    }

    /// A map's next key, higher than the last one.
    fn key(&mut self, last: &mut Option<u64>) -> Result<u64, String> {
        let at = self.at;
        let (major, _, key) = self.head()?;
        if major != 0 {
            return Err(format!("a map key at {at} is not an unsigned number"));
        }
        if last.replace(key).is_some_and(|last| last >= key) {
            return Err(format!("map keys do not ascend at {at}"));
        }
        Ok(key)
    }

    /// Reads over a value that is in its one encoding.
    pub(super) fn skip(&mut self, depth: u32) -> Result<(), String> {
        let at = self.at;
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} at {at}"));
        }
        let (major, info, argument) = self.head()?;
        match major {
            0 | 1 => Ok(()),
            2 => self.take(argument).map(|_| ()),
            3 => {
                std::str::from_utf8(self.take(argument)?).map(|_| ()).map_err(|_| format!("text at {at} is not UTF-8"))
            }
            4 => (0..argument).try_for_each(|_| self.skip(depth + 1)),
            5 => {
                let mut last = None;
                (0..argument).try_for_each(|_| self.key(&mut last).and_then(|_| self.skip(depth + 1)))
            }
            7 if info == 20 || info == 21 => Ok(()),
            _ => Err(format!("a tag, float or null at {at}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, each, read};

    #[test]
    fn one_encoding_is_read() {
        assert_eq!(read(&[0xa1, 0x00, 0x18, 0x18]), Ok(Value::Map(vec![(0, Value::Unsigned(24))])));
        assert_eq!(read(&[0x38, 0x63]).map(|v| v.signed()), Ok(Some(-100)));
        assert_eq!(read(&[0x82, 0xf5, 0x61, b'a']), Ok(Value::Array(vec![Value::Bool(true), Value::Text("a")])));
    }

    #[test]
    fn others_are_refused() {
        for bytes in [
            &[0x18, 0x17][..],                                       // 23 in two bytes
            &[0x19, 0x00, 0xff],                                     // 255 in three bytes
            &[0x9f, 0xff],                                           // indefinite array
            &[0xa2, 0x01, 0x00, 0x00, 0x00],                         // keys descend
            &[0xa2, 0x01, 0x00, 0x01, 0x00],                         // key twice
            &[0xa1, 0x61, b'a', 0x00],                               // text key
            &[0xf6],                                                 // null
            &[0xf9, 0x3c, 0x00],                                     // float
            &[0xc0, 0x00],                                           // tag
            &[0x61, 0xff],                                           // not UTF-8
            &[0x00, 0x00],                                           // trailing
            &[0x42, 0x00],                                           // short
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // longer than memory
            &[],
        ] {
            assert!(read(bytes).is_err(), "{bytes:02x?}");
            // The same below a key that is skipped, and below one that is read.
            let inside = [&[0xa1, 0x00][..], bytes].concat();
            assert!(each(&inside, |_, r| r.skip(1)).is_err(), "{bytes:02x?}");
            assert!(each(&inside, |_, r| r.value(1).map(|_| ())).is_err(), "{bytes:02x?}");
        }
        let skip = |bytes: &[u8]| each(bytes, |_, r| r.skip(1));
        assert!(skip(&[0x80]).is_err() && skip(&[0xa0, 0x00]).is_err() && skip(&[0xa0]).is_ok());
        assert!(skip(&[&[0xa1, 0x00][..], &[0x81; 200]].concat()).is_err());
        assert!(read(&[0x81; 200]).is_err());
    }
}
