//! Who is behind an address inside: the kernel's neighbour table.

use std::net::IpAddr;

use postern_proto::gateway::Mac;

/// The hardware address that the kernel has for an IPv4 neighbour. For IPv6 there is none:
/// rules by hardware address then do not fit.
pub(super) fn mac_of(address: IpAddr) -> Option<Mac> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    find(&table, address)
}

/// Columns are: address, type, flags, hardware address, mask, device.
fn find(table: &str, address: IpAddr) -> Option<Mac> {
    let wanted = address.to_string();
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&wanted))?;
    let text = line.split_whitespace().nth(3)?;
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    (parts.next().is_none() && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_found_by_its_address() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.168.1.10     0x1         0x2         02:00:00:00:00:0a     *        lan\n\
                     192.168.1.11     0x1         0x0         00:00:00:00:00:00     *        lan\n";
        let mac = |address: &str| find(table, address.parse().unwrap());
        assert_eq!(mac("192.168.1.10"), Some([2, 0, 0, 0, 0, 10]));
        assert_eq!(mac("192.168.1.11"), None);
        assert_eq!(mac("192.168.1.1"), None);
    }
}
