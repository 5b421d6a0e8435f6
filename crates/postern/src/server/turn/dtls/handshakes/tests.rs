use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern_proto::turn::server::{ClientAddr, Transport};

use super::*;
use crate::dtls;
use crate::quic::Identity;

/// A server's table, a clock, and what the server has sent.
struct Scene {
    now: Instant,
    table: Handshakes,
    certificate: DtlsCertificate,
}

fn certificate() -> DtlsCertificate {
    let identity = Identity::generate(vec!["localhost".to_owned()]).unwrap();
    dtls::certificate(&identity.chain()[0], &identity.key()).unwrap()
}

fn client_at(ip: u32, port: u16) -> FiveTuple {
    FiveTuple {
        transport: Transport::Dtls,
        client: ClientAddr(SocketAddr::new(Ipv4Addr::from_bits(ip).into(), port)),
        server: "192.0.2.1:5349".parse().unwrap(),
    }
}

impl Scene {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            table: Handshakes::new(dtls::config().unwrap()),
            certificate: certificate(),
        }
    }

    /// What the server answers.
    fn take(&mut self, client: FiveTuple, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.table
            .handle_input(self.now, client, datagram, &self.certificate);
        self.sent()
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let sent = std::iter::from_fn(|| self.table.poll_transmit());
        sent.map(|(_, packet)| packet).collect()
    }

    /// A client of either version that has something to say.
    fn client(&self, new: fn(Arc<Config>, DtlsCertificate, Instant) -> Dtls) -> Dtls {
        let mut client = new(dtls::config().unwrap(), certificate(), self.now);
        client.set_active(true);
        client.handle_timeout(self.now).unwrap();
        client
    }

    /// A client's first datagram.
    fn hello(&self) -> Vec<u8> {
        packets(&mut self.client(Dtls::new_12)).remove(0)
    }
}

fn packets(client: &mut Dtls) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let output = client.poll_output(&mut buffer);
        if let Output::Packet(packet) = output {
            packets.push(packet.to_vec());
        } else if let Output::Timeout(_) = output {
            return packets;
        }
    }
}

#[test]
fn clients_of_both_versions_become_sessions() {
    let mut scene = Scene::new();
    for new in [Dtls::new_12, Dtls::new_auto] {
        let mut client = scene.client(new);
        let from = client_at(0xc633_6401, 4000);
        let mut established = None;
        for _ in 0..10 {
            for packet in packets(&mut client) {
                for answer in scene.take(from, &packet) {
                    client.handle_packet(&answer).unwrap();
                }
            }
            established = established.or_else(|| scene.table.poll_event());
        }
        let established = established.unwrap();
        assert_eq!(established.client, from);
        assert_eq!(
            established.dtls.protocol_version(),
            client.protocol_version()
        );
        assert!(scene.table.half_open.is_empty());
        assert!(scene.table.poll_timeout().is_none());
    }
}

#[test]
fn who_has_proven_no_address_is_sent_no_more_than_he_sent() {
    for new in [Dtls::new_12, Dtls::new_auto] {
        let mut scene = Scene::new();
        let victim = client_at(0xc633_6401, 4000);
        let mut hello = packets(&mut scene.client(new));
        let hello = hello.remove(0);
        let answers = scene.take(victim, &hello);
        assert_eq!(answers.len(), 1);
        let mut sent: usize = answers.iter().map(Vec::len).sum();
        let mut received = hello.len();
        // The same hello again and again, and dimpl's own repetitions, for longer than a
        // handshake may take.
        for second in 0..30 {
            if second % 3 == 0 {
                received += hello.len();
                let answers = scene.take(victim, &hello);
                sent += answers.iter().map(Vec::len).sum::<usize>();
            }
            scene.now += Duration::from_secs(1);
            scene.table.handle_timeout(scene.now);
            sent += scene.sent().iter().map(Vec::len).sum::<usize>();
            assert!(sent <= received, "{sent} for {received}");
        }
    }
}

#[test]
fn a_version_that_nobody_should_speak_is_answered_and_forgotten() {
    let mut scene = Scene::new();
    let mut hello = scene.hello();
    // The version inside the hello: DTLS 1.0.
    hello[25..27].copy_from_slice(&[0xfe, 0xff]);
    let answers = scene.take(client_at(0xc633_6401, 4000), &hello);
    assert_eq!(answers, [records::alert(&hello, 70).unwrap()]);
    assert!(scene.table.half_open.is_empty());
}

#[test]
fn what_begins_no_handshake_leaves_nothing() {
    let mut scene = Scene::new();
    let whole = scene.hello();
    for datagram in [&b""[..], &[0; 64], &[22; 13], &whole[1..]] {
        assert!(scene.take(client_at(1, 4000), datagram).is_empty());
    }
    assert!(scene.table.half_open.is_empty());
}

#[test]
fn the_table_is_of_fixed_size_and_the_oldest_gives_way() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    let many = u32::try_from(MAX_HALF_OPEN).unwrap() + 100;
    for ip in 0..many {
        scene.take(client_at(ip << 8, 4000), &hello);
    }
    let table = &scene.table;
    assert_eq!(table.half_open.len(), MAX_HALF_OPEN);
    assert_eq!(table.order.len(), MAX_HALF_OPEN);
    assert_eq!(table.by_source.len(), MAX_HALF_OPEN);
    assert_eq!(table.deadlines.len(), MAX_HALF_OPEN);
    assert!(!table.half_open.contains_key(&client_at(99 << 8, 4000)));
    assert!(table.half_open.contains_key(&client_at(100 << 8, 4000)));
    scene.table.handle_timeout(scene.now + HANDSHAKE_TIMEOUT);
    assert!(scene.table.half_open.is_empty());
    assert!(scene.table.order.is_empty() && scene.table.by_source.is_empty());
}

#[test]
fn one_source_takes_only_its_share_of_the_table() {
    let mut scene = Scene::new();
    let hello = scene.hello();
    scene.take(client_at(7, 4000), &hello);
    for port in 0..200 {
        scene.take(client_at(8, 4000 + port), &hello);
    }
    assert_eq!(scene.table.half_open.len(), MAX_PER_SOURCE + 1);
    assert!(scene.table.half_open.contains_key(&client_at(7, 4000)));
    assert!(scene.table.half_open.contains_key(&client_at(8, 4199)));
}

#[test]
fn fragments_of_a_hello_that_never_ends_are_not_hoarded() {
    let mut scene = Scene::new();
    let mut fragment = scene.hello();
    // A hello of 64 KiB, of which this is the beginning.
    fragment[14..17].copy_from_slice(&[1, 0, 0]);
    let client = client_at(7, 4000);
    for _ in 0..10_000 {
        scene.take(client, &fragment);
    }
    let open = scene.table.half_open.get(&client);
    assert!(open.is_none_or(|open| open.received <= MAX_UNPROVEN));
}
