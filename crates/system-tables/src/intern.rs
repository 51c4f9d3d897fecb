//! Values by small numbers. A number, once given, means the same for every snapshot.

use custody_model::{ControlSeq, DatasetId, Hash};
use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
    hash,
    sync::{Arc, PoisonError, RwLock},
};

/// No value.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Interner<T>(RwLock<Known<T>>);

#[derive(Debug)]
struct Known<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self(RwLock::new(Known { values: vec![], numbers: HashMap::new() }))
    }
}

impl<T: Clone + Eq + hash::Hash> Interner<T> {
    /// The number of a value, a new one where it has none.
    pub(crate) fn number<Q: ?Sized + Eq + hash::Hash>(&self, value: &Q, make: impl FnOnce(&Q) -> T) -> u32
    where
        T: Borrow<Q>,
    {
        if let Some(known) = self.find(value) {
            return known;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(known.values.len()).unwrap_or(NONE);
        let made = make(value);
        let number = *known.numbers.entry(made.clone()).or_insert(next);
        if number == next {
            known.values.push(made);
        }
        number
    }

    /// The number of a value that has one.
    pub(crate) fn find<Q: ?Sized + Eq + hash::Hash>(&self, value: &Q) -> Option<u32>
    where
        T: Borrow<Q>,
    {
        self.0.read().unwrap_or_else(PoisonError::into_inner).numbers.get(value).copied()
    }

    /// All values, by number.
    pub(crate) fn read<R>(&self, with: impl FnOnce(&[T]) -> R) -> R {
        with(&self.0.read().unwrap_or_else(PoisonError::into_inner).values)
    }
}

/// What rows of one server have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Context {
    pub(crate) on_behalf_of: Option<String>,
    pub(crate) environment: String,
    pub(crate) stage: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) model_version: Option<u64>,
    pub(crate) bundle: Option<Hash>,
}

/// A dataset version that requests touch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TargetKey {
    pub(crate) dataset: DatasetId,
    pub(crate) version: Option<u64>,
    pub(crate) made_at: ControlSeq,
    pub(crate) quarantined: bool,
}

/// The numbers of everything that repeats in a ledger.
#[derive(Default, Debug)]
pub(crate) struct Dictionaries {
    pub(crate) texts: Interner<Arc<str>>,
    pub(crate) roles: Interner<BTreeSet<String>>,
    pub(crate) contexts: Interner<Context>,
    pub(crate) targets: Interner<TargetKey>,
    pub(crate) hashes: Interner<Hash>,
}

impl Dictionaries {
    pub(crate) fn text(&self, value: Option<&str>) -> u32 {
        value.map_or(NONE, |value| self.texts.number(value, |v: &str| Arc::from(v)))
    }

    pub(crate) fn hash(&self, value: Option<Hash>) -> u32 {
        value.map_or(NONE, |value| self.hashes.number(&value, |v| *v))
    }
}
