//! Changes that the next router has to make as well.

use std::time::{Duration, Instant};

use postern_proto::gateway::{ChangeError, ChangeId, MAX_LEASE, Opening};

use super::super::control::is_behind_nat;
use super::super::upstream::{News, Upstream, Waiting, error_of, key_of};
use super::Gateway;

impl Gateway {
    /// Begins with the next router, or ends with it, as the line wants it.
    pub(super) fn follow_line(&mut self, now: Instant) {
        let behind = |line: &(String, _)| self.config.upstream && is_behind_nat(line.1);
        let line = self.links.line.clone().filter(behind);
        let same = match (&self.upstream, &line) {
            (Some(upstream), Some(line)) => upstream.is_on(line),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        let given_up = self.upstream.take();
        for waiting in given_up.into_iter().flat_map(Upstream::into_waiting) {
            self.take_again(now, waiting, ChangeError::Failed);
        }
        self.machine.set_shown(now, None);
        self.upstreams += 1;
        let number = self.upstreams;
        self.machine.set_behind(line.is_some());
        self.upstream = line.map(|line| Upstream::new(line, number, self.sender.clone()));
        self.settle_upstream();
    }

    /// What leases have here, and nothing else, is wanted of the next router.
    pub(super) fn settle_upstream(&mut self) {
        if let Some(upstream) = &mut self.upstream {
            upstream.settle(self.machine.leases());
        }
    }

    /// Whether a change that was made here waits for the next router.
    pub(super) fn waits_for_upstream(
        &mut self,
        now: Instant,
        id: ChangeId,
        remove: Option<Opening>,
        add: Option<&Opening>,
    ) -> bool {
        let Some((upstream, add)) = self.upstream.as_mut().zip(add) else {
            return false;
        };
        let Some(key) = key_of(&add.lease).filter(|key| !upstream.stands(*key)) else {
            return false;
        };
        let add = add.clone();
        if let Some(waiting) = upstream.ask(key, Waiting { id, remove, add }) {
            self.take_again(now, waiting, ChangeError::Full);
        }
        true
    }

    /// Follows what was learnt of the next router, unless it is about an earlier one.
    pub(super) fn on_news(&mut self, now: Instant, number: u64, news: News) {
        let Some(upstream) = self.upstream.as_mut().filter(|one| one.number == number) else {
            return;
        };
        match news {
            News::Address(None) => {}
            News::Address(Some(address)) => {
                upstream.address = Some(address);
                self.machine.set_shown(now, Some(address));
            }
            News::Made(key) => {
                for waiting in upstream.made(key) {
                    self.machine.handle_changed(now, waiting.id, Ok(()));
                }
            }
            News::Refused(key, why) => {
                tracing::debug!(%why, port = key.1, "the next router does not open a port");
                for waiting in upstream.failed(key) {
                    self.take_again(now, waiting, error_of(why));
                }
            }
            News::Instead(key, port) => {
                let waiting = upstream.failed(key);
                if waiting.is_empty() {
                    self.move_on(now, key.1);
                }
                for waiting in waiting {
                    self.take_again(now, waiting, ChangeError::Instead(port));
                }
            }
        }
    }

    /// Undoes here what the next router did not do.
    fn take_again(&mut self, now: Instant, waiting: Waiting, error: ChangeError) {
        let before = waiting.remove.map(|before| {
            let left = |end: Instant| end.saturating_duration_since(now);
            let left = before.lease.expires.map_or(MAX_LEASE, left);
            (before, left.max(Duration::from_millis(1)))
        });
        if let Err(error) = self.change(Some(&waiting.add), before.as_ref()) {
            tracing::warn!(%error, "a change could not be undone");
        }
        self.machine.handle_changed(now, waiting.id, Err(error));
    }

    /// The next router has given a port of ours to somebody else: who has it here is to ask
    /// for another one.
    fn move_on(&mut self, now: Instant, port: u16) {
        let leases = self.machine.leases();
        let gone = leases.filter(|lease| lease.kind.external_port() == Some(port));
        let gone: Vec<_> = gone.map(|lease| lease.id).collect();
        for id in gone {
            self.machine.revoke(id);
        }
        tracing::warn!(
            port,
            "the next router leads a port elsewhere: it is closed here"
        );
        self.machine.begin_epoch(now);
    }
}
