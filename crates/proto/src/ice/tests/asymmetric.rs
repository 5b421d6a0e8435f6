//! A port for each direction: what makes a path hear from another port, and what does not.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at one kind of event"
)]

use std::net::SocketAddr;

use postern_wire::stun::{
    Builder, Class, IceControlled, Message, Method, Priority, Punched, TransactionId, Username,
    XorMappedAddress,
};

use super::super::*;
use super::net::{Pair, at};
use super::{ms, secs};
use crate::punch::{self, Allocation, Filtering, Mapping, NatReport, Technique};

const OURS: &str = "45.45.1.1:1000";
const OTHER_SERVER: &str = "192.0.2.1:3479";
/// Where the peer is sent to, and where it answers from.
const TOLD: &str = "45.45.2.2:2000";
const SOURCE: &str = "45.45.2.2:3000";

/// An agent whose NAT gives each port another mapping has sent a check to its peer, of our make.
fn asking() -> (Pair, TransactionId) {
    let config = Config {
        punch: true,
        ..Config::default()
    };
    let mut pair = Pair::with(config, (Role::Controlling, Role::Controlled));
    pair.host_a(OURS);
    pair.a.agent.add_stun_server(pair.now, at(OTHER_SERVER));
    pair.gather();
    pair.run(ms(100));
    let id = asked(&pair, OTHER_SERVER);
    let seen = Builder::new(Class::Success, Method::BINDING, id)
        .attribute(&XorMappedAddress(at("45.45.1.1:1007")))
        .build();
    pair.inject(OTHER_SERVER, OURS, seen);
    pair.run(ms(10));
    let mapping = Mapping::AddressAndPortDependent;
    let local = pair.a.agent.punch_report().local;
    assert_eq!(local.map(|nat| nat.mapping), Some(mapping));
    let nat = NatReport {
        mapped: at(TOLD),
        mapping,
        filtering: Filtering::Unknown,
        allocation: Allocation::Unknown,
        parity: false,
    };
    pair.a
        .agent
        .handle_punch(pair.now, punch::Message::Nat(nat));
    pair.link_a();
    let line = "candidate:1 1 udp 2130706431 45.45.2.2 2000 typ host";
    pair.a
        .agent
        .add_remote_candidate(pair.now, line.parse().unwrap());
    pair.drain();
    pair.run(ms(50));
    let id = asked(&pair, TOLD);
    (pair, id)
}

/// The id of the latest request to an address.
fn asked(pair: &Pair, remote: &str) -> TransactionId {
    let sent = pair.a.sent.iter().rev();
    let mut requests = sent.filter(|(_, transmit)| transmit.remote == at(remote));
    let (_, request) = requests.next().unwrap();
    Message::parse(&request.payload).unwrap().transaction_id()
}

fn response(id: TransactionId, password: &str, punched: Option<Punched>) -> Vec<u8> {
    Builder::new(Class::Success, Method::BINDING, id)
        .attribute(&XorMappedAddress(at("45.45.1.1:1009")))
        .maybe_attribute(punched.as_ref())
        .message_integrity(password.as_bytes())
        .fingerprint()
        .build()
}

fn password(pair: &Pair) -> String {
    pair.b.agent.local_credentials().pwd.clone()
}

/// The pairs that hear from elsewhere: where they send to, and the source.
fn heard(pair: &Pair) -> Vec<(SocketAddr, SocketAddr)> {
    let heard = pair.a.events.iter().filter_map(|(_, event)| match event {
        Event::Heard { remote, source, .. } => Some((*remote, *source)),
        _ => None,
    });
    heard.collect()
}

/// A check of the peer's, from some port; what we answer, and whereto.
fn check_from(pair: &mut Pair, source: &str) -> (SocketAddr, Option<Punched>) {
    let (a, b) = (&pair.a.agent, &pair.b.agent);
    let (ours, theirs) = (a.local_credentials(), b.local_credentials());
    let username = format!("{}:{}", ours.ufrag, theirs.ufrag);
    let check = Builder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
        .attribute(&Username::new(&username).unwrap())
        .attribute(&IceControlled(1))
        .attribute(&Priority(5))
        .attribute(&Punched::default())
        .message_integrity(ours.pwd.as_bytes())
        .fingerprint()
        .build();
    let before = pair.a.sent.len();
    pair.inject(source, OURS, check);
    let (_, answer) = pair.a.sent[before..].first().unwrap();
    let message = Message::parse(&answer.payload).unwrap();
    assert_eq!(message.class(), Class::Success);
    (answer.remote, message.get().unwrap())
}

#[test]
fn a_signed_answer_from_another_port_of_the_peers_makes_a_path_that_keeps_its_address() {
    let (mut pair, id) = asking();
    let answer = response(id, &password(&pair), Some(Punched::default()));
    pair.inject(SOURCE, OURS, answer.clone());
    assert_eq!(heard(&pair), [(at(TOLD), at(SOURCE))]);
    let valid = |event: &Event| match event {
        Event::Valid { path, .. } => Some(*path),
        _ => None,
    };
    let path = pair.a.events.iter().find_map(|(_, event)| valid(event));
    let path = path.unwrap();
    assert_eq!(path.remote, at(TOLD));
    assert_eq!(pair.a.agent.technique(&path), Technique::Asymmetric);
    // Its checks count as from there, and are answered there: the NAT would give an answer to
    // their source another port, which the peer's filter may reject.
    let (remote, punched) = check_from(&mut pair, SOURCE);
    assert_eq!(remote, at(TOLD));
    assert!(
        punched.unwrap().asymmetric,
        "it is to keep its mapping alive"
    );
    // The same answer once more, from elsewhere: it answers nothing.
    pair.inject("45.45.2.2:4000", OURS, answer);
    assert_eq!(heard(&pair).len(), 1);
    let (remote, _) = check_from(&mut pair, "45.45.2.2:4000");
    assert_eq!(remote, at("45.45.2.2:4000"));
}

#[test]
fn neither_another_host_nor_a_forger_nor_a_standard_peer_makes_a_path_hear_from_elsewhere() {
    let ours = Some(Punched::default());
    for (source, forged, punched) in [
        ("45.45.9.9:2000", false, ours),
        (SOURCE, true, ours),
        (SOURCE, false, None),
    ] {
        let (mut pair, id) = asking();
        let key = match forged {
            true => "a password that is not right".to_owned(),
            false => password(&pair),
        };
        pair.inject(source, OURS, response(id, &key, punched));
        pair.run(secs(1));
        assert_eq!(heard(&pair), [], "{source} {forged}");
        assert_eq!(pair.a.valid_at(), None, "{source} {forged}");
    }
}

#[test]
fn who_guesses_an_id_changes_nothing() {
    let (mut pair, _) = asking();
    let answer = response(
        TransactionId([1; 12]),
        &password(&pair),
        Some(Punched::default()),
    );
    pair.inject(SOURCE, OURS, answer);
    assert_eq!(heard(&pair), []);
}

#[test]
fn it_can_be_switched_off() {
    let (mut pair, id) = asking();
    pair.a.agent.config.disabled = [Technique::Asymmetric].into_iter().collect();
    let answer = response(id, &password(&pair), Some(Punched::default()));
    pair.inject(SOURCE, OURS, answer);
    assert_eq!(heard(&pair), []);
    assert_eq!(pair.a.valid_at(), None);
}
