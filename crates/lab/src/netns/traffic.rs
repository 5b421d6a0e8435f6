//! What went over an interface, and what a rule counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an interface has received and sent since the world was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InterfaceTraffic {
    /// Bytes received, link headers included.
    pub received_bytes: u64,
    /// Packets received; the kernel may have joined several of a flow into one.
    pub received_packets: u64,
    /// Bytes sent, link headers included.
    pub sent_bytes: u64,
    /// Packets sent, joined ones as one.
    pub sent_packets: u64,
}

/// What a named rule has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counter {
    /// Packets, joined ones as one.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// Reads `/proc/net/dev`.
pub(super) fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceTraffic> {
    text.lines().filter_map(parse_interface).collect()
}

fn parse_interface(line: &str) -> Option<(String, InterfaceTraffic)> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map_while(|number| number.parse().ok())
        .collect();
    let traffic = InterfaceTraffic {
        received_bytes: *numbers.first()?,
        received_packets: *numbers.get(1)?,
        sent_bytes: *numbers.get(8)?,
        sent_packets: *numbers.get(9)?,
    };
    Some((name.trim().to_owned(), traffic))
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    counter: Option<NamedCounter>,
}

#[derive(Deserialize)]
struct NamedCounter {
    name: String,
    packets: u64,
    bytes: u64,
}

/// Reads what `nft -j list counters` prints.
pub(super) fn parse_counters(json: &[u8]) -> Result<BTreeMap<String, Counter>, serde_json::Error> {
    let listing: Listing = serde_json::from_slice(json)?;
    let counters = listing.nftables.into_iter().filter_map(|e| e.counter);
    let entry = |c: NamedCounter| {
        let NamedCounter {
            name,
            packets,
            bytes,
        } = c;
        (name, Counter { packets, bytes })
    };
    Ok(counters.map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n  \
                    eth0: 7 1 0 0 0 0 0 0 9 2 0 0 0 0 0 0\n";
        let eth0 = InterfaceTraffic {
            received_bytes: 7,
            received_packets: 1,
            sent_bytes: 9,
            sent_packets: 2,
        };
        let expected = BTreeMap::from([("eth0".to_owned(), eth0)]);
        assert_eq!(parse_interfaces(text), expected);
    }

    #[test]
    fn counters_are_read_from_the_listing() {
        let json = br#"{"nftables":[{"metainfo":{"version":"1"}},
            {"counter":{"family":"inet","name":"udp_in","table":"count","handle":1,"packets":3,"bytes":99}}]}"#;
        let expected = BTreeMap::from([(
            "udp_in".to_owned(),
            Counter {
                packets: 3,
                bytes: 99,
            },
        )]);
        assert_eq!(parse_counters(json).unwrap(), expected);
    }
}
