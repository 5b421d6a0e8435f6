//! What two NATs allow, at what price and with what chance.

use std::time::Duration;

use super::Technique;
use super::budget::{MAX_NARROW_PROBES, MAX_PROBES, MAX_SOCKETS, NARROW_PORTS, PROBES_PER_SECOND};
use super::nat::{Allocation, Filtering, Mapping, NatReport, PortRange};

/// The fewest sockets of a birthday: with fewer, chance varies too much.
const MIN_SOCKETS: u32 = 16;
/// A birthday shall be over after so many probes in 99 of 100 cases where ports are few, which
/// decides how many sockets it takes.
const QUICK_PROBES: f64 = 250.0;
/// Sockets of a birthday of two sides that draw from few ports.
const NARROW_SOCKETS: u32 = 64;
/// Plain checks have this long before an attempt begins that seems to be needed: filters are not
/// known, and where one is open a plain pair is valid after two round trips.
const GRACE: Duration = Duration::from_millis(250);
/// The same before one that costs a datagram or two.
const SHORT_GRACE: Duration = Duration::from_millis(200);
/// The same before one that costs many and is perhaps not needed.
const LONG_GRACE: Duration = Duration::from_secs(1);
/// Where it is not known which side maps endpoint-dependently, both are taken to from this chance on
/// to hit so within the usual budget: guessing from both sides connects whoever does, while it
/// takes one side that does not to guess from the other alone.
const GOOD_CHANCE: f64 = 0.85;
/// A prediction is tried so often, each time between two samples of its own. The first hits
/// unless somebody else's flow came in between, or a datagram was lost.
const PREDICTIONS: u32 = 5;

/// So many checks from the main socket come first where it is not known whether the other side's do any
/// good: with [`NARROW_SOCKETS`] mappings among [`NARROW_PORTS`] 9,999 of 10,000 hit before.
const LEADING_PROBES: u32 = 300;

/// What comes before [`Part::Spray`], for the case that one side alone maps endpoint-dependently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lead {
    /// Nothing: both do.
    #[default]
    Nothing,
    /// Mappings towards the one address that the peer has then: it is we who do.
    Open,
    /// So many checks from the one mapping that we have then.
    Probe(u32),
}

/// What one side does in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Open a mapping towards the peer whose port can be told, and tell it.
    Predict {
        /// How often.
        times: u32,
    },
    /// Open a new mapping towards the peer and tell its port, and check the one that the peer
    /// tells: the old ones may be spoilt.
    Renew {
        /// How often.
        times: u32,
    },
    /// Wait for the peer to tell ports, and check them.
    Follow,
    /// Open so many mappings towards the one address of the peer.
    Open {
        /// How many.
        sockets: u32,
    },
    /// Check random ports of the peer from the main socket.
    Probe {
        /// Which ports.
        ports: PortRange,
        /// How many checks.
        probes: u32,
    },
    /// Check random ports of the peer from many sockets in turn.
    Spray {
        /// From how many sockets.
        sockets: u32,
        /// Which ports.
        ports: PortRange,
        /// How many checks.
        probes: u32,
        /// The peer has one port for all of ours: once a check of it has come from there, all
        /// sockets send to that port, so that its next hit is one in both directions.
        answers: bool,
        /// What comes first, of the same budget.
        lead: Lead,
    },
    /// First open so many mappings towards the one address of the peer, then check random ports of it,
    /// all from the main socket: the peer [answers](Self::Spray::answers) the port that it sees.
    OpenThenProbe {
        /// How many mappings to open.
        sockets: u32,
        /// Which ports to check.
        ports: PortRange,
        /// How many datagrams in all.
        probes: u32,
    },
    /// Both [`Open`](Self::Open) and [`Probe`](Self::Probe), in turn: it is not known which
    /// side maps endpoint-dependently.
    OpenAndProbe {
        /// How many mappings to open.
        sockets: u32,
        /// Which ports to check.
        ports: PortRange,
        /// How many datagrams in all.
        probes: u32,
    },
}

/// An attempt of two peers, as one of them sees it. Both make the same one from the same two
/// reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// What it is called.
    pub technique: Technique,
    /// What this side does.
    pub part: Part,
    /// How likely it is to hit, 0 to 1, if the reports are right and filters look at addresses
    /// and ports.
    pub probability: f64,
    /// How long plain checks have before it begins: the less certain it is that they cannot
    /// succeed, the longer.
    pub grace: Duration,
}

impl Plan {
    /// The plan for a host behind `local` whose peer is behind `remote`. `None` where neither
    /// is behind a NAT.
    #[must_use]
    pub fn new(local: &NatReport, remote: &NatReport) -> Option<Self> {
        let certain = local.mapping.is_dependent() || remote.mapping.is_dependent();
        let plan = match (may_depend(local), may_depend(remote)) {
            (false, false) if !local.is_nat() && !remote.is_nat() => return None,
            (false, false) => return Some(RENEWAL),
            (false, true) if !certain => Self::with_one_dependent(remote, false),
            (true, false) if !certain => Self::with_one_dependent(local, true),
            (true, true) if local.mapping.is_dependent() && remote.mapping.is_dependent() => {
                Self::with_both_dependent(local, remote)
            }
            _ if certain => Self::with_one_certain(local, remote),
            (_, _) => Self::with_unknown(local, remote),
        };
        Some(Self {
            grace: if certain { GRACE } else { LONG_GRACE },
            ..plan
        })
    }

    /// How long an attempt lasts at most, from its first datagram to the last answer worth
    /// waiting for.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let datagrams = match self.part {
            Part::Predict { .. } | Part::Renew { .. } | Part::Follow => {
                return Duration::from_secs(5);
            }
            Part::Open { .. } => MAX_PROBES,
            Part::Probe { probes, .. }
            | Part::Spray { probes, .. }
            | Part::OpenThenProbe { probes, .. }
            | Part::OpenAndProbe { probes, .. } => probes,
        };
        let sending = Duration::from_secs(1).saturating_mul(datagrams);
        let sending = sending.checked_div(PROBES_PER_SECOND).unwrap_or_default();
        sending.saturating_add(Duration::from_secs(2))
    }

    /// Sockets that it takes on this side.
    #[must_use]
    pub const fn sockets(&self) -> u32 {
        match self.part {
            Part::Predict { .. } | Part::Renew { .. } | Part::Follow | Part::Probe { .. } => 0,
            Part::Open { sockets }
            | Part::Spray { sockets, .. }
            | Part::OpenThenProbe { sockets, .. }
            | Part::OpenAndProbe { sockets, .. } => sockets,
        }
    }

    fn with_one_dependent(dependent: &NatReport, is_ours: bool) -> Self {
        if dependent.allocation.is_predictable() {
            let times = PREDICTIONS;
            return Self {
                technique: Technique::Predicted,
                part: if is_ours {
                    Part::Predict { times }
                } else {
                    Part::Follow
                },
                probability: 0.99,
                grace: GRACE,
            };
        }
        let ports = ports_of(dependent);
        let sockets = sockets_for(ports.count());
        let probes = MAX_PROBES;
        Self {
            technique: Technique::Birthday,
            part: if is_ours {
                Part::Open { sockets }
            } else {
                Part::Probe { ports, probes }
            },
            probability: one_sided(sockets, ports.count(), probes),
            grace: GRACE,
        }
    }

    /// One side is known to map endpoint-dependently, the other may, and if it draws from few ports even
    /// where two servers have seen the same one. A part of the budget is enough if it does
    /// not, and the rest is for the case that it does.
    fn with_one_certain(local: &NatReport, remote: &NatReport) -> Self {
        let is_ours = local.mapping.is_dependent();
        let dependent = if is_ours { local } else { remote };
        let (ours, ports) = (ports_of(local).count(), ports_of(remote));
        let one = Self::with_one_dependent(dependent, is_ours);
        let drawn = |nat: &NatReport| matches!(nat.allocation, Allocation::Random(_));
        let few = ours.max(ports.count()) <= NARROW_PORTS;
        if !(drawn(local) && drawn(remote) && few) {
            return one;
        }
        let rest = MAX_PROBES.saturating_sub(LEADING_PROBES);
        let miss = 1.0 - two_sided(ours, ports.count(), rest);
        Self {
            part: Part::Spray {
                sockets: NARROW_SOCKETS,
                ports: if is_ours { surest_of(remote) } else { ports },
                probes: MAX_PROBES,
                answers: false,
                lead: if is_ours {
                    Lead::Open
                } else {
                    Lead::Probe(LEADING_PROBES)
                },
            },
            probability: 1.0 - (1.0 - one.probability) * miss,
            ..one
        }
    }

    fn with_both_dependent(local: &NatReport, remote: &NatReport) -> Self {
        let widest = ports_of(local).count().max(ports_of(remote).count());
        if widest <= NARROW_PORTS {
            return Self::from_both_sides(local, remote, NARROW_SOCKETS, MAX_NARROW_PROBES);
        }
        let plan = Self::from_both_sides(local, remote, max_sockets(), MAX_PROBES);
        let (ports, probes) = (surest_of(remote), MAX_PROBES);
        let one_port = |nat: &NatReport| nat.mapping == Mapping::AddressDependent;
        let part = if one_port(local) && remote.mapping.may_depend_on_ports() {
            Part::OpenThenProbe {
                sockets: openings(local, remote),
                ports,
                probes,
            }
        } else {
            Part::Spray {
                sockets: max_sockets(),
                ports,
                probes,
                answers: one_port(remote) && local.mapping.may_depend_on_ports(),
                lead: Lead::Nothing,
            }
        };
        Self { part, ..plan }
    }

    fn from_both_sides(local: &NatReport, remote: &NatReport, sockets: u32, probes: u32) -> Self {
        let (ours, ports) = (ports_of(local).count(), ports_of(remote));
        Self {
            technique: Technique::Birthday,
            part: Part::Spray {
                sockets,
                ports: surest_of(remote),
                probes,
                answers: false,
                lead: Lead::Nothing,
            },
            probability: two_sided(ours, ports.count(), probes),
            grace: GRACE,
        }
    }

    /// One server address tells nobody from whom mappings depend on addresses: either side may
    /// be the one that does.
    fn with_unknown(local: &NatReport, remote: &NatReport) -> Self {
        let (ours, ports) = (ports_of(local).count(), ports_of(remote));
        if two_sided(ours, ports.count(), MAX_PROBES) >= GOOD_CHANCE {
            return Self::from_both_sides(local, remote, NARROW_SOCKETS, MAX_PROBES);
        }
        let sockets = sockets_for(ours);
        let probes = MAX_PROBES;
        let checks = probes.saturating_sub(sockets.saturating_mul(2));
        Self {
            technique: Technique::Birthday,
            part: Part::OpenAndProbe {
                sockets,
                ports,
                probes,
            },
            probability: one_sided(sockets_for(ports.count()), ports.count(), checks),
            grace: LONG_GRACE,
        }
    }
}

/// Two NATs that map endpoint-independently, and no path: one of them may have taken an early
/// check for its own and remembers it, so that a mapping that should be there is another. A
/// new port has no past.
const RENEWAL: Plan = Plan {
    technique: Technique::Reflexive,
    part: Part::Renew { times: 4 },
    probability: 0.9,
    grace: SHORT_GRACE,
};

/// Whether mappings depend on the remote endpoint, or may as far as is known. A NAT that is not
/// known to and preserves ports does not: none that was ever described did both.
fn may_depend(nat: &NatReport) -> bool {
    match nat.mapping {
        Mapping::EndpointIndependent => false,
        Mapping::Unknown | Mapping::PortIndependent => nat.allocation != Allocation::Preserving,
        Mapping::AddressDependent
        | Mapping::AddressAndPortDependent
        | Mapping::EndpointDependent => true,
    }
}

fn ports_of(nat: &NatReport) -> PortRange {
    match nat.allocation {
        Allocation::Random(ports) => ports,
        Allocation::Sequential { step, last, .. } => ahead_of(step, last),
        Allocation::Unknown | Allocation::Preserving => PortRange::ALL,
    }
}

/// Ports to guess at where any of the range is as likely as another: its middle. The ends of a range
/// that was learnt from samples are a guess themselves, and a probe beyond them is wasted.
fn surest_of(nat: &NatReport) -> PortRange {
    let ports = ports_of(nat);
    match nat.allocation {
        Allocation::Random(_) => {
            let margin = u16::try_from(ports.count() >> 4).unwrap_or(0);
            PortRange {
                first: ports.first.saturating_add(margin),
                last: ports.last.saturating_sub(margin),
            }
        }
        Allocation::Sequential { .. } | Allocation::Unknown | Allocation::Preserving => ports,
    }
}

/// The ports that a counter passes during an attempt.
fn ahead_of(step: i16, last: u16) -> PortRange {
    let distance = i64::from(step).saturating_mul(i64::from(MAX_PROBES));
    let end = i64::from(last).saturating_add(distance);
    let end = u16::try_from(end.clamp(1024, 65_535)).unwrap_or(u16::MAX);
    PortRange {
        first: last.min(end),
        last: last.max(end),
    }
}

/// Mappings that the peer may guess at, where its guesses can get in and ours cannot: none where it
/// is known that this is not so.
fn openings(local: &NatReport, remote: &NatReport) -> u32 {
    let strict = Filtering::AddressAndPortDependent;
    let useless =
        local.filtering == strict || ![strict, Filtering::Unknown].contains(&remote.filtering);
    if useless { 0 } else { max_sockets() }
}

fn max_sockets() -> u32 {
    u32::try_from(MAX_SOCKETS).unwrap_or(u32::MAX)
}

/// So many sockets that [`QUICK_PROBES`] checks of `ports` ports hit one in 99 of 100 cases,
/// within what is allowed.
fn sockets_for(ports: u32) -> u32 {
    let wanted = f64::from(ports) * (1.0 - 0.01_f64.powf(1.0 / QUICK_PROBES));
    // The conversion saturates.
    (wanted.ceil() as u32).clamp(MIN_SOCKETS, max_sockets())
}

/// The chance that one of `probes` different ports is one of `sockets` among `ports`.
fn one_sided(sockets: u32, ports: u32, probes: u32) -> f64 {
    let miss = 1.0 - f64::from(sockets.min(ports)) / f64::from(ports);
    1.0 - miss.powf(f64::from(probes))
}

/// The chance that of `probes` flows from each side two meet, when each guesses the other's port.
fn two_sided(ours: u32, theirs: u32, probes: u32) -> f64 {
    let probes = f64::from(probes);
    1.0 - (-(probes / f64::from(ours)) * (probes / f64::from(theirs))).exp()
}
