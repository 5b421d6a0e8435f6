//! The encoder against the kernel of this machine, in a network namespace of the test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;

const TABLE: &str = "postern-test";
const MAP: Set<'_> = Set {
    name: "tcp4",
    key: &[KeyType::V4, KeyType::Port],
    data: &[KeyType::V4, KeyType::Port],
    flags: SetFlags {
        intervals: false,
        counters: true,
    },
    size: 65_536,
    id: 1,
};

/// Runs a test on a thread in an empty network namespace. Where the system allows none it
/// says so: nothing was tested then.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: needs root to make a network namespace: {error}");
                return;
            }
            run("ip", &["link", "set", "lo", "up"]);
            test();
        });
        thread.join().unwrap();
    });
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn endpoint(ip: [u8; 4], port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [&ip[..], &[high, low, 0, 0]].concat()
}

fn element(external: u16, internal: u16) -> Element {
    Element {
        key: endpoint([127, 0, 0, 1], external),
        data: endpoint([127, 0, 0, 1], internal),
        timeout: Some(Duration::from_secs(600)),
        note: b"a note".to_vec(),
        ..Element::default()
    }
}

/// Connections from this host to a mapped port are led to the internal one.
fn redirecting_table() -> Batch {
    let mut batch = Batch::new();
    batch.add_table(TABLE);
    batch.add_set(TABLE, &MAP);
    let chain = Chain {
        name: "output",
        kind: ChainKind::Nat,
        hook: Hook::Output,
        priority: -100,
    };
    batch.add_chain(TABLE, &chain);
    let tcp = Expressions::new()
        .meta(Meta::Family, Register(0))
        .equals(Register(0), &[Family::V4 as u8])
        .meta(Meta::Protocol, Register(0))
        .equals(Register(0), &[6])
        .payload(Base::Network, 16, 4, Register(0))
        .payload(Base::Transport, 2, 2, Register(1))
        .in_map("tcp4", Register(0), Register(0))
        .destination_nat(Family::V4, Register(0), Register(1));
    batch.add_rule(TABLE, "output", &tcp);
    batch
}

#[test]
fn nft_reads_what_was_written() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut batch = redirecting_table();
        batch.add_new_elements(TABLE, MAP.name, &[element(4000, 4001)]);
        netlink.commit(batch).unwrap();
        let listed = run("nft", &["list", "table", "inet", TABLE]);
        for line in [
            "type ipv4_addr . inet_service : ipv4_addr . inet_service",
            "127.0.0.1 . 4000 counter packets 0 bytes 0 timeout 10m",
            ": 127.0.0.1 . 4001",
            "type nat hook output priority -100; policy accept;",
            "dnat ip to ip daddr . tcp dport map @tcp4",
        ] {
            assert!(listed.contains(line), "{line} is not in\n{listed}");
        }
    });
}

#[test]
fn a_mapped_port_leads_to_the_internal_one_and_is_counted() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let internal = listener.local_addr().unwrap().port();
        let mut batch = redirecting_table();
        batch.add_new_elements(TABLE, MAP.name, &[element(4000, internal)]);
        netlink.commit(batch).unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 4000)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(stream.local_addr().unwrap(), peer);

        let stored = netlink.elements(TABLE, MAP.name).unwrap();
        let [one] = &stored[..] else {
            panic!("{stored:?}")
        };
        assert_eq!(one.element, element(4000, internal));
        assert!(one.left.unwrap() <= Duration::from_secs(600));
        assert_eq!(one.counted.packets, 1, "the first packet of the connection");

        let filter = FlowFilter {
            protocol: Some(6),
            to: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4000))),
            ..FlowFilter::default()
        };
        let flows = netlink.flows(true, |flow| filter.takes(flow)).unwrap();
        let [flow] = &flows[..] else {
            panic!("{flows:?}")
        };
        assert_eq!(flow.reply.source.port(), internal);
        netlink.keep_flow(flow, Duration::from_secs(77)).unwrap();
        netlink.end_flow(flow).unwrap();
        assert!(
            netlink
                .flows(true, |flow| filter.takes(flow))
                .unwrap()
                .is_empty()
        );
        let again = netlink.end_flow(flow).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_does_not_answer_for_the_next_one() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.commit(redirecting_table()).unwrap();
        let mut batch = Batch::new();
        batch.add_new_elements(TABLE, MAP.name, &[element(1, 1)]);
        batch.delete_elements(TABLE, MAP.name, &[element(2, 2)]);
        batch.add_new_elements(TABLE, MAP.name, &[element(3, 3)]);
        let refused = netlink.commit(batch).unwrap_err();
        assert!(
            matches!(refused, NetlinkError::Refused { message: 2, .. }),
            "{refused}"
        );
        assert_eq!(refused.kind(), std::io::ErrorKind::NotFound);
        assert_eq!(netlink.elements(TABLE, MAP.name).unwrap(), []);

        let mut batch = Batch::new();
        batch.add_new_elements(TABLE, MAP.name, &[element(1, 1)]);
        netlink.commit(batch.clone()).unwrap();
        let refused = netlink.commit(batch).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    });
}

#[test]
fn ten_thousand_elements_are_one_batch() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.commit(redirecting_table()).unwrap();
        let elements: Vec<_> = (1..=10_000).map(|port| element(port, port)).collect();
        let mut batch = Batch::new();
        batch.add_new_elements(TABLE, MAP.name, &elements);
        netlink.commit(batch).unwrap();
        assert_eq!(netlink.elements(TABLE, MAP.name).unwrap().len(), 10_000);
        let mut batch = Batch::new();
        batch.delete_elements(TABLE, MAP.name, &elements);
        netlink.commit(batch).unwrap();
        assert_eq!(netlink.elements(TABLE, MAP.name).unwrap().len(), 0);
    });
}

#[test]
fn a_renewal_is_a_deletion_and_an_addition_in_one_batch() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.commit(redirecting_table()).unwrap();
        let mut batch = Batch::new();
        batch.add_new_elements(TABLE, MAP.name, &[element(1, 1)]);
        netlink.commit(batch).unwrap();
        let counted = Counted {
            packets: 3,
            bytes: 180,
        };
        let renewed = Element {
            timeout: Some(Duration::from_secs(1200)),
            ..element(1, 2)
        };
        let counting = Element {
            counted,
            ..renewed.clone()
        };
        let mut batch = Batch::new();
        batch.delete_elements(TABLE, MAP.name, &[element(1, 1)]);
        batch.add_new_elements(TABLE, MAP.name, &[counting]);
        netlink.commit(batch).unwrap();
        let stored = netlink.elements(TABLE, MAP.name).unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].element, renewed);
        assert_eq!(stored[0].counted, counted);
        let missing = netlink.element(TABLE, MAP.name, &element(9, 9));
        assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert_eq!(
            netlink.element(TABLE, MAP.name, &renewed).unwrap(),
            stored[0]
        );
    });
}

#[test]
fn an_element_ends_with_its_timeout() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.commit(redirecting_table()).unwrap();
        let brief = Element {
            timeout: Some(Duration::from_millis(50)),
            ..element(1, 1)
        };
        let mut batch = Batch::new();
        batch.add_new_elements(TABLE, MAP.name, &[brief]);
        netlink.commit(batch).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(netlink.elements(TABLE, MAP.name).unwrap(), []);
    });
}

#[test]
fn ranges_are_elements_of_interval_sets() {
    in_namespace(|| {
        const PREFIXES: Set<'_> = Set {
            name: "prefixes",
            key: &[KeyType::V4, KeyType::Port],
            data: &[],
            flags: SetFlags {
                intervals: true,
                counters: false,
            },
            size: 512,
            id: 2,
        };
        let mut netlink = Netlink::open().unwrap();
        let mut batch = redirecting_table();
        batch.add_set(TABLE, &PREFIXES);
        let range = Element {
            key: endpoint([198, 51, 100, 0], 80),
            key_end: Some(endpoint([198, 51, 100, 255], 80)),
            timeout: Some(Duration::from_secs(60)),
            ..Element::default()
        };
        batch.add_new_elements(TABLE, PREFIXES.name, std::slice::from_ref(&range));
        netlink.commit(batch).unwrap();
        let listed = run("nft", &["list", "set", "inet", TABLE, PREFIXES.name]);
        assert!(listed.contains("198.51.100.0/24 . 80"), "{listed}");
        let stored = netlink.elements(TABLE, PREFIXES.name).unwrap();
        assert_eq!(stored[0].element, range);
    });
}

#[test]
fn a_watcher_sees_what_others_change_and_not_what_is_ours() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut watcher = Netlink::watch().unwrap();
        netlink.commit(redirecting_table()).unwrap();
        let own = netlink.port();
        assert_eq!(all_changes(&mut watcher, own), []);
        run("nft", &["flush", "ruleset"]);
        let changes = all_changes(&mut watcher, own);
        let removed = |change: &&Change| change.table == TABLE && change.removed;
        assert!(changes.iter().any(|change| removed(&change)), "{changes:?}");
    });
}

fn all_changes(watcher: &mut Netlink, own: u32) -> Vec<Change> {
    let mut all = Vec::new();
    while let Some(changes) = watcher.changes(own).unwrap() {
        all.extend(changes);
    }
    all
}

#[test]
fn the_socket_of_another_namespace_is_not_the_machines() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let missing = netlink.elements(TABLE, MAP.name).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        // Nothing leaves an empty namespace: only its loopback interface is there.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert!(socket.send_to(b"?", ("192.0.2.1", 9)).is_err());
    });
}
