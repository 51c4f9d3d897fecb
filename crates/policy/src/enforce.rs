//! Names every line that enforces something, so that a test can switch it off and see a test fail.
//!
//! `enforce!("id", condition)` is the condition, unless a test has switched `id` off on its thread: then it is `false`.
//! Write it so that `true` is the protective branch. Outside tests and feature `mutation` no switch exists.

/// Every id that `enforce!` may name, in order.
pub const IDS: &[&str] = &[
    "access.answer",
    "access.expired",
    "access.late",
    "access.own",
    "access.owner",
    "access.revoke",
    "barrier.limit",
    "barrier.predicates",
    "barrier.schema",
    "bounded.size",
    "check.decisions",
    "check.expressions",
    "check.leaves",
    "check.settled",
    "checks.decide",
    "checks.verify",
    "decide.error",
    "decide.explain_raw",
    "decide.guards",
    "decide.lowest",
    "decide.purpose",
    "decide.row_binding",
    "decide.row_sets",
    "decide.supported",
    "decide.tags",
    "exec.batches",
    "exec.errors",
    "exec.filters",
    "exec.limit",
    "exec.order",
    "exec.properties",
    "exec.statistics",
    "explain.columns",
    "explain.lineage",
    "explain.plan",
    "floor.functions",
    "floor.groups",
    "floor.refused",
    "floor.settled",
    "functions.callable",
    "govern.columns",
    "govern.guards",
    "govern.masks",
    "govern.nothing",
    "govern.sets",
    "information.columns",
    "information.tables",
    "leakproof.columns",
    "leakproof.conjuncts",
    "listing.columns",
    "listing.visible",
    "pin.alike",
    "pin.visible",
    "publish.complete",
    "publish.permitted",
    "publish.purposes",
    "publish.source",
    "push.floors",
    "push.guarded",
    "session.role",
    "system.column",
    "system.dataset",
    "system.explained",
    "system.open",
    "system.owned",
    "system.raw",
    "training.replay",
    "view.classes",
    "view.explain",
    "view.filters",
    "view.lineage",
    "view.owner",
    "view.policy",
    "view.publish",
    "view.push",
    "view.sealed",
    "view.visible",
];

/// Whether `id` is listed; evaluated when compiling.
#[doc(hidden)]
pub const fn known(id: &str) -> bool {
    let mut i = 0;
    while i < IDS.len() {
        if same(IDS[i].as_bytes(), id.as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(any(test, feature = "mutation"))]
mod switch {
    use std::{cell::RefCell, collections::BTreeSet, sync::OnceLock};

    /// `CUSTODY_OFF=id cargo test`: the whole run without one line, which must fail.
    static OFF_EVERYWHERE: OnceLock<Option<String>> = OnceLock::new();

    thread_local! {
        static OFF: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Whether `id` is on, on this thread and in this run.
    #[doc(hidden)]
    pub fn on(id: &str) -> bool {
        let everywhere = OFF_EVERYWHERE.get_or_init(|| std::env::var("CUSTODY_OFF").ok());
        everywhere.as_deref() != Some(id) && OFF.with_borrow(|off| !off.contains(id))
    }

    /// Runs `f` with `id` switched off on this thread. A multi-threaded runtime does not see the switch.
    pub fn without<T>(id: &'static str, f: impl FnOnce() -> T) -> T {
        struct Restore(&'static str);
        impl Drop for Restore {
            fn drop(&mut self) {
                OFF.with_borrow_mut(|off| off.remove(self.0));
            }
        }
        OFF.with_borrow_mut(|off| off.insert(id));
        let _restore = Restore(id);
        f()
    }
}

#[cfg(any(test, feature = "mutation"))]
pub use switch::{on, without};

/// Whether `id` is on: always.
#[cfg(not(any(test, feature = "mutation")))]
#[doc(hidden)]
#[inline(always)]
pub const fn on(_id: &str) -> bool {
    true
}

/// The condition, which a mutation test can force to `false`; see [`mod@crate::enforce`].
#[macro_export]
macro_rules! enforce {
    ($id:literal, $condition:expr) => {{
        const { assert!($crate::enforce::known($id), "id is not in `enforce::IDS`") };
        $crate::enforce::on($id) && $condition
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_one_id_for_a_while() {
        let deny = || enforce!("govern.nothing", true);
        assert!(deny());
        assert!(!without("govern.nothing", deny));
        assert!(deny());
        assert!(IDS.is_sorted());
    }
}
