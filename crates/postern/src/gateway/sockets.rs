//! The gateway's sockets: each is bound to one address of one interface inside, so nothing
//! from outside reaches them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdUdpSocket};
use std::sync::Arc;

use postern_proto::gateway::Place;
use postern_wire::natpmp::{CLIENT_PORT, GATEWAY_PORT};
use postern_wire::upnp::ssdp::{self, GROUP_V4, GROUP_V6};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::config::{GatewayConfig, GatewayError};
use super::driver::Input;
use super::links::{Inside, Links};

/// The longest request: PCP's messages have at most 1,100 bytes, SSDP's fit into a packet.
const MAX_DATAGRAM: usize = 2048;

/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// All hosts of a link, to whom announcements go (RFC 6887 section 14.1.3).
const ALL_HOSTS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_HOSTS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The sockets that send, by the address that they send from.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    senders: BTreeMap<SocketAddr, Arc<UdpSocket>>,
    /// Where UPnP is.
    pub(super) places: Vec<Place>,
    /// From where to where announcements go.
    pub(super) announced: Vec<(SocketAddr, SocketAddr)>,
    tasks: JoinSet<()>,
}

impl Sockets {
    /// Binds all sockets; what arrives goes to `inputs`, HTTP listeners to `serve`.
    pub(super) fn bind(
        config: &GatewayConfig,
        links: &Links,
        inputs: &mpsc::Sender<Input>,
        mut serve: impl FnMut(&mut JoinSet<()>, TcpListener),
    ) -> Result<Self, GatewayError> {
        let mut sockets = Self::default();
        for inside in &links.inside {
            let failed = |what: &str, source| GatewayError::Listen {
                what: what.to_owned(),
                interface: inside.interface.clone(),
                source,
            };
            if config.nat_pmp || config.pcp {
                let bound = sockets.bind_mapping(inside, inputs);
                bound.map_err(|error| failed("UDP port 5351", error))?;
            }
            if config.upnp && is_shown(inside) {
                let bound = sockets.bind_upnp(config.http_port, inside, inputs, &mut serve);
                bound.map_err(|error| failed("UPnP's ports", error))?;
            }
        }
        Ok(sockets)
    }

    fn bind_mapping(&mut self, inside: &Inside, inputs: &mpsc::Sender<Input>) -> io::Result<()> {
        let local = scoped(inside, GATEWAY_PORT);
        let socket = Arc::new(udp(local, inside)?);
        let group: IpAddr = match inside.address {
            IpAddr::V4(_) => ALL_HOSTS_V4.into(),
            IpAddr::V6(_) => ALL_HOSTS_V6.into(),
        };
        if inside.address.is_ipv4() || inside.is_link_local() {
            self.announced
                .push((local, with_scope(group, CLIENT_PORT, inside)));
        }
        self.senders.insert(local, socket.clone());
        let inputs = inputs.clone();
        self.tasks
            .spawn(receive(socket, inputs, move |remote, payload| {
                Input::Mapping {
                    local,
                    remote,
                    payload,
                }
            }));
        Ok(())
    }

    fn bind_upnp(
        &mut self,
        http_port: u16,
        inside: &Inside,
        inputs: &mpsc::Sender<Input>,
        serve: &mut impl FnMut(&mut JoinSet<()>, TcpListener),
    ) -> io::Result<()> {
        let group: IpAddr = match inside.address {
            IpAddr::V4(_) => GROUP_V4.into(),
            IpAddr::V6(_) => GROUP_V6.into(),
        };
        let group = with_scope(group, ssdp::PORT, inside);
        let own = scoped(inside, ssdp::PORT);
        let place = Place {
            http: scoped(inside, http_port),
            group,
        };
        let unicast = Arc::new(udp(own, inside)?);
        self.senders.insert(own, unicast.clone());
        // Several addresses of an interface share one membership of the group.
        let multicast = udp(group, inside)
            .and_then(|socket| join(socket, inside))
            .ok();
        for (local, socket) in [(own, Some(unicast)), (group, multicast.map(Arc::new))] {
            let Some(socket) = socket else { continue };
            let inputs = inputs.clone();
            self.tasks
                .spawn(receive(socket, inputs, move |remote, payload| {
                    Input::Search {
                        place,
                        local,
                        remote,
                        payload,
                    }
                }));
        }
        serve(&mut self.tasks, listen(place.http, inside)?);
        self.places.push(place);
        Ok(())
    }

    /// Sends from the socket at `local`. What does not fit is lost, as datagrams are.
    pub(super) fn send(&self, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let socket = self.senders.get(&local).or_else(|| {
            let mut senders = self.senders.iter();
            let same = |at: &SocketAddr| at.ip() == local.ip() && at.port() == local.port();
            senders.find_map(|(at, socket)| same(at).then_some(socket))
        });
        let Some(socket) = socket else { return };
        // Not by the runtime, which thinks that a socket it has not yet waited for is full.
        let sent = SockRef::from(&**socket).send_to(payload, &remote.into());
        if let Err(error) = sent {
            tracing::debug!(%error, "a datagram could not be sent");
        }
    }
}

/// UPnP over IPv6 is at addresses that other hosts can name without a scope.
fn is_shown(inside: &Inside) -> bool {
    !inside.is_link_local()
}

fn scoped(inside: &Inside, port: u16) -> SocketAddr {
    with_scope(inside.address, port, inside)
}

fn with_scope(address: IpAddr, port: u16, inside: &Inside) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
            SocketAddrV6::new(v6, port, 0, inside.index).into()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(address, port),
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp(address: SocketAddr, inside: &Inside) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind_device(Some(inside.interface.as_bytes()))?;
    if let IpAddr::V4(v4) = inside.address {
        socket.set_multicast_if_v4(&v4)?;
    } else {
        socket.set_multicast_if_v6(inside.index)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}

fn join(socket: UdpSocket, inside: &Inside) -> io::Result<UdpSocket> {
    match inside.address {
        IpAddr::V4(v4) => socket.join_multicast_v4(GROUP_V4, v4)?,
        IpAddr::V6(_) => socket.join_multicast_v6(&GROUP_V6, inside.index)?,
    }
    Ok(socket)
}

fn listen(address: SocketAddr, inside: &Inside) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    socket.bind_device(Some(inside.interface.as_bytes()))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn receive(
    socket: Arc<UdpSocket>,
    inputs: mpsc::Sender<Input>,
    input: impl Fn(SocketAddr, Vec<u8>) -> Input,
) {
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        // An error is that of an earlier answer: its receiver has gone.
        let Ok((length, remote)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let payload = buffer.get(..length).unwrap_or_default().to_vec();
        if inputs.send(input(remote, payload)).await.is_err() {
            return;
        }
    }
}
