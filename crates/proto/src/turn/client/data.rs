//! Data to and from peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use postern_wire::stun::{Builder, Class, Message, Method};
use postern_wire::turn::{
    ChannelData, ChannelNumber, Data, DataHeader, DontFragment, Icmp, XorPeerAddress,
};

use super::config::{MAX_WAITING, Relay, Transport};
use super::event::{Event, Failure};
use super::machine::Client;
use super::peers::State;
use crate::stun::random_transaction_id;
use crate::{Transmit, Verdict};

/// Why data cannot be sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no allocation, or it relays TCP.
    #[error("no UDP allocation")]
    NotAllocated,
    /// The allocation has no relayed address of the peer's family.
    #[error("the relayed address is of another address family")]
    Family,
    /// More than 65,500 bytes.
    #[error("too long for a datagram")]
    TooLong,
    /// [`MAX_PERMISSIONS`](super::MAX_PERMISSIONS) are in use.
    #[error("too many peers")]
    TooManyPeers,
    /// The server does not relay to the peer's address; a minute later it is asked again.
    #[error("the TURN server does not relay to the peer: {0}")]
    Refused(Failure),
}

impl Client {
    /// Sends a datagram to a peer, in a channel if there is one, else in a Send indication;
    /// then a channel is bound for the next ones.
    ///
    /// `None` while the permission is being asked for: the datagram comes from
    /// [`poll_transmit`](Self::poll_transmit) afterwards. At most
    /// [`MAX_WAITING`](super::MAX_WAITING) wait so; further ones are dropped.
    ///
    /// # Errors
    ///
    /// [`SendError`], and nothing is sent.
    pub fn send(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        payload: &[u8],
    ) -> Result<Option<Transmit>, SendError> {
        let peer = canonical(peer);
        self.check_family(peer.ip())?;
        if self.config.relay == Relay::Tcp {
            return Err(SendError::NotAllocated);
        }
        if payload.len() > DataHeader::MAX_DATA {
            return Err(SendError::TooLong);
        }
        match self.use_permission(now, peer)? {
            State::Live { .. } => Ok(Some(self.frame(now, peer, payload))),
            State::Refused(failure) => Err(SendError::Refused(failure)),
            State::Asking => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back((peer, payload.to_vec()));
                }
                Ok(None)
            }
        }
    }

    /// Whether there is an allocation for peers of this family.
    pub(super) fn check_family(&self, peer: IpAddr) -> Result<(), SendError> {
        self.allocation().ok_or(SendError::NotAllocated)?;
        let relayed = self.relayed_for(peer);
        relayed.map(|_| ()).ok_or(SendError::Family)
    }

    fn frame(&mut self, now: Instant, peer: SocketAddr, data: &[u8]) -> Transmit {
        let payload = match self.channel_of(now, peer) {
            Some(channel) => self.channel_data(channel, data),
            None => {
                if self.config.channels {
                    self.bind_channel(now, peer);
                }
                self.indication(peer, data)
            }
        };
        self.transmit(payload)
    }

    fn channel_data(&self, channel: ChannelNumber, data: &[u8]) -> Vec<u8> {
        let frame = ChannelData { channel, data };
        match self.config.transport {
            Transport::Datagram => frame.to_datagram(),
            Transport::Stream => frame.to_stream(),
        }
    }

    fn indication(&mut self, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
        let id = random_transaction_id(&mut self.rng);
        let unfragmented = self.config.dont_fragment.then_some(DontFragment);
        Builder::new(Class::Indication, Method::SEND, id)
            .attribute(&XorPeerAddress(peer))
            .maybe_attribute(unfragmented.as_ref())
            .attribute(&Data(data))
            .build()
    }

    /// What waited for a permission goes out.
    pub(super) fn send_waiting(&mut self, now: Instant, ip: IpAddr) {
        let waiting = std::mem::take(&mut self.waiting);
        for (peer, payload) in waiting {
            if peer.ip() == ip {
                let transmit = self.frame(now, peer, &payload);
                self.transmits.push_back(transmit);
            } else {
                self.waiting.push_back((peer, payload));
            }
        }
    }

    pub(super) fn drop_waiting(&mut self, refused: SocketAddr) {
        self.waiting.retain(|(peer, _)| *peer != refused);
    }

    pub(super) fn on_channel_data(&mut self, now: Instant, bytes: &[u8]) -> Verdict {
        let Ok(frame) = ChannelData::parse(bytes) else {
            return Verdict::Consumed;
        };
        if let Some(peer) = self.channels.peer_of(frame.channel) {
            self.on_data(now, peer, frame.data);
        }
        Verdict::Consumed
    }

    /// A Data indication (RFC 8656 section 11.4).
    pub(super) fn on_data_indication(&mut self, now: Instant, message: &Message<'_>) {
        let Ok(Some(XorPeerAddress(peer))) = message.get() else {
            return;
        };
        let peer = canonical(peer);
        if let Ok(Some(icmp)) = message.get::<Icmp>() {
            if self.touch_permission(now, peer.ip()) {
                self.events.push_back(Event::Icmp { peer, icmp });
            }
        } else if let Ok(Some(Data(data))) = message.get() {
            self.on_data(now, peer, data);
        }
    }

    fn on_data(&mut self, now: Instant, peer: SocketAddr, data: &[u8]) {
        if self.touch_permission(now, peer.ip()) {
            let payload = data.to_vec();
            self.events.push_back(Event::Data { peer, payload });
        }
    }
}

/// IPv4-mapped IPv6 addresses are IPv4: servers judge them so.
pub(super) fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
