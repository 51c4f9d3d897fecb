//! Which part of a training set a row belongs to, and whether it is in at all: by a hash of its values, so that it stays there.

use custody_dialect::{Sample, Split};
use datafusion::{
    arrow::{
        array::{ArrayRef, StringArray},
        datatypes::DataType,
    },
    common::{Result, exec_err},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit},
};
use sha3::{Digest, Sha3_256};
use std::sync::Arc;

/// The part of each row: the first 8 bytes of SHA3-256(`custody split v1`, seed, cells), big-endian, modulo the sum of
/// the weights.
pub(crate) fn part(split: &Split, columns: Vec<Expr>) -> Expr {
    let parts: Vec<String> = split.parts.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
    let name = format!("split_{}_{}", split.seed, parts.join("_").replace(' ', "_"));
    ScalarUDF::new_from_impl(PartOf {
        name,
        domain: "custody split v1",
        parts: split.parts.clone(),
        seed: split.seed,
        signature: Signature::variadic_any(Volatility::Immutable),
    })
    .call(columns)
}

/// Whether a row is in the sample: as [`part`], by a hash of another domain, so that a split of the sample is even.
pub(crate) fn sampled(sample: &Sample, columns: Vec<Expr>) -> Expr {
    let Sample { take, of, seed, columns: _ } = sample;
    let function = ScalarUDF::new_from_impl(PartOf {
        name: format!("sample_{seed}_{take}_in_{of}"),
        domain: "custody sample v1",
        parts: vec![("in".into(), *take), ("out".into(), of - take)],
        seed: *seed,
        signature: Signature::variadic_any(Volatility::Immutable),
    });
    function.call(columns).eq(lit("in"))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PartOf {
    /// Holds parts, weights and seed, so that another split is another plan.
    name: String,
    /// What the hash begins with.
    domain: &'static str,
    parts: Vec<(String, u32)>,
    seed: u64,
    signature: Signature,
}

impl PartOf {
    fn of(&self, cells: &[u8]) -> &str {
        let mut hasher = Sha3_256::new();
        hasher.update(self.domain);
        hasher.update(self.seed.to_be_bytes());
        hasher.update(cells);
        let digest: [u8; 32] = hasher.finalize().into();
        let number = digest.iter().take(8).fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let sum: u64 = self.parts.iter().map(|(_, w)| u64::from(*w)).sum();
        let mut rest = number % sum.max(1);
        for (name, weight) in &self.parts {
            if rest < u64::from(*weight) {
                return name;
            }
            rest -= u64::from(*weight);
        }
        ""
    }
}

impl ScalarUDFImpl for PartOf {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let mut cells = vec![];
        let mut parts = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            cells.clear();
            for array in &arrays {
                let row = if array.len() == 1 { 0 } else { row };
                if let Err(e) = custody_store::cell(array.as_ref(), row, &mut cells) {
                    return exec_err!("{e}");
                }
            }
            parts.push(self.of(&cells));
        }
        Ok(ColumnarValue::Array(Arc::new(StringArray::from(parts))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_a_hash_and_keeps_its_weights() {
        let split = |seed| PartOf {
            name: String::new(),
            domain: "custody split v1",
            parts: vec![("train".into(), 80), ("test".into(), 20)],
            seed,
            signature: Signature::variadic_any(Volatility::Immutable),
        };
        let of = |seed: u64, n: u64| split(seed).of(&n.to_be_bytes()).to_string();
        let train = (0..10_000).filter(|n| of(7, *n) == "train").count();
        assert!((7_800..8_200).contains(&train), "{train}");
        assert!((0..100).any(|n| of(7, n) != of(8, n)));
        assert_eq!((0..4).map(|n| of(7, n)).collect::<Vec<_>>(), (0..4).map(|n| of(7, n)).collect::<Vec<_>>());
    }
}
