//! How long everything may take.

use std::time::{Duration, Instant};

use super::types::ConnectorConfig;
use crate::ice;

/// From authentication to a connection, or to the verdict that there is none. The user
/// is promised 15 s.
pub(super) const CONNECT: Duration = Duration::from_secs(14);

/// How long the checks may go on without any success. The agent may add 2 s for a check
/// that has just begun, and the reports take another.
const CHECKS: Duration = Duration::from_secs(10);

/// How long the checks go on after a connection has lost every path. QUIC ends it before that.
const RECOVERY: Duration = Duration::from_secs(30);

/// So long the word that there are no more candidates waits for a port of a gateway: slow ones
/// describe themselves first.
pub(super) const MAPPING: Duration = Duration::from_secs(4);

/// How long to wait for the peer's report when ours is ready, and the other way round.
pub(super) const REPORT: Duration = Duration::from_secs(1);

/// A connection that is being made may still take so long when the mailbox is gone.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// After so long on a standing connection the mailbox is left, whatever is outstanding.
pub(super) const LEAVE: Duration = Duration::from_secs(5);

/// A handshake takes two round trips. It gets four, and so much for its computations
/// and one repetition, before another path is tried.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(1);

/// Pause before a path that could not be opened is tried again: the peer has to supply
/// connection identifiers first.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// How often opening a path is tried again.
pub(super) const RETRIES: u32 = 8;

/// The round-trip time assumed where none was measured.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(100);

/// The agent's settings. Consent is asked for more often than RFC 7675 demands, so that
/// a dead path is left while QUIC still hopes: six checks in a row must get lost. With data in
/// flight it is five a second, 4 kbit/s, and seven in a row: the path is left within 2 s.
pub(super) fn agent_config(config: &ConnectorConfig) -> ice::Config {
    ice::Config {
        punch: config.punch,
        disabled: config.disabled,
        patience: CHECKS,
        recovery: RECOVERY,
        consent_interval: Duration::from_secs(1),
        consent_expiry: Duration::from_secs(6),
        busy_consent_interval: Duration::from_millis(200),
        busy_consent_expiry: Duration::from_millis(1400),
        allow_loopback: config.allow_loopback,
        ..ice::Config::default()
    }
}

/// `now` and `wait` together; at the end of time, the end of time.
pub(super) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
