//! The sockets with which clients discover how their NATs behave (RFC 5780): for each
//! family a second address, and a second port at every address.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use postern_proto::stun::Alternate;

use super::{ServerConfig, ServerError, bind_all, bind_each, bound, sockets};
use crate::net::all_host_addresses;

/// What is bound besides the sockets of STUN.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    pub(super) sockets: Vec<UdpSocket>,
    pub(super) alternates: Vec<Alternate>,
}

impl Discovery {
    /// Binds what is missing; `udp` is where STUN is.
    pub(super) fn bind(config: &ServerConfig, udp: &[SocketAddr]) -> Result<Self, ServerError> {
        let mut discovery = Self::default();
        for &ip in &config.alternate_ips {
            discovery.add(ip, config.alternate_port, udp)?;
        }
        Ok(discovery)
    }

    fn add(
        &mut self,
        ip: IpAddr,
        port: Option<u16>,
        udp: &[SocketAddr],
    ) -> Result<(), ServerError> {
        let mut served: Vec<_> = udp
            .iter()
            .filter(|address| address.is_ipv4() == ip.is_ipv4())
            .copied()
            .collect();
        let first = served.first().ok_or(ServerError::Alternate(ip))?.port();
        served.retain(|address| address.port() == first);
        let others = others(&served, ip);
        if ip.is_unspecified() || others.is_empty() {
            return Err(ServerError::Alternate(ip));
        }
        let second = SocketAddr::new(ip, first);
        if !served
            .iter()
            .any(|bound| bound.ip() == ip || bound.ip().is_unspecified())
        {
            self.sockets
                .extend(bind_each(&[second], sockets::bind_udp)?);
            served.push(second);
        }
        let ips: Vec<_> = served.iter().map(SocketAddr::ip).collect();
        let port = port.unwrap_or_else(|| first.wrapping_add(1));
        let more = bind_all(&ips, port, sockets::bind_udp)?;
        let port = bound(&more)?.first().map_or(port, SocketAddr::port);
        self.sockets.extend(more);
        let secondary = SocketAddr::new(ip, port);
        self.alternates
            .extend(others.into_iter().map(|primary| Alternate {
                primary: SocketAddr::new(primary, first),
                secondary,
            }));
        Ok(())
    }
}

/// The addresses at which clients can ask, the second one excepted; loopback last.
fn others(served: &[SocketAddr], ip: IpAddr) -> Vec<IpAddr> {
    let mut ips: Vec<_> = served.iter().map(SocketAddr::ip).collect();
    if ips.iter().any(IpAddr::is_unspecified) {
        ips = all_host_addresses().unwrap_or_default();
    }
    ips.retain(|other| *other != ip && other.is_ipv4() == ip.is_ipv4());
    ips.sort_by_key(IpAddr::is_loopback);
    ips
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(alternate: &str) -> ServerConfig {
        ServerConfig {
            alternate_ips: vec![alternate.parse().unwrap()],
            alternate_port: Some(0),
            ..ServerConfig::default()
        }
    }

    fn bind_first(ips: &[&str]) -> (Vec<UdpSocket>, Vec<SocketAddr>) {
        let ips: Vec<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let sockets = bind_all(&ips, 0, sockets::bind_udp).unwrap();
        let udp = bound(&sockets).unwrap();
        (sockets, udp)
    }

    #[test]
    fn every_address_gets_a_second_port_and_there_is_a_second_address() {
        let (_sockets, udp) = bind_first(&["127.0.0.1", "127.0.0.3"]);
        let discovery = Discovery::bind(&config("127.0.0.2"), &udp).unwrap();
        let mut more: Vec<_> = bound(&discovery.sockets).unwrap();
        more.sort_unstable();
        let [first, second] = [udp[0].port(), discovery.alternates[0].secondary.port()];
        let mut expected = vec![
            format!("127.0.0.2:{first}"),
            format!("127.0.0.1:{second}"),
            format!("127.0.0.2:{second}"),
            format!("127.0.0.3:{second}"),
        ];
        expected.sort_unstable();
        let mut more: Vec<_> = more.iter().map(SocketAddr::to_string).collect();
        more.sort_unstable();
        assert_eq!(more, expected);
        assert_eq!(discovery.alternates.len(), 2);
        assert_ne!(first, second);
    }

    #[test]
    fn a_second_address_that_is_listened_on_already_needs_no_new_socket() {
        let (_sockets, udp) = bind_first(&["127.0.0.1", "127.0.0.2"]);
        let discovery = Discovery::bind(&config("127.0.0.2"), &udp).unwrap();
        assert_eq!(discovery.sockets.len(), 2);
        let [pair] = discovery.alternates[..] else {
            panic!("{discovery:?}");
        };
        assert_eq!((pair.primary, pair.secondary.ip()), (udp[0], udp[1].ip()));
    }

    #[test]
    fn a_second_address_must_be_another_one_of_the_same_family() {
        let (_sockets, udp) = bind_first(&["127.0.0.1"]);
        for alternate in ["127.0.0.1", "::1", "0.0.0.0"] {
            let refused = Discovery::bind(&config(alternate), &udp).unwrap_err();
            assert!(matches!(refused, ServerError::Alternate(_)), "{alternate}");
        }
    }
}
