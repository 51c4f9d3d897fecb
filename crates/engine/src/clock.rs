//! The one place that asks the system for the time.

use custody_model::WallNanos;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time. Passed in, so that tests hand in their own.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970, UTC. May go back; nothing relies on its order.
    fn now(&self) -> WallNanos;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the `Clock` that everything else takes")]
    fn now(&self) -> WallNanos {
        let signed = |nanos: u128| i64::try_from(nanos).unwrap_or(i64::MAX);
        WallNanos(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => signed(after.as_nanos()),
            Err(before) => -signed(before.duration().as_nanos()),
        })
    }
}
