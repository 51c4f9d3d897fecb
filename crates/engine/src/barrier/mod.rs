//! The barrier at work: what may cross from a query into a governed relation, and nothing else does.
//!
//! A query over a governed relation answers as if the relation had been filtered and masked first and then stored. These
//! files let the optimizer be fast without letting that show.
//!
//! 1. `leakproof`: which predicates can run on hidden rows without anybody noticing.
//! 2. `rules`: the logical rule that moves those, and only those, below a barrier.
//! 3. `planner`: logical barriers become physical ones; a scan without a barrier is refused.
//! 4. `exec`: `BarrierExec`, which stops statistics, limits, orders and error texts.
//! 5. `check`: looks at the finished plan, after every physical rule, and refuses it where any of this failed.
//! 6. `explain`: plans as text that end at each barrier.
//! 7. `visible`: statistics of what is visible, for planning joins.
//! 8. `names`: filters move only where column names are unambiguous.
//! 9. `floor`: groups with too few members, of columns that may only be aggregated.
//!
//! Known and documented, not closed: time, and how much a scan could prune; how many partitions the files below a
//! barrier make.

mod check;
mod exec;
mod explain;
mod floor;
mod leakproof;
mod names;
mod planner;
mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;
mod visible;

pub use check::{Decisions, check};
pub use exec::{BarrierExec, InsideGovernedTable};
pub use explain::{logical_text, physical_text};
pub use names::physical_optimizer_rules;
pub use planner::{BarrierPlanner, BarrierQueryPlanner};
pub use rules::{BarrierPushDown, optimizer_rules};
pub use visible::{Figures, Visible};

use datafusion::execution::SessionStateBuilder;
use std::sync::Arc;

/// Puts the barrier into a session: logical and physical optimizer rules, and a query planner that checks what it made.
///
/// It replaces all of these, so it comes after anything else that sets them. Storage is read only under the [`Decisions`] that
/// the session's config carries as an extension; without them, under none.
pub fn barrier_session_state(base: SessionStateBuilder) -> SessionStateBuilder {
    let planner =
        Arc::new(BarrierQueryPlanner::new(vec![Arc::new(floor::FloorPlanner), Arc::new(crate::asof::AsOfPlanner)]));
    base.with_optimizer_rules(optimizer_rules())
        .with_physical_optimizer_rules(physical_optimizer_rules())
        .with_query_planner(planner)
}
