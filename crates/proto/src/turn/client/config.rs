//! Settings of the client and the bounds it never exceeds.

use std::net::SocketAddr;
use std::time::Duration;

use postern_wire::turn::AddressFamily;

use super::auth::Credentials;

/// Peer addresses with a permission: several times the candidates of one peer.
pub const MAX_PERMISSIONS: usize = 256;
/// Channels of one allocation, those that cool down included.
pub const MAX_CHANNELS: usize = 256;
/// TCP connections to peers that are being made at once (RFC 6062).
pub const MAX_CONNECTIONS: usize = 64;
/// Datagrams that wait for their permission: as many as a few checks to each candidate.
pub const MAX_WAITING: usize = 32;
/// How often servers may send the client on to another one (RFC 8489 section 10).
pub const MAX_REDIRECTS: usize = 4;

/// How client and server reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP or DTLS: each payload is one message, and requests are sent again.
    Datagram,
    /// TCP or TLS: payloads are pieces of a stream, and requests are sent once.
    Stream,
}

/// What the server speaks with the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    /// UDP.
    Udp,
    /// TCP (RFC 6062); only over [`Transport::Stream`].
    Tcp,
}

/// What to ask of which server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our address: an interface's address and the socket's port.
    pub local: SocketAddr,
    /// The server's address.
    pub server: SocketAddr,
    /// How to reach it.
    pub transport: Transport,
    /// User and password; without, the server must ask for none.
    pub credentials: Option<Credentials>,
    /// What the server would challenge us with, if it was told beforehand: a response with
    /// REALM and NONCE. Then the first request is authenticated; if the server asks all the
    /// same, that counts.
    pub challenge: Option<Vec<u8>>,
    /// What to relay.
    pub relay: Relay,
    /// The family of the relayed address; the server's choice (IPv4) by default.
    pub family: Option<AddressFamily>,
    /// Ask for an IPv6 relayed address beside the IPv4 one (RFC 8656 section 7.1); `family`
    /// and `even_port` do not go with it and are left out.
    pub additional_ipv6: bool,
    /// Ask for an even relayed port; `Some(true)` reserves the next higher one as well.
    pub even_port: Option<bool>,
    /// Take the port that another allocation has reserved.
    pub reservation: Option<[u8; 8]>,
    /// Have the server set the DF bit towards peers. A server that cannot is asked again
    /// without.
    pub dont_fragment: bool,
    /// Ask for a mobility ticket (RFC 8016), so that [`Client::moved`](super::Client::moved)
    /// works.
    pub mobility: bool,
    /// Bind channels to peers that are sent to; if not, everything goes in indications.
    pub channels: bool,
    /// The lifetime to ask for, in whole seconds; the server's default if `None` (10 minutes).
    pub lifetime: Option<Duration>,
}

impl Config {
    /// A UDP allocation without extras over UDP or DTLS; change `transport` for TCP and TLS.
    #[must_use]
    pub fn new(local: SocketAddr, server: SocketAddr, credentials: Option<Credentials>) -> Self {
        Self {
            local,
            server,
            transport: Transport::Datagram,
            credentials,
            challenge: None,
            relay: Relay::Udp,
            family: None,
            additional_ipv6: false,
            even_port: None,
            reservation: None,
            dont_fragment: false,
            mobility: false,
            channels: true,
            lifetime: None,
        }
    }
}
