//! The loads and the limits against each other: a few hundred packets, no speed.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::limit::{self, Kind};
use crate::load::{
    Bound, Connection, Counts, Direction, Load, Path, Pattern, Session, fairness, open, round_trips,
};
use crate::subject::Server;

const FEW: Bound = Bound {
    time: Duration::from_secs(10),
    packets: 320,
};

fn start(kind: Kind) -> Server {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let idle = Duration::from_secs(10);
        limit::serve(kind, idle, |address| Ok(tell.send(address)?))
    });
    let address = told.recv_timeout(Duration::from_secs(10)).unwrap();
    Server::limit_at(address.into(), kind)
}

fn all_arrive(server: &Server, path: Path, pattern: Pattern, sessions: usize) {
    let sessions = (0..sessions).map(|_| open(server, path, 600).unwrap());
    let (flows, _): (Vec<_>, Vec<_>) = sessions.map(Session::into_flow).unzip();
    let counts = Load::new(&flows, pattern)
        .patient(FEW.time)
        .run(FEW)
        .unwrap();
    let expected = Counts {
        sent: FEW.packets,
        arrived: FEW.packets,
    };
    assert_eq!(counts, expected, "{path:?}, {pattern:?}");
}

#[test]
fn trains_cross_the_bare_relay_both_ways() {
    let server = start(Kind::Trains);
    for path in [Path::Channel, Path::ChannelBack] {
        all_arrive(&server, path, Pattern::trains(32), 1);
        all_arrive(&server, path, Pattern::single(32), 1);
    }
}

#[test]
fn packets_cross_the_bare_relay_both_ways_with_many_sessions() {
    let server = start(Kind::Packets);
    for path in [Path::Channel, Path::ChannelBack] {
        all_arrive(&server, path, Pattern::single(1), 8);
        all_arrive(&server, path, Pattern::single(32), 1);
    }
}

#[test]
fn the_bare_loop_answers_binding_requests() {
    let server = start(Kind::Binding);
    all_arrive(&server, Path::Binding, Pattern::single(32), 1);
}

#[test]
fn bytes_cross_the_splice_loop_both_ways() {
    let server = start(Kind::Splice);
    for direction in [Direction::ToPeer, Direction::ToClient] {
        let connection = Connection::open(&server).unwrap();
        connection.check(direction).unwrap();
        let bytes = connection.run(direction, FEW.time, 1 << 20).unwrap();
        assert_eq!(bytes, 1 << 20);
        connection.end().unwrap();
    }
}

#[test]
fn round_trips_have_a_length_and_are_counted() {
    let server = start(Kind::Packets);
    let session = open(&server, Path::Channel, 100).unwrap();
    let times = round_trips(&session, 20).unwrap();
    assert_eq!(times.len(), 20);
    assert!(times.iter().all(|time| *time > 0.0));
}

#[test]
fn a_victim_is_measured_beside_a_flood_that_is_paced() {
    let server = start(Kind::Packets);
    let victim = open(&server, Path::Channel, 100).unwrap();
    let (flooder, _) = open(&server, Path::Channel, 600).unwrap().into_flow();
    let time = Duration::from_millis(300);
    let beside = fairness(&victim, &flooder, 1000.0, time).unwrap();
    assert!(beside.p99 > 0.0);
    assert!(beside.flood > 0.0 && beside.flood < 2000.0, "{beside:?}");
}
