//! What Debian's miniupnpd needs on a home's router: a gateway of other make to try ours with, and
//! to measure beside.

/// Its configuration on the router of the home with the address 192.168.1.1 and 45.45.2.2 outside.
pub const CONFIG: &str = "\
ext_ifname=wan
ext_ip=45.45.2.2
listening_ip=lan
http_port=5000
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=no
notify_interval=30
uuid=11111111-2222-3333-4444-555555555555
upnp_table_name=mini
upnp_nat_table_name=mini
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";

/// The chains that it writes its rules into, for `nft`: with nothing mapped, whatever was there.
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
