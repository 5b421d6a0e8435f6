//! The server against a model that is too simple to be wrong: maps, and no sockets.

use std::collections::BTreeMap;
use std::net::IpAddr;

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

#[derive(Debug, Clone)]
enum Op {
    Allocate,
    Refresh(u32),
    Permit(usize),
    Bind(u16, usize),
    Send(usize),
    ChannelData(u16),
    PeerData(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (peer, number) = (0..PEERS.len(), 0x4000_u16..0x4003);
    prop_oneof![
        2 => Just(Op::Allocate),
        1 => prop::sample::select(vec![0, 1, 600, 900, 9999]).prop_map(Op::Refresh),
        3 => peer.clone().prop_map(Op::Permit),
        3 => (number.clone(), peer.clone()).prop_map(|(number, peer)| Op::Bind(number, peer)),
        3 => peer.clone().prop_map(Op::Send),
        3 => number.prop_map(Op::ChannelData),
        3 => peer.prop_map(Op::PeerData),
        3 => (1_u64..400).prop_map(Op::Pass),
    ]
}

/// Seconds since the start.
type Time = u64;

#[derive(Debug, Default)]
struct Modelled {
    ends: Time,
    permissions: BTreeMap<IpAddr, Time>,
    channels: BTreeMap<u16, (usize, Time)>,
}

#[derive(Debug, Default)]
struct Model {
    now: Time,
    allocations: BTreeMap<usize, Modelled>,
}

fn ip(which: usize) -> IpAddr {
    addr(PEERS[which]).ip()
}

impl Model {
    fn live(&mut self, who: usize) -> Option<&mut Modelled> {
        let now = self.now;
        let live = self.allocations.get_mut(&who).filter(|a| now < a.ends)?;
        live.permissions.retain(|_, ends| now < *ends);
        live.channels.retain(|_, (_, ends)| now < *ends);
        Some(live)
    }

    fn allocate(&mut self, who: usize) -> u16 {
        if self.live(who).is_some() {
            return 437;
        }
        let ends = self.now + 600;
        let new = Modelled {
            ends,
            ..Modelled::default()
        };
        self.allocations.insert(who, new);
        0
    }

    fn refresh(&mut self, who: usize, lifetime: u32) -> u16 {
        let ends = self.now + u64::from(lifetime).clamp(600, 3600);
        match self.live(who) {
            None => return 437,
            Some(allocation) => allocation.ends = ends,
        }
        if lifetime == 0 {
            self.allocations.remove(&who);
        }
        0
    }

    fn refusal(&mut self, who: usize, to: usize) -> u16 {
        match (self.live(who), to) {
            (None, _) => 437,
            (Some(_), 4) => 443,
            (Some(_), 3) => 403,
            (Some(_), _) => 0,
        }
    }

    fn permit(&mut self, who: usize, to: usize) -> u16 {
        let (code, ends) = (self.refusal(who, to), self.now + 300);
        if let Some(allocation) = self.live(who).filter(|_| code == 0) {
            allocation.permissions.insert(ip(to), ends);
        }
        code
    }

    fn bind(&mut self, who: usize, number: u16, to: usize) -> u16 {
        let (code, now) = (self.refusal(who, to), self.now);
        let Some(allocation) = self.live(who).filter(|_| code == 0) else {
            return code;
        };
        let clash = allocation
            .channels
            .iter()
            .any(|(n, (p, _))| (*n == number) != (*p == to));
        if clash {
            return 400;
        }
        allocation.channels.insert(number, (to, now + 600));
        allocation.permissions.insert(ip(to), now + 300);
        0
    }

    fn permitted(&mut self, who: usize, to: usize) -> bool {
        self.live(who)
            .is_some_and(|allocation| allocation.permissions.contains_key(&ip(to)))
    }

    fn channel(&mut self, who: usize, number: u16) -> Option<usize> {
        let (to, _) = *self.live(who)?.channels.get(&number)?;
        self.permitted(who, to).then_some(to)
    }

    fn framing(&mut self, who: usize, from: usize) -> Option<Framing> {
        if !self.permitted(who, from) {
            return None;
        }
        let bound = &self.live(who)?.channels;
        let bound = bound.iter().find(|(_, (p, _))| *p == from);
        Some(bound.map_or_else(
            || Framing::Indication(peer(PEERS[from])),
            |(number, _)| Framing::Channel(channel(*number)),
        ))
    }
}

/// The server and the model side by side.
struct Both {
    world: World,
    model: Model,
    relays: BTreeMap<usize, RelayId>,
}

fn who(index: usize) -> Client {
    let user = if index == 0 { "bob" } else { "alice" };
    client(Transport::Udp, &format!("203.0.114.{index}:9"), user)
}

impl Both {
    fn step(&mut self, index: usize, op: &Op) -> Result<(), TestCaseError> {
        let (world, model, from) = (&mut self.world, &mut self.model, who(index));
        match op {
            Op::Allocate => {
                let code = world.try_allocate(&from).code();
                prop_assert_eq!(code, model.allocate(index));
                if code == 0 {
                    self.relays.insert(index, world.last_relay());
                }
            }
            Op::Refresh(lifetime) => {
                let code = world.refresh(&from, *lifetime).code();
                prop_assert_eq!(code, model.refresh(index, *lifetime));
            }
            Op::Permit(to) => {
                let code = world.permit(&from, &[PEERS[*to]]);
                prop_assert_eq!(code, model.permit(index, *to));
            }
            Op::Bind(number, to) => {
                let code = world.bind(&from, *number, PEERS[*to]);
                prop_assert_eq!(code, model.bind(index, *number, *to));
            }
            Op::Send(to) => {
                let passes = world.send(&from, PEERS[*to]).is_some();
                prop_assert_eq!(passes, model.permitted(index, *to));
            }
            Op::ChannelData(number) => {
                let to = world
                    .channel_data(&from, *number)
                    .map(|forward| forward.peer);
                let expected = model.channel(index, *number).map(|to| peer(PEERS[to]));
                prop_assert_eq!(to, expected);
            }
            Op::PeerData(to) => {
                let relay = self.relays.get(&index).copied();
                let got = relay.and_then(|relay| world.peer_sends(relay, PEERS[*to]));
                let got = got.map(|backward| backward.framing);
                prop_assert_eq!(got, model.framing(index, *to));
            }
            Op::Pass(seconds) => {
                world.pass(*seconds);
                model.now += seconds;
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_server_does_what_the_model_does(ops in vec((0_usize..3, op()), 1..80)) {
        let mut both = Both {
            world: World::new(),
            model: Model::default(),
            relays: BTreeMap::new(),
        };
        for (index, op) in &ops {
            both.step(*index, op)?;
        }
        both.world.pass(4000);
        prop_assert_eq!(both.world.server.allocations(), 0);
    }
}
