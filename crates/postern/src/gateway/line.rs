//! What the lines to the internet have carried.

use std::path::Path;

use postern_proto::gateway::Traffic;

/// Of these interfaces together, since they are there; `None` if the system does not say.
pub(super) fn traffic(interfaces: &[String]) -> Option<Traffic> {
    let table = std::fs::read_to_string("/proc/net/dev").ok()?;
    let mut sum = Traffic::default();
    for interface in interfaces {
        let Some(one) = find(&table, interface) else {
            continue;
        };
        sum.bytes_received = sum.bytes_received.saturating_add(one.bytes_received);
        sum.bytes_sent = sum.bytes_sent.saturating_add(one.bytes_sent);
        sum.packets_received = sum.packets_received.saturating_add(one.packets_received);
        sum.packets_sent = sum.packets_sent.saturating_add(one.packets_sent);
        sum.bits_per_second = sum.bits_per_second.saturating_add(speed(interface));
    }
    Some(sum)
}

/// A line is: name and colon; received bytes and packets, and six more numbers; sent bytes
/// and packets, and others.
fn find(table: &str, interface: &str) -> Option<Traffic> {
    let of = |line: &'_ str| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == interface).then(|| numbers.to_owned())
    };
    let numbers = table.lines().find_map(of)?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    Some(Traffic {
        bytes_received: *numbers.first()?,
        packets_received: *numbers.get(1)?,
        bytes_sent: *numbers.get(8)?,
        packets_sent: *numbers.get(9)?,
        bits_per_second: 0,
    })
}

/// Bits a second; the kernel has megabits, or nothing or -1 where there is no such thing.
fn speed(interface: &str) -> u64 {
    let path = Path::new("/sys/class/net").join(interface).join("speed");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let megabits: u64 = text.trim().parse().unwrap_or_default();
    megabits.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_an_interface_are_found() {
        let table = "Inter-|   Receive                  |  Transmit\n \
                     face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n    \
                     lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  \
                     wan:1000 20 0 0 0 0 0 0 3000 40 0 0 0 0 0 0\n";
        let expected = Traffic {
            bytes_received: 1000,
            packets_received: 20,
            bytes_sent: 3000,
            packets_sent: 40,
            bits_per_second: 0,
        };
        assert_eq!(find(table, "wan"), Some(expected));
        assert_eq!(find(table, "wan0"), None);
    }
}
