//! The TCP, TLS and DTLS listeners of TURN; STUN has those of TCP, too.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use postern_proto::turn::server::{ClientAddr, FiveTuple, Transport};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::control::{Control, Tls};
use super::slots::{Slot, Slots};
use super::turn::{self, Dtls, Remote, TurnConfig, Wire};
use super::{LocalAddress, ServerError, bind_all, bind_each, bound, names, sockets};
use crate::tls::accept;

/// The TLS handshake must be complete after so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which usually means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where streams of STUN and TURN arrive; those of TLS and DTLS are empty without relays.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    tcp: Vec<TcpListener>,
    tls: Vec<TcpListener>,
    dtls: Vec<Arc<Wire>>,
    /// TCP, of which no client is told.
    more: Vec<TcpListener>,
}

impl Listeners {
    /// TCP at the addresses of UDP, and with relays TLS and DTLS at another port of theirs; `more` are
    /// addresses of UDP for the discovery of NAT behaviour.
    pub(super) fn bind(
        config: Option<&TurnConfig>,
        udp: &[SocketAddr],
        more: &[SocketAddr],
    ) -> Result<Self, ServerError> {
        let tcp = Self {
            tcp: bind_each(udp, sockets::listen)?,
            more: bind_each(more, sockets::listen)?,
            ..Self::default()
        };
        let Some(config) = config else {
            return Ok(tcp);
        };
        let mut ips: Vec<IpAddr> = udp.iter().map(SocketAddr::ip).collect();
        ips.sort_unstable();
        ips.dedup();
        Ok(Self {
            tls: bind_all(&ips, config.tls_port, sockets::listen)?,
            dtls: bind_all(&ips, config.tls_port, bind_wire)?,
            ..tcp
        })
    }

    /// Where they all are.
    pub(super) fn bound(&self) -> Result<Vec<SocketAddr>, ServerError> {
        let tcp = [&self.tcp, &self.tls, &self.more].map(|listeners| bound(listeners));
        let mut addresses: Vec<_> = self.dtls.iter().map(|wire| wire.bound()).collect();
        for bound in tcp {
            addresses.extend(bound?);
        }
        Ok(addresses)
    }

    /// The TURN URIs (RFC 7065) of these and of the web server's port, with their addresses,
    /// in the order in which a client does well to try them: the web server's port lets it
    /// through already.
    pub(super) fn uris(
        &self,
        web: &[SocketAddr],
        public: &[IpAddr],
    ) -> Result<Vec<(SocketAddr, String)>, ServerError> {
        let told = |addresses: Vec<SocketAddr>, scheme| {
            let addresses = addresses.into_iter();
            addresses.map(move |address| (address, format!("{scheme}:{address}?transport=tcp")))
        };
        let tcp = names::advertised(&bound(&self.tcp)?, public);
        let tls = names::advertised(&bound(&self.tls)?, public);
        let dtls: Vec<_> = self.dtls.iter().map(|wire| wire.bound()).collect();
        let dtls = names::advertised(&dtls, public).into_iter();
        let dtls = dtls.map(|address| (address, format!("turns:{address}?transport=udp")));
        Ok(told(tcp, "turn")
            .chain(told(web.to_vec(), "turns"))
            .chain(told(tls, "turns"))
            .chain(dtls)
            .collect())
    }

    /// Accepts clients for ever.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>, control: &Control) {
        let Control {
            tls, places, relay, ..
        } = control;
        let dtls = Dtls::new(control.dtls.clone(), places.dtls.clone(), relay.clone());
        for wire in self.dtls {
            tasks.spawn(dtls.clone().serve(wire));
        }
        let slots = &places.turn;
        for listener in self.tcp.into_iter().chain(self.more) {
            tasks.spawn(serve(listener, slots.clone(), None, relay.clone()));
        }
        for listener in self.tls {
            let tls = Some(tls.clone());
            tasks.spawn(serve(listener, slots.clone(), tls, relay.clone()));
        }
    }
}

impl LocalAddress for Arc<Wire> {
    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.bound())
    }
}

fn bind_wire(address: SocketAddr) -> io::Result<Arc<Wire>> {
    Wire::new(sockets::bind_udp(address)?).map(Arc::new)
}

async fn serve(listener: TcpListener, slots: Slots, tls: Option<Tls>, relay: Remote) {
    while let Some(place) = slots.free().await {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(slot) = slots.seat(place, address.ip().to_canonical()) else {
            tracing::debug!(%address, "too many connections from one source, refused");
            continue;
        };
        let (tls, relay) = (tls.as_ref().map(Tls::acceptor), relay.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, tls, relay, slot).await {
                tracing::debug!(%error, "a client of the relay could not be served");
            }
        });
    }
}

async fn serve_one(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    relay: Remote,
    slot: Slot,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        let client = five_tuple(&stream, Transport::Tcp)?;
        turn::serve_client(stream, client, relay, slot).await;
        return Ok(());
    };
    let client = five_tuple(&stream, Transport::Tls)?;
    let stream = timeout(HANDSHAKE_TIMEOUT, accept(&tls, stream)).await??;
    turn::serve_client(stream, client, relay, slot).await;
    Ok(())
}

/// The ends of a client's connection.
pub(super) fn five_tuple(stream: &TcpStream, transport: Transport) -> io::Result<FiveTuple> {
    Ok(FiveTuple {
        transport,
        client: ClientAddr(stream.peer_addr()?),
        server: stream.local_addr()?,
    })
}
