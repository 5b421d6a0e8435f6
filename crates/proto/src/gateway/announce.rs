//! Announcements: that the epoch began anew, so that clients map again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::natpmp;
use postern_wire::pcp::{Operation, Options, Response};

use super::Gateway;
use crate::Transmit;

/// Announcements of one change (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3): ten, the
/// first at once and each after twice the time of the one before.
const COUNT: u32 = 10;

/// The time between the first and the second.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// From where to where.
    pub(super) to: Vec<(SocketAddr, SocketAddr)>,
    sent: u32,
    due: Option<Instant>,
}

impl Announcements {
    pub(super) fn begin(&mut self, now: Instant) {
        self.sent = 0;
        self.due = Some(now);
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether one is to be sent now.
    fn take(&mut self, now: Instant) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else {
            return false;
        };
        let interval = FIRST_INTERVAL.saturating_mul(2_u32.saturating_pow(self.sent));
        self.sent = self.sent.saturating_add(1);
        self.due = due.checked_add(interval).filter(|_| self.sent < COUNT);
        true
    }
}

impl Gateway {
    /// Announces the epoch, as a gateway does when it has started.
    pub fn announce_start(&mut self, now: Instant) {
        self.announcements.begin(now);
        self.announce(now);
    }

    pub(super) fn announce(&mut self, now: Instant) {
        if !self.announcements.take(now) {
            return;
        }
        let epoch = self.epoch_seconds(now);
        let external = self.outside();
        let address = external.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
        let nat_pmp = natpmp::Response::granted(epoch, natpmp::Answer::ExternalAddress(address));
        let pcp = Response::granted(0, epoch, Operation::Announce, Options::default());
        for &(local, remote) in &self.announcements.to {
            let mut send = |payload| {
                self.transmits.push_back(Transmit {
                    local,
                    remote,
                    payload,
                });
            };
            if self.config.nat_pmp && remote.is_ipv4() && external.is_some() {
                send(nat_pmp.to_bytes());
            }
            if self.config.pcp {
                send(pcp.to_bytes());
            }
        }
    }
}
