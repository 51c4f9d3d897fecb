//! Sets of sources, and what a column and a relation depend on.
//!
//! INVARIANT: a set is interned once, so equal sets have equal ids, and id 0 is the empty set.

use custody_model::Indirect;
use std::{collections::HashMap, rc::Rc};

/// An interned set of small numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct SetId(u32);

impl SetId {
    /// The set with no members.
    pub(crate) const EMPTY: Self = Self(0);

    /// Whether it has no members.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// All sets of one walk: bitsets without trailing zero words.
pub(crate) struct Sets {
    words: Vec<Rc<[u64]>>,
    ids: HashMap<Rc<[u64]>, SetId>,
    unions: HashMap<(SetId, SetId), SetId>,
}

impl Sets {
    pub(crate) fn new() -> Self {
        let empty: Rc<[u64]> = Rc::from([]);
        Self { words: vec![empty.clone()], ids: HashMap::from([(empty, SetId::EMPTY)]), unions: HashMap::new() }
    }

    fn intern(&mut self, mut words: Vec<u64>) -> SetId {
        while words.last() == Some(&0) {
            words.pop();
        }
        let words: Rc<[u64]> = words.into();
        if let Some(id) = self.ids.get(&words) {
            return *id;
        }
        let id = SetId(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.push(words.clone());
        self.ids.insert(words, id);
        id
    }

    /// The set of one member.
    pub(crate) fn single(&mut self, member: u32) -> SetId {
        let mut words = vec![0; member as usize / 64 + 1];
        if let Some(last) = words.last_mut() {
            *last = 1 << (member % 64);
        }
        self.intern(words)
    }

    /// Members of either.
    pub(crate) fn union(&mut self, a: SetId, b: SetId) -> SetId {
        if a == b || b.is_empty() {
            return a;
        }
        if a.is_empty() {
            return b;
        }
        let key = (a.min(b), a.max(b));
        if let Some(id) = self.unions.get(&key) {
            return *id;
        }
        let (x, y) = (self.get(a), self.get(b));
        let (long, short) = if x.len() >= y.len() { (x, y) } else { (y, x) };
        let mut words = long.to_vec();
        words.iter_mut().zip(short.iter()).for_each(|(w, s)| *w |= s);
        let id = self.intern(words);
        self.unions.insert(key, id);
        id
    }

    /// Members of any.
    pub(crate) fn unite(&mut self, sets: impl IntoIterator<Item = SetId>) -> SetId {
        sets.into_iter().fold(SetId::EMPTY, |all, set| self.union(all, set))
    }

    fn get(&self, set: SetId) -> Rc<[u64]> {
        self.words.get(set.0 as usize).cloned().unwrap_or_else(|| Rc::from([]))
    }

    /// Members in ascending order.
    pub(crate) fn members(&self, set: SetId) -> Vec<u32> {
        let mut out = vec![];
        for (i, word) in self.get(set).iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                out.push(i as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        out
    }
}

/// What one value depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Flow {
    /// By `Direct`: the atoms whose value flows.
    pub(crate) direct: [SetId; 3],
    /// By `Indirect`: the atoms that decide this value.
    pub(crate) field: [SetId; 6],
    /// Keys of every window the value went through, whatever they are called by now: they set physical order.
    pub(crate) windows: SetId,
    /// Expressions on the way.
    pub(crate) hops: SetId,
    /// Where it was computed last.
    pub(crate) origins: SetId,
}

/// Sources by `Indirect`.
pub(crate) type Deciders = [SetId; 6];

/// What a relation depends on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Relation {
    /// By position.
    pub(crate) cols: Vec<Flow>,
    /// What decides its rows or their order.
    pub(crate) dataset: Deciders,
    /// Row existence of every table below.
    pub(crate) rows: SetId,
    /// Every column of every scan below.
    pub(crate) all: SetId,
    /// Keys of windows that decide rows, so that they cannot be optimised away with their columns.
    pub(crate) windows: SetId,
}

/// Every kind, in the order of the arrays above.
pub(crate) const KINDS: [Indirect; 6] =
    [Indirect::Filter, Indirect::Join, Indirect::GroupBy, Indirect::Sort, Indirect::Window, Indirect::Conditional];

impl Sets {
    /// Both flows: an operand beside another.
    pub(crate) fn merge(&mut self, a: Flow, b: Flow) -> Flow {
        let mut out = a;
        for (to, from) in out.direct.iter_mut().zip(b.direct) {
            *to = self.union(*to, from);
        }
        for (to, from) in out.field.iter_mut().zip(b.field) {
            *to = self.union(*to, from);
        }
        out.windows = self.union(a.windows, b.windows);
        out.hops = self.union(a.hops, b.hops);
        out.origins = self.union(a.origins, b.origins);
        out
    }

    /// Both sets of deciders.
    pub(crate) fn merge_deciders(&mut self, a: Deciders, b: Deciders) -> Deciders {
        let mut out = a;
        for (to, from) in out.iter_mut().zip(b) {
            *to = self.union(*to, from);
        }
        out
    }

    /// Through an expression.
    pub(crate) fn transform(&mut self, flow: Flow) -> Flow {
        let [identity, transformation, aggregation] = flow.direct;
        let transformation = self.union(identity, transformation);
        Flow { direct: [SetId::EMPTY, transformation, aggregation], ..flow }
    }

    /// Through an aggregate.
    pub(crate) fn aggregate(&mut self, flow: Flow) -> Flow {
        let all = self.unite(flow.direct);
        Flow { direct: [SetId::EMPTY, SetId::EMPTY, all], ..flow }
    }

    /// Everything a value depends on.
    pub(crate) fn sources(&mut self, flow: &Flow) -> SetId {
        let direct = self.unite(flow.direct);
        let field = self.unite(flow.field);
        self.union(direct, field)
    }

    /// Adds to one kind.
    pub(crate) fn add(&mut self, to: &mut Deciders, kind: Indirect, set: SetId) {
        let at = kind as usize;
        if let Some(slot) = to.get_mut(at) {
            *slot = self.union(*slot, set);
        }
    }

    /// Makes a value decide another: all its sources become `kind` of it.
    pub(crate) fn decide(&mut self, to: &mut Flow, kind: Indirect, by: &Flow) {
        let set = self.sources(by);
        self.add(&mut to.field, kind, set);
        to.windows = self.union(to.windows, by.windows);
        to.hops = self.union(to.hops, by.hops);
        to.origins = self.union(to.origins, by.origins);
    }
}
