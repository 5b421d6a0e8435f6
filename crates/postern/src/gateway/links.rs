//! The interfaces of the router, and their addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use if_addrs::{IfAddr, Interface, get_if_addrs};
use postern_proto::turn::server::Cidr;

use super::config::{GatewayConfig, GatewayError};

/// An address of an interface inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inside {
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) prefix_length: u8,
}

impl Inside {
    pub(super) fn network(&self) -> Option<Cidr> {
        Cidr::new(self.address, self.prefix_length)
    }

    pub(super) fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
    }
}

/// What the router's interfaces have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Links {
    /// Addresses of the interfaces inside, in a fixed order.
    pub(super) inside: Vec<Inside>,
    pub(super) external: Option<Ipv4Addr>,
    /// The interface outside that the outside address is of; `None` where it is told.
    pub(super) line: Option<(String, Ipv4Addr)>,
    /// All addresses of the router: no mapping leads there.
    pub(super) own: Vec<IpAddr>,
}

impl Links {
    /// Looks at the interfaces as they are.
    pub(super) fn look(config: &GatewayConfig) -> io::Result<Self> {
        let interfaces = get_if_addrs()?;
        let of = |names: &[String]| -> Vec<&Interface> {
            let named = |name| interfaces.iter().filter(move |i| &i.name == name);
            names.iter().flat_map(named).collect()
        };
        let mut inside: Vec<_> = of(&config.lan).into_iter().filter_map(read).collect();
        inside.sort();
        let v4 = |interface: &Interface| match interface.ip() {
            IpAddr::V4(ip) if !ip.is_link_local() => Some((interface.name.clone(), ip)),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        let outside = of(&config.wan).into_iter().find_map(v4);
        let line = outside.filter(|_| config.external_ip.is_none());
        let own = line.as_ref().map(|(_, address)| *address);
        Ok(Self {
            inside,
            external: config.external_ip.or(own),
            line,
            own: interfaces.iter().map(Interface::ip).collect(),
        })
    }

    pub(super) fn networks(&self) -> Vec<Cidr> {
        self.inside.iter().filter_map(Inside::network).collect()
    }
}

fn read(interface: &Interface) -> Option<Inside> {
    let prefix_length = match &interface.addr {
        IfAddr::V4(v4) => v4.prefixlen,
        IfAddr::V6(v6) => v6.prefixlen,
    };
    Some(Inside {
        interface: interface.name.clone(),
        index: interface.index?,
        address: interface.ip(),
        prefix_length,
    })
}

/// Whether the interfaces can be those of a gateway. One outside may be missing: a dialled
/// line comes and goes.
pub(super) fn check(config: &GatewayConfig) -> Result<(), GatewayError> {
    if config.wan.is_empty() || config.lan.is_empty() {
        return Err(GatewayError::NoInterface);
    }
    if let Some(both) = config.wan.iter().find(|name| config.lan.contains(name)) {
        return Err(GatewayError::BothSides(both.clone()));
    }
    let exists = |name: &&String| !std::path::Path::new("/sys/class/net").join(name).exists();
    match config.lan.iter().find(exists) {
        Some(missing) => Err(GatewayError::UnknownInterface(missing.clone())),
        None => Ok(()),
    }
}
