//! Behind another router, which has to open every port as well.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use postern_wire::natpmp::{Answer, Map, Request, Response, ResultCode};
use postern_wire::transport::Transport;
use postern_wire::upnp::soap::Arguments;

use super::super::{ChangeError, Client, Event};
use super::support::{Bed, EXTERNAL, entry, with};
use crate::Datagram;

const ALICE: &str = "192.168.1.10";
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn request() -> Vec<u8> {
    let map = Map {
        transport: Transport::Tcp,
        internal_port: 4000,
        external_port: 4001,
        lifetime: 600,
    };
    Request::Map(map).to_bytes()
}

fn outcome(payload: &[u8]) -> Result<u16, ResultCode> {
    match Response::parse(payload).unwrap().outcome {
        Ok(Answer::Map(map)) => Ok(map.external_port),
        Ok(other) => panic!("{other:?}"),
        Err(code) => Err(code),
    }
}

fn ask(bed: &mut Bed) -> Result<u16, ResultCode> {
    let answers = bed.send(ALICE, &request());
    let [answer] = &answers[..] else {
        panic!("{answers:?}")
    };
    outcome(answer)
}

#[test]
fn a_port_that_the_next_router_gives_in_its_place_is_what_the_client_gets() {
    let mut bed = Bed::new();
    bed.upstream = [ChangeError::Instead(4444)].into();
    assert_eq!(ask(&mut bed), Ok(4444));
    let open: Vec<u16> = bed.open().iter().map(|(port, ..)| *port).collect();
    assert_eq!(open, [4444]);
    bed.check();
    // It is kept when the client asks again.
    assert_eq!(ask(&mut bed), Ok(4444));
    // UPnP wants the port that it names, or any with AddAnyPortMapping.
    let add = entry().to_arguments();
    let add = with(&add, "NewInternalPort", "4002");
    bed.upstream = [ChangeError::Instead(4445)].into();
    assert_eq!(bed.call(ALICE, 2, "AddPortMapping", add.clone()), Err(718));
    bed.upstream = [ChangeError::Instead(4445)].into();
    let reserved = bed.call(ALICE, 2, "AddAnyPortMapping", add).unwrap();
    assert_eq!(
        reserved,
        Arguments::default().with("NewReservedPort", "4445")
    );
    bed.check();
}

#[test]
fn a_port_that_is_taken_here_or_there_is_not_granted() {
    let mut bed = Bed::new();
    bed.upstream = [ChangeError::Taken].into();
    assert_eq!(ask(&mut bed), Err(ResultCode::OUT_OF_RESOURCES));
    // Twice another port, or one that somebody has here.
    bed.upstream = [ChangeError::Instead(4444), ChangeError::Instead(4445)].into();
    assert_eq!(ask(&mut bed), Err(ResultCode::OUT_OF_RESOURCES));
    let mut other = entry();
    other.internal_client = "192.168.1.11".to_owned();
    bed.call("192.168.1.11", 2, "AddPortMapping", other.to_arguments())
        .unwrap();
    let add = with(&entry().to_arguments(), "NewExternalPort", "4002");
    bed.upstream = [ChangeError::Instead(4001)].into();
    assert_eq!(bed.call(ALICE, 2, "AddAnyPortMapping", add), Err(728));
    bed.check();
    assert_eq!(bed.kernel.len(), 1);
    assert_eq!(bed.gateway.refused().without_resources, 3);
}

#[test]
fn who_asks_twice_before_the_next_router_refuses_has_nothing() {
    let mut bed = Bed::new();
    let payload = request();
    let datagram = Datagram {
        local: "192.168.1.1:5351".parse().unwrap(),
        remote: "192.168.1.10:40000".parse().unwrap(),
        payload: &payload,
    };
    let address: IpAddr = datagram.remote.ip();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let client = Client { address, mac: None };
        bed.gateway.handle_input(bed.now, client, datagram);
        while let Some(event) = bed.gateway.poll_event() {
            if let Event::Change { id, .. } = event {
                waiting.push(id);
            }
        }
    }
    assert_eq!(waiting.len(), 2);
    for id in waiting {
        let taken = Err(ChangeError::Taken);
        bed.gateway.handle_changed(bed.now, id, taken);
        let answer = bed.gateway.poll_transmit().unwrap();
        assert_eq!(outcome(&answer.payload), Err(ResultCode::OUT_OF_RESOURCES));
    }
    assert_eq!(bed.gateway.leases().count(), 0);
}

#[test]
fn the_address_of_the_next_router_is_told_and_announced() {
    let mut bed = Bed::new();
    bed.pass(Duration::from_secs(100));
    let group = SocketAddr::from(([224, 0, 0, 1], 5350));
    let own = SocketAddr::from(([192, 168, 1, 1], 5351));
    bed.gateway.set_announced(vec![(own, group)]);
    let told = |bed: &mut Bed| {
        let answers = bed.send(ALICE, &Request::ExternalAddress.to_bytes());
        Response::parse(&answers[0]).unwrap()
    };
    assert_eq!(
        told(&mut bed).outcome,
        Ok(Answer::ExternalAddress(EXTERNAL))
    );
    bed.gateway.set_shown(bed.now, Some(BEYOND));
    bed.gateway.handle_timeout(bed.now);
    let announced = bed.gateway.poll_transmit().unwrap();
    assert_eq!(announced.remote, group);
    let announced = Response::parse(&announced.payload).unwrap();
    assert_eq!(announced.outcome, Ok(Answer::ExternalAddress(BEYOND)));
    assert_eq!(announced.epoch, 0);
    while bed.gateway.poll_transmit().is_some() {}
    assert_eq!(told(&mut bed).outcome, Ok(Answer::ExternalAddress(BEYOND)));
    let address = bed.call(ALICE, 2, "GetExternalIPAddress", Arguments::default());
    let expected = Arguments::default().with("NewExternalIPAddress", BEYOND);
    assert_eq!(address.unwrap(), expected);
    // Rules of the kernel are about this router's own.
    ask(&mut bed).unwrap();
    let external = bed.kernel.values().map(|(opening, _)| opening.external);
    assert_eq!(external.collect::<Vec<_>>(), [Some(EXTERNAL)]);
}
