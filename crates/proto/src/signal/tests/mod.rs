//! Two rendezvous, one server and a clock.

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
