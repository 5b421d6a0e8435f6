//! What the server tells others that it is called.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use webpki::EndEntityCert;

use crate::net::{AddressFilter, host_addresses};
use crate::stun_servers::is_global;

/// The addresses at which others reach the sockets bound to `bound`: those of the same
/// family in `public` if there are any; otherwise what the sockets are bound to. Loopback
/// addresses are told only where there is nothing else.
pub(super) fn advertised(bound: &[SocketAddr], public: &[IpAddr]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for &address in bound {
        for known in reachable(address, public) {
            if !addresses.contains(&known) {
                addresses.push(known);
            }
        }
    }
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        addresses.retain(|address| !address.ip().is_loopback());
    }
    addresses
}

fn reachable(bound: SocketAddr, public: &[IpAddr]) -> Vec<SocketAddr> {
    let same_family = public.iter().filter(|ip| ip.is_ipv4() == bound.is_ipv4());
    let known: Vec<_> = same_family
        .map(|&ip| SocketAddr::new(ip, bound.port()))
        .collect();
    if known.is_empty() {
        vec![specific(bound)]
    } else {
        known
    }
}

/// Instead of the unspecified address an address of this machine of that family: one that
/// the whole internet can reach if there is one.
fn specific(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let addresses = host_addresses(AddressFilter::WithLoopback).unwrap_or_default();
    let ip = addresses
        .into_iter()
        .filter(|ip| ip.is_ipv4() == address.is_ipv4())
        .min_by_key(|ip| (ip.is_loopback(), !is_global(*ip)));
    SocketAddr::new(ip.unwrap_or_else(|| address.ip()), address.port())
}

/// The host for the URL: a name that the certificate, if it comes from an authority,
/// vouches for. Clients verify it.
pub(super) fn url_host(
    certificate: Option<&CertificateDer<'_>>,
    addresses: &[SocketAddr],
) -> Option<url::Host> {
    let first = addresses.first().map(|address| host_of(address.ip()));
    let Some(certificate) = certificate else {
        return first;
    };
    certified(certificate, addresses).or_else(|| {
        tracing::warn!("the certificate names neither a host nor an address of this server");
        first
    })
}

fn certified(certificate: &CertificateDer<'_>, addresses: &[SocketAddr]) -> Option<url::Host> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let name = certificate.valid_dns_names().find(|name| is_host(name));
    if let Some(name) = name {
        return url::Host::parse(name).ok();
    }
    let ip = addresses.iter().map(SocketAddr::ip).find(|&ip| {
        let name = ServerName::IpAddress(ip.into());
        certificate.verify_is_valid_for_subject_name(&name).is_ok()
    });
    ip.map(host_of)
}

/// Whether a name of a certificate is that of one host: no wildcard.
fn is_host(name: &str) -> bool {
    DnsName::try_from(name).is_ok() && !name.contains('*')
}

fn host_of(ip: IpAddr) -> url::Host {
    match ip {
        IpAddr::V4(ip) => url::Host::Ipv4(ip),
        IpAddr::V6(ip) => url::Host::Ipv6(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::Identity;

    fn sockets<const N: usize>(addresses: [&str; N]) -> Vec<SocketAddr> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn host(names: &[&str]) -> String {
        let names = names.iter().copied().map(str::to_owned).collect();
        let chain = Identity::generate(names).unwrap().chain();
        let addresses = sockets(["10.0.0.1:8443", "192.0.2.7:8443"]);
        url_host(chain.first(), &addresses).unwrap().to_string()
    }

    #[test]
    fn public_addresses_stand_for_the_bound_ones_of_their_family() {
        let bound = sockets(["10.0.0.1:3478", "10.0.0.2:3478", "[2001:db8::1]:3478"]);
        let public = ["192.0.2.7".parse().unwrap()];
        let expected = sockets(["192.0.2.7:3478", "[2001:db8::1]:3478"]);
        assert_eq!(advertised(&bound, &public), expected);
        assert_eq!(advertised(&bound, &[]), bound);
    }

    #[test]
    fn loopback_is_told_only_where_there_is_nothing_else() {
        let loopback = sockets(["127.0.0.1:3478"]);
        let both = sockets(["127.0.0.1:3478", "10.0.0.1:3478"]);
        assert_eq!(advertised(&loopback, &[]), loopback);
        assert_eq!(advertised(&both, &[]), both[1..]);
    }

    #[test]
    fn nobody_is_told_the_unspecified_address() {
        let told = advertised(&sockets(["0.0.0.0:3478"]), &[]);
        assert!(!told[0].ip().is_unspecified());
    }

    #[test]
    fn the_url_names_what_the_certificate_vouches_for() {
        assert_eq!(
            host(&["*.example.org", "meet.example.org"]),
            "meet.example.org"
        );
        assert_eq!(host(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(host(&["*.example.org"]), "10.0.0.1");
    }

    #[test]
    fn without_an_authority_the_url_names_the_address() {
        let addresses = sockets(["[2001:db8::1]:8443"]);
        assert_eq!(
            url_host(None, &addresses).unwrap().to_string(),
            "[2001:db8::1]"
        );
        assert_eq!(url_host(None, &[]), None);
    }
}
