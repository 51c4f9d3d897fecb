//! Deterministic CBOR (RFC 8949 §4.2.1), the subset that entries use.
//!
//! Integers, byte and text strings, arrays, booleans, and maps whose keys are ascending unsigned integers. No floats,
//! tags, nulls or indefinite lengths. One value has one encoding: the decoder refuses every other.

/// A value of the subset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// An unsigned integer.
    Uint(u64),
    /// A negative integer: -1 minus this number.
    Negative(u64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text string.
    Text(String),
    /// An array.
    Array(Vec<Value>),
    /// A map; keys ascend.
    Map(Vec<(u64, Value)>),
    /// A boolean.
    Bool(bool),
}

/// Bytes that are not the one encoding of a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not canonical at byte {at}: {why}")]
pub struct NotCanonical {
    /// Where.
    pub at: usize,
    /// In which way.
    pub why: &'static str,
}

/// Nesting beyond this is refused.
const MAX_DEPTH: usize = 32;

/// The one encoding of a value.
///
/// INVARIANT: callers build maps with ascending keys; a debug assertion and the decoder's tests watch it.
pub fn to_bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put(value, &mut out);
    out
}

/// The value that these bytes, all of them, encode.
pub fn from_bytes(bytes: &[u8]) -> Result<Value, NotCanonical> {
    let mut reader = Cursor { bytes, at: 0 };
    let value = reader.value(0)?;
    if reader.at != bytes.len() {
        return Err(reader.bad("bytes after the value"));
    }
    Ok(value)
}

/// The values of keys 0 and 1 of a map, both unsigned: an entry's schema and kind, without reading the rest.
pub(crate) fn peek_two(bytes: &[u8]) -> Option<(u64, u64)> {
    let mut reader = Cursor { bytes, at: 0 };
    let (5, length) = reader.head().ok()? else { return None };
    let mut key = |expected: u64| match (reader.head().ok()?, reader.head().ok()?) {
        ((0, key), (0, value)) if key == expected => Some(value),
        _ => None,
    };
    (length >= 2).then_some(())?;
    Some((key(0)?, key(1)?))
}

fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    let top = major << 5;
    if number < 24 {
        out.push(top | number as u8);
    } else if let Ok(n) = u8::try_from(number) {
        out.extend([top | 24, n]);
    } else if let Ok(n) = u16::try_from(number) {
        out.push(top | 25);
        out.extend(n.to_be_bytes());
    } else if let Ok(n) = u32::try_from(number) {
        out.push(top | 26);
        out.extend(n.to_be_bytes());
    } else {
        out.push(top | 27);
        out.extend(number.to_be_bytes());
    }
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Uint(n) => head(0, *n, out),
        Value::Negative(n) => head(1, *n, out),
        Value::Bytes(bytes) => {
            head(2, bytes.len() as u64, out);
            out.extend(bytes);
        }
        Value::Text(text) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            items.iter().for_each(|item| put(item, out));
        }
        Value::Map(pairs) => {
            debug_assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "map keys ascend");
            head(5, pairs.len() as u64, out);
            for (key, item) in pairs {
                head(0, *key, out);
                put(item, out);
            }
        }
        Value::Bool(b) => out.push(0xf4 | u8::from(*b)),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn bad(&self, why: &'static str) -> NotCanonical {
        NotCanonical { at: self.at, why }
    }

    fn take(&mut self, length: u64) -> Result<&[u8], NotCanonical> {
        let end = usize::try_from(length).ok().and_then(|l| self.at.checked_add(l)).filter(|e| *e <= self.bytes.len());
        let Some(end) = end else { return Err(self.bad("ends too early")) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Major type and number; the number in its shortest form.
    fn head(&mut self) -> Result<(u8, u64), NotCanonical> {
        let first = self.take(1)?[0];
        let (major, low) = (first >> 5, first & 31);
        if major == 7 {
            return match low {
                20 | 21 => Ok((7, u64::from(low - 20))),
                _ => Err(self.bad("neither true nor false")),
            };
        }
        let (number, least) = match low {
            0..=23 => return Ok((major, u64::from(low))),
            24 => (u64::from(self.take(1)?[0]), 24),
            25 => (self.number(2)?, 1 << 8),
            26 => (self.number(4)?, 1 << 16),
            27 => (self.number(8)?, 1 << 32),
            _ => return Err(self.bad("indefinite length or reserved")),
        };
        if number < least {
            return Err(self.bad("number not in its shortest form"));
        }
        Ok((major, number))
    }

    fn number(&mut self, width: u64) -> Result<u64, NotCanonical> {
        Ok(self.take(width)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&mut self, depth: usize) -> Result<Value, NotCanonical> {
        if depth > MAX_DEPTH {
            return Err(self.bad("nested too deeply"));
        }
        let (major, number) = self.head()?;
        Ok(match major {
            0 => Value::Uint(number),
            1 => Value::Negative(number),
            2 => Value::Bytes(self.take(number)?.to_vec()),
            3 => {
                let text = self.take(number)?.to_vec();
                Value::Text(String::from_utf8(text).map_err(|_| self.bad("text that is not UTF-8"))?)
            }
            4 => {
                // A length never reserves more than the bytes could hold.
                let mut items = Vec::with_capacity(self.room(number));
                for _ in 0..number {
                    items.push(self.value(depth + 1)?);
                }
                Value::Array(items)
            }
            5 => {
                let mut pairs: Vec<(u64, Value)> = Vec::with_capacity(self.room(number));
                for _ in 0..number {
                    let (0, key) = self.head()? else { return Err(self.bad("a map key that is not unsigned")) };
                    if pairs.last().is_some_and(|(last, _)| *last >= key) {
                        return Err(self.bad("map keys that do not ascend"));
                    }
                    pairs.push((key, self.value(depth + 1)?));
                }
                Value::Map(pairs)
            }
            7 => Value::Bool(number == 1),
            _ => return Err(self.bad("a tag")),
        })
    }

    fn room(&self, number: u64) -> usize {
        usize::try_from(number).unwrap_or(usize::MAX).min((self.bytes.len() - self.at).min(1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_one_encoding() {
        let value = Value::Map(vec![
            (0, Value::Uint(23)),
            (1, Value::Uint(24)),
            (24, Value::Array(vec![Value::Uint(256), Value::Uint(65_536), Value::Uint(1 << 32), Value::Negative(0)])),
            (300, Value::Bool(true)),
            (301, Value::Text("é".into())),
            (302, Value::Bytes(vec![0; 30])),
        ]);
        let bytes = to_bytes(&value);
        assert_eq!(from_bytes(&bytes), Ok(value));
        for cut in 0..bytes.len() {
            assert!(from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        let cases: &[(&[u8], &str)] = &[
            (&[0x18, 0x17], "shortest"),             // 23 in two bytes
            (&[0x19, 0x00, 0xff], "shortest"),       // 255 in three
            (&[0x1a, 0, 0, 0xff, 0xff], "shortest"), // 65535 in five
            (&[0x1b, 0, 0, 0, 0, 0, 0, 0, 1], "shortest"),
            (&[0x5f, 0x41, 0, 0xff], "indefinite"),
            (&[0x9f, 0xff], "indefinite"),
            (&[0xbf, 0xff], "indefinite"),
            (&[0xc0, 0x00], "tag"),
            (&[0xf6], "neither"),       // null
            (&[0xf7], "neither"),       // undefined
            (&[0xf9, 0, 0], "neither"), // a float
            (&[0xf8, 0x20], "neither"),
            (&[0xa2, 0, 0, 0, 0], "ascend"), // a repeated key
            (&[0xa2, 1, 0, 0, 0], "ascend"),
            (&[0xa1, 0x61, b'a', 0], "unsigned"), // a text key
            (&[0x61, 0xff], "UTF-8"),
            (&[0x00, 0x00], "after"),
            (&[0x82, 0x00], "early"),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "early"),
            (&[], "early"),
        ];
        for (bytes, why) in cases {
            let error = from_bytes(bytes).unwrap_err();
            assert!(error.why.contains(why), "{bytes:x?}: {error}");
        }
        assert!(from_bytes(&[0x81; 64]).unwrap_err().why.contains("deeply"));
    }
}
