//! The sockets of a shard: listeners, and relays by allocation.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::{Registry, Token};
use postern_proto::turn::server::{FiveTuple, RelayId};
use postern_wire::turn::AddressFamily;

use super::batch::Destination;
use crate::os::trains::{Role, TrainSocket};
use crate::server::sockets::bind_relay;

/// One socket of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// Towards clients: an index.
    Listener(usize),
    /// Towards peers.
    Relay(RelayId),
}

/// The token of whoever wakes the shard.
pub(super) const WAKER: Token = Token(usize::MAX);

#[derive(Debug)]
pub(super) struct Sockets {
    registry: Registry,
    listeners: Vec<TrainSocket>,
    /// Two places for each allocation, IPv4 and IPv6.
    relays: Vec<Option<(RelayId, TrainSocket)>>,
}

impl Sockets {
    /// Puts the listeners into the poll.
    pub(super) fn new(registry: Registry, mut listeners: Vec<TrainSocket>) -> io::Result<Self> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            listener.register(&registry, Token(index))?;
        }
        Ok(Self {
            registry,
            listeners,
            relays: Vec::new(),
        })
    }

    pub(super) fn get(&self, via: Via) -> Option<&TrainSocket> {
        match via {
            Via::Listener(index) => self.listeners.get(index),
            Via::Relay(relay) => {
                let (id, socket) = self.relays.get(place(relay))?.as_ref()?;
                (*id == relay).then_some(socket)
            }
        }
    }

    /// What a token of the poll means.
    pub(super) fn of(&self, Token(token): Token) -> Option<Via> {
        match token.checked_sub(self.listeners.len()) {
            None => Some(Via::Listener(token)),
            Some(place) => {
                let (id, _) = self.relays.get(place)?.as_ref()?;
                Some(Via::Relay(*id))
            }
        }
    }

    /// How a client's datagrams leave. A socket with only one address need not be told to
    /// send from it.
    pub(super) fn way_to(&self, client: &FiveTuple) -> Option<(Via, Destination)> {
        let mut listeners = self.listeners.iter().enumerate();
        let (index, listener) =
            listeners.find(|(_, listener)| serves(listener.bound(), client.server))?;
        let has_several = listener.bound().ip().is_unspecified();
        let to = Destination {
            to: client.client.0,
            from: has_several.then_some(client.server.ip()),
            dont_fragment: false,
        };
        Some((Via::Listener(index), to))
    }

    /// The address at which a datagram arrived; `None` if the system does not say, on a
    /// socket that is bound to every address.
    pub(super) fn arrived_at(&self, via: Via, told: Option<IpAddr>) -> Option<SocketAddr> {
        local_address(self.get(via)?.bound(), told)
    }

    pub(super) fn open_relay(&mut self, relay: RelayId, address: SocketAddr) -> io::Result<()> {
        let mut socket = TrainSocket::new(bind_relay(address)?, Role::Relay)?;
        let place = place(relay);
        if place >= self.relays.len() {
            self.relays.resize_with(place.saturating_add(2), || None);
        }
        let token = Token(place.saturating_add(self.listeners.len()));
        socket.register(&self.registry, token)?;
        if let Some(slot) = self.relays.get_mut(place) {
            *slot = Some((relay, socket));
        }
        Ok(())
    }

    pub(super) fn close_relay(&mut self, relay: RelayId) {
        let Some(slot) = self.relays.get_mut(place(relay)) else {
            return;
        };
        if let Some((_, mut socket)) = slot.take_if(|(id, _)| *id == relay) {
            socket.deregister(&self.registry);
        }
    }
}

fn place(relay: RelayId) -> usize {
    let index = usize::try_from(relay.allocation.index()).unwrap_or(usize::MAX / 4);
    let family = usize::from(relay.family == AddressFamily::V6);
    index.saturating_mul(2).saturating_add(family)
}

fn local_address(bound: SocketAddr, told: Option<IpAddr>) -> Option<SocketAddr> {
    let ip = told.unwrap_or_else(|| bound.ip());
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip, bound.port()))
}

/// Whether a socket bound to `bound` can send from `address`.
fn serves(bound: SocketAddr, address: SocketAddr) -> bool {
    let same_ip = bound.ip() == address.ip() || bound.ip().is_unspecified();
    bound.is_ipv4() == address.is_ipv4() && bound.port() == address.port() && same_ip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrived_where_the_system_says_or_where_the_socket_is_bound() {
        let all: SocketAddr = "0.0.0.0:3478".parse().unwrap();
        let one: SocketAddr = "192.0.2.1:3478".parse().unwrap();
        assert_eq!(local_address(all, Some(one.ip())), Some(one));
        assert_eq!(local_address(one, None), Some(one));
        assert_eq!(local_address(all, None), None);
    }
}
