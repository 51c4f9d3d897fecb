//! All edges as two adjacency arrays, and the closure over those a viewer may see.

use crate::{Edge, EdgeKind};
use custody_model::{Direct, Node};

/// Which way to follow edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To what a column is made of.
    Upstream,
    /// To what depends on a column.
    Downstream,
}

/// A node reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The node.
    pub node: Node,
    /// How many edges the shortest path has.
    pub hop: u32,
    /// What the path means. `Direct` wherever the value flows along some path within the depth, even a longer one.
    pub kind: EdgeKind,
    /// Whether a mask stands on the path.
    pub masking: bool,
    /// Whether all lineage on the path is exact.
    pub exact: bool,
}

/// Edges by their ends. Nodes have dense numbers in node order.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// The numbers of each edge's source and target.
    ends: Vec<[u32; 2]>,
    up: Adjacent,
    down: Adjacent,
}

/// `edges[starts[n]..starts[n + 1]]` are the indices of the edges at node `n`.
#[derive(Debug, Default)]
struct Adjacent {
    starts: Vec<u32>,
    edges: Vec<u32>,
}

impl Adjacent {
    fn new(nodes: usize, at: impl ExactSizeIterator<Item = u32> + Clone) -> Self {
        let mut starts = vec![0; nodes + 1];
        at.clone().for_each(|n| starts[n as usize + 1] += 1);
        (0..nodes).for_each(|n| starts[n + 1] += starts[n]);
        let mut next = starts.clone();
        let mut edges = vec![0; at.len()];
        for (edge, node) in (0..).zip(at) {
            let slot = &mut next[node as usize];
            edges[*slot as usize] = edge;
            *slot += 1;
        }
        Self { starts, edges }
    }

    fn at(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// How a node was reached. `Ord`: what says more comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    kind: EdgeKind,
    masking: bool,
    inexact: bool,
}

impl Graph {
    /// A graph of these edges.
    pub fn new(edges: Vec<Edge>) -> Self {
        let mut nodes: Vec<Node> = edges.iter().flat_map(|e| [e.source, e.target]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let number = |node| nodes.partition_point(|n| *n < node) as u32;
        let ends: Vec<[u32; 2]> = edges.iter().map(|e| [number(e.source), number(e.target)]).collect();
        let up = Adjacent::new(nodes.len(), ends.iter().map(|[_, target]| *target));
        let down = Adjacent::new(nodes.len(), ends.iter().map(|[source, _]| *source));
        Self { nodes, edges, ends, up, down }
    }

    /// Everything within `depth` edges of `from` over edges that are `visible`, by hop and node. The nodes of `from`
    /// themselves are not in it.
    pub fn closure(
        &self,
        from: &[Node],
        way: Direction,
        depth: u32,
        visible: &mut dyn FnMut(&Edge) -> bool,
    ) -> Vec<Hop> {
        let start: Vec<u32> =
            from.iter().filter_map(|node| self.nodes.binary_search(node).ok()).map(|n| n as u32).collect();
        let all = self.walk(&start, way, depth, &mut |e| visible(e));
        let direct = self.walk(&start, way, depth, &mut |e| matches!(e.kind, EdgeKind::Direct(_)) && visible(e));
        let mut hops: Vec<Hop> = self
            .nodes
            .iter()
            .zip(all.iter().zip(&direct))
            .filter_map(|(node, (any, direct))| {
                let (hop, path) = (*any)?;
                let path = direct.map_or(path, |(_, path)| path);
                Some(Hop { node: *node, hop, kind: path.kind, masking: path.masking, exact: !path.inexact })
            })
            .filter(|hop| hop.hop > 0)
            .collect();
        hops.sort_unstable_by_key(|h| (h.hop, h.node));
        hops
    }

    /// Breadth first, by node number: hop and path; of several shortest paths the one that says most.
    fn walk(
        &self,
        start: &[u32],
        way: Direction,
        depth: u32,
        follow: &mut dyn FnMut(&Edge) -> bool,
    ) -> Vec<Option<(u32, Path)>> {
        let (adjacent, other) = match way {
            Direction::Upstream => (&self.up, 0),
            Direction::Downstream => (&self.down, 1),
        };
        let mut reached: Vec<Option<(u32, Path)>> = vec![None; self.nodes.len()];
        start.iter().for_each(|n| reached[*n as usize] = Some((0, Path::START)));
        let (mut level, mut next) = (start.to_vec(), vec![]);
        for hop in 1..=depth {
            for node in level.drain(..) {
                let Some((_, path)) = reached[node as usize] else { continue };
                for at in adjacent.at(node) {
                    let (edge, to) = (&self.edges[*at as usize], self.ends[*at as usize][other]);
                    let known = reached[to as usize];
                    if known.is_some_and(|(at, _)| at < hop) || !follow(edge) {
                        continue;
                    }
                    let path = path.extend(edge, way, hop == 1);
                    if known.is_none() {
                        next.push(to);
                    }
                    if known.is_none_or(|(_, best)| path < best) {
                        reached[to as usize] = Some((hop, path));
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            std::mem::swap(&mut level, &mut next);
        }
        reached
    }
}

impl Path {
    /// The path without edges.
    const START: Self = Self { kind: EdgeKind::Direct(Direct::Identity), masking: false, inexact: false };

    fn extend(self, edge: &Edge, way: Direction, first: bool) -> Self {
        let kind = match way {
            _ if first => edge.kind,
            Direction::Upstream => edge.kind.then(self.kind),
            Direction::Downstream => self.kind.then(edge.kind),
        };
        Self { kind, masking: self.masking || edge.masking, inexact: self.inexact || !edge.exact }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use custody_model::Indirect;

    const IDENTITY: EdgeKind = EdgeKind::Direct(Direct::Identity);
    const SUM: EdgeKind = EdgeKind::Direct(Direct::Aggregation);
    const FILTER: EdgeKind = EdgeKind::Indirect(Indirect::Filter);
    const JOIN: EdgeKind = EdgeKind::Indirect(Indirect::Join);

    fn graph(edges: &[(i64, i64, EdgeKind)]) -> Graph {
        Graph::new(
            edges
                .iter()
                .map(|(source, target, kind)| Edge {
                    source: Node(*source),
                    target: Node(*target),
                    kind: *kind,
                    masking: false,
                    exact: true,
                    by_policy: None,
                })
                .collect(),
        )
    }

    fn walk(graph: &Graph, from: i64, way: Direction, depth: u32) -> Vec<(i64, u32, &'static str)> {
        let hops = graph.closure(&[Node(from)], way, depth, &mut |_| true);
        hops.into_iter().map(|h| (h.node.0, h.hop, h.kind.subtype())).collect()
    }

    #[test]
    fn a_diamond_is_walked_once() {
        let g = graph(&[(1, 2, IDENTITY), (1, 3, SUM), (2, 4, IDENTITY), (3, 4, IDENTITY)]);
        assert_eq!(walk(&g, 4, Direction::Upstream, 9), [(2, 1, "IDENTITY"), (3, 1, "IDENTITY"), (1, 2, "IDENTITY")]);
        assert_eq!(walk(&g, 1, Direction::Downstream, 1), [(2, 1, "IDENTITY"), (3, 1, "AGGREGATION")]);
        assert_eq!(walk(&g, 9, Direction::Downstream, 1), []);
    }

    #[test]
    fn a_longer_path_of_values_is_told_over_a_shorter_influence() {
        let g = graph(&[(1, 4, FILTER), (1, 2, SUM), (2, 4, IDENTITY)]);
        assert_eq!(walk(&g, 4, Direction::Upstream, 9), [(1, 1, "AGGREGATION"), (2, 1, "IDENTITY")]);
        assert_eq!(walk(&g, 4, Direction::Upstream, 1), [(1, 1, "FILTER"), (2, 1, "IDENTITY")]);
    }

    #[test]
    fn the_influence_that_acts_last_names_the_path() {
        let g = graph(&[(1, 2, FILTER), (2, 3, JOIN), (3, 4, EdgeKind::Rows), (4, 5, SUM)]);
        let up: Vec<_> = walk(&g, 5, Direction::Upstream, 9).iter().map(|h| h.2).collect();
        assert_eq!(up, ["AGGREGATION", "ROWS", "JOIN", "JOIN"]);
        let down: Vec<_> = walk(&g, 1, Direction::Downstream, 9).iter().map(|h| h.2).collect();
        assert_eq!(down, ["FILTER", "JOIN", "JOIN", "JOIN"]);
    }

    #[test]
    fn cycles_end_and_hidden_edges_are_not_walked() {
        let g = graph(&[(1, 2, IDENTITY), (2, 1, IDENTITY), (2, 3, IDENTITY)]);
        assert_eq!(walk(&g, 1, Direction::Downstream, 99), [(2, 1, "IDENTITY"), (3, 2, "IDENTITY")]);
        assert_eq!(g.closure(&[Node(1)], Direction::Downstream, 9, &mut |e| e.target != Node(2)), []);
    }
}
