//! Worlds drawn at random.

use super::super::link::Pipe;
use super::super::nat::{
    Allocation, Filtering, Firewall, Gate, Hairpin, Mapping, Nat, Ports, Timeouts, Unsolicited,
};
use super::super::random::Stream;
use super::super::scenario::{Home, Layer, Outlet, Signalling, TwoHomes};
use postern_proto::ice::Config;
use std::time::Duration;

/// Its own stream of the seed: the world that is drawn shares no luck with the drawing.
const STREAM: u64 = u64::MAX - 2;
/// Where narrow ranges and blocks begin.
const NARROW: u16 = 40_000;

/// Draws a world of the survey: up to three NATs of any behaviour on each side, or both homes
/// behind one carrier; ports random in wide and narrow ranges, in blocks and in order, with the
/// flows of others in between; routers that drop, accept or refuse strangers and mappings that die
/// young; now and then IPv6, no way for IPv4, or a relay, which may be the only way out, over TCP, to port 443
/// alone or through a proxy; delays up to 150 ms, unequal in either direction,
/// jitter, loss up to 5 % a link, reordering and duplication.
#[must_use]
pub fn world(seed: [u8; 32]) -> TwoHomes {
    let mut dice = Dice(Stream::new(seed, STREAM));
    let carrier = dice.one_in(8).then(|| dice.carrier());
    let [mut left, mut right] = [dice.home(carrier.is_some()), dice.home(carrier.is_some())];
    let relay = dice.one_in(6);
    if relay {
        left.outlet = dice.outlet();
        right.outlet = dice.outlet();
    }
    TwoHomes {
        carrier,
        relay,
        tcp: relay && dice.coin(),
        same_addresses: dice.coin(),
        signalling: dice.signalling(),
        server: dice.pipe(),
        vantages: dice.pick(&[0, 1, 2, 2, 2, 2]),
        config: Config {
            patience: Duration::from_secs(16),
            punch: true,
            ..Config::default()
        },
        ..TwoHomes::new(left, right)
    }
}

/// Draws the parts of a world.
struct Dice(Stream);

impl Dice {
    fn home(&mut self, behind_carrier: bool) -> Home {
        let v6 = if behind_carrier {
            Gate::Closed
        } else {
            let firewall = Gate::Firewall(Firewall::default());
            self.pick(&[
                Gate::Closed,
                Gate::Closed,
                Gate::Closed,
                Gate::Closed,
                Gate::Closed,
                Gate::Closed,
                Gate::Open,
                firewall,
            ])
        };
        let count = self.pick(&[0, 1, 1, 1, 1, 1, 1, 2, 2, 3]);
        let blocked = self.one_in(20);
        let layers = (0..count).map(|depth| {
            let nat = Gate::Nat(self.nat());
            let v4 = if blocked && depth == 0 {
                Gate::Closed
            } else {
                nat
            };
            Layer { v4, v6 }
        });
        Home {
            routers: layers.collect(),
            access: self.pipe(),
            back: self.one_in(4).then(|| self.pipe()),
            ipv4: true,
            ipv6: v6 != Gate::Closed,
            outlet: Outlet::All,
            bridges: self.pick(&[0, 0, 0, 1, 2]),
        }
    }

    fn outlet(&mut self) -> Outlet {
        self.pick(&[
            Outlet::All,
            Outlet::All,
            Outlet::NoUdp,
            Outlet::Https,
            Outlet::Proxy,
        ])
    }

    fn carrier(&mut self) -> Layer {
        let hairpin = self.pick(&[
            Hairpin::Off,
            Hairpin::InternalSource,
            Hairpin::ExternalSource,
            Hairpin::ExternalSource,
        ]);
        Layer {
            v4: Gate::Nat(Nat {
                hairpin,
                ..self.nat()
            }),
            v6: Gate::Closed,
        }
    }

    fn nat(&mut self) -> Nat {
        use Filtering as F;
        use Mapping as M;
        let mapping = self.pick(&[
            M::EndpointIndependent,
            M::EndpointIndependent,
            M::AddressDependent,
            M::AddressAndPortDependent,
            M::AddressAndPortDependent,
        ]);
        let filtering = self.pick(&[
            F::EndpointIndependent,
            F::AddressDependent,
            F::AddressAndPortDependent,
            F::AddressAndPortDependent,
        ]);
        let allocation = self.allocation(mapping);
        let unsolicited = self.pick(&[
            Unsolicited::Drop,
            Unsolicited::Drop,
            Unsolicited::Drop,
            Unsolicited::Drop,
            Unsolicited::Accept,
            Unsolicited::Reset,
            Unsolicited::PortUnreachable,
        ]);
        let in_order = matches!(allocation, Allocation::Sequential { .. });
        Nat {
            allocation,
            parity: !in_order && self.one_in(10),
            overload: mapping != M::EndpointIndependent,
            foreign_flows: self.pick(&[0, 0, 5, 20]),
            unsolicited,
            timeouts: self.timeouts(),
            ..Nat::new(mapping, filtering)
        }
    }

    fn allocation(&mut self, mapping: Mapping) -> Allocation {
        let narrow = |size: u16| {
            Allocation::Random(Ports {
                first: NARROW,
                last: NARROW + (size - 1),
            })
        };
        let sequential = |step| Allocation::Sequential {
            ports: Ports::ALL,
            step,
        };
        let wide = Allocation::Random(Ports::ALL);
        let high = Allocation::Random(Ports {
            first: 32_768,
            last: 65_535,
        });
        let block = Allocation::Block {
            ports: Ports {
                first: NARROW,
                last: NARROW + 8191,
            },
            size: 1024,
        };
        if mapping == Mapping::EndpointIndependent {
            let preserving = Allocation::Preserving;
            return self.pick(&[preserving, preserving, wide, sequential(1), block]);
        }
        self.pick(&[
            wide,
            wide,
            wide,
            high,
            narrow(512),
            narrow(800),
            narrow(2048),
            narrow(4096),
            block,
            sequential(1),
            sequential(2),
        ])
    }

    fn timeouts(&mut self) -> Timeouts {
        let usual = Timeouts::default();
        let brief = Duration::from_secs(50 + self.0.below(26));
        Timeouts {
            lifetime: self.one_in(5).then_some(brief),
            inbound_refresh: !self.one_in(5),
            ..usual
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
        self.one_in(2)
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.0.below(sides) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.0.below(from.len() as u64);
        from[usize::try_from(index).unwrap_or(0)]
    }
}
