//! Which STUN servers and relays a client takes from its postern server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_proto::connect::relay_address;
use postern_wire::signal::{RelayServer, stun_address};

/// Most STUN servers that a client asks: two addresses tell how a NAT maps, and a second
/// pair serves the other address family.
const MAX_SERVERS: usize = 4;

/// Those of `uris` that may be asked, in their order. `server` is the address of the postern
/// server, if it is known.
///
/// Whoever names a STUN server makes each client send datagrams to it. So a postern
/// server may name itself and addresses that the whole internet can reach, but nothing in
/// a client's own network, unless it is in a private network itself. Loopback addresses
/// are for servers on the same machine only.
pub(crate) fn accept(uris: Vec<String>, server: Option<IpAddr>) -> Vec<String> {
    let mut uris = uris;
    uris.retain(|uri| stun_address(uri).is_some_and(|address| may_name(server, address.ip())));
    uris.truncate(MAX_SERVERS);
    uris
}

/// The relays that may be used, by the ways to them that may be tried, as for
/// [`accept`]: a client opens connections there.
pub(crate) fn accept_relays(relays: Vec<RelayServer>, server: Option<IpAddr>) -> Vec<RelayServer> {
    let good = |uri: &String| {
        let address = relay_address(uri).map(|(_, address)| address.ip());
        address.is_some_and(|address| may_name(server, address))
    };
    let mut relays = relays;
    for relay in &mut relays {
        relay.also.retain(good);
        if !good(&relay.uri) {
            relay.uri.clear();
        }
    }
    relays.retain(|relay| !relay.uri.is_empty() || !relay.also.is_empty());
    relays
}

fn may_name(server: Option<IpAddr>, named: IpAddr) -> bool {
    let Some(server) = server else {
        return is_global(named);
    };
    let (server, named) = (server.to_canonical(), named.to_canonical());
    if named == server {
        return true;
    }
    match (named.is_loopback(), is_global(named)) {
        (true, _) => server.is_loopback(),
        (false, true) => true,
        (false, false) => is_unicast(named) && !is_global(server),
    }
}

/// Whether routers of the public internet forward to the address.
pub(crate) fn is_global(ip: IpAddr) -> bool {
    let local = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || is_shared(ip)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    };
    is_unicast(ip) && !local
}

/// The addresses between customers and their provider's NAT (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, ..])
}

fn is_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !matches!(ip.octets(), [0 | 224..=255, ..]),
        IpAddr::V6(ip) => !ip.is_multicast() && ip != Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted<const N: usize>(server: &str, named: [&str; N]) -> Vec<String> {
        let uris = named.map(|address| format!("stun:{address}")).into();
        let accepted = accept(uris, server.parse().ok());
        let address = |uri: String| uri.trim_start_matches("stun:").to_owned();
        accepted.into_iter().map(address).collect()
    }

    const PRIVATE: [&str; 5] = [
        "192.168.1.1:53",
        "10.0.0.1:3478",
        "100.64.0.1:3478",
        "169.254.169.254:80",
        "[fd00::1]:3478",
    ];

    const NOBODY: [&str; 6] = [
        "0.0.0.0:3478",
        "224.0.0.251:5353",
        "255.255.255.255:3478",
        "[ff02::1]:3478",
        "[::]:3478",
        "stun.example.org:3478",
    ];

    #[test]
    fn a_public_server_may_name_itself_and_other_public_addresses() {
        let named = ["45.0.0.1:3478", "45.0.0.2:3478", "[2a00::1]:3478"];
        assert_eq!(accepted("45.0.0.1", named), named);
    }

    #[test]
    fn a_public_server_may_name_nothing_in_the_clients_network() {
        assert!(accepted("45.0.0.1", PRIVATE).is_empty());
        assert!(accepted("2a00::1", PRIVATE).is_empty());
        assert!(accepted("45.0.0.1", ["127.0.0.1:3478", "[::1]:3478"]).is_empty());
        assert!(accepted("45.0.0.1", ["[::ffff:10.0.0.1]:3478"]).is_empty());
    }

    #[test]
    fn a_private_server_may_name_private_addresses_but_not_loopback() {
        assert_eq!(accepted("10.0.0.9", ["10.0.0.1:3478"]), ["10.0.0.1:3478"]);
        assert_eq!(accepted("fd00::9", ["[fd00::1]:3478"]), ["[fd00::1]:3478"]);
        assert!(accepted("10.0.0.9", ["127.0.0.1:3478"]).is_empty());
        assert_eq!(
            accepted("127.0.0.1", ["127.0.0.2:3478"]),
            ["127.0.0.2:3478"]
        );
    }

    #[test]
    fn what_is_no_unicast_address_is_never_asked() {
        for server in ["127.0.0.1", "10.0.0.1", "45.0.0.1"] {
            assert!(accepted(server, NOBODY).is_empty(), "{server}");
        }
    }

    #[test]
    fn behind_a_proxy_only_public_addresses_may_be_named() {
        assert!(accepted("unknown", PRIVATE).is_empty());
        assert_eq!(accepted("unknown", ["45.0.0.1:3478"]), ["45.0.0.1:3478"]);
    }

    #[test]
    fn each_way_to_a_relay_is_judged_like_a_stun_server() {
        let relay = |uri: &str, also: &[&str]| RelayServer {
            uri: uri.to_owned(),
            also: also.iter().map(|uri| (*uri).to_owned()).collect(),
            username: "user".to_owned(),
            password: "pass".to_owned(),
            challenge: None,
        };
        let (inside, outside) = (
            "turns:192.168.1.1:443?transport=tcp",
            "turns:45.0.0.2:443?transport=tcp",
        );
        let relays = vec![
            relay("turn:45.0.0.1:3478", &[inside, outside]),
            relay("turn:10.0.0.1:3478", &[outside]),
            relay("turn:127.0.0.1:3478", &[inside, "stun:45.0.0.1:3478"]),
        ];
        let accepted = accept_relays(relays, "45.0.0.1".parse().ok());
        let expected = [
            relay("turn:45.0.0.1:3478", &[outside]),
            relay("", &[outside]),
        ];
        assert_eq!(accepted, expected);
    }

    #[test]
    fn four_servers_are_enough() {
        let named: [String; 9] = std::array::from_fn(|n| format!("45.0.0.{n}:3478"));
        let named = named.each_ref().map(String::as_str);
        assert_eq!(accepted("45.0.0.1", named), named[..4]);
    }
}
