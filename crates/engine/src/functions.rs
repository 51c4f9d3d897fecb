//! Which functions a statement may call: an allow-list by subtraction from DataFusion's own, checked by name.
//!
//! Left out: functions that look beneath a barrier (`input_file_name`, `file_row_index`), that tell about the engine
//! (`version`), and the marker functions of policy, which only policy itself may write. Those whose results could be
//! without end are bounded (`bounded.rs`).

use custody_policy::enforce;
use datafusion::{
    execution::SessionStateDefaults,
    logical_expr::{AggregateUDF, ScalarUDF, WindowUDF},
};
use std::sync::Arc;

/// Scalar functions no statement may call.
const NOT_CALLABLE: &[&str] =
    &["input_file_name", "file_row_index", "version", "arrow_metadata", "mask", "rows", "pin", "custody_token"];

/// The scalar functions of a session.
pub(crate) fn scalar() -> Vec<Arc<ScalarUDF>> {
    SessionStateDefaults::default_scalar_functions()
        .into_iter()
        .filter(|f| {
            let names = || std::iter::once(f.name()).chain(f.aliases().iter().map(String::as_str));
            !enforce!("functions.callable", names().any(|n| NOT_CALLABLE.contains(&n)))
        })
        .map(crate::bounded::bounded)
        .collect()
}

/// The aggregate functions of a session.
pub(crate) fn aggregate() -> Vec<Arc<AggregateUDF>> {
    SessionStateDefaults::default_aggregate_functions()
}

/// The window functions of a session.
pub(crate) fn window() -> Vec<Arc<WindowUDF>> {
    SessionStateDefaults::default_window_functions()
}
