//! Which interface leads to the gateway, and which address it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Config, StartError};

/// A network that this machine is on, and its router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The interface's name.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// The address of this machine.
    pub address: IpAddr,
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// The router of the default route.
    pub gateway: Option<IpAddr>,
}

impl Link {
    /// The link of the best default route, as it is at present.
    pub(crate) fn present() -> Result<Self, StartError> {
        choose(&Config::default())
    }
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    interface: String,
    gateway: IpAddr,
    metric: u32,
}

/// The link that the settings name, or the one of the best default route.
pub(super) fn choose(config: &Config) -> Result<Link, StartError> {
    let routes = default_routes(config.pinholes);
    let interfaces = if_addrs::get_if_addrs()?;
    let named = config.interface.as_ref().map(|told| {
        let address = told.parse::<IpAddr>().ok();
        let has_it = |interface: &&if_addrs::Interface| Some(interface.ip()) == address;
        let found = interfaces.iter().find(has_it);
        found.map_or(told, |interface| &interface.name)
    });
    let wanted = |route: &&Route| named.is_none_or(|name| *name == route.interface);
    let route = routes
        .iter()
        .filter(wanted)
        .min_by_key(|route| route.metric);
    let told = config
        .gateway
        .or_else(|| config.location.as_ref().map(|url| url.address.ip()));
    let fits = |interface: &&if_addrs::Interface| {
        let address = interface.ip();
        let usable = if config.pinholes {
            address.is_ipv6() && postern_proto::portmap::is_public(address)
        } else {
            address.is_ipv4() && !address.is_loopback()
        };
        let prefix = prefix_of(interface);
        usable
            && match (named, told, route) {
                (Some(name), ..) => *name == interface.name,
                // Who names a gateway means the link that it is on.
                (None, Some(told), _) if told.is_ipv4() == address.is_ipv4() => {
                    postern_proto::portmap::is_on_link(address, prefix, told)
                }
                (None, _, Some(route)) => route.interface == interface.name,
                (None, _, None) => false,
            }
    };
    let interface = interfaces.iter().find(fits);
    let interface = interface.ok_or_else(|| match (named, told) {
        _ if config.pinholes => StartError::NoIpv6,
        (Some(name), _) => StartError::UnknownInterface(name.escape_debug().to_string()),
        (None, Some(told)) => StartError::NotOnLink(told),
        (None, None) => StartError::NoInterface,
    })?;
    let on_link = |told: &IpAddr| {
        let routed = route.is_some_and(|route| route.gateway == *told);
        routed || postern_proto::portmap::is_on_link(interface.ip(), prefix_of(interface), *told)
    };
    if let Some(told) = told.filter(|told| !on_link(told)) {
        return Err(StartError::NotOnLink(told));
    }
    Ok(Link {
        interface: interface.name.clone(),
        index: interface.index.unwrap_or(0),
        address: interface.ip(),
        prefix: prefix_of(interface),
        gateway: told.or_else(|| {
            let same = route.filter(|route| route.interface == interface.name);
            same.map(|route| route.gateway)
        }),
    })
}

/// The routers of all default routes and the interfaces that lead to them, the preferred ones
/// first, IPv4 before IPv6.
pub(crate) fn default_routers() -> Vec<(String, IpAddr)> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let mut routes = default_routes(v6);
        routes.sort_by_key(|route| route.metric);
        let routers = routes.into_iter();
        all.extend(routers.map(|route| (route.interface, route.gateway)));
    }
    all
}

fn prefix_of(interface: &if_addrs::Interface) -> u8 {
    match &interface.addr {
        if_addrs::IfAddr::V4(v4) => v4.prefixlen,
        if_addrs::IfAddr::V6(v6) => v6.prefixlen,
    }
}

#[cfg(target_os = "linux")]
fn default_routes(v6: bool) -> Vec<Route> {
    let (path, parse): (_, fn(&str) -> Option<Route>) = if v6 {
        ("/proc/self/net/ipv6_route", parse_v6)
    } else {
        ("/proc/self/net/route", parse_v4)
    };
    let table = std::fs::read_to_string(path).unwrap_or_default();
    table.lines().filter_map(parse).collect()
}

/// Elsewhere the caller names the interface and the gateway.
#[cfg(not(target_os = "linux"))]
fn default_routes(_v6: bool) -> Vec<Route> {
    Vec::new()
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, …, metric, mask.
fn parse_v4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let through_gateway = hex(3)? & 2 != 0;
    let is_default = hex(1)? == 0 && hex(7)? == 0;
    (is_default && through_gateway).then_some(Route {
        interface: (*fields.first()?).to_owned(),
        gateway: Ipv4Addr::from(hex(2)?.to_ne_bytes()).into(),
        metric: fields.get(6)?.parse().ok()?,
    })
}

/// A line of `/proc/net/ipv6_route`: destination, bits, source, bits, gateway, metric, …,
/// flags, interface.
fn parse_v6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let through_gateway = hex(8)? & 2 != 0;
    let gateway = Ipv6Addr::from(u128::from_str_radix(fields.get(4)?, 16).ok()?);
    (hex(1)? == 0 && through_gateway).then_some(Route {
        interface: (*fields.get(9)?).to_owned(),
        gateway: gateway.into(),
        metric: hex(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn default_routes_are_read_from_the_kernels_tables() {
        let line = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        let route = parse_v4(line).unwrap();
        assert_eq!(route.gateway, IpAddr::from([192, 168, 1, 1]));
        assert_eq!((route.interface.as_str(), route.metric), ("eth0", 100));
        let other = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0";
        assert_eq!(parse_v4(other), None);
        assert_eq!(parse_v4("Iface\tDestination\tGateway"), None);
        let zeros = "0".repeat(32);
        let line = format!(
            "{zeros} 00 {zeros} 00 fd770000000000000000000000000001 00000400 00000001 00000000 00000003 c0"
        );
        let route = parse_v6(&line).unwrap();
        assert_eq!(route.gateway, "fd77::1".parse::<IpAddr>().unwrap());
        assert_eq!(route.interface, "c0");
    }
}
