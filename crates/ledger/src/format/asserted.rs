//! Lineage that others claim <-> CBOR. A payload of kind 11 with key 8 is one.
//!
//! ```text
//! {0: event hash, 1: producer, 2: [job namespace, job], 3: run, 4: event time, 5: [table], 6: [output], 7: [source], 8: 1}
//! table  {0: dataset, 1: name, 2: namespace, 3: name there, 4: version}    the first is the output
//! output {0: column, 1: [source]}                                          by column, ascending
//! source {0: table, 1: column, 2: code, 3: masking}                        ascending; no column: which rows exist
//!                                                                          codes as in `lineage.rs`
//! ```
//!
//! Key 7 is what decides about all rows. No version, job or run: the key is absent.

use super::{
    cbor::Value,
    lineage::{direct_code, direct_of, indirect_code, indirect_of},
    wire::{MapIn, MapOut, Unexpected, Wire, tuple, unexpected},
};
use custody_model::{AssertedLineage, AssertedOutput, AssertedSource, AssertedTable, FlowKind};

/// The key that an observed lineage never has.
const MARK: u64 = 8;
/// The form of the payload.
const FORM: u64 = 1;

/// Whether a payload of kind 11 is a claim.
pub(super) fn is_asserted(value: &Value) -> bool {
    matches!(value, Value::Map(pairs) if pairs.iter().any(|(key, _)| *key == MARK))
}

/// Two texts, absent where both are empty.
struct Pair(String, String);

impl Wire for Pair {
    fn value(&self) -> Value {
        Value::Array(vec![self.0.value(), self.1.value()])
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let [a, b] = tuple(value)?;
        Ok(Self(String::read(a)?, String::read(b)?))
    }
    fn field(&self) -> Option<Value> {
        (!self.0.is_empty() || !self.1.is_empty()).then(|| self.value())
    }
    fn read_field(value: Option<Value>) -> Result<Self, Unexpected> {
        match value.map(Self::read).transpose()? {
            Some(pair) if pair.field().is_none() => unexpected("empty where absence says it"),
            pair => Ok(pair.unwrap_or(Self(String::new(), String::new()))),
        }
    }
}

impl Wire for FlowKind {
    fn value(&self) -> Value {
        Value::Uint(match self {
            Self::Direct(kind) => direct_code(*kind),
            Self::Indirect(kind) => indirect_code(*kind),
        })
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let code = u64::read(value)?;
        let found = direct_of(code).map(Self::Direct).or_else(|| indirect_of(code).map(Self::Indirect));
        found.map_or_else(|| unexpected(format!("unknown influence {code}")), Ok)
    }
}

impl Wire for AssertedTable {
    fn value(&self) -> Value {
        let Self { dataset, name, namespace, text, version } = self;
        let mut map = MapOut::default();
        map.put(0, dataset);
        map.put(1, name);
        map.put(2, namespace);
        map.put(3, text);
        map.put(4, version);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let table = Self {
            dataset: map.get(0)?,
            name: map.get(1)?,
            namespace: map.get(2)?,
            text: map.get(3)?,
            version: map.get(4)?,
        };
        map.end()?;
        match table.version {
            Some(version) if i64::try_from(version).is_err() => unexpected("a version beyond 63 bits"),
            _ => Ok(table),
        }
    }
}

impl Wire for AssertedSource {
    fn value(&self) -> Value {
        let Self { table, column, kind, masking } = self;
        let mut map = MapOut::default();
        map.put(0, table);
        map.put(1, column);
        map.put(2, kind);
        map.put(3, masking);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let source = Self { table: map.get(0)?, column: map.get(1)?, kind: map.get(2)?, masking: map.get(3)? };
        map.end()?;
        Ok(source)
    }
}

impl Wire for AssertedOutput {
    fn value(&self) -> Value {
        let Self { name, from } = self;
        let mut map = MapOut::default();
        map.put(0, name);
        map.put(1, from);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let output = Self { name: map.get(0)?, from: map.get(1)? };
        map.end()?;
        Ok(output)
    }
}

impl Wire for AssertedLineage {
    fn value(&self) -> Value {
        let Self { event, producer, job_namespace, job, run, at, tables, outputs, rows } = self;
        let mut map = MapOut::default();
        map.put(0, event);
        map.put(1, producer);
        map.put(2, &Pair(job_namespace.clone(), job.clone()));
        map.put(3, run);
        map.put(4, at);
        map.put(5, tables);
        map.put(6, outputs);
        map.put(7, rows);
        map.put(MARK, &FORM);
        map.done()
    }
    fn read(value: Value) -> Result<Self, Unexpected> {
        let mut map = MapIn::new(value)?;
        let (event, producer) = (map.get(0)?, map.get(1)?);
        let Pair(job_namespace, job) = map.get(2)?;
        let (run, at, tables) = (map.get(3)?, map.get(4)?, map.get(5)?);
        let (outputs, rows) = (map.get(6)?, map.get(7)?);
        let form: u64 = map.get(MARK)?;
        map.end()?;
        if form != FORM {
            return unexpected(format!("asserted lineage of form {form} is newer than this binary reads ({FORM})"));
        }
        let read = Self { event, producer, job_namespace, job, run, at, tables, outputs, rows };
        well_formed(&read)?;
        Ok(read)
    }
}

/// One claim, one encoding; no index leads nowhere.
fn well_formed(lineage: &AssertedLineage) -> Result<(), Unexpected> {
    let AssertedLineage { tables, outputs, rows, .. } = lineage;
    let lists = || outputs.iter().map(|o| &o.from).chain([rows]);
    if tables.is_empty() {
        return unexpected("a claim about no dataset");
    }
    if lists().flatten().any(|source| source.table as usize >= tables.len()) {
        return unexpected("an index out of range");
    }
    let ascending = outputs.is_sorted_by(|a, b| a.name < b.name) && lists().all(|l| l.is_sorted_by(|a, b| a < b));
    if ascending { Ok(()) } else { unexpected("items that do not ascend") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NoBlobs, decode, encode,
        format::{from_bytes, to_bytes},
        samples,
    };
    use custody_model::{Direct, Payload};

    /// What comes of a claim once it is encoded and read again.
    fn read_again(change: impl FnOnce(&mut AssertedLineage)) -> String {
        let mut lineage = samples::asserted();
        change(&mut lineage);
        let bytes = encode(&samples::bare(1, Payload::Asserted(Box::new(lineage)))).unwrap().entry;
        decode(bytes.as_bytes(), &NoBlobs).map_or_else(|e| e.to_string(), |_| "read".into())
    }

    #[test]
    fn a_claim_that_is_not_well_formed_is_refused() {
        assert_eq!(read_again(|_| {}), "read");
        assert_eq!(read_again(|l| l.tables.truncate(1)), "unexpected content: an index out of range");
        assert_eq!(read_again(|l| l.outputs.reverse()), "unexpected content: items that do not ascend");
        assert_eq!(read_again(|l| l.rows.push(l.rows[0].clone())), "unexpected content: items that do not ascend");
        let beyond = |l: &mut AssertedLineage| l.tables[0].version = Some(1 << 63);
        assert_eq!(read_again(beyond), "unexpected content at key 5: a version beyond 63 bits");
        let nothing = |l: &mut AssertedLineage| {
            (l.tables, l.outputs, l.rows) = (vec![], vec![], vec![]);
        };
        assert_eq!(read_again(nothing), "unexpected content: a claim about no dataset");
        let nobody = |l: &mut AssertedLineage| {
            (l.job, l.job_namespace, l.run) = Default::default();
        };
        assert_eq!(read_again(nobody), "read");
    }

    #[test]
    fn the_mark_decides_and_has_one_form() {
        let marked = |form: u64| {
            let Value::Map(mut pairs) = samples::asserted().value() else { panic!("a claim is a map") };
            pairs.retain(|(key, _)| *key != MARK);
            pairs.push((MARK, Value::Uint(form)));
            Value::Map(pairs)
        };
        assert!(is_asserted(&marked(1)) && !is_asserted(&samples::lineage().value()));
        assert_eq!(AssertedLineage::read(marked(1)), Ok(samples::asserted()));
        let newer = AssertedLineage::read(marked(2)).unwrap_err();
        assert_eq!(newer.why, "asserted lineage of form 2 is newer than this binary reads (1)");
        assert_eq!(from_bytes(&to_bytes(&marked(1))), Ok(marked(1)));
        assert!(FlowKind::read(Value::Uint(3)).is_err());
        assert_eq!(FlowKind::read(Value::Uint(1)), Ok(FlowKind::Direct(Direct::Transformation)));
    }
}
