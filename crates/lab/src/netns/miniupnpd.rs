//! What Debian's miniupnpd needs on a home's router: a gateway of other make to try ours with, and
//! to measure beside.

use std::net::IpAddr;

/// Its configuration on a home's router, the address 192.168.1.1, with this address outside, and
/// more lines.
#[must_use]
pub fn config(external: IpAddr, more: &str) -> String {
    format!(
        "\
ext_ifname=wan
ext_ip={external}
listening_ip=lan
http_port=5000
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
notify_interval=30
uuid=11111111-2222-3333-4444-555555555555
upnp_table_name=mini
upnp_nat_table_name=mini
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
{more}allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"
    )
}

/// Its table, in the family `inet`.
pub const TABLE: &str = "mini";

/// The chains that it writes its rules into, for `nft`, beside the router's own: with nothing mapped, whatever was there.
pub const RULES: &str = r#"table inet mini { }
delete table inet mini
table inet mini {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward {
    type filter hook forward priority 0; policy accept;
    jump miniupnpd
  }
  chain prerouting {
    type nat hook prerouting priority -110; policy accept;
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 90; policy accept;
    jump postrouting_miniupnpd
  }
}
"#;

/// The same in place of the router's own translator and firewalls, which would drop or translate
/// first.
pub const RULES_ALONE: &str = r#"table ip nat { }
delete table ip nat
table ip firewall { }
delete table ip firewall
table ip6 firewall { }
delete table ip6 firewall
table inet mini {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" oifname "wan" accept
    jump miniupnpd
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    jump postrouting_miniupnpd
    meta nfproto ipv4 oifname "wan" masquerade
  }
}
"#;
