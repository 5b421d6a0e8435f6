//! What connections need of the machine's networks: links to relays, meetings at the server,
//! addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::time::Duration;

use postern_proto::connect::RelayTransport;
use postern_proto::signal::{Role, Secret};
use tokio::time::timeout;

use crate::net::watch::{self, Hints};
use crate::net::{AddressFilter, Opened, bind_one, host_addresses};
use crate::rendezvous::{self, Side, Signalling, SignallingError};
use crate::server_url::ServerUrl;
use crate::trust::Trust;
use crate::turn::{Proxy, ServerStream, Target};

/// A stream to a relay is open after so long, or of no use: the checks end then.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever meets again waits so long for the other side: a connection is over before that.
const AGAIN: Duration = Duration::from_secs(30);

/// The server that introduced the peers: how it is reached and recognised.
#[derive(Debug, Clone)]
pub(crate) struct Introducer {
    pub(crate) url: ServerUrl,
    pub(crate) proxy: Option<Proxy>,
}

impl Introducer {
    /// The relay of this server at `server`. It shows the certificate of the WebSocket. A
    /// proxy is asked for the name that it knows.
    pub(crate) fn target(&self, transport: RelayTransport, server: SocketAddr) -> Target {
        let tls = (transport == RelayTransport::Tls)
            .then(|| self.url.pin().map_or(Trust::System, Trust::Pinned));
        let same = self.proxy.is_some() && server.port() == self.url.port();
        let named = tls == Some(Trust::System) || (tls.is_some() && same);
        Target {
            host: if named {
                self.url.host()
            } else {
                server.ip().to_string()
            },
            port: server.port(),
            addresses: vec![server],
            tls,
            proxy: self.proxy.clone(),
        }
    }
}

/// What opening a link gives.
pub(crate) type Dialling = Pin<Box<dyn Future<Output = io::Result<Opened>> + Send>>;

/// What meeting again gives.
pub(crate) type Meeting = Pin<Box<dyn Future<Output = Result<Signalling, SignallingError>> + Send>>;

/// What a connection needs of the machine's networks; simulated ones have their own.
pub(crate) trait Dialer: fmt::Debug + Send + Sync {
    /// A link to a relay of the server that introduced the peers.
    fn dial(
        &self,
        introducer: &Introducer,
        transport: RelayTransport,
        server: SocketAddr,
    ) -> Dialling;

    /// Meets the peer of a connection again at the server that introduced the two.
    fn meet_again(&self, introducer: &Introducer, role: Role, secret: Secret) -> Meeting;

    /// The addresses of the machine, the preferred ones first.
    ///
    /// # Errors
    ///
    /// When the system cannot say.
    fn addresses(&self, filter: AddressFilter) -> io::Result<Vec<IpAddr>>;

    /// Says when they may have changed.
    fn hints(&self) -> Hints;

    /// Whether more sockets of the machine may be opened: in order to punch, and for TCP.
    fn opens_sockets(&self) -> bool {
        false
    }
}

/// The system's sockets.
#[derive(Debug)]
pub(crate) struct System;

impl Dialer for System {
    fn opens_sockets(&self) -> bool {
        true
    }

    fn meet_again(&self, introducer: &Introducer, role: Role, secret: Secret) -> Meeting {
        let side = Side::Again(role, secret);
        Box::pin(rendezvous::enter(introducer.clone(), side, AGAIN))
    }

    fn addresses(&self, filter: AddressFilter) -> io::Result<Vec<IpAddr>> {
        host_addresses(filter)
    }

    fn hints(&self) -> Hints {
        watch::hints()
    }

    fn dial(
        &self,
        introducer: &Introducer,
        transport: RelayTransport,
        server: SocketAddr,
    ) -> Dialling {
        if transport == RelayTransport::Udp {
            return Box::pin(async move { socket_for(server) });
        }
        let target = introducer.target(transport, server);
        Box::pin(async move {
            let connecting = timeout(TIMEOUT, ServerStream::connect(&target)).await?;
            let stream = connecting.map_err(|error| {
                tracing::debug!(%error, "a relay cannot be reached");
                io::Error::other(error)
            })?;
            let local = stream.local();
            Ok(Opened::Stream(Box::new(stream), local))
        })
    }
}

/// A socket on the address from which the server is reached: a server tells allocations apart by
/// their clients' addresses, so this one must not change under an allocation, and when it
/// is gone that is known.
fn socket_for(server: SocketAddr) -> io::Result<Opened> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let route = UdpSocket::bind((any, 0))?;
    // Sends nothing.
    route.connect(server)?;
    let from = SocketAddr::new(route.local_addr()?.ip(), 0);
    bind_one(from).map(Opened::Datagrams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introducer(url: &str, proxy: Option<&str>) -> Introducer {
        Introducer {
            url: url.parse().unwrap(),
            proxy: proxy.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn a_relay_is_recognised_as_the_server_is() {
        let (tls, server) = (RelayTransport::Tls, "45.45.0.1:8443".parse().unwrap());
        let pin = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let url = format!("wss://45.45.0.1:8443/#sha256={pin}");
        let pinned = introducer(&url, None).target(tls, server);
        assert_eq!(pinned.host, "45.45.0.1");
        assert!(matches!(pinned.tls, Some(Trust::Pinned(_))));
        let named = introducer("wss://example.org/", None).target(tls, server);
        assert_eq!(named.host, "example.org");
        assert_eq!(named.addresses, [server]);
        let plain = introducer(&url, None).target(RelayTransport::Tcp, server);
        assert_eq!((plain.tls, plain.host.as_str()), (None, "45.45.0.1"));
    }

    #[test]
    fn a_proxy_is_asked_for_the_name_that_it_lets_through_already() {
        let pin = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let url = format!("wss://example.org:8443/#sha256={pin}");
        let introducer = introducer(&url, Some("http://proxy:3128"));
        let at = |port| SocketAddr::from(([45, 45, 0, 1], port));
        let target = introducer.target(RelayTransport::Tls, at(8443));
        assert_eq!(target.host, "example.org");
        let target = introducer.target(RelayTransport::Tls, at(5349));
        assert_eq!(target.host, "45.45.0.1");
    }
}
