//! nftables rule sets, as text.
//!
//! A router's translator is built from two tables the packets themselves fill in at the
//! very end of postrouting, when their final source port is known: `rev` leads an external
//! port back to the internal endpoint, for filters wider than the kernel's own; `kept`
//! remembers the external port of an internal endpoint, for mappings that the kernel would
//! otherwise make anew for every destination. A third, `taken`, keeps a port that was
//! preserved for one destination from being preserved for the next. UDP and TCP have tables of
//! their own, since they have ports of their own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::build::BuildError;
use super::topology::{Home, Ipv6};
use crate::sim::{Allocation, Filtering, Hairpin, Mapping, Nat, Ports, Timeouts, Unsolicited};

/// The router's interface towards the core.
pub(super) const WAN: &str = "wan";
/// The router's interface towards its home.
pub(super) const LAN: &str = "lan";

/// The last number of the first host's address; the others follow.
pub(super) const FIRST_HOST: u8 = 10;

/// What has ports that are translated.
const TRANSPORTS: [&str; 2] = ["udp", "tcp"];

/// More ports than this make `nft` slow to load the table.
const SEQUENTIAL_PORTS_MAX: u32 = 4096;

/// The rules of a home's router whose external address is `address`.
pub(super) fn router(home: &Home, address: Ipv4Addr) -> Result<String, BuildError> {
    check(&home.nat)?;
    check_ports(home)?;
    let mut rules = firewall(&home.nat, address);
    rules.push_str(&translator(home, address));
    if home.ipv6 == Ipv6::Firewalled {
        rules.push_str(FIREWALL6);
    }
    Ok(rules)
}

/// The settings below `/proc/sys/net` that differ from the kernel's.
pub(super) fn timeouts(nat: &Nat) -> Vec<(&'static str, String)> {
    let Timeouts {
        unreplied, replied, ..
    } = nat.timeouts;
    let usual = Timeouts::default();
    let mut settings = Vec::new();
    if (unreplied, replied) != (usual.unreplied, usual.replied) {
        let name = "netfilter/nf_conntrack_udp_timeout";
        settings.push((name, unreplied.as_secs().to_string()));
        let name = "netfilter/nf_conntrack_udp_timeout_stream";
        settings.push((name, replied.as_secs().to_string()));
    }
    settings
}

/// Refuses what nftables cannot do.
fn check(nat: &Nat) -> Result<(), BuildError> {
    let Timeouts {
        inbound_refresh,
        lifetime,
        ..
    } = nat.timeouts;
    let filtered = nat.filtering != Filtering::EndpointIndependent;
    let refused = [
        (nat.parity, "parity"),
        (nat.foreign_flows > 0, "flows of others"),
        (!inbound_refresh, "timeouts without inbound refresh"),
        (lifetime.is_some(), "a lifetime of mappings"),
        (
            filtered && nat.hairpin != Hairpin::Off,
            "hairpinning behind a filter",
        ),
    ];
    match refused.iter().find(|(wanted, _)| *wanted) {
        Some((_, what)) => Err(BuildError::Unsupported(what)),
        None => Ok(()),
    }
}

fn check_ports(home: &Home) -> Result<(), BuildError> {
    let hosts = u32::try_from(home.hosts.len()).unwrap_or(u32::MAX);
    let fits = match home.nat.allocation {
        Allocation::Preserving => true,
        Allocation::Random(ports) => is_range(ports),
        Allocation::Sequential { ports, step } => {
            is_range(ports) && step > 0 && ports.count() <= SEQUENTIAL_PORTS_MAX
        }
        Allocation::Block { ports, size } => {
            let needed = hosts.saturating_mul(size.into());
            is_range(ports) && size > 0 && needed <= ports.count()
        }
    };
    fits.then_some(()).ok_or(BuildError::Ports)
}

fn is_range(ports: Ports) -> bool {
    ports.first > 0 && ports.first <= ports.last
}

/// Without the rule in `inp` the router itself accepts a probe that arrives before the
/// inside has sent its own, and the kernel then remaps the inside's port.
fn firewall(nat: &Nat, address: Ipv4Addr) -> String {
    let unsolicited = match nat.unsolicited {
        Unsolicited::Drop => "ct state new drop",
        Unsolicited::Accept => "accept",
        Unsolicited::Reset => "ct state new meta l4proto tcp reject with tcp reset",
        Unsolicited::PortUnreachable => "ct state new meta l4proto tcp reject",
    };
    let others = match nat.unsolicited {
        Unsolicited::Accept => "accept",
        Unsolicited::Drop | Unsolicited::Reset | Unsolicited::PortUnreachable => {
            "ct state new drop"
        }
    };
    format!(
        r#"table ip firewall {{
  chain inp {{ type filter hook input priority 0; policy accept;
    iifname "{WAN}" {unsolicited}
    iifname "{WAN}" {others}
    iifname "{LAN}" meta l4proto udp ip daddr {address} drop
  }}
  chain forw {{ type filter hook forward priority 0; policy accept;
    iifname "{WAN}" ct status dnat accept
    iifname "{WAN}" ct state established,related accept
    iifname "{WAN}" drop
  }}
}}
"#
    )
}

const FIREWALL6: &str = r#"table ip6 firewall {
  chain inp { type filter hook input priority 0; policy accept;
    iifname "wan" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    iifname "wan" ct state new drop
  }
  chain forw { type filter hook forward priority 0; policy accept;
    iifname "wan" ct state established,related accept
    iifname "wan" drop
  }
}
"#;

fn translator(home: &Home, address: Ipv4Addr) -> String {
    let nat = &home.nat;
    let kept = kept_key(nat);
    let each = |make: &dyn Fn(&str) -> String| TRANSPORTS.map(make).concat();
    let tables = each(&|of| tables(nat, kept, of));
    let inward = each(&|of| inward(nat, of, address));
    let outward = each(&|of| outward(home, kept, of, address));
    let learning = each(&|of| learning(home, kept, of, address));
    format!(
        r#"table ip nat {{
{tables}  chain prer {{ type nat hook prerouting priority dstnat; policy accept;
{inward}  }}
  chain postr {{ type nat hook postrouting priority srcnat; policy accept;
{outward}    oifname "{WAN}" masquerade
  }}
  chain learn {{ type filter hook postrouting priority 300; policy accept;
{learning}  }}
}}
"#
    )
}

/// What the packets fill in. Entries live as long as the kernel's own.
fn tables(nat: &Nat, kept: Option<KeptKey>, of: &str) -> String {
    let seconds = nat.timeouts.replied.as_secs().max(1);
    let filled = format!("flags dynamic,timeout; timeout {seconds}s; size 65536;");
    let mut rules = String::new();
    if needs_rev(nat.filtering) {
        let _ = writeln!(
            rules,
            "  map rev_{of} {{ type inet_service : ipv4_addr . inet_service; {filled} }}"
        );
        let _ = writeln!(
            rules,
            "  set seen_{of} {{ type ipv4_addr . inet_service; {filled} }}"
        );
    }
    if let Some(KeptKey { kind, .. }) = kept {
        let _ = writeln!(
            rules,
            "  map kept_{of} {{ type {kind} : ipv4_addr . inet_service; {filled} }}"
        );
    }
    if preserves_once(nat) {
        let _ = writeln!(rules, "  set taken_{of} {{ type inet_service; {filled} }}");
    }
    rules
}

/// The kernel preserves a port for every destination, which makes a mapping
/// endpoint-independent; the others preserve it for the first one only.
fn preserves_once(nat: &Nat) -> bool {
    nat.allocation == Allocation::Preserving && nat.mapping != Mapping::EndpointIndependent
}

/// Lets in what the filter knows, beyond what the kernel's connections do.
fn inward(nat: &Nat, of: &str, address: Ipv4Addr) -> String {
    let known = match nat.filtering {
        Filtering::EndpointIndependent => String::new(),
        Filtering::AddressDependent => format!("ip saddr . {of} dport @seen_{of} "),
        Filtering::AddressAndPortDependent => return String::new(),
    };
    let back = format!("dnat to {of} dport map @rev_{of}");
    let mut rules = format!("    iifname \"{WAN}\" meta l4proto {of} {known}{back}\n");
    if nat.hairpin != Hairpin::Off {
        let _ = writeln!(
            rules,
            "    iifname \"{LAN}\" ip daddr {address} meta l4proto {of} {back}"
        );
    }
    rules
}

/// Gives what leaves its external port: the one it had, or a new one.
fn outward(home: &Home, kept: Option<KeptKey>, of: &str, address: Ipv4Addr) -> String {
    let mut rules = String::new();
    for exit in exits(home, of) {
        if let Some(key) = kept {
            let fresh = key.fresh(of);
            let _ = writeln!(rules, "    {exit} snat ip to {fresh} map @kept_{of}");
        }
        if preserves_once(&home.nat) {
            let another = random(address, Ports::ALL);
            let _ = writeln!(rules, "    {exit} {of} sport @taken_{of} {another}");
        }
        for (from, allocation) in allocate(home, address) {
            let _ = writeln!(rules, "    {exit} {from}{allocation}");
        }
    }
    rules
}

/// Which packets get an external source: those that leave the home, and those that
/// come back into it when the router hairpins as RFC 4787 wants it.
fn exits(home: &Home, of: &str) -> Vec<String> {
    let mut exits = vec![format!("oifname \"{WAN}\" meta l4proto {of}")];
    if home.nat.hairpin == Hairpin::ExternalSource {
        let inside = format!("ip saddr 192.168.{}.0/24", home.lan);
        exits.push(format!(
            "oifname \"{LAN}\" ct status dnat {inside} meta l4proto {of}"
        ));
    }
    exits
}

fn needs_rev(filtering: Filtering) -> bool {
    filtering != Filtering::AddressAndPortDependent
}

/// What identifies a mapping: its type, the expressions on a fresh packet, and those on a
/// packet that has been translated.
#[derive(Clone, Copy)]
struct KeptKey {
    kind: &'static str,
    /// Whether the remote address belongs to it.
    by_address: bool,
}

impl KeptKey {
    fn fresh(self, of: &str) -> String {
        self.with_address(format!("ip saddr . {of} sport"))
    }

    fn translated(self) -> String {
        self.with_address("ct original ip saddr . ct original proto-src".to_owned())
    }

    fn with_address(self, key: String) -> String {
        if self.by_address {
            format!("{key} . ip daddr")
        } else {
            key
        }
    }
}

/// The kernel's own mapping needs no help when it preserves ports, and when it is to make
/// a new port for every destination.
fn kept_key(nat: &Nat) -> Option<KeptKey> {
    match nat.mapping {
        Mapping::EndpointIndependent if nat.allocation == Allocation::Preserving => None,
        Mapping::EndpointIndependent => Some(KeptKey {
            kind: "ipv4_addr . inet_service",
            by_address: false,
        }),
        Mapping::AddressDependent => Some(KeptKey {
            kind: "ipv4_addr . inet_service . ipv4_addr",
            by_address: true,
        }),
        Mapping::AddressAndPortDependent => None,
    }
}

/// How new mappings get their ports: for which packets, and the statement.
fn allocate(home: &Home, address: Ipv4Addr) -> Vec<(String, String)> {
    let everybody = String::new();
    match home.nat.allocation {
        Allocation::Preserving => vec![(everybody, preserving(&home.nat, address))],
        Allocation::Random(ports) => vec![(everybody, random(address, ports))],
        Allocation::Sequential { ports, step } => {
            let (count, ports) = (ports.count(), numbered(ports, step));
            let statement = format!("snat to {address} : numgen inc mod {count} map {{ {ports} }}");
            vec![(everybody, statement)]
        }
        Allocation::Block { ports, size } => {
            let hosts = (FIRST_HOST..).zip(0..).take(home.hosts.len());
            let own = |(host, index)| {
                (
                    from(home.lan, host),
                    random(address, block(ports, size, index)),
                )
            };
            hosts.map(own).collect()
        }
    }
}

/// What nearly every Linux router does; a hairpinning one cannot, because there the packet
/// does not leave by the interface that has the address.
fn preserving(nat: &Nat, address: Ipv4Addr) -> String {
    match nat.hairpin {
        Hairpin::Off | Hairpin::InternalSource => "masquerade".to_owned(),
        Hairpin::ExternalSource => format!("snat to {address}"),
    }
}

fn from(lan: u8, host: u8) -> String {
    format!("ip saddr 192.168.{lan}.{host} ")
}

fn random(address: Ipv4Addr, Ports { first, last }: Ports) -> String {
    format!("snat to {address}:{first}-{last} fully-random")
}

fn block(ports: Ports, size: u16, index: u32) -> Ports {
    let first = index * u32::from(size);
    Ports {
        first: ports.nth(first),
        last: ports.nth(first + u32::from(size) - 1),
    }
}

/// The number generator yields host byte order, ports are in network byte order: a map
/// translates between the two.
fn numbered(ports: Ports, step: u16) -> String {
    let pair = |index| format!("{index} : {}", ports.nth(index * u32::from(step)));
    let pairs: Vec<String> = (0..ports.count()).map(pair).collect();
    pairs.join(", ")
}

/// Runs when the packets are translated, so that their source is the external one.
fn learning(home: &Home, kept: Option<KeptKey>, of: &str, address: Ipv4Addr) -> String {
    let mut rules = String::new();
    let inside = "ct original ip saddr . ct original proto-src";
    for exit in exits(home, of) {
        let fresh = format!("    {exit} ct direction original update");
        if needs_rev(home.nat.filtering) {
            let _ = writeln!(rules, "{fresh} @rev_{of} {{ {of} sport : {inside} }}");
            let _ = writeln!(
                rules,
                "    {exit} update @seen_{of} {{ ip daddr . {of} sport }}"
            );
        }
        if preserves_once(&home.nat) {
            let _ = writeln!(rules, "    {exit} update @taken_{of} {{ {of} sport }}");
        }
        if let Some(key) = kept {
            let translated = key.translated();
            let _ = writeln!(
                rules,
                "{fresh} @kept_{of} {{ {translated} : {address} . {of} sport }}"
            );
        }
    }
    rules
}

/// Counts what a host receives and sends, by protocol, loopback left out.
pub(super) const COUNTING: &str = r#"table inet count {
  counter tcp_in { }
  counter tcp_out { }
  counter udp_in { }
  counter udp_out { }
  chain watched { }
  chain inp { type filter hook input priority -300; policy accept;
    iifname "lo" return
    meta l4proto tcp counter name tcp_in
    meta l4proto udp counter name udp_in
    jump watched
  }
  chain outp { type filter hook output priority -300; policy accept;
    oifname "lo" return
    meta l4proto tcp counter name tcp_out
    meta l4proto udp counter name udp_out
    jump watched
  }
}
"#;

/// Adds a counter of its own to a host that has [`COUNTING`].
pub(super) fn watch(name: &str, matching: &str) -> String {
    format!(
        "add counter inet count {name}\nadd rule inet count watched {matching} counter name {name}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(45, 45, 2, 2);

    fn rules(nat: Nat) -> Result<String, BuildError> {
        router(&Home::new("red", &["alice", "carol"], 1, nat), ADDRESS)
    }

    fn allocating(allocation: Allocation) -> Nat {
        Nat {
            mapping: Mapping::AddressAndPortDependent,
            allocation,
            ..Nat::default()
        }
    }

    #[test]
    fn plain_linux_learns_nothing() {
        let text = rules(Nat::default()).unwrap();
        assert!(text.contains("oifname \"wan\" meta l4proto udp masquerade\n"));
        assert!(!text.contains("@rev") && !text.contains("@kept"));
        assert!(text.contains("iifname \"wan\" ct state new drop"));
    }

    #[test]
    fn endpoint_independent_filtering_lets_in_what_leads_back() {
        let nat = Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
        let text = rules(nat).unwrap();
        assert!(text.contains("meta l4proto udp dnat to udp dport map @rev_udp"));
    }

    #[test]
    fn address_dependent_filtering_also_asks_who_was_sent_to() {
        let nat = Nat::new(Mapping::EndpointIndependent, Filtering::AddressDependent);
        let text = rules(nat).unwrap();
        assert!(text.contains("ip saddr . tcp dport @seen_tcp dnat to"));
    }

    #[test]
    fn sequential_allocation_numbers_its_ports() {
        let ports = Ports {
            first: 30000,
            last: 30002,
        };
        let text = rules(allocating(Allocation::Sequential { ports, step: 2 })).unwrap();
        let map = "numgen inc mod 3 map { 0 : 30000, 1 : 30002, 2 : 30001 }";
        assert!(text.contains(map), "{text}");
    }

    #[test]
    fn each_host_has_a_block_of_its_own() {
        let ports = Ports {
            first: 5000,
            last: 5999,
        };
        let text = rules(allocating(Allocation::Block { ports, size: 500 })).unwrap();
        assert!(text.contains("ip saddr 192.168.1.10 snat to 45.45.2.2:5000-5499"));
        assert!(text.contains("ip saddr 192.168.1.11 snat to 45.45.2.2:5500-5999"));
        let small = rules(allocating(Allocation::Block { ports, size: 501 }));
        assert!(matches!(small, Err(BuildError::Ports)));
    }

    #[test]
    fn an_empty_or_huge_port_range_is_refused() {
        for (first, last) in [(2, 1), (1024, u16::MAX)] {
            let ports = Ports { first, last };
            let refused = rules(allocating(Allocation::Sequential { ports, step: 1 }));
            assert!(matches!(refused, Err(BuildError::Ports)));
        }
    }

    #[test]
    fn what_the_kernel_cannot_do_is_refused_by_name() {
        let nat = Nat {
            parity: true,
            ..Nat::default()
        };
        assert!(matches!(rules(nat), Err(BuildError::Unsupported("parity"))));
    }
}
