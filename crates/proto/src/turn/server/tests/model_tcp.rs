//! TCP relays against a model that is too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use postern_wire::stun::{Builder, Method};
use postern_wire::turn::{ConnectionId, Lifetime, XorPeerAddress};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::world::*;

const PEERS: [&str; 5] = [
    "8.8.8.8:1",
    "8.8.8.8:2",
    "9.9.9.9:1",
    "10.0.0.1:1",
    "[2600::1]:1",
];

/// Connections are named by how many were made before.
#[derive(Debug, Clone)]
enum Op {
    Allocate,
    End,
    Permit(usize),
    Connect(usize),
    Accept(usize),
    Refuse(usize),
    Attempt(usize),
    Bind(usize),
    Close(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (peer, some) = (0..PEERS.len(), 0_usize..12);
    prop_oneof![
        3 => Just(Op::Allocate),
        1 => Just(Op::End),
        3 => peer.clone().prop_map(Op::Permit),
        4 => peer.clone().prop_map(Op::Connect),
        3 => some.clone().prop_map(Op::Accept),
        1 => some.clone().prop_map(Op::Refuse),
        4 => peer.prop_map(Op::Attempt),
        4 => some.clone().prop_map(Op::Bind),
        2 => some.prop_map(Op::Close),
        3 => prop_oneof![1_u64..20, 20_u64..40, 200_u64..400].prop_map(Op::Pass),
    ]
}

/// Seconds since the start.
type Time = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until when the peer may accept.
    Connecting(Time),
    /// Until when the client may bind.
    Unbound(Time),
    Bound,
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    owner: usize,
    to: usize,
    state: State,
}

#[derive(Debug, Default)]
struct Modelled {
    ends: Time,
    permissions: BTreeMap<IpAddr, Time>,
}

#[derive(Debug, Default)]
struct Model {
    now: Time,
    allocations: BTreeMap<usize, Modelled>,
    links: Vec<Link>,
}

/// Two of Alice's and one of Bob's.
fn user(who: usize) -> &'static str {
    if who == 0 { "bob" } else { "alice" }
}

fn ip(which: usize) -> IpAddr {
    addr(PEERS[which]).ip()
}

impl Model {
    fn is_live(&self, who: usize) -> bool {
        let allocation = self.allocations.get(&who);
        allocation.is_some_and(|allocation| self.now < allocation.ends)
    }

    fn allocate(&mut self, who: usize) -> u16 {
        if self.is_live(who) {
            return 437;
        }
        let ends = self.now + 600;
        let permissions = BTreeMap::new();
        self.allocations.insert(who, Modelled { ends, permissions });
        0
    }

    fn end(&mut self, who: usize) -> u16 {
        if !self.is_live(who) {
            return 437;
        }
        self.allocations.remove(&who);
        self.close_all(who);
        0
    }

    fn close_all(&mut self, who: usize) {
        for link in self.links.iter_mut().filter(|link| link.owner == who) {
            link.state = State::Closed;
        }
    }

    fn refusal(&self, who: usize, to: usize) -> u16 {
        match to {
            _ if !self.is_live(who) => 437,
            3 => 403,
            4 => 443,
            _ => 0,
        }
    }

    fn permit(&mut self, who: usize, to: usize) -> u16 {
        let (code, ends) = (self.refusal(who, to), self.now + 300);
        if let Some(allocation) = self.allocations.get_mut(&who).filter(|_| code == 0) {
            allocation.permissions.insert(ip(to), ends);
        }
        code
    }

    fn has(&self, who: usize, to: usize) -> bool {
        let mut links = self.links.iter();
        links.any(|link| (link.owner, link.to) == (who, to) && link.state != State::Closed)
    }

    /// `None` while the peer is being asked.
    fn connect(&mut self, who: usize, to: usize) -> Option<u16> {
        match self.refusal(who, to) {
            0 if self.has(who, to) => Some(446),
            0 => {
                self.open(who, to, State::Connecting(self.now + 30));
                None
            }
            code => Some(code),
        }
    }

    fn open(&mut self, owner: usize, to: usize, state: State) {
        self.links.push(Link { owner, to, state });
    }

    /// The code that the Connect request gets, if it waits.
    fn connected(&mut self, which: usize, accepts: bool) -> Option<u16> {
        let until = self.now + 30;
        let link = &mut self.links[which];
        let State::Connecting(_) = link.state else {
            return None;
        };
        link.state = if accepts {
            State::Unbound(until)
        } else {
            State::Closed
        };
        Some(if accepts { 0 } else { 447 })
    }

    fn attempt(&mut self, who: usize, from: usize) -> bool {
        let allocation = self.allocations.get(&who);
        let permitted = allocation.and_then(|allocation| allocation.permissions.get(&ip(from)));
        let comes = self.is_live(who)
            && permitted.is_some_and(|ends| self.now < *ends)
            && !self.has(who, from);
        if comes {
            self.open(who, from, State::Unbound(self.now + 30));
        }
        comes
    }

    fn bind(&mut self, who: usize, which: usize) -> u16 {
        let link = &mut self.links[which];
        match link.state {
            State::Closed => 400,
            _ if user(who) != user(link.owner) => 441,
            State::Unbound(_) => {
                link.state = State::Bound;
                0
            }
            State::Connecting(_) | State::Bound => 400,
        }
    }

    /// The code that the Connect request gets, if it waits.
    fn close(&mut self, which: usize) -> Option<u16> {
        let refused = self.connected(which, false);
        self.links[which].state = State::Closed;
        refused
    }

    /// Who is told 447 because time has passed.
    fn pass(&mut self, seconds: u64) -> Vec<usize> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            self.now += 1;
            told.extend(self.tick());
        }
        told
    }

    /// One second: allocations end a moment before connections.
    fn tick(&mut self) -> Vec<usize> {
        let over: Vec<_> = (0..3).filter(|who| !self.is_live(*who)).collect();
        for who in over {
            self.allocations.remove(&who);
            self.close_all(who);
        }
        let mut told = Vec::new();
        for link in &mut self.links {
            match link.state {
                State::Connecting(until) if until <= self.now => {
                    told.push(link.owner);
                    link.state = State::Closed;
                }
                State::Unbound(until) if until <= self.now => link.state = State::Closed,
                _ => {}
            }
        }
        told
    }
}

/// The server and the model side by side.
struct Both {
    world: World,
    model: Model,
    ids: Vec<u32>,
    streams: u16,
}

fn who(index: usize) -> Client {
    client(Transport::Tcp, &format!("203.0.114.{index}:9"), user(index))
}

impl Both {
    fn step(&mut self, index: usize, op: &Op) -> Result<(), TestCaseError> {
        let from = who(index);
        let (world, model) = (&mut self.world, &mut self.model);
        match op {
            Op::Allocate => {
                let tcp = postern_wire::turn::RequestedTransport::TCP;
                let code = self.ask(&from, Method::ALLOCATE, |r| r.attribute(&tcp));
                prop_assert_eq!(code, Some(self.model.allocate(index)));
            }
            Op::End => {
                let code = self.ask(&from, Method::REFRESH, |r| r.attribute(&Lifetime(0)));
                prop_assert_eq!(code, Some(self.model.end(index)));
            }
            Op::Permit(to) => {
                let code = world.permit(&from, &[PEERS[*to]]);
                prop_assert_eq!(code, model.permit(index, *to));
            }
            Op::Connect(to) => self.connect(&from, index, *to)?,
            Op::Accept(which) => self.connected(*which, true)?,
            Op::Refuse(which) => self.connected(*which, false)?,
            Op::Attempt(to) => self.attempt(index, *to)?,
            Op::Bind(which) => self.bind(index, *which)?,
            Op::Close(which) => self.close(*which)?,
            Op::Pass(seconds) => {
                world.transmits.clear();
                world.pass(*seconds);
                let mut expected = model.pass(*seconds);
                let mut told: Vec<_> = self.late().into_iter().map(|(to, _)| to).collect();
                expected.sort_unstable();
                told.sort_unstable();
                prop_assert_eq!(told, expected);
                prop_assert!(self.late().iter().all(|(_, code)| *code == 447));
            }
        }
        self.check()
    }

    fn ask(
        &mut self,
        from: &Client,
        method: Method,
        fill: impl FnOnce(Builder) -> Builder,
    ) -> Option<u16> {
        self.world.ask(from, method, fill).map(|reply| reply.code())
    }

    /// Who was told what about a Connect request that had waited.
    fn late(&self) -> Vec<(usize, u16)> {
        let transmits = self.world.transmits.iter();
        let told = transmits.map(|transmit| {
            let reply = Reply(transmit.payload.clone());
            assert_eq!(reply.message().method(), Method::CONNECT);
            let to = (0..3).find(|index| who(*index).at == transmit.client);
            (to.unwrap(), reply.code())
        });
        told.collect()
    }

    fn connect(&mut self, from: &Client, index: usize, to: usize) -> Result<(), TestCaseError> {
        let code = self.ask(from, Method::CONNECT, |request| {
            request.attribute(&XorPeerAddress(addr(PEERS[to])))
        });
        let expected = self.model.connect(index, to);
        prop_assert_eq!(code, expected);
        if expected.is_none() {
            self.ids.push(self.world.connecting().0);
        }
        Ok(())
    }

    fn some(&self, which: usize) -> Option<usize> {
        which.checked_rem(self.ids.len())
    }

    fn connected(&mut self, which: usize, accepts: bool) -> Result<(), TestCaseError> {
        let Some(which) = self.some(which) else {
            return Ok(());
        };
        let result = if accepts {
            Ok(())
        } else {
            Err(ConnectError::Failed)
        };
        let (now, id) = (self.world.now, PeerConnection(self.ids[which]));
        self.world.transmits.clear();
        self.world.server.handle_connected(now, id, result);
        self.world.drain();
        let owner = self.model.links[which].owner;
        let expected = self.model.connected(which, accepts);
        let expected: Vec<_> = expected.map(|code| (owner, code)).into_iter().collect();
        prop_assert_eq!(self.late(), expected);
        Ok(())
    }

    fn attempt(&mut self, index: usize, from: usize) -> Result<(), TestCaseError> {
        let Some(allocation) = self.world.server.table.of_client(&who(index).at) else {
            prop_assert!(!self.model.attempt(index, from));
            return Ok(());
        };
        let family = postern_wire::turn::AddressFamily::of(ip(from));
        let relay = RelayId { allocation, family };
        let (now, peer) = (self.world.now, peer(PEERS[from]));
        let came = self.world.server.handle_peer_connected(now, relay, peer);
        self.world.drain();
        prop_assert_eq!(came.is_some(), self.model.attempt(index, from));
        self.ids.extend(came.map(|PeerConnection(id)| id));
        Ok(())
    }

    fn bind(&mut self, index: usize, which: usize) -> Result<(), TestCaseError> {
        let Some(which) = self.some(which) else {
            return Ok(());
        };
        let id = self.ids[which];
        self.streams += 1;
        let mut from = who(index);
        from.at.client.0.set_port(1000 + self.streams);
        let code = self.ask(&from, Method::CONNECTION_BIND, |request| {
            request.attribute(&ConnectionId(id))
        });
        prop_assert_eq!(code, Some(self.model.bind(index, which)));
        let spliced = Event::Splice {
            connection: PeerConnection(id),
            client: from.at,
        };
        let is_spliced = self.world.events.last() == Some(&spliced);
        prop_assert_eq!(is_spliced, code == Some(0));
        Ok(())
    }

    fn close(&mut self, which: usize) -> Result<(), TestCaseError> {
        let Some(which) = self.some(which) else {
            return Ok(());
        };
        self.world.transmits.clear();
        let id = PeerConnection(self.ids[which]);
        self.world.server.handle_connection_closed(id);
        self.world.drain();
        let owner = self.model.links[which].owner;
        let expected = self.model.close(which);
        let expected: Vec<_> = expected.map(|code| (owner, code)).into_iter().collect();
        prop_assert_eq!(self.late(), expected);
        Ok(())
    }

    /// The same connections are open, and those of nobody else.
    fn check(&self) -> Result<(), TestCaseError> {
        let server = &self.world.server;
        let ids = server.table.ids();
        let open: BTreeSet<u32> = ids
            .into_iter()
            .flat_map(|id| server.connections_of(id))
            .collect();
        let links = self.model.links.iter().zip(&self.ids);
        let expected: BTreeSet<u32> = links
            .filter(|(link, _)| link.state != State::Closed)
            .map(|(_, id)| *id)
            .collect();
        prop_assert_eq!(open, expected);
        Ok(())
    }
}

proptest! {
    #[test]
    fn tcp_relays_do_what_the_model_does(ops in vec((0_usize..3, op()), 1..80)) {
        let mut both = Both {
            world: World::new(),
            model: Model::default(),
            ids: Vec::new(),
            streams: 0,
        };
        for (index, op) in &ops {
            both.step(*index, op)?;
        }
        both.world.pass(4000);
        prop_assert_eq!(both.world.server.allocations(), 0);
        prop_assert!(both.world.server.shared.is_empty());
        prop_assert_eq!(both.world.server.poll_timeout(), None);
    }
}
