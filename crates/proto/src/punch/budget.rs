//! What an attempt may cost those in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sockets that one attempt opens on each side: each is a mapping in a router that may hold a
/// few thousand, and fits twice into the file descriptors that a process usually has.
pub const MAX_SOCKETS: usize = 256;
/// Probes of one attempt and side. With [`MAX_SOCKETS`] on the other side 99.7 % of attempts
/// hit before, among all 64,512 ports.
pub const MAX_PROBES: u32 = 1500;
/// The same where both sides map endpoint-dependently and both draw from
/// [`NARROW_PORTS`] at most: 99 % of attempts hit before.
pub const MAX_NARROW_PROBES: u32 = 4500;
/// The largest learned range for which [`MAX_NARROW_PROBES`] is worth its price.
pub const NARROW_PORTS: u32 = 2048;
/// Datagrams a second of an attempt, everything counted: about 0.5 Mbit/s, less than a call
/// with video, and below what routers take for a flood.
pub const PROBES_PER_SECOND: u32 = 500;
/// Mappings that a STUN server is asked about for one classification.
pub const MAX_SAMPLES: usize = 32;
/// The pause between two attempts with one peer.
pub const ATTEMPT_PAUSE: Duration = Duration::from_secs(60);

/// Peers whose last attempt a host remembers; the oldest are forgotten.
const MAX_REMEMBERED: usize = 1024;

/// Ports from 1024 up that mean something to middleboxes (helpers of NATs, tunnels, telephony)
/// or to services that answer strangers; those below are all left alone.
const FORBIDDEN: [u16; 14] = [
    1194, 1434, 1701, 1812, 1900, 3478, 3702, 4500, 5060, 5061, 5350, 5351, 5353, 11211,
];

/// Whether a port is never probed.
#[must_use]
pub fn is_forbidden(port: u16) -> bool {
    port < 1024 || FORBIDDEN.contains(&port)
}

/// What a host allows: one birthday at a time, and one attempt a minute with a peer. `K`
/// names a peer.
#[derive(Debug)]
pub struct HostBudget<K: Ord> {
    running: Option<K>,
    begun: BTreeMap<K, Instant>,
}

impl<K: Ord> Default for HostBudget<K> {
    fn default() -> Self {
        Self {
            running: None,
            begun: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> HostBudget<K> {
    /// Begins an attempt, or says that this is not the time for it. The same peer's running
    /// attempt may go on.
    pub fn begin(&mut self, now: Instant, peer: &K) -> bool {
        if self.running.is_some() {
            return self.running.as_ref() == Some(peer);
        }
        let pause = |begun: &Instant| now.saturating_duration_since(*begun) < ATTEMPT_PAUSE;
        if self.begun.get(peer).is_some_and(pause) {
            return false;
        }
        self.forget();
        self.begun.insert(peer.clone(), now);
        self.running = Some(peer.clone());
        true
    }

    /// Ends the attempt with this peer, if it is the one that runs.
    pub fn end(&mut self, peer: &K) {
        if self.running.as_ref() == Some(peer) {
            self.running = None;
        }
    }

    fn forget(&mut self) {
        if self.begun.len() >= MAX_REMEMBERED {
            let oldest = self.begun.iter().min_by_key(|(_, begun)| **begun);
            if let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) {
                self.begun.remove(&oldest);
            }
        }
    }
}
