//! Whether a NAT64 is in front of this machine: what its routers advertise (RFC 8781), and what its
//! resolver knows (RFC 7050).

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use postern_proto::ice::Nat64Prefix;
use postern_proto::ndp::{Prefixes, Router};
use postern_wire::ndp::ROUTER_SOLICITATION;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

use crate::clock::{self, until};
use crate::portmap::{default_routers, is_forbidden};

/// The name that has IPv4 addresses alone, so that a resolver that tells IPv6 ones has made
/// them up (RFC 7050 section 3).
const NAME: &str = "ipv4only.arpa";

/// A resolver that takes longer is of no use to a meeting that waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long routers are waited for that were asked to advertise: they answer within half a second
/// (RFC 4861 section 6.2.6).
const ADVERTISED: Duration = Duration::from_millis(750);

/// All routers of a link.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Only neighbours can send with this many (RFC 4861 section 6.1.1).
const HOPS: u32 = 255;

/// Options of an advertisement.
type Told = (Router, Vec<u8>);

/// What routers advertise.
pub(crate) struct Advertised {
    told: Pin<Box<dyn Stream<Item = Told> + Send>>,
    prefixes: Prefixes,
}

impl fmt::Debug for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Advertised").field(&self.prefixes).finish()
    }
}

impl Advertised {
    /// Hears what routers advertise from now on, where the system tells of it: Linux, if it is the
    /// kernel that configures addresses. Must be called inside a tokio runtime.
    pub(crate) fn listen() -> Self {
        Self {
            told: told(),
            prefixes: Prefixes::default(),
        }
    }

    /// Waits until another prefix holds, or none any longer. May be dropped at any time.
    pub(crate) async fn changed(&mut self) -> Option<Nat64Prefix> {
        loop {
            let before = self.prefixes.current();
            tokio::select! {
                Some((router, options)) = self.told.next() => {
                    self.prefixes.handle_options(clock::now(), router, &options);
                }
                () = until(self.prefixes.poll_timeout()) => {
                    self.prefixes.handle_timeout(clock::now());
                }
            }
            let current = self.prefixes.current();
            if current != before {
                tracing::debug!(?current, "the prefix that a router advertises");
                return current;
            }
        }
    }

    /// The prefix that holds.
    pub(crate) fn current(&self) -> Option<Nat64Prefix> {
        self.prefixes.current()
    }

    /// Forgets what was said by routers that are none of this machine any longer.
    pub(crate) fn forget_strangers(&mut self) {
        let routers = default_routers();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let is_named = |number, name: &str| {
            let mut interfaces = interfaces.iter();
            interfaces.any(|found| found.index == Some(number) && found.name == name)
        };
        self.prefixes.retain(|router| {
            let address = IpAddr::V6(router.address);
            let mut routers = routers.iter();
            routers.any(|(name, gateway)| *gateway == address && is_named(router.interface, name))
        });
    }

    /// The prefix that routers advertise or, if they do not, the one that the resolver knows. For
    /// who has IPv6 alone.
    pub(crate) async fn find(&mut self, hosts: &[SocketAddr]) -> Option<Nat64Prefix> {
        match has_ipv6_alone(hosts) {
            true => self.find_any().await,
            false => None,
        }
    }

    /// The same, whatever addresses this machine has.
    pub(crate) async fn find_any(&mut self) -> Option<Nat64Prefix> {
        if let Some(known) = self.current() {
            return Some(known);
        }
        let solicited = solicit().is_ok();
        let advertised = async {
            match solicited {
                true => timeout(ADVERTISED, self.changed()).await.ok().flatten(),
                false => None,
            }
        };
        tokio::select! {
            biased;
            Some(prefix) = advertised => Some(prefix),
            Some(prefix) = of_resolver() => Some(prefix),
            else => None,
        }
    }
}

/// Whether a machine with these addresses needs a NAT64.
pub(crate) fn has_ipv6_alone(hosts: &[SocketAddr]) -> bool {
    !hosts.is_empty() && hosts.iter().all(SocketAddr::is_ipv6)
}

/// The prefix of the NAT64 that the resolver knows of, whatever addresses this machine has.
pub(crate) async fn of_resolver() -> Option<Nat64Prefix> {
    let found = timeout(PATIENCE, tokio::net::lookup_host((NAME, 0))).await;
    let addresses = found.ok()?.ok()?.filter_map(|address| match address.ip() {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    let prefix = Nat64Prefix::discover(addresses);
    tracing::debug!(?prefix, "asked for the prefix of a NAT64");
    prefix
}

/// Asks the routers of every link to advertise, once. Needs the right to use raw sockets
/// (`CAP_NET_RAW`).
///
/// # Errors
///
/// When nobody could be asked.
pub(crate) fn solicit() -> io::Result<()> {
    if is_forbidden() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let interfaces = if_addrs::get_if_addrs()?.into_iter();
    let with_ipv6 = interfaces.filter(|found| found.ip().is_ipv6() && !found.is_loopback());
    let numbers: BTreeSet<u32> = with_ipv6.filter_map(|found| found.index).collect();
    let mut asked = Err(io::ErrorKind::NotFound.into());
    for number in numbers {
        let sent = solicit_on(number);
        if let Err(error) = &sent {
            tracing::debug!(number, %error, "the routers of an interface are not asked");
        }
        asked = asked.or(sent);
    }
    asked
}

fn solicit_on(interface: u32) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(interface)?;
    socket.set_multicast_hops_v6(HOPS)?;
    let all = SocketAddrV6::new(ALL_ROUTERS, 0, 0, interface);
    socket.send_to(&ROUTER_SOLICITATION, &all.into()).map(drop)
}

fn told() -> Pin<Box<dyn Stream<Item = Told> + Send>> {
    #[cfg(target_os = "linux")]
    match kernel::told() {
        Ok(told) => return Box::pin(told),
        Err(error) => tracing::debug!(%error, "the kernel tells of no advertisements"),
    }
    Box::pin(stream::pending())
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;

    use futures_util::{Stream, StreamExt, stream};
    use postern_proto::ndp::Router;
    use tokio::net::UnixDatagram;

    use super::Told;
    use crate::os::netlink::{router_options, watch_routers};

    /// Longer than what the kernel tells of an option: 2,040 bytes and two heads.
    const LONGEST: usize = 4096;

    /// The options that the kernel tells of.
    pub(super) fn told() -> io::Result<impl Stream<Item = Told> + Send> {
        // The runtime's type for sockets of datagrams: what it receives is not looked at by it.
        let socket = UnixDatagram::from_std(watch_routers()?.into())?;
        let messages = stream::unfold(socket, async |socket| {
            let options = receive(&socket).await?;
            Some((stream::iter(options), socket))
        });
        Ok(messages.flatten())
    }

    async fn receive(socket: &UnixDatagram) -> Option<Vec<Told>> {
        let mut buffer = vec![0; LONGEST];
        socket.readable().await.ok()?;
        match socket.try_recv(&mut buffer) {
            Ok(length) => {
                let told = buffer.get(..length).unwrap_or_default();
                let options = router_options(told).map(|found| {
                    let router = Router {
                        interface: found.interface,
                        address: found.router,
                    };
                    (router, found.options.to_vec())
                });
                Some(options.collect())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Vec::new()),
            // There was more than fits; it will be advertised again.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Some(Vec::new()),
            Err(error) => {
                tracing::debug!(%error, "the kernel tells of no advertisements any more");
                None
            }
        }
    }
}
