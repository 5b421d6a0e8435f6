//! What is possible in a world, from what its routers are and nothing that an agent finds out.
//!
//! Behind each other NATs behave like one: its mappings and filters are the strictest of theirs,
//! and its ports are given by the outermost that does not preserve them. From two such the chance
//! of a path follows, within the packets and sockets that an agent may use.

use super::super::nat::{Allocation, Filtering, Gate, Hairpin, Mapping, Nat, Unsolicited};
use super::super::scenario::{Home, Outlet, TwoHomes};
use postern_proto::punch::{MAX_NARROW_PROBES, MAX_PROBES, MAX_SOCKETS, NARROW_PORTS};

/// Worlds of which the same is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// One of the two has no way out.
    NoWay,
    /// Both have a relay, and UDP is let out.
    Relay,
    /// Both have a relay, and one of them no UDP, or TCP to port 443 only, or an HTTP proxy only.
    RelayOverTcp,
    /// Both have IPv6 that firewalls at most stand before.
    Ipv6,
    /// Both are in one network, or one of them in the outer network of the other.
    Neighbours,
    /// Behind one carrier that does not send back what is meant for itself.
    CarrierWithoutHairpin,
    /// Behind one carrier that does, and all mappings are endpoint-independent.
    CarrierWithHairpin,
    /// Behind one carrier that does in a way of its own.
    OddCarrier,
    /// Plain ICE is enough.
    Plain,
    /// Plain ICE is enough unless the inside was first ([`TwoHomes::plain_ice_connects`]), or, where a
    /// router takes strangers' packets for its own, unless one side's beginning is lost.
    Racing,
    /// One side maps endpoint-dependently and gives ports that can be told.
    OneInOrder,
    /// One side maps endpoint-dependently and draws ports.
    OneRandom,
    /// Both map endpoint-dependently, and one filters addresses only.
    BothOneWide,
    /// Both map endpoint-dependently, at least one of them in order.
    BothInOrder,
    /// Both map endpoint-dependently and filter strictly; both draw from few ports.
    BothNarrow,
    /// The same, and one draws from many.
    BothRandom,
}

impl Class {
    /// In a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoWay => "no way out",
            Self::Relay => "with a relay",
            Self::RelayOverTcp => "with a relay over TCP",
            Self::Ipv6 => "IPv6",
            Self::Neighbours => "one network",
            Self::CarrierWithoutHairpin => "one carrier, no hairpin",
            Self::CarrierWithHairpin => "one carrier, hairpin",
            Self::OddCarrier => "one carrier, other",
            Self::Plain => "plain ICE",
            Self::Racing => "plain ICE, if first",
            Self::OneInOrder => "one dependent, in order",
            Self::OneRandom => "one dependent, random",
            Self::BothOneWide => "both dependent, one ADF",
            Self::BothInOrder => "both dependent, in order",
            Self::BothNarrow => "both dependent, narrow",
            Self::BothRandom => "both dependent, random",
        }
    }
}

/// The chance of a direct path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// What it follows from.
    pub class: Class,
    /// At least, 0 to 1; with 1 there has to be one.
    pub least: f64,
    /// At most; with 0 there can be none.
    pub most: f64,
    /// Whether there has to be a path, if only a relayed one.
    pub connects: bool,
}

impl Forecast {
    const fn new(class: Class, least: f64, most: f64) -> Self {
        Self {
            class,
            least,
            most,
            connects: least >= 1.0,
        }
    }

    const fn certain(class: Class) -> Self {
        Self::new(class, 1.0, 1.0)
    }

    const fn never(class: Class) -> Self {
        Self::new(class, 0.0, 0.0)
    }

    /// Nothing is promised.
    const fn open(class: Class) -> Self {
        Self::new(class, 0.0, 1.0)
    }

    /// What to expect of agents that punch in this world.
    #[must_use]
    pub fn of(homes: &TwoHomes) -> Self {
        let [left, right] = &homes.homes;
        if homes.relay {
            return Self::relayed(left, right);
        }
        if let Some(layer) = &homes.carrier {
            return Self::behind_one(&layer.v4, left, right);
        }
        let closed = |home: &Home| home.routers.iter().any(|layer| layer.v4 == Gate::Closed);
        let plain = homes.plain_ice_connects();
        let open_v6 =
            |home: &Home| home.ipv6 && home.routers.iter().all(|layer| layer.v6 != Gate::Closed);
        if open_v6(left) && open_v6(right) {
            return Self::certain(Class::Ipv6);
        }
        if closed(left) || closed(right) {
            return Self::never(Class::NoWay);
        }
        let sides = [Side::of(left), Side::of(right)];
        if sides.iter().any(|side| !side.tracks) {
            return Self::untracked(sides, homes);
        }
        match plain {
            Some(true) if may_be_spoilt(homes) => Self::new(Class::Racing, 0.98, 1.0),
            Some(true) => Self::certain(Class::Plain),
            None => Self::open(Class::Racing),
            Some(false) => Self::beyond_plain(Side::of(left), Side::of(right), homes),
        }
    }

    /// With a relay there is a path wherever both reach it. Whether a direct one is selected depends
    /// on how soon it is found.
    fn relayed(left: &Home, right: &Home) -> Self {
        let closed = |home: &Home| home.routers.iter().any(|layer| layer.v4 == Gate::Closed);
        if closed(left) || closed(right) {
            return Self::open(Class::NoWay);
        }
        let restricted = |home: &Home| home.outlet != Outlet::All && !home.routers.is_empty();
        let class = if restricted(left) || restricted(right) {
            Class::RelayOverTcp
        } else {
            Class::Relay
        };
        Self {
            connects: true,
            ..Self::open(class)
        }
    }

    fn behind_one(gate: &Gate, left: &Home, right: &Home) -> Self {
        let closed = |home: &Home| home.routers.iter().any(|layer| layer.v4 == Gate::Closed);
        if [left, right].iter().all(|home| home.routers.is_empty()) {
            return Self::certain(Class::Neighbours);
        }
        if closed(left) || closed(right) {
            return Self::never(Class::NoWay);
        }
        if left.routers.is_empty() || right.routers.is_empty() {
            return Self::certain(Class::Neighbours);
        }
        let Gate::Nat(nat) = gate else {
            return Self::open(Class::OddCarrier);
        };
        let independent = |home: &Home| Side::of(home).mapping == Mapping::EndpointIndependent;
        let all_independent =
            nat.mapping == Mapping::EndpointIndependent && independent(left) && independent(right);
        match nat.hairpin {
            Hairpin::Off => Self::never(Class::CarrierWithoutHairpin),
            Hairpin::ExternalSource if all_independent && !spoils(nat) => {
                Self::certain(Class::CarrierWithHairpin)
            }
            Hairpin::ExternalSource | Hairpin::InternalSource => Self::open(Class::OddCarrier),
        }
    }

    /// Where a router answers strangers from the port of a new flow, and so, as far as is promised, do
    /// the others.
    fn untracked([left, right]: [Side; 2], homes: &TwoHomes) -> Self {
        let independent = |side: &Side| side.mapping == Mapping::EndpointIndependent;
        let wide = |side: &Side| side.filtering != Filtering::AddressAndPortDependent;
        let by_port = |side: &Side| side.mapping == Mapping::AddressAndPortDependent;
        match (independent(&left), independent(&right)) {
            (true, true) => Self::certain(Class::Plain),
            (true, false) if wide(&left) => Self::certain(Class::Plain),
            (false, true) if wide(&right) => Self::certain(Class::Plain),
            (true, false) | (false, true) => Self::beyond_plain(left, right, homes),
            // Without a filter that lets every port of an address in, both ports have to be guessed
            // at once, and with one only, both NATs have to answer from where it was hit or each let
            // in what is not.
            (false, false) => {
                let hopeless = |one: &Side, other: &Side| {
                    !wide(one) && (!wide(other) || by_port(one) && by_port(other))
                };
                let strict = hopeless(&left, &right) || hopeless(&right, &left);
                let filtering = match strict {
                    true => Filtering::AddressAndPortDependent,
                    false => Filtering::AddressDependent,
                };
                let as_if = |side: Side| Side { filtering, ..side };
                Self::beyond_plain(as_if(left), as_if(right), homes)
            }
        }
    }

    fn beyond_plain(left: Side, right: Side, homes: &TwoHomes) -> Self {
        // With one server address it is unknown which of the two has to be guessed, and half of
        // the budget goes to each.
        let informed = homes.vantages > 0;
        let lossless = 0.9 * (1.0 - loss(homes)).powi(2);
        let scaled = |chance: f64| if informed { chance * lossless } else { 0.0 };
        let dependent = |side: &Side| side.mapping != Mapping::EndpointIndependent;
        match (dependent(&left), dependent(&right)) {
            (true, true) => Self::both_dependent(left, right, scaled),
            (is_left, _) => {
                let side = if is_left { left } else { right };
                match side.ports {
                    None => Self::new(Class::OneInOrder, scaled(0.99), 1.0),
                    Some(ports) => {
                        let chance = one_sided(ports, MAX_PROBES);
                        Self::new(Class::OneRandom, scaled(chance), 1.0)
                    }
                }
            }
        }
    }

    fn both_dependent(left: Side, right: Side, scaled: impl Fn(f64) -> f64) -> Self {
        let (Some(ours), Some(theirs)) = (left.ports, right.ports) else {
            return Self::open(Class::BothInOrder);
        };
        let wide = |side: &Side| side.filtering != Filtering::AddressAndPortDependent;
        if wide(&left) || wide(&right) {
            let ports = if wide(&left) { ours } else { theirs };
            return Self::new(
                Class::BothOneWide,
                scaled(one_sided(ports, MAX_PROBES)),
                1.0,
            );
        }
        // Ranges that are learnt from 32 samples are learnt within a quarter or so: the larger
        // budget is certain below three quarters of its limit, and possible up to five.
        let largest = ours.max(theirs);
        let class = if largest <= NARROW_PORTS {
            Class::BothNarrow
        } else {
            Class::BothRandom
        };
        let budget = |limit: u32| {
            if largest <= limit {
                MAX_NARROW_PROBES
            } else {
                MAX_PROBES
            }
        };
        let least = two_sided(ours, theirs, budget(NARROW_PORTS / 4 * 3));
        let most = two_sided(ours, theirs, budget(NARROW_PORTS / 4 * 5));
        Self::new(class, scaled(least), (most * 1.2).min(1.0))
    }
}

/// The chance that one of so many probes hits one of all sockets among so many ports.
fn one_sided(ports: u32, probes: u32) -> f64 {
    let sockets = f64::from(u32::try_from(MAX_SOCKETS).unwrap_or(u32::MAX));
    let miss = (1.0 - sockets / f64::from(ports)).max(0.0);
    1.0 - miss.powf(f64::from(probes))
}

/// The chance that two meet of so many flows from each side.
fn two_sided(ours: u32, theirs: u32, probes: u32) -> f64 {
    let probes = f64::from(probes);
    1.0 - (-(probes / f64::from(ours)) * (probes / f64::from(theirs))).exp()
}

/// The chance that a datagram is lost on the way from one to the other.
fn loss(homes: &TwoHomes) -> f64 {
    let [left, right] = &homes.homes;
    let worse = |home: &Home| {
        home.back
            .map_or(0.0, |back| back.loss)
            .max(home.access.loss)
    };
    1.0 - (1.0 - worse(left)) * (1.0 - worse(right))
}

/// Whether a stranger's first packet is taken for the router's own, whatever its time to live, and may
/// spoil the flow that the answer to it needs.
fn spoils(nat: &Nat) -> bool {
    nat.unsolicited == Unsolicited::Accept && nat.filtering != Filtering::EndpointIndependent
}

/// Whether a side that begins late, because what would have told it to begin was lost, may find the
/// other's first packet in its router's own table, where its mapping should have been.
fn may_be_spoilt(homes: &TwoHomes) -> bool {
    let mut layers = homes.homes.iter().flat_map(|home| &home.routers);
    let accepts = layers.any(|layer| match &layer.v4 {
        Gate::Nat(nat) => spoils(nat),
        Gate::Open | Gate::Firewall(_) | Gate::Nat64(_) | Gate::Closed => false,
    });
    accepts && (loss(homes) > 0.0 || homes.server.loss > 0.0)
}

/// All routers of a home together.
#[derive(Debug, Clone, Copy)]
struct Side {
    mapping: Mapping,
    filtering: Filtering,
    /// How many ports new mappings are drawn from; none where the next can be told.
    ports: Option<u32>,
    /// Whether all answer from the port that was hit.
    tracks: bool,
}

impl Side {
    fn of(home: &Home) -> Self {
        let open = Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::EndpointIndependent,
            ports: None,
            tracks: true,
        };
        let nats = home.routers.iter().filter_map(|layer| match layer.v4 {
            Gate::Nat(nat) | Gate::Nat64(nat) => Some(nat),
            Gate::Closed | Gate::Open | Gate::Firewall(_) => None,
        });
        let nats: Vec<Nat> = nats.collect();
        let decides = nats
            .iter()
            .find(|nat| nat.allocation != Allocation::Preserving);
        let all = nats.iter().fold(open, |all, nat| Self {
            mapping: all.mapping.max(nat.mapping),
            filtering: all.filtering.max(nat.filtering),
            tracks: all.tracks && nat.tracks_inbound,
            ..all
        });
        Self {
            ports: decides.and_then(ports_of),
            ..all
        }
    }
}

fn ports_of(nat: &Nat) -> Option<u32> {
    match nat.allocation {
        Allocation::Random(ports) => Some(ports.count()),
        Allocation::Block { size, .. } => Some(size.into()),
        Allocation::Sequential { .. } | Allocation::Preserving => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Ports;
    use crate::sim::matrix::{block, homes, kinds, sequential, strictest};

    /// Ports of a full range.
    const ALL: u32 = 64_512;

    fn forecast(left: Nat, right: Nat) -> Forecast {
        Forecast::of(&homes(left, right))
    }

    #[test]
    fn it_sorts_the_81_pairs_into_57_plain_ones_and_three_kinds_of_others() {
        let kinds = kinds();
        let pairs = kinds
            .iter()
            .flat_map(|l| kinds.iter().map(|r| forecast(l.nat, r.nat).class));
        let all: Vec<_> = pairs.collect();
        let count = |class| all.iter().filter(|c| **c == class).count();
        assert_eq!(count(Class::Plain), 57);
        assert_eq!(count(Class::OneRandom), 8);
        assert_eq!(count(Class::BothOneWide), 12);
        assert_eq!(count(Class::BothRandom), 4);
    }

    #[test]
    fn it_expects_73_of_the_81_where_routers_do_not_track_connections() {
        let loose = |nat| Nat {
            tracks_inbound: false,
            ..nat
        };
        let kinds = kinds().map(|kind| loose(kind.nat));
        let pairs = kinds
            .iter()
            .flat_map(|l| kinds.iter().map(|r| forecast(*l, *r)));
        let likely = pairs.filter(|forecast| forecast.least > 0.8);
        assert_eq!(likely.count(), 73);
    }

    #[test]
    fn its_chances_are_those_of_the_literature() {
        assert_eq!(Ports::ALL.count(), ALL);
        assert!((one_sided(ALL, 175) - 0.5).abs() < 0.005);
        assert!((one_sided(ALL, 1159) - 0.99).abs() < 0.001);
        assert!((two_sided(1024, 1024, 853) - 0.5).abs() < 0.005);
        assert!((two_sided(ALL, ALL, 53_710) - 0.5).abs() < 0.005);
    }

    #[test]
    fn ports_in_order_and_few_ports_are_told_apart() {
        let class = |left, right| forecast(left, right).class;
        assert_eq!(class(Nat::default(), sequential(20)), Class::OneInOrder);
        assert_eq!(class(strictest(), sequential(0)), Class::BothInOrder);
        assert_eq!(class(block(800), block(800)), Class::BothNarrow);
        assert_eq!(class(block(800), strictest()), Class::BothRandom);
    }
}
