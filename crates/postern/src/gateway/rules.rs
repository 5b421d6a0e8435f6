//! The rules of the gateway in nftables. They never change while it runs: a mapping is one
//! element in each map that it needs, so its cost does not grow with the number of others.

use crate::os::netlink::{
    Base, Batch, Chain, ChainKind, Element, Expressions, Family, Hook, KeyType, Meta, Register,
    Set, SetFlags, Tracked,
};

/// The name of the table, of the family `inet`.
pub(super) const TABLE: &str = "postern";

/// The most mappings of one protocol without a filter, and as many with one remote host.
pub(super) const MAX_MAPPINGS: u32 = 65_536;

/// The most mappings of one protocol that are filtered by prefixes: the kernel looks for
/// these one by one.
pub(super) const MAX_PREFIXES: u32 = 512;

/// Where the table stands among others: before those with the standard priorities of
/// nftables, `dstnat`, `filter` and `srcnat`.
const BEFORE: i32 = 10;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;

/// `NF_CT_STATE_BIT(IP_CT_NEW)`: the packet is of a flow that nobody has answered.
const NEW_FLOW: u32 = 1 << 3;

/// `IPS_DST_NAT`: the connection tracker has translated the destination.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// Offsets in the headers of IP, TCP and UDP.
const V4_SOURCE: u32 = 12;
const V4_DESTINATION: u32 = 16;
const V6_SOURCE: u32 = 8;
const V6_DESTINATION: u32 = 24;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

use KeyType::{Interface, Port, Protocol, V4, V6};

/// The sets of one transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Maps {
    /// `IPPROTO_…`.
    pub(super) protocol: u8,
    name: &'static str,
    /// Outside address and port to inside ones, for everybody.
    pub(super) open: &'static str,
    /// Remote address, outside address and port to inside ones.
    pub(super) from: &'static str,
    /// Ranges of remote addresses, outside address and port, ranges of remote ports to inside
    /// ones.
    pub(super) prefix: &'static str,
    /// Inside address and port to the outside ones that its traffic leaves from.
    pub(super) back: &'static str,
    /// The same for one remote address and port (PCP's PEER).
    pub(super) peer: &'static str,
}

/// Of TCP.
pub(super) const TCP: Maps = Maps {
    protocol: 6,
    name: "tcp",
    open: "tcp4",
    from: "tcp4-from",
    prefix: "tcp4-prefix",
    back: "tcp4-back",
    peer: "tcp4-peer",
};

/// Of UDP.
pub(super) const UDP: Maps = Maps {
    protocol: 17,
    name: "udp",
    open: "udp4",
    from: "udp4-from",
    prefix: "udp4-prefix",
    back: "udp4-back",
    peer: "udp4-peer",
};

/// IPv6: inside address, protocol and port that everybody may reach.
pub(super) const PINHOLES: &str = "pinholes6";
/// The same for one remote address.
pub(super) const PINHOLES_FROM: &str = "pinholes6-from";
/// The same for ranges of remote addresses and ports.
pub(super) const PINHOLES_PREFIX: &str = "pinholes6-prefix";
/// The same for one remote address and port.
pub(super) const PINHOLES_PEER: &str = "pinholes6-peer";
/// Inside addresses, protocols and ports whose traffic is counted, over IPv4 and IPv6.
pub(super) const TRAFFIC4: &str = "traffic4";
pub(super) const TRAFFIC6: &str = "traffic6";
/// All of these that hold leases.
pub(super) const ALL_MAPS: [&str; 14] = [
    TCP.open,
    TCP.from,
    TCP.prefix,
    TCP.back,
    TCP.peer,
    UDP.open,
    UDP.from,
    UDP.prefix,
    UDP.back,
    UDP.peer,
    PINHOLES,
    PINHOLES_FROM,
    PINHOLES_PREFIX,
    PINHOLES_PEER,
];

/// Which protocol's a map is; `None` for a set of pinholes.
pub(super) fn maps_of(set: &str) -> Option<Maps> {
    let has =
        |maps: &Maps| [maps.open, maps.from, maps.prefix, maps.back, maps.peer].contains(&set);
    [TCP, UDP].into_iter().find(has)
}

/// Interfaces towards the hosts inside.
const INSIDE: &str = "inside";
/// Interfaces towards the internet.
const OUTSIDE: &str = "outside";

/// What the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// Interfaces towards the internet.
    pub(super) outside: Vec<String>,
    /// Interfaces towards the hosts inside.
    pub(super) inside: Vec<String>,
    /// A bit of the packet mark that says: this may pass, a mapping leads it. Other
    /// firewalls are told to let it through.
    pub(super) mark: u32,
}

impl Rules {
    /// Makes the table with all that stays; whatever had its name is gone.
    pub(super) fn install(&self) -> Batch {
        let mut batch = Batch::new();
        // Deleting what may not be there needs it to be there.
        batch.add_table(TABLE);
        batch.delete_table(TABLE);
        batch.add_table(TABLE);
        for set in sets() {
            batch.add_set(TABLE, &set);
        }
        batch.add_new_elements(TABLE, INSIDE, &interfaces(&self.inside));
        batch.add_new_elements(TABLE, OUTSIDE, &interfaces(&self.outside));
        for chain in &CHAINS {
            batch.add_chain(TABLE, chain);
        }
        for rule in self.rules() {
            batch.add_rule(TABLE, rule.chain, &rule.expressions);
        }
        batch
    }

    /// The rules as `nft` writes them, without elements.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("table inet {TABLE} {{\n");
        for chain in &CHAINS {
            text.push_str(&format!("\tchain {} {{\n", chain.name));
            text.push_str(&format!("\t\t{}\n", describe_hook(chain)));
            for rule in self.rules().iter().filter(|rule| rule.chain == chain.name) {
                text.push_str(&format!("\t\t{}\n", rule.text));
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for maps in [TCP, UDP] {
            rules.extend(self.destination_rules(&maps));
        }
        for maps in [TCP, UDP] {
            rules.extend(source_rules(&maps));
        }
        rules.push(self.hairpin());
        rules.extend(self.pinhole_rules());
        rules.extend(counting_rules());
        rules.push(self.passing());
        rules
    }

    /// From outside to inside.
    fn destination_rules(&self, maps: &Maps) -> [Rule; 3] {
        let name = maps.name;
        let own = format!("ip daddr . {name} dport");
        let remote = format!("ip saddr . {own}");
        let port = format!("{remote} . {name} sport");
        let to = |map: &'static str, key: &str, first: u32| Rule {
            chain: "prerouting",
            text: format!(
                "meta nfproto ipv4 meta l4proto {name} {} dnat ip to {key} map @{map}",
                self.marking()
            ),
            expressions: self.marked(first, map, v4(maps.protocol)).destination_nat(
                Family::V4,
                Register(0),
                Register(1),
            ),
        };
        [
            to(maps.from, &remote, 0),
            to(maps.prefix, &port, 0),
            to(maps.open, &own, 1),
        ]
    }

    /// Looks for the destination in a map, with the source before it if `first` is 0, and
    /// marks what is found.
    fn marked(&self, first: u32, map: &str, expressions: Expressions) -> Expressions {
        expressions
            .payload(Base::Network, V4_SOURCE, 4, Register(0))
            .payload(Base::Network, V4_DESTINATION, 4, Register(1))
            .payload(Base::Transport, DESTINATION_PORT, 2, Register(2))
            .payload(Base::Transport, SOURCE_PORT, 2, Register(3))
            .in_map(map, Register(first), Register(0))
            .meta(Meta::Mark, Register(2))
            .set_bits(Register(2), self.mark)
            .set_mark(Register(2))
    }

    /// A host inside that uses an outside address gets its answers from there, too.
    fn hairpin(&self) -> Rule {
        Rule {
            chain: "postrouting",
            text: format!(
                "iifname @{INSIDE} oifname @{INSIDE} ct status dnat {} masquerade",
                self.marking_test()
            ),
            expressions: self
                .is_marked(is_translated(
                    Expressions::new()
                        .meta(Meta::InputName, Register(0))
                        .in_set(INSIDE, Register(0))
                        .meta(Meta::OutputName, Register(0))
                        .in_set(INSIDE, Register(0)),
                ))
                .masquerade(),
        }
    }

    fn marking(&self) -> String {
        format!("meta mark set meta mark | {:#010x}", self.mark)
    }

    fn marking_test(&self) -> String {
        format!("meta mark & {mark:#010x} == {mark:#010x}", mark = self.mark)
    }

    fn is_marked(&self, expressions: Expressions) -> Expressions {
        is_marked(expressions, self.mark)
    }

    fn pinhole_rules(&self) -> [Rule; 4] {
        let rule = |set, key: &str, first, load: fn(Expressions) -> Expressions| Rule {
            chain: "forward",
            text: format!(
                "iifname @{OUTSIDE} ct state new {key} @{set} {}",
                self.marking()
            ),
            expressions: load(is_new(v6_through(Meta::InputName)))
                .in_set(set, Register(first))
                .meta(Meta::Mark, Register(0))
                .set_bits(Register(0), self.mark)
                .set_mark(Register(0)),
        };
        let open = "ip6 daddr . meta l4proto . th dport";
        let from = format!("ip6 saddr . {open}");
        let peer = format!("ip6 saddr . {open} . th sport");
        [
            rule(PINHOLES, open, 4, load_v6),
            rule(PINHOLES_FROM, &from, 0, load_v6),
            rule(PINHOLES_PREFIX, &peer, 0, load_v6),
            rule(PINHOLES_PEER, &peer, 0, load_v6),
        ]
    }

    /// What is marked passes this table. Other tables have to let it pass, too.
    fn passing(&self) -> Rule {
        Rule {
            chain: "forward",
            text: format!("{} accept", self.marking_test()),
            expressions: self.is_marked(Expressions::new()).accept(),
        }
    }
}

#[derive(Debug)]
struct Rule {
    chain: &'static str,
    text: String,
    expressions: Expressions,
}

const CHAINS: [Chain<'_>; 3] = [
    Chain {
        name: "prerouting",
        kind: ChainKind::Nat,
        hook: Hook::Prerouting,
        priority: DESTINATION_NAT - BEFORE,
    },
    Chain {
        name: "forward",
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: FILTER - BEFORE,
    },
    Chain {
        name: "postrouting",
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: SOURCE_NAT - BEFORE,
    },
];

fn describe_hook(chain: &Chain<'_>) -> String {
    let kind = match chain.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    };
    let standard = match (chain.kind, chain.hook) {
        (ChainKind::Nat, Hook::Postrouting) => "srcnat",
        (ChainKind::Nat, _) => "dstnat",
        (ChainKind::Filter, _) => "filter",
    };
    format!(
        "type {kind} hook {} priority {standard} - {BEFORE}; policy accept;",
        chain.name
    )
}

/// The sets, in the order of their numbers.
fn sets() -> Vec<Set<'static>> {
    const ENDPOINT: &[KeyType] = &[V4, Port];
    const REMOTE: &[KeyType] = &[V4, V4, Port];
    const REMOTE_PORT: &[KeyType] = &[V4, V4, Port, Port];
    const FLOW: &[KeyType] = &[V4, Port, V4, Port];
    let of = |maps: Maps| {
        [
            (maps.open, ENDPOINT, ENDPOINT, false),
            (maps.from, REMOTE, ENDPOINT, false),
            (maps.prefix, REMOTE_PORT, ENDPOINT, true),
            (maps.back, ENDPOINT, ENDPOINT, false),
            (maps.peer, FLOW, ENDPOINT, false),
        ]
    };
    let others: [(&str, &[KeyType], &[KeyType], bool); 8] = [
        (TRAFFIC4, &[V4, Protocol, Port], &[], false),
        (TRAFFIC6, &[V6, Protocol, Port], &[], false),
        (PINHOLES, &[V6, Protocol, Port], &[], false),
        (PINHOLES_FROM, &[V6, V6, Protocol, Port], &[], false),
        (PINHOLES_PREFIX, &[V6, V6, Protocol, Port, Port], &[], true),
        (PINHOLES_PEER, &[V6, V6, Protocol, Port, Port], &[], false),
        (INSIDE, &[Interface], &[], false),
        (OUTSIDE, &[Interface], &[], false),
    ];
    let all = of(TCP).into_iter().chain(of(UDP)).chain(others);
    all.zip(1..)
        .map(|((name, key, data, intervals), id)| Set {
            name,
            key,
            data,
            flags: SetFlags {
                intervals,
                counters: true,
            },
            size: if intervals {
                MAX_PREFIXES
            } else {
                MAX_MAPPINGS
            },
            id,
        })
        .collect()
}

fn interfaces(names: &[String]) -> Vec<Element> {
    let padded = |name: &String| {
        let mut key = name.as_bytes().to_vec();
        key.resize(16, 0);
        key
    };
    names
        .iter()
        .map(|name| Element {
            key: padded(name),
            ..Element::default()
        })
        .collect()
}

fn is_v4() -> Expressions {
    Expressions::new()
        .meta(Meta::Family, Register(0))
        .equals(Register(0), &[Family::V4 as u8])
}

fn v4(protocol: u8) -> Expressions {
    is_v4()
        .meta(Meta::Protocol, Register(0))
        .equals(Register(0), &[protocol])
}

fn is_translated(expressions: Expressions) -> Expressions {
    expressions
        .tracked(Tracked::Status, Register(0))
        .mask(Register(0), DESTINATION_TRANSLATED)
        .differs(Register(0), &[0; 4])
}

fn is_marked(expressions: Expressions, mark: u32) -> Expressions {
    expressions
        .meta(Meta::Mark, Register(0))
        .mask(Register(0), mark)
        .equals(Register(0), &mark.to_ne_bytes())
}

/// The rule for tables of others that lets in what is marked. It counts, as all rules of
/// iptables do.
pub(super) fn knowing(mark: u32) -> Expressions {
    is_marked(Expressions::new(), mark).counter().accept()
}

/// From inside to outside: a mapped port is what others see, too.
fn source_rules(maps: &Maps) -> [Rule; 2] {
    let name = maps.name;
    let to_outside = |protocol| {
        v4(protocol)
            .meta(Meta::OutputName, Register(0))
            .in_set(OUTSIDE, Register(0))
            .payload(Base::Network, V4_SOURCE, 4, Register(0))
            .payload(Base::Transport, SOURCE_PORT, 2, Register(1))
            .payload(Base::Network, V4_DESTINATION, 4, Register(2))
            .payload(Base::Transport, DESTINATION_PORT, 2, Register(3))
    };
    let rule = |map, key: String| Rule {
        chain: "postrouting",
        text: format!("oifname @{OUTSIDE} snat ip to {key} map @{map}"),
        expressions: to_outside(maps.protocol)
            .in_map(map, Register(0), Register(0))
            .source_nat(Family::V4, Register(0), Register(1)),
    };
    let inside = format!("ip saddr . {name} sport");
    [
        rule(maps.peer, format!("{inside} . ip daddr . {name} dport")),
        rule(maps.back, inside),
    ]
}

/// Counts what crosses by mappings and pinholes, both ways.
fn counting_rules() -> [Rule; 4] {
    let rule = |text: String, set, expressions: Expressions| Rule {
        chain: "forward",
        text: format!("{text} @{set}"),
        expressions: expressions.in_set(set, Register(0)),
    };
    let key = |address: &str, port| format!("{address} . meta l4proto . th {port}");
    let translated = || is_translated(is_v4());
    let v4 = |address, port| {
        translated()
            .payload(Base::Network, address, 4, Register(0))
            .meta(Meta::Protocol, Register(1))
            .payload(Base::Transport, port, 2, Register(2))
    };
    let v6 = |through, address, port| {
        v6_through(through)
            .payload(Base::Network, address, 16, Register(0))
            .meta(Meta::Protocol, Register(4))
            .payload(Base::Transport, port, 2, Register(5))
    };
    [
        rule(
            format!("ct status dnat {}", key("ip daddr", "dport")),
            TRAFFIC4,
            v4(V4_DESTINATION, DESTINATION_PORT),
        ),
        rule(
            format!("ct status dnat {}", key("ip saddr", "sport")),
            TRAFFIC4,
            v4(V4_SOURCE, SOURCE_PORT),
        ),
        rule(
            format!("iifname @{OUTSIDE} {}", key("ip6 daddr", "dport")),
            TRAFFIC6,
            v6(Meta::InputName, V6_DESTINATION, DESTINATION_PORT),
        ),
        rule(
            format!("oifname @{OUTSIDE} {}", key("ip6 saddr", "sport")),
            TRAFFIC6,
            v6(Meta::OutputName, V6_SOURCE, SOURCE_PORT),
        ),
    ]
}

/// Over IPv6, and in from the internet or out to it.
fn v6_through(interface: Meta) -> Expressions {
    Expressions::new()
        .meta(Meta::Family, Register(0))
        .equals(Register(0), &[Family::V6 as u8])
        .meta(interface, Register(0))
        .in_set(OUTSIDE, Register(0))
}

fn is_new(expressions: Expressions) -> Expressions {
    expressions
        .tracked(Tracked::State, Register(0))
        .mask(Register(0), NEW_FLOW)
        .differs(Register(0), &[0; 4])
}

/// Remote address, own address, protocol, own port, remote port.
fn load_v6(expressions: Expressions) -> Expressions {
    expressions
        .payload(Base::Network, V6_SOURCE, 16, Register(0))
        .payload(Base::Network, V6_DESTINATION, 16, Register(4))
        .meta(Meta::Protocol, Register(8))
        .payload(Base::Transport, DESTINATION_PORT, 2, Register(9))
        .payload(Base::Transport, SOURCE_PORT, 2, Register(10))
}

/// The rules of a gateway as `nft` writes them, without mappings.
pub fn describe(config: &super::GatewayConfig) -> String {
    let rules = Rules {
        outside: config.wan.clone(),
        inside: config.lan.clone(),
        mark: config.mark,
    };
    rules.describe()
}
