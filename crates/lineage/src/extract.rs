//! The walk: memo, environments, bounds; and the record it ends in.
//!
//! What holds here:
//! - A node is walked once per environment (frames of outer queries, work tables, views, policy). A result that used
//!   neither frames nor work tables serves every environment, so a chain of shared CTEs is linear.
//! - Everything is bounded: nodes once sharing is expanded, nesting, atoms, rounds of a recursive query.

use crate::{
    Leaves, Limits, Refusal, Text,
    flow::{Flow, KINDS, Relation, SetId, Sets},
    node,
    rule::rule,
};
use custody_model::{
    Atom, AtomIx, Declassification, Direct, Hop, Indirect, Influence, Lineage, OutputFlow, PolicyId, Rung,
    TableVersion, ViewId,
};
use datafusion_common::{
    DFSchemaRef,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{Expr, LogicalPlan};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    rc::Rc,
};

/// The lineage of a plan as `create_logical_plan` gave it.
///
/// `leaves` names the sources; `rules` are the declassification rules of the active bundle.
pub fn extract(
    plan: &LogicalPlan,
    leaves: &dyn Leaves,
    rules: &[Declassification],
    limits: &Limits,
) -> Result<Lineage, Refusal> {
    extract_counted(plan, leaves, rules, limits).map(|(lineage, _)| lineage)
}

/// The same, with how many nodes were walked.
pub(crate) fn extract_counted(
    plan: &LogicalPlan,
    leaves: &dyn Leaves,
    rules: &[Declassification],
    limits: &Limits,
) -> Result<(Lineage, u64), Refusal> {
    let mut measure = Measure { limits, known: HashMap::new() };
    let size = measure.plan(plan, 1)?.nodes;
    if size > limits.nodes {
        return Err(Refusal::Nodes { nodes: size, limit: limits.nodes });
    }
    let mut walk = Walk::new(leaves, rules, limits);
    let root = walk.walk(plan, EnvId::ROOT)?;
    let steps = walk.steps;
    Ok((walk.finish(&root, node::names(plan))?, steps))
}

/// Size and height of a plan once sharing is expanded.
#[derive(Clone, Copy)]
struct Size {
    nodes: u64,
    height: usize,
}

struct Measure<'a> {
    limits: &'a Limits,
    known: HashMap<usize, Size>,
}

impl Measure<'_> {
    fn plan(&mut self, plan: &LogicalPlan, depth: usize) -> Result<Size, Refusal> {
        let known = self.known.get(&address(plan)).copied();
        let size = match known {
            Some(size) => size,
            None => {
                self.at(depth)?;
                let mut size = Size { nodes: 1, height: 0 };
                for input in plan.inputs() {
                    size.add(self.plan(input, depth + 1)?);
                }
                self.each(size, |visit| plan.apply_expressions(visit), depth)?
            }
        };
        self.at(depth + size.height)?;
        self.known.insert(address(plan), size);
        Ok(size)
    }

    fn expr(&mut self, expr: &Expr, depth: usize) -> Result<Size, Refusal> {
        self.at(depth)?;
        let mut size = Size { nodes: 0, height: 0 };
        if let Some(subquery) = subquery(expr) {
            size.add(self.plan(subquery, depth + 1)?);
        }
        self.each(size, |visit| expr.apply_children(visit), depth)
    }

    /// Adds the expressions that `apply` visits.
    fn each(
        &mut self,
        mut size: Size,
        apply: impl FnOnce(
            &mut dyn FnMut(&Expr) -> datafusion_common::Result<TreeNodeRecursion>,
        ) -> datafusion_common::Result<TreeNodeRecursion>,
        depth: usize,
    ) -> Result<Size, Refusal> {
        let mut refused = None;
        let done = apply(&mut |e| match self.expr(e, depth + 1) {
            Ok(more) => {
                size.add(more);
                Ok(TreeNodeRecursion::Continue)
            }
            Err(refusal) => {
                refused = Some(refusal);
                Ok(TreeNodeRecursion::Stop)
            }
        });
        match (refused, done) {
            (Some(refusal), _) => Err(refusal),
            (None, Ok(_)) => Ok(size),
            (None, Err(error)) => Err(Refusal::Malformed(error.strip_backtrace())),
        }
    }

    fn at(&self, depth: usize) -> Result<(), Refusal> {
        if depth > self.limits.depth { Err(Refusal::Depth(self.limits.depth)) } else { Ok(()) }
    }
}

impl Size {
    fn add(&mut self, child: Self) {
        self.nodes = self.nodes.saturating_add(child.nodes);
        self.height = self.height.max(child.height + 1);
    }
}

/// The plan inside a subquery expression.
pub(crate) fn subquery(expr: &Expr) -> Option<&LogicalPlan> {
    match expr {
        Expr::Exists(e) => Some(&e.subquery.subquery),
        Expr::InSubquery(e) => Some(&e.subquery.subquery),
        Expr::SetComparison(e) => Some(&e.subquery.subquery),
        Expr::ScalarSubquery(e) => Some(&e.subquery),
        _ => None,
    }
}

fn address(plan: &LogicalPlan) -> usize {
    std::ptr::from_ref(plan) as usize
}

/// Index of an environment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct EnvId(u32);

impl EnvId {
    const ROOT: Self = Self(0);
}

/// What policy reads for its own ends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct By {
    pub(crate) policy: PolicyId,
    /// The rung, where it is a mask that reads.
    pub(crate) mask: Option<Rung>,
}

/// What a node's meaning depends on besides itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Env {
    /// Relations of outer queries, outermost first.
    pub(crate) frames: Vec<u32>,
    /// Left sides of joins, which become frames inside LATERAL.
    pub(crate) lateral: Vec<u32>,
    /// Work tables of recursive queries, outermost first.
    pub(crate) work: Vec<(String, u32)>,
    /// Plain views on the way, outermost first.
    pub(crate) views: Vec<ViewId>,
    /// Below a barrier: who reads.
    pub(crate) by: Option<By>,
}

/// Relations that columns are looked up in, in this order.
pub(crate) struct Scope {
    pub(crate) parts: Vec<(DFSchemaRef, Rc<Relation>)>,
    frame: Cell<Option<u32>>,
}

impl Scope {
    pub(crate) fn new(parts: Vec<(DFSchemaRef, Rc<Relation>)>) -> Rc<Self> {
        Rc::new(Self { parts, frame: Cell::new(None) })
    }
}

/// The outermost frame and work table that a result used; `usize::MAX`: none.
#[derive(Clone, Copy)]
struct Used {
    frame: usize,
    work: usize,
}

impl Used {
    const NOTHING: Self = Self { frame: usize::MAX, work: usize::MAX };

    fn also(&mut self, other: Self) {
        self.frame = self.frame.min(other.frame);
        self.work = self.work.min(other.work);
    }
}

/// An expression that decides rows.
struct Decider {
    kind: Indirect,
    set: SetId,
    text: String,
}

pub(crate) struct Walk<'a> {
    pub(crate) leaves: &'a dyn Leaves,
    pub(crate) rules: &'a [Declassification],
    pub(crate) limits: &'a Limits,
    pub(crate) sets: Sets,
    tables: Vec<TableVersion>,
    table_ids: HashMap<TableVersion, u32>,
    atoms: Vec<Atom>,
    atom_ids: HashMap<Atom, u32>,
    memo: HashMap<(usize, EnvId), (Rc<Relation>, Used)>,
    envs: Vec<Rc<Env>>,
    env_ids: HashMap<Rc<Env>, EnvId>,
    /// By environment: the same without frames and work tables.
    bare: Vec<EnvId>,
    frames: Vec<Rc<Scope>>,
    works: Vec<Rc<Relation>>,
    nodes: HashMap<usize, u32>,
    hops: Vec<(u32, u32, SetId, String)>,
    hop_ids: HashMap<(u32, u32), u32>,
    origins: Vec<(u32, u32)>,
    origin_ids: HashMap<(u32, u32), u32>,
    deciders: Vec<Decider>,
    decider_ids: HashMap<(u32, u32), usize>,
    unknown: BTreeSet<String>,
    pub(crate) volatile: bool,
    evaluated: SetId,
    used: Used,
    depth: usize,
    pub(crate) steps: u64,
    /// An expression just walked picks rows by physical order.
    pub(crate) physical: bool,
    /// Expressions that a node made for us; kept, so that an address is never used twice.
    kept: Vec<Rc<Vec<Expr>>>,
}

impl<'a> Walk<'a> {
    fn new(leaves: &'a dyn Leaves, rules: &'a [Declassification], limits: &'a Limits) -> Self {
        let root = Rc::new(Env::default());
        Self {
            leaves,
            rules,
            limits,
            sets: Sets::new(),
            tables: vec![],
            table_ids: HashMap::new(),
            atoms: vec![],
            atom_ids: HashMap::new(),
            memo: HashMap::new(),
            envs: vec![root.clone()],
            env_ids: HashMap::from([(root, EnvId::ROOT)]),
            bare: vec![EnvId::ROOT],
            frames: vec![],
            works: vec![],
            nodes: HashMap::new(),
            hops: vec![],
            hop_ids: HashMap::new(),
            origins: vec![],
            origin_ids: HashMap::new(),
            deciders: vec![],
            decider_ids: HashMap::new(),
            unknown: BTreeSet::new(),
            volatile: false,
            evaluated: SetId::EMPTY,
            used: Used::NOTHING,
            depth: 0,
            steps: 0,
            physical: false,
            kept: vec![],
        }
    }

    /// What a node depends on.
    pub(crate) fn walk(&mut self, plan: &LogicalPlan, env: EnvId) -> Result<Rc<Relation>, Refusal> {
        let address = address(plan);
        let bare = self.bare_of(env);
        for key in [(address, bare), (address, env)] {
            if let Some((relation, used)) = self.memo.get(&key) {
                self.used.also(*used);
                return Ok(relation.clone());
            }
        }
        self.enter()?;
        self.steps += 1;
        let outer = mem::replace(&mut self.used, Used::NOTHING);
        let physical = mem::replace(&mut self.physical, false);
        let relation = Rc::new(node::walk(self, plan, env)?);
        if relation.cols.len() != node::width(plan) {
            return Err(Refusal::Malformed(plan.display().to_string()));
        }
        let here = self.env(env);
        let (frames, works) = (here.frames.len() + here.lateral.len(), here.work.len());
        // What was bound inside this node is no dependence of it.
        if self.used.frame >= frames {
            self.used.frame = usize::MAX;
        }
        if self.used.work >= works {
            self.used.work = usize::MAX;
        }
        let bound = self.used.frame != usize::MAX || self.used.work != usize::MAX;
        let free = !(rule!("memo.environment", bound));
        self.memo.insert((address, if free { bare } else { env }), (relation.clone(), self.used));
        self.used.also(outer);
        self.physical = physical;
        self.leave();
        Ok(relation)
    }

    pub(crate) fn enter(&mut self) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > self.limits.depth { Err(Refusal::Depth(self.limits.depth)) } else { Ok(()) }
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    // Environments.

    pub(crate) fn env(&self, id: EnvId) -> Rc<Env> {
        self.envs.get(id.0 as usize).cloned().unwrap_or_default()
    }

    fn bare_of(&self, id: EnvId) -> EnvId {
        self.bare.get(id.0 as usize).copied().unwrap_or(id)
    }

    /// The environment changed by `f`.
    pub(crate) fn env_with(&mut self, id: EnvId, f: impl FnOnce(&mut Env)) -> EnvId {
        let mut env = (*self.env(id)).clone();
        f(&mut env);
        self.intern_env(env)
    }

    fn intern_env(&mut self, env: Env) -> EnvId {
        let env = Rc::new(env);
        if let Some(id) = self.env_ids.get(&env) {
            return *id;
        }
        let is_bare = env.frames.is_empty() && env.lateral.is_empty() && env.work.is_empty();
        let bare =
            (!is_bare).then(|| self.intern_env(Env { views: env.views.clone(), by: env.by.clone(), ..Env::default() }));
        let id = EnvId(self.envs.len() as u32);
        self.envs.push(env.clone());
        self.env_ids.insert(env, id);
        self.bare.push(bare.unwrap_or(id));
        id
    }

    /// The frame of a scope, made when first needed.
    pub(crate) fn frame(&mut self, scope: &Rc<Scope>) -> u32 {
        if let Some(frame) = scope.frame.get() {
            return frame;
        }
        let frame = self.frames.len() as u32;
        self.frames.push(scope.clone());
        scope.frame.set(Some(frame));
        frame
    }

    /// A work table of a recursive query, as far as it is known.
    pub(crate) fn new_work(&mut self, relation: Rc<Relation>) -> u32 {
        self.works.push(relation);
        self.works.len() as u32 - 1
    }

    /// The innermost work table of this name.
    pub(crate) fn work(&mut self, name: &str, env: EnvId) -> Option<Rc<Relation>> {
        let env = self.env(env);
        let at = env.work.iter().rposition(|(bound, _)| bound == name)?;
        self.used.work = self.used.work.min(at);
        let (_, id) = env.work.get(at)?;
        self.works.get(*id as usize).cloned()
    }

    /// A column of an outer query: innermost frame first.
    pub(crate) fn outer(&mut self, column: &datafusion_common::Column, env: EnvId) -> Option<Flow> {
        let env = self.env(env);
        for (at, frame) in env.frames.iter().enumerate().rev() {
            let scope = self.frames.get(*frame as usize)?.clone();
            if let Some(flow) = lookup(column, &scope) {
                self.used.frame = self.used.frame.min(at);
                return Some(flow);
            }
        }
        None
    }

    /// Everything that outer queries could hand in, for nodes that are not understood.
    pub(crate) fn outer_all(&mut self, env: EnvId) -> SetId {
        let env = self.env(env);
        let mut all = SetId::EMPTY;
        for frame in &env.frames {
            self.used.frame = 0;
            let Some(scope) = self.frames.get(*frame as usize).cloned() else { continue };
            for (_, relation) in &scope.parts {
                let sources = self.sources_of(relation);
                all = self.sets.union(all, sources);
            }
        }
        all
    }

    /// Everything a relation depends on.
    pub(crate) fn sources_of(&mut self, relation: &Relation) -> SetId {
        let mut all = self.sets.unite(relation.dataset);
        all = self.sets.union(all, relation.all);
        for flow in &relation.cols {
            let sources = self.sets.sources(flow);
            all = self.sets.union(all, sources);
        }
        all
    }

    // Atoms.

    /// The index of a table among the inputs.
    pub(crate) fn table(&mut self, table: &TableVersion) -> u32 {
        if let Some(id) = self.table_ids.get(table) {
            return *id;
        }
        let id = self.tables.len() as u32;
        self.tables.push(table.clone());
        self.table_ids.insert(table.clone(), id);
        id
    }

    pub(crate) fn atom(&mut self, atom: Atom) -> Result<SetId, Refusal> {
        let id = match self.atom_ids.get(&atom) {
            Some(id) => *id,
            None => {
                if self.atoms.len() >= self.limits.atoms {
                    return Err(Refusal::Atoms(self.limits.atoms));
                }
                let id = self.atoms.len() as u32;
                self.atoms.push(atom.clone());
                self.atom_ids.insert(atom, id);
                id
            }
        };
        Ok(self.sets.single(id))
    }

    /// Members of a set that satisfy `keep`.
    pub(crate) fn only(&mut self, set: SetId, keep: impl Fn(&Atom) -> bool) -> SetId {
        let mut out = SetId::EMPTY;
        for member in self.sets.members(set) {
            if self.atoms.get(member as usize).is_some_and(&keep) {
                let one = self.sets.single(member);
                out = self.sets.union(out, one);
            }
        }
        out
    }

    /// Copies of the atoms of a set that carry a rule.
    pub(crate) fn with_rule(&mut self, set: SetId, rule: &Declassification) -> Result<SetId, Refusal> {
        let mut out = SetId::EMPTY;
        for member in self.sets.members(set) {
            let Some(mut atom) = self.atoms.get(member as usize).cloned() else { continue };
            if let Err(at) = atom.rules.binary_search(&rule.version) {
                atom.rules.insert(at, rule.version.clone());
            }
            let one = self.atom(atom)?;
            out = self.sets.union(out, one);
        }
        Ok(out)
    }

    pub(crate) fn not_understood(&mut self, node: &str) {
        self.unknown.insert(node.to_string());
    }

    pub(crate) fn evaluate(&mut self, set: SetId) {
        self.evaluated = self.sets.union(self.evaluated, set);
    }

    pub(crate) fn keep(&mut self, exprs: Vec<Expr>) -> Rc<Vec<Expr>> {
        let exprs = Rc::new(exprs);
        self.kept.push(exprs.clone());
        exprs
    }

    // Texts.

    /// The number of a node, in walk order.
    pub(crate) fn number(&mut self, plan: &LogicalPlan) -> u32 {
        let next = self.nodes.len() as u32;
        *self.nodes.entry(address(plan)).or_insert(next)
    }

    /// Where a value is computed, as a set.
    pub(crate) fn origin(&mut self, node: u32, output: u32) -> SetId {
        if self.limits.text == Text::None {
            return SetId::EMPTY;
        }
        let next = self.origins.len() as u32;
        let id = *self.origin_ids.entry((node, output)).or_insert(next);
        if id == next {
            self.origins.push((node, output));
        }
        self.sets.single(id)
    }

    /// Puts an expression on the way of a value.
    pub(crate) fn hop(&mut self, flow: &mut Flow, node: u32, output: u32, text: impl FnOnce(Text) -> String) {
        if self.limits.text == Text::None {
            return;
        }
        let next = self.hops.len() as u32;
        let id = *self.hop_ids.entry((node, output)).or_insert(next);
        if id == next {
            self.hops.push((node, output, flow.origins, text(self.limits.text)));
        } else if let Some((_, _, from, _)) = self.hops.get_mut(id as usize) {
            *from = self.sets.union(*from, flow.origins);
        }
        let one = self.sets.single(id);
        flow.hops = self.sets.union(flow.hops, one);
        flow.origins = self.origin(node, output);
    }

    /// Remembers the text of what decides rows. `place` tells the deciders of one node apart.
    pub(crate) fn decider(
        &mut self,
        node: u32,
        place: u32,
        kind: Indirect,
        set: SetId,
        text: impl FnOnce(Text) -> String,
    ) {
        if self.limits.text == Text::None || set.is_empty() {
            return;
        }
        let next = self.deciders.len();
        let at = *self.decider_ids.entry((node, place)).or_insert(next);
        if at == next {
            self.deciders.push(Decider { kind, set, text: text(self.limits.text) });
        } else if let Some(decider) = self.deciders.get_mut(at) {
            decider.set = self.sets.union(decider.set, set);
        }
    }

    // The record.

    fn finish(mut self, root: &Relation, names: Vec<String>) -> Result<Lineage, Refusal> {
        let mut order: Vec<u32> = (0..self.tables.len() as u32).collect();
        order.sort_by(|a, b| self.tables.get(*a as usize).cmp(&self.tables.get(*b as usize)));
        let tables: HashMap<u32, u32> = order.iter().enumerate().map(|(new, old)| (*old, new as u32)).collect();
        let inputs = order.iter().filter_map(|old| self.tables.get(*old as usize).cloned()).collect();

        let mut named = self.evaluated;
        named = self.sets.unite(root.dataset.into_iter().chain([named]));
        for flow in &root.cols {
            let sources = self.sets.sources(flow);
            named = self.sets.union(named, sources);
        }
        let mut atoms: Vec<(Atom, u32)> = vec![];
        for old in self.sets.members(named) {
            let Some(atom) = self.atoms.get(old as usize) else { continue };
            let table = tables.get(&atom.table).copied().unwrap_or(atom.table);
            atoms.push((Atom { table, ..atom.clone() }, old));
        }
        atoms.sort();
        let ix: BTreeMap<u32, AtomIx> = atoms.iter().enumerate().map(|(new, (_, old))| (*old, new as u32)).collect();

        let sets = &self.sets;
        let to = |set: SetId| -> Vec<AtomIx> {
            let mut out: Vec<_> = sets.members(set).iter().filter_map(|old| ix.get(old).copied()).collect();
            out.sort_unstable();
            out
        };
        let influences = |by: &[SetId; 6]| -> Vec<Influence> {
            KINDS
                .iter()
                .zip(by)
                .flat_map(|(kind, set)| to(*set).into_iter().map(|atom| Influence { kind: *kind, atom }))
                .collect()
        };

        // Hops that some output's way goes through, then what decides rows.
        let mut hop_ix: BTreeMap<u32, u32> = BTreeMap::new();
        for flow in &root.cols {
            hop_ix.extend(sets.members(flow.hops).into_iter().map(|old| (old, 0)));
        }
        let mut hops = vec![];
        for (old, new) in &mut hop_ix {
            let Some((node, output, from, text)) = self.hops.get(*old as usize) else { continue };
            *new = hops.len() as u32;
            let mut from: Vec<_> =
                sets.members(*from).iter().filter_map(|o| self.origins.get(*o as usize).copied()).collect();
            from.sort_unstable();
            hops.push(Hop { node: *node, output: *output, from, text: text.clone() });
        }
        let mut places: Vec<(&(u32, u32), &usize)> = self.decider_ids.iter().collect();
        places.sort_by_key(|(_, at)| **at);
        for ((node, _), at) in places {
            let Some(decider) = self.deciders.get(*at) else { continue };
            let from: Vec<_> = to(decider.set).into_iter().map(|atom| (Hop::ATOMS, atom)).collect();
            if !from.is_empty() {
                let output = Hop::DECIDES | decider.kind as u32;
                hops.push(Hop { node: *node, output, from, text: decider.text.clone() });
            }
        }

        let mut outputs = vec![];
        for (flow, name) in root.cols.iter().zip(names) {
            let mut direct = vec![];
            for (kind, set) in
                [Direct::Identity, Direct::Transformation, Direct::Aggregation].into_iter().zip(flow.direct)
            {
                direct.extend(to(set).into_iter().map(|atom| (kind, atom)));
            }
            let mut on_the_way: Vec<u32> =
                sets.members(flow.hops).iter().filter_map(|old| hop_ix.get(old).copied()).collect();
            on_the_way.reverse();
            outputs.push(OutputFlow { name, direct, field: influences(&flow.field), hops: on_the_way });
        }
        let evaluated =
            to(self.evaluated).into_iter().filter(|a| atoms.get(*a as usize).is_some_and(|(a, _)| a.field.is_some()));
        Ok(Lineage {
            exact: self.unknown.is_empty(),
            unknown: self.unknown.iter().cloned().collect(),
            volatile: self.volatile,
            inputs,
            evaluated: evaluated.collect(),
            dataset: influences(&root.dataset),
            outputs,
            hops,
            shapes: self.limits.text == Text::Shape,
            atoms: atoms.iter().map(|(atom, _)| atom.clone()).collect(),
        })
    }
}

/// A column in a scope: by position in the first relation that has it.
pub(crate) fn lookup(column: &datafusion_common::Column, scope: &Scope) -> Option<Flow> {
    scope.parts.iter().find_map(|(schema, relation)| relation.cols.get(schema.maybe_index_of_column(column)?).copied())
}
