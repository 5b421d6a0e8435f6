//! Permissions (RFC 8656 sections 9 and 10): one request an address, so that a refusal
//! concerns that address alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::after;
use super::config::MAX_PERMISSIONS;
use super::data::{SendError, canonical};
use super::event::{Event, Failure};
use super::machine::Client;
use super::requests::Purpose;
use super::timers::Timer;

/// How long the server keeps a permission (RFC 8656 section 9).
const LIFETIME: Duration = Duration::from_secs(300);
/// When to refresh it.
const REFRESH: Duration = Duration::from_secs(240);
/// A permission that nothing used for so long is left to end.
const IDLE: Duration = Duration::from_secs(600);
/// How long a refusal is remembered instead of asking again.
const REFUSED: Duration = Duration::from_secs(60);

/// How it stands with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Asking,
    Live { until: Instant },
    Refused(Failure),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Permission {
    pub(super) state: State,
    /// The port that is named in the request. It does not count (RFC 8656 section 9), except
    /// for servers that relay to their own address only where that is a relayed one.
    port: u16,
    used: Instant,
}

pub(super) type Permissions = BTreeMap<IpAddr, Permission>;

impl Client {
    /// Lets peers at this address send to us, now and as long as it is used once in ten
    /// minutes: [`Event::Permitted`] or [`Event::PeerRefused`] follows, unless that is known.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no allocation, none of the address's family, or there are
    /// too many permissions.
    pub fn permit(&mut self, now: Instant, peer: IpAddr) -> Result<(), SendError> {
        self.permit_peer(now, SocketAddr::new(peer, 0))
    }

    /// The same; the port, which counts for nothing else, tells the server that the address
    /// is a relay of its own, and not its own host.
    ///
    /// # Errors
    ///
    /// As [`permit`](Self::permit).
    pub fn permit_peer(&mut self, now: Instant, peer: SocketAddr) -> Result<(), SendError> {
        let peer = canonical(peer);
        self.check_family(peer.ip())?;
        self.use_permission(now, peer).map(|_| ())
    }

    /// Whether the server is believed to let peers at this address send to us.
    #[must_use]
    pub fn is_permitted(&self, peer: IpAddr) -> bool {
        let permission = self.permissions.get(&peer.to_canonical());
        permission.is_some_and(|p| matches!(p.state, State::Live { .. }))
    }

    /// Why the server does not relay to this address, while that is remembered.
    #[must_use]
    pub fn refusal(&self, peer: IpAddr) -> Option<Failure> {
        match self.permissions.get(&peer.to_canonical())?.state {
            State::Refused(failure) => Some(failure),
            State::Asking | State::Live { .. } => None,
        }
    }

    /// The state of a permission that is being used; a new one is asked for.
    pub(super) fn use_permission(
        &mut self,
        now: Instant,
        peer: SocketAddr,
    ) -> Result<State, SendError> {
        let (ip, port) = (peer.ip(), peer.port());
        if let Some(permission) = self.permissions.get_mut(&ip) {
            permission.used = now;
            let refused = matches!(permission.state, State::Refused(_));
            if refused && port != permission.port {
                self.ask_permission_for(now, peer);
                return Ok(State::Asking);
            }
            return Ok(permission.state);
        }
        if self.permissions.len() >= MAX_PERMISSIONS {
            return Err(SendError::TooManyPeers);
        }
        let state = State::Asking;
        let used = now;
        self.permissions
            .insert(ip, Permission { state, port, used });
        self.ask(now, Purpose::Permit(ip));
        Ok(state)
    }

    /// Asks again, for another port of the same address.
    fn ask_permission_for(&mut self, now: Instant, peer: SocketAddr) {
        if let Some(permission) = self.permissions.get_mut(&peer.ip()) {
            permission.state = State::Asking;
            permission.port = peer.port();
            self.timers.clear(Timer::Permission(peer.ip()));
            self.ask(now, Purpose::Permit(peer.ip()));
        }
    }

    /// What a request for a permission names.
    pub(super) fn permission_peer(&self, ip: IpAddr) -> SocketAddr {
        let permission = self.permissions.get(&ip);
        SocketAddr::new(ip, permission.map_or(0, |permission| permission.port))
    }

    /// Data from a peer is use; without a permission it is not the server's to send.
    pub(super) fn touch_permission(&mut self, now: Instant, ip: IpAddr) -> bool {
        let permission = self.permissions.get_mut(&ip);
        let live = permission.filter(|p| !matches!(p.state, State::Refused(_)));
        live.map(|permission| permission.used = now).is_some()
    }

    /// The server has said yes, to a CreatePermission or a ChannelBind.
    pub(super) fn on_permitted(&mut self, now: Instant, ip: IpAddr) {
        let Some(permission) = self.permissions.get_mut(&ip) else {
            return;
        };
        let news = !matches!(permission.state, State::Live { .. });
        permission.state = State::Live {
            until: after(now, LIFETIME),
        };
        self.timers.set(Timer::Permission(ip), after(now, REFRESH));
        if news {
            self.events.push_back(Event::Permitted(ip));
            self.send_waiting(now, ip);
        }
    }

    pub(super) fn on_permission_refused(&mut self, now: Instant, ip: IpAddr, failure: Failure) {
        let Some(permission) = self.permissions.get_mut(&ip) else {
            return;
        };
        if failure == Failure::TimedOut
            && let State::Live { until } = permission.state
            && now < until
        {
            self.ask(now, Purpose::Permit(ip));
            return;
        }
        permission.state = State::Refused(failure);
        let port = permission.port;
        self.timers.set(Timer::Permission(ip), after(now, REFUSED));
        self.drop_waiting(SocketAddr::new(ip, port));
        let mut waiting = self.waiting.iter().map(|(peer, _)| *peer);
        if let Some(other) = waiting.find(|peer| peer.ip() == ip) {
            return self.ask_permission_for(now, other);
        }
        let peer = ip;
        self.events.push_back(Event::PeerRefused { peer, failure });
    }

    pub(super) fn on_permission_timer(&mut self, now: Instant, ip: IpAddr) {
        let Some(permission) = self.permissions.get(&ip).copied() else {
            return;
        };
        match permission.state {
            State::Asking => {}
            State::Live { until } if now < until => {
                self.timers.set(Timer::Permission(ip), until);
                if now < after(permission.used, IDLE) {
                    self.ask(now, Purpose::Permit(ip));
                }
            }
            State::Live { .. } | State::Refused(_) => _ = self.permissions.remove(&ip),
        }
    }

    /// The requests have been forgotten: those for permissions are made again, whatever they
    /// were for.
    pub(super) fn ask_permissions_again(&mut self, now: Instant) {
        let asking = self.permissions.iter();
        let asking = asking.filter(|(_, p)| !matches!(p.state, State::Refused(_)));
        let asking: Vec<_> = asking.map(|(ip, _)| *ip).collect();
        for ip in asking {
            self.ask(now, Purpose::Permit(ip));
        }
    }
}
