//! Who meets behind what.

use super::super::nat::{Allocation, Filtering, Firewall, Gate, Hairpin, Mapping, Nat, Ports};
use super::super::scenario::{Home, Layer, Outlet, Signalling, TwoHomes};
use postern_proto::ice::Config;
use std::time::Duration;

/// A NAT with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Mapping and filtering, short.
    pub name: &'static str,
    /// What it does.
    pub nat: Nat,
}

/// The nine NATs of mapping and filtering. Endpoint-independent mappings preserve ports, the
/// others draw random ones from the full range.
#[must_use]
pub fn kinds() -> [Kind; 9] {
    use Filtering as F;
    use Mapping as M;
    let (open, strict) = (F::EndpointIndependent, F::AddressAndPortDependent);
    [
        ("EIM/EIF", M::EndpointIndependent, open),
        ("EIM/ADF", M::EndpointIndependent, F::AddressDependent),
        ("EIM/APDF", M::EndpointIndependent, strict),
        ("ADM/EIF", M::AddressDependent, open),
        ("ADM/ADF", M::AddressDependent, F::AddressDependent),
        ("ADM/APDF", M::AddressDependent, strict),
        ("APDM/EIF", M::AddressAndPortDependent, open),
        ("APDM/ADF", M::AddressAndPortDependent, F::AddressDependent),
        ("APDM/APDF", M::AddressAndPortDependent, strict),
    ]
    .map(|(name, mapping, filtering)| Kind {
        name,
        nat: Nat::new(mapping, filtering),
    })
}

/// The strictest NAT, as a carrier has it: it draws from a block of so many ports.
#[must_use]
pub fn block(ports: u16) -> Nat {
    const FIRST: u16 = 40_000;
    Nat {
        allocation: Allocation::Random(Ports {
            first: FIRST,
            last: FIRST + (ports - 1),
        }),
        overload: true,
        ..strictest()
    }
}

/// The strictest NAT, which gives one port after the other, to others as well.
#[must_use]
pub fn sequential(foreign_flows: u16) -> Nat {
    Nat {
        allocation: Allocation::Sequential {
            ports: Ports::ALL,
            step: 1,
        },
        foreign_flows,
        ..strictest()
    }
}

/// Maps and filters by address and port; random ports.
#[must_use]
pub fn strictest() -> Nat {
    Nat::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    )
}

/// Two homes 30 ms one way apart, whose agents punch. The right one has the other's candidates
/// 30 ms later than the left one. The STUN server has two addresses.
#[must_use]
pub fn homes(left: Nat, right: Nat) -> TwoHomes {
    between(Home::behind(left), Home::behind(right))
}

fn between(left: Home, right: Home) -> TwoHomes {
    TwoHomes {
        config: Config {
            patience: Duration::from_secs(12),
            punch: true,
            ..Config::default()
        },
        vantages: 2,
        signalling: Signalling::Together {
            stagger: Duration::from_millis(30),
        },
        ..TwoHomes::new(left, right)
    }
}

/// A row of the table: two peers and what is between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// What the left one is behind.
    pub left: String,
    /// What the right one is behind.
    pub right: String,
    /// The world.
    pub homes: TwoHomes,
}

impl Situation {
    fn new(left: &str, right: &str, homes: TwoHomes) -> Self {
        Self {
            left: left.to_owned(),
            right: right.to_owned(),
            homes,
        }
    }

    /// The same with routers that answer strangers from a new port
    /// ([`Nat::tracks_inbound`] is off).
    #[must_use]
    pub fn untracked(mut self) -> Self {
        let homes = self.homes.homes.iter_mut();
        let layers = homes.flat_map(|home| &mut home.routers);
        for layer in layers.chain(&mut self.homes.carrier) {
            if let Gate::Nat(nat) = &mut layer.v4 {
                nat.tracks_inbound = false;
            }
        }
        self
    }
}

/// The whole table: the 81 pairs of [`kinds`], then those with ports in order or in blocks, behind
/// two NATs, behind one and the same, behind IPv6 firewalls, and where UDP, or all but TCP to port 443,
/// is blocked. Only the last ones have a relay.
#[must_use]
pub fn situations() -> Vec<Situation> {
    let kinds = kinds();
    let pair = |left: &Kind, right: &Kind| {
        Situation::new(left.name, right.name, homes(left.nat, right.nat))
    };
    let pairs = kinds
        .iter()
        .flat_map(|left| kinds.iter().map(|right| pair(left, right)));
    pairs
        .chain(ports())
        .chain(layers())
        .chain(outlets())
        .collect()
}

fn ports() -> [Situation; 4] {
    let easy = Nat::default();
    let blocks = |size| homes(block(size), block(size));
    [
        Situation::new("EIM/APDF", "seq", homes(easy, sequential(0))),
        Situation::new("EIM/APDF", "seq, 20/s", homes(easy, sequential(20))),
        Situation::new("block 800", "block 800", blocks(800)),
        Situation::new("block 2048", "block 2048", blocks(2048)),
    ]
}

fn layers() -> [Situation; 6] {
    let easy = || Home::behind(Nat::default());
    let double = || easy().and_behind(Nat::default());
    let strict = Home::behind(strictest());
    let firewalled = || {
        let mut home = Home::behind(strictest());
        home.routers[0].v6 = Gate::Firewall(Firewall::default());
        home.ipv6 = true;
        home
    };
    let open = Filtering::EndpointIndependent;
    let carrier = |hairpin| {
        let nat = Nat::new(Mapping::EndpointIndependent, open);
        Nat { hairpin, ..nat }
    };
    [
        Situation::new("two NATs", "EIM/APDF", between(double(), easy())),
        Situation::new("two NATs", "APDM/APDF", between(double(), strict)),
        Situation::new(
            "IPv6 firewall",
            "IPv6 firewall",
            between(firewalled(), firewalled()),
        ),
        Situation::new(
            "same router",
            "same router",
            behind_one(Nat::default(), &neighbour()),
        ),
        Situation::new(
            "same carrier",
            "no hairpin",
            behind_one(carrier(Hairpin::Off), &easy()),
        ),
        Situation::new(
            "same carrier",
            "hairpin",
            behind_one(carrier(Hairpin::ExternalSource), &easy()),
        ),
    ]
}

fn outlets() -> [Situation; 5] {
    let easy = || Home::behind(Nat::default());
    let with = |outlet| Home { outlet, ..easy() };
    let relayed = |left, right| TwoHomes {
        relay: true,
        tcp: true,
        ..between(left, right)
    };
    let (blocked, https) = (Outlet::NoUdp, Outlet::Https);
    let proxy = Outlet::Proxy;
    [
        Situation::new("UDP blocked", "EIM/APDF", relayed(with(blocked), easy())),
        Situation::new(
            "UDP blocked",
            "UDP blocked",
            relayed(with(blocked), with(blocked)),
        ),
        Situation::new("443 only", "EIM/APDF", relayed(with(https), easy())),
        Situation::new("443 only", "443 only", relayed(with(https), with(https))),
        Situation::new("HTTP proxy", "443 only", relayed(with(proxy), with(https))),
    ]
}

/// No router of its own.
fn neighbour() -> Home {
    Home {
        routers: Vec::new(),
        ..Home::behind(Nat::default())
    }
}

fn behind_one(nat: Nat, home: &Home) -> TwoHomes {
    TwoHomes {
        carrier: Some(Layer {
            v4: Gate::Nat(nat),
            v6: Gate::Closed,
        }),
        ..between(home.clone(), home.clone())
    }
}
