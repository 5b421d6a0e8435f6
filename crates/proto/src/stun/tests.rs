//! A client, a NAT that only rewrites addresses, a server and a clock.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, TransactionId, XorMappedAddress};

use super::server::tests::start;
use super::*;
use crate::{Datagram, Transmit};

const ONE_WAY: Duration = Duration::from_millis(15);

struct Pair {
    client: Transactions,
    server: BindingServer,
    inside: SocketAddr,
    outside: SocketAddr,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let id = TransactionId([7; 12]);
        let inside = "192.168.1.2:5000".parse().unwrap();
        let request = Request {
            local: inside,
            remote: "192.0.2.1:3478".parse().unwrap(),
            id,
            payload: Builder::new(Class::Request, Method::BINDING, id).build(),
            policy: RetransmitPolicy::default(),
        };
        let (mut client, now) = (Transactions::new(), start());
        client.request(now, request).unwrap();
        Self {
            client,
            server: BindingServer::new(),
            inside,
            outside: "203.0.113.9:40001".parse().unwrap(),
            now,
        }
    }

    /// Carries what the client sent to the server, and the answer back.
    fn exchange(&mut self) {
        while let Some(sent) = self.client.poll_transmit() {
            self.travel();
            let request = arriving(&sent, self.outside, sent.remote);
            self.server.handle_input(self.now, request);
        }
        while let Some(sent) = self.server.poll_transmit() {
            self.travel();
            let response = arriving(&sent, sent.local, self.inside);
            self.client.handle_input(self.now, response);
        }
    }

    fn travel(&mut self) {
        self.now = self.now.checked_add(ONE_WAY).unwrap();
    }

    fn lose_what_the_client_sent(&mut self) {
        while self.client.poll_transmit().is_some() {}
    }

    fn wait_for_the_timer(&mut self) {
        self.now = self.client.poll_timeout().unwrap();
        self.client.handle_timeout(self.now);
    }

    fn response(&mut self) -> Response {
        match self.client.poll_event() {
            Some(Event::Success(response)) => response,
            other => panic!("{other:?} instead of a response"),
        }
    }
}

fn arriving(sent: &Transmit, remote: SocketAddr, local: SocketAddr) -> Datagram<'_> {
    Datagram {
        local,
        remote,
        payload: &sent.payload,
    }
}

fn mapped(response: &Response) -> SocketAddr {
    let message = Message::parse(&response.payload).unwrap();
    message.get::<XorMappedAddress>().unwrap().unwrap().0
}

#[test]
fn a_client_behind_a_nat_learns_its_outside_address_in_one_round_trip() {
    let mut pair = Pair::new();
    pair.exchange();
    let response = pair.response();
    assert_eq!(mapped(&response), pair.outside);
    assert_eq!(response.rtt, Some(2 * ONE_WAY));
}

#[test]
fn two_lost_requests_cost_a_second_and_a_half() {
    let mut pair = Pair::new();
    let began = pair.now;
    for _ in 0..2 {
        pair.lose_what_the_client_sent();
        pair.wait_for_the_timer();
    }
    assert_eq!(pair.now, began + Duration::from_millis(1_500));
    pair.exchange();
    let response = pair.response();
    assert_eq!(mapped(&response), pair.outside);
    assert_eq!(response.rtt, None);
}
