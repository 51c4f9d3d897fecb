//! The bytes of a policy bundle as the ledger's blob holds them: (path, content) by path, each length-prefixed.

/// Encodes files; `decode` gives the same back.
pub(crate) fn encode(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![];
    for part in files.iter().flat_map(|(path, content)| [path.as_bytes(), content.as_slice()]) {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// `None` where the bytes were not made by `encode`.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut parts = vec![];
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        parts.push(rest.get(..length)?.to_vec());
        bytes = &rest[length..];
    }
    let mut files = vec![];
    let mut parts = parts.into_iter();
    while let Some(path) = parts.next() {
        files.push((String::from_utf8(path).ok()?, parts.next()?));
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back() {
        let files = vec![("a.cedar".to_string(), b"permit".to_vec()), ("b.sql".to_string(), vec![])];
        assert_eq!(decode(&encode(&files)), Some(files.clone()));
        assert_eq!(decode(&encode(&files)[1..]), None);
    }
}
