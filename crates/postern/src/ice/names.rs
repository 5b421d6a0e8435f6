//! Names in place of addresses, of the peer and of this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use postern_proto::ice::{Candidate, CandidateKind, NamedCandidate};
use postern_proto::portmap::is_public;
use postern_wire::mdns::HostName;

use crate::mdns::{Mdns, NamesError};

/// The port of a related address that is not told (draft-ietf-mmusic-mdns-ice-candidates, section
/// 3.1.2.2).
const DISCARD: u16 = 9;

/// The names of a session.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Open from the first name on.
    mdns: Option<Mdns>,
    /// Ours, if addresses are hidden.
    ours: Option<BTreeMap<IpAddr, HostName>>,
}

impl Names {
    /// For a session that hides addresses.
    pub(super) fn hiding() -> Result<Self, NamesError> {
        Ok(Self {
            mdns: Some(Mdns::open()?),
            ours: Some(BTreeMap::new()),
        })
    }

    /// Makes names for the private ones of these addresses, if they are to be hidden. Those that
    /// everybody can reach are no secret.
    pub(super) fn hide(&mut self, hosts: Vec<(u16, SocketAddr)>) -> Result<(), NamesError> {
        let (Some(mdns), Some(ours)) = (&mut self.mdns, &mut self.ours) else {
            return Ok(());
        };
        for (_, host) in hosts {
            let ip = host.ip();
            if !is_public(ip) && !ours.contains_key(&ip) {
                ours.insert(ip, mdns.publish(ip)?);
            }
        }
        Ok(())
    }

    /// What the peer is told about a candidate.
    pub(super) fn line(&self, candidate: Candidate) -> String {
        let Some(ours) = &self.ours else {
            return candidate.to_string();
        };
        let name = ours.get(&candidate.address.ip());
        let name = name.filter(|_| candidate.kind == CandidateKind::Host);
        let named = name.and_then(|name| NamedCandidate::new(&name.to_string(), candidate.clone()));
        named.map_or_else(
            || unrelated(candidate).to_string(),
            |named| named.to_string(),
        )
    }

    /// Looks a name of the peer up; false if nobody can.
    pub(super) fn ask(&mut self, name: &str) -> bool {
        // Others than random names are not asked for: who has told them wants to know what is here.
        let Ok(name) = name.parse::<HostName>() else {
            tracing::debug!("a name of the peer is no random one");
            return false;
        };
        if self.mdns.is_none() {
            self.mdns = Mdns::open()
                .inspect_err(|error| tracing::debug!(%error, "names are not looked up"))
                .ok();
        }
        self.mdns.as_mut().map(|mdns| mdns.ask(name)).is_some()
    }

    /// Waits until a look-up has ended. May be dropped at any time.
    pub(super) async fn next(&mut self) -> (String, Option<IpAddr>) {
        match &mut self.mdns {
            Some(mdns) => {
                let (name, address) = mdns.next().await;
                (name.to_string(), address)
            }
            None => std::future::pending().await,
        }
    }
}

/// The candidate without the address of this machine that is behind it.
fn unrelated(candidate: Candidate) -> Candidate {
    let hidden = |related: SocketAddr| SocketAddr::new(unspecified(related), DISCARD);
    Candidate {
        related: candidate.related.map(hidden),
        ..candidate
    }
}

const fn unspecified(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let name = HostName::random([7; 16]);
        Names {
            mdns: None,
            ours: Some(BTreeMap::from([("192.168.1.7".parse().unwrap(), name)])),
        }
    }

    fn told(names: &Names, line: &str) -> String {
        names.line(line.parse().unwrap())
    }

    #[test]
    fn no_line_tells_an_address_that_has_a_name() {
        let names = names();
        assert_eq!(
            told(&names, "candidate:1 1 udp 5 192.168.1.7 9 typ host"),
            "candidate:1 1 udp 5 07070707-0707-4707-8707-070707070707.local 9 typ host"
        );
        let reflexive = "candidate:2 1 udp 4 45.45.1.1 8 typ srflx raddr";
        assert_eq!(
            told(&names, &format!("{reflexive} 192.168.1.7 rport 9000")),
            format!("{reflexive} 0.0.0.0 rport 9")
        );
        let public = "candidate:1 1 udp 5 2001:470::7 9 typ host";
        assert_eq!(told(&names, public), public);
        let plain = "candidate:1 1 udp 5 192.168.1.7 9 typ host";
        assert_eq!(told(&Names::default(), plain), plain);
    }

    #[tokio::test]
    async fn names_of_devices_are_not_asked_for() {
        let mut names = Names::default();
        assert!(!names.ask("printer.local"));
        assert!(names.mdns.is_none());
    }
}
