//! The cases.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use postern_lab::netns::{Case, Nat, Topology, World};

/// Every case, in the order they run.
pub(crate) const ALL: &[Case] = &[Case {
    name: "plain_masquerade_keeps_the_port_and_drops_strangers",
    run: plain_masquerade_keeps_the_port_and_drops_strangers,
}];

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn plain_masquerade_keeps_the_port_and_drops_strangers() {
    let world = World::build(&Topology::two_homes(Nat::masquerade(), Nat::masquerade())).unwrap();
    let server = world
        .udp(
            "server",
            SocketAddr::new(world.ipv4("server").unwrap().into(), 3478),
        )
        .unwrap();
    let stranger = world.udp("server", ANY).unwrap();
    let alice = world.udp("alice", ANY).unwrap();
    alice
        .send_to(b"hello", server.local_addr().unwrap())
        .unwrap();
    let seen = source(&server).unwrap();
    let port = alice.local_addr().unwrap().port();
    assert_eq!(
        seen,
        SocketAddr::new(world.ipv4("red").unwrap().into(), port)
    );
    stranger.send_to(b"let me in", seen).unwrap();
    assert_eq!(source(&alice), None);
    server.send_to(b"hello yourself", seen).unwrap();
    assert_eq!(source(&alice), Some(server.local_addr().unwrap()));
}

/// Who sent the next datagram, if one comes soon.
fn source(socket: &UdpSocket) -> Option<SocketAddr> {
    socket
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from)
}
