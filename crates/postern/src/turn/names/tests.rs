//! Names, asked of a DNS server of the test's own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, Record};
use postern_wire::uri::Transport::{Tcp, Udp};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;

/// A name server that knows these records and nothing else.
struct Zone {
    task: JoinHandle<()>,
    resolver: Resolver,
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

fn a(owner: &str, ip: [u8; 4]) -> Record {
    record(owner, RData::A(A(Ipv4Addr::from(ip))))
}

fn srv(owner: &str, priority: u16, port: u16, target: &str) -> Record {
    let srv = SRV::new(priority, 0, port, name(target));
    record(owner, RData::SRV(srv))
}

fn naptr(order: u16, flags: &str, services: &str, replacement: &str) -> Record {
    let (flags, services) = (flags.as_bytes().into(), services.as_bytes().into());
    let regexp = Vec::new().into_boxed_slice();
    let naptr = NAPTR::new(order, 1, flags, services, regexp, name(replacement));
    record("example.org.", RData::NAPTR(naptr))
}

impl Zone {
    async fn new(records: Vec<Record>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::with_name_server(socket.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&records, &buffer[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { task, resolver }
    }

    async fn resolve(&self, uri: &str) -> Result<Vec<Server>, ResolveError> {
        let uri = uri.parse().unwrap();
        self.resolver
            .resolve(&uri, &[Udp, Tcp], &Trust::System)
            .await
    }

    /// Servers as `way address,address`.
    async fn found(&self, uri: &str) -> Vec<String> {
        let servers = self.resolve(uri).await.unwrap();
        let text = |server: &Server| {
            assert_eq!(server.target.host, "example.org");
            let addresses = server.target.addresses.iter();
            let addresses: Vec<_> = addresses.map(ToString::to_string).collect();
            format!("{} {}", server.way(), addresses.join(","))
        };
        servers.iter().map(text).collect()
    }
}

fn answer(records: &[Record], query: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let asked = query.queries[0].clone();
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.recursion_available = true;
    let known = |record: &&Record| record.name == *asked.name();
    if !records.iter().any(|record| known(&record)) {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    let fitting = records.iter().filter(known);
    let fitting = fitting.filter(|record| record.record_type() == asked.query_type());
    message.add_answers(fitting.cloned());
    message.add_query(asked);
    message.to_vec().unwrap()
}

#[tokio::test]
async fn a_host_without_further_records_is_asked_over_every_transport() {
    let six = Ipv6Addr::LOCALHOST;
    let zone = Zone::new(vec![
        a("example.org.", [192, 0, 2, 1]),
        record("example.org.", RData::AAAA(AAAA(six))),
    ]);
    let zone = zone.await;
    let both = zone.found("turn:example.org").await;
    assert_eq!(
        both,
        [
            "udp [::1]:3478,192.0.2.1:3478",
            "tcp [::1]:3478,192.0.2.1:3478"
        ]
    );
    let secure = zone.found("turns:example.org?transport=tcp").await;
    assert_eq!(secure, ["tls [::1]:5349,192.0.2.1:5349"]);
    let port = zone.found("stun:example.org:99").await;
    assert_eq!(
        port,
        ["udp [::1]:99,192.0.2.1:99", "tcp [::1]:99,192.0.2.1:99"]
    );
}

#[tokio::test]
async fn services_name_hosts_ports_and_their_order() {
    let zone = Zone::new(vec![
        a("example.org.", [192, 0, 2, 9]),
        a("a.example.net.", [192, 0, 2, 1]),
        a("b.example.net.", [192, 0, 2, 2]),
        srv("_turn._udp.example.org.", 2, 1002, "b.example.net."),
        srv("_turn._udp.example.org.", 1, 1001, "a.example.net."),
        srv("_turn._udp.example.org.", 3, 1003, "missing.example.net."),
        srv("_turn._tcp.example.org.", 1, 1004, "a.example.net."),
        srv("_turns._tcp.example.org.", 1, 443, "b.example.net."),
        srv("_stun._udp.example.org.", 1, 1005, "a.example.net."),
    ]);
    let zone = zone.await;
    let udp = ["udp 192.0.2.1:1001", "udp 192.0.2.2:1002"];
    assert_eq!(zone.found("turn:example.org?transport=udp").await, udp);
    let all = [udp[0], udp[1], "tcp 192.0.2.1:1004"];
    assert_eq!(zone.found("turn:example.org").await, all);
    assert_eq!(zone.found("turns:example.org").await, ["tls 192.0.2.2:443"]);
    assert_eq!(zone.found("stun:example.org").await, ["udp 192.0.2.1:1005"]);
    let port = zone.found("turn:example.org:5?transport=udp").await;
    assert_eq!(port, ["udp 192.0.2.9:5"], "a port means the host itself");
}

#[tokio::test]
async fn naptr_records_choose_among_transports() {
    let zone = Zone::new(vec![
        naptr(20, "s", "RELAY:turn.udp", "udp.example.net."),
        naptr(10, "a", "RELAY:turn.tcp:turn.tls", "a.example.net."),
        srv("udp.example.net.", 1, 1001, "a.example.net."),
        srv("_turn._udp.example.org.", 1, 9, "a.example.net."),
        a("a.example.net.", [192, 0, 2, 1]),
    ]);
    let zone = zone.await;
    let plain = zone.found("turn:example.org").await;
    assert_eq!(plain, ["tcp 192.0.2.1:3478", "udp 192.0.2.1:1001"]);
    let secure = zone.found("turns:example.org").await;
    assert_eq!(secure, ["tls 192.0.2.1:5349"]);
    let given = zone.found("turn:example.org?transport=udp").await;
    assert_eq!(
        given,
        ["udp 192.0.2.1:9"],
        "no NAPTR when the transport is known"
    );
}

#[tokio::test]
async fn rules_that_lead_in_circles_come_to_an_end() {
    let zone = Zone::new(vec![
        naptr(1, "", "RELAY:turn.udp", "example.org."),
        a("example.org.", [192, 0, 2, 1]),
    ]);
    let found = zone.await.found("turn:example.org?transport=udp").await;
    assert_eq!(found, ["udp 192.0.2.1:3478"]);
    let zone = Zone::new(vec![
        naptr(1, "", "RELAY:turn.udp", "example.org."),
        a("example.org.", [192, 0, 2, 1]),
    ]);
    assert_eq!(zone.await.found("turn:example.org").await.len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let zone = Zone::new(vec![
        srv("_turn._udp.example.org.", 0, 0, "."),
        srv("_turn._tcp.example.org.", 0, 0, "."),
        a("example.org.", [192, 0, 2, 1]),
    ]);
    let zone = zone.await;
    let none = zone.resolve("turn:example.org").await.unwrap_err();
    assert!(matches!(none, ResolveError::NoService { .. }), "{none:?}");
    let missing = zone.resolve("turn:missing.example.org").await.unwrap_err();
    assert!(
        matches!(&missing, ResolveError::NotFound { name, .. } if name == "missing.example.org")
    );
}

#[tokio::test]
async fn addresses_and_this_machine_need_no_name_server() {
    let nowhere = Resolver { inner: None };
    let uri = "turns:[2001:db8::1]:443?transport=tcp".parse().unwrap();
    let servers = nowhere.resolve(&uri, &[], &Trust::System).await.unwrap();
    assert_eq!(servers[0].target.host, "2001:db8::1");
    assert_eq!(
        servers[0].target.addresses,
        ["[2001:db8::1]:443".parse().unwrap()]
    );
    let uri = "turn:example.org".parse().unwrap();
    let error = nowhere.resolve(&uri, &[Udp], &Trust::System).await;
    assert!(
        matches!(error, Err(ResolveError::NoNameServers)),
        "{error:?}"
    );
    let zone = Zone::new(Vec::new()).await;
    let local = zone
        .resolve("turn:localhost:99?transport=udp")
        .await
        .unwrap();
    assert!(
        local[0]
            .target
            .addresses
            .contains(&"127.0.0.1:99".parse().unwrap())
    );
}
