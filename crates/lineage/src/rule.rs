//! Names the rules whose loss would leave a source unclaimed, so that a test can switch one off and see perturbation find
//! it.
//!
//! `rule!("id", condition)` is the condition, unless a test has switched `id` off on its thread: then it is `false`. Write
//! it so that `true` claims more. Outside tests no switch exists.

/// Whether `id` is on: always.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn on(_id: &str) -> bool {
    true
}

/// The condition, which a test can force to `false`; see [`mod@crate::rule`].
macro_rules! rule {
    ($id:literal) => {
        $crate::rule::on($id)
    };
    ($id:literal, $condition:expr) => {
        $crate::rule::on($id) && $condition
    };
}
pub(crate) use rule;

#[cfg(test)]
pub(crate) use switch::{on, without};

/// Every id that `rule!` may name, in order.
#[cfg(test)]
pub(crate) const IDS: [&str; 22] = [
    "aggregate.arguments",
    "aggregate.filter",
    "aggregate.keys",
    "aggregate.order",
    "case.conditions",
    "distinct.columns",
    "distinct_on.keys",
    "filter",
    "function.deciders",
    "grouping_sets",
    "join.keys",
    "join.positions",
    "limit.promotion",
    "memo.environment",
    "recursive.fixpoint",
    "semi_join.dropped",
    "sort.keys",
    "subquery.member",
    "subquery.outer",
    "subquery.rows",
    "unnest.lengths",
    "window.keys",
];

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether `id` is on, on this thread.
    pub(crate) fn on(id: &str) -> bool {
        OFF.get() != Some(id)
    }

    /// Runs `f` with `id` switched off on this thread.
    pub(crate) fn without<T>(id: &'static str, f: impl FnOnce() -> T) -> T {
        OFF.set(Some(id));
        let done = f();
        OFF.set(None);
        done
    }
}
