//! Time as the brain sees it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use muster_core::units::TimeMs;

/// Milliseconds since 1970 that never run backwards while the process lives: the wall clock at the start plus what a
/// monotonic clock has counted since. A machine whose wall clock is set while jobs run neither bills nor forgives time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall_ms: u64,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), started: Instant::now() }
    }

    /// Now.
    pub(crate) fn now(&self) -> TimeMs {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        TimeMs(self.wall_ms.saturating_add(elapsed))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
