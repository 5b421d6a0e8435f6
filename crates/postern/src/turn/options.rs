//! What to ask of which server.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_proto::stun;
use postern_proto::turn::client::{Config, Credentials, Relay, Transport as Framing};
use postern_wire::stun::ValueError;
use postern_wire::turn::AddressFamily;
use postern_wire::uri::Transport;

use super::transport::Target;

/// A TURN server and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// UDP, or TCP; DTLS and TLS if the target has [`Target::tls`].
    pub transport: Transport,
    /// Where it is.
    pub target: Target,
}

impl Server {
    /// The way in a word: `udp`, `tcp`, `tls` or `dtls`.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match (self.transport, self.target.tls.is_some()) {
            (Transport::Udp, false) => "udp",
            (Transport::Udp, true) => "dtls",
            (Transport::Tcp, false) => "tcp",
            (Transport::Tcp, true) => "tls",
        }
    }

    /// One for each address where the protocol does not find out which of them works.
    pub(super) fn each_address(&self) -> Vec<Self> {
        if self.transport == Transport::Tcp {
            return vec![self.clone()];
        }
        let addresses = self.target.addresses.iter();
        let one = |address: &SocketAddr| Self {
            transport: self.transport,
            target: Target {
                addresses: vec![*address],
                ..self.target.clone()
            },
        };
        addresses.map(one).collect()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.target, self.way())
    }
}

/// What to ask the server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// User and password; without, the server must ask for none.
    pub credentials: Option<Credentials>,
    /// What to relay: UDP, or TCP (RFC 6062), for which the way to the server must be TCP or
    /// TLS.
    pub relay: Relay,
    /// The family of the relayed address; the server's choice (IPv4) by default.
    pub family: Option<AddressFamily>,
    /// Ask for an IPv6 relayed address beside the IPv4 one (RFC 8656 section 7.1).
    pub additional_ipv6: bool,
    /// Ask for an even relayed port; `Some(true)` reserves the next higher one as well.
    pub even_port: Option<bool>,
    /// Take the port that another allocation has reserved.
    pub reservation: Option<[u8; 8]>,
    /// Have the server set the DF bit towards peers, if it can.
    pub dont_fragment: bool,
    /// Ask for mobility (RFC 8016), so that [`Allocation::rebind`](super::Allocation::rebind)
    /// works, and a stream that broke is made anew.
    pub mobility: bool,
    /// Bind channels to peers that are sent to; if not, everything goes in indications.
    pub channels: bool,
    /// The lifetime to ask for, in whole seconds; the server's default if `None` (10 minutes).
    pub lifetime: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: None,
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

impl Options {
    pub(super) fn config(
        &self,
        local: SocketAddr,
        server: SocketAddr,
        transport: Transport,
    ) -> Config {
        Config {
            local,
            server,
            transport: match transport {
                Transport::Udp => Framing::Datagram,
                Transport::Tcp => Framing::Stream,
            },
            credentials: self.credentials.clone(),
            challenge: None,
            relay: self.relay,
            family: self.family,
            additional_ipv6: self.additional_ipv6,
            even_port: self.even_port,
            reservation: self.reservation,
            dont_fragment: self.dont_fragment,
            mobility: self.mobility,
            channels: self.channels,
            lifetime: self.lifetime,
        }
    }
}

/// Credentials that a server with this shared secret believes for `lifetime` from now on
/// (coturn's `--static-auth-secret`). `id` shows up in the server's accounts.
///
/// # Errors
///
/// [`ValueError::TextTooLong`] if `id` is longer than about 490 bytes.
pub fn time_limited(
    secret: &str,
    id: Option<&str>,
    lifetime: Duration,
) -> Result<Credentials, ValueError> {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    let server = stun::Credentials::new("")?.with_secret(secret.as_bytes());
    let issued = server.issue(unix.unwrap_or_default(), lifetime, id);
    let (name, password) = issued.map_or_else(Default::default, |i| (i.username, i.password));
    Credentials::new(&name, &password)
}
