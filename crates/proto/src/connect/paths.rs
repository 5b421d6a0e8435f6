//! Which path the creator wants, which it has, and which it is opening.

use std::net::SocketAddr;
use std::time::Instant;

use super::limits::{RETRIES, RETRY, later};
use crate::ice::Path;

/// What to do about the paths of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Open this path.
    Open(Path),
    /// This path carries the connection: close the others.
    Settle(Path),
}

/// The paths of a standing connection. One is opened at a time while another one carries it.
#[derive(Debug, Default)]
pub(super) struct Paths {
    current: Option<Path>,
    wanted: Option<Path>,
    opening: Option<Path>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Paths {
    /// The connection stands on this path.
    pub(super) fn begin(&mut self, path: Path) {
        self.current = Some(path);
        self.wanted = Some(path);
    }

    pub(super) fn current(&self) -> Option<Path> {
        self.current
    }

    pub(super) fn wanted(&self) -> Option<Path> {
        self.wanted
    }

    pub(super) fn has_one(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Moves the connection to `path` as soon as possible.
    pub(super) fn want(&mut self, path: Path) -> Option<Step> {
        if !self.wanted.is_some_and(|wanted| same(wanted, path)) {
            self.wanted = Some(path);
            self.failures = 0;
        }
        self.next()
    }

    /// The path carries nothing any more.
    pub(super) fn lose(&mut self, local: SocketAddr, remote: SocketAddr) {
        for place in [&mut self.current, &mut self.wanted, &mut self.opening] {
            place.take_if(|known| (known.local, known.remote) == (local, remote));
        }
    }

    /// The path that was being opened can be used, or cannot.
    pub(super) fn opened(&mut self, now: Instant, path: Path, worked: bool) -> Option<Step> {
        if !self.opening.is_some_and(|opening| same(opening, path)) {
            // Another one was opened instead, and carries the connection if it is open.
            let late = worked && !self.current.is_some_and(|current| same(current, path));
            return self.current.filter(|_| late).map(Step::Settle);
        }
        self.opening = None;
        let is_wanted = self.wanted.is_some_and(|wanted| same(wanted, path));
        match (worked, is_wanted) {
            (true, true) => {
                self.current = Some(path);
                Some(Step::Settle(path))
            }
            (false, true) => {
                self.retry(now);
                None
            }
            // Another one is wanted by now; closing the others then closes this one too.
            (_, false) => self.next(),
        }
    }

    /// Tries again what failed, if it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Step> {
        self.retry_at.take_if(|at| now >= *at)?;
        self.next()
    }

    fn retry(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures <= RETRIES {
            self.retry_at = Some(later(now, RETRY));
        }
    }

    fn next(&mut self) -> Option<Step> {
        let wanted = self.wanted?;
        let is_wanted = |path: Path| same(path, wanted);
        // Where nothing carries the connection, one that may be dead is not waited for.
        let opening = match self.current {
            Some(_) => self.opening.is_some(),
            None => self.opening.is_some_and(is_wanted),
        };
        let idle = !opening && self.retry_at.is_none();
        let missing = !self.current.is_some_and(is_wanted);
        if idle && missing && self.failures <= RETRIES {
            self.opening = Some(wanted);
            return Some(Step::Open(wanted));
        }
        None
    }
}

/// Whether two paths are the same address pair, whatever is known of its candidates.
pub(super) fn same(one: Path, other: Path) -> bool {
    (one.local, one.remote) == (other.local, other.remote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::CandidateKind;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "a test's clock begins somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn path(port: u16) -> Path {
        Path {
            local: ([192, 168, 1, 2], 1000).into(),
            remote: ([45, 45, 0, 1], port).into(),
            local_kind: CandidateKind::Host,
            remote_kind: CandidateKind::Host,
        }
    }

    #[test]
    fn a_path_that_is_wanted_is_opened_and_then_carries_the_connection() {
        let mut paths = Paths::default();
        paths.begin(path(1));
        assert_eq!(paths.want(path(1)), None);
        assert_eq!(paths.want(path(2)), Some(Step::Open(path(2))));
        let now = start();
        assert_eq!(
            paths.opened(now, path(2), true),
            Some(Step::Settle(path(2)))
        );
    }

    #[test]
    fn a_wish_that_changes_while_a_path_opens_is_followed_afterwards() {
        let mut paths = Paths::default();
        paths.begin(path(1));
        paths.want(path(2));
        assert_eq!(paths.want(path(3)), None);
        let now = start();
        assert_eq!(paths.opened(now, path(2), true), Some(Step::Open(path(3))));
        assert_eq!(
            paths.opened(now, path(3), true),
            Some(Step::Settle(path(3)))
        );
    }

    #[test]
    fn a_path_that_does_not_open_is_tried_again_a_few_times() {
        let mut now = start();
        let mut paths = Paths::default();
        paths.begin(path(1));
        let mut step = paths.want(path(2));
        let mut tries = 0;
        while step == Some(Step::Open(path(2))) {
            tries += 1;
            assert_eq!(paths.opened(now, path(2), false), None);
            now += RETRY;
            step = paths.handle_timeout(now);
        }
        assert_eq!(tries, RETRIES + 1);
        assert!(paths.has_one());
    }

    #[test]
    fn after_a_loss_any_path_will_do() {
        let mut paths = Paths::default();
        paths.begin(path(1));
        paths.lose(path(1).local, path(1).remote);
        assert!(!paths.has_one());
        assert_eq!(paths.want(path(2)), Some(Step::Open(path(2))));
    }

    #[test]
    fn a_path_that_is_lost_while_it_opens_is_not_waited_for() {
        let now = start();
        let mut paths = Paths::default();
        paths.begin(path(1));
        paths.lose(path(1).local, path(1).remote);
        assert_eq!(paths.want(path(2)), Some(Step::Open(path(2))));
        paths.lose(path(2).local, path(2).remote);
        assert_eq!(paths.want(path(3)), Some(Step::Open(path(3))));
        assert_eq!(paths.opened(now, path(2), false), None);
        assert_eq!(
            paths.opened(now, path(3), true),
            Some(Step::Settle(path(3)))
        );
    }

    #[test]
    fn without_any_path_one_that_may_be_dead_is_not_waited_for() {
        let now = start();
        let mut paths = Paths::default();
        paths.begin(path(1));
        paths.lose(path(1).local, path(1).remote);
        assert_eq!(paths.want(path(2)), Some(Step::Open(path(2))));
        assert_eq!(paths.want(path(3)), Some(Step::Open(path(3))));
        assert_eq!(paths.want(path(3)), None);
        let settled = Some(Step::Settle(path(3)));
        assert_eq!(paths.opened(now, path(3), true), settled);
        assert_eq!(paths.opened(now, path(2), true), settled, "it comes late");
        assert_eq!(paths.opened(now, path(2), false), None);
    }

    #[test]
    fn nothing_is_retried_before_its_time() {
        let now = start();
        let mut paths = Paths::default();
        paths.begin(path(1));
        paths.want(path(2));
        paths.opened(now, path(2), false);
        assert_eq!(paths.handle_timeout(now + Duration::from_millis(1)), None);
    }
}
