//! Two agents and a clock.

mod assisted;
mod asymmetric;
mod components;
mod connecting;
mod consent;
mod exploring;
mod hostile;
mod lite;
mod matrix;
mod net;
mod properties;
mod punching;
mod relayed;
mod restart;
mod start;
mod trickling;

use std::time::{Duration, Instant};

/// Some instant to count from.
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time has to begin somewhere"
)]
pub(super) fn epoch() -> Instant {
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
