//! nftables rule sets, as text.
//!
//! A router's translator is built from two tables the packets themselves fill in at the
//! very end of postrouting, when their final source port is known: `rev` leads an external
//! port back to the internal endpoint, for filters wider than the kernel's own; `kept`
//! remembers the external port of an internal endpoint, for mappings that the kernel would
//! otherwise make anew for every destination.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::build::BuildError;
use super::topology::{Allocation, Filtering, Inbound, Ipv6, Mapping, Nat};

/// The router's interface towards the core.
pub(super) const WAN: &str = "wan";
/// The router's interface towards its home.
pub(super) const LAN: &str = "lan";

/// More ports than this make `nft` slow to load the table.
const SEQUENTIAL_PORTS_MAX: usize = 4096;

/// The rules of a home router whose external address is `address`.
pub(super) fn router(nat: &Nat, ipv6: Ipv6, address: Ipv4Addr) -> Result<String, BuildError> {
    check(&nat.allocation)?;
    let mut rules = firewall(nat.inbound);
    rules.push_str(&translator(nat, address));
    if ipv6 == Ipv6::Firewalled {
        rules.push_str(FIREWALL6);
    }
    Ok(rules)
}

fn check(allocation: &Allocation) -> Result<(), BuildError> {
    match allocation {
        Allocation::Random { ports } if ports.is_empty() => Err(BuildError::Ports),
        Allocation::Sequential { ports } if ports.is_empty() => Err(BuildError::Ports),
        Allocation::Sequential { ports } if ports.len() > SEQUENTIAL_PORTS_MAX => {
            Err(BuildError::Ports)
        }
        Allocation::Preserving | Allocation::Random { .. } | Allocation::Sequential { .. } => {
            Ok(())
        }
    }
}

/// Without the rule in `inp` the router itself accepts a probe that arrives before the
/// inside has sent its own, and the kernel then remaps the inside's port.
fn firewall(inbound: Inbound) -> String {
    let verdict = match inbound {
        Inbound::Drop => "ct state new drop",
        Inbound::Reject => {
            "meta l4proto tcp ct state new reject with tcp reset\n    iifname \"wan\" ct state new reject"
        }
        Inbound::Accept => "accept",
    };
    format!(
        r#"table ip firewall {{
  chain inp {{ type filter hook input priority 0; policy accept;
    iifname "{WAN}" {verdict}
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

fn translator(nat: &Nat, address: Ipv4Addr) -> String {
    let mut rules = String::from("table ip nat {\n");
    let kept = kept_key(nat);
    if needs_rev(nat.filtering) {
        rules.push_str(
            "  map rev { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }\n  \
             set seen { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }\n",
        );
    }
    if let Some(key) = kept {
        let _ = writeln!(
            rules,
            "  map kept {{ type {} : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }}",
            key.kind
        );
    }
    let _ = writeln!(
        rules,
        "  chain prer {{ type nat hook prerouting priority dstnat; policy accept;{}\n  }}",
        filter_rule(nat.filtering)
    );
    rules.push_str("  chain postr { type nat hook postrouting priority srcnat; policy accept;\n");
    if let Some(key) = kept {
        let _ = writeln!(
            rules,
            "    oifname \"{WAN}\" meta l4proto udp snat ip to {} map @kept",
            key.fresh
        );
    }
    let _ = writeln!(
        rules,
        "    oifname \"{WAN}\" meta l4proto udp {}",
        allocate(&nat.allocation, address)
    );
    let _ = writeln!(rules, "    oifname \"{WAN}\" masquerade\n  }}");
    rules.push_str(&learning(nat.filtering, kept, address));
    rules.push_str("}\n");
    rules
}

fn needs_rev(filtering: Filtering) -> bool {
    filtering != Filtering::AddressAndPortDependent
}

/// What identifies a mapping: its type, the expressions on a fresh packet, and those on a
/// packet that has been translated.
#[derive(Clone, Copy)]
struct KeptKey {
    kind: &'static str,
    fresh: &'static str,
    translated: &'static str,
}

/// The kernel's own mapping needs no help when it preserves ports, and when it is to make
/// a new port for every destination.
fn kept_key(nat: &Nat) -> Option<KeptKey> {
    match nat.mapping {
        Mapping::EndpointIndependent if nat.allocation == Allocation::Preserving => None,
        Mapping::EndpointIndependent => Some(KeptKey {
            kind: "ipv4_addr . inet_service",
            fresh: "ip saddr . udp sport",
            translated: "ct original ip saddr . ct original proto-src",
        }),
        Mapping::AddressDependent => Some(KeptKey {
            kind: "ipv4_addr . inet_service . ipv4_addr",
            fresh: "ip saddr . udp sport . ip daddr",
            translated: "ct original ip saddr . ct original proto-src . ip daddr",
        }),
        Mapping::AddressAndPortDependent => None,
    }
}

fn filter_rule(filtering: Filtering) -> String {
    let known = match filtering {
        Filtering::EndpointIndependent => "",
        Filtering::AddressDependent => "ip saddr . udp dport @seen ",
        Filtering::AddressAndPortDependent => return String::new(),
    };
    format!("\n    iifname \"{WAN}\" meta l4proto udp {known}dnat to udp dport map @rev")
}

fn allocate(allocation: &Allocation, address: Ipv4Addr) -> String {
    match allocation {
        Allocation::Preserving => "masquerade".to_owned(),
        Allocation::Random { ports } => {
            let (first, last) = (ports.start(), ports.end());
            format!("masquerade to :{first}-{last} fully-random")
        }
        Allocation::Sequential { ports } => format!(
            "snat to {address} : numgen inc mod {} map {{ {} }}",
            ports.len(),
            numbered(ports)
        ),
    }
}

/// The number generator yields host byte order, ports are in network byte order: a map
/// translates between the two.
fn numbered(ports: &RangeInclusive<u16>) -> String {
    let pairs: Vec<String> = ports
        .clone()
        .enumerate()
        .map(|(index, port)| format!("{index} : {port}"))
        .collect();
    pairs.join(", ")
}

fn learning(filtering: Filtering, kept: Option<KeptKey>, address: Ipv4Addr) -> String {
    let mut rules =
        String::from("  chain learn { type filter hook postrouting priority 300; policy accept;\n");
    let out = format!("    oifname \"{WAN}\" meta l4proto udp");
    if needs_rev(filtering) {
        let _ = writeln!(
            rules,
            "{out} ct direction original update @rev {{ udp sport : ct original ip saddr . ct original proto-src }}"
        );
        let _ = writeln!(rules, "{out} update @seen {{ ip daddr . udp sport }}");
    }
    if let Some(key) = kept {
        let _ = writeln!(
            rules,
            "{out} ct direction original update @kept {{ {} : {address} . udp sport }}",
            key.translated
        );
    }
    rules.push_str("  }\n");
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

    fn rules(nat: &Nat) -> String {
        router(nat, Ipv6::None, ADDRESS).unwrap()
    }

    #[test]
    fn plain_masquerade_learns_nothing() {
        let text = rules(&Nat::masquerade());
        assert!(text.contains("oifname \"wan\" masquerade"));
        assert!(!text.contains("@rev") && !text.contains("@kept"));
        assert!(text.contains("iifname \"wan\" ct state new drop"));
    }

    #[test]
    fn endpoint_independent_filtering_lets_in_what_leads_back() {
        let nat = Nat::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
        assert!(rules(&nat).contains("meta l4proto udp dnat to udp dport map @rev"));
    }

    #[test]
    fn address_dependent_filtering_also_asks_who_was_sent_to() {
        let nat = Nat::new(Mapping::EndpointIndependent, Filtering::AddressDependent);
        assert!(rules(&nat).contains("ip saddr . udp dport @seen dnat to"));
    }

    #[test]
    fn sequential_allocation_numbers_its_ports() {
        let mut nat = Nat::masquerade();
        nat.mapping = Mapping::AddressAndPortDependent;
        nat.allocation = Allocation::Sequential {
            ports: 30000..=30002,
        };
        let text = rules(&nat);
        assert!(
            text.contains("numgen inc mod 3 map { 0 : 30000, 1 : 30001, 2 : 30002 }"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_or_huge_port_range_is_refused() {
        #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
        let ranges = [2..=1, 1024..=u16::MAX];
        for ports in ranges {
            let mut nat = Nat::masquerade();
            nat.allocation = Allocation::Sequential { ports };
            let refused = router(&nat, Ipv6::None, ADDRESS);
            assert!(matches!(refused, Err(BuildError::Ports)));
        }
    }
}
