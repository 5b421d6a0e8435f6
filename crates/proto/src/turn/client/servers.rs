//! In which order to try several servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::after;

/// Servers in one list: more do not make a relay likelier.
pub const MAX_SERVERS: usize = 8;

/// How long the next server waits for the ones before it.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a server that failed is tried last.
const MEMORY: Duration = Duration::from_secs(300);

/// Races servers: starts them one after the other, each with a head start of 250 ms on the
/// next, and at once when all that were started have failed. The first that allocates wins;
/// the caller closes the others. `K` is what tells a server, and a way to it, from others.
#[derive(Debug)]
pub struct Servers<K> {
    servers: Vec<K>,
    started: BTreeMap<K, Racer>,
    failed_at: BTreeMap<K, Instant>,
    next_start: Option<Instant>,
    won: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Racer {
    Running,
    Failed,
}

impl<K: Ord + Copy> Servers<K> {
    /// Servers in the order of preference, each once; those beyond [`MAX_SERVERS`] are left
    /// out.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = K>) -> Self {
        let mut list = Vec::new();
        for server in servers {
            if list.len() < MAX_SERVERS && !list.contains(&server) {
                list.push(server);
            }
        }
        Self {
            servers: list,
            started: BTreeMap::new(),
            failed_at: BTreeMap::new(),
            next_start: None,
            won: false,
        }
    }

    /// Begins a race; servers that failed within the last five minutes start last.
    pub fn begin(&mut self, now: Instant) {
        self.failed_at.retain(|_, at| now < after(*at, MEMORY));
        let failed = &self.failed_at;
        self.servers
            .sort_by_key(|server| failed.get(server).copied());
        self.started.clear();
        self.won = false;
        self.next_start = Some(now);
    }

    /// The server to start, if it is time for one.
    pub fn poll_start(&mut self, now: Instant) -> Option<K> {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return None;
        }
        let server = self.waiting()?;
        self.started.insert(server, Racer::Running);
        self.next_start = Some(after(now, HEAD_START));
        Some(server)
    }

    /// A server has failed; true if it was the last hope.
    pub fn on_failed(&mut self, now: Instant, server: K) -> bool {
        self.failed_at.insert(server, now);
        self.failed_at
            .retain(|failed, _| self.servers.contains(failed));
        if let Some(racer) = self.started.get_mut(&server) {
            *racer = Racer::Failed;
        }
        let running = self.started.values().any(|racer| *racer == Racer::Running);
        if !running {
            self.next_start = Some(now);
        }
        !running && !self.won && self.waiting().is_none()
    }

    /// A server has allocated: no more are started.
    pub fn on_allocated(&mut self, server: K) {
        self.failed_at.remove(&server);
        self.won = true;
    }

    /// When to call [`poll_start`](Self::poll_start).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting().filter(|_| !self.won).and(self.next_start)
    }

    fn waiting(&self) -> Option<K> {
        let mut servers = self.servers.iter();
        servers.find(|s| !self.started.contains_key(s)).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::tests::{epoch, ms, secs};
    use super::*;

    fn at(n: u8) -> SocketAddr {
        ([192, 0, 2, n], 3478).into()
    }

    #[test]
    fn each_server_has_a_head_start_and_a_failure_ends_the_wait() {
        let now = epoch();
        let mut servers = Servers::new([at(1), at(2), at(3), at(1)]);
        servers.begin(now);
        assert_eq!(servers.poll_start(now), Some(at(1)));
        assert_eq!(servers.poll_start(now + ms(249)), None);
        assert_eq!(servers.poll_start(now + ms(250)), Some(at(2)));
        assert!(!servers.on_failed(now + ms(300), at(1)));
        assert_eq!(servers.poll_start(now + ms(300)), None, "2 is running");
        assert!(!servers.on_failed(now + ms(310), at(2)));
        assert_eq!(servers.poll_start(now + ms(310)), Some(at(3)));
        assert!(servers.on_failed(now + ms(320), at(3)), "nobody is left");
        assert_eq!(servers.poll_timeout(), None);
    }

    #[test]
    fn a_server_that_failed_lately_starts_last() {
        let now = epoch();
        let mut servers = Servers::new([at(1), at(2)]);
        servers.begin(now);
        assert_eq!(servers.poll_start(now), Some(at(1)));
        servers.on_failed(now, at(1));
        assert_eq!(servers.poll_start(now), Some(at(2)));
        servers.on_allocated(at(2));
        assert_eq!(servers.poll_timeout(), None);
        servers.begin(now + secs(60));
        assert_eq!(servers.poll_start(now + secs(60)), Some(at(2)));
    }
}
