//! Random worlds, and what plain ICE must be able to do in them.

use super::{Home, Layer, Outlet, Signalling, TwoHomes};
use crate::sim::link::Pipe;
use crate::sim::nat::{Allocation, Filtering, Firewall, Gate, Mapping, Nat, Ports};
use crate::sim::random::Stream;
use std::time::Duration;

/// Its own stream of the seed: the world that is drawn shares no luck with the drawing.
const STREAM: u64 = u64::MAX - 1;

impl TwoHomes {
    /// Two homes drawn at random: up to three NATs of any behaviour on each side, IPv6 now
    /// and then, latency up to 150 ms, jitter, loss up to 5 %, reordering, duplication, and
    /// either kind of signalling.
    #[must_use]
    pub fn random(seed: [u8; 32]) -> Self {
        let mut dice = Dice(Stream::new(seed, STREAM));
        let [left, right] = [dice.home(), dice.home()];
        Self {
            same_addresses: dice.coin(),
            signalling: dice.signalling(),
            server: dice.pipe(),
            ..Self::new(left, right)
        }
    }

    /// Whether agents that do no more than RFC 8445 can connect: with IPv6 on both sides;
    /// or where one side lets everybody in, both map endpoint-independently, or one does
    /// and lets in every port of the other's address. Counts on no carrier.
    ///
    /// `None` where it depends on whose packet is first: a router that maps
    /// endpoint-dependently and lets everybody in, in front of one that does not, keeps
    /// the port that was hit only if the inside has not sent from another one yet.
    #[must_use]
    pub fn plain_ice_connects(&self) -> Option<bool> {
        let [left, right] = &self.homes;
        if left.has_open_v6() && right.has_open_v6() {
            return Some(true);
        }
        let connect = |view| nats_connect(left.nat(view), right.nat(view));
        match (connect(seen_from_inside), connect(seen_from_outside)) {
            (true, _) => Some(true),
            (false, false) => Some(false),
            (false, true) => None,
        }
    }
}

/// Mapping and filtering.
type Behaviour = (Mapping, Filtering);

/// The most open behaviour.
const OPEN: Behaviour = (Mapping::EndpointIndependent, Filtering::EndpointIndependent);

impl Home {
    /// The behaviour of all routers of the home together: the worst of each. `None` where
    /// no IPv4 passes.
    fn nat(&self, view: fn(&Nat) -> Behaviour) -> Option<Behaviour> {
        let layers = self.routers.iter();
        let behaviours = layers.map(|layer| behaviour(layer.v4, view));
        let mut all = behaviours.chain([self.ipv4.then_some(OPEN)]);
        all.try_fold(OPEN, |all, layer| {
            let layer = layer?;
            Some((all.0.max(layer.0), all.1.max(layer.1)))
        })
    }

    fn has_open_v6(&self) -> bool {
        self.ipv6 && self.routers.iter().all(|layer| layer.v6 != Gate::Closed)
    }
}

fn behaviour(gate: Gate, view: fn(&Nat) -> Behaviour) -> Option<Behaviour> {
    match gate {
        Gate::Closed => None,
        Gate::Open => Some(OPEN),
        Gate::Firewall(firewall) => Some((Mapping::EndpointIndependent, firewall.filtering)),
        Gate::Nat(nat) | Gate::Nat64(nat) => Some(view(&nat)),
    }
}

/// Flows that the inside begins.
const fn seen_from_inside(nat: &Nat) -> Behaviour {
    (nat.mapping, nat.filtering)
}

/// Flows that the outside begins: who lets everybody in answers from the port that was hit,
/// as if it mapped endpoint-independently.
fn seen_from_outside(nat: &Nat) -> Behaviour {
    match nat.filtering {
        Filtering::EndpointIndependent => OPEN,
        Filtering::AddressDependent | Filtering::AddressAndPortDependent => seen_from_inside(nat),
    }
}

fn nats_connect(left: Option<Behaviour>, right: Option<Behaviour>) -> bool {
    let (Some(left), Some(right)) = (left, right) else {
        return false;
    };
    let is_independent = |side: Behaviour| side.0 == Mapping::EndpointIndependent;
    let lets_everybody_in = |side: Behaviour| side.1 == Filtering::EndpointIndependent;
    let lets_every_port_in =
        |side: Behaviour| is_independent(side) && side.1 <= Filtering::AddressDependent;
    let either = |rule: &dyn Fn(Behaviour) -> bool| rule(left) || rule(right);
    either(&lets_everybody_in)
        || either(&lets_every_port_in)
        || (is_independent(left) && is_independent(right))
}

/// Draws the parts of a world.
struct Dice(Stream);

impl Dice {
    fn home(&mut self) -> Home {
        let v6 = self.pick(&[
            Gate::Closed,
            Gate::Closed,
            Gate::Closed,
            Gate::Open,
            Gate::Firewall(Firewall::default()),
        ]);
        let count = self.0.below(4);
        let layers = (0..count).map(|_| Layer {
            v4: Gate::Nat(self.nat()),
            v6,
        });
        Home {
            routers: layers.collect(),
            access: self.pipe(),
            back: None,
            ipv4: true,
            ipv6: v6 != Gate::Closed,
            outlet: Outlet::All,
            bridges: self.pick(&[0, 0, 0, 1, 2]),
        }
    }

    fn nat(&mut self) -> Nat {
        let mapping = self.pick(&[
            Mapping::EndpointIndependent,
            Mapping::EndpointIndependent,
            Mapping::AddressDependent,
            Mapping::AddressAndPortDependent,
        ]);
        let filtering = self.pick(&[
            Filtering::EndpointIndependent,
            Filtering::AddressDependent,
            Filtering::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        ]);
        Nat {
            allocation: self.allocation(mapping),
            ..Nat::new(mapping, filtering)
        }
    }

    fn allocation(&mut self, mapping: Mapping) -> Allocation {
        let random = Allocation::Random(Ports::ALL);
        match mapping {
            Mapping::EndpointIndependent => self.pick(&[Allocation::Preserving, random]),
            Mapping::AddressDependent | Mapping::AddressAndPortDependent => random,
        }
    }

    fn pipe(&mut self) -> Pipe {
        Pipe {
            latency: Duration::from_millis(self.0.below(75)),
            jitter: Duration::from_millis(self.pick(&[0, 0, 1, 20])),
            loss: self.pick(&[0.0, 0.0, 0.01, 0.05]),
            duplication: self.pick(&[0.0, 0.0, 0.0, 0.05]),
            reordering: self.coin(),
            ..Pipe::default()
        }
    }

    fn signalling(&mut self) -> Signalling {
        let delay = Duration::from_millis(self.0.below(500));
        if self.coin() {
            Signalling::Trickled(delay)
        } else {
            Signalling::Together { stagger: delay }
        }
    }

    fn coin(&mut self) -> bool {
        self.0.below(2) == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.0.below(from.len() as u64);
        from[usize::try_from(index).unwrap_or(0)]
    }
}
