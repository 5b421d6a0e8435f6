//! Two rendezvous, one server and a clock.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a test that overflows or misses a variant fails"
)]

mod again;
mod hostile;
mod meeting;
mod server;
mod world;

use std::time::Instant;

/// The time at which every test begins.
#[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
pub(super) fn epoch() -> Instant {
    use std::sync::LazyLock;
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}
